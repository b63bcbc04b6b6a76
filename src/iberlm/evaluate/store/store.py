"""The result store: a folder of small Parquet files that are written once, whole, and never changed.

    STORE/store.json                      {"format": 1}
    STORE/items/MODEL/TASK.HASH.parquet   a row an item; MODEL is the beginning of the model's key
    STORE/results/MODEL/TASK.HASH.parquet a row a task, group and metric
    STORE/journal/                        evaluations that are not finished

HASH is the SHA-256 of the file's bytes. So files of several writers never meet under one name unless they are the same, a store is
merged with another one by copying, and a damaged file is known by its name. Model and task stand in the path only for speed: what
counts is in the rows. The same rows may stand in several files; which of them is true is decided when they are read, by the rows alone.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.errors import CorruptError, DataError, IberlmError
from iberlm.core.files import disk_errors, write_json
from iberlm.core.progress import say
from iberlm.evaluate.store.journal import FOLDER as JOURNAL
from iberlm.evaluate.store.order import ITEM_IDENTITY, UndecidedError, earliest, newest
from iberlm.evaluate.store.schema import FORMAT, ITEM_SCHEMA, KEY, RESULT_KEY, RESULT_SCHEMA, item_key
from iberlm.evaluate.store.segment import (
    ITEMS,
    RESULTS,
    SCHEMAS,
    TRIES,
    check_segment,
    is_whole,
    read_segment,
    remove_abandoned,
    segments,
    stable_listing,
    write_segment,
)

MARK = "store.json"
DAMAGED_SUFFIX = ".damaged"
IDENTITY = {ITEMS: ITEM_IDENTITY, RESULTS: RESULT_KEY}
"""Rows that agree in these are about the same thing."""
_READERS = 4
"""Threads that read files: Arrow decodes while Python goes on; more of them mostly wait for each other."""
_NEEDED = {ITEMS: ("model", "task", "key", "item"), RESULTS: ("model", "task", "metric")}


class Store:
    """Item rows and result rows of any number of models; several processes may read and append at once."""

    def __init__(self, folder: Path) -> None:
        """Open a store, or name one that the first `append` will create.

        Raises `DataError` for a folder with other files in it, and for a store that a newer version of IberLM wrote; `CorruptError`
        when its mark cannot be read.
        """
        self.folder = Path(folder)
        self._cleaned = False
        _check_mark(self.folder)

    def append(self, items: Iterable[Mapping[str, Any]] = (), results: Iterable[Mapping[str, Any]] = ()) -> None:
        """Write rows; on return they are on the disk. A file holds the rows of one model and task.

        Rows need only the columns that they have: the rest is null. An item's `key` is computed where it is missing. Raises
        `ValueError` for a column that the schema does not know, or a row without model or task, and `ResourceError` when the disk is
        full or read-only.
        """
        tables = [(RESULTS, _table(RESULTS, list(results)))]
        # results last: who finds a task's results finds its items
        tables.insert(0, (ITEMS, _table(ITEMS, [_with_key(row) for row in items])))
        self._create()
        for kind, table in tables:
            for part in _by_task(table):
                write_segment(self.folder, kind, part)

    def items(self, *, model: str = "", tasks: Iterable[str] = (), keys: Iterable[str] | None = None, columns: Iterable[str] = ()) -> pa.Table:
        """Item rows, one a (item, task key, key): the earliest, whatever the order of the files. In the order of model, task, item, task key, key.

        Empty `model` or `tasks` mean all, `keys=None` too; `columns` (in the order of the schema; all when empty) saves time and memory
        where prompts are not needed. Raises `CorruptError` for a damaged file, `DataError` for one that a newer version wrote.
        """
        wanted = list(ITEM_SCHEMA.names) if not (chosen := list(columns)) else [name for name in ITEM_SCHEMA.names if name in chosen]
        only = set(keys) if keys is not None else None
        return self._settled(ITEMS, model, frozenset(tasks), only, wanted, earliest)

    def results(self, *, model: str = "", tasks: Iterable[str] = ()) -> pa.Table:
        """Result rows, of those that agree in `RESULT_KEY` the newest, in the order of that key. Raises as `items`."""
        return self._settled(RESULTS, model, frozenset(tasks), None, list(RESULT_SCHEMA.names), newest)

    def answered(self, model: str, task: str) -> list[dict[str, Any]]:
        """Item rows of one task, under all of its keys, the earliest answers first."""
        return sorted(self.items(model=model, tasks=[task]).to_pylist(), key=lambda row: row["created"] or 0.0)

    def check(self) -> Iterator[tuple[Path, IberlmError]]:
        """Read every file, compare its bytes with its name and recompute every key: the files that are not whole, and why."""
        for kind in SCHEMAS:
            for path in segments(self.folder, kind):
                try:
                    check_segment(path, keys=kind == ITEMS)
                except FileNotFoundError:  # compacted meanwhile
                    continue
                except (CorruptError, DataError) as error:
                    yield path, error

    def set_aside_damaged(self, *, model: str = "", thorough: bool = False) -> list[Path]:
        """Rename damaged files to *.damaged, with a message each, and return their new names; what they held is computed again.

        With `model` only items of that model are looked through: those of the others are not read by its evaluation.

        Damaged is a file whose bytes are not those that its name stands for: a gigabyte takes about a second to look through.
        `thorough` takes all that `check` finds, but for files of a newer format, which are not damaged.
        """
        if thorough:
            damaged = [path for path, error in self.check() if isinstance(error, CorruptError)]
        else:
            damaged = [path for kind in SCHEMAS for path in segments(self.folder, kind, model if kind == ITEMS else "") if not is_whole(path)]
        for path in damaged:
            with disk_errors(path):
                path.replace(path.with_name(path.name + DAMAGED_SUFFIX))
            say(f"{path.relative_to(self.folder)} is damaged; set aside as {path.name}{DAMAGED_SUFFIX}")
        return [path.with_name(path.name + DAMAGED_SUFFIX) for path in damaged]

    def _settled(
        self, kind: str, model: str, tasks: frozenset[str], keys: set[str] | None, columns: list[str], settle: Callable[[pa.Table], pa.Table]
    ) -> pa.Table:
        """Rows of one kind that are asked for, each once, in order."""
        every = list(SCHEMAS[kind].names)
        needed = [name for name in every if name in columns or name in IDENTITY[kind] or name == "created"]
        try:
            found = settle(_chosen(self._read(kind, model, tasks, needed), model, tasks, keys))
        except UndecidedError:
            found = settle(_chosen(self._read(kind, model, tasks, every), model, tasks, keys))
        return found.select(columns)

    def _read(self, kind: str, model: str, tasks: frozenset[str], columns: list[str]) -> pa.Table:
        schema = pa.schema([SCHEMAS[kind].field(name) for name in columns])
        for _ in range(TRIES):
            paths = stable_listing(self.folder, kind, model, tasks)
            try:
                with ThreadPoolExecutor(_READERS) as pool:
                    tables = list(pool.map(lambda path: read_segment(path, schema, tasks), paths))
            except FileNotFoundError:  # the store was compacted meanwhile
                continue
            return pa.concat_tables(tables) if tables else schema.empty_table()
        raise DataError(f"{self.folder}: its files vanish while they are read; is somebody deleting them?")

    def _create(self) -> None:
        _check_mark(self.folder)
        with disk_errors(self.folder):
            if not (self.folder / MARK).exists():
                # whoever creates it at the same moment writes the same
                write_json(self.folder / MARK, {"format": FORMAT})
                _check_mark(self.folder)
            if not self._cleaned:
                remove_abandoned(self.folder)
                self._cleaned = True


def _check_mark(folder: Path) -> None:
    mark = folder / MARK
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))["format"]
        if not isinstance(found, int):
            raise TypeError
    except FileNotFoundError:
        if folder.exists():
            _check_foreign(folder)
        return
    except NotADirectoryError:
        raise DataError(f"{folder}: is, or lies below, a file; a result store is a folder") from None
    except (ValueError, KeyError, TypeError):
        raise CorruptError(f'{mark}: is damaged; if the folder is a result store, write {{"format": {FORMAT}}} into it') from None
    if found > FORMAT:
        raise DataError(f"{folder}: this result store was written by a newer version of IberLM (format {found}; this one knows {FORMAT}); update IberLM")


def _check_foreign(folder: Path) -> None:
    known = {ITEMS, RESULTS, JOURNAL}
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in known and not entry.name.startswith("."))
    if foreign:
        raise DataError(f"{folder}: is no result store: it has no {MARK}, but other files ({', '.join(foreign[:3])}); choose another folder")


def _with_key(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row if row.get("key") or any(name not in row for name in KEY) else {**row, "key": item_key(row)}


def _table(kind: str, rows: list[Mapping[str, Any]]) -> pa.Table:
    schema = SCHEMAS[kind]
    for row in rows:
        if unknown := sorted(set(row) - set(schema.names)):
            raise ValueError(f"{kind}: unknown column '{unknown[0]}'")
        if missing := [name for name in _NEEDED[kind] if row.get(name) is None]:
            raise ValueError(f"{kind}: a row without '{missing[0]}'")
    return pa.Table.from_pylist(rows, schema=schema)


def _by_task(table: pa.Table) -> Iterator[pa.Table]:
    pairs = table.select(["model", "task"]).group_by(["model", "task"]).aggregate([]).to_pylist()
    for pair in sorted(pairs, key=lambda entry: (entry["model"], entry["task"])):
        yield table.filter(pc.and_(pc.equal(table["model"], pair["model"]), pc.equal(table["task"], pair["task"])))


def _chosen(table: pa.Table, model: str, tasks: frozenset[str], keys: set[str] | None) -> pa.Table:
    """Rows of the model, tasks and keys; in the paths they may be cut short."""
    masks = []
    if model:
        masks.append(pc.equal(table["model"], model))
    if tasks:
        masks.append(pc.is_in(table["task"], value_set=pa.array(sorted(tasks), pa.string())))
    if keys is not None:
        masks.append(pc.is_in(table["key"], value_set=pa.array(sorted(keys), pa.string())))
    for mask in masks[1:]:
        masks[0] = pc.and_(masks[0], mask)
    return table.filter(masks[0]) if masks else table
