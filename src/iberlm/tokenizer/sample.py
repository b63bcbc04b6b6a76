"""The text a tokenizer is trained on: which documents of each language, chosen without a seed, and what each language weighs.

Documents are taken in the order of a hash of their ids, so the choice depends on nothing but the documents. A language
with less than its share counts more than once: a vocabulary belongs to the languages, not to who has most text.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from iberlm.core.documents import read_batches
from iberlm.core.errors import ConfigError, DataError
from iberlm.tokenizer.config import TEMPERATURE, WEIGHTS, SampleMixtureConfig, TokenizerConfig


@dataclass(frozen=True)
class LanguageSample:
    """Which documents of a language are read.

    `chosen`: one int64 array a file, 1 for each document that is read and 0 for the others, in the file's order.
    `available_bytes`: UTF-8 bytes of all documents; `read_bytes`: of those that are read.
    """

    files: list[Path]
    chosen: list[npt.NDArray[np.int64]]
    available_bytes: int
    read_bytes: int


def plan_sample(files: Mapping[str, list[Path]], config: TokenizerConfig) -> dict[str, LanguageSample]:
    """Choose the documents of each language: as many bytes as the mixture gives it, or all where it has less.

    Raises `DataError` naming the languages that have no text, `ConfigError` for weights that do not name the languages.
    """
    sizes = {tag: [_ids_and_bytes(path) for path in paths] for tag, paths in files.items()}
    available = {tag: sum(int(size.sum()) for _, size in parts) for tag, parts in sizes.items()}
    if empty := [tag for tag, size in available.items() if size == 0]:
        raise DataError(f"no training documents in {', '.join(empty)}: add documents of that language, or leave it out of 'languages'")
    targets = target_bytes(mixture_shares(config.mixture, available), available, config)
    return {tag: _plan_language(files[tag], parts, targets[tag]) for tag, parts in sizes.items()}


def mixture_shares(mixture: SampleMixtureConfig, available: Mapping[str, int]) -> dict[str, float]:
    """Share of the sample for each language, adding up to 1; `available`: UTF-8 bytes by language.

    Raises `ConfigError` when the weights name other languages than those that are trained on.
    """
    if mixture.kind == WEIGHTS:
        if set(mixture.weights) != set(available):
            raise ConfigError(f"tokenizer.mixture.weights: names {', '.join(mixture.weights)}, and the languages trained on are {', '.join(available)}")
        wanted = {tag: mixture.weights[tag] for tag in available}
    elif mixture.kind == TEMPERATURE:
        largest = max(available.values())
        wanted = {tag: (size / largest) ** (1 / mixture.temperature) for tag, size in available.items()}
    else:
        wanted = dict.fromkeys(available, 1.0)
    total = sum(wanted.values())
    return {tag: weight / total for tag, weight in wanted.items()}


def target_bytes(shares: Mapping[str, float], available: Mapping[str, int], config: TokenizerConfig) -> dict[str, float]:
    """UTF-8 bytes that each language counts for, in proportion to `shares`.

    Together `sample_bytes_per_language` times the languages, or less when no language has that much: then the one with
    the most text for its share is read whole and sets the measure. None counts for more than `max_repeats` times its text.
    """
    total = config.sample_bytes_per_language * len(shares)
    scale = min(1.0, max(available[tag] / (share * total) for tag, share in shares.items()))
    return {tag: min(share * total * scale, available[tag] * config.max_repeats) for tag, share in shares.items()}


def _ids_and_bytes(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hash of the id (uint64[n]) and UTF-8 bytes of the text (int64[n]) of each document."""
    hashes, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for batch in read_batches(path, ["id", "text"]):
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in batch["id"].to_pylist())
        hashes.append(np.frombuffer(digests, "<u8").astype(np.uint64))
        sizes.append(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64))
    return np.concatenate(hashes), np.concatenate(sizes)


def _plan_language(files: list[Path], parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]], target: float) -> LanguageSample:
    hashes, sizes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(hashes, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(sizes), np.int64)
    chosen[order[before < target]] = 1
    ends = np.cumsum([len(part) for part, _ in parts])[:-1]
    return LanguageSample(files, np.split(chosen, ends), int(sizes.sum()), int((sizes * chosen).sum()))
