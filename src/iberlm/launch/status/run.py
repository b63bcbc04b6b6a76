"""How a run fares: its stages, their jobs, how far they are, why they stopped, what to do next.

Told from the run's own folder (records of submissions, manifests, starts, logs, metrics, heartbeats) and from Slurm's queue, where it
answers. Nothing is asked twice: one call of squeue a look, however many jobs there are.
"""

import contextlib
import shlex
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from iberlm.core.errors import ConfigError, CorruptError, ResourceError
from iberlm.core.manifest import FILE_NAME, Manifest, find_manifest
from iberlm.core.stage import BEGUN, shown
from iberlm.core.stopping import STOPPED as STOPPED_FILE
from iberlm.launch.job import quarantine
from iberlm.launch.records import FOLDER, JOB, JOBS, JobRecord, read_jobs
from iberlm.launch.status import evidence
from iberlm.launch.status.jobs import CANCELLED, COMPLETE, FAILED, IN_VAIN, NEVER, QUEUED, RUNNING, STOPPED, UNKNOWN, Job, Queue, judge, submitted_at

DAMAGED, UNFINISHED = "damaged", "unfinished"
"""States that a stage has and a job has not: its manifest cannot be read; begun, and nothing works on it."""

ORDER = (
    *("fetch", "extract", "annotate", "dedup", "decontaminate", "robots", "quality", "curate", "train_tokenizer", "tokenize"),
    *("pretrain", "evaluate", "finetune", "evaluate_finetuned", "report"),
)
"""Stage folders in the order of the line; others come after them."""

_LOCAL_FRESH_SECONDS = 60.0
_QUIET_SECONDS = 300.0
_SKEW_SECONDS = 5.0
"""Clocks of nodes differ by a little."""
_QUIET_STEPS = 20.0
"""A step that takes so many times the usual one, and five minutes, is worth a remark, long before the run takes itself for hung."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    folder: str
    state: str
    """complete, running, queued, never starts, stopped, cancelled, failed, unfinished, damaged or unknown."""
    why: str = ""
    """In plain words; empty where the state says it all."""
    mend: str = ""
    """What to do next; empty when there is nothing to do."""
    finished: str = ""
    """ISO 8601."""
    wall_seconds: float | None = None
    part: str = ""
    """The part of the stage that `steps` and `shards` are of, where a verb has several: annotate."""
    steps: evidence.Steps | None = None
    shards: evidence.Shards | None = None
    phase: str = ""
    """Where a training that has made no step yet is, by its heartbeats."""
    jobs: list[Job] = field(default_factory=list)
    """Newest submission of each name, in order; those that a later submission has taken the place of are left out."""
    hangs: bool = False
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """All that `iberlm status` says."""

    run_dir: str
    at: str
    """ISO 8601."""
    slurm: str
    """asked; not asked (no job was submitted); or why it does not answer."""
    stages: list[Stage]
    quarantine: dict[str, str]
    """Nodes that the run does not use any more, and why."""


def run_status(run_dir: Path, now: float | None = None) -> RunStatus:
    """How the run in a folder fares at `now` (seconds since the epoch; None: the present); of an empty folder there are no stages.

    Raises `ConfigError` where there is no such folder, `CorruptError` when the records of its jobs are damaged.
    """
    run_dir = run_dir.absolute()
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder; give that of a run, the one that `run_dir=` names")
    now = time.time() if now is None else now
    newest = {record.name: record for record in all_records(run_dir)}
    records = sorted(newest.values(), key=lambda record: record.job)
    queue = Queue(records)
    by_stage: dict[str, list[JobRecord]] = {}
    for record in records:
        by_stage.setdefault(record.stage, []).append(record)
    stages = [_submitted_stage(name, found, run_dir, queue, now) for name, found in by_stage.items()]
    theirs = {Path(stage.folder) for stage in stages} | {folder for record in records for folder in _folders(record, run_dir)}
    alone = [_local_stage(folder, now) for folder in _stage_folders(run_dir) if folder not in theirs]
    return RunStatus(
        run_dir=str(run_dir),
        at=_iso(now),
        slurm=(queue.complaint or "asked") if records else "not asked: no job was submitted",
        stages=sorted(stages + alone, key=_place),
        quarantine=quarantine.quarantined(run_dir),
    )


def all_records(run_dir: Path) -> list[JobRecord]:
    """All submissions of a run, oldest first. Raises `CorruptError` when they cannot be understood, `ResourceError` when they cannot be read."""
    path = run_dir / FOLDER / JOBS
    try:
        records = read_jobs(run_dir)
        for record in records:
            _ = record.elements, submitted_at(record), Path(record.out), [int(job) for job in [record.job, *record.after]]
    except (ValueError, TypeError) as error:
        raise CorruptError(f"{path}: not a record of jobs ({error}); mend the line, or delete it: the job itself is not touched") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror})") from error
    return records


def _submitted_stage(name: str, records: list[JobRecord], run_dir: Path, queue: Queue, now: float) -> Stage:
    last = records[-1]
    jobs = _current([judge(record, run_dir, queue, now) for record in records])
    state = _state(jobs)
    chosen = next((job for job in jobs if job.state == state), jobs[-1])
    manifest, damage = _manifest(Path(last.out))
    if state == COMPLETE and damage:
        state, why, mend = DAMAGED, damage, "the same command makes the stage again"
    elif state == COMPLETE and manifest is None and not last.array:
        state, why, mend = UNFINISHED, f"its job ended well, but {Path(last.out) / FILE_NAME} is not there (any more)", "the same command makes the stage again"
    else:
        why, mend = chosen.why, _next(state, chosen, run_dir, name)
    running = [job for job in jobs if job.state == RUNNING]
    record = next(record for record in reversed(records) if record.name == chosen.name)
    part, steps, shards = (None, evidence.steps(Path(last.out), record.goal), None) if state == COMPLETE else _progress(_folders(record, run_dir), record.goal)
    hangs, remarks = _standstill(part or Path(record.out), running[0], record, steps, now) if running else (False, [])
    failed = [
        f"{job.name}: {len(job.elements.failed)} of its elements failed: {job.why}"
        for job in jobs
        if job.elements and job.elements.failed and job is not chosen
    ]
    if hangs:
        mend = f"{_cancel(run_dir, name)}, then the same command: it goes on from what is saved"
    return Stage(
        name=name,
        folder=last.out,
        state=state,
        why=why,
        mend=mend,
        finished=manifest.finished if manifest and state == COMPLETE else "",
        wall_seconds=manifest.wall_seconds if manifest and state == COMPLETE else None,
        part=part.name if part and part != Path(last.out) else "",
        steps=steps,
        shards=shards,
        phase=_phase(part, running[0], now) if running and part and not steps else "",
        jobs=jobs,
        hangs=hangs,
        remarks=remarks + failed,
    )


def _current(jobs: list[Job]) -> list[Job]:
    """Without those that were over when a later one of the stage was submitted: what they came to is history."""

    def is_past(job: Job) -> bool:
        return bool(job.ended) and any(other.job > job.job and _epoch(other.submitted) > _epoch(job.ended) for other in jobs)

    return [job for job in jobs if job.state in (RUNNING, QUEUED, NEVER) or not is_past(job)] or jobs[-1:]


def _state(jobs: list[Job]) -> str:
    """Of a stage, from those of its jobs: the last one writes its manifest."""
    if jobs[-1].state == COMPLETE:
        return COMPLETE
    found = {job.state for job in jobs}
    return next(state for state in (RUNNING, FAILED, STOPPED, NEVER, QUEUED, UNKNOWN, CANCELLED, COMPLETE) if state in found)


def _next(state: str, job: Job, run_dir: Path, stage: str) -> str:
    """What a person can do."""
    if state == FAILED:
        mend = job.error.mend if job.error else ""
        return mend if "same command" in mend else f"{mend or 'mend that'}; then the same command submits what is missing"
    if state == STOPPED:
        return "the same command goes on from what is saved"
    if state == NEVER:
        return f"{_cancel(run_dir, stage)}, mend that, and give the same command again"
    if state == CANCELLED and not job.why.startswith(IN_VAIN):  # else that is said of the job that failed
        return "the same command submits it again"
    return ""


def _cancel(run_dir: Path, stage: str) -> str:
    return f"iberlm cancel {shlex.quote(str(shown(run_dir)))} {stage}"


def _progress(folders: list[Path], goal: int) -> tuple[Path | None, evidence.Steps | None, evidence.Shards | None]:
    """The folder that is being worked in, and how far it is: the first that has been begun and has no manifest."""
    for folder in folders:
        if (folder / BEGUN).is_file() and not (folder / FILE_NAME).is_file():
            return folder, evidence.steps(folder, goal), evidence.shards(folder)
    return None, None, None


def _phase(folder: Path, job: Job, now: float) -> str:
    beats = evidence.beats(folder, _epoch(job.started) - _SKEW_SECONDS)
    return f"no step yet: {beats.ranks} {'rank' if beats.ranks == 1 else 'ranks'} in '{beats.phase}' for {span(now - beats.at)}" if beats else ""


def _standstill(folder: Path, job: Job, record: JobRecord, steps: evidence.Steps | None, now: float) -> tuple[bool, list[str]]:
    """Whether a running job hangs, told by its log and its heartbeats together; what only one of them says is a remark."""
    written = max((time for path in job.logs if (time := evidence.modified(Path(path))) is not None), default=None)
    since = _epoch(job.started) if job.started else 0.0
    beats = evidence.beats(folder, since - _SKEW_SECONDS)
    silent = now - max(written or 0, since)
    if beats is None:
        quiet = record.goal and silent > evidence.HANG_SECONDS
        return False, [f"nothing new in the log for {span(silent)}, and there is no heartbeat to tell how far it is"] if quiet else []
    still = now - beats.at
    place = f"'{beats.phase}'" + (f" of step {beats.step}" if beats.step > 0 else "")
    limit = f"it may take {span(beats.patience)}" if beats.patience else "no limit is set"
    lost = [f"{rank} has not been heard of for {span(now - alive)}" for rank, alive in beats.alive.items() if now - alive > max(60.0, still)]
    lost = [*lost[:4], f"and {len(lost) - 4} more"] if len(lost) > 4 else lost
    if beats.patience and still > beats.patience and silent > beats.patience:
        return True, [f"it hangs: no rank has come on for {span(still)} (in {place}; {limit}), and the log was last written {span(silent)} ago", *lost]
    usual = max(_QUIET_SECONDS, _QUIET_STEPS * steps.step_seconds) if steps and steps.step_seconds and beats.phase in ("data", "step") else beats.patience
    if usual and still > usual:
        words = f"no rank has come on for {span(still)} (in {place}; {limit})"
        return False, [words + (f", and the log was last written {span(silent)} ago" if silent > usual else ", but the log is being written"), *lost]
    return False, lost


def _local_stage(folder: Path, now: float) -> Stage:
    """A stage without a job: from its folder alone."""
    name = folder.name
    manifest, damage = _manifest(folder)
    if damage:
        return Stage(name=name, folder=str(folder), state=DAMAGED, why=damage, mend="the same command makes the stage again")
    steps, shards = evidence.steps(folder), evidence.shards(folder)
    if manifest is not None:
        return Stage(name=name, folder=str(folder), state=COMPLETE, finished=manifest.finished, wall_seconds=manifest.wall_seconds, steps=steps)
    changed = evidence.changed_at(folder) or now
    if (process := evidence.worker_process(folder)) is not None:
        return Stage(name=name, folder=str(folder), state=RUNNING, why=f"process {process} on this machine", steps=steps, shards=shards)
    if now - changed < _LOCAL_FRESH_SECONDS:
        why = f"no process on this machine works in it, but it was written {span(now - changed)} ago: another machine may"
        return Stage(name=name, folder=str(folder), state=UNKNOWN, why=why, steps=steps, shards=shards)
    stopped = evidence.read_object(folder / STOPPED_FILE)
    mend = "the same command goes on from what is saved"
    if {"reason", "step"} <= stopped.keys():
        why = f"told to stop ({stopped['reason']}) at step {stopped['step']}"
        return Stage(name=name, folder=str(folder), state=STOPPED, why=why, mend=mend, steps=steps, shards=shards)
    why = f"begun, and no process on this machine works in it; last written {span(now - changed)} ago"
    return Stage(name=name, folder=str(folder), state=UNFINISHED, why=why, mend=mend, steps=steps, shards=shards)


def _stage_folders(run_dir: Path) -> list[Path]:
    try:
        found = [folder for folder in run_dir.iterdir() if (folder / BEGUN).is_file() or (folder / FILE_NAME).is_file()]
    except OSError as error:
        raise ResourceError(f"{run_dir}: cannot be read ({error.strerror})") from error
    return sorted(found)


def _folders(record: JobRecord, run_dir: Path) -> list[Path]:
    """Folders of the stages that a job works in, in order; its `out` where job.json does not say."""
    named = evidence.read_object(record.folder(run_dir) / JOB).get("folders")
    return [Path(folder) for folder in named] if isinstance(named, list) and named else [Path(record.out)]


def _manifest(folder: Path) -> tuple[Manifest | None, str]:
    try:
        return find_manifest(folder), ""
    except CorruptError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{folder / FILE_NAME}: cannot be read ({error.strerror})"


def _place(stage: Stage) -> tuple[int, int, str]:
    # by the line, and what it does not know by the order of submission
    known = ORDER.index(stage.name) if stage.name in ORDER else len(ORDER)
    return known, min((job.job for job in stage.jobs), default=0), stage.name


def span(seconds: float) -> str:
    """A time span in words: 42 s, 3 min, 2 h 5 min, 3 days 4 h."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h" if hours % 24 else f"{hours // 24} days"


def _epoch(text: str) -> float:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return 0.0


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
