"""Speed of the kernel of `annotate`, as a whole and part by part, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/kernel.py DOCUMENTS.jsonl.zst [LANGUAGE]

Processor time, the best of seven runs; each part's share is what it adds to the parts before it.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numba import njit

from iberlm.core.languages import LANGUAGES
from iberlm.curate.measure import kernel, loops
from iberlm.curate.measure.characters import characters
from iberlm.curate.measure.words import STOP_WORDS

PARTS = ("tokens and words", "lines", "repeated lines", "repeated n-grams", "stop words, phrases, paragraphs", "MinHash")


@njit
def run_parts(last, data, starts, ends, tables, scratch, counts, phrases, permutations, paragraphs):
    """The parts of `loops.measure_documents` up to number `last`."""
    multipliers, additions, signature = permutations
    for document in range(len(starts)):
        lo, hi, row = starts[document], ends[document], counts[document]
        row[:] = 0
        loops.tokenize(data, lo, hi, tables, False, scratch, row)
        if last >= 1:
            lines = loops.scan_lines(data, lo, hi, tables, scratch, row)
        if last >= 2:
            loops.repeated_lines(lines, row[loops.LINE_FEEDS], scratch, row)
            if row[loops.LINE_FEEDS] > row[loops.GOPHER_LINES] - 1:
                loops.repeated_paragraphs(data, lo, hi, tables, scratch, row)
        if last >= 3:
            loops.repeated_ngrams(row[loops.TOKENS], scratch, row)
        if last >= 4:
            loops.find_stop_words(document, 0, row[loops.TOKENS], phrases, scratch, row)
            loops.read_lines(lines, phrases, 5, scratch, row, 0, paragraphs[0], paragraphs[1], paragraphs[2])
        if last >= 5:
            loops.hash_ngrams(row[loops.WORDS], loops.SHINGLE_WORDS, scratch.word_hash, scratch.gram)
            loops.minimum_hashes(scratch.gram, max(row[loops.WORDS] - 4, 1), multipliers, additions, signature)


def best(run: Callable[[], Any]) -> float:
    """Seconds of processor time."""
    times = []
    for _ in range(7):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


def main(path: Path, language: str) -> None:
    """Print the speeds."""
    with zstandard.open(path, "rb") as file:
        text = pa.array([json.loads(line)["text"] for line in io.TextIOWrapper(file, encoding="utf-8")], pa.large_string())
    documents = kernel._Documents.of(text)
    size = int((documents.ends - documents.starts).sum())
    codes = np.full(len(text), LANGUAGES.index(language), np.int8)
    started = time.process_time()
    kernel.prepare()
    print(f"{len(text)} documents, {size / 1e6:.1f} MB; compiled or loaded in {time.process_time() - started:.1f} s")
    print(f"measure, 14 x 8 bands: {size / 1e6 / best(lambda: kernel.measure(text, codes, bands=14, rows=8)):.1f} MB/s")
    scratch, counts = loops.scratch(documents.largest), np.zeros((len(text), len(loops.COUNTS)), np.int64)
    phrases = kernel._phrases(tuple((tag, tuple(words)) for tag, words in STOP_WORDS.items()))
    permutations = (*kernel._permutations(112), np.empty(112, np.uint64))
    paragraphs = (np.empty(documents.largest + 1, np.uint64), np.empty(documents.largest + 1, np.int32), np.empty(documents.largest + 1, np.int32))
    before = 0.0
    for last, name in enumerate(PARTS):
        run_parts(last, documents.data, documents.starts[:1], documents.ends[:1], characters(), scratch, counts, phrases, permutations, paragraphs)
        taken = best(lambda last=last: run_parts(last, *documents, characters(), scratch, counts, phrases, permutations, paragraphs))
        print(f"  {name:32} {1e9 * (taken - before) / size:5.2f} ns a byte")
        before = taken
    print(f"ngram_hashes, n = 13: {size / 1e6 / best(lambda: kernel.ngram_hashes(text, 13)):.1f} MB/s")
    generator = np.random.Generator(np.random.PCG64(1))
    table = np.sort(generator.integers(0, 1 << 64, 1_000_000, dtype=np.uint64))
    print(f"find_ngrams, n = 13, a million hashes: {size / 1e6 / best(lambda: kernel.find_ngrams(text, 13, table)):.1f} MB/s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "es")
