"""The output layer and its cross-entropy in one, so that the logits of all tokens need not exist at once.

The minimised loss is `scale` times the sum over targets of cross-entropy + z_loss * logsumexp^2 (de Brebisson and Vincent, 2016;
PaLM, Chowdhery et al., 2022, uses 1e-4). Logits are products in the precision of the model; softmax and sums are float32.
"""

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import linear

from iberlm.train.data import IGNORED

CHUNK_BYTES = 1 << 28
"""Logits that exist at once, at most, in the precision of the products."""

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def plain(logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss (float32[], differentiable) and cross-entropy of each token (float32[N], detached; 0 where IGNORED) of logits [N, V] and targets int64[N]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    minimised = losses
    if z_loss:
        minimised = losses + z_loss * torch.where(targets == IGNORED, 0.0, torch.logsumexp(logits, -1).square())
    return minimised.sum() * scale, losses.detach()


def chunked(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: torch.Tensor,
    z_loss: float,
    kernel: "Kernel | None" = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `plain(linear(hidden, weight), ...)`, a chunk of tokens at a time, with the gradients made on the way.

    hidden [N, H], weight [V, H]; products are in autocast's precision where that is on, else in that of `hidden` and `weight`.
    Nothing is computed twice: each chunk's gradient follows its logits at once, and the gradient of `weight` adds up in
    float32. The result can be differentiated once.
    """
    with torch.no_grad():
        scale = scale.to(torch.promote_types(hidden.dtype, torch.float32))
    function: Any = _Chunked
    loss, losses = function.apply(hidden, weight, targets, scale, z_loss, kernel or gradient_kernel, chunk_bytes)
    return loss, losses


@torch.no_grad()
def token_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk_bytes: int = CHUNK_BYTES) -> torch.Tensor:
    """Cross-entropy of each token, float32[N], 0 where IGNORED: for validation."""
    dtype = product_type(hidden, weight)
    losses = torch.empty(targets.shape, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    with _as_written(hidden.device.type):
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        for part in _chunks(len(targets), weight, chunk_bytes):
            logits = linear(hidden[part], weight).to(losses.dtype)
            losses[part] = torch.nn.functional.cross_entropy(logits, targets[part], ignore_index=IGNORED, reduction="none")
    return losses


def product_type(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """The precision of the products of `hidden` and `weight`."""
    kind = hidden.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(hidden.dtype, weight.dtype)


def _as_written(kind: str) -> AbstractContextManager[object]:
    """Products in the types of their factors, whatever autocast would do."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _chunks(tokens: int, weight: torch.Tensor, chunk_bytes: int) -> list[slice]:
    rows = max(1, chunk_bytes // (weight.shape[0] * weight.element_size()))
    count = -(-tokens // rows)
    rows = -(-tokens // count) if count else 1  # of one size, as far as that goes: another size is another kernel to compile
    return [slice(begin, min(begin + rows, tokens)) for begin in range(0, tokens, rows)]


def gradient_kernel(logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of each token and the logarithm of its sum of exponentials, float32[n], and the gradient of the minimised loss, like `logits` [n, V].

    With p = softmax(logits): d loss / d logits = scale * (p * (1 + 2 * z_loss * logsumexp) - onehot(target)), 0 where IGNORED.
    """
    return _with_targets(_softmax_parts, logits, targets, scale, z_loss)


def compiled_kernel() -> Kernel:
    """`gradient_kernel` compiled: it goes over the logits twice and makes no float32 copy of them."""
    parts = torch.compile(_fusible_parts, dynamic=False)
    return lambda logits, targets, scale, z_loss: _with_targets(parts, logits, targets, scale, z_loss)


Parts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def _with_targets(
    parts: Parts, logits: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    counted = targets != IGNORED
    places = targets.clamp(min=0)[:, None]
    factor = torch.where(counted, scale, 0.0)
    chosen = logits.gather(1, places).squeeze(1).to(scale.dtype)
    sums, rise, gradient = parts(logits, factor, chosen, z_loss)
    # in full precision, where p is near 1 and the difference small
    gradient.scatter_(1, places, (torch.exp(chosen - sums) * rise - factor).to(logits.dtype)[:, None])
    return torch.where(counted, sums - chosen, 0.0), sums, gradient


def _softmax_parts(logits: torch.Tensor, factor: torch.Tensor, chosen: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logarithms of the sums of exponentials, what p is multiplied by in the gradient, [n] each, and that product, like `logits`."""
    logarithms = torch.log_softmax(logits, -1, dtype=factor.dtype)
    sums = logits[:, 0].to(factor.dtype) - logarithms[:, 0]
    rise = factor * (1 + 2 * z_loss * sums)
    return sums, rise, logarithms.exp_().mul_(rise[:, None]).to(logits.dtype)


def _fusible_parts(logits: torch.Tensor, factor: torch.Tensor, chosen: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    exact = logits.to(factor.dtype)
    largest = exact.amax(-1)
    exponentials = torch.exp(exact - largest[:, None])
    total = exponentials.sum(-1)
    sums = largest + total.log()
    rise = factor * (1 + 2 * z_loss * sums)
    return sums, rise, (exponentials * (rise / total)[:, None]).to(logits.dtype)


def liger_missing(device: torch.device) -> str:
    """Why Liger's kernel cannot be had here; empty when it can."""
    if device.type != "cuda":
        return "its kernels are for GPUs"
    try:
        version = importlib.metadata.version("liger-kernel")
    except importlib.metadata.PackageNotFoundError:
        return "liger-kernel is not installed (`pip install liger-kernel`)"
    # before, a loss by token had the gradient of the sum only where all tokens weigh the same
    return "" if tuple(int(part) for part in version.split(".")[:2]) >= (0, 8) else f"liger-kernel {version} is too old (0.8)"


def liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, z_loss: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `chunked` by Liger's kernel (Hsu et al., 2024, arXiv:2410.10989). It computes the logits twice when losses are wanted by token, and waits
    for the device to count the targets."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    function = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, lse_square_scale=z_loss, reduction="none", return_z_loss=True, accum_dtype=torch.float32)
    dtype = product_type(hidden, weight)
    found = function(weight.to(dtype), hidden.to(dtype), targets)
    return found.loss.sum() * scale, (found.loss - found.z_loss).detach().float()


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, z_loss: float, kernel: Kernel, chunk_bytes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exact, dtype = scale.dtype, product_type(hidden, weight)
        losses = torch.empty(targets.shape, dtype=exact, device=hidden.device)
        sums = torch.empty_like(losses)
        grad_hidden = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        grad_weight: torch.Tensor | None = None
        with _as_written(hidden.device.type):
            inputs, matrix = hidden.to(dtype), weight.to(dtype)
            for part in _chunks(len(targets), matrix, chunk_bytes):
                logits = linear(inputs[part], matrix)
                losses[part], sums[part], gradient = kernel(logits, targets[part], scale, z_loss)
                del logits
                grad_hidden[part] = gradient @ matrix
                product = gradient.T @ inputs[part]
                grad_weight = product.to(exact) if grad_weight is None else grad_weight.add_(product)
        minimised = losses.sum()
        if z_loss:
            minimised = minimised + z_loss * torch.where(targets == IGNORED, 0.0, sums.square()).sum()
        ctx.gradients = grad_hidden, grad_weight
        ctx.mark_non_differentiable(losses)
        return minimised * scale, losses

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("chunked cross-entropy can be differentiated once: its gradients were made in the forward pass and have been used")
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        return grad_hidden.mul_(upstream[0]), None if grad_weight is None else grad_weight.mul_(upstream[0]), None, None, None, None, None
