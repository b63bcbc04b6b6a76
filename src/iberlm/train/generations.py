"""What the model says in each language: at the end from its folder, and during training from the weights as they are."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from iberlm.core.files import write_json
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import DDP, SINGLE, ZERO1, ZERO2
from iberlm.train.strategy import Parallel

WHOLE = (SINGLE, DDP, ZERO1, ZERO2)
"""Strategies under which every rank has all parameters between steps."""
_MULTIPLE = 16
"""Columns of a live generation are a multiple of this: 8-bit matrix products take no other sizes."""

Logits = Callable[[torch.Tensor], torch.Tensor]
"""int64[rows, columns] token ids on the model's device -> logits [rows, columns, vocabulary]."""


def write_generations(config: PretrainConfig, model_folder: Path, path: Path) -> None:
    """Continuations of the prompts by the saved model: [{language, prompt, text}], the text with its prompt."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(model_folder))
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(str(model_folder))
    write_json(path, [{"language": tag, "prompt": prompt, "text": _continue(model, tokenizer, prompt, config)} for tag, prompt in config.prompts.items()])


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Inside, transformers draws no progress bars."""
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
    longest = model.config.max_position_embeddings
    ids = torch.tensor([_encode(tokenizer, prompt)[: longest - 1]])
    room = min(config.max_new_tokens, longest - ids.shape[1])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    drawn = {"do_sample": True, "temperature": config.temperature, "top_k": 0} if config.temperature > 0 else {"do_sample": False}
    with torch.random.fork_rng():  # generate draws from the global generator
        torch.manual_seed(config.seed)
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, pad_token_id=pad, **drawn)
    return str(tokenizer.decode(made[0], skip_special_tokens=True))


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    # the store's documents begin with BOS; whether the tokenizer adds it by itself is its own affair
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*begin, *tokenizer.encode(prompt, add_special_tokens=False)]


def generate_live(parallel: Parallel, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig) -> list[dict[str, str]]:
    """Continuations of the prompts by the model as it is: [{language, prompt, text}], on every rank. All ranks call this together.

    All prompts are one batch, which goes through the model `max_new_tokens` times, on every rank alike and whatever comes out:
    the time is bounded, no rank waits for another's text, and the host waits for the device once, at the end. No cache of keys
    and values is kept: under fsdp2 and zero3 gathering the weights costs more than computing the few columns again.
    """
    with live_logits(parallel) as logits:
        return continue_prompts(logits, tokenizer, config, parallel.device)


@torch.no_grad()
def continue_prompts(logits: Logits, tokenizer: Any, config: PretrainConfig, device: torch.device) -> list[dict[str, str]]:
    """As `generate_live`, from any causal function of token ids. Prompts are cut so that `max_new_tokens` fit beside them into `sequence_length`."""
    if not config.prompts:
        return []
    new = min(config.max_new_tokens, config.sequence_length - 1)
    prompts = [_encode(tokenizer, prompt)[: config.sequence_length - new] for prompt in config.prompts.values()]
    lengths = [len(ids) for ids in prompts]
    columns = -(-(max(lengths) + new) // _MULTIPLE) * _MULTIPLE
    filler = tokenizer.eos_token_id or 0  # to the right of all that is looked at, so a causal model never sees it
    ids = torch.tensor([row + [filler] * (columns - len(row)) for row in prompts]).to(device)
    place, rows = torch.tensor(lengths).to(device), torch.arange(len(prompts), device=device)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(new):
        scores = logits(ids)[rows, place - 1].float()
        if config.temperature > 0:  # the largest of scores and Gumbel noise is a draw from their softmax
            noise = torch.rand(scores.shape, generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
            scores = scores / config.temperature - (-noise.log()).log().to(device, torch.float32)
        ids[rows, place] = scores.argmax(-1)
        place = place + 1
    made = []
    for (tag, prompt), row, length in zip(config.prompts.items(), ids.tolist(), lengths, strict=True):
        kept = row[length : length + new]
        kept = kept[: kept.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in kept else kept
        made.append({"language": tag, "prompt": prompt, "text": str(tokenizer.decode(row[:length] + kept, skip_special_tokens=True))})
    return made


@contextlib.contextmanager
def live_logits(parallel: Parallel) -> Iterator[Logits]:
    """The model that is being trained as a function of token ids to logits, uncompiled and without gradients.

    All ranks must call it together and with the same shapes: where weights are spread over ranks the call gathers them. It runs
    through the wrapped model, so that the strategy's own hooks do so.
    """
    module = parallel.module

    def logits(ids: torch.Tensor) -> torch.Tensor:
        found = module.causal(input_ids=ids, use_cache=False).logits
        return found.full_tensor() if hasattr(found, "full_tensor") else found  # type: ignore[no-any-return]

    whole = parallel.verified.name in WHOLE
    training = module.training
    # compiled layers would be compiled anew for these shapes, and training might then run another code than before
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        module.eval()
        if not whole:
            module.forward = logits  # type: ignore[assignment, method-assign]
        try:
            yield logits if whole else parallel.model
        finally:
            if not whole:
                del module.forward
            module.train(training)


@contextlib.contextmanager
def hook_model(parallel: Parallel) -> Iterator[Any]:
    """What a hook is given as its model: the Hugging Face model itself where every rank has all of it, else `live_logits`."""
    with live_logits(parallel) as logits:
        yield parallel.module.causal if parallel.verified.name in WHOLE else logits
