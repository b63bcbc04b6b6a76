"""Which steps read a document: the answer of the inverse order is what reading the whole run would find."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import write_json
from iberlm.core.manifest import Manifest
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import CanariesConfig, MixtureConfig, ObjectiveConfig, PhaseConfig, ReplayConfig
from iberlm.train.data import IGNORED, TrainingData, fingerprint, open_training
from iberlm.train.frozen import Inputs, freeze
from iberlm.train.lineage import Sighting, main_lines, steps_of_blocks, trace
from iberlm.train.state import TrainingState

from .conftest import VOCABULARY, make_store, tiny

GAPS = [[4, 3], [4, 2], [20, 5]]


@pytest.fixture(scope="module")
def old_store(inputs: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_store(tmp_path_factory.mktemp("replay") / "tokenize", inputs[1], {"eu": 9})


def settings(**changed: Any) -> PretrainConfig:
    """30 steps of eight windows of 16 tokens; Basque only in the second phase, Valencian never."""
    phases = [
        PhaseConfig(until=0.6, mixture=MixtureConfig(kind="uniform", languages=["es"])),
        PhaseConfig(mixture=MixtureConfig(kind="weights", weights={"es": 1, "eu": 3})),
    ]
    return tiny(**({"sequence_length": 16, "global_batch_tokens": 128, "steps": 30, "phases": phases} | changed))


def begin(folder: Path, config: PretrainConfig, inputs: list[Manifest], replay: Manifest | None = None, state: TrainingState | None = None) -> TrainingData:
    """What a run leaves in its folder, and its data."""
    folder.mkdir(parents=True)
    freeze(config, Inputs(inputs[0].folder, inputs[1].folder, replay.folder if replay else None), folder)
    if state is not None:
        write_json(folder / "state.json", dataclasses.asdict(state))
    return open_training(config, inputs[0], VOCABULARY, bos=0, replay=replay)


def places(manifest: Manifest) -> dict[str, tuple[str, int, int]]:
    """Source, first token and end of each training document in its source."""
    found: dict[str, tuple[str, int, int]] = {}
    lengths: dict[str, int] = {}
    for row in pq.read_table(manifest.path("documents.parquet")).to_pylist():  # in the order of the shards
        if row["split"] == "train":
            first = lengths.get(row["language"], 0)
            lengths[row["language"]] = first + row["length"]
            found[row["id"]] = row["language"], first, first + row["length"]
    return found


def read_everything(data: TrainingData, state: TrainingState, place: tuple[str, int, int]) -> dict[int, tuple[int, int, int, list[int]]]:
    """By window: tokens of the document that it reads (begin, end), those that count, steps; as reading all steps finds it."""
    source, first, end = place
    names, length, batch = [entry.name for entry in data.order.sources], data.sequence_length, data.global_batch_samples
    found: dict[int, tuple[int, int, int, list[int]]] = {}
    for step in range(state.step):
        numbers = np.arange(state.block(step) * batch, (state.block(step) + 1) * batch)
        picks, targets = data.order.picks(numbers), data.build(numbers)[0][1]
        for row, (position, window) in enumerate(zip(picks.source.tolist(), picks.window.tolist(), strict=True)):
            tokens = np.arange(window * length, window * length + length + 1)
            own = (tokens >= first) & (tokens < end)
            counted = int((own[1:] & (targets[row] != IGNORED)).sum())
            if names[position] == source and (own[:-1].any() or counted):
                entry = found.setdefault(window, (int(tokens[own][0]) - first, int(tokens[own][-1]) - first + 1, counted, []))
                entry[3].append(step + 1)
    return found


def as_found(sighting: Sighting) -> dict[int, tuple[int, int, int, list[int]]]:
    return {entry.window: (entry.begin, entry.end, entry.loss_tokens, entry.steps) for entry in sighting.readings if entry.steps}


@pytest.mark.parametrize(
    ("name", "changed", "state"),
    [
        ("the planned run", {}, None),
        ("after two returns", {}, TrainingState(step=25, gaps=GAPS)),
        ("goldfish, no masking", {"objective": ObjectiveConfig(document_masking=False, goldfish_k=3)}, TrainingState(step=30)),
        ("not begun", {}, TrainingState(step=0)),
    ],
)
def test_the_steps_are_those_that_reading_the_whole_run_finds(
    inputs: list[Manifest], tmp_path: Path, name: str, changed: dict[str, Any], state: TrainingState | None
) -> None:
    data = begin(tmp_path / "pretrain", settings(**changed), inputs, state=state)
    documents, reached = places(inputs[0]), state or TrainingState(step=30)
    for document in list(documents)[:70:15] + list(documents)[-8:]:
        (sighting,) = trace(document, tmp_path / "pretrain")
        assert sighting.planned == (state is None)
        if documents[document][0] == "ca-valencia":
            assert sighting.note == "'ca-valencia' is not in the mixture: never trained on"
        assert as_found(sighting) == read_everything(data, reached, documents[document]), name


def test_what_counts_adds_up_to_the_targets_of_the_run(inputs: list[Manifest], old_store: Manifest, tmp_path: Path) -> None:
    inputs = [make_store(tmp_path / "tokenize", inputs[1], {"es": 14, "eu": 8}), inputs[1]]
    # a language that is replayed lies in both stores, under the same ids
    config = settings(replay=ReplayConfig(tokens=str(old_store.folder), share=0.25))
    state = TrainingState(step=22, gaps=GAPS)
    data = begin(tmp_path / "pretrain", config, inputs, old_store, state)
    blocks = [state.block(step) for step in range(state.step)]
    targets = sum(data.build(np.arange(block * 8, block * 8 + 8))[1] for block in blocks)
    seen = 0
    for document in sorted({*places(inputs[0]), *places(old_store)}):
        for sighting in trace(document, tmp_path / "pretrain"):
            seen += sum(len(reading.steps) * reading.loss_tokens for reading in sighting.readings)
    assert seen == targets
    both = trace("train-eu-0-1", tmp_path / "pretrain")
    assert [(entry.replay, entry.store) for entry in both] == [(False, str(inputs[0].folder)), (True, str(old_store.folder))]


def test_readings_that_were_undone_are_told_apart(inputs: list[Manifest], tmp_path: Path) -> None:
    state = TrainingState(step=25, gaps=GAPS)
    begin(tmp_path / "pretrain", settings(), inputs, state=state)
    begin(tmp_path / "longer", settings(steps=36, phases=[dataclasses.replace(settings().phases[0], until=0.5), settings().phases[1]]), inputs)
    left_out = set(range(35)) - {state.block(step) for step in range(25)}
    assert len(left_out) == 10
    for document in list(places(inputs[0]))[:10]:
        (sighting,), (whole,) = trace(document, tmp_path / "pretrain"), trace(document, tmp_path / "longer")
        # without gaps, and with a phase boundary at the same sample, a step is the block after the one before
        expected = [sum(step - 1 in left_out for step in reading.steps) for reading in whole.readings]
        assert [reading.undone for reading in sighting.readings] == expected


@limits(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=4), st.integers(1, 40))
def test_blocks_lead_back_to_their_steps(gaps: list[tuple[int, int]], steps: int) -> None:
    state = TrainingState(step=steps, gaps=[list(gap) for gap in gaps])
    blocks = [state.block(step) for step in range(steps)]
    assert steps_of_blocks(np.asarray(blocks), state).tolist() == list(range(steps))
    others = np.asarray([block for block in range(blocks[-1]) if block not in blocks], dtype=np.int64)
    assert set(steps_of_blocks(others, state).tolist()) <= {-1}


def test_a_canary_in_the_place_of_a_document_is_told(inputs: list[Manifest], tmp_path: Path) -> None:
    canaries = CanariesConfig(canaries_each=3, repetitions=[8], prefix_tokens=6, suffix_tokens=6)
    data = begin(tmp_path / "pretrain", settings(canaries=canaries), inputs)
    assert data.canaries is not None
    planted = np.unique(np.concatenate(list(data.canaries.placements().values()))).astype(np.int64)
    picks = data.order.picks(planted)
    found = 0
    for document, (source, first, end) in list(places(inputs[0]).items())[:30]:
        (sighting,) = trace(document, tmp_path / "pretrain")
        rows = np.full((len(planted), 17), -1, dtype=np.int64)
        data.canaries.plant(planted, rows)
        columns = picks.window[:, None] * 16 + np.arange(17)
        names = np.array([entry.name for entry in data.order.sources])[picks.source]
        covered = (names == source) & ((rows >= 0) & (columns >= first) & (columns < end)).any(axis=1)
        expected = sorted((planted[covered] // 8 + 1).tolist())
        told = sorted(step for reading in sighting.readings for step in reading.canaries)
        # a token that only ends the window before, and does not count there, is no reading
        assert set(told) <= set(expected)
        assert len(expected) - len(told) <= 2
        found += len(told)
    assert found > 5


def test_the_lines_of_the_command(inputs: list[Manifest], tmp_path: Path) -> None:
    begin(tmp_path / "pretrain", settings(), inputs, state=TrainingState(step=25, gaps=GAPS))
    (sighting,) = trace("train-es-1-3", tmp_path / "pretrain")
    lines = main_lines("train-es-1-3", tmp_path)
    assert lines == main_lines("train-es-1-3", tmp_path / "pretrain")
    assert lines[0] == f"train-es-1-3: {sighting.tokens} tokens of es, card books_1 (train/es-00001, document 3)"
    assert lines[1] == f"  read in {len(sighting.steps)} of 25 steps"
    assert len(lines) == 2 + len(sighting.readings)
    assert lines[2].startswith("  tokens 0 to ")
    assert json.loads("\n".join(main_lines("train-es-1-3", tmp_path, as_json=True))) == [dataclasses.asdict(sighting)]
    assert main_lines("validation-eu-0-0", tmp_path)[1:] == ["  a validation document: never trained on"]
    last = max((end, document) for document, (source, _, end) in places(inputs[0]).items() if source == "es")[1]
    tail = (places(inputs[0])[last][2] - 1) % 16
    if tail:
        assert main_lines(last, tmp_path)[-1].endswith(": in no window, at the end of the text of the language")
    begin(tmp_path / "planned/pretrain", settings(), inputs)
    assert main_lines("train-es-1-3", tmp_path / "planned")[-1].endswith("nothing says how far the run got: these are all the steps that it plans")


def test_what_cannot_be_traced_is_refused(inputs: list[Manifest], tmp_path: Path) -> None:
    config, folder = settings(), tmp_path / "pretrain"
    data = begin(folder, config, inputs)
    with pytest.raises(DataError, match=r"tokenize: no document 'nobody'"):
        trace("nobody", folder)
    with pytest.raises(DataError, match=r"frozen\.json: missing, so no pretraining was begun in"):
        trace("train-es-0-0", tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        main_lines("train-es-0-0", tmp_path / "nowhere")
    saved = folder / "checkpoints/step-00000010/checkpoint.json"
    saved.parent.mkdir(parents=True)
    marks = fingerprint(config, inputs[0], data, {"layers": 2})
    write_json(saved, {"fingerprint": marks})
    assert trace("train-es-0-0", folder)
    write_json(saved, {"fingerprint": marks | {"token store": "0" * 64, "seed": 9}})
    with pytest.raises(CorruptError, match="differs now from what was saved in token store, seed; trace it with the stores that it read"):
        trace("train-es-0-0", folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(CorruptError, match=r"state\.json: cannot be read"):
        trace("train-es-0-0", folder)


def test_lineage_needs_no_torch() -> None:
    code = "import sys, iberlm.train.lineage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
