"""What the recorded reviews of a task say: coverage, how people answer, how far reviewers agree, what is to be mended."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iberlm.evaluate.review import GOOD, MIN_REVIEWERS, approved, read_items, read_reviews
from iberlm.evaluate.statistics.intervals import Interval, mean_interval

RESAMPLES = 2000


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha for unordered categories: 1 all agree, 0 as by chance. Not a number where all judgements are alike."""

    alpha: float
    low: float
    high: float
    share: float
    """Pairs of judgements on one item that agree, of all such pairs."""
    items: int
    """Items that two reviewers or more judged."""


def krippendorff(units: Sequence[Sequence[object]], *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement | None:
    """Alpha of judgements, a sequence of them an item, with the 95% percentile interval of a bootstrap over items.

    Krippendorff, Content Analysis (2004), chapter 11, nominal data: 1 - observed / expected disagreement, where an item with m
    judgements has m(m - 1) ordered pairs, each counted 1 / (m - 1) times. Items with fewer than two judgements say nothing.
    None when there is no item with two. Resamples in which all judgements are alike have no alpha and are left out.
    """
    judged = [unit for unit in units if len(unit) >= 2]
    if not judged:
        return None
    categories = {value: place for place, value in enumerate(dict.fromkeys(value for unit in judged for value in unit))}
    counts = np.zeros((len(judged), len(categories)))
    for row, unit in enumerate(judged):
        for value, times in Counter(unit).items():
            counts[row, categories[value]] = times
    sizes = counts.sum(axis=1)
    differing = sizes**2 - (counts**2).sum(axis=1)  # ordered pairs that differ
    share = 1 - float(differing.sum() / (sizes * (sizes - 1)).sum())
    weights = np.random.default_rng(seed).multinomial(len(judged), np.full(len(judged), 1 / len(judged)), size=resamples)
    drawn = _alpha(weights.astype(float), counts, differing / (sizes - 1))
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (math.nan, math.nan)
    alpha = float(_alpha(np.ones((1, len(judged))), counts, differing / (sizes - 1))[0])
    return Agreement(alpha, float(low), float(high), share, len(judged))


def _alpha(weights: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], observed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Alpha of each row of weights of the items; not a number where only one category is left."""
    totals = weights @ counts
    n = totals.sum(axis=1)
    expected = (n**2 - (totals**2).sum(axis=1)) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(expected > 0, 1 - (weights @ observed) / expected, np.nan))


@dataclass(frozen=True)
class Summary:
    """The state of a task's reviews. Items are records of its file as they stand now."""

    task: str
    items: int
    read_once: int
    """Items with a verdict."""
    read_twice: int
    """Items with verdicts of `MIN_REVIEWERS` reviewers."""
    approved: int
    stale: int
    """Verdicts on items that have changed or are gone."""
    accuracy: dict[str, Interval]
    """Of the answers that reviewers gave before they were shown the right one; "" all together. 'Cannot tell' counts as wrong."""
    answers_agree: Agreement | None
    verdicts_agree: Agreement | None
    """On whether an item is good."""
    to_mend: list[tuple[dict[str, Any], list[dict[str, Any]]]]
    """Items that somebody did not call good, with those verdicts."""


def summarise(task: str, folder: Path | None = None) -> Summary:
    """Summary of the verdicts in `folder` (none: `eval/reviews`). Raises `ConfigError` for a task without items of IberLM's own."""
    items = read_items(task)
    reviews = read_reviews(task, folder)
    current = [row for row in reviews if row["item_hash"] in items]
    readers: dict[str, set[str]] = {}
    for row in current:
        readers.setdefault(row["item_hash"], set()).add(row["reviewer"])
    asked = [row for row in current if row["choices"]]
    by_item = _by_item(current)
    complaints = {hashed: [row for row in current if row["item_hash"] == hashed and row["verdict"] != GOOD] for hashed in items if hashed in readers}
    return Summary(
        task=task,
        items=len(items),
        read_once=len(readers),
        read_twice=sum(len(names) >= MIN_REVIEWERS for names in readers.values()),
        approved=len(approved(items, current)),
        stale=len(reviews) - len(current),
        accuracy=_accuracy(asked),
        answers_agree=krippendorff([["cannot tell" if row["blind"] is None else row["blind"] for row in rows] for rows in _by_item(asked)]),
        verdicts_agree=krippendorff([[row["verdict"] == GOOD for row in rows] for rows in by_item]),
        to_mend=[(items[hashed], rows) for hashed, rows in complaints.items() if rows],
    )


def _by_item(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["item_hash"], row["item"]), []).append(row)
    return list(found.values())


def _accuracy(rows: list[dict[str, Any]]) -> dict[str, Interval]:
    found = {}
    reviewers = sorted({row["reviewer"] for row in rows})
    for name in [*reviewers, *([""] if len(reviewers) > 1 else [])]:
        own = [row for row in rows if name in ("", row["reviewer"])]
        found[name] = mean_interval([float(row["blind"] == row["key"]) for row in own], [row["item_hash"] for row in own], bounds=(0.0, 1.0))
    return found
