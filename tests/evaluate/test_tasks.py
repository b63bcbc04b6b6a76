"""The task files and their items: every one loads, and every item is well formed and new to the training sample."""

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.evaluate.suite import families
from tests.evaluate.tiny import sample_texts


def items(language: str, name: str) -> list[dict[str, Any]]:
    lines = (resource_dir("eval") / file_safe(language) / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def manager(validation: Path) -> TaskManager:
    return TaskManager(include_path=str(resource_dir("eval")), include_defaults=False, metadata={"validation": str(validation)})


def test_every_task_file_is_a_task_of_the_harness_and_every_language_has_every_family(manager: TaskManager) -> None:
    assert families() == {family: list(LANGUAGES) for family in ("bits_per_byte", "minimal_pairs", "reading")}
    assert set(manager.all_subtasks) == {f"{family}_{file_safe(language)}" for family in families() for language in LANGUAGES}
    assert set(manager.all_groups) == {"iberlm", *(f"iberlm_{file_safe(language)}" for language in LANGUAGES)}


def test_the_group_of_everything_loads_every_task_with_its_metadata(manager: TaskManager) -> None:
    tasks = manager.load("iberlm")["tasks"]
    assert set(tasks) == set(manager.all_subtasks)
    for name, task in tasks.items():
        metadata = task.get_config("metadata")
        assert name.endswith(file_safe(metadata["language"]))
        assert task.VERSION == 1.0
        if not name.startswith("bits_per_byte"):
            assert metadata["card"] == "iberlm_sample_eval"
            assert metadata["synthetic"] is True
            assert metadata["human_reviewed"] is False
            assert metadata["chance"] == 1 / len(task.doc_to_choice(task.eval_docs[0]))


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
        assert set(question) == {"id", "passage", "question", "choices", "answer"}
        assert len(set(question["choices"])) == len(question["choices"]) == 4
        assert question["answer"] in range(4)
        assert all(choice.strip() == choice != "" for choice in [*question["choices"], question["passage"], question["question"]])


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_item_is_in_the_training_sample(language: str) -> None:
    training = " ".join(" ".join(text.split()) for text in sample_texts(language)).casefold()
    asked = [question["passage"] for question in items(language, "reading.jsonl")]
    asked += [pair[side] for pair in items(language, "minimal_pairs.jsonl") for side in ("good", "bad")]
    found = [text for text in asked if " ".join(text.split()).casefold() in training]
    assert found == []


def test_bits_per_byte_without_a_folder_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IBERLM_VALIDATION", raising=False)
    manager = TaskManager(include_path=str(resource_dir("eval")), include_defaults=False)
    with pytest.raises(ValueError, match="set IBERLM_VALIDATION to the 'curate' folder"):
        manager.load("bits_per_byte_gl")
    monkeypatch.setenv("IBERLM_VALIDATION", "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"/nowhere: no validation\.gl\.parquet"):
        manager.load("bits_per_byte_gl")
