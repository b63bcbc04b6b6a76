"""The search for weights at which the same content costs the same."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.tokenizer import parity
from iberlm.tokenizer.config import ParityConfig

WIDE = 100.0


def diminishing(needs: dict[str, float]) -> Callable[[dict[str, float]], dict[str, int]]:
    """A tokenizer whose cost in a language falls with its share, as a vocabulary's does, and differs at equal shares."""
    return lambda shares: {tag: round(1e6 * need * shares[tag] ** -0.1) for tag, need in needs.items()}


def test_search_ends_even_where_weights_can_make_it_so() -> None:
    cost = diminishing({"es": 1.0, "eu": 1.2, "gl": 1.05})
    rounds, best = parity.search(dict, cost, dict.fromkeys(("es", "eu", "gl"), 1 / 3), ParityConfig(rounds=12, max_shift=WIDE))
    assert rounds[best].gini == min(entry.gini for entry in rounds) <= 0.002 < rounds[0].gini
    assert rounds[best].shares["eu"] > rounds[best].shares["gl"] > rounds[best].shares["es"]
    assert rounds[best].tokens == cost(rounds[best].trained)
    assert rounds[0].shares == dict.fromkeys(("es", "eu", "gl"), 1 / 3)


def test_too_strong_a_correction_is_halved_until_it_helps() -> None:
    rounds, best = parity.search(dict, diminishing({"es": 1.0, "eu": 1.2}), {"es": 0.5, "eu": 0.5}, ParityConfig(rounds=20, strength=50.0, max_shift=WIDE))
    assert rounds[1].gini > rounds[0].gini
    assert rounds[best].gini <= 0.002


def test_without_rounds_the_mixture_stays() -> None:
    rounds, best = parity.search(dict, diminishing({"es": 1.0, "eu": 2.0}), {"es": 0.9, "eu": 0.1}, ParityConfig())
    assert (len(rounds), best, rounds[0].shares) == (1, 0, {"es": 0.9, "eu": 0.1})


def test_no_weight_leaves_its_bounds_and_the_search_stops_there() -> None:
    always = {"es": 100, "eu": 200}
    rounds, _ = parity.search(dict, lambda _: always, {"es": 0.5, "eu": 0.5}, ParityConfig(rounds=50, max_shift=2.0))
    assert len(rounds) < 50
    for entry in rounds:
        assert entry.shares["eu"] / entry.shares["es"] <= 4.0 + 1e-9


@settings(max_examples=100, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(["es", "ca", "eu", "gl"]), st.tuples(st.integers(1, 100), st.integers(1, 10_000)), min_size=1), st.floats(0.1, 20))
def test_corrected_shares_add_up_and_move_towards_the_dear(entries: dict[str, tuple[int, int]], strength: float) -> None:
    total = sum(weight for weight, _ in entries.values())
    shares = {tag: weight / total for tag, (weight, _) in entries.items()}
    tokens = {tag: count for tag, (_, count) in entries.items()}
    after = parity.corrected(shares, tokens, strength, within=(shares, 3.0))
    assert sum(after.values()) == pytest.approx(1.0)
    dearest, cheapest = max(tokens, key=lambda tag: tokens[tag]), min(tokens, key=lambda tag: tokens[tag])
    assert after[dearest] / shares[dearest] >= after[cheapest] / shares[cheapest] - 1e-12


def test_a_language_without_parallel_text_keeps_its_place() -> None:
    after = parity.corrected({"es": 0.5, "oc": 0.5}, {"es": 100}, 4.0, within=({"es": 0.5, "oc": 0.5}, 3.0))
    assert after == {"es": 0.5, "oc": 0.5}
