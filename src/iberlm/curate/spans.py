"""Spans of text: list columns of (start, end) in code points, as flat arrays that numpy can work on."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Spans(NamedTuple):
    """Spans of many documents, each array of shape (spans,), ordered by row as in their column."""

    row: npt.NDArray[np.int64]
    """Row of the document in its file."""
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    """Offsets in code points, half open."""


def flatten(column: pa.ListArray | pa.ChunkedArray) -> Spans:
    """The spans of a list<struct<start, end, ...>> column; a null list is an empty one."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # what combine_chunks gives for no chunk at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = array.flatten()
    row = np.repeat(np.arange(len(array), dtype=np.int64), lengths)
    return Spans(row, *(values.field(name).to_numpy(zero_copy_only=False).astype(np.int64) for name in ("start", "end")))


def joined(parts: list[Spans]) -> Spans:
    """All spans, merged where they overlap or touch, ordered by row and start."""
    if not parts:
        return Spans(*(np.empty(0, np.int64) for _ in Spans._fields))
    row, start, end = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((start, row))
    row, start, end = row[order], start[order], end[order]
    if not len(row):
        return Spans(row, start, end)
    reach = int(end.max()) + 1
    # one axis for all rows, so that one running maximum tells how far each row is covered
    furthest = np.maximum.accumulate(row * reach + end)
    begins = np.ones(len(row), dtype=bool)
    begins[1:] = row[1:] * reach + start[1:] > furthest[:-1]
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(row)) - 1
    return Spans(row[first], start[first], furthest[last] - row[first] * reach)


def clipped(spans: Spans, lengths: npt.NDArray[np.integer[Any]]) -> Spans:
    """The parts of the spans that lie inside their documents, of `lengths` code points each, shape (documents,)."""
    end = np.minimum(spans.end, lengths[spans.row])
    inside = spans.start < end
    return Spans(spans.row[inside], spans.start[inside], end[inside])


def covered(spans: Spans, documents: int) -> npt.NDArray[np.int64]:
    """Code points inside the spans of each document; shape (documents,). The spans do not overlap (see `joined`)."""
    return np.bincount(spans.row, weights=spans.end - spans.start, minlength=documents).astype(np.int64)


def as_lists(spans: Spans, documents: int, kind: pa.DataType) -> pa.ListArray:
    """The spans as a list<struct<start, end>> column of type `kind`, a list a document. `spans` is ordered by row."""
    offsets = pa.array(np.searchsorted(spans.row, np.arange(documents + 1)).astype(np.int32))
    values = pa.StructArray.from_arrays([pa.array(side.astype(np.int32)) for side in (spans.start, spans.end)], fields=list(kind.value_type))
    return pa.ListArray.from_arrays(offsets, values)
