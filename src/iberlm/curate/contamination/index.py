"""The index of evaluation texts: which n-grams of words, and which short texts as a whole, belong to which items.

Items are told apart from templates: an n-gram that occurs in more than `max_items` different texts is not used, nor is a
text that more than `max_items` items of a suite, and more than a twentieth of them, have in common (an instruction, a
question asked about every passage). A passage that several questions share is neither.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from iberlm.core.files import publish
from iberlm.curate.contamination.items import Text
from iberlm.curate.contamination.word_sequences import Found, Integers, Sequences, expand, normal
from iberlm.curate.measure.kernel import find_ngrams, ngram_hashes

TEMPLATE_SHARE = 0.05
"""A text that a larger share of a suite's items have in common is a template."""
NGRAMS, EXACT, TOO_SHORT, TEMPLATE = "ngrams", "exact", "too_short", "template"
"""How a text is looked for, or why it is not."""
_CHUNK_TEXTS = 1 << 16


@dataclass(frozen=True)
class Row:
    """One text of one item, and the number of the text, which equal texts share."""

    suite: str
    item: str
    field: str
    number: int


@dataclass(frozen=True)
class Texts:
    """The texts of an evaluation: what the report on items needs."""

    words: Integers
    """Words of each text, shape (texts,)."""
    method: list[str]
    """How each text is looked for."""
    unused: Integers
    """n-grams of each text that are not used, shape (texts,)."""
    rows: list[Row]
    """Every text of every item, in the order of the files."""


@dataclass(frozen=True)
class EvaluationIndex:
    """What documents are searched for, and under which names."""

    probes: npt.NDArray[np.uint64]
    """Hashes of every `exact.anchor_words` words in a row of any text that is looked for, sorted, each once. Documents without any hold nothing."""
    ngram_words: int
    table: npt.NDArray[np.uint64]
    """Hashes of n-grams, sorted; one entry a text that has it."""
    numbers: Integers
    """The text of each entry of `table`."""
    exact: Sequences
    """Short texts, by their numbers."""
    label_offsets: Integers
    """First label of each text, and the number of all; shape (texts + 1,)."""
    labels: pa.Table
    """`suite` and `item`: of each text the first item in each suite that has it."""

    def find(self, text: pa.LargeStringArray) -> Found:
        """Every n-gram and short text of the index in documents in NFC; `number` is the text's."""
        candidates = np.unique(find_ngrams(text, self.exact.anchor_words, self.probes).row)  # few: one reading of most documents instead of two
        if not len(candidates):
            return Found.of([])
        fewer = text.take(pa.array(candidates))
        matches = find_ngrams(fewer, self.ngram_words, self.table)
        which, number = expand(matches.hashes, self.table, self.numbers)
        starts, ends = matches.start[which].astype(np.int64), matches.end[which].astype(np.int64)
        found = Found.of([Found(matches.row[which], starts, ends, number, matches.hashes[which]), self.exact.find(fewer)])
        return found._replace(row=candidates[found.row])

    def save(self, folder: Path) -> None:
        """Write the index as a folder of plain arrays, for worker processes."""
        exact = [(words, *pair) for words, (hashes, numbers) in self.exact.tables.items() for pair in zip(hashes, numbers, strict=True)]
        arrays: dict[str, npt.NDArray[Any]] = {
            "probes": self.probes,
            "sizes": np.array([self.ngram_words, self.exact.anchor_words]),
            "table": self.table,
            "numbers": self.numbers,
            "anchors": self.exact.anchors,
            "exact_words": np.array([words for words, _, _ in exact], np.int64),
            "exact_hashes": np.array([value for _, value, _ in exact], np.uint64),
            "exact_numbers": np.array([number for _, _, number in exact], np.int64),
            "label_offsets": self.label_offsets,
        }
        for name, array in arrays.items():
            with publish(folder / f"{name}.npy") as temporary:
                np.save(temporary, array, allow_pickle=False)
        with publish(folder / "labels.parquet") as temporary:
            pq.write_table(self.labels, temporary)

    @classmethod
    def load(cls, folder: Path) -> "EvaluationIndex":
        """Read what `save` wrote; the large arrays are mapped into memory, so that all processes of a node share them."""
        arrays = {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}
        tables = {}
        for words in np.unique(arrays["exact_words"]).tolist():
            rows = arrays["exact_words"] == words
            tables[words] = (np.array(arrays["exact_hashes"][rows]), np.array(arrays["exact_numbers"][rows]))
        ngram_words, anchor_words = arrays["sizes"].tolist()
        exact = Sequences(anchor_words, np.array(arrays["anchors"]), tables)
        labels = pq.read_table(folder / "labels.parquet")
        return cls(
            np.asarray(arrays["probes"]),
            ngram_words,
            np.asarray(arrays["table"]),
            np.asarray(arrays["numbers"]),
            exact,
            np.array(arrays["label_offsets"]),
            labels,
        )


def build(texts: Iterable[Text], *, ngram_words: int, short_item_words: int, max_items: int) -> tuple[EvaluationIndex, Texts]:
    """Index texts; equal ones (in their words) share a number, whatever items they stand in."""
    seen: dict[int, int] = {}
    rows: list[Row] = []
    words: list[int] = []
    grams: list[tuple[npt.NDArray[np.uint64], Integers]] = []
    probes = [np.empty(0, np.uint64)]
    short: list[str] = []
    short_numbers: list[int] = []
    source = iter(texts)
    while chunk := list(islice(source, _CHUNK_TEXTS)):
        plain = [normal(entry.text) for entry in chunk]
        array = pa.array(plain, pa.large_string())
        new = []
        for index, (count, key) in enumerate(_keys(array)):
            number = seen.setdefault(key, len(words))
            rows.append(Row(chunk[index].suite, chunk[index].item, chunk[index].field, number))
            if number == len(words):
                words.append(count)
                new.append((index, number))
                if short_item_words <= count < ngram_words:
                    short.append(plain[index])
                    short_numbers.append(number)
        unknown = array.take(pa.array([index for index, _ in new], pa.int64()))
        listed = ngram_hashes(unknown, ngram_words)
        grams.append((listed.hashes, np.repeat(np.array([number for _, number in new], np.int64), np.diff(listed.offsets))))
        probes.append(np.unique(ngram_hashes(unknown, short_item_words).hashes))
    counts = np.array(words, np.int64)
    templates = _templates(rows, len(words), max_items)
    method = [
        TOO_SHORT if count < short_item_words else TEMPLATE if template else EXACT if count < ngram_words else NGRAMS
        for count, template in zip(words, templates.tolist(), strict=True)
    ]
    table, numbers, unused = _table(grams, templates, max_items, len(words))
    chosen = [index for index, number in enumerate(short_numbers) if method[number] == EXACT]
    sequences = pa.array([short[index] for index in chosen], pa.large_string())
    exact = Sequences.of(sequences, np.array(short_numbers, np.int64)[chosen], short_item_words)
    offsets, labels = _labels(rows, len(words))
    return EvaluationIndex(np.unique(np.concatenate(probes)), ngram_words, table, numbers, exact, offsets, labels), Texts(counts, method, unused, rows)


def _labels(rows: list[Row], texts: int) -> tuple[Integers, pa.Table]:
    first: dict[tuple[int, str], str] = {}
    for row in rows:
        first.setdefault((row.number, row.suite), row.item)
    ordered = sorted(first.items(), key=lambda entry: entry[0][0])  # stable: suites stay in the order of the files
    offsets = np.searchsorted(np.array([number for (number, _), _ in ordered], np.int64), np.arange(texts + 1)).astype(np.int64)
    return offsets, pa.table(
        {"suite": pa.array([suite for (_, suite), _ in ordered], pa.string()), "item": pa.array([item for _, item in ordered], pa.string())}
    )


def _keys(array: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
    """Number of words and a 64-bit hash of them, a text."""
    listed = ngram_hashes(array, 1)
    for start, end in zip(listed.offsets[:-1].tolist(), listed.offsets[1:].tolist(), strict=True):
        yield end - start, xxhash.xxh3_64_intdigest(listed.hashes[start:end].tobytes())


def _templates(rows: list[Row], texts: int, max_items: int) -> npt.NDArray[np.bool_]:
    """Whether too many items of one suite have each text; shape (texts,)."""
    items: dict[str, set[str]] = {}
    owners: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        items.setdefault(row.suite, set()).add(row.item)
        owners.setdefault((row.suite, row.number), set()).add(row.item)
    found = np.zeros(texts, np.bool_)
    for (suite, number), having in owners.items():
        found[number] |= len(having) > max_items and len(having) > TEMPLATE_SHARE * len(items[suite])
    return found


def _table(
    grams: list[tuple[npt.NDArray[np.uint64], Integers]], templates: npt.NDArray[np.bool_], max_items: int, texts: int
) -> tuple[npt.NDArray[np.uint64], Integers, Integers]:
    """(hash, text) entries sorted, each once, without n-grams of too many texts; and how many of these each text has."""
    hashes = np.concatenate([part for part, _ in grams]) if grams else np.empty(0, np.uint64)
    numbers = np.concatenate([part for _, part in grams]) if grams else np.empty(0, np.int64)
    order = np.lexsort((numbers, hashes))
    hashes, numbers = hashes[order], numbers[order]
    first = np.ones(len(hashes), np.bool_)
    first[1:] = (hashes[1:] != hashes[:-1]) | (numbers[1:] != numbers[:-1])
    hashes, numbers = hashes[first], numbers[first]
    _, inverse, having = np.unique(hashes, return_inverse=True, return_counts=True)
    common = having[inverse] > max_items
    # an n-gram of a template stays useless where another text repeats it
    common |= np.isin(hashes, hashes[templates[numbers]])
    return hashes[~common], numbers[~common], np.bincount(numbers[common], minlength=texts).astype(np.int64)
