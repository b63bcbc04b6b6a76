"""llama.cpp itself, as the xllamacpp wheel has it: a server in this process, on a loopback port that it chooses."""

import json
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import xllamacpp


class LlamaCpp:
    """One loaded GGUF file."""

    def __init__(self, path: Path) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 256
        parameters.n_parallel = 1
        parameters.n_threads_http = 2
        parameters.cpuparams.n_threads = 1
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # by default half precision
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.verbosity = 0
        parameters.warmup = False
        self._server = xllamacpp.Server(parameters)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)

    def encode(self, text: str, *, framed: bool = False, parse_special: bool = False) -> list[int]:
        """Ids of a text; `framed` with BOS and EOS as the file says, `parse_special` reads special tokens in the text as such."""
        return list(self._post("/tokenize", {"content": text, "add_special": framed, "parse_special": parse_special})["tokens"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._post("/detokenize", {"tokens": list(ids)})["content"])

    def generate(self, prompt: Sequence[int], tokens: int, *, never: Iterable[int]) -> list[int]:
        """Greedy continuation: ids, those in `never` left out."""
        bias = [[index, False] for index in never]
        body = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "return_tokens": True, "cache_prompt": False, "logit_bias": bias}
        return list(self._post("/completion", body)["tokens"])

    def log_probabilities(self, prompt: Sequence[int], best: int, *, whole: int) -> dict[int, float]:
        """Natural log probabilities of the `best` likeliest next tokens.

        `whole` is any token that is whole UTF-8: it is made the answer, because half a character would not be reported. The
        numbers are those before that.
        """
        body = {"prompt": list(prompt), "n_predict": 1, "temperature": 0, "n_probs": best, "cache_prompt": False, "logit_bias": [[whole, 1e6]]}
        (first,) = self._post("/completion", body)["completion_probabilities"]
        return {entry["id"]: entry["logprob"] for entry in first["top_logprobs"]}

    def render(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the stored chat template makes, without the BOS that tokenizing puts before it."""
        return str(self._post("/apply-template", {"messages": messages})["prompt"])

    def prompt_tokens(self, messages: list[dict[str, str]], *, whole: int) -> int:
        """How many tokens a conversation is before the answer; for `whole` see `log_probabilities`."""
        body = {"messages": messages, "max_tokens": 1, "temperature": 0, "logit_bias": [[whole, 1e6]]}
        return int(self._post("/v1/chat/completions", body)["usage"]["prompt_tokens"])
