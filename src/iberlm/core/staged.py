"""Staged data sets: rows of a data set as local Parquet, with where they came from, their licence and their checksums.

    FOLDER/tasks/OWNER--NAME/CONFIG/COMMIT/SPLIT.parquet  the rows, with the data set's features
    FOLDER/tasks/OWNER--NAME/CONFIG/COMMIT/staged.json    the record, written last

Filled by `iberlm prefetch`, read by evaluation. A record stands by itself: such a folder can be copied without the rest of a bundle.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import publish, sha256_file, sha256_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa

TASKS, RECORD = "tasks", "staged.json"
FORMAT = 1
BY_HAND = "folder-"
"""A revision that begins so is no commit: the rows came from a folder, and what follows is the start of their checksum."""
_NAME = re.compile(r"[\w][\w.+-]*")
_ROW_GROUP = 10_000


@dataclass(frozen=True, kw_only=True)
class Split:
    """One file of a staged data set."""

    rows: int
    bytes: int
    sha256: str
    """Of the file."""
    content: str
    """SHA-256 over the rows: the same whichever library, in whichever version, wrote the file."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `staged.json` says."""

    dataset: str
    """OWNER/NAME on the hub."""
    config: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `datasets.load_dataset`, as JSON values; `builder` where the task names files of the data set."""
    revision: str
    """Commit, or BY_HAND and the start of a checksum."""
    pinned: bool = False
    """Whether nobody named the commit: it was the newest when it was fetched first."""
    converted: str = ""
    """Commit of the hub's own conversion to Parquet that the rows came from; empty where they came from the data set's own files."""
    splits: dict[str, Split] = field(default_factory=dict)
    licence: str = ""
    """As the catalogue of tasks says: SPDX."""
    licence_evidence: str = ""
    card_licence: list[str] = field(default_factory=list)
    """As the data set's own card says (`license:` of its README.md); empty where it says none."""
    licence_remark: str = ""
    """How the two differ; empty where they agree."""

    @property
    def by_hand(self) -> bool:
        """Whether the rows came from a folder."""
        return self.revision.startswith(BY_HAND)


def data_set_folder(root: Path, dataset: str, config: str, arguments: dict[str, Any]) -> Path:
    """Folder of all staged revisions of one configuration of a data set. Raises `ConfigError` for a name that no folder can have."""
    owner_name = dataset.replace("/", "--")
    settings = (config or "default").replace("/", "--") + (f"-{sha256_json(arguments)[:8]}" if arguments else "")
    for name in (owner_name, settings):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"'{name}' (of the data set '{dataset}') is no name for a folder: letters, digits, '.', '+', '_' and '-' only")
    return root / TASKS / owner_name / settings


def split_file(folder: Path, split: str) -> Path:
    """Parquet file of a split. Raises `ConfigError` for a slice of a split (`train[:10]`): rows are staged as they are."""
    if not _NAME.fullmatch(split):
        raise ConfigError(f"'{split}' is not the name of a split; name the whole split")
    return folder / f"{split}.parquet"


def write_split(folder: Path, split: str, table: "pa.Table") -> Split:
    """Write a split atomically, the metadata of its schema too, and read it back."""
    import pyarrow.parquet as pq

    path = split_file(folder, split)
    with publish(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)
    return Split(rows=table.num_rows, bytes=path.stat().st_size, sha256=sha256_file(path), content=content_hash(_batches(path)))


def _batches(path: Path) -> Iterable["pa.RecordBatch"]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(1000)


def content_hash(batches: Iterable["pa.RecordBatch"]) -> str:
    """SHA-256 over rows as canonical JSON, a line each; what JSON has no type for (dates, bytes) as its text."""
    digest = hashlib.sha256()
    for batch in batches:
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode("utf-8", "backslashreplace"))
            digest.update(b"\n")
    return digest.hexdigest()


def write_record(folder: Path, record: Record) -> None:
    """Write the record, atomically, after its files."""
    write_json(folder / RECORD, {"format": FORMAT, **asdict(record)})


def read_record(folder: Path) -> Record | None:
    """The record of a folder; None where there is none. Raises `CorruptError` for one that cannot be read."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if (version := value.pop("format")) != FORMAT:
            raise CorruptError(f"{path}: format {version}, {FORMAT} was expected; it is of another version of IberLM")
        return Record(**value | {"splits": {name: Split(**entry) for name, entry in value["splits"].items()}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path}: not the record of a staged data set ({error}); delete its folder and run `iberlm prefetch` again") from error


def record_problems(folder: Path, record: Record, splits: Iterable[str], *, checksums: bool) -> list[str]:
    """What of `splits` is missing or has another size, and with `checksums` also what has other content."""
    found = []
    for split in splits:
        path, entry = split_file(folder, split), record.splits.get(split)
        if entry is None:
            found.append(f"{folder} has no split '{split}', only {', '.join(record.splits)}")
        elif not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != entry.bytes:
            found.append(f"{path} has {path.stat().st_size:,} bytes, not {entry.bytes:,}")
        elif checksums and sha256_file(path) != entry.sha256:
            found.append(f"{path} is damaged: its SHA-256 is another one than when it was gathered")
    return found


def find_records(root: Path, dataset: str, config: str, arguments: dict[str, Any]) -> list[tuple[Path, Record]]:
    """All staged revisions of a configuration, by name of the folder."""
    folders = sorted(path for path in data_set_folder(root, dataset, config, arguments).glob("*") if path.is_dir())
    return [(folder, record) for folder in folders if (record := read_record(folder)) is not None]


def choose_record(found: list[tuple[Path, Record]], revision: str) -> tuple[Path, Record] | None:
    """The revision that is meant: the commit that is named, else the one that was pinned, else the only one from the hub, else rows staged by hand.

    Rows staged by hand also answer for a named commit that is not there: their record says what they are.
    """
    of_hub = [entry for entry in found if not entry[1].by_hand]
    by_hand = [entry for entry in found if entry[1].by_hand]
    if revision:
        return next((entry for entry in of_hub if entry[1].revision == revision), by_hand[0] if by_hand else None)
    pinned = [entry for entry in of_hub if entry[1].pinned]
    return next(iter(pinned or of_hub[:1] or by_hand), None)
