import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iberlm.train import cross_entropy
from iberlm.train.cross_entropy import chunked, compiled_kernel, gradient_kernel, plain, product_type, token_losses
from iberlm.train.data import IGNORED

TOKENS, WIDTH, VOCABULARY = 50, 24, 37


def problem(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head, targets with some IGNORED, and a scale."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets[[0, 7, 8, TOKENS - 1]] = IGNORED
    return hidden, weight, targets, torch.tensor(1 / 46)


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, tensors))


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 7, 25, 1000])
def test_chunked_is_plain_to_the_last_digits(rows: int, z_loss: float) -> None:
    hidden, weight, targets, scale = problem(torch.float64)
    expected, expected_losses = plain(hidden @ weight.T, targets, scale.double(), z_loss)
    found, losses = chunked(hidden, weight, targets, scale, z_loss, chunk_bytes=rows * VOCABULARY * 8)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, targets, scale = problem(torch.float64)

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return chunked(hidden, weight, targets, scale, 0.1, chunk_bytes=20 * VOCABULARY * 8)[0]

    found = gradients(loss(hidden, weight), hidden, weight)
    for seed in range(5):
        along, step = problem(torch.float64, seed=seed + 1)[:2], 1e-5
        with torch.no_grad():
            ahead, behind = (loss(*(at + sign * step * way for at, way in zip((hidden, weight), along, strict=True))) for sign in (1, -1))
        slope = sum((grad * way).sum() for grad, way in zip(found, along, strict=True))
        torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-7, atol=1e-9)


def test_the_compiled_kernel_is_the_other_one() -> None:
    hidden, weight, targets, scale = problem(torch.float32)
    compiled = compiled_kernel()
    for z_loss in (0.0, 0.3):
        logits = (30 * hidden @ weight.T).detach()
        for ours, theirs in zip(compiled(logits, targets, scale, z_loss), gradient_kernel(logits, targets, scale, z_loss), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_bf16_keeps_sums_in_float32() -> None:
    hidden, weight, targets, scale = problem(torch.float32)
    exact, _ = plain(hidden @ weight.T, targets, scale, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_type(hidden, weight) == torch.bfloat16
        reference, _ = plain(hidden @ weight.T, targets, scale, 0.0)
        found, losses = chunked(hidden, weight, targets, scale, 0.0, chunk_bytes=5 * VOCABULARY * 2)
    assert losses.dtype == torch.float32
    wanted, grad = gradients(exact, hidden, weight), gradients(found, hidden, weight)
    assert [entry.dtype for entry in grad] == [torch.float32, torch.float32]
    theirs = gradients(reference, hidden, weight)
    assert abs(found.item() - exact.item()) < 0.02
    for ours, other, true in zip(grad, theirs, wanted, strict=True):
        # ten chunks must cost no precision: the error is that of bf16 products, as without chunks
        assert (ours - true).norm() <= 1.5 * (other - true).norm()


def test_of_bf16_tensors_the_gradients_are_bf16() -> None:
    hidden, weight, targets, scale = problem(torch.bfloat16)
    loss, _ = chunked(hidden, weight, targets, scale, 0.0)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    assert loss.dtype == torch.float32


def test_what_comes_after_the_loss_multiplies_its_gradients() -> None:
    hidden, weight, targets, scale = problem(torch.float64)
    once = gradients(chunked(hidden, weight, targets, scale, 0.1)[0], hidden, weight)
    thrice = gradients(3 * chunked(hidden, weight, targets, scale, 0.1)[0], hidden, weight)
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * one, three)


def test_it_can_be_differentiated_once() -> None:
    hidden, weight, targets, scale = problem(torch.float32)
    loss, _ = chunked(hidden, weight, targets, scale, 0.0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        loss.backward()


def test_tied_embeddings_get_both_gradients() -> None:
    hidden, weight, targets, scale = problem(torch.float64)
    places = targets.clamp(min=0)

    def loss(function: Callable[..., tuple[torch.Tensor, torch.Tensor]], head: Callable[[torch.Tensor], tuple[Any, ...]]) -> list[torch.Tensor]:
        return gradients(function(*head(torch.nn.functional.embedding(places, weight) + hidden), targets, scale.double(), 0.0)[0], weight)

    for ours, theirs in zip(loss(chunked, lambda inside: (inside, weight)), loss(plain, lambda inside: (inside @ weight.T,)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_targets_that_are_all_ignored_give_nothing() -> None:
    hidden, weight, targets, scale = problem(torch.float32)
    loss, losses = chunked(hidden, weight, torch.full_like(targets, IGNORED), scale, 0.1)
    assert loss.item() == 0
    assert not losses.any()
    assert not any(entry.any() for entry in gradients(loss, hidden, weight))


def test_token_losses_are_those_of_plain() -> None:
    hidden, weight, targets, scale = problem(torch.float32)
    found = token_losses(hidden, weight, targets, chunk_bytes=3 * VOCABULARY * 4)
    torch.testing.assert_close(found, plain(hidden @ weight.T, targets, scale, 0.0)[1])
    assert not found.requires_grad
    assert (found[targets == IGNORED] == 0).all()


def test_a_uniform_distribution_costs_the_logarithm_of_the_vocabulary() -> None:
    loss, losses = chunked(torch.zeros(4, 8, requires_grad=True), torch.zeros(16, 8, requires_grad=True), torch.tensor([0, 1, 2, 15]), torch.tensor(0.25), 0.5)
    assert losses.tolist() == pytest.approx([math.log(16)] * 4)
    assert loss.item() == pytest.approx(math.log(16) + 0.5 * math.log(16) ** 2)


class Peak(TorchDispatchMode):
    """The size of the largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = operation(*arguments, **(keywords or {}))
        for entry in result if isinstance(result, tuple | list) else [result]:
            if isinstance(entry, torch.Tensor):
                self.elements = max(self.elements, entry.numel())
        return result


def test_the_logits_of_all_tokens_never_exist() -> None:
    hidden, weight = torch.randn(1024, 16, requires_grad=True), torch.randn(512, 16, requires_grad=True)
    targets, scale = torch.randint(0, 512, (1024,)), torch.tensor(1 / 1024)
    peaks = []
    for function in (lambda: plain(hidden @ weight.T, targets, scale, 0.0), lambda: chunked(hidden, weight, targets, scale, 0.0, chunk_bytes=64 * 512 * 4)):
        with Peak() as peak:
            function()[0].backward()
        peaks.append(peak.elements)
    assert peaks == [1024 * 512, 64 * 512]


def test_chunks_are_of_one_size_as_far_as_that_goes() -> None:
    weight = torch.empty(10, 4)
    sizes = [part.stop - part.start for part in cross_entropy._chunks(100, weight, 10 * 4 * 30)]
    assert sizes == [25, 25, 25, 25]
    assert cross_entropy._chunks(0, weight, 1000) == []
