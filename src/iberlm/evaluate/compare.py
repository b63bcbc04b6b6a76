"""Two models, or one model in two settings, on the same items: who is better at what, how sure that is, and what could not have been seen.

Differences are A minus B. Tests are two-sided at 5%, with Holm's correction over the tasks and, apart from them, over the languages.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.catalogue import MIN_ITEMS
from iberlm.evaluate.pairing import SETTINGS, NotCompared, Pair, Row, describe, paired_tasks
from iberlm.evaluate.scoring import BITS_PER_BYTE, MEAN, Metric, named_aggregation, score
from iberlm.evaluate.statistics.aggregate import POINTS, Normalised, language_mean
from iberlm.evaluate.statistics.intervals import Interval
from iberlm.evaluate.statistics.paired import (
    BOOTSTRAP,
    JACKKNIFE,
    Difference,
    holm,
    mean_difference,
    paired_bootstrap,
    paired_corpus_difference,
    paired_difference,
    paired_ratio_difference,
)
from iberlm.evaluate.statistics.power import ALPHA


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A difference and what it is called after correction for the number of comparisons."""

    language: str
    a: Interval
    b: Interval
    difference: Difference
    higher_is_better: bool
    p_holm: float = math.nan

    @property
    def better(self) -> str:
        """ "A", "B", or "" where no difference can be seen, or where there is too little to judge by."""
        if self.difference.too_few or math.isnan(self.p_holm) or self.p_holm > ALPHA or not self.difference.interval.value:
            return ""
        return "A" if (self.difference.interval.value > 0) == self.higher_is_better else "B"

    def numbers(self) -> dict[str, Any]:
        """The numbers as JSON."""
        difference, interval = self.difference, self.difference.interval
        return {
            "a": _interval(self.a),
            "b": _interval(self.b),
            "difference": _interval(interval),
            "test": difference.test,
            "p": _number(difference.p),
            "p_holm": _number(self.p_holm),
            "detectable": _number(difference.detectable),
            "n": interval.n,
            "clusters": interval.clusters,
            "better": self.better,
        }


@dataclass(frozen=True, kw_only=True)
class TaskVerdict(Verdict):
    """One task, in the unit of its metric."""

    task: str
    metric: str
    chance: float | None
    best: float | None
    averaged: bool
    """Counts in the language's mean."""
    bootstrap: tuple[float, float] | None
    """95% interval of the difference by the paired bootstrap, a second opinion; None where it is the test itself, or no item differs."""
    changed: list[dict[str, Any]]
    """Items that one model got right and the other wrong, or scored otherwise: {item, id, target, a, b, score_a, score_b}, the largest changes first."""
    remarks: list[str]

    def points(self) -> Difference:
        """The difference in points from chance (0) to best (100), of a task that is averaged."""
        return self.difference.scaled(POINTS / ((self.best or 0.0) - (self.chance or 0.0)))


@dataclass(frozen=True, kw_only=True)
class LanguageVerdict(Verdict):
    """The mean of the tasks that both were asked, in points from chance (0) to best (100)."""

    tasks: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found; `as_json`, `comparison_view.sentences` and `comparison_view.tables` show it."""

    a: str
    b: str
    languages: list[LanguageVerdict]
    tasks: list[TaskVerdict]
    not_compared: list[NotCompared]
    without_mean: list[str]
    """Languages with tasks, but none that counts in a mean."""

    def as_json(self) -> dict[str, Any]:
        """Everything, with all items that changed; what is not a number is null."""
        from iberlm.evaluate.comparison_view import sentences

        return {
            "a": self.a,
            "b": self.b,
            "alpha": ALPHA,
            "sentences": sentences(self),
            "languages": {entry.language: {**entry.numbers(), "tasks": entry.tasks} for entry in self.languages},
            "tasks": [
                {
                    "task": entry.task,
                    "language": entry.language,
                    "metric": entry.metric,
                    "higher_is_better": entry.higher_is_better,
                    "averaged": entry.averaged,
                    **entry.numbers(),
                    "bootstrap": {"low": entry.bootstrap[0], "high": entry.bootstrap[1]} if entry.bootstrap else None,
                    "only_a": entry.difference.only_a,
                    "only_b": entry.difference.only_b,
                    "remarks": entry.remarks,
                    "changed": entry.changed,
                }
                for entry in self.tasks
            ],
            "not_compared": [{"task": entry.task, "language": entry.language, "why": entry.why} for entry in self.not_compared],
            "without_mean": self.without_mean,
        }


def compare(
    a_items: pa.Table,
    b_items: pa.Table,
    a_results: pa.Table,
    b_results: pa.Table,
    *,
    across: Collection[str] = (),
    languages: Collection[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations, each of one model: rows of `ITEM_SCHEMA` and `RESULT_SCHEMA`, in any order.

    Only `languages`, all when empty. `across` names settings (num_fewshot, template) in which two models may differ and are compared all the
    same; one model in two settings always is. `seed` is that of the bootstrap, for metrics of a whole corpus. Raises `DataError` for rows of
    several models on one side, and for tables of another format.
    """
    pairs, refused = paired_tasks((a_items, a_results), (b_items, b_results), across=across, languages=languages)
    found: list[TaskVerdict] = []
    for pair in pairs:
        verdict = _task(pair, seed)
        if isinstance(verdict, NotCompared):
            refused.append(verdict)
        else:
            found.append(verdict)
    found.sort(key=lambda entry: (_order(entry.language), entry.task))
    tasks = [replace(entry, p_holm=p) for entry, p in zip(found, holm([entry.difference.p for entry in found]), strict=True)]
    means = [_language(tag, tasks) for tag in dict.fromkeys(entry.language for entry in tasks)]
    with_mean = [entry for entry in means if isinstance(entry, LanguageVerdict)]
    corrected = holm([entry.difference.p for entry in with_mean])
    return Comparison(
        a=_label(a_results, b_results),
        b=_label(b_results, a_results),
        languages=[replace(entry, p_holm=p) for entry, p in zip(with_mean, corrected, strict=True)],
        tasks=tasks,
        not_compared=sorted(refused, key=lambda entry: (_order(entry.language), entry.task)),
        without_mean=[entry for entry in means if isinstance(entry, str)],
    )


def _order(language: str) -> tuple[int, str]:
    return (LANGUAGES.index(language), "") if language in LANGUAGES else (len(LANGUAGES), language)


def _label(results: pa.Table, others: pa.Table) -> str:
    """Name and hash; with the settings that tell it from the other where the model is the same."""
    rows, other_rows = results.select(["model", "model_name", *SETTINGS]).to_pylist(), others.select(["model", *SETTINGS]).to_pylist()
    if not rows:
        return "no model"
    if {row["model"] for row in rows} != {row["model"] for row in other_rows}:
        return describe(rows[-1])
    settings = []
    for name in SETTINGS:
        mine, theirs = ({str(row[name]) for row in side} for side in (rows, other_rows))
        if mine != theirs:
            settings.append(f"{name}={'|'.join(value[:12] for value in sorted(mine))}")
    return " ".join([describe(rows[-1]), *settings])


def _task(pair: Pair, seed: int) -> TaskVerdict | NotCompared:
    result = pair.a
    metric = Metric(result["metric"], result["aggregation"], result["higher_is_better"])
    values = [[json.loads(row["metrics"]).get(metric.key) for row in side] for side in zip(*pair.items, strict=True)]
    if any(value is None for side in values for value in side):
        return NotCompared(pair.task, pair.language, f"not every item has a value of {metric.name}")
    intervals = [score(metric, list(side), seed) for side in zip(*pair.items, strict=True)]
    clusters = [row["cluster"] for row, _ in pair.items]
    difference = _difference(metric.aggregation, values[0], values[1], clusters, seed)
    resampled = _resampled(metric.aggregation, values[0], values[1], clusters, seed, difference)
    if intervals[0] is None or intervals[1] is None or difference is None:
        return NotCompared(pair.task, pair.language, f"lm-eval has no aggregation '{metric.aggregation}'")
    bounded = result["chance"] is not None and result["best"] is not None
    return TaskVerdict(
        language=pair.language,
        a=intervals[0],
        b=intervals[1],
        difference=difference,
        higher_is_better=result["higher_is_better"] is not False,
        task=pair.task,
        metric=metric.name,
        chance=result["chance"],
        best=result["best"],
        averaged=bool(pair.a["averaged"] and pair.b["averaged"] and bounded and len(pair.items) >= MIN_ITEMS),
        changed=_changed(pair.items),
        bootstrap=resampled,
        remarks=pair.remarks + _doubts(difference, resampled),
    )


def _difference(aggregation: str, a: list[Any], b: list[Any], clusters: list[Any], seed: int) -> Difference | None:
    """The paired difference as fits the metric; None for an aggregation that nobody knows."""
    if aggregation == MEAN and all(isinstance(value, int | float) for value in [*a, *b]):
        return paired_difference([float(value) for value in a], [float(value) for value in b], clusters)
    if aggregation == BITS_PER_BYTE and [value[1] for value in a] == [value[1] for value in b]:
        bits = [[-value[0] / math.log(2) for value in side] for side in (a, b)]
        return paired_ratio_difference(bits[0], bits[1], [float(value[1]) for value in a], clusters)
    function = named_aggregation(aggregation)
    return None if function is None else paired_corpus_difference(a, b, function, clusters, seed=seed)


def _resampled(aggregation: str, a: list[Any], b: list[Any], clusters: list[Any], seed: int, found: Difference | None) -> tuple[float, float] | None:
    """The interval of the paired bootstrap; None where it is the test itself, or nothing can be computed."""
    if found is None or found.test == BOOTSTRAP or found.interval.stderr is None:
        return None
    if found.test == JACKKNIFE:
        limits = paired_bootstrap(a, b, clusters, aggregation=named_aggregation(aggregation), seed=seed)
    elif aggregation == BITS_PER_BYTE:
        bits = [[-value[0] / math.log(2) for value in side] for side in (a, b)]
        limits = paired_bootstrap(bits[0], bits[1], clusters, denominators=[float(value[1]) for value in a], seed=seed)
    else:
        limits = paired_bootstrap(a, b, clusters, seed=seed)
    return limits if all(map(math.isfinite, limits)) else None


def _doubts(found: Difference, resampled: tuple[float, float] | None) -> list[str]:
    """Why the verdict on one task, before the correction for many, is to be taken with care."""
    if found.too_few:
        return [found.too_few]
    if resampled is None or math.isnan(found.p):
        return []
    low, high = resampled
    if (low <= 0 <= high) == (found.p > ALPHA):
        return []
    return [f"a close call: the paired bootstrap gives {low:+.3g} to {high:+.3g}, and so {'no difference' if low <= 0 <= high else 'a difference'}"]


def _changed(items: list[tuple[Row, Row]]) -> list[dict[str, Any]]:
    """Items with another score; of metrics without scores of items, those with another answer."""
    found = []
    for a, b in items:
        scored = a["score"] is not None and b["score"] is not None
        if a["score"] != b["score"] if scored else a["prediction"] != b["prediction"]:
            entry = {"item": a["item"], "id": a["id"], "prompt": a["prompt"], "target": a["target"], "a": a["prediction"], "b": b["prediction"]}
            entry |= {name: _text(a["choices"], entry[name]) for name in ("target", "a", "b")}
            found.append(entry | {"score_a": _number(a["score"]), "score_b": _number(b["score"])})
    return sorted(found, key=lambda entry: (-abs((entry["score_a"] or 0.0) - (entry["score_b"] or 0.0)), entry["item"]))


def _text(choices: list[str] | None, answer: str | None) -> str | None:
    """An answer as text: of a choice what it says, not its number."""
    if answer is None or not choices or not answer.isdigit() or int(answer) >= len(choices):
        return answer
    return choices[int(answer)]


def _language(language: str, tasks: list[TaskVerdict]) -> LanguageVerdict | str:
    """The verdict on a language's mean; its tag where no task counts in one."""
    counted = [entry for entry in tasks if entry.language == language and entry.averaged]
    if not counted:
        return language
    means = []
    for side in ("a", "b"):
        normalised = [
            Normalised(
                task=entry.task, interval=getattr(entry, side), chance=entry.chance or 0.0, best=entry.best or 0.0, higher_is_better=entry.higher_is_better
            )
            for entry in counted
        ]
        means.append(language_mean(normalised))
    difference = mean_difference([entry.points() for entry in counted])
    # of the means, as they are shown
    moved = replace(difference.interval, value=means[0].value - means[1].value)
    return LanguageVerdict(
        language=language,
        a=means[0],
        b=means[1],
        difference=replace(difference, interval=moved),
        higher_is_better=True,
        tasks=[entry.task for entry in counted],
    )


def _interval(interval: Interval) -> dict[str, Any]:
    return {name: _number(getattr(interval, name)) for name in ("value", "stderr", "low", "high")}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
