"""How large a model is, how much arithmetic a token costs it, and what devices can do at best. Imports nothing heavy.

**Operations a token**, forward and backward: 6 for each weight of a matrix that the token is multiplied by (2 forward, 4 backward), and 12 x layers x heads x
head size x sequence length for scores and weighted sums of attention. The output layer counts, looking up an embedding does not: it multiplies nothing. This
is PaLM's convention (Chowdhery et al., 2022, arXiv:2204.02311, appendix B): attention counts as if each token saw the whole sequence. Causal attention needs
half of that, and document masking less again, so kernels that leave out what is masked can reach a higher MFU than they could otherwise; Megatron-LM and
torchtitan count the same way. Recomputed activations do not count either: MFU is about useful work.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.train.config_groups import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What parameters and operations of a decoder depend on."""

    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    ffn_size: int
    ffn_matrices: int = 3
    """3 with a gate (SwiGLU, GeGLU), else 2."""
    tied: bool = False
    """Input and output embeddings are one matrix."""
    layer_vectors: int = 0
    """Norm weights and biases of one layer."""
    vectors: int = 0
    """Parameters outside the layers that are no token embedding: the last norm, learned positions."""

    @classmethod
    def of(cls, config: ModelConfig, vocabulary_size: int = 0) -> "Shape":
        """The shape of a model recipe; at its nominal vocabulary unless one is given."""
        return cls(
            vocabulary_size=vocabulary_size or config.vocabulary_size,
            hidden_size=config.hidden_size,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_size=config.hidden_size // config.heads,
            ffn_size=config.ffn_size,
            tied=config.tie_embeddings,
            layer_vectors=2 * config.hidden_size,
            vectors=config.hidden_size,
        )

    @classmethod
    def of_huggingface(cls, settings: Mapping[str, Any]) -> "Shape":
        """The shape that a `config.json` of transformers tells. `ConfigError` names the kinds that are known, or the key that is missing."""
        kind = settings.get("model_type")
        if kind not in _KINDS:
            raise ConfigError(f"config.json: model_type {kind!r} is not one whose size is known here: {', '.join(_KINDS)}")
        try:
            return _older(settings, str(kind)) if kind in _OLDER else _llama_like(settings, str(kind))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"config.json: {error} is missing or no number; is the folder a whole {kind} model?") from error


_OLDER = ("bloom", "gpt2", "gpt_neox")
_KINDS = ("llama", "mistral", "qwen2", "qwen3", *_OLDER)


def _llama_like(settings: Mapping[str, Any], kind: str) -> Shape:
    hidden, heads, ffn = (int(settings[key]) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    kv_heads = int(settings.get("num_key_value_heads") or heads)
    head_size = int(settings.get("head_dim") or hidden // heads)
    vectors = 2 * hidden
    if kind == "qwen2" or settings.get("attention_bias"):
        vectors += (heads + 2 * kv_heads) * head_size + (0 if kind == "qwen2" else hidden)
    if settings.get("mlp_bias"):
        vectors += 2 * ffn + hidden
    if kind == "qwen3":
        vectors += 2 * head_size
    return Shape(
        vocabulary_size=int(settings["vocab_size"]),
        hidden_size=hidden,
        layers=int(settings["num_hidden_layers"]),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        ffn_size=ffn,
        tied=bool(settings.get("tie_word_embeddings", False)),
        layer_vectors=vectors,
        vectors=hidden,
    )


def _older(settings: Mapping[str, Any], kind: str) -> Shape:
    """BLOOM, GPT-2 and GPT-NeoX: two matrices in the feed-forward, biases everywhere, LayerNorm with weight and bias."""
    names = {
        "bloom": ("hidden_size", "n_layer", "n_head", ""),
        "gpt2": ("n_embd", "n_layer", "n_head", "n_inner"),
        "gpt_neox": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    }[kind]
    hidden, layers, heads = (int(settings[key]) for key in names[:3])
    ffn = int(settings.get(names[3]) or 4 * hidden)
    outside = {"bloom": 4 * hidden, "gpt2": 2 * hidden + int(settings.get("n_positions", 1024)) * hidden, "gpt_neox": 2 * hidden}[kind]
    return Shape(
        vocabulary_size=int(settings["vocab_size"]),
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        ffn_size=ffn,
        ffn_matrices=2,
        tied=bool(settings.get("tie_word_embeddings", kind != "gpt_neox")),
        layer_vectors=4 * hidden + 4 * hidden + ffn + hidden,  # two norms; biases of attention; of the feed-forward
        vectors=outside,
    )


def layer_matrices(shape: Shape) -> int:
    """Weights in the matrices of one layer."""
    attention = 2 * shape.hidden_size * shape.head_size * (shape.heads + shape.kv_heads)
    return attention + shape.ffn_matrices * shape.hidden_size * shape.ffn_size


def parameters(shape: Shape) -> int:
    """Parameters, tied ones once: exactly what the model has."""
    embeddings = shape.vocabulary_size * shape.hidden_size * (1 if shape.tied else 2)
    return embeddings + shape.layers * (layer_matrices(shape) + shape.layer_vectors) + shape.vectors


def flops_per_token(shape: Shape, sequence_length: int) -> int:
    """Operations of forward and backward pass for one token of training (see the module's text for the formula)."""
    weights = shape.layers * layer_matrices(shape) + shape.vocabulary_size * shape.hidden_size
    return 6 * weights + 12 * shape.layers * shape.heads * shape.head_size * sequence_length


@dataclass(frozen=True)
class Peak:
    """Dense matrix products of one device in TFLOP/s, without sparsity; 0: the device cannot, or it is not stated."""

    pattern: str
    """Of the name that the driver gives, lower case."""
    bf16: float
    fp8: float
    fp32: float
    """As torch multiplies by default: no TF32."""
    source: str


PEAKS = (
    Peak(r"gh200", 989.4, 1978.9, 66.9, "NVIDIA GH200 data sheet"),
    Peak(r"b200|gb200", 2250, 4500, 75, "NVIDIA HGX B200 data sheet, an eighth of the board"),
    Peak(r"h200 nvl", 835.5, 1670.5, 60, "NVIDIA H200 data sheet"),
    Peak(r"h200", 989.4, 1978.9, 66.9, "NVIDIA H200 data sheet"),
    Peak(r"h100.*nvl", 835.5, 1670.5, 60, "NVIDIA H100 data sheet"),
    Peak(r"h100.*pcie", 756.4, 1512.9, 51.2, "NVIDIA H100 data sheet"),
    # MareNostrum 5's has 64 GB of HBM2; its clock under this load is not published, so the SXM figure may be too high for it
    Peak(r"h100", 989.4, 1978.9, 66.9, "NVIDIA H100 data sheet, SXM"),
    # Leonardo's custom A100 has more multiprocessors (Turisini et al., 2023, arXiv:2307.16885)
    Peak(r"a100.*64 ?gb", 358.2, 0, 22.4, "NVIDIA A100 data sheet x 124 / 108 multiprocessors (not verified)"),
    Peak(r"a100", 312, 0, 19.5, "NVIDIA A100 data sheet"),
    Peak(r"mi250x", 191.5, 0, 47.9, "AMD Instinct MI250X data sheet, half of it: a device is one of its two dies"),
    Peak(r"mi300x", 1307.4, 2614.9, 163.4, "AMD Instinct MI300X data sheet"),
    Peak(r"l40s", 362.1, 733, 91.6, "NVIDIA L40S data sheet"),
    Peak(r"rtx 4090", 165.2, 330.3, 82.6, "NVIDIA Ada architecture paper, sums in FP32"),
    Peak(r"rtx 3090", 71.2, 0, 35.6, "NVIDIA GA102 architecture paper, sums in FP32"),
)
"""The more particular first."""


def peak_tflops(device_name: str, precision: str) -> tuple[float, str] | None:
    """Dense peak of a device in TFLOP/s and where it is stated; None for one that is not in the table (every CPU) or cannot multiply in `precision`.

    `device_name` as `torch.cuda.get_device_name` gives it; `precision` fp32, bf16 or fp8.
    """
    peak = next((peak for peak in PEAKS if re.search(peak.pattern, device_name.lower())), None)
    if peak is None:
        return None
    value = {"bf16": peak.bf16, "fp8": peak.fp8, "fp32": peak.fp32}[precision]
    return (value, peak.source) if value else None


def mfu(tokens_per_second: float, shape: Shape, sequence_length: int, devices: int, peak: float) -> float:
    """Model FLOPs utilisation: the share of the devices' peak (`peak` TFLOP/s each) that useful operations take."""
    return tokens_per_second * flops_per_token(shape, sequence_length) / (devices * peak * 1e12)
