"""Which steps of a run read a document: the data order, followed backwards. Nothing is logged for it; it follows from the settings."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.train.config import PretrainConfig
from iberlm.train.data import IGNORED, REPLAY, TRAIN, TrainingData, boundary, fingerprint, open_training
from iberlm.train.frozen import FROZEN, thaw
from iberlm.train.groups import DOCUMENTS, DocumentIndex
from iberlm.train.state import STATE, TrainingState

_SHOWN_STEPS = 12
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """A window that holds tokens of the document, and when it was read."""

    window: int
    """Number of the window in its source."""
    begin: int
    end: int
    """The tokens `begin` up to `end` (not included) of the document lie in it."""
    loss_tokens: int
    """So many of them count in the loss whenever the window is read; 0 when it never was."""
    steps: list[int]
    """Steps that read it, one entry each time; counted from 1, as in metrics.jsonl."""
    undone: int
    """How often it was read by a step that a return to a checkpoint has undone: nothing of that is in the model."""
    canaries: list[int]
    """Of `steps`, those in which a canary stood in the place of some of these tokens."""


@dataclass(frozen=True)
class Sighting:
    """A document in one of the stores of a run."""

    document: str
    store: str
    replay: bool
    split: str
    language: str
    card: str
    shard: str
    index: int
    tokens: int
    """BOS and EOS included."""
    steps_done: int
    planned: bool
    """Nothing says how far the run got: `steps_done` are all that it plans."""
    note: str
    """Why it is not read, when that has a reason."""
    readings: list[Reading] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """Steps that read any of it, each once."""
        return sorted({step for reading in self.readings for step in reading.steps})


@dataclass(frozen=True)
class _Run:
    config: PretrainConfig
    stores: dict[str, Manifest]
    """By what the names of their sources begin with."""
    state: TrainingState
    planned: bool


def trace(document_id: str, pretrain_folder: Path) -> list[Sighting]:
    """Where a document (its `id` in documents.parquet) lies in the stores of a run, and which steps have read it, exactly.

    Raises `DataError` when no store has it or the folder is of no run, and `CorruptError` when a store is no longer the one that the run reads.
    """
    run = _open_run(pretrain_folder)
    rows = {prefix: DocumentIndex(manifest.path(DOCUMENTS)).find(document_id) for prefix, manifest in run.stores.items()}
    if not any(rows.values()):
        raise DataError(f"{' and '.join(str(manifest.folder) for manifest in run.stores.values())}: no document '{document_id}'")
    data = _open_data(run, pretrain_folder)
    return [_sighting(run, data, prefix, row) for prefix, row in rows.items() if row]


def steps_of_blocks(blocks: I64, state: TrainingState) -> I64:
    """The step (from 0) that reads each block, int64[n]; -1 for a block that was left out. Inverse of `TrainingState.block`."""
    begins = np.asarray(sorted({0, *(at for at, _ in state.gaps)}), dtype=np.int64)
    shifts = np.asarray([state.block(int(begin)) - begin for begin in begins], dtype=np.int64)
    ends = np.append(begins[1:], np.iinfo(np.int64).max)
    stretch = np.searchsorted(begins + shifts, blocks, side="right") - 1
    steps = blocks - shifts[stretch]
    return np.where((stretch >= 0) & (steps < ends[stretch]), steps, -1)


def _open_run(folder: Path) -> _Run:
    path = folder / FROZEN
    try:
        config, inputs, _ = thaw(path)
    except FileNotFoundError:
        raise DataError(f"{path}: missing, so no pretraining was begun in {folder}") from None
    except (OSError, ValueError, KeyError) as error:
        raise CorruptError(f"{path}: cannot be read ({error})") from error
    stores = {"": read_manifest(inputs.tokens)}
    if inputs.replay:
        stores[REPLAY] = read_manifest(inputs.replay)
    for manifest in stores.values():
        manifest.check_files()
    state, planned = TrainingState(step=config.total_steps), True
    if (folder / STATE).is_file():
        try:
            known = json.loads((folder / STATE).read_text(encoding="utf-8"))
            state, planned = TrainingState(step=known["step"], gaps=known["gaps"]), False
        except (ValueError, KeyError) as error:
            raise CorruptError(f"{folder / STATE}: cannot be read ({error}); the next checkpoint of the run writes it anew") from error
    return _Run(config, stores, state, planned)


def _open_data(run: _Run, folder: Path) -> TrainingData:
    manifest = run.stores[""]
    data = open_training(run.config, manifest, manifest.metrics["vocabulary_size"], bos=boundary(manifest)[0], replay=run.stores.get(REPLAY))
    records = sorted(folder.glob("checkpoints/step-*/checkpoint.json"))
    if records:
        try:
            then = json.loads(records[-1].read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError) as error:
            raise CorruptError(f"{records[-1]}: cannot be read ({error})") from error
        now = json.loads(json.dumps(fingerprint(run.config, manifest, data, {})))
        if changed := [key for key in now if key != "model" and then.get(key) != now[key]]:
            raise CorruptError(f"{records[-1].parent}: the run differs now from what was saved in {', '.join(changed)}; trace it with the stores that it read")
    return data


def _sighting(run: _Run, data: TrainingData, prefix: str, row: dict[str, Any]) -> Sighting:
    names = [source.name for source in data.order.sources]
    name, readings, note = prefix + row["language"], [], ""
    if row["split"] != TRAIN:
        note = "a validation document: never trained on"
    elif name not in names:
        note = f"'{name}' is not in the mixture: never trained on"
    else:
        source = names.index(name)
        stems = [stem for stem, _ in data.stores[source].parts]
        begin = sum(tokens for _, tokens in data.stores[source].parts[: stems.index(row["shard"])]) + row["offset"]
        readings = _readings(run, data, source, begin, begin + row["length"])
    return Sighting(
        document=row["id"],
        store=str(run.stores[prefix].folder),
        replay=bool(prefix),
        split=row["split"],
        language=row["language"],
        card=row["card"],
        shard=row["shard"],
        index=row["index"],
        tokens=row["length"],
        steps_done=run.state.step,
        planned=run.planned,
        note=note,
        readings=readings,
    )


def _readings(run: _Run, data: TrainingData, source: int, begin: int, end: int) -> list[Reading]:
    """Readings of the tokens `begin` up to `end` of a source: those that a window has as inputs, or as targets that count."""
    length, batch = data.sequence_length, data.global_batch_samples
    samples = run.state.block(run.state.step) * batch  # what was left out on the way included
    bare, found = dataclasses.replace(data, canaries=None), []
    for window in range(max(0, begin - 1) // length, min((end - 1) // length + 1, data.order.sources[source].windows)):
        first = window * length
        numbers = data.order.samples_of(source, window, samples)
        steps = steps_of_blocks(numbers // batch, run.state)
        loss_tokens = 0
        if len(numbers):
            targets = bare.build(numbers[:1])[0][1, 0]
            loss_tokens = int(np.count_nonzero(targets[max(0, begin - first - 1) : end - first - 1] != IGNORED))
        if begin == first + length and not loss_tokens:
            continue  # its BOS ends the window, as a target that does not count: nothing of it is read
        low, high = max(begin, first), min(end, first + length + 1)
        kept = numbers[steps >= 0]
        covered = _covered(data, kept, low - first, high - first)
        found.append(
            Reading(
                window=window,
                begin=low - begin,
                end=high - begin,
                loss_tokens=loss_tokens,
                steps=(steps[steps >= 0] + 1).tolist(),
                undone=int((steps < 0).sum()),
                canaries=(steps_of_blocks(covered // batch, run.state) + 1).tolist(),
            )
        )
    return found


def _covered(data: TrainingData, numbers: I64, low: int, high: int) -> I64:
    """Those of the samples in which a canary stands over some of the columns `low` to `high`."""
    if data.canaries is None:
        return numbers[:0]
    planted = np.asarray(sorted(number for places in data.canaries.placements().values() for number in places), dtype=np.int64)
    numbers = numbers[np.isin(numbers, planted)]
    rows = np.full((len(numbers), data.sequence_length + 1), -1, dtype=np.int64)
    data.canaries.plant(numbers, rows)
    return numbers[(rows[:, low:high] >= 0).any(axis=1)]


def main_lines(document_id: str, run_dir: Path, *, as_json: bool = False) -> list[str]:
    """What `iberlm lineage DOCUMENT RUN_DIR` prints. `run_dir`: of the whole run, or of its pretrain stage."""
    folder = run_dir if (run_dir / FROZEN).is_file() or not (run_dir / "pretrain").is_dir() else run_dir / "pretrain"
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder; give the run_dir of a run with a pretrain stage")
    found = trace(document_id, folder)
    if as_json:
        return json.dumps([dataclasses.asdict(sighting) for sighting in found], indent=2, ensure_ascii=False).splitlines()
    lines = [line for sighting in found for line in _described(sighting)]
    if found[0].planned:
        lines.append(f"{folder / STATE} is not there, so nothing says how far the run got: these are all the steps that it plans")
    return lines


def _described(sighting: Sighting) -> list[str]:
    where = f"{'the replay store, ' if sighting.replay else ''}{sighting.shard}, document {sighting.index}"
    lines = [f"{sighting.document}: {sighting.tokens} tokens of {sighting.language}, card {sighting.card} ({where})"]
    if sighting.note:
        return [*lines, f"  {sighting.note}"]
    lines.append(f"  read in {len(sighting.steps)} of {sighting.steps_done} steps")
    for reading in sighting.readings:
        text = f"  tokens {reading.begin} to {reading.end - 1}: " + (_listed(reading.steps) if reading.steps else "in no step")
        text += f"; {reading.loss_tokens} of {reading.end - reading.begin} count in the loss" if reading.steps else ""
        text += f"; {reading.undone} more undone by a return to a checkpoint" if reading.undone else ""
        text += f"; a canary in place of some in {_listed(reading.canaries)}" if reading.canaries else ""
        lines.append(text)
    read = max((reading.end for reading in sighting.readings), default=0)
    if read < sighting.tokens:
        lines.append(f"  tokens {read} to {sighting.tokens - 1}: in no window, at the end of the text of the language")
    return lines


def _listed(steps: list[int]) -> str:
    shown = ", ".join(str(step) for step in steps[:_SHOWN_STEPS])
    more = f" and {len(steps) - _SHOWN_STEPS} more" if len(steps) > _SHOWN_STEPS else ""
    return f"step{'s' if len(steps) > 1 else ''} {shown}{more}"
