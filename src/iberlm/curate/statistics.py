"""Numbers about one text: the statistics that the filters of Gopher, C4 and FineWeb compare.

Sources: Rae et al. 2021 (Gopher, arXiv 2112.11446, table A1) for word, symbol, line and repetition statistics; Penedo et
al. 2024 (FineWeb, arXiv 2406.17557) for line punctuation and new lines. Ratios are 0 for an empty text.

Words are runs of letters, digits and marks; a clitic before an apostrophe is a word of its own (l'home -> l', home), a
hyphen and the punt volat stay inside (anar-se'n -> anar-se, 'n; col·legi). n-gram ratios are shares of the characters
of words, as in Gopher; a repeated n-gram counts from its second occurrence on, without counting a character twice.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import xxhash

WORD = re.compile(r"\b(?:[ldsnmtcj]|qu)['’](?=\w)|['’](?:ns?|ls?|m|t|s|us)\b|[^\W_]+(?:[·\-‧][^\W_]+)*")
_LETTER = re.compile(r"[^\W\d_]")
_BULLETS = ("•", "-", "*", "‣", "·", "–", "▪", "●", "◦")
_ELLIPSES = ("...", "…")
_END_PUNCTUATION = (".", "!", "?", "…", ":", ";", '"', "»", "”", "'", "’", ")")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

STOP_WORDS: dict[str, frozenset[str]] = {
    "es": frozenset("de la en el y a que del los se por un con una las su no es para como más pero lo al".split()),
    "ca": frozenset("de la el i a que els les un una en per amb es no va del als al l' d' s' n' o és ha com més però".split()),
    "ca-valencia": frozenset("de la el i a que els les un una en per amb es no va del als al l' d' s' n' o és ha com més però".split()),
    "eu": frozenset("eta da ez du zen bat dira izan ere egin den edo hau duen baina dute dago zuen dela bere oso".split()),
    "gl": frozenset("de a e o en que do da un no os na é unha como se as dos por con para non máis ao á pero".split()),
}
"""The commonest function words of each language, for Gopher's test that a text is made of sentences."""


class Statistics(TypedDict):
    """One text's statistics, the annotation columns of the same names."""

    words: int
    mean_word_length: float
    alpha_word_ratio: float
    stop_words: int
    symbol_word_ratio: float
    bullet_line_ratio: float
    ellipsis_line_ratio: float
    punctuated_line_ratio: float
    new_line_ratio: float
    duplicate_line_ratio: float
    duplicate_line_character_ratio: float
    top_2_gram_ratio: float
    top_3_gram_ratio: float
    top_4_gram_ratio: float
    duplicate_5_gram_ratio: float
    duplicate_6_gram_ratio: float
    duplicate_7_gram_ratio: float
    duplicate_8_gram_ratio: float
    duplicate_9_gram_ratio: float
    duplicate_10_gram_ratio: float


def split_words(text: str) -> list[str]:
    """Words of a text, lower-cased, typographic apostrophes made plain."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))


def word_hashes(words: list[str]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each word, shape (n,)."""
    return np.fromiter((_word_hash(word) for word in words), np.uint64, len(words))


def ngram_hashes(hashes: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every window of `n` words, shape (words - n + 1,), empty for shorter texts."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    mixed = hashes[:count].copy()
    for offset in range(1, n):
        mixed *= _MULTIPLIER  # wraps round: the ring of 64-bit integers is meant
        mixed ^= mixed >> np.uint64(29)
        mixed += hashes[offset : offset + count]
    return mixed


def top_ngram_ratio(hashes: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64], n: int) -> float:
    """Characters in the commonest `n`-gram, over characters of all words; 0 when none occurs twice.

    Among equally common ones the longest counts. `lengths`: characters of each word, shape (words,).
    """
    grams = ngram_hashes(hashes, n)
    if not len(grams):
        return 0.0
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    most = counts.max()
    if most < 2:
        return 0.0
    ends = np.concatenate(([0], np.cumsum(lengths)))
    starts = first[counts == most]
    return float(min(1.0, (ends[starts + n] - ends[starts]).max() * most / max(1, ends[-1])))


def duplicate_ngram_ratio(hashes: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64], n: int) -> float:
    """Characters of words inside an `n`-gram that occurred before, over characters of all words."""
    grams = ngram_hashes(hashes, n)
    if not len(grams):
        return 0.0
    _, first = np.unique(grams, return_index=True)
    repeated = np.ones(len(grams), dtype=bool)
    repeated[first] = False
    if not repeated.any():
        return 0.0
    change = np.zeros(len(hashes) + 1, dtype=np.int64)
    change[:-1][: len(grams)] += repeated
    change[n : n + len(grams)] -= repeated
    covered = np.cumsum(change)[:-1] > 0
    return float(lengths[covered].sum() / max(1, lengths.sum()))


def statistics(text: str, language: str) -> tuple[Statistics, npt.NDArray[np.uint64]]:
    """All statistics of a text and the hashes of its words (shape (words,)), which MinHash reuses.

    `language` decides the stop words; a language without a list counts none.
    """
    words = split_words(text)
    hashes = word_hashes(words)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    count = max(1, len(words))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    line_count = max(1, len(lines))
    line_counts = Counter(lines)
    stop = STOP_WORDS.get(language, frozenset())
    found: Statistics = {
        "words": len(words),
        "mean_word_length": float(lengths.mean()) if len(words) else 0.0,
        "alpha_word_ratio": sum(1 for word in words if _LETTER.search(word)) / count,
        "stop_words": sum(1 for word in words if word in stop),
        "symbol_word_ratio": (text.count("#") + sum(text.count(mark) for mark in _ELLIPSES)) / count,
        "bullet_line_ratio": sum(line.startswith(_BULLETS) for line in lines) / line_count,
        "ellipsis_line_ratio": sum(line.endswith(_ELLIPSES) for line in lines) / line_count,
        "punctuated_line_ratio": sum(line.endswith(_END_PUNCTUATION) for line in lines) / line_count,
        "new_line_ratio": text.count("\n") / count,
        "duplicate_line_ratio": (len(lines) - len(line_counts)) / line_count,
        "duplicate_line_character_ratio": sum(len(line) * (n - 1) for line, n in line_counts.items()) / max(1, sum(map(len, lines))),
        "top_2_gram_ratio": top_ngram_ratio(hashes, lengths, 2),
        "top_3_gram_ratio": top_ngram_ratio(hashes, lengths, 3),
        "top_4_gram_ratio": top_ngram_ratio(hashes, lengths, 4),
        "duplicate_5_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 5),
        "duplicate_6_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 6),
        "duplicate_7_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 7),
        "duplicate_8_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 8),
        "duplicate_9_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 9),
        "duplicate_10_gram_ratio": duplicate_ngram_ratio(hashes, lengths, 10),
    }
    return found, hashes
