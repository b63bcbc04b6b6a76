"""A model in this process, by lm-eval's HFLM: its tokenization, its padding, its sums; only what is batched with what is told here.

Batches are those that HFLM makes at the same `batch_size`, to the last digit, unless it mixes up requests (see `_batches`); with
`batch_size=0` they are cut by tokens instead, since padding long and short texts to one length wastes the time. HFLM puts the logits
of every token through a softmax over the whole vocabulary; here only those of the tokens that are scored, and with `batch_size=0`
what stands before the first of them is not even computed.
"""

import importlib.metadata
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_json
from iberlm.core.needs import local_folder
from iberlm.evaluate.backends import Backend, Slices, plain, require_finite, texts_of
from iberlm.evaluate.backends.prompts import window_sums
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import model_key
from iberlm.evaluate.model import load_model, pick_device

FEW_SEQUENCES, LIKE_LENGTH = 8, 0.8
"""A batch by tokens ends where texts are shorter than this share of its longest, once it has so many: what would be padding is better spent."""
Tokenized = tuple[tuple[str, str] | None, list[int], list[int]]
"""As lm-eval passes a request on: (context, continuation) or None for a window of a document, and the tokens of both."""


class SlicedHFLM(HFLM):  # type: ignore[misc]
    """HFLM whose batches go through a journal. `slices` must be set before requests are asked."""

    slices: Slices
    sequences: int
    tokens: int
    cut: set[tuple[str, ...]]
    keeps_logits: bool
    """The model can leave out the logits that nobody asks for."""
    scored: "Scored"
    """Of the batch that is computed."""

    def _model_call(self, inps: torch.Tensor, attn_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (sequences, positions, vocabulary) of the positions that answers need, those of each sequence at the end of its row."""
        if inps.shape != (len(self.scored.lengths), self.scored.lengths[0]):
            raise RuntimeError(
                f"lm-eval has made a batch of {tuple(inps.shape)} where {len(self.scored.lengths)} x {self.scored.lengths[0]} tokens were to be asked"
            )
        if not self.sequences and self.keeps_logits:  # a product of fewer rows may differ in its last digits: not where batches are as HFLM's
            with torch.no_grad():
                logits = cast(torch.Tensor, self.model(inps, logits_to_keep=inps.shape[1] - self.scored.first).logits)
            logits = logits[:, self.scored.first - inps.shape[1] :]  # of a model that takes the argument and keeps all
        else:
            logits = super()._model_call(inps, attn_mask, labels)[:, self.scored.first :]
        ends = torch.tensor(self.scored.lengths, device=logits.device)[:, None] - self.scored.first
        places = ends - torch.arange(self.scored.longest, 0, -1, device=logits.device)
        return logits[torch.arange(len(logits), device=logits.device)[:, None], places.clamp(min=0)]

    def _select_cont_toks(self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None) -> torch.Tensor:
        assert contlen
        return logits[-contlen:]

    def _loglikelihood_tokens(self, requests: Sequence[Tokenized], disable_tqdm: bool = False, override_bs: int | None = None) -> list[tuple[float, bool]]:
        answers: list[Any] = [None] * len(requests)
        for text, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise DataError(f"an answer of {len(continuation)} tokens does not fit the model's context of {self.max_length}: '{str(text)[:60]}'")
            if text is not None and len(context) + len(continuation) > self.max_length + 1:
                self.cut.add(text)
        for groups in self._batches(requests, override_bs):
            members = [index for group in groups for index in group]
            part = [requests[index] for index in members]

            def compute(part: list[Tokenized] = part, groups: list[list[int]] = groups) -> list[Any]:
                self.batch_size_per_gpu = len(groups)
                self.scored = _scored([[requests[index] for index in group] for group in groups], self.max_length)
                found = super(SlicedHFLM, self)._loglikelihood_tokens(part, disable_tqdm=True)
                return [require_finite(plain(answer), request[0] or ("", "a document")) for answer, request in zip(found, part, strict=True)]

            found = self.slices.take(["loglikelihood", [[context, continuation] for _, context, continuation in part]], len(part), compute)
            for index, answer in zip(members, found, strict=False):
                answers[index] = tuple(answer)
        # what another process computes: a number that can be summed, in an evaluation that is never published
        return [answer if answer is not None else (0.0, False) for answer in answers]

    def _batches(self, requests: Sequence[Tokenized], override_bs: int | None) -> Iterator[list[list[int]]]:
        """Groups of requests that share a sequence, longest first, as lm-eval's Collator orders them: those of one batch together.

        The same tokens cut elsewhere into context and answer come in a later round: HFLM would put both into one group, and read the shorter
        answer off the first places of the longer one.
        """
        grouped: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            # answers that differ in their last token only are read off the same logits
            grouped.setdefault(((*context, *continuation[:-1]), len(context)), []).append(index)
        rounds: list[list[list[int]]] = []
        cuts: Counter[tuple[int, ...]] = Counter()
        for (tokens, _), members in grouped.items():
            if cuts[tokens] == len(rounds):
                rounds.append([])
            rounds[cuts[tokens]].append(members)
            cuts[tokens] += 1
        for groups in rounds:
            sequences = {members[0]: [*requests[members[0]][1], *requests[members[0]][2]] for members in groups}
            order = sorted(groups, key=lambda members: (-len(sequences[members[0]]), tuple(sequences[members[0]])))
            lengths = [min(len(sequences[members[0]]), self.max_length + 1) for members in order]
            for start, end in _cuts(lengths, override_bs or self.sequences, self.tokens):
                yield order[start:end]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        if self.sequences:
            self.batch_size_per_gpu = self.sequences
            return [float(value) for value in super().loglikelihood_rolling(requests, disable_tqdm=True)]
        # by tokens: all windows at once, so that those of one length come together; lm-eval takes them as the documents come
        documents = [self.tok_encode(request.args[0]) for request in requests]
        return window_sums(documents, self.prefix_token_id, self.max_length, self._loglikelihood_tokens)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers: list[Any] = [None] * len(requests)
        grouped: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            grouped.setdefault(sha256_json(plain(request.args[1])), []).append(index)
        for members in grouped.values():
            settings = normalize_gen_kwargs(requests[members[0]].args[1], self.max_gen_toks)
            limit, samples = int(settings["max_gen_toks"]), bool(settings.get("do_sample"))
            room = self.max_length - limit
            if room <= 0:
                raise ConfigError(f"the task asks for answers of {limit} tokens, and the model's context has {self.max_length}; leave the task out")
            lengths = {index: len(self.tok_encode(requests[index].args[0])) for index in members}
            order = sorted(members, key=lambda index: (-lengths[index], requests[index].args[0]))
            self.cut.update(texts_of(requests[index].args) for index in members if lengths[index] > room)
            for start, end in _cuts([min(lengths[index], room) + limit for index in order], self.sequences, self.tokens):
                part = order[start:end]

                def compute(part: list[int] = part, samples: bool = samples) -> list[Any]:
                    self.batch_size_per_gpu = len(part)
                    asked = [requests[index] for index in part]
                    with torch.random.fork_rng(enabled=samples):
                        if samples:
                            torch.manual_seed(self.slices.seed)  # the slice's, in whichever process it is computed
                        return list(super(SlicedHFLM, self).generate_until(asked, disable_tqdm=True))

                found = self.slices.take(["generate_until", [plain(requests[index].args) for index in part]], len(part), compute)
                for index, answer in zip(part, found, strict=False):
                    answers[index] = answer
        return [answer if answer is not None else "" for answer in answers]


@dataclass(frozen=True)
class Scored:
    """Which logits of a batch answers need."""

    lengths: list[int]
    """Tokens of each sequence that the model is given, in the order of HFLM's batch: the longest first."""
    longest: int
    """Tokens of the longest answer."""
    first: int
    """The first position that any answer needs."""


def _scored(groups: list[list[Tokenized]], context: int) -> Scored:
    """Of groups of requests that share a sequence. Of a text of n tokens the model is given n - 1, and at most its context."""
    lengths = [min(len(before) + len(after) - 1, context) for (_, before, after), *_ in groups]
    answers = [max(len(after) for _, _, after in group) for group in groups]
    return Scored(sorted(lengths, reverse=True), max(answers), min(length - answer for length, answer in zip(lengths, answers, strict=True)))


def _cuts(lengths: list[int], sequences: int, tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of a list that is sorted by falling length: of `sequences` entries each, or with 0 of at most `tokens` padded tokens and of like length."""
    start = 0
    while start < len(lengths):
        end = min(len(lengths), start + (sequences or max(1, tokens // lengths[start])))
        if not sequences:
            while end - start > FEW_SEQUENCES and lengths[end - 1] < LIKE_LENGTH * lengths[start]:
                end -= 1
        yield start, end
        start = end


@dataclass(kw_only=True)
class TransformersBackend(Backend):
    """A model of the transformers library, on a CPU, a GPU or spread over several."""

    def answer(self, request_type: str, requests: Sequence[Any], slices: Slices) -> list[Any]:
        self.lm.slices, self.lm.cut = slices, set()
        # The rolling likelihood puts BOS before the text: a tokenizer that adds its own would have BOS scored after BOS.
        self.lm.add_bos_token = False if request_type == "loglikelihood_rolling" else None
        try:
            return list(getattr(self.lm, request_type)(list(requests), disable_tqdm=True))
        except torch.OutOfMemoryError as error:
            size = f"batch_size={self.lm.sequences}" if self.lm.sequences else f"batch_tokens={self.lm.tokens}"
            raise ResourceError(f"out of memory with {size}; halve it, or use dtype=bfloat16") from error

    def truncated(self) -> set[tuple[str, ...]]:
        return set(self.lm.cut)


def open_backend(config: EvaluateConfig, *, weights: bool = True) -> TransformersBackend:
    """Load the model. Raises what `load_model` raises."""
    model, tokenizer = load_model(config, weights=weights)
    # a sum of log-probabilities in bfloat16 has steps of 1 from 128 on: minimal pairs would come out equal
    lm = SlicedHFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=config.batch_size or 1, softmax_dtype="float32")
    lm.sequences, lm.tokens, lm.cut = config.batch_size, config.batch_tokens, set()
    lm.keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
    return TransformersBackend(
        name="transformers",
        lm=lm,
        model=model_key(local_folder(config.model_folder, config.cluster)),
        dtype=str(model.dtype).removeprefix("torch."),
        device=model.device.type if weights else pick_device(config.device).partition(":")[0],
        software={package: importlib.metadata.version(package) for package in ("lm_eval", "transformers", "torch")},
        context_tokens=lm.max_length,
    )
