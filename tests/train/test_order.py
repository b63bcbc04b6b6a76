import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, DataError
from iberlm.train.config_groups import MixtureConfig
from iberlm.train.data import rank_numbers
from iberlm.train.order import SLOTS, Order, Phase, Source, allot, permute, shares, unpermute, window_count


def order(shares_and_windows: dict[str, tuple[float, int]], seed: int = 0, later: dict[int, dict[str, float]] | None = None) -> Order:
    """One phase of these shares and, from the sample numbers of `later` on, others."""
    sources = [Source(name, windows) for name, (_, windows) in shares_and_windows.items()]
    first = {name: share for name, (share, _) in shares_and_windows.items() if share}
    return Order(sources, seed, [Phase(0, first), *(Phase(begin, phase) for begin, phase in (later or {}).items())])


THREE = {"es": (0.6, 5000), "ca": (0.3, 700), "eu": (0.1, 37)}
ANNEALED = {5000: {"es": 0.5, "eu": 0.5}, 5003: {"ca": 1.0}, 12_000: {"es": 0.2, "ca": 0.2, "eu": 0.6}}


@st.composite
def phased(draw: st.DrawFn) -> Order:
    """Up to four phases over up to three small sources, any of which a phase may leave out."""
    windows = draw(st.lists(st.integers(1, 400), min_size=1, max_size=3))
    names = ["es", "ca", "eu"][: len(windows)]
    begins = [0, *sorted(draw(st.sets(st.integers(1, 3 * SLOTS), max_size=3)))]
    phases = []
    for begin in begins:
        weights = {name: draw(st.sampled_from([0.0, 0.001, 0.2, 1.0, 3.0])) for name in names}
        total = sum(weights.values()) or 1.0
        phases.append(Phase(begin, {name: weight / total for name, weight in weights.items() if weight} or {names[0]: 1.0}))
    return Order([Source(name, count) for name, count in zip(names, windows, strict=True)], draw(st.integers(0, 2**40)), phases)


def assert_each_once(visited: np.ndarray, windows: int) -> None:
    """Each whole epoch of the windows visited, in the order of their picks, has each window once."""
    whole = visited[: len(visited) // windows * windows].reshape(-1, windows)
    assert (np.sort(whole, axis=1) == np.arange(windows)).all()


@limits(max_examples=40, deadline=None)
@given(windows=st.integers(1, 3000), seed=st.integers(0, 2**62), share=st.floats(0.05, 0.9))
def test_each_epoch_of_a_source_visits_each_window_once(windows: int, seed: int, share: float) -> None:
    picks = order({"eu": (share, windows), "es": (1 - share, 10**9)}, seed).picks(np.arange(3 * SLOTS))
    mine = picks.source == 0
    epochs, visited = picks.epoch[mine], picks.window[mine]
    assert np.array_equal(epochs, np.arange(mine.sum()) // windows)
    assert_each_once(visited, windows)


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


@limits(max_examples=25, deadline=None)
@given(order=phased())
def test_no_window_repeats_within_an_epoch_whatever_the_phases(order: Order) -> None:
    picks = order.picks(np.arange(5 * SLOTS))
    for position, source in enumerate(order.sources):
        mine = picks.source == position
        epochs, visited = picks.epoch[mine], picks.window[mine]
        assert np.array_equal(epochs, np.arange(mine.sum()) // source.windows)
        assert_each_once(visited, source.windows)


@limits(max_examples=25, deadline=None)
@given(order=phased(), samples=st.integers(0, 5 * SLOTS), data=st.data())
def test_the_way_back_finds_every_reading_of_a_window(order: Order, samples: int, data: st.DataObject) -> None:
    picks = order.picks(np.arange(samples))
    for position, source in enumerate(order.sources):
        window = data.draw(st.integers(0, source.windows - 1))
        expected = np.flatnonzero((picks.source == position) & (picks.window == window))
        assert np.array_equal(order.samples_of(position, window, samples), expected)
    assert np.array_equal(order.counts(samples), np.bincount(picks.source, minlength=len(order.sources)))


def test_the_way_back_from_far_away() -> None:
    far, window = 5 * 10**8, 4321
    large = order({"es": (0.75, 10**8), "eu": (0.25, 5 * 10**6)}, 1)
    for source in (0, 1):
        found = large.samples_of(source, window, far)
        assert len(found) == pytest.approx(far * (0.75 / 10**8, 0.25 / 5e6)[source], abs=1)
        picks = large.picks(found)
        assert set(picks.source.tolist()) == {source}
        assert set(picks.window.tolist()) == {window}
        assert picks.epoch.tolist() == list(range(len(found)))
    with pytest.raises(ValueError, match="window 5000000 of eu"):
        large.samples_of(1, 5 * 10**6, far)


@given(size=st.integers(1, 5000), epoch=st.integers(0, 10**6), key=st.integers(0, 2**63 - 1))
@limits(max_examples=50, deadline=None)
def test_a_permutation_is_undone(size: int, epoch: int, key: int) -> None:
    index, epochs = np.arange(size), np.full(size, epoch)
    assert np.array_equal(unpermute(permute(index, size, epochs, key), size, epochs, key), index)


@limits(max_examples=12, deadline=None)
@given(order=phased(), world=st.sampled_from([1, 2, 3, 4, 8]), micro=st.sampled_from([1, 2]), block=st.integers(0, 300))
def test_any_number_of_ranks_reads_the_same_samples_in_the_same_steps(order: Order, world: int, micro: int, block: int) -> None:
    batch = 48
    turns = range(batch // (micro * world))
    numbers = [rank_numbers(block, turn, rank, world, micro, batch) for turn in turns for rank in range(world)]
    assert np.array_equal(np.concatenate(numbers), np.arange(block * batch, (block + 1) * batch))
    together = order.picks(np.concatenate(numbers))
    # a rank that begins here knows nothing of what was read before
    alone = [Order(order.sources, order.seed, order.phases).picks(part) for part in numbers]
    assert np.array_equal(np.concatenate([part.source for part in alone]), together.source)
    assert np.array_equal(np.concatenate([part.window for part in alone]), together.window)


def test_a_phase_has_its_shares_from_its_first_sample_to_its_last() -> None:
    phases = order(THREE, 5, {10_000: {"es": 0.1, "eu": 0.9}})
    source = phases.picks(np.arange(10_000 + 4 * SLOTS)).source
    assert np.bincount(source[: 2 * SLOTS]).tolist() == [2 * 2457, 2 * 1229, 2 * 410]  # of 4096: 2457.6, 1228.8, 409.6
    for begin in range(10_000, 10_000 + 4 * SLOTS, SLOTS):
        assert np.bincount(source[begin : begin + SLOTS]).tolist() == [410, 0, 3686]


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


def test_tokens_are_shares_and_epochs_are_shares_of_the_text() -> None:
    tokens = {"es": 100_001, "eu": 10_001}
    assert shares(MixtureConfig(kind="tokens", weights={"es": 3e9, "eu": 1e9}), tokens, 100) == {"es": 0.75, "eu": 0.25}
    twice = shares(MixtureConfig(kind="epochs", weights={"es": 1, "eu": 5}), tokens, 100)  # 1000 and 100 windows
    assert twice == {"es": pytest.approx(2 / 3), "eu": pytest.approx(1 / 3)}


def test_weights_take_either_spelling_and_leave_out_zeros() -> None:
    tokens = {"es": 5000, "ca-valencia": 5000, "eu": 5000}
    config = MixtureConfig(kind="weights", weights={"es": 3, "ca_valencia": 1, "eu": 0})
    assert shares(config, tokens, 100) == {"ca-valencia": 0.25, "es": 0.75}


def test_a_language_that_cannot_be_drawn_from_is_named() -> None:
    with pytest.raises(ConfigError, match="no 'gl'; it has es"):
        shares(MixtureConfig(kind="weights", weights={"gl": 1}), {"es": 5000}, 100)
    with pytest.raises(DataError, match="'gl' has 100 training tokens"):
        shares(MixtureConfig(kind="uniform", languages=["gl"]), {"es": 5000, "gl": 100}, 100)
    with pytest.raises(ConfigError, match=r"phases\[1\]\.mixture\.weights: the token store has no 'gl'"):
        shares(MixtureConfig(kind="epochs", weights={"gl": 1}), {"es": 5000}, 100, "phases[1].mixture")
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


def test_the_order_of_later_phases_stays_what_it_was() -> None:
    picks = order(THREE, 11, ANNEALED).picks([0, 4999, 5000, 5002, 5003, 11_999, 12_000, 10**9])
    assert list(zip(picks.source.tolist(), picks.epoch.tolist(), picks.window.tolist(), strict=True)) == [
        (0, 0, 3143),
        (1, 2, 224),
        (0, 0, 2505),
        (0, 0, 311),
        (1, 2, 539),
        (1, 12, 376),
        (2, 13, 10),
        (2, 16218674, 5),
    ]


def test_windows_share_one_token() -> None:
    assert [window_count(tokens, 10) for tokens in (0, 10, 11, 20, 21)] == [0, 0, 1, 1, 2]
