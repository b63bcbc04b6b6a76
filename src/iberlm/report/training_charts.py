"""The charts of the section on training: curves over tokens or steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from iberlm.report.blocks import Chart
from iberlm.report.charts import DASHES, MARKERS, chart, legend
from iberlm.report.svg import COLOURS, language_colour
from iberlm.report.wording import decimal, language_name, line, listed, short_count

POINTS = 400
"""A curve is drawn with at most this many points."""
SMOOTHED = 60
"""Bins of a smoothed curve."""
LABEL_CHARACTERS = 18
"""Longer names of sources are cut in a chart."""
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))


@dataclass(frozen=True)
class Curve:
    """A quantity over training; x in tokens or steps."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """Every n-th point, so that at most `points` are drawn."""
    step = -(-len(curve.x) // points)
    return Curve(curve.x[::step], curve.y[::step])


def binned(curve: Curve, bins: int = SMOOTHED) -> Curve:
    """Means of neighbouring points, at most `bins` of them, so that a long curve can be read."""
    parts = min(bins, max(1, len(curve.x) // 2))
    return Curve(*(np.array([part.mean() for part in np.array_split(values, parts)]) for values in (curve.x, curve.y)))


def loss_curve(name: str, caption: str, unit: str, loss: Curve, rate: Curve | None, norm: Curve | None = None, skipped: Sequence[float] = ()) -> Chart:
    """Training loss (each step faint, the mean over bins strong) above the learning rate and the gradient norm.

    `skipped`: where steps were not applied; they are marked in the lowest panel.
    """
    panels = 1 + (rate is not None) + (norm is not None)

    def paint(figure: Figure, wide: bool) -> None:
        axes: list[Axes] = list(np.atleast_1d(figure.subplots(panels, 1, sharex=True, height_ratios=[3, *[1] * (panels - 1)])).flat)
        _smoothed(axes[0], loss, "Loss (nats a token)")
        axes[0].legend(loc="upper right", borderpad=0, handlelength=1.6)
        if rate is not None:
            thin = thinned(rate)
            axes[1].plot(thin.x, thin.y, color=COLOURS["ink"], linewidth=1.6)
            axes[1].set_title("Learning rate")
            axes[1].set_ylim(bottom=0)
            axes[1].yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
            axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        if norm is not None:
            _norm(axes[-1], norm)
        for place in skipped:
            axes[-1].axvline(place, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
        if len(skipped):
            heights = [1.0] * len(skipped)
            axes[-1].plot(skipped, heights, "x", color=COLOURS["ink"], markersize=7, markeredgewidth=2, transform=axes[-1].get_xaxis_transform(), clip_on=False)
        _finish(axes, unit, wide)

    smooth = binned(loss)
    label = f"Training loss from {decimal(smooth.y[0], 2)} to {decimal(smooth.y[-1], 2)} nats a token over {short_count(loss.x[-1])} {unit}."
    if norm is not None:
        label += f" Gradient norm: median {decimal(float(np.median(norm.y)), 2)}, largest {decimal(float(norm.y.max()), 2)}."
    if len(skipped):
        label += f" {len(skipped)} {'step was' if len(skipped) == 1 else 'steps were'} not applied."
    heights = {1: (240, 220), 2: (360, 340), 3: (460, 430)}[panels]
    return chart(name, caption, label, heights, paint)


def _smoothed(axes: Axes, curve: Curve, title: str) -> None:
    thin, smooth = thinned(curve), binned(curve)
    axes.plot(thin.x, thin.y, color=COLOURS["muted"], linewidth=1, alpha=0.5, label="each step")
    axes.plot(smooth.x, smooth.y, color=COLOURS["accent"], linewidth=2.2, label="mean of neighbours")
    axes.set_title(title)


def _norm(axes: Axes, norm: Curve) -> None:
    thin = thinned(norm)
    axes.plot(thin.x, thin.y, color=COLOURS["ink"], linewidth=1.2)
    axes.set_title("Gradient norm before clipping")
    lowest, highest = float(thin.y.min()), float(thin.y.max())
    if lowest > 0 and highest > 10 * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", size=0)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finish(axes: list[Axes], unit: str, wide: bool) -> None:
    """Grids, and the axis of tokens or steps below the last panel."""
    for panel in axes:
        panel.grid(axis="y")
        panel.margins(x=0.01)
    _count_axis(axes[-1], unit, 6 if wide else 4)


def _count_axis(axes: Axes, unit: str, ticks: int) -> None:
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))


def losses_by_language(unit: str, panels: dict[str, dict[str, Curve]]) -> Chart:
    """Training loss of each language, one panel each with the same axes, one line a source (means over bins; named where there are several)."""
    single = all(len(curves) == 1 for curves in panels.values())
    columns = {True: min(3, len(panels)), False: min(2 if single else 1, len(panels))}

    def paint(figure: Figure, wide: bool) -> None:
        grid = figure.subplots(-(-len(panels) // columns[wide]), columns[wide], sharex=True, sharey=True, squeeze=False)
        cells: list[Axes] = list(grid.flat)
        for axes, (tag, curves) in zip(cells, panels.items(), strict=False):
            for (name, curve), style in zip(curves.items(), LINE_STYLES, strict=False):
                smooth = binned(curve)
                axes.plot(smooth.x, smooth.y, color=language_colour(tag), linewidth=2, linestyle=style, label=line(name)[:LABEL_CHARACTERS])
            axes.set_title(language_name(tag))
            axes.grid(axis="y")
            axes.margins(x=0.02)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if len(curves) > 1:
                axes.legend(loc="upper right", borderpad=0, handlelength=2.4, labelspacing=0.25, fontsize=10)
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            _count_axis(axes, unit, 3)
        for number in range(len(panels), len(cells)):  # the panel above one that is not there is the lowest of its column
            cells[number - columns[wide]].tick_params(axis="x", labelbottom=True)
            cells[number - columns[wide]].set_xlabel(unit)

    said = []
    for tag, curves in panels.items():
        parts = [f"{line(name) + ' ' if len(curves) > 1 else ''}{decimal(binned(curve).y[-1], 2)}" for name, curve in curves.items()]
        said.append(f"{language_name(tag)} {listed(parts)}")
    label = f"Training loss by language over training. At the end, in nats a token: {'; '.join(said)}."
    heights = (50 + 150 * -(-len(panels) // columns[True]), 50 + 140 * -(-len(panels) // columns[False]))
    return chart("losses", "Training loss by language (nats a token)", label, heights, paint)


def validation_curves(unit: str, curves: dict[str, Curve]) -> Chart:
    """Validation bits per byte of each language over training."""

    def paint(figure: Figure, wide: bool) -> None:
        axes = figure.add_subplot()
        for tag, curve in curves.items():
            look: dict[str, Any] = {"color": language_colour(tag), "marker": MARKERS.get(tag, "o"), "linestyle": DASHES.get(tag, "-")}
            axes.plot(curve.x, curve.y, linewidth=1.8, markersize=5.5, label=language_name(tag), **look)
        axes.grid(axis="y")
        _count_axis(axes, unit, 6 if wide else 4)
        legend(figure, 5 if wide else 2)

    parts = [f"{language_name(tag)} from {decimal(curve.y[0], 2)} to {decimal(curve.y[-1], 2)}" for tag, curve in curves.items()]
    label = f"Validation bits per byte by language over training: {listed(parts)}."
    return chart("validation", "Validation bits per byte while training (lower is better)", label, (280, 300), paint)


def speed(unit: str, rate: Curve, wait: Curve | None) -> Chart:
    """Tokens a second, and the share of each step that was spent waiting for data."""
    panels = 1 + (wait is not None)

    def paint(figure: Figure, wide: bool) -> None:
        axes: list[Axes] = list(np.atleast_1d(figure.subplots(panels, 1, sharex=True, height_ratios=[2, 1][:panels])).flat)
        _smoothed(axes[0], rate, "Tokens a second")
        axes[0].legend(loc="lower right", borderpad=0, handlelength=1.6)
        axes[0].set_ylim(bottom=0)
        axes[0].yaxis.set_major_locator(MaxNLocator(4))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        if wait is not None:
            thin = thinned(wait)
            axes[1].plot(thin.x, 100 * thin.y, color=COLOURS["ink"], linewidth=1.2)
            axes[1].set_title("Waiting for data, share of the step")
            axes[1].set_ylim(0, max(1.0, math.ceil(100 * float(thin.y.max()))))
            axes[1].yaxis.set_major_locator(MaxNLocator(2))
            axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        _finish(axes, unit, wide)

    label = f"Tokens a second over training: median {short_count(float(np.median(rate.y)))}."
    if wait is not None:
        label += f" Share of a step spent waiting for data: median {decimal(100 * float(np.median(wait.y)), 2)} per cent."
    return chart("speed", "Speed", label, (300, 290) if wait is not None else (220, 210), paint)
