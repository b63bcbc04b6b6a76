"""Annotate: everything that is expensive, once. Text is read, columns are written beside it, nothing is dropped or changed.

The language (identified; the source's claim stays in the documents), the statistics of the filters, the hashes for duplicates and
the places of personal data, each row beside the document of the same file and row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.core.documents import read_batches, write_documents
from iberlm.core.errors import ConfigError
from iberlm.core.files import sha256_file
from iberlm.core.languages import LANGUAGES
from iberlm.core.manifest import Manifest, summed
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate import langid, pii
from iberlm.curate.config import AnnotateConfig
from iberlm.curate.langid import identify_documents, load_model
from iberlm.curate.measure.kernel import STATISTICS, Measured, measure, prepare
from iberlm.curate.urls import url_hashes

VERSION = 2
ANNOTATIONS = "annotations"
SPAN = [pa.field("start", pa.int32()), pa.field("end", pa.int32())]
"""Offsets of a span in code points of the text, half open."""
_CODES = {tag: code for code, tag in enumerate(LANGUAGES)}


def band_names(bands: int) -> list[str]:
    """Names of the columns of the MinHash bands."""
    return [f"band_{band:02d}" for band in range(bands)]


def annotation_schema(bands: int) -> pa.Schema:
    """Columns of an annotations file; rows are those of the documents file of the same name."""
    return pa.schema(
        [
            pa.field("language", pa.string(), nullable=False),
            pa.field("language_score", pa.float32()),
            pa.field("variety", pa.string()),  # of Catalan: central, valencian or undetermined; null for other languages
            pa.field("other_languages", pa.list_(pa.struct([*SPAN, pa.field("language", pa.string())]))),
            *[pa.field(name, pa.from_numpy_dtype(dtype)) for name, dtype in STATISTICS.items()],
            pa.field("text_hash", pa.uint64()),
            pa.field("url_hash", pa.uint64()),
            *[pa.field(name, pa.uint64()) for name in band_names(bands)],
            pa.field("paragraphs", pa.list_(pa.struct([pa.field("hash", pa.uint64()), *SPAN]))),
            pa.field("personal_data", pa.list_(pa.struct([*SPAN, pa.field("kind", pa.string())]))),
        ]
    )


@dataclass(frozen=True)
class Shard:
    """One documents file and the settings."""

    documents: Path
    config: AnnotateConfig


def run(config: AnnotateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Annotate every documents file of the extraction. Raises what `run_stage` raises, and `ConfigError` for an identifier that cannot be loaded."""
    return run_stage("annotate", VERSION, _annotate_all, config, inputs, out, fingerprint=_identifier_hashes(config), resumable=True)


def _identifier_hashes(config: AnnotateConfig) -> list[str]:
    """Of the identifier's files: another model gives other columns, whatever its path."""
    shipped = Path(langid.__file__).parent
    files = [Path(config.identifier)] if config.identifier else sorted([*shipped.glob("*.safetensors"), *shipped.glob("*.tsv")])
    if missing := [path for path in files if not path.is_file()]:
        raise ConfigError(f"annotate.identifier: {missing[0]} is no file; give a fastText model, or leave it empty for the one that is shipped")
    return [sha256_file(path) for path in files]


def _annotate_all(config: AnnotateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    load_model(config.identifier or None)  # what is wrong with it must not be found out in every worker
    prepare()  # nor the loops be compiled in each
    shards = {path.stem: Shard(path, config) for path in inputs[0].paths("documents/", ".parquet")}
    results = map_shards("annotate", annotate_shard, shards, record, workers=config.workers)
    record.metrics = summed(result.metrics for result in results.values())


@cache
def _model(path: str) -> Any:
    return load_model(path or None)


def annotate_shard(shard: Shard, out: Path) -> ShardResult:
    """Annotate one documents file into `out/annotations/` under the same name."""
    path = out / ANNOTATIONS / shard.documents.name
    result = ShardResult(metrics={"bytes": 0, "personal_data": 0, "mixed_documents": 0, "claims": {}})
    schema = annotation_schema(shard.config.minhash_bands)
    rows = write_documents(path, _annotated(shard, schema, result), schema)
    result.outputs = {path.relative_to(out).as_posix(): rows}
    return result


def _annotated(shard: Shard, schema: pa.Schema, result: ShardResult) -> Iterator[pa.RecordBatch]:
    for batch in read_batches(shard.documents, ["text", "language", "url"]):
        annotated = annotate_batch(batch, shard.config, schema)
        pairs = pa.table({"claim": batch.column("language"), "language": annotated.column("language")})
        for found in pairs.group_by(["claim", "language"]).aggregate([([], "count_all")]).to_pylist():
            result.counts.keep(found["language"], found["count_all"])
            claimed = result.metrics["claims"].setdefault(found["claim"], {})
            claimed[found["language"]] = claimed.get(found["language"], 0) + found["count_all"]
        result.metrics["bytes"] += int(batch.column("text").nbytes)
        result.metrics["personal_data"] += len(annotated.column("personal_data").flatten())
        result.metrics["mixed_documents"] += int(np.count_nonzero(_list_lengths(annotated.column("other_languages"))))
        yield annotated


def annotate_batch(batch: pa.RecordBatch, config: AnnotateConfig, schema: pa.Schema) -> pa.RecordBatch:
    """All annotation columns of a batch of documents (columns `text`, `language`, `url`), as `schema`."""
    text = batch.column("text")
    identified = identify_documents(text, batch.column("language").to_pylist(), characters=config.identify_characters, model=_model(config.identifier))
    codes = np.array([_CODES.get(tag, -1) for tag in identified.languages], np.int8)
    measured = measure(text, codes, bands=config.minhash_bands, rows=config.minhash_rows)
    hashes, given = url_hashes(batch.column("url").to_pylist())
    columns: dict[str, Any] = {
        "language": pa.array(identified.languages, pa.string()),
        "language_score": pa.array(identified.scores, pa.float32()),
        "variety": pa.array(identified.variety, pa.string()),
        "other_languages": identified.other_languages,
        **measured.statistics,
        "text_hash": measured.text_hash,
        "url_hash": pa.array(hashes, mask=~given),
        **dict(zip(band_names(config.minhash_bands), measured.bands, strict=True)),
        "paragraphs": _paragraphs(measured, schema.field("paragraphs").type),
        "personal_data": pii.find_batch(text) if config.personal_data else pa.array([[]] * len(text), schema.field("personal_data").type),
    }
    return pa.RecordBatch.from_arrays([_as(columns[field.name], field.type) for field in schema], schema=schema)


def _as(values: Any, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if array.type == kind else array.cast(kind)


def _paragraphs(measured: Measured, kind: pa.DataType) -> pa.Array:
    columns = [measured.paragraph_hash, measured.paragraph_start, measured.paragraph_end]
    values = pa.StructArray.from_arrays([pa.array(column) for column in columns], fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(measured.paragraph_offsets.astype(np.int32)), values)


def _list_lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = np.diff(column.offsets.to_numpy())
    return lengths
