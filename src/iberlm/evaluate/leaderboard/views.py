"""What the page says, as plain values: cells, columns, charts and lists. The templates alone turn them into HTML."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from iberlm.evaluate.catalogue import MEASURES
from iberlm.evaluate.leaderboard.board import Board, Cell, Entrant, Task, places
from iberlm.evaluate.leaderboard.drawing import POINTS, Look, Scale, Spoke, radar, scale_of, whisker
from iberlm.evaluate.leaderboard.means import Mean, Standing, Standings, in_order
from iberlm.evaluate.leaderboard.wording import between, count, digits_of, language_name, listed, number, words
from iberlm.evaluate.statistics.intervals import Interval

CHARTED = 6
"""Models that the charts show at first."""
_LEAST_AXES = 3
_SUSPICIONS = 5
"""Most sentences on models that may be one and the same."""


@dataclass(frozen=True)
class Shown:
    """A board with its means and with the looks of its models: what all views are made of."""

    board: Board
    standings: Standings
    order: list[Entrant]
    """As the first table shows them."""
    looks: dict[int, Look]
    pages: dict[int, str]
    """Path of each task's page, by its index."""

    @property
    def measures(self) -> list[str]:
        """What the tasks of the board measure."""
        there = {task.measures for task in self.board.tasks}
        return [name for name in MEASURES if name in there] + sorted(there - set(MEASURES))

    def language_index(self, language: str) -> int:
        """By which the page knows a language."""
        return self.board.languages.index(language)


def shown(board: Board, means: Standings, pages: dict[int, str]) -> Shown:
    """With the entrants in the order of the overall mean."""
    order = in_order(board, means.overall)
    return Shown(board, means, order, {entrant.index: Look(number) for number, entrant in enumerate(order)}, pages)


def mean_cell(standing: Standing | None, entrant: Entrant, noun: str = "tasks") -> dict[str, Any]:
    """A cell of a table of means."""
    mean = standing.means.get(entrant.index) if standing else None
    if standing is None or mean is None:
        return {"text": "", "sort": "", "compared": "", "whisker": "", "ends": "", "partial": "", "first": False}
    interval = mean.interval
    return {
        "text": number(interval.value),
        "sort": f"{interval.value:.6f}",
        "compared": _compared(interval) if mean.complete else "",
        "whisker": whisker(interval, POINTS),
        "ends": between(interval.low, interval.high),
        "partial": "" if mean.complete else f"{mean.tasks} of {mean.of} {noun}",
        "first": standing.ranked > 1 and standing.places.get(entrant.index, (2, 2))[0] == 1,
    }


def _compared(interval: Interval) -> str:
    """The ends of an interval that is ranked, more is better: by them the page ranks the models that a filter leaves. No bit is lost."""
    return f"{interval.low:.17g} {interval.high:.17g}"


def place_text(place: tuple[int, int] | None) -> str:
    """`1`, or `1 to 3` for those that cannot be told apart."""
    return "" if place is None else str(place[0]) if place[0] == place[1] else f"{place[0]} to {place[1]}"


def place_sort(standing: Standing | None, entrant: Entrant) -> str:
    """By which a column of places is sorted: the place, then the mean."""
    if standing is None or entrant.index not in standing.places:
        return ""
    low, high = standing.places[entrant.index]
    return f"{low + high / 1000 - standing.means[entrant.index].interval.value / 1e7:.9f}"


def language_view(view: Shown, language: str) -> dict[str, Any]:
    """A language's section: models by what is measured, dot plots, tasks by models."""
    board, standing = view.board, view.standings.languages.get(language)
    kinds = view.standings.measures[language]
    tasks = board.tasks_in(language)
    order = in_order(board, standing) if standing else view.order
    asked = [entrant for entrant in order if any(board.cell(entrant, task) for task in tasks)]
    core = view.standings.core[language]
    left_out = [task for task in tasks if task not in core and board.row_of(task)]
    rows = [
        {
            "entrant": entrant,
            "place": place_text(standing.places.get(entrant.index)) if standing else "",
            "place_sort": place_sort(standing, entrant),
            "mean": mean_cell(standing, entrant),
            "kinds": [mean_cell(kinds[kind], entrant) for kind in kinds],
        }
        for entrant in asked
    ]
    return {
        "tag": language,
        "index": view.language_index(language),
        "name": language_name(language),
        "anchor": f"language-{view.language_index(language)}",
        "verdict": verdict(standing, order),
        "core": len(core),
        "left_out": [(task, why_left_out(board, task, core)) for task in left_out],
        "kinds": [(words(kind), view.measures.index(kind), sum(task.measures == kind for task in core)) for kind in kinds],
        "rows": rows if standing else [],
        "entrants": asked,
        "tasks": [task_row(view, task, asked) for task in tasks],
        "dots": [strip for task in tasks if (strip := dots(view, task, on_points=True))],
        "own_scale": [strip for task in tasks if (strip := dots(view, task, on_points=False))],
    }


def verdict(standing: Standing | None, order: Sequence[Entrant]) -> str:
    """Who is first, in a sentence."""
    if standing is None or standing.ranked < 2:
        return ""
    first = [entrant for entrant in order if standing.places.get(entrant.index, (0, 0))[0] == 1]
    if len(first) == 1:
        return f"{first[0].label} is first among {standing.ranked} models with all tasks."
    if len(first) == standing.ranked:
        return f"The {standing.ranked} models with all tasks cannot be told apart: their intervals overlap."
    names = [entrant.label for entrant in first]
    shared = listed(names, 4) if len(names) > 4 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{shared} share the first place: their intervals overlap."


def why_left_out(board: Board, task: Task, core: Sequence[Task]) -> str:
    """Why a task that was asked counts in no mean."""
    cells = [cell for _, cell in board.row_of(task)]
    if any(cell.averaged for cell in cells):
        return f"asked of {len(cells)} of {len(board.entrants)} models"
    if all(cell.aside for cell in cells):
        return "the models were asked other questions"
    row = cells[0].row
    if task.chance is None or task.best is None:
        return "no scale from chance to best"
    return f"{count(row['n'])} items" if not row["averaged"] and row["n"] and row["n"] < 100 else "shows a preference, or has no interval"


def task_row(view: Shown, task: Task, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """A task with the cells of the models."""
    found = view.board.row_of(task, entrants)
    cells = {entrant.index: cell for entrant, cell in found}
    comparable = [cell for _, cell in found if not cell.aside]
    digits = digits_of(*(cell.value for cell in cells.values()), task.best)
    scale = value_scale(task, [cell for _, cell in found])
    first, ranked = first_of(task, found), _ranked(task, found)

    def shown_cell(index: int) -> dict[str, Any] | None:
        if index not in cells:
            return None
        return score_cell(cells[index], scale, digits, index in first) | {"compared": _compared(ranked[index]) if index in ranked else ""}

    return {
        "task": task,
        "page": view.pages[task.index],
        "measures": words(task.measures),
        "measures_index": view.measures.index(task.measures),
        "items": items_text([cell for _, cell in found]),
        "items_sort": max((cell.row["n"] or 0 for _, cell in found), default=0),
        "chance": number(task.chance, 2) if task.chance is not None else "",
        "averaged": task in view.standings.core[task.language],
        "cells": [(entrant, shown_cell(entrant.index)) for entrant in entrants],
        "compared": len(comparable),
    }


def items_text(cells: Sequence[Cell]) -> str:
    """How many items were asked; a range where models were asked differently."""
    sizes = sorted({cell.row["n"] for cell in cells if cell.row["n"] is not None})
    return "" if not sizes else count(sizes[0]) if len(sizes) == 1 else f"{count(sizes[0])} to {count(sizes[-1])}"


def value_scale(task: Task, cells: Sequence[Cell]) -> Scale:
    """Of a task's own metric: from chance to best, or what the models have."""
    if task.chance is not None and task.best is not None and task.best != task.chance and all(map(math.isfinite, (task.chance, task.best))):
        return Scale(task.chance, task.best) if task.best > task.chance else Scale(task.best, task.chance)
    return scale_of([cell.interval for cell in cells], [cell.value for cell in cells])


def first_of(task: Task, found: Sequence[tuple[Entrant, Cell]]) -> set[int]:
    """Indices of the entrants that share the first place of a task."""
    ranked = _ranked(task, found)
    if len(ranked) < 2:
        return set()
    best = {index for index, place in zip(ranked, places([*ranked.values()]), strict=True) if place and place[0] == 1}
    return best if len(best) < len(ranked) else set()


def _ranked(task: Task, found: Sequence[tuple[Entrant, Cell]]) -> dict[int, Interval]:
    """Intervals that are compared, by the entrants' indices, turned so that more is better; {} where nobody knows what is better."""
    if task.higher_is_better is None:
        return {}
    compared = {entrant.index: cell.interval for entrant, cell in found if not cell.aside and cell.interval is not None}
    return compared if task.higher_is_better else {index: _mirrored(interval) for index, interval in compared.items()}


def _mirrored(interval: Interval) -> Interval:
    return Interval(-interval.value, interval.stderr, -interval.high, -interval.low, interval.n, interval.clusters)


def score_cell(cell: Cell, scale: Scale, digits: int, first: bool) -> dict[str, Any]:
    """A cell of a table of tasks: the value as the metric gives it."""
    interval, row = cell.interval, cell.row
    clean = ""
    if row["clean_n"] is not None and row["n"] and row["clean_n"] < row["n"]:
        ends = between(row["clean_low"], row["clean_high"], digits)
        clean = f"clean {number(row['clean_value'], digits)}{f', {ends}' if ends else ''} (n {count(row['clean_n'])})"
    return {
        "text": number(cell.value, digits),
        "sort": f"{cell.value:.9f}" if math.isfinite(cell.value) else "",
        "whisker": whisker(interval, scale),
        "ends": between(interval.low, interval.high, digits) if interval else "",
        "alarm": row["note"] or "",
        "aside": cell.aside,
        "partial": f"first {count(row['limit'])} items" if row["limit"] else "",
        "clean": clean,
        "first": first,
    }


def dots(view: Shown, task: Task, *, on_points: bool) -> dict[str, Any] | None:
    """A line of a dot plot: each model's value and interval as shares of the scale's width. None for a task without values on this scale."""
    found = [(entrant, cell) for entrant, cell in view.board.row_of(task, view.order) if cell.interval is not None]
    if on_points != any(cell.points is not None for _, cell in found) or not found:
        return None
    scale = POINTS if on_points else value_scale(task, [cell for _, cell in found])
    digits = 1 if on_points else digits_of(scale.low, scale.high)
    marks = []
    for entrant, cell in found:
        interval = cell.points if on_points else cell.interval
        if interval is None:
            continue
        x, low, high = scale.at(interval.value), scale.at(interval.low), scale.at(interval.high)
        text = f"{entrant.label}: {number(interval.value, digits)}, {between(interval.low, interval.high, digits)}"
        marks.append({"entrant": entrant.index, "look": view.looks[entrant.index], "x": x, "low": low, "width": high - low, "text": text})
    ends = ("", "") if on_points else (number(scale.low, digits), number(scale.high, digits))
    return {"task": task, "page": view.pages[task.index], "measures_index": view.measures.index(task.measures), "marks": marks, "ends": ends}


def radars(view: Shown) -> list[dict[str, Any]]:
    """A radar plot a language, with the same numbers as a table; languages where fewer than three things are measured have none."""
    found = []
    for language in view.board.languages:
        kinds = view.standings.measures[language]
        if len(kinds) < _LEAST_AXES:
            continue
        entrants = [entrant for entrant in view.order if any(entrant.index in standing.means for standing in kinds.values())]
        spokes = [Spoke(entrant.index, view.looks[entrant.index], [_value(kinds[kind].means.get(entrant.index)) for kind in kinds]) for entrant in entrants]
        label = f"{language_name(language)}: points from chance to best by what is measured, for {len(entrants)} models; the table below says the same"
        rows = [(entrant, [mean_cell(kinds[kind], entrant) for kind in kinds]) for entrant in entrants]
        found.append(
            {
                "tag": language,
                "index": view.language_index(language),
                "name": language_name(language),
                "drawing": radar([words(kind) for kind in kinds], spokes, label),
                "kinds": [words(kind) for kind in kinds],
                "rows": rows,
            }
        )
    return found


def _value(mean: Mean | None) -> float | None:
    return mean.interval.value if mean is not None else None


def alarm_list(view: Shown) -> list[dict[str, Any]]:
    """Every kind of alarm with the results that raise it; what stands behind its colon is said of each."""
    found: dict[str, dict[int, list[tuple[Entrant, str]]]] = defaultdict(lambda: defaultdict(list))
    for task in view.board.tasks:
        for entrant, cell in view.board.row_of(task, view.order):
            for sentence in filter(None, (cell.row["note"] or "").split("; ")):
                kind, _, detail = sentence.partition(": ")
                found[kind][task.index].append((entrant, detail))
    grouped = []
    for kind, by_task in found.items():
        tasks = [(view.board.tasks[index], view.pages[index], results) for index, results in by_task.items()]
        grouped.append({"text": kind, "results": sum(len(results) for results in by_task.values()), "tasks": tasks})
    return sorted(grouped, key=lambda entry: -int(entry["results"]))


def remarks(view: Shown) -> list[str]:
    """What a reader must know before the first number."""
    board, found = view.board, []
    synthetic = [task for task in board.tasks if task.marks and board.row_of(task)]
    if synthetic:
        names = listed([task.name for task in synthetic], 4)
        found.append(f"{len(synthetic)} of {len(board.tasks)} tasks are synthetic or not human-reviewed ({names}): they tell working models from broken ones.")
    incomplete = sorted({entrant.label for entrant in board.entrants if entrant.index not in view.standings.overall.places})
    if incomplete and view.standings.overall.means:
        found.append(f"Not every model was asked every task: {listed(incomplete, 4)} {'has' if len(incomplete) == 1 else 'have'} no place in the overall mean.")
    alarmed = sum(bool(cell.row["note"]) for cell in board.cells.values())
    if alarmed:
        found.append(f"{alarmed} of {len(board.cells)} results carry an alarm, such as a score at chance; they are marked ▲ and listed under Alarms.")
    aside = sum(bool(cell.aside) for cell in board.cells.values())
    if aside:
        found.append(f"{aside} results are of other questions than the other models were asked; they are marked ≠ and count in no mean.")
    return found + board.suspicions[:_SUSPICIONS]


def charted(view: Shown) -> list[Entrant]:
    """The models that charts show before anybody chooses."""
    return view.order[:CHARTED]


def hidden_rule(view: Shown) -> Markup:
    """Style rule that hides the others in charts."""
    hidden = ",".join(f'.chart [data-e="{entrant.index}"]' for entrant in view.order[CHARTED:])
    return Markup(f"{hidden}{{display:none}}") if hidden else Markup("")  # noqa: S704 (numbers only)
