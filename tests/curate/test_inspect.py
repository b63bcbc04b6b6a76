"""Looking at documents of a finished run: the draw, what is said of each document, the marks in its text, and hostile text."""

import io
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.curate.aligned import read_columns, read_rows
from iberlm.curate.config import Thresholds
from iberlm.curate.inspect import Inspected, Wanted, inspect
from iberlm.curate.inspect_view import facts, marked, show, visible
from tests.curate.small_run import EMAIL, ENGLISH, NOTICE, documents, make_run

STAGES = ("extract", "annotate", "dedup", "decontaminate", "robots")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(folder: Path) -> tuple[list[Manifest], Manifest]:
    return [read_manifest(folder / name) for name in STAGES], read_manifest(folder / "curate")


def looked_at(run: tuple[list[Manifest], Manifest], **wanted: Any) -> list[Inspected]:
    return list(inspect(*run, Wanted(**wanted)))


def one(run: tuple[list[Manifest], Manifest], document: str) -> Inspected:
    (found,) = looked_at(run, document=document)
    return found


def said_of(found: Inspected) -> str:
    return "\n".join(facts(found))


def printed(found: Inspected, *, terminal: bool = False, characters: int = 0, personal_data: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False, emoji=False)
    show(console, found, characters=characters, personal_data=personal_data)
    return stream.getvalue()


def test_all_documents_come_once_with_the_reasons_of_the_funnel(run: tuple[list[Manifest], Manifest]) -> None:
    found = looked_at(run, number=1000)
    assert [entry.document["id"] for entry in found] == [row["id"] for row in documents()]
    assert [entry.number for entry in found] == list(range(len(documents())))
    counts = run[1].counts
    reasons = Counter(reason for names in counts.dropped.values() for reason, documents in names.items() for _ in range(documents))
    assert Counter(entry.reason for entry in found) == reasons + Counter(kept=sum(counts.kept.values()))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 30), number=st.integers(1, 50))
def test_a_draw_is_without_repeats_and_the_same_for_a_seed(run: tuple[list[Manifest], Manifest], seed: int, number: int) -> None:
    found = [entry.document["id"] for entry in looked_at(run, language="gl", reason="kept", seed=seed, number=number)]
    assert len(set(found)) == len(found) == min(number, 20)
    assert found == [entry.document["id"] for entry in looked_at(run, language="gl", reason="kept", seed=seed, number=number)]


def test_every_document_can_be_drawn(run: tuple[list[Manifest], Manifest]) -> None:
    drawn = Counter(entry.document["id"] for seed in range(60) for entry in looked_at(run, number=4, seed=seed))
    assert set(drawn) == {row["id"] for row in documents()}


def test_a_draw_keeps_to_the_language_and_the_reason(run: tuple[list[Manifest], Manifest]) -> None:
    assert {entry.verdict["counted_as"] for entry in looked_at(run, language="es", number=50)} == {"es"}
    assert [entry.document["id"] for entry in looked_at(run, reason="duplicate")] == ["copy"]
    assert [entry.document["id"] for entry in looked_at(run, language="und")] == ["english"]


def test_what_does_not_occur_is_refused_with_what_does(run: tuple[list[Manifest], Manifest]) -> None:
    with pytest.raises(ConfigError, match=r"no document has the reason 'to_short'; did you mean 'too_short'\? There are kept \(34\), "):
        looked_at(run, reason="to_short")
    with pytest.raises(ConfigError, match=r"no document has the language 'eu'; .*There are gl \(27\), es \(14\), und \(1\)"):
        looked_at(run, language="eu")
    with pytest.raises(DataError, match="no document of the language 'es' has the reason 'too_short'"):
        looked_at(run, language="es", reason="too_short")
    with pytest.raises(DataError, match="no document has the identifier 'nobody'"):
        looked_at(run, document="nobody")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("short", "5 words; beyond its limits: words 5 (at least 50)"),
        ("copy", "cluster of 3 documents · has the text of first"),
        ("near", "cluster of 3 documents · is a near duplicate of first"),
        ("first", "cluster of 3 documents, of which it is the first"),
        ("reserved", "reserved: robots_meta:noai"),
        ("closed", "https://pechado.example/nova/1"),
        ("closed", "robots: disallowed"),
        ("seen", "evaluation item item-7 of items at "),
        ("english", "claimed undetermined (und), identified English (en) "),
        ("english", "no limits for its language"),
        ("mixed", "cut, in English (en): "),
        ("es-5", "cut, repeated in many documents: "),
        ("email", "card village_bulletin · CC-BY-4.0"),
        ("email", "claimed Galician (gl), identified Galician (gl) 1.000\n236 words; within its limits"),
    ],
)
def test_what_is_known_of_a_document_is_said(run: tuple[list[Manifest], Manifest], document: str, told: str) -> None:
    assert told in said_of(one(run, document))


def test_removal_requests_and_stricter_licences_are_said(run: tuple[list[Manifest], Manifest]) -> None:
    found = one(run, "gl-0")
    verdict = found.verdict | {"cuts": [{"start": 3, "end": 9}], "licence_of_cluster": "CC-BY-SA-4.0"}
    told = said_of(replace(found, verdict=verdict))
    assert "cut, request for removal: 3-9" in told
    assert "CC-BY-4.0 · in its cluster CC-BY-SA-4.0" in told


def test_every_limit_that_is_passed_is_named_and_no_other(run: tuple[list[Manifest], Manifest]) -> None:
    found = one(run, "gl-0")
    words = found.columns["words"]
    assert found.beyond() == []
    assert replace(found, limits=Thresholds(max_words=words)).beyond() == []
    assert replace(found, limits=Thresholds(max_words=words - 1)).beyond() == [("words", words, "at most", words - 1)]
    ratio = found.columns["alpha_word_ratio"]
    assert replace(found, limits=Thresholds(min_alpha_word_ratio=ratio)).beyond() == []


def test_cuts_items_and_personal_data_are_marked(run: tuple[list[Manifest], Manifest]) -> None:
    assert f"[-{ENGLISH}-]" in printed(one(run, "mixed"))
    assert f"[-{NOTICE}-]" in printed(one(run, "es-5"))
    text = printed(one(run, "seen"))
    item = text[text.index("{=") + 2 : text.index("=}")]
    assert item == " ".join(documents()[8]["text"].split()[10:40])
    assert "<EMAIL>" in printed(one(run, "email"))
    assert EMAIL not in printed(one(run, "email"))
    assert EMAIL in printed(one(run, "email"), personal_data=True)


def test_only_the_beginning_is_shown_and_the_rest_is_counted(run: tuple[list[Manifest], Manifest]) -> None:
    found = one(run, "mixed")
    whole = found.document["text"]
    text = printed(found, characters=100)
    assert whole[:100] in text
    assert whole[:101] not in text
    assert f"... ({len(whole) - 100:,} more characters, 1 cut)" in text
    assert "more characters" not in printed(found)


def test_hostile_text_cannot_act_on_the_terminal(run: tuple[list[Manifest], Manifest]) -> None:
    text = printed(one(run, "hostile"))
    assert "paxina ␛[2J␛]0;owned␇ \ufffdmalo" in text
    assert "\x1b" not in text
    assert "\x1b]0" not in printed(one(run, "hostile"), terminal=True)


@given(st.text())
def test_symbols_stand_one_for_one(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    assert all(unicodedata.category(character) != "Cc" or character in "\n\t" for character in shown)
    assert visible(shown) == shown


@given(st.data())
def test_the_text_stands_between_the_marks_whatever_overlaps(run: tuple[list[Manifest], Manifest], data: st.DataObject) -> None:
    found = one_of_all(run)
    length = len(found.document["text"])

    def spans(kind: dict[str, str], most: int) -> list[dict[str, Any]]:
        edges = sorted(data.draw(st.sets(st.integers(0, length), max_size=2 * most)))
        return [{"start": start, "end": end, **kind} for start, end in zip(edges[::2], edges[1::2], strict=False)]

    columns = found.columns | {"personal_data": spans({"kind": "email"}, 4), "contamination": spans({"item": "i", "suite": "s"}, 3)}
    drawn = replace(found, columns=columns, verdict=found.verdict | {"cuts": spans({}, 4)})
    text = marked(drawn, 0, show_personal_data=True).plain
    for mark in ("[-", "-]", "{=", "=}"):
        text = text.replace(mark, "")
    assert text == found.document["text"]
    hidden = marked(drawn, 0, show_personal_data=False).plain
    assert hidden.count("<EMAIL>") == len(columns["personal_data"])


def one_of_all(run: tuple[list[Manifest], Manifest]) -> Inspected:
    return one(run, "gl-1")


def test_damaged_files_are_named(run: tuple[list[Manifest], Manifest], tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="limits"):
        list(inspect(run[0], replace(run[1], config={"filters": {"es": {"min_vowels": 1}}}), Wanted()))
    with pytest.raises(CorruptError, match=r"gone\.parquet: missing"):
        read_rows(tmp_path / "gone.parquet", [1])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match=r"cut\.parquet: not a whole Parquet file"):
        read_columns(tmp_path / "cut.parquet", ["id"], 1)
    path = run[0][0].paths("documents/", ".parquet")[0]
    with pytest.raises(CorruptError, match="10 rows beside 11 documents"):
        read_columns(path, ["id"], 11)
    with pytest.raises(CorruptError, match="has no column 'colour'"):
        read_columns(path, ["id", "colour"], 10)
    with pytest.raises(CorruptError, match="10 rows, and row 10 is looked for"):
        read_rows(path, [2, 10])


def test_rows_are_read_from_the_groups_that_hold_them(tmp_path: Path, run: tuple[list[Manifest], Manifest]) -> None:
    table = pq.read_table(run[0][0].paths("documents/", ".parquet")[0])
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=3)
    assert read_rows(tmp_path / "groups.parquet", [0, 2, 3, 9]).equals(table.take([0, 2, 3, 9]))
    assert read_rows(tmp_path / "groups.parquet", [6], ["id"]).to_pylist() == [{"id": "closed"}]
    assert read_rows(tmp_path / "groups.parquet", []).num_rows == 0
