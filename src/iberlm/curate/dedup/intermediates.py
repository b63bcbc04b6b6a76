"""Intermediate files of deduplication: pairs, edges and plain arrays, each of which knows whether it is whole.

They are deleted when the stage ends. A file that is not whole is deleted where that is found out, and `DamagedError` makes the
stage write it again, so that a bit that a disk or a power cut turned never reaches the clusters.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xxhash

from iberlm.core.errors import CorruptError
from iberlm.core.files import publish, write_json
from iberlm.curate.dedup.compiled import Int64s, UInt32s, UInt64s

_MAGIC = 0x1BE12DED0B
_RUN = np.dtype([("kind", np.int64), ("hashes_at", np.int64), ("documents_at", np.int64)])
_SLICE = np.dtype([("begin", np.int64), ("count", np.int64), ("hashes_sum", np.uint64), ("documents_sum", np.uint64)])
_TRAILER = np.dtype([("magic", np.int64), ("first", np.int64), ("runs", np.int64), ("bits", np.int64), ("index_at", np.int64), ("sum", np.uint64)])
_BLOCK = np.dtype([("values", np.int64), ("sum", np.uint64)])


class DamagedError(CorruptError):
    """An intermediate file was not whole; it is deleted, so that the stage can make it again."""


def damaged(path: Path, why: str) -> DamagedError:
    """Delete an intermediate file and return the error to raise."""
    path.unlink(missing_ok=True)
    return DamagedError(f"{path}: damaged ({why}); run the same command again")


def checksum(array: npt.NDArray[Any]) -> int:
    """64-bit XXH3 of an array's bytes."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(array).view(np.uint8).data)


def write(stream: IO[bytes], array: npt.NDArray[Any]) -> None:
    """Write an array's bytes. (`ndarray.tofile` tells nobody that a disk is full: its error has no number.)"""
    stream.write(np.ascontiguousarray(array).view(np.uint8).data)


class PairsWriter:
    """Writes pairs in runs; a run holds pairs of one kind, ordered by range, with the place and checksum of each range's slice.

    On disk a pair takes 12 B: the mixed hash, and the document's number counted from `first`, which the trailer holds. The layout is
    runs (hashes, then numbers), the index of slices, the table of runs, the trailer.
    """

    def __init__(self, stream: IO[bytes], first: int, bits: int) -> None:
        self.stream, self.first, self.bits = stream, first, bits
        self.runs: list[tuple[int, int, int]] = []
        self.slices: list[npt.NDArray[Any]] = []

    def run(self, kind: int, mixed: UInt64s, documents: UInt32s, starts: Int64s) -> None:
        """Append a run, ordered by `compiled.scatter`."""
        ranges = np.zeros(1 << self.bits, _SLICE)
        ranges["begin"], ranges["count"] = starts[:-1], np.diff(starts)
        for number in np.flatnonzero(ranges["count"]):
            ranges[number]["hashes_sum"] = checksum(mixed[starts[number] : starts[number + 1]])
            ranges[number]["documents_sum"] = checksum(documents[starts[number] : starts[number + 1]])
        hashes_at = self.stream.tell()
        write(self.stream, mixed)
        documents_at = self.stream.tell()
        write(self.stream, documents)
        self.runs.append((kind, hashes_at, documents_at))
        self.slices.append(ranges)

    def close(self) -> None:
        """Write the index and the trailer."""
        index_at = self.stream.tell()
        for ranges in self.slices:
            write(self.stream, ranges)
        runs = np.array(self.runs, _RUN)
        write(self.stream, runs)
        write(self.stream, np.array([(_MAGIC, self.first, len(runs), self.bits, index_at, checksum(runs))], _TRAILER))


@contextmanager
def pairs_writer(path: Path, first: int, bits: int) -> Iterator[PairsWriter]:
    """A `PairsWriter` of `path`, published at the end; `first` is the number of the first document in it."""
    with publish(path) as temporary, temporary.open("wb") as stream:
        writer = PairsWriter(stream, first, bits)
        yield writer
        writer.close()


@dataclass
class Slice:
    """Pairs of one kind and range in one run of a pairs file."""

    path: Path
    first: int
    hashes_at: int
    documents_at: int
    count: int
    hashes_sum: int
    documents_sum: int

    def chunks(self, pairs: int) -> Iterator[tuple[UInt64s, UInt32s]]:
        """The pairs, at most so many at once. Raises `DamagedError`, after the last chunk, unless all were as they were written."""
        sums = xxhash.xxh3_64(), xxhash.xxh3_64()
        with _opened(self.path) as stream:
            for begin in range(0, self.count, pairs):
                count = min(pairs, self.count - begin)
                stream.seek(self.hashes_at + begin * 8)
                mixed = np.fromfile(stream, np.uint64, count)
                stream.seek(self.documents_at + begin * 4)
                documents = np.fromfile(stream, np.uint32, count)
                if len(mixed) < count or len(documents) < count:
                    raise damaged(self.path, "cut short")
                sums[0].update(mixed.data)
                sums[1].update(documents.data)
                yield mixed, documents
        if (sums[0].intdigest(), sums[1].intdigest()) != (self.hashes_sum, self.documents_sum):
            raise damaged(self.path, "a checksum differs")


def slices(path: Path, kind: int, number: int, bits: int) -> list[Slice]:
    """The slices of a pairs file that hold pairs of a kind in range `number`, in the order of documents. Raises `DamagedError`."""
    with _opened(path) as stream:
        size = stream.seek(0, 2)
        trailer = _read(stream, path, size - _TRAILER.itemsize, _TRAILER, 1)[0]
        if trailer["magic"] != _MAGIC or trailer["bits"] != bits or not 0 <= trailer["runs"] * _RUN.itemsize < size:
            raise damaged(path, "the trailer is not ours")
        runs = _read(stream, path, size - _TRAILER.itemsize - int(trailer["runs"]) * _RUN.itemsize, _RUN, int(trailer["runs"]))
        if checksum(runs) != trailer["sum"]:
            raise damaged(path, "a checksum differs")
        found = []
        for position in np.flatnonzero(runs["kind"] == kind).tolist():
            at = int(trailer["index_at"]) + ((position << bits) + number) * _SLICE.itemsize
            entry = _read(stream, path, at, _SLICE, 1)[0]
            if not 0 <= entry["begin"] <= entry["begin"] + entry["count"] <= size:
                raise damaged(path, "the index is not ours")
            if entry["count"]:
                begin = int(entry["begin"])
                places = int(runs[position]["hashes_at"]) + begin * 8, int(runs[position]["documents_at"]) + begin * 4
                found.append(Slice(path, int(trailer["first"]), *places, int(entry["count"]), int(entry["hashes_sum"]), int(entry["documents_sum"])))
        return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise damaged(path, "missing") from None
    with stream:
        yield stream


def _read(stream: IO[bytes], path: Path, at: int, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    if at < 0:
        raise damaged(path, "cut short")
    stream.seek(at)
    values = np.fromfile(stream, dtype, count)
    if len(values) < count:
        raise damaged(path, "cut short")
    return values


class EdgesWriter:
    """Writes edges in blocks that each carry their length and checksum; an empty block ends the file."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.edges = stream, 0

    def write(self, edges: Int64s) -> None:
        """Append edges, shape (edges, 2); none are written as nothing."""
        if len(edges):
            write(self.stream, np.array([(edges.size, checksum(edges))], _BLOCK))
            write(self.stream, edges)
            self.edges += len(edges)


@contextmanager
def edges_writer(path: Path) -> Iterator[EdgesWriter]:
    """An `EdgesWriter` of `path`, published at the end."""
    with publish(path) as temporary, temporary.open("wb") as stream:
        writer = EdgesWriter(stream)
        yield writer
        write(stream, np.zeros(1, _BLOCK))


def read_edges(path: Path) -> Iterator[Int64s]:
    """The blocks of an edges file, shape (edges, 2), each checked before it is handed out. Raises `DamagedError`."""
    with _opened(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        while True:
            block = _read(stream, path, stream.tell(), _BLOCK, 1)[0]
            count = int(block["values"])
            if count == 0:
                return
            if not 0 < count * 8 < size:
                raise damaged(path, "the length of a block is not ours")
            values = _read(stream, path, stream.tell(), np.dtype(np.int64), count)
            if checksum(values) != block["sum"]:
                raise damaged(path, "a checksum differs")
            yield values.reshape(-1, 2)


class ArrayWriter:
    """Writes plain arrays one after the other, and their checksum beside: whoever reads them has it from the shard's metrics."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest = stream, xxhash.xxh3_64()

    def write(self, array: npt.NDArray[Any]) -> None:
        """Append an array."""
        write(self._stream, array)
        self._digest.update(np.ascontiguousarray(array).view(np.uint8).data)

    @property
    def checksum(self) -> str:
        """64-bit XXH3 of all that was written, in hexadecimal."""
        return self._digest.hexdigest()


@contextmanager
def array_writer(path: Path) -> Iterator[ArrayWriter]:
    """An `ArrayWriter` of `path`, published at the end."""
    with publish(path) as temporary, temporary.open("wb") as stream:
        yield ArrayWriter(stream)


def check_arrays(folder: Path, checksums: Mapping[str, str]) -> None:
    """Raise `DamagedError` unless the files below `folder` have these checksums."""
    for name, expected in checksums.items():
        with _opened(folder / name) as stream:
            digest = xxhash.xxh3_64()
            while block := stream.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != expected:
            raise damaged(folder / name, "a checksum differs")


def write_mark(path: Path, key: str, checksums: Mapping[str, str], metrics: dict[str, Any]) -> None:
    """Note that a part of the work is done: its files (below the mark's folder) with their checksums, and its metrics."""
    write_json(path, {"key": key, "checksums": dict(checksums), "metrics": metrics})


def read_mark(path: Path, key: str) -> dict[str, Any] | None:
    """The metrics of a part that an interrupted run finished, or None. Raises `DamagedError` when one of its files is not whole."""
    try:
        value = json.loads(path.read_text())
        checksums, metrics = dict(value["checksums"]), dict(value["metrics"])
        if value["key"] != key:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        check_arrays(path.parent, checksums)
    except DamagedError:
        path.unlink()
        raise
    return metrics
