"""Deduplication: what it finds, and how time, memory and disk grow.

    python benchmarks/dedup.py quality [--text FILE.jsonl[.zst]] [--datatrove-python PATH] [--groups 400]
    python benchmarks/dedup.py scale [--documents 1e6 3e6 10e6] [--workers 2] [--memory-bytes 1073741824] [--folder FOLDER]

`quality` plants near duplicates at exact Jaccard similarities (sets of word 5-grams) of 0.5 to 0.95, and tells which share of the pairs
each side puts into one cluster: ours, and the four MinHash stages of datatrove, both with 14 bands of 8 rows. (datatrove wants an environment
of its own, whose Python is given: pip install "datatrove[processing]==0.10.1" "xxhash<4" spacy.) `scale` writes annotation files with 14
bands, text, URL and five paragraphs a document, of which 20% are near and 10% exact duplicates, and runs the stage on them.
"""

import argparse
import itertools
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BANDS, ROWS, SHINGLE_WORDS = 14, 8, 5
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TOLERANCE = 0.015
FILE_DOCUMENTS = 500_000
ORIGINAL, NEAR, EXACT = 0.7, 0.2, 0.1


def machine(*packages: str) -> str:
    """The processor, cores, memory and versions."""
    from importlib.metadata import version

    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; Python {platform.python_version()}, {versions}"
    )


# --- quality -------------------------------------------------------------------------------------------------------------------------


def shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Word 5-grams."""
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}


def jaccard(one: set[Any], other: set[Any]) -> float:
    """Size of the intersection over that of the union."""
    return len(one & other) / max(1, len(one | other))


def words_of(text: str) -> list[str]:
    """Lower-cased words."""
    return re.findall(r"\w+", text.lower())


def generated_texts(count: int, generator: Any) -> Iterator[list[str]]:
    """Texts of 300 to 600 words whose frequencies fall as in language (Zipf)."""
    syllables = ["".join(pair) for pair in itertools.product("bcdfglmnprstv", "aeiou")]
    vocabulary = list(dict.fromkeys("".join(generator.choice(syllables, generator.integers(1, 5))) for _ in range(20_000)))
    weights = 1 / (10 + generator.permutation(len(vocabulary)))
    for _ in range(count):
        yield list(generator.choice(vocabulary, generator.integers(300, 600), p=weights / weights.sum()))


def given_texts(path: Path, count: int) -> Iterator[list[str]]:
    """The first texts of a JSONL file (zstd by its ending) with at least 300 words, cut to 600."""
    command = ["zstd", "-dc", str(path)] if path.suffix == ".zst" else ["cat", str(path)]
    seen: set[tuple[str, ...]] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            words = words_of(json.loads(line)["text"])[:600]
            if len(words) >= 300 and len(shingles(words)) > 280 and tuple(words[:20]) not in seen:
                seen.add(tuple(words[:20]))
                yield words
                if len(seen) == count:
                    process.kill()
                    return


def variant(words: list[str], level: float, vocabulary: Sequence[str], generator: Any) -> list[str] | None:
    """A copy with words replaced, some alone and some in runs, until its similarity is `level`; None if it jumps past that."""
    original, copy = shingles(words), list(words)
    while (found := jaccard(original, shingles(copy))) > level + TOLERANCE:
        # a replaced run of n words removes n + 4 shingles from each set: shorter steps near the goal
        excess = int(len(original) * (found - level))
        length = int(generator.integers(1, max(2, min(12, excess // 8))))
        at = int(generator.integers(0, len(copy) - length))
        copy[at : at + length] = [str(word) for word in generator.choice(vocabulary, length)]
    return copy if abs(found - level) <= TOLERANCE else None


def planted(texts: Iterator[list[str]], groups: int, generator: Any) -> tuple[list[str], list[tuple[int, int]], list[tuple[int, float]]]:
    """Texts; (first, last + 1) of each group; and (position of the copy in the group, level) by group: an original and two copies."""
    bases = list(texts)
    vocabulary = sorted({word for words in bases for word in words})
    documents: list[str] = []
    spans: list[tuple[int, int]] = []
    levels: list[tuple[int, float]] = []
    for number, words in enumerate(bases[:groups]):
        level = LEVELS[number % len(LEVELS)]
        copies = [copy for _ in range(4) if (copy := variant(words, level, vocabulary, generator)) is not None][:2]
        if len(copies) == 2:
            spans.append((len(documents), len(documents) + 3))
            levels.append((number, level))
            documents += [" ".join(members) + "." for members in (words, *copies)]
    return documents, spans, levels


def ours(documents: list[str], folder: Path) -> list[int]:
    """The cluster of each document, by the stage."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from iberlm.curate import dedup
    from iberlm.curate.dedup.config import DedupConfig
    from iberlm.curate.measure.kernel import measure

    text = pa.array(documents, pa.large_string())
    measured = measure(text, np.zeros(len(documents), np.int8), bands=BANDS, rows=ROWS)
    table = pa.table({f"band_{band:02d}": measured.bands[band] for band in range(BANDS)})
    source = annotated(folder / "annotate", [table])
    manifest = dedup.run(DedupConfig(url=False, exact=False, paragraphs=False, workers=1), [source], folder / "dedup")
    clusters: list[int] = pq.read_table(manifest.paths("clusters/")[0]).column("cluster").to_pylist()
    return clusters


def datatrove(documents: list[str], folder: Path, python: str) -> list[int]:
    """The cluster of each document, by datatrove's four stages in a process of its own."""
    (folder / "texts").mkdir(parents=True)
    with (folder / "texts" / "0.jsonl").open("w", encoding="utf-8") as stream:
        for number, document in enumerate(documents):
            stream.write(json.dumps({"id": str(number), "text": document}) + "\n")
    done = subprocess.run([python, __file__, "datatrove", "--folder", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"datatrove failed:\n{done.stderr[-3000:]}")
    found: list[int] = json.loads((folder / "clusters.json").read_text())
    return found


def run_datatrove(folder: Path) -> None:
    """The program of `datatrove`: runs where this project is not installed."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=SHINGLE_WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    places = {name: str(folder / name) for name in ("texts", "signatures", "buckets", "clusters", "kept", "removed")}
    reader = JsonlReader(places["texts"])
    removed = JsonlWriter(places["removed"], compression=None)
    stages: list[tuple[int, list[Any]]] = [
        (1, [reader, MinhashDedupSignature(places["signatures"], config=config, language="spa")]),
        (BANDS, [MinhashDedupBuckets(places["signatures"], places["buckets"], config=config)]),
        (1, [MinhashDedupCluster(places["buckets"], places["clusters"], config=config, save_cluster_id=True)]),
        (1, [reader, MinhashDedupFilter(places["clusters"], removed, load_cluster_ids=True), JsonlWriter(places["kept"], compression=None)]),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"logs{number}")).run()
    rows = [json.loads(line) for name in ("kept", "removed") for path in (folder / name).glob("*.jsonl") for line in path.open(encoding="utf-8")]
    clusters = {int(row["id"]): row.get("metadata", {}).get("minhash_cluster_id", -1) for row in rows}
    # one that is alone has the number -1
    (folder / "clusters.json").write_text(json.dumps([clusters[number] if clusters[number] >= 0 else -2 - number for number in range(len(clusters))]))


def quality(arguments: argparse.Namespace) -> None:
    """Print the shares of planted pairs that are found, and precision and recall over all pairs."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(arguments.seed))
    texts = given_texts(arguments.text, arguments.groups) if arguments.text else generated_texts(arguments.groups, generator)
    documents, spans, levels = planted(texts, arguments.groups, generator)
    sets = [shingles(words_of(document)) for document in documents]
    sides: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides["ours"] = ours(documents, Path(folder) / "ours")
        if arguments.datatrove_python:
            sides["datatrove"] = datatrove(documents, Path(folder) / "datatrove", arguments.datatrove_python)
    print(machine("iberlm", "numpy", "numba", "pyarrow"))
    source = "texts of the file" if arguments.text else "generated texts"
    print(f"{len(documents):,} documents ({source}) in {len(spans):,} groups of an original and two copies, seed {arguments.seed}; {BANDS} bands x {ROWS} rows")
    print(f"\n{'Jaccard':>8} {'pairs':>6} {'1-(1-s^8)^14':>13} " + " ".join(f"{name:>10}" for name in sides))
    for level in LEVELS:
        of_level = [span for span, (_, own) in zip(spans, levels, strict=True) if own == level]
        pairs = [(first, first + copy) for first, _ in of_level for copy in (1, 2)]
        expected = np.mean([1 - (1 - jaccard(sets[one], sets[other]) ** ROWS) ** BANDS for one, other in pairs])
        shares = [np.mean([clusters[one] == clusters[other] for one, other in pairs]) for clusters in sides.values()]
        print(f"{level:>8} {len(pairs):>6} {expected:>13.3f} " + " ".join(f"{share:>10.3f}" for share in shares))
    within = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for first, last in spans for pair in itertools.combinations(range(first, last), 2)}
    print(f"\nall {len(within):,} pairs within groups, and those of other groups that were joined")
    for name, clusters in sides.items():
        members: dict[int, list[int]] = {}
        for number, cluster in enumerate(clusters):
            members.setdefault(cluster, []).append(number)
        joined = {pair for numbers in members.values() for pair in itertools.combinations(numbers, 2)}
        found = {pair: within.get(pair, jaccard(sets[pair[0]], sets[pair[1]])) for pair in joined}
        print(f"{name}: {len(joined):,} pairs joined, {len(joined - set(within))} of them across groups")
        for least in (0.5, 0.6, 0.7, 0.8):
            true = [pair for pair, similarity in within.items() if similarity >= least]
            precision = sum(similarity >= least for similarity in found.values()) / max(1, len(found))
            recall = sum(pair in joined for pair in true) / max(1, len(true))
            print(f"  Jaccard >= {least}: precision {precision:.3f}, recall {recall:.3f} ({len(true):,} pairs)")


# --- scale ---------------------------------------------------------------------------------------------------------------------------


def annotated(folder: Path, tables: Any) -> Any:
    """A finished stage `annotate` with these tables, one a file."""
    import pyarrow.parquet as pq

    from iberlm.core.config import StageConfig
    from iberlm.core.stage import run_stage

    def body(config: Any, inputs: Any, out: Path, record: Any) -> None:
        (out / "annotations").mkdir()
        for number, table in enumerate(tables):
            path = out / "annotations" / f"{number:05d}.parquet"
            pq.write_table(table, path, compression="zstd", row_group_size=1 << 16)
            record.output(path, table.num_rows)

    return run_stage("annotate", 1, body, StageConfig(), [], folder, fingerprint=str(folder))


def synthetic(documents: int) -> Iterator[Any]:
    """Tables of annotations; a document's hashes are a function of its number, so a duplicate of any other is made without it."""
    import numpy as np
    import pyarrow as pa

    def hashed(values: Any, salt: int) -> Any:
        mixed = (values.astype(np.uint64) + np.uint64(salt * 0x632BE59BD9B4E019 % (1 << 64))) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return mixed ^ (mixed >> np.uint64(32))

    for start in range(0, documents, FILE_DOCUMENTS):
        count = min(FILE_DOCUMENTS, documents - start)
        generator = np.random.Generator(np.random.PCG64(start))
        own = np.arange(start, start + count)
        other = (generator.random(count) * own).astype(np.int64)
        kind = generator.random(count)
        near, exact = kind < NEAR, kind >= ORIGINAL + NEAR
        columns: dict[str, Any] = {"text_hash": hashed(np.where(exact, other, own), 1), "url_hash": hashed(np.where(kind < NEAR / 2, other, own), 2)}
        for band in range(BANDS):
            shared = exact | (near & (generator.random(count) < 0.4))  # six of fourteen bands: a Jaccard similarity of about 0.9
            columns[f"band_{band:02d}"] = hashed(np.where(shared, other, own), 3 + band)
        paragraphs = own.repeat(5) * 5 + np.tile(np.arange(5), count)
        notices = generator.random(len(paragraphs)) < 0.1
        hashes = hashed(np.where(notices, generator.integers(0, 20_000, len(paragraphs)), paragraphs + 20_000), 99)
        starts = np.tile(np.arange(5, dtype=np.int32) * 200, count)
        entries = pa.StructArray.from_arrays([pa.array(hashes), pa.array(starts), pa.array(starts + 199)], names=["hash", "start", "end"])
        columns["paragraphs"] = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * 5), entries)
        yield pa.table(columns)


class Peak:
    """The most memory that this process' children held together, and that one of them did, in bytes (proportional set size)."""

    def __init__(self, process: int) -> None:
        self.process, self.together, self.stop = process, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.1):
            self.together = max(self.together, sum(map(self._bytes, self._tree())))

    def _tree(self) -> list[int]:
        found = [self.process]
        for process in found:
            try:
                children = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]
            except OSError:  # it has ended
                continue
            found += [int(child) for line in children for child in line.split()]
        return found

    @staticmethod
    def _bytes(process: int) -> int:
        try:
            return sum(int(line.split()[1]) << 10 for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
        except OSError:
            return 0


def run_stage_alone(folder: Path, workers: int, memory_bytes: int) -> None:
    """The program of `scale`: the stage on a folder of annotations, in a fresh process."""
    from iberlm.core.manifest import read_manifest
    from iberlm.curate import dedup
    from iberlm.curate.dedup.config import DedupConfig

    dedup.run(DedupConfig(workers=workers, memory_bytes=memory_bytes), [read_manifest(folder / "annotate")], folder / "dedup")


def scale(arguments: argparse.Namespace) -> None:
    """Print time, memory and disk by the number of documents, and the slope."""
    from iberlm.core.manifest import read_manifest

    print(machine("iberlm", "numpy", "numba", "pyarrow"))
    print(f"{arguments.workers} workers, memory_bytes {arguments.memory_bytes:,}; 16 hashes and 5 paragraphs a document, {NEAR:.0%} near and {EXACT:.0%} exact")
    print(f"{'documents':>11} {'seconds':>8} {'CPU s':>8} {'us/doc':>7} {'peak MB':>8} {'disk B/doc':>10} {'clusters':>11} {'spans':>10}  phases")
    measured: list[tuple[int, float, float]] = []
    for documents in [100_000, *(int(count) for count in arguments.documents)]:  # the first lets numba compile, and is not counted
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            annotated(folder / "annotate", synthetic(documents))
            command = [sys.executable, __file__, "stage", "--folder", str(folder)]
            command += ["--workers", str(arguments.workers), "--memory-bytes", str(arguments.memory_bytes)]
            started = time.perf_counter()
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, Peak(process.pid) as peak:
                if process.wait() != 0:
                    raise SystemExit(f"the stage ended with {process.returncode}: {' '.join(command)}")
            seconds = time.perf_counter() - started
            manifest = read_manifest(folder / "dedup")
        finally:
            shutil.rmtree(folder)
        if documents == 100_000:
            continue
        measured.append((documents, seconds, manifest.cpu_seconds))
        metrics = manifest.metrics
        row = f"{documents:>11,} {seconds:>8.1f} {manifest.cpu_seconds:>8.1f} {seconds / documents * 1e6:>7.2f} {peak.together / 1e6:>8.0f}"
        spans = metrics["repeated_paragraphs"]["spans"]
        phases = ", ".join(f"{name} {value:.1f}" for name, value in metrics["phase_seconds"].items())
        print(f"{row} {metrics['disk_bytes_a_document']:>10} {metrics['clusters']:>11,} {spans:>10,}  {phases}", flush=True)
    for place, name in ((1, "wall"), (2, "CPU")):
        if len(measured) > 1:
            first, last = measured[-2], measured[-1]
            further = (last[place] - first[place]) / (last[0] - first[0]) * 1e6
            slope = _slope([(row[0], row[place]) for row in measured])
            print(f"{name} seconds: slope {slope:.2f} on logarithms (1 is linear); {further:.2f} us a further document between the last two sizes")


def _slope(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line through the logarithms: 1 is linear."""
    logarithms = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*logarithms, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logarithms) / sum((x - mean_x) ** 2 for x, _ in logarithms)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("quality", help="precision and recall on planted near duplicates")
    command.add_argument("--text", type=Path, help="JSON lines with `text`; generated texts otherwise")
    command.add_argument("--datatrove-python", default="", help="Python of an environment with datatrove")
    command.add_argument("--groups", type=int, default=600)
    command.add_argument("--seed", type=int, default=1)
    command = commands.add_parser("scale", help="time, memory and disk")
    command.add_argument("--documents", type=float, nargs="+", default=[1e6, 3e6, 10e6], help="30e6 needs 15 GB of disk")
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--memory-bytes", type=int, default=1 << 30)
    command.add_argument("--folder", type=Path, help="where to work; the system's temporary folder otherwise")
    for name in ("datatrove", "stage"):  # run by the two above in processes of their own
        command = commands.add_parser(name)
        command.add_argument("--folder", type=Path, required=True)
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--memory-bytes", type=int, default=1 << 30)
    arguments = parser.parse_args()
    if arguments.command == "quality":
        quality(arguments)
    elif arguments.command == "scale":
        scale(arguments)
    elif arguments.command == "datatrove":
        run_datatrove(arguments.folder)
    else:
        run_stage_alone(arguments.folder, arguments.workers, arguments.memory_bytes)


if __name__ == "__main__":
    main()
