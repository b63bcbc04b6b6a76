"""Items that the training corpus holds: found by curation, read by evaluation, from files alone."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.cli.items_tool import items
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.curate import annotate, decontaminate, dedup, select
from iberlm.curate.config import AnnotateConfig, DecontaminateConfig, SelectConfig, Thresholds
from iberlm.curate.dedup.config import DedupConfig
from iberlm.evaluate.catalogue import task_facts
from iberlm.evaluate.contamination import (
    Seen,
    asked_texts,
    clean_mask,
    item_hash,
    item_texts,
    not_searched,
    search_fingerprint,
    seen_items,
    shares_of,
    write_items,
)
from iberlm.evaluate.tasks import load_task
from tests.curate.test_robots import extracted
from tests.evaluate.tiny import sample_texts

TASKS = ("reading_es", "minimal_pairs_eu")
FILTERS = {tag: Thresholds() for tag in ("es", "eu")}


def rows_of(task: str) -> list[dict[str, Any]]:
    """The columns of item rows that tell an item, of every item of a task of ours."""
    docs = load_task(task_facts(task), overrides={}, metadata={}).eval_docs
    return [{"task": task, "item": place, "id": doc["id"], "item_hash": item_hash(doc), "doc": doc} for place, doc in enumerate(docs)]


@pytest.fixture(scope="module")
def asked() -> dict[str, list[dict[str, Any]]]:
    return {task: rows_of(task) for task in TASKS}


def corpus(asked: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Spanish and Basque texts, two of which hold a passage and a sentence of the tasks' items, in another spelling."""
    texts = [*sample_texts("es")[:12], *sample_texts("eu")[:12]]
    texts[3] += "\n\n" + asked["reading_es"][1]["doc"]["passage"].upper().replace(".", " —")
    texts[17] += "\n\n" + asked["minimal_pairs_eu"][2]["doc"]["choices"][0] + " Gero etxera joan ziren."
    return texts


PLANTED = {("reading_es", 1), ("minimal_pairs_eu", 2)}


def searched(folder: Path, texts: list[str], evaluation: list[str]) -> Manifest:
    source = extracted(folder / "extract", [{"text": text, "language": "es" if place < 12 else "eu"} for place, text in enumerate(texts)])
    return decontaminate.run(DecontaminateConfig(evaluation=evaluation, workers=1), [source], folder / "decontaminate")


def exported(folder: Path) -> Path:
    for task in TASKS:
        loaded = load_task(task_facts(task), overrides={}, metadata={})
        write_items(folder, task, ((doc, asked_texts(loaded, doc)) for doc in loaded.eval_docs))
    return folder


def found_in(seen: Seen, asked: dict[str, list[dict[str, Any]]]) -> set[tuple[str, int]]:
    rows = [row for task in TASKS for row in asked[task]]
    return {(row["task"], row["item"]) for row, share in zip(rows, shares_of(rows, seen), strict=True) if share}


@pytest.mark.parametrize("own", [False, True], ids=["by their hashes", "by their own names"])
def test_exactly_the_items_that_were_planted_in_the_corpus_are_seen(tmp_path: Path, asked: dict[str, list[dict[str, Any]]], own: bool) -> None:
    evaluation = "iberlm" if own else str(exported(tmp_path / "items"))
    searched(tmp_path, corpus(asked), [evaluation])
    seen = seen_items(tmp_path / "decontaminate", TASKS)
    assert found_in(seen, asked) == PLANTED
    assert seen.share("reading_es", asked["reading_es"][1]["item_hash"], asked["reading_es"][1]["id"]) == 1.0
    for task in TASKS:
        mask = clean_mask(asked[task], seen)
        assert mask is not None
        assert [row["item"] for row, clean in zip(asked[task], mask, strict=True) if not clean] == [item for name, item in PLANTED if name == task]


def test_a_piece_of_an_item_is_a_share_of_it_and_the_setting_decides(tmp_path: Path, asked: dict[str, list[dict[str, Any]]]) -> None:
    row = asked["reading_es"][0]
    words = row["doc"]["passage"].split()
    half = " ".join(words[: len(words) // 2 + 6])  # as many sequences of 13 words as in half of the passage, give or take a word
    searched(tmp_path, [sample_texts("es")[0] + "\n\n" + half], [str(exported(tmp_path / "items"))])
    seen = seen_items(tmp_path / "decontaminate", ["reading_es"])
    share = seen.share("reading_es", row["item_hash"], None)
    assert share is not None
    assert 0.4 < share < 0.6
    assert clean_mask([row], seen) == [False]
    assert clean_mask([row], seen, 0.7) == [True]
    assert clean_mask([row], seen, 0.3) == [False]
    assert found_in(seen, asked) == {("reading_es", 0)}


@pytest.mark.parametrize("contaminated", ["keep", "drop", "cut"])
def test_what_curation_took_out_of_the_corpus_is_not_seen(tmp_path: Path, asked: dict[str, list[dict[str, Any]]], contaminated: str) -> None:
    search = searched(tmp_path, corpus(asked), [str(exported(tmp_path / "items"))])
    source = read_manifest(tmp_path / "extract")
    annotated = annotate.run(AnnotateConfig(workers=1), [source], tmp_path / "annotate")
    inputs = [source, annotated, dedup.run(DedupConfig(workers=1), [annotated], tmp_path / "dedup"), search]
    select.run(SelectConfig(languages=["es", "eu"], filters=FILTERS, contaminated=contaminated, workers=1), inputs, tmp_path / "curate")
    seen = seen_items(tmp_path / "decontaminate", TASKS)
    assert found_in(seen, asked) == (PLANTED if contaminated == "keep" else set())
    assert search_fingerprint(tmp_path / "decontaminate") == [sha256_file(tmp_path / "decontaminate" / "items.parquet"), seen.removed]
    assert seen.removed == ("" if contaminated == "keep" else contaminated)
    assert clean_mask(asked["reading_es"], seen) == [contaminated != "keep" or ("reading_es", row["item"]) not in PLANTED for row in asked["reading_es"]]


def test_a_selection_that_did_not_read_the_search_took_nothing_out(tmp_path: Path, asked: dict[str, list[dict[str, Any]]]) -> None:
    search = searched(tmp_path, corpus(asked), [str(exported(tmp_path / "items"))])
    source = read_manifest(tmp_path / "extract")
    annotated = annotate.run(AnnotateConfig(workers=1), [source], tmp_path / "annotate")
    inputs = [source, annotated, dedup.run(DedupConfig(workers=1), [annotated], tmp_path / "dedup")]
    selected = select.run(SelectConfig(languages=["es", "eu"], filters=FILTERS, workers=1), inputs, tmp_path / "curate")
    assert search.key not in {entry["key"] for entry in selected.inputs}
    assert found_in(seen_items(tmp_path / "decontaminate", TASKS), asked) == PLANTED


def test_nobody_says_clean_of_what_was_not_looked_for(tmp_path: Path, asked: dict[str, list[dict[str, Any]]]) -> None:
    docs = [{"id": "a", "question": "¿Por qué?"}, {"id": "b", "question": "¿Cuántas naranjas cabían aquella tarde en la cesta azul?"}]
    write_items(tmp_path / "items", "short_es", ((doc, [doc["question"]]) for doc in docs))
    searched(tmp_path, sample_texts("es")[:2], [str(tmp_path / "items")])
    seen = seen_items(tmp_path / "decontaminate", ["short_es", "reading_es"])
    rows = [{"task": "short_es", "id": doc["id"], "item_hash": item_hash(doc)} for doc in docs]
    assert shares_of(rows, seen) == [None, 0.0]
    assert clean_mask(rows, seen) == [False, True]
    assert clean_mask(rows[:1], seen) is None
    assert clean_mask(asked["reading_es"], seen) is None
    assert (seen.searched("short_es"), seen.searched("reading_es")) == (True, False)
    assert not not_searched(seen, ["short_es"])
    said = not_searched(seen, ["short_es", "reading_es"])
    assert "did not look for reading_es:" in said
    assert "iberlm items suite=NAME --out FOLDER" in said


def test_folders_without_a_search_are_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "run" / "decontaminate").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has no items\.parquet; give RUN_DIR/decontaminate of a finished search"):
        seen_items(tmp_path / "run" / "decontaminate", TASKS)
    (tmp_path / "run" / "decontaminate" / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"did you mean .*run/decontaminate\?"):
        seen_items(tmp_path / "run", TASKS)
    with pytest.raises(DataError, match=r"items\.parquet: cannot be read as the items of a search"):
        seen_items(tmp_path / "run" / "decontaminate", TASKS)
    pq.write_table(pa.table({"suite": ["reading_es"]}), tmp_path / "run" / "decontaminate" / "items.parquet")
    with pytest.raises(DataError, match=r"items\.parquet: cannot be read as the items of a search"):
        seen_items(tmp_path / "run" / "decontaminate", TASKS)


def test_texts_of_the_question_are_written_and_the_rest_of_the_record_is_not() -> None:
    doc = {
        "id": "x-1",
        "link": "https://es.wikinews.org/wiki/Una_noticia_de_hace_tiempo",
        "premise": "El hombre abrió el grifo.",
        "choices": {"text": ["El agua salió.", "Se secó."], "label": ["A", "B"]},
        "note": "Written by a volunteer in the winter of that year.",
        "answer": 0,
    }
    asked = ["el hombre abrió el grifo, por lo tanto", "el agua salió", "se secó"]  # as templates do: another case, no full stop
    assert item_texts(doc, asked) == {"premise": doc["premise"], "choices": {"text": ["El agua salió.", "Se secó."], "label": [None, None]}}
    assert item_texts({"a": 3, "b": 4}, ["¿Cuánto es 3 + 4?", "7"]) == {"asked": ["¿Cuánto es 3 + 4?", "7"]}


def test_a_record_has_one_hash_whoever_read_it() -> None:
    plain = {"question": "¿Qué?", "choices": ["a", "b"], "answer": 1, "score": 0.5, "none": None}
    same = {"none": None, "score": np.float64(0.5), "answer": np.int64(1), "choices": np.array(["a", "b"]), "question": "¿Qué?"}
    assert item_hash(plain) == item_hash(same)
    assert item_hash(plain) != item_hash(plain | {"answer": 0})
    assert item_hash({"day": datetime.date(2026, 1, 2)}) == item_hash({"day": "2026-01-02"})
    assert len(item_hash({"half a pair": "\ud83d", "bytes": b"\xff"})) == 64


TEXTS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_a_record_that_went_through_json_keeps_its_hash(doc: dict[str, Any]) -> None:
    assert item_hash(json.loads(json.dumps(dict(reversed(doc.items()))))) == item_hash(doc)


def test_the_command_writes_the_items_of_a_suite(tmp_path: Path, asked: dict[str, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    items(tmp_path / "items", ["suite=sample", "suite.tasks=[reading,minimal_pairs,bits_per_byte]", "suite.languages=[es,eu]"], None)
    written = {path.stem for path in (tmp_path / "items").iterdir()}
    assert written == {f"{family}_{tag}" for family in ("reading", "minimal_pairs") for tag in ("es", "eu")}
    for task in TASKS:
        lines = [json.loads(line) for line in (tmp_path / "items" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [line["id"] for line in lines] == [row["item_hash"] for row in asked[task]]
    first = json.loads((tmp_path / "items" / "reading_es.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(first) == {"id", "passage", "question", "choices"}
    assert "iberlm curate 'decontaminate.evaluation=[" in capsys.readouterr().out


def test_the_command_names_the_tasks_whose_data_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 2 tasks could not be written:\n  belebele_spa_Latn: "):
        items(tmp_path / "items", ["suite=sample", "suite.tasks=[reading]", "suite.languages=[es]", "+suite.upstream.es=[belebele_spa_Latn]"], None)
    assert (tmp_path / "items" / "reading_es.jsonl").is_file()
