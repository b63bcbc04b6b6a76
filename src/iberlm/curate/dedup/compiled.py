"""The loops of deduplication that numba compiles. All are single-threaded and hold no state.

Hashes are mixed once, when they are read, by a bijection: equality stays, and both the leading bits (which range a hash belongs
to) and the trailing ones (its slot in a table) are even, however the hash was made.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., Any])
UInt64s = npt.NDArray[np.uint64]
UInt32s = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: multiplicative hashing, Knuth, TAOCP vol. 3, section 6.4
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


def compiled(function: Function) -> Function:
    """`numba.njit` with the machine code kept on disk, typed as the function that it compiles."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@compiled
def mix(hashes: UInt64s) -> None:
    """Mix hashes in place."""
    for index in range(len(hashes)):
        product = hashes[index] * _GOLDEN
        hashes[index] = product ^ (product >> _HALF)


@compiled
def range_of(mixed: np.uint64, bits: int) -> Any:
    """The leading `bits` (0 to 32) of a mixed hash."""
    return np.int64((mixed >> _ONE) >> np.uint64(63 - bits))  # in two steps, as a shift by 64 is undefined


@compiled
def scatter(mixed: UInt64s, documents: UInt32s, bits: int, out_mixed: UInt64s, out_documents: UInt32s) -> Int64s:
    """Order pairs by the range of their hash, those of a range as they come; return where each range begins, shape (2**bits + 1,)."""
    starts = np.zeros((1 << bits) + 1, np.int64)
    for index in range(len(mixed)):
        starts[range_of(mixed[index], bits) + 1] += 1
    for number in range(1 << bits):
        starts[number + 1] += starts[number]
    following = starts[:-1].copy()
    for index in range(len(mixed)):
        number = range_of(mixed[index], bits)
        out_mixed[following[number]] = mixed[index]
        out_documents[following[number]] = documents[index]
        following[number] += 1
    return starts


@compiled
def first_seen(
    keys: UInt64s, firsts: Int64s, counts: Int32s, used: int, mixed: UInt64s, documents: UInt32s, base: int, position: int, edges: Int64s
) -> tuple[int, int, int]:
    """Look pairs up in an open-addressing table of first documents, from `position` on, and enter the hashes that are new.

    `firsts` is -1 in a free slot. `edges`, shape (pairs, 2) or (0, 2), gets (first document, document) for every hash that was
    there; `counts`, shape of `keys` or (0,), counts the documents of a hash. Returns the next position (below the number of pairs when the
    table is half full and must grow), the slots used and the edges written.
    """
    slots, written = len(keys), 0
    for index in range(position, len(mixed)):
        value = mixed[index]
        slot: Any = np.int64(((value & _LOW) * np.uint64(slots)) >> _HALF)
        while firsts[slot] >= 0 and keys[slot] != value:
            slot += 1
            if slot == slots:
                slot = 0
        document = base + np.int64(documents[index])
        if firsts[slot] < 0:
            if 2 * used >= slots:
                return index, used, written
            keys[slot], firsts[slot] = value, document
            used += 1
        elif len(edges):
            edges[written, 0], edges[written, 1] = firsts[slot], document
            written += 1
        if len(counts):
            counts[slot] += 1
    return len(mixed), used, written


@compiled
def rehash(keys: UInt64s, firsts: Int64s, counts: Int32s, new_keys: UInt64s, new_firsts: Int64s, new_counts: Int32s) -> None:
    """Move the entries of one table of `first_seen` to an empty, larger one."""
    slots = len(new_keys)
    for index in range(len(keys)):
        if firsts[index] < 0:
            continue
        slot: Any = np.int64(((keys[index] & _LOW) * np.uint64(slots)) >> _HALF)
        while new_firsts[slot] >= 0:
            slot += 1
            if slot == slots:
                slot = 0
        new_keys[slot], new_firsts[slot] = keys[index], firsts[index]
        if len(counts):
            new_counts[slot] = counts[index]


@compiled
def _root(parents: Int64s, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]  # path halving: Tarjan and van Leeuwen 1984
        node = parents[node]
    return node


@compiled
def unite(parents: Int64s, edges: Int64s) -> None:
    """Union-find: join the two documents of every edge. The smaller root wins, so the result does not depend on the order of edges."""
    for index in range(len(edges)):
        one, other = _root(parents, edges[index, 0]), _root(parents, edges[index, 1])
        if one < other:
            parents[other] = one
        else:
            parents[one] = other


@compiled
def settle(parents: Int64s, start: int, end: int, sizes: Int32s) -> int:
    """Point the documents `start` to `end` at their roots, and count them there; return how many are roots.

    Parents are never larger than their children, so when all before `start` are settled one step leads to the root.
    """
    roots = 0
    for document in range(start, end):
        root = parents[parents[document]]
        parents[document] = root
        sizes[root] += 1
        roots += root == document
    return roots


@compiled
def distinct_paragraphs(offsets: Int32s, mixed: UInt64s, wanted: npt.NDArray[np.bool_], first: int, out_mixed: UInt64s, out_documents: UInt32s) -> int:
    """The different paragraphs of each wanted document of a batch, in the order of documents; return the number of pairs written.

    `offsets`, shape (documents + 1,), says where in `mixed` each document's paragraphs lie; `first` is the number of the batch's first document.
    """
    written = 0
    for document in range(len(wanted)):
        if not wanted[document]:
            continue
        values = np.sort(mixed[offsets[document] : offsets[document + 1]])
        for index in range(len(values)):
            if index and values[index] == values[index - 1]:
                continue
            out_mixed[written], out_documents[written] = values[index], first + document
            written += 1
    return written
