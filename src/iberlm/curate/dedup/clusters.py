"""Last phase: write the clusters of each annotations file beside it, with the paragraphs that are boilerplate in its documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.core.documents import write_documents
from iberlm.core.shards import ShardResult
from iberlm.curate.dedup.compiled import Int64s, UInt64s
from iberlm.curate.dedup.partition import PARAGRAPHS, Annotations, batches, paragraph_columns, read_roots

CLUSTERS = "clusters"
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
SCHEMA = pa.schema([("cluster", pa.int64()), ("cluster_size", pa.int32()), ("exact_cluster", pa.int64()), ("url_cluster", pa.int64()), ("boilerplate", SPANS)])
"""One row a document, in the order of the annotations file of the same name. `cluster`: number of the first document of its cluster of near
duplicates (exact ones included, those of the URL not); `exact_cluster`: of the first with the same text; `url_cluster`: of the first of the same
URL, or its own. `boilerplate`: the paragraphs (characters, half open) that many documents have, except in the cluster that has them first."""
BATCH_ROWS = 1 << 13
"""Rows of a row group, whatever the memory: it decides the bytes of the file."""


@dataclass(frozen=True)
class ClustersTask:
    """The work of one process: one annotations file."""

    file: Annotations
    roots: Path
    sizes: Path
    exact: Path | None
    url: Path | None
    """Files of `union`; without one every document is its own cluster."""
    repeated: list[Path]
    """Files of `join.repeated`, by range; none when paragraphs are not looked at."""


def write_clusters(task: ClustersTask, out: Path) -> ShardResult:
    """Write `clusters/NAME.parquet`. Metrics: marked `spans`, and their `characters`."""
    path = out / CLUSTERS / task.file.path.name
    result = ShardResult(metrics={"spans": 0, "characters": 0})
    result.outputs = {path.relative_to(out).as_posix(): write_documents(path, _tables(task, result), SCHEMA)}
    return result


def _tables(task: ClustersTask, result: ShardResult) -> Iterator[pa.Table]:
    tables = [_repeated(path) for path in task.repeated]
    for first, paragraphs in batches(task.file, PARAGRAPHS, BATCH_ROWS) if tables else _without_paragraphs(task.file):
        rows = BATCH_ROWS if paragraphs is None else len(paragraphs)
        rows = min(rows, task.file.first + task.file.rows - first)
        numbers = np.arange(first, first + rows)
        cluster = read_roots(task.roots, first, rows)
        boilerplate = pa.array([[]] * rows, SPANS) if paragraphs is None else _marked(task.file.path, paragraphs, cluster, tables, result)
        columns = [
            cluster,
            np.fromfile(task.sizes, np.int32, rows, offset=first * 4),
            read_roots(task.exact, first, rows) if task.exact else numbers,
            read_roots(task.url, first, rows) if task.url else numbers,
        ]
        yield pa.table([*map(pa.array, columns), boilerplate], schema=SCHEMA)


def _without_paragraphs(file: Annotations) -> Iterator[tuple[int, None]]:
    for start in range(0, file.rows, BATCH_ROWS):
        yield file.first + start, None


def _repeated(path: Path) -> tuple[UInt64s, Int64s]:
    """Sorted hashes of boilerplate of one range and the first document of each, mapped from the file."""
    count = path.stat().st_size // 16
    if not count:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.memmap(path, np.uint64, "r", shape=(count,)), np.memmap(path, np.int64, "r", offset=count * 8, shape=(count,))


def _marked(file: Path, paragraphs: pa.Array, cluster: Int64s, tables: list[tuple[UInt64s, Int64s]], result: ShardResult) -> pa.Array:
    """Lists of the spans of boilerplate, of the type `SPANS`; `result` counts them."""
    offsets, mixed, starts, ends = paragraph_columns(file, paragraphs)
    first_clusters = _first_documents(mixed, tables)
    first_clusters[first_clusters == np.repeat(cluster, np.diff(offsets))] = -1
    marked = first_clusters >= 0
    kept = np.concatenate([[0], np.cumsum(marked)])[offsets].astype(np.int32)
    spans = pa.StructArray.from_arrays([pa.array(starts[marked]), pa.array(ends[marked])], fields=list(SPANS.value_type))
    result.metrics["spans"] += int(marked.sum())
    result.metrics["characters"] += int((ends[marked].astype(np.int64) - starts[marked]).sum())
    return pa.ListArray.from_arrays(pa.array(kept), spans)


def _first_documents(mixed: UInt64s, tables: list[tuple[UInt64s, Int64s]]) -> npt.NDArray[np.int64]:
    """For each hash the first document that has it, if it is boilerplate, else -1. The tables hold equal ranges of hashes, in order.

    The hashes are looked up in their order, so that a table on disk is read from its beginning to its end.
    """
    order = np.argsort(mixed)
    ordered = mixed[order]
    found = np.full(len(mixed), -1, np.int64)
    width = (1 << 64) // len(tables)
    edges = [0, *(int(np.searchsorted(ordered, np.uint64(number * width))) for number in range(1, len(tables))), len(ordered)]
    for (hashes, documents), begin, end in zip(tables, edges, edges[1:], strict=False):
        if len(hashes) and begin < end:
            wanted = ordered[begin:end]
            places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            equal = hashes[places] == wanted
            found[order[begin:end][equal]] = documents[places[equal]]
    return found
