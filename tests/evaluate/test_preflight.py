"""Before any model is loaded: suites resolve from staged copies with the network off, and what would fail after all inference fails now."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iberlm.cli.hydra_app import compose_settings
from iberlm.cli.verbs import VERBS
from iberlm.core.resources import resource_dir
from iberlm.core.staged import RECORD, Record, data_set_folder, read_record, write_record, write_split
from iberlm.evaluate.asked import suite_facts
from iberlm.evaluate.catalogue import UNKNOWN, TaskFacts, catalogue, task_facts
from iberlm.evaluate.preflight import preflight
from iberlm.evaluate.staging import overrides, staged
from iberlm.evaluate.tasks import load_task
from tests.evaluate.staged import COMMIT, ROWS, stage_tasks

SUITES = sorted(path.stem for path in resource_dir("recipes").glob("suite/*.yaml"))
EXTRAS = ("ifeval",)
"""Families whose functions need packages that not every installation has."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Staged copies of the data of every task of the catalogue."""
    return stage_tasks(tmp_path_factory.mktemp("staged"), catalogue().values())


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    """Whoever connects to anything fails."""

    def refuse(*_: Any) -> None:
        raise OSError("there is no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "create_connection", refuse)
        yield


@pytest.fixture(scope="module")
def findings(data: Path, validation: Path, no_network: None) -> dict[str, tuple[list[str], list[str]]]:
    """Problems and remarks of every task of the catalogue, asked with five solved examples."""
    known: dict[str, tuple[list[str], list[str]]] = {}
    for facts in catalogue().values():
        remarks: list[str] = []
        known[facts.name] = preflight([facts], [data], num_fewshot=5, validation=str(validation), remark=remarks.append), remarks
    return known


def facts_of_suite(name: str) -> list[TaskFacts]:
    return suite_facts(compose_settings(VERBS["evaluate"], [f"suite={name}", "validation=/nowhere"]))[0]


def needs_package(facts: TaskFacts, problem: str) -> bool:
    return facts.family in EXTRAS and "its functions need the Python module" in problem


@pytest.mark.parametrize("suite", SUITES)
def test_every_task_of_a_suite_is_built_rendered_and_scored_from_staged_copies(suite: str, findings: dict[str, tuple[list[str], list[str]]]) -> None:
    tasks = facts_of_suite(suite)
    assert tasks
    assert [problem for facts in tasks for problem in findings[facts.name][0] if not needs_package(facts, problem)] == []
    # clusters, groups and chance are what the catalogue says; the number of items cannot be
    remarks = [text for facts in tasks for text in findings[facts.name][1] if " items, and the catalogue says " not in text]
    assert remarks == []


def test_the_rest_of_the_catalogue_can_be_asked_too(findings: dict[str, tuple[list[str], list[str]]]) -> None:
    """Tasks of lm-eval's that we do not restate must run as they are."""
    tasks = [facts for facts in catalogue().values() if facts.licence != UNKNOWN]
    assert [problem for facts in tasks for problem in findings[facts.name][0] if not needs_package(facts, problem)] == []


TASK = """
task: town
dataset_path: town/set
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{[sol1, sol2]}}"
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def town(tmp_path: Path) -> Callable[..., TaskFacts]:
    """Makes a task of a file of its own, and its staged rows."""

    def make(text: str = TASK, *, rows: list[dict[str, Any]] | None = None, functions: str = "", **known: Any) -> TaskFacts:
        path = tmp_path / "town.yaml"
        path.write_text(text, encoding="utf-8")
        (tmp_path / "functions.py").write_text(functions, encoding="utf-8")
        given = {"dataset": "town/set", "metric": "acc", "licence": "CC0-1.0", "measures": "reading", "family": "town", "language": "gl", "chance": 0.5}
        facts = TaskFacts(name="town", file=path, source="upstream", **given | known)
        folder = data_set_folder(tmp_path / "data", "town/set", "", {}) / COMMIT
        made = rows if rows is not None else [{"question": f"Pregunta {n}?", "sol1": "Si", "sol2": "Non", "label": n % 2} for n in range(ROWS)]
        table = pa.Table.from_pylist(made, schema=pa.schema({"question": pa.string(), "sol1": pa.string(), "sol2": pa.string(), "label": pa.int64()}))
        write_record(folder, Record(dataset="town/set", revision=COMMIT, splits={"test": write_split(folder, "test", table)}))
        return facts

    return make


def found(tmp_path: Path, facts: TaskFacts, **settings: Any) -> tuple[list[str], list[str]]:
    remarks: list[str] = []
    return preflight([facts], [tmp_path / "data"], remark=remarks.append, **settings), remarks


AGGREGATION = ("aggregation: mean", "aggregation: !function functions.made")
TARGET = "doc_to_target: label"
BROKEN = {
    "aggregation that fails": (AGGREGATION, "def made(items):\n    return items[0] / 0\n", r"town: cannot be scored \(.*Error"),
    "aggregation to text": (AGGREGATION, "def made(items):\n    return 'x'\n", "town: its metric 'acc' gives str 'x', not a number"),
    "metric of a missing column": (
        (TARGET, f"{TARGET}\nprocess_results: !function functions.score"),
        "def score(doc, results):\n    return {'acc': doc['nothing']}\n",
        r"town: cannot be scored \(KeyError: 'nothing'\)",
    ),
    "prompt of a missing column": (("{{question}}", "{{question.nothing.more}}"), "", r"town: cannot be loaded \(UndefinedError"),
    "choices of a missing column": (("[sol1, sol2]", "[sol1, nothing.more]"), "", r"town: cannot be loaded \(UndefinedError"),
    "another metric": (("metric: acc,", "metric: acc_norm,"), "", "town: has no metric 'acc', which the catalogue names as the primary one; it has acc_norm"),
    "missing module": (
        (TARGET, "doc_to_target: !function functions.label"),
        "import no_such_module\n",
        "town: its functions need the Python module 'no_such_module', which is not installed; `pip install` its package",
    ),
    "metric of the hub": (
        ("metric: acc,", "metric: rouge,"),
        "",
        "its metric 'rouge' is a program on the hub, which would be run; leave the task out of the suite",
    ),
    "unknown filter": (("test_split: test", "test_split: test\nfilter_list: [{name: x, filter: [{function: none_such}]}]"), "", "town: cannot be loaded"),
}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", BROKEN)
def test_what_would_fail_after_all_inference_fails_before_any(town: Callable[..., TaskFacts], tmp_path: Path, name: str) -> None:
    change, functions, expected = BROKEN[name]
    assert TASK.replace(*change) != TASK
    problems, _ = found(tmp_path, town(TASK.replace(*change), functions=functions))
    assert len(problems) == 1
    assert re.search(expected, problems[0]), problems[0]


@pytest.mark.usefixtures("no_network")
def test_right_answers_that_are_no_choice_are_told_before_all_items_score_nothing(town: Callable[..., TaskFacts], tmp_path: Path) -> None:
    """Rows of real data sets have labels as text, or counted from 1: lm-eval scores them 0 and goes on."""

    def rows(*labels: int) -> list[dict[str, Any]]:
        return [{"question": f"Pregunta {n}?", "sol1": "Si", "sol2": "Non", "label": label} for n, label in enumerate(labels)]

    text = TASK.replace(TARGET, f"{TARGET}\nprocess_docs: !function functions.named")
    named = """
def named(docs):
    return docs.rename_column("label", "number").map(lambda doc: {"label": ["verdadeiro", "falso"][doc["number"]]})
"""
    problems, _ = found(tmp_path, town(text, functions=named))
    assert problems == [
        f"town: the right answer of {ROWS} of {ROWS} items that were looked at is none of their choices, and would be scored as wrong: "
        "'verdadeiro' with the choices Si, Non"
    ]
    problems, remarks = found(tmp_path, town(rows=rows(0, 1, 2, 1, 0)))
    assert not problems
    assert remarks == [
        "evaluate: town: the right answer of 1 of 5 items that were looked at is none of their choices, and would be scored as wrong: "
        "'2' with the choices Si, Non"
    ]
    several = TASK.replace(TARGET, 'doc_to_target: "{{[label, 7]}}"')
    assert found(tmp_path, town(several)) == ([], [])
    strict = TASK.replace(TARGET, "doc_to_target: !function functions.place")
    problems, _ = found(tmp_path, town(strict, functions="def place(doc):\n    return {1: 0, 2: 1}[doc['label']]\n", rows=rows(1, 2, 1, 0, 1, 2, 2, 1)))
    assert problems == ["town: the right answer of its item 3 cannot be found (KeyError: 0)"]
    problems, _ = found(tmp_path, town(rows=rows(-1, -1, 0)))
    assert "'-1' with the choices Si, Non" in problems[0]


@pytest.mark.usefixtures("no_network")
def test_a_task_without_fault_has_no_problems_and_no_remarks(town: Callable[..., TaskFacts], tmp_path: Path) -> None:
    assert found(tmp_path, town(items=ROWS, cluster="question"), num_fewshot=5) == ([], [])


@pytest.mark.usefixtures("no_network")
def test_a_rehearsed_task_draws_the_solved_examples_of_a_fresh_one(town: Callable[..., TaskFacts], tmp_path: Path) -> None:
    facts = town()
    rehearsed: dict[str, Any] = {}
    found(tmp_path, facts, num_fewshot=3, built=rehearsed)
    copy = staged(facts, [tmp_path / "data"])
    assert copy is not None
    fresh = load_task(facts, overrides=overrides(copy), metadata={})
    fresh.set_config("num_fewshot", 3)
    fresh.set_fewshot_seed(1234)
    asked = [[task.fewshot_context(doc, num_fewshot=3) for doc in task.eval_docs] for task in (rehearsed["town"], fresh)]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == ROWS


@pytest.mark.usefixtures("no_network")
def test_what_is_odd_is_remarked(town: Callable[..., TaskFacts], tmp_path: Path, model: Path) -> None:
    long = [{"question": f"{'unha pregunta longa ' * 40}{n}?", "sol1": "Si", "sol2": "Non", "label": 0} for n in range(3)]
    facts = town(rows=long, items=7, chance=0.25, cluster="passage", group="theme")
    problems, remarks = found(tmp_path, facts, model_folder=model)
    assert problems == []
    assert remarks[:4] == [
        "evaluate: town: has 3 items, and the catalogue says 7: its data are another version, or the catalogue is wrong",
        "evaluate: town: its records have no 'passage', which the catalogue names as their cluster: question, sol1, sol2, label",
        "evaluate: town: its records have no 'theme', which the catalogue names as their group: question, sol1, sol2, label",
        "evaluate: town: guessing among its 2 choices scores 0.500, and the catalogue says 0.250",
    ]
    assert len(remarks) == 5
    assert "tokens, and the model's context 96: the beginning of such items is cut off" in remarks[4]


@pytest.mark.usefixtures("no_network")
def test_the_length_of_prompts_counts_what_is_to_be_generated(town: Callable[..., TaskFacts], tmp_path: Path, model: Path) -> None:
    text = TASK.replace("multiple_choice", "generate_until").replace('doc_to_choice: "{{[sol1, sol2]}}"', "generation_kwargs: {until: [x], max_gen_toks: 90}")
    text = text.replace("metric: acc", "metric: exact_match").replace("doc_to_target: label", "doc_to_target: sol1")
    facts = town(text, metric="exact_match", chance=None)
    assert "and the model's context 96" in found(tmp_path, facts, model_folder=model)[1][0]
    facts.file.write_text(text.replace("90", "9"), encoding="utf-8")
    assert found(tmp_path, facts, model_folder=model) == ([], [])


@pytest.mark.usefixtures("no_network")
def test_missing_and_empty_splits_and_too_few_examples_are_problems(town: Callable[..., TaskFacts], tmp_path: Path) -> None:
    few = [{"question": f"{n}?", "sol1": "Si", "sol2": "Non", "label": 0} for n in range(5)]
    facts = town(f"{TASK}fewshot_split: test\n", rows=few)
    assert found(tmp_path, facts, num_fewshot=4) == ([], [])  # and the item itself
    assert found(tmp_path, facts, num_fewshot=5)[0] == ["town: has 5 solved examples, and 5 are asked for; set num_fewshot=4"]
    facts.file.write_text(f"{TASK}training_split: train\n", encoding="utf-8")
    assert "has no split 'train', only test; gather it again with `iberlm prefetch`" in found(tmp_path, facts)[0][0]
    shutil.rmtree(tmp_path / "data")
    assert "split 'test' of the data set town/set" in found(tmp_path, town(rows=[]))[0][0]
    next((tmp_path / "data").rglob("town--set/*/*/test.parquet")).unlink()
    assert "test.parquet is missing; gather it again" in found(tmp_path, facts)[0][0]


@pytest.mark.usefixtures("no_network")
def test_all_problems_are_told_at_once_with_the_command_that_mends_them(town: Callable[..., TaskFacts], tmp_path: Path, plain_model: Path) -> None:
    broken = town(TASK.replace("aggregation: mean", "aggregation: !function functions.fails"), functions="def fails(items):\n    raise ValueError('no')\n")
    tasks = [task_facts(name) for name in ("belebele_cat_Latn", "xquad_ca_iberlm", "truthfulqa-multi_mc1_ca", "truthfulqa-multi_mc2_ca")]
    command = "iberlm prefetch evaluate suite=iberian --out BUNDLE"
    problems = preflight([*tasks, broken], [tmp_path / "data"], chat_template=True, model_folder=plain_model, command=command, remark=lambda _: None)
    assert "has none; use chat_template=false for a base model" in problems[0]
    assert problems[1] == "town: cannot be scored (ValueError: no)"
    assert problems[-1].endswith(command)
    assert f"truthfulqa-multi_mc1_ca, truthfulqa-multi_mc2_ca: the data set HiTZ/truthfulqa-multi (ca) is not in {tmp_path / 'data'}" in problems
    assert len(problems) == 6


@pytest.mark.usefixtures("no_network")
def test_a_task_of_the_harness_that_asks_the_hub_for_its_metric_names_the_one_that_replaces_it(data: Path) -> None:
    facts = task_facts("summarization_gl", language="gl", licences={"summarization_gl": "CC-BY-4.0"})
    assert preflight([facts], [data], remark=lambda _: None) == [
        "summarization_gl: its metric 'rouge' is a program on the hub, which would be run; ask 'summarization_gl_iberlm' in its place"
    ]


def test_copies_made_by_the_tests_are_staged_as_prefetch_stages_them(data: Path) -> None:
    for path in data.rglob(RECORD):
        record = read_record(path.parent)
        assert record is not None
        assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1
        assert sorted(record.splits) == sorted(file.stem for file in path.parent.glob("*.parquet"))
    found_copy = staged(task_facts("belebele_cat_Latn"), [data])
    assert found_copy is not None
    assert found_copy.problems(checksums=True) == []
