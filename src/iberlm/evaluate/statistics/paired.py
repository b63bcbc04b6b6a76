"""Two models on the same items: the difference, its 95% interval, the chance of one as large between equals, and what would go unseen.

The interval and the test are of one kind each time, so that an interval without zero goes with p < 0.05 and the other way round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from iberlm.core.errors import DataError
from iberlm.evaluate.statistics.clusters import Array, codes, quantile, ratio
from iberlm.evaluate.statistics.corpus import Aggregation, Corpus, resampled
from iberlm.evaluate.statistics.intervals import MIN_RESAMPLES, Interval
from iberlm.evaluate.statistics.power import ALPHA, POWER, minimum_detectable_effect

MCNEMAR, T, CLUSTER_T, BOOTSTRAP = "McNemar", "paired t", "paired t over clusters", "paired bootstrap"


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

    def scaled(self, factor: float) -> "Difference":
        """The same in another unit, such as points of a normalised score."""
        mapped = self.interval.mapped(lambda score: factor * score, factor)
        return replace(self, interval=mapped, detectable=abs(factor) * self.detectable)


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[Any] | None = None) -> Difference:
    """The difference of two means over the same items.

    Right-or-wrong scores of items that stand alone: McNemar's test as he gave it (Psychometrika 12, 1947), without correction, and
    the interval that inverts it (Tango, Statistics in Medicine 17, 1998). It keeps its level better than the exact one and its mid-p
    variant, which seldom reject with few items that differ (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13, 2013).
    Else Student's t on the differences, over clusters where items share a passage (see `clusters.ratio`).
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
    return replace(found, only_a=only_a, only_b=only_b)


def _mcnemar(value: float, only_a: int, only_b: int, n: int) -> Difference:
    changed = only_a + only_b
    p = 2 * float(ndtr(-abs(only_a - only_b) / math.sqrt(changed))) if changed else 1.0
    low, high = tango(only_a, only_b, n)
    stderr = math.sqrt((changed / n - value**2) / (n - 1)) if n > 1 else None
    # a discordance of zero is never the whole truth: half an item is added to each side, as for a share of n + 2
    detectable = minimum_detectable_effect(n, discordance=(changed + 1) / (n + 2))
    interval = Interval(value, stderr, min(low, value), max(high, value), n, n)
    return Difference(interval=interval, p=p, test=MCNEMAR, degrees=math.inf, detectable=detectable, only_a=only_a, only_b=only_b)


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
    if found.variance is None:
        nothing = Interval(value, None, math.nan, math.nan, n, found.clusters)
        return Difference(interval=nothing, p=math.nan, test=test, degrees=0.0, detectable=math.inf)
    return _by_error(value, math.sqrt(found.variance), found.degrees, n, found.clusters, test)


def _by_error(value: float, stderr: float, degrees: float, n: int, clusters: int, test: str) -> Difference:
    half = quantile(degrees) * stderr
    # where nothing varies, all that speaks for a difference is that every cluster has its sign
    p = _two_sided(value / stderr, degrees) if stderr else 2.0 ** (1 - clusters) if value else 1.0
    interval = Interval(value, stderr, value - half, value + half, n, clusters)
    return Difference(interval=interval, p=p, test=test, degrees=degrees, detectable=_reach(degrees) * stderr)


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
    """The difference of a metric of all items together (BLEU, F1, Matthews): standard error by the paired bootstrap, then Student's t.

    Both models are resampled by the same clusters of items (Koehn, EMNLP 2004). The error, not the share of resamples on one side of
    zero, gives p: with 1000 resamples no share is small enough to outlast Holm's correction over many tasks.
    """
    _same_length(a, b)
    first, second = Corpus(a, aggregation, clusters), Corpus(b, aggregation, clusters)
    value, n, groups = first.value - second.value, len(first.values), first.clusters
    draws = np.concatenate([first.of(counts) - second.of(counts) for counts in resampled(groups, max(resamples, MIN_RESAMPLES), seed)])
    draws = draws[np.isfinite(draws)]
    if groups < 2 or not math.isfinite(value) or len(draws) < MIN_RESAMPLES:
        nothing = Interval(value, None, math.nan, math.nan, n, groups)
        return Difference(interval=nothing, p=math.nan, test=BOOTSTRAP, degrees=0.0, detectable=math.inf)
    stderr = float(draws.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    return _by_error(value, stderr, groups - 1, n, groups, BOOTSTRAP)


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
        nothing = Interval(value, None, math.nan, math.nan, n, clusters)
        return Difference(interval=nothing, p=math.nan, test=T, degrees=0.0, detectable=math.inf)
    variances = [error**2 for error in errors if error is not None]
    total = sum(variances)
    spread = sum(variance**2 / min(entry.degrees, entry.interval.clusters - 1) for variance, entry in zip(variances, differences, strict=True))
    return _by_error(value, math.sqrt(total) / k, total**2 / spread if spread else math.inf, n, clusters, T)


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
