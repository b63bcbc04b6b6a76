"""MinHash of word 5-grams, as bands for locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3).

With b bands of r rows two texts of Jaccard similarity s share a band with probability 1 - (1 - s^r)^b: for 14 x 8 one
half at s = 0.72.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from iberlm.curate.statistics import ngram_hashes

SHINGLE_WORDS = 5
_SEED = 0x1BE12


@cache
def _permutations(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    multipliers = generator.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return multipliers, generator.integers(0, 1 << 63, count, dtype=np.uint64)


def band_hashes(hashes: npt.NDArray[np.uint64], bands: int, rows: int) -> npt.NDArray[np.uint64]:
    """One 64-bit hash a band from a text's word hashes; shape (bands,), empty for a text without words.

    A text of fewer than five words is one shingle.
    """
    if not len(hashes):
        return np.empty(0, np.uint64)
    shingles = np.unique(ngram_hashes(hashes, min(SHINGLE_WORDS, len(hashes))))
    multipliers, additions = _permutations(bands * rows)
    signature = np.full(bands * rows, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), 4096):  # bounds the memory of a very long text
        # multiply-add on 64 bits and a xor-shift: the low bits of a product alone are badly mixed
        values = shingles[start : start + 4096, None] * multipliers + additions
        values ^= values >> np.uint64(32)
        np.minimum(signature, values.min(axis=0), out=signature)
    grouped = signature.reshape(bands, rows)
    banded = np.arange(bands, dtype=np.uint64)  # the band's number: equal rows in different bands must not meet
    for row in range(rows):
        banded = (banded * np.uint64(0x9E3779B97F4A7C15)) ^ grouped[:, row]
        banded ^= banded >> np.uint64(31)
    return banded
