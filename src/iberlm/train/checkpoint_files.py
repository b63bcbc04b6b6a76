"""Checkpoints on disk: folders, their record `checkpoint.json`, checksums, and which of them are kept. No torch here.

A folder under its final name is whole: it is written as `.step-N.partial`, checksummed, flushed to disk and then renamed. One that is deleted or replaced
is renamed back first, so that a kill leaves no half of it behind either.
"""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iberlm.core.files import TEMPORARY_SUFFIX, fsync, sha256_file, sha256_json, write_json
from iberlm.train.config_groups import CheckpointConfig

RECORD = "checkpoint.json"
FORMAT = 2
"""1, without this number in the record, was a format a strategy; 2 fits all of them."""
_OWN_SUM = "sha256"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, oldest first, valid or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named for."""
    return int(path.name.partition("-")[2])


def partial(path: Path) -> Path:
    """Where a checkpoint is written before it has its name."""
    return path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")


def begin(path: Path) -> Path:
    """Make the folder that the checkpoint `path` is written into, and clear what killed writers left."""
    for left in path.parent.glob(f".step-*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(left)
    temporary = partial(path)
    temporary.mkdir(parents=True)
    return temporary


def file_entries(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files below `folder` by their relative name, each flushed to disk."""
    entries = {}
    for file in files:
        fsync(file)
        entries[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    return entries


def publish_checkpoint(path: Path, record: dict[str, Any]) -> None:
    """Give what lies in `partial(path)` its record and its name. The record carries its own checksum."""
    temporary = partial(path)
    write_json(temporary / RECORD, record | {_OWN_SUM: sha256_json(record)})
    fsync(temporary)
    if path.exists():  # a damaged one of the same step, or one made again after a return to an older one
        remove_checkpoint(path)
    temporary.replace(path)
    fsync(path.parent)


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint so that nobody ever finds a part of it under its name."""
    leaving = path.with_name(f".{path.name}.old{TEMPORARY_SUFFIX}")
    path.replace(leaving)
    fsync(path.parent)
    shutil.rmtree(leaving)


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint. Raises `ValueError` or `OSError`, with the reason, when it is not whole."""
    record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or "files" not in record:
        raise ValueError("it is no record of a checkpoint")
    if record.get("format") == FORMAT and record.pop(_OWN_SUM, None) != sha256_json(record):
        raise ValueError("its own checksum does not fit")
    return record


def problem_with_files(path: Path, files: dict[str, dict[str, Any]], rank: int = 0, world: int = 1) -> str | None:
    """What is wrong with one rank's share of a checkpoint's files; None when they are as their record says."""
    for name, entry in list(files.items())[rank::world]:
        file = path / name
        try:
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{file} has {file.stat().st_size} bytes where {RECORD} says {entry['bytes']}"
            if sha256_file(file) != entry["sha256"]:
                return f"{file} has another checksum than {RECORD} says"
        except OSError as error:
            return f"{file} cannot be read ({error})"
    return None


def apply_retention(folder: Path, newest: Path, settings: CheckpointConfig) -> None:
    """Delete the checkpoints that no setting keeps.

    Kept are the `keep_last` newest up to `newest`, multiples of `keep_every_steps`, and the `keep_best` of lowest mean bits a byte. What lies after
    `newest` was damaged or left behind by a return to an older one: it is made again, and counts for nothing meanwhile.
    """
    found = [path for path in list_checkpoints(folder) if step_of(path) <= step_of(newest)]
    kept = set(found[-settings.keep_last :])
    if settings.keep_every_steps:
        kept |= {path for path in found if step_of(path) % settings.keep_every_steps == 0}
    if settings.keep_best:
        scores = {path: score for path in found if (score := _bits_per_byte(path)) is not None}
        kept |= set(sorted(scores, key=lambda path: (scores[path], path))[: settings.keep_best])
    for path in found:
        if path not in kept:
            remove_checkpoint(path)


def _bits_per_byte(path: Path) -> float | None:
    try:
        score = read_record(path).get("bits_per_byte")
    except (OSError, ValueError):
        return None
    return float(score) if score is not None and math.isfinite(score) else None
