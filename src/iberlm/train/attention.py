"""Attention that stays inside documents: one function for Hugging Face models, for which the kind of mask decides the kernel.

A row holds parts of several documents; `positions` begin again at 0 with each. The mask is made on the device, once a micro
batch for all layers, without asking the host, and handed to the model as its 4-D `attention_mask`, which transformers passes
on as it is. Our function has a name of its own so that transformers makes no mask and looks for no packed sequences itself:
that would read from the device in every forward pass.
"""

import importlib.util
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from iberlm.core.errors import ResourceError
from iberlm.train.document_attention import document_attention

IMPLEMENTATION = "iberlm"
"""The name under which transformers knows `attend`."""
EAGER = "eager"
"""transformers' own, for models whose attention no kernel computes (soft-capped scores, sinks)."""
SDPA, FLEX, VARLEN = "sdpa", "flex", "varlen"
VARLEN_MAX_HEAD = 256
"""Longest head that torch's FlashAttention takes."""

Attended = tuple[torch.Tensor, torch.Tensor | None]
_flex: Callable[..., Attended] = flex_attention_forward
_sdpa: Callable[..., Attended] = sdpa_attention_forward

Mask = torch.Tensor | BlockMask | None


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> Attended:
    """Causal attention in the interface of transformers: query [rows, heads, S, head], key and value [rows, kv heads, S, head].

    `attention_mask`: None is causal over the row; a bool tensor goes to torch's scaled_dot_product_attention; a `BlockMask` to
    FlexAttention; an int32 tensor holds the documents' first tokens for variable-length FlashAttention.
    """
    if isinstance(attention_mask, BlockMask):
        return _flex(module, query, key, value, attention_mask, scaling=scaling, **more)
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        return _varlen(query, key, value, attention_mask.flatten(), dropout, scaling, more.get("sliding_window")), None
    return _sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more)


AttentionInterface.register(IMPLEMENTATION, attend)


def documents(positions: torch.Tensor) -> torch.Tensor:
    """The number of each token's document in its row, int64[rows, S], from positions int64[rows, S]. A row's first token begins one."""
    return (positions == 0).cumsum(-1)


def dense_mask(positions: torch.Tensor) -> torch.Tensor:
    """bool[rows, 1, S, S]: whether a token (third dimension) may see another (fourth): one of the same document, not a later one."""
    numbers, columns = documents(positions), torch.arange(positions.shape[-1], device=positions.device)
    return ((numbers[:, :, None] == numbers[:, None, :]) & (columns[:, None] >= columns))[:, None]


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What eager attention adds to its scores: 0 where a token may see another, the lowest number of `dtype` elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


def block_mask(positions: torch.Tensor) -> BlockMask:
    """The mask of FlexAttention for positions int64[rows, S]: blocks without an allowed pair are never computed."""
    numbers = documents(positions)

    def visible(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (numbers[row, query] == numbers[row, key])

    rows, length = positions.shape
    return _block_mask_maker()(visible, rows, None, length, length, device=positions.device)


@lru_cache(maxsize=1)
def _block_mask_maker() -> Callable[..., BlockMask]:
    # as it comes it writes out the whole mask, rows x S x S, before it looks at blocks
    maker: Callable[..., BlockMask] = torch.compile(create_block_mask, dynamic=False)
    return maker


def kind_for(model: type[PreTrainedModel], shape: PreTrainedConfig, asked: str) -> tuple[str, str]:
    """The kind of attention that a model can have, and why when it is not what was asked for."""
    if getattr(shape, "attn_logit_softcapping", None):
        return EAGER, "its attention scores are soft-capped, which no kernel here does"
    if not model._supports_sdpa:
        return EAGER, "transformers has no fused attention for it"
    return asked, ""


def window(shape: PreTrainedConfig) -> int | None:
    """Tokens that a token sees at most, in some layers at least; None where all layers see all tokens before."""
    size: int | None = getattr(shape, "sliding_window", None)
    layers = getattr(shape, "layer_types", None)
    if size is None or getattr(shape, "use_sliding_window", True) is False or (layers is not None and "sliding_attention" not in layers):
        return None
    return size


def cumulative_lengths(positions: torch.Tensor, limit: int = 0) -> torch.Tensor:
    """First tokens of the documents of all rows laid end to end, then the number of tokens again and again: int32[1, 1, 1, n + 1].

    The shape must not depend on the data, or the host would have to wait for the device: n is `limit`, which the caller knows
    to be at least the number of documents, or else the number of tokens. Sequences of length 0 fill it up; each costs the
    kernel a little, so a limit is worth giving.
    """
    starts = positions == 0
    starts[:, 0] = True
    flat = starts.flatten()
    tokens = flat.numel()
    count = min(limit, tokens) or tokens
    # document d begins at the token where the running count becomes d; tokens that begin none write into the last place
    places = torch.where(flat, flat.cumsum(0) - 1, count).clamp_(max=count)
    firsts = torch.full((count + 1,), tokens, dtype=torch.int64, device=positions.device)
    firsts.scatter_(0, places, torch.arange(tokens, device=positions.device))
    firsts[count] = tokens
    return firsts.to(torch.int32)[None, None, None]


def documents_limit(positions: torch.Tensor) -> int:
    """A `limit` for `cumulative_lengths` from positions on the host, int[micro steps, rows, S]: the most documents of a micro step, rounded up to a
    power of two, so that few shapes come up to compile for."""
    starts = positions == 0
    starts[..., 0] = True
    most = int(starts.flatten(-2).sum(-1).max())
    return max(64, 1 << (most - 1).bit_length())


def varlen_missing(head_size: int, device: torch.device) -> str:
    """Why variable-length attention cannot be had here; empty when it can."""
    if device.type == "cpu":
        return ""
    if device.type != "cuda":
        return f"variable-length attention is for CPUs and GPUs, and this is {device.type}"
    if not importlib.util.find_spec("torch.nn.attention.varlen"):
        return f"torch {torch.__version__} has no torch.nn.attention.varlen (2.10 has)"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "variable-length attention needs compute capability 8.0"
    if head_size > VARLEN_MAX_HEAD or head_size % 8:
        return f"heads of {head_size} dimensions: FlashAttention takes multiples of 8 up to {VARLEN_MAX_HEAD}"
    return ""


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, dropout: float, scaling: float | None, window: int | None
) -> torch.Tensor:
    """[rows, S, heads, size], each document alone."""
    if dropout:
        raise ResourceError(f"attention=varlen: this model drops attention weights ({dropout:g}), which variable-length attention cannot; set attention=sdpa")
    rows, heads, length, size = query.shape
    kind = query.device.type
    # rotary positions leave queries and keys in float32 under autocast, which knows torch's own attention but not these
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if query.device.type == "cpu":
        if heads != key.shape[1]:
            key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
        found, _ = document_attention(query, key, value, starts, size**-0.5 if scaling is None else scaling)
        return cast(torch.Tensor, found.transpose(1, 2))
    from torch.nn.attention.varlen import varlen_attn

    settings: dict[str, Any] = {"scale": scaling} if "scale" in _varlen_settings() else {}
    if not settings and scaling is not None and scaling != size**-0.5:
        query = query * (scaling * size**0.5)  # torch 2.10 divides by the root of the head's size, whatever the model says
    if heads != key.shape[1]:
        if "enable_gqa" in _varlen_settings():
            settings["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(heads // key.shape[1], dim=1) for x in (key, value))
    if "window_size" in _varlen_settings():
        settings["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        settings["is_causal"] = True
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    attend_documents: Any = varlen_attn
    output: torch.Tensor = attend_documents(*flat, starts, starts, length, length, **settings)
    return output.view(rows, length, heads, -1)


@lru_cache(maxsize=1)
def _varlen_settings() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.10 has is_causal; 2.11 has window_size instead; enable_gqa came later still
    return frozenset(inspect.signature(varlen_attn).parameters)
