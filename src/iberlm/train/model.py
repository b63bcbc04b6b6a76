"""The model: a plain Hugging Face causal model, built without weights and filled afterwards. It knows no parallelism."""

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from iberlm.core.errors import DataError
from iberlm.train.config_groups import ModelConfig
from iberlm.train.initial import load_weights
from iberlm.train.optimizer import initial_std

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def llama_config(config: ModelConfig, vocabulary_size: int, *, bos: int | None = None, eos: int | None = None, pad: int | None = None) -> LlamaConfig:
    """The Hugging Face configuration of a model recipe. `bos`, `eos` and `pad` are ids of the tokenizer."""
    return LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.norm_eps,
        initializer_range=config.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        attn_implementation="sdpa",
    )


def build(config: ModelConfig, vocabulary_size: int, *, bos: int | None = None, eos: int | None = None, pad: int | None = None) -> LlamaForCausalLM:
    """The model on the meta device: shapes without memory, in float32. `materialise` gives it weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(llama_config(config, vocabulary_size, bos=bos, eos=eos, pad=pad))


def parameter_count(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def materialise(model: nn.Module, device: torch.device, seed: int, initial_model: str = "", reference_hidden_size: int = 0) -> None:
    """Give a meta model (a `TrainingModel` or the causal model alone, sharded by `fully_shard` or whole) memory on `device`, and weights.

    With `initial_model`, those of the Hugging Face folder (see `initial.load_weights`). Else matrices are normal with the
    configuration's `initializer_range` (less in wide layers under the width rule, see `optimizer.initial_std`) and norms 1, as in
    Hugging Face's Llama; each parameter has a generator of its own,
    seeded by (seed, its Hugging Face name): the weights are the same whichever way the model is sharded, and a rank never holds
    more than one whole parameter beside its shards.
    """
    causal: PreTrainedModel = getattr(model, "causal", model)
    model.to_empty(device=device)
    causal.tie_weights()
    _compute_buffers(causal)
    if initial_model:
        load_weights(causal, initial_model)
        return
    for name, parameter in causal.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        size = initial_std(name, causal.config.initializer_range, causal.config.hidden_size, reference_hidden_size)
        whole = torch.empty(parameter.shape).normal_(0.0, size, generator=generator)
        if isinstance(parameter, DTensor):
            # every rank has made the same values: no broadcast
            parameter.copy_(distribute_tensor(whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None))
        else:
            parameter.copy_(whole)


def _compute_buffers(causal: PreTrainedModel) -> None:
    """Fill the buffers that no file holds (frequencies of rotary positions): `to_empty` left them undefined."""
    for name, module in causal.named_modules():
        computed = [key for key in module._non_persistent_buffers_set if module._buffers[key] is not None]
        for key in computed:
            buffer = module._buffers[key]
            assert buffer is not None
            buffer.fill_(float("nan") if buffer.is_floating_point() else 0)
        if computed:
            causal._init_weights(module)
        for key in computed:
            buffer = module._buffers[key]
            assert buffer is not None
            if not bool(torch.isfinite(buffer).all()):
                raise DataError(f"initial_model: {type(causal).__name__} does not say how to compute its buffer {name}.{key}; choose another architecture")
