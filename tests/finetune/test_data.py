"""Rows: formats, faults, the split."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from iberlm.core.errors import ConfigError, DataError
from iberlm.finetune import data
from iberlm.finetune.config import DataConfig
from iberlm.finetune.data import Bad, Row, data_files, held_out, read_rows
from tests.finetune.tiny import sample_rows, write_jsonl

PATH = DataConfig(kind="path", card="c")


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


GOOD = [turn("user", "Què és això?"), turn("assistant", "Una prova.")]


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = sample_rows("es", "ca")[30:42]
    plain = write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    whole = plain.read_bytes()
    # two frames, as parallel compressors write them
    (tmp_path / "rows.jsonl.zst").write_bytes(zstandard.compress(whole[:3000]) + zstandard.compress(whole[3000:]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = {path.name: list(read_rows([path], PATH)) for path in sorted(tmp_path.glob("rows.*"))}
    assert len(read) == 4
    assert all(found == read["rows.jsonl"] for found in read.values())
    assert [row.id for row in read["rows.jsonl"] if isinstance(row, Row)] == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("{not json", ("und", "not_json")),
        ("[1, 2]", ("und", "not_an_object")),
        ({"messages": GOOD}, ("und", "no_language")),
        ({"language": "tlh", "messages": GOOD}, ("und", "unknown_language")),
        ({"language": "eu", "messages": GOOD}, ("eu", "language_not_wanted")),
        ({"language": "ca"}, ("ca", "no_messages")),
        ({"language": "ca", "messages": []}, ("ca", "no_messages")),
        ({"language": "ca", "messages": ["hola"]}, ("ca", "message_without_role")),
        ({"language": "ca", "messages": [GOOD[0], turn("assistant", " ")]}, ("ca", "empty_content")),
        ({"language": "ca", "messages": [GOOD[0], turn("assistant", None)]}, ("ca", "empty_content")),
        ({"language": "ca", "messages": GOOD[::-1]}, ("ca", "wrong_role_order")),
        ({"language": "ca", "messages": GOOD + GOOD[:1]}, ("ca", "wrong_role_order")),
        ({"language": "ca", "messages": [turn("system", "Sigues breu.")]}, ("ca", "wrong_role_order")),
        ({"language": "ca", "messages": [turn("tool", "x"), *GOOD]}, ("ca", "wrong_role_order")),
    ],
)
def test_a_bad_row_is_named_by_its_fault(tmp_path: Path, record: Any, expected: tuple[str, str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [record])
    assert list(read_rows([path], DataConfig(kind="path", card="c", languages=["ca"]))) == [Bad(*expected)]


def test_a_system_message_and_several_turns_are_good(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"language": "ca_valencia", "messages": [turn("system", "Sigues breu."), *GOOD, *GOOD]}])
    (row,) = read_rows([path], PATH)
    assert isinstance(row, Row)
    assert (row.id, row.language, row.question) == ("a.jsonl:1", "ca-valencia", "Què és això?")


def test_rows_without_a_language_take_the_one_that_is_set(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": GOOD}])
    (row,) = read_rows([path], DataConfig(kind="path", card="c", language="gl"))
    assert row.language == "gl"


def test_an_endless_line_is_skipped_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", ["x" * 5000, {"language": "ca", "messages": GOOD}])
    found = list(read_rows([path], PATH))
    assert found[0] == Bad("und", "line_too_long")
    assert isinstance(found[1], Row)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path, ending: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in sample_rows("es")).encode()
    packed = gzip.compress(text) if ending == ".gz" else zstandard.compress(text)
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"rows\.jsonl.*cut short"):
        list(read_rows([path], PATH))


def test_a_parquet_without_messages_is_an_error_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'messages'; its columns are text"):
        list(read_rows([tmp_path / "a.parquet"], PATH))


def test_patterns_without_files_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file matches"):
        data_files(DataConfig(kind="path", card="c", paths=[str(tmp_path / "*.jsonl")]))
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(ConfigError, match=r"choose among \.jsonl, \.jsonl\.gz"):
        data_files(DataConfig(kind="path", card="c", paths=[str(tmp_path / "a.csv")]))


def test_a_question_is_on_one_side_of_the_split_and_every_language_holds_some_out() -> None:
    rows = [Row(row["id"], row["language"], row["messages"]) for row in sample_rows("es", "ca", "gl")] * 2
    out = held_out(rows, 0.01, seed=3)
    aside = {row.question for row, held in zip(rows, out, strict=True) if held}
    assert aside.isdisjoint(row.question for row, held in zip(rows, out, strict=True) if not held)
    assert {row.language for row, held in zip(rows, out, strict=True) if held} == {"es", "ca", "gl"}
    assert not any(held_out(rows, 0.0, seed=3))
    assert held_out(rows[:1], 0.5, seed=0) == held_out(rows[:1], 0.5, seed=0)


def test_a_split_does_not_depend_on_the_other_rows() -> None:
    rows = [Row(row["id"], "es", row["messages"]) for row in sample_rows("es")]
    assert held_out(rows, 0.3, seed=1)[:20] == held_out(rows[:20], 0.3, seed=1)
