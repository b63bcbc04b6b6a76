"""The end of a run: a Hugging Face folder from the trained weights, and what the model says in each language."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, fsync, write_json
from iberlm.train.config import PretrainConfig
from iberlm.train.model import DTYPES
from iberlm.train.strategy import Parallel

MODEL, GENERATIONS = "model", "generations.json"


def whole_state(parallel: Parallel) -> dict[str, torch.Tensor]:
    """The model's weights, whole and on the CPU, on the first rank (empty on the others). All ranks call this."""
    if parallel.engine is not None:  # ZeRO-2 splits optimiser and gradients, every rank has all weights
        return {name: tensor.detach().cpu() for name, tensor in parallel.module.causal.state_dict().items()} if parallel.rank == 0 else {}
    state: dict[str, Any] = get_model_state_dict(parallel.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix("causal."): tensor for name, tensor in state.items()} if parallel.rank == 0 else {}


def save_model(state: dict[str, torch.Tensor], empty: LlamaForCausalLM, tokenizer_folder: Path, path: Path, precision: str) -> None:
    """Publish a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: weights, configuration, tokenizer.

    `empty` is a meta model of the same shape: it only gives its configuration and the names that are tied.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    with disk_errors(path), _no_bars():
        shutil.rmtree(temporary, ignore_errors=True)
        empty.load_state_dict({name: tensor.to(DTYPES[precision]) for name, tensor in state.items()}, assign=True)
        empty.tie_weights()
        empty.config.dtype = DTYPES[precision]
        empty.save_pretrained(temporary)
        for file in sorted(tokenizer_folder.iterdir()):
            if file.is_file():
                shutil.copy2(file, temporary / file.name)
        for file in temporary.iterdir():
            fsync(file)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        fsync(path.parent)


def write_generations(config: PretrainConfig, model_folder: Path, path: Path) -> None:
    """Greedy continuations of the prompts by the saved model: [{language, prompt, text}], the text with its prompt."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(model_folder))
    with _no_bars():
        model = AutoModelForCausalLM.from_pretrained(str(model_folder))
    generations = [{"language": tag, "prompt": prompt, "text": _continue(model, tokenizer, prompt, config)} for tag, prompt in config.prompts.items()]
    write_json(path, generations)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    # transformers draws progress bars into log files
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@torch.no_grad()
def _continue(model: Any, tokenizer: Any, prompt: str, config: PretrainConfig) -> str:
    # the store's documents begin with BOS; whether the tokenizer adds it by itself is its own affair
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    ids = torch.tensor([[tokenizer.bos_token_id, *ids][: config.model.max_position_embeddings - 1]])
    room = min(config.max_new_tokens, config.model.max_position_embeddings - ids.shape[1])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    drawn = {"do_sample": True, "temperature": config.temperature, "top_k": 0} if config.temperature > 0 else {"do_sample": False}
    with torch.random.fork_rng():  # generate draws from the global generator
        torch.manual_seed(config.seed)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, pad_token_id=pad, **drawn)
    return str(tokenizer.decode(made[0], skip_special_tokens=True))
