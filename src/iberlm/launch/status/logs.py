"""The logs of a run's jobs: which one is meant, its last lines, and what is added to it while the job lives.

A log is read as it is on disk; Slurm is asked only whether the job still lives, and that at most every ten seconds.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.progress import say
from iberlm.core.stage import shown
from iberlm.launch.records import JobRecord
from iberlm.launch.slurm import client as slurm
from iberlm.launch.status.evidence import modified, tail_lines
from iberlm.launch.status.reasons import ErrorLines, clean, split_label
from iberlm.launch.status.run import all_records

READ_SECONDS = 1.0
ASK_SECONDS = 10.0
"""How often Slurm is asked at most whether the job lives."""
_FIRST_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which log, and which of its lines."""

    stage: str = ""
    """A stage, or the name of one job; empty: whichever was written last."""
    element: int | None = None
    rank: int | None = None
    lines: int = 50
    """The last ones; 0: all."""
    errors: bool = False
    """Only lines that say of an error."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as the reader sees it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def choose_log(run_dir: Path, wanted: Wanted) -> tuple[JobRecord, Path | None]:
    """The submission that is meant and its newest log, None before it has written any.

    Raises `ConfigError` for a stage or element that there is not, `DataError` where no job was submitted.
    """
    records = _matching(run_dir, wanted)
    logs = [
        (modified(path) or 0.0, record, path)
        for record in records
        for path in record.logs(run_dir)
        if wanted.element is None or _element(path) == wanted.element
    ]
    if not logs:
        return records[-1], None
    _, record, path = max(logs, key=lambda entry: (entry[0], entry[1].job))
    newer = [other for other in records if other.job > record.job and other.name == record.name]
    return (newer[-1], None) if newer else (record, path)


def read_log(path: Path, wanted: Wanted, end: int | None = None) -> list[str]:
    """The lines that are wanted of a log, or of its first `end` bytes, as far as it is written. Raises `ResourceError` when it cannot be read."""
    try:
        size = path.stat().st_size if end is None else end
        with path.open("rb"):
            pass
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror})") from error
    window = _FIRST_BYTES
    while True:
        read = Filter(wanted)
        kept = [line for raw in tail_lines(path, window if wanted.lines else size, end) for line in read(raw)]
        if window >= size or not wanted.lines or len(kept) >= wanted.lines:
            return kept[-wanted.lines :] if wanted.lines else kept
        window *= 4


class Filter:
    """Gives of each line what is to be shown: nothing, or the line, without control characters."""

    def __init__(self, wanted: Wanted) -> None:
        self._rank, self._errors = wanted.rank, ErrorLines() if wanted.errors else None

    def __call__(self, raw: str) -> list[str]:
        """The line, or nothing."""
        if self._errors is not None and not self._errors.keep(raw):
            return []
        line = clean(raw)
        if self._rank is None:
            return [line]
        label, rest = split_label(line)
        return [rest] if label == str(self._rank) else []


def show_log(run_dir: Path, wanted: Wanted, out: TextIO, *, follow: bool, clock: Clock | None = None) -> None:
    """Print the log that is wanted; with `follow` also what is added to it, until its job has ended. Which file it is goes to standard error."""
    record, path = choose_log(run_dir, wanted)
    if path is None and not follow:
        raise DataError(f"{record.name} (job {record.job}) has written no log yet; `iberlm status {run_dir}` says what it waits for")
    if path is not None:
        say(f"{shown(path)}")
    if not follow:
        assert path is not None
        for line in read_log(path, wanted):
            print(line, file=out)
        return
    for line in followed(run_dir, record, path, wanted, clock or Clock()):
        print(line, file=out, flush=True)


def followed(run_dir: Path, record: JobRecord, path: Path | None, wanted: Wanted, clock: Clock) -> Iterator[str]:
    """The lines of a log as they come, until its job has ended; waits for the log where there is none yet."""
    life = _Life(record, wanted.element if path is None else _element(path), clock)
    while path is None:
        lives = life.ask()
        path = choose_log(run_dir, wanted)[1]
        if path is None and not lives:
            say(f"{record.name} (job {record.job}) has left the queue and has written no log")
            return
        if path is None:
            clock.sleep(READ_SECONDS)
        else:
            say(f"{shown(path)}")
    place = _whole_lines(path)  # what is written from here on comes after it: nothing in between is lost, and no line is cut
    yield from read_log(path, wanted, place)
    read, rest = Filter(wanted), b""
    while True:
        lives = life.ask()  # before the file is read: what was written until its end is then in it
        place, data = _added(path, place)
        *lines, rest = (rest + data).split(b"\n")
        for raw in lines:
            yield from read(raw.decode("utf-8", errors="replace"))
        if not lives:
            yield from read(rest.decode("utf-8", errors="replace")) if rest else ()
            say(f"{record.name} (job {record.job}) has ended")
            return
        clock.sleep(READ_SECONDS)


class _Life:
    """Whether a job is queued or runs, by Slurm; asked at most every `ASK_SECONDS`. Where Slurm does not answer the job is taken to live."""

    def __init__(self, record: JobRecord, element: int | None, clock: Clock) -> None:
        self._record, self._element, self._clock = record, element, clock
        self._asked, self._lives, self._told = -math.inf, True, ""

    def ask(self) -> bool:
        if self._clock.now() - self._asked < ASK_SECONDS:
            return self._lives
        self._asked = self._clock.now()
        try:
            entries = slurm.queue([self._record.job])
        except ResourceError as error:
            self._tell(f"whether the job has ended is not known: {error}")
            return self._lives
        live = [entry for entry in entries if entry.is_live and (self._element is None or entry.element == self._element)]
        self._lives = bool(live)
        if live and live[0].state == "PENDING":
            self._tell(f"{self._record.name} (job {self._record.job}) waits: {slurm.explain(live[0].state, live[0].reason)}")
        return self._lives

    def _tell(self, message: str) -> None:
        if message != self._told:
            say(message)
            self._told = message


def _whole_lines(path: Path) -> int:
    """Bytes of a log to the end of its last whole line; 0 when it cannot be read."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, 2)
            while end:
                begin = max(0, end - _FIRST_BYTES)
                stream.seek(begin)
                newline = stream.read(end - begin).rfind(b"\n")
                if newline >= 0:
                    return begin + newline + 1
                end = begin
    except OSError:
        pass
    return 0


def _added(path: Path, place: int) -> tuple[int, bytes]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(place if size >= place else 0)  # it was emptied: from its beginning
            data = stream.read()
            return stream.tell(), data
    except OSError:
        return place, b""


def _matching(run_dir: Path, wanted: Wanted) -> Sequence[JobRecord]:
    records = all_records(run_dir)
    if not records:
        raise DataError(f"{run_dir}: no job was submitted from here, so there is no log; a local run says everything on its terminal")
    stages = list(dict.fromkeys([record.stage for record in records] + [record.name for record in records]))
    if wanted.stage and wanted.stage not in stages:
        raise ConfigError(f"logs: '{wanted.stage}' has no job in {run_dir}; choose among {', '.join(stages)}")
    found = [record for record in records if wanted.stage in ("", record.stage, record.name)]
    if wanted.element is not None:
        arrays = [record for record in found if wanted.element in record.elements]
        if not arrays:
            known = sorted({number for record in found for number in record.elements})
            raise ConfigError(f"logs --element: no array here has an element {wanted.element}" + (f"; there are {known[0]} to {known[-1]}" if known else ""))
        found = arrays
    return found


def _element(log: Path) -> int | None:
    """Of NAME-JOB_ELEMENT.log; None where the job is no array."""
    element = log.stem.rpartition("-")[2].partition("_")[2]
    return int(element) if element.isdigit() else None
