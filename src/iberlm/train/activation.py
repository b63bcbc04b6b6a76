"""What is done to each decoder layer before it is sharded: 8-bit products, activation checkpointing, compilation, in this order.

Only `forward` of each layer is replaced, so names in the state dict stay, and the hooks of fully_shard, DeepSpeed and
DistributedDataParallel, which run around `forward`, stay outside what is compiled.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from iberlm.train.config import PretrainConfig
from iberlm.train.hardware import FP8, Choices
from iberlm.train.training_model import TrainingModel, decoder_layers

Forward = Callable[..., Any]


def transform_layers(module: TrainingModel, config: PretrainConfig, choices: Choices) -> None:
    """Change the layers of `module` in place as `config` and `choices` say. Call it once, before the model is sharded or wrapped."""
    for layer in decoder_layers(module.causal):
        if choices.precision == FP8:
            from iberlm.train.fp8 import convert

            convert(layer)
        forward = checkpointed(layer.forward, config.activation_checkpointing)
        if choices.compile:
            forward = torch.compile(forward, dynamic=False)
        if forward is not layer.forward:
            layer.forward = forward


def checkpointed(forward: Forward, kind: str) -> Forward:
    """`forward` with its activations recomputed in the backward pass: kind none (as it is), selective or full.

    selective keeps the results of matrix products and attention, whose computing costs most, and recomputes the rest (Korthikanti et al., 2022);
    full keeps the inputs only (Chen et al., 2016). Gradients are those of `forward`, to the bit.
    """
    if kind == "none":
        return forward
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if kind == "selective":
        settings["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)

    def recomputed(*inputs: Any, **more: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **more)
        return checkpoint(forward, *inputs, **settings, **more)

    return recomputed


def _policy(context: Any, operation: Any, *inputs: Any, **more: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _kept() else CheckpointPolicy.PREFER_RECOMPUTE


@functools.lru_cache(maxsize=1)
def _kept() -> frozenset[Any]:
    aten = torch.ops.aten
    kept: list[Any] = [aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten._scaled_mm.default]
    kept += [
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_attention_math.default,
    ]
    kept.append(torch.ops.higher_order.flex_attention)
    kept.append(torch.ops.iberlm.document_attention.default)
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        importlib.import_module("torch.nn.attention.varlen")  # which registers the operation
        kept.append(torch.ops.torch_attn._varlen_attn.default)
    return frozenset(kept)
