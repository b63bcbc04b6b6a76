"""The recipes in `recipes/suite/`: every task of theirs is known and has a licence, and what is missing is said with the reason."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES
from iberlm.core.resources import resource_dir
from iberlm.evaluate.catalogue import OWN, UNKNOWN, catalogue, task_facts
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.evaluate import run
from iberlm.evaluate.store.store import Store
from iberlm.evaluate.suite import BITS_PER_BYTE, SuiteTask, families, resolve, task_key_files, why_missing

RECIPES = sorted((resource_dir("recipes") / "suite").glob("*.yaml"))
LONG = ("iberian", "iberobench", "es", "ca", "eu", "gl")
"""Suites of public tasks; the others are small."""


def suite(name: str, **settings: Any) -> SuiteConfig:
    path = resource_dir("recipes") / "suite" / f"{name}.yaml"
    made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SuiteConfig), OmegaConf.load(path), settings))
    assert isinstance(made, SuiteConfig)
    return made


def test_the_recipes_are_those_that_are_documented() -> None:
    assert {"sample", "quick", "iberian", "iberobench", "es", "ca", "ca_valencia", "eu", "gl"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_and_all_its_tasks_can_be_asked(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    made = suite(path.stem)
    assert made.name == path.stem
    tasks, missing = resolve(made)
    assert len({task.name for task in tasks}) == len(tasks)
    assert {task.language for task in tasks} == set(made.languages)
    assert {task.family for task in tasks} == set(made.tasks), "a family without a task in any language of the suite"
    for task in tasks:
        facts = task_facts(task.name, licences=made.licences)
        assert (facts.family, facts.language) == (task.family, task.language)
        assert facts.licence != UNKNOWN
        assert task_key_files(facts)
    assert len(tasks) + len(missing) == len(made.tasks) * len(made.languages)
    if len(made.languages) == 1:
        absent = [task for task in missing if task.family not in families()]
        assert absent == []


@pytest.mark.parametrize("name", LONG)
def test_a_suite_of_public_tasks_covers_what_there_is_for_each_language(name: str) -> None:
    tasks, _ = resolve(suite(name))
    facts = [task_facts(task.name) for task in tasks]
    for language in {entry.language for entry in facts} - {"ca-valencia"}:
        measured = {entry.measures for entry in facts if entry.language == language}
        assert {"reading", "commonsense", "translation", "truthfulness"} - {"truthfulness" if name == "iberobench" else ""} <= measured


def test_the_iberian_suite_needs_no_validation_documents_and_no_package_that_iberlm_does_not_bring() -> None:
    tasks, _ = resolve(suite("iberian"))
    assert BITS_PER_BYTE not in {task.family for task in tasks}
    assert "ifeval" not in {task.family for task in tasks}


def test_the_valencian_suite_has_every_task_of_ours_but_bits_per_byte() -> None:
    tasks, _ = resolve(suite("ca_valencia"))
    ours = {facts.name for facts in catalogue().values() if facts.source == OWN and facts.language == "ca-valencia" and facts.family != BITS_PER_BYTE}
    assert ours <= {task.name for task in tasks}


def test_families_come_ours_first_with_languages_in_the_order_of_every_table() -> None:
    found = families()
    names = list(found)
    ours = [name for name in names if any(facts.source == OWN for facts in catalogue().values() if facts.family == name)]
    assert names == [*sorted(ours), *sorted(set(names) - set(ours))]
    assert found["reading"] == list(LANGUAGES)
    assert found["belebele"] == ["es", "ca", "eu", "gl"]


def test_a_suite_is_resolved_families_first_then_names_each_once() -> None:
    made = SuiteConfig(tasks=["belebele", "reading"], languages=["eu", "es"], upstream={"eu": ["belebele_eus_Latn", "bertaqa_eu"], "gl": ["some_task"]})
    tasks, missing = resolve(made)
    assert tasks == [
        SuiteTask("belebele_eus_Latn", "belebele", "eu"),
        SuiteTask("belebele_spa_Latn", "belebele", "es"),
        SuiteTask("reading_eu", "reading", "eu"),
        SuiteTask("reading_es", "reading", "es"),
        SuiteTask("bertaqa_eu", "bertaqa", "eu"),
        SuiteTask("some_task", "some_task", "gl"),
    ]
    assert missing == []


def test_a_cell_without_a_task_or_without_a_licence_is_left_out_and_said() -> None:
    made = SuiteConfig(tasks=["paws", "bertaqa"], languages=["eu", "gl"])
    tasks, missing = resolve(made)
    assert [task.name for task in tasks] == ["paws_gl_iberlm", "bertaqa_eu"]
    assert missing == [SuiteTask("paws_eu", "paws", "eu"), SuiteTask("bertaqa_gl", "bertaqa", "gl")]
    assert why_missing(missing) == ["no task in gl: bertaqa", "left out, as nobody has stated a licence for their data: paws_eu (suite.licences can)"]
    licensed = SuiteConfig(tasks=["paws", "bertaqa"], languages=["eu", "gl"], licences={"paws_eu": "LicenseRef-PAWS"})
    assert resolve(licensed)[0][0] == SuiteTask("paws_eu", "paws", "eu")
    assert why_missing([]) == []


def test_a_task_named_without_a_licence_is_refused() -> None:
    (task,), _ = resolve(SuiteConfig(tasks=[], languages=["eu"], upstream={"eu": ["eus_trivia"]}))
    with pytest.raises(ConfigError, match="task without licence"):
        task_facts(task.name, language=task.language)


@pytest.mark.parametrize(
    ("name", "settings", "title"),
    [
        ("iberian", {}, "iberian"),
        ("iberian", {"languages": ["es", "eu"]}, "iberian (changed)"),
        ("ca_valencia", {"tasks": ["reading"]}, "ca_valencia (changed)"),
        ("eu", {"upstream": {"eu": ["eus_trivia"]}}, "eu (changed)"),
        ("quick", {"languages": ["gl", "eu", "ca-valencia", "ca", "es"]}, "quick"),  # the same tasks in another order
        ("es", {"licences": {"xnli_es": "CC-BY-NC-4.0"}}, "es"),
    ],
)
def test_a_suite_that_asks_other_tasks_than_its_recipe_says_so(name: str, settings: dict[str, Any], title: str) -> None:
    assert suite(name, **settings).title == title
    assert SuiteConfig(**{**vars(suite(name, **settings)), "name": "ours"}).title == "ours"


def test_results_of_a_changed_suite_are_not_filed_under_the_name_of_the_recipe(model: Path, validation: Path, tmp_path: Path) -> None:
    def evaluated(name: str, out: str) -> list[dict[str, Any]]:
        asked = SuiteConfig(name=name, tasks=["minimal_pairs"], languages=["gl"])
        given = EvaluateConfig(model_folder=str(model), validation=str(validation), suite=asked, limit=4, store=str(tmp_path / "store"))
        rows: list[dict[str, Any]] = pq.read_table(run(given, [], tmp_path / out).path("results.parquet")).to_pylist()
        return rows

    changed = evaluated("iberian", "changed")
    assert {row["suite"] for row in changed} == {"iberian (changed)"}
    assert {row["suite"] for row in Store(tmp_path / "store").results().to_pylist()} == {"iberian (changed)"}
    ours = evaluated("ours", "ours")
    assert {row["suite"] for row in ours} == {"ours"}
    assert [row | {"suite": ""} for row in ours] == [row | {"suite": ""} for row in changed], "the key does not know the suite's name: nothing is asked again"
