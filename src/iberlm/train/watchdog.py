"""Ranks that hang or lag: each leaves a heartbeat, and when nothing moves those that are behind are named.

A rank that hangs is not seen by the others: they wait for it in a collective, where they can do nothing. So each rank has
a thread that looks at its own progress. When that has stood still for too long it reads the heartbeats of all ranks, says
which are behind and where, and ends its process with the status of a `ResourceError`; the launcher then ends the others.
Nothing here takes part in a collective or touches a device, so a blocked rank can still do it.

Heartbeats are small files in a folder that all ranks see. Each is written over in place, at most once a second and never
by the thread that trains, so that a thousand ranks cost a parallel file system no metadata and training no time.
"""

import contextlib
import faulthandler
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from iberlm.core.errors import ResourceError
from iberlm.core.ranks import end_rank

FOLDER = "heartbeats"
Phase = Literal["start", "data", "step", "generation", "validation", "hooks", "checkpoint", "rollback", "export"]
"""Where a rank can be, in the order within a step."""
PHASES: tuple[str, ...] = get_args(Phase)
PATIENCE = 10.0
"""How many times longer than a step anything else may take: the start and the first step, which compile, and all phases but data and step."""

_RECORD_BYTES = 512
_NAMED = 8
"""Ranks that a message names one by one."""
_LAUNCH = ("MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_RESTART_COUNT")
"""What tells this launch from an earlier one of the same run, whose heartbeats may still lie in the folder."""


class _Progress(NamedTuple):
    """The last beat of this rank. One object, replaced whole, so that the two threads need no lock."""

    turn: int
    """How often the step number has changed: it goes on growing when a run returns to an earlier step."""
    step: int
    phase: str
    monotonic: float
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Heartbeat:
    """What a rank last wrote."""

    rank: int
    host: str
    process: int
    turn: int
    step: int
    phase: str
    at: float
    """When it came to this phase, in seconds since the epoch."""
    alive: float
    """When its thread last wrote: a process that is stopped, or whose machine is gone, writes no more."""
    launch: str

    @property
    def place(self) -> tuple[int, int]:
        """How far the rank is; ranks that wait for each other have the same."""
        return self.turn, PHASES.index(self.phase)

    def patience(self, hang_seconds: float) -> float:
        """Seconds that the rank may stay where it is."""
        return hang_seconds if self.turn > 1 and self.phase in ("data", "step") else PATIENCE * hang_seconds


class Watchdog:
    """One rank's heartbeat, in `heartbeats/` below `folder`, and its watch over a run that stands still.

    `hang_seconds` is how long a step, or waiting for its data, may take; 0 switches everything off. The first step and
    all other phases may take `PATIENCE` times as long. Time in which this process did not run at all (a job that was
    suspended and resumed) does not count.
    """

    def __init__(self, folder: Path, rank: int, world: int, hang_seconds: float) -> None:
        self.folder, self.rank, self.world, self.hang_seconds = folder / FOLDER, rank, world, hang_seconds
        self._host, self._launch = socket.gethostname()[:80], ":".join(os.environ.get(name, "") for name in _LAUNCH)[:120]
        self._interval = min(1.0, hang_seconds / 20)
        self._progress = _Progress(0, -1, "start", time.monotonic(), time.time())
        self._resumed = (0.0, 0.0)  # when this process last went on after it had not run, on both clocks
        self._stopped, self._thread = threading.Event(), threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._file: int | None = None

    def start(self) -> None:
        """Begin to beat and to watch; does nothing when `hang_seconds` is 0. Raises `ResourceError` when the folder cannot be written."""
        if self.hang_seconds > 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path(self.rank), os.O_WRONLY | os.O_CREAT, 0o644)
            except OSError as error:
                raise ResourceError(f"{error.filename}: cannot be written ({error.strerror}); the run's folder must be one that all ranks can write") from error
            self._write()
            self._thread.start()

    def stop(self) -> None:
        """End the watch; the last heartbeat stays."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def beat(self, step: int, phase: Phase) -> None:
        """Note progress: this rank is in `phase` of `step` (counted from 1). Costs about a microsecond; never writes or waits.

        All ranks call it at the same places. In a long phase it may be called again and again: each call is progress.
        """
        last = self._progress
        self._progress = _Progress(last.turn + (step != last.step), step, phase, time.monotonic(), time.time())

    def read(self) -> list[Heartbeat | None]:
        """The heartbeats of all ranks by number; None for a rank that has not begun in this launch, or whose file cannot be read."""
        return [self._read(rank) for rank in range(self.world)]

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.json"

    def _watch(self) -> None:
        # the lower ranks look first: one of them is enough, and a thousand would read a thousand files each
        patience = self.hang_seconds + 2 * self._interval * min(self.rank, 20)
        before, next_look = time.monotonic(), 0.0
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            if now - before > 5 + self._interval:  # it was this process that stood still
                self._resumed = now, time.time()
            before = now
            self._write()
            if now - max(self._progress.monotonic, self._resumed[0]) > patience and now >= next_look:
                next_look = now + self.hang_seconds / 10
                self._look()

    def _write(self) -> None:
        progress = self._progress
        record = {"rank": self.rank, "host": self._host, "process": os.getpid(), "turn": progress.turn, "step": progress.step, "phase": progress.phase}
        record |= {"at": round(max(progress.at, self._resumed[1]), 3), "alive": round(time.time(), 3), "launch": self._launch}
        assert self._file is not None
        with contextlib.suppress(OSError):  # a disk that is full must not end a run that needs nothing of it now
            os.pwrite(self._file, json.dumps(record).ljust(_RECORD_BYTES - 1).encode() + b"\n", 0)

    def _read(self, rank: int) -> Heartbeat | None:
        for _ in range(3):  # it may be written at this moment
            with contextlib.suppress(OSError, ValueError, TypeError):
                beat = Heartbeat(**json.loads(self._path(rank).read_text(encoding="utf-8")))
                return beat if beat.launch == self._launch and beat.phase in PHASES else None
        return None

    def _look(self) -> None:
        """This rank stands still: end it, with the reason, unless those it waits for still have time."""
        now = time.time()
        beats = self.read()
        verdict, own = judge(beats, self.hang_seconds, now), beats[self.rank]
        if verdict or (own is not None and now - own.at > own.patience(self.hang_seconds)):
            with contextlib.suppress(OSError), (self.folder / f"rank-{self.rank}.stack").open("w", encoding="utf-8") as stream:
                faulthandler.dump_traceback(stream, all_threads=True)
        if verdict and not self._stopped.is_set():
            hint = f"the ranks' Python stacks are in {self.folder}/rank-*.stack; the same command goes on from the newest checkpoint"
            end_rank(ResourceError(f"pretrain: nothing moves any more: {verdict} (faults.hang_seconds={self.hang_seconds:g}; {hint})"))


def judge(beats: Sequence[Heartbeat | None], hang_seconds: float, now: float) -> str:
    """Who holds up a run that stands still, in words; empty when those who are behind still have time.

    Behind is who has not begun or does not run any more, else who has come least far. `now` is in seconds since the epoch.
    """
    known = [beat for beat in beats if beat is not None]
    missing = [rank for rank, beat in enumerate(beats) if beat is None]
    gone = [beat for beat in known if now - beat.alive > beat.patience(hang_seconds) / 2]
    rear = [beat for beat in known if beat.place == min(other.place for other in known)]
    if not gone and all(now - beat.at <= beat.patience(hang_seconds) for beat in (known if missing else rear)):
        return ""
    behind = gone or ([] if missing else rear)
    waiting = [beat for beat in known if beat not in behind]
    parts = [f"rank {rank}: has not begun, or its heartbeat cannot be read" for rank in missing] + [_said(beat, now, beat in gone) for beat in behind]
    parts = [*parts[:_NAMED], f"and {len(parts) - _NAMED} more"] if len(parts) > _NAMED else parts
    if waiting:
        ahead = max(waiting, key=lambda beat: beat.place)
        parts.append(f"{f'rank {ahead.rank} waits' if len(waiting) == 1 else f'the other {len(waiting)} wait'} in {_place(ahead)}")
    elif len(known) > 1 and not gone:
        parts.append("no rank is ahead of another, so a collective, a device or a disk does not answer")
    return "; ".join(parts)


def _place(beat: Heartbeat) -> str:
    return f"'{beat.phase}'" + (f" of step {beat.step}" if beat.turn else "")


def _said(beat: Heartbeat, now: float, gone: bool) -> str:
    name = f"rank {beat.rank} on host {beat.host} (process {beat.process})"
    if gone:
        return f"{name}: has not run for {now - beat.alive:,.0f} s (stopped, or its machine is gone), last in {_place(beat)}"
    return f"{name}: in {_place(beat)} for {now - beat.at:,.0f} s"


def stragglers(seconds: Sequence[float], ratio: float) -> list[int]:
    """Ranks whose own work takes more than `ratio` times the median of all (the lower one, so that of two ranks one can be slow).

    `seconds` is what each rank needed for work that no other rank takes part in: `probe`, and waiting for data. 0 is "not
    measured". With `ratio` 0 nobody is named.
    """
    measured = [value for value in seconds if value > 0]
    if ratio <= 0 or len(measured) < 2:
        return []
    limit = ratio * statistics.median_low(measured)
    return [rank for rank, value in enumerate(seconds) if value > limit]


def probe(device: Any) -> float:
    """Seconds of a small fixed matrix product on this rank's `device` (torch.device), on which no other rank has an influence.

    Step times are the same on all ranks, since all wait for the slowest; this is not. On the CPU the best of three runs of a
    few milliseconds. On CUDA and ROCm it is queued behind the work at hand and timed by events, which are read at the *next*
    call, so that the host never waits: the result is that of the last probe that has ended, 0.0 before.
    """
    return _probe_of(str(device)).seconds()


@cache
def _probe_of(device: str) -> "_Probe":
    return _Probe(device)


class _Probe:
    """The matrices and the events of `probe`."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch, self._device = torch, torch.device(device)
        on_gpu = self._device.type == "cuda"
        # about 2 ms each: 64 products of 2 x 2048^3 FLOP on an H100, one of 2 x 384^3 on a core
        size, self._repeats, kind = (2048, 64, torch.bfloat16) if on_gpu else (384, 1, torch.float32)
        self._factors = torch.full((2, size, size), 0.5, dtype=kind, device=self._device)
        self._product = torch.empty((size, size), dtype=kind, device=self._device)
        self._events: tuple[Any, Any] | None = None
        self._last = 0.0
        self._multiply()  # the first call of a kernel loads it

    def seconds(self) -> float:
        if self._device.type == "cuda":
            return self._on_gpu()
        times = []
        for _ in range(3):
            before = time.perf_counter()
            self._multiply()
            times.append(time.perf_counter() - before)
        return min(times)

    def _multiply(self) -> None:
        with self._torch.no_grad():
            for _ in range(self._repeats):
                self._torch.mm(self._factors[0], self._factors[1], out=self._product)

    def _on_gpu(self) -> float:
        if self._events is not None:
            first, last = self._events
            if not last.query():
                return self._last
            self._last = float(first.elapsed_time(last)) / 1000
        make: Any = self._torch.cuda.Event
        first, last = make(enable_timing=True), make(enable_timing=True)
        first.record()
        self._multiply()
        last.record()
        self._events = first, last
        return self._last
