"""The charts of the report. Each is drawn twice, for wide and for narrow columns, and described in words.

A language has the same colour, marker and dash everywhere; no chart tells two things apart by colour alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from iberlm.report.blocks import Chart
from iberlm.report.reasons import reason_name
from iberlm.report.svg import COLOURS, language_colour, render
from iberlm.report.wording import counted_name, decimal, duration, language_name, line, listed, spoken, whole

WIDE, NARROW = 760, 328
MARKERS = {"es": "o", "ca": "s", "ca-valencia": "D", "eu": "^", "gl": "v"}
DASHES: dict[str, Any] = {"es": "-", "ca": (0, (6, 2)), "ca-valencia": (0, (2, 1.5)), "eu": (0, (8, 2, 2, 2)), "gl": (0, (4, 1.5, 1, 1.5, 1, 1.5))}
REASONS = 5
"""Reasons that the funnel's chart tells apart; the rest is one segment. The table has them all."""
HATCHES = ("", "////", "", "....", "", "xxxx")


def chart(name: str, caption: str, label: str, heights: tuple[int, int], paint: Callable[[Figure, bool], None]) -> Chart:
    """Draw `paint(figure, wide)` twice, at the heights for wide and narrow columns (CSS pixels)."""
    wide = render(f"{name}-w", label, WIDE, heights[0], lambda figure: paint(figure, True))
    narrow = render(f"{name}-n", label, NARROW, heights[1], lambda figure: paint(figure, False))
    return Chart(caption, label, wide, narrow)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a horizontal chart, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)


def legend(figure: Figure, columns: int, **more: Any) -> None:
    """One legend above all panels, from the names in the first: beside the row names, so that narrow charts have room."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    look = {"borderpad": 0, "columnspacing": 1.4, "handlelength": 1.8, "handletextpad": 0.5}
    figure.legend(handles, names, loc="outside upper left", ncols=columns, **look, **more)


def stage_times(rows: list[tuple[str, float, float]]) -> Chart:
    """Wall and CPU seconds of each stage (name, wall, CPU), thick and thin bars."""
    most = max(max(row[1], row[2]) for row in rows)
    factor, unit = (1, "s") if most < 120 else (60, "min") if most < 7200 else (3600, "h")

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        axes.barh(places - 0.12, [row[1] / factor for row in rows], 0.42, color=COLOURS["accent"], label="wall time")
        axes.barh(places + 0.24, [row[2] / factor for row in rows], 0.16, color=COLOURS["muted"], label="CPU time, all cores")
        for place, (_, wall, _) in enumerate(rows):
            axes.annotate(duration(wall), (wall / factor, place - 0.12), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10)
        _rows(axes, [row[0] for row in rows])
        axes.set_xlim(0, most / factor * (1.1 if wide else 1.25) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {unit}"))
        legend(figure, 2)

    longest = max(rows, key=lambda row: row[1])
    label = f"Bar chart of wall and CPU time by stage. The longest is {longest[0]} with {duration(longest[1])}."
    height = 60 + 30 * len(rows)
    return chart("times", "Where the time went", label, (height, height), paint)


def funnel(rows: list[tuple[str, int, dict[str, int]]]) -> Chart:
    """Documents of each language (tag, kept, dropped by reason), stacked."""
    totals: dict[str, int] = {}
    for _, _, dropped in rows:
        for reason, documents in dropped.items():
            totals[reason] = totals.get(reason, 0) + documents
    main = sorted(totals, key=lambda reason: (-totals[reason], reason))[:REASONS]

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        left = np.array([kept for _, kept, _ in rows], dtype=np.float64)
        axes.barh(range(len(rows)), left, 0.62, color=[language_colour(tag) for tag, _, _ in rows])
        for index, reason in enumerate([*main, ""]):
            width = np.array([_documents(dropped, reason, main) for _, _, dropped in rows], dtype=np.float64)
            if not width.any():
                continue
            name = reason_name(reason) if reason else "other reasons"
            fill = COLOURS[f"drop-{index + 1}"]
            axes.barh(range(len(rows)), width, 0.62, left=left, color=fill, hatch=HATCHES[index], edgecolor=COLOURS["card"], linewidth=1, label=name)
            left += width
        for place, (_, kept, _) in enumerate(rows):
            text = f"{whole(kept)} of {whole(left[place])} kept" if wide else f"{whole(kept)}/{whole(left[place])}"
            axes.annotate(text, (left[place], place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=10)
        _rows(axes, [counted_name(tag) for tag, _, _ in rows])
        axes.set_xlim(0, (max(left) or 1) * (1.2 if wide else 1.32))
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 3, integer=True))
        if totals:
            legend(figure, 3 if wide else 2, title="In colour: kept. In grey: dropped for", alignment="left", title_fontsize=10, fontsize=10)

    parts = [f"{counted_name(tag)} {whole(kept)} of {whole(kept + sum(dropped.values()))}" for tag, kept, dropped in rows]
    label = f"Stacked bars of documents by language. Kept: {listed(parts)}."
    legend_rows = -(-min(len(totals), REASONS + 1) // 3), -(-min(len(totals), REASONS + 1) // 2)
    heights = 70 + 34 * len(rows) + 18 * legend_rows[0], 70 + 34 * len(rows) + 18 * legend_rows[1]
    return chart("funnel", "Documents kept and dropped", label, heights, paint)


def _documents(dropped: dict[str, int], reason: str, main: list[str]) -> int:
    return dropped.get(reason, 0) if reason else sum(documents for name, documents in dropped.items() if name not in main)


def score_shares(curves: dict[str, list[float]]) -> Chart:
    """Shares of the documents of each language by equal parts of a score from 0 to 1."""

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        for tag, shares in curves.items():
            x = (np.arange(len(shares)) + 0.5) / len(shares)
            look: dict[str, Any] = {"color": language_colour(tag), "marker": MARKERS.get(tag, "o"), "linestyle": DASHES.get(tag, "-")}
            axes.plot(x, shares, linewidth=1.8, markersize=5.5, label=language_name(tag), **look)
        axes.grid(axis="y")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("quality score")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        legend(figure, 5 if wide else 2)

    said = [f"{language_name(tag)} {100 * sum(shares[len(shares) // 2 :]):.0f} %" for tag, shares in curves.items()]
    label = f"Share of the documents by quality score. In the upper half: {listed(said)}."
    return chart("quality", "Quality scores", label, (260, 300), paint)


def language_panels(name: str, caption: str, panels: list[tuple[str, dict[str, float], int]]) -> Chart:
    """Dots of a value by language, one panel a quantity (title, value by tag, decimals)."""
    tags = list(dict.fromkeys(tag for _, values, _ in panels for tag in values))

    def paint(figure: Figure, wide: bool) -> None:
        shape = (1, len(panels)) if wide else (len(panels), 1)
        for axes, (title, values, digits) in zip(np.atleast_1d(figure.subplots(*shape)).flat, panels, strict=True):
            highest = max(values.values(), default=0) or 1
            for place, tag in enumerate(tags):
                if tag in values:
                    axes.plot([0, values[tag]], [place, place], color=language_colour(tag), linewidth=3, alpha=0.45)
                    axes.plot(values[tag], place, MARKERS.get(tag, "o"), color=language_colour(tag), markersize=8)
                    text = decimal(values[tag], digits)
                    axes.annotate(text, (values[tag], place), xytext=(9, 0), textcoords="offset points", va="center", fontsize=10)
            _rows(axes, [language_name(tag) for tag in tags])
            if len(panels) > 1:
                axes.set_title(title)
            axes.set_xlim(0, highest * (1.2 if wide else 1.3))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))

    said = [f"{title}: {listed(f'{language_name(tag)} {decimal(value, digits)}' for tag, value in values.items())}." for title, values, digits in panels]
    height = 60 + 28 * len(tags)
    return chart(name, caption, " ".join(said), (height, height * len(panels)), paint)


def same_content(rows: list[tuple[str, dict[str, float]]], compared: Sequence[str]) -> Chart:
    """Tokens of the same content: a row a tokenizer (name, tokens by tag), a mark a language, a line over those that are compared."""
    tags = list(dict.fromkeys(tag for _, tokens in rows for tag in tokens))
    every = [value for _, tokens in rows for value in tokens.values()]

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        for place, (name, tokens) in enumerate(rows):
            ends = [value for tag, value in tokens.items() if tag in compared] or [*tokens.values()]
            axes.plot([min(ends), max(ends)], [place, place], color=COLOURS["muted"], linewidth=2, alpha=0.5)
            for tag, value in tokens.items():
                look: dict[str, Any] = {"color": language_colour(tag), "markersize": 9, "markeredgecolor": COLOURS["card"], "linestyle": "none"}
                axes.plot(value, place, MARKERS.get(tag, "P"), label=language_name(tag) if place == 0 else None, **look)
            if not wide:  # above the marks: beside them there is no room
                axes.text(0, place - 0.3, name, transform=axes.get_yaxis_transform(), va="bottom", fontsize=10, color=COLOURS["ink"])
        _rows(axes, [name if wide else "" for name, _ in rows])
        axes.set_ylim(len(rows) - 0.45, -0.75)
        margin = 0.06 * (max(every) - min(every)) or 1
        axes.set_xlim(min(every) - margin, max(every) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6 if wide else 4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("tokens of the same content")
        legend(figure, 6 if wide else 3)

    said = [f"{name}: {listed(f'{language_name(tag)} {whole(tokens[tag])}' for tag in tags if tag in tokens)}." for name, tokens in rows]
    return chart("cost", "What the same content costs", " ".join(said), (80 + 30 * len(rows), 110 + 46 * len(rows)), paint)


def against_baseline(rows: list[tuple[str, float, float]]) -> Chart:
    """Model beside unigram baseline in bits per byte (tag, baseline, model)."""

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        for place, (tag, baseline, model) in enumerate(rows):
            axes.plot([baseline, model], [place, place], color=language_colour(tag), linewidth=3, alpha=0.45)
            axes.plot(baseline, place, "|", color=COLOURS["ink"], markersize=17, markeredgewidth=2.5, label="unigram baseline" if place == 0 else None)
            axes.plot(model, place, MARKERS.get(tag, "o"), color=language_colour(tag), markersize=9)
        axes.plot([], [], "o", color=COLOURS["muted"], markersize=8, label="model")
        _rows(axes, [language_name(row[0]) for row in rows])
        lowest, highest = min(min(row[1:]) for row in rows), max(max(row[1:]) for row in rows)
        margin = 0.15 * (highest - lowest) or 0.1
        axes.set_xlim(lowest - margin, highest + margin)
        axes.xaxis.set_major_locator(MaxNLocator(7 if wide else 4))
        axes.set_xlabel("bits per byte, lower is better")
        legend(figure, 2)

    parts = [f"{language_name(tag)} {decimal(model, 2)} against {decimal(baseline, 2)}" for tag, baseline, model in rows]
    label = f"Bits per byte of the model against the unigram baseline: {listed(parts)}."
    height = 90 + 30 * len(rows)
    return chart("baseline", "The model against word frequencies alone", label, (height, height), paint)


@dataclass(frozen=True)
class Score:
    """A measured value with the ends of its interval, which are the value itself where it has none."""

    value: float
    low: float
    high: float


def accuracies(families: list[tuple[str, float | None, dict[str, tuple[Score | None, Score | None]]]]) -> Chart:
    """Accuracy by language, one panel a task family (name, chance, (base, fine-tuned) by tag), with its interval."""
    tags = list(dict.fromkeys(tag for _, _, scores in families for tag in scores))

    def paint(figure: Figure, wide: bool) -> None:
        shape = (1, len(families)) if wide else (len(families), 1)
        for axes, (family, chance, scores) in zip(np.atleast_1d(figure.subplots(*shape)).flat, families, strict=True):
            if chance is not None:
                axes.axvline(chance, color=COLOURS["ink"], linewidth=1.5, linestyle=(0, (4, 3)), label="chance")
            for place, tag in enumerate(tags):
                for score, shift, fill in zip(scores.get(tag, (None, None)), (-0.15, 0.15), (COLOURS["card"], language_colour(tag)), strict=True):
                    if score is not None:
                        look: dict[str, Any] = {"fmt": MARKERS.get(tag, "o"), "color": language_colour(tag), "markerfacecolor": fill}
                        ends = [[max(0.0, score.value - score.low)], [max(0.0, score.high - score.value)]]
                        axes.errorbar(score.value, place + shift, xerr=ends, markersize=7, markeredgewidth=1.8, elinewidth=1.6, **look)
            axes.plot([], [], "o", color=COLOURS["muted"], markerfacecolor=COLOURS["card"], markeredgewidth=1.8, label="base")
            axes.plot([], [], "o", color=COLOURS["muted"], label="fine-tuned")
            _rows(axes, [language_name(tag) for tag in tags])
            axes.set_xlim(0, 1)
            axes.set_title(spoken(family).capitalize())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        legend(figure, 3)

    said = "; ".join(f"{spoken(family)}: {listed(_said(tag, pair) for tag, pair in scores.items())}" for family, _, scores in families)
    height = 60 + 36 * len(tags)
    heights = 24 + height, 24 + height * len(families)
    return chart("accuracy", "Accuracy with 95% intervals, beside chance", f"Accuracy by language. {said}.", heights, paint)


def _said(tag: str, pair: tuple[Score | None, Score | None]) -> str:
    base, tuned = (line(decimal(100 * score.value, 0)) + " %" if score else None for score in pair)
    parts = [text for text in (base and f"{base} base", tuned and f"{tuned} fine-tuned") if text]
    return f"{language_name(tag)} {listed(parts)}"
