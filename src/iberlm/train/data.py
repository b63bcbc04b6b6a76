"""Token stores as training samples: which tokens a sample number stands for, and the windows of the validation split."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.languages import file_safe, from_file_safe
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.token_store import open_shard
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import ObjectiveConfig
from iberlm.train.goldfish import drop_mask
from iberlm.train.groups import SourceGroups, open_groups
from iberlm.train.order import Order, Phase, Picks, Source, shares, window_count

if TYPE_CHECKING:
    from iberlm.train.canaries import Canaries

TRAIN, VALIDATION = "train", "validation"
REPLAY = "replay:"
"""What the names of the replay store's sources and groups begin with."""
IGNORED = -100
"""Target that cross-entropy leaves out."""
Id = TypeVar("Id", np.int32, np.int64)


class Concatenation:
    """The tokens of several shards as one sequence, memory-mapped. `name` is what an error calls it.

    The system is left to read ahead as it does (no madvise): a window is two or three pages, of which MADV_RANDOM would ask a
    parallel file system one by one; the neighbours that come along are windows of later samples; and Linux stops reading
    ahead of a map by itself when that misses too often.
    """

    def __init__(self, name: str, shards: Sequence[npt.NDArray[np.integer]], vocabulary_size: int, stems: Sequence[str] = ()) -> None:
        self._name, self._vocabulary_size = name, vocabulary_size
        self._shards = list(shards)
        self.parts = [(stem, len(shard)) for stem, shard in zip(stems, shards, strict=True)] if stems else []
        """The shards as `documents.parquet` names them (`train/es-00000`), and their tokens."""
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
        if _largest(tokens) >= self._vocabulary_size:
            wrong = tokens[(tokens < 0) | (tokens >= self._vocabulary_size)][0]
            raise CorruptError(
                f"{self._name}: id {wrong} in a vocabulary of {self._vocabulary_size}; its ids are damaged: delete the folder of tokenize and run it again"
            )


def _largest(tokens: npt.NDArray[np.int64]) -> int:
    """The largest id, where negative ones count as very large: read as unsigned numbers they are."""
    return int(tokens.view(np.uint64).max()) if tokens.size else -1


def open_split(manifest: Manifest, split: str, vocabulary_size: int) -> dict[str, Concatenation]:
    """The tokens of each language of a split.

    Raises `CorruptError` for shards that disagree with their index or the manifest, or do not begin and end with BOS and EOS.
    """
    shards: dict[str, dict[str, npt.NDArray[np.integer]]] = {}
    bos, eos = boundary(manifest)
    for path in manifest.paths(f"{split}/", ".bin"):
        tag = from_file_safe(path.stem.rsplit("-", 1)[0])
        tokens = open_shard(path.with_suffix("")).tokens
        for place, name, belongs in ((0, "bos", bos), (-1, "eos", eos)):
            if len(tokens) and tokens[place] != belongs:
                raise CorruptError(f"{path}: id {tokens[place]} stands where the {name} id {belongs} belongs; tokenize again")
        shards.setdefault(tag, {})[f"{split}/{path.stem}"] = tokens
    stores = {
        tag: Concatenation(f"{manifest.folder}/{split}/{file_safe(tag)}-*.bin", list(parts.values()), vocabulary_size, list(parts))
        for tag, parts in sorted(shards.items())
    }
    stated: dict[str, int] = manifest.metrics["tokens"].get(split, {})
    for tag in sorted(set(stores) | set(stated)):
        found = len(stores[tag]) if tag in stores else 0
        if found != stated.get(tag, 0):
            raise CorruptError(f"{manifest.folder}/{split}/{file_safe(tag)}-*.bin: {found} tokens where the manifest says {stated.get(tag, 0)}; tokenize again")
    return {tag: store for tag, store in stores.items() if len(store)}


def boundary(manifest: Manifest) -> tuple[int, int]:
    """The ids that each document of a token store begins and ends with."""
    stated = manifest.metrics.get("boundary")
    if not stated:
        raise CorruptError(f"{manifest.folder}: its manifest does not say with which ids documents begin and end; tokenize again")
    return stated["bos"], stated["eos"]


def fill_positions(out: npt.NDArray[Id], inputs: npt.NDArray[Id], bos: int | None) -> None:
    """Positions of `inputs`, int[rows, tokens], into `out`: from 0 in each row and, unless `bos` is None, again from each `bos`."""
    columns = np.arange(inputs.shape[1], dtype=out.dtype)
    if bos is None:
        out[:] = columns
    else:
        np.subtract(columns, np.maximum.accumulate(np.where(inputs == bos, columns, out.dtype.type(0)), axis=1), out=out)


@dataclass
class TrainingData:
    """The training split under the mixtures, and what the loss is made of. Lists by source are in the order of `order.sources`."""

    order: Order
    stores: list[Concatenation]
    source_groups: list[SourceGroups]
    sequence_length: int
    vocabulary_size: int
    bos: int
    objective: ObjectiveConfig
    total_steps: int
    global_batch_samples: int
    canaries: "Canaries | None" = None
    replay_content: str = ""
    """Content hash of the replay store; empty without replay."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the samples that each source has in the first phase."""
        return dict(self.order.phases[0].shares)

    @property
    def groups(self) -> list[str]:
        """Names of the groups that losses are summed by: `es`, `es/debian_docs`, `replay:es`."""
        return [name for source in self.source_groups for name in source.names]

    def samples(self, numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Tokens of the samples with these numbers, int64[n, sequence_length + 1]; `CorruptError` for an id outside the vocabulary."""
        return self._read(self.order.picks(numbers))

    def build(self, numbers: npt.NDArray[np.int64], out: npt.NDArray[np.int32] | None = None) -> tuple[npt.NDArray[np.int32], int]:
        """What the model is given of the samples with these numbers: int32[4, n, sequence_length] (`out`, when given), and its targets that count.

        Inputs; targets, `IGNORED` where the loss leaves them out; positions; and the group of each target, the document that it belongs to.
        `CorruptError` for an id outside the vocabulary.
        """
        picks, bos = self.order.picks(numbers), self.bos
        rows = self._read(picks)
        if self.canaries is not None:
            self.canaries.plant(numbers, rows)
        if out is None:
            out = np.empty((4, len(rows), self.sequence_length), dtype=np.int32)
        inputs, targets, positions, groups = out
        inputs[:], targets[:] = rows[:, :-1], rows[:, 1:]
        if self.objective.document_masking:  # nothing in a document tells what the next one is
            np.copyto(targets, IGNORED, where=targets == bos)
        if self.objective.goldfish_k:
            np.copyto(targets, IGNORED, where=drop_mask(rows, self.objective.goldfish_k, self.objective.goldfish_context, bos=bos))
        fill_positions(positions, inputs, bos if self.objective.document_masking else None)
        begins = picks.window * self.sequence_length + 1
        for source in np.unique(picks.source).tolist():
            here = np.flatnonzero(picks.source == source)
            part = np.empty((len(here), self.sequence_length), dtype=np.int32)
            self.source_groups[source].fill(part, begins[here])
            groups[here] = part
        return out, int(np.count_nonzero(targets != IGNORED))

    def _read(self, picks: Picks) -> npt.NDArray[np.int64]:
        out = np.empty((len(picks.source), self.sequence_length + 1), dtype=np.int64)
        sources = picks.source.tolist()
        # a copy a row: with windows spread over many shards nothing that treats several at once is faster
        for row, source, start in zip(out, sources, (picks.window * self.sequence_length).tolist(), strict=True):
            self.stores[source].fill(row, start)
        if _largest(out) >= self.vocabulary_size:
            for row, source in zip(out, sources, strict=True):
                self.stores[source].check(row)
        return out

    def epochs(self) -> dict[str, float]:
        """How often each source is read over the planned run."""
        counts = self.order.counts(self.total_steps * self.global_batch_samples)
        return {source.name: int(count) / source.windows for source, count in zip(self.order.sources, counts, strict=True)}

    def plan_lines(self) -> list[str]:
        """What is drawn in each phase, to print: share of the samples, and how often the phase reads the source."""
        phases, lines = self.order.phases, []
        ends = [*(phase.begin for phase in phases[1:]), self.total_steps * self.global_batch_samples]
        for phase, end in zip(phases, ends, strict=True):
            counts = self.order.counts(end) - self.order.counts(phase.begin)
            parts = [
                f"{source.name} {phase.shares[source.name]:.4f} ({int(count) / source.windows:.2f} epochs)"
                for source, count in zip(self.order.sources, counts, strict=True)
                if source.name in phase.shares
            ]
            lines.append(f"mixture to step {end // self.global_batch_samples}: {', '.join(parts)}")
        if len(phases) > 1:
            lines.append("mixtures together: " + ", ".join(f"{name} {epochs:.2f} epochs" for name, epochs in self.epochs().items()))
        return lines


def open_training(
    config: PretrainConfig, manifest: Manifest, vocabulary_size: int, *, bos: int, replay: Manifest | None = None, special_ids: Iterable[int] = ()
) -> TrainingData:
    """The training data of a run. `special_ids`: occur in no canary, beside BOS and EOS.

    Raises `ConfigError` or `DataError` naming a language that cannot be drawn from, a phase without a step or a source that would be read
    more often than `max_epochs`; `ConfigError` for a replay store of another tokenizer; and `CorruptError` for a damaged store.
    """
    if (replay is not None) != (config.replay.share > 0):
        raise ValueError(f"replay.share is {config.replay.share} and {'no' if replay is None else 'a'} replay store was given")
    manifests = {"": manifest} | ({REPLAY: replay} if replay is not None else {})
    for entry in manifests.values():
        if boundary(entry)[0] != bos:
            raise CorruptError(f"{entry.folder}: its documents begin with id {boundary(entry)[0]}, and the tokenizer's BOS is {bos}; tokenize again")
    if replay is not None:
        _check_same_tokenizer(manifest, replay)
    splits = {prefix: open_split(entry, TRAIN, vocabulary_size) for prefix, entry in manifests.items()}
    phases = _phases(config, {prefix: {tag: len(store) for tag, store in split.items()} for prefix, split in splits.items()})
    drawn = set().union(*(phase.shares for phase in phases))
    stores: dict[str, Concatenation] = {}
    groups: list[SourceGroups] = []
    for prefix, split in splits.items():
        split = {tag: store for tag, store in split.items() if prefix + tag in drawn}
        stores |= {prefix + tag: store for tag, store in split.items()}
        groups += open_groups(manifests[prefix], {tag: store.parts for tag, store in split.items()}, sum(len(entry.names) for entry in groups), prefix)
    data = TrainingData(
        order=Order([Source(name, window_count(len(store), config.sequence_length)) for name, store in stores.items()], config.seed, phases),
        stores=list(stores.values()),
        source_groups=groups,
        sequence_length=config.sequence_length,
        vocabulary_size=vocabulary_size,
        bos=bos,
        objective=config.objective,
        total_steps=config.total_steps,
        global_batch_samples=config.global_batch_samples,
        canaries=_open_canaries(config, vocabulary_size, {*special_ids, *boundary(manifest)}),
        replay_content=replay.content_hash if replay is not None else "",
    )
    _check_epochs(config, data)
    return data


def _check_same_tokenizer(manifest: Manifest, replay: Manifest) -> None:
    for entry in (manifest, replay):
        if "tokenizer" not in entry.metrics:
            raise CorruptError(f"{entry.folder}: its manifest does not say which tokenizer its tokens were made with; tokenize again")
    if replay.metrics["tokenizer"] != manifest.metrics["tokenizer"]:
        raise ConfigError(f"replay.tokens: {replay.folder} was made with another tokenizer than {manifest.folder}; tokenize its documents with the same one")


def _phases(config: PretrainConfig, tokens: dict[str, dict[str, int]]) -> list[Phase]:
    """The phases of a run over stores with so many tokens a language; `ConfigError` for a phase that is over before its first step."""
    found, begin, length = [], 0, config.sequence_length
    for number, phase in enumerate(config.mixtures):
        end = round(phase.until * config.total_steps)
        if begin == end:
            raise ConfigError(f"phases[{number}]: until={phase.until:g} of {config.total_steps} steps leaves it none; it begins at step {begin}")
        chosen = shares(phase.mixture, tokens[""], length, _mixture_key(config, number))
        if REPLAY in tokens:
            again, part = shares(config.replay.mixture, tokens[REPLAY], length, "replay.mixture"), config.replay.share
            chosen = {tag: share * (1 - part) for tag, share in chosen.items()} | {REPLAY + tag: share * part for tag, share in again.items()}
        found.append(Phase(begin * config.global_batch_samples, chosen))
        begin = end
    return found


def _check_epochs(config: PretrainConfig, data: TrainingData) -> None:
    """Refuse what a phase draws and would, by its end, have been read more often than its mixture allows; what is replayed counts over the run."""
    ends = [*(phase.begin for phase in data.order.phases[1:]), config.total_steps * config.global_batch_samples]
    again = config.replay.mixture.max_epochs
    for number, (phase, drawn, end) in enumerate(zip(config.mixtures, data.order.phases, ends, strict=True)):
        limits = {name: again if name.startswith(REPLAY) else phase.mixture.max_epochs for name in drawn.shares}
        for source, count in zip(data.order.sources, data.order.counts(end).tolist(), strict=True):
            epochs, limit = count / source.windows, limits.get(source.name, 0)
            if limit and epochs > limit:
                key = "replay.mixture" if source.name.startswith(REPLAY) else _mixture_key(config, number)
                raise ConfigError(
                    f"{key}.max_epochs: by step {end // config.global_batch_samples} '{source.name}' would have been read {epochs:.2f} times, and the "
                    f"limit is {limit:g}; draw less of it, train for fewer steps, or raise the limit"
                )


def _mixture_key(config: PretrainConfig, phase: int) -> str:
    return f"phases[{phase}].mixture" if config.phases else "mixture"


def _open_canaries(config: PretrainConfig, vocabulary_size: int, special_ids: Iterable[int]) -> "Canaries | None":
    if not config.canaries.canaries_each:
        return None
    from iberlm.train.canaries import Canaries

    return Canaries(
        config.canaries,
        seed=config.seed,
        vocabulary_size=vocabulary_size,
        special_ids=special_ids,
        samples=config.total_steps * config.global_batch_samples,
        sequence_length=config.sequence_length,
    )


def rank_numbers(step: int, micro: int, rank: int, world: int, micro_batch_size: int, global_batch_samples: int) -> npt.NDArray[np.int64]:
    """Numbers of the samples of one rank's micro step, int64[micro_batch_size]. Together they tile the step, whatever the world."""
    first = step * global_batch_samples + (micro * world + rank) * micro_batch_size
    return np.arange(first, first + micro_batch_size, dtype=np.int64)


def validation_windows(store: Concatenation, sequence_length: int, limit: int) -> list[tuple[int, int]]:
    """Windows (start, stop) that predict every token but the first once; at most `limit` tokens are read (0: all)."""
    tokens = min(len(store), limit) if limit else len(store)
    return [(start, min(start + sequence_length + 1, tokens)) for start in range(0, tokens - 1, sequence_length)]


def validation_batches(
    store: Concatenation,
    windows: Sequence[tuple[int, int]],
    sequence_length: int,
    rows: int,
    rank: int,
    world: int,
    ends: Sequence[int],
    *,
    document_masking: bool,
) -> Iterator[npt.NDArray[np.int64]]:
    """One rank's share of the windows, int64[3, rows, sequence_length]: inputs, targets and positions. `ends`: BOS and EOS.

    Every rank yields the same number of batches, since sharded forward passes are collective; what is missing has only
    `IGNORED` targets. So have targets among `ends`: they are no text, and neither the unigram baseline nor the evaluation
    counts them. Positions are those of training.
    """
    for first in range(0, len(windows), rows * world):
        batch = np.zeros((3, rows, sequence_length), dtype=np.int64)
        batch[1] = IGNORED
        mine = windows[first + rank * rows : first + (rank + 1) * rows]
        for row, (start, stop) in enumerate(mine):
            tokens = store.read(start, stop)
            batch[0, row, : len(tokens) - 1] = tokens[:-1]
            batch[1, row, : len(tokens) - 1] = np.where(np.isin(tokens[1:], ends), IGNORED, tokens[1:])
        fill_positions(batch[2], batch[0], ends[0] if document_masking else None)
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
    """What must not change between a checkpoint and the run that goes on from it: all that decides the data order, the loss and the model.

    Keys are what a refusal calls what differs; values are as they come back from JSON.
    """
    objective, first = config.objective, data.order.phases[0]
    marks: dict[str, Any] = {
        "token store": manifest.content_hash,
        "replay store": data.replay_content or None,
        "mixture": dict(first.shares),
        "steps at which the mixture changes": [phase.begin // config.global_batch_samples for phase in data.order.phases[1:]],
    }
    marks |= {f"mixture of phase {number}": dict(phase.shares) for number, phase in enumerate(data.order.phases[1:], 2)}
    canaries = asdict(config.canaries) | {"samples of the run": config.total_steps * config.global_batch_samples}
    return marks | {
        "seed": config.seed,
        "sequence_length": config.sequence_length,
        "global_batch_tokens": config.global_batch_tokens,
        "document masking": objective.document_masking,
        "z-loss": objective.z_loss,
        "goldfish loss": {"k": objective.goldfish_k, "context": objective.goldfish_context} if objective.goldfish_k else None,
        "canaries": canaries if data.canaries is not None else None,
        "model": parameters,
    }
