"""Every recipe that ships composes, becomes its verb's settings, and is mentioned by no dead name."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from iberlm.cli.hydra_app import register_schemas, search_path_override
from iberlm.cli.verb_help import choices_of
from iberlm.cli.verbs import VERBS
from iberlm.core.resources import resource_dir

RECIPES = resource_dir("recipes")
NEEDED = {
    "corpus=path": ["corpus.sources.local.path=/tmp/x.jsonl", "corpus.sources.local.card=iberlm_sample"],
    "corpus=huggingface": ["corpus.sources.hub.dataset=a/b", f"corpus.sources.hub.revision={'0' * 40}", "corpus.sources.hub.card=iberlm_sample"],
    "corpus=warc": ["corpus.sources.crawl.path=/tmp/x", "corpus.sources.crawl.card=iberlm_sample"],
    "corpus=wikipedia": ["corpus.sources.wikipedia.path=/tmp/x", "corpus.sources.wikipedia.card=iberlm_sample"],
    "tokenizer=extend": ["tokenizer.base=/tmp/x", "tokenizer.vocabulary_size=200000"],
    "tokenizer=keep": ["tokenizer.base=/tmp/x"],
    "data=path": ["data.paths=[/tmp/x.jsonl]", "data.card=iberlm_sample_instructions"],
}
"""Recipes that are templates: what a user must give with them."""


def group_choices() -> list[tuple[str, str]]:
    """(verb, GROUP=CHOICE) for every group of every verb's recipe."""
    found = []
    for verb in VERBS.values():
        defaults = yaml.safe_load((RECIPES / f"{verb.recipe}.yaml").read_text())["defaults"]
        for entry in (entry for entry in defaults if isinstance(entry, dict)):
            key = next(iter(entry))
            group = key.removeprefix("override ").split("@")[0].strip("/")
            if not key.startswith("override"):
                found += [(verb.name, f"{key}={choice}") for choice in choices_of(group)]
    return found


def composed(verb: str, overrides: list[str]) -> object:
    register_schemas()
    with initialize_config_dir(str(RECIPES), version_base="1.3"):
        return OmegaConf.to_object(compose(VERBS[verb].recipe, [*overrides, search_path_override()]))


@pytest.mark.parametrize(("verb", "choice"), group_choices())
def test_every_choice_of_every_group_composes(verb: str, choice: str) -> None:
    group_choice = choice.split("@")[0] + "=" + choice.split("=")[1] if "@" in choice else choice
    settings = composed(verb, [choice, *NEEDED.get(group_choice, [])])
    assert isinstance(settings, VERBS[verb].config_class())


def test_every_recipe_file_is_reached_by_a_verb() -> None:
    reached = {choice.split("@")[0].split("=")[0] + "/" + choice.split("=")[1] for _, choice in group_choices()}
    files = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("[!_]*.yaml") if path.parent != RECIPES}
    assert files - {"langid/iberlm"} <= reached  # which a tool takes, by path
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {verb.recipe for verb in VERBS.values()}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_a_recipe_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert next(line for line in lines if not line.startswith("# @package")).startswith("# ")


def test_a_pipeline_gives_its_folder_and_cluster_to_every_stage() -> None:
    from iberlm.cli.pipeline import STAGES

    settings = composed("run", ["pipeline=demo", "run_dir=/tmp/mine", "cluster.workers=3", "dry_run=true"])
    for name in STAGES:
        stage = getattr(settings, name)
        assert stage.run_dir == "/tmp/mine"
        assert stage.out == f"/tmp/mine/{name}"
        assert stage.dry_run
        assert stage.cluster.workers == 3
    assert settings.evaluate_finetuned.model_folder == "/tmp/mine/finetune/model"


def test_one_stage_of_a_pipeline_may_run_wider_than_the_others() -> None:
    settings = composed("run", ["pipeline=demo", "pretrain.cluster.processes=2", "pretrain.strategy.name=ddp"])
    assert settings.pretrain.cluster.processes == 2
    assert settings.curate.cluster.processes == 1
