"""Bring stores together, and many small files of a store into few. Both only add and take away whole files; no row is ever changed."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import disk_errors, publish
from iberlm.evaluate.store.existing import COMPACTION, existing_store
from iberlm.evaluate.store.journal import writing
from iberlm.evaluate.store.order import distinct
from iberlm.evaluate.store.schema import ITEM_SCHEMA
from iberlm.evaluate.store.segment import ITEMS, SCHEMAS, TRIES, check_segment, is_whole, read_segment, remove_abandoned, segments, write_segment
from iberlm.evaluate.store.store import IDENTITY, Store

FILE_BYTES = 64 << 20
"""A compacted file is closed at this size: one model's items are some of these."""


@dataclass(frozen=True, order=True)
class Conflict:
    """Different answers that one model gave to the same request: those to `items` items of a task."""

    model_name: str
    model: str
    task: str
    items: int


@dataclass(frozen=True)
class Merged:
    """What a merge brought."""

    files: int
    items: int
    """Answers that were not there: pairs of key and item."""
    results: int
    conflicts: list[Conflict] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """For people: one line of counts, and one a task with conflicting answers."""
        lines = [f"{self.items:,} items and {self.results:,} results were new ({self.files:,} files)"]
        lines += [
            f"{one.model_name or one.model[:12]}, {one.task}: the same request was answered differently for {one.items:,} items; the earliest answers count"
            for one in self.conflicts
        ]
        return lines


def merge(into: Path, *others: Path) -> Merged:
    """Copy the files of other stores that `into` has not; nothing is overwritten or deleted.

    What a merged store answers does not depend on the order: of several answers to one request the earliest counts. Journals
    of unfinished evaluations stay where they are. Raises `DataError` for a folder that is no store or has no result yet and `CorruptError`
    for a damaged file, before anything of that store is copied.
    """
    target = Store(into)
    for other in others:
        _check_source(into, other)
    target.append()  # creates the mark: a folder with files and none would be no store
    with writing(into, COMPACTION):
        before = _sizes(target)
        copied = sum(_copy_all(into, other) for other in others)
        after = _sizes(target)
        return Merged(copied, after[0] - before[0], after[1] - before[1], conflicts(into))


def _check_source(into: Path, other: Path) -> None:
    existing_store(other)
    if other.resolve() == into.resolve():
        raise ConfigError(f"{other}: a store cannot be merged into itself")


def _copy_all(into: Path, other: Path) -> int:
    for _ in range(TRIES):
        try:
            pieces = [(kind, path) for kind in SCHEMAS for path in segments(other, kind)]
            for _, path in pieces:
                check_segment(path)
            return sum(_copy(into, kind, path) for kind, path in pieces)
        except FileNotFoundError:  # the other store was compacted meanwhile
            continue
    raise DataError(f"{other}: its files vanish while they are copied; is somebody deleting them?")


def _copy(into: Path, kind: str, source: Path) -> int:
    """Copy a file unless it is there, or all its rows are in other files; return the number of files written."""
    place = into / kind / source.parent.name / source.name
    # the same name means the same bytes, unless the one that is there was damaged since
    if is_whole(place) if place.exists() else _brings_nothing(into, kind, source):
        return 0
    content = source.read_bytes()
    with publish(place) as temporary:
        temporary.write_bytes(content)
    return 1


def _brings_nothing(into: Path, kind: str, source: Path) -> bool:
    """Whether `into` has every row of a file already: it was compacted after an earlier merge."""
    new = read_segment(source)
    tasks = {task for _, task in _pairs(new)}
    there = {path for model, _ in _pairs(new) for path in segments(into, kind, model, tasks)}
    old = [read_segment(path, tasks=tasks) for path in sorted(there)]
    if not old:
        return False
    before = distinct(pa.concat_tables(old, promote_options="permissive"), IDENTITY[kind])
    return len(distinct(pa.concat_tables([before, new], promote_options="permissive"), IDENTITY[kind])) == len(before)


def _pairs(table: pa.Table) -> Counter[tuple[str, str]]:
    """Models and tasks of a table, with their numbers of rows."""
    counts = table.select(["model", "task"]).group_by(["model", "task"]).aggregate([([], "count_all")]).to_pylist()
    return Counter({(row["model"], row["task"]): row["count_all"] for row in counts})


def _sizes(store: Store) -> tuple[int, int]:
    return store.items(columns=["key", "item"]).num_rows, store.results().num_rows


def conflicts(folder: Path) -> list[Conflict]:
    """Tasks with items that one model answered differently when it was asked the same again, e.g. on another machine."""
    schema = pa.schema([ITEM_SCHEMA.field(name) for name in ("key", "item", "model", "model_name", "task", "responses")])
    tables = [read_segment(path, schema) for path in segments(folder, ITEMS)]
    if not tables:
        return []
    asked = ["key", "item", "model", "task"]
    table = pa.concat_tables(tables).group_by(asked).aggregate([("responses", "count_distinct"), ("model_name", "min")])
    differing = table.filter(pc.greater(table["responses_count_distinct"], 1)).to_pylist()
    counts = Counter((row["model_name_min"] or "", row["model"], row["task"]) for row in differing)
    return sorted(Conflict(*names, items) for names, items in counts.items())


@dataclass(frozen=True)
class Compacted:
    """Numbers of files before and after."""

    before: int
    after: int


def compact(folder: Path) -> Compacted:
    """Write the rows of many small files into few large ones, then delete the small ones; readers and writers may go on meanwhile.

    Every distinct row is kept, also answers that do not count. Raises `DataError` for a folder that is no store or has no result yet and
    `CorruptError` for a damaged file, before its model's files are touched.
    """
    existing_store(folder)
    with writing(folder, COMPACTION), disk_errors(folder):
        remove_abandoned(folder)
        before = sum(len(segments(folder, kind)) for kind in SCHEMAS)
        for kind in SCHEMAS:
            for _, paths in itertools.groupby(segments(folder, kind), key=lambda path: path.parent):
                _compact_model(folder, kind, list(paths))
        return Compacted(before, sum(len(segments(folder, kind)) for kind in SCHEMAS))


def _compact_model(folder: Path, kind: str, paths: list[Path]) -> None:
    for path in paths:
        check_segment(path)
    written = {write_segment(folder, kind, table, large=True) for table in _gathered(kind, paths)}
    for path in set(paths) - written:  # last: a reader must find every row at any moment
        path.unlink(missing_ok=True)


def _gathered(kind: str, paths: list[Path]) -> Iterator[pa.Table]:
    """The rows of one file after the other, each with whole tasks of one model, at most `FILE_BYTES` unless one task is larger."""
    names = pa.schema([ITEM_SCHEMA.field("model"), ITEM_SCHEMA.field("task")])
    sizes: Counter[tuple[str, str]] = Counter()
    holders: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        pairs = _pairs(read_segment(path, names))
        for pair, rows in pairs.items():
            sizes[pair] += rows * path.stat().st_size // pairs.total()
            holders.setdefault(pair, []).append(path)
    group: list[pa.Table] = []
    total, model = 0, ""
    for pair in sorted(holders):
        if group and (total + sizes[pair] > FILE_BYTES or pair[0] != model):
            yield pa.concat_tables(group, promote_options="permissive")
            group, total = [], 0
        group.append(_rows_of(kind, pair, holders[pair]))
        total, model = total + sizes[pair], pair[0]
    if group:
        yield pa.concat_tables(group, promote_options="permissive")


def _rows_of(kind: str, pair: tuple[str, str], paths: list[Path]) -> pa.Table:
    """Rows of a model and task of all files with all their columns, those too that this version does not know."""
    parts = []
    for path in paths:
        table = read_segment(path, tasks=[pair[1]])
        parts.append(table.filter(pc.and_(pc.equal(table["model"], pair[0]), pc.equal(table["task"], pair[1]))))
    whole = pa.concat_tables(parts, promote_options="permissive")
    for name in [*IDENTITY[kind], "created"]:
        if name not in whole.schema.names:
            raise CorruptError(f"{paths[0]}: has no column '{name}'")
    return distinct(whole, IDENTITY[kind])
