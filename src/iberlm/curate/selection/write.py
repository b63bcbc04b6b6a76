"""Write the curated documents of a group of shards: rows that stay, passages cut, personal data replaced."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.documents import SCHEMA, read_batches
from iberlm.core.errors import ConfigError
from iberlm.core.files import publish
from iberlm.core.languages import file_safe
from iberlm.core.shards import ShardResult
from iberlm.curate import pii
from iberlm.curate.config import SelectConfig
from iberlm.curate.dedup import rehydration_weight
from iberlm.curate.measure.kernel import STATISTICS
from iberlm.curate.selection.decide import Shard
from iberlm.curate.selection.settle import VERDICTS

DOCUMENTS, PARTS = "documents", "validation-parts"
CURATED = pa.schema(
    [
        *SCHEMA,
        pa.field("language_claim", pa.string()),
        pa.field("variety", pa.string()),
        *[pa.field(name, pa.from_numpy_dtype(dtype)) for name, dtype in STATISTICS.items()],
        pa.field("text_hash", pa.uint64()),
        pa.field("quality_score", pa.float32()),  # 1 where no classifier was given
        pa.field("cluster_size", pa.int32()),
        pa.field("weight", pa.int8()),  # copies that a mixture may take; 1 unless `rehydrate`
        pa.field("licence_of_cluster", pa.string()),  # the strictest of its duplicates', where that is not its own
    ]
)
"""Columns of the curated documents. The statistics are those of the text before cuts and redaction."""
KEY_VARIABLE = "IBERLM_PSEUDONYM_KEY"
"""Environment variable with the secret of the pseudonyms: whoever has it could try which value a pseudonym stands for."""
_ROW_GROUP_BYTES = 8 << 20
"""Of text and columns that wait for a file of one split and language: ten files are open at a time."""
_ANNOTATIONS = ["language", "language_score", "variety", *STATISTICS]
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class WriteTask:
    """The work of one process: shards whose kept text makes up one file a language."""

    number: int
    shards: list[Shard]
    config: SelectConfig
    limits: dict[str, int]
    """By language: documents with a text hash up to this are for validation."""


def write_group(task: WriteTask, out: Path) -> ShardResult:
    """Write `documents/train.LANG.NNNNN.parquet`, and into `validation-parts/` the documents that are set aside."""
    result = ShardResult(metrics={"redacted": {}, "bytes": {}, "licences": {}})
    with ExitStack() as stack:
        files = _Files(task.number, out, stack)
        for shard in task.shards:
            for table in _kept(shard, task.config, out, result.metrics):
                _count(table, result.metrics)
                for split, tag, part in _split(table, task.limits):
                    size = result.metrics["bytes"].setdefault(split, {})
                    size[tag] = size.get(tag, 0) + _text_bytes(part)
                    files.add(split, tag, part)
        result.outputs = files.finish()
    return result


class _Files:
    """One Parquet file a split and language, begun at its first row; all are published when `stack` closes."""

    def __init__(self, number: int, out: Path, stack: ExitStack) -> None:
        self._number, self._out, self._stack = number, out, stack
        self._waiting: dict[Path, list[pa.Table]] = {}
        self._writers: dict[Path, pq.ParquetWriter] = {}
        self._rows: dict[Path, int] = {}

    def add(self, split: str, tag: str, table: pa.Table) -> None:
        """Take rows; a row group is written when enough have gathered."""
        folder = DOCUMENTS if split == "train" else PARTS
        path = self._out / folder / f"{split}.{file_safe(tag)}.{self._number:05d}.parquet"
        waiting = self._waiting.setdefault(path, [])
        waiting.append(table)
        self._rows[path] = self._rows.get(path, 0) + table.num_rows
        if sum(entry.nbytes for entry in waiting) >= _ROW_GROUP_BYTES:
            self._flush(path)

    def _flush(self, path: Path) -> None:
        table = pa.concat_tables(self._waiting.pop(path))
        if path not in self._writers:
            temporary = self._stack.enter_context(publish(path))
            self._writers[path] = self._stack.enter_context(pq.ParquetWriter(temporary, CURATED, compression="zstd", compression_level=3))
        self._writers[path].write_table(table, row_group_size=table.num_rows)

    def finish(self) -> dict[str, int | None]:
        """Write what waits; return the rows of each file by its name."""
        for path in list(self._waiting):
            self._flush(path)
        return {path.relative_to(self._out).as_posix(): rows for path, rows in sorted(self._rows.items())}


def _kept(shard: Shard, config: SelectConfig, out: Path, metrics: dict[str, Any]) -> Iterator[pa.Table]:
    """The kept rows of a shard as `CURATED`, a row group of its documents at a time."""
    verdicts = pq.read_table(out / VERDICTS / f"{shard.name}.parquet")
    kept = verdicts.column("reason").to_numpy(zero_copy_only=False) == ""
    if not kept.any():
        return
    spans = ["personal_data"] if any(policy != "keep" for policy in config.redact.values()) else []
    annotations = pq.read_table(shard.beside["annotate"], columns=[*_ANNOTATIONS, *spans])
    first = 0
    for batch in read_batches(shard.documents):
        mask = pa.array(kept[first : first + batch.num_rows])
        documents, beside, verdict = (
            pa.Table.from_batches([batch]).filter(mask),
            annotations.slice(first, batch.num_rows).filter(mask),
            verdicts.slice(first, batch.num_rows).filter(mask),
        )
        first += batch.num_rows
        if documents.num_rows:
            yield _finished(documents, beside, verdict, config, metrics)


def _finished(documents: pa.Table, annotations: pa.Table, verdicts: pa.Table, config: SelectConfig, metrics: dict[str, Any]) -> pa.Table:
    columns = {name: documents.column(name) for name in SCHEMA.names}
    columns |= {name: annotations.column(name) for name in _ANNOTATIONS}
    columns |= {name: verdicts.column(name) for name in ("text_hash", "quality_score", "cluster_size", "licence_of_cluster")}
    columns["language_claim"] = documents.column("language")
    sizes = verdicts.column("cluster_size").to_numpy()
    columns["weight"] = pa.array(rehydration_weight(sizes) if config.rehydrate else np.ones(len(sizes)), pa.int8())
    found = annotations.column("personal_data").to_pylist() if "personal_data" in annotations.column_names else [[]] * len(sizes)
    cuts = verdicts.column("cuts").to_pylist()
    if any(found) or any(cuts):
        texts, ids, tags = (column.to_pylist() for column in (documents.column("text"), documents.column("id"), annotations.column("language")))
        for row, (places, passages) in enumerate(zip(found, cuts, strict=True)):
            if places or passages:
                counted = metrics["redacted"].setdefault(tags[row], {})
                spans = [pii.Span(**place) for place in places if config.redact.get(place["kind"], "keep") != "keep"]
                texts[row] = edited(texts[row], [(cut["start"], cut["end"]) for cut in passages], spans, config, ids[row], counted)
        columns["text"] = pa.array(texts, pa.large_string())
    return pa.table([columns[field.name].cast(field.type) for field in CURATED], schema=CURATED)


def edited(text: str, cuts: list[tuple[int, int]], spans: list[pii.Span], config: SelectConfig, document: str, counted: dict[str, int]) -> str:
    """The text without the passages `cuts` (ordered, apart from each other) and with the personal data at `spans` replaced.

    A span that reaches into a cut goes with it whole. `counted`: replacements by kind, added to. Line breaks that a cut leaves behind
    are joined to one empty line.
    """
    pieces: list[str] = []
    left: list[pii.Span] = []
    position = length = 0
    for start, end in [*cuts, (len(text), len(text))]:
        piece_end = min([start, *(span.start for span in spans if span.start < start < span.end)])
        shift = length - position
        left += [span._replace(start=span.start + shift, end=span.end + shift) for span in spans if position <= span.start and span.end <= piece_end]
        pieces.append(text[position:piece_end])
        length += len(pieces[-1])
        position = max([end, *(span.end for span in spans if span.start < end < span.end)])
    for span in left:
        counted[span.kind] = counted.get(span.kind, 0) + 1
    joined = "".join(pieces)
    redacted = pii.redact(joined, left, config.redact, document=document, key=pseudonym_key(config)) if left else joined
    return _BLANK_LINES.sub("\n\n", redacted).strip() if cuts else redacted


def pseudonym_key(config: SelectConfig) -> str:
    """The secret from the environment, joined with the release's name; empty when no kind gets pseudonyms. Raises `ConfigError` without one."""
    if "pseudonym" not in config.redact.values():
        return ""
    secret = os.environ.get(KEY_VARIABLE, "")
    if not secret:
        raise ConfigError(f"select.redact: pseudonyms need a secret in the environment: set {KEY_VARIABLE}, and keep it to make the same release again")
    return f"{config.release}:{secret}"


def _split(table: pa.Table, limits: dict[str, int]) -> Iterator[tuple[str, str, pa.Table]]:
    """The rows of each split and language."""
    tags = table.column("language").to_numpy(zero_copy_only=False)
    hashes = table.column("text_hash").to_numpy()
    for tag in sorted(set(tags.tolist())):
        aside = hashes <= np.uint64(limits[tag]) if tag in limits else np.zeros(len(hashes), dtype=bool)
        for split, mask in (("train", (tags == tag) & ~aside), ("validation", (tags == tag) & aside)):
            if mask.any():
                yield split, tag, table.filter(pa.array(mask))


def _count(table: pa.Table, metrics: dict[str, Any]) -> None:
    """Documents by language and licence, for the card of the corpus."""
    for group in table.group_by(["language", "licence"]).aggregate([([], "count_all")]).to_pylist():
        licences = metrics["licences"].setdefault(group["language"], {})
        licences[group["licence"]] = licences.get(group["licence"], 0) + group["count_all"]


def _text_bytes(table: pa.Table) -> int:
    return int(pc.sum(pc.binary_length(table.column("text"))).as_py() or 0)
