"""The model: a plain `LlamaForCausalLM`, built without weights and filled afterwards. It knows no parallelism."""

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from iberlm.train.config import ModelConfig

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
def materialise(model: LlamaForCausalLM, device: torch.device, seed: int) -> None:
    """Give a meta model (sharded by `fully_shard` or whole) memory on `device` and its initial weights.

    Matrices are normal with the configuration's `initializer_range`, norms 1, as in Hugging Face's Llama. Each parameter
    has a generator of its own, seeded by (seed, name): the weights are the same whichever way the model is sharded, and
    a rank never holds more than one whole parameter beside its shards.
    """
    model.to_empty(device=device)
    model.tie_weights()
    # its frequencies are computed, not stored, so `to_empty` left them undefined
    model.model.rotary_emb = LlamaRotaryEmbedding(config=model.config).to(device)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        whole = torch.empty(parameter.shape).normal_(0.0, model.config.initializer_range, generator=generator)
        if isinstance(parameter, DTensor):
            # every rank has made the same values: no broadcast
            parameter.copy_(distribute_tensor(whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None))
        else:
            parameter.copy_(whole)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups for AdamW: matrices, and what decay spares (norms, and embeddings, which a step touches only in part)."""
    spared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        (rest if parameter.dim() == 1 or id(parameter) in spared else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
