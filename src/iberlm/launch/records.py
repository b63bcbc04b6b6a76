"""What a run folder holds of its jobs: `slurm/jobs.jsonl`, a folder a job, logs.

RUN_DIR/slurm/jobs.jsonl       a line a submission
RUN_DIR/slurm/quarantine.json  nodes that no job of the run may use, each with the reason
RUN_DIR/slurm/NAME/            job.sh, config.yaml, job.json, code.json, code.diff; what starts and ends leave: starts.jsonl, environment/, nodes/
RUN_DIR/slurm/logs/            NAME-JOB.log; NAME-JOB_ELEMENT.log of an array
"""

import dataclasses
import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.errors import CorruptError
from iberlm.core.files import disk_errors
from iberlm.core.ranks import RANKS, REPORTS
from iberlm.core.stopping import STOPPED

__all__ = [
    "RANKS",
    "REPORTS",
    "SAVES",
    "STOPPED",
    "JobRecord",
    "append_job",
    "append_line",
    "current_jobs",
    "format_array",
    "parse_array",
    "read_jobs",
    "read_lines",
]

FOLDER, JOBS, LOGS, QUARANTINE = "slurm", "jobs.jsonl", "logs", "quarantine.json"
SCRIPT, CONFIG, JOB, CODE, DIFF = "job.sh", "config.yaml", "job.json", "code.json", "code.diff"
SAVES = ("pretrain", "finetune")
"""Verbs that save when they are told to stop, and go on from there; of the others whole shards and stages are kept."""
STARTS, ENVIRONMENTS, NODES = "starts.jsonl", "environment", "nodes"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One submission, as `jobs.jsonl` has it. Of an array all elements are one submission."""

    name: str
    """Unique within the run at any time: pretrain, curate-extract, curate-extract-array. A later submission takes the place of an earlier one."""
    stage: str
    """The stage of the pipeline that it serves: curate, evaluate_finetuned, pretrain, sweep."""
    verb: str
    job: int
    """Slurm's number of the job, or of the array."""
    array: str = ""
    """What sbatch was given with --array, e.g. 0-7%4; empty: no array."""
    after: list[int] = field(default_factory=list)
    """Jobs that must succeed before."""
    cluster: str
    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    gpus_per_node: int
    minutes: int
    out: str
    """Folder that the verb writes; its manifest tells that it is complete."""
    goal: int = 0
    """Steps of a training run; 0 for other stages."""
    submitted: str
    """ISO 8601, with the offset from UTC."""

    def folder(self, run_dir: Path) -> Path:
        """Folder of the job's files."""
        return run_dir / FOLDER / self.name

    @property
    def elements(self) -> list[int]:
        """Numbers of the array's elements; none without an array."""
        return parse_array(self.array)

    def logs(self, run_dir: Path) -> list[Path]:
        """The logs that exist of this submission, elements in order."""
        folder = run_dir / FOLDER / LOGS
        if not self.array:
            return [path for path in [folder / f"{self.name}-{self.job}.log"] if path.is_file()]
        return [path for number in self.elements if (path := folder / f"{self.name}-{self.job}_{number}.log").is_file()]


def parse_array(text: str) -> list[int]:
    """Numbers of `0-3,7%2`: [0, 1, 2, 3, 7]."""
    numbers: list[int] = []
    for part in filter(None, text.partition("%")[0].split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def format_array(numbers: list[int], max_running: int = 0) -> str:
    """The shortest text for sbatch's --array: [0, 1, 2, 3, 7] -> `0-3,7`, with `%max_running` where that is not 0."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
    return f"{text}%{max_running}" if max_running and len(numbers) > 1 else text


def append_job(run_dir: Path, record: JobRecord) -> None:
    """Note a submission."""
    append_line(run_dir / FOLDER / JOBS, dataclasses.asdict(record))


def read_jobs(run_dir: Path) -> list[JobRecord]:
    """All submissions of a run, oldest first; none where nothing was submitted. Raises `CorruptError` for a line that is no record."""
    path = run_dir / FOLDER / JOBS
    return [_record(path, line) for line in read_lines(path)]


def current_jobs(run_dir: Path) -> list[JobRecord]:
    """The newest submission of each name, in the order of submission."""
    newest = {record.name: record for record in read_jobs(run_dir)}
    return sorted(newest.values(), key=lambda record: record.job)


def _record(path: Path, line: dict[str, Any]) -> JobRecord:
    try:
        return JobRecord(**line)
    except TypeError as error:
        raise CorruptError(f"{path}: not a record of a job ({error}); it was written by another version") from error


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON object as one line, in one write, so that jobs on several nodes may do it at once. A line that was cut short stays alone."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            line = b"\n" * cut + (json.dumps(value, ensure_ascii=False) + "\n").encode()
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none when it is not there. A line that was cut short, by a kill or a full disk, is passed over.

    Raises `CorruptError` for anything else that is not JSON.
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if line and not (line.startswith("{") and not line.endswith("}")):
                raise CorruptError(f"{path}:{number}: not JSON ({error})") from error
    return found
