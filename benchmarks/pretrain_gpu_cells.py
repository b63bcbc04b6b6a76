"""The cells of `benchmarks/pretrain_gpu.py`: one side on one shape at one length, in a process of its own."""

import contextlib
import gc
import itertools
import json
import logging
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from pretrain_inputs import BOS, EOS, first_shard, hugging_face
from pretrain_sides import windows
from torch import nn
from torch.nn.functional import cross_entropy

from iberlm.core.errors import IberlmError
from iberlm.core.manifest import read_manifest
from iberlm.train import loop
from iberlm.train.activation import transform_layers
from iberlm.train.batches import Batches
from iberlm.train.config import CheckpointConfig, ModelConfig, ObjectiveConfig, PretrainConfig, ScheduleConfig
from iberlm.train.data import open_training
from iberlm.train.energy import EnergyMeter
from iberlm.train.flops import Shape, flops_per_token, parameters, peak_tflops
from iberlm.train.hardware import Choices, choose, keep_freed_memory
from iberlm.train.model import materialise
from iberlm.train.optimizer import build_optimizers
from iberlm.train.state import TrainingState
from iberlm.train.strategy import parallelize, session
from iberlm.train.training_model import build_training_model
from iberlm.train.watchdog import Watchdog

MEMORY_BYTES_EACH = 16
"""Of a parameter: weight, gradient and two moments in fp32."""


class NoFitError(Exception):
    """Not even the smallest micro batch fits."""


class Clock:
    """Times of step ends: by events on the GPU's own clock, which the host does not wait for; by the wall clock on a CPU."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job, self._marks, self._spawned = job, [], time.monotonic()
        self.first = 0.0

    def mark(self) -> None:
        """Training begins, or a step has been given to the device."""
        if self._job["cuda"]:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
        if len(self._marks) == 2:  # the first step, which compiled
            if self._job["cuda"]:
                torch.cuda.synchronize()
            self.first = time.monotonic() - self._spawned
        if len(self._marks) == 1 + self._job["warm_up"] and self._job["cuda"]:
            torch.cuda.reset_peak_memory_stats()

    def result(self, micro: int) -> dict[str, Any]:
        """Speed and memory, the warm-up left out."""
        if self._job["cuda"]:
            torch.cuda.synchronize()
            seconds = [begin.elapsed_time(end) / 1000 for begin, end in itertools.pairwise(self._marks)]
            memory = torch.cuda.max_memory_allocated()
        else:
            import resource

            seconds = [end - begin for begin, end in itertools.pairwise(self._marks)]
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = seconds[self._job["warm_up"] :]
        rate = self._job["global_batch_tokens"] / statistics.median(seconds)
        return {"micro_batch_size": micro, "tokens_per_second": rate, "seconds": seconds, "memory_bytes": memory, "start_seconds": self.first}


def about(*, smoke: bool) -> str:
    """Device and versions."""
    device = "CPU"
    if not smoke:
        device = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in (torch, transformers, accelerate))
    return f"{device}; Python {sys.version.split()[0]}, {versions}"


def run_cell(job: dict[str, Any]) -> None:
    """Measure one cell and write its result, or why there is none."""
    stream = Path(job["log"]).open("w", buffering=1)  # noqa: SIM115 - until the process ends
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    logging.basicConfig(level=logging.WARNING)
    try:
        found = _SIDES[job["side"]](job)
        mfu = None
        if job["cuda"] and (peak := peak_tflops(torch.cuda.get_device_name(), "bf16")):
            per_token = flops_per_token(Shape.of(ModelConfig(**job["shape"])), job["length"])
            mfu = per_token * found["tokens_per_second"] / (peak[0] * 1e12)
        Path(job["result"]).write_text(json.dumps(found | {"mfu": mfu}))
    except (IberlmError, NoFitError, ImportError) as error:
        Path(job["result"]).write_text(json.dumps({"failed": str(error)}))
    except BaseException:
        traceback.print_exc()
        raise


# --- what all sides share --------------------------------------------------------------------------------------------------------------


def device_of(job: dict[str, Any]) -> torch.device:
    """The GPU, or the CPU for a smoke test."""
    return torch.device("cuda" if job["cuda"] else "cpu")


def candidates(job: dict[str, Any]) -> list[int]:
    """Micro batches to try, the largest first: those that divide the batch, and whose least need (one bf16 input of each product) leaves room for the rest."""
    samples, shape = job["global_batch_tokens"] // job["length"], ModelConfig(**job["shape"])
    sizes = [micro for micro in job["micro_batches"] if samples % micro == 0]
    if not job["cuda"]:
        return sizes
    total = torch.cuda.get_device_properties(0).total_memory
    states = MEMORY_BYTES_EACH * parameters(Shape.of(shape))
    each = 2 * shape.layers * (6 * shape.hidden_size + 3 * shape.ffn_size) * job["length"]
    return [micro for micro in sizes if micro == 1 or states + micro * each < total]


def largest(job: dict[str, Any], attempt: Callable[[int], None]) -> int:
    """The largest micro batch for which `attempt` does not run out of memory."""
    for micro in candidates(job):
        try:
            attempt(micro)
        except torch.cuda.OutOfMemoryError:
            print(f"a micro batch of {micro} does not fit", flush=True)
        else:
            return micro
        gc.collect()
        torch.cuda.empty_cache()
    raise NoFitError("not even a micro batch of 1 fits")


def make_states(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimiser's moments in memory before micro batches are tried: a step with gradients of 0 at a rate of 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def batches_of(job: dict[str, Any], micro: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets on the device, from pinned memory."""
    ids = first_shard(read_manifest(Path(job["folder"]) / "tokenize"))
    for pair in windows({"ids": ids, "dtype": "uint16", "sequence_length": job["length"], "micro_batch_size": micro}):
        yield tuple((part.pin_memory() if job["cuda"] else part).to(device_of(job), non_blocking=True) for part in pair)  # type: ignore[misc]


def bare_loop(job: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, forward: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """Forward, backward, clip, step. `forward(inputs, targets)` gives the summed loss over the number of targets of a step."""
    clock = Clock(job)
    make_states(optimizer)

    def passes(micro: int, count: int, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for _ in range(count):
            inputs, targets = next(batches)
            with torch.autocast(device_of(job).type, torch.bfloat16):
                loss = forward(inputs, targets)
            loss.backward()

    def attempt(micro: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        passes(micro, 2, batches_of(job, micro))
        optimizer.zero_grad(set_to_none=True)

    micro = largest(job, attempt)
    batches = batches_of(job, micro)
    clock.mark()
    for _ in range(job["steps"]):
        passes(micro, job["global_batch_tokens"] // job["length"] // micro, batches)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.mark()
    return clock.result(micro)


def plain_optimizer(module: nn.Module) -> torch.optim.Optimizer:
    """Fused AdamW; decay spares vectors."""
    groups = [[p for p in module.parameters() if (p.dim() > 1) == matrices] for matrices in (True, False)]
    settings = [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}]
    return torch.optim.AdamW(settings, lr=3e-4, betas=(0.9, 0.95), fused=True)


def whole_logits(job: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over all logits at once, as one writes it."""
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum") / job["global_batch_tokens"]


# --- sides -----------------------------------------------------------------------------------------------------------------------------


def bare(job: dict[str, Any]) -> dict[str, Any]:
    """transformers' Llama in the bare loop."""
    settings = transformers.LlamaConfig(**hugging_face(ModelConfig(**job["shape"]), job["length"]), attn_implementation="sdpa")
    with device_of(job):
        model = transformers.LlamaForCausalLM(settings)
    for layer in model.model.layers:
        layer.compile(dynamic=False)
    forward = lambda inputs, targets: whole_logits(job, model(input_ids=inputs, use_cache=False).logits, targets)  # noqa: E731
    return bare_loop(job, model, plain_optimizer(model), forward)


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    """transformers.Trainer with bf16, torch_compile and SDPA."""
    clock: Clock

    class Marks(transformers.TrainerCallback):
        """Marks the steps' ends."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.mark()

    class Samples(torch.utils.data.Dataset):
        """Windows of the first shard, over and over."""

        def __init__(self) -> None:
            ids = first_shard(read_manifest(Path(job["folder"]) / "tokenize"))
            made = windows({"ids": ids, "dtype": "uint16", "sequence_length": job["length"], "micro_batch_size": 1})
            self.rows = [inputs[0] for inputs, _ in itertools.islice(made, 64)]

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            row = self.rows[index % len(self.rows)]
            return {"input_ids": row, "labels": row}

    def attempt(micro: int) -> None:
        nonlocal clock
        clock = Clock(job)
        arguments = transformers.TrainingArguments(
            output_dir=f"{job['folder']}/trainer",
            max_steps=job["steps"],
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=job["global_batch_tokens"] // job["length"] // micro,
            save_strategy="no",
            report_to="none",
            bf16=True,
            torch_compile=True,
            use_cpu=not job["cuda"],
        )
        with device_of(job):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hugging_face(ModelConfig(**job["shape"]), job["length"])))
        transformers.Trainer(model=model, args=arguments, train_dataset=Samples(), callbacks=[Marks()]).train()

    micro = largest(job, attempt)
    return clock.result(micro)


def settings_of(job: dict[str, Any], micro: int) -> PretrainConfig:
    """The cell as settings of `iberlm pretrain`."""
    return PretrainConfig(
        model=ModelConfig(**job["shape"]),
        objective=ObjectiveConfig(document_masking=job["side"] == "ours masked"),
        schedule=ScheduleConfig(warmup_steps=2),
        checkpoint=CheckpointConfig(every_steps=0),
        sequence_length=job["length"],
        global_batch_tokens=job["global_batch_tokens"],
        micro_batch_size=micro,
        steps=job["steps"],
        precision="fp8" if job["side"] == "ours fp8" else "bf16",
        compile="on",
        validation_tokens=-1,
        tracker="none",
    )


def choices_of(job: dict[str, Any], config: PretrainConfig) -> Choices:
    """What is chosen for this device; printed."""
    choices = choose(config, device_of(job), parameters=parameters(Shape.of(config.model)), vocabulary_size=config.model.vocabulary_size)
    print("\n".join(choices.reasons), flush=True)
    return choices


def parts(job: dict[str, Any]) -> dict[str, Any]:
    """Our model and optimiser in the bare loop."""
    config, device = settings_of(job, candidates(job)[0]), device_of(job)
    keep_freed_memory(device)
    choices = choices_of(job, config)
    module = build_training_model(config, config.model.vocabulary_size, choices, groups=3)
    transform_layers(module, config, choices)
    materialise(module, device, 0)
    (optimizer,) = build_optimizers(module, config.optimizer, config.model.hidden_size)
    positions, scale = torch.arange(job["length"], device=device), torch.tensor(1.0 / job["global_batch_tokens"], device=device)

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss, _ = module(inputs=inputs, targets=targets, positions=positions.expand_as(inputs), groups=torch.zeros_like(inputs), scale=scale)
        return loss

    return bare_loop(job, module, optimizer, forward)


class NoCheckpoints:
    """In place of `Checkpoints`: a benchmark writes none."""

    def save(self, state: TrainingState, **_: Any) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""

    def wait(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """This project's loop as it is, without checkpoints and validation."""
    clock, device, out = Clock(job), device_of(job), Path(job["folder"]) / job["side"].replace(" ", "-")
    out.mkdir(exist_ok=True)
    keep_freed_memory(device)
    config = settings_of(job, candidates(job)[0])
    choices = choices_of(job, config)
    data = open_training(config, read_manifest(Path(job["folder"]) / "tokenize"), config.model.vocabulary_size, bos=BOS)
    module = build_training_model(config, config.model.vocabulary_size, choices, len(data.groups), bos=BOS, eos=EOS)
    with session(config, choices, str(out)) as accelerator:
        parallel = parallelize(accelerator, module, config, choices)
        for optimizer in parallel.optimizers:
            make_states(optimizer)

        def opened(micro: int) -> Batches:
            samples = config.global_batch_samples
            sizes = {"accumulation": samples // micro, "micro_batch_size": micro, "global_batch_samples": samples}
            return Batches(data, rank=0, world=1, pin=job["cuda"], **sizes)

        def attempt(micro: int) -> None:
            for optimizer in parallel.optimizers:
                optimizer.zero_grad(set_to_none=True)
            with opened(micro) as batches:
                share, scale = batches.get(0), torch.ones((), device=device)
                arrays = share.arrays.to(device, non_blocking=True)
                for number in range(2):
                    names = ("inputs", "targets", "positions", "groups")
                    given = dict(zip(names, arrays[:, number % arrays.shape[1]].long(), strict=True))
                    with parallel.accumulating(last=False):
                        parallel.backward(parallel.model(**given, scale=scale, documents=share.documents)[0])
            for optimizer in parallel.optimizers:
                optimizer.zero_grad(set_to_none=True)

        micro = largest(job, attempt)
        config, parallel.accumulation = settings_of(job, micro), config.global_batch_samples // micro
        watchdog, checkpoints = Watchdog(out, 0, 1, config.faults.hang_seconds), NoCheckpoints()
        with opened(micro) as batches, contextlib.ExitStack() as ends:
            watchdog.start()
            ends.callback(watchdog.stop)
            run = loop.Run(
                config=config,
                parallel=parallel,
                batches=batches,
                groups=data.groups,
                validation={},
                validation_bytes={},
                ends=(BOS, EOS),
                checkpoints=checkpoints,
                watchdog=watchdog,
                energy=EnergyMeter(device),
                out=out,
                log=lambda values, step: None,
                state=TrainingState(),
                at_step=lambda run, done: clock.mark(),
            )
            clock.mark()
            loop.train(run)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][job["warm_up"] :]
    note = f"data wait {100 * statistics.fmean(line['data_wait'] for line in lines):.2f}%, attention {choices.attention}, cross-entropy {choices.cross_entropy}"
    return clock.result(micro) | {"note": note}


_SIDES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ours": ours,
    "ours masked": ours,
    "ours fp8": ours,
    "parts": parts,
    "bare": bare,
    "trainer": trainer,
}
