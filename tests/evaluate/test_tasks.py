"""Task files: read as lm-eval reads them, loaded one by one, and every file that decides a task is in its key."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.evaluate.catalogue import OWN, REPAIRED, TaskFacts, catalogue, own_families, task_facts
from iberlm.evaluate.tasks import Function, load_task, read_config, read_file, task_key_files
from tests.evaluate.tiny import sample_texts

ALL = list(catalogue().values())
OWN_TASKS = [facts for facts in ALL if facts.source == OWN]


def name_of(facts: TaskFacts) -> str:
    return facts.name


@pytest.fixture(scope="module")
def manager(validation: Path) -> TaskManager:
    return TaskManager(include_path=str(resource_dir("eval")), include_defaults=False, metadata={"validation": str(validation)})


def items(language: str, name: str) -> list[dict[str, Any]]:
    lines = (resource_dir("eval") / file_safe(language) / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def test_the_harness_finds_every_task_file_and_the_groups_have_all_tasks_of_ours(manager: TaskManager) -> None:
    ours = {facts.name for facts in ALL if facts.source in (OWN, REPAIRED)}
    assert set(manager.all_subtasks) == ours
    assert set(manager.all_groups) == {"iberlm", *(f"iberlm_{file_safe(language)}" for language in LANGUAGES)}
    for language in LANGUAGES:
        members = manager.task_index[f"iberlm_{file_safe(language)}"].cfg["task"]
        assert sorted(members) == sorted(facts.name for facts in OWN_TASKS if facts.language == language)


def test_the_group_of_everything_loads_every_task_of_ours(manager: TaskManager) -> None:
    assert set(manager.load("iberlm")["tasks"]) == {facts.name for facts in OWN_TASKS}


@pytest.mark.parametrize("facts", ALL, ids=name_of)
def test_settings_are_read_as_the_harness_reads_them(facts: TaskFacts) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, Function):
            return str(value.folder / value)
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    assert plain(read_config(facts)) == load_yaml(facts.file, resolve_func=False)


@pytest.mark.parametrize("facts", OWN_TASKS, ids=name_of)
def test_every_task_of_ours_loads_with_the_items_that_the_catalogue_says(facts: TaskFacts, validation: Path) -> None:
    task = load_task(facts, overrides={}, metadata={"validation": str(validation)})
    docs = list(task.eval_docs)
    assert docs
    assert facts.items in (len(docs), None)
    assert (facts.items is None) == (facts.family == "bits_per_byte")
    for key in {facts.cluster, facts.group} - {""}:
        assert all(doc[key] not in (None, "") for doc in docs)
    if task.OUTPUT_TYPE == "multiple_choice":
        assert facts.chance == pytest.approx(sum(1 / len(task.doc_to_choice(doc)) for doc in docs) / len(docs))
        assert all(task.doc_to_target(doc) in range(len(task.doc_to_choice(doc))) for doc in docs)
    if "id" in docs[0]:
        assert len({doc["id"] for doc in docs}) == len(docs)


@contextmanager
def opened() -> Iterator[set[Path]]:
    """Files that Python opens within."""
    _OPENED.append(set())
    try:
        yield _OPENED[-1]
    finally:
        _OPENED.pop()


_OPENED: list[set[Path]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED and isinstance(arguments[0], str):
        _OPENED[-1].add(Path(arguments[0]))


sys.addaudithook(_note)  # one for good: a hook cannot be taken away


@pytest.mark.parametrize("facts", OWN_TASKS, ids=name_of)
def test_every_file_that_a_task_of_ours_opens_is_in_its_key(facts: TaskFacts, validation: Path) -> None:
    root = resource_dir("eval")
    with opened() as files:
        load_task(facts, overrides={}, metadata={"validation": str(validation)})
    read = {
        path.relative_to(root).as_posix() for path in files if path.is_relative_to(root) and path.suffix not in (".pyc", "") and "__pycache__" not in path.parts
    }
    assert facts.file.relative_to(root).as_posix() in read
    assert read <= set(task_key_files(facts))


def test_the_key_has_the_includes_the_functions_and_what_these_import() -> None:
    assert set(task_key_files(task_facts("mmlu_prox_es_law"))) == {
        "mmlu_prox/es/_es_template_yaml", "mmlu_prox/es/mmlu_prox_es_law.yaml", "mmlu_prox/es/utils.py", "mmlu_prox/lang_libs.py",
    }  # fmt: skip
    assert {"ifeval/multilingual/instructions_registry.py", "ifeval/multilingual/instructions/ca_instructions.py"} <= set(
        task_key_files(task_facts("ifeval_ca"))
    )
    assert set(task_key_files(task_facts("xquad_ca_iberlm"))) == {"ca/xquad_ca_iberlm.yaml", "shared/repaired_qa", "shared/repairs.py"}
    reading = set(task_key_files(task_facts("reading_gl")))
    assert {"gl/reading.jsonl", "gl/reading_gl.yaml", "shared/items.py", "shared/reading"} <= reading
    assert not {f"gl/{family}.jsonl" for family in set(own_families()) - {"reading"}} & reading


@pytest.mark.parametrize("changed", ["task.yaml", "base", "functions.py", "helper.py"])
def test_the_key_changes_with_each_of_its_files(tmp_path: Path, changed: str) -> None:
    (tmp_path / "task.yaml").write_text("include: base\ntask: t\ndoc_to_text: a\n")
    (tmp_path / "base").write_text("process_docs: !function functions.f\n")
    (tmp_path / "functions.py").write_text("from helper import g\n\ndef f(x):\n    return g(x)\n")
    (tmp_path / "helper.py").write_text("def g(x):\n    return x\n")
    facts = dataclasses.replace(task_facts("openbookqa_es"), name="t", file=tmp_path / "task.yaml")
    before = task_key_files(facts)
    assert {Path(name).name for name in before} == {"task.yaml", "base", "functions.py", "helper.py"}
    with (tmp_path / changed).open("a") as stream:
        stream.write("# changed\n")
    after = task_key_files(facts)
    assert {Path(name).name for name in before if before[name] != after[name]} == {changed}


def test_an_entry_of_the_file_beats_that_of_an_include_and_a_later_include_an_earlier(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a: 1\nb: 1\nc: {x: 1}\ntask_list: [t]\n")
    (tmp_path / "two").write_text("b: 2\nd: 2\n")
    (tmp_path / "t.yaml").write_text("include: [one, two]\nc: {y: 3}\ndoc_to_choice: [no, yes]\n")
    settings, files = read_file(tmp_path / "t.yaml")
    assert settings == {"a": 1, "b": 2, "c": {"y": 3}, "d": 2, "doc_to_choice": [False, True]}  # YAML 1.1, as the harness
    assert [path.name for path in files] == ["t.yaml", "one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: t.yaml\n", "t.yaml: includes itself"),
        ("include: nowhere\n", "nowhere: cannot be read"),
        ("a: [\n", "t.yaml: is no YAML"),
        ("hello\n", "t.yaml: holds no settings of a task"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_file(tmp_path / "t.yaml")


def test_a_task_whose_data_are_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "none.parquet")}}}
    with pytest.raises(DataError, match=r"openbookqa_es: cannot be loaded .*gathered with `iberlm prefetch`"):
        load_task(task_facts("openbookqa_es"), overrides=missing, metadata={})


def test_a_task_whose_functions_cannot_be_imported_says_which(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("task: t\nprocess_docs: !function absent_module.f\n")
    facts = dataclasses.replace(task_facts("openbookqa_es"), name="t", file=tmp_path / "t.yaml")
    with pytest.raises(DataError, match=r"t: .*t\.yaml cannot be loaded \(ImportError: .*absent_module"):
        load_task(facts, overrides={}, metadata={})


def test_settings_that_are_given_replace_those_of_the_file_and_metadata_are_added(validation: Path) -> None:
    task = load_task(task_facts("reading_eu"), overrides={"num_fewshot": 2}, metadata={"validation": str(validation)})
    assert task.get_config("num_fewshot") == 2
    assert task.get_config("metadata")["language"] == "eu"
    assert task.get_config("metadata")["validation"] == str(validation)


@pytest.mark.parametrize("language", LANGUAGES)
def test_minimal_pairs_differ_and_are_enough(language: str) -> None:
    pairs = items(language, "minimal_pairs.jsonl")
    assert len(pairs) >= 40
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert set(pair) == {"id", "phenomenon", "good", "bad"}
        assert pair["good"].strip() == pair["good"] != pair["bad"] == pair["bad"].strip()
        assert pair["good"]
        assert pair["bad"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_good_sentences_stand_first_as_often_as_second(manager: TaskManager, language: str) -> None:
    docs = manager.load(f"minimal_pairs_{file_safe(language)}")["tasks"][f"minimal_pairs_{file_safe(language)}"].eval_docs
    source = {pair["id"]: pair for pair in items(language, "minimal_pairs.jsonl")}
    assert abs(2 * sum(docs["answer"]) - len(docs)) <= 1
    assert all(doc["choices"][doc["answer"]] == source[doc["id"]]["good"] and doc["choices"][1 - doc["answer"]] == source[doc["id"]]["bad"] for doc in docs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_reading_questions_have_four_answers_and_one_is_right(language: str) -> None:
    questions = items(language, "reading.jsonl")
    assert len(questions) >= 20
    assert len({question["id"] for question in questions}) == len(questions)
    for question in questions:
        assert set(question) >= {"id", "passage", "question", "choices", "answer"}
        assert len(set(question["choices"])) == len(question["choices"]) == 4
        assert question["answer"] in range(4)
        assert all(choice.strip() == choice != "" for choice in [*question["choices"], question["passage"], question["question"]])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_item_is_in_the_training_sample(language: str) -> None:
    training = " ".join(" ".join(text.split()) for text in sample_texts(language)).casefold()
    files = sorted((resource_dir("eval") / file_safe(language)).glob("*.jsonl"))
    found = []
    for path in files:
        for item in items(language, path.name):
            texts = [item[key] for key in ("passage", "good", "bad", "context", "premise", "prompt") if isinstance(item.get(key), str)]
            found += [text for text in texts if len(text.split()) > 4 and " ".join(text.split()).casefold() in training]
    assert found == []


def test_bits_per_byte_without_a_folder_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IBERLM_VALIDATION", raising=False)
    manager = TaskManager(include_path=str(resource_dir("eval")), include_defaults=False)
    with pytest.raises(ValueError, match="set IBERLM_VALIDATION to the 'curate' folder"):
        manager.load("bits_per_byte_gl")
    monkeypatch.setenv("IBERLM_VALIDATION", "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"/nowhere: no validation\.gl\.parquet"):
        manager.load("bits_per_byte_gl")
