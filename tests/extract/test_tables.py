"""JSONL and Parquet: the fast parser rejects what the slow one does, and records may state their licence."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iberlm.extract.extract import read
from iberlm.extract.records import Reject, Text
from iberlm.extract.tables import _parse, _parse_slowly

from .reading import CONFIG, items, raw, reasons, texts


def outcome(line: bytes, parse: Any) -> tuple[str, str]:
    found = parse(line, 0)
    if isinstance(found, Reject):
        return "reject", found.reason
    text = found.get("text")
    return "text", text if isinstance(text, str) else "none"


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@settings(max_examples=500, deadline=None)
@given(line=st.one_of(st.binary(max_size=40), VALUES.map(lambda value: json.dumps({"text": value}).encode())))
@example(b'{"text": "\\ud800"}')
@example(b'{"text": NaN}')
@example(b'{"text": -Infinity, "x": Infinity}')
@example(b'{"text": "a", "n": ' + b"9" * 100 + b"}")
@example(b'{"text": "a", "n": ' + b"9" * 5000 + b"}")
@example(b'{"text": "a", "n": 18446744073709551616}')
@example(b'{"text": "a", "n": 1e999}')
@example(b'{"text": "a", "text": "b"}')
@example(b'{"text": "a\tb"}')
@example(b'{"text": "a"} {"text": "b"}')
@example(b'{"text": "caf\xe9"}')
@example(b'{"a":' * 900 + b"1" + b"}" * 900)
@example(b'{"a":' * 5000 + b"1" + b"}" * 5000)
@example(b'\xef\xbb\xbf{"text": "a"}')
@example(b"")
@example(b"null")
@example(b'{"text": "\\u0000"}')
@example(b"{'text': 'a'}")
@example(b'{"text": 01}')
@example(b'{"text": "a",}')
def test_fast_and_slow_parser_agree(line: bytes) -> None:
    assert outcome(line, _parse) == outcome(line, _parse_slowly)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"licence": "CC-BY-SA-4.0"}, "CC-BY-SA-4.0"),
        ({"license": "GPL-2.0-or-later OR LGPL-2.1-only"}, "GPL-2.0-or-later OR LGPL-2.1-only"),
        ({"licence": "LicenseRef-Town"}, "LicenseRef-Town"),
        ({"licence": "", "license": "CC0-1.0"}, "CC0-1.0"),
        ({"license": "cc-by-sa-4.0"}, None),
        ({"license": "see source package"}, None),
        ({"license": "CC BY 4.0"}, None),
        ({"license": ["CC-BY-4.0"]}, None),
        ({"license": 4}, None),
        ({"license": "CC-BY-4.0 OR " * 100 + "CC0-1.0"}, None),
        ({"license": "((((("}, None),
        ({}, None),
    ],
)
def test_record_states_its_licence_as_spdx_or_not_at_all(tmp_path: Path, fields: dict[str, object], licence: str | None) -> None:
    line = json.dumps({"text": "Bon dia.", "url": "https://exemple.cat/1", "date": "2024-05-01", **fields}).encode()
    (found,) = items(tmp_path / "a.jsonl", "jsonl", line)
    assert isinstance(found, Text)
    assert (found.licence, found.url, found.date, found.reserved) == (licence, "https://exemple.cat/1", "2024-05-01", None)


def test_parquet_with_another_schema_is_one_reject_that_names_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["x"], "lang": ["ca"], "meta": [{"a": 1}]}), path)
    (found,) = read(raw(path, "parquet"), CONFIG)
    assert isinstance(found, Reject)
    assert (found.reason, found.detail) == ("no_text_column", "no column 'text' among content, lang, meta")
    pq.write_table(pa.table({"text": [1, 2], "id": [None, 3.5]}), path)
    assert reasons(list(read(raw(path, "parquet"), CONFIG))) == ["no_text", "no_text"]
    pq.write_table(pa.table({"text": [["a"], None], "id": [b"\xff", b"x"]}), path)
    assert reasons(list(read(raw(path, "parquet"), CONFIG))) == ["invalid_utf8", "no_text"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())])
def test_text_columns_of_every_kind(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a.parquet"
    values = ["Bon dia.", "Adéu.", None]
    pq.write_table(pa.table({"text": pa.array(values).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(values).dictionary_encode()}), path)
    found = list(read(raw(path, "parquet"), CONFIG))
    assert texts(found) == ["Bon dia.", "Adéu."]
    assert reasons(found) == ["no_text"]


def test_megabyte_words_and_duplicate_ids_are_documents(tmp_path: Path) -> None:
    word = "paraula" * (1 << 18)
    content = b"".join(json.dumps({"id": "1", "text": text}).encode() + b"\n" for text in (word, "un", "un"))
    found = items(tmp_path / "a.jsonl", "jsonl", content)
    assert texts(found) == [word, "un", "un"]
    assert [item.position for item in found] == [0, 1, 2]
