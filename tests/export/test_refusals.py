"""One clear message for everything that cannot be exported, and nothing left behind."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from iberlm.core.errors import ConfigError, CorruptError, DataError, IberlmError, ResourceError
from iberlm.export.gguf import export_gguf
from tests.export.models import build_model, edit_json


def refusal(model: Path, kind: type[IberlmError], precision: str = "bf16") -> str:
    """What the export says; it must leave no file."""
    out = model.parent / "out" / "m.gguf"
    with pytest.raises(kind) as caught:
        export_gguf(model, out, precision=precision)
    assert not list(out.parent.glob("**/*"))
    return str(caught.value)


CONFIGS = {
    "architecture": ({"architectures": ["MixtralForCausalLM"]}, "the architecture is MixtralForCausalLM; the export knows LlamaForCausalLM only"),
    "model type": ({"architectures": None, "model_type": "qwen2"}, "the architecture is model_type qwen2"),
    "bias": ({"attention_bias": True}, "attention_bias is True"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is gelu"),
    "quantised": ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is"),
    "yarn": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type is 'yarn'; the export knows default, linear, llama3"),
    "partial": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_llama_cpp_or_the_export_does_not_do_is_named(case: str, model: Path) -> None:
    values, said = CONFIGS[case]
    edit_json(model / "config.json", **values)
    message = refusal(model, ConfigError)
    assert said in message
    assert "convert_hf_to_gguf.py" in message


BROKEN = {
    "no heads": ({"num_attention_heads": None}, "not the configuration of a Llama (KeyError: 'num_attention_heads')"),
    "text for a number": ({"hidden_size": "wide"}, "not the configuration of a Llama (ValueError"),
    "odd heads": ({"num_key_value_heads": 3}, "make no Llama"),
    "other width": ({"intermediate_size": 128}, "has the shape (96, 64) where config.json says (128, 64)"),
    "more layers": ({"num_hidden_layers": 3}, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
    "fewer layers": ({"num_hidden_layers": 1}, "tensor 'model.layers.1.input_layernorm.weight' has no place"),
    "rope without factor": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "KeyError: 'factor'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_configuration_that_is_not_that_of_the_weights(case: str, model: Path) -> None:
    values, said = BROKEN[case]
    edit_json(model / "config.json", **values)
    assert said in refusal(model, CorruptError)


def test_tied_embeddings_ignore_an_output_matrix_that_was_saved_all_the_same(model: Path, tmp_path: Path) -> None:
    edit_json(model / "config.json", tie_word_embeddings=True)
    export_gguf(model, tmp_path / "m.gguf", precision="bf16")
    names = {tensor.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def _cut(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _header(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def _garbage(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"[1,2")


def _short(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"abc")


def _index(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": 3}', encoding="utf-8")


@pytest.mark.parametrize("damage", [_cut, _header, _garbage, _short, _index])
def test_damaged_safetensors(damage: Callable[[Path], None], model: Path) -> None:
    damage(model)
    assert ("not a whole safetensors file" in (message := refusal(model, CorruptError))) != ("not an index" in message)


def _spoil(model: Path, value: float) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight" if value < 0 else "model.embed_tokens.weight"].view(-1)[5] = abs(value)
    save_file(weights, model / "model.safetensors")


def test_weights_that_are_not_finite(model: Path) -> None:
    _spoil(model, float("nan"))
    assert "tensor 'model.embed_tokens.weight' has values that are not finite" in refusal(model, DataError)


def test_numbers_that_f16_cannot_hold(model: Path, tmp_path: Path) -> None:
    _spoil(model, 70_000.0)
    assert "'model.embed_tokens.weight' has numbers that f16 cannot hold; choose bf16 or f32" in refusal(model, ConfigError, "f16")
    export_gguf(model, tmp_path / "m.gguf", precision="bf16")


def test_types_that_are_not_read(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"].to(torch.float8_e4m3fn)}, model / "model.safetensors")
    assert "tensor 'model.norm.weight' is F8_E4M3; the export reads F32, F16, BF16" in refusal(model, ConfigError)


def test_rows_that_q8_0_cannot_divide(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    build_model(tmp_path / "model", tokenizers["bpe"], hidden_size=40, num_attention_heads=4)
    assert "q8_0 needs rows of a multiple of 32 numbers, and 'model.embed_tokens.weight' has 40" in refusal(tmp_path / "model", ConfigError, "q8_0")
    export_gguf(tmp_path / "model", tmp_path / "m.gguf", precision="f16")


def test_pickled_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "has neither model.safetensors nor model.safetensors.index.json" in refusal(model, DataError)


def test_folders_that_are_no_model(model: Path) -> None:
    assert f"did you mean {model}?" in refusal(model.parent, DataError)
    (model / "config.json").write_text("[]", encoding="utf-8")
    assert "not a JSON object" in refusal(model, CorruptError)
    (model / "config.json").write_text("{", encoding="utf-8")
    assert "not JSON" in refusal(model, CorruptError)
    (model / "config.json").unlink()
    assert "give the folder of a Hugging Face model" in refusal(model, DataError)
    (model / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "it is an adapter, which has to be merged" in refusal(model, DataError)
    assert "is not a folder" in refusal(model / "adapter_config.json", ConfigError)


def test_special_tokens_that_are_in_no_vocabulary(model: Path) -> None:
    edit_json(model / "tokenizer_config.json", bos_token="<begin>")
    assert "the bos token '<begin>' of its tokenizer_config.json is not in tokenizer.json" in refusal(model, CorruptError)
    (model / "tokenizer_config.json").write_text("x", encoding="utf-8")
    assert "tokenizer_config.json: not JSON" in refusal(model, CorruptError)


def test_a_full_disk_leaves_nothing_behind(model: Path, small_disk: Path, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    build_model(tmp_path / "large", tokenizers["bpe"], intermediate_size=32_768)
    with pytest.raises(ResourceError, match="is full"):
        export_gguf(tmp_path / "large", small_disk / "m.gguf", precision="f32")
    assert not list(small_disk.iterdir())


def iberlm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run([sys.executable, "-m", "iberlm", "export", *arguments], capture_output=True, text=True, check=False, timeout=1800, env=environment)


def test_the_command_line(model: Path, tmp_path: Path) -> None:
    """What a user types: a file, and one line for each mistake."""
    out = tmp_path / "new" / "m.gguf"
    ended = iberlm(str(model), str(out))
    assert ended.returncode == 0, ended.stderr
    assert "21 tensors in bf16, 680 tokens" in ended.stderr
    assert "llama.cpp does not put text into NFC" in ended.stderr
    assert out.read_bytes()[:4] == b"GGUF"
    whole = out.read_bytes()
    for arguments, status, said in (
        ((str(model), str(out)), 2, "exists already; delete it or name another file"),
        ((str(model), str(tmp_path / "m.bin")), 2, "does not end in .gguf"),
        ((str(model), str(model / "config.json" / "m.gguf")), 2, "which is not a folder"),
        ((str(tmp_path / "absent"), str(tmp_path / "m.gguf")), 2, "is not a folder"),
        ((str(model), str(tmp_path / "m.gguf"), "--precision", "q4"), 2, "precision: unknown value 'q4'; choose among f32, f16, bf16, q8_0"),
    ):
        ended = iberlm(*arguments)
        assert ended.returncode == status, ended.stderr
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
    assert out.read_bytes() == whole


def test_the_export_imports_no_torch() -> None:
    program = "import sys, iberlm.export.gguf; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
