"""From items to results: each metric of a task with its interval, by group, and on the items that the training corpus does not hold.

Works on rows of the store: a task whose answers are there is scored without the model, and without lm-eval where its metric is a mean.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iberlm.core.files import sha256_json
from iberlm.evaluate.alarms import alarms
from iberlm.evaluate.catalogue import MIN_ITEMS, TaskFacts
from iberlm.evaluate.statistics.intervals import Interval, bits_per_byte_interval, corpus_interval, mean_interval

Aggregate = Callable[[list[Any]], float]
RESAMPLES = 1000
"""Of the bootstrap for metrics of a whole corpus."""
MEAN, BITS_PER_BYTE, CUSTOM = "mean", "bits_per_byte", "custom"
NOT_AVERAGED = ("bias", "variety", "fidelity")
"""What tasks measure that is no ability: a preference, or the language of an answer. They are shown, and count in no mean."""


@dataclass(frozen=True)
class Metric:
    """One metric of a task, behind one filter."""

    name: str
    """`acc`, or `exact_match,flexible-extract`."""
    aggregation: str
    """lm-eval's name of it, or `custom`."""
    higher_is_better: bool | None
    aggregate: Aggregate | None = None
    """Of a custom one; None where the task is not loaded."""

    @property
    def key(self) -> str:
        """As items have it."""
        return metric_key(self.name)


def metric_key(name: str) -> str:
    """`acc` -> `acc,none`."""
    return name if "," in name else f"{name},none"


def metric_name(key: str) -> str:
    """`acc,none` -> `acc`."""
    return key.removesuffix(",none")


@dataclass(frozen=True)
class Scoring:
    """What a score is computed with besides the items."""

    facts: TaskFacts
    metrics: list[Metric]
    """The primary one first."""
    seed: int
    chance: float | None


def result_rows(scoring: Scoring, items: list[dict[str, Any]], clean: Sequence[bool] | None, values: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Rows of `RESULT_SCHEMA` of a task, without the columns of the model and of how it was asked.

    `clean` says of each item whether the training corpus does not hold it; None where nobody looked. `values` are lm-eval's own, by metric
    key; computed here where they are not given, by the same functions in the same order.
    """
    rows = []
    for number, metric in enumerate(scoring.metrics):
        whole = _row(scoring, metric, items, clean, number == 0)
        if values is not None:
            whole["value"] = values[metric.key]
        rows.append(whole)
        if number == 0:
            whole["note"] = "; ".join(alarms(items, whole)) or None
            rows += _group_rows(scoring, metric, items, clean)
    return rows


def _group_rows(scoring: Scoring, metric: Metric, items: list[dict[str, Any]], clean: Sequence[bool] | None) -> list[dict[str, Any]]:
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item["group"]:
            groups.setdefault(item["group"], []).append(index)
    rows = []
    for name, members in sorted(groups.items()):
        part = None if clean is None else [clean[index] for index in members]
        rows.append(_row(scoring, metric, [items[index] for index in members], part, True) | {"group": name, "averaged": False})
    return rows


def _row(scoring: Scoring, metric: Metric, items: list[dict[str, Any]], clean: Sequence[bool] | None, primary: bool) -> dict[str, Any]:
    facts = scoring.facts
    found = score(metric, items, scoring.seed)
    counts = primary and facts.measures not in NOT_AVERAGED and scoring.chance is not None and facts.best is not None
    row: dict[str, Any] = {
        "group": "",
        "metric": metric.name,
        "aggregation": metric.aggregation,
        "primary": primary,
        "higher_is_better": metric.higher_is_better,
        "value": found.value if found else float("nan"),
        "stderr": found.stderr if found else None,
        "low": known(found.low) if found else None,
        "high": known(found.high) if found else None,
        "n": len(items),
        "clusters": found.clusters if found else len(items),
        "chance": (scoring.chance if primary or metric.name.startswith("acc") else None),
        "best": facts.best if primary else None,
        "averaged": counts and len(items) >= MIN_ITEMS,
        "clean_n": None,
        "clean_value": None,
        "clean_low": None,
        "clean_high": None,
        "note": None,
    }
    if clean is None:
        return row
    kept = [item for item, is_clean in zip(items, clean, strict=True) if is_clean]
    row["clean_n"] = len(kept)
    if kept and (rest := score(metric, kept, scoring.seed)) is not None:
        row |= {"clean_value": rest.value, "clean_low": known(rest.low), "clean_high": known(rest.high)}
    return row


def known(value: float) -> float | None:
    """The number, or None for one that is none: the end of an interval that a single item does not have."""
    return value if math.isfinite(value) else None


def score(metric: Metric, items: list[dict[str, Any]], seed: int) -> Interval | None:
    """Value and interval of a metric over items; None where the aggregation is a function of a task that is not loaded."""
    values = [json.loads(item["metrics"])[metric.key] for item in items]
    clusters = [item["cluster"] or f"item {item['item']}" for item in items] if any(item["cluster"] for item in items) else None
    if metric.aggregation == MEAN and all(isinstance(value, int | float) for value in values):
        scores = [float(value) for value in values]
        return mean_interval(scores, clusters, bounds=(0.0, 1.0) if all(0.0 <= value <= 1.0 for value in scores) else None)
    if metric.aggregation == BITS_PER_BYTE:
        return bits_per_byte_interval(values, clusters)
    aggregate = metric.aggregate or named_aggregation(metric.aggregation)
    return None if aggregate is None else corpus_interval(values, aggregate, clusters, seed=seed, resamples=RESAMPLES)


def named_aggregation(name: str) -> Aggregate | None:
    """lm-eval's function of this name; None for `custom`."""
    if name == CUSTOM:
        return None
    from lm_eval.api.registry import get_aggregation

    found: Aggregate | None = get_aggregation(name)
    return found


def prompts_hash(items: list[dict[str, Any]]) -> str:
    """SHA-256 over the items' prompt hashes in their order."""
    return sha256_json([item["prompt_hash"] for item in items])
