"""Readers of records: JSONL and Parquet."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.cards.licences import problem_of
from iberlm.core.documents import record_batches
from iberlm.extract.config import ExtractConfig
from iberlm.extract.records import FileError, Reading, Reject, Text, field, language_claim, text_or_reject
from iberlm.extract.streams import blocks, foreign_kind, lines

_BATCH_ROWS = 256
_FIELDS = ("language", "url", "date", "licence", "license")
_HOPELESS_LINES = 100
"""A file whose first so many lines are all no JSON is no JSONL file: one reject for the file instead of one a line."""
_MAX_LICENCE_CHARACTERS = 500


def read_jsonl(path: Path, text_field: str, id_field: str, config: ExtractConfig) -> Reading:
    """Records of a JSONL file, one object a line; blank lines are passed over.

    Rejects: line_too_long, invalid_utf8, not_json, not_object, no_text, nul, invalid_unicode; for the file: not_jsonl,
    empty_file, and those of `streams.blocks`.
    """
    good, position = False, -1
    for position, line in enumerate(lines(_checked(blocks(path, config.max_expansion_ratio)), config.max_line_bytes)):
        if line is None:
            yield Reject(reason="line_too_long", detail=f"more than {config.max_line_bytes} bytes", position=position)
            continue
        if not line.strip():
            continue
        record = _parse(line.removeprefix(b"\xef\xbb\xbf") if position == 0 else line, position)
        if isinstance(record, Reject):
            yield record
        else:
            good = True
            yield _of_record(record, position, text_field, id_field)
        if not good and position + 1 >= _HOPELESS_LINES:
            raise FileError("not_jsonl", f"none of its first {_HOPELESS_LINES} lines is a JSON object")
    if position < 0:
        raise FileError("empty_file", "the file is empty")


def _checked(source: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks, unless the first shows another format."""
    first = True
    for block in source:
        if first and (kind := foreign_kind(block)):
            raise FileError("not_jsonl", f"the file is {kind}")
        first = False
        yield block


def _parse(line: bytes, position: int) -> dict[str, Any] | Reject:
    """The object of a line: by orjson, and what that refuses (NaN, lone surrogates, deep nesting) by the slower reader that allows or names it."""
    try:
        value = orjson.loads(line)
    except ValueError:
        value = None
    if value is None or not isinstance(value, dict):
        return _parse_slowly(line, position)
    return value


def _parse_slowly(line: bytes, position: int) -> dict[str, Any] | Reject:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Reject(reason="invalid_utf8", detail=f"byte {error.start} of the line", position=position)
    except (ValueError, RecursionError) as error:
        return Reject(reason="not_json", detail=str(error)[:200], position=position)
    if not isinstance(value, dict):
        return Reject(reason="not_object", detail=f"a JSON {type(value).__name__} instead of an object", position=position)
    return value


def _of_record(record: dict[str, Any], position: int, text_field: str, id_field: str) -> Text | Reject:
    licence = record.get("licence") or record.get("license")
    return text_or_reject(
        record.get(text_field),
        position,
        record=field(record.get(id_field)),
        language=_language(record.get("language")),
        url=field(record.get("url")),
        date=field(record.get("date")),
        licence=_spdx(licence) if isinstance(licence, str) and len(licence) <= _MAX_LICENCE_CHARACTERS else None,
    )


def _language(value: object) -> str | None:
    return _known_language(value) if isinstance(value, str) else None


_known_language = lru_cache(maxsize=1024)(language_claim)


@lru_cache(maxsize=4096)
def _spdx(licence: str) -> str | None:
    """A record's licence if it is a valid SPDX expression; anything else leaves the document to its data card."""
    return licence if licence.isascii() and problem_of(licence) is None else None


def read_parquet(path: Path, text_field: str, id_field: str, config: ExtractConfig) -> Reading:
    """Rows of a Parquet file, read in batches.

    Rejects: invalid_utf8, no_text, nul; for the file: not_parquet, no_text_column, expansion, empty_file, unreadable.
    """
    if path.stat().st_size == 0:
        raise FileError("empty_file", "the file is empty")
    try:
        with pq.ParquetFile(path) as parquet:
            yield from _rows(parquet, path.stat().st_size, text_field, id_field, config)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileError("not_parquet", str(error)[:200]) from error


def _rows(parquet: Any, packed_bytes: int, text_field: str, id_field: str, config: ExtractConfig) -> Reading:
    metadata, names = parquet.metadata, parquet.schema_arrow.names
    unpacked_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if unpacked_bytes > 16 << 20 and unpacked_bytes > config.max_expansion_ratio * packed_bytes:
        raise FileError("expansion", f"unpacks to {unpacked_bytes} bytes, more than {config.max_expansion_ratio:g} times its size")
    if text_field not in names:
        raise FileError("no_text_column", f"no column '{text_field}' among {', '.join(names)[:200]}")
    wanted = [name for name in dict.fromkeys((text_field, id_field, *_FIELDS)) if name in names]
    position = 0
    for batch in record_batches(parquet, _BATCH_ROWS, wanted):
        columns = {name: _values(batch.column(name)) for name in wanted}
        for row in zip(*columns.values(), strict=True):
            yield _of_row(dict(zip(columns, row, strict=True)), position, text_field, id_field)
            position += 1
    if position == 0:
        raise FileError("empty_file", "the table has no rows")


def _values(column: Any) -> list[Any]:
    """Values of a column. Strings come as bytes where one of them is not UTF-8, which Arrow does not check when it reads."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column = column.cast(pa.large_binary())
    return list(column.to_pylist())


def _of_row(row: dict[str, Any], position: int, text_field: str, id_field: str) -> Text | Reject:
    if any(isinstance(value, bytes) for value in row.values()):
        try:
            row = {name: value.decode("utf-8") if isinstance(value, bytes) else value for name, value in row.items()}
        except UnicodeDecodeError as error:
            return Reject(reason="invalid_utf8", detail=f"byte {error.start} of a field", position=position)
    return _of_record(row, position, text_field, id_field)
