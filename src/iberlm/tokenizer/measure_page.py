"""The page of `measure-tokenizer`: the tables of the terminal, and two charts that show the tokenizers side by side."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from iberlm.core.languages import LANGUAGES, NAMES, file_safe
from iberlm.tokenizer.measure_command import FIT, content, costs, number, piece_rows, probe_rows, sets

MARKS = {
    "es": "M6 0A6 6 0 1 1 -6 0A6 6 0 1 1 6 0z",
    "ca": "M-5.5 -5.5H5.5V5.5H-5.5z",
    "ca-valencia": "M0 -7.5L7.5 0L0 7.5L-7.5 0z",
    "eu": "M0 -7L7 5.5H-7z",
    "gl": "M0 7L7 -5.5H-7z",
}
"""Path of each language's mark around the origin, in pixels: a circle, a square, a diamond, and triangles upwards and downwards."""
_TOUCHING = 2.5
"""Per cent of an axis within which marks lie on one another, on most screens."""
OTHER_MARK = "M-6 -1.5H-1.5V-6H1.5V-1.5H6V1.5H1.5V6H-1.5V1.5H-6z"
"""A cross, for languages that are shown beside."""


@dataclass(frozen=True)
class Dot:
    """A value on an axis: `x` in per cent of its length, `y` in per cent of the row's height."""

    tag: str
    x: str
    text: str
    mark: str
    y: int = 50


@dataclass(frozen=True)
class Row:
    """The dots of one tokenizer, the ends of the line under them, and what stands beside."""

    name: str
    dots: list[Dot]
    low: str
    high: str
    beside: str
    label: str


@dataclass(frozen=True)
class Panel:
    """Rows on one axis; `ticks` are (place in per cent, text)."""

    title: str
    tag: str
    rows: list[Row]
    ticks: list[tuple[str, str]]


def page(measured: Mapping[str, Any]) -> str:
    """One offline HTML file: nothing is fetched, nothing runs, all text is escaped. `measured` by name, as `measure_command` writes it."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found = next(iter(measured.values()))["parallel"]
    return environment.get_template("measure.html").render(
        content=content(measured),
        parity=parity_panel(measured),
        panels=language_panels(measured),
        compared=[NAMES[tag] for tag in found["languages"]],
        beside=[NAMES[tag] for tag in found["tokens"] if tag not in found["languages"]],
        cost=_cost_table(measured),
        sets=[(title, [_fit_table(by_name, *entry) for entry in FIT]) for title, by_name in sets(measured)],
        probes=probe_rows(measured),
        pieces=piece_rows(measured),
        examples=[(name, one["round_trip"]["example"]) for name, one in measured.items() if one["round_trip"]["example"]],
        unreachable=[(name, one["pieces"]["unreachable_examples"]) for name, one in measured.items() if one["pieces"]["unreachable_examples"]],
        tokenizers=[(name, one["kind"], one["path"]) for name, one in measured.items()],
        marks=[(tag, NAMES[tag], MARKS.get(tag, OTHER_MARK)) for tag in found["tokens"]],
        names=NAMES,
        ours=LANGUAGES,
        file_safe=file_safe,
    )


def parity_panel(measured: Mapping[str, Any]) -> Panel:
    """Tokens of the same content: a row a tokenizer, a mark a language. Far left is cheap, near together is fair."""
    every = [count for one in measured.values() for count in one["parallel"]["tokens"].values()]
    axis = Axis(every)
    rows = []
    for name, one in measured.items():
        tokens, compared = one["parallel"]["tokens"], one["parallel"]["languages"]
        dots = _apart([Dot(tag, axis.place(count), f"{NAMES[tag]} {count:,}", MARKS.get(tag, OTHER_MARK)) for tag, count in tokens.items()])
        ends = [tokens[tag] for tag in compared] or every
        label = f"{name}: tokens of the same content: {', '.join(dot.text for dot in dots)}."
        gini = one["parallel"]["gini"]
        rows.append(Row(name, dots, axis.place(min(ends)), axis.place(max(ends)), "" if gini is None else f"Gini {gini:.3f}", label))
    return Panel("Tokens of the same content", "", rows, axis.ticks(lambda value: f"{value:,.0f}"))


def _apart(dots: list[Dot]) -> list[Dot]:
    """Dots from left to right; those that would lie on one another are moved up and down."""
    ordered = sorted(dots, key=lambda dot: float(dot.x))
    runs: list[list[Dot]] = []
    for dot in ordered:
        if runs and float(dot.x) - float(runs[-1][-1].x) < _TOUCHING:
            runs[-1].append(dot)
        else:
            runs.append([dot])
    return [dot if len(run) == 1 else replace(dot, y=(28, 72)[index % 2]) for run in runs for index, dot in enumerate(run)]


def language_panels(measured: Mapping[str, Any]) -> list[Panel]:
    """Tokens a word: a panel a language, a row a tokenizer, all on one axis from 1."""
    fits = {name: one["parallel"]["tokens_per_word"] for name, one in measured.items()}
    axis = Axis([1.0, *(value for by_tag in fits.values() for value in by_tag.values())])
    panels = []
    for tag in dict.fromkeys(tag for by_tag in fits.values() for tag in by_tag):
        rows = []
        for name, by_tag in fits.items():
            if tag in by_tag:
                value = by_tag[tag]
                dot = Dot(tag, axis.place(value), f"{value:.2f}", MARKS.get(tag, OTHER_MARK))
                rows.append(Row(name, [dot], axis.place(1.0), dot.x, dot.text, f"{name}: {value:.2f} tokens a word in {NAMES[tag]}."))
        panels.append(Panel(NAMES[tag], tag, rows, axis.ticks(lambda value: f"{value:g}")))
    return panels


class Axis:
    """A linear axis from a little below the smallest value to a little above the largest."""

    MARGIN = 3.0
    """Per cent left free at each end, so that marks are whole."""

    def __init__(self, values: Iterable[float]) -> None:
        found = list(values)
        self.low, self.high = min(found), max(found)

    def place(self, value: float) -> str:
        """Place of a value in per cent of the axis."""
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return f"{self.MARGIN + share * (100 - 2 * self.MARGIN):.2f}"

    def ticks(self, write: Any) -> list[tuple[str, str]]:
        """About four round values with their places, as `write` puts them."""
        span = self.high - self.low
        if not span:
            return [(self.place(self.low), write(self.low))]
        power = 10.0 ** (len(f"{int(span / 4)}") - 1) if span >= 4 else 0.1
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20, 50) if span / (factor * power) <= 4)
        first = int(self.low / step) + (self.low % step > 0)
        return [(self.place(index * step), write(round(index * step, 6))) for index in range(first, int(self.high / step) + 1)]


Table = tuple[str, list[str], list[tuple[str, list[str]]]]
"""Caption, heads of the columns, and rows of a name and cells."""


def _fit_table(by_name: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str, words: str, digits: int) -> Table:
    tags = list(dict.fromkeys(tag for by_tag in by_name.values() for tag in by_tag))
    rows = [(name, [number(by_tag.get(tag, {}).get(key), digits) for tag in tags]) for name, by_tag in by_name.items()]
    return words.capitalize(), [NAMES[tag] for tag in tags], rows


def _cost_table(measured: Mapping[str, Any]) -> Table:
    tags = list(next(iter(measured.values()))["parallel"]["tokens"])
    rows = []
    for name, one in measured.items():
        parallel, relative = one["parallel"], costs(one)
        cells = [number(relative.get(tag), 3) for tag in tags]
        rows.append((name, [*cells, number(parallel["ratio"], 3), number(parallel["gini"], 4)]))
    return "Tokens of the same content, the cheapest of the languages compared = 1", [*(NAMES[tag] for tag in tags), "most / least", "Gini"], rows
