"""The variance of a ratio of sums whose terms come in clusters, for few clusters and for clusters of unequal size.

A mean over items is the ratio of the sum of scores to the number of items, bits per byte that of bits to bytes. Items that
share a passage vary together, so the clusters are what was sampled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Of every interval."""
_ROUNDING = 1e-12
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums: its estimate, the variance of that (None for one cluster) and the degrees of freedom of the variance."""

    value: float
    variance: float | None
    degrees: float
    clusters: int


def codes(clusters: Sequence[Any] | None, n: int) -> NDArray[np.intp]:
    """The cluster of each of `n` items as a number from 0; an item whose cluster is None stands alone."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{n} scores, but {len(clusters)} clusters")
    names = clusters if None not in clusters else [_Alone() if name is None else name for name in clusters]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.fromiter(map(numbers.__getitem__, names), dtype=np.intp, count=n)


class _Alone:
    """The name of a cluster of one item: equal to no other."""


def quantile(degrees: float, level: float = LEVEL) -> float:
    """Student's t that a two-sided interval of `level` reaches to; the normal one for infinite `degrees`."""
    upper = 0.5 + level / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(degrees, upper))


def ratio(numerators: Array, denominators: Array, cluster: NDArray[np.intp]) -> Ratio:
    """sum(numerators) / sum(denominators) with its cluster-robust variance.

    The linearised ratio estimator (Cochran, Sampling Techniques, 3rd ed., section 6.4) over clusters, each squared residual
    divided by one minus the cluster's share (CR2: Bell and McCaffrey, Survey Methodology 28, 2002). Expectation and Satterthwaite
    degrees of freedom are those under a working model in which terms of one cluster are as correlated as they were found to be
    (Imbens and Kolesar, Review of Economics and Statistics 98, 2016). Its terms vary as the square of their denominators for the
    expectation (each document has its own rate), and as the denominators for the degrees: of the choices tried, the one that
    holds the level best where documents are of very unequal length (benchmarks/evaluate_simulation.py). Either way two terms of a
    cluster covary by the correlation times the root of their variances. For items that stand alone this is the sample variance / n,
    with n - 1 degrees.
    """
    tops, bottoms = cluster_sums(cluster, numerators), cluster_sums(cluster, denominators)
    total = bottoms.sum()
    value = float(tops.sum() / total)
    if len(tops) < 2:
        return Ratio(value, None, 0.0, len(tops))
    share = bottoms / total
    scale = 1 / (1 - share)
    residuals = numerators - value * denominators
    residuals[np.abs(residuals) <= _ROUNDING * np.abs(numerators).max()] = 0.0
    squared = float((scale * cluster_sums(cluster, residuals) ** 2).sum())
    correlation = _correlation(residuals, denominators, cluster, bottoms)
    own_rates = (1 - correlation) * cluster_sums(cluster, denominators**2) + correlation * bottoms**2
    one_rate = denominators.mean() * ((1 - correlation) * bottoms + correlation * cluster_sums(cluster, np.sqrt(denominators)) ** 2)
    expected, _ = _moments(share, scale, own_rates)
    mean, spread = _moments(share, scale, one_rate)
    return Ratio(value, float(squared / total**2 * own_rates.sum() / expected), mean**2 / spread, len(tops))


def cluster_sums(cluster: NDArray[np.intp], values: Array) -> Array:
    """The sum of the values of each cluster."""
    return np.bincount(cluster, values).astype(np.float64, copy=False)


def _correlation(residuals: Array, denominators: Array, cluster: NDArray[np.intp], bottoms: Array) -> float:
    """How alike the residuals of one cluster are, by moments, kept within 0 and 1."""
    squares = float((denominators**2).sum())
    pairs = float((bottoms**2).sum()) - squares
    own = float((residuals**2).sum())
    if pairs <= 0 or own <= 0:  # every item stands alone, or there is no variance to share
        return 0.0
    shared = float((cluster_sums(cluster, residuals) ** 2).sum()) - own
    return min(1.0, max(0.0, shared / pairs * squares / own))


def _moments(share: Array, scale: Array, working: Array) -> tuple[float, float]:
    """Mean of the sum of scaled squared residuals, and half its variance, for independent normal cluster sums of variances `working`.

    The sum is the quadratic form T'BT of the cluster sums T with B = M'DM, M = I - share 1', D = diag(scale): traces of B working and of its square.
    """
    pull = scale * share
    constant = float((pull * share).sum())
    diagonal = scale - 2 * pull + constant
    weight, first, second = float(working.sum()), float((working * pull).sum()), float((working * pull**2).sum())
    everywhere = constant**2 * weight**2 - 4 * constant * weight * first + 2 * weight * second + 2 * first**2
    on_diagonal = working**2 * (diagonal**2 - (constant - 2 * pull) ** 2)
    return float((working * diagonal).sum()), everywhere + float(on_diagonal.sum())
