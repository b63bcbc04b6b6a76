"""Models whose true scores are known, for evaluate_simulation.py: what they answer on items drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iberlm.evaluate.statistics.corpus import Sums, bleu_of

Generator = np.random.Generator
Array = NDArray[np.float64]
# weights of the scores 0 and 1, and the two parameters of the beta distribution of those between
GRADED = {"evenly mixed": (0.3, 0.3, 2, 2), "mostly 0": (0.7, 0.05, 2, 2), "mostly 1": (0.05, 0.7, 2, 2), "low": (0.02, 0.0, 2, 8)}
# share of the class 1, chance of saying 1 of items of class 1 and of the others
MATTHEWS = {"better than chance": (0.5, 0.6, 0.45), "good": (0.6, 0.9, 0.2), "rare class": (0.2, 0.5, 0.15)}


def cluster_sizes(rng: Generator, clusters: int, size: int | str) -> NDArray[np.int64]:
    """Items of each passage; "2 to 20" draws them evenly."""
    if isinstance(size, int):
        return np.full(clusters, size)
    low, high = map(int, size.split(" to "))
    return rng.integers(low, high + 1, clusters)


def _shares(rng: Generator, mean: float, correlation: float, clusters: int) -> Array:
    if correlation == 0:
        return np.full(clusters, mean)
    strength = (1 - correlation) / correlation
    return rng.beta(mean * strength, (1 - mean) * strength, clusters)


def right_or_wrong(rng: Generator, sizes: NDArray[np.int64], share: float, correlation: float) -> Array:
    """Scores 0 and 1, right in `share` of all items there are; two items of a passage are correlated (beta-binomial)."""
    each = np.repeat(_shares(rng, share, correlation, len(sizes)), sizes)
    return (rng.random(len(each)) < each).astype(float)


def graded(rng: Generator, sizes: NDArray[np.int64], kind: str, correlation: float) -> tuple[Array, float]:
    """Scores from 0 to 1 and their true mean; each passage has its own mixture of 0, 1 and what is between."""
    none, full, a, b = GRADED[kind]
    weights = np.array([none, full, 1 - none - full])
    n, truth = int(sizes.sum()), full + weights[2] * a / (a + b)
    if correlation == 0:
        each = np.broadcast_to(weights, (n, 3))
    else:
        gamma = rng.gamma(np.broadcast_to(weights * (1 - correlation) / correlation + 1e-9, (len(sizes), 3)))
        each = np.repeat(gamma / np.maximum(gamma.sum(axis=1, keepdims=True), 1e-300), sizes, axis=0)
    draw = rng.random(n)
    return np.where(draw < each[:, 0], 0.0, np.where(draw < each[:, 0] + each[:, 1], 1.0, rng.beta(a, b, n))), truth


def documents(rng: Generator, n: int, spread: float, kind: str) -> tuple[Array, Array, list[int] | None]:
    """Bits and bytes of documents whose true bits per byte are 1, and the source of each where documents of one are alike.

    Lengths are log-normal: 95% lie within a ratio of exp(4 spread). A document has its own rate, and its bits vary a little more the longer it is.
    """
    sizes = np.exp(rng.normal(7, spread, n)).round() + 20
    sources = None
    if kind == "even rates":
        rates = np.maximum(1 + 0.2 * rng.normal(size=n), 0.1)
    elif kind == "skewed rates":
        rates = np.exp(rng.normal(0, 0.3, n) - 0.045)
    else:
        each = 5 if kind == "five documents a source" else 2
        numbers = np.arange(n) // each
        rates = np.exp(rng.normal(0, 0.2, n // each + 1)[numbers] + rng.normal(0, 0.2, n) - 0.04)
        sources = numbers.tolist()
    return np.maximum(sizes * rates + 2 * np.sqrt(sizes) * rng.normal(size=n), 0.0), sizes, sources


def right_or_wrong_pairs(rng: Generator, sizes: NDArray[np.int64], correlation: float, *, equal: bool) -> tuple[Array, Array, float]:
    """Scores of two models on the same items, and the true difference of their shares: 0 when `equal`.

    5 to 50% of the items are right for one of them alone; a passage has its own shares of the four outcomes (Dirichlet-multinomial).
    """
    differ = rng.uniform(0.05, 0.5)
    difference = 0.0 if equal else differ * rng.uniform(-0.8, 0.8)
    both = (1 - differ) * rng.uniform(0.1, 0.9)
    outcomes = np.array([(differ + difference) / 2, (differ - difference) / 2, both, 1 - differ - both])
    if correlation == 0:
        each = np.broadcast_to(outcomes, (len(sizes), 4))
    else:
        gamma = rng.gamma(np.broadcast_to(outcomes * (1 - correlation) / correlation, (len(sizes), 4)))
        each = gamma / np.maximum(gamma.sum(axis=1, keepdims=True), 1e-300)
    draw = rng.random(int(sizes.sum()))
    found = (draw[:, None] > np.repeat(np.cumsum(each, axis=1), sizes, axis=0)[:, :3]).sum(axis=1)
    return ((found == 0) | (found == 2)).astype(float), ((found == 1) | (found == 2)).astype(float), difference


def graded_pairs(rng: Generator, n: int, kind: str) -> tuple[Array, Array]:
    """Graded scores of two models with the same mean on the same items."""
    alone = np.ones(n, int)
    if kind == "like one another":  # the same score on half of the items
        a, b = (graded(rng, alone, "evenly mixed", 0.0)[0] for _ in range(2))
        return a, np.where(rng.random(n) < 0.5, a, b)
    if kind == "one all or nothing":
        a = rng.beta(2, 2, n)
        return a, (rng.random(n) < a).astype(float)
    a = rng.beta(4, 4, n)
    if kind == "small losses, rare large gains":
        return a, a + np.where(rng.random(n) < 0.1, 0.45, -0.05) + rng.normal(0, 0.02, n)
    losing = rng.random(n) < 0.25
    return a, a + np.where(losing, -0.3, 0.1) + rng.normal(0, 0.02, n)


@dataclass(frozen=True)
class Counted:
    """(right, predicted) of every item, by two models that are equally good."""

    first: list[tuple[int, int]]
    second: list[tuple[int, int]]


def matthews_pairs(rng: Generator, n: int, kind: str) -> tuple[Counted, float]:
    """Two models that are equally good at telling two classes, often on the same items, and their true Matthews correlation."""
    prevalence, hit, alarm = MATTHEWS[kind]
    gold = rng.random(n) < prevalence
    threshold = np.where(gold, hit, alarm)
    common, own = rng.random(n), rng.random((2, n))
    answers = [np.where(rng.random(n) < 0.5, common, row) < threshold for row in own]
    pairs = [list(zip(gold.astype(int).tolist(), answer.astype(int).tolist(), strict=True)) for answer in answers]
    tp, fp = prevalence * hit, (1 - prevalence) * alarm
    fn, tn = prevalence - tp, 1 - prevalence - fp
    return Counted(*pairs), (tp * tn - fp * fn) / float(np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


class Cells:
    """Matthews correlation of pairs of 0 and 1. scikit-learn's needs a millisecond, mostly to check its input."""

    def __call__(self, values: Sequence[tuple[int, int]]) -> float:
        """As lm-eval's `matthews_corrcoef`."""
        found = self.sums(list(values))
        return float(found.score(found.statistics.sum(axis=0, keepdims=True))[0])

    @staticmethod
    def sums(values: list[tuple[int, int]]) -> Sums:
        """Counts of the four outcomes."""
        pairs = np.asarray(values)
        cells = np.eye(4)[2 * pairs[:, 0] + pairs[:, 1]]

        def score(sums: Array) -> Array:
            tn, fp, fn, tp = sums.T
            square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
            return np.where(square > 0, (tp * tn - fp * fn) / np.sqrt(np.maximum(square, 1)), 0.0)

        return Sums(cells, score)


def bleu_counts(rng: Generator, n: int, size: int) -> tuple[Array, Array]:
    """BLEU's counts (as `bleu_of` takes them) of two models that are equally good, for `n` sentences in documents of `size`.

    A sentence has its own difficulty, a document too where it has several; n-grams match more seldom the longer they are.
    """
    length = np.maximum(np.exp(rng.normal(3, 0.5, n)).round(), 4)
    reference = np.maximum((length * np.exp(rng.normal(0.02, 0.15, n))).round(), 1)
    hard = rng.normal(0, 0.6, n) + (np.repeat(rng.normal(0, 0.6, -(-n // size)), size)[:n] if size > 1 else 0)
    totals = length[:, None] - np.arange(4)
    models = []
    for _ in range(2):
        quality = 1 / (1 + np.exp(-(0.8 - hard + rng.normal(0, 0.4, n))))
        matches = rng.binomial(totals.astype(int), quality[:, None] ** (0.6 + 0.4 * np.arange(1, 5)))
        models.append(np.column_stack([length, reference, matches, totals]).astype(float))
    return models[0], models[1]


@cache
def bleu_truth(size: int) -> float:
    """BLEU of all sentences there are: of 600,000."""
    counts, _ = bleu_counts(np.random.default_rng(2026), 600_000, size)
    return float(bleu_of(counts.sum(axis=0, keepdims=True))[0])


class Bleu:
    """BLEU of sentences that are given as counts."""

    def __call__(self, values: Sequence[Any]) -> float:
        """As sacrebleu's corpus BLEU."""
        return float(bleu_of(np.sum(values, axis=0, keepdims=True))[0])

    @staticmethod
    def sums(values: list[Any]) -> Sums:
        """The counts are the statistics."""
        return Sums(np.asarray(values), bleu_of, (0.0, 100.0))
