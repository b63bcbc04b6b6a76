"""When scores of pieces say what ranks of merges say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.export.merges import obstacle, overlap, read_merges, scores

PAIRS = [("a", "b"), ("ab", "ab"), ("aba", "b"), ("b", "a"), ("ab", "a"), ("a", "ba")]


def test_scores_fall_with_the_order_in_which_pieces_are_made() -> None:
    tokens = ["<s>", "ab", "a", "aba", "b", "abab", "ba"]
    assert scores(PAIRS, tokens, set(tokens[1:]), -9.0) == [-9.0, 0.0, -4.0, -3.0, -5.0, -1.0, -2.0]


def test_pairs_are_read_in_both_notations() -> None:
    assert read_merges({"merges": ["a b", ["b", "a"]]}) == [("a", "b"), ("b", "a")]


@pytest.mark.parametrize(
    ("merges", "pieces", "said"),
    [
        (PAIRS, "a b ab abab ba aba", ""),
        ([], "a b", ""),
        ([*PAIRS[:5], ("a", "c"), PAIRS[5]], "a b c ab abab ba aba ac", "'aba' do not stand together"),
        (PAIRS[:5], "a b ab abab ba aba", "'a' and 'ba' are pieces, and so is their union"),
        (PAIRS[:1], "a ab", "a character of the piece 'ab' has no piece"),
    ],
)
def test_what_scores_cannot_say(merges: list[tuple[str, str]], pieces: str, said: str) -> None:
    assert said in (found := obstacle(merges, set(pieces.split())))
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("merges", "piece"),
    [
        ([("a", "aa"), ("aa", "a")], ""),
        ([("aa", "a"), ("a", "aa")], "aaa"),
        ([("ab", "a"), ("a", "ba")], ""),
        ([("a", "ba"), ("ab", "a")], "aba"),
        ([("a", "b"), ("ab", "ab")], ""),
    ],
)
def test_overlapping_copies_that_the_ranks_take_from_the_right(merges: list[tuple[str, str]], piece: str) -> None:
    assert overlap(merges) == piece


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3))))
def test_any_merges_are_answered(merges: list[tuple[str, str]]) -> None:
    """Nothing about them has to hold."""
    pieces = {part for left, right in merges for part in (left, right, left + right)}
    assert isinstance(obstacle(merges, pieces), str)
    assert overlap(merges) in {left + right for left, right in merges} | {""}
    assert len(scores(merges, sorted(pieces), pieces, 0.0)) == len(pieces)
