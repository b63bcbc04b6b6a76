"""Select: thresholds on columns, one document a cluster, redaction, and the split. Cheap, so it can be run again and again.

Order of decisions, each loss counted under its reason: `language` (not one of those asked for), the rules of `rules.py`,
`duplicate` and `near_duplicate` (another document of the cluster and language that passes the rules is kept: the longest,
the first among equals). Counted under the identified language if it is one of ours, else under what the source claimed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.documents import read_batches, write_documents
from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import write_json
from iberlm.core.languages import LANGUAGES, UNDETERMINED, file_safe
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate import pii
from iberlm.curate.annotate import ANNOTATED
from iberlm.curate.config import SelectConfig
from iberlm.curate.dedup import CLUSTERS
from iberlm.curate.rules import RULES, first_reason

VERSION = 1
SPLITS = ("train", "validation")
SAMPLE_CHARACTERS = 700
DUPLICATE, NEAR_DUPLICATE, LANGUAGE = "duplicate", "near_duplicate", "language"
_WORKING = {"text", "bands", "personal_data", "source", "url", "date", "licence", "card"}
_HASH_RANGE = float(1 << 64)


def run(config: SelectConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Write `documents/{train,validation}.LANGUAGE.parquet` and `samples.json` from the annotated documents and their clusters.

    Raises `DataError` when a language that was asked for has no document left, with its reasons.
    """
    return run_stage("select", VERSION, _select, config, inputs, out)


def _select(config: SelectConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    annotated, clusters = inputs
    paths = annotated.paths("documents/", ".parquet")
    columns = _columns(paths)
    verdicts = _decide(columns, _clusters(clusters, len(columns["words"])), config)
    for language, reason in zip(verdicts.counted_as.tolist(), verdicts.reason.tolist(), strict=True):
        if reason:
            record.counts.drop(language, reason)
        else:
            record.counts.keep(language)
    _require(config.languages, record.counts)
    split = _split(columns, verdicts, config)
    redacted: dict[str, dict[str, int]] = {}
    for language in config.languages:
        for side in SPLITS:
            wanted = (verdicts.reason == "") & (verdicts.counted_as == language) & (split == side)
            path = out / "documents" / f"{side}.{file_safe(language)}.parquet"
            record.output(path, write_documents(path, _chosen(paths, wanted, config.redact, redacted.setdefault(language, {})), ANNOTATED))
    samples = out / "samples.json"
    write_json(samples, _samples(paths, columns, verdicts, config.samples))
    record.output(samples)
    record.metrics = {"redacted": redacted, "bytes": _bytes_kept(columns, verdicts, split, config.languages), "reasons": _reason_table(record.counts)}


def _columns(paths: list[Path]) -> dict[str, npt.NDArray[Any]]:
    """All annotation columns but the text and other long ones, each of shape (documents,), in the order of the files."""
    names = [name for name in ANNOTATED.names if name not in _WORKING]
    schema = pa.schema([ANNOTATED.field(name) for name in names])
    table = pa.concat_tables([pq.read_table(path, columns=names) for path in paths]) if paths else schema.empty_table()
    columns: dict[str, npt.NDArray[Any]] = {name: table.column(name).to_numpy() for name in names}
    lengths = [pc.binary_length(pq.read_table(path, columns=["text"]).column("text")).to_numpy() for path in paths]
    columns["bytes"] = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    return columns


@dataclass
class _Clusters:
    near: npt.NDArray[np.int64]
    exact: npt.NDArray[np.int64]


def _clusters(manifest: Manifest, documents: int) -> _Clusters:
    table = pq.read_table(manifest.path(CLUSTERS))
    if table.num_rows != documents:
        raise CorruptError(f"{manifest.folder / CLUSTERS}: {table.num_rows} rows for {documents} annotated documents; run the dedup stage again")
    return _Clusters(table.column("cluster").to_numpy(), table.column("exact_cluster").to_numpy())


@dataclass
class _Verdicts:
    """For each document, why it is dropped ('' when kept) and the language that it is counted under; shape (documents,)."""

    reason: npt.NDArray[np.object_]
    counted_as: npt.NDArray[np.object_]


def _decide(columns: dict[str, npt.NDArray[Any]], clusters: _Clusters, config: SelectConfig) -> _Verdicts:
    language, claim = columns["language"], columns["language_claim"]
    count = len(language)
    reason = np.full(count, LANGUAGE, dtype=object)
    for tag in config.languages:
        rows = np.flatnonzero(language == tag)
        indices = first_reason({name: column[rows] for name, column in columns.items()}, config.filters[tag])
        reason[rows] = [RULES[index].__name__ if index >= 0 else "" for index in indices]
    known = np.array([tag in LANGUAGES for tag in language], dtype=bool)
    claimed = np.array([tag if tag in LANGUAGES else UNDETERMINED for tag in claim], dtype=object)
    counted_as = np.where(known, language, claimed)
    passing = np.flatnonzero(reason == "")
    # one a cluster *and language*: Valencian made from Catalan by rule is a near duplicate of it, and still Valencian
    tags = np.unique(language, return_inverse=True)[1]
    order = passing[np.lexsort((passing, -columns["bytes"][passing], tags[passing], clusters.near[passing]))]
    cluster, tag_of = clusters.near[order], tags[order]
    repeats = np.zeros(len(order), dtype=bool)
    repeats[1:] = (cluster[1:] == cluster[:-1]) & (tag_of[1:] == tag_of[:-1])
    seen: set[tuple[int, int]] = set()
    for row, repeated in zip(order.tolist(), repeats.tolist(), strict=True):
        text = (int(clusters.exact[row]), int(tags[row]))
        if repeated:
            reason[row] = DUPLICATE if text in seen else NEAR_DUPLICATE
        seen.add(text)
    return _Verdicts(reason, counted_as)


def _require(languages: list[str], counts: Counts) -> None:
    empty = [language for language in languages if not counts.kept.get(language)]
    if not empty:
        return
    details = []
    for language in empty:
        reasons = sorted(counts.dropped.get(language, {}).items(), key=lambda entry: -entry[1])
        told = ", ".join(f"{reason} {documents}" for reason, documents in reasons) or "there was none to begin with"
        details.append(f"{language}: no document left ({told})")
    raise DataError(f"{'; '.join(details)}. Add sources, loosen the limits (filters=), or leave the language out (curate select.languages)")


def _split(columns: dict[str, npt.NDArray[Any]], verdicts: _Verdicts, config: SelectConfig) -> npt.NDArray[np.object_]:
    """'validation' for the documents whose text hash is below the share, 'train' for the others; shape (documents,).

    The hash alone decides, so a document stays on its side when others come; only where a language would have fewer than
    the minimum are the documents with the smallest hashes taken, and above the maximum left.
    """
    split = np.full(len(columns["words"]), "train", dtype=object)
    share = columns["text_hash"].astype(np.float64) / _HASH_RANGE
    for language in config.languages:
        rows = np.flatnonzero((verdicts.reason == "") & (verdicts.counted_as == language))
        rows = rows[np.argsort(share[rows], kind="stable")]
        wanted = int(np.count_nonzero(share[rows] < config.validation_share))
        wanted = min(max(wanted, config.min_validation_documents), config.max_validation_documents, max(0, len(rows) - 1))
        split[rows[:wanted]] = "validation"
    return split


def _chosen(paths: list[Path], wanted: npt.NDArray[np.bool_], kinds: list[str], redacted: dict[str, int]) -> Iterator[pa.RecordBatch]:
    start = 0
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            rows = parquet.metadata.num_rows
        if wanted[start : start + rows].any():
            position = start
            for batch in read_batches(path):
                mask = wanted[position : position + batch.num_rows]
                position += batch.num_rows
                if mask.any():
                    yield _redact_batch(batch.filter(pa.array(mask)), kinds, redacted)
        start += rows


def _redact_batch(batch: pa.RecordBatch, kinds: list[str], redacted: dict[str, int]) -> pa.RecordBatch:
    texts = batch.column("text").to_pylist()
    for index, found in enumerate(batch.column("personal_data").to_pylist()):
        spans = [pii.Span(**span) for span in found if span["kind"] in kinds]
        texts[index] = pii.redact(texts[index], spans)
        for span in spans:
            redacted[span.kind] = redacted.get(span.kind, 0) + 1
    names = batch.schema.names
    columns = [pa.array(texts, pa.large_string()) if name == "text" else batch.column(name) for name in names]
    return pa.RecordBatch.from_arrays(columns, schema=ANNOTATED)


def _samples(paths: list[Path], columns: dict[str, npt.NDArray[Any]], verdicts: _Verdicts, per_reason: int) -> dict[str, Any]:
    """For the report: by language and reason ('' means kept), the documents with the smallest hashes, shortened and redacted."""
    wanted: dict[int, tuple[str, str]] = {}
    for language in sorted(set(verdicts.counted_as)):
        for reason in sorted(set(verdicts.reason[verdicts.counted_as == language])):
            rows = np.flatnonzero((verdicts.counted_as == language) & (verdicts.reason == reason))
            chosen = rows[np.argsort(columns["text_hash"][rows], kind="stable")[:per_reason]]
            wanted.update({int(row): (language, reason) for row in chosen})
    samples: dict[str, Any] = {"kept": {}, "dropped": {}}
    position = 0
    for path in paths:
        for batch in read_batches(path, ["id", "text", "source", "language", "language_claim", "personal_data"]):
            for index in [row - position for row in wanted if position <= row < position + batch.num_rows]:
                language, reason = wanted[position + index]
                row = batch.slice(index, 1).to_pylist()[0]
                text = pii.redact(row["text"], [pii.Span(**span) for span in row["personal_data"]])
                entry = {"id": row["id"], "source": row["source"], "identified": row["language"], "text": text[:SAMPLE_CHARACTERS]}
                if reason:
                    samples["dropped"].setdefault(language, {}).setdefault(reason, []).append(entry)
                else:
                    samples["kept"].setdefault(language, []).append(entry)
            position += batch.num_rows
    return samples


def _bytes_kept(columns: dict[str, npt.NDArray[Any]], verdicts: _Verdicts, split: npt.NDArray[np.object_], languages: list[str]) -> dict[str, dict[str, int]]:
    """UTF-8 bytes of kept text by split and language, before redaction."""
    kept = verdicts.reason == ""
    return {
        side: {language: int(columns["bytes"][kept & (split == side) & (verdicts.counted_as == language)].sum()) for language in languages} for side in SPLITS
    }


def _reason_table(counts: Counts) -> dict[str, int]:
    totals: dict[str, int] = {}
    for reasons in counts.dropped.values():
        for reason, documents in reasons.items():
            totals[reason] = totals.get(reason, 0) + documents
    return dict(sorted(totals.items(), key=lambda entry: -entry[1]))
