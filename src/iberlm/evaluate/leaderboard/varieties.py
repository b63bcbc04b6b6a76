"""Which variety models prefer: shares of frames, from the items of the tasks that ask the same frames in two varieties."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from iberlm.core.errors import DataError
from iberlm.evaluate.leaderboard.board import Board, Entrant, Task
from iberlm.evaluate.leaderboard.items import of_cell, read_items
from iberlm.evaluate.leaderboard.views import Shown
from iberlm.evaluate.variety import preference, spanish_preference

CENTRAL, VALENCIAN, SPANISH = ("variety", "ca"), ("variety", "ca-valencia"), ("peninsular", "es")
"""Families and languages of the tasks."""
_COLUMNS = ("key", "model", "task", "version", "template", "backend", "dtype", "task_key", "item", "created", "id", "group", "score")
_KEPT, _CONTRARY = ("kept", "keeps the variety addressed"), ("contrary", "always the other one")


def variety_views(view: Shown, stores: Sequence[Path]) -> list[dict[str, Any]]:
    """Tables of the page: Central Catalan against Valencian, and Peninsular against American Spanish, as far as both were asked."""
    found = []
    central, valencian, spanish = (_task(view.board, cell) for cell in (CENTRAL, VALENCIAN, SPANISH))
    if central and valencian:
        tables = read_items(stores, central, _COLUMNS), read_items(stores, valencian, _COLUMNS)
        rows = [row for entrant in view.order if (row := _both(view.board, entrant, (central, valencian), tables))]
        kinds = [_KEPT, ("central", "always Central"), ("valencian", "always Valencian"), _CONTRARY]
        found.append({"title": "Central Catalan and Valencian", "kinds": kinds, "rows": rows})
    if spanish:
        table = read_items(stores, spanish, _COLUMNS)
        rows = [row for entrant in view.order if (row := _one(view.board, entrant, spanish, table))]
        kinds = [_KEPT, ("peninsular", "always Peninsular"), ("american", "always American"), _CONTRARY]
        found.append({"title": "Peninsular and American Spanish", "kinds": kinds, "rows": rows})
    return [entry for entry in found if entry["rows"]]


def _task(board: Board, cell: tuple[str, str]) -> Task | None:
    return next((task for task in board.tasks if (task.family, task.language) == cell), None)


def _items(board: Board, entrant: Entrant, task: Task, table: pa.Table) -> list[dict[str, Any]]:
    cell = board.cell(entrant, task)
    return [] if cell is None or cell.aside else of_cell(table, cell).to_pylist()


def _both(board: Board, entrant: Entrant, tasks: tuple[Task, Task], tables: tuple[pa.Table, pa.Table]) -> tuple[Entrant, list[float], int] | None:
    first, second = (_items(board, entrant, task, table) for task, table in zip(tasks, tables, strict=True))
    try:
        return _row(entrant, preference(first, second)) if first and second else None
    except DataError:  # no frame in common, or scores of another metric: there is no share to show
        return None


def _one(board: Board, entrant: Entrant, task: Task, table: pa.Table) -> tuple[Entrant, list[float], int] | None:
    items = _items(board, entrant, task, table)
    try:
        return _row(entrant, spanish_preference(items)) if items else None
    except DataError:
        return None


def _row(entrant: Entrant, found: dict[str, Any]) -> tuple[Entrant, list[float], int]:
    return entrant, list(found["shares"].values()), found["frames"]
