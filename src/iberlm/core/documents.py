"""The one schema of documents between stages: Parquet (zstd) on disk, Arrow in memory.

Base columns come from extraction; annotation columns are added beside them by `curate` and never replace them.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.errors import CorruptError
from iberlm.core.files import publish

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # unique in a corpus: 16 hexadecimal digits of a hash, see `document_id`
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),  # BCP 47; what the source says until `annotate` identifies it
        pa.field("language_score", pa.float32()),  # of the identification, 0..1; null before it
        pa.field("source", pa.string(), nullable=False),  # file inside the source, e.g. package and path
        pa.field("card", pa.string(), nullable=False),  # name of the data card
        pa.field("url", pa.string()),
        pa.field("date", pa.string()),  # ISO 8601
        pa.field("licence", pa.string(), nullable=False),  # SPDX expression
        pa.field("licence_evidence", pa.string()),  # the link of a page that states its licence; null where the card states it
        pa.field("http_status", pa.int16()),
        pa.field("content_type", pa.string()),  # of the response, as the server or the archive says
        pa.field("reserved", pa.list_(pa.string())),  # signals by which the page reserves its use, e.g. "robots_meta:noai"
    ]
)

BATCH_ROWS = 8192
"""Rows of a row group at most; its text is bounded too (see `batches_of`), so a reader of one row group at a time has bounded memory."""


def write_documents(path: Path, batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema = SCHEMA) -> int:
    """Publish batches of `schema` as one Parquet file; return the number of rows. An empty file is valid.

    zstd at its first level: files between stages are read a few times and then deleted, and level 3 takes a quarter longer for a sixth less.
    """
    rows = 0
    with publish(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=1) as writer:
        for batch in batches:
            writer.write(batch)
            rows += batch.num_rows
    return rows


def batches_of(
    records: Iterable[Mapping[str, Any]], schema: pa.Schema = SCHEMA, max_rows: int = BATCH_ROWS, max_bytes: int = 32 << 20
) -> Iterator[pa.RecordBatch]:
    """Gather dictionaries into record batches of at most `max_rows` rows or about `max_bytes` of text."""
    rows: list[Mapping[str, Any]] = []
    size = 0
    for record in records:
        rows.append(record)
        size += len(record["text"])
        if len(rows) >= max_rows or size >= max_bytes:
            yield pa.RecordBatch.from_pylist(rows, schema=schema)
            rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def read_batches(path: Path, columns: list[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Stream a documents file, or another with rows beside it; a batch never holds rows of two row groups.

    Raises `CorruptError` when it is not a whole Parquet file.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            yield from record_batches(parquet, batch_rows, columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: not a whole Parquet file ({error}); run the stage that makes it again") from error


def record_batches(parquet: pq.ParquetFile, batch_rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream an open Parquet file one row group after the other: asked for several at once, Arrow keeps the bytes of all that it has read."""
    for group in range(parquet.num_row_groups):
        yield from parquet.iter_batches(batch_size=batch_rows, columns=columns, row_groups=[group])
