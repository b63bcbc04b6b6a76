"""Second phase: find equal hashes, one kind and range at a time, and write an edge from the first document of each hash to every other.

Pairs come in the order of documents, so one pass over them against a table of the hashes seen so far is enough: the first document
that brings a hash is the smallest. The table grows with the different hashes, not with the pairs, so a hash that every
document has costs no memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iberlm.core.shards import ShardResult
from iberlm.curate.dedup.compiled import Int64s, first_seen, rehash
from iberlm.curate.dedup.intermediates import Slice, array_writer, edges_writer, slices

_LEAST_SLOTS = 64


@dataclass(frozen=True)
class JoinTask:
    """The work of one process: one range of one kind."""

    pairs: list[Path]
    """All pairs files, in the order of documents."""
    kind: int
    number: int
    bits: int
    chunk_pairs: int
    expected_pairs: int
    """Pairs that a range has when hashes are even: the table begins no larger, and grows if need be."""
    target: str
    """Path of the file to write, below the stage's folder."""
    minimum: int = 0
    """For paragraphs: documents that make one boilerplate."""

    def slices(self) -> list[Slice]:
        """What the task reads."""
        return [entry for path in self.pairs for entry in slices(path, self.kind, self.number, self.bits)]


class Table:
    """Hashes seen so far, with the first document of each, and, if `counted`, the number of documents."""

    def __init__(self, slots: int, counted: bool) -> None:
        self.counted, self.used = counted, 0
        self._allocate(max(_LEAST_SLOTS, slots))

    def _allocate(self, slots: int) -> None:
        self.keys, self.firsts = np.empty(slots, np.uint64), np.full(slots, -1, np.int64)
        self.counts = np.zeros(slots if self.counted else 0, np.int32)

    def read(self, source: list[Slice], chunk_pairs: int, write: Callable[[Int64s], None] | None) -> None:
        """Enter all pairs; hand the edges that come of them to `write`, some at a time."""
        edges = np.empty((chunk_pairs if write else 0, 2), np.int64)
        for entry in source:
            for mixed, documents in entry.chunks(chunk_pairs):
                position = 0
                while position < len(mixed):
                    position, self.used, written = first_seen(self.keys, self.firsts, self.counts, self.used, mixed, documents, entry.first, position, edges)
                    if write:
                        write(edges[:written])
                    if position < len(mixed):
                        self._grow()

    def _grow(self) -> None:
        old = self.keys, self.firsts, self.counts
        self._allocate(2 * len(self.keys))
        rehash(*old, self.keys, self.firsts, self.counts)


def _table(task: JoinTask, source: list[Slice], counted: bool) -> Table:
    pairs = sum(entry.count for entry in source)
    return Table(2 * min(pairs, task.expected_pairs) + 2, counted)


def join(task: JoinTask, out: Path) -> ShardResult:
    """Write the edges of a range; `DamagedError` when a pairs file is not whole."""
    source = task.slices()
    with edges_writer(out / task.target) as writer:
        _table(task, source, counted=False).read(source, task.chunk_pairs, writer.write)
    return ShardResult({task.target: None}, metrics={"edges": writer.edges, "bytes": (out / task.target).stat().st_size})


def repeated(task: JoinTask, out: Path) -> ShardResult:
    """Write the hashes of a range that at least `task.minimum` documents have, sorted, and then the first document of each.

    Metrics: `hashes`, `bytes`, and `checksums` by file.
    """
    source = task.slices()
    table = _table(task, source, counted=True)
    table.read(source, task.chunk_pairs, None)
    chosen = np.flatnonzero(table.counts >= task.minimum)
    chosen = chosen[np.argsort(table.keys[chosen])]
    with array_writer(out / task.target) as writer:
        writer.write(table.keys[chosen])
        writer.write(table.firsts[chosen])
    metrics = {"hashes": len(chosen), "bytes": (out / task.target).stat().st_size, "checksums": {task.target: writer.checksum}}
    return ShardResult({task.target: None}, metrics=metrics)
