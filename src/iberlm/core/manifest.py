"""`manifest.json`: written last, so its presence means that the stage is complete.

It answers what was made, from what, with which settings and code, what was kept and dropped and why, under which
licences, and at what cost. A rerun compares `key`, a hash of all that decides the output, and skips what matches.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import sha256_file, sha256_json, write_json

FILE_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Output:
    """One file of a stage: path relative to the stage's folder, size, rows (documents, where it has them), SHA-256."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass
class Counts:
    """Documents kept by language and dropped by language and reason. Every loss is counted: read = kept + dropped."""

    kept: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def keep(self, language: str, documents: int = 1) -> None:
        """Count documents that go on."""
        self.kept[language] = self.kept.get(language, 0) + documents

    def drop(self, language: str, reason: str, documents: int = 1) -> None:
        """Count documents that end here, under a reason."""
        reasons = self.dropped.setdefault(language, {})
        reasons[reason] = reasons.get(reason, 0) + documents

    def add(self, other: "Counts") -> None:
        """Add the counts of a shard."""
        for language, documents in other.kept.items():
            self.keep(language, documents)
        for language, reasons in other.dropped.items():
            for reason, documents in reasons.items():
                self.drop(language, reason, documents)

    @property
    def read(self) -> int:
        """All documents seen: kept plus dropped."""
        return sum(self.kept.values()) + sum(sum(reasons.values()) for reasons in self.dropped.values())


def summed(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Nested dictionaries of numbers, such as the metrics of shards, added up; keys in order."""
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = summed([total.get(key, {}), value]) if isinstance(value, dict) else total.get(key, 0) + value
    return dict(sorted(total.items()))


@dataclass
class Manifest:
    """The record of one complete stage. `folder` is where it lies and is not part of the file."""

    stage: str
    key: str
    config: dict[str, Any]
    config_hash: str
    code_version: str
    inputs: list[dict[str, str]]
    outputs: list[Output]
    counts: Counts
    metrics: dict[str, Any]
    cards: dict[str, str]
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    energy: dict[str, float | str]
    finished: str
    schema_version: int = SCHEMA_VERSION
    folder: Path = field(default=Path(), compare=False)

    @property
    def content_hash(self) -> str:
        """Hash of what this stage made: its files and cards, not its times. It enters the keys of later stages."""
        return sha256_json([[asdict(output) for output in self.outputs], self.cards])

    def path(self, name: str) -> Path:
        """Absolute path of an output; raises `CorruptError` when the manifest lists no such file."""
        if all(output.path != name for output in self.outputs):
            raise CorruptError(f"{self.folder / FILE_NAME}: lists no output '{name}'")
        return self.folder / name

    def paths(self, prefix: str = "", suffix: str = "") -> list[Path]:
        """Absolute paths of the outputs whose relative path starts and ends as given, in the manifest's order."""
        return [self.folder / output.path for output in self.outputs if output.path.startswith(prefix) and output.path.endswith(suffix)]

    def write(self) -> None:
        """Publish the manifest in its folder: the last thing a stage does."""
        value = asdict(self)
        del value["folder"]
        write_json(self.folder / FILE_NAME, value)

    def check_files(self, *, checksums: bool = False) -> None:
        """Raise `CorruptError` if an output is missing or has another size (or, with `checksums`, other bytes)."""
        for output in self.outputs:
            path = self.folder / output.path
            if not path.is_file():
                raise CorruptError(f"{path}: missing, though {FILE_NAME} beside it says that it was written; run the '{self.stage}' stage again")
            if path.stat().st_size != output.bytes:
                raise CorruptError(f"{path}: {path.stat().st_size} bytes where {FILE_NAME} says {output.bytes}; run the '{self.stage}' stage again")
            if checksums and sha256_file(path) != output.sha256:
                raise CorruptError(f"{path}: its checksum is not the one in {FILE_NAME}; run the '{self.stage}' stage again")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished stage.

    Raises `DataError` when there is none (the stage has not finished) and `CorruptError` when it cannot be understood.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataError(f"{folder}: no {FILE_NAME}, so the stage that makes this folder has not finished; run it first")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        version = value["schema_version"]
        if version != SCHEMA_VERSION:
            raise CorruptError(f"{path}: schema version {version}, and this IberLM reads {SCHEMA_VERSION}")
        value["outputs"] = [Output(**output) for output in value["outputs"]]
        value["counts"] = Counts(**value["counts"])
        return Manifest(**value, folder=folder.resolve())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path}: not a manifest ({error}); delete it and run the stage again") from error


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, or None when the stage has not finished there."""
    return read_manifest(folder) if (folder / FILE_NAME).is_file() else None
