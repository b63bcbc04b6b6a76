"""A comparison in words and in tables."""

import math
import sys
from collections.abc import Sequence

from iberlm.evaluate.compare import Comparison, LanguageVerdict, TaskVerdict, Verdict
from iberlm.evaluate.statistics.power import ALPHA

HEADER = ("task", "metric", "items", "A", "B", "A - B", "95% interval", "p", "Holm", "unseen below", "only A", "only B", "better")
_LEFT = 2
_QUESTION = 60
"""Characters of a prompt's end that are shown of an item."""
_DISPENSABLE = (("metric",), ("p",), ("only A", "only B"), ("items",), ("unseen below",), ("A", "B"))
"""Columns that a narrow terminal goes without, the first one first."""


def sentences(comparison: Comparison) -> list[str]:
    """What was found, in plain words: languages first, then the tasks that one model is better at, then those that could not be compared."""
    found = [_language_sentence(entry, len(comparison.languages)) for entry in comparison.languages]
    found += [
        f"{tag}: no task that both were asked counts in a mean (enough items, and a scale from chance to best); see its tasks"
        for tag in comparison.without_mean
    ]
    found += [_task_sentence(entry) for entry in comparison.tasks if entry.better]
    unseen = [entry.task for entry in comparison.tasks if not entry.better]
    if unseen:
        found.append(f"no difference can be seen on {len(unseen)} of {len(comparison.tasks)} tasks: {', '.join(unseen)}")
    if not comparison.tasks:
        found.append("nothing could be compared")
    return found


def _language_sentence(entry: LanguageVerdict, languages: int) -> str:
    where = f"on {entry.language}"
    if entry.better:
        return f"{entry.better} is better {where} ({_gain(entry, 1)} points, 95% interval {_range(entry, 1)})"
    if _all_equal(entry):
        return f"A and B have the same scores {where}, item by item"
    size = f"{entry.difference.interval.n} items"
    seen = "" if math.isinf(entry.difference.detectable) else f": a difference below {entry.difference.detectable:.1f} points would go unseen"
    if entry.difference.p <= ALPHA:
        chances = f"p {_p(entry.difference.p)}, by Holm {_p(entry.p_holm)}"
        found = f"{_signed(entry.difference.interval.value, 1)} points, 95% interval {_range(entry, 1)}"
        return f"no difference {where} with {size} outlasts the correction for {languages} languages ({chances}; {found}){seen}"
    return f"no difference can be seen {where} with {size}{seen}"


def _task_sentence(entry: TaskVerdict) -> str:
    places = decimals(entry)
    return f"{entry.better} is better at {entry.task} ({_gain(entry, places)} {entry.metric}, 95% interval {_range(entry, places)})"


def _gain(entry: Verdict, places: int) -> str:
    """The difference as the better model's."""
    value = entry.difference.interval.value
    return _signed(value if entry.better == "A" else -value, places)


def _range(entry: Verdict, places: int) -> str:
    low, high = entry.difference.interval.low, entry.difference.interval.high
    if entry.better == "B":
        low, high = -high, -low
    return f"{low:.{places}f} to {high:.{places}f}"


def _signed(value: float, places: int) -> str:
    return f"{value:+.{places}f}"


def _all_equal(entry: Verdict) -> bool:
    return entry.difference.interval.value == 0 and entry.difference.interval.stderr == 0


def decimals(entry: Verdict) -> int:
    """Digits after the point: 3 for shares and bits per byte, 1 for metrics in hundreds."""
    return 1 if max(abs(entry.a.value), abs(entry.b.value)) >= 20 else 3


def task_rows(tasks: Sequence[TaskVerdict]) -> list[list[str]]:
    """Cells of the table of tasks, in the order of `HEADER`."""
    rows = []
    for entry in tasks:
        places, difference = decimals(entry), entry.difference
        interval = difference.interval
        items = str(interval.n) if interval.clusters == interval.n else f"{interval.n} in {interval.clusters}"
        ends = "-" if math.isnan(interval.low) else f"{interval.low:+.{places}f} to {interval.high:+.{places}f}"
        unseen = f"{difference.detectable:.{places}f}" if math.isfinite(difference.detectable) and not _all_equal(entry) else "-"
        only = ["-" if count is None else str(count) for count in (difference.only_a, difference.only_b)]
        numbers = [f"{entry.a.value:.{places}f}", f"{entry.b.value:.{places}f}", _signed(interval.value, places), ends]
        rows.append(
            [entry.task + ("*" if entry.remarks else ""), entry.metric, items, *numbers, _p(difference.p), _p(entry.p_holm), unseen, *only, entry.better or "-"]
        )
    return rows


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def notes(comparison: Comparison, items: int) -> list[str]:
    """What stands below the table: remarks, items that changed (`items` of each task), tasks that could not be compared."""
    found = ["p: two-sided; Holm: corrected for the number of tasks; unseen below: a true difference this small is missed in one of five evaluations or more"]
    found += [f"* {', '.join(tasks)}: {remark}" for remark, tasks in _by_remark(comparison.tasks).items()]
    for entry in comparison.tasks if items else ():
        if entry.changed:
            found += [f"changed in {entry.task}: {len(entry.changed)} of {entry.difference.interval.n} items"]
            found += [f"  {_changed(change)}" for change in entry.changed[:items]]
    found += [f"not compared: {entry.task}: {entry.why}" for entry in comparison.not_compared]
    return found


def _by_remark(tasks: Sequence[TaskVerdict]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in tasks:
        for remark in entry.remarks:
            found.setdefault(remark, []).append(entry.task)
    return found


def _changed(change: dict[str, object]) -> str:
    answers = f"A {_short(change['a'])}, B {_short(change['b'])}" if change["a"] is not None or change["b"] is not None else "no answer of its own"
    scores = "" if change["score_a"] is None else f"; scores {change['score_a']:.3g} and {change['score_b']:.3g}"
    target = "" if change["target"] is None else f"; right {_short(change['target'])}"
    question = " ".join(str(change["prompt"] or "").split())[-_QUESTION:]
    return f"{change['id']}: {f'…{question} ' if question else ''}{answers}{target}{scores}"


def _short(text: object, characters: int = 40) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def show(comparison: Comparison, *, items: int) -> None:
    """Print to standard output: rich on a terminal, aligned plain text otherwise."""
    heading = [f"A: {comparison.a}", f"B: {comparison.b}"]
    rows = task_rows(comparison.tasks)
    if sys.stdout.isatty():
        _show_rich(heading, sentences(comparison), rows, notes(comparison, items))
        return
    print("\n".join([*heading, "", *sentences(comparison), ""]))
    if rows:
        widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(len(HEADER))]
        for row in [HEADER, *rows]:
            cells = (text.ljust(width) if column < _LEFT else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True)))
            print("  ".join(cells).rstrip())
    print("\n".join(notes(comparison, items)), flush=True)


def _show_rich(heading: list[str], words: list[str], rows: list[list[str]], below: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, emoji=False)
    for line in heading:
        console.print(line, style="bold", markup=False)
    for line in words:
        console.print(line, markup=False)
    if rows:
        columns = _fitting(rows, console.width)
        table = Table()
        for column in columns:
            table.add_column(HEADER[column], justify="left" if column < _LEFT else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        console.print(table)
        if len(columns) < len(HEADER):
            left_out = ", ".join(title for column, title in enumerate(HEADER) if column not in columns)
            console.print(f"the terminal is too narrow for: {left_out}", style="dim", markup=False)
    for line in below:
        console.print(line, style="dim", markup=False)


def _fitting(rows: list[list[str]], width: int) -> list[int]:
    """Numbers of the columns that fit a terminal: all, or without as many dispensable ones as it takes."""
    columns = list(range(len(HEADER)))
    for titles in _DISPENSABLE:
        # two blanks and a line for each column, and a last line
        if sum(max(len(row[column]) for row in [HEADER, *rows]) + 3 for column in columns) + 1 <= width:
            break
        columns = [column for column in columns if HEADER[column] not in titles]
    return columns
