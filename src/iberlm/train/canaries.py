"""Canaries: made-up sequences planted in the training data a known number of times, and the test of what the model knows of them by heart.

What a model repeats of a sequence that nobody could guess, it has memorised (Carlini et al., 2019, arXiv:1802.08232; repetitions as in
Carlini et al., 2023, arXiv:2202.07646). Planting is a pure function of the seed, the settings and the sample number, so it is the same
on any number of ranks and after every resumption.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from iberlm.core.errors import ConfigError
from iberlm.train.config_groups import CanariesConfig
from iberlm.train.order import permute

I64 = npt.NDArray[np.int64]
_LOGITS = 1 << 27
"""Logits of one forward pass of the test, at most: half a gigabyte in fp32."""


class Canaries:
    """The canaries of one run: `canaries_each` for every number of repetitions, and as many that are never planted, to compare with."""

    def __init__(self, config: CanariesConfig, *, seed: int, vocabulary_size: int, special_ids: Iterable[int], samples: int, sequence_length: int) -> None:
        """`samples`: of the whole run, numbered from 0. `special_ids` occur in no canary.

        Raises `ConfigError` when the run has fewer samples than there are places to plant in, or the vocabulary fewer than two ordinary ids.
        """
        self.config, self.sequence_length = config, sequence_length
        self.length = config.prefix_tokens + config.suffix_tokens
        counts = [0, *config.repetitions] if config.canaries_each else []
        self.repetitions = np.repeat(np.asarray(counts, dtype=np.int64), config.canaries_each)
        """How often each canary is planted, int64[canaries]; those of 0 come first."""
        ordinary = np.setdiff1d(np.arange(vocabulary_size), np.fromiter(special_ids, dtype=np.int64))
        if len(self.repetitions) and len(ordinary) < 2:
            raise ConfigError(f"canaries: the vocabulary of {vocabulary_size} has {len(ordinary)} ids that are not special; canaries are made of at least 2")
        planted = int(self.repetitions.sum())
        if planted > samples:
            fewer = config.canaries_each * samples // planted
            less = f"lower canaries_each to at most {fewer}, " if fewer else ""
            raise ConfigError(
                f"canaries: {config.canaries_each} for each of repetitions={config.repetitions} are planted {planted} times, each time in a sample of its own, "
                f"and the run has {samples} samples; {less}leave out the largest repetitions, or train longer"
            )
        drawn = _random(f"{seed}/canaries/tokens", len(self.repetitions) * self.length) % np.uint64(max(1, len(ordinary)))
        self.tokens: I64 = ordinary[drawn.astype(np.int64)].reshape(-1, self.length).astype(np.int64)
        """The canaries, int64[canaries, prefix_tokens + suffix_tokens]: each id uniform over the ordinary ones, so nothing helps to guess them."""
        key = int.from_bytes(hashlib.sha256(f"{seed}/canaries/places".encode()).digest()[:8], "little") >> 1
        # the first numbers of a keyed bijection of 0..samples-1: random, and never the same twice
        numbers = permute(np.arange(planted, dtype=np.int64), samples, np.zeros(planted, dtype=np.int64), key)
        order = np.argsort(numbers)
        self._numbers = numbers[order]
        self._canary = np.repeat(np.arange(len(self.repetitions)), self.repetitions)[order]
        columns = np.uint64(max(1, sequence_length + 1 - self.length + 1))  # a row has one token more than the sequence
        self._column = (_random(f"{seed}/canaries/columns", planted) % columns).astype(np.int64)[order]

    @property
    def planted_tokens(self) -> int:
        """Training tokens of the run that canaries replace."""
        return len(self._numbers) * self.length

    def plant(self, numbers: I64, rows: I64) -> None:
        """Overwrite a stretch of each row whose sample has a canary, in place.

        `numbers` int64[n] are the samples' numbers, `rows` int64[n, sequence_length + 1] their tokens. The stretch begins anywhere in
        the row; what it stood in, ends of documents included, goes on after it.
        """
        if not len(self._numbers):
            return
        found = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        for row in np.flatnonzero(self._numbers[found] == numbers):
            column = self._column[found[row]]
            rows[row, column : column + self.length] = self.tokens[self._canary[found[row]]]

    def placements(self) -> dict[int, list[int]]:
        """The numbers of the samples that each canary is planted in, ascending; canaries that are never planted have none."""
        return {canary: self._numbers[self._canary == canary].tolist() for canary in range(len(self.repetitions))}

    def extract(self, model: Any, device: torch.device) -> dict[str, Any]:
        """Ask a Hugging Face causal model (on `device`) to go on from each canary's prefix, and compare with what was planted.

        The prefix stands behind BOS when the model's configuration names one; the likeliest token is taken each time. Returns what
        `memorisation.json` holds: the settings, and `results`, for 0 repetitions (never planted) and each planted number, with

        - exact: share of the canaries whose suffix came out whole;
        - longest_common_tokens: the longest run of tokens that continuation and suffix have in common, mean over the canaries;
        - right_tokens: share of suffix tokens that are the likeliest when all before them are given;
        - loss: mean cross-entropy of a suffix token, nats;
        - exposure_bits: log2(n + 1) - log2(rank), mean, where rank is the canary's place by loss among itself and the n never planted
          (Carlini et al., 2019, with the never planted ones for all that could have been); null for 0 repetitions.
        """
        config = self.config
        if not config.canaries_each:
            raise ValueError("canaries.canaries_each is 0: nothing was planted")
        bos = getattr(model.config, "bos_token_id", None)
        rows = max(1, _LOGITS // (self.length * model.config.vocab_size))
        with _evaluating(model):
            parts = [
                _measure(model, torch.from_numpy(self.tokens[first : first + rows]).to(device), config.prefix_tokens, bos)
                for first in range(0, len(self.tokens), rows)
            ]
        made, likeliest, losses = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        suffixes = self.tokens[:, config.prefix_tokens :]
        control = losses[self.repetitions == 0].mean(axis=1)
        results = []
        for repetitions in sorted(set(self.repetitions.tolist())):
            here = self.repetitions == repetitions
            own = losses[here].mean(axis=1)
            ranks = 1 + (control[None, :] < own[:, None]).sum(axis=1)
            common = [longest_common_run(a, b) for a, b in zip(made[here], suffixes[here], strict=True)]
            results.append(
                {
                    "repetitions": repetitions,
                    "canaries": int(here.sum()),
                    "exact": float((made[here] == suffixes[here]).all(axis=1).mean()),
                    "longest_common_tokens": float(np.mean(common)),
                    "right_tokens": float((likeliest[here] == suffixes[here]).mean()),
                    "loss": float(own.mean()),
                    "exposure_bits": float((math.log2(len(control) + 1) - np.log2(ranks)).mean()) if repetitions else None,
                }
            )
        settings = {"prefix_tokens": config.prefix_tokens, "suffix_tokens": config.suffix_tokens, "canaries_each": config.canaries_each}
        return settings | {"planted_tokens": self.planted_tokens, "results": results}


def _random(label: str, count: int) -> npt.NDArray[np.uint64]:
    """Random 64-bit numbers that follow from the label: a raw bit stream, which numpy promises never to change (NEP 19)."""
    key = int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "little")
    return np.asarray(np.random.Philox(key=key).random_raw(count), dtype=np.uint64)


@torch.no_grad()
def _measure(model: Any, tokens: torch.Tensor, prefix: int, bos: int | None) -> tuple[I64, I64, npt.NDArray[np.float32]]:
    """Greedy continuation, likeliest token at each place of the true text, and its losses: [canaries, suffix] each, on the host."""
    suffix = tokens[:, prefix:]
    if bos is not None:
        tokens, prefix = torch.cat([torch.full_like(tokens[:, :1], bos), tokens], dim=1), prefix + 1
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[:, prefix - 1 :].float()
    losses = cross_entropy(logits.transpose(1, 2), suffix, reduction="none")
    likeliest = logits.argmax(dim=-1)
    made, answer = [likeliest[:, :1]], model(input_ids=tokens[:, :prefix], use_cache=True)
    for _ in range(suffix.shape[1] - 1):
        answer = model(input_ids=made[-1], past_key_values=answer.past_key_values, use_cache=True)
        made.append(answer.logits[:, -1:].argmax(dim=-1))
    return torch.cat(made, dim=1).cpu().numpy(), likeliest.cpu().numpy(), losses.cpu().numpy()


def longest_common_run(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> int:
    """Length of the longest run of tokens that stands in both, anywhere."""
    longest = 0
    ending = np.zeros(len(other) + 1, dtype=np.int64)  # length of the common run that ends at each token of `other` and at the last of `one`
    for token in one:
        ending[1:] = np.where(other == token, ending[:-1] + 1, 0)
        longest = max(longest, int(ending.max()))
    return longest


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
