"""The model that lm-eval talks to: it answers from the store and the journal what is answered there, and asks the backend the rest."""

from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import LM

from iberlm.core.files import sha256_json
from iberlm.evaluate.backends import Backend, Slices, plain, texts_of


class StoredLM(LM):  # type: ignore[misc]
    """One task's requests.

    `stored` has the responses of items by prompt hash: JSON values, a request each. After the requests were asked, `prompt_hashes`
    has the hash of every item, and `truncated` those of the items asked anew of which a request was longer than the context.
    """

    def __init__(self, backend: Backend, slices: Slices, stored: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self.backend, self.slices, self.stored = backend, slices, stored
        self.prompt_hashes: dict[int, str] = {}
        self.truncated: set[int] = set()

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        return [tuple(answer) for answer in self._answers("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Any]) -> list[Any]:
        return self._answers("generate_until", requests)

    @property
    def tokenizer_name(self) -> str:
        return str(self.backend.lm.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        found: str | None = self.backend.lm.chat_template(chat_template)
        return found

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(self.backend.lm.apply_chat_template(chat_history, add_generation_prompt))

    def _answers(self, request_type: str, requests: list[Any]) -> list[Any]:
        of_item: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            of_item.setdefault(request.doc_id, []).append(index)
        answers: list[Any] = [None] * len(requests)
        missing: list[int] = []
        for item, members in of_item.items():
            self.prompt_hashes[item] = sha256_json([request_type, [plain(requests[index].args) for index in members]])
            known = self.stored.get(self.prompt_hashes[item])
            if known is None:
                missing += members
                continue
            for index, answer in zip(members, known, strict=True):
                answers[index] = answer
        if missing:
            found = self.backend.answer(request_type, [requests[index] for index in missing], self.slices)
            for index, answer in zip(missing, found, strict=self.slices.of == 1):
                answers[index] = plain(answer)
            cut = self.backend.truncated()
            self.truncated |= {requests[index].doc_id for index in missing if texts_of(requests[index].args) in cut}
        return answers
