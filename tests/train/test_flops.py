"""Parameters are exact, operations follow the stated formula, peaks are found by the names that drivers give."""

from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir
from iberlm.train.config import ModelConfig
from iberlm.train.flops import Shape, flops_per_token, layer_matrices, mfu, parameters, peak_tflops
from iberlm.train.model import build, llama_config, parameter_count

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160, "vocab_size": 101}
NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


@pytest.mark.parametrize("path", sorted((resource_dir("recipes") / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_parameters_are_those_of_the_model(path: Any) -> None:
    config = ModelConfig(**yaml.safe_load(path.read_text()))
    assert parameters(Shape.of(config)) == config.parameters == parameter_count(build(config, config.vocabulary_size))
    assert parameters(Shape.of(config, 300)) == parameter_count(build(config, 300))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"num_key_value_heads": 2, **SMALL}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "tie_word_embeddings": True, **SMALL}),
        ("mistral", {"num_key_value_heads": 2, "head_dim": 32, **SMALL}),
        ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True, **SMALL}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 24, **SMALL}),
        ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 101}),
        ("gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 101, "n_positions": 50}),
        ("gpt2", {"n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 101, "n_inner": 100}),
        ("gpt_neox", SMALL),
    ],
)
def test_parameters_of_a_hugging_face_folder(kind: str, settings: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, **settings, **NO_IDS)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = Shape.of_huggingface(config.to_dict())
    assert parameters(shape) == parameter_count(model)
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2 and (".layers." in name or ".h." in name))
    assert layer_matrices(shape) * shape.layers == matrices


def test_an_unknown_kind_of_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model_type 'mamba' is not one .*llama, mistral"):
        Shape.of_huggingface({"model_type": "mamba"})
    with pytest.raises(ConfigError, match="'hidden_size' is missing"):
        Shape.of_huggingface({"model_type": "llama"})


def test_operations_of_a_token() -> None:
    config = ModelConfig(vocabulary_size=1000, hidden_size=64, layers=3, heads=4, kv_heads=2, ffn_size=160)
    # q, o; k, v; gate, up, down
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160
    assert flops_per_token(Shape.of(config), 128) == 6 * (3 * layer + 1000 * 64) + 12 * 3 * 64 * 128


def test_operations_are_those_that_torch_counts() -> None:
    """But for attention, which flash kernels count as causal or not by version; here the matrices only."""
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(vocabulary_size=96, hidden_size=32, layers=2, heads=2, kv_heads=1, ffn_size=48)
    model = LlamaForCausalLM(llama_config(config, 96))
    ids = torch.zeros(1, 16, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    counted = sum(
        count for operation, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(operation) and "bmm" not in str(operation)
    )
    assert counted == 16 * flops_per_token(Shape.of(config), 0)


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 64GB HBM2", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.4),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "fp8", 1978.9),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "fp32", 19.5),
        ("NVIDIA A100-SXM-64GB", "bf16", 358.2),
        ("AMD Instinct MI250X", "bf16", 191.5),
        ("AMD Instinct MI300X", "fp8", 2614.9),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_a_peak_is_found_by_the_name_of_the_device(name: str, precision: str, expected: float) -> None:
    found = peak_tflops(name, precision)
    assert found is not None
    assert found[0] == expected
    assert found[1]


@pytest.mark.parametrize(("name", "precision"), [("Intel Xeon", "bf16"), ("cpu", "fp32"), ("NVIDIA A100-SXM4-80GB", "fp8")])
def test_what_a_device_cannot_do_or_nobody_stated_is_not_guessed(name: str, precision: str) -> None:
    assert peak_tflops(name, precision) is None


def test_utilisation_of_a_published_run() -> None:
    """llm-foundry's 1.3B row: 45,455 tokens/s a GPU at 2,048 tokens is given as 41.82% there."""
    shape = Shape(vocabulary_size=50368, hidden_size=2048, layers=24, heads=16, kv_heads=16, head_size=128, ffn_size=8192, ffn_matrices=2, tied=True)
    assert mfu(45_455, shape, 2048, 1, 989.4) == pytest.approx(0.4182, rel=0.01)
