"""How one submission fares: judged by Slurm's queue while it is there, and after that by what it left, its starts, its log, its manifest.

A job that the queue does not know any more says nothing by its number: it may have ended well, have failed, or have been cancelled
before it began. So numbers alone are never believed.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, ResourceError
from iberlm.core.manifest import FILE_NAME, Manifest, find_manifest
from iberlm.launch.job import attempts
from iberlm.launch.records import JOB, STARTS, JobRecord, read_lines
from iberlm.launch.slurm import client as slurm
from iberlm.launch.slurm.words import FINISHED
from iberlm.launch.status.evidence import modified, read_object
from iberlm.launch.status.reasons import Reason, explain_status, reason_of, reasons_by_start

COMPLETE, RUNNING, QUEUED, NEVER, STOPPED, CANCELLED, FAILED, UNKNOWN = (
    "complete",
    "running",
    "queued",
    "never starts",
    "stopped",
    "cancelled",
    "failed",
    "unknown",
)
LIVE = (RUNNING, QUEUED, NEVER)
"""States in which Slurm has the job in its queue."""

_FRESH_SECONDS = 120.0
"""Where Slurm does not answer, a log that was written so lately tells that the job runs."""
_STOPPED_KINDS = ("limit", "node", "preempted", "ended", "exit")
"""What `launch.job.end` calls ends that are no failures."""
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
"""Slurm's states of jobs that have no nodes."""
_EXIT_FILE = "asks the run to stop"
"""In what `launch.job.start` writes when an `exit` file keeps it from beginning."""
_COMMON_FIELDS = {"job", "element", "restart", "time"}
_FIELDS = {"start": _COMMON_FIELDS | {"nodes", "refused"}, "end": _COMMON_FIELDS | {"status", "message", "kind"}}
"""What is read of a line of starts.jsonl, by event."""
_NO_LIMIT = ("UNLIMITED", "NOT_SET", "INVALID")
IN_VAIN = "was cancelled: it waited for"
"""How the reason of a job begins that Slurm cancelled because another failed."""
_NAMED = 3
"""Failed elements of an array whose reasons are told."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a job, or of an element of an array."""

    number: int
    """From 1."""
    element: int | None
    time: str
    nodes: list[str]
    ended: str
    """How it ended, in plain words; empty while it runs."""


@dataclass(frozen=True, kw_only=True)
class Elements:
    """The elements of an array, by number."""

    complete: list[int]
    running: list[int]
    queued: list[int]
    failed: list[int]
    """Those that failed, were stopped or cancelled, or of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One submission."""

    name: str
    job: int
    array: str
    state: str
    """One of the words above."""
    why: str = ""
    """Why it is in that state, in plain words."""
    submitted: str
    started: str = ""
    """Of its last start, ISO 8601."""
    nodes: str = ""
    """As Slurm writes them: node[1-2]."""
    elapsed: str = ""
    """Of its last start, as Slurm writes it."""
    time_left: str = ""
    """Until its time limit, as Slurm writes it."""
    expected: str = ""
    """When Slurm expects to start it, or may start it at the earliest; ISO 8601."""
    ended: str = ""
    elements: Elements | None = None
    starts: list[Start] = field(default_factory=list)
    """Of this submission, oldest first; of an array those of elements that began more than once."""
    requeues: int = 0
    again: bool = False
    """It (of an array, an element that waits) has begun before, and waits to begin again."""
    error: Reason | None = None
    logs: list[str] = field(default_factory=list)
    """The log; of an array those of the elements that failed, or else the newest one."""


class Queue:
    """What Slurm says of the jobs of a run: its queue, asked once, and its accounting, asked once and only where nothing else tells."""

    def __init__(self, records: Sequence[JobRecord]) -> None:
        self._numbers = [record.job for record in records]
        self._labels = {record.job: f"{record.name} ({record.job})" for record in records}
        self._accounted: dict[tuple[int, int | None], slurm.Accounted] | None = None
        self.complaint = ""
        """Why Slurm does not answer; empty when it does."""
        self._jobs: dict[int, list[slurm.QueuedJob]] = {}
        try:
            for entry in slurm.queue(self._numbers) if self._numbers else ():
                self._jobs.setdefault(entry.job, []).append(entry)
        except (ConfigError, ResourceError) as error:
            self.complaint = str(error)

    def of(self, record: JobRecord) -> list[slurm.QueuedJob]:
        """Entries of a submission: one, or one for each element; none when Slurm does not know it any more."""
        return self._jobs.get(record.job, [])

    def names(self, jobs: Sequence[int]) -> str:
        """Jobs as messages name them."""
        return ", ".join(self._labels.get(job, f"job {job}") for job in jobs)

    def accounted(self, record: JobRecord, element: int | None) -> "slurm.Accounted | None":
        """What the accounting has of a job or an element; None where there is none."""
        if self._accounted is None:
            found = slurm.accounting([number for number in self._numbers if number not in self._jobs]) or {}
            self._accounted = {(entry.job, entry.element): entry for entries in found.values() for entry in entries}
        return self._accounted.get((record.job, element))


class _Reasons:
    """Reads the ends of logs for reasons, of the first few jobs only: an array of a thousand elements may have failed as one."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def of(self, log: Path | None) -> Reason | None:
        """Why the job of a log ended; None when the log does not say, or enough have been read."""
        if log is None or self._left == 0:
            return None
        self._left -= 1
        return reason_of(log)

    def by_start(self, log: Path | None) -> dict[int, Reason]:
        """Why each start in a log ended, by number."""
        if log is None or self._left == 0:
            return {}
        self._left -= 1
        return reasons_by_start(log)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """All that is known of a job, or of one element of an array."""

    record: JobRecord
    element: int | None
    entry: "slurm.QueuedJob | None"
    """What Slurm's queue has of it."""
    history: list[dict[str, Any]]
    """What its starts and ends left."""
    log: Path | None
    manifest: Manifest | None
    """That of its work."""


def judge(record: JobRecord, run_dir: Path, queue: Queue, now: float) -> Job:
    """The state of a submission."""
    history = _history(record.folder(run_dir), record)
    if record.array:
        return _judge_array(record, run_dir, queue, history, now)
    entry, log = next(iter(queue.of(record)), None), next(iter(record.logs(run_dir)), None)
    manifest = _manifest_of(Path(record.out), record, history)
    return _judge_one(_Case(record=record, element=None, entry=entry, history=history, log=log, manifest=manifest), queue, _Reasons(2), now)


def submitted_at(record: JobRecord) -> float:
    """When a job was submitted, in seconds since the epoch."""
    return datetime.fromisoformat(record.submitted).timestamp()


def _judge_one(case: _Case, queue: Queue, reasons: _Reasons, now: float) -> Job:
    """Of a job without an array, or of one element."""
    record, entry = case.record, case.entry
    again = any(line["restart"] > 0 for line in case.history)
    running = entry is not None and entry.is_live and entry.state not in _WAITING
    starts = _starts(case.history, reasons.by_start(case.log) if again else {}, running=running)
    common: dict[str, Any] = {"name": record.name, "job": record.job, "array": record.array, "submitted": record.submitted, "starts": starts}
    common |= {"requeues": max(0, len(starts) - 1), "logs": [str(case.log)] if case.log else []}
    if entry is not None and entry.is_live:
        return Job(**common, **_live(record, entry, queue), again=bool(starts) and not running)
    start, end = attempts.ending_of(case.history)
    if case.manifest is not None:
        return Job(**common, state=COMPLETE, ended=case.manifest.finished)
    if end is not None:
        return Job(**common, **_ended(case, end, reasons))
    if start is not None and start["refused"]:
        return Job(**common, state=STOPPED if _EXIT_FILE in start["refused"] else FAILED, why=start["refused"], ended=start["time"])
    if (over := entry or queue.accounted(record, case.element)) is not None and over.state in FINISHED:
        return Job(**common, **_over(case, over, start, queue, reasons))
    if queue.complaint:
        return Job(**common, **_unasked(case, start, now))
    return Job(**common, **_forgotten(case, start, reasons))


def _live(record: JobRecord, entry: "slurm.QueuedJob", queue: Queue) -> dict[str, Any]:
    words = slurm.explain(entry.state, entry.reason)
    if entry.reason == "Dependency" and record.after:
        words = f"waits for {queue.names(record.after)}"
    if entry.state in _WAITING:
        return {"state": NEVER if slurm.never_starts(entry.reason) else QUEUED, "why": words, "expected": entry.started}
    left = "" if entry.time_left in _NO_LIMIT else entry.time_left
    return {"state": RUNNING, "why": words, "started": entry.started, "nodes": entry.nodes, "elapsed": entry.time_used, "time_left": left}


def _ended(case: _Case, end: dict[str, Any], reasons: _Reasons) -> dict[str, Any]:
    """By the word that it left at its end."""
    status, message, ended = int(end["status"]), str(end["message"]), {"ended": end["time"]}
    if status == 0:
        return {"state": COMPLETE, **ended}
    if case.entry is not None and case.entry.state == "CANCELLED":
        return {"state": CANCELLED, "why": "was cancelled, while it ran" if end["kind"] == "ended" else f"was cancelled; before, {message}", **ended}
    if end["kind"] in _STOPPED_KINDS:
        return {"state": STOPPED, "why": message, **ended}
    reason = reasons.of(case.log)
    why = reason.text if reason else f"{message} ({explain_status(status)})"
    return {"state": FAILED, "why": f"{why}; {message}" if reason and end["kind"] == "given-up" else why, "error": reason, **ended}


def _over(case: _Case, over: "slurm.QueuedJob | slurm.Accounted", start: dict[str, Any] | None, queue: Queue, reasons: _Reasons) -> dict[str, Any]:
    """By Slurm's word on a job that is over, where it left none itself."""
    slurms, ended = ("", over.ended) if isinstance(over, slurm.Accounted) else (over.reason, over.ends)
    words = slurm.explain(over.state, slurms)
    if over.state == "COMPLETED":
        return {"state": COMPLETE, "ended": ended}
    if over.state == "CANCELLED":
        if slurms == "DependencyNeverSatisfied" and case.record.after:
            words = f"{IN_VAIN} {queue.names(case.record.after)}, which did not succeed"
        return {"state": CANCELLED, "why": words if start is None else f"{words}, while it ran", "ended": ended}
    found = reasons.of(case.log)
    return {"state": FAILED, "why": found.text if found else words or f"Slurm says {over.state}", "error": found, "ended": ended}


def _unasked(case: _Case, start: dict[str, Any] | None, now: float) -> dict[str, Any]:
    """Where Slurm does not answer and the job left no word of its end."""
    written = modified(case.log) if case.log else None
    if start is None or written is None:
        return {"state": UNKNOWN, "why": "was submitted; whether it waits, runs or was cancelled only Slurm knows"}
    where = {"started": start["time"], "nodes": ",".join(start["nodes"])}
    if now - written < _FRESH_SECONDS:
        return {"state": RUNNING, "why": "by its log, which is being written", **where}
    return {"state": UNKNOWN, "why": "began, and left no word of its end; whether it runs only Slurm knows", **where}


def _forgotten(case: _Case, start: dict[str, Any] | None, reasons: _Reasons) -> dict[str, Any]:
    """Slurm does not know it any more, and no word of its end was written."""
    if start is None and case.log is None:
        return {"state": CANCELLED, "why": "it left the queue without having begun: cancelled, or what it waited for failed"}
    reason = reasons.of(case.log)
    why = reason.text if reason else "it ended without a word: its node failed, or somebody cancelled it"
    return {"state": FAILED, "why": why, "error": reason, "ended": _iso(modified(case.log)) if case.log else ""}


def _judge_array(record: JobRecord, run_dir: Path, queue: Queue, history: list[dict[str, Any]], now: float) -> Job:
    entries = {entry.element: entry for entry in queue.of(record)}
    log_of = {int(re.sub(r".*_", "", path.stem)): path for path in record.logs(run_dir)}
    whole = _manifest_of(Path(record.out), record, history)
    sorted_by: dict[str, list[int]] = {}
    jobs: dict[int, Job] = {}
    reasons = _Reasons(2 * _NAMED)
    for number in record.elements:
        own = _manifest_of(_out_of(record, run_dir, number), record, history, element=number) or whole
        mine = [line for line in history if line["element"] == number]
        case = _Case(record=record, element=number, entry=entries.get(number), history=mine, log=log_of.get(number), manifest=own)
        jobs[number] = found = _judge_one(case, queue, reasons, now)
        sorted_by.setdefault(found.state, []).append(number)
    waiting = sorted_by.get(QUEUED, []) + sorted_by.get(NEVER, [])
    bad = sorted(number for state in (FAILED, STOPPED, CANCELLED, UNKNOWN) for number in sorted_by.get(state, []))
    elements = Elements(complete=sorted_by.get(COMPLETE, []), running=sorted_by.get(RUNNING, []), queued=sorted(waiting), failed=bad)
    state = next((state for state in (RUNNING, QUEUED, NEVER, FAILED, STOPPED, CANCELLED, UNKNOWN) if sorted_by.get(state)), COMPLETE)
    first = jobs[sorted_by[state][0]] if sorted_by.get(state) else None
    told = [f"element {number}: {jobs[number].why}" for number in bad[:_NAMED] if jobs[number].why]
    told += [f"and {len(bad) - _NAMED} more"] if len(bad) > _NAMED else []
    waits = [first.why] if first and state in LIVE and first.why else []
    again = [start for number in record.elements for start in jobs[number].starts if len(jobs[number].starts) > 1]
    errors = [found.error for number in bad if (found := jobs[number]).error is not None]
    return Job(
        name=record.name,
        job=record.job,
        array=record.array,
        state=state,
        why="; ".join(waits + told),
        submitted=record.submitted,
        started=min((found.started for found in jobs.values() if found.started), default=""),
        nodes=",".join(dict.fromkeys(found.nodes for found in jobs.values() if found.nodes)),
        expected=first.expected if first else "",
        ended=max((found.ended for found in jobs.values() if found.ended), default=""),
        elements=elements,
        starts=again,
        requeues=sum(found.requeues for found in jobs.values()),
        again=any(jobs[number].again for number in waiting),
        error=errors[0] if errors else None,
        logs=[str(log_of[number]) for number in bad if number in log_of] or [str(path) for path in _newest(list(log_of.values()))],
    )


def _history(folder: Path, record: JobRecord) -> list[dict[str, Any]]:
    """What starts and ends of this submission left; the elements of a sweep have folders of their own."""
    lines = [line for path in [folder / STARTS, *sorted(folder.glob(f"*/{STARTS}"))] for line in _lines(path)]
    return [line for line in lines if line["job"] == record.job]


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        found = read_lines(path)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: is not text ({error}); delete it: only the history of the job's starts is lost") from error
    for line in found:
        if not isinstance(line, dict) or not _FIELDS.get(line.get("event", ""), {""}) <= line.keys():
            raise CorruptError(f"{path}: holds a line that is no start and no end of a job ({str(line)[:80]}); it was written by another version")
    return found


def _starts(history: Sequence[dict[str, Any]], reasons: dict[int, Reason], *, running: bool) -> list[Start]:
    begun = [line for line in history if line["event"] == "start"]
    ends = {line["restart"]: line for line in history if line["event"] == "end"}
    return [
        Start(
            number=int(line["restart"]) + 1,
            element=line["element"],
            time=line["time"],
            nodes=list(line["nodes"]),
            ended=""
            if running and line is begun[-1] and line["restart"] not in ends
            else _told(line, ends.get(line["restart"]), reasons.get(line["restart"] + 1)),
        )
        for line in begun
    ]


def _told(start: dict[str, Any], end: dict[str, Any] | None, reason: Reason | None) -> str:
    """How a start ended: what it said itself, and what its log says of a start that failed."""
    said = attempts.told(start, end)
    if reason is None or start["refused"] or (end is not None and end["status"] == 0):
        return said
    if end is None:
        return reason.text
    return said if end["kind"] in _STOPPED_KINDS else f"{reason.text}; {said}"


def _manifest_of(out: Path | None, record: JobRecord, history: Sequence[dict[str, Any]], *, element: int | None = None) -> Manifest | None:
    """The manifest that tells that this submission is complete: one that it made, or found and let stand."""
    if out is None:
        return None
    with contextlib.suppress(CorruptError, OSError, ValueError):
        manifest = find_manifest(out)
        if manifest is None:
            return None
        made = datetime.fromisoformat(manifest.finished).timestamp()
        skipped = any(line["event"] == "end" and line["element"] == element and line["status"] == 0 for line in history)
        return manifest if made >= submitted_at(record) - 1 or skipped else None
    return None


def _out_of(record: JobRecord, run_dir: Path, element: int) -> Path | None:
    """The folder that an element of a sweep writes by itself."""
    out = read_object(record.folder(run_dir) / str(element) / JOB).get("out")
    return Path(out) if isinstance(out, str) and (Path(out) / FILE_NAME).is_file() else None


def _newest(paths: list[Path]) -> list[Path]:
    return [max(paths, key=lambda path: modified(path) or 0)] if paths else []


def _iso(time: float | None) -> str:
    return "" if time is None else datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds")
