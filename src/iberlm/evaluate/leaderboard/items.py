"""The items of a task inside its page: an index of all, and their texts in compressed parts that the browser unpacks when they are looked at."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iberlm.evaluate.leaderboard.board import Cell, Entrant, Row, Task
from iberlm.evaluate.leaderboard.drawing import Look
from iberlm.evaluate.leaderboard.pack import pack
from iberlm.evaluate.store.order import earliest
from iberlm.evaluate.store.store import Store

CHUNK = 100
"""Items of one compressed part."""
_IDENTITY = ("model", "version", "task_key", "template", "backend", "dtype")
COLUMNS = (
    *("key", "model", "task", "version", "template", "backend", "dtype", "task_key", "item", "created"),
    *("id", "group", "prompt", "choices", "target", "responses", "prediction", "score", "truncated"),
)


@dataclass(frozen=True)
class Browser:
    """What a page needs to show items."""

    entrants: list[Entrant]
    groups: list[str]
    index: str
    """Packed: ids, groups, scores."""
    chunks: list[str]
    """Packed: prompts, choices, answers, `CHUNK` items each."""


def read_items(stores: Sequence[Path], task: Task, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Item rows of a task from several stores, each (model, item, key) once: the earliest."""
    tables = [Store(folder).items(tasks=[task.name], columns=columns) for folder in stores]
    return tables[0] if len(tables) == 1 else earliest(pa.concat_tables(tables))


def of_cell(table: pa.Table, cell: Cell) -> pa.Table:
    """The items behind one result."""
    for name in _IDENTITY:
        value = cell.row[name]
        table = table.filter(pc.is_null(table[name]) if value is None else pc.equal(table[name], value))
    return table


def browser(table: pa.Table, found: Sequence[tuple[Entrant, Cell]], looks: dict[int, Look]) -> Browser | None:
    """The items of the results that can be compared with one another; None where the stores have none."""
    parts = [(entrant, part) for entrant, cell in found if not cell.aside and len(part := of_cell(table, cell))]
    if not parts:
        return None
    places = [{item: row for row, item in enumerate(part["item"].to_pylist())} for _, part in parts]
    items = sorted(set().union(*places))
    index = _index(items, [entrant for entrant, _ in parts], [part for _, part in parts], places, looks)
    chunks = [pack(_texts(items[start : start + CHUNK], [part for _, part in parts], places)) for start in range(0, len(items), CHUNK)]
    return Browser([entrant for entrant, _ in parts], index["groups"], pack(index), chunks)


def _index(items: list[int], entrants: list[Entrant], parts: list[pa.Table], places: list[dict[int, int]], looks: dict[int, Look]) -> dict[str, Any]:
    scores = [_aligned(items, part["score"].to_pylist(), place) for part, place in zip(parts, places, strict=True)]
    predictions = [_aligned(items, part["prediction"].to_pylist(), place) for part, place in zip(parts, places, strict=True)]
    numbers = [[None if score is None or not math.isfinite(score) else score for score in line] for line in scores]
    ids = _first(items, [part["id"].to_pylist() for part in parts], places)
    named = _first(items, [part["group"].to_pylist() for part in parts], places)
    groups = sorted({name for name in named if name})
    return {
        "chunk": CHUNK,
        "models": [[entrant.label, looks[entrant.index].colour, looks[entrant.index].path] for entrant in entrants],
        "items": items,
        "ids": [name or "" for name in ids],
        "groups": groups,
        "group": [groups.index(name) if name else -1 for name in named],
        "scores": [[None if score is None else round(score, 4) for score in line] for line in numbers],
        "binary": all(score in (0.0, 1.0) for line in numbers for score in line if score is not None),
        "differ": "".join("1" if len({line[place] for line in predictions}) > 1 else "0" for place in range(len(items))),
    }


def _aligned(items: list[int], values: list[Any], place: dict[int, int]) -> list[Any]:
    return [values[place[item]] if item in place else None for item in items]


def _first(items: list[int], columns: list[list[Any]], places: list[dict[int, int]]) -> list[Any]:
    """Of each item what the first model that was asked it has."""
    return [next(column[place[item]] for column, place in zip(columns, places, strict=True) if item in place) for item in items]


def _texts(items: list[int], parts: list[pa.Table], places: list[dict[int, int]]) -> list[dict[str, Any]]:
    of_model: list[dict[int, Row]] = []
    for part, place in zip(parts, places, strict=True):
        there = [item for item in items if item in place]
        of_model.append(dict(zip(there, part.take(pa.array([place[item] for item in there], pa.int64())).to_pylist(), strict=True)))
    return [_item([rows.get(item) for rows in of_model]) for item in items]


def _item(rows: list[Row | None]) -> dict[str, Any]:
    """`p` prompts, each once; `c` choices; `t` target; `m` of each model [its prompt, answers, prediction, cut] or null."""
    some = next(row for row in rows if row is not None)
    prompts = list(dict.fromkeys(row["prompt"] or "" for row in rows if row is not None))
    choices = some["choices"] or []
    models = [
        None if row is None else [prompts.index(row["prompt"] or ""), answer(row, len(choices)), row["prediction"], bool(row["truncated"])] for row in rows
    ]
    return {"p": prompts, "c": choices, "t": some["target"], "m": models}


def answer(row: Row, choices: int) -> str | list[float | None]:
    """The text that was generated, or log-likelihoods: of a multiple choice one a choice."""
    try:
        found = json.loads(row["responses"] or "[]")
    except ValueError:
        return str(row["responses"])
    found = found if isinstance(found, list) else [found]
    if found and isinstance(found[0], str):
        return found[0]
    likelihoods = [_finite(entry[0] if isinstance(entry, list) and entry else entry) for entry in found]
    return likelihoods[:choices] if choices else likelihoods


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
