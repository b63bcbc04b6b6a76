"""A record of some steps by torch's profiler, for chrome://tracing and Perfetto: `profile/rank-N.json` of every rank."""

import contextlib
import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from iberlm.core.files import disk_errors, publish
from iberlm.core.progress import say
from iberlm.train.config_groups import MonitorConfig

FOLDER = "profile"
LARGE_BYTES = 16 << 20
"""A longer trace is compressed: both viewers read it so, and it shrinks to a tenth or less."""


@contextlib.contextmanager
def profiler(settings: MonitorConfig, out: Path, rank: int, *, begin: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield what is called after each step with its number, counted from 1; it records `settings.profile_steps` = [first, last].

    `begin` is the number of steps done before (a resumed run). The step before the first is run with the profiler on and
    thrown away, where there is one, since the first step under a profiler is slower. A run that ends earlier, or fails,
    leaves what was recorded until then. Without `profile_steps` nothing is imported or done.
    """
    if not settings.profile_steps:
        yield lambda step: None
        return
    first, last = settings.profile_steps
    recording = _Recording(first, last, out / FOLDER / f"rank-{rank}.json")
    recording.after(begin)
    try:
        yield recording.after
    finally:
        recording.end()


class _Recording:
    """One profile of consecutive steps."""

    def __init__(self, first: int, last: int, path: Path) -> None:
        self._first, self._last, self._path = first, last, path
        self._profile: Any = None

    def after(self, step: int) -> None:
        """Note that `step` steps are done."""
        if self._profile is not None:
            self._profile.step()
            if step >= self._last:
                self.end()
        elif max(self._first - 2, 0) <= step < self._last:
            self._begin(step)

    def _begin(self, step: int) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print a line at each start and stop
        from torch.profiler import profile, schedule

        warm = step == self._first - 2
        # without a schedule everything is recorded from the first moment on
        plan = schedule(wait=0, warmup=1, active=self._last - self._first + 1, repeat=1) if warm else None
        self._profile = profile(schedule=plan, on_trace_ready=self._save, acc_events=True)  # of all activities that the device has
        self._profile.start()

    def end(self) -> None:
        """Stop and save, where something was begun; what was saved before is kept."""
        if self._profile is not None:
            current, self._profile = self._profile, None
            self._last = 0  # begins no second time
            current.stop()

    def _save(self, profile: Any) -> None:
        with publish(self._path) as temporary:
            profile.export_chrome_trace(str(temporary))
            large = temporary.stat().st_size > LARGE_BYTES
        path = self._path
        if large:
            path = path.with_suffix(".json.gz")
            with publish(path) as temporary, self._path.open("rb") as source, gzip.open(temporary, "wb", compresslevel=5) as target:
                shutil.copyfileobj(source, target)
            with disk_errors(path):
                self._path.unlink()
        say(f"pretrain: profile of this rank: {path} (for chrome://tracing or Perfetto)")
