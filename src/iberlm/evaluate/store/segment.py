"""The files of a store: write one, find those of a model and a task, read one, tell whether one is whole."""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, publish
from iberlm.evaluate.store.schema import FORMAT, ITEM_SCHEMA, KEY, RESULT_SCHEMA, item_key

ITEMS, RESULTS = "items", "results"
SCHEMAS = {ITEMS: ITEM_SCHEMA, RESULTS: RESULT_SCHEMA}
SEVERAL = "_several"
"""Stands for the task in the name of a file that has rows of several tasks."""
_FORMAT_FIELD = b"iberlm_store_format"
_MODEL_CHARACTERS, _TASK_CHARACTERS, _HASH_CHARACTERS = 16, 80, 32
_ABANDONED_SECONDS = 3600.0
"""A temporary file of this age belongs to a process that was killed: a segment is written in seconds."""
_GROUP_ROWS = 1 << 14
"""Of a row group in a large file: what a reader of one task reads for nothing, against the time that every group costs."""
TRIES = 20
"""Of reading while files come and go."""


def write_segment(folder: Path, kind: str, table: pa.Table, *, large: bool = False) -> Path:
    """Write rows of one model as a file of the store `folder`, unless it is there; return its path.

    Reading thousands of small files takes as long as their columns take to set up: these have neither dictionaries nor zstd, which
    large ones have. Rows of large ones should be in the order of their tasks, so that a reader can skip most.
    """
    tasks = pc.unique(table["task"]).to_pylist()
    stored = table.replace_schema_metadata({**(table.schema.metadata or {}), _FORMAT_FIELD: str(FORMAT).encode()})
    sink = pa.BufferOutputStream()
    if large:
        pq.write_table(stored, sink, compression="zstd", row_group_size=_GROUP_ROWS)
    else:
        pq.write_table(stored, sink, compression="lz4", use_dictionary=False, write_statistics=["task"])
    content = sink.getvalue()
    name = f"{_task_part(tasks[0]) if len(tasks) == 1 else SEVERAL}.{_hash(content)}.parquet"
    path = folder / kind / _model_part(table["model"][0].as_py()) / name
    if not path.exists():
        with disk_errors(path), publish(path) as temporary:
            temporary.write_bytes(content)
    return path


def _hash(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]


def _model_part(model: str) -> str:
    return quote(model, safe="").replace(".", "%2E")[:_MODEL_CHARACTERS]


def _task_part(task: str) -> str:
    return quote(task, safe="").replace(".", "%2E")[:_TASK_CHARACTERS]


def segments(folder: Path, kind: str, model: str = "", tasks: Iterable[str] = ()) -> list[Path]:
    """Files that may have rows of a model and of tasks (all when empty), in a fixed order. Unfinished and damaged ones are no segments."""
    parts = {_task_part(task) for task in tasks}
    root = folder / kind
    found = []
    for place in [_model_part(model)] if model else _names(root):
        for name in _names(root / place):
            task = name.partition(".")[0]
            if name.endswith(".parquet") and task and (not parts or task in parts or task == SEVERAL):
                found.append(root / place / name)
    return found


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def stable_listing(folder: Path, kind: str, model: str, tasks: Iterable[str]) -> list[Path]:
    """The files, listed until two listings agree: one that runs beside a compaction may miss its new file and the old ones too."""
    last = segments(folder, kind, model, tasks)
    for _ in range(TRIES):
        again = segments(folder, kind, model, tasks)
        if again == last:
            break
        last = again
    return last


def read_segment(path: Path, schema: pa.Schema | None = None, tasks: Iterable[str] = ()) -> pa.Table:
    """Rows of one file in `schema` (all its own columns without one), at least those of `tasks`.

    Columns that the file lacks are null, those that `schema` lacks are left out. Raises `CorruptError` for a damaged file, `DataError`
    for one of a newer format, `FileNotFoundError` for one that is gone.
    """
    try:
        with pq.ParquetFile(path) as file:
            own = file.schema_arrow  # made anew at each access
            _check_format(path, own.metadata or {})
            groups = _groups(file, own.names, frozenset(tasks))
            columns = [name for name in schema.names if name in own.names] if schema else None
            table = file.read_row_groups(groups, columns=columns, use_threads=file.metadata.num_rows > _GROUP_ROWS)
    except (FileNotFoundError, DataError):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _corrupt(path, str(error) or type(error).__name__) from error
    return table if schema is None else _conform(path, table, schema)


def _conform(path: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return pa.Table.from_arrays(table.columns, schema=schema)
    arrays = []
    for field in schema:
        if field.name not in table.schema.names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            arrays.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise _corrupt(path, str(error) or type(error).__name__) from error
    return pa.Table.from_arrays(arrays, schema=schema)


def _groups(file: pq.ParquetFile, names: list[str], tasks: frozenset[str]) -> list[int]:
    """Row groups that may have rows of `tasks`."""
    every = list(range(file.num_row_groups))
    if not tasks or len(every) < 2:
        return every
    column = names.index("task")  # no column before it is nested, so Parquet counts alike
    found = []
    for index in every:
        statistics = file.metadata.row_group(index).column(column).statistics
        if statistics is None or not statistics.has_min_max or any(statistics.min <= task <= statistics.max for task in tasks):
            found.append(index)
    return found


def _check_format(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    found = metadata.get(_FORMAT_FIELD, b"0")
    if not found.isdigit() or int(found) > FORMAT:
        raise DataError(f"{path}: was written by a newer version of IberLM (format {found.decode('latin-1')}; this one knows {FORMAT}); update IberLM")


def _corrupt(path: Path, reason: str) -> CorruptError:
    return CorruptError(
        f"{path}: is damaged ({path.stat().st_size} bytes; {reason.strip().splitlines()[0][:200]}); copy it again from where it came from, or set it "
        f"aside and evaluate again: iberlm results check --set-aside {path.parents[2]}"
    )


def is_whole(path: Path) -> bool:
    """Whether a file's bytes are those that its name stands for; true of one that is gone, after a compaction."""
    try:
        return path.name.split(".")[-2] == _hash(path.read_bytes())
    except FileNotFoundError:
        return True


def check_segment(path: Path, *, keys: bool = False) -> None:
    """Compare a file's bytes with its name, read it, and with `keys` recompute the items' keys.

    Raises `CorruptError`, `DataError` for a newer format, and `FileNotFoundError`.
    """
    if not is_whole(path):
        read_segment(path)  # says what is wrong, where it cannot be read at all
        raise _corrupt(path, "its content is not what its name says")
    table = read_segment(path, pa.schema([ITEM_SCHEMA.field(name) for name in ("key", *KEY)]) if keys else None)
    for row in table.to_pylist() if keys else ():
        if item_key(row) != row["key"]:
            raise _corrupt(path, f"the key {str(row['key'])[:12]} of a row is not that of its columns")


def remove_abandoned(folder: Path) -> list[Path]:
    """Delete temporary files that killed processes left; return them."""
    gone = []
    for path in [folder, *(folder / kind for kind in SCHEMAS)]:
        for entry in [*path.glob(f".*{TEMPORARY_SUFFIX}*"), *(path.glob(f"*/.*{TEMPORARY_SUFFIX}*") if path != folder else ())]:
            try:
                if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                    entry.unlink()
                    gone.append(entry)
            except FileNotFoundError:  # it was not abandoned, or somebody else is cleaning
                continue
    return gone
