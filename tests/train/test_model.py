import itertools
import math
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from iberlm.core.manifest import Manifest
from iberlm.train.config import MixtureConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StrategyConfig
from iberlm.train.export import save_model, whole_state
from iberlm.train.model import build, materialise, parameter_count, parameter_groups
from iberlm.train.schedule import rate_ratio
from iberlm.train.strategy import parallelize, session

from .conftest import VOCABULARY, tiny

RECIPES = Path(__file__).parents[2] / "recipes"
PUBLISHED = {"salamandra_2b": 2_253_490_176, "salamandra_7b": 7_768_117_248, "alia_40b": 40_433_885_184}


@pytest.mark.parametrize("path", sorted((RECIPES / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_recipe_has_the_parameters_it_states(path: Path) -> None:
    config = ModelConfig(**yaml.safe_load(path.read_text()))
    assert config.name == path.stem
    assert parameter_count(build(config, config.vocabulary_size)) == config.parameters == PUBLISHED.get(path.stem, config.parameters)


@pytest.mark.parametrize(
    ("group", "kind"), [("mixture", MixtureConfig), ("optimizer", OptimizerConfig), ("schedule", ScheduleConfig), ("strategy", StrategyConfig)]
)
def test_the_other_recipes_are_valid(group: str, kind: type) -> None:
    paths = sorted((RECIPES / group).glob("*.yaml"))
    assert paths
    for path in paths:
        assert path.read_text().startswith("# ")
        kind(**yaml.safe_load(path.read_text()))


def test_weights_depend_on_the_seed_and_the_name_alone() -> None:
    def made(seed: int, layers: int) -> dict[str, torch.Tensor]:
        model = build(ModelConfig(layers=layers), 100)
        materialise(model, torch.device("cpu"), seed)
        return model.state_dict()

    first, again, deeper, other = made(1, 2), made(1, 2), made(1, 3), made(2, 2)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert torch.equal(first[name], deeper[name])
    assert not torch.equal(first[name], other[name])
    assert first[name].std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(first["model.norm.weight"], torch.ones(256))


def test_a_new_model_knows_nothing() -> None:
    model = build(ModelConfig(), 1000)
    materialise(model, torch.device("cpu"), 0)
    ids = torch.arange(200)[None]
    assert model(ids, labels=ids).loss.item() == pytest.approx(math.log(1000), abs=0.2)


@pytest.mark.parametrize("tied", [False, True])
def test_decay_spares_norms_and_embeddings(tied: bool) -> None:
    model = build(ModelConfig(layers=2, tie_embeddings=tied), 100)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ([names[id(parameter)] for parameter in group["params"]] for group in parameter_groups(model, 0.1))
    assert all("proj" in name or name == "lm_head.weight" for name in decayed)
    assert ("lm_head.weight" in decayed) != tied
    assert sorted(spared) == sorted(name for name in names.values() if "norm" in name or "embed" in name)


@pytest.mark.parametrize("tied", [False, True])
def test_the_saved_model_has_the_logits_of_the_trained_one(tied: bool, inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(tracker="none")
    config.model.tie_embeddings = tied
    empty = build(config.model, VOCABULARY, bos=0, eos=1)
    with session(config, str(tmp_path)) as accelerator:
        parallel = parallelize(accelerator, build(config.model, VOCABULARY, bos=0, eos=1), config)
        save_model(whole_state(parallel), empty, inputs[1].folder / "tokenizer", tmp_path / "model", "fp32")
        ids = torch.randint(0, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = parallel.model(input_ids=ids).logits
            found = AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))(input_ids=ids).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_a_schedule_warms_up_peaks_and_ends_at_its_minimum(kind: str) -> None:
    config = ScheduleConfig(kind=kind, warmup_steps=10, decay_fraction=0.2, minimum_ratio=0.1)
    rates = [rate_ratio(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
    if kind == "wsd":
        assert set(rates[9:80]) == {1.0}
        assert rates[80] < 1


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    config = ScheduleConfig(kind="wsd", warmup_steps=0, decay_fraction=0)
    assert {rate_ratio(config, step, 7) for step in range(7)} == {1.0}
