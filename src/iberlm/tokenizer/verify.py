"""Check of a token shard after it was written: what a training run relies on without looking again."""

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import CorruptError
from iberlm.core.token_store import TokenShard

_BLOCK_TOKENS = 1 << 24  # bounds memory: numpy counts in 64-bit integers


def check_shard(shard: TokenShard, *, documents: int, vocabulary_size: int, bos: int, eos: int) -> npt.NDArray[np.int64]:
    """Return how often each id occurs, int64[vocabulary_size]; raise `CorruptError` naming what is wrong.

    Every document starts with `bos` and ends with `eos`, which occur nowhere else; ids are below the vocabulary's size;
    there are as many documents as were read.
    """
    if len(shard) != documents:
        raise CorruptError(f"{shard.stem}: {len(shard)} documents where {documents} were read; tokenize again")
    if len(shard) and int(shard.lengths.min()) < 2:
        raise CorruptError(f"{shard.stem}: document {int(shard.lengths.argmin())} has fewer than two ids; tokenize again")
    if int(shard.lengths.sum(dtype=np.int64)) != len(shard.tokens):
        raise CorruptError(f"{shard.stem}: its lengths do not sum to its {len(shard.tokens)} ids; tokenize again")
    _all_equal(shard, shard.offsets, bos, "starts")
    _all_equal(shard, shard.offsets + shard.lengths - 1, eos, "ends")
    counts = _count_ids(shard, vocabulary_size)
    for name, special in (("first", bos), ("last", eos)):
        if counts[special] != documents:
            raise CorruptError(f"{shard.stem}: the {name} id {special} of a document occurs {counts[special]} times in {documents} documents; tokenize again")
    return counts


def _all_equal(shard: TokenShard, positions: npt.NDArray[np.int64], expected: int, verb: str) -> None:
    found = shard.tokens[positions]
    if (wrong := np.flatnonzero(found != expected)).size:
        index = int(wrong[0])
        raise CorruptError(f"{shard.stem}: document {index} {verb} with id {int(found[index])} where {expected} belongs; tokenize again")


def _count_ids(shard: TokenShard, vocabulary_size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(shard.tokens), _BLOCK_TOKENS):
        block = shard.tokens[start : start + _BLOCK_TOKENS]
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= vocabulary_size:
            raise CorruptError(f"{shard.stem}: id {low if low < 0 else high} is outside the vocabulary of {vocabulary_size}; tokenize again")
        counts += np.bincount(block, minlength=vocabulary_size)
    return counts
