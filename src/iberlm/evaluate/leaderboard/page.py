"""The leaderboard's pages: index.html, and a page a task with all its numbers and its items."""

from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.evaluate.leaderboard.board import SIZE_CLASSES, UNKNOWN_SIZE, Board, Cell, Entrant, Row, Task
from iberlm.evaluate.leaderboard.details import FACTS, facts, panel_data
from iberlm.evaluate.leaderboard.drawing import whisker
from iberlm.evaluate.leaderboard.items import browser
from iberlm.evaluate.leaderboard.missing import gaps
from iberlm.evaluate.leaderboard.pack import pack, script_policy
from iberlm.evaluate.leaderboard.views import (
    CHARTED,
    Shown,
    alarm_list,
    first_of,
    hidden_rule,
    language_view,
    mean_cell,
    place_sort,
    place_text,
    radars,
    remarks,
    score_cell,
    value_scale,
    verdict,
)
from iberlm.evaluate.leaderboard.wording import NONE, between, breakable, count, day, digits_of, language_name, number, size, words
from iberlm.evaluate.statistics.intervals import Interval

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"ours": LANGUAGES, "file_safe": file_safe, "language_name": language_name, "words": words, "breakable": breakable}
    return made


def _script(name: str) -> Markup:
    """A page's program: our own file, which no text of others becomes part of."""
    return Markup((TEMPLATES / "common.js").read_text(encoding="utf-8") + (TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704


def index_page(view: Shown, *, made_with: str, downloads: list[tuple[str, str, str]], varieties: list[dict[str, Any]], with_items: bool) -> str:
    """The page that shows everything. `downloads` are (address, name, what it is) of the files beside it."""
    board, script = view.board, _script("board.js")
    languages = [language_view(view, language) for language in board.languages]
    return (
        _environment()
        .get_template("index.html")
        .render(
            board=board,
            policy=script_policy(script),
            script=script,
            packed=pack(panel_data(view)),
            hidden_rule=hidden_rule(view),
            figures=_figures(board),
            remarks=remarks(view),
            has_means=bool(view.standings.overall.means),
            verdict=verdict(view.standings.overall, view.order),
            languages=languages,
            colours=[file_safe(tag) if tag in LANGUAGES else "other" for tag in board.languages],
            overview=[_overview_row(view, entrant, languages) for entrant in view.order],
            order=view.order,
            looks=view.looks,
            charted=CHARTED,
            radars=radars(view),
            measures=[words(name) for name in view.measures],
            choices=_choices(board),
            varieties=varieties,
            alarms=alarm_list(view),
            gaps=gaps(board, view.order),
            pages=view.pages,
            data=[(task, day(max((cell.row["created"] or 0.0 for _, cell in board.row_of(task)), default=None))) for task in board.tasks],
            language_index=view.language_index,
            measures_index=lambda task: view.measures.index(task.measures),
            newest=day(board.newest),
            made_with=made_with,
            downloads=downloads,
            with_items=with_items,
        )
    )


def _figures(board: Board) -> list[tuple[str, str, str]]:
    """The numbers of the head."""
    answers = sum(cell.row["n"] or 0 for cell in board.cells.values())
    models = len({entrant.model for entrant in board.entrants})
    settings = f"in {len(board.entrants)} settings" if len(board.entrants) > models else ""
    full = len(board.entrants) * len(board.tasks)
    return [
        (count(models), "model" if models == 1 else "models", settings),
        (count(len(board.tasks)), "task" if len(board.tasks) == 1 else "tasks", f"suite {board.suite}" if board.suite else ""),
        (count(len(board.languages)), "language" if len(board.languages) == 1 else "languages", ", ".join(board.languages)),
        (count(answers), "answers", f"{count(len(board.cells))} of {count(full)} results"),
        (day(board.newest), "newest result", ""),
    ]


def _overview_row(view: Shown, entrant: Entrant, languages: list[dict[str, Any]]) -> dict[str, Any]:
    overall = view.standings.overall
    found = [(entry["index"], mean_cell(view.standings.languages[entry["tag"]], entrant)) for entry in languages if entry["core"]]
    return {
        "entrant": entrant,
        "place": place_text(overall.places.get(entrant.index)),
        "place_sort": place_sort(overall, entrant),
        "mean": mean_cell(overall, entrant, "languages"),
        "languages": found,
        "size": size(entrant.parameters),
    }


def _choices(board: Board) -> list[tuple[str, str, list[str]]]:
    """Fields of the filter by what models are; those with one value have none."""
    sizes = [name for name, _ in SIZE_CLASSES] + [UNKNOWN_SIZE]
    found = [
        ("size", "Parameters", [name for name in sizes if any(entrant.size_class == name for entrant in board.entrants)]),
        ("backend", "Backend", sorted({entrant.backend for entrant in board.entrants})),
        ("dtype", "Number type", sorted({entrant.dtype for entrant in board.entrants})),
        ("template", "Template", sorted({entrant.template_name for entrant in board.entrants})),
    ]
    return [field for field in found if len(field[2]) > 1]


def task_page(view: Shown, task: Task, items: pa.Table | None) -> str:
    """The page of a task; without its items where `items` is None or the stores have none."""
    script = _script("items.js")
    found = view.board.row_of(task, view.order)
    scale, first = value_scale(task, [cell for _, cell in found]), first_of(task, found)
    results = [_result(task, entrant, cell, score_cell(cell, scale, digits_of(cell.value, task.best), entrant.index in first)) for entrant, cell in found]
    groups = {entrant.index: {row["group"]: row for row in cell.groups} for entrant, cell in found}
    metrics = {entrant.index: {row["metric"]: row for row in cell.metrics} for entrant, cell in found}
    return (
        _environment()
        .get_template("task.html")
        .render(
            task=task,
            title=view.board.title,
            policy=script_policy(script),
            script=script,
            looks=view.looks,
            labels=[name[0].upper() + name[1:] for name in FACTS],
            results=results,
            entrants=[entrant for entrant, _ in found],
            groups=[_group(view, task, name, groups) for name in _names(groups)],
            metrics=[{"name": name, "cells": [_plain(rows.get(name)) for rows in metrics.values()]} for name in _names(metrics)],
            items=browser(items, found, view.looks) if items is not None else None,
        )
    )


def _result(task: Task, entrant: Entrant, cell: Cell, shown: dict[str, Any]) -> dict[str, Any]:
    points = cell.points
    return {
        "entrant": entrant,
        "cell": shown,
        "points": {"text": number(points.value) if points else "", "ends": between(points.low, points.high) if points else ""},
        "n": count(cell.row["n"]),
        "shots": NONE if cell.row["num_fewshot"] is None else str(cell.row["num_fewshot"]),
        "date": day(cell.row["created"]),
        "facts": facts(entrant, task, cell),
        "alarm": cell.row["note"] or "",
        "aside": cell.aside,
        "command": cell.row["command"] or "",
    }


def _names(of_entrant: dict[int, dict[str, Row]]) -> list[str]:
    return sorted({name for rows in of_entrant.values() for name in rows})


def _group(view: Shown, task: Task, name: str, groups: dict[int, dict[str, Row]]) -> dict[str, Any]:
    scale = value_scale(task, [cell for _, cell in view.board.row_of(task)])
    cells = []
    for rows in groups.values():
        row = rows.get(name)
        cell = _plain(row)
        if row is not None and cell is not None and cell["ends"]:
            cell["whisker"] = whisker(Interval(row["value"], row["stderr"], row["low"], row["high"], row["n"], row["clusters"]), scale)
        cells.append(cell)
    return {"name": name, "items": count(next(rows[name]["n"] for rows in groups.values() if name in rows)), "cells": cells}


def _plain(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    digits = digits_of(row["value"])
    return {"text": number(row["value"], digits), "ends": between(row["low"], row["high"], digits), "whisker": ""}
