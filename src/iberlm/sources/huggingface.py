"""Hugging Face data sets, streamed at a pinned commit into Parquet files of bounded size. Local folders work too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.cards import Card
from iberlm.core.errors import CardError, DataError, ResourceError
from iberlm.core.files import publish
from iberlm.sources.config import SourceConfig
from iberlm.sources.entries import FileEntry, describe

BATCH_ROWS = 1000
MAX_FILE_ROWS = 100_000
MAX_FILE_BYTES = 256 << 20
KEPT_FIELDS = ("language", "url", "date", "title", "licence", "license")
"""Columns kept beside the text and the identifier, where a data set has them."""


def gather(name: str, source: SourceConfig, card: Card, folder: Path, root: Path) -> list[FileEntry]:
    """Stream the data set into `folder`/NNNNN.parquet; return the entries, with paths relative to `root`.

    Raises `CardError` when the card describes another data set or revision, `ResourceError` when the hub cannot be reached, and
    `DataError` when the data set, its split or its text field does not exist or no row came.
    """
    _check_pin(name, source, card)
    entries = []
    for path in _write(_tables(name, source), folder):
        inner = f"{source.dataset.strip('/')}@{source.revision[:12] or 'local'}/{source.split}/{path.name}"
        url = None if source.is_local_dataset else f"https://huggingface.co/datasets/{source.dataset}/tree/{source.revision}"
        entries.append(describe(path, root, name=name, inner=inner, form="parquet", source=source, card=card, url=url))
    if not entries:
        raise DataError(f"corpus.sources.{name}.dataset: '{source.dataset}' has no rows in split '{source.split}'")
    return entries


def _check_pin(name: str, source: SourceConfig, card: Card) -> None:
    if source.is_local_dataset or card.source is None or card.source.kind != "huggingface":
        return
    if card.source.dataset != source.dataset:
        raise CardError(
            f"corpus.sources.{name}.dataset: '{source.dataset}', but card '{card.name}' describes '{card.source.dataset}'; use the card of that data set"
        )
    pinned = card.source.revision
    if pinned != source.revision:
        raise CardError(
            f"corpus.sources.{name}.revision: {source.revision}, but card '{card.name}' describes {pinned}; "
            "use that one, or check the data set again and raise the card's version"
        )


def _tables(name: str, source: SourceConfig) -> Iterator[pa.Table]:
    """Arrow tables of the wanted columns, at most `max_documents` rows in all."""
    dataset = _open(name, source)
    left = source.max_documents or None
    batches = iter(dataset.with_format("arrow").iter(batch_size=BATCH_ROWS))
    while left is None or left > 0:
        try:
            table = next(batches, None)
        except Exception as error:
            raise _unreachable(name, source, error) from error
        if table is None:
            return
        if source.text_field not in table.column_names:
            raise DataError(
                f"corpus.sources.{name}.text_field: '{source.text_field}' is no column of '{source.dataset}', which has {', '.join(table.column_names)}"
            )
        wanted = [column for column in dict.fromkeys((source.id_field, source.text_field, *KEPT_FIELDS)) if column in table.column_names]
        table = table.select(wanted).slice(0, left)
        left = None if left is None else left - table.num_rows
        yield table


def _open(name: str, source: SourceConfig) -> Any:
    import datasets  # seconds to import: only for this kind

    if source.is_local_dataset and not Path(source.dataset).is_dir():
        raise DataError(f"corpus.sources.{name}.dataset: the folder '{source.dataset}' does not exist")
    try:
        return datasets.load_dataset(source.dataset, source.config_name or None, split=source.split, revision=source.revision or None, streaming=True)
    except Exception as error:  # network, hub and format errors come as a dozen unrelated types
        raise _unreachable(name, source, error) from error


def _unreachable(name: str, source: SourceConfig, error: Exception) -> DataError | ResourceError:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no message'}"
    if source.is_local_dataset:
        return DataError(f"corpus.sources.{name}: the folder '{source.dataset}' cannot be read as a data set with split '{source.split}' ({reason})")
    return ResourceError(
        f"corpus.sources.{name}: '{source.dataset}' at {source.revision[:12]} (split '{source.split}') could not be had from the hub ({reason}). "
        "Check the name, the commit and the split; on a machine without internet run `iberlm fetch` elsewhere and copy its folder"
    )


def _write(tables: Iterator[pa.Table], folder: Path) -> Iterator[Path]:
    """Publish the tables as files of at most about `MAX_FILE_ROWS` rows or `MAX_FILE_BYTES` of Arrow data."""
    table = next(tables, None)
    number = 0
    while table is not None:
        path = folder / f"{number:05d}.parquet"
        rows = size = 0
        schema = table.schema
        with publish(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while table is not None and rows < MAX_FILE_ROWS and size < MAX_FILE_BYTES:
                writer.write_table(table.cast(schema))
                rows, size = rows + table.num_rows, size + table.nbytes
                table = next(tables, None)
        yield path
        number += 1
