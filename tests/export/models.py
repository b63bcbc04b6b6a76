"""Small random Llamas with real tokenizers, as Hugging Face folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def build_model(folder: Path, tokenizer: Path, *, dtype: torch.dtype = torch.float32, shard_size: str = "5GB", **config: Any) -> LlamaForCausalLM:
    """Write a random model with the files of a tokenizer folder beside it; norms are random too, so that none can be forgotten."""
    size = len(json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**({"vocab_size": size} | SIZES | config))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    model = model.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder, max_shard_size=shard_size)
    for pattern in ("tokenizer*", "special_tokens_map.json", "chat_template.jinja"):
        for file in tokenizer.glob(pattern):
            shutil.copy(file, folder / file.name)
    return model


def edit_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; a key whose value is None is removed."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in content.items() if value is not None or key not in values}
    path.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
