"""The leaderboard's exports, read by those who will: csv, LaTeX's grammar, huggingface_hub, and the rules of Every Eval Ever's schema 0.3.0."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from iberlm.evaluate.leaderboard.board import Board, Cell
from iberlm.evaluate.leaderboard.every_eval_ever import RELATIONSHIPS, Evaluator, bounds, every_eval_ever
from iberlm.evaluate.leaderboard.gather import gather
from iberlm.evaluate.leaderboard.means import standings
from iberlm.evaluate.leaderboard.model_index import metric_type, model_index
from iberlm.evaluate.leaderboard.tables import csv_table, escape_latex, latex_tables
from iberlm.evaluate.leaderboard.views import Shown, shown
from iberlm.evaluate.store.schema import RESULT_SCHEMA
from iberlm.evaluate.store.store import Store
from tests.evaluate.board_store import CHAT, HOSTILE, HOSTILE_TASK, LARGE, LONG, MODELS, SMALL, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("exports") / "store", items=104)


@pytest.fixture(scope="module")
def board(store: Path) -> Board:
    return gather([store])


@pytest.fixture(scope="module")
def view(board: Board) -> Shown:
    return shown(board, standings(board), {task.index: "x" for task in board.tasks})


# CSV


def test_csv_has_every_result_and_every_column_back_as_it_was(board: Board, store: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table(board), newline="")))
    known = Store(store).results().to_pylist()
    shown_twice = [cell.row for entrant in board.entrants if entrant.template == CHAT.template for task in board.tasks if (cell := board.cell(entrant, task))]
    plain = sum(row["template"] == "none" for row in shown_twice)
    assert plain > 5
    assert len(rows) > len(known)
    by_key = {(row["model"], row["task"], row["metric"], row["group"], row["template"], row["dtype"]): row for row in rows}
    assert len(by_key) == len(known)
    for row in known:
        found = by_key[row["model"], row["task"], row["metric"], row["group"], row["template"], row["dtype"]]
        assert set(RESULT_SCHEMA.names) < set(found)
        assert float(found["value"]) == row["value"]
        assert found["command"] == row["command"]
        assert found["averaged"] == str(row["averaged"]).lower()
        assert found["clean_value"] == ("" if row["clean_value"] is None else repr(row["clean_value"]))
        points = Cell(row).points
        assert found["points"] == ("" if points is None else repr(points.value))
    assert any(row["model_name"] == HOSTILE for row in rows)
    assert {row["compared"] for row in rows} == {"true"}


# LaTeX


def cells_of(line: str) -> list[str]:
    return re.split(r"(?<!\\)&", line)


def test_latex_is_balanced_and_every_row_has_as_many_cells_as_its_table(view: Shown) -> None:
    text = latex_tables(view)
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL)
    # five models beside each other, so two tables for each language
    assert len(tables) == 1 + 2 * 5
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(set(labels)) == len(tables)
    for table in tables:
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)
        assert columns is not None
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(cells_of(row)) for row in rows} == {len(columns[1])}
        assert [table.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")] == [1, 1, 1, 1]
        bare = re.sub(r"\\[{}]", "", table)
        assert bare.count("{") == bare.count("}")
    assert r"\textbf{" in tables[0]
    assert r"\textsuperscript{\textdagger}" in tables[0]
    assert re.search(r"\d\.\d\} \{\\scriptsize \[\d+\.\d, \d+\.\d\]\}", tables[0])


def test_latex_prints_hostile_names_as_they_are(view: Shown) -> None:
    text = latex_tables(view)
    assert escape_latex(HOSTILE_TASK) in text
    assert escape_latex("a\\b{c}$d&e#f%g_h^i~j\nk") == r"a\textbackslash{}b\{c\}\$d\&e\#f\%g\_h\textasciicircum{}i\textasciitilde{}j k"
    body = re.sub(r"(?m)^%.*$|\\[%&#_$]", "", text)
    assert not re.search(r"[%#$_^~]", body)


# model-index


def test_model_cards_are_read_by_the_hubs_library(board: Board) -> None:
    files = dict(model_index(board, "https://example.org/board"))
    assert len(files) == len(MODELS)
    names = set()
    for text in files.values():
        card = ModelCard(text)
        results = card.data.eval_results
        assert results
        names.add(card.data.model_name)
        assert all(isinstance(result.metric_value, float) and math.isfinite(result.metric_value) for result in results)
        assert {result.source_url for result in results} == {"https://example.org/board"}
        assert {result.task_type for result in results} <= {"text-generation", "translation", "summarization"}
    assert {"demo-1b", "demo-7b", LONG.rpartition("/")[2]} < names


def test_a_model_card_has_the_values_of_the_store(board: Board) -> None:
    card = ModelCard(next(text for name, text in model_index(board) if name.startswith("iberlm-demo-1b")))
    entrant = next(entrant for entrant in board.entrants if entrant.model == SMALL.key)
    cells = [(task, cell) for task in board.tasks if (cell := board.cell(entrant, task))]
    assert [result.metric_value for result in card.data.eval_results] == [cell.value for _, cell in cells]
    for result, (task, cell) in zip(card.data.eval_results, cells, strict=True):
        assert (result.dataset_type, result.dataset_config) == (task.dataset, task.dataset_config or None)
        assert f"{cell.row['n']} items" in result.metric_name
        assert (cell.row["note"] or "") in result.metric_name
        assert result.source_url is None
    assert metric_type("acc_norm") == "accuracy"
    assert metric_type("exact_match,flexible-extract") == "exact_match"


# Every Eval Ever


UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
PLACE = re.compile(rf"data/[^/]+/[^/]+/[^/]+/{UUID4}(\.json|_samples\.jsonl)")
SOURCES = {
    "hf_dataset": {"dataset_name", "source_type", "hf_repo", "samples_number", "additional_details"},
    "other": {"dataset_name", "source_type", "additional_details"},
}


def strings(value: dict[str, Any]) -> bool:
    return all(isinstance(entry, str) for entry in value.values())


def check_aggregate(log: dict[str, Any]) -> None:
    """The rules of eval.schema.json, version 0.3.0, for what we write."""
    optional = {"evaluation_timestamp", "detailed_evaluation_results"}
    required = {"schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library", "evaluation_results"}
    assert required <= set(log) <= required | optional
    assert log["schema_version"] == "0.3.0"
    assert log["retrieved_timestamp"].isdecimal()
    source = log["source_metadata"]
    assert source["source_type"] in ("documentation", "evaluation_run")
    assert source["evaluator_relationship"] in RELATIONSHIPS
    assert source["source_organization_name"]
    assert strings({key: value for key, value in log["eval_library"].items() if key != "additional_details"})
    assert strings(log["eval_library"]["additional_details"])
    model = log["model_info"]
    assert {"name", "id", "additional_details"} <= set(model) <= {"name", "id", "developer", "inference_engine", "additional_details"}
    assert re.fullmatch(r"[^/]+/[^/]+", model["id"])
    assert strings(model["additional_details"])
    assert model["additional_details"]["deployment_type"] in ("self_deployed", "externally_managed", "unknown")
    assert model["additional_details"]["model_availability"] in ("open_weights", "closed_weights", "unknown")
    assert log["evaluation_id"].startswith(f"{log['evaluation_results'][0]['evaluation_name']}/{model['id']}/")
    for result in log["evaluation_results"]:
        check_result(result)
    assert len({result["evaluation_result_id"] for result in log["evaluation_results"]}) == len(log["evaluation_results"])


def check_result(result: dict[str, Any]) -> None:
    required = {"evaluation_name", "source_data", "metric_config", "score_details"}
    assert required <= set(result) <= required | {"evaluation_result_id", "generation_config"}
    data = result["source_data"]
    assert set(data) <= SOURCES[data["source_type"]]
    assert strings(data["additional_details"])
    metric = result["metric_config"]
    assert isinstance(metric["lower_is_better"], bool)
    score = result["score_details"]["score"]
    assert isinstance(score, float)
    if metric.get("score_type") == "continuous":
        high = math.inf if metric["max_score"] == "Infinity" else metric["max_score"]
        assert metric["min_score"] <= score <= high
    assert strings(result["score_details"]["details"])
    if "uncertainty" in result["score_details"]:
        uncertainty = result["score_details"]["uncertainty"]
        assert uncertainty["confidence_interval"]["lower"] <= score <= uncertainty["confidence_interval"]["upper"]
        assert uncertainty["confidence_interval"]["confidence_level"] == 0.95
        assert isinstance(uncertainty["num_samples"], int)


def check_sample(line: dict[str, Any], log: dict[str, Any]) -> None:
    """The rules of instance_level_eval.schema.json for single turns, and of the file beside it."""
    assert line["evaluation_id"] == log["evaluation_id"]
    assert line["model_id"] == log["model_info"]["id"]
    assert line["evaluation_result_id"] == log["evaluation_results"][0]["evaluation_result_id"]
    assert line["interaction_type"] == "single_turn"
    assert isinstance(line["input"]["raw"], str)
    assert all(isinstance(entry, str) for entry in [*line["input"]["reference"], *line["input"].get("choices", []), *line["output"]["raw"]])
    assert strings(line["metadata"])
    [taken] = line["answer_attribution"]
    assert set(taken) == {"turn_idx", "source", "extracted_value", "extraction_method", "is_terminal"}
    assert line["evaluation"] == {"score": line["evaluation"]["score"], "is_correct": line["evaluation"]["score"] == 1.0}


def logs(files: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, text in files.items():
        if name.endswith(".json"):
            yield name, json.loads(text)


@pytest.fixture(scope="module")
def collection(board: Board, store: Path) -> dict[str, str]:
    return dict(every_eval_ever(board, [store], Evaluator("Somebody", "third_party"), items=True))


def test_every_file_keeps_the_rules_of_the_schema(collection: dict[str, str]) -> None:
    assert all(PLACE.fullmatch(name) for name in collection)
    for name, log in logs(collection):
        check_aggregate(log)
        assert log["source_metadata"]["source_organization_name"] == "Somebody"
        companion = name.replace(".json", "_samples.jsonl")
        detail = log.get("detailed_evaluation_results")
        assert (detail is not None) == (companion in collection)
        if detail is not None:
            lines = [json.loads(line) for line in collection[companion].splitlines()]
            assert (detail["format"], detail["file_path"], detail["total_rows"]) == ("jsonl", companion, len(lines))
            for line in lines[:5]:
                check_sample(line, log)


def test_every_result_is_there_once_with_its_items(collection: dict[str, str], board: Board) -> None:
    rows = {json.dumps(cell.row, sort_keys=True): cell for cell in board.cells.values()}
    found = list(logs(collection))
    assert len(found) == len(rows)
    chat = [log for _, log in found if log["model_info"]["additional_details"]["template"] == CHAT.template]
    assert chat
    assert {log["model_info"]["id"] for log in chat} == {LARGE.name}
    values = sorted(log["evaluation_results"][0]["score_details"]["score"] for _, log in found)
    assert values == sorted(cell.value for cell in rows.values())
    # documents of bits per byte are neither right nor wrong: the format has no place for them
    without = {log["evaluation_results"][0]["evaluation_name"] for _, log in found if "detailed_evaluation_results" not in log}
    assert without == {task.name for task in board.tasks if task.metric == "bits_per_byte"}


def test_a_choice_is_told_by_its_text(collection: dict[str, str]) -> None:
    name, _ = next((name, log) for name, log in logs(collection) if log["evaluation_id"].startswith(f"belebele_cat_Latn/{SMALL.name}/"))
    line = json.loads(collection[name.replace(".json", "_samples.jsonl")].splitlines()[0])
    assert line["input"]["reference"][0] in line["input"]["choices"]
    assert line["output"]["raw"] == [line["answer_attribution"][0]["extracted_value"]]
    assert line["evaluation"]["is_correct"] == (line["output"]["raw"] == line["input"]["reference"])


def test_the_same_results_have_the_same_names(collection: dict[str, str], board: Board, store: Path) -> None:
    assert dict(every_eval_ever(board, [store], Evaluator("Somebody", "third_party"), items=True)) == collection
    bare = dict(every_eval_ever(board, [store], Evaluator(), items=False))
    assert not [name for name in bare if name.endswith(".jsonl")]
    assert len(bare) == len(list(logs(collection)))


def test_bounds_are_given_only_where_they_are_known() -> None:
    assert bounds("acc_norm", None) == bounds("exact_match", 1.0) == (0.0, 1.0)
    assert bounds("f1", 100.0) == (0.0, 100.0)
    assert bounds("bits_per_byte", None) == (0.0, math.inf)
    assert bounds("a_metric_of_somebody", None) is None
