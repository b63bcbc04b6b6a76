"""What a tokenizer is trained on: the words of the sample by language, read once and weighted as often as is asked."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import DataError
from iberlm.core.process import usable_cores
from iberlm.core.stage import Record
from iberlm.tokenizer.config import TokenizerConfig
from iberlm.tokenizer.sample import LanguageSample, mixture_shares, plan_sample, target_bytes
from iberlm.tokenizer.words import Words, count_file, merge, weighted

_SMALL_SAMPLE_BYTES = 20_000_000
"""Below this the words are counted here: starting processes would take longer."""

Part = tuple[Path, npt.NDArray[np.int64]]
"""A documents file, and which of its documents are read (int64, 1 or 0 each)."""


@dataclass(frozen=True)
class Material:
    """The sample: its documents and its words by language."""

    config: TokenizerConfig
    samples: dict[str, LanguageSample]
    words: dict[str, Words]

    @property
    def shares(self) -> dict[str, float]:
        """Share of each language as the mixture gives it."""
        return mixture_shares(self.config.mixture, self._available)

    @property
    def _available(self) -> dict[str, int]:
        return {tag: sample.available_bytes for tag, sample in self.samples.items()}

    def counted_bytes(self, shares: Mapping[str, float]) -> dict[str, int]:
        """UTF-8 bytes that each language counts for under `shares`."""
        return {tag: round(self.samples[tag].read_bytes * times) for tag, times in self._multipliers(shares).items()}

    def table(self, shares: Mapping[str, float]) -> Words:
        """The words of all languages, with counts weighted by `shares`."""
        return weighted(self.words, self._multipliers(shares), self.config.max_words)

    def _multipliers(self, shares: Mapping[str, float]) -> dict[str, float]:
        """How often over the words of each language count: 1 where its target was read but for the rest of the last document."""
        targets = target_bytes(shares, self._available, self.config)
        return {tag: targets[tag] / sample.read_bytes for tag, sample in self.samples.items()}


def read_material(config: TokenizerConfig, files: Mapping[str, list[Path]], record: Record, *, workers: int) -> Material:
    """Count the words of the sample, a file at a time in each of `workers` processes (0: one a usable core).

    Raises `DataError` for a language without text, and when there is no word at all.
    """
    samples = plan_sample(files, config)
    parts = {tag: [part for part in zip(sample.files, sample.chosen, strict=True) if part[1].any()] for tag, sample in samples.items()}
    if sum(sample.read_bytes for sample in samples.values()) < _SMALL_SAMPLE_BYTES:
        words = {tag: merge((count_file(*part, config.max_words) for part in own), config.max_words) for tag, own in parts.items()}
    else:
        workers = workers or usable_cores()
        pool = record.pool(workers)
        words = {tag: merge(_counted(pool, own, config.max_words, 2 * workers), config.max_words) for tag, own in parts.items()}
    if not any(word.strip() for counts in words.values() for word in counts):
        raise DataError("the training documents have no line of text; look at what curate kept")
    return Material(config, samples, words)


def _counted(pool: ProcessPoolExecutor, parts: list[Part], max_words: int, ahead: int) -> Iterator[Words]:
    """Counts of each file in order, at most `ahead` of them waiting: a table can take as much memory as the sum of all."""
    waiting: deque[Future[Words]] = deque()
    for part in parts:
        waiting.append(pool.submit(count_file, *part, max_words))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
