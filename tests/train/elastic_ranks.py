"""One rank of the tests of checkpoints: `python -m tests.train.elastic_ranks JOBS.json FOLDER` does each job and writes down what it saw.

The jobs of a file run one after the other on the same ranks, the world coming down and up again between them: starting ranks is what takes time.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import IberlmError
from iberlm.core.ranks import rank_main
from iberlm.train import checkpoint, checkpoint_files, export
from iberlm.train.checkpoint import Checkpoints
from iberlm.train.config import CheckpointConfig, ModelConfig, OptimizerConfig, PretrainConfig, StrategyConfig
from iberlm.train.hardware import Choices
from iberlm.train.state import TrainingState
from iberlm.train.strategy import Parallel, parallelize, session
from iberlm.train.training_model import build_training_model

from .conftest import VOCABULARY, tiny

SAMPLES, LENGTH, GROUPS = 12, 16, 2
MODEL = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 63, "max_position_embeddings": 64, "initializer_range": 0.1}
"""ffn_size is odd so that no number of ranks divides it."""


@dataclasses.dataclass
class Job:
    """Train under a strategy from a checkpoint or from nothing, save on the way, and write down what was seen."""

    label: str
    strategy: dict[str, Any]
    ranks: int
    resume: str = ""
    until: int = 0
    """Steps to train to."""
    save: list[int] = dataclasses.field(default_factory=list)
    """Steps after which a checkpoint is written into FOLDER/label."""
    again: bool = False
    """Save what was loaded at once, into FOLDER/label-again."""
    precision: str = "fp32"
    optimizer: str = "adamw"
    tie_embeddings: bool = False
    asynchronous: bool = True
    hidden_size: int = 32
    layers: int = 2
    special: str = ""
    """The name of a function here that is done in place of training."""


def configured(job: Job) -> tuple[PretrainConfig, Choices]:
    tensor = job.strategy.get("tensor", 1)
    shape = MODEL | {"hidden_size": job.hidden_size, "layers": job.layers} | ({"ffn_size": 62} if tensor > 1 else {})
    config = tiny(
        model=ModelConfig(vocabulary_size=VOCABULARY, tie_embeddings=job.tie_embeddings, **shape),
        strategy=StrategyConfig(**job.strategy),
        optimizer=OptimizerConfig(kind=job.optimizer, learning_rate=1e-2),
        checkpoint=CheckpointConfig(asynchronous=job.asynchronous, keep_last=9),
        cluster=ClusterConfig(processes=job.ranks),
        sequence_length=LENGTH,
        global_batch_tokens=SAMPLES * LENGTH,
        micro_batch_size=1,
        precision=job.precision,
        tracker="none",
    )
    return config, Choices(job.precision, False, "sdpa", "plain", ())


def train_step(parallel: Parallel, step: int) -> float:
    """One step on samples that only its number decides; the mean loss over all ranks."""
    generator = np.random.default_rng(step)
    tokens = torch.from_numpy(generator.integers(2, VOCABULARY, (SAMPLES, LENGTH + 1)))
    positions = torch.arange(LENGTH).expand(SAMPLES, -1)
    whole = torch.stack([tokens[:, :-1], tokens[:, 1:], positions, positions % GROUPS])
    mine = whole.chunk(parallel.data_world, dim=1)[parallel.data_rank]
    scale = torch.tensor(parallel.data_world * parallel.context_world / (SAMPLES * LENGTH))
    parallel.set_learning_rate(1e-2 / (step + 1))
    total = torch.zeros(2, GROUPS)
    for number, micro in enumerate(mine.chunk(parallel.accumulation, dim=1)):
        inputs, targets, positions, groups = parallel.slice_sequence(micro)
        with parallel.accumulating(last=number == parallel.accumulation - 1):
            loss, sums = parallel.model(inputs=inputs, targets=targets, positions=positions, groups=groups, scale=scale, whole_positions=micro[2])
            parallel.backward(loss)
        total += sums
    mean = parallel.all_reduce(total)[0].sum() / (SAMPLES * LENGTH)
    _, applied = parallel.update(~torch.isfinite(mean), float("inf"))
    assert float(applied) == 1
    return float(mean)


@torch.no_grad()
def look(parallel: Parallel) -> None:
    """A forward pass without a backward, as validation makes: FSDP leaves parameters whole after it."""
    tokens = torch.ones(1, LENGTH, dtype=torch.int64)
    parallel.model(inputs=tokens, targets=tokens, positions=torch.arange(LENGTH)[None], reduce=False)


def open_checkpoints(parallel: Parallel, folder: Path, job: Job, **settings: Any) -> Checkpoints:
    config = CheckpointConfig(**({"asynchronous": job.asynchronous, "keep_last": 9} | settings))
    return Checkpoints(parallel, folder, config, {"seed": 3}, parallel.module.causal.config.to_dict(), folder.parent / "tokenizer")


@contextlib.contextmanager
def world(job: Job, out: Path) -> Iterator[Parallel]:
    """A model and its optimisers under the job's strategy."""
    config, choices = configured(job)
    module = build_training_model(config, VOCABULARY, choices, GROUPS)
    with session(config, choices, str(out)) as accelerator:
        yield parallelize(accelerator, module, config, choices)
    if "deepspeed" in sys.modules:  # it keeps the groups of the world that is gone
        importlib.reload(sys.modules["deepspeed.utils.groups"])
        sys.modules["deepspeed.comm.comm"].cdb = None  # type: ignore[attr-defined]


def run(job: Job, out: Path) -> dict[str, Any]:
    """Do a job as this rank."""
    with world(job, out) as parallel:
        if job.special:
            return globals()[job.special](parallel, job, out)  # type: ignore[no-any-return]
        checkpoints = open_checkpoints(parallel, out / job.label, job)
        state = checkpoints.resume(job.resume)
        begin = state.step
        if job.again:
            open_checkpoints(parallel, out / f"{job.label}-again", job).save(state, wait=True)
        losses = []
        for step in range(begin, job.until):
            losses.append(train_step(parallel, step))
            state.step = step + 1
            checkpoints.settle()
            if step + 1 in job.save:
                look(parallel)
                checkpoints.save(state)
        checkpoints.wait()
        whole = export.whole_state(parallel)
        if parallel.rank == 0:
            torch.save(whole, out / f"{job.label}.pt")
        return {"begin": begin, "losses": losses, "whole": len(whole)}


def read_whole(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    reader = FileSystemReader(path)
    entries = {key: entry for key, entry in reader.read_metadata().state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)}
    state = {key: torch.full(entry.size, float("nan"), dtype=entry.properties.dtype) for key, entry in entries.items()}
    state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    return state


def main(arguments: list[str]) -> None:
    value, out = json.loads(Path(arguments[0]).read_text()), Path(arguments[1])
    for job, port in zip(value["jobs"], value["ports"], strict=True):
        # a port for each: a fast rank would join the world that a slow one has not left yet
        os.environ["MASTER_PORT"] = str(port)
        result = run(Job(**job), out)
        (out / f"{job['label']}-{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(main)
