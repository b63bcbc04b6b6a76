"""The page of a calibration: what each rule would drop, and the distribution behind each limit, the languages side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from iberlm.core.languages import NAMES
from iberlm.curate.calibrate import GUARDS, Calibration
from iberlm.curate.rules import RULES

WIDTH, HEIGHT = 200, 56
"""Of a histogram, in units of its drawing."""
BINS = 40
_SHOWN = (0.0005, 0.9995)
"""Quantiles between which values are drawn; what lies outside is in the first and last bar."""
GUARD_WORDS = {"strict": "held by the strict guard", "loose": "held by the loose guard"}


@dataclass(frozen=True)
class Panel:
    """The histogram of one statistic in one language, as path data of an SVG."""

    language: str
    kept: str
    dropped: str
    limit_x: float
    guards_x: list[float]
    value: str
    share: str
    guard: str
    label: str


@dataclass(frozen=True)
class Row:
    """One limit: its name, what lies at the ends of the axis, a panel a language."""

    name: str
    side: str
    low: str
    high: str
    panels: list[Panel]


def page(calibrations: list[Calibration], share: float, sample: str) -> str:
    """One offline HTML file: nothing is fetched, nothing runs, all text is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rules = [(rule.__name__, (rule.__doc__ or "").strip(), [found.dropped[rule.__name__] for found in calibrations]) for rule in RULES]
    return environment.get_template("calibration.html").render(
        calibrations=calibrations,
        sample=sample,
        share=f"{100 * share:.3g} %",
        rules=rules,
        rows=[_row(name, calibrations) for name in GUARDS],
        names=NAMES,
        percent=percent,
        width=WIDTH,
        height=HEIGHT,
    )


def percent(value: float) -> str:
    """A share as people read it."""
    return "0" if not value else "< 0.01 %" if value < 0.0001 else f"{100 * value:.2f} %"


def _row(name: str, calibrations: list[Calibration]) -> Row:
    side, statistic = name.split("_", 1)
    ends = [np.quantile(_whole(found, statistic), _SHOWN) for found in calibrations]
    limits = [getattr(found.limits, name) for found in calibrations]
    low, high = min(GUARDS[name][0], *limits, *(end[0] for end in ends)), max(GUARDS[name][0], *limits, *(end[1] for end in ends))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    panels = [_panel(name, found, edges) for found in calibrations]
    return Row(name, "at least" if side == "min" else "at most", f"{edges[0]:.3g}", f"{edges[-1]:.3g}", panels)


def _whole(found: Calibration, statistic: str) -> npt.NDArray[Any]:
    """The values of the documents that the limits were learnt from: fragments apart."""
    values: npt.NDArray[Any] = found.columns[statistic][found.columns["words"] >= found.limits.min_words]
    return values


def _panel(name: str, found: Calibration, edges: npt.NDArray[np.float64]) -> Panel:
    side, statistic = name.split("_", 1)
    limit = getattr(found.limits, name)
    values = _whole(found, statistic)
    beyond = values < limit if side == "min" else values > limit
    inside = np.clip(values, edges[0], edges[-1])
    counts, lost = np.histogram(inside, edges)[0], np.histogram(inside[beyond], edges)[0]
    most = np.log1p(max(1, int(counts.max())))
    all_heights, lost_heights = np.log1p(counts) / most, np.log1p(lost) / most
    reached = f"{found.beyond[name]:.2%} of the documents are beyond it"
    label = f"{NAMES[found.language]}: distribution of {statistic}; the limit is {'at least' if side == 'min' else 'at most'} {limit:g}, and {reached}."

    def place(value: float) -> float:
        return round(float((value - edges[0]) / (edges[-1] - edges[0])) * WIDTH, 1)

    guards = [place(value) for value in GUARDS[name] if edges[0] <= value <= edges[-1]]
    return Panel(
        found.language,
        _bars(all_heights),
        _bars(lost_heights),
        place(limit),
        guards,
        f"{limit:.3f}".rstrip("0").rstrip("."),
        percent(found.beyond[name]),
        GUARD_WORDS.get(found.guarded.get(name, ""), ""),
        label,
    )


def _bars(heights: npt.NDArray[np.float64]) -> str:
    """Path data of bars of the given heights (0..1)."""
    step = WIDTH / BINS
    return "".join(
        f"M{number * step:g} {HEIGHT}v{-max(1.0, height * HEIGHT):.1f}h{step - 0.6:g}V{HEIGHT}z" for number, height in enumerate(heights) if height > 0
    )
