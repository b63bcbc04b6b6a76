"""Which tasks and items of two evaluations can be held against each other, and why the others cannot."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.errors import DataError
from iberlm.evaluate.scoring import CUSTOM
from iberlm.evaluate.store.schema import ITEM_SCHEMA, RESULT_SCHEMA

SETTINGS = ("num_fewshot", "template", "dtype", "backend")
"""In which two evaluations of one task may differ."""
NEED_SAME = ("num_fewshot", "template")
"""Of these, what makes the questions different ones: two models are compared across them only when that is asked for."""
ITEM_COLUMNS = (
    "model", "model_name", "task", "version", "prompt_hash", "num_fewshot", "template", "backend", "dtype", "task_key", "language", "item", "id", "item_hash",
    "cluster", "prompt", "choices", "target", "prediction", "metrics", "score", "created",
)  # fmt: skip
"""Of the item rows, what a comparison reads."""
_NAMES = {"num_fewshot": "solved examples", "template": "chat template", "dtype": "type of number", "backend": "backend"}
_SAME_WAY = ("version", "num_fewshot", "template", "backend", "dtype")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A task that both models were asked, with the items that both answered, in the order of the task."""

    task: str
    language: str
    a: Row
    """The result row of the primary metric."""
    b: Row
    items: list[tuple[Row, Row]]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NotCompared:
    """A task that cannot be compared."""

    task: str
    language: str
    why: str


def paired_tasks(
    a: tuple[pa.Table, pa.Table], b: tuple[pa.Table, pa.Table], *, across: Collection[str] = (), languages: Collection[str] = ()
) -> tuple[list[Pair], list[NotCompared]]:
    """Match two evaluations, each a table of items and one of results (`ITEM_SCHEMA`, `RESULT_SCHEMA`).

    Items are the same when their records are (`item_hash`). Versions and metrics of a task must agree; solved examples and chat template
    too, between different models, unless `across` names them. Raises `DataError` for tables of another format, and for rows of several models.
    """
    sides = []
    for label, (items, results) in (("A", a), ("B", b)):
        _check(label, "items", items, ITEM_COLUMNS)
        _check(label, "results", results, RESULT_SCHEMA.names)
        whole = results.filter(pc.and_(results["primary"], pc.equal(results["group"], "")))
        if languages:
            whole = whole.filter(pc.is_in(whole["language"], value_set=pa.array(sorted(languages), pa.string())))
        _check_one_model(label, whole)
        sides.append((items.select(ITEM_COLUMNS), _by_task(whole.to_pylist())))
    (items_a, ways_a), (items_b, ways_b) = sides
    pairs: list[Pair] = []
    refused: list[NotCompared] = []
    for task in [*ways_a, *(task for task in ways_b if task not in ways_a)]:
        found = _paired(task, (items_a, ways_a.get(task, [])), (items_b, ways_b.get(task, [])), across)
        (pairs if isinstance(found, Pair) else refused).append(found)  # type: ignore[arg-type]
    return pairs, refused


def _check(label: str, kind: str, table: pa.Table, columns: Iterable[str]) -> None:
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(f"{label}: its {kind} have no column '{missing[0]}'; they are of another version of IberLM: evaluate again")


def _check_one_model(label: str, results: pa.Table) -> None:
    models = {row["model"]: row["model_name"] for row in results.select(["model", "model_name"]).to_pylist()}
    if len(models) > 1:
        told = ", ".join(f"{name} ({model[:12]})" for model, name in sorted(models.items()))
        raise DataError(f"{label} holds results of {len(models)} models ({told}); a comparison is of two: choose one of them")


def _by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["task"], row["created"] or 0.0)):
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def _paired(task: str, a: tuple[pa.Table, list[Row]], b: tuple[pa.Table, list[Row]], across: Collection[str]) -> Pair | NotCompared:
    (items_a, ways_a), (items_b, ways_b) = a, b
    language = (ways_a or ways_b)[0]["language"]
    if not (ways_a and ways_b):
        return NotCompared(task, language, f"only {'A' if ways_a else 'B'} was asked it")
    first, second = max(((one, other) for one in ways_a for other in ways_b), key=_agreement)
    if why := _obstacle(first, second, across):
        return NotCompared(task, language, why)
    of_a, of_b = _items_of(items_a, first), _items_of(items_b, second)
    common = [key for key in of_a if key in of_b]
    if not common:
        return NotCompared(task, language, _nothing_common(len(of_a), len(of_b)))
    pairs = [(of_a[key], of_b[key]) for key in common]
    remarks = [*_ways(ways_a, first, "A"), *_ways(ways_b, second, "B"), *_differing(first, second)]
    if len(common) < max(len(of_a), len(of_b)):
        remarks.append(f"{len(common)} items in common; {len(of_a) - len(common)} of A's and {len(of_b) - len(common)} of B's are left out")
    otherwise = sum(one["prompt_hash"] != other["prompt_hash"] for one, other in pairs)
    if otherwise and all(first[name] == second[name] for name in NEED_SAME):
        remarks.append(f"{otherwise} of {len(common)} items were put in other words")
    return Pair(task, language, first, second, pairs, remarks)


def _agreement(ways: tuple[Row, Row]) -> tuple[Any, ...]:
    """Order of the ways in which a task was asked of both: those that agree most, then those of most items, then the newest."""
    first, second = ways
    same = [first[name] == second[name] for name in ("version", "metric", *SETTINGS, "task_key")]
    return (*same, (first["n"] or 0) + (second["n"] or 0), first["created"] or 0.0, second["created"] or 0.0)


def _obstacle(first: Row, second: Row, across: Collection[str]) -> str:
    """Why two results of a task are not comparable; empty where they are."""
    if first["version"] != second["version"]:
        return f"other versions of the task: {first['version']} of A, {second['version']} of B"
    if first["metric"] != second["metric"]:
        return f"scored by {first['metric']} in A, by {second['metric']} in B"
    if CUSTOM in (first["aggregation"], second["aggregation"]):
        return f"{first['metric']} is computed by a function of the task's own, not item by item"
    if first["model"] != second["model"]:
        for name in NEED_SAME:
            if first[name] != second[name] and name not in across:
                return f"other {_NAMES[name]}: {shown(name, first[name])} in A, {shown(name, second[name])} in B (--across {name} compares all the same)"
    return ""


def _differing(first: Row, second: Row) -> list[str]:
    return [f"{_NAMES[name]}: {shown(name, first[name])} in A, {shown(name, second[name])} in B" for name in SETTINGS if first[name] != second[name]]


def shown(name: str, value: Any) -> str:
    """A setting's value, for people: of a template's hash the beginning."""
    return str(value)[:12] if name == "template" and value != "none" else str(value)


def _ways(ways: Sequence[Row], chosen: Row, label: str) -> list[str]:
    others = {tuple(row[name] for name in SETTINGS) for row in ways}
    if len(others) < 2:
        return []
    told = ", ".join(f"{name}={shown(name, chosen[name])}" for name in SETTINGS)
    return [f"{label} was asked in {len(others)} ways; taken is {told}"]


def _items_of(items: pa.Table, way: Row) -> dict[tuple[str, int], Row]:
    """Items of a task asked in one way, in order, by record and by which of equal records they are.

    They are those of the result: an item that was answered under another task key has a row of its own under this one.
    """
    mask = pc.equal(items["task"], way["task"])
    for name in ("task_key", *_SAME_WAY):
        mask = pc.and_(mask, pc.equal(items[name], pa.scalar(way[name], ITEM_SCHEMA.field(name).type)))
    places: dict[int, Row] = {}
    rows = items.filter(mask).to_pylist()
    for row in sorted(rows, key=lambda row: (row["item"], row["created"] or 0.0)):
        places[row["item"]] = row
    found: dict[tuple[str, int], Row] = {}
    seen: dict[str, int] = {}
    for row in places.values():
        record = row["item_hash"] or f"item {row['item']}"
        found[record, seen.get(record, 0)] = row
        seen[record] = seen.get(record, 0) + 1
    return found


def _nothing_common(a: int, b: int) -> str:
    if not a or not b:
        return f"no items of {'A' if not a else 'B'} are there"
    return f"another data set: of {a} items of A and {b} of B none is the same"


def describe(row: Mapping[str, Any]) -> str:
    """A model for people: its name and the beginning of its hash."""
    return f"{row['model_name'] or 'model'} ({row['model'][:12]})"
