"""How a prompt becomes tokens where lm-eval's HFLM does not do it: exactly as there, but for the one token that such an engine must generate.

vLLM and servers score a prompt only while they generate at least one token behind it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_json
from iberlm.evaluate.backends import texts_of


class Prompts:
    """Tokens, windows of documents, and what does not fit. Mixed into lm-eval's models before their own class."""

    tokenizer: Any
    max_length: int
    """Tokens of the longest prompt that is scored: one less than the context has."""
    cut: set[tuple[str, ...]]
    """Requests of the last call that were longer than the context."""

    def tok_encode(self, string: Any, left_truncate_len: int | None = None, add_special_tokens: bool | None = None, truncation: bool = False, **_: Any) -> Any:
        """As lm-eval's HFLM: the tokenizer decides about BOS, unless the text has it already, or is scored from its first token on."""
        if not isinstance(string, str):
            return [self.tok_encode(text, left_truncate_len, add_special_tokens, truncation) for text in string]
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):  # type: ignore[attr-defined]
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **given))[-(left_truncate_len or 0) :]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """As lm-eval's, but with the windows of all documents at once: one after the other the engine would mostly wait."""
        # the rolling likelihood puts BOS before the text itself
        documents = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
        return window_sums(documents, self.prefix_token_id, self.max_length - 1, self._loglikelihood_tokens)  # type: ignore[attr-defined]

    def _loglikelihood_tokens(self, requests: Sequence[Any], **options: Any) -> list[tuple[float, bool]]:
        for text, _, continuation in requests:
            if len(continuation) >= self.max_length:
                raise DataError(f"an answer of {len(continuation)} tokens does not fit the context of {self.max_length + 1}: '{str(text)[:60]}'")
        return self.score_tokens(requests)

    def score_tokens(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood and greediness of each continuation, of prompts cut at their left to `max_length`: lm-eval's own where it has one."""
        return list(super()._loglikelihood_tokens(requests))  # type: ignore[misc]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As lm-eval's HFLM: without the system's words where the template refuses them."""
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, **options))
        except jinja2.exceptions.TemplateError:
            return str(self.tokenizer.apply_chat_template([entry for entry in chat_history if entry["role"] != "system"], **options))

    def look_for_cuts(self, request_type: str, requests: Sequence[Any]) -> None:
        """Note the prompts that will be cut short. Raises `ConfigError` for answers that leave no room for a prompt."""
        for request in requests:
            if request_type == "generate_until":
                tokens, most = len(self.tok_encode(request.args[0])), self.room(generation_settings(request.args[1])["max_gen_toks"])
            elif request_type == "loglikelihood" and request.args[0]:
                context, continuation = self._encode_pair(*request.args)  # type: ignore[attr-defined]
                tokens, most = len(context) + len(continuation), self.max_length
            else:
                continue
            if tokens > most:
                self.cut.add(texts_of(request.args))

    @property
    def longest(self) -> int:
        """Tokens that a prompt and its answer may have."""
        return self.max_length

    def room(self, limit: int) -> int:
        """Tokens of the longest prompt to which an answer of `limit` tokens fits. Raises `ConfigError` where there is none."""
        if limit >= self.longest:
            raise ConfigError(f"the task asks for answers of {limit} tokens, and the model's context has {self.max_length + 1}; leave the task out")
        return self.longest - limit


def window_sums(documents: Sequence[list[int]], prefix: int, size: int, score: Callable[[list[Any]], Sequence[tuple[float, bool]]]) -> list[float]:
    """Log-likelihood of each document of tokens: its windows of at most `size` tokens as lm-eval cuts them, those of all documents scored at once."""
    owners: list[int] = []
    windows: list[Any] = []
    for number, tokens in enumerate(documents):
        rolling = get_rolling_token_windows(token_list=tokens, prefix_token=prefix, max_seq_len=size, context_len=1)
        for context, continuation in map(make_disjoint_window, rolling):
            owners.append(number)
            windows.append((None, context, continuation))
    totals = [0.0] * len(documents)
    for number, (value, _) in zip(owners, score(windows), strict=True):
        totals[number] += value
    return totals


ANSWER_TOKENS = 256
"""Longest answer of a task that does not say: lm-eval's."""


def generation_settings(asked: dict[str, Any]) -> dict[str, Any]:
    """A task's `generation_kwargs` under lm-eval's first name of each. Raises `ConfigError` for a search with beams, which only transformers has."""
    found = dict(normalize_gen_kwargs(asked, ANSWER_TOKENS))
    if int(found.pop("num_beams", 1) or 1) > 1:
        raise ConfigError("the task asks for a search with beams (num_beams); use backend.kind=transformers, or leave the task out")
    return found


def sampling_seeds(seed: int, prompts: Sequence[Any]) -> list[int]:
    """A seed for each prompt of a slice, of 31 bits: the same in every run, and another for every copy of a prompt."""
    copies: dict[str, int] = {}
    found = []
    for prompt in prompts:
        content = sha256_json(prompt)
        copies[content] = copies.get(content, 0) + 1
        found.append(int(sha256_json([seed, content, copies[content]])[:8], 16) >> 1)
    return found
