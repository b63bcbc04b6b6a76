"""Learning curves: what the checkpoints of a training run scored, by language, task and step."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.checkpoints import WATCH, step_of
from iberlm.evaluate.statistics.aggregate import Normalised, language_mean
from iberlm.evaluate.statistics.intervals import Interval
from iberlm.evaluate.store.schema import RESULT_KEY, RESULT_SCHEMA
from iberlm.evaluate.store.segment import RESULTS, read_segment, segments
from iberlm.evaluate.store.store import Store

BITS_PER_BYTE = "bits_per_byte"
MEAN = ""
"""Stands for a task in the curve of a language's mean."""
_COLUMNS = ("language", "family", "primary", "value", "stderr", "low", "high", "n", "clusters", "chance", "best", "higher_is_better", "averaged")
_SCHEMA = pa.schema([RESULT_SCHEMA.field(name) for name in (*RESULT_KEY, *_COLUMNS, "step", "created")])
_SAME_QUESTION = ("version", "task_key", "metric", "backend", "dtype")


@dataclass(frozen=True)
class Curve:
    """A task's primary metric in a language over training; the mean of a language's tasks has the task MEAN."""

    language: str
    task: str
    family: str
    metric: str
    points: dict[int, Interval]
    """By training step, in order."""
    chance: float | None = None
    best: float | None = None
    higher_is_better: bool = True
    averaged: bool = False
    """Counts in the language's mean."""


def curves(run_dir: Path) -> list[Curve]:
    """The curves of a run's tasks by language (in the order of every table), bits per byte first, then by task.

    Read are the results of whole tasks that `iberlm watch` left in RUN_DIR/watch, and those in the run's own store that carry a step. Where
    a task was asked in several ways (other items, shots, backend), a curve is of the way that was used last: values of different questions
    are not joined by a line. A step that was trained twice has its newest value. Raises what reading a store raises.
    """
    by_task: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in [*_of_store(run_dir / "store"), *_of_watch(run_dir / WATCH)]:
        if row["primary"] and not row["group"] and row["value"] is not None and math.isfinite(row["value"]):
            by_task.setdefault((row["language"], row["task"]), []).append(row)
    found = [_curve(rows) for rows in by_task.values()]
    order = {tag: index for index, tag in enumerate(LANGUAGES)}
    return sorted(found, key=lambda curve: (order.get(curve.language, len(order)), curve.language, curve.family != BITS_PER_BYTE, curve.task))


def _of_store(store: Path) -> list[dict[str, Any]]:
    Store(store)  # refuses what is no store, and one of a newer version
    tables = [read_segment(path, _SCHEMA) for path in segments(store, RESULTS)]
    return [row for table in tables for row in table.to_pylist() if row["step"] is not None and row["step"] >= 0]


def _of_watch(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("step-*/results.parquet")):
        # the folder tells the step: rows that the store had already may be those of the finished model
        found += [row | {"step": step_of(path.parent)} for row in read_segment(path, _SCHEMA).to_pylist()]
    return found


def _curve(rows: list[dict[str, Any]]) -> Curve:
    rows.sort(key=lambda row: (row["created"], row["model"]))
    last = rows[-1]
    alike = [row for row in rows if all(row[name] == last[name] for name in _SAME_QUESTION)]
    points = {row["step"]: _interval(row) for row in alike}
    about = {name: last[name] for name in ("language", "task", "family", "metric", "chance", "best")}
    return Curve(**about, higher_is_better=last["higher_is_better"] is not False, averaged=bool(last["averaged"]), points=dict(sorted(points.items())))


def _interval(row: dict[str, Any]) -> Interval:
    low, high = (math.nan if row[name] is None else row[name] for name in ("low", "high"))
    return Interval(row["value"], row["stderr"], low, high, row["n"], row["clusters"] or row["n"])


def mean_curves(found: Iterable[Curve]) -> list[Curve]:
    """For each language the mean of its tasks' points (0 chance, 100 best), over one set of tasks: those of its newest step that count.

    A step at which one of them was not asked has no mean: a mean over other tasks is another quantity.
    """
    by_language: dict[str, list[Curve]] = {}
    for curve in found:
        if curve.averaged and curve.chance is not None and curve.best is not None:
            by_language.setdefault(curve.language, []).append(curve)
    means = []
    for language, curves_of in by_language.items():
        newest = max(step for curve in curves_of for step in curve.points)
        tasks = [curve for curve in curves_of if newest in curve.points]
        steps = sorted(set.intersection(*(set(curve.points) for curve in tasks)))
        points = {step: language_mean([_normalised(curve, step) for curve in tasks]) for step in steps}
        means.append(Curve(language, MEAN, MEAN, f"mean of {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}", points, 0.0, 100.0))
    return means


def _normalised(curve: Curve, step: int) -> Normalised:
    assert curve.chance is not None
    assert curve.best is not None
    interval = curve.points[step]
    return Normalised(task=curve.task, interval=interval, chance=curve.chance, best=curve.best, higher_is_better=curve.best > curve.chance)


def step_lines(found: Sequence[Curve], step: int) -> list[str]:
    """What a step scored, a line a language: bits per byte, and the mean of its tasks, or where no task counts in one, each task."""
    means = {curve.language: curve for curve in mean_curves(found)}
    lines = []
    for language in dict.fromkeys(curve.language for curve in found if step in curve.points):
        own = [curve for curve in found if curve.language == language and step in curve.points]
        parts = [f"bits per byte {said(curve.points[step], 3)}" for curve in own if curve.family == BITS_PER_BYTE]
        mean = means.get(language)
        if mean is not None and step in mean.points:
            parts.append(f"{mean.metric} {said(mean.points[step], 1)} of 100")
        else:
            parts += [f"{curve.family} {said(curve.points[step], 3)}" for curve in own if curve.family != BITS_PER_BYTE]
        lines.append(f"step {step}  {language}: {'; '.join(parts)}")
    return lines


def said(interval: Interval, digits: int) -> str:
    """A value and the ends of its interval: `0.512 (0.431 to 0.592)`; the value alone where it has none."""
    value = f"{interval.value:.{digits}f}"
    return value if math.isnan(interval.low) or math.isnan(interval.high) else f"{value} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"
