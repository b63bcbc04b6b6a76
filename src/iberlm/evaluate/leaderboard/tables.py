"""Exports for spreadsheets and papers: every result as CSV, the tables as LaTeX."""

import csv
import io
import math
import re
from collections.abc import Sequence

from iberlm.evaluate.leaderboard.board import Board, Cell, Entrant
from iberlm.evaluate.leaderboard.means import Standing, in_order
from iberlm.evaluate.leaderboard.views import Shown, first_of
from iberlm.evaluate.leaderboard.wording import digits_of, language_name, words
from iberlm.evaluate.statistics.intervals import Interval
from iberlm.evaluate.store.schema import RESULT_SCHEMA

_ADDED = ("points", "points_low", "points_high", "compared")
_MODELS_A_TABLE = 5
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
_SPECIAL = re.compile("|".join(map(re.escape, _ESCAPES)))


def csv_table(board: Board) -> str:
    """Every result of the board, groups and further metrics too: the columns of `RESULT_SCHEMA`, then points from chance (0) to best (100) with
    their interval, and whether the result is compared with others'. RFC 4180, UTF-8; an empty field where there is no value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([*RESULT_SCHEMA.names, *_ADDED])
    for task in board.tasks:
        for _, cell in board.row_of(task):
            for row in (cell.row, *cell.others):
                found = Cell(row).points
                ends = [found.value, found.low, found.high] if found else [None, None, None]
                writer.writerow([_field(row[name]) for name in RESULT_SCHEMA.names] + [_field(value) for value in (*ends, not cell.aside)])
    return stream.getvalue()


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "nan"
    return str(value)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; line breaks and control characters become spaces."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], plain)


def latex_tables(view: Shown) -> str:
    """A table of the languages' means and one a language with its tasks, for \\usepackage{booktabs}; intervals in brackets, first places in bold."""
    board = view.board
    parts = [
        "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}\n"
        "% brackets: 95% intervals; bold: shares the first place (intervals that overlap are not ranked apart)\n"
    ]
    languages = [language for language in board.languages if language in view.standings.languages]
    if languages:
        parts.append(_means(view, languages))
    parts += [_tasks(view, language, entrants) for language in board.languages for entrants in _blocks(_asked(view, language))]
    return "\n".join(parts)


def _means(view: Shown, languages: Sequence[str]) -> str:
    rows = []
    for entrant in view.order:
        cells = [_mean(view.standings.languages[language], entrant) for language in languages]
        rows.append([escape_latex(entrant.label), _mean(view.standings.overall, entrant), *cells])
    head = ["Model", "Mean", *(escape_latex(language_name(language)) for language in languages)]
    caption = "Chance-normalised means with 95\\% intervals: 0 is guessing, 100 the best there can be. A dagger marks a mean over a part of the tasks."
    return _table(caption, "tab:languages", "l" + "r" * (len(languages) + 1), head, rows)


def _mean(standing: Standing, entrant: Entrant) -> str:
    mean = standing.means.get(entrant.index)
    if mean is None:
        return "--"
    first = standing.ranked > 1 and standing.places.get(entrant.index, (0, 0))[0] == 1
    return _number(mean.interval.value, mean.interval, 1, bold=first) + ("" if mean.complete else r"\textsuperscript{\textdagger}")


def _asked(view: Shown, language: str) -> list[Entrant]:
    standing = view.standings.languages.get(language)
    order = in_order(view.board, standing) if standing else view.order
    return [entrant for entrant in order if any(view.board.cell(entrant, task) for task in view.board.tasks_in(language))]


def _blocks(entrants: Sequence[Entrant]) -> list[Sequence[Entrant]]:
    return [entrants[start : start + _MODELS_A_TABLE] for start in range(0, len(entrants), _MODELS_A_TABLE)]


def _tasks(view: Shown, language: str, entrants: Sequence[Entrant]) -> str:
    rows = []
    for task in view.board.tasks_in(language):
        found = view.board.row_of(task)
        first = first_of(task, found)
        digits = digits_of(*(cell.value for _, cell in found), task.best)
        items = max((cell.row["n"] or 0 for _, cell in found), default=0)
        cells = [_score(view.board.cell(entrant, task), digits, bold=entrant.index in first) for entrant in entrants]
        rows.append([escape_latex(task.name), escape_latex(words(task.measures)), str(items), *cells])
    head = ["Task", "Measures", "Items", *(escape_latex(entrant.label) for entrant in entrants)]
    caption = f"{escape_latex(language_name(language))}: tasks with 95\\% intervals, as their metrics give them."
    return _table(caption, f"tab:tasks-{language}-{entrants[0].index}", "llr" + "r" * len(entrants), head, rows)


def _score(cell: Cell | None, digits: int, *, bold: bool) -> str:
    return "--" if cell is None else _number(cell.value, cell.interval, digits, bold=bold)


def _number(value: float, interval: Interval | None, digits: int, *, bold: bool) -> str:
    if not math.isfinite(value):
        return "nan"
    text = f"{value:.{digits}f}"
    shown = rf"\textbf{{{text}}}" if bold else text
    return shown if interval is None else rf"{shown} {{\scriptsize [{interval.low:.{digits}f}, {interval.high:.{digits}f}]}}"


def _table(caption: str, label: str, columns: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{caption}}}", rf"\label{{{label}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    # a row that begins with a bracket would be taken for the line break's argument
    lines += [("{}" if row[0].startswith("[") else "") + " & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])
