"""What the folder of a stage tells of its work, without its code: steps, shards, heartbeats, who holds its lock, when it last changed.

Everything here only looks. Files may be written at the same moment, may be of another version or damaged: what cannot be understood is
left out, never guessed.
"""

import contextlib
import json
import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.shards import PLAN
from iberlm.core.stage import LOCK, SHARDS

METRICS, STATE, FROZEN, HEARTBEATS = "metrics.jsonl", "state.json", "frozen.json", "heartbeats"
HANG_SECONDS, PATIENCE = 1800.0, 10.0
"""As in training: how long a step may take where the run does not say, and how many times longer anything else may."""

_TAIL_BYTES = 64 * 1024
_RATE_STEPS = 50
"""Steps whose speed is told: enough to even out, few enough to show what is now."""
_CHECKPOINT = re.compile(r"(?:step|checkpoint)-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How far a training is."""

    step: int
    goal: int
    """Steps of the whole run; 0: not known."""
    loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    seconds_left: float | None
    """Of steps alone; validation and checkpoints come on top."""
    step_seconds: float | None
    checkpoint: int | None
    """Step of the newest whole checkpoint."""
    skipped: int
    rollbacks: int


@dataclass(frozen=True, kw_only=True)
class Shards:
    """How far a sharded stage is, in the map that it does now."""

    label: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Beats:
    """What the ranks' heartbeats say: the newest progress of all, and who is not heard of."""

    at: float
    """When the rank that is furthest last came on, in seconds since the epoch."""
    step: int
    phase: str
    patience: float
    """Seconds that it may stay there before the run ends itself; 0: for ever."""
    ranks: int
    alive: dict[str, float]
    """When the process of each rank was last heard of, by `rank N on HOST`."""


def tail_lines(path: Path, max_bytes: int, end: int | None = None) -> list[str]:
    """The last lines of a file, or of its first `end` bytes, at most `max_bytes`, the first of them whole; none when it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END) if end is None else end
            begin = max(0, size - max_bytes)
            stream.seek(begin)
            data = stream.read() if end is None else stream.read(size - begin)
    except OSError:
        return []
    lines = data.decode("utf-8", errors="replace").split("\n")
    lines = lines[1:] if size > max_bytes else lines
    return lines[:-1] if lines and not lines[-1] else lines


def tail_objects(path: Path) -> list[dict[str, Any]]:
    """The objects at the end of a file of JSON lines; a line that is none, such as one being written, is left out."""
    found: list[dict[str, Any]] = []
    for line in tail_lines(path, _TAIL_BYTES):
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def modified(path: Path) -> float | None:
    """When a file was last written, in seconds since the epoch; None when it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def steps(folder: Path, goal: int = 0) -> Steps | None:
    """How far the training in `folder` is; None when it has made no step."""
    lines = [line for line in tail_objects(folder / METRICS) if isinstance(line.get("step"), int)]
    if not lines:
        return None
    last, goal = lines[-1], goal or _planned_steps(folder)
    seconds, rate = _median(lines, "seconds"), _median(lines, "tokens_per_second")
    state = read_object(folder / STATE)
    return Steps(
        step=last["step"],
        goal=goal,
        loss=_number(last.get("loss")),
        tokens_per_second=rate,
        mfu=_median(lines, "mfu"),
        seconds_left=max(0, goal - last["step"]) * seconds if seconds is not None and goal else None,
        step_seconds=seconds,
        checkpoint=_checkpoint(folder),
        skipped=int(_number(state.get("skipped_steps")) or 0),
        rollbacks=int(_number(state.get("rollbacks")) or 0),
    )


def shards(folder: Path) -> Shards | None:
    """How far the sharded stage in `folder` is; None when it is not in a map of shards."""
    plan = read_object(folder / SHARDS / PLAN)
    names = plan.get("shards")
    if not isinstance(names, list):
        return None
    there = {path.name for path in _entries(folder / SHARDS)}
    return Shards(label=str(plan.get("label", "")), done=sum(f"{name}.json" in there for name in names), total=len(names))


def beats(folder: Path, since: float = 0) -> Beats | None:
    """The heartbeats in the folder of a training that were written after `since` (an earlier start's may still lie there); None without any."""
    found = [beat for path in (folder / HEARTBEATS).glob("rank-*.json") if (beat := _beat(path)) and beat["alive"] >= since]
    if not found:
        return None
    newest = max(found, key=lambda beat: float(beat["at"]))
    hang = _number(_settings(folder, "faults").get("hang_seconds"))
    hang = HANG_SECONDS if hang is None else hang
    short = newest["turn"] > 1 and newest["phase"] in ("data", "step")
    return Beats(
        at=newest["at"],
        step=newest["step"],
        phase=newest["phase"],
        patience=hang if short else PATIENCE * hang,
        ranks=len(found),
        alive={f"rank {beat['rank']} on {beat['host']}": beat["alive"] for beat in sorted(found, key=lambda beat: int(beat["rank"]))},
    )


def worker_process(folder: Path) -> int | None:
    """Number of the process on this machine that works in a stage's folder; None when there is none, or another machine has it.

    Read from the kernel's list of locks: trying the lock would stop a stage that begins at that moment.
    """
    try:
        found = (folder / LOCK).stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 1234 08:01:131090 0 EOF
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(found.st_ino) and _has_open(int(words[4]), folder / LOCK):
            return int(words[4])
    return None


def changed_at(folder: Path) -> float | None:
    """When anything directly in a stage's folder, its shards or its heartbeats was last written; None for an empty folder."""
    times = [modified(path) for place in (folder, folder / SHARDS, folder / HEARTBEATS) for path in _entries(place) if path.name != LOCK]
    return max((time for time in times if time is not None), default=None)


def _entries(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []


def _has_open(process: int, path: Path) -> bool:
    # numbers of files are unique on one file system only: another file's lock may have this one's number
    try:
        return any(link.samefile(path) for link in Path(f"/proc/{process}/fd").iterdir() if link.exists())
    except OSError:  # somebody else's process: the number has to do
        return Path(f"/proc/{process}").exists()


def _beat(path: Path) -> dict[str, Any] | None:
    for _ in range(3):  # it is written over in place, perhaps at this moment
        beat = read_object(path)
        whole = all(isinstance(beat.get(key), int | float) for key in ("rank", "turn", "step", "at", "alive"))
        if whole and isinstance(beat.get("phase"), str) and isinstance(beat.get("host"), str):
            return beat
    return None


def _planned_steps(folder: Path) -> int:
    config = _settings(folder)
    wanted, tokens, batch = (_number(config.get(key)) or 0 for key in ("steps", "tokens_total", "global_batch_tokens"))
    return int(wanted or (tokens // batch if batch else 0))


def _settings(folder: Path, *groups: str) -> dict[str, Any]:
    """Settings of a training, or a group of them; none where there are none."""
    value: Any = read_object(folder / FROZEN)
    for key in ("config", *groups):
        value = value.get(key)
        if not isinstance(value, dict):
            return {}
    return dict(value)


def _checkpoint(folder: Path) -> int | None:
    found = [_CHECKPOINT.fullmatch(path.name) for path in _entries(folder / "checkpoints")]
    return max((int(match[1]) for match in found if match), default=None)


def _median(lines: list[dict[str, Any]], key: str) -> float | None:
    # the median: the first step after a start compiles, and says nothing of the next thousand
    values = [value for line in lines[-_RATE_STEPS:] if (value := _number(line.get(key))) is not None]
    return statistics.median(values) if values else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
