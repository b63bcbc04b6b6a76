"""Personal data: precision and recall on the generated set, and speed, counts and samples on any text.

    python benchmarks/pii.py [TEXT.jsonl[.gz|.zst] ...] [--seeds 2025 1 2] [--runs 3] [--show 20] [--kinds ip phone]

TEXT has one record a line with `text`. MB are 10^6 bytes of UTF-8, CPU seconds of one process count, the best of `--runs`. "Clean" are
the documents in which nothing is found. `--show` prints that many random findings of each kind, with what stands around them, to be judged by hand.
"""

import argparse
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.curate.pii_cases import cases

from iberlm.curate import pii

AROUND = 50


def texts(path: Path) -> Iterator[str]:
    """The texts of a JSON lines file, which may be compressed."""
    opener = {".zst": zstandard.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def generated(seed: int) -> None:
    """A row a kind: spans that are right, wrong and missed, exact in both ends and the kind."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    made = cases(seed)
    for case in made:
        found, expected = {tuple(span) for span in pii.find(case.text)}, set(case.spans)
        right.update(kind for *_, kind in found & expected)
        wrong.update(kind for *_, kind in found - expected)
        missed.update(kind for *_, kind in expected - found)
    print(f"\nGenerated set, seed {seed}: {len(made)} texts, {sum(not case.spans for case in made)} of them without personal data\n")
    print("| kind | right | wrong | missed | precision | recall |\n|---|---|---|---|---|---|")
    for kind in [*pii.KINDS, "all"]:
        r, w, m = (sum(counter.values()) if kind == "all" else counter[kind] for counter in (right, wrong, missed))
        print(f"| {kind} | {r} | {w} | {m} | {r / (r + w):.4f} | {r / (r + m):.4f} |")


def speed(column: pa.Array, runs: int) -> tuple[float, pa.ListArray]:
    """MB a CPU second, and what was found."""
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        found = pii.find_batch(column)
        seconds.append(time.process_time() - started)
    return sum(len(text.encode()) for text in column.to_pylist()) / 1e6 / min(seconds), found


def real(paths: list[Path], runs: int, show: int, kinds: list[str]) -> None:
    """Speed and counts by file, and samples."""
    pii.find("compile 612345678")
    found_by_kind: dict[str, list[str]] = {}
    seconds, sizes = [], []
    print("\n| file | MB | MB/s a core | of clean documents | found |\n|---|---|---|---|---|")
    for path in paths:
        documents = list(texts(path))
        megabytes = sum(len(text.encode()) for text in documents) / 1e6
        rate, found = speed(pa.array(documents, pa.large_string()), runs)
        spans = found.to_pylist()
        empty = [text for text, places in zip(documents, spans, strict=True) if not places]
        clean_rate, _ = speed(pa.array(empty, pa.large_string()), runs)
        counts = Counter(place["kind"] for places in spans for place in places)
        print(f"| {path.name} | {megabytes:.1f} | {rate:.0f} | {clean_rate:.0f} | {', '.join(f'{kind} {count}' for kind, count in counts.most_common())} |")
        seconds.append(megabytes / rate)
        sizes.append(megabytes)
        for text, places in zip(documents, spans, strict=True):
            for place in places:
                start, end = place["start"], place["end"]
                around = f"{text[max(0, start - AROUND) : start]}[[{text[start:end]}]]{text[end : end + AROUND]}"
                found_by_kind.setdefault(place["kind"], []).append(f"{path.name}: {around!r}")
    print(f"\nAll: {sum(sizes):.1f} MB at {sum(sizes) / sum(seconds):.0f} MB/s")
    for kind, findings in sorted(found_by_kind.items()):
        if show and (not kinds or kind in kinds):
            print(f"\n{kind}, {min(show, len(findings))} of {len(findings)}:")
            print("\n".join(random.Random(1).sample(findings, min(show, len(findings)))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2025])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], choices=pii.KINDS)
    options = parser.parse_args()
    for seed in options.seeds:
        generated(seed)
    if options.texts:
        real(options.texts, options.runs, options.show, options.kinds)
