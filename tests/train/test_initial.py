import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest
from iberlm.train.attention import SDPA
from iberlm.train.hardware import CHUNKED, Choices
from iberlm.train.initial import check_vocabulary, load_weights, read_configuration
from iberlm.train.model import materialise
from iberlm.train.training_model import TrainingModel, build_training_model

from .conftest import tiny

ROWS = 100
SIZE: dict[str, Any] = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZE, num_key_value_heads=2, intermediate_size=64, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "llama3": LlamaConfig(
        **SIZE,
        intermediate_size=64,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": Qwen2Config(**SIZE, num_key_value_heads=2, intermediate_size=64, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZE, num_key_value_heads=2, intermediate_size=64, head_dim=16),
    "gpt_neox": GPTNeoXConfig(**SIZE, intermediate_size=64, hidden_dropout=0.1),
    "gpt2": GPT2Config(**SIZE, n_positions=64),
}
CPU = torch.device("cpu")


def saved(folder: Path, name: str = "llama", **settings: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(SHAPES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    model.save_pretrained(folder, **settings)
    return model.eval()


def built(folder: Path) -> TrainingModel:
    return build_training_model(tiny(initial_model=str(folder)), ROWS, Choices("fp32", False, SDPA, CHUNKED, ()), 1)


@pytest.mark.parametrize("name", SHAPES)
def test_it_begins_where_the_folder_ends(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name, max_shard_size="20KB" if name == "llama" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == (name == "llama")
    module = built(tmp_path)
    assert module.cross_entropy_kind == CHUNKED
    materialise(module, CPU, 0, str(tmp_path))
    ids = torch.randint(0, ROWS, (2, 33), generator=torch.Generator().manual_seed(0))
    losses = module.token_losses(ids[:, :-1], ids[:, 1:], torch.arange(32).expand(2, -1))
    expected = nn.functional.cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(losses, expected)
    for key, value in model.state_dict().items():
        assert torch.equal(module.state_dict()[f"causal.{key}"], value)
    assert module.state_dict().keys() == {f"causal.{key}" for key in model.state_dict()}


def test_bf16_weights_become_fp32(tmp_path: Path) -> None:
    model = saved(tmp_path)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    module = built(tmp_path)
    materialise(module, CPU, 0, str(tmp_path))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert torch.equal(module.causal.lm_head.weight, model.lm_head.weight.float())


def test_a_tied_matrix_may_have_either_name(tmp_path: Path) -> None:
    model = saved(tmp_path, "qwen2")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    assert "lm_head.weight" not in tensors
    for names in (["lm_head.weight"], ["model.embed_tokens.weight", "lm_head.weight"]):
        matrix = model.lm_head.weight.detach()
        save_file(
            {key: value for key, value in tensors.items() if "embed" not in key} | {name: matrix.clone() for name in names}, path, metadata={"format": "pt"}
        )
        module = built(tmp_path)
        materialise(module, CPU, 0, str(tmp_path))
        assert torch.equal(module.causal.model.embed_tokens.weight, matrix)
        assert module.causal.lm_head.weight is module.causal.model.embed_tokens.weight


def test_a_decoder_saved_alone_lacks_the_prefix(tmp_path: Path) -> None:
    model = saved(tmp_path, "gpt2")
    path = tmp_path / "model.safetensors"
    tensors = {key.removeprefix("transformer."): value for key, value in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # old files hold masks, which transformers ignores
    save_file(tensors, path, metadata={"format": "pt"})
    module = built(tmp_path)
    materialise(module, CPU, 0, str(tmp_path))
    assert torch.equal(module.causal.transformer.h[1].mlp.c_fc.weight, model.transformer.h[1].mlp.c_fc.weight)


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), r"missing model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda tensors: tensors.update({"model.layers.2.extra": torch.zeros(2)}), r"unexpected model\.layers\.2\.extra"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(31)}),
            r"shape model\.norm\.weight \(the first is \[31\], config\.json says \[32\]\)",
        ),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.0" in name], r"missing .* and 6 more"),
    ],
)
def test_other_tensors_are_named(change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path) -> None:
    saved(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(DataError, match=message):
        materialise(built(tmp_path), CPU, 0, str(tmp_path))


def test_nothing_is_filled_when_a_tensor_is_missing(tmp_path: Path) -> None:
    saved(tmp_path)
    changed(tmp_path, lambda tensors: tensors.pop("model.norm.weight"))
    model = AutoModelForCausalLM.from_config(SHAPES["llama"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(DataError):
        load_weights(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_pickles_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="pickle"):
        materialise(built(tmp_path), CPU, 0, str(tmp_path))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        materialise(built(tmp_path), CPU, 0, str(tmp_path))


def read(folder: Path, **settings: Any) -> PreTrainedConfig:
    return read_configuration(folder, **({"sequence_length": 32, "vocabulary_size": ROWS} | settings))


def edited(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_code_of_the_folder_is_refused_and_not_run(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edited(tmp_path, auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"})
    with pytest.raises(ConfigError, match="auto_map"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_the_model_cannot_hold_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    assert read(tmp_path, sequence_length=64).vocab_size == ROWS
    with pytest.raises(ConfigError, match=r"sequence_length: 65 is above max_position_embeddings \(64\)"):
        read(tmp_path, sequence_length=65)
    with pytest.raises(ConfigError, match="iberlm resize-embeddings"):
        read(tmp_path, vocabulary_size=ROWS + 1)


def test_folders_that_are_no_causal_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: there is no such file"):
        read(tmp_path)
    saved(tmp_path)
    edited(tmp_path, model_type="unheard_of")
    with pytest.raises(ConfigError, match="transformers cannot read it"):
        read(tmp_path)
    edited(tmp_path, model_type="t5")
    with pytest.raises(ConfigError, match="no causal language model"):
        read(tmp_path)


def test_dropout_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, "gpt_neox")
    assert read(tmp_path).hidden_dropout == 0
    assert "without its dropout (hidden_dropout=0.1" in capsys.readouterr().err


def test_the_vocabulary_must_be_the_store_s(inputs: list[Manifest], tmp_path: Path) -> None:
    tokenizer = inputs[1].folder / "tokenizer"
    text = (tokenizer / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text)
    check_vocabulary(tmp_path, tokenizer)
    spec = json.loads(text)
    vocabulary = spec["model"]["vocab"]
    first, second = list(vocabulary)[50:52]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match=r"2 of 300 ids differ, the first 50: .*iberlm resize-embeddings"):
        check_vocabulary(tmp_path, tokenizer)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptError, match="not a tokenizer"):
        check_vocabulary(tmp_path, tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        check_vocabulary(tmp_path, tokenizer)
