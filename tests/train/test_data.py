"""Samples and windows out of token stores: what is read is what lies there, wherever shards end, and nothing else is let through."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.core.errors import CorruptError
from iberlm.core.manifest import Manifest
from iberlm.core.token_store import open_shard, write_shard
from iberlm.train.data import Concatenation, open_split, open_training, read_store

from .conftest import VOCABULARY, tiny


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
    data = open_training(config, inputs[0], VOCABULARY)
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
    data = open_training(tiny(sequence_length=16, global_batch_tokens=64), manifest, largest)
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
