"""The training loop. One optimisation step is `optimise`; everything around it watches, validates, saves and goes back."""

import dataclasses
import math
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from iberlm.core.errors import DataError
from iberlm.core.files import write_json
from iberlm.core.progress import say
from iberlm.core.stopping import STOPPED, Interrupted, StopFlag, stop_signals
from iberlm.train import faults
from iberlm.train.batches import Batches
from iberlm.train.checkpoint import Checkpoints
from iberlm.train.config import PretrainConfig
from iberlm.train.data import Concatenation
from iberlm.train.energy import EnergyMeter
from iberlm.train.files import METRICS
from iberlm.train.metrics import append_line, event, peak_memory_bytes, progress_line, rewind_lines, write_state
from iberlm.train.profiling import profiler
from iberlm.train.schedule import rate_ratio
from iberlm.train.state import TrainingState
from iberlm.train.strategy import Parallel
from iberlm.train.triggers import EXIT, Triggers
from iberlm.train.validation import mean_bits_per_byte, validate
from iberlm.train.watchdog import Watchdog, probe, stragglers

Log = Callable[[dict[str, Any], int], None]
"""Gives numbers to the tracker: (values, step)."""


@dataclass
class Run:
    """What a rank needs to train: settings, model, data, where to write."""

    config: PretrainConfig
    parallel: Parallel
    batches: Batches
    groups: list[str]
    """Names of the parts of the data whose loss is told apart."""
    validation: dict[str, Concatenation]
    validation_bytes: dict[str, int]
    """UTF-8 bytes of the text behind each language's validation tokens."""
    ends: tuple[int, int]
    """Ids of BOS and EOS, which validation does not count."""
    checkpoints: Checkpoints
    watchdog: Watchdog
    energy: EnergyMeter
    out: Path
    log: Log
    state: TrainingState
    flops_per_token: float = 0.0
    peak_flops: float | None = None
    """Of all devices together, a second; None when it is not known."""
    at_validation: "Callable[[Run, int, dict[str, dict[str, float]]], None] | None" = None
    """Called on all ranks after each validation: evaluation hooks."""
    at_step: "Callable[[Run, int], None] | None" = None
    """Called on all ranks after each step: sample generations."""
    clock: float = field(default_factory=time.monotonic)
    """When the last step was settled: step times leave validation and checkpoints out."""
    waited: float = 0.0
    """Seconds that had been spent waiting for data when the last step was settled."""
    watt_hours: float = 0.0
    """Reading of the energy meter when the last step was settled."""
    own_seconds: float = 0.0
    """The last probe of this rank's own speed, and what it waited for data meanwhile."""

    def restart_clocks(self) -> None:
        """Leave what was done since the last step out of the next one's time."""
        self.clock, self.waited, self.watt_hours = time.monotonic(), self.batches.waited, self.energy.read()


@dataclass
class Pending:
    """A step whose numbers are still on their way from the device."""

    step: int
    block: int
    rate: float
    numbers: torch.Tensor
    """On the host, float32[2 * groups + 4 + world]: see `optimise`."""
    arrived: "torch.cuda.Event | None"
    """None where the numbers are on the host already (CPU)."""
    made: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Verdict:
    """What a settled step asks of the loop."""

    stop: bool = False
    go_back: bool = False
    save: bool = False


def optimise(run: Run, step: int, stop: StopFlag, triggers: Triggers) -> Pending:
    """One optimisation step (numbered from 0): forward and backward over this rank's micro batches, clip, update.

    Nothing here waits for the device. What it finds out is one vector, read a step later: summed loss and number of targets
    by group, ranks that were told to stop, those that were told to save, seconds of each rank's own work, gradient norm, and
    whether the update was applied.
    """
    parallel, config, block = run.parallel, run.config, run.state.block(step)
    rate = config.optimizer.learning_rate * rate_ratio(config, step)
    limits = faults.limits(run.state, step, config.faults)
    parallel.set_learning_rate(rate)
    run.watchdog.beat(step + 1, "data")
    share = run.batches.get(block)
    run.watchdog.beat(step + 1, "step")
    arrays = share.arrays.to(parallel.device, non_blocking=True)
    own = [run.own_seconds if rank == parallel.rank else 0.0 for rank in range(parallel.world)]
    told = parallel.all_reduce(on_device([share.targets, bool(stop.name or triggers.exit), triggers.save, *own], parallel.device))
    # gradients are averaged over the ranks, and ranks that share a sequence count its targets once each
    targets = (told[0] / parallel.context_world).clamp(min=1)
    scale = parallel.data_world * parallel.context_world / targets
    sums = torch.zeros(2, len(run.groups), device=parallel.device)
    for micro in range(parallel.accumulation):
        whole = arrays[:, micro].long()
        inputs, labels, positions, groups = parallel.slice_sequence(whole)
        with parallel.accumulating(last=micro == parallel.accumulation - 1):
            loss, found = parallel.model(
                inputs=inputs, targets=labels, positions=positions, groups=groups, scale=scale, whole_positions=whole[2], documents=share.documents
            )
            parallel.backward(loss)
        sums += found
    sums = parallel.all_reduce(sums)
    mean = sums[0].sum() / targets
    norm, applied = parallel.update(~torch.isfinite(mean) | (mean > limits.loss), limits.norm)
    return pending(step, block, rate, torch.cat([sums.flatten(), told[1:], norm.reshape(1), applied.reshape(1)]))


def on_device(values: list[float], device: torch.device) -> torch.Tensor:
    """float32[n] on the device, by way of pinned memory: a copy from ordinary memory would wait for the device."""
    return torch.tensor(values, dtype=torch.float32, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def train(run: Run) -> dict[str, dict[str, float]]:
    """Train from the step of `run.state` to the end, saving and validating on the way; return the last validation.

    Leaves a checkpoint of the last step. Raises `DataError` when training does not recover from steps that cannot be applied,
    and `Interrupted`, after saving, when a signal or an `exit` file asked to stop.
    """
    config, steps, state = run.config, run.config.total_steps, run.state
    before: Pending | None = None
    results: dict[str, dict[str, float]] = {}
    folders = [Path(config.run_dir), run.out]
    run.restart_clocks()
    with (
        stop_signals() as stop,
        Triggers(folders, run.parallel.rank) as triggers,
        profiler(config.monitor, run.out, run.parallel.rank, begin=state.step) as profiled,
    ):
        while (state := run.state).step < steps:
            current = optimise(run, state.step, stop, triggers)
            state.step += 1
            done = state.step
            # a device's numbers are read one step late, so that the host never waits for it; every rank reads the same
            verdict = settle(run, before)
            before = current
            validating = _due(config.validate_every_steps, done) or done == steps
            saving = _due(config.checkpoint.every_steps, done) or done == steps
            if verdict.stop or verdict.save or validating or saving or current.arrived is None:
                later = settle(run, before)
                verdict = Verdict(verdict.stop or later.stop, verdict.go_back or later.go_back, verdict.save or later.save)
                before = None
            if verdict.go_back:
                go_back(run)
                before = None
                continue
            profiled(done)
            run.checkpoints.settle()
            if run.at_step:
                run.at_step(run, done)
            if validating:
                run.watchdog.beat(done, "validation")
                results = validate(run, done)
                run.log({f"validation/{tag}/{key}": number for tag, value in results.items() for key, number in value.items()}, done)
                if run.at_validation:
                    run.watchdog.beat(done, "hooks")
                    run.at_validation(run, done, results)
            if verdict.stop or ((saving or verdict.save) and (not state.skipped_in_a_row or done == steps)):
                save(run, results if validating else {}, wait=verdict.stop or verdict.save or done == steps)
                if verdict.save and run.parallel.rank == 0:
                    event(run.out, done, "save", f"checkpoint of step {done}: a `save` file asked for it")
                    triggers.saved()
            if verdict.stop and done < steps:
                _stop(run, stop, triggers)
            if validating or saving or verdict.save:
                run.restart_clocks()
    return results


def _stop(run: Run, stop: StopFlag, triggers: Triggers) -> None:
    """Leave word of who asked to stop, and raise `Interrupted`. All ranks call this."""
    done, told = run.state.step, run.parallel.gather_objects((stop.name, triggers.exit))
    names, exits = [name for name, _ in told if name], [path for _, path in told if path]
    # a person counts more than the clock: who asked for an end does not want the run to go on in the next job
    reason = EXIT if exits else signal.SIGTERM.name if signal.SIGTERM.name in names else names[0]
    if run.parallel.rank == 0:
        write_json(run.out / STOPPED, {"reason": reason, "step": done, "time": time.time()})
    asked = f"as {exits[0]} asks" if exits else f"on {reason}"
    raise Interrupted(f"pretrain: stopped at step {done} of {run.config.total_steps} {asked}; run the same command again to go on")


def save(run: Run, results: dict[str, dict[str, float]], *, wait: bool) -> None:
    """Save a checkpoint of the state as it is, and say in the run's folder how far it is. All ranks call this."""
    run.watchdog.beat(run.state.step, "checkpoint")
    run.checkpoints.save(dataclasses.replace(run.state), bits_per_byte=mean_bits_per_byte(results), wait=wait)
    if run.parallel.rank == 0:
        write_state(run.out, run.state)


def go_back(run: Run) -> None:
    """Load the newest checkpoint and go on from there, leaving out the data read since. All ranks call this."""
    run.watchdog.beat(run.state.step, "rollback")
    run.checkpoints.wait()
    found = run.checkpoints.roll_back(run.state)
    if found is None:
        peak = run.config.optimizer.learning_rate
        raise DataError(
            f"pretrain: {run.state.skipped_in_a_row} steps in a row up to step {run.state.step} could not be applied (see {run.out / METRICS}), and there is "
            f"no checkpoint to go back to. Lower optimizer.learning_rate (the peak is {peak:g}) or lengthen schedule.warmup_steps, and run again"
        )
    before, run.state = run.state, faults.rolled_back(run.state, found, run.config.faults)
    at, blocks = run.state.gaps[-1]
    if run.parallel.rank == 0:
        samples = blocks * run.config.global_batch_samples
        told = f"{before.skipped_in_a_row} steps in a row could not be applied: back to step {at}; the {samples} samples read since are left out"
        event(run.out, before.step, "rollback", told)
        rewind_lines(run.out, at)
        write_state(run.out, run.state)
    run.parallel.barrier()
    run.restart_clocks()


def _due(every: int, done: int) -> bool:
    return every > 0 and done % every == 0


def pending(step: int, block: int, rate: float, numbers: torch.Tensor) -> Pending:
    """Begin the copy of a step's numbers to the host without waiting for it."""
    if numbers.device.type != "cuda":
        return Pending(step, block, rate, numbers, None)
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()
    return Pending(step, block, rate, host, arrived)


def settle(run: Run, entry: Pending | None) -> Verdict:
    """Wait for a step's numbers, judge them and write them down."""
    if entry is None:
        return Verdict()
    if entry.arrived is not None:
        entry.arrived.synchronize()
    now = entry.made if entry.arrived is None else time.monotonic()
    seconds, run.clock = now - run.clock, now
    waited, run.waited = run.batches.waited - run.waited, run.batches.waited
    energy = run.energy.read()
    used, run.watt_hours = energy - run.watt_hours, energy
    run.state.seconds += seconds
    run.state.watt_hours += used * run.parallel.world  # the other ranks are taken to draw as much
    count, numbers = len(run.groups), entry.numbers.tolist()
    losses, targets, own = numbers[:count], numbers[count : 2 * count], numbers[2 * count + 2 : -2]
    stopping, saving = numbers[2 * count : 2 * count + 2]
    norm, applied = numbers[-2], bool(numbers[-1])
    loss = math.fsum(losses) / max(1.0, math.fsum(targets)) if all(map(math.isfinite, losses)) else math.nan
    go_back_now = faults.note(run.state, entry.step, loss, norm, applied, run.config.faults)
    if run.parallel.rank == 0:
        by_group = {name: total / number for name, total, number in zip(run.groups, losses, targets, strict=True) if number}
        _write(run, entry, seconds, waited, {"loss": loss, "losses": by_group, "grad_norm": norm, "applied": applied, "targets": round(math.fsum(targets))})
        _watch_ranks(run, entry.step + 1, own)
    if _due(run.config.log_every_steps, entry.step + 1):
        run.own_seconds = probe(run.parallel.device) + waited
    return Verdict(stopping > 0, go_back_now, saving > 0)


def _write(run: Run, entry: Pending, seconds: float, waited: float, found: dict[str, Any]) -> None:
    config, done = run.config, entry.step + 1
    rate = config.global_batch_tokens / seconds
    line = {"step": done, "block": entry.block, "tokens": done * config.global_batch_tokens} | found
    line |= {"lr": entry.rate, "tokens_per_second": round(rate, 1), "seconds": round(seconds, 5), "data_wait": round(waited / seconds, 5)}
    line |= {"mfu": round(run.flops_per_token * rate / run.peak_flops, 4) if run.peak_flops else None}
    line |= {"memory_bytes": peak_memory_bytes(run.parallel.device), "watt_hours": round(run.state.watt_hours, 5)}
    append_line(run.out / METRICS, _finite(line))
    if not line["applied"]:
        event(run.out, done, "skip", f"step {done} was not applied: loss {found['loss']:.4g}, gradient norm {found['grad_norm']:.4g}")
    if done % config.log_every_steps == 0 or done == config.total_steps:
        say(progress_line(line, config.total_steps))
        flat = {key: value for key, value in line.items() if key not in ("step", "losses") and isinstance(value, int | float)}
        run.log(flat | {f"loss/{name}": value for name, value in line["losses"].items()}, done)


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null stands for it."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}


def _watch_ranks(run: Run, done: int, own: list[float]) -> None:
    settings = run.config.faults
    if not settings.straggler_ratio or run.parallel.world < 2 or not _due(run.config.log_every_steps, done - 1) or not all(own):
        return
    median = statistics.median(own)
    for rank in stragglers(own, settings.straggler_ratio):
        told = f"rank {rank} is slow: {1000 * own[rank]:.1f} ms for its own work where the median is {1000 * median:.1f} ms"
        event(run.out, done, "straggler", told)
