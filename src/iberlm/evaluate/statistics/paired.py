"""Two models on the same items: the difference, its 95% interval, the chance of one as large between equals, and what would go unseen.

The interval and the test are of one kind each time, so that an interval without zero goes with p < 0.05 and the other way round.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincc, ndtr, ndtri, stdtr, stdtrit

from iberlm.core.errors import DataError
from iberlm.evaluate.statistics.clusters import Array, cluster_sums, codes, quantile, ratio
from iberlm.evaluate.statistics.corpus import Aggregation, Corpus, Counts, jackknife_error, resampled
from iberlm.evaluate.statistics.intervals import MIN_RESAMPLES, Interval
from iberlm.evaluate.statistics.power import ALPHA, POWER, minimum_detectable_effect

MCNEMAR, T, CLUSTER_T, SIGN_FLIPS = "McNemar", "paired t", "paired t over clusters", "sign flips over clusters"
JACKKNIFE, BOOTSTRAP = "paired jackknife", "paired bootstrap"
LEAST_ITEMS, LEAST_GRADED_ITEMS, LEAST_CLUSTERS = 20, 30, 10
"""With fewer, no model is called better: the tests were not simulated, or err more often than 5% (benchmarks/evaluate_simulation.py)."""
LEAST_DIFFERING = 5
"""Items or clusters on which the models must differ. Between equals each favours A or B with chance 1/2: of four that all favour one side,
the mid-p (half the chance of the outcome, both sides counted) is 1/16, above 0.05 whatever was found; of five 1/32. Tarone (Biometrics 46,
1990) sets apart the tests that cannot reject."""
_ROUNDING = 1e-9
"""Of differences of scores."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of model A minus model B, in the metric's own unit."""

    interval: Interval
    p: float
    """Two-sided; 1 where the two give the same."""
    test: str
    degrees: float
    """Of freedom of the standard error; infinite for McNemar's."""
    detectable: float
    """The true difference that this test finds in four of five repetitions with other items: what is smaller mostly goes unseen."""
    only_a: int | None = None
    """Items that A got right and B wrong; None where scores are not right or wrong."""
    only_b: int | None = None
    differing: int
    """Items, or clusters of them, on which one model is ahead of the other."""
    least_items: int = LEAST_ITEMS

    @property
    def too_few(self) -> str:
        """Why there is too little to call a model better, in plain words; "" where there is enough, and where no item differs."""
        if self.interval.n < LEAST_ITEMS or self.interval.clusters < LEAST_CLUSTERS:
            return f"fewer than {LEAST_ITEMS} items (or {LEAST_CLUSTERS} passages): too few to judge by"
        if self.interval.n < self.least_items:
            return f"fewer than {self.least_items} items with graded scores: too few to judge by"
        if 0 < self.differing < LEAST_DIFFERING:
            return f"A and B differ on fewer than {LEAST_DIFFERING} items (or passages): too few to call one better"
        return ""

    def scaled(self, factor: float) -> "Difference":
        """The same in another unit, such as points of a normalised score."""
        mapped = self.interval.mapped(lambda score: factor * score, factor)
        return replace(self, interval=mapped, detectable=abs(factor) * self.detectable)


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[Any] | None = None) -> Difference:
    """The difference of two means over the same items.

    Right-or-wrong scores of items that stand alone: McNemar's test as he gave it (Psychometrika 12, 1947), without correction, and
    the interval that inverts it (Tango, Statistics in Medicine 17, 1998). It keeps its level better than the exact one and its mid-p
    variant, which seldom reject with few items that differ (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13, 2013).
    Items that share a passage: flips of the signs of the clusters' sums (`_sign_flips`), or Student's t over clusters (`clusters.ratio`)
    where fewer than `LEAST_DIFFERING` differ. Else Student's t on the differences.
    """
    _same_length(a, b)
    differences = [first - second for first, second in zip(a, b, strict=True)]
    cluster = codes(clusters, len(differences))
    binary = {*a, *b} <= {0, 1}
    only_a, only_b = (differences.count(1), differences.count(-1)) if binary else (None, None)
    # of the means, as each was reported: the mean of the differences may differ in the last digit
    value = float(sum(a) / len(a)) - float(sum(b) / len(b))
    alone = int(cluster.max()) + 1 == len(differences)
    if binary and alone:
        return _mcnemar(value, only_a or 0, only_b or 0, len(differences))
    found = _t(value, np.asarray(differences, dtype=float), np.ones(len(differences)), cluster)
    if binary and found.interval.stderr == 0:  # the same difference on every item: each cluster says it once
        clusters_found = found.interval.clusters
        once = _mcnemar(value, clusters_found if value > 0 else 0, clusters_found if value < 0 else 0, clusters_found)
        found = replace(once, interval=replace(once.interval, n=len(differences)))
    elif not alone:
        found = _sign_flips(found, np.asarray(differences, dtype=float), cluster)
    elif not binary:
        found = replace(found, least_items=LEAST_GRADED_ITEMS)
    return replace(found, only_a=only_a, only_b=only_b)


def _mcnemar(value: float, only_a: int, only_b: int, n: int) -> Difference:
    changed = only_a + only_b
    p = 2 * float(ndtr(-abs(only_a - only_b) / math.sqrt(changed))) if changed else 1.0
    low, high = tango(only_a, only_b, n)
    stderr = math.sqrt((changed / n - value**2) / (n - 1)) if n > 1 else None
    # a discordance of zero is never the whole truth: half an item is added to each side, as for a share of n + 2
    detectable = minimum_detectable_effect(n, discordance=(changed + 1) / (n + 2))
    interval = Interval(value, stderr, min(low, value), max(high, value), n, n)
    return Difference(interval=interval, p=p, test=MCNEMAR, degrees=math.inf, detectable=detectable, only_a=only_a, only_b=only_b, differing=only_a + only_b)


def tango(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Ends of the 95% score interval of a difference of two paired shares, from the items that one side alone got right."""
    z = quantile(math.inf)

    def distance(difference: float) -> float:
        """Standard errors, under this difference, between it and the one that was found."""
        linear = -(only_a + only_b) + difference * (2 * n - only_a + only_b)
        constant = -only_b * difference * (1 - difference)
        # share that only B gets right, the most likely one under this difference
        share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = (2 * share + difference * (1 - difference)) / n
        gap = (only_a - only_b) / n - difference
        return math.copysign(math.inf, gap) if variance <= 0 else gap / math.sqrt(variance)

    found = (only_a - only_b) / n
    return _root(distance, z, -1.0, found), _root(distance, -z, found, 1.0)


def _root(distance: Any, wanted: float, low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) > wanted else (low, middle)
    return (low + high) / 2


def _t(value: float, differences: Array, denominators: Array, cluster: Any) -> Difference:
    n = len(differences)
    found = ratio(differences, denominators, cluster)
    test = T if found.clusters == n else CLUSTER_T
    differing = int(np.count_nonzero(np.abs(cluster_sums(cluster, differences)) > _ROUNDING))
    if found.variance is None:
        return _nothing(value, n, found.clusters, test)
    return _by_error(value, math.sqrt(found.variance), found.degrees, n, found.clusters, test, differing)


def _nothing(value: float, n: int, clusters: int, test: str) -> Difference:
    interval = Interval(value, None, math.nan, math.nan, n, clusters)
    return Difference(interval=interval, p=math.nan, test=test, degrees=0.0, detectable=math.inf, differing=0)


def _sign_flips(found: Difference, differences: Array, cluster: Any) -> Difference:
    """p of `found` by flips of the signs of the clusters' sums, and the interval of all differences that they do not reject at 5%.

    Between equals each cluster favours A or B with the same chance, so all signs of its sum are as likely: what Student's t finds too
    seldom where few clusters hold most of the differences. Left as it is where too few clusters differ for flips to reject, or where
    clusters are of so unequal size that they would reject no difference at all.
    """
    sums, sizes = cluster_sums(cluster, differences), cluster_sums(cluster, np.ones(len(differences)))
    interval = found.interval
    if found.differing < LEAST_DIFFERING or not interval.stderr or flip_p(sizes) > ALPHA:
        return found

    centre = float(sums.sum() / sizes.sum())
    about = sums - centre * sizes
    total, many = float(sizes.sum()), len(sizes)
    powers = [float((about ** (4 - power) * sizes**power).sum()) for power in range(5)]
    squares = [float((about ** (2 - power) * sizes**power).sum()) for power in range(3)]

    def beyond(difference: float) -> float:
        """p of the clusters' sums less this difference of every item, less 5%: from sums of powers, since it is asked many times."""
        step = centre - difference
        second = squares[0] + step * (2 * squares[1] + step * squares[2])
        fourth = powers[0] + step * (4 * powers[1] + step * (6 * powers[2] + step * (4 * powers[3] + step * powers[4])))
        return _flip_tail(many, step * total, second, fourth) - ALPHA

    low, high = (_where_rejected(beyond, centre, side * 3 * interval.stderr) for side in (-1, 1))
    moved = interval.value - centre  # the last digit, see `paired_difference`
    # no outcome is rarer than all signs alike; half of that, as of any discrete p (mid-p)
    p = max(flip_p(sums), 2.0**-found.differing)
    return replace(found, p=p, test=SIGN_FLIPS, interval=replace(interval, low=low + moved, high=high + moved))


def flip_p(sums: Array) -> float:
    """The two-sided p of a sum of terms whose signs are all as likely to be flipped: (clusters,) terms.

    The squared sum over its greatest value for terms of these squares has mean 1 / n and, over all flips, the second moment
    (3 - 2 k) / n^2, where k is the sum of fourth powers over the square of that of squares. The beta distribution with these
    moments has its tail (Pitman, Supplement to the Journal of the Royal Statistical Society 4, 1937; Box and Andersen, Journal of
    the Royal Statistical Society B 17, 1955). For the k of normal terms, 3 / (n + 2), that is Student's t.
    """
    return _flip_tail(len(sums), float(sums.sum()), float((sums**2).sum()), float((sums**4).sum()))


def _flip_tail(n: int, total: float, squares: float, fourth_powers: float) -> float:
    if not squares:
        return 1.0
    concentration = fourth_powers / squares**2
    if concentration >= 1:  # one term is all there is
        return 1.0
    first = ((n - 1) / (2 * (1 - concentration)) - 1) / n
    return float(betaincc(first, (n - 1) * first, min(total**2 / (n * squares), 1.0)))


def _where_rejected(beyond: Callable[[float], float], centre: float, step: float) -> float:
    """Where `beyond` falls below zero on the side of `step`; 0 lies within just when it is above zero there."""
    inside = centre
    if (0 - centre) * step > 0:
        if beyond(0.0) <= 0:
            return float(brentq(beyond, centre, 0.0))
        inside = 0.0
    outside = inside + step
    while beyond(outside) > 0:
        inside, outside = outside, centre + 2 * (outside - centre)
    return float(brentq(beyond, inside, outside))


def _by_error(value: float, stderr: float, degrees: float, n: int, clusters: int, test: str, differing: int) -> Difference:
    half = quantile(degrees) * stderr
    # where nothing varies, all that speaks for a difference is that every cluster has its sign
    p = _two_sided(value / stderr, degrees) if stderr else 2.0 ** (1 - clusters) if value else 1.0
    interval = Interval(value, stderr, value - half, value + half, n, clusters)
    return Difference(interval=interval, p=p, test=test, degrees=degrees, detectable=_reach(degrees) * stderr, differing=differing)


def _reach(degrees: float) -> float:
    """Standard errors that a true difference must have to be found with the usual power (Miller 2024, arXiv 2411.00640, section 5)."""
    if math.isinf(degrees):
        return float(ndtri(1 - ALPHA / 2) + ndtri(POWER))
    return float(stdtrit(degrees, 1 - ALPHA / 2) + stdtrit(degrees, POWER))


def _two_sided(statistic: float, degrees: float) -> float:
    return 2 * float(ndtr(-abs(statistic)) if math.isinf(degrees) else stdtr(degrees, -abs(statistic)))


def paired_ratio_difference(a: Sequence[float], b: Sequence[float], denominators: Sequence[float], clusters: Sequence[Any] | None = None) -> Difference:
    """The difference of two ratios of sums over the same denominators: bits per byte of the same documents. Student's t over documents or clusters.

    Raises `DataError` when the denominators sum to zero.
    """
    _same_length(a, b)
    total = sum(denominators)
    if not total:
        raise DataError("a difference of ratios: the denominators sum to zero; are all documents empty?")
    value = float(sum(a) / total) - float(sum(b) / total)
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    return _t(value, differences, np.asarray(denominators, dtype=float), codes(clusters, len(differences)))


def paired_corpus_difference(
    a: Sequence[Any], b: Sequence[Any], aggregation: Aggregation, clusters: Sequence[Any] | None = None, *, seed: int, resamples: int = 1000
) -> Difference:
    """The difference of a metric of all items together (BLEU, F1, Matthews): a standard error, then Student's t.

    Where the metric is a function of sums, the error is the jackknife's: both models without the same clusters of items (see
    `Corpus.jackknife`). For other functions both are resampled by the same clusters (Koehn, EMNLP 2004). The error, not the share of
    resamples on one side of zero, gives p: with 1000 resamples no share is small enough to outlast Holm's correction over many tasks.
    """
    _same_length(a, b)
    first, second = Corpus(a, aggregation, clusters), Corpus(b, aggregation, clusters)
    value, n, groups = first.value - second.value, len(first.values), first.clusters
    if groups < 2 or not math.isfinite(value):
        return _nothing(value, n, groups, JACKKNIFE if first.smooth and second.smooth else BOOTSTRAP)
    differing = _differing(first, second, clusters)
    if first.smooth and second.smooth:
        left_out = first.jackknife() - second.jackknife()
        if np.isfinite(left_out).all():
            return _by_error(value, jackknife_error(left_out), len(left_out) - 1, n, groups, JACKKNIFE, differing)
    draws = np.concatenate([first.of(counts) - second.of(counts) for counts in resampled(groups, max(resamples, MIN_RESAMPLES), seed)])
    draws = draws[np.isfinite(draws)]
    if len(draws) < MIN_RESAMPLES:
        return _nothing(value, n, groups, BOOTSTRAP)
    stderr = float(draws.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    return _by_error(value, stderr, groups - 1, n, groups, BOOTSTRAP, differing)


def paired_bootstrap(
    a: Sequence[Any],
    b: Sequence[Any],
    clusters: Sequence[Any] | None = None,
    *,
    denominators: Sequence[float] | None = None,
    aggregation: Aggregation | None = None,
    seed: int,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the difference A - B when both models are resampled by the same clusters of items (Koehn, EMNLP 2004).

    Of the means of scores; with `denominators` of the ratios of sums; with `aggregation` of that metric of all items. A second opinion beside the
    tests of this module, which need fewer clusters to hold their level. NaN for a single cluster, or where the metric is mostly not a number.
    """
    _same_length(a, b)
    if aggregation is not None:
        first, second = Corpus(a, aggregation, clusters), Corpus(b, aggregation, clusters)
        groups = first.clusters

        def of(counts: Counts) -> Array:
            return first.of(counts) - second.of(counts)
    else:
        cluster = codes(clusters, len(a))
        terms = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
        tops = cluster_sums(cluster, terms)
        bottoms = cluster_sums(cluster, np.ones(len(a)) if denominators is None else np.asarray(denominators, dtype=float))
        groups = len(tops)

        def of(counts: Counts) -> Array:
            return np.asarray((counts @ tops) / (counts @ bottoms))

    if groups < 2:
        return math.nan, math.nan
    draws = np.concatenate([of(counts) for counts in resampled(groups, max(resamples, MIN_RESAMPLES), seed)])
    draws = draws[np.isfinite(draws)]
    if len(draws) < MIN_RESAMPLES:
        return math.nan, math.nan
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _differing(first: Corpus, second: Corpus, clusters: Sequence[Any] | None) -> int:
    """Clusters with an item of which the models gave other values."""
    other = [float(not np.array_equal(a, b)) for a, b in zip(first.values, second.values, strict=True)]
    return int(np.count_nonzero(cluster_sums(codes(clusters, len(other)), np.asarray(other))))


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The difference of two plain means over the same tasks: errors of tasks are independent, degrees of freedom are Welch's and Satterthwaite's.

    Give each difference in the unit of the mean. Raises `DataError` without any.
    """
    if not differences:
        raise DataError("a difference of means needs at least one task")
    k = len(differences)
    value = sum(entry.interval.value for entry in differences) / k
    n, clusters = (sum(getattr(entry.interval, name) for entry in differences) for name in ("n", "clusters"))
    errors = [entry.interval.stderr for entry in differences]
    if any(error is None for error in errors):
        return _nothing(value, n, clusters, T)
    variances = [error**2 for error in errors if error is not None]
    total = sum(variances)
    spread = sum(variance**2 / min(entry.degrees, entry.interval.clusters - 1) for variance, entry in zip(variances, differences, strict=True))
    return _by_error(value, math.sqrt(total) / k, total**2 / spread if spread else math.inf, n, clusters, T, sum(entry.differing for entry in differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given; NaN stays NaN and is not counted."""
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[index] = highest
    return corrected


def _same_length(a: Sequence[Any], b: Sequence[Any]) -> None:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} scores of one model, {len(b)} of the other")
    if not len(a):
        raise DataError("two models without a common item cannot be compared")
