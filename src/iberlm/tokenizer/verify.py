"""Check of a token shard after it was written: what a training run relies on without looking again."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import CorruptError
from iberlm.core.token_store import TokenShard

_BLOCK_TOKENS = 1 << 22  # numpy counts in 64-bit integers: 32 MiB


def check_shard(shard: TokenShard, *, documents: int, vocabulary_size: int, bos: int, eos: int) -> npt.NDArray[np.int64]:
    """Return how often each id occurs, int64[vocabulary_size]; raise `CorruptError` naming what is wrong.

    Every document starts with `bos` and ends with `eos`, which occur nowhere else; ids are below the vocabulary's size;
    there are as many documents as were read. The ids are read from the file, a block at a time.
    """
    if len(shard) != documents:
        raise CorruptError(f"{shard.stem}: {len(shard)} documents where {documents} were read; tokenize again")
    if len(shard) and int(shard.lengths.min()) < 2:
        raise CorruptError(f"{shard.stem}: document {int(shard.lengths.argmin())} has fewer than two ids; tokenize again")
    if int(shard.lengths.sum(dtype=np.int64)) != len(shard.tokens):
        raise CorruptError(f"{shard.stem}: its lengths do not sum to its {len(shard.tokens)} ids; tokenize again")
    counts, lasts = np.zeros(vocabulary_size, np.int64), shard.offsets + shard.lengths - 1
    for start, block in _blocks(shard):
        for positions, expected, verb in ((shard.offsets, bos, "starts"), (lasts, eos, "ends")):
            _all_equal(shard, start, block, positions, expected, verb)
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= vocabulary_size:
            raise CorruptError(f"{shard.stem}: id {low if low < 0 else high} is outside the vocabulary of {vocabulary_size}; tokenize again")
        counts += np.bincount(block, minlength=vocabulary_size)
    for name, special in (("first", bos), ("last", eos)):
        if counts[special] != documents:
            raise CorruptError(f"{shard.stem}: the {name} id {special} of a document occurs {counts[special]} times in {documents} documents; tokenize again")
    return counts


def _blocks(shard: TokenShard) -> Iterator[tuple[int, npt.NDArray[np.integer]]]:
    """The ids of a shard in blocks, each with the number of its first; read, not mapped: pages of a map would stay in memory."""
    with shard.stem.with_name(shard.stem.name + ".bin").open("rb") as stream:
        for start in range(0, len(shard.tokens), _BLOCK_TOKENS):
            yield start, np.frombuffer(stream.read(min(_BLOCK_TOKENS, len(shard.tokens) - start) * shard.tokens.itemsize), shard.tokens.dtype)


def _all_equal(shard: TokenShard, start: int, block: npt.NDArray[np.integer], positions: npt.NDArray[np.int64], expected: int, verb: str) -> None:
    """Raise unless the ids at those of the ascending `positions` that fall into a block are all `expected`."""
    first, end = np.searchsorted(positions, (start, start + len(block)))
    found = block[positions[first:end] - start]
    if (wrong := np.flatnonzero(found != expected)).size:
        index = int(wrong[0])
        raise CorruptError(f"{shard.stem}: document {first + index} {verb} with id {int(found[index])} where {expected} belongs; tokenize again")
