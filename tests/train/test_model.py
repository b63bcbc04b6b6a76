import math
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from iberlm.train.config import MixtureConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StrategyConfig
from iberlm.train.hardware import Choices
from iberlm.train.model import build, llama_config, materialise, parameter_count
from iberlm.train.training_model import build_training_model

from .conftest import VOCABULARY, tiny

CPU = torch.device("cpu")
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


def test_the_width_rule_begins_wide_layers_smaller() -> None:
    def made(reference: int) -> dict[str, torch.Tensor]:
        model = build(ModelConfig(layers=1), 100)
        materialise(model, CPU, 1, reference_hidden_size=reference)
        return model.state_dict()

    plain, scaled = made(0), made(64)  # the model is four times as wide
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        torch.testing.assert_close(scaled[name], plain[name] / 2)
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(scaled[name], plain[name])


def test_rotary_frequencies_are_those_of_transformers() -> None:
    config = ModelConfig(layers=1, rope_theta=500_000.0)
    model = build(config, 100)
    materialise(model, CPU, 0)
    expected = LlamaForCausalLM(llama_config(config, 100)).model.rotary_emb
    assert torch.equal(model.model.rotary_emb.inv_freq, expected.inv_freq)
    assert torch.equal(model.model.rotary_emb.original_inv_freq, expected.original_inv_freq)


def test_a_training_model_has_the_weights_of_the_model_alone() -> None:
    config = tiny()
    module = build_training_model(config, VOCABULARY, Choices("fp32", False, "sdpa", "plain", ()), 1)
    materialise(module, CPU, config.seed)
    alone = build(config.model, VOCABULARY)
    materialise(alone, CPU, config.seed)
    assert {f"causal.{name}" for name in alone.state_dict()} == module.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[f"causal.{name}"]) for name, value in alone.state_dict().items())
