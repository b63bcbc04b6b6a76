"""What computes the answers: a model in this process, or a server.

Requests are answered in slices. What is in a slice follows from the list of requests alone, and every slice that is answered
is noted in a journal: an evaluation that was killed goes on behind the last of them, and batches the rest as it would have
without the kill. Processes that share a task each take every n-th slice, so the answers do not depend on their number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_json
from iberlm.evaluate.store.journal import Journal

SLICE_REQUESTS = 64
"""Requests a slice of a backend that batches by itself."""


@dataclass
class Slices:
    """The journal of one task, and which of its slices this process computes."""

    journal: Journal
    number: int = 0
    of: int = 1
    done: Callable[[int], None] = lambda _: None
    """Called with the number of requests that were computed."""
    computes: bool = True
    """Whether this process can compute; else all must be in the journal."""
    random_seed: int = 0
    counted: int = 0
    seed: int = 0
    """Of the slice that is computed: follows from `random_seed` and the slice."""
    computed: int = 0
    """Requests that this process answered itself."""
    _known: dict[str, list[Any]] | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)

    def take(self, identity: Any, requests: int, compute: Callable[[], list[Any]]) -> list[Any]:
        """The answers of the next slice: from the journal, or computed and noted; empty where another process computes them."""
        if self._known is None:
            self._known = self.journal.read()
        mine = self.counted % self.of == self.number
        self.counted += 1
        content = sha256_json(identity)
        occurrence = self._occurrences.get(content, 0)  # sampled answers to one prompt are slices of their own
        self._occurrences[content] = occurrence + 1
        name = sha256_json([content, occurrence])
        if name in self._known:
            return self._known[name]
        if not mine:
            return []
        if not self.computes:
            raise ResourceError(
                "answers are missing in the journal: a process that shared the items ended early, or another evaluation came between; run it again"
            )
        self.seed = int(sha256_json([self.random_seed, name])[:15], 16)
        answers = compute()
        self.journal.note(name, answers)
        self.computed += requests
        self.done(requests)
        return answers


@dataclass(kw_only=True)
class Backend:
    """An open backend. `lm` is a model of lm-eval's."""

    name: str
    """transformers, vllm or openai."""
    lm: Any
    model: str
    """Key of the model: what answers belong to."""
    dtype: str
    device: str
    software: dict[str, str] = field(default_factory=dict)
    context_tokens: int | None = None
    slice_requests: int = SLICE_REQUESTS

    def answer(self, request_type: str, requests: Sequence[Any], slices: Slices) -> list[Any]:
        """Answers to lm-eval's requests of one type, in their order; fewer where other processes compute slices of them.

        Raises `DataError` for a log-likelihood that is not a number.
        """
        answers: list[Any] = []
        for start in range(0, len(requests), self.slice_requests):
            part = list(requests[start : start + self.slice_requests])
            identity = [request_type, [plain(request.args) for request in part]]

            def compute(part: list[Any] = part) -> list[Any]:
                found = [plain(answer) for answer in getattr(self.lm, request_type)(part)]
                return [require_finite(answer, request.args) for answer, request in zip(found, part, strict=True)]

            answers += slices.take(identity, len(part), compute)
        return answers

    def truncated(self) -> set[tuple[str, ...]]:
        """Of the last call's requests those that were longer than the context, as `texts_of` them; empty where the backend does not tell."""
        return set()


def texts_of(arguments: Sequence[Any]) -> tuple[str, ...]:
    """A request's texts: context and continuation, or what an answer is generated to."""
    return tuple(argument for argument in arguments if isinstance(argument, str))


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    return value


def require_finite(answer: Any, arguments: Sequence[Any]) -> Any:
    """The answer; raises `DataError` for a log-likelihood that is not a number."""
    value = answer[0] if isinstance(answer, list | tuple) else answer
    if isinstance(value, float) and not math.isfinite(value):
        text = " ".join(str(arguments[0]).split())[-60:] or " ".join(str(arguments[-1]).split())[:60]
        raise DataError(
            f"log-likelihood {value} on '{text}': the model's weights are damaged or overflow in this type of number; look at the training's "
            "loss, or try dtype=float32"
        )
    return answer


def open_backend(config: Any, *, weights: bool = True) -> Backend:
    """Open the backend that `config.backend` names. Without `weights` a model in this process has its shapes only, and can answer from the journal."""
    kind = config.backend.kind
    if kind == "transformers":
        from iberlm.evaluate.backends.transformers import open_backend as opened

        return opened(config, weights=weights)
    if config.processes != 1:
        mend = "give backend.tensor_parallel the number of GPUs" if kind == "vllm" else "a server shares the work by itself"
        raise ConfigError(f"processes: {config.processes} with backend.kind={kind}; {mend}, and leave processes=1")
    if kind == "vllm":
        from iberlm.evaluate.backends import vllm

        return vllm.open_backend(config)
    from iberlm.evaluate.backends import openai

    return openai.open_backend(config)
