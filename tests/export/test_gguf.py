"""Weights and settings in the GGUF file: llama.cpp computes what transformers computes; what cannot be exported is named."""

import json
import shutil
import struct
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from iberlm.core.config import StageConfig
from iberlm.core.errors import CorruptError
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.export.check import WrittenTensor, check_file
from iberlm.export.gguf import export_gguf
from iberlm.export.llama import Tensor, interleave
from iberlm.export.weights import read_weights
from tests.export.llama_cpp import LlamaCpp
from tests.export.models import build_model, edit_json

PROMPT = [1, *range(300, 420, 3)]
ORDINARY = 300
"""Any token that is no special one and no single byte."""

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    **{f"rope {name}": {"rope_parameters": parameters} for name, parameters in ROPES.items()},
    "tied": {"tie_word_embeddings": True},
    "wide heads": {"head_dim": 32},
    "all heads": {"num_key_value_heads": 4},
    "large eps": {"rms_norm_eps": 0.5},
    "more rows than tokens": {"vocab_size": 700},
}


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)


def greatest_difference(model: torch.nn.Module, llama: LlamaCpp) -> float:
    expected = log_probabilities(model, PROMPT)
    found = llama.log_probabilities(PROMPT, 100, whole=ORDINARY)
    assert len(found) == 100
    return max(abs(float(expected[index]) - value) for index, value in found.items())


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_what_transformers_computes(shape: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = build_model(tmp_path / "model", tokenizers["bpe"], **SHAPES[shape])
    export_gguf(tmp_path / "model", tmp_path / "m.gguf", precision="f32")
    llama = LlamaCpp(tmp_path / "m.gguf")
    assert greatest_difference(model, llama) < 1e-4
    ids = torch.tensor([PROMPT])
    never = list(range(ORDINARY))  # the end, and bytes: half a character cannot be an answer of the server
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, eos_token_id=None, suppress_tokens=never)
    assert llama.generate(PROMPT, 20, never=never) == made[0, len(PROMPT) :].tolist()


def test_rope_in_the_words_of_older_transformers(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = build_model(tmp_path / "model", tokenizers["bpe"], rope_parameters=ROPES["linear"])
    edit_json(tmp_path / "model" / "config.json", rope_parameters=None, rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0})
    export_gguf(tmp_path / "model", tmp_path / "m.gguf", precision="f32")
    assert greatest_difference(model, LlamaCpp(tmp_path / "m.gguf")) < 1e-4


@pytest.mark.parametrize(("precision", "limit"), [("f16", 0.02), ("bf16", 0.2), ("q8_0", 0.5)])
def test_smaller_types_stay_near(precision: str, limit: float, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = build_model(tmp_path / "model", tokenizers["bpe"])
    export_gguf(tmp_path / "model", tmp_path / "m.gguf", precision=precision)
    assert greatest_difference(model, LlamaCpp(tmp_path / "m.gguf")) < limit
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert {kind for name, kind in kinds.items() if not name.endswith("norm.weight")} == {precision}
    assert {kind for name, kind in kinds.items() if name.endswith("norm.weight")} == {"f32"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "q8_0"])
def test_every_type_is_converted_as_torch_and_ggml_do(dtype: torch.dtype, precision: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    build_model(tmp_path / "model", tokenizers["bpe"], dtype=dtype)
    export_gguf(tmp_path / "model", tmp_path / "m.gguf", precision=precision)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert len(tensors) == len(weights)
    for name, stored in (("model.embed_tokens.weight", "token_embd.weight"), ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight")):
        source, data = weights[name].float(), tensors[stored].data
        if precision == "q8_0":
            expected = gguf.quantize(source.numpy(), gguf.GGMLQuantizationType.Q8_0)
        elif precision == "bf16":
            expected = source.bfloat16().view(torch.uint8).numpy()
        else:
            expected = source.numpy().astype({"f32": np.float32, "f16": np.float16}[precision])
        assert np.array_equal(data, expected)
    assert np.array_equal(tensors["blk.0.ffn_norm.weight"].data, weights["model.layers.0.post_attention_layernorm.weight"].float().numpy())


@given(heads=st.integers(1, 4), half=st.integers(1, 8), width=st.integers(1, 3))
def test_rows_of_queries_and_keys_are_interleaved_by_head(heads: int, half: int, width: int) -> None:
    rows = np.arange(heads * 2 * half * width, dtype=np.float32).reshape(-1, width)
    moved = interleave(rows, 2 * half)
    for head in range(heads):
        for index in range(half):
            start = head * 2 * half
            assert np.array_equal(moved[start + 2 * index], rows[start + index])
            assert np.array_equal(moved[start + 2 * index + 1], rows[start + half + index])


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000])
def test_blocks_of_rows_make_up_the_tensor(saved: Path, rows: int) -> None:
    expected = load_file(saved / "model.safetensors")
    for name, weight in read_weights(saved).items():
        blocks = list(weight.blocks(rows))
        assert max(len(block) for block in blocks) <= rows
        assert np.array_equal(np.concatenate(blocks), expected[name].numpy())


def test_memory_is_that_of_a_block_however_large_the_tensor(tmp_path: Path) -> None:
    """A quarter of a gigabyte of zeros, which take no room on the disk, is read with a tenth of that."""
    shape = (1 << 16, 1 << 10)
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * prod(shape)]}
    header = json.dumps({"large": entry}).encode()
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 4 * prod(shape))
    tensor = Tensor("large", read_weights(tmp_path)["large"], heads=256)
    tracemalloc.start()
    rows = sum(len(block) for block in tensor.blocks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == shape[0]
    assert peak < 26 << 20


def test_shards_and_one_file_give_the_same_bytes(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    for name, size in (("one", "5GB"), ("many", "50KB")):
        build_model(tmp_path / name, tokenizers["bpe"], shard_size=size)
        (tmp_path / f"{name}-out").mkdir()
        export_gguf(tmp_path / name, tmp_path / f"{name}-out" / "m.gguf", precision="f16")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert (tmp_path / "one-out" / "m.gguf").read_bytes() == (tmp_path / "many-out" / "m.gguf").read_bytes()
    next((tmp_path / "many").glob("model-00001-of-*")).unlink()
    with pytest.raises(CorruptError, match=r"is missing, though model\.safetensors\.index\.json names it"):
        export_gguf(tmp_path / "many", tmp_path / "n.gguf", precision="f16")


def _trained(folder: Path, saved: Path) -> Manifest:
    """A stage that made the model, with the manifest that a stage writes."""

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        shutil.copytree(saved, out / "model")
        record.output_tree(out / "model")
        record.metrics = {"mixture": {"gl": 0.5, "eu": 0.5}}
        record.cards["tales"] = "CC-BY-4.0"

    return run_stage("pretrain", 1, body, StageConfig(), [], folder)


def test_lineage_is_that_of_the_manifest(saved: Path, tmp_path: Path) -> None:
    manifest = _trained(tmp_path / "pretrain", saved)
    (tmp_path / "pretrain" / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n", encoding="utf-8")
    export_gguf(tmp_path / "pretrain" / "model", tmp_path / "fala-1b.gguf", precision="bf16")
    fields = gguf.GGUFReader(tmp_path / "fala-1b.gguf").fields
    expected = {
        "general.name": "fala-1b",
        "general.license": "apache-2.0",
        "general.languages": ["eu", "gl"],
        "general.dataset.0.name": "tales",
        "iberlm.data_licences": ["tales: CC-BY-4.0"],
        "iberlm.stage": "pretrain",
        "iberlm.content_hash": manifest.content_hash,
        "iberlm.code_version": manifest.code_version,
        "llama.context_length": 256,
    }
    assert {key: fields[key].contents() for key in expected} == expected


def test_lineage_is_left_out_when_the_files_are_no_longer_those_of_the_run(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _trained(tmp_path / "pretrain", saved)
    edit_json(tmp_path / "pretrain" / "model" / "generation_config.json", temperature=0.5)
    export_gguf(tmp_path / "pretrain" / "model", tmp_path / "m.gguf", precision="bf16")
    assert "iberlm.content_hash" not in gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert "without lineage: generation_config.json is not the file that manifest.json lists" in capsys.readouterr().err
    (tmp_path / "pretrain" / "manifest.json").write_text("{}", encoding="utf-8")
    export_gguf(tmp_path / "pretrain" / "model", tmp_path / "n.gguf", precision="bf16")
    assert "not a manifest" in capsys.readouterr().err


CARDS = {
    "": None,
    "no front matter": None,
    "---\n: [\n---\n": None,
    "---\n- a\n---\n": None,
    "---\nlanguage: eu\n---\n": ["eu"],
    "---\nlanguage: [ca, es]\nlicense: mit\n---\ntext": ["ca", "es"],
}


@pytest.mark.parametrize("card", CARDS)
def test_model_cards_of_any_form(card: str, model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text(card, encoding="utf-8")
    export_gguf(model, tmp_path / "m.gguf", precision="bf16")
    field = gguf.GGUFReader(tmp_path / "m.gguf").get_field("general.languages")
    assert (field.contents() if field else None) == CARDS[card]


def _written(path: Path) -> tuple[dict[str, list[Any]], dict[str, WrittenTensor]]:
    """Write a small file; what `check_file` should find in it."""
    values = np.arange(64, dtype=np.float32).reshape(4, 16)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["un", "dos"])
    writer.add_tensor("token_embd.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    digest = xxhash.xxh3_128_hexdigest(values.tobytes())
    return {"tokenizer.ggml.tokens": ["un", "dos"]}, {"token_embd.weight": ((4, 16), gguf.GGMLQuantizationType.F32, digest)}


def test_a_file_that_is_not_what_was_written_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    arrays, tensors = _written(path)
    check_file(path, arrays, tensors)
    whole = path.read_bytes()
    for damaged, said in (
        (whole[:-1] + b"\xff", "tensor 'token_embd.weight'"),
        (whole.replace(b"dos", b"das"), "tokenizer.ggml.tokens"),
        (whole.replace(b"token_embd.weight", b"token_embd.height"), "1 tensors where 1 were"),
        (whole[:100], "cannot be read back"),
        (b"", "cannot be read back"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=said):
            check_file(path, arrays, tensors)
    path.write_bytes(whole)
    with pytest.raises(CorruptError, match="1 tensors where 2 were written"):
        check_file(path, arrays, tensors | {"output.weight": tensors["token_embd.weight"]})
