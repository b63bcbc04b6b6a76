"""Whole sequences of words looked up in documents: short items of an evaluation, passages that someone asks to be removed.

A sequence matches where its words follow each other, whatever their case and whatever stands between them (words are
the kernel's). Documents are first searched for the sequences' first words, all at once; only those that have some are
searched for whole sequences.

Documents are in NFC, as the extraction writes them. One that is not, all the same, is composed for the search and its
offsets are led back to the text as it is: decomposed accents must not hide an item.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.curate.measure.kernel import find_ngrams, ngram_hashes

Integers = npt.NDArray[np.int64]
_COMBINING = (0xCC, 0xCD)
"""First bytes in UTF-8 of U+0300 to U+037F, the combining accents; they begin no other character and stand nowhere else."""


class Found(NamedTuple):
    """Where sequences occur, each array of shape (occurrences,), ordered by row and start."""

    row: Integers
    start: Integers
    end: Integers
    """Code points, half open."""
    number: Integers
    """Which sequence."""
    hashes: npt.NDArray[np.uint64]
    """Of the words found."""

    @classmethod
    def of(cls, parts: "list[Found]") -> "Found":
        """All of several, in order."""
        empty = np.empty(0, np.int64)
        row, start, end, number, hashes = (
            np.concatenate(column) for column in zip(cls(empty, empty, empty, empty, empty.astype(np.uint64)), *parts, strict=True)
        )
        order = np.lexsort((number, end, start, row))
        return cls(row[order], start[order], end[order], number[order], hashes[order])


def normal(text: str) -> str:
    """A text as sequences are made of: NFC, and half a surrogate pair, which JSON can hold and UTF-8 cannot, made a question mark."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode()


def word_counts(texts: pa.LargeStringArray) -> Integers:
    """Number of words of each text, shape (texts,)."""
    counts: Integers = np.diff(ngram_hashes(texts, 1).offsets)
    return counts


@dataclass(frozen=True)
class Sequences:
    """Sequences of at least `anchor_words` words, ready to be looked for. Pickles."""

    anchor_words: int
    anchors: npt.NDArray[np.uint64]
    """Hashes of their first `anchor_words` words, sorted, each once."""
    tables: dict[int, tuple[npt.NDArray[np.uint64], Integers]]
    """By number of words: the hashes of the sequences, sorted, and which sequence each is."""

    @classmethod
    def of(cls, texts: pa.LargeStringArray, numbers: Integers, anchor_words: int) -> "Sequences":
        """From texts in NFC and a number for each, shape (texts,). Raises `ValueError` when one has fewer than `anchor_words` words."""
        counts = word_counts(texts)
        if len(counts) and counts.min() < anchor_words:
            raise ValueError(f"a sequence of {counts.min()} words, fewer than the {anchor_words} by which sequences are found")
        first = ngram_hashes(texts, anchor_words)
        tables = {}
        for words in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == words)
            hashes = ngram_hashes(texts.take(pa.array(rows)), words).hashes
            order = np.argsort(hashes, kind="stable")
            tables[words] = (hashes[order], numbers[rows][order])
        return cls(anchor_words, np.unique(first.hashes[first.offsets[:-1]]), tables)

    def find(self, text: pa.LargeStringArray) -> Found:
        """Every occurrence of every sequence in documents in NFC (see `composed`); of equal sequences each is found."""
        if not len(self.anchors):
            return Found.of([])
        candidates = np.unique(find_ngrams(text, self.anchor_words, self.anchors).row)
        parts = []
        if len(candidates):
            fewer = text.take(pa.array(candidates))
            for words, (hashes, numbers) in self.tables.items():
                matches = find_ngrams(fewer, words, hashes)
                which, number = expand(matches.hashes, hashes, numbers)
                rows, starts, ends = candidates[matches.row[which]], matches.start[which].astype(np.int64), matches.end[which].astype(np.int64)
                parts.append(Found(rows, starts, ends, number, matches.hashes[which]))
        return Found.of(parts)


def expand(found: npt.NDArray[np.uint64], table: npt.NDArray[np.uint64], numbers: Integers) -> tuple[Integers, Integers]:
    """Pair each found hash with every number that it has in a sorted table of (hash, number) rows.

    Returns (index into `found`, number), each of shape (pairs,), in the order of `found`.
    """
    first, last = np.searchsorted(table, found, "left"), np.searchsorted(table, found, "right")
    lengths = last - first
    which = np.repeat(np.arange(len(found)), lengths)
    within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return which, numbers[first[which] + within]


def search(text: pa.LargeStringArray, find: Callable[[pa.LargeStringArray], Found]) -> Found:
    """What `find` finds in the documents put into NFC, with offsets into the documents as they are."""
    plain, places = composed(text)
    found = find(plain)
    for row, (starts, ends) in places.items():
        inside = np.flatnonzero(found.row == row)
        found.end[inside] = ends[found.end[inside] - 1]
        found.start[inside] = starts[found.start[inside]]
    return found


def composed(text: pa.LargeStringArray) -> tuple[pa.LargeStringArray, dict[int, tuple[Integers, Integers]]]:
    """Documents in NFC, and for the rows that this changed the code points (start, end) that each new code point stands for."""
    _, offsets, data = text.buffers()
    if not len(text) or data is None:
        return text, {}
    bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    content = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    marks = np.flatnonzero((content == _COMBINING[0]) | (content == _COMBINING[1])) + bounds[0]
    rows = np.unique(np.searchsorted(bounds, marks, "right") - 1)
    places: dict[int, tuple[Integers, Integers]] = {}
    changed = []
    for row in rows.tolist():
        document = text[row].as_py()
        if document is not None and not unicodedata.is_normalized("NFC", document):
            new, places[row] = _compose(document)
            changed.append(new)
    if not changed:
        return text, {}
    mask = np.zeros(len(text), np.bool_)
    mask[[*places]] = True
    return pc.replace_with_mask(text, pa.array(mask), pa.array(changed, pa.large_string())), places


def _compose(document: str) -> tuple[str, tuple[Integers, Integers]]:
    """Each character with its combining marks composed by itself, so that places are known."""
    begins = [index for index, character in enumerate(document) if not unicodedata.combining(character) or index == 0]
    parts, starts, ends = [], [], []
    for start, end in zip(begins, [*begins[1:], len(document)], strict=True):
        part = unicodedata.normalize("NFC", document[start:end])
        parts.append(part)
        starts += [start] * len(part)
        ends += [end] * len(part)
    return "".join(parts), (np.array(starts, np.int64), np.array(ends, np.int64))
