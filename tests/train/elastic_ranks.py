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
MODEL = {"ffn_size": 62, "max_position_embeddings": 64, "initializer_range": 0.1}


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
    hidden_size: int = 30
    """Four ranks do not divide it, nor the number of a norm's weights."""
    heads: int = 3
    layers: int = 2
    special: str = ""
    """The name of a function here that is done in place of training."""


def configured(job: Job) -> tuple[PretrainConfig, Choices]:
    shape = MODEL | {"hidden_size": job.hidden_size, "heads": job.heads, "kv_heads": job.heads, "layers": job.layers}
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
def look(parallel: Parallel) -> dict[str, torch.Tensor]:
    """What the model as it is makes of a text: loss of each token and, where one process has it all, logits. After it FSDP holds parameters whole."""
    tokens = text()
    seen = {"losses": parallel.model(inputs=tokens[:, :-1], targets=tokens[:, 1:], positions=torch.arange(LENGTH)[None], reduce=False)}
    if parallel.world == 1:
        seen["logits"] = parallel.module.causal(input_ids=tokens[:, :-1], use_cache=False).logits
    return seen


def text() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(99).integers(2, VOCABULARY, (1, LENGTH + 1)))


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
                seen = look(parallel)
                if parallel.rank == 0:
                    torch.save(seen, out / f"{job.label}-{step + 1}.pt")
                checkpoints.save(state)
        checkpoints.wait()
        whole = export.whole_state(parallel)
        if parallel.rank == 0:
            torch.save(whole, out / f"{job.label}.pt")
        return {"begin": begin, "losses": losses, "whole": len(whole)}


def change_after_save(parallel: Parallel, job: Job, out: Path) -> dict[str, Any]:
    """Change everything between `save` and the write, which waits for it; what is written must be the state at the time of `save`."""
    changed = threading.Event()
    write = checkpoint._write_files

    def later(*arguments: Any) -> None:
        assert changed.wait(600)
        write(*arguments)

    checkpoints = open_checkpoints(parallel, out / job.label, job)
    train_step(parallel, 0)
    checkpoints.save(TrainingState(step=1), wait=True)
    checkpoint._write_files = later
    checkpoints.save(TrainingState(step=2))
    losses = [train_step(parallel, 1)]
    checkpoints.settle()  # returns at once
    with torch.no_grad():
        for parameter in parallel.module.parameters():
            getattr(parameter, "ds_tensor", parameter).fill_(7.0)
        for optimizer in parallel.optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    value.fill_(7.0)
    changed.set()
    checkpoints.wait()
    checkpoint._write_files = write
    return {"losses": losses}


def fill_disk(parallel: Parallel, job: Job, out: Path) -> dict[str, Any]:
    """Save twice where one checkpoint has room; what the second raises where, and what can be loaded then."""
    checkpoints = open_checkpoints(parallel, Path(job.resume), job, keep_last=1)
    train_step(parallel, 0)
    checkpoints.save(TrainingState(step=1), wait=True)
    errors = []
    for method in ("settle", "wait", "save"):
        checkpoints.save(TrainingState(step=2))
        writer = checkpoints._writer
        assert writer is not None
        writer.join()
        try:
            checkpoints.save(TrainingState(step=3)) if method == "save" else getattr(checkpoints, method)()
        except IberlmError as error:
            errors.append([type(error).__name__, str(error)])
    step = checkpoints.resume().step
    return {"errors": errors, "left": sorted(path.name for path in Path(job.resume).iterdir()), "step": step}


def be_killed(parallel: Parallel, job: Job, out: Path) -> dict[str, Any]:
    """Die of SIGKILL in the middle of an asynchronous write: when this rank has written its files, or (until=3) while an old checkpoint is deleted."""
    checkpoints = open_checkpoints(parallel, out / job.label, job, keep_last=1)
    checkpoints.save(TrainingState(step=1), wait=True)

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if job.until == 3:
        checkpoint_files.shutil.rmtree = die  # type: ignore[attr-defined]
    elif parallel.rank == parallel.world - 1:
        checkpoint_files.file_entries = die
    checkpoints.save(TrainingState(step=2))
    checkpoints.wait()
    return {}


def read_whole(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    checkpoint.quiet_single_process()
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
