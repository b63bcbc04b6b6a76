"""Samples and windows out of token stores: what is read is what lies there, wherever shards end, and nothing else is let through."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.core.documents import write_documents
from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.manifest import Manifest
from iberlm.core.token_store import open_shard, write_shard
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import CanariesConfig, MixtureConfig, ObjectiveConfig, PhaseConfig, ReplayConfig
from iberlm.train.data import (
    IGNORED,
    Concatenation,
    TrainingData,
    fingerprint,
    open_split,
    open_training,
    read_store,
    validation_batches,
    validation_windows,
)
from iberlm.train.goldfish import drop_mask

from .conftest import DOCUMENTS, VOCABULARY, make_store, tiny

BOS, EOS = 0, 1


def short(**settings: Any) -> PretrainConfig:
    """Windows of 16 tokens, four a step."""
    return tiny(**({"sequence_length": 16, "global_batch_tokens": 64} | settings))


def opened(inputs: list[Manifest], **settings: Any) -> TrainingData:
    return open_training(short(**settings), inputs[0], VOCABULARY, bos=BOS)


@pytest.fixture(scope="module")
def old_store(inputs: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A second store of the same tokenizer, to replay."""
    return make_store(tmp_path_factory.mktemp("replay") / "tokenize", inputs[1], {"es": 12, "eu": 12})


@given(st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=5), st.data(), st.sampled_from([np.uint16, np.int32]))
def test_a_window_is_the_same_wherever_shards_end(shards: list[list[int]], data: st.DataObject, dtype: type[np.integer]) -> None:
    whole = [token for shard in shards for token in shard]
    store = Concatenation("x", [np.array(shard, dtype) for shard in shards], 100)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    found = store.read(start, stop)
    assert found.dtype == np.int64
    assert found.tolist() == whole[start:stop]
    assert len(store) == len(whole)


@pytest.mark.parametrize(("wrong", "dtype"), [(100, np.uint16), (65_535, np.uint16), (100, np.int32), (-1, np.int32)])
def test_an_id_outside_the_vocabulary_is_named(wrong: int, dtype: type[np.integer]) -> None:
    store = Concatenation("train/es-*.bin", [np.array([1, 2, 3], dtype), np.array([4, wrong, 6], dtype)], 100)
    assert store.read(0, 4).tolist() == [1, 2, 3, 4]
    with pytest.raises(CorruptError, match=rf"train/es-\*\.bin: id {wrong} in a vocabulary of 100"):
        store.read(2, 6)


def test_samples_are_the_windows_that_the_order_picks(inputs: list[Manifest]) -> None:
    config = tiny(sequence_length=16, global_batch_tokens=64)
    data = open_training(config, inputs[0], VOCABULARY, bos=0)
    texts = {}
    for tag in data.shares:
        paths = inputs[0].paths(f"train/{tag.replace('-', '_')}-", ".bin")
        texts[tag] = np.concatenate([open_shard(path.with_suffix("")).tokens for path in paths])
    numbers = np.array([0, 1, 5, 4095, 4096, 4097, 10**9])
    picks, tags = data.order.picks(numbers), list(data.shares)
    found = data.samples(numbers)
    assert (found.shape, found.dtype) == ((7, 17), np.int64)
    for row, source, window in zip(found, picks.source, picks.window, strict=True):
        assert row.tolist() == texts[tags[source]][window * 16 : window * 16 + 17].tolist()
    assert data.samples([]).shape == (0, 17)


def test_a_sample_with_an_id_outside_the_vocabulary_is_refused(inputs: list[Manifest]) -> None:
    stores = open_split(inputs[0], "train", VOCABULARY)
    largest = max(int(store.read(0, len(store)).max()) for store in stores.values())
    manifest = replace(inputs[0], metrics=inputs[0].metrics | {"vocabulary_size": largest})
    data = open_training(tiny(sequence_length=16, global_batch_tokens=64), manifest, largest, bos=0)
    with pytest.raises(CorruptError, match=rf"-\*\.bin: id {largest} in a vocabulary of {largest}"):
        data.samples(np.arange(4096))


@pytest.mark.parametrize(("place", "name"), [(0, "bos"), (-1, "eos")])
def test_a_shard_that_lost_its_first_or_last_id_is_refused(inputs: list[Manifest], tmp_path: Path, place: int, name: str) -> None:
    shutil.copytree(inputs[0].folder, tmp_path / "tokenize")
    stem = tmp_path / "tokenize/train/es-00000"
    shard = open_shard(stem)
    documents = [np.array(shard.document(index)) for index in range(len(shard))]
    documents[place][place] = 7  # same lengths, same index
    write_shard(stem, documents, np.uint16)
    with pytest.raises(CorruptError, match=rf"es-00000\.bin: id 7 stands where the {name} id \d belongs; tokenize again"):
        open_split(replace(inputs[0], folder=tmp_path / "tokenize"), "train", VOCABULARY)


def test_a_store_that_does_not_state_its_boundaries_is_refused(inputs: list[Manifest]) -> None:
    metrics = {key: value for key, value in inputs[0].metrics.items() if key != "boundary"}
    with pytest.raises(CorruptError, match="does not say with which ids documents begin and end"):
        open_split(replace(inputs[0], metrics=metrics), "train", VOCABULARY)


def test_a_store_of_another_vocabulary_is_refused(own_store: Callable[[dict[str, int]], Manifest]) -> None:
    store = own_store({"es": 20})
    with pytest.raises(CorruptError, match=rf"made with a vocabulary of {VOCABULARY}, and the tokenizer given has 301"):
        read_store(store.folder, VOCABULARY + 1)


def by_hand(data: TrainingData, numbers: np.ndarray, masking: bool) -> np.ndarray:
    """Inputs, targets and positions, token by token."""
    out = np.empty((3, len(numbers), data.sequence_length), dtype=np.int64)
    for row, tokens in enumerate(data.samples(numbers)):
        position = 0
        for column in range(data.sequence_length):
            position = 0 if masking and tokens[column] == BOS else position
            target = IGNORED if masking and tokens[column + 1] == BOS else tokens[column + 1]
            out[:, row, column] = tokens[column], target, position
            position += 1
    return out


@pytest.mark.parametrize("masking", [True, False])
def test_positions_and_targets_begin_again_with_each_document(inputs: list[Manifest], masking: bool) -> None:
    data, numbers = opened(inputs, objective=ObjectiveConfig(document_masking=masking)), np.arange(300)
    arrays, counted = data.build(numbers)
    assert (arrays.shape, arrays.dtype) == ((4, 300, 16), np.int32)
    assert np.array_equal(arrays[:3], by_hand(data, numbers, masking))
    assert counted == (arrays[1] != IGNORED).sum()
    assert (counted < 300 * 16) == masking
    assert ((arrays[0] == BOS) & (np.arange(16) > 0)).any()  # documents do end inside these windows
    given = np.empty_like(arrays)
    assert data.build(numbers, given)[0] is given
    assert np.array_equal(given, arrays)


def test_goldfish_leaves_targets_out(inputs: list[Manifest]) -> None:
    plain, numbers = opened(inputs), np.arange(200)
    fish = opened(inputs, objective=ObjectiveConfig(goldfish_k=3, goldfish_context=4))
    expected = plain.build(numbers)[0]
    dropped = drop_mask(plain.samples(numbers), 3, 4, bos=BOS)
    assert 0.25 < dropped.mean() < 0.42
    expected[1][dropped] = IGNORED
    arrays, counted = fish.build(numbers)
    assert np.array_equal(arrays, expected)
    assert counted == (expected[1] != IGNORED).sum()


def test_canaries_are_planted_before_positions_are_made(inputs: list[Manifest]) -> None:
    settings = CanariesConfig(canaries_each=2, repetitions=[1, 4], prefix_tokens=5, suffix_tokens=5)
    plain, planted = opened(inputs, steps=60), opened(inputs, steps=60, canaries=settings)
    assert planted.canaries is not None
    places = sorted(number for numbers in planted.canaries.placements().values() for number in numbers)
    assert len(places) == 10
    numbers = np.arange(240)
    rows = plain.samples(numbers)
    planted.canaries.plant(numbers, rows)
    assert sorted(np.flatnonzero((rows != plain.samples(numbers)).any(axis=1))) == places
    arrays = planted.build(numbers)[0]
    assert np.array_equal(arrays[0], rows[:, :-1])
    assert np.array_equal(arrays[1], np.where(rows[:, 1:] == BOS, IGNORED, rows[:, 1:]))
    assert (arrays[2][arrays[0] == BOS] == 0).all()
    assert np.array_equal(arrays[3], plain.build(numbers)[0][3])


def expected_groups(data: TrainingData, stores: dict[str, Manifest], numbers: np.ndarray) -> list[list[str]]:
    """Name of the group of each target, from the rows of documents.parquet; `stores` by what their sources' names begin with."""
    names: dict[str, list[str]] = {}
    for prefix, manifest in stores.items():
        for row in pq.read_table(manifest.path("documents.parquet")).to_pylist():
            if row["split"] == "train":  # the fixture's rows are in the order of the shards
                name = f"{prefix}{row['language']}" + (f"/{row['card']}" if row["language"] == "es" else "")
                names.setdefault(prefix + row["language"], []).extend([name] * row["length"])
    picks, length = data.order.picks(numbers), data.sequence_length
    found = []
    for source, window in zip(picks.source.tolist(), picks.window.tolist(), strict=True):
        found.append(names[data.order.sources[source].name][window * length + 1 : (window + 1) * length + 1])
    return found


@pytest.mark.parametrize("row_group_a_shard", [True, False])
def test_each_target_is_of_the_group_of_its_document(inputs: list[Manifest], tmp_path: Path, row_group_a_shard: bool) -> None:
    shutil.copytree(inputs[0].folder, tmp_path / "tokenize")
    manifest = replace(inputs[0], folder=tmp_path / "tokenize")
    if row_group_a_shard:  # as the tokenize stage writes it
        table = pq.read_table(manifest.path("documents.parquet"))
        shards = table["shard"].unique().to_pylist()
        write_documents(manifest.path("documents.parquet"), [table.filter(pq.filters_to_expression([("shard", "=", shard)])) for shard in shards], DOCUMENTS)
    data, numbers = open_training(short(), manifest, VOCABULARY, bos=BOS), np.arange(600)
    assert data.groups == ["ca-valencia", "es/books_0", "es/books_1", "eu"]
    groups = data.build(numbers)[0][3]
    assert [[data.groups[group] for group in row] for row in groups.tolist()] == expected_groups(data, {"": manifest}, numbers)


def test_a_store_of_several_cards_needs_its_documents(inputs: list[Manifest], tmp_path: Path) -> None:
    without = [output for output in inputs[0].outputs if output.path != "documents.parquet"]
    one = replace(inputs[0], outputs=without, cards={"books": "CC0-1.0"})
    assert open_training(short(), one, VOCABULARY, bos=BOS).groups == ["ca-valencia", "es", "eu"]
    with pytest.raises(CorruptError, match=r"lists no output 'documents\.parquet'"):
        open_training(short(), replace(one, cards={"books": "CC0-1.0", "web": "CC0-1.0"}), VOCABULARY, bos=BOS)
    shutil.copytree(inputs[0].folder, tmp_path / "tokenize")
    (tmp_path / "tokenize/documents.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match=r"documents\.parquet: not a whole Parquet file"):
        open_training(short(), replace(inputs[0], folder=tmp_path / "tokenize"), VOCABULARY, bos=BOS)
    table = pq.read_table(inputs[0].path("documents.parquet"))
    pq.write_table(table.slice(1), tmp_path / "tokenize/documents.parquet")
    damaged = open_training(short(), replace(inputs[0], folder=tmp_path / "tokenize"), VOCABULARY, bos=BOS)
    with pytest.raises(CorruptError, match=r"its documents of train/es-00000 do not follow one another up to its \d+ tokens"):
        damaged.build(np.arange(100))


def weighted(**weights: float) -> MixtureConfig:
    return MixtureConfig(kind="weights", weights=weights)


def test_phases_change_the_mixture_at_their_step(inputs: list[Manifest]) -> None:
    phases = [PhaseConfig(until=0.75, mixture=weighted(es=1, ca_valencia=3)), PhaseConfig(mixture=weighted(es=1, eu=1))]
    data = opened(inputs, phases=phases, steps=4000)
    source = data.order.picks(np.arange(16_000)).source
    names = np.array([entry.name for entry in data.order.sources])
    assert names.tolist() == ["ca-valencia", "es", "eu"]
    assert set(names[source[:12_000]]) == {"ca-valencia", "es"}
    assert set(names[source[12_000:]]) == {"es", "eu"}
    assert data.shares == {"ca-valencia": 0.75, "es": 0.25}
    epochs = data.epochs()
    windows = {entry.name: entry.windows for entry in data.order.sources}
    assert epochs == {name: float((names[source] == name).sum()) / windows[name] for name in names}
    first, second, together = data.plan_lines()
    assert first.startswith(f"mixture to step 3000: ca-valencia 0.7500 ({epochs['ca-valencia']:.2f} epochs), es 0.2500 (")
    assert second.startswith("mixture to step 4000: es 0.5000 (")
    assert together == "mixtures together: " + ", ".join(f"{name} {value:.2f} epochs" for name, value in epochs.items())
    assert len(opened(inputs).plan_lines()) == 1
    with pytest.raises(ConfigError, match=r"phases\[0\]: until=0\.01 of 6 steps leaves it none; it begins at step 0"):
        opened(inputs, phases=[PhaseConfig(until=0.01), PhaseConfig()])


def test_a_share_of_the_samples_is_replayed_in_every_phase(inputs: list[Manifest], old_store: Manifest) -> None:
    replay = ReplayConfig(tokens=str(old_store.folder), share=0.25, mixture=weighted(es=3, eu=1))
    phases = [PhaseConfig(until=0.5, mixture=weighted(es=1)), PhaseConfig(mixture=weighted(eu=1))]
    config = short(replay=replay, phases=phases, steps=2048 * 2)
    data, numbers = open_training(config, inputs[0], VOCABULARY, bos=BOS, replay=old_store), np.arange(16_384)
    names = [source.name for source in data.order.sources]
    assert names == ["es", "eu", "replay:es", "replay:eu"]
    source = data.order.picks(numbers).source
    assert np.bincount(source[:8192], minlength=4).tolist() == [6144, 0, 1536, 512]
    assert np.bincount(source[8192:], minlength=4).tolist() == [0, 6144, 1536, 512]
    assert data.groups == ["es/books_0", "es/books_1", "eu", "replay:es/books_0", "replay:es/books_1", "replay:eu"]
    some = numbers[8000:8400]
    groups = data.build(some)[0][3]
    assert [[data.groups[group] for group in row] for row in groups.tolist()] == expected_groups(data, {"": inputs[0], "replay:": old_store}, some)
    limited = replace(replay, mixture=replace(replay.mixture, max_epochs=2))
    with pytest.raises(ConfigError, match=r"replay\.mixture\.max_epochs: by step 2048 'replay:es' would have been read [\d.]+ times, and the limit is 2"):
        open_training(replace(config, replay=limited), inputs[0], VOCABULARY, bos=BOS, replay=old_store)


def test_a_replay_store_of_another_tokenizer_is_refused(inputs: list[Manifest], old_store: Manifest) -> None:
    config = short(replay=ReplayConfig(tokens=str(old_store.folder), share=0.5))
    other = replace(old_store, metrics=old_store.metrics | {"tokenizer": "0" * 64})
    with pytest.raises(ConfigError, match=r"replay\.tokens: .* was made with another tokenizer than"):
        open_training(config, inputs[0], VOCABULARY, bos=BOS, replay=other)
    nameless = replace(old_store, metrics={key: value for key, value in old_store.metrics.items() if key != "tokenizer"})
    with pytest.raises(CorruptError, match="does not say which tokenizer"):
        open_training(config, inputs[0], VOCABULARY, bos=BOS, replay=nameless)
    with pytest.raises(CorruptError, match="begin with id 0, and the tokenizer's BOS is 5"):
        open_training(config, inputs[0], VOCABULARY, bos=5, replay=old_store)


def test_a_run_that_would_read_a_language_too_often_is_refused(inputs: list[Manifest]) -> None:
    often = MixtureConfig(kind="uniform", max_epochs=3)
    epochs = opened(inputs, mixture=MixtureConfig(kind="uniform"), steps=1000).epochs()
    worst = max(epochs, key=lambda name: epochs[name])
    assert epochs[worst] > 3
    assert opened(inputs, mixture=often, steps=20).epochs()[worst] < 3
    with pytest.raises(ConfigError, match=r"mixture\.max_epochs: by step 1000 '[a-z-]+' would have been read [\d.]+ times, and the limit is 3; draw less"):
        opened(inputs, mixture=often, steps=1000)
    # a limit holds for all that was read by the end of its phase, and for what its phase draws
    phases = [PhaseConfig(until=0.5, mixture=weighted(eu=1)), PhaseConfig(mixture=replace(weighted(es=1), max_epochs=1.5))]
    found = opened(inputs, phases=phases, steps=60).epochs()
    assert found["eu"] > 1.5 > found["es"]
    with pytest.raises(ConfigError, match=r"phases\[0\]\.mixture\.max_epochs: by step 500 'eu'"):
        opened(inputs, phases=[replace(phases[0], mixture=replace(weighted(eu=1), max_epochs=3)), phases[1]], steps=1000)


def test_the_fingerprint_names_all_that_decides_order_and_loss(inputs: list[Manifest], old_store: Manifest) -> None:
    def marks(store: Manifest = inputs[0], replay: Manifest | None = None, **settings: Any) -> dict[str, Any]:
        config = short(steps=400, **settings)
        return fingerprint(config, store, open_training(config, store, VOCABULARY, bos=BOS, replay=replay), {"layers": 2})

    plain = marks()
    assert plain == json.loads(json.dumps(plain)) == marks()
    canaries = CanariesConfig(canaries_each=1, repetitions=[2], prefix_tokens=4, suffix_tokens=4)
    replay = ReplayConfig(tokens=str(old_store.folder), share=0.5)
    half = [PhaseConfig(until=0.5), PhaseConfig(mixture=weighted(es=1))]
    later = [PhaseConfig(until=0.6), PhaseConfig(mixture=weighted(es=1))]
    changed: dict[str, dict[str, Any]] = {
        "token store": {"store": old_store},
        "mixture": {"mixture": weighted(es=1, eu=1)},
        "seed": {"seed": 4},
        "replay store": {"replay": old_store},
        "document masking": {"objective": ObjectiveConfig(document_masking=False)},
        "z-loss": {"objective": ObjectiveConfig(z_loss=1e-4)},
        "goldfish loss": {"objective": ObjectiveConfig(goldfish_k=4)},
        "canaries": {"canaries": canaries},
        "steps at which the mixture changes": {"phases": half},
    }
    for name, settings in changed.items():
        if name == "replay store":
            config = short(steps=400, replay=replay)
            found = fingerprint(config, inputs[0], open_training(config, inputs[0], VOCABULARY, bos=BOS, replay=old_store), {"layers": 2})
        else:
            found = marks(**settings)
        assert name in [key for key in found if found[key] != plain.get(key)], name
    assert [key for key, value in marks(phases=half).items() if value != marks(phases=later)[key]] == ["steps at which the mixture changes"]
    assert [key for key, value in marks(phases=half).items() if value != marks(phases=[half[0], PhaseConfig(mixture=weighted(eu=1))])[key]] == [
        "mixture of phase 2"
    ]


@pytest.mark.parametrize("masking", [True, False])
def test_validation_predicts_each_token_once_from_the_positions_of_training(inputs: list[Manifest], masking: bool) -> None:
    store = open_split(inputs[0], "validation", VOCABULARY)["eu"]
    windows = validation_windows(store, 16, 0)
    seen: list[int] = []
    batches = [list(validation_batches(store, windows, 16, 2, rank, 3, (BOS, EOS), document_masking=masking)) for rank in range(3)]
    assert len({len(own) for own in batches}) == 1
    for turn in range(len(batches[0])):
        for own in batches:
            inputs_, targets, positions = own[turn]
            assert own[turn].shape == (3, 2, 16)
            for row in range(2):
                expected, position = [], 0
                for token in inputs_[row]:
                    position = 0 if masking and token == BOS else position
                    expected.append(position)
                    position += 1
                assert positions[row].tolist() == expected
            seen += targets[targets != IGNORED].tolist()
    whole = store.read(1, len(store))
    assert seen == whole[(whole != BOS) & (whole != EOS)].tolist()
