"""The inputs of `benchmarks/tokenizer.py`: folders of curated documents, merged, without the text that is measured on, or of any size.

The large ones are drawn so that new words go on appearing as they do in real text: where n words of a language have K n^B different ones
(Heaps), the frequencies of the words that real text has not shown yet fall as rank^-(1/B) (Zipf), without end.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

RUN_WORDS = 13
"""A document that has so many words in a row in common with a text contains it: the length that GPT-3's authors and many after them took."""
LINE_WORDS, SHARED_LINES = 5, 2
"""And so does one with two of its lines, headings aside."""
FILE_BYTES = 64 << 20
DOCUMENT_LINES, LINE_OF_WORDS = 20, 15
SYLLABLES = [first + second for first in "bcdfglmnprstv" for second in "aeiou"]
DEEPEST_RANK = 1 << 52


@dataclass(frozen=True)
class Documents:
    """A folder of the curate stage made here, and what is in it: documents and bytes of text by language."""

    folder: Path
    documents: dict[str, int]
    text_bytes: dict[str, int]

    @property
    def megabytes(self) -> float:
        """Text of all languages, in 10^6 bytes of UTF-8."""
        return sum(self.text_bytes.values()) / 1e6


def files_of(folders: Iterable[Path], split: str) -> dict[str, list[Path]]:
    """Document files of folders of the curate stage by language."""
    from iberlm.core.manifest import read_manifest
    from iberlm.tokenizer.corpus import split_files

    found: dict[str, list[Path]] = {}
    for folder in folders:
        for tag, paths in split_files(read_manifest(folder), split).items():
            found.setdefault(tag, []).extend(paths)
    return found


def texts_of(paths: Iterable[Path]) -> Iterator[str]:
    """The texts of document files."""
    from iberlm.core.documents import read_batches

    for path in paths:
        for batch in read_batches(path, ["text"]):
            yield from batch["text"].to_pylist()


def write_curated(folder: Path, parts: Iterable[tuple[str, str, Iterable[Any]]]) -> Documents:
    """A finished stage `curate` with the documents of `parts`: (split, language, tables of documents), each a file."""
    import pyarrow.compute as pc

    from iberlm.core.config import StageConfig
    from iberlm.core.documents import write_documents
    from iberlm.core.languages import file_safe
    from iberlm.core.stage import run_stage

    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def counted(tag: str, tables: Iterable[Any]) -> Iterator[Any]:
        for table in tables:
            documents[tag] += table.num_rows
            sizes[tag] += pc.sum(pc.binary_length(table["text"])).as_py() or 0
            yield table

    def body(config: Any, inputs: Any, out: Path, record: Any) -> None:
        for number, (split, tag, tables) in enumerate(parts):
            path = out / "documents" / f"{split}.{file_safe(tag)}.{number:05d}.parquet"
            record.output(path, write_documents(path, counted(tag, tables)))
        record.counts.kept.update(documents)
        record.cards["measured_text"] = "CC0-1.0"

    run_stage("curate", 1, body, StageConfig(), [], folder, fingerprint=str(folder))
    return Documents(folder, dict(documents), dict(sizes))


# --- without the text that is measured on --------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Lower-cased words, composed: what two copies of a text have in common whatever their marks and lines."""
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


class Held:
    """A text that is measured on, to be recognised in documents."""

    def __init__(self, parallel: Mapping[str, list[str]]) -> None:
        self.lines = {tuple(words) for lines in parallel.values() for line in lines if len(words := words_of(line)) >= LINE_WORDS}
        joined = [[word for line in lines for word in words_of(line)] for lines in parallel.values()]
        self.runs = {tuple(words[start : start + RUN_WORDS]) for words in joined for start in range(len(words) - RUN_WORDS + 1)}
        self.starts = {run[:2] for run in self.runs}

    def inside(self, text: str) -> bool:
        """Whether a document has a run of its words or two of its lines."""
        words = words_of(text)
        # pairs of words first: few documents have one that begins a run
        for start, pair in enumerate(pairwise(words)):
            if pair in self.starts and tuple(words[start : start + RUN_WORDS]) in self.runs:
                return True
        return sum(tuple(words_of(line)) in self.lines for line in text.split("\n")) >= SHARED_LINES


def without(folders: list[Path], parallel: Mapping[str, list[str]], out: Path, languages: list[str]) -> tuple[Documents, dict[str, int]]:
    """The training and validation documents of all folders but those that have the parallel text in them; and how many of these, by language."""
    from iberlm.core.documents import SCHEMA, read_batches

    held = Held(parallel)
    left_out = dict.fromkeys(languages, 0)

    def kept(tag: str, paths: list[Path]) -> Iterator[Any]:
        for path in paths:
            for batch in read_batches(path, SCHEMA.names):
                good = [not held.inside(text) for text in batch["text"].to_pylist()]
                left_out[tag] += good.count(False)
                yield batch.filter(_boolean(good)).cast(SCHEMA)

    parts = ((split, tag, kept(tag, paths)) for split in ("train", "validation") for tag, paths in files_of(folders, split).items() if tag in languages)
    return write_curated(out, parts), left_out


def _boolean(values: list[bool]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.bool_())


def copies(source: Path, times: int, out: Path, languages: list[str]) -> Documents:
    """The training documents of a folder so many times over, each copy in files of its own."""
    from iberlm.core.documents import SCHEMA, read_batches

    def of(paths: list[Path]) -> Iterator[Any]:
        for path in paths:
            for batch in read_batches(path, SCHEMA.names):
                yield batch.cast(SCHEMA)

    files = {tag: paths for tag, paths in files_of([source], "train").items() if tag in languages}
    return write_curated(out, (("train", tag, of(paths)) for _ in range(times) for tag, paths in files.items()))


# --- of any size ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordLaw:
    """How the words of a language are drawn: those of real text as often as they are there, and others that it has not shown yet.

    `k`, `b`: of Heaps' law. `words`, the commonest first; `shares`, float64[words], of the real text with that word or one before it.
    """

    k: float
    b: float
    words: list[str]
    shares: Any

    @property
    def exponent(self) -> float:
        """Of Zipf's law: with a frequency of C rank^-(1/B), n words have Gamma(1 - B) (C n)^B different ones."""
        return 1 / self.b

    @property
    def unseen(self) -> float:
        """The share of words yet unseen: the integral of C rank^-a beyond the ranks of the real ones. (Near the share of words seen once.)"""
        c = (self.k / math.gamma(1 - self.b)) ** self.exponent
        return float(c * len(self.words) ** (1 - self.exponent) / (self.exponent - 1))

    def ranks(self, count: int, generator: Any) -> Any:
        """Ranks from 0, int64[count]; those beyond the real words by the inverse of P(rank >= r) = (words / r)^(a - 1)."""
        import numpy as np

        ranks = np.searchsorted(self.shares, generator.random(count), side="right")
        beyond = np.flatnonzero(generator.random(count) < self.unseen)
        deep = len(self.words) * (1 - generator.random(len(beyond))) ** (-1 / (self.exponent - 1))
        ranks[beyond] = np.minimum(deep, DEEPEST_RANK).astype(np.int64)
        return ranks

    def word(self, rank: int) -> str:
        """The word of a rank: a real one, or beyond them one that is made up, of the beginning of a real one and syllables of its number."""
        if rank < len(self.words):
            return self.words[rank]
        number, ending = rank, ""
        while number:
            number, digit = divmod(number, len(SYLLABLES))
            ending += SYLLABLES[digit]
        stem = self.words[rank * 2654435761 % min(len(self.words), 20_000)]
        return (stem[:4] if stem.isalpha() else "") + ending


def fit(texts: Iterable[str]) -> WordLaw:
    """Heaps' law by least squares on logarithms of counts taken as the text grows, from its tenth part on."""
    import numpy as np

    seen: Counter[str] = Counter()
    points: list[tuple[int, int]] = []
    total = 0
    for text in texts:
        words = unicodedata.normalize("NFC", text).split()
        seen.update(words)
        total += len(words)
        points.append((total, len(seen)))
    late = [(math.log(n), math.log(distinct)) for n, distinct in points if n >= points[-1][0] / 10]
    mean_n, mean_d = (sum(values) / len(late) for values in zip(*late, strict=True))
    b = sum((n - mean_n) * (d - mean_d) for n, d in late) / sum((n - mean_n) ** 2 for n, _ in late)
    ordered = sorted(seen.items(), key=lambda entry: (-entry[1], entry[0]))
    counts = np.asarray([count for _, count in ordered], np.float64)
    return WordLaw(math.exp(mean_d - b * mean_n), b, [word for word, _ in ordered], np.cumsum(counts) / counts.sum())


def shuffled(paths: list[Path]) -> list[str]:
    """The texts in an order that has nothing to do with where they come from: in files, like stands by like."""
    import numpy as np

    texts = list(texts_of(paths))
    return [texts[index] for index in np.random.Generator(np.random.PCG64(7)).permutation(len(texts))]


def synthetic(laws: Mapping[str, WordLaw], text_bytes: int, folder: Path) -> Documents:
    """So many bytes of text, the same of every language, drawn from its law; reproducible."""

    def parts() -> Iterator[tuple[str, str, Iterable[Any]]]:
        for seed, (tag, law) in enumerate(laws.items()):
            left = text_bytes // len(laws)
            for number in range(math.ceil(left / FILE_BYTES)):
                yield "train", tag, _tables(law, tag, min(FILE_BYTES, left - number * FILE_BYTES), (seed, number))
            yield "validation", tag, islice(_tables(law, tag, 1, (seed, 1 << 20)), 1)

    return write_curated(folder, parts())


def _tables(law: WordLaw, tag: str, text_bytes: int, seed: tuple[int, int]) -> Iterator[Any]:
    """Tables of documents of 20 lines of 15 words until there is so much text."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from iberlm.core.documents import SCHEMA

    generator = np.random.Generator(np.random.PCG64(seed))
    known = pa.array(law.words, pa.large_string())
    made = rows = 0
    while made < text_bytes:
        wanted = min(2048, 1 + (text_bytes - made) // (DOCUMENT_LINES * LINE_OF_WORDS * 6))
        ranks = law.ranks(wanted * DOCUMENT_LINES * LINE_OF_WORDS, generator)
        words = known.take(pa.array(np.minimum(ranks, len(law.words) - 1)))
        beyond = ranks >= len(law.words)
        words = pc.replace_with_mask(words, pa.array(beyond), pa.array([law.word(int(rank)) for rank in ranks[beyond]], pa.large_string()))
        texts = _joined(_joined(words, LINE_OF_WORDS, " "), DOCUMENT_LINES, "\n")
        names = [f"{tag}-{seed[0]}-{seed[1]}-{rows + row}" for row in range(wanted)]
        columns: dict[str, Any] = {"id": names, "text": texts, "language": [tag] * wanted, "source": names}
        columns |= {"card": ["measured_text"] * wanted, "licence": ["CC0-1.0"] * wanted}
        empty = {field.name: pa.nulls(wanted, field.type) for field in SCHEMA if field.name not in columns}
        yield pa.table(columns | empty).select(SCHEMA.names).cast(SCHEMA)
        made, rows = made + pc.sum(pc.binary_length(texts)).as_py(), rows + wanted


def _joined(words: Any, each: int, separator: str) -> Any:
    """Every run of `each` strings as one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    starts = pa.array(np.arange(0, len(words) + 1, each, dtype=np.int64))
    return pc.binary_join(pa.LargeListArray.from_arrays(starts, words), pa.scalar(separator, pa.large_string()))
