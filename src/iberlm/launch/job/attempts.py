"""What is known of one start of a job, and of those before it: job.json, Slurm's environment, starts.jsonl, progress.

A job that is requeued keeps its number and its folder, and each start adds a line to `starts.jsonl`, each end another one. A
job that Slurm requeues by itself, because a node is gone, adds no end: the next start says so. Lines:

    {"event": "start", "job", "element", "restart", "nodes", "time", "progress", "before", "refused"}
    {"event": "end", "job", "element", "restart", "status", "kind", "message", "requeue", "time", "progress", "blamed"}

`element` is null outside an array; `before` says how the last start ended; `refused` why this one did no work (empty: it did);
`blamed` is {node: reason}.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from iberlm.core.cluster import RetryConfig
from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.manifest import FILE_NAME as MANIFEST
from iberlm.core.shards import PLAN
from iberlm.core.stage import SHARDS
from iberlm.launch import records

STATE = "state.json"
"""Where a training run says how far it is; `step` of it is that of its newest checkpoint."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_WHOLE = "whole"
"""File in a checkpoint of fine-tuning that is written last."""
_NODES = re.compile(r"((?:[^,\[\]]|\[[^\]]*\])+)")
Progress = list[list[int]]
"""A list [complete, step, checkpoint, shards] for each folder of the job; of two, the larger is further."""


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """What job.json says of a job; written when it was submitted."""

    name: str
    verb: str
    stage: str
    run_dir: Path
    out: Path
    folders: list[Path]
    """Folders of stages whose progress counts."""
    cluster: str
    gpus_per_node: int
    nodes: int
    ranks: int
    minutes: int
    """Of one job; 0: not known."""
    goal: int
    """Steps of a training run; 0 for others."""
    retry: RetryConfig
    exclude: list[str]
    """Nodes that the profile never uses."""
    accelerator: str
    signal_seconds: int
    code_version: str
    pass_environment: list[str]
    """Names of variables whose values are written nowhere."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """This start of the job, as Slurm's environment has it."""

    job: int
    """Slurm's number of the job, or of the array."""
    element: int | None
    restart: int
    """How often the job was requeued before."""
    nodes: list[str]
    """Slurm's names of the allocation's nodes, in the order of ranks."""

    @property
    def label(self) -> str:
        """For names of files: 17-0, or 17_3-0 of an array."""
        return f"{self.job}{'' if self.element is None else f'_{self.element}'}-{self.restart}"


def read_job(folder: Path) -> JobFile:
    """job.json of a job's folder. Raises `CorruptError` where it is missing or not of this version."""
    path = folder / records.JOB
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        value |= {key: Path(value[key]) for key in ("run_dir", "out")} | {"folders": [Path(entry) for entry in value["folders"]]}
        value.setdefault("pass_environment", [])
        value["retry"] = RetryConfig(**value["retry"])
        return JobFile(**{entry.name: value[entry.name] for entry in dataclasses.fields(JobFile)})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"{path}: cannot be read as a job of this version ({type(error).__name__}: {error}); submit the job again") from error


def current_attempt(environment: Mapping[str, str] = os.environ) -> Attempt:
    """The start that this process belongs to. Raises `ConfigError` outside a job."""
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError("SLURM_JOB_ID is not set: this runs at the start and at the end of a Slurm job, in its script")
    element = environment.get("SLURM_ARRAY_TASK_ID")
    return Attempt(
        job=int(environment.get("SLURM_ARRAY_JOB_ID") or environment["SLURM_JOB_ID"]),
        element=int(element) if element else None,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        nodes=expand_nodes(environment.get("SLURM_JOB_NODELIST", "")),
    )


def expand_nodes(text: str) -> list[str]:
    """Names in Slurm's short form: `gs[01-02,7]r1,login` -> [gs01r1, gs02r1, gs7r1, login]. In a container there is no `scontrol show hostnames`."""
    return [name for part in _NODES.findall(text) for name in _expand(part)]


def _expand(text: str) -> Iterator[str]:
    before, bracket, rest = text.partition("[")
    if not bracket:
        yield text
        return
    inside, _, after = rest.partition("]")
    for part in inside.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for end in _expand(after):
                yield f"{before}{number:0{len(first)}d}{end}"


def measure_progress(folders: list[Path]) -> Progress:
    """How far the stages in `folders` are, from what they leave on disk."""
    return [_progress(folder) for folder in folders]


def _progress(folder: Path) -> list[int]:
    return [int((folder / MANIFEST).is_file()), _step(folder / STATE), _newest_checkpoint(folder / "checkpoints"), _shards(folder / SHARDS)]


def _step(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _newest_checkpoint(folder: Path) -> int:
    found = [int(match[1]) for path in _entries(folder) if (match := _CHECKPOINT.fullmatch(path.name)) and (path / _WHOLE).is_file()]
    return max(found, default=0)


def _shards(folder: Path) -> int:
    return sum(path.suffix == ".json" and path.name != PLAN and not path.name.startswith(".") for path in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def read_history(folder: Path, attempt: Attempt, *, this: bool = False) -> list[dict[str, Any]]:
    """Lines of starts.jsonl of this job (and element), oldest first, without those of this very start unless `this`.

    A job that was submitted anew begins a new history: who submits again has mended something, or wants to see it fail again.
    """
    mine = [line for line in records.read_lines(folder / records.STARTS) if (line["job"], line["element"]) == (attempt.job, attempt.element)]
    return [line for line in mine if line["restart"] < attempt.restart + this]


def starts_in_vain(history: list[dict[str, Any]], now: Progress) -> int:
    """How many of the last starts in a row left the run where it was. Starts that were refused (a bad node) do not count.

    For an element of an array what the other elements do is progress, too: the budget bites once they are done.
    """
    count, after = 0, now
    for line in reversed([line for line in history if line["event"] == "start" and not line["refused"]]):
        if after > line["progress"]:
            break
        count, after = count + 1, line["progress"]
    return count


def refused_in_a_row(history: list[dict[str, Any]]) -> int:
    """How many of the last starts were refused one after the other."""
    count = 0
    for line in reversed([line for line in history if line["event"] == "start"]):
        if not line["refused"]:
            break
        count += 1
    return count


def ending_of(history: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last start and its end; the end is None when the start did not come to it."""
    start = next((line for line in reversed(history) if line["event"] == "start"), None)
    if start is None:
        return None, None
    return start, next((line for line in reversed(history) if line["event"] == "end" and line["restart"] == start["restart"]), None)


def told(start: dict[str, Any], end: dict[str, Any] | None) -> str:
    """How a start ended, in one sentence."""
    if start["refused"]:
        return f"did no work: {start['refused']}"
    if end is None:
        return "ended without a word: its node failed, or Slurm or a person requeued it"
    return str(end["message"])


def retell(history: list[dict[str, Any]], limit: int = 5) -> list[str]:
    """What the last starts came to, a line each."""
    ends = {line["restart"]: line for line in history if line["event"] == "end"}
    starts = [line for line in history if line["event"] == "start"][-limit:]
    return [f"start {line['restart'] + 1} ({line['time']}, {', '.join(line['nodes'])}): {told(line, ends.get(line['restart']))}" for line in starts]


def now() -> str:
    """ISO 8601 with the offset from UTC, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
