"""The phases of deduplication in their order, each mapped over shards, and what may be deleted after each.

    partition    groups of annotation files    -> pairs (hash, document) by kind and hash prefix
    join         kinds x prefixes              -> edges (first document, document)
    union        near, exact, URL              -> the root of every document                        pairs and edges go
    paragraphs   groups, then prefixes         -> hashes of boilerplate                             their pairs go
    clusters     annotation files              -> clusters/NAME.parquet                             all intermediate files go

Disk that it needs besides the outputs: at most, a document, 12 B a hash (14 bands, text and URL: 192 B) and 16 B an edge, at the end of `join`;
or 12 to 28 B and 12 B a paragraph.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import TEMPORARY_SUFFIX
from iberlm.core.manifest import Manifest
from iberlm.core.process import usable_cores
from iberlm.core.progress import say
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate.dedup.clusters import CLUSTERS, ClustersTask, write_clusters
from iberlm.curate.dedup.config import DedupConfig
from iberlm.curate.dedup.intermediates import DamagedError, check_arrays, read_mark, write_mark
from iberlm.curate.dedup.join import JoinTask, join, repeated
from iberlm.curate.dedup.partition import PARAGRAPHS, Annotations, PartitionTask, partition
from iberlm.curate.dedup.plan import COUNTED_BYTES_A_PAIR, TABLE_BYTES_A_PAIR, UNION_BYTES_A_DOCUMENT, Plan, make_plan, settle_plan, write_plan
from iberlm.curate.dedup.union import UnionTask, union

VERSION = 2
ANNOTATIONS = "annotations/"
INTERMEDIATES = "intermediates"
TEXT, URL, BAND = "text_hash", "url_hash", "band_"
DOCUMENTS_OF_ONE_PROCESS = 2_000_000
"""Up to so many one process is done before six pools have started."""
_ATTEMPTS = 2


def run(config: DedupConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """See `iberlm.curate.dedup.run`."""
    manifest = run_stage("dedup", VERSION, _dedup, config, inputs, out, resumable=True)
    if not config.dry_run:  # after the manifest: a run that was killed before it must find what it had done
        shutil.rmtree(out / INTERMEDIATES, ignore_errors=True)
    return manifest


def _dedup(config: DedupConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    record.counts.add(inputs[0].counts)
    files = list_files(inputs[0])
    documents = sum(file.rows for file in files)
    workers = config.workers or (usable_cores() if documents > DOCUMENTS_OF_ONE_PROCESS else 1)
    plan = make_plan(documents, config.memory_bytes, workers)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            Phases(config, files, plan, record, workers).run()
            return
        except DamagedError as error:
            if attempt == _ATTEMPTS:
                raise
            say(f"dedup: {error.args[0].partition(';')[0]}; it is made again")


def list_files(manifest: Manifest) -> list[Annotations]:
    """The annotation files of a manifest with their places among all documents. Raises `CorruptError` for one that is no Parquet file."""
    rows = {manifest.folder / output.path: output.rows for output in manifest.outputs}
    files, first = [], 0
    for path in manifest.paths(ANNOTATIONS, ".parquet"):
        count = rows[path]
        files.append(Annotations(path, first, _rows(path) if count is None else count))
        first += files[-1].rows
    return files


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: not a whole Parquet file ({error}); run the annotate stage again") from error


def columns_of(config: DedupConfig, path: Path) -> list[str]:
    """The columns of hashes that the settings ask for, text first, then URL, then bands. Raises `ConfigError` when they are not there."""
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: not a whole Parquet file ({error}); run the annotate stage again") from error
    bands = sorted(name for name in names if name.startswith(BAND))
    asked = {"exact": (config.exact, [TEXT]), "url": (config.url, [URL]), "near": (config.near, bands or [f"{BAND}00"])}
    asked["paragraphs"] = (config.paragraphs, [PARAGRAPHS])
    for setting, (on, needed) in asked.items():
        if on and (missing := [name for name in needed if name not in names]):
            raise ConfigError(f"dedup.{setting}: {path} has no column '{missing[0]}'; switch {setting} off, or annotate the documents again")
    return [name for setting, (on, needed) in asked.items() if on and setting != "paragraphs" for name in needed]


@dataclass
class Phases:
    """One attempt at all phases; finds out by itself what an earlier one has finished."""

    config: DedupConfig
    files: list[Annotations]
    plan: Plan
    record: Record
    workers: int
    seconds: dict[str, float] = field(default_factory=dict)
    disk_bytes: int = 0
    """Bytes of intermediate files when they were most."""

    @property
    def work(self) -> Path:
        """Folder of the intermediate files."""
        return self.record.folder / INTERMEDIATES

    @property
    def documents(self) -> int:
        """Documents in all files."""
        return sum(file.rows for file in self.files)

    def run(self) -> None:
        """Run what is not done yet, and fill the record."""
        self._prepare()
        columns = columns_of(self.config, self.files[0].path) if self.files else []
        united = self._once("united", lambda: self._unite(columns), [self.work / "pairs", self.work / "edges"])
        boilerplate: dict[str, Any] = {"hashes": 0, "files": []}
        if self.config.paragraphs and self.files:
            boilerplate = self._once("boilerplate", lambda: self._find_boilerplate(united["paragraphs"]), [self.work / "paragraph_pairs"])
        marked = self._write([self.work / name for name in boilerplate["files"]])
        self.record.metrics = {
            "documents": self.documents,
            "clusters": united["clusters"],
            "largest_cluster": united["largest"],
            "exact_duplicates": united["exact_duplicates"],
            "near_duplicates": self.documents - united["clusters"] - united["exact_duplicates"],
            "url_duplicates": united["url_duplicates"],
            "repeated_paragraphs": {"different": boilerplate["hashes"], **marked},
            "phase_seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "disk_bytes_a_document": round(self.disk_bytes / max(1, self.documents), 1),
        }

    def _prepare(self) -> None:
        """Keep the intermediate files of an interrupted run if its plan will do, and no unfinished ones."""
        self.plan, old = settle_plan(self.plan, self.work / "plan.json")
        if not old:
            if self.work.exists():  # what another plan cut must not be mixed with what this one will
                shutil.rmtree(self.work)
            write_plan(self.plan, self.work / "plan.json")
        for folder in (self.record.folder, self.record.folder / CLUSTERS, self.work, *(entry for entry in self.work.iterdir() if entry.is_dir())):
            for path in folder.glob(f".*{TEMPORARY_SUFFIX}*"):
                path.unlink()

    def _once(self, name: str, make: Callable[[], tuple[dict[str, str], dict[str, Any]]], emptied: list[Path]) -> dict[str, Any]:
        """The metrics of a part of the work: from its mark if that is done, else make it; then delete what only it needed."""
        mark = self.work / f"{name}.json"
        metrics = read_mark(mark, self.record.key)
        if metrics is None:
            checksums, metrics = make()
            check_arrays(self.work, checksums)  # a file may be from a run that was killed before it could set its mark
            metrics |= {"seconds": self.seconds.copy(), "disk_bytes": self.disk_bytes, "files": list(checksums)}
            write_mark(mark, self.record.key, checksums, metrics)
        self.seconds, self.disk_bytes = dict(metrics["seconds"]), metrics["disk_bytes"]
        for folder in emptied:
            shutil.rmtree(folder, ignore_errors=True)
        return metrics

    def _map(self, label: str, function: Callable[[Any, Path], ShardResult], shards: dict[str, Any]) -> dict[str, ShardResult]:
        """Map a phase whose files are no outputs of the stage; note its seconds."""
        started = time.monotonic()
        results = map_shards(f"dedup: {label}", function, shards, self.record, workers=self.workers)
        for result in results.values():
            for path in result.outputs:
                del self.record.outputs[path]
        self.seconds[label] = round(time.monotonic() - started, 3)
        return results

    def _groups(self) -> list[list[Annotations]]:
        """Consecutive files of together at most as many documents as the plan says, or one larger file."""
        groups: list[list[Annotations]] = []
        for file in self.files:
            if groups and file.first + file.rows - groups[-1][0].first <= self.plan.group_documents:
                groups[-1].append(file)
            else:
                groups.append([file])
        return groups

    def _unite(self, columns: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
        bits = self.plan.bits(self.documents, TABLE_BYTES_A_PAIR)
        results = self._partition("partition", "pairs", columns, bits, None)
        pairs = [self.record.folder / name for result in results.values() for name in result.outputs]
        tasks = self._join_tasks("edges", columns, pairs, bits, self.documents)
        joined = self._map("join", join, tasks)
        used = _bytes(results) + _bytes(joined)
        edges = {column: [self.record.folder / tasks[name].target for name in tasks if name.startswith(f"edges.{column}.")] for column in columns}
        bands = [path for column in columns if column != URL for path in edges[column]]
        in_memory = self.plan.in_memory(self.documents)
        unions = {"union.near": UnionTask(bands, self.documents, in_memory, f"{INTERMEDIATES}/near.roots", f"{INTERMEDIATES}/near.sizes")}
        for column, name in ((TEXT, "exact"), (URL, "url")):
            if column in columns:
                unions[f"union.{name}"] = UnionTask(edges[column], self.documents, in_memory, f"{INTERMEDIATES}/{name}.roots")
        united = self._map("union", union, unions)
        self.disk_bytes = used + _bytes(united) + (0 if in_memory else self.documents * UNION_BYTES_A_DOCUMENT)
        found = {name: result.metrics for name, result in united.items()}
        own = {"clusters": self.documents}
        metrics = {
            "clusters": found["union.near"]["clusters"],
            "largest": found["union.near"]["largest"],
            "exact_duplicates": self.documents - found.get("union.exact", own)["clusters"],
            "url_duplicates": self.documents - found.get("union.url", own)["clusters"],
            "paragraphs": sum(result.metrics["paragraphs"] for result in results.values()),
        }
        return _checksums(united), metrics

    def _partition(self, label: str, folder: str, columns: list[str], bits: int, roots: Path | None) -> dict[str, ShardResult]:
        tasks = {
            f"{folder}.{number:05d}": PartitionTask(group, columns, bits, self.plan.run_pairs, f"{INTERMEDIATES}/{folder}/{number:05d}", roots)
            for number, group in enumerate(self._groups())
        }
        return self._map(label, partition, tasks)

    def _join_tasks(self, folder: str, columns: list[str], pairs: list[Path], bits: int, expected: int, minimum: int = 0) -> dict[str, JoinTask]:
        return {
            f"{folder}.{column}.{number:05d}": JoinTask(
                pairs, kind, number, bits, self.plan.chunk_pairs, -(-expected >> bits), f"{INTERMEDIATES}/{folder}/{column}.{number:05d}", minimum
            )
            for kind, column in enumerate(columns)
            for number in range(1 << bits)
        }

    def _find_boilerplate(self, paragraphs: int) -> tuple[dict[str, str], dict[str, Any]]:
        kept = sum(path.stat().st_size for path in self.work.iterdir() if path.is_file())
        bits = self.plan.bits(paragraphs, COUNTED_BYTES_A_PAIR)
        results = self._partition("paragraph partition", "paragraph_pairs", [PARAGRAPHS], bits, self.work / "near.roots")
        pairs = [self.record.folder / name for result in results.values() for name in result.outputs]
        tasks = self._join_tasks("repeated", [PARAGRAPHS], pairs, bits, paragraphs, self.config.paragraph_documents)
        joined = self._map("paragraph join", repeated, tasks)
        self.disk_bytes = max(self.disk_bytes, kept + _bytes(results) + _bytes(joined))
        return _checksums(joined), {"hashes": sum(result.metrics["hashes"] for result in joined.values())}

    def _write(self, boilerplate: list[Path]) -> dict[str, int]:
        exact, url = (self.work / "exact.roots" if self.config.exact else None), (self.work / "url.roots" if self.config.url else None)
        near, sizes = self.work / "near.roots", self.work / "near.sizes"
        tasks = {f"{CLUSTERS}.{file.path.stem}": ClustersTask(file, near, sizes, exact, url, boilerplate) for file in self.files}
        started = time.monotonic()
        results = map_shards("dedup: clusters", write_clusters, tasks, self.record, workers=self.workers)
        self.seconds[CLUSTERS] = round(time.monotonic() - started, 3)
        return {key: sum(result.metrics[key] for result in results.values()) for key in ("spans", "characters")}


def _bytes(results: dict[str, ShardResult]) -> int:
    return sum(int(result.metrics["bytes"]) for result in results.values())


def _checksums(results: dict[str, ShardResult]) -> dict[str, str]:
    """Checksums of all files by their path below the folder of intermediate files, in the order of the shards."""
    return {name.removeprefix(f"{INTERMEDIATES}/"): value for result in results.values() for name, value in result.metrics["checksums"].items()}
