"""A training hook that keeps the first two starts of a job at a step until they are told to end, for faults to reach them. It needs nothing of the tests."""

import os
import signal
import time
from types import FrameType
from typing import Any

STOPS = (10, 16)
"""Steps at whose validation the first and the second start of a job stand still."""
_told: list[int] = []


def slow(context: Any) -> dict[str, float]:
    """Wait here, in the first two starts of a job and from a certain step on, until the process is told to end; half an hour at most."""
    start = int(os.environ.get("SLURM_RESTART_COUNT", "0")) if "SLURM_JOB_ID" in os.environ else len(STOPS)
    if start >= len(STOPS):
        return {}
    for number in (signal.SIGTERM, signal.SIGUSR2):
        _listen_too(number)
    until = time.monotonic() + 1800
    while context.step >= STOPS[start] and not _told and time.monotonic() < until:
        time.sleep(0.1)
    return {}


def _listen_too(number: signal.Signals) -> None:
    """Note a signal and hand it on to the training, which listens for it."""
    training = signal.getsignal(number)
    if getattr(training, "__name__", "") == "note_and_hand_on":
        return

    def note_and_hand_on(number: int, frame: FrameType | None) -> None:
        _told.append(number)
        if callable(training):
            training(number, frame)

    signal.signal(number, note_and_hand_on)
