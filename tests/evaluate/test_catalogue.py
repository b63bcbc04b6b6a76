"""What the catalogue says of a task agrees with the task's file, and a task that cannot be asked is refused with the mend."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, nodes

from iberlm.cards.licences import problem_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.evaluate import catalogue as module
from iberlm.evaluate.catalogue import (
    MEASURES,
    OWN,
    REPAIRED,
    REPAIRED_ENDING,
    UNKNOWN,
    UPSTREAM,
    TaskFacts,
    catalogue,
    find_upstream,
    primary_metric,
    reference_page,
    task_facts,
)
from iberlm.evaluate.tasks import functions, lm_eval_tasks, read_config

ALL = list(catalogue().values())
LISTED = [facts for facts in ALL if facts.source != OWN]
BROKEN = ("transformers.data.metrics", "load_metric", 'evaluate.load("')
SCRIPTED = ("facebook/flores", "juletxara/xstory_cloze", "orai-nlp/basqueGLUE")
NEEDS_MORE_PACKAGES = ("ifeval_es", "ifeval_ca")


def name_of(facts: TaskFacts) -> str:
    return facts.name


def modules_text(settings: dict[str, Any], *, only: str = "") -> str:
    found = {function.module for function in functions(settings) if function.module and only in function}
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(found))


def number_of_choices(settings: dict[str, Any]) -> int | None:
    """How many answers each item has, where the file alone tells."""
    choices = settings.get("doc_to_choice")
    if isinstance(choices, list):
        return len(choices)
    if type(choices) is not str or not choices.startswith("{{["):
        return None
    (output,) = Environment().parse(choices).body
    (expression,) = output.nodes
    return len(expression.items) if isinstance(expression, nodes.List) else None


@pytest.mark.parametrize("facts", ALL, ids=name_of)
def test_the_file_is_that_task_and_has_the_primary_metric(facts: TaskFacts) -> None:
    settings = read_config(facts)
    assert settings["task"] == facts.name
    metric, _, filter_name = facts.metric.partition(",")
    assert metric in {str(entry["metric"]).rpartition(".")[2] for entry in settings["metric_list"]}
    assert filter_name in {entry["name"] for entry in settings.get("filter_list", [])} | {""}
    assert facts.measures in MEASURES
    assert facts.language in LANGUAGES


@pytest.mark.parametrize("facts", LISTED, ids=name_of)
def test_the_data_set_is_that_of_the_file(facts: TaskFacts) -> None:
    settings = read_config(facts)
    arguments = settings.get("dataset_kwargs") or {}
    if "custom_dataset" in settings:
        assert (arguments["dataset_repo"], arguments["dataset_name"]) == (facts.dataset, facts.dataset_config)
    elif settings["dataset_path"] in ("parquet", "csv"):
        assert f"hf://datasets/{facts.dataset}" in repr(arguments["data_files"])
        assert facts.dataset_config == ""
    else:
        assert (settings["dataset_path"], settings.get("dataset_name") or "") == (facts.dataset, facts.dataset_config)


@pytest.mark.parametrize("facts", ALL, ids=name_of)
def test_chance_is_that_of_the_number_of_answers(facts: TaskFacts) -> None:
    settings = read_config(facts)
    answers = number_of_choices(settings)
    if settings["output_type"] == "multiple_choice" and facts.metric.startswith("acc") and facts.measures != "bias":
        assert facts.chance == (None if facts.chance is None else pytest.approx(1 / answers if answers else facts.chance))
        assert facts.chance is not None or answers is None
    if settings["output_type"] == "loglikelihood_rolling":
        assert facts.chance is facts.best is None
    if facts.metric in ("bleu", "eqbench"):
        assert facts.best == 100
    if facts.chance is not None:
        assert facts.best is not None
        assert 0 <= facts.chance < facts.best


def test_choices_can_be_counted_in_most_files() -> None:
    counted = [facts for facts in ALL if facts.chance and number_of_choices(read_config(facts))]
    assert len(counted) > len(ALL) / 4


def test_languages_of_a_family_measure_the_same_in_the_same_way() -> None:
    for family in {facts.family for facts in ALL}:
        members = [facts for facts in ALL if facts.family == family]
        assert len({(facts.measures, facts.metric, facts.chance, facts.best) for facts in members}) == 1, family
        assert len({facts.language for facts in members}) == len(members), family


@pytest.mark.parametrize("facts", LISTED, ids=name_of)
def test_a_licence_is_an_spdx_identifier_with_where_it_is_stated(facts: TaskFacts) -> None:
    assert facts.checked.startswith(("licence page", "licence memory"))
    if facts.licence == UNKNOWN:
        assert facts.licence_evidence == ""
        return
    assert problem_of(facts.licence) is None
    assert facts.licence_evidence.startswith("https://")
    assert facts.revision == "" or len(facts.revision) == 40


@pytest.mark.parametrize("facts", [facts for facts in ALL if facts.source == OWN], ids=name_of)
def test_our_own_items_have_a_card_and_a_licence(facts: TaskFacts) -> None:
    assert facts.licence != UNKNOWN
    card = read_config(facts)["metadata"].get("card")
    assert (facts.licence_evidence == f"data_cards/{card}.yaml") if card else facts.licence.startswith("LicenseRef-")


@pytest.mark.parametrize("facts", [facts for facts in ALL if facts.source == REPAIRED], ids=name_of)
def test_what_we_repair_is_broken_and_has_a_name_of_its_own(facts: TaskFacts) -> None:
    assert facts.name.endswith(REPAIRED_ENDING)
    assert find_upstream(facts.name) is None
    theirs = find_upstream(facts.repairs)
    if theirs is None:  # a group of a task a subject
        assert any(lm_eval_tasks().rglob(f"_{facts.repairs}.yaml"))
        assert "a task a subject" in facts.remark
        return
    settings = read_config(task_facts(facts.repairs, language=facts.language, licences={facts.repairs: "test"}))
    text = modules_text(settings)
    assert ("transformers.data.metrics" in text) == ("transformers.data.metrics" in facts.remark)
    assert ("rouge1_agg" in repr(settings)) == ("ROUGE" in facts.remark)
    assert ("load_metric" in text) == ("load_metric" in facts.remark)
    assert (settings["dataset_path"] in SCRIPTED) == ("loading script" in facts.remark)


@pytest.mark.parametrize("facts", [facts for facts in ALL if facts.source == UPSTREAM], ids=name_of)
def test_what_we_take_from_lm_eval_is_not_broken_in_the_known_ways(facts: TaskFacts) -> None:
    settings = read_config(facts)
    assert not [sign for sign in BROKEN if sign in modules_text(settings)]
    assert (settings.get("dataset_path") in SCRIPTED) == ("loading script" in facts.remark)
    assert "class" not in settings


@pytest.mark.parametrize("facts", [facts for facts in ALL if facts.name not in NEEDS_MORE_PACKAGES], ids=name_of)
def test_functions_can_be_imported_and_metrics_are_known(facts: TaskFacts) -> None:
    from lm_eval.api.registry import get_metric, metric_registry
    from lm_eval.tasks._yaml_loader import load_yaml

    settings = load_yaml(facts.file, resolve_func=True)
    get_metric("acc")
    if "process_results" not in settings:
        assert all(callable(entry["metric"]) or entry["metric"] in metric_registry for entry in settings["metric_list"])


def test_the_catalogue_is_read_without_the_harness() -> None:
    code = (
        "import sys; from iberlm.evaluate import catalogue, suite, tasks; suite.families(); [tasks.task_key_files(facts) for facts in "
        "catalogue.catalogue().values()]; print([name for name in ('torch', 'lm_eval', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bellebele_spa_Latn", r"unknown task 'bellebele_spa_Latn'; did you mean 'belebele_spa_Latn'"),
        ("xyzzy", r"unknown task 'xyzzy'; docs/reference/evaluation-tasks\.md lists them.*suite\.licences=\{xyzzy: SPDX\}"),
        ("xquad_ca", r"lm-eval's task of this name does not run \(its functions need transformers\.data\.metrics\); 'xquad_ca_iberlm' asks the same"),
        ("belebele", r"this is a family: name it in suite\.tasks, with suite\.languages"),
        ("eus_trivia", r"task without licence: nobody has stated one for the data of 'eus_trivia' \(HiTZ/EusTrivia\); add it to .*datasets\.yml"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused_with_the_mend(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_facts(name)


def test_a_licence_can_be_given_for_a_task_without_one_and_for_one_that_the_catalogue_does_not_have() -> None:
    assert task_facts("eus_trivia", licences={"eus_trivia": "CC-BY-4.0"}).licence == "CC-BY-4.0"
    facts = task_facts("paws_es", language="es", licences={"paws_es": "LicenseRef-PAWS"})
    assert (facts.family, facts.dataset, facts.dataset_config, facts.metric, facts.chance, facts.measures) == (
        "paws_es", "google-research-datasets/paws-x", "es", "acc", None, UNKNOWN,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="unknown task 'no_such_task': neither the catalogue nor lm-eval has it"):
        task_facts("no_such_task", language="es", licences={"no_such_task": "MIT"})


def test_the_primary_metric_of_a_file_is_its_first_with_the_first_filter() -> None:
    assert primary_metric({"output_type": "multiple_choice"}) == "acc"
    assert primary_metric({"metric_list": [{"metric": "exact_match"}], "filter_list": [{"name": "last"}, {"name": "first"}]}) == "exact_match,last"
    assert primary_metric({"metric_list": [{"metric": "utils.rouge1"}], "filter_list": [{"name": "none"}]}) == "rouge1"


def test_the_reference_page_is_that_of_the_catalogue() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "evaluation-tasks.md"
    assert page.read_text(encoding="utf-8") == reference_page(), "write it anew: python -m iberlm.evaluate.catalogue > docs/reference/evaluation-tasks.md"


GOOD = "family: f, measures: reading, dataset: a/b, metric: acc"


@pytest.fixture
def own_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty `eval/` that the catalogue reads, with one data set."""
    for folder in ("catalogue", *(file_safe(language) for language in LANGUAGES)):
        (tmp_path / folder).mkdir()
    (tmp_path / "catalogue" / "datasets.yml").write_text("a/b: {licence: MIT, checked: page}\n")
    real = resource_dir
    monkeypatch.setattr(module, "resource_dir", lambda kind: tmp_path if kind == "eval" else real(kind))
    catalogue.cache_clear()
    yield tmp_path
    catalogue.cache_clear()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{family: f, measures: readin, dataset: a/b, metric: acc}", "es.yml: t: unknown value 'readin'; choose among reading"),
        ("{family: f, measures: reading, dataset: a/b}", "es.yml: t: 'metric' is missing"),
        ("{family: f, measures: reading, dataset: c/d, metric: acc}", r"es.yml: t: data set 'c/d' is not in eval/catalogue/datasets\.yml"),
        (f"{{{GOOD}, chanse: 0.5}}", "es.yml: t: unknown key 'chanse'; choose among .*chance"),
        (f"{{{GOOD}}}\nu: {{{GOOD}}}", "'u' and 't' are both of family 'f' in es"),
    ],
)
def test_a_wrong_entry_is_refused(own_eval: Path, entry: str, message: str) -> None:
    (own_eval / "catalogue" / "es.yml").write_text(f"t: {entry}\n")
    with pytest.raises(ConfigError, match=message):
        catalogue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: other\nmetadata: {language: es, measures: reading}\n", "must be the task 'tales_es' with metadata.language: es"),
        ("task: tales_es\nmetadata: {language: gl, measures: reading}\n", "must be the task 'tales_es' with metadata.language: es"),
        ("task: tales_es\nmetadata: {language: es}\n", "tales_es.yaml: metadata.measures: unknown value 'None'; choose among"),
        ("task: [\n", "tales_es.yaml: is no YAML"),
        ("- task\n", "tales_es.yaml: holds no settings of a task"),
    ],
)
def test_a_task_of_ours_that_does_not_say_what_it_is_is_refused(own_eval: Path, text: str, message: str) -> None:
    (own_eval / "es" / "tales_es.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        catalogue()


def test_a_task_of_ours_is_found_by_its_file(own_eval: Path) -> None:
    (own_eval / "es" / "tales_es.yaml").write_text("task: tales_es\nmetadata: {language: es, measures: reading, card: iberlm_sample_eval, chance: 0.5}\n")
    (own_eval / "es" / "tales.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    facts = task_facts("tales_es")
    assert (facts.family, facts.source, facts.licence, facts.items, facts.chance, facts.best, facts.dataset) == ("tales", OWN, "CC0-1.0", 2, 0.5, 1.0, "iberlm")
