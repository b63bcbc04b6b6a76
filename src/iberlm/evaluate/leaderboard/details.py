"""Everything that is known of one result, in words: for the panel that opens on a number, and for the task's page."""

import json
from typing import Any

from iberlm.evaluate.leaderboard.board import Cell, Entrant, Row, Task
from iberlm.evaluate.leaderboard.views import Shown
from iberlm.evaluate.leaderboard.wording import NONE, between, count, day, digits_of, number, size

FACTS = ("value", "95% interval", "points", "chance and best", "clean subset", "items", "solved examples", "asked by", "how", "computed on", "software", "date")


def facts(entrant: Entrant, task: Task, cell: Cell) -> list[str]:
    """What is known of a result, in the order of `FACTS`."""
    row = cell.row
    digits = digits_of(cell.value, task.best)
    found = cell.points
    return [
        f"{number(cell.value, digits)} {row['metric']}" + ("" if row["higher_is_better"] is not False else ", lower is better"),
        between(row["low"], row["high"], digits) or "none",
        f"{number(found.value)} ({between(found.low, found.high)})" if found else "no scale from chance to best",
        f"{NONE if row['chance'] is None else number(row['chance'], 3)} and {NONE if row['best'] is None else number(row['best'], digits)}",
        _clean(row, digits),
        _items(row),
        NONE if row["num_fewshot"] is None else str(row["num_fewshot"]),
        f"{entrant.label}, {size(entrant.parameters)} parameters",
        entrant.settings,
        ", ".join(filter(None, (row["device"], row["batch"]))) or NONE,
        software(row),
        day(row["created"]),
    ]


def _clean(row: Row, digits: int) -> str:
    if row["clean_n"] is None:
        return "nobody looked for the items in the training corpus"
    if row["clean_n"] == row["n"]:
        return "the training corpus holds none of the items"
    ends = between(row["clean_low"], row["clean_high"], digits)
    return f"{number(row['clean_value'], digits)}{f' ({ends})' if ends else ''} on {count(row['clean_n'])} of {count(row['n'])} items"


def _items(row: Row) -> str:
    groups = "" if row["clusters"] in (None, row["n"]) else f", in {count(row['clusters'])} clusters"
    return f"{count(row['n'])}{groups}" + (f"; only the first {count(row['limit'])} were asked" if row["limit"] else "")


def software(row: Row) -> str:
    """Libraries and versions; as it stands where it is no JSON."""
    try:
        found = json.loads(row["software"] or "{}")
    except ValueError:
        return str(row["software"])
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) and found else NONE


def panel_data(view: Shown) -> dict[str, Any]:
    """What the page's panel shows, by `ENTRANT-TASK`."""
    cells = {}
    for task in view.board.tasks:
        for entrant, cell in view.board.row_of(task):
            cells[f"{entrant.index}-{task.index}"] = [facts(entrant, task, cell), cell.row["note"] or "", cell.aside, cell.row["command"] or ""]
    return {
        "labels": [name[0].upper() + name[1:] for name in FACTS],
        "entrants": {str(entrant.index): entrant.label for entrant in view.board.entrants},
        "tasks": {str(task.index): [task.name, view.pages[task.index], ", ".join(task.marks)] for task in view.board.tasks},
        "cells": cells,
        "filters": {
            str(entrant.index): [
                f"{entrant.name} {entrant.label} {entrant.model}".lower(),
                entrant.size_class,
                entrant.backend,
                entrant.dtype,
                entrant.template_name,
            ]
            for entrant in view.board.entrants
        },
    }
