"""Intervals, paired tests, means of tasks and power: against values computed by hand and by scipy, and properties that must hold."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api import metrics
from scipy import optimize, stats

from iberlm.core.errors import DataError
from iberlm.evaluate.statistics.aggregate import Normalised, language_mean, mean_of, normalised
from iberlm.evaluate.statistics.clusters import _moments, cluster_sums, codes, ratio
from iberlm.evaluate.statistics.corpus import Corpus, jackknife_error, resampled
from iberlm.evaluate.statistics.intervals import Interval, bits_per_byte_interval, corpus_interval, mean_interval, ratio_interval, stretched, wilson
from iberlm.evaluate.statistics.paired import (
    BOOTSTRAP,
    CLUSTER_T,
    JACKKNIFE,
    MCNEMAR,
    SIGN_FLIPS,
    T,
    flip_p,
    holm,
    mean_difference,
    paired_corpus_difference,
    paired_difference,
    paired_ratio_difference,
    tango,
)
from iberlm.evaluate.statistics.power import minimum_detectable_effect

RIGHT = st.sampled_from([0.0, 1.0])
SCORE = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
WORDS = "el gat de casa bé i la porta oberta quan plou molt a la nit d'hivern".split()


def texts(n: int, seed: int) -> list[tuple[str, str]]:
    """(reference, output) of sentences, two in three words right."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        words = rng.choice(WORDS, int(rng.integers(1, 12))).tolist()
        pairs.append((" ".join(words), " ".join(word if rng.random() < 0.67 else str(rng.choice(WORDS)) for word in words)))
    return pairs


def labels(n: int, seed: int, classes: int = 2) -> list[tuple[int, int]]:
    """(right, predicted), right in about half of what chance leaves."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(classes, size=n)
    return list(zip(gold.tolist(), np.where(rng.random(n) < 0.5, gold, rng.integers(classes, size=n)).tolist(), strict=True))


# --- values as lm-eval computes them


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_mean_is_lm_evals_to_the_last_digit(scores: list[float]) -> None:
    assert mean_interval(scores).value == metrics.mean(scores)


@given(st.lists(st.tuples(st.floats(-1e4, -1e-3), st.integers(1, 10_000)), min_size=1, max_size=40))
def test_bits_per_byte_are_lm_evals_to_the_last_digit(pairs: list[tuple[float, int]]) -> None:
    assert bits_per_byte_interval(pairs).value == metrics.bits_per_byte(pairs)


@pytest.mark.parametrize("aggregation", [metrics.bleu, metrics.chrf, metrics.chrfpp, metrics.ter])
def test_a_metric_of_texts_is_lm_evals_and_so_is_that_of_every_resample(aggregation: Callable[[list[Any]], float]) -> None:
    pairs = texts(40, seed=1)
    corpus = Corpus(pairs, aggregation, None)
    assert corpus.value == aggregation(pairs)
    counts = next(resampled(40, 5, seed=3))
    expected = [aggregation([pairs[item] for item, times in enumerate(row) for _ in range(times)]) for row in counts]
    assert corpus.of(counts) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("aggregation", "values"),
    [
        (metrics.f1_score, labels(60, seed=1)),
        (metrics.matthews_corrcoef, labels(60, seed=2)),
        (metrics.matthews_corrcoef, labels(60, seed=3, classes=4)),
        (metrics.perplexity, [-0.5, -2.0, -1.25] * 10),
        (metrics.weighted_perplexity, [(-9.0, 5), (-3.0, 4)] * 10),
        (metrics.bits_per_byte, [(-9.0, 5), (-3.0, 4)] * 10),
        (metrics.median, [0.1, 0.7, 0.3, 0.9, 0.5]),
        (lambda values: max(values) - min(values), [0.1, 0.7, 0.3, 0.9, 0.5]),
    ],
)
def test_any_aggregation_is_computed_on_resamples_as_on_the_whole(aggregation: Callable[[list[Any]], float], values: list[Any]) -> None:
    corpus = Corpus(values, aggregation, None)
    assert corpus.value == aggregation(values)
    counts = next(resampled(len(values), 5, seed=4))
    expected = [aggregation([values[item] for item, times in enumerate(row) for _ in range(times)]) for row in counts]
    assert corpus.of(counts) == pytest.approx(expected, rel=1e-12)


def test_texts_without_any_match_or_of_one_word_have_the_bleu_of_sacrebleu() -> None:
    for pairs in ([("un", "dos")] * 3, [("un", "un")] * 3, [("el gat negre", "el gat blanc")] * 3, [("a b c d e", "")] * 2):
        assert Corpus(pairs, metrics.bleu, None).of(np.ones((1, len(pairs)), int))[0] == pytest.approx(metrics.bleu(pairs), rel=1e-12)


# --- intervals


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


def test_items_that_stand_alone_have_the_plain_standard_error() -> None:
    scores = [0.1, 0.4, 0.35, 0.9, 1.0, 0.0]
    found = mean_interval(scores)
    assert found.stderr == pytest.approx(stats.sem(scores), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 5, np.mean(scores), stats.sem(scores)), rel=1e-12)
    assert (found.n, found.clusters) == (6, 6)


def test_right_or_wrong_items_that_stand_alone_have_wilsons_interval() -> None:
    found = mean_interval([1.0] * 81 + [0.0] * 182, bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx(wilson(81 / 263, 263), abs=1e-12)


def test_clusters_of_one_size_have_the_standard_error_of_their_means() -> None:
    rng = np.random.default_rng(0)
    scores, passages = rng.random(60), np.repeat(np.arange(12), 5)
    means = scores.reshape(12, 5).mean(axis=1)
    found = mean_interval(scores.tolist(), passages.tolist())
    assert found.stderr == pytest.approx(stats.sem(means), rel=1e-9)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 11, means.mean(), stats.sem(means)), rel=1e-9)
    assert found.clusters == 12


def test_equal_items_of_a_passage_count_once() -> None:
    once = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    found = mean_interval([score for score in once for _ in range(7)], [index for index in range(10) for _ in range(7)])
    alone = mean_interval(once)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), rel=1e-9)


def test_moments_of_the_variance_estimate_are_those_of_the_quadratic_form() -> None:
    rng = np.random.default_rng(0)
    share, working = rng.dirichlet(np.ones(7)), rng.random(7)
    scale = 1 / (1 - share)
    centring = np.eye(7) - np.outer(share, np.ones(7))
    form = centring.T @ np.diag(scale) @ centring @ np.diag(working)
    assert _moments(share, scale, working) == pytest.approx((np.trace(form), np.trace(form @ form)), rel=1e-12)


def test_a_ratio_of_independent_terms_has_cochrans_variance_where_all_are_of_one_size() -> None:
    bits = np.array([3.0, 5.0, 4.0, 9.0, 1.0])
    found = ratio(bits, np.full(5, 2.0), np.arange(5))
    assert found.variance == pytest.approx(bits.var(ddof=1) / 5 / 4, rel=1e-12)
    assert found.degrees == pytest.approx(4, rel=1e-12)


def test_a_text_that_is_most_of_the_bytes_leaves_few_degrees_of_freedom() -> None:
    sizes = np.array([1000.0] + [10.0] * 30)
    assert ratio(np.random.default_rng(0).random(31) * sizes, sizes, np.arange(31)).degrees < 3


def test_the_degrees_of_freedom_are_those_of_terms_that_covary_within_a_source() -> None:
    sizes = np.repeat([900.0, 30.0, 400.0, 60.0, 10.0, 200.0], 2)
    sources = np.arange(12) // 2
    rates = np.repeat([1.3, 0.8, 1.1, 0.7, 1.4, 0.9], 2)  # documents of one source are all alike
    covariance = np.where(sources[:, None] == sources, np.sqrt(np.outer(sizes, sizes)), 0.0)
    working = np.array([covariance[sources == source].sum() for source in range(6)])
    share = cluster_sums(sources, sizes) / sizes.sum()
    mean, spread = _moments(share, 1 / (1 - share), working)
    assert ratio(rates * sizes, sizes, sources).degrees == pytest.approx(mean**2 / spread, rel=1e-9)


@given(st.lists(RIGHT, min_size=1, max_size=80), st.data())
def test_an_interval_of_a_share_holds_the_value_within_its_bounds(scores: list[float], data: st.DataObject) -> None:
    clusters = data.draw(st.none() | st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=len(scores), max_size=len(scores)))
    found = mean_interval(scores, clusters, bounds=(0, 1))
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(st.lists(SCORE, min_size=2, max_size=60), st.data())
def test_the_order_of_the_items_and_the_names_of_passages_do_not_matter(scores: list[float], data: st.DataObject) -> None:
    passages = data.draw(st.lists(st.integers(0, 5), min_size=len(scores), max_size=len(scores)))
    order = data.draw(st.permutations(range(len(scores))))
    first = mean_interval(scores, passages, bounds=(0, 1))
    second = mean_interval([scores[index] for index in order], [f"passage {passages[index]}" for index in order], bounds=(0, 1))
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-6)


@given(st.lists(SCORE, min_size=3, max_size=60))
def test_turning_scores_round_turns_the_interval_round(scores: list[float]) -> None:
    first, second = mean_interval(scores, bounds=(0, 1)), mean_interval([1 - score for score in scores], bounds=(0, 1))
    assert (first.low, first.high) == pytest.approx((1 - second.high, 1 - second.low), abs=1e-6)


def test_passages_whose_items_are_alike_widen_the_interval() -> None:
    scores = ([1.0] * 5 + [0.0] * 5) * 10
    alone, clustered = mean_interval(scores, bounds=(0, 1)), mean_interval(scores, [index // 5 for index in range(100)], bounds=(0, 1))
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_items_without_a_passage_stand_alone() -> None:
    assert codes(["a", None, "a", None, "b"], 5).tolist() == [0, 1, 0, 2, 3]
    with pytest.raises(ValueError, match="5 scores, but 2 clusters"):
        codes(["a", "b"], 5)


def test_one_item_or_one_passage_has_no_standard_error() -> None:
    assert mean_interval([1.0]).stderr is None
    assert math.isnan(mean_interval([1.0]).low)
    share = mean_interval([1.0, 0.0, 1.0], ["a", "a", "a"], bounds=(0, 1))
    assert share.stderr is None
    assert (share.low, share.high) == pytest.approx(wilson(2 / 3, 1))  # one passage says as much as one item


def test_nothing_scores_outside_of_the_bounds_or_without_items() -> None:
    with pytest.raises(DataError, match=r"lies outside of 0 to 1: 0.5 to 1.5"):
        mean_interval([0.5, 1.5], bounds=(0, 1))
    with pytest.raises(DataError, match="no items"):
        mean_interval([])
    with pytest.raises(DataError, match="denominators sum to zero"):
        ratio_interval([1.0], [0.0])


def test_a_mean_that_is_not_a_number_has_no_interval() -> None:
    for found in (mean_interval([1.0, math.nan], bounds=(0, 1)), mean_interval([1.0, -math.inf]), bits_per_byte_interval([(-math.inf, 3), (-1.0, 4)])):
        assert not math.isfinite(found.value)
        assert found.stderr is None
        assert math.isnan(found.high)


def test_bits_per_byte_have_a_positive_interval_however_few_the_documents() -> None:
    found = bits_per_byte_interval([(-10.0, 40), (-900.0, 300), (-2.0, 35)])
    assert 0 < found.low < found.value < found.high
    assert bits_per_byte_interval([(-1.0, 1), (-5000.0, 1000)]).low > 0  # one text is nearly all there is: no degree of freedom is left


def test_a_bootstrap_interval_is_the_same_each_time_and_another_with_another_seed() -> None:
    values = labels(80, seed=5)
    first, again, other = (corpus_interval(values, metrics.matthews_corrcoef, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.value < first.high


def test_a_bootstrap_interval_of_a_mean_is_close_to_students() -> None:
    scores = np.random.default_rng(0).normal(size=200).tolist()

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    found, expected = corpus_interval(scores, mean, seed=0, resamples=8000), mean_interval(scores)
    assert found.stderr == pytest.approx(expected.stderr, rel=0.03)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_a_jackknife_interval_of_a_mean_is_students() -> None:
    scores = np.random.default_rng(0).normal(size=150).tolist()
    found, expected = corpus_interval(scores, metrics.mean, seed=0), mean_interval(scores)
    assert (found.stderr, found.low, found.high) == pytest.approx((expected.stderr, expected.low, expected.high), rel=1e-9)


def test_leaving_out_groups_of_many_items_gives_the_error_of_leaving_out_each() -> None:
    scores = np.random.default_rng(0).normal(size=4100).tolist()
    assert jackknife_error(Corpus(scores, metrics.mean, None).jackknife()) == pytest.approx(stats.sem(scores), rel=0.15)


@pytest.mark.parametrize("aggregation", [metrics.bleu, metrics.chrf, metrics.ter])
def test_a_metric_of_texts_has_the_same_interval_with_any_seed_within_its_bounds(aggregation: Callable[[list[Any]], float]) -> None:
    pairs = texts(30, seed=1)
    first, second = (corpus_interval(pairs, aggregation, seed=seed) for seed in (1, 2))
    assert first == second
    assert 0 < first.low < first.value < first.high
    perfect = corpus_interval([(reference, reference) for reference, _ in pairs], aggregation, seed=1)
    assert perfect.low == perfect.value == perfect.high


@given(st.floats(0.01, 99.99), st.floats(0, 200))
def test_a_stretched_interval_stays_within_its_bounds_and_mirrors(value: float, half: float) -> None:
    low, high = stretched(value, half, (0.0, 100.0))
    assert 0 <= low <= value + 1e-9 <= high + 2e-9 <= 100 + 3e-9
    other = stretched(100 - value, half, (0.0, 100.0))
    assert (100 - other[1], 100 - other[0]) == pytest.approx((low, high), abs=1e-6)


def test_a_narrow_stretched_interval_is_the_plain_one() -> None:
    for bounds in ((0.0, 100.0), (0.0, math.inf), (-math.inf, math.inf)):
        assert stretched(30.0, 0.01, bounds) == pytest.approx((29.99, 30.01), abs=1e-5)


def test_a_bootstrap_draws_passages_whole() -> None:
    values = labels(12, seed=5)
    repeated = [value for value in values for _ in range(5)]
    passages = [index // 5 for index in range(60)]

    def matthews(entries: list[tuple[int, int]]) -> float:
        return float(metrics.matthews_corrcoef(entries))

    once, clustered = (corpus_interval(entries, matthews, of, seed=0, resamples=200) for entries, of in ((values, None), (repeated, passages)))
    assert (clustered.low, clustered.high, clustered.clusters) == pytest.approx((once.low, once.high, 12))


# --- paired differences


def test_mcnemar_is_the_published_example() -> None:
    # Agresti, Categorical Data Analysis, 2nd ed., table 10.1: 794 and 570 approve first and only first 150, only second 86; z = 4.17
    a = [1.0] * 150 + [0.0] * 86 + [1.0] * 794 + [0.0] * 570
    b = [0.0] * 150 + [1.0] * 86 + [1.0] * 794 + [0.0] * 570
    found = paired_difference(a, b)
    assert found.test == MCNEMAR
    assert (found.only_a, found.only_b) == (150, 86)
    assert found.p == pytest.approx(2 * stats.norm.sf(64 / math.sqrt(236)), rel=1e-12)
    assert found.interval.value == pytest.approx(0.04, abs=1e-15)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.021, 0.059), abs=1e-3)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(12, 2, 50), (3, 3, 20), (0, 0, 30), (1, 0, 200), (150, 86, 1600)])
def test_tangos_interval_ends_where_the_score_test_just_rejects(only_a: int, only_b: int, n: int) -> None:
    def statistic(difference: float) -> float:
        """Of the score test, with the share of B's items found by maximising the likelihood under this difference."""

        def loss(share: float) -> float:
            rest = 1 - 2 * share - difference
            terms = ((only_a, share + difference), (only_b, share), (n - only_a - only_b, rest))
            return -sum(count * math.log(max(part, 1e-300)) for count, part in terms if count)

        share = optimize.minimize_scalar(loss, bounds=(max(0, -difference), (1 - difference) / 2), method="bounded", options={"xatol": 1e-12}).x
        return ((only_a - only_b) / n - difference) / math.sqrt((2 * share + difference - difference**2) / n)

    low, high = tango(only_a, only_b, n)
    assert (statistic(low), statistic(high)) == pytest.approx((1.959964, -1.959964), abs=2e-3)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60))
def test_the_interval_of_a_paired_share_is_without_zero_just_where_mcnemar_rejects(only_a: int, only_b: int, same: int) -> None:
    n = only_a + only_b + same
    found = paired_difference([1.0] * only_a + [0.0] * only_b + [1.0] * same, [0.0] * only_a + [1.0] * only_b + [1.0] * same)
    assert found.interval.n == n
    assert -1 <= found.interval.low <= found.interval.value <= found.interval.high <= 1
    if abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (not found.interval.low <= 0 <= found.interval.high)


@settings(max_examples=60)
@given(st.data())
def test_the_difference_of_b_and_a_mirrors_that_of_a_and_b(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([RIGHT, SCORE]))
    n = data.draw(st.integers(3, 40))
    a, b = (data.draw(st.lists(kind, min_size=n, max_size=n)) for _ in range(2))
    passages = data.draw(st.none() | st.lists(st.integers(0, 8), min_size=n, max_size=n))
    there, back = paired_difference(a, b, passages), paired_difference(b, a, passages)
    assert there.p == pytest.approx(back.p, nan_ok=True)
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low), abs=1e-9, nan_ok=True)
    assert (there.only_a, there.only_b) == (back.only_b, back.only_a)
    assert there.detectable == pytest.approx(back.detectable)


def test_graded_scores_are_compared_by_students_paired_t() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(25), rng.random(25)
    found, expected = paired_difference(a.tolist(), b.tolist()), stats.ttest_rel(a, b)
    assert found.test == T
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)
    assert found.only_a is None


def test_few_passages_that_differ_are_compared_by_students_t_on_their_means() -> None:
    a, b = np.ones(60), np.ones(60)
    b[[0, 1, 4, 8]], a[13] = 0, 0
    found = paired_difference(a.tolist(), b.tolist(), np.repeat(np.arange(15), 4).tolist())
    expected = stats.ttest_1samp((a - b).reshape(15, 4).mean(axis=1), 0)
    assert (found.test, found.differing, found.only_a, found.only_b) == (CLUSTER_T, 4, 4, 1)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert "fewer than 5 items (or passages)" in found.too_few


@pytest.mark.parametrize("sums", [[3, -1, 4, 1, -5, 9, 2, 6, 5, 3], [1, 1, 1, 1, 1, 1, -1, 0, 0, 0, 0, 0], [12, 1, 1, -2, 1, 1, 2, 1, -1, 1, 0, 3]])
def test_p_of_sign_flips_is_about_the_mid_p_of_all_flips(sums: list[int]) -> None:
    sizes = np.abs(sums)[np.array(sums) != 0]
    flips = np.array(list(itertools.product((-1, 1), repeat=len(sizes)))) @ sizes
    exact = float((np.abs(flips) > abs(sum(sums))).mean() + (np.abs(flips) == abs(sum(sums))).mean() / 2)
    assert flip_p(np.array(sums, dtype=float)) == pytest.approx(exact, abs=0.02)


def test_p_of_sign_flips_is_students_for_terms_spread_like_normal_ones() -> None:
    for terms in (np.array([2.0, 1.0, 1.0, 0.5, -1.0, 1.5, 3.0, -0.2]), np.random.default_rng(0).normal(0.1, 1, 2000)):
        squares = float((terms**2).sum())
        concentration = float((terms**4).sum()) / squares**2
        t = terms.mean() / stats.sem(terms)
        assert concentration == pytest.approx(3 / (len(terms) + 2), rel=0.2)
        assert flip_p(terms) == pytest.approx(2 * stats.t.sf(abs(t), len(terms) - 1), abs=0.02)


@given(st.data())
def test_the_interval_of_passages_is_without_zero_just_where_the_test_rejects(data: st.DataObject) -> None:
    clusters = data.draw(st.integers(5, 12))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=clusters, max_size=clusters))
    n = sum(sizes)
    kind = data.draw(st.sampled_from([RIGHT, SCORE]))
    a, b = (data.draw(st.lists(kind, min_size=n, max_size=n)) for _ in range(2))
    found = paired_difference(a, b, np.repeat(np.arange(clusters), sizes).tolist())
    if found.test == SIGN_FLIPS:
        assert found.interval.low < found.interval.value < found.interval.high
        assert found.p >= 2.0**-found.differing
        if abs(found.p - 0.05) > 1e-6:
            assert (found.p < 0.05) == (not found.interval.low <= 0 <= found.interval.high)


def test_passages_that_many_hold_the_difference_of_are_compared_by_sign_flips() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.random((2, 60)) < 0.6).astype(float)
    passages = np.repeat(np.arange(15), 4)
    found = paired_difference(a.tolist(), b.tolist(), passages.tolist())
    assert found.test == SIGN_FLIPS
    assert found.p == pytest.approx(flip_p((a - b).reshape(15, 4).sum(axis=1)), rel=1e-12)
    low, high = (flip_p((a - b - end).reshape(15, 4).sum(axis=1)) for end in (found.interval.low, found.interval.high))
    assert (low, high) == pytest.approx((0.05, 0.05), abs=1e-6)
    assert found.only_a == int(((a == 1) & (b == 0)).sum())
    assert not found.too_few


def test_a_passage_of_most_items_widens_the_interval_as_far_as_the_others_allow() -> None:
    rng = np.random.default_rng(3)
    sizes = [300] + [5] * 12
    a, b = (rng.random((2, 360)) < 0.5).astype(float)
    found = paired_difference(a.tolist(), b.tolist(), np.repeat(np.arange(13), sizes).tolist())
    assert found.test == SIGN_FLIPS
    assert -1 < found.interval.low < found.interval.value < found.interval.high < 1


def test_four_items_that_differ_are_too_few_whatever_they_say() -> None:
    for ahead, few in ((3, True), (4, True), (5, False), (0, False)):
        found = paired_difference([1.0] * 40, [0.0] * ahead + [1.0] * (40 - ahead))
        assert found.differing == ahead
        assert bool(found.too_few) == few


def test_graded_scores_need_more_items_than_right_or_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    for n, few in ((19, "fewer than 20 items"), (29, "fewer than 30 items with graded scores"), (30, "")):
        found = paired_difference(rng.random(n).tolist(), rng.random(n).tolist())
        assert found.too_few.startswith(few)
        assert bool(found.too_few) == bool(few)


def test_the_same_answers_differ_in_nothing() -> None:
    scores = [1.0, 0.0, 1.0, 1.0] * 5
    for passages in (None, [index // 4 for index in range(20)]):
        found = paired_difference(scores, scores, passages)
        assert (found.p, found.interval.value, found.interval.n) == (1.0, 0.0, 20)
        assert found.interval.low < 0 < found.interval.high


def test_the_same_gain_on_every_passage_is_no_proof_with_three_passages() -> None:
    assert paired_difference([1.0] * 12, [0.0] * 12, [index // 4 for index in range(12)]).p > 0.05
    assert paired_difference([0.6] * 3, [0.35] * 3).p == 0.25  # all three signs alike: 2 of 8
    assert paired_difference([0.6] * 12, [0.35] * 12).p < 0.05


def test_bits_per_byte_of_the_same_documents_are_compared_document_by_document() -> None:
    bits, sizes = [10.0, 30.0, 20.0, 25.0], [10.0, 20.0, 15.0, 22.0]
    better = [value - 0.1 * size for value, size in zip(bits, sizes, strict=True)]
    better[0] -= 0.01
    found = paired_ratio_difference(bits, better, sizes)
    assert found.interval.value == pytest.approx(sum(bits) / sum(sizes) - sum(better) / sum(sizes), abs=1e-15)
    assert found.p < 1e-3
    assert found.interval.low > 0.09


def test_a_corpus_metric_without_sums_is_compared_by_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 60)).round(3).tolist()
    found = paired_corpus_difference(a, b, metrics.median, seed=0)
    assert found.test == BOOTSTRAP
    assert found.interval.value == metrics.median(a) - metrics.median(b)
    assert found.interval.low < found.interval.value < found.interval.high
    assert found.differing == 60


def test_a_mean_as_a_corpus_metric_has_students_paired_t() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 40))
    found, expected = paired_corpus_difference(a.tolist(), b.tolist(), metrics.mean, seed=0), stats.ttest_rel(a, b)
    assert (found.p, found.interval.low) == pytest.approx((expected.pvalue, expected.confidence_interval().low), rel=1e-9)


def test_a_corpus_metric_of_sums_is_compared_by_the_paired_jackknife() -> None:
    gold = [index % 2 for index in range(120)]
    a = [(right, right if index % 10 else 1 - right) for index, right in enumerate(gold)]
    b = [(right, right if index % 3 else 1 - right) for index, right in enumerate(gold)]
    found = paired_corpus_difference(a, b, metrics.matthews_corrcoef, seed=0)
    assert (found.test, found.differing) == (JACKKNIFE, sum(first != second for first, second in zip(a, b, strict=True)))
    assert found.interval.value == pytest.approx(metrics.matthews_corrcoef(a) - metrics.matthews_corrcoef(b))
    assert found.p < 1e-5
    same = paired_corpus_difference(a, a, metrics.matthews_corrcoef, seed=0)
    assert (same.p, same.interval.stderr) == (1.0, 0.0)
    mirrored = paired_corpus_difference(b, a, metrics.matthews_corrcoef, seed=0)
    assert mirrored.p == found.p
    assert mirrored.interval.low == pytest.approx(-found.interval.high)


def test_no_common_items_are_no_comparison() -> None:
    with pytest.raises(DataError, match="without a common item"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="2 scores of one model, 1 of the other"):
        paired_difference([1.0, 0.0], [1.0])


def test_holms_correction_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, then 2 x 0.03 which 1 x 0.04 may not undercut
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, math.nan, 0.03]) == pytest.approx([0.02, math.nan, 0.03], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_keeps_the_order_and_lies_between_the_value_and_bonferronis(values: list[float]) -> None:
    corrected = holm(values)
    assert all(value <= after <= min(1.0, len(values) * value) + 1e-15 for value, after in zip(values, corrected, strict=True))
    pairs = sorted(zip(values, corrected, strict=True))
    assert all(first[1] <= second[1] for first, second in itertools.pairwise(pairs))


# --- means of tasks


def interval(value: float, half: float, n: int = 100) -> Interval:
    return Interval(value, half / 1.96, value - half, value + half, n, n)


def test_a_score_is_normalised_between_chance_and_best() -> None:
    found = normalised(interval(0.625, 0.05), chance=0.25, best=1.0)
    assert (found.value, found.low, found.high) == pytest.approx((50.0, 50 - 20 / 3, 50 + 20 / 3))
    assert normalised(interval(0.2, 0.01), chance=0.25, best=1.0).value < 0
    lower_is_better = normalised(interval(2.0, 0.5), chance=8.0, best=0.0)
    assert (lower_is_better.value, lower_is_better.low, lower_is_better.high) == pytest.approx((75.0, 68.75, 81.25))
    with pytest.raises(DataError, match=r"between chance 0.5 and best 0.5"):
        normalised(interval(0.5, 0.1), chance=0.5, best=0.5)


def test_errors_of_tasks_add_as_variances() -> None:
    tasks = [Normalised(task=name, interval=interval(value, half), chance=0.0, best=1.0) for name, value, half in (("a", 0.3, 0.03), ("b", 0.5, 0.04))]
    found = language_mean(tasks)
    assert (found.value, found.low, found.high) == pytest.approx((40.0, 37.5, 42.5))
    assert found.stderr == pytest.approx(2.5 / 1.96)
    assert (found.n, found.clusters) == (200, 200)


def test_a_mean_of_one_task_has_its_interval_lopsided_as_it_is() -> None:
    lopsided = Interval(0.02, 0.01, 0.005, 0.07, 200, 200)
    found = mean_of([lopsided])
    assert (found.value, found.stderr, found.low, found.high) == pytest.approx((0.02, 0.01, 0.005, 0.07), rel=1e-12)
    with pytest.raises(DataError, match="at least one task"):
        language_mean([])


def test_a_chance_level_that_is_better_than_the_best_is_refused() -> None:
    with pytest.raises(DataError, match=r"wnli: chance 0.5 is not worse than best 0.2"):
        _ = Normalised(task="wnli", interval=interval(0.3, 0.1), chance=0.5, best=0.2).points
    ladder = Normalised(task="bits", interval=interval(2.0, 0.1), chance=8.0, best=0.0, higher_is_better=False)
    assert ladder.points.value == 75.0


def test_the_difference_of_two_means_has_the_mean_of_the_tasks_differences() -> None:
    rng = np.random.default_rng(3)
    tasks = [paired_difference(rng.random(50).tolist(), rng.random(50).tolist()) for _ in range(4)]
    found = mean_difference([task.scaled(100) for task in tasks])
    assert found.interval.value == pytest.approx(100 * np.mean([task.interval.value for task in tasks]))
    assert found.interval.stderr == pytest.approx(25 * math.sqrt(sum((task.interval.stderr or 0) ** 2 for task in tasks)))
    assert 49 < found.degrees <= 196
    assert mean_difference([tasks[0]]).p == pytest.approx(tasks[0].p)


# --- power


def test_the_detectable_effect_by_hand() -> None:
    # (1.960 sqrt(0.2) + 0.842 sqrt(0.2 - 0.01))^2 / 0.01 = 154.6
    assert minimum_detectable_effect(155, discordance=0.2) == pytest.approx(0.1, abs=5e-4)
    # two-sided t with 24 degrees of freedom
    expected = (stats.t.ppf(0.975, 24) + stats.t.ppf(0.8, 24)) * 3 / 5
    assert minimum_detectable_effect(25, sd=3.0, clusters=25) == pytest.approx(expected)


@given(st.integers(2, 5000), st.floats(0.02, 0.9))
def test_more_items_show_smaller_effects(n: int, differing: float) -> None:
    few, many = (minimum_detectable_effect(items, discordance=differing) for items in (n, 2 * n))
    assert many <= few
    assert math.isinf(few) or few <= differing
    assert minimum_detectable_effect(n, discordance=differing, design_effect=2.0) >= few


def test_a_test_that_can_never_reject_detects_nothing() -> None:
    assert math.isinf(minimum_detectable_effect(20, discordance=0.05))  # one item differs
    assert math.isinf(minimum_detectable_effect(50, sd=1.0, clusters=1))
    with pytest.raises(ValueError, match="either sd or discordance"):
        minimum_detectable_effect(50)
