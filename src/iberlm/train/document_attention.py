"""Attention of each document alone on a CPU: torch's own kernel, called for one document after the other.

With a mask the kernel computes all pairs of a row and throws most of them away; here it sees only pairs of one document. One
operation to torch.compile and to activation checkpointing, whatever the documents are.
"""

import itertools
from typing import Any

import torch

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("iberlm::document_attention", mutates_args=())
def document_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, firsts: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention inside documents: query, key, value [rows, heads, S, size], `firsts` as `attention.cumulative_lengths` makes them.

    Returns the output [rows, heads, S, size] and the logarithms of the sums of exponentials, float32[rows, heads, S].
    """
    output = _like(query)
    sums = torch.empty(query.shape[0], query.shape[2], query.shape[1], dtype=torch.float32).transpose(1, 2)
    for part in _parts(firsts, query.shape[2]):
        output[part], sums[part] = _forward(query[part], key[part], value[part], 0.0, True, scale=scale)
    return output, sums


@torch.library.custom_op("iberlm::document_attention_backward", mutates_args=())
def document_attention_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    firsts: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value."""
    gradients = _like(query), _like(key), _like(value)
    for part in _parts(firsts, query.shape[2]):
        found = _backward(gradient[part], query[part], key[part], value[part], output[part], sums[part], 0.0, True, scale=scale)
        for whole, piece in zip(gradients, found, strict=True):
            whole[part] = piece
    return gradients


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Room for what is laid out as a linear layer gives and takes it: [rows, S, heads, size], seen as [rows, heads, S, size]."""
    rows, heads, length, size = tensor.shape
    return torch.empty(rows, length, heads, size, dtype=tensor.dtype, device=tensor.device).transpose(1, 2)


def _parts(firsts: torch.Tensor, length: int) -> list[tuple[slice, slice, slice]]:
    """Row, heads and tokens of each document."""
    marks = sorted(set(firsts.tolist()))
    return [
        (slice(begin // length, begin // length + 1), slice(None), slice(begin % length, begin % length + end - begin))
        for begin, end in itertools.pairwise(marks)
    ]


@document_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, firsts: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    return _like(query), torch.empty(query.shape[0], query.shape[2], query.shape[1], dtype=torch.float32, device=query.device).transpose(1, 2)


@document_attention_backward.register_fake
def _(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    firsts: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _like(query), _like(key), _like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, firsts, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, firsts)


def _gradients(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    query, key, value, output, sums, firsts = ctx.saved_tensors
    return (*document_attention_backward(gradient, query, key, value, output, sums, firsts, ctx.scale), None, None)


document_attention.register_autograd(_gradients, setup_context=_keep)
