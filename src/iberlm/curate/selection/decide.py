"""Decide about each document of one shard by its columns alone: why it is dropped, or that it passes.

The order of the reasons: a request for removal, a reservation of the page or its site, the language, the rules of `rules.py`, an
evaluation's items, and last that the cuts leave too little. Duplicates are resolved afterwards among those that pass.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.documents import write_documents
from iberlm.core.errors import CorruptError
from iberlm.core.languages import LANGUAGES, UNDETERMINED
from iberlm.core.manifest import Manifest
from iberlm.core.shards import ShardResult
from iberlm.curate.aligned import read_columns
from iberlm.curate.config import SelectConfig
from iberlm.curate.measure.kernel import STATISTICS
from iberlm.curate.removals import Removals, load_removals
from iberlm.curate.rules import RULES, first_reason
from iberlm.curate.spans import Spans, as_lists, clipped, covered, flatten, joined

REMOVED, RESERVED, ROBOTS, LANGUAGE, CONTAMINATED, LITTLE_LEFT = "removed", "reserved", "robots", "language", "contaminated", "little_left"
DECISIONS = "decisions"
BESIDE = {"annotate": "annotations/", "dedup": "clusters/", "decontaminate": "matches/", "robots": "verdicts/", "quality": "scores/"}
"""Stages that write rows beside the documents, and the folder of their files."""
SCHEMA = pa.schema(
    [
        pa.field("reason", pa.string()),  # '' where the document passes
        pa.field("counted_as", pa.string()),  # the identified language if it is one of ours, else what the source claims
        pa.field("code", pa.int8()),  # index of the identified language in LANGUAGES, -1 for others
        pa.field("text_hash", pa.uint64()),
        pa.field("characters", pa.int32()),
        pa.field("characters_left", pa.int32()),
        pa.field("quality_score", pa.float32()),
        pa.field("date", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("cluster", pa.int64()),
        pa.field("cluster_size", pa.int32()),
        pa.field("exact_cluster", pa.int64()),
        pa.field("url_cluster", pa.int64()),
        pa.field("cuts", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))),  # merged, in order
    ]
)
"""One row a document, beside it: what the choice among duplicates and the report need."""


@dataclass(frozen=True)
class Shard:
    """A documents file, the files beside it by stage, and its place among all documents."""

    documents: Path
    beside: dict[str, Path]
    first: int
    """Document number of its first row."""
    rows: int

    @property
    def name(self) -> str:
        """Name that all files of the shard share, without ending."""
        return self.documents.stem


def shards_of(inputs: list[Manifest]) -> list[Shard]:
    """The shards of the extraction in `inputs`, with what the other stages in it wrote beside them.

    Raises `CorruptError` when a stage has not the same files.
    """
    by_stage = {manifest.stage: manifest for manifest in inputs}
    documents = by_stage["extract"].paths("documents/", ".parquet")
    rows = {output.path: output.rows or 0 for output in by_stage["extract"].outputs}
    beside: dict[str, dict[str, Path]] = {}
    for stage, folder in BESIDE.items():
        if stage not in by_stage:
            continue
        beside[stage] = {path.stem: path for path in by_stage[stage].paths(folder, ".parquet")}
        if set(beside[stage]) != {path.stem for path in documents}:
            raise CorruptError(f"{by_stage[stage].folder}: made from other documents than those of {by_stage['extract'].folder}; run the stage again")
    shards, first = [], 0
    for path in documents:
        count = rows[f"documents/{path.name}"]
        shards.append(Shard(path, {stage: files[path.stem] for stage, files in beside.items()}, first, count))
        first += count
    return shards


@dataclass(frozen=True)
class DecideTask:
    """The work of one process."""

    shard: Shard
    config: SelectConfig


def decide_shard(task: DecideTask, out: Path) -> ShardResult:
    """Write `decisions/NAME.parquet` for one shard."""
    shard, config = task.shard, task.config
    removals = [load_removals(Path(path)) for path in config.removals]
    columns, cuts = _read_columns(shard, config, removals)
    reason = _reasons(columns, config)
    left = columns["characters"] - covered(cuts, shard.rows)
    reason[(reason == "") & (left < config.min_characters_left) & (left < columns["characters"])] = LITTLE_LEFT
    columns |= {"reason": reason, "characters_left": left}
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA if field.name != "cuts"]
    table = pa.table([*arrays, as_lists(cuts, shard.rows, SCHEMA.field("cuts").type)], schema=SCHEMA)
    path = out / DECISIONS / f"{shard.name}.parquet"
    write_documents(path, [table], SCHEMA)
    licences = sorted(pc.unique(table.column("licence")).to_pylist())
    return ShardResult({path.relative_to(out).as_posix(): shard.rows}, metrics={"licences": licences})


def _table(shard: Shard, stage: str, names: list[str]) -> pa.Table:
    return read_columns(shard.documents if stage == "extract" else shard.beside[stage], names, shard.rows)


def _read_columns(shard: Shard, config: SelectConfig, removals: list[Removals]) -> tuple[dict[str, npt.NDArray[Any]], Spans]:
    """All columns that decisions read, each of shape (documents,), and the spans that will be cut."""
    documents = _table(shard, "extract", ["id", "language", "url", "date", "licence", "reserved"])
    annotations = _table(shard, "annotate", ["language", "language_score", "text_hash", "other_languages", *STATISTICS])
    columns = {name: annotations.column(name).to_numpy() for name in annotations.column_names if name != "other_languages"}
    claims = np.array([tag if tag in LANGUAGES else UNDETERMINED for tag in documents.column("language").to_pylist()], dtype=object)
    codes = {tag: code for code, tag in enumerate(LANGUAGES)}
    columns["code"] = np.array([codes.get(tag, -1) for tag in columns["language"]], np.int8)
    columns["counted_as"] = np.where(columns["code"] >= 0, columns["language"], claims)
    for name in ("date", "licence"):
        columns[name] = documents.column(name).to_numpy(zero_copy_only=False)
    columns["reserved"] = pc.fill_null(pc.list_value_length(documents.column("reserved")), 0).to_numpy() > 0
    others = flatten(annotations.column("other_languages"))
    columns["other_language_ratio"] = covered(joined([others]), shard.rows) / np.maximum(1, columns["characters"])
    cuts = [others] if config.cut_other_languages else []
    _beside(shard, config, columns, cuts)
    columns["removed"] = np.zeros(shard.rows, dtype=bool)
    if removals:
        ids, urls = documents.column("id").to_pylist(), documents.column("url").to_pylist()
        for requests in removals:
            columns["removed"] |= requests.removed(ids, urls, columns["text_hash"])
            cuts.append(clipped(requests.spans(ids), columns["characters"]))  # a request knows no lengths
    return columns, joined(cuts)


def _beside(shard: Shard, config: SelectConfig, columns: dict[str, npt.NDArray[Any]], cuts: list[Spans]) -> None:
    """Columns of the stages that a run may have or not, and their spans."""
    numbers = np.arange(shard.first, shard.first + shard.rows)
    columns.update(cluster=numbers, exact_cluster=numbers, url_cluster=numbers, cluster_size=np.ones(shard.rows, np.int32))
    columns["contaminated"] = np.zeros(shard.rows, dtype=bool)
    columns["robots"] = np.full(shard.rows, "", dtype=object)
    columns["quality_score"] = np.ones(shard.rows, np.float32)
    if "dedup" in shard.beside:
        clusters = _table(shard, "dedup", ["cluster", "cluster_size", "exact_cluster", "url_cluster", "boilerplate"])
        columns.update({name: clusters.column(name).to_numpy() for name in clusters.column_names if name != "boilerplate"})
        if config.cut_boilerplate:
            cuts.append(flatten(clusters.column("boilerplate")))
    if "decontaminate" in shard.beside:
        matches = flatten(_table(shard, "decontaminate", ["contamination"]).column("contamination"))
        columns["contaminated"][matches.row] = True
        if config.contaminated == "cut":
            cuts.append(matches)
    if "robots" in shard.beside:
        columns["robots"] = _table(shard, "robots", ["robots"]).column("robots").to_numpy(zero_copy_only=False)
    if "quality" in shard.beside:
        columns["quality_score"] = _table(shard, "quality", ["quality_score"]).column("quality_score").to_numpy()


def _reasons(columns: dict[str, npt.NDArray[Any]], config: SelectConfig) -> npt.NDArray[np.object_]:
    """Why each document is dropped, '' where it passes; shape (documents,)."""
    count = len(columns["code"])
    reason = np.full(count, LANGUAGE, dtype=object)
    for tag in config.languages:
        rows = np.flatnonzero(columns["code"] == LANGUAGES.index(tag))
        indices = first_reason({name: column[rows] for name, column in columns.items()}, config.filters[tag])
        reason[rows] = [RULES[index].__name__ if index >= 0 else "" for index in indices]
    if config.contaminated == "drop":
        reason[(reason == "") & columns["contaminated"]] = CONTAMINATED
    if config.honour_reservations:
        reason[columns["robots"] == "disallowed"] = ROBOTS
        reason[columns["reserved"]] = RESERVED
    reason[columns["removed"]] = REMOVED
    return reason
