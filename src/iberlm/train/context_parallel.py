"""Context parallelism: each rank has a part of every sequence, and in attention a part of the heads of the whole of it.

DeepSpeed-Ulysses (Jacobs et al., 2023, arXiv:2309.14509): around the attention of each layer an all-to-all exchanges "all heads of my tokens" for "my heads
of all tokens" and back. Whatever attention the model has (sdpa, flex, varlen) runs in between unchanged, with its mask for the whole sequence. Exact, the
same on CPU and GPU, and bounded by the number of heads.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from iberlm.core.errors import ConfigError
from iberlm.train.training_model import TrainingModel

PREFIX = "ulysses_"

Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


def share_attention(module: TrainingModel, group: dist.ProcessGroup) -> None:
    """Have the model's own attention work on the whole sequence and a share of the heads. Call it on every rank of `group`.

    Afterwards inputs, positions and targets are this rank's part of the sequence, and attention masks are for the whole: forward needs `whole_positions`.
    `ConfigError` for a model whose attention cannot be exchanged.
    """
    config = module.causal.config
    inner = config._attn_implementation
    if inner not in ALL_ATTENTION_FUNCTIONS:
        raise ConfigError(f"strategy.context: the attention of {type(module.causal).__name__} ({inner}) is part of its own code; choose strategy.context=1")
    name = PREFIX + inner
    AttentionInterface.register(name, _shared(ALL_ATTENTION_FUNCTIONS[inner], group))
    masks = AttentionMaskInterface()
    if inner in masks:
        AttentionMaskInterface.register(name, masks[inner])
    config._attn_implementation = name


def _shared(attention: Attention, group: dist.ProcessGroup) -> Attention:
    ranks = group.size()

    def forward(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **settings: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """query [rows, heads, part, size], key and value [rows, kv_heads, part, size] -> [rows, part, heads, size], as transformers calls it."""
        heads, kv_heads = query.size(1), key.size(1)
        if kv_heads < ranks:  # each head of keys is needed by several ranks
            key, value = (tensor.repeat_interleave(ranks // kv_heads, dim=1) for tensor in (key, value))
            # what attention functions read of the module: how many heads of queries share one of keys is another number now
            module = SimpleNamespace(
                num_key_value_groups=heads // ranks,
                is_causal=getattr(module, "is_causal", True),
                training=module.training,
                layer_idx=getattr(module, "layer_idx", None),
                config=module.config,
            )
        query, key, value = (heads_to_tokens(tensor, group) for tensor in (query, key, value))
        output, weights = attention(module, query, key, value, attention_mask, **settings)
        return tokens_to_heads(output, group), weights

    return forward


def heads_to_tokens(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """All heads of my tokens [rows, heads, part, size] -> my heads of all tokens [rows, heads / ranks, part * ranks, size]."""
    rows, heads, part, size = tensor.shape
    ranks = group.size()
    # first dimension: who gets it; after the exchange: who sent it
    parts = tensor.reshape(rows, ranks, heads // ranks, part, size).transpose(0, 1)
    return _exchange(parts, group).permute(1, 2, 0, 3, 4).reshape(rows, heads // ranks, ranks * part, size)


def tokens_to_heads(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """My heads of all tokens [rows, tokens, heads, size] -> all heads of my tokens [rows, tokens / ranks, heads * ranks, size]."""
    rows, tokens, heads, size = tensor.shape
    ranks = group.size()
    parts = tensor.reshape(rows, ranks, tokens // ranks, heads, size).transpose(0, 1)
    return _exchange(parts, group).permute(1, 2, 0, 3, 4).reshape(rows, tokens // ranks, ranks * heads, size)


def _exchange(parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """All-to-all along the first dimension, which has as many entries as there are ranks. The gradient goes back the same way."""
    # the functional form, which torch.compile can see into
    return all_to_all_single_autograd(parts.contiguous().flatten(), None, None, group).view(parts.shape)
