"""A Llama of Hugging Face in the terms of llama.cpp: settings, names and shapes of tensors, the order of rows of queries and keys."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.export.weights import Computed, Weight

ARCHITECTURE = "LlamaForCausalLM"
_OTHER_CONVERTER = "llama.cpp's own convert_hf_to_gguf.py knows many others"
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base, and how it is stretched (`kind` is default, linear or llama3)."""

    theta: float
    kind: str
    settings: dict[str, float]

    def factors(self, head_dimension: int) -> npt.NDArray[np.float32] | None:
        """With llama3, what each frequency is divided by, float32[head_dimension / 2]: llama.cpp reads it as a tensor.

        Wavelengths below original / high_freq_factor stay, those above original / low_freq_factor are stretched by `factor`, between
        them the inverse is interpolated, as `rope_type: llama3` of Hugging Face has it.
        """
        if self.kind != "llama3":
            return None
        wavelength = 2 * math.pi * self.theta ** (np.arange(0, head_dimension, 2, dtype=np.float64) / head_dimension)
        original, factor = self.settings["original_max_position_embeddings"], self.settings["factor"]
        low, high = self.settings["low_freq_factor"], self.settings["high_freq_factor"]
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


@dataclass(frozen=True)
class LlamaSettings:
    """What config.json says of a Llama, checked."""

    vocabulary_size: int
    hidden_size: int
    ffn_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dimension: int
    context_length: int
    norm_eps: float
    tied: bool
    rope: Rope


@dataclass(frozen=True)
class Tensor:
    """One tensor of the GGUF file: the weight that it is made from, and heads whose rows are reordered (0: none)."""

    name: str
    weight: Weight | Computed
    heads: int = 0

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Rows in llama.cpp's order, about 4 MiB at a time."""
        step = self.weight.shape[0] // self.heads if self.heads else 1
        rows = max(1, _BLOCK_BYTES // (4 * step * math.prod(self.weight.shape[1:]))) * step
        for block in self.weight.blocks(rows):
            yield interleave(block, step) if self.heads else block


def interleave(rows: npt.NDArray[np.float32], head_dimension: int) -> npt.NDArray[np.float32]:
    """Rows of whole heads with the two halves of each head interleaved; float32[n x head_dimension, width].

    Hugging Face rotates row i of a head with row i + head_dimension / 2, llama.cpp's Llama row 2i with row 2i + 1.
    """
    return rows.reshape(-1, 2, head_dimension // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def read_settings(config: dict[str, Any], where: str) -> LlamaSettings:
    """Settings of a `config.json`. Raises `ConfigError` for another architecture and for what llama.cpp's Llama does not do."""
    names = config.get("architectures") or [f"model_type {config.get('model_type', 'not given')}"]
    if names != [ARCHITECTURE]:
        raise ConfigError(f"{where}: the architecture is {', '.join(map(str, names))}; the export knows {ARCHITECTURE} only, and {_OTHER_CONVERTER}")
    expected = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ConfigError(f"{where}: {key} is {config[key]}; the export knows {value} only, and {_OTHER_CONVERTER}")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        settings = LlamaSettings(
            vocabulary_size=int(config["vocab_size"]),
            hidden_size=hidden,
            ffn_size=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dimension=int(config.get("head_dim") or hidden // heads),
            context_length=int(config["max_position_embeddings"]),
            norm_eps=float(config["rms_norm_eps"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope=_rope(config, where),
        )
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise CorruptError(f"{where}: not the configuration of a Llama ({type(error).__name__}: {error})") from error
    if settings.head_dimension % 2 or settings.heads % settings.kv_heads:
        raise CorruptError(f"{where}: {settings.heads} heads of {settings.head_dimension} with {settings.kv_heads} for keys and values make no Llama")
    return settings


def _rope(config: dict[str, Any], where: str) -> Rope:
    # transformers 5 writes rope_parameters; before, rope_theta stood alone and rope_scaling held the rest
    stated = {"rope_theta": config.get("rope_theta", 10_000.0), **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = str(stated.get("rope_type") or stated.get("type") or "default")
    needed = {
        "default": [],
        "linear": ["factor"],
        "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
    }
    if kind not in needed:
        raise ConfigError(f"{where}: rope_type is '{kind}'; the export knows {', '.join(needed)}, and {_OTHER_CONVERTER}")
    if stated.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(f"{where}: partial_rotary_factor is {stated['partial_rotary_factor']}; the export knows 1 only, and {_OTHER_CONVERTER}")
    return Rope(float(stated["rope_theta"]), kind, {key: float(stated[key]) for key in needed[kind]})


def plan_tensors(settings: LlamaSettings, weights: dict[str, Weight], where: str) -> list[Tensor]:
    """The tensors of the GGUF file in the order of the layers.

    With tied embeddings the output matrix is left out: llama.cpp then takes the embeddings. Raises `CorruptError` for a
    tensor that is missing, left over or of another shape than the settings say.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings.layers)
    expected = dict(_shapes(settings))
    ignored = {name for name in weights if name.endswith(".rotary_emb.inv_freq")}  # older transformers saved these computed values
    if settings.tied:
        ignored.add("lm_head.weight")
    if surplus := sorted(set(weights) - set(expected) - ignored):
        raise CorruptError(f"{where}: tensor '{surplus[0]}' has no place in a Llama with these settings; are weights and config.json of one model?")
    factors = settings.rope.factors(settings.head_dimension)
    tensors = [] if factors is None else [Tensor("rope_freqs.weight", Computed("rope_freqs", factors))]
    for name, shape in expected.items():
        if name not in weights:
            raise CorruptError(f"{where}: tensor '{name}' is missing; are weights and config.json of one model?")
        if weights[name].shape != shape:
            raise CorruptError(f"{where}: tensor '{name}' has the shape {weights[name].shape} where config.json says {shape}")
        heads = settings.heads if name.endswith("q_proj.weight") else settings.kv_heads if name.endswith("k_proj.weight") else 0
        tensors.append(Tensor(names.get_name(name, try_suffixes=(".weight",)), weights[name], heads))
    return tensors


def _shapes(settings: LlamaSettings) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a `LlamaForCausalLM`."""
    hidden, ffn = settings.hidden_size, settings.ffn_size
    queries, keys = settings.heads * settings.head_dimension, settings.kv_heads * settings.head_dimension
    yield "model.embed_tokens.weight", (settings.vocabulary_size, hidden)
    for layer in range(settings.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (ffn, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (ffn, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not settings.tied:
        yield "lm_head.weight", (settings.vocabulary_size, hidden)
