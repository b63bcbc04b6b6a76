"""Any server with OpenAI's interface, by lm-eval's models for it.

lm-eval makes the requests and reads the answers. Here is what it lacks: a token sequence exactly as the backend of transformers would
give it, answers that are checked (a server that ignores `echo` gives every choice the log-likelihood 0), and a refusal that says what
is wrong instead of being tried again.
"""

import asyncio
import copy
import importlib.metadata
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.models.utils import chunks, postprocess_generated_text
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from iberlm.core.errors import ConfigError, DataError, IberlmError, ResourceError
from iberlm.core.needs import local_folder
from iberlm.evaluate.backends import Backend, Slices
from iberlm.evaluate.backends.config import BackendConfig
from iberlm.evaluate.backends.prompts import Prompts, generation_settings, sampling_seeds
from iberlm.evaluate.backends.server import ask_server, headers, refusal
from iberlm.evaluate.config import EvaluateConfig

STOPS = 4
"""Stop strings that OpenAI's interface takes."""
_HARNESS_LOG = "lm_eval.models.api_models"
_PROBE = "Egun on! ¿Qué tal?"
_ECHO = -1
"""In place of the number of context tokens: what comes back is the echo."""


class PassingError(Exception):
    """What may be gone at the next attempt: the network, a timeout, a server that is overloaded or starts. Holds what the user is told."""

    def __init__(self, meaning: Exception) -> None:
        super().__init__(str(meaning))
        self.meaning = meaning


class _Server:
    """What both endpoints share: the requests, their attempts, and what is done with answers. Mixed into lm-eval's models."""

    server: BackendConfig
    slices: Slices
    """Whose `seed` sampled answers follow."""
    cut: set[tuple[str, ...]]
    """Requests of the last call that were longer than the context."""

    async def get_batched_requests(
        self,
        requests: list[Any],
        cache_keys: list[Any],
        *,
        generate: bool = True,
        ctxlens: list[int] | None = None,
        gen_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Send requests, a few at a time. The first one that fails for good ends the others."""
        lengths: Sequence[Any] = ctxlens or [None] * len(requests)
        settings: list[Any] = [gen_kwargs] * len(requests)
        if gen_kwargs and gen_kwargs.get("do_sample"):
            # with one seed for all, a server gives the same answer to every copy of a prompt
            settings = [gen_kwargs | {"seed": seed} for seed in sampling_seeds(self.slices.seed, requests)]
        timeout = aiohttp.ClientTimeout(total=self.server.timeout_seconds)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=self._refuse, trust_env=False) as session:
            limit = asyncio.Semaphore(self.server.concurrent_requests)
            ask = retry(
                stop=stop_after_attempt(self.server.attempts),
                wait=wait_exponential(multiplier=0.1, max=30),
                retry=retry_if_exception_type(PassingError),
                reraise=True,
            )(self._ask)
            parts = zip(chunks(requests, n=1), chunks(cache_keys, n=1), chunks(lengths, n=1), settings, strict=True)
            tasks = [
                asyncio.create_task(
                    ask(session=session, sem=limit, messages=request, cache_keys=key, generate=generate, ctxlens=length, gen_kwargs=asked, **options)
                )
                for request, key, length, asked in parts
            ]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, **request: Any) -> Any:
        try:
            return await self.amodel_call(**request)  # type: ignore[attr-defined]
        except TimeoutError:
            raise PassingError(ResourceError(f"{self.server.url} did not answer within {self.server.timeout_seconds:g} s (backend.timeout_seconds)")) from None
        except aiohttp.ContentTypeError:
            raise DataError(f"{self.server.url}: the answer is not JSON; is this the address of the interface?") from None
        except aiohttp.ClientError as error:
            # by its kind: the text of some of these has the headers, and so the key
            kind = type(error).__name__
            raise PassingError(ResourceError(f"{self.server.url} is gone ({kind}); start it again. The same command goes on from what is answered")) from None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{self.server.url}: the answer has another form than OpenAI's ({type(error).__name__}: {error})") from error

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        if response.ok:
            return
        meaning = refusal(self.server, response.status, await response.text(errors="replace"))
        raise PassingError(meaning) if isinstance(meaning, ResourceError) else meaning

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts, ended before their stop strings, also where the server takes fewer of these than a task has."""
        found = super().generate_until([_settled(request) for request in requests], disable_tqdm)  # type: ignore[misc]
        return [postprocess_generated_text(text, request.args[1].get("until"), None) for text, request in zip(found, requests, strict=True)]

    def look_for_cuts(self, request_type: str, requests: Sequence[Any]) -> None:
        """Note prompts that will be cut short. Without a tokenizer only the server knows."""

    def _create_payload(self, messages: Any, generate: bool = False, gen_kwargs: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        if generate and gen_kwargs and gen_kwargs.get("do_sample") and "temperature" not in gen_kwargs:
            gen_kwargs = gen_kwargs | {"temperature": 1.0}  # lm-eval would drop do_sample and send 0
        found: dict[str, Any] = super()._create_payload(messages, generate=generate, gen_kwargs=gen_kwargs, **options)  # type: ignore[misc]
        if found.get("stop"):
            found["stop"] = [stop for stop in found["stop"] if stop][:STOPS]  # more, or an empty one, is refused; answers are ended at all of them here
        return found


def _settled(request: Any) -> Any:
    """The request with the settings of its answer under one name each: lm-eval's models of servers know `max_gen_toks` only, and pass the rest on."""
    prompt, asked = request.args
    found = copy.copy(request)
    found.arguments = (prompt, generation_settings(asked))
    return found


class Completions(Prompts, _Server, LocalCompletionsAPI):  # type: ignore[misc]
    """`URL/completions`. With a tokenizer prompts are sent as tokens, and log-likelihoods are those of exactly these."""

    probed = False

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._probe()
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        self._probe()
        return super().loglikelihood_rolling(requests)

    def look_for_cuts(self, request_type: str, requests: Sequence[Any]) -> None:
        """Without a tokenizer only the server knows."""
        if self.tokenized_requests:
            super().look_for_cuts(request_type, requests)

    def _probe(self) -> None:
        """Refuse a server whose log-likelihoods are no use, before anything is scored with them. Raises `ConfigError` or `DataError`."""
        if self.probed:
            return
        if self.tokenizer is None:
            raise ConfigError("backend.tokenizer: must be given for tasks that need log-likelihoods: the folder of the tokenizer of the server's model")
        tokens = self.tok_encode(_PROBE, add_special_tokens=False)
        try:
            ((echo,),) = asyncio.run(self.get_batched_requests([tokens], [None], generate=False, ctxlens=[_ECHO]))
        except DataError as error:
            raise ConfigError(f"backend: the server gives no log-likelihoods of prompts, which this task needs: {error}") from error
        if not echo.strip().startswith(self.tokenizer.decode(tokens).strip()):
            raise ConfigError(
                f"backend.tokenizer: its tokens for '{_PROBE}' are '{echo[:60]}' to the server: it is not the tokenizer of the model '{self.model}'"
            )
        self.probed = True

    @staticmethod
    def parse_logprobs(outputs: Any, tokens: Any = None, ctxlens: Any = None, **_: Any) -> list[Any]:
        """Log-likelihood and greediness of what comes after `ctxlens` tokens of each prompt; for `_ECHO` the echo."""
        found: list[Any] = []
        for output in outputs if isinstance(outputs, list) else [outputs]:
            choices = sorted(output["choices"], key=lambda choice: int(choice["index"]))
            for choice, prompt, known in zip(choices, tokens, ctxlens, strict=True):
                logs, tops = _prompt_logs(choice, output.get("usage") or {}, len(prompt))
                greedy = all(log == max(top.values()) for log, top in zip(logs[known:], tops[known:], strict=True))
                found.append(choice["text"] if known == _ECHO else (sum(logs[known:]), greedy))
        return found


def _prompt_logs(choice: dict[str, Any], usage: dict[str, Any], count: int) -> tuple[list[float], list[dict[str, float]]]:
    """Log-probabilities and best alternatives of the prompt's tokens. Raises `DataError` where the server left them out.

    Some servers also return the one token that they were made to generate, others do not when it ends the text.
    """
    logs = (choice.get("logprobs") or {}).get("token_logprobs")
    tops = (choice.get("logprobs") or {}).get("top_logprobs")
    if not logs or not tops:
        raise DataError("it returns no logprobs for the completions endpoint")
    if len(logs) not in (count, count + 1) or len(tops) != len(logs):
        raise DataError(f"asked to echo a prompt of {count} tokens, it returns log-probabilities of {len(logs)}; it ignores 'echo', or adds tokens of its own")
    if usage.get("prompt_tokens", count) != count:
        raise DataError(f"it makes {usage['prompt_tokens']} tokens of a prompt of {count}")
    if any(log is None for log in logs[1:count]) or any(not top for top in tops[1:count]):
        raise DataError("it echoes the prompt without its log-probabilities")
    return logs[:count], tops[:count]


class Chat(_Server, LocalChatCompletion):  # type: ignore[misc]
    """`URL/chat/completions`: the server renders the conversation, and gives texts only."""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: the text that stands for the prompt."""
        return json.dumps(chat_history, ensure_ascii=False)

    def create_message(self, messages: list[str], generate: bool = False) -> list[dict[str, str]]:
        """The conversation again."""
        return list(json.loads(messages[0]))

    def loglikelihood(self, requests: Any, **_: Any) -> Any:
        raise ConfigError("backend.endpoint: the task needs log-likelihoods, which the chat endpoint does not give; use backend.endpoint=completions")

    loglikelihood_rolling = loglikelihood


@dataclass(kw_only=True)
class ServerBackend(Backend):
    """A model behind a server."""

    def answer(self, request_type: str, requests: Sequence[Any], slices: Slices) -> list[Any]:
        self.lm.slices, self.lm.cut = slices, set()
        try:
            with _silent():
                self.lm.look_for_cuts(request_type, requests)  # of all, also of those that the journal answers
                return super().answer(request_type, requests, slices)
        except PassingError as error:
            raise error.meaning from None

    def truncated(self) -> set[tuple[str, ...]]:
        return set(self.lm.cut)


@contextmanager
def _silent() -> Iterator[None]:
    """Without lm-eval's log of failed requests: it prints the headers, with the key."""
    logger = logging.getLogger(_HARNESS_LOG)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def open_backend(config: EvaluateConfig) -> ServerBackend:
    """Ask the server who it is. Raises what `ask_server` raises, and `ConfigError` for settings that do not fit it."""
    server = config.backend
    found = ask_server(server, config.cluster)
    if config.chat_template and server.endpoint == "completions" and not server.tokenizer:
        raise ConfigError("chat_template: needs backend.tokenizer, whose template is applied, or backend.endpoint=chat, where the server applies its own")
    if server.endpoint == "chat" and not config.chat_template:
        raise ConfigError(
            "backend.endpoint: 'chat' puts every prompt into the server's chat template; say chat_template=true, or use backend.endpoint=completions"
        )
    if found.context_tokens is None and server.tokenizer:
        raise ConfigError(f"backend.context_tokens: must be given, since {server.url} does not say how many tokens its context has")
    packages = ["lm_eval", "transformers"] if server.tokenizer else ["lm_eval"]
    return ServerBackend(
        name="openai",
        lm=_open_model(config, found.context_tokens),
        model=found.model,
        dtype="unknown",
        device="server",
        software={package: importlib.metadata.version(package) for package in packages} | {"server": found.program},
        context_tokens=found.context_tokens,
    )


def _open_model(config: EvaluateConfig, context_tokens: int | None) -> Any:
    server = config.backend
    folder = str(local_folder(server.tokenizer, config.cluster)) if server.tokenizer else None
    chat = server.endpoint == "chat"
    kind = Chat if chat else Completions
    tokens = folder is not None and not chat
    try:
        with _silent():
            lm = kind(
                model=server.model,
                base_url=f"{server.url.rstrip('/')}/{'chat/' if chat else ''}completions",
                tokenizer_backend="huggingface" if tokens else None,
                tokenizer=folder if tokens else None,
                tokenized_requests=tokens,
                num_concurrent=2,  # more than one, so that all goes through get_batched_requests, which has the limit itself
                max_length=context_tokens or 0,
                trust_remote_code=False,
                seed=config.seed,
                header=headers(server) or {"Accept": "application/json"},
            )
    except IberlmError:
        raise
    except Exception as error:  # damaged tokenizers raise as many kinds of errors as there are formats
        raise DataError(f"backend.tokenizer: {folder} cannot be loaded ({type(error).__name__}: {error})") from error
    if tokens and config.chat_template and not lm.tokenizer.chat_template:
        raise ConfigError(f"chat_template: the tokenizer of {Path(folder or '')} has none; use chat_template=false for a base model")
    lm.server, lm.cut = server, set()
    lm.add_bos_token = None  # tok_encode leaves it to the tokenizer
    return lm
