import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, DataError
from iberlm.train.config import MixtureConfig
from iberlm.train.data import rank_numbers
from iberlm.train.order import SLOTS, Order, Source, allot, permute, shares, window_count


def order(shares_and_windows: dict[str, tuple[float, int]], seed: int = 0) -> Order:
    return Order([Source(name, share, windows) for name, (share, windows) in shares_and_windows.items()], seed)


THREE = {"es": (0.6, 5000), "ca": (0.3, 700), "eu": (0.1, 37)}


@limits(max_examples=40, deadline=None)
@given(windows=st.integers(1, 3000), seed=st.integers(0, 2**62), share=st.floats(0.05, 0.9))
def test_each_epoch_of_a_source_visits_each_window_once(windows: int, seed: int, share: float) -> None:
    picks = order({"eu": (share, windows), "es": (1 - share, 10**9)}, seed).picks(np.arange(3 * SLOTS))
    mine = picks.source == 0
    epochs, visited = picks.epoch[mine], picks.window[mine]
    assert np.array_equal(epochs, np.arange(mine.sum()) // windows)
    for epoch in range(int(mine.sum()) // windows):
        assert np.array_equal(np.sort(visited[epochs == epoch]), np.arange(windows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    index = np.arange(1000)
    first, second = (permute(index, 1000, np.full(1000, epoch), 7) for epoch in (0, 1))
    other = permute(index, 1000, np.zeros(1000, dtype=np.int64), 8)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    # no trace of the natural order: neighbours are as far apart as in a random permutation, a third of the size on average
    assert 250 < np.abs(np.diff(first)).mean() < 420


@limits(max_examples=30, deadline=None)
@given(numbers=st.lists(st.integers(0, 10**12), min_size=1, max_size=50), seed=st.integers(0, 10**9))
def test_a_sample_depends_on_its_number_alone(numbers: list[int], seed: int) -> None:
    together = order(THREE, seed).picks(numbers)
    for position, number in enumerate(numbers):
        alone = order(THREE, seed).picks([number])
        assert [int(alone.source[0]), int(alone.epoch[0]), int(alone.window[0])] == [
            int(part[position]) for part in (together.source, together.epoch, together.window)
        ]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_the_same_samples_in_the_same_steps(world: int) -> None:
    micro, batch = 2, 16
    for step in (0, 5):
        seen = [rank_numbers(step, turn, rank, world, micro, batch) for turn in range(batch // (micro * world)) for rank in range(world)]
        assert np.array_equal(np.concatenate(seen), np.arange(step * batch, (step + 1) * batch))


def test_every_cycle_respects_the_weights() -> None:
    picks = order(THREE, 5).picks(np.arange(4 * SLOTS))
    for cycle in range(4):
        counts = np.bincount(picks.source[cycle * SLOTS : (cycle + 1) * SLOTS])
        assert np.abs(counts / SLOTS - [0.6, 0.3, 0.1]).max() <= 1 / SLOTS


def test_a_cycle_mixes_the_sources_throughout() -> None:
    source = order(THREE, 5).picks(np.arange(SLOTS)).source
    for quarter in np.split(source, 4):
        assert np.abs(np.bincount(quarter, minlength=3) / len(quarter) - [0.6, 0.3, 0.1]).max() < 0.06


@given(weights=st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=60))
def test_slots_add_up_and_follow_the_weights(weights: list[float]) -> None:
    parts = [weight / sum(weights) for weight in weights]
    counts = allot(parts)
    assert sum(counts) == SLOTS
    assert min(counts) >= 1
    small = sum(part * SLOTS < 1 for part in parts)
    assert all(abs(count - part * SLOTS) <= 1 + small for count, part in zip(counts, parts, strict=True))


def test_temperature_flattens() -> None:
    tokens = {"es": 1_000_000, "eu": 10_000}
    follow = shares(MixtureConfig(kind="temperature", temperature=1), tokens, 100)
    flat = shares(MixtureConfig(kind="temperature", temperature=2), tokens, 100)
    assert follow["eu"] == pytest.approx(1 / 101)
    assert flat["eu"] == pytest.approx(1 / 11)
    assert shares(MixtureConfig(kind="uniform"), tokens, 100) == {"es": 0.5, "eu": 0.5}


def test_weights_take_either_spelling_and_leave_out_zeros() -> None:
    tokens = {"es": 5000, "ca-valencia": 5000, "eu": 5000}
    config = MixtureConfig(kind="weights", weights={"es": 3, "ca_valencia": 1, "eu": 0})
    assert shares(config, tokens, 100) == {"ca-valencia": 0.25, "es": 0.75}


def test_a_language_that_cannot_be_drawn_from_is_named() -> None:
    with pytest.raises(ConfigError, match="no 'gl'; it has es"):
        shares(MixtureConfig(kind="weights", weights={"gl": 1}), {"es": 5000}, 100)
    with pytest.raises(DataError, match="'gl' has 100 training tokens"):
        shares(MixtureConfig(kind="uniform", languages=["gl"]), {"es": 5000, "gl": 100}, 100)
    with pytest.raises(DataError, match="no language"):
        shares(MixtureConfig(kind="uniform"), {"gl": 100}, 100)
    with pytest.raises(ConfigError, match="write 'ca-valencia'"):
        MixtureConfig(kind="weights", weights={"val": 1})


def test_the_order_stays_what_it_was() -> None:
    # runs under way resume by this function: a change here is a change of every run's data
    picks = order(THREE, 11).picks([0, 1, 2, 4095, 4096, 10**9])
    assert list(zip(picks.source.tolist(), picks.epoch.tolist(), picks.window.tolist(), strict=True)) == [
        (0, 0, 3143),
        (0, 0, 4677),
        (0, 0, 3383),
        (0, 0, 1908),
        (0, 0, 324),
        (1, 428641, 248),
    ]


def test_windows_share_one_token() -> None:
    assert [window_count(tokens, 10) for tokens in (0, 10, 11, 20, 21)] == [0, 0, 1, 1, 2]
