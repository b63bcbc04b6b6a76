"""Token stores as training samples: which tokens a sample number stands for, and the windows of the validation split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import CorruptError
from iberlm.core.languages import file_safe, from_file_safe
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.token_store import open_shard
from iberlm.train.config import PretrainConfig
from iberlm.train.order import Order, Source, shares, window_count

TRAIN, VALIDATION = "train", "validation"
IGNORED = -100
"""Target that cross-entropy leaves out."""


class Concatenation:
    """The tokens of several shards as one sequence, memory-mapped. `name` is what an error calls it."""

    def __init__(self, name: str, shards: Sequence[npt.NDArray[np.integer]], vocabulary_size: int) -> None:
        self._name, self._vocabulary_size = name, vocabulary_size
        self._shards = list(shards)
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in shards])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Tokens `start` to `stop` (not included), int64[stop - start]; `CorruptError` for an id outside the vocabulary."""
        out = np.empty(stop - start, dtype=np.int64)
        shard, done = int(np.searchsorted(self._starts, start, side="right")) - 1, 0
        while done < len(out):
            first = start + done - int(self._starts[shard])
            piece = self._shards[shard][first : first + len(out) - done]
            out[done : done + len(piece)] = piece
            done, shard = done + len(piece), shard + 1
        if len(out) and not 0 <= out.min() <= out.max() < self._vocabulary_size:
            raise CorruptError(
                f"{self._name}: id {out.max()} in a vocabulary of {self._vocabulary_size}; its ids are damaged: delete the folder of tokenize and run it again"
            )
        return out


def open_split(manifest: Manifest, split: str, vocabulary_size: int) -> dict[str, Concatenation]:
    """The tokens of each language of a split. Raises `CorruptError` for shards that disagree with their index or the manifest."""
    shards: dict[str, list[npt.NDArray[np.integer]]] = {}
    for path in manifest.paths(f"{split}/", ".bin"):
        tag = from_file_safe(path.stem.rsplit("-", 1)[0])
        shards.setdefault(tag, []).append(open_shard(path.with_suffix("")).tokens)
    stores = {tag: Concatenation(f"{manifest.folder}/{split}/{file_safe(tag)}-*.bin", parts, vocabulary_size) for tag, parts in sorted(shards.items())}
    stated: dict[str, int] = manifest.metrics["tokens"].get(split, {})
    for tag in sorted(set(stores) | set(stated)):
        found = len(stores[tag]) if tag in stores else 0
        if found != stated.get(tag, 0):
            raise CorruptError(f"{manifest.folder}/{split}/{file_safe(tag)}-*.bin: {found} tokens where the manifest says {stated.get(tag, 0)}; tokenize again")
    return {tag: store for tag, store in stores.items() if len(store)}


@dataclass
class TrainingData:
    """The training split under a mixture."""

    order: Order
    stores: list[Concatenation]
    sequence_length: int
    shares: dict[str, float]

    def samples(self, numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of the samples with these numbers, int64[n, sequence_length + 1]."""
        picks, length = self.order.picks(numbers), self.sequence_length
        rows = [self.stores[source].read(window * length, (window + 1) * length + 1) for source, window in zip(picks.source, picks.window, strict=True)]
        return np.stack(rows)


def open_training(config: PretrainConfig, manifest: Manifest, vocabulary_size: int) -> TrainingData:
    """The training data of a run; raises `ConfigError` or `DataError` naming a language that cannot be drawn from."""
    stores = open_split(manifest, TRAIN, vocabulary_size)
    chosen = shares(config.mixture, {tag: len(store) for tag, store in stores.items()}, config.sequence_length)
    sources = [Source(tag, share, window_count(len(stores[tag]), config.sequence_length)) for tag, share in chosen.items()]
    return TrainingData(Order(sources, config.seed), [stores[tag] for tag in chosen], config.sequence_length, chosen)


def rank_numbers(step: int, micro: int, rank: int, world: int, micro_batch_size: int, global_batch_samples: int) -> npt.NDArray[np.int64]:
    """Numbers of the samples of one rank's micro step, int64[micro_batch_size]. Together they tile the step, whatever the world."""
    first = step * global_batch_samples + (micro * world + rank) * micro_batch_size
    return np.arange(first, first + micro_batch_size, dtype=np.int64)


def validation_windows(store: Concatenation, sequence_length: int, limit: int) -> list[tuple[int, int]]:
    """Windows (start, stop) that predict every token but the first once; at most `limit` tokens are read (0: all)."""
    tokens = min(len(store), limit) if limit else len(store)
    return [(start, min(start + sequence_length + 1, tokens)) for start in range(0, tokens - 1, sequence_length)]


def validation_batches(
    store: Concatenation, windows: Sequence[tuple[int, int]], sequence_length: int, rows: int, rank: int, world: int, ends: Sequence[int]
) -> Iterator[npt.NDArray[np.int64]]:
    """One rank's share of the windows, int64[2, rows, sequence_length]: inputs and targets.

    Every rank yields the same number of batches, since sharded forward passes are collective; what is missing has only
    `IGNORED` targets. So have targets among `ends` (BOS and EOS): they are no text, and neither the unigram baseline nor the
    evaluation counts them.
    """
    for first in range(0, len(windows), rows * world):
        batch = np.zeros((2, rows, sequence_length), dtype=np.int64)
        batch[1] = IGNORED
        mine = windows[first + rank * rows : first + (rank + 1) * rows]
        for row, (start, stop) in enumerate(mine):
            tokens = store.read(start, stop)
            batch[0, row, : len(tokens) - 1] = tokens[:-1]
            batch[1, row, : len(tokens) - 1] = np.where(np.isin(tokens[1:], ends), IGNORED, tokens[1:])
        yield batch


def read_store(folder: Path, vocabulary_size: int) -> Manifest:
    """The manifest of a tokenize stage, checked: files in their sizes, and made with a vocabulary of this size."""
    manifest = read_manifest(folder)
    manifest.check_files()
    stated = manifest.metrics.get("vocabulary_size", vocabulary_size)
    if stated != vocabulary_size:
        raise CorruptError(
            f"{folder}: its tokens were made with a vocabulary of {stated}, and the tokenizer given has {vocabulary_size}; tokenize with this tokenizer"
        )
    return manifest


def fingerprint(config: PretrainConfig, manifest: Manifest, data: TrainingData, parameters: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it: all that decides the data order and the model."""
    return {
        "token store": manifest.content_hash,
        "mixture": data.shares,
        "seed": config.seed,
        "sequence_length": config.sequence_length,
        "global_batch_tokens": config.global_batch_tokens,
        "model": parameters,
    }
