"""Token stores as training samples: which tokens a sample number stands for, and the windows of the validation split."""

from bisect import bisect_right
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
    """The tokens of several shards as one sequence, memory-mapped. `name` is what an error calls it.

    The system is left to read ahead as it does (no madvise): a window is two or three pages, of which MADV_RANDOM would ask a
    parallel file system one by one; the neighbours that come along are windows of later samples; and Linux stops reading
    ahead of a map by itself when that misses too often.
    """

    def __init__(self, name: str, shards: Sequence[npt.NDArray[np.integer]], vocabulary_size: int) -> None:
        self._name, self._vocabulary_size = name, vocabulary_size
        self._shards = list(shards)
        self._starts: list[int] = [0, *np.cumsum([len(shard) for shard in shards], dtype=np.int64).tolist()]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Tokens `start` to `stop` (not included), int64[stop - start]; `CorruptError` for an id outside the vocabulary."""
        out = np.empty(stop - start, dtype=np.int64)
        if len(out):
            self.fill(out, start)
            self.check(out)
        return out

    def fill(self, out: npt.NDArray[np.int64], start: int) -> None:
        """Copy the tokens from `start` on into `out`, int64[n], n > 0, as they are: `check` them."""
        shard, length = bisect_right(self._starts, start) - 1, len(out)
        first = start - self._starts[shard]
        piece = self._shards[shard][first : first + length]
        if len(piece) == length:  # nearly always, and this function is called a hundred thousand times a second
            out[:] = piece
            return
        done = 0
        while done < length:
            out[done : done + len(piece)] = piece
            done, shard = done + len(piece), shard + 1
            piece = self._shards[shard][: length - done] if done < length else piece

    def check(self, tokens: npt.NDArray[np.int64]) -> None:
        """Raise `CorruptError` for an id outside the vocabulary."""
        # as unsigned numbers, negative ids are the largest ones
        if tokens.size and int(tokens.view(np.uint64).max()) >= self._vocabulary_size:
            wrong = tokens[(tokens < 0) | (tokens >= self._vocabulary_size)][0]
            raise CorruptError(
                f"{self._name}: id {wrong} in a vocabulary of {self._vocabulary_size}; its ids are damaged: delete the folder of tokenize and run it again"
            )


def open_split(manifest: Manifest, split: str, vocabulary_size: int) -> dict[str, Concatenation]:
    """The tokens of each language of a split.

    Raises `CorruptError` for shards that disagree with their index or the manifest, or do not begin and end with BOS and EOS.
    """
    shards: dict[str, list[npt.NDArray[np.integer]]] = {}
    boundary = manifest.metrics.get("boundary")
    if not boundary:
        raise CorruptError(f"{manifest.folder}: its manifest does not say with which ids documents begin and end; tokenize again")
    for path in manifest.paths(f"{split}/", ".bin"):
        tag = from_file_safe(path.stem.rsplit("-", 1)[0])
        tokens = open_shard(path.with_suffix("")).tokens
        for place, name in ((0, "bos"), (-1, "eos")):
            if len(tokens) and tokens[place] != boundary[name]:
                raise CorruptError(f"{path}: id {tokens[place]} stands where the {name} id {boundary[name]} belongs; tokenize again")
        shards.setdefault(tag, []).append(tokens)
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
    vocabulary_size: int
    shares: dict[str, float]

    def samples(self, numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of the samples with these numbers, int64[n, sequence_length + 1]; `CorruptError` for an id outside the vocabulary."""
        picks, length = self.order.picks(numbers), self.sequence_length
        out = np.empty((len(picks.source), length + 1), dtype=np.int64)
        for row, source, start in zip(out, picks.source.tolist(), (picks.window * length).tolist(), strict=True):
            self.stores[source].fill(row, start)
        if out.size and int(out.view(np.uint64).max()) >= self.vocabulary_size:
            for row, source in zip(out, picks.source.tolist(), strict=True):
                self.stores[source].check(row)
        return out


def open_training(config: PretrainConfig, manifest: Manifest, vocabulary_size: int) -> TrainingData:
    """The training data of a run; raises `ConfigError` or `DataError` naming a language that cannot be drawn from."""
    stores = open_split(manifest, TRAIN, vocabulary_size)
    chosen = shares(config.mixture, {tag: len(store) for tag, store in stores.items()}, config.sequence_length)
    sources = [Source(tag, share, window_count(len(stores[tag]), config.sequence_length)) for tag, share in chosen.items()]
    return TrainingData(Order(sources, config.seed), [stores[tag] for tag in chosen], config.sequence_length, vocabulary_size, chosen)


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
