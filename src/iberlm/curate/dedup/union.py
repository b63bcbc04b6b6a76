"""Third phase: from edges to clusters, by union-find over all documents. The first document of a cluster is its root.

The parents are one array of 8 bytes a document (1.08 billion documents: 8.6 GB) and the sizes one of 4; they are mapped from a file when
the memory that the task may use is less. Edges are streamed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iberlm.core.shards import ShardResult
from iberlm.curate.dedup.compiled import Int32s, Int64s, settle, unite
from iberlm.curate.dedup.intermediates import array_writer, read_edges, write

_CHUNK = 1 << 20


@dataclass(frozen=True)
class UnionTask:
    """The work of one process: the clusters of one sort."""

    edges: list[Path]
    documents: int
    in_memory: bool
    roots: str
    """Path of the file of roots (int64 a document) below the stage's folder."""
    sizes: str = ""
    """Path of the file of cluster sizes (int32 a document), if wanted."""


def union(task: UnionTask, out: Path) -> ShardResult:
    """Write the root and the cluster's size for every document; `DamagedError` when an edges file is not whole.

    Metrics: `clusters`, `largest` (documents of the largest cluster), `bytes`, and `checksums` by file.
    """
    with _arrays(task, out) as (parents, sizes):
        for path in task.edges:
            for block in read_edges(path):
                unite(parents, block)
        clusters, largest = 0, 0
        with array_writer(out / task.roots) as writer:
            for start in range(0, task.documents, _CHUNK):
                end = min(start + _CHUNK, task.documents)
                clusters += settle(parents, start, end, sizes)
                writer.write(parents[start:end])
        for start in range(0, task.documents, _CHUNK):
            largest = max(largest, int(sizes[start : start + _CHUNK].max()))
        checksums = {task.roots: writer.checksum}
        if task.sizes:
            with array_writer(out / task.sizes) as writer:
                for start in range(0, task.documents, _CHUNK):
                    writer.write(sizes[parents[start : start + _CHUNK]])
            checksums[task.sizes] = writer.checksum
    written = sum((out / name).stat().st_size for name in checksums)
    metrics = {"clusters": clusters, "largest": largest, "bytes": written, "checksums": checksums}
    return ShardResult(dict.fromkeys(checksums), metrics=metrics)


@contextmanager
def _arrays(task: UnionTask, out: Path) -> Iterator[tuple[Int64s, Int32s]]:
    """Each document its own parent, and zeros for the sizes; in memory, or mapped from a file that is deleted at the end."""
    if task.in_memory or not task.documents:
        yield np.arange(task.documents), np.zeros(task.documents, np.int32)
        return
    scratch = (out / task.roots).with_suffix(".scratch")
    try:
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as stream:  # written, not only sized: a full disk must be an error here, not a fault on a mapped page
            for start in range(0, task.documents, _CHUNK):
                write(stream, np.arange(start, min(start + _CHUNK, task.documents)))
            for start in range(0, task.documents, _CHUNK):
                write(stream, np.zeros(min(_CHUNK, task.documents - start), np.int32))
        parents = np.memmap(scratch, np.int64, "r+", shape=(task.documents,))
        sizes = np.memmap(scratch, np.int32, "r+", offset=task.documents * 8, shape=(task.documents,))
        yield np.asarray(parents), np.asarray(sizes)
    finally:
        scratch.unlink(missing_ok=True)
