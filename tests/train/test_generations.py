"""What a model says during training is what it would say after it, under every way of spreading its weights, and costs training nothing but time."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from iberlm.core.errors import ConfigError
from iberlm.core.manifest import Manifest
from iberlm.core.ranks import reserved_port, run_ranks
from iberlm.train.config import MonitorConfig, PretrainConfig, StrategyConfig
from iberlm.train.files import GENERATIONS
from iberlm.train.generations import continue_prompts, generate_live, write_generations
from iberlm.train.model import build, materialise
from iberlm.train.strategy import parallelize, session
from iberlm.train.training_model import build_training_model, decoder_layers

from .conftest import VOCABULARY, tiny
from .generation_ranks import PROMPTS, run
from .strategy_ranks import GROUPS, Case, configured, gradients


@pytest.fixture(scope="module")
def tokenizer(inputs: list[Manifest]) -> Any:
    return AutoTokenizer.from_pretrained(str(inputs[1].folder / "tokenizer"))


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    made = build(tiny().model, VOCABULARY, bos=0, eos=1)
    materialise(made, torch.device("cpu"), 3)
    return made


def live(model: LlamaForCausalLM, tokenizer: Any, config: PretrainConfig) -> list[dict[str, str]]:
    return continue_prompts(lambda ids: model(ids).logits, tokenizer, config, torch.device("cpu"))


@pytest.fixture(scope="module")
def single(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run({"name": "single"}, 1, tokenizer, tmp_path_factory.mktemp("single"))


def test_live_and_from_the_folder_it_says_the_same(model: LlamaForCausalLM, tokenizer: Any, tmp_path: Path) -> None:
    config = tiny(prompts=PROMPTS, max_new_tokens=12)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_generations(config, tmp_path / "model", tmp_path / GENERATIONS)
    from_folder = json.loads((tmp_path / GENERATIONS).read_text())
    assert [entry["language"] for entry in from_folder] == list(PROMPTS)
    assert all(entry["text"].startswith(entry["prompt"]) and len(entry["text"]) > len(entry["prompt"]) for entry in from_folder)
    assert live(model, tokenizer, config) == from_folder


def test_a_long_prompt_is_cut_and_the_sequence_never_exceeded(model: LlamaForCausalLM, tokenizer: Any) -> None:
    seen = []

    def logits(ids: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(ids.shape))
        return model(ids).logits

    config = tiny(prompts={"es": "La casa blanca está cerca del río " * 9, "gl": "A"}, max_new_tokens=500)
    made = continue_prompts(logits, tokenizer, config, torch.device("cpu"))
    assert set(seen) == {(2, 32)}  # one shape, of the training's length
    assert len(seen) == 31
    assert [entry["language"] for entry in made] == ["es", "gl"]
    assert live(model, tokenizer, tiny(prompts={})) == []


def test_drawing_repeats_itself_and_follows_the_temperature(model: LlamaForCausalLM, tokenizer: Any) -> None:
    settings: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 12}
    drawn = live(model, tokenizer, tiny(temperature=1.0, **settings))
    assert live(model, tokenizer, tiny(temperature=1.0, **settings)) == drawn
    assert drawn != live(model, tokenizer, tiny(**settings))
    assert drawn != live(model, tokenizer, tiny(temperature=1.0, seed=4, **settings))
    # nearly no temperature is none
    assert live(model, tokenizer, tiny(temperature=1e-4, **settings)) == live(model, tokenizer, tiny(**settings))


def test_generating_changes_no_step(single: dict[str, Any]) -> None:
    assert single["losses"] == single["losses_undisturbed"]
    assert single["hook"] == {"width/vocabulary": VOCABULARY}
    assert [entry["prompt"] for entry in single["texts"]] == list(PROMPTS.values())


def test_two_ranks_say_what_one_says_however_the_weights_are_spread(single: dict[str, Any], inputs: list[Manifest], tmp_path: Path) -> None:
    cases = {"fsdp2": {"name": "fsdp2"}, "tensor": {"name": "fsdp2", "tensor": 2}, "zero3": {"name": "zero3"}}
    with contextlib.ExitStack() as held:
        listed = [[label, strategy, held.enter_context(reserved_port())] for label, strategy in cases.items()]
        run_ranks("tests.train.generation_ranks", [json.dumps(listed), str(inputs[1].folder / "tokenizer"), str(tmp_path)], 2)
    for label in cases:
        first, second = (json.loads((tmp_path / f"{label}-{rank}.json").read_text()) for rank in (0, 1))
        assert first["texts"] == second["texts"] == single["texts"], label
        assert first["losses"] == first["losses_undisturbed"], label
        assert first["losses"] == pytest.approx(single["losses"], rel=1e-4), label
        assert first["hook"] == {"width/vocabulary": VOCABULARY}, label


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own look at its input
def test_compiled_layers_are_called_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    """Else they would be compiled anew for the shapes of generations, and training might go on with another code."""
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(inputs)
        return graph.forward

    config, choices = configured(Case("", {"name": "single"}, 1))
    config.prompts = PROMPTS
    with session(config, choices, str(tmp_path)) as accelerator:
        parallel = parallelize(accelerator, build_training_model(config, VOCABULARY, choices, GROUPS), config, choices)
        expected = generate_live(parallel, tokenizer, config)
        for layer in decoder_layers(parallel.module.causal):
            layer.compile(backend=backend)
        assert generate_live(parallel, tokenizer, config) == expected
        assert compiled == []
        gradients(parallel, 0)
        assert compiled != []


@pytest.mark.parametrize("monitor", [{"generate_every_steps": 5}, {"hooks": ["a.b:c"]}])
def test_parts_of_sequences_cannot_generate(monitor: dict[str, Any]) -> None:
    tiny(monitor=MonitorConfig(**monitor), strategy=StrategyConfig(name="fsdp2", tensor=2))
    tiny(strategy=StrategyConfig(name="fsdp2", context=2))
    with pytest.raises(ConfigError, match=r"strategy\.context: with 2 ranks a sequence there are no generations and no hooks during training"):
        tiny(monitor=MonitorConfig(**monitor), strategy=StrategyConfig(name="fsdp2", context=2))
