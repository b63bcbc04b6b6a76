"""What a user sees while a stage runs: rich on a terminal, plain timestamped lines in a log file."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

PLAIN_INTERVAL_SECONDS = 10.0
"""In a log file, a progress line at most this often: a Slurm log must stay readable."""


class Advance(Protocol):
    """What `progress` yields: call it with the number of units done since the last call and an optional remark."""

    def __call__(self, units: float = 1, remark: str = "") -> None: ...


def say(message: str) -> None:
    """Print one line to standard error: styled time stamp on a terminal, ISO 8601 local time otherwise."""
    now = datetime.now()
    if sys.stderr.isatty():
        print(f"\x1b[2m{now:%H:%M:%S}\x1b[0m {message}", file=sys.stderr, flush=True)
    else:
        print(f"{now.isoformat(timespec='seconds')} {message}", file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: float, unit: str) -> Iterator[Advance]:
    """Show how far a loop of `total` units is. The last state is always shown, also when the loop ends early."""
    if sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
        return
    done, started, last, tail = 0.0, time.monotonic(), time.monotonic(), ""

    def line() -> None:
        seconds = time.monotonic() - started
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate > 0 else ""
        say(f"{label}: {done:,.0f}/{total:,.0f} {unit}{left}{tail}")

    def advance_plain(units: float = 1, remark: str = "") -> None:
        nonlocal done, last, tail
        done += units
        tail = f" · {remark}" if remark else ""
        if time.monotonic() - last >= PLAIN_INTERVAL_SECONDS:
            last = time.monotonic()
            line()

    yield advance_plain
    line()


@contextmanager
def _bar(label: str, total: float) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[remark]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, remark="")

        def advance(units: float = 1, remark: str = "") -> None:
            bars.update(task, advance=units, remark=remark)

        yield advance
