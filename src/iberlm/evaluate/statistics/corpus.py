"""Metrics of a whole corpus on resamples of it: BLEU, chrF, TER, F1 and Matthews are functions of sums over items, and need the texts only once.

lm-eval's function gives the value; the sums give it again thousands of times a second. They are used only where they give that value on
the items as they are; otherwise the function itself is called on every resample. Where there are sums, the metric changes smoothly with
them, so that the jackknife gives its error.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iberlm.evaluate.statistics.clusters import Array, cluster_sums, codes

Aggregation = Callable[[list[Any]], float]
Counts = NDArray[np.int64]
_BLEU_ORDER, _CHRF_BETA = 4, 2
_JACKKNIFE_GROUPS = 200
_CELLS_AT_ONCE = 4_000_000
_POSITIVE, _PERCENT = (0.0, math.inf), (0.0, 100.0)


@dataclass(frozen=True)
class Sums:
    """Statistics of each item, and the metric as a function of their sums: (items, k) numbers, (resamples, k) sums to (resamples,) values."""

    statistics: Array
    score: Callable[[Array], Array]
    bounds: tuple[float, float] | None = None
    """The lowest and the highest value there can be, where that of a corpus is close to normal once it is stretched between them; None where it is not."""


class Corpus:
    """Items of one corpus in clusters, and the metric of any choice of the clusters."""

    def __init__(self, values: Sequence[Any], aggregation: Aggregation, clusters: Sequence[Any] | None) -> None:
        self.values, self.aggregation = list(values), aggregation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, on a class that is never predicted
            self.value = float(aggregation(self.values))
        cluster = codes(clusters, len(self.values))
        self.clusters = int(cluster.max()) + 1
        sums = _sums(aggregation, self.values, self.value) if math.isfinite(self.value) else None
        self._score = sums.score if sums else None
        self.smooth = sums is not None
        self.bounds = sums.bounds if sums else None
        if sums:
            self._statistics = np.stack([cluster_sums(cluster, column) for column in sums.statistics.T], axis=1)
        self._members = [np.flatnonzero(cluster == number).tolist() for number in range(self.clusters)] if not sums else []

    def of(self, counts: Counts) -> Array:
        """The metric with each cluster taken as often as `counts` says: (resamples, clusters) to (resamples,) values."""
        if self._score is not None:
            return self._score(counts @ self._statistics)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array([float(self.aggregation(self._expanded(row))) for row in counts.tolist()])

    def _expanded(self, counts: list[int]) -> list[Any]:
        return [self.values[item] for members, count in zip(self._members, counts, strict=True) for _ in range(count) for item in members]

    def jackknife(self) -> Array:
        """The metric without each cluster; where there are many, without each of 200 groups of them: (groups,) values."""
        groups = min(self.clusters, _JACKKNIFE_GROUPS)
        left_out = np.arange(self.clusters) % groups
        return self.of(np.stack([(left_out != group).astype(np.int64) for group in range(groups)]))


def jackknife_error(left_out: Array) -> float:
    """Standard error from the values of `Corpus.jackknife`, or from differences of two models' (Efron and Stein, Annals of Statistics 9, 1981).

    It seldom falls short with few items, where the bootstrap's does.
    """
    groups = len(left_out)
    return math.sqrt((groups - 1) / groups * float(((left_out - left_out.mean()) ** 2).sum()))


def resampled(clusters: int, resamples: int, seed: int) -> Iterator[Counts]:
    """How often each cluster is drawn in each resample, in blocks of (resamples, clusters): the same for every corpus of as many clusters."""
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // clusters)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)


def _sums(aggregation: Aggregation, values: list[Any], value: float) -> Sums | None:
    """The metric by sums, where it is one of lm-eval's that can be had so, or says itself how (`aggregation.sums`), and gives `value`."""
    maker = getattr(aggregation, "sums", None)
    if getattr(aggregation, "__module__", "") == "lm_eval.api.metrics":
        maker = _MAKERS.get(getattr(aggregation, "__name__", ""))
    if maker is None:
        return None
    try:
        found = maker(values)
        again = float(found.score(found.statistics.sum(axis=0, keepdims=True))[0])
    except (AttributeError, TypeError, ValueError, IndexError):  # values of another shape, or a sacrebleu that has changed inside
        return None
    return found if math.isclose(again, value, rel_tol=1e-9, abs_tol=1e-12) else None


def _ratio(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def score(sums: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return function(sums[:, 0] / sums[:, 1])

    return score


def _plain_mean(values: list[Any]) -> Sums:
    return Sums(np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1), _ratio(lambda mean: mean), (-math.inf, math.inf))


def _perplexity(values: list[Any]) -> Sums:
    return Sums(_plain_mean(values).statistics, _ratio(lambda mean: np.exp(-mean)), _POSITIVE)


def _weighted_perplexity(values: list[Any]) -> Sums:
    return Sums(np.asarray(values, dtype=float), _ratio(lambda mean: np.exp(-mean)), _POSITIVE)


def _bits_per_byte(values: list[Any]) -> Sums:
    return Sums(np.asarray(values, dtype=float), _ratio(lambda mean: -mean / math.log(2)), _POSITIVE)


def _confusion(values: list[Any]) -> tuple[Array, int, list[Any]]:
    """A one for each item at (right, predicted), flattened; the number of labels, and the labels."""
    labels = sorted({label for pair in values for label in pair})
    places = {label: place for place, label in enumerate(labels)}
    table = np.zeros((len(values), len(labels) ** 2))
    for item, (gold, predicted) in enumerate(values):
        table[item, places[gold] * len(labels) + places[predicted]] = 1
    return table, len(labels), labels


def _f1(values: list[Any]) -> Sums:
    """F1 of the class 1: 2 TP / (2 TP + FP + FN), 0 without any."""
    table, size, labels = _confusion(values)
    if not set(labels) <= {0, 1}:
        raise ValueError("more than two classes")
    positive = labels.index(1) if 1 in labels else None

    def score(sums: Array) -> Array:
        if positive is None:
            return np.zeros(len(sums))
        matrix = sums.reshape(-1, size, size)
        both, margins = matrix[:, positive, positive], matrix[:, positive, :].sum(axis=1) + matrix[:, :, positive].sum(axis=1)
        return np.asarray(2 * both / np.maximum(margins, 1))

    return Sums(table, score)


def _matthews(values: list[Any]) -> Sums:
    """Matthews' correlation of any number of classes (Gorodkin, Computational Biology and Chemistry 28, 2004), 0 where it is not defined."""
    table, size, _ = _confusion(values)

    def score(sums: Array) -> Array:
        matrix = sums.reshape(-1, size, size)
        total, right = matrix.sum(axis=(1, 2)), np.trace(matrix, axis1=1, axis2=2)
        gold, predicted = matrix.sum(axis=2), matrix.sum(axis=1)
        top = right * total - (gold * predicted).sum(axis=1)
        square = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (gold**2).sum(axis=1))
        return np.where(square > 0, top / np.sqrt(np.maximum(square, 1)), 0.0)

    return Sums(table, score)


def _texts(metric: Any, values: list[Any]) -> Array:
    """sacrebleu's counts of each item, as it sums them itself."""
    from lm_eval.api.metrics import _sacreformat

    references, predictions = _sacreformat([pair[0] for pair in values], [pair[1] for pair in values])
    return np.asarray(metric._extract_corpus_statistics(predictions, references), dtype=float)


def _bleu(values: list[Any]) -> Sums:
    from sacrebleu.metrics.bleu import BLEU

    return Sums(_texts(BLEU(), values), bleu_of, _PERCENT)


def bleu_of(sums: Array) -> Array:
    """BLEU from (.., 10) sums: both lengths, matches of orders 1 to 4, n-grams of orders 1 to 4.

    Orders without a match are smoothed as mteval-v13a does, each with half the share of the one before (Chen and Cherry, WMT 2014, method 3).
    """
    hypothesis, reference = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2 : 2 + _BLEU_ORDER], sums[:, 2 + _BLEU_ORDER :]
    missing = matches == 0
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=1), matches)
    defined = (totals > 0).all(axis=1) & ~missing.all(axis=1)
    logarithms = np.log(smoothed / np.maximum(totals, 1)).mean(axis=1)
    brevity = np.minimum(0.0, 1 - reference / np.maximum(hypothesis, 1))
    return np.where(defined, 100 * np.exp(logarithms + brevity), 0.0)


def _chrf(values: list[Any]) -> Sums:
    from sacrebleu.metrics.chrf import CHRF

    return Sums(_texts(CHRF(), values), chrf_of, _PERCENT)


def _chrf_plus_plus(values: list[Any]) -> Sums:
    from sacrebleu.metrics.chrf import CHRF

    return Sums(_texts(CHRF(word_order=2), values), chrf_of, _PERCENT)


def chrf_of(sums: Array) -> Array:
    """chrF from (.., 3 orders) sums: n-grams of the output, of the reference, and in both, for each order (Popovic, WMT 2015; beta is 2)."""
    output, reference, both = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    there = (output > 0) & (reference > 0)
    orders = np.maximum(there.sum(axis=1), 1)
    precision = np.where(there, both / np.maximum(output, 1), 0).sum(axis=1) / orders
    recall = np.where(there, both / np.maximum(reference, 1), 0).sum(axis=1) / orders
    weighted = _CHRF_BETA**2 * precision + recall
    return 100 * np.where(weighted > 0, (1 + _CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1), 0)


def _ter(values: list[Any]) -> Sums:
    from sacrebleu.metrics.ter import TER

    def score(sums: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 100 * np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], (sums[:, 0] > 0).astype(float))

    return Sums(_texts(TER(), values), score, _POSITIVE)


_MAKERS: dict[str, Callable[[list[Any]], Sums]] = {
    "mean": _plain_mean,
    "nanmean": _plain_mean,
    "perplexity": _perplexity,
    "weighted_perplexity": _weighted_perplexity,
    "bits_per_byte": _bits_per_byte,
    "f1_score": _f1,
    "matthews_corrcoef": _matthews,
    "bleu": _bleu,
    "chrf": _chrf,
    "chrfpp": _chrf_plus_plus,
    "ter": _ter,
}
"""By the names of lm-eval's functions."""
