"""Processes that do not outlive who started them, and what they used."""

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

WATTS_PER_CORE = 12.0
"""Assumed draw of one busy server core, memory and cooling included, for the energy *estimate* in manifests: a 280 W,
64-core server CPU is 4.4 W a core at the socket; memory, fans, supply losses and a PUE of 1.5 about triple it."""


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that `kill -9` of a run leaves nothing behind.

    `parent` is the process id that the parent knows of itself: it may be dead before this is called. Elsewhere (macOS)
    it does nothing: there a killed run may leave workers that end at their next read.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent != os.getppid():  # the parent died before the call
        os._exit(1)


def usable_cores() -> int:
    """Cores that this process may run on (respects taskset and Slurm's CPU binding, which `os.cpu_count` does not)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Usage:
    """CPU seconds and peak resident memory (bytes) of this process and its ended children."""

    cpu_seconds: float
    peak_memory_bytes: int

    @classmethod
    def now(cls) -> "Usage":
        """Read the counters of the operating system (`getrusage`; ru_maxrss is KiB on Linux, bytes on macOS)."""
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024
        seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        return cls(seconds, max(own.ru_maxrss, children.ru_maxrss) * unit)


def energy_estimate(cpu_seconds: float) -> dict[str, float | str]:
    """Energy of a CPU stage in watt-hours, labelled as the estimate that it is."""
    return {"watt_hours": round(cpu_seconds * WATTS_PER_CORE / 3600, 3), "method": f"estimated: CPU seconds x {WATTS_PER_CORE:g} W a core"}
