"""First phase: read the hashes of a group of annotation files and write them as pairs (hash, document), ordered by hash prefix.

A group becomes one file, written in long runs from buffers of bounded size; which prefix a hash belongs to is decided by its
leading bits, so every later task reads one contiguous slice of each run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.documents import read_batches
from iberlm.core.errors import CorruptError
from iberlm.core.shards import ShardResult
from iberlm.curate.dedup.compiled import UInt32s, UInt64s, distinct_paragraphs, mix, scatter
from iberlm.curate.dedup.intermediates import PairsWriter, pairs_writer

PARAGRAPHS = "paragraphs"
BATCH_ROWS = 1 << 16
LIST_BATCH_ROWS = 1 << 12
"""Rows of a batch of lists: a document has some tens of paragraphs, and may have thousands."""


@dataclass(frozen=True)
class Annotations:
    """An annotations file and its place among all documents."""

    path: Path
    first: int
    """Document number of its first row."""
    rows: int


@dataclass(frozen=True)
class PartitionTask:
    """The work of one process: the columns of a group of consecutive files."""

    files: list[Annotations]
    columns: list[str]
    """Columns of hashes; the kind of a pair is its column's position here. `paragraphs` stands alone."""
    bits: int
    run_pairs: int
    target: str
    """Path of the pairs file below the stage's folder."""
    roots: Path | None = None
    """For paragraphs: the cluster of every document. Only the first document of a cluster speaks for it."""


class _Run:
    """Pairs of one kind that wait to be ordered and written."""

    def __init__(self, writer: PairsWriter, kind: int, pairs: int, bits: int) -> None:
        self.writer, self.kind, self.bits, self.filled = writer, kind, bits, 0
        self.mixed, self.documents = np.empty(pairs, np.uint64), np.empty(pairs, np.uint32)
        self.ordered = np.empty(pairs, np.uint64), np.empty(pairs, np.uint32)

    def add(self, mixed: UInt64s, documents: UInt32s) -> None:
        """Append pairs, and write whenever the buffer is full."""
        done = 0
        while done < len(mixed):
            count = min(len(mixed) - done, len(self.mixed) - self.filled)
            self.mixed[self.filled : self.filled + count] = mixed[done : done + count]
            self.documents[self.filled : self.filled + count] = documents[done : done + count]
            self.filled, done = self.filled + count, done + count
            if self.filled == len(self.mixed):
                self.flush()

    def flush(self) -> None:
        """Order what waits by range and write it."""
        if self.filled:
            mixed, documents = self.ordered[0][: self.filled], self.ordered[1][: self.filled]
            starts = scatter(self.mixed[: self.filled], self.documents[: self.filled], self.bits, mixed, documents)
            self.writer.run(self.kind, mixed, documents, starts)
            self.filled = 0


def partition(task: PartitionTask, out: Path) -> ShardResult:
    """Write the pairs file of a group. Raises `CorruptError` for files that are not annotations of as many rows as the manifest says.

    Metrics: `pairs` written, `bytes`, and `paragraphs`: how many the files hold, by their footers.
    """
    path = out / task.target
    first = task.files[0].first
    documents = task.files[-1].first + task.files[-1].rows - first
    pairs = 0
    with pairs_writer(path, first, task.bits) as writer:
        for kind, column in enumerate(task.columns):
            run = _Run(writer, kind, task.run_pairs if column == PARAGRAPHS else max(1, min(task.run_pairs, documents)), task.bits)
            for mixed, numbers in _paragraph_pairs(task) if column == PARAGRAPHS else _column_pairs(task.files, column):
                run.add(mixed, numbers)
                pairs += len(mixed)
            run.flush()
    return ShardResult({task.target: None}, metrics={"pairs": pairs, "bytes": path.stat().st_size, "paragraphs": sum(map(_count_paragraphs, task.files))})


def _count_paragraphs(file: Annotations) -> int:
    metadata = pq.read_metadata(file.path)
    columns = [metadata.row_group(group).column(column) for group in range(metadata.num_row_groups) for column in range(metadata.num_columns)]
    return sum(int(column.num_values) for column in columns if column.path_in_schema.startswith(f"{PARAGRAPHS}.") and column.path_in_schema.endswith(".hash"))


def batches(file: Annotations, column: str, rows: int) -> Iterator[tuple[int, Any]]:
    """The arrays of one column with the document number of their first row. Raises `CorruptError` if there are not `file.rows` rows."""
    position = 0
    for batch in read_batches(file.path, [column], rows):
        if batch.num_columns != 1:
            raise CorruptError(f"{file.path}: no column '{column}', which the first file of its folder has; run the annotate stage again")
        yield file.first + position, batch.column(0)
        position += batch.num_rows
    if position != file.rows:
        raise CorruptError(f"{file.path}: {position} rows, where its manifest says {file.rows}; run the annotate stage again")


def _column_pairs(files: list[Annotations], column: str) -> Iterator[tuple[UInt64s, UInt32s]]:
    """Pairs of a column of hashes; a null has none."""
    for file in files:
        for first, array in batches(file, column, BATCH_ROWS):
            if array.type != pa.uint64():
                raise CorruptError(f"{file.path}: column '{column}' is {array.type}, not uint64; run the annotate stage again")
            numbers = np.arange(first - files[0].first, first - files[0].first + len(array), dtype=np.uint32)
            if array.null_count:
                numbers = numbers[pc.is_valid(array).to_numpy(zero_copy_only=False)]
                array = array.drop_null()
            mixed = array.to_numpy().copy()  # Arrow's memory is read-only
            mix(mixed)
            yield mixed, numbers


def paragraph_columns(file: Path, array: Any) -> tuple[npt.NDArray[np.int32], UInt64s, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Offsets (documents + 1,), mixed hashes, starts and ends of an array of paragraphs, from its first entry on. Raises `CorruptError`."""
    kind = array.type
    names = ("hash", "start", "end")
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type) or any(kind.value_type.get_field_index(name) < 0 for name in names):
        raise CorruptError(f"{file}: column 'paragraphs' is {kind}, not a list of (hash, start, end); run the annotate stage again")
    offsets = array.offsets.to_numpy()
    entries = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    fields = [entries.field(name) for name in names]
    if [field.type for field in fields] != [pa.uint64(), pa.int32(), pa.int32()] or any(field.null_count for field in fields):
        raise CorruptError(f"{file}: column 'paragraphs' is {kind} or has nulls; run the annotate stage again")
    mixed = fields[0].to_numpy().copy()
    mix(mixed)
    return offsets - offsets[0], mixed, fields[1].to_numpy(), fields[2].to_numpy()


def _paragraph_pairs(task: PartitionTask) -> Iterator[tuple[UInt64s, UInt32s]]:
    """Each paragraph of each document that is the first of its cluster, once."""
    for file in task.files:
        for first, array in batches(file, PARAGRAPHS, LIST_BATCH_ROWS):
            offsets, mixed, _, _ = paragraph_columns(file.path, array)
            numbers = np.arange(first, first + len(array))
            wanted = read_roots(task.roots, first, len(array)) == numbers if task.roots else np.ones(len(array), np.bool_)
            out_mixed, out_documents = np.empty(len(mixed), np.uint64), np.empty(len(mixed), np.uint32)
            written = distinct_paragraphs(offsets, mixed, wanted, first - task.files[0].first, out_mixed, out_documents)
            yield out_mixed[:written], out_documents[:written]


def read_roots(path: Path, first: int, documents: int) -> npt.NDArray[np.int64]:
    """The clusters of `documents` documents from `first` on, from a file of `union`."""
    return np.fromfile(path, np.int64, documents, offset=first * 8)
