"""Conversations as tokens: the chat template, its control tokens, and which tokens are answers."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken
from transformers import AutoTokenizer

from iberlm.core.errors import ConfigError, DataError
from iberlm.finetune.data import Message

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
"""The control tokens of `chat_template.jinja`."""

_PROBE: list[Message] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


@dataclass(frozen=True)
class Encoded:
    """One conversation: its ids and, for each, whether it is part of an answer (int32[n], bool[n])."""

    ids: npt.NDArray[np.int32]
    answer: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chat:
    """What `prepare` made of a tokenizer: ids of control tokens, and what had to be changed."""

    control: list[int]
    """Ids that frame turns; pretraining has not seen them."""
    stop: list[int]
    """Ids that end an answer: the end of the text and the end of a turn."""
    added: list[str]
    """Tokens that the tokenizer did not have."""
    changed: str
    """What was changed, in words; empty when the tokenizer had all that is needed."""


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, from its own files alone. Raises `DataError` when there is none that can be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: no tokenizer can be loaded from it ({str(error).splitlines()[0]})") from error
    if not tokenizer.is_fast:
        raise DataError(f"{folder}: its tokenizer has no tokenizer.json; answers can only be told from questions with one that has")
    return tokenizer


def prepare(tokenizer: Any) -> Chat:
    """See that the tokenizer has a chat template that marks answers together with the token that ends them.

    A template that does not is replaced by ours, whose tokens are added when absent. Raises `ConfigError` when even ours does not work.
    """
    added: list[str] = []
    changed = ""
    end = end_of_turn(tokenizer)
    if end is None:
        changed = "it had no chat template" if not tokenizer.chat_template else "its chat template does not mark answers up to the token that ends them"
        vocabulary = tokenizer.get_vocab()
        added = [token for token in (TURN_START, TURN_END) if token not in vocabulary]
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (TURN_START, TURN_END)], special_tokens=True)
        tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
        end = end_of_turn(tokenizer)
    if end is None:
        raise ConfigError("base: no chat template works with this tokenizer: the tokens of an answer cannot be told; use a tokenizer that keeps offsets")
    stop = list(dict.fromkeys(token for token in (tokenizer.eos_token_id, end) if token is not None))
    special = special_ids(tokenizer)
    used = dict.fromkeys(int(token) for token in encode(tokenizer, _PROBE).ids if int(token) in special)
    control = [token for token in used if token not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
    return Chat(control, stop, added, changed)


def end_of_turn(tokenizer: Any) -> int | None:
    """Id of the special token that ends an answer and is marked as part of it; None when the template does not do so."""
    if not isinstance(tokenizer.chat_template, str) or "generation" not in tokenizer.chat_template:
        return None
    try:
        probe = encode(tokenizer, _PROBE)
    except (jinja2.TemplateError, TypeError, ValueError):
        return None
    marked = probe.ids[probe.answer]
    if not len(marked) or int(marked[-1]) not in special_ids(tokenizer):
        return None
    return int(marked[-1])


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, those that carry no name (bos, eos, ...) too."""
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def special_spellings(tokenizer: Any) -> list[str]:
    """Special tokens as text. In the content of a message they would be read as control tokens."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def encode(tokenizer: Any, messages: list[Message]) -> Encoded:
    """A conversation through the chat template, answers marked."""
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    return Encoded(np.asarray(encoded["input_ids"], np.int32), np.asarray(encoded["assistant_masks"], np.bool_))


def encode_prompt(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Ids of messages and of the opening of an answer: what the model sees when it is asked."""
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    return [int(token) for token in encoded["input_ids"]]


def expected_answer_text(tokenizer: Any, messages: list[Message], end: int) -> str:
    """What the answer tokens of a conversation must decode to: each answer and the token that ends it."""
    closing = tokenizer.convert_ids_to_tokens(end)
    return comparable("".join(message["content"] + closing for message in messages if message["role"] == "assistant"))


def comparable(text: str) -> str:
    """A text without spaces and in NFKC: tokenizers may normalise it so, and that is no fault of the marking."""
    return "".join(unicodedata.normalize("NFKC", text).split())
