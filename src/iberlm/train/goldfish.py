"""Goldfish loss: which targets are left out, so that no passage can be learnt word for word (Hans et al., 2024, arXiv:2406.10209).

A target is left out when the hash of the `context` tokens before it lies in the lowest 1/k of all hashes. A passage that comes again, in another
document or in another epoch, loses the same tokens again, and a model that repeats it has to guess them.

The hash is a polynomial in two bases modulo the prime 2^31 - 1, computed exactly, then mixed: one pass over the tokens whatever
`context` is. (A product of the ids in 64 bits, as it is often done, is 0 as soon as 64 factors of 2 have come together, which
is usual with 50 ids: most windows then share one hash, and the share that is left out is not 1/k.)
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
_PRIME, _PRIME_BITS = (1 << 31) - 1, 31
# any two numbers that are far from small powers of each other; they are part of what a run is, so they never change
_BASES = (1_270_390_213, 846_930_887)
_BLOCK_TOKENS = 1 << 14
"""Tokens worked on at a time: the half-made hashes then stay in the processor's cache."""


def drop_mask(tokens: npt.NDArray[np.integer], k: int, context: int, *, bos: int | None) -> npt.NDArray[np.bool_]:
    """Which targets the goldfish loss leaves out: bool[rows, S] for `tokens` int[rows, S + 1], where target j is `tokens[:, j + 1]`.

    The hash of target j covers the `context` tokens up to `tokens[:, j]`. It does not reach beyond the begin of the row or
    of the document (`bos`, which is covered itself; None: rows are not cut): there it covers what there is. So a document
    that comes twice loses the same tokens from its begin on, and a passage inside it does after its first `context` tokens,
    wherever it stands. Row number, rank and step do not matter. The first token of a document is never left out: BOS alone
    stands before it, so it would be in all documents or in none, and a model must know how texts begin.

    Every hash is left out with probability 1/k. Ids are from 0 to below 2^31 - 2, and rows shorter than 2^31.
    """
    if k < 2 or context < 1:
        raise ValueError(f"k={k}, context={context}; k must be at least 2 and context at least 1")
    rows, length = tokens.shape[0], tokens.shape[1] - 1
    dropped = np.empty((rows, length), dtype=np.bool_)
    powers = [_powers(base, length) for base in _BASES]
    step = max(1, _BLOCK_TOKENS // max(1, length))
    for first in range(0, rows, step):
        block = tokens[first : first + step, :-1]
        dropped[first : first + step] = _hash(block, _begins(block, context, bos), powers) < np.uint64((1 << 64) // k)
        if bos is not None:
            dropped[first : first + step] &= block != bos
    return dropped


def _begins(tokens: npt.NDArray[np.integer], context: int, bos: int | None) -> npt.NDArray[np.int64]:
    """First token that each hash covers, as an index into an array with one column more than `tokens`, flattened; int64[rows, S]."""
    rows, length = tokens.shape
    columns = np.arange(length, dtype=np.int64)
    begins: npt.NDArray[np.int64] = np.maximum(columns - (context - 1), 0) + np.zeros((rows, 1), dtype=np.int64)
    if bos is not None:
        np.maximum(begins, np.maximum.accumulate(np.where(tokens == bos, columns, 0), axis=1), out=begins)
    begins += np.arange(rows, dtype=np.int64)[:, None] * (length + 1)
    return begins


def _hash(tokens: npt.NDArray[np.integer], begins: npt.NDArray[np.int64], powers: list[tuple[U64, U64]]) -> U64:
    """Hash of the tokens from `begins` up to each token, both included; uint64[rows, S].

    With sums C of id * base^column from the left, the hash of columns a to b is (C[b] - C[a - 1]) * base^-b: it does not depend
    on where the window lies. Each term is below 2^32 before it is summed, so nothing overflows.
    """
    rows, length = tokens.shape
    ids = tokens.astype(np.uint64) + np.uint64(1)  # so that an id of 0 is not nothing
    sums = np.zeros((rows, length + 1), dtype=np.uint64)
    found = np.zeros((rows, length), dtype=np.uint64)
    for powers_up, powers_down in powers:
        np.cumsum(_fold(ids * powers_up), axis=1, out=sums[:, 1:])
        window = sums[:, 1:] - sums.ravel().take(begins)
        window = _fold(_fold(window))
        window *= powers_down
        window = _fold(_fold(window))
        np.minimum(window, window - np.uint64(_PRIME), out=window)  # what is below the prime becomes huge, and stays as it is
        found <<= np.uint64(_PRIME_BITS)
        found |= window
    return _mix(found)


def _fold(value: U64) -> U64:
    """A smaller number with the same remainder by 2^31 - 1: below 2^33 for any value below 2^63, at most 2^31 + 1 for one below 2^33. Spoils `value`."""
    folded = value & np.uint64(_PRIME)
    value >>= np.uint64(_PRIME_BITS)
    folded += value
    return folded


@lru_cache(maxsize=8)
def _powers(base: int, count: int) -> tuple[U64, U64]:
    """base^i and base^-i modulo the prime for i from 0; uint64[count] each, below 2^31."""
    inverse = pow(base, -1, _PRIME)
    return _ladder(base, count), _ladder(inverse, count)


def _ladder(base: int, count: int) -> U64:
    powers = np.ones(max(1, count), dtype=np.uint64)
    known, power = 1, base  # the second half is the first times base^(its length)
    while known < count:
        piece = powers[known : 2 * known]
        piece[:] = powers[: len(piece)] * np.uint64(power) % np.uint64(_PRIME)
        known, power = 2 * known, power * power % _PRIME
    return powers[:count]


def _mix(value: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): a bijection of 64-bit integers that scatters them. In place."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value
