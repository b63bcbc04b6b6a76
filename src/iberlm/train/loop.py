"""The training loop. One optimisation step is `optimise`; everything around it watches, validates and saves."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from iberlm.core.errors import DataError
from iberlm.core.files import disk_errors, write_text
from iberlm.core.progress import say
from iberlm.core.ranks import STOP_SIGNALS, Interrupted
from iberlm.train import checkpoint
from iberlm.train.config import PretrainConfig
from iberlm.train.data import IGNORED, Concatenation, TrainingData, rank_numbers, validation_batches, validation_windows
from iberlm.train.schedule import rate_ratio
from iberlm.train.strategy import Parallel

METRICS, VALIDATION, CHECKPOINTS = "metrics.jsonl", "validation.jsonl", "checkpoints"


@dataclass
class Run:
    """What a rank needs to train: settings, model, data, where to write."""

    config: PretrainConfig
    parallel: Parallel
    data: TrainingData
    validation: dict[str, Concatenation]
    validation_bytes: dict[str, int]
    """UTF-8 bytes of the text behind each language's validation tokens."""
    ends: tuple[int, int]
    """Ids of BOS and EOS, which validation does not count."""
    fingerprint: dict[str, Any]
    out: Path
    clock: float = field(default_factory=time.monotonic)
    """When the last step was settled: step times leave validation and checkpoints out."""


@dataclass
class Pending:
    """A step whose numbers are still on their way from the device."""

    step: int
    rate: float
    numbers: torch.Tensor
    """On the host: mean loss over all ranks, ranks told to stop, gradient norm; float32[3]."""
    arrived: "torch.cuda.Event | None"
    """None where the numbers are on the host already (CPU)."""
    made: float = field(default_factory=time.monotonic)


@dataclass
class StopFlag:
    """Set by a signal; which one, for the message."""

    name: str = ""


def optimise(run: Run, step: int, stop: StopFlag) -> Pending:
    """One optimisation step (numbered from 0): forward and backward over this rank's micro batches, clip, update."""
    parallel, config = run.parallel, run.config
    rate = config.optimizer.learning_rate * rate_ratio(config.schedule, step, config.total_steps)
    parallel.set_learning_rate(rate)
    loss_sum = torch.zeros((), device=parallel.device)
    for micro in range(parallel.accumulation):
        inputs, targets = batch(run, step, micro)
        with parallel.accelerator.accumulate(parallel.model):  # ddp exchanges gradients in the last micro step only
            loss = token_losses(parallel, inputs, targets).mean()
            parallel.accelerator.backward(loss)  # divides by the number of micro steps
        loss_sum += loss.detach()
    norm = parallel.apply_gradients()
    share = loss_sum / (parallel.accumulation * parallel.world)
    total = parallel.all_reduce(torch.stack([share, torch.tensor(float(bool(stop.name)), device=parallel.device)]))
    return pending(step, rate, torch.cat([total, norm.reshape(1)]))


def train(run: Run, begin: int) -> None:
    """Train from step `begin` to the end, saving and validating on the way; leaves a checkpoint of the last step.

    Raises `DataError` when loss or gradient are no longer finite (nothing is saved then) and `Interrupted`, after
    saving, when a signal asked to stop.
    """
    config, steps = run.config, run.config.total_steps
    before: Pending | None = None
    run.clock = time.monotonic()
    with stop_signals() as stop:
        for step in range(begin, steps):
            current, done = optimise(run, step, stop), step + 1
            # a device's numbers are read one step late, so that the host never waits for it; every rank reads the same
            stopping = settle(run, before)
            before = current
            validating = _due(config.validate_every_steps, done) and done < steps
            saving = _due(config.checkpoint.every_steps, done) or done == steps
            if stopping or validating or saving or current.arrived is None:
                stopping = settle(run, before) or stopping
                before = None
            if validating:
                validate(run, done)
            if saving or stopping:
                checkpoint.save(run.parallel, run.out / CHECKPOINTS, done, run.fingerprint, config.checkpoint.keep_last)
            if stopping and done < steps:
                name = next((name for name in run.parallel.gather_objects(stop.name) if name), "")
                raise Interrupted(f"pretrain: stopped at step {done} of {steps} on {name}; run the same command again to go on")
            if validating or saving:
                run.clock = time.monotonic()


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0


def batch(run: Run, step: int, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of one micro step of this rank, int64[micro_batch_size, sequence_length] on the device."""
    parallel, config = run.parallel, run.config
    numbers = rank_numbers(step, micro, parallel.rank, parallel.world, config.micro_batch_size, config.global_batch_samples)
    samples = torch.from_numpy(run.data.samples(numbers))
    if parallel.device.type == "cuda":
        samples = samples.pin_memory().to(parallel.device, non_blocking=True)
    return samples[:, :-1], samples[:, 1:]


def token_losses(parallel: Parallel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token in nats, float32[rows * sequence_length]; 0 where the target is `IGNORED`."""
    logits = parallel.model(input_ids=inputs, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")


def pending(step: int, rate: float, numbers: torch.Tensor) -> Pending:
    """Begin the copy of a step's numbers to the host without waiting for it."""
    if numbers.device.type != "cuda":
        return Pending(step, rate, numbers, None)
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()
    return Pending(step, rate, host, arrived)


def settle(run: Run, entry: Pending | None) -> bool:
    """Wait for a step's numbers, refuse what is not finite, write them down; True when a rank was told to stop."""
    if entry is None:
        return False
    if entry.arrived is not None:
        entry.arrived.synchronize()
    loss, stopping, norm = entry.numbers.tolist()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DataError(
            f"pretrain: step {entry.step + 1}: loss {loss}, gradient norm {norm}: no longer finite, and nothing was saved after it. "
            f"Lower optimizer.learning_rate (the peak is {run.config.optimizer.learning_rate:g}) or lengthen schedule.warmup_steps, and run again"
        )
    now, config = entry.made if entry.arrived is None else time.monotonic(), run.config
    seconds, run.clock = now - run.clock, now
    if run.parallel.rank == 0:
        done, rate = entry.step + 1, config.global_batch_tokens / seconds
        line = {"step": done, "tokens": done * config.global_batch_tokens, "loss": loss, "lr": entry.rate, "grad_norm": norm}
        line |= {"tokens_per_second": round(rate, 1), "seconds": round(seconds, 4)}
        append_line(run.out / METRICS, line)
        if done % config.log_every_steps == 0 or done == config.total_steps:
            say(f"pretrain: step {done}/{config.total_steps} loss {loss:.4f} lr {entry.rate:.2e} norm {norm:.2f} {rate:,.0f} tokens/s")
            run.parallel.accelerator.log({key: value for key, value in line.items() if key != "step"}, step=done)
    return bool(stopping > 0)


@torch.no_grad()
def validate(run: Run, done: int) -> dict[str, dict[str, float]]:
    """Mean loss (nats a token) and bits a byte of each language of the validation split. All ranks call this.

    Bits a byte are comparable between tokenizers, and with the unigram baseline and the evaluation: all three leave BOS and
    EOS out. Here windows of `sequence_length` run across documents, so the figures differ a little from the evaluation's.
    With `validation_tokens`, bytes are counted in proportion to the tokens read.
    """
    parallel, config, results = run.parallel, run.config, {}
    for tag, store in run.validation.items():
        windows = validation_windows(store, config.sequence_length, config.validation_tokens)
        sums = torch.zeros(2, dtype=torch.float64, device=parallel.device)
        for arrays in validation_batches(store, windows, config.sequence_length, config.micro_batch_size, parallel.rank, parallel.world, run.ends):
            inputs, targets = torch.from_numpy(arrays).to(parallel.device)
            sums += torch.stack([token_losses(parallel, inputs, targets).sum(dtype=torch.float64), (targets != IGNORED).sum().double()])
        nats, tokens = parallel.all_reduce(sums).tolist()
        if tokens:
            read_bytes = run.validation_bytes[tag] * windows[-1][1] / len(store)
            results[tag] = {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / read_bytes}
    if parallel.rank == 0:
        append_line(run.out / VALIDATION, {"step": done, "validation": results})
        say(f"pretrain: step {done} validation, bits a byte: " + ", ".join(f"{tag} {value['bits_per_byte']:.4f}" for tag, value in results.items()))
        run.parallel.accelerator.log({f"validation/{tag}/{key}": number for tag, value in results.items() for key, number in value.items()}, step=done)
    return results


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add one JSON line to a file."""
    with disk_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines of a file; a last line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def rewind_lines(path: Path, done: int) -> None:
    """Drop the lines of steps after `done`: they are about to be made again."""
    if path.is_file():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= done))


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Note SIGTERM and SIGUSR2 instead of dying of them; a second one of the same kind changes nothing."""
    stop = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        stop.name = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield stop
        return
    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
