"""Requests to stop: the signals, what a run that obeys them raises and leaves, and how they are noted and passed on."""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType

from iberlm.core.errors import IberlmError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What asks a run to save and stop: SIGTERM by people and schedulers, SIGUSR2 by Slurm (NCCL may catch SIGUSR1)."""
STOPPED = "stopped.json"
"""In the folder of a training run that was told to stop: by what, and at which step. The next start removes it."""


class Interrupted(IberlmError):  # noqa: N818 - it is no error: the run did what it was told
    """The run was told to stop and has saved its state; the same command goes on from there. 75 is EX_TEMPFAIL."""

    exit_status = 75


@dataclass
class StopFlag:
    """Set by a signal; which one, for the message."""

    name: str = ""


_noted: list[str] = []


def note_signals() -> None:
    """From now on SIGTERM and SIGUSR2 are noted instead of ending this process; `noted_signal` tells."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: _noted.append(signal.Signals(number).name))


def noted_signal() -> str:
    """Name of the first signal that came before the work began to listen for itself; empty when none came."""
    return _noted[0] if _noted else ""


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Note SIGTERM and SIGUSR2 instead of dying of them; a second one of the same kind changes nothing."""
    stop = StopFlag(noted_signal())

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


@contextlib.contextmanager
def forwarded_stop_signals(processes: "Callable[[], Iterable[subprocess.Popen[str]]]") -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR2 go to the running ones of `processes()` instead of ending this process."""

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes():
            if process.poll() is None:
                process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield
        return
    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
