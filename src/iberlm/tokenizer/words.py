"""What a tokenizer is trained on: how often each word occurs in the sample, by language.

No trainer used here learns anything across white space, so distinct words and their counts are all there is to learn from:
a sample of any size becomes a table of bounded size, and giving a language more weight is a multiplication.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iberlm.core.documents import read_batches
from iberlm.tokenizer.config import ELISION

Words = dict[str, int]
"""Count by word. A word is NFC, has its leading space if it has one, and holds no line end; a run of spaces is a word too."""

MAX_WORD_CHARACTERS = 1_000
"""Longer runs without white space are data rather than language (a hash, a picture in base64) and are not trained on."""

COUNT_SCALE = 8
"""Weighted counts are kept as integers of 1/8: rounding changes a word that occurs once by a sixteenth at most."""

_WORD = re.compile(r" +(?= [^ \n])| ?[^ \n]+| +")
_MARKS = "\u0300-\u036f"
_LETTER = rf"[^\W\d_{_MARKS}][{_MARKS}]*"
_PARTS = re.compile(
    rf"""
    [\ ]?[ldsmtn]['’](?={_LETTER})                                # l'escola, d'una, s'ha: the elided word keeps its apostrophe
    | (?<=\w)['’](?:ls|ns|us|hi|ho|[lmnst])(?!\w)                # canta'l, dona'm: so does the pronoun that follows
    | [\ ]?(?:{_LETTER})+(?:(?<=[lL])·(?=[lL])(?:{_LETTER})+)*    # letters, the point of l·l among them
    | [\ ]?\d
    | [\ ]?(?:(?!{_LETTER})[^\d\ ])+
    | [\ ]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def words_of(text: str) -> list[str]:
    """The words of a text in their order: what lies between white space, each with the space before it.

    Of a longer run of spaces the last belongs to the word and the others are a word of their own.
    """
    return _WORD.findall(text)


def parts_of(word: str) -> list[str]:
    """A word cut where `split=elision` lets no piece cross: "l'", "escola", "," of "l'escola,"; they join to the word again."""
    return _PARTS.findall(word)


def count_file(path: Path, repeats: npt.NDArray[np.int64], max_words: int) -> Words:
    """Count the words of the documents of a file, each as often as `repeats` (int64, one a document) says; 0 leaves it out.

    Memory is bounded: whenever there are more than 2 x `max_words` words, the rarest are forgotten (lossy counting). One
    that is forgotten and comes again is counted from then on, so only words rarer than the limit can be undercounted.
    """
    counts: Counter[str] = Counter()
    position = 0
    for batch in read_batches(path, ["text"]):
        for text in batch["text"].to_pylist():
            times = int(repeats[position])
            position += 1
            if times:
                found = words_of(unicodedata.normalize("NFC", text))
                for _ in range(times):
                    counts.update(found)
        if len(counts) > 2 * max_words:
            counts = Counter(most_frequent(counts, max_words))
    return {word: count for word, count in counts.items() if len(word) <= MAX_WORD_CHARACTERS}


def most_frequent(counts: Mapping[str, int], limit: int) -> Words:
    """The `limit` most frequent words; among equally frequent ones the first in the order of their characters."""
    if len(counts) <= limit:
        return dict(counts)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit])


def merge(parts: Iterator[Words] | list[Words], max_words: int) -> Words:
    """The sum of several counts, bounded as in `count_file`."""
    total: Counter[str] = Counter()
    for part in parts:
        for word, count in part.items():
            total[word] += count
        if len(total) > 2 * max_words:
            total = Counter(most_frequent(total, max_words))
    return most_frequent(total, max_words)


def weighted(words: Mapping[str, Words], multipliers: Mapping[str, float], max_words: int) -> Words:
    """One table of all languages, each count times its language's multiplier and `COUNT_SCALE`, rounded, at least 1."""
    total: dict[str, int] = {}
    for tag, counts in words.items():
        factor = multipliers[tag] * COUNT_SCALE
        for word, count in counts.items():
            total[word] = total.get(word, 0) + max(1, round(count * factor))
    return most_frequent(total, max_words)


def unscaled(words: Mapping[str, int]) -> Words:
    """A weighted table in whole words, for trainers that read every word as often as it counts."""
    return {word: max(1, round(count / COUNT_SCALE)) for word, count in words.items()}


def trainable(words: Mapping[str, int], split: str) -> Words:
    """The table as a SentencePiece trainer gets it: cut according to `split`, without control characters.

    Line ends, tabs and other control characters are written as bytes by the finished tokenizer.
    """
    if split == ELISION:
        total: dict[str, int] = {}
        for word, count in words.items():
            for part in parts_of(word):
                total[part] = total.get(part, 0) + count
        words = total
    clean: dict[str, int] = {}
    for word, count in words.items():
        for part in _CONTROL.split(word):
            if part:
                clean[part] = clean.get(part, 0) + count
    return clean


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
