"""What the stage publishes: its rows as Parquet, the table of families by languages, and the mean of each language."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.files import publish
from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.catalogue import MIN_ITEMS
from iberlm.evaluate.scoring import NOT_AVERAGED
from iberlm.evaluate.statistics.aggregate import Normalised, language_mean
from iberlm.evaluate.statistics.intervals import Interval
from iberlm.evaluate.store.schema import ITEM_SCHEMA, RESULT_SCHEMA
from iberlm.evaluate.variety import preference, spanish_preference

SEEN = ("seen", pa.float32())
Rows = Sequence[dict[str, Any]]
Table = dict[str, dict[str, dict[str, Any]]]
CELL = (
    "task",
    "metric",
    "value",
    "stderr",
    "low",
    "high",
    "n",
    "clusters",
    "chance",
    "averaged",
    "measures",
    "clean_n",
    "clean_value",
    "clean_low",
    "clean_high",
    "note",
)


def write_results(path: Path, rows: Rows) -> None:
    """Publish result rows (`RESULT_SCHEMA`) as Parquet. Each row says of itself what it is, so files of many runs can be read as one."""
    _write(path, rows, RESULT_SCHEMA)


def write_items(path: Path, rows: Rows) -> None:
    """Publish item rows (`ITEM_SCHEMA` and `seen`) as Parquet."""
    _write(path, rows, ITEM_SCHEMA.append(pa.field(*SEEN)))


def _write(path: Path, rows: Rows, schema: pa.Schema) -> None:
    with publish(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")


def whole(rows: Rows) -> list[dict[str, Any]]:
    """Rows of the primary metric of whole tasks."""
    return [row for row in rows if row["primary"] and not row["group"]]


def table_of(results: Rows) -> Table:
    """`{family: {language: {metric, value, stderr, low, high, n, clusters, chance, note, ...}}}` of the primary metrics.

    `groups` has the values of the task's patterns or subjects, {name: {value, low, high, n}}.
    """
    table: Table = {}
    for row in whole(results):
        table.setdefault(row["family"], {})[row["language"]] = {name: row[name] for name in CELL}
    for row in results:
        if row["primary"] and row["group"]:
            cell = table[row["family"]][row["language"]]
            cell.setdefault("groups", {})[row["group"]] = {name: row[name] for name in ("value", "low", "high", "n")}
    return table


def language_table(results: Rows) -> dict[str, dict[str, Any]]:
    """`{language: {value, low, high, tasks, left_out}}`: mean of the chance-normalised scores, 0 for guessing and 100 for the best there can be.

    A task with fewer than MIN_ITEMS items, or without a chance level, is left out and told: `left_out` is [{task, why}].
    """
    found: dict[str, dict[str, Any]] = {}
    for language in LANGUAGES:
        rows = [row for row in whole(results) if row["language"] == language]
        if not rows:
            continue
        tasks = [_normalised(row) for row in rows if _counts(row)]
        left_out = [{"task": row["task"], "why": _why(row)} for row in rows if not _counts(row)]
        mean = language_mean(tasks) if tasks else None
        found[language] = {
            "value": mean.value if mean else None,
            "low": mean.low if mean else None,
            "high": mean.high if mean else None,
            "tasks": [task.task for task in tasks],
            "left_out": left_out,
        }
    return found


def _counts(row: dict[str, Any]) -> bool:
    return bool(row["averaged"]) and all(row[name] is not None and math.isfinite(row[name]) for name in ("value", "low", "high"))


def _why(row: dict[str, Any]) -> str:
    if row["averaged"]:
        return "no interval"
    if row["chance"] is None or row["best"] is None:
        return "no scale from chance to best"
    return "shows a preference" if row["measures"] in NOT_AVERAGED else f"{row['n']} items, fewer than {MIN_ITEMS}"


def _normalised(row: dict[str, Any]) -> Normalised:
    interval = Interval(value=row["value"], stderr=row["stderr"], low=row["low"], high=row["high"], n=row["n"], clusters=row["clusters"])
    return Normalised(task=row["task"], interval=interval, chance=row["chance"], best=row["best"], higher_is_better=row["higher_is_better"] is not False)


def variety_table(items: Rows) -> dict[str, Any]:
    """Whether the model keeps to the variety in which it is addressed: {`ca`: of Central Catalan and Valencian, `es`: of Peninsular and American Spanish}.

    Languages of which the suite did not ask both varieties have no entry; see `iberlm.evaluate.variety`.
    """
    of_family: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in items:
        of_family.setdefault((item["family"], item["language"]), []).append(item)
    found = {}
    central, valencian = of_family.get(("variety", "ca"), []), of_family.get(("variety", "ca-valencia"), [])
    if {item["id"] for item in central} & {item["id"] for item in valencian}:
        found["ca"] = preference(central, valencian)
    spanish = of_family.get(("peninsular", "es"), [])
    if len({item["group"] for item in spanish}) > 1:
        found["es"] = spanish_preference(spanish)
    return found


def print_table(table: Table, languages: dict[str, dict[str, Any]]) -> None:
    """Print families by languages, and the mean of each language, to standard output: rich on a terminal, aligned plain text otherwise; notes below."""
    tags = [tag for tag in LANGUAGES if any(tag in cells for cells in table.values())]
    header = ["task", "metric", "chance", *tags]
    rows = [[family, *_first(cells), *(_shown(cells.get(tag)) for tag in tags)] for family, cells in table.items()]
    if means := any(languages[tag]["value"] is not None for tag in tags):
        rows.append(["mean", "0 chance, 100 best", "", *(_mean(languages[tag]) for tag in tags)])
    notes = ["95% intervals in brackets"]
    notes += [f"* {family}, {tag}: {cell['note']}" for family, cells in table.items() for tag, cell in cells.items() if cell["note"]]
    if means:
        counted = {tag: ", ".join(languages[tag]["tasks"]) for tag in tags if languages[tag]["tasks"]}
        notes.append(f"in the mean: {'; '.join(f'{tag}: {names}' for tag, names in counted.items())}")
    notes += [f"not in the mean: {_left_out(languages)}"] if any(languages[tag]["left_out"] for tag in tags) else []
    if sys.stdout.isatty():
        _print_rich(header, rows, notes)
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip())
    print("\n".join(notes), flush=True)


def _left_out(languages: dict[str, dict[str, Any]]) -> str:
    """Tasks by the reason for which they are left out."""
    reasons: dict[str, list[str]] = {}
    for cell in languages.values():
        for entry in cell["left_out"]:
            reasons.setdefault(entry["why"], []).append(entry["task"])
    return "; ".join(f"{', '.join(tasks)} ({why})" for why, tasks in reasons.items())


def _first(cells: dict[str, dict[str, Any]]) -> tuple[str, str]:
    cell = next(iter(cells.values()))
    return cell["metric"], "" if cell["chance"] is None else f"{cell['chance']:.2f}"


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    interval = "" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['value']:.3f}{interval}" + ("*" if cell["note"] else "")


def _mean(cell: dict[str, Any]) -> str:
    return "-" if cell["value"] is None else f"{cell['value']:.1f} [{cell['low']:.1f}, {cell['high']:.1f}]"


def _print_rich(header: list[str], rows: list[list[str]], notes: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    shown = RichTable()
    for column, title in enumerate(header):
        shown.add_column(title, justify="left" if column < 2 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for note in notes:
        console.print(note, style="dim", markup=False)
