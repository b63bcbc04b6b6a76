"""Shares prepared ahead: the right samples in the right order, wherever the run jumps to, and errors at the block that they belong to."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from iberlm.core.errors import CorruptError
from iberlm.core.manifest import Manifest
from iberlm.train.batches import Batches
from iberlm.train.config_groups import MixtureConfig, PhaseConfig
from iberlm.train.data import IGNORED, TrainingData, open_training, rank_numbers

from .conftest import VOCABULARY, tiny

BATCH = 48
PHASES = [PhaseConfig(until=0.3), PhaseConfig(mixture=MixtureConfig(kind="weights", weights={"es": 1}))]


@pytest.fixture(scope="module")
def data(inputs: list[Manifest]) -> TrainingData:
    return open_training(tiny(sequence_length=16, global_batch_tokens=16 * BATCH, phases=PHASES, steps=20), inputs[0], VOCABULARY, bos=0)


def batches(data: TrainingData, rank: int = 0, world: int = 1, depth: int = 3) -> Batches:
    return Batches(data, rank=rank, world=world, accumulation=BATCH // world // 2, micro_batch_size=2, global_batch_samples=BATCH, pin=False, depth=depth)


@pytest.fixture
def open_batches(data: TrainingData) -> Iterator[Batches]:
    with batches(data) as made:
        yield made


def assert_right(data: TrainingData, made: Batches, block: int) -> None:
    share = made.get(block)
    expected, targets = data.build(np.arange(block * BATCH, (block + 1) * BATCH))
    assert (share.block, share.targets, share.arrays.dtype) == (block, targets, torch.int32)
    assert share.targets == int((share.arrays[1] != IGNORED).sum())
    assert np.array_equal(share.arrays.flatten(1, 2).numpy(), expected)


def test_blocks_in_order_after_a_jump_back_and_after_a_gap(data: TrainingData, open_batches: Batches) -> None:
    # one after the other, twice the same, back to a checkpoint, over a gap inside and outside of what is prepared, far away
    for block in [0, 1, 2, 3, 3, 2, 3, 5, 6, 100, 101, 7, 8, 9, 10, 10**6, 10**6 + 1, 0, 1]:
        assert_right(data, open_batches, block)


@pytest.mark.parametrize("depth", [0, 1, 10])
def test_any_depth_gives_the_same(data: TrainingData, depth: int) -> None:
    with batches(data, depth=depth) as made:
        for block in [4, 5, 6, 20, 7, 8]:
            assert_right(data, made, block)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_share_out_the_same_samples(data: TrainingData, world: int) -> None:
    accumulation = BATCH // world // 2
    expected = data.build(np.arange(7 * BATCH, 8 * BATCH))[0]
    seen = []
    for rank in range(world):
        with batches(data, rank, world) as made:
            arrays = made.get(7).arrays
        assert arrays.shape == (4, accumulation, 2, 16)
        for micro in range(accumulation):
            numbers = rank_numbers(7, micro, rank, world, 2, BATCH) - 7 * BATCH
            assert np.array_equal(arrays[:, micro].numpy(), expected[:, numbers])
            seen += numbers.tolist()
    assert sorted(seen) == list(range(BATCH))


def test_the_thread_works_ahead_and_no_further(data: TrainingData) -> None:
    built, enough = [], threading.Semaphore(0)

    class Watched(TrainingData):
        def build(self, numbers: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, int]:
            built.append(int(numbers[0]) // BATCH)
            found = super().build(numbers, out)
            enough.release()
            return found

    watched = Watched(**{name: getattr(data, name) for name in data.__dataclass_fields__})
    with batches(watched, depth=2) as made:
        made.get(5)
        for _ in range(3):
            enough.acquire()
        assert built == [5, 6, 7]
        waited = made.waited
        assert waited > 0
        made.get(6)
        enough.acquire()
        assert built == [5, 6, 7, 8]
    assert made.waited == waited  # 6 was ready


def test_an_error_comes_with_its_block_and_only_there(data: TrainingData, inputs: list[Manifest]) -> None:
    largest = data.samples(np.arange(12 * BATCH)).max(axis=1).reshape(12, BATCH)
    limit = int(largest[6:].max()) + 1  # ids that Spanish, alone in the second phase, does not have now count as damaged
    bad = np.flatnonzero((largest >= limit).any(axis=1)).tolist()
    assert 0 < len(bad) < 12
    config = tiny(sequence_length=16, global_batch_tokens=16 * BATCH, phases=PHASES, steps=20)
    damaged = open_training(config, replace(inputs[0], metrics=inputs[0].metrics | {"vocabulary_size": limit}), limit, bos=0)
    with batches(damaged) as made:
        for block in range(12):
            if block in bad:
                for _ in range(2):
                    with pytest.raises(CorruptError, match=rf"id \d+ in a vocabulary of {limit}"):
                        made.get(block)
            else:
                assert_right(data, made, block)


def test_closing_ends_the_thread_and_whoever_waits(data: TrainingData) -> None:
    before = set(threading.enumerate())
    made = batches(data)
    made.get(3)
    (thread,) = set(threading.enumerate()) - before
    made.close()
    made.close()
    assert not thread.is_alive()
    with pytest.raises(ValueError, match="these batches are closed"):
        made.get(4)
