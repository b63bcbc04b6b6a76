"""Words that mark a text as Valencian or as central Catalan: learnt from pairs of translations, kept as a list that can be read.

A word is a mark when it stands in the Valencian member of many pairs and not in the Catalan one, or the other way round, counted at
most three times an origin, so that no translator's taste decides alone. Its strength is the logarithm of the ratio of the
two counts. Valencian marks must also be rare in Catalan documents, counted by origin: Valencian texts often keep Catalan
forms, so that what tells the two apart is what Catalan texts never have.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from iberlm.core.errors import CorruptError
from iberlm.core.files import write_text
from iberlm.curate.ngram_kernels import BLOCK, characters, read_words, word_hash
from iberlm.curate.ngram_model import Integers

_WORD = re.compile(r"(?:(?<=\w)[-‐‑])?[^\W\d_]+(?:·[^\W\d_]+)*['’ʼ]?")
_PER_ORIGIN = 3
_LEAST = 3
"""Counted pairs that a mark needs."""
_LEAST_RATIO = 1.5
"""Log ratio of the counts that a mark needs."""
_STRONGEST = 5.0
_BACKGROUND = 2.0
"""How much more an origin of Catalan documents weighs than one of pairs against a Valencian mark."""
_HEADER = "# Marks of Valencian (above 0) and of central Catalan (below 0): word, strength. Made by `iberlm train-langid`.\n"
_EMPTY = np.uint64(0)


@dataclass(frozen=True)
class Marks:
    """Marks in a hash table: open addressing over 64-bit hashes of words with their marks of start and end."""

    keys: npt.NDArray[np.uint64]
    strengths: npt.NDArray[np.float32]
    """Above 0 Valencian, below 0 Catalan; same shape as `keys`, a power of two."""

    @classmethod
    def load(cls, path: Path) -> "Marks":
        """Read a list. Raises `CorruptError` when it is not one."""
        try:
            lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
            strengths = {word: float(strength) for word, strength in lines}
        except (OSError, ValueError) as error:
            raise CorruptError(f"{path}: not a list of marks ({error})") from error
        return cls.of(strengths)

    @classmethod
    def of(cls, strengths: dict[str, float]) -> "Marks":
        """A table of words with their strengths."""
        places = 1 << max(8, (len(strengths) * 4).bit_length())
        keys, values = np.zeros(places, np.uint64), np.zeros(places, np.float32)
        for word, strength in strengths.items():
            code_points = np.array([1, *map(ord, word), 2], np.uint32)
            key = word_hash(code_points, 0, len(code_points))
            place = int(key) % places
            while keys[place] != _EMPTY:
                place = (place + 1) % places
            keys[place], values[place] = key, strength
        return cls(keys, values)

    def sums(self, data: npt.NDArray[np.uint8], first: Integers, last: Integers) -> npt.NDArray[np.float64]:
        """Valencian and Catalan strength in each byte range, both >= 0, shape (ranges, 2)."""
        found: npt.NDArray[np.float64] = _sums(data, first, last, characters(), self.keys, self.strengths)
        return found


@numba.njit(cache=True)
def _sums(data, first, last, table, keys, strengths):  # type: ignore[no-untyped-def]
    letters = np.empty(BLOCK, np.uint32)
    bounds = np.empty(BLOCK // 2, np.int64)
    counts = np.zeros(3, np.int32)
    sums = np.zeros((len(first), 2))
    mask = np.uint64(len(keys) - 1)
    for text in range(len(first)):
        i = first[text]
        while i < last[text]:
            words, i = read_words(data, i, last[text], table, letters, bounds, counts)
            for w in range(words):
                key = word_hash(letters, bounds[w], bounds[w + 1])
                place = key & mask
                while keys[place] != _EMPTY and keys[place] != key:
                    place = (place + np.uint64(1)) & mask
                if keys[place] == key:
                    strength = strengths[place]
                    sums[text, 0 if strength > 0 else 1] += abs(strength)
    return sums


def words_of(text: str) -> set[str]:
    """Words of a text as the scoring loops read them, code apart."""
    return {word.lower().replace("’", "'").replace("ʼ", "'").replace("‐", "-").replace("‑", "-") for word in _WORD.findall(text)}


def learn_marks(pairs: Iterable[tuple[str, str, str]], single: Iterable[tuple[str, bool]], background: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Marks and their strengths, sorted by word.

    `pairs`: (Catalan, Valencian, origin) translations of one string. `single`: (text, whether it is Valencian), texts rich in marks.
    `background`: (text, origin) of Catalan documents.
    """
    valencian: dict[str, Counter[str]] = defaultdict(Counter)
    catalan: dict[str, Counter[str]] = defaultdict(Counter)
    for central, other, origin in pairs:
        mine, theirs = words_of(central), words_of(other)
        for word in theirs - mine:
            valencian[word][origin] += 1
        for word in mine - theirs:
            catalan[word][origin] += 1
    alone: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for text, is_valencian in single:
        alone[is_valencian].update(words_of(text))
    origins: dict[str, set[str]] = defaultdict(set)
    for text, origin in background:
        for word in words_of(text):
            origins[word].add(origin)
    found: dict[str, float] = {}
    for word in sorted(set(valencian) | set(catalan) | set(alone[0]) | set(alone[1])):
        for_it = sum(min(n, _PER_ORIGIN) for n in valencian[word].values()) + alone[1][word]
        against = sum(min(n, _PER_ORIGIN) for n in catalan[word].values()) + alone[0][word]
        ratio = float(np.log((for_it + 0.3) / (against + 0.3)))
        if ratio > _LEAST_RATIO and for_it >= _LEAST:
            rare = float(np.log((len(valencian[word]) + alone[1][word] + 0.3) / (0.3 + _BACKGROUND * len(origins[word]))))
            if rare > 0:
                found[word] = round(min(ratio, rare + _LEAST_RATIO, _STRONGEST), 2)
        elif ratio < -_LEAST_RATIO and against >= _LEAST:
            found[word] = round(max(ratio, -_STRONGEST), 2)
    return found


def write_marks(path: Path, marks: dict[str, float]) -> None:
    """Write a list that `Marks.load` reads."""
    write_text(path, _HEADER + "".join(f"{word}\t{strength}\n" for word, strength in sorted(marks.items())))
