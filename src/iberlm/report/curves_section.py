"""The section on learning curves: what the checkpoints of the run scored in each language, with 95% intervals.

Read are the result rows that `iberlm watch` left in RUN_DIR/watch, and those in the run's own store that carry a step. The rules by which rows
become curves are those of `iberlm.evaluate.curves`, and the mean's interval is that of `statistics.aggregate.language_mean`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from iberlm.core.files import sha256_json
from iberlm.report.blocks import Block, Cell, Chart, Column, Remark, Section, Table
from iberlm.report.charts import MARKERS, chart
from iberlm.report.run_folder import RunFolder
from iberlm.report.svg import COLOURS, language_colour
from iberlm.report.wording import NONE, decimal, language_name, line, ordered, real, short_count, spoken, whole

BITS_PER_BYTE = "bits_per_byte"
MEAN = ""
"""Stands for a task in the curve of a language's mean."""
SHOWN = 200
"""Rows of the table."""
_SAME_QUESTION = ("version", "task_key", "metric", "backend", "dtype")
_COLUMNS = (
    *("model", "task", *_SAME_QUESTION, "group", "language", "family", "primary", "value", "low", "high", "n"),
    *("chance", "best", "higher_is_better", "averaged", "step", "created"),
)


@dataclass(frozen=True)
class Point:
    """A value and the ends of its interval, which are the value itself where it has none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A task's primary metric in a language by training step; the mean of a language's tasks has the task MEAN."""

    language: str
    task: str
    family: str
    points: dict[int, Point]
    chance: float | None = None
    best: float | None = None
    higher_is_better: bool = True
    averaged: bool = False
    """Counts in the language's mean."""

    @property
    def share(self) -> bool:
        """Whether this is shown in per cent: guessing and the best are known, and the best is 1."""
        return self.chance is not None and self.best == 1.0


def learning_curves(run: RunFolder) -> Section:
    """Bits per byte and the mean of the tasks by language over the checkpoints, and a table of all tasks."""
    lead = (
        "What the checkpoints scored while the model trained; bands are 95% intervals. Bits per byte on held-out text tells the checkpoints of a small "
        "model apart long before the tasks do."
    )
    section = Section("curves", "Learning curves", lead)
    curves, problems = read_curves(Path(run.config.run_dir))
    section.blocks += [Remark(problem, missing=True) for problem in problems]
    if not curves:
        section.blocks.append(Remark("No checkpoint of this run was evaluated while it trained; `iberlm watch RUN_DIR` does that."))
        return section
    means, left_out = mean_curves(curves)
    bits = [curve for curve in curves if curve.family == BITS_PER_BYTE]
    if bits:
        section.blocks.append(panels("curves-bits", "Bits per byte by checkpoint, each language on its own scale (lower is better)", "bits per byte", bits))
    if means:
        caption = "Mean of the tasks by checkpoint, from 0 (guessing) to 100 (the best there can be)"
        section.blocks.append(panels("curves-mean", caption, "points", means, shared=True))
    else:
        section.blocks.append(Remark("No task of these evaluations counts in a mean: that takes a known score of guessing, and 100 items."))
    section.blocks += [Remark(sentence) for sentence in left_out]
    section.blocks += _table([*bits, *means, *(curve for curve in curves if curve not in bits)])
    return section


def fingerprint(run_dir: Path) -> str:
    """Hash of all that the section shows: for the key of the stage."""
    curves, problems = read_curves(run_dir)
    drawn = [[curve.language, curve.task, curve.family, curve.averaged, _numbers(curve)] for curve in curves]
    return sha256_json([problems, drawn])


def _numbers(curve: Curve) -> list[list[float]]:
    return [[step, point.value, point.low, point.high] for step, point in curve.points.items()]


def read_curves(run_dir: Path) -> tuple[list[Curve], list[str]]:
    """The curves of the tasks by language, and sentences on files that cannot be read."""
    rows: list[dict[str, Any]] = []
    problems = []
    for path in [*sorted((run_dir / "store" / "results").rglob("*.parquet")), *sorted((run_dir / "watch").glob("step-*/results.parquet"))]:
        if path.name.startswith("."):  # is being written
            continue
        own = path.parent.name.partition("-")[2] if path.parent.parent.name == "watch" else ""
        try:
            table = pq.read_table(path)
            found = [{name: row.get(name) for name in _COLUMNS} for row in table.to_pylist()]
        except (OSError, pa.ArrowException):
            problems.append(f"The file {line(path.relative_to(run_dir))} cannot be read; its results are left out.")
            continue
        # the folder tells the step: rows that the store had already may be those of the finished model
        rows += [row | {"step": int(own)} for row in found] if own.isdigit() else [row for row in found if _is_step(row["step"])]
    return _curves(rows), problems


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _curves(rows: list[dict[str, Any]]) -> list[Curve]:
    by_task: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["primary"] and not row["group"] and real(row["value"]) is not None:
            by_task.setdefault((str(row["language"]), str(row["task"])), []).append(row)
    found = [_curve(entries) for entries in by_task.values()]
    places = {tag: place for place, tag in enumerate(ordered({curve.language for curve in found}))}
    return sorted(found, key=lambda curve: (places[curve.language], curve.family != BITS_PER_BYTE, curve.task))


def _curve(rows: list[dict[str, Any]]) -> Curve:
    """Of the way in which the task was asked last: values of different questions are not joined by a line."""
    rows.sort(key=lambda row: (real(row["created"]) or 0.0, str(row["model"])))
    last = rows[-1]
    points = {row["step"]: _point(row) for row in rows if all(row[name] == last[name] for name in _SAME_QUESTION)}
    return Curve(
        str(last["language"]),
        str(last["task"]),
        str(last["family"]),
        dict(sorted(points.items())),
        real(last["chance"]),
        real(last["best"]),
        last["higher_is_better"] is not False,
        bool(last["averaged"]),
    )


def _point(row: dict[str, Any]) -> Point:
    value = float(row["value"])
    low, high = real(row["low"]), real(row["high"])
    return Point(value, value, value) if low is None or high is None else Point(value, low, high)


def mean_curves(curves: list[Curve]) -> tuple[list[Curve], list[str]]:
    """For each language the mean of the tasks that count at its newest step, at the steps that have all of them; and sentences on other steps."""
    means, said = [], []
    for language in dict.fromkeys(curve.language for curve in curves):
        own = [curve for curve in curves if curve.language == language and _counts(curve)]
        if not own:
            continue
        newest = max(step for curve in own for step in curve.points)
        tasks = [curve for curve in own if newest in curve.points]
        steps = sorted(set.intersection(*(set(curve.points) for curve in tasks)))
        missing = {step for curve in own for step in curve.points} - set(steps)
        if missing:
            count = f"{len(missing)} {'checkpoint has' if len(missing) == 1 else 'checkpoints have'}"
            said.append(f"{language_name(language)}: {count} no mean, since other tasks were asked.")
        points = {step: _mean([_normalised(curve, step) for curve in tasks]) for step in steps}
        means.append(Curve(language, MEAN, f"mean of {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}", points, 0.0, 100.0))
    return means, said


def _counts(curve: Curve) -> bool:
    return curve.averaged and curve.chance is not None and curve.best is not None and curve.best != curve.chance


def _normalised(curve: Curve, step: int) -> Point:
    assert curve.chance is not None
    assert curve.best is not None
    point, chance, width = curve.points[step], curve.chance, curve.best - curve.chance
    ends = sorted(100 * (end - chance) / width for end in (point.low, point.high))
    return Point(100 * (point.value - chance) / width, *ends)


def _mean(points: list[Point]) -> Point:
    """Independent errors: each end as far off as the root of the tasks' squared distances (Zou and Donner, Statistics in Medicine 27, 2008)."""
    k = len(points)
    value = sum(point.value for point in points) / k
    below = math.sqrt(sum((point.value - point.low) ** 2 for point in points)) / k
    above = math.sqrt(sum((point.high - point.value) ** 2 for point in points)) / k
    return Point(value, value - below, value + above)


def panels(name: str, caption: str, unit: str, curves: Sequence[Curve], *, shared: bool = False) -> Chart:
    """One small chart a language, side by side; with `shared` on one scale, with the line of guessing at 0."""
    columns = {True: min(3, len(curves)), False: min(2, len(curves))}

    def paint(figure: Figure, wide: bool) -> None:
        grid = figure.subplots(-(-len(curves) // columns[wide]), columns[wide], sharex=True, sharey=shared, squeeze=False)
        cells: list[Axes] = list(grid.flat)
        for axes, curve in zip(cells, curves, strict=False):
            _draw(axes, curve)
            axes.set_title(language_name(curve.language))
            if shared:
                axes.axhline(0, color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for axes in cells[len(curves) :]:
            axes.set_axis_off()
        for number, axes in enumerate(cells[: len(curves)]):
            if number + columns[wide] >= len(curves):  # the lowest of its column
                axes.tick_params(axis="x", labelbottom=True)
                axes.set_xlabel("steps")

    said = [f"{language_name(curve.language)} {_said_ends(curve)}" for curve in curves]
    label = f"{caption.partition(',')[0]}. In {unit}, from the first to the last checkpoint: {'; '.join(said)}."
    rows = {wide: -(-len(curves) // columns[wide]) for wide in (True, False)}
    return chart(name, caption, label, (60 + 150 * rows[True], 60 + 140 * rows[False]), paint)


def _draw(axes: Axes, curve: Curve) -> None:
    steps = list(curve.points)
    points = list(curve.points.values())
    colour = language_colour(curve.language)
    if len(points) == 1:
        error = [[points[0].value - points[0].low], [points[0].high - points[0].value]]
        axes.errorbar(steps, [points[0].value], yerr=error, color=colour, elinewidth=2, marker=MARKERS.get(curve.language, "o"), markersize=6)
    else:
        axes.fill_between(steps, [point.low for point in points], [point.high for point in points], color=colour, alpha=0.2, linewidth=0)
        marker = MARKERS.get(curve.language, "o") if len(points) <= 25 else ""
        axes.plot(steps, [point.value for point in points], color=colour, linewidth=2, marker=marker, markersize=5)
    axes.grid(axis="y")
    axes.margins(x=0.04)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))


def _said_ends(curve: Curve) -> str:
    points = list(curve.points.values())
    digits = 1 if curve.task == MEAN else 2
    return decimal(points[0].value, digits) if len(points) == 1 else f"{decimal(points[0].value, digits)} to {decimal(points[-1].value, digits)}"


def _table(curves: list[Curve]) -> list[Block]:
    columns = [
        *(Column("Language"), Column("Measured")),
        *(Column(name, number=True) for name in ("Checkpoints", "First", "Last", "95% interval", "Change", "Best at step")),
    ]
    blocks: list[Block] = [Table("Scores of the first and the last checkpoint", columns, [_cells(curve) for curve in curves[:SHOWN]])]
    if len(curves) > SHOWN:
        blocks.append(Remark(f"The table shows {SHOWN} of {len(curves)} curves; all are in the result store of the run."))
    said = "Scores of tasks are in per cent. " if any(curve.share for curve in curves) else ""
    said += "Intervals are for other items than these; between checkpoints, which are asked the same ones, `iberlm compare` sees smaller changes."
    blocks.append(Remark(said))
    return blocks


def _cells(curve: Curve) -> list[Cell]:
    factor, digits = (100, 1) if curve.share else (1, 1) if curve.task == MEAN else (1, 3)
    points = list(curve.points.values())
    first, last = points[0], points[-1]
    pick = max if curve.higher_is_better else min
    best = pick(curve.points, key=lambda step: curve.points[step].value)
    ends = f"{decimal(factor * last.low, digits)} to {decimal(factor * last.high, digits)}" if last.low < last.high else NONE
    change = f"{factor * (last.value - first.value):+.{digits}f}".replace("-", "−") if len(points) > 1 else NONE
    texts = [whole(len(points)), decimal(factor * first.value, digits), decimal(factor * last.value, digits), ends, change, whole(best)]
    return [Cell(language_name(curve.language), language=curve.language), Cell(spoken(curve.family)), *(Cell(text, number=True) for text in texts)]
