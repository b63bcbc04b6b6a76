"""The sides of `benchmarks/pretrain.py` that run on this project's Python, each in a process of its own.

    python pretrain_sides.py JOB.json

Each trains the model of the job for a number of steps and writes the wall seconds of each step, and when the first had ended. `bare` and `trainer`
import nothing of this project. `bare` is what one writes by hand: batch, forward, loss, backward, clip, step, in float32 or under autocast, the layers
compiled or not. `parts` is the same loop around this project's model and optimiser, `ours` this project's stage as users run it: the difference of the two
is what the loop costs.
"""

import contextlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy


class Clock:
    """Seconds of each step by the job's clock (`monotonic` or `process_time` of the module time), and by the wall when the first had ended."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._now = getattr(time, job["clock"])
        self.begun, self.seconds, self.first = self._now(), [], 0.0

    def begin(self) -> None:
        """Training begins now."""
        self.begun = self._now()

    def step(self) -> None:
        """A step has ended."""
        now = self._now()
        self.first = self.first or time.monotonic()
        self.seconds.append(now - self.begun)
        self.begun = now

    def result(self, job: dict[str, Any]) -> dict[str, Any]:
        """What goes into the result."""
        return {"seconds": self.seconds, "first": self.first - job["spawned"]}


def windows(job: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of micro batch after micro batch, int64[micro_batch_size, sequence_length]."""
    ids, length, rows = np.memmap(job["ids"], dtype=job["dtype"], mode="r"), job["sequence_length"], job["micro_batch_size"]
    start = 0
    while True:
        if start + rows * length + 1 > len(ids):
            start = 0
        chunk = torch.from_numpy(ids[start : start + rows * length + 1].astype(np.int64))
        yield chunk[:-1].view(rows, length), chunk[1:].view(rows, length)
        start += rows * length


def bare(job: dict[str, Any]) -> dict[str, Any]:
    """Forward, backward and step by hand on transformers' Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**job["model"], attn_implementation="sdpa"))
    if job["compile"]:
        for layer in model.model.layers:
            layer.compile()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    batches, clock = windows(job), Clock(job)
    for _ in range(job["steps"]):
        for _ in range(job["accumulation"]):
            inputs, targets = next(batches)
            with torch.autocast("cpu", torch.bfloat16) if job["precision"] == "bf16" else contextlib.nullcontext():
                logits = model(input_ids=inputs, use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) / job["accumulation"]
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.step()
    return clock.result(job)


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    """transformers.Trainer: as it comes, or with the `TrainingArguments` of the job."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Stamps(TrainerCallback):
        """Notes when each step ends."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    class Samples(torch.utils.data.Dataset):
        """Windows of sequence_length ids; the model shifts the labels itself."""

        ids, length = np.memmap(job["ids"], dtype=job["dtype"], mode="r"), job["sequence_length"]

        def __len__(self) -> int:
            return len(self.ids) // self.length

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row = torch.from_numpy(self.ids[index * self.length : (index + 1) * self.length].astype(np.int64))
            return {"input_ids": row, "labels": row}

    clock = Clock(job)
    arguments = TrainingArguments(
        output_dir=f"{job['folder']}/trainer",
        max_steps=job["steps"],
        per_device_train_batch_size=job["micro_batch_size"],
        gradient_accumulation_steps=job["accumulation"],
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        **job["arguments"],
    )
    torch.manual_seed(0)
    Trainer(model=LlamaForCausalLM(LlamaConfig(**job["model"])), args=arguments, train_dataset=Samples(), callbacks=[Stamps()]).train()
    return clock.result(job)


def settings(job: dict[str, Any]) -> Any:
    """The job as settings of `iberlm pretrain`."""
    from iberlm.train.config import CheckpointConfig, ModelConfig, ObjectiveConfig, PretrainConfig, ScheduleConfig

    return PretrainConfig(
        model=ModelConfig(**job["shape"]),
        objective=ObjectiveConfig(document_masking=job["document_masking"]),
        schedule=ScheduleConfig(warmup_steps=10),
        checkpoint=CheckpointConfig(every_steps=0),
        sequence_length=job["sequence_length"],
        micro_batch_size=job["micro_batch_size"],
        global_batch_tokens=job["micro_batch_size"] * job["accumulation"] * job["sequence_length"],
        steps=LONG_RUN_STEPS,
        precision=job["precision"],
        compile=job["compile"],
        tracker="none",
        **job["more"],
    )


def parts(job: dict[str, Any]) -> dict[str, Any]:
    """This project's model and optimiser in a bare loop: the same products as `ours`, no data, no checks, nothing written."""
    from iberlm.train.activation import transform_layers
    from iberlm.train.flops import Shape, parameters
    from iberlm.train.hardware import choose, keep_freed_memory
    from iberlm.train.model import materialise
    from iberlm.train.optimizer import build_optimizers
    from iberlm.train.training_model import build_training_model

    config, device, vocabulary = settings(job), torch.device("cpu"), job["model"]["vocab_size"]
    keep_freed_memory(device)
    choices = choose(config, device, parameters=parameters(Shape.of(config.model, vocabulary)), vocabulary_size=vocabulary)
    module = build_training_model(config, vocabulary, choices, groups=3)
    transform_layers(module, config, choices)
    materialise(module, device, 0)
    (optimizer,) = build_optimizers(module, config.optimizer, config.model.hidden_size)
    batches, clock = windows(job), Clock(job)
    positions = torch.arange(job["sequence_length"]).expand(job["micro_batch_size"], -1)
    groups, scale = torch.zeros_like(positions), torch.tensor(1.0 / config.global_batch_tokens)
    for _ in range(job["steps"]):
        for _ in range(job["accumulation"]):
            inputs, targets = next(batches)
            with torch.autocast("cpu", torch.bfloat16) if choices.precision == "bf16" else contextlib.nullcontext():
                loss, _ = module(inputs=inputs, targets=targets, positions=positions, groups=groups, scale=scale)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.step()
    return clock.result(job)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """The stage as users run it, in a run long enough that what is chosen for long runs is chosen; SIGTERM ends it, and metrics.jsonl has the times."""
    from iberlm.core.manifest import read_manifest
    from iberlm.core.ranks import Interrupted
    from iberlm.train import pretrain

    if job["clock"] != "monotonic":
        _give_the_loop_a_clock(getattr(time, job["clock"]))
    out = Path(job["folder"]) / "run"
    with contextlib.suppress(Interrupted):
        pretrain.run(settings(job), [read_manifest(Path(job["inputs"]) / stage) for stage in ("tokenize", "train_tokenizer")], out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][: job["steps"]]
    return {"seconds": [line["seconds"] for line in lines], "data_wait": [line["data_wait"] for line in lines]}


def _give_the_loop_a_clock(clock: Callable[[], float]) -> None:
    """Have the training loop, and it alone, take `clock` for the wall's: what it writes down as seconds are then CPU seconds."""
    wall, time.monotonic = time.monotonic, clock  # some of its defaults hold the clock that there is when it is imported
    from iberlm.train import loop

    time.monotonic = wall
    loop.time = types.SimpleNamespace(monotonic=clock)


LONG_RUN_STEPS = 10_000
SIDES = {"bare": bare, "parts": parts, "ours": ours, "trainer": trainer}


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    Path(given["result"]).write_text(json.dumps(SIDES[given["side"]](given)))
