"""95% intervals of means, of ratios of sums and of metrics over a corpus, by items or by clusters of items.

Each value is the one that lm-eval computes, to the last digit: the same sums in the same order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from iberlm.core.errors import DataError
from iberlm.evaluate.statistics.clusters import Array, Ratio, codes, quantile, ratio
from iberlm.evaluate.statistics.corpus import Aggregation, Corpus, jackknife_error, resampled

MIN_RESAMPLES = 100
_MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class Interval:
    """A value with its standard error and the ends of its 95% interval.

    `stderr` is None, and the ends of an unbounded value are not numbers, where one cluster is all there is.
    `clusters` is `n` where every item stands alone.
    """

    value: float
    stderr: float | None
    low: float
    high: float
    n: int
    clusters: int

    def mapped(self, function: Callable[[float], float], slope: float) -> "Interval":
        """The interval of a monotone `function` of the value, whose derivative there is `slope`."""
        low, high = sorted((function(self.low), function(self.high)))
        return replace(self, value=function(self.value), stderr=None if self.stderr is None else self.stderr * abs(slope), low=low, high=high)


def mean_interval(scores: Sequence[float], clusters: Sequence[Any] | None = None, *, bounds: tuple[float, float] | None = None) -> Interval:
    """The mean of `scores` with its interval; `clusters` names the passage of each item (None: it stands alone).

    With `bounds`, the lowest and highest score that an item can have, the interval is Wilson's with as many items as would give
    the variance that was found: of a share that is the effective sample size of Korn and Graubard (Survey Methodology 24, 1998),
    scaled for the degrees of freedom as theirs; it keeps within the bounds and leans away from them. Without bounds it is Student's t.
    """
    _not_empty(scores)
    n, value = len(scores), float(sum(scores) / len(scores))
    cluster = codes(clusters, n)
    nothing = Interval(value, None, math.nan, math.nan, n, int(cluster.max()) + 1)
    if not math.isfinite(value):
        return nothing
    found = ratio(np.asarray(scores, dtype=float), np.ones(n), cluster)
    stderr = None if found.variance is None else math.sqrt(found.variance)
    if bounds is None:
        if stderr is None:
            return nothing
        half = quantile(found.degrees) * stderr
        return Interval(value, stderr, value - half, value + half, n, found.clusters)
    lowest, highest = bounds
    if not (lowest <= min(scores) and max(scores) <= highest):
        raise DataError(f"a score lies outside of {lowest} to {highest}: {min(scores)} to {max(scores)}")
    width = highest - lowest
    share = (value - lowest) / width
    effective = _effective_items(share, (found.variance or 0.0) / width**2, n, found, binary={*scores} <= {lowest, highest})
    low, high = wilson(share, effective)
    return Interval(value, stderr, lowest + width * low, lowest + width * high, n, found.clusters)


def _effective_items(share: float, variance: float, n: int, found: Ratio, *, binary: bool) -> float:
    """How many independent right-or-wrong items would tell as much of the share, seen through the normal quantile.

    Of right-or-wrong items that stand alone this is their number: their variance is known with the share, so it costs no degrees of freedom.
    """
    if variance <= 0:  # all items equal: nothing tells how alike those of a cluster are, so only the clusters count
        return found.clusters
    independent, reach = (n / (n - 1), quantile(n - 1)) if binary else (1.0, quantile(math.inf))
    return independent * share * (1 - share) / variance * (reach / quantile(found.degrees)) ** 2


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval (Journal of the American Statistical Association 22, 1927) of a share of `n` items."""
    z = quantile(math.inf) ** 2 / n
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(z * share * (1 - share) + z**2 / 4) / (1 + z)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Any] | None = None) -> Interval:
    """sum(numerators) / sum(denominators) with a t interval: documents (or clusters of them) are what was sampled, not their bytes.

    Of what cannot be negative, such as bits per byte, it is taken on the logarithm: rates of documents are skewed to the right.
    Raises `DataError` when the denominators sum to zero.
    """
    _not_empty(numerators)
    n, total = len(numerators), sum(denominators)
    if not total:
        raise DataError("a ratio of sums: the denominators sum to zero; are all documents empty?")
    cluster, value = codes(clusters, n), float(sum(numerators) / total)
    nothing = Interval(value, None, math.nan, math.nan, n, int(cluster.max()) + 1)
    if not math.isfinite(value):
        return nothing
    found = ratio(np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float), cluster)
    if found.variance is None:
        return nothing
    stderr = math.sqrt(found.variance)
    half = quantile(found.degrees) * stderr
    if value > 0 and min(numerators) >= 0:
        factor = math.exp(min(half / value, _MAX_EXPONENT))
        return Interval(value, stderr, value / factor, value * factor, n, found.clusters)
    return Interval(value, stderr, value - half, value + half, n, found.clusters)


def bits_per_byte_interval(pairs: Sequence[Sequence[float]], clusters: Sequence[Any] | None = None) -> Interval:
    """Bits per byte from (log-likelihood in nats, bytes) of each document; the value is lm-eval's `bits_per_byte` to the last digit."""
    _not_empty(pairs)
    likelihoods, sizes = zip(*pairs, strict=True)
    found = ratio_interval([-likelihood for likelihood in likelihoods], sizes, clusters)
    return found.mapped(lambda nats: nats / math.log(2), 1 / math.log(2))


def corpus_interval(values: Sequence[Any], aggregation: Aggregation, clusters: Sequence[Any] | None = None, *, seed: int, resamples: int = 1000) -> Interval:
    """A metric of all items together (BLEU, F1, Matthews) with its interval over clusters.

    BLEU, chrF, TER and perplexities: Student's t with the jackknife's standard error, on the logarithm, or the logit of a share of
    100, by the delta method (`stretched`). Others, F1, Matthews and functions of one's own: the BCa bootstrap.
    BCa: Efron, Journal of the American Statistical Association 82, 1987. Its percentiles are those that make up for the
    variance that a bootstrap loses with few clusters (Hesterberg, American Statistician 69, 2015, section 5.3). Of labels that stand
    alone the variance is known with their shares, so it costs no degrees of freedom, as in `mean_interval`.
    """
    _not_empty(values)
    corpus = Corpus(values, aggregation, clusters)
    n, groups = len(corpus.values), corpus.clusters
    if groups < 2 or not math.isfinite(corpus.value):
        return Interval(corpus.value, None, math.nan, math.nan, n, groups)
    left_out = corpus.jackknife()
    if corpus.bounds is not None and np.isfinite(left_out).all():
        stderr = jackknife_error(left_out)
        low, high = stretched(corpus.value, quantile(len(left_out) - 1) * stderr, corpus.bounds)
        return Interval(corpus.value, stderr, low, high, n, groups)
    draws = np.concatenate([corpus.of(counts) for counts in resampled(groups, max(resamples, MIN_RESAMPLES), seed)])
    draws = draws[np.isfinite(draws)]
    if len(draws) < MIN_RESAMPLES:
        return Interval(corpus.value, None, math.nan, math.nan, n, groups)
    low, high = bca(corpus.value, draws, left_out, groups, math.inf if corpus.smooth and groups == n else groups - 1)
    stderr = float(draws.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    return Interval(corpus.value, stderr, low, high, n, groups)


def stretched(value: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Ends of value +- half on a scale that takes the bounds to infinity, log((value - lowest) / (highest - value)), by the delta method.

    The logarithm where there is no highest, the value's own scale where there is no bound, and where the value lies at one.
    """
    lowest, highest = bounds
    if not half or not lowest < value < highest or math.isinf(lowest):
        return min(value, max(lowest, value - half)), max(value, min(highest, value + half))
    below, above = value - lowest, highest - value
    factor = math.exp(min(half / below + half / above, _MAX_EXPONENT))
    if math.isinf(highest):
        return lowest + below / factor, lowest + below * factor
    width = highest - lowest
    return lowest + width * below / (below + above * factor), lowest + width * below / (below + above / factor)


def bca(value: float, draws: Array, left_out: Array, clusters: int, degrees: float) -> tuple[float, float]:
    """Ends of the bias-corrected and accelerated interval from bootstrap `draws` and the jackknife values `left_out`."""
    if draws.min() == draws.max():
        return float(draws[0]), float(draws[0])
    below = ((draws < value).sum() + (draws == value).sum() / 2 + 0.5) / (len(draws) + 1)
    bias = float(ndtri(below))
    pulls = left_out.mean() - left_out
    spread = float((pulls**2).sum()) ** 1.5
    acceleration = float((pulls**3).sum()) / (6 * spread) if spread else 0.0
    # percentiles of a normal deviate as far out as Student's t reaches, times the root by which the draws are too narrow
    reach = math.sqrt(clusters / (clusters - 1)) * quantile(degrees)
    ends = []
    for side in (-reach, reach):
        moved = bias + side
        ends.append(float(ndtr(bias + moved / max(1 - acceleration * moved, 0.1))))
    low, high = np.quantile(draws, ends)
    return float(low), float(high)


def _not_empty(values: Sequence[Any]) -> None:
    if not len(values):
        raise DataError("no items were scored: there is no mean of nothing")
