"""Marks and drawings of the leaderboard as SVG: whiskers in tables, markers of models, radar plots. Colours are the page's variables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from iberlm.evaluate.statistics.intervals import Interval

COLOURS = 8
"""Classes m0 to m7 of the style sheet."""
SHAPES = (
    "M0 -4.4A4.4 4.4 0 1 1 0 4.4A4.4 4.4 0 1 1 0 -4.4Z",  # circle
    "M-3.9 -3.9H3.9V3.9H-3.9Z",  # square
    "M0 -5.2L5.2 0L0 5.2L-5.2 0Z",  # diamond
    "M0 -5L5 4H-5Z",  # triangle
    "M0 5L-5 -4H5Z",  # triangle, point down
    "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z",  # plus
    "M0 -5.4L1.6 -1.7L5.3 -1.6L2.4 0.9L3.3 4.6L0 2.5L-3.3 4.6L-2.4 0.9L-5.3 -1.6L-1.6 -1.7Z",  # star
    "M-2.5 -4.4H2.5L5 0L2.5 4.4H-2.5L-5 0Z",  # hexagon
)
_WHISKER_WIDTH = 64.0
_RADAR = 100.0
"""Radius of the outermost ring, in units of the drawing."""


@dataclass(frozen=True)
class Look:
    """Colour and shape of an entrant: different for the first 64."""

    number: int

    @property
    def colour(self) -> int:
        """Number of its class."""
        return self.number % COLOURS

    @property
    def path(self) -> str:
        """Outline of its marker around 0, 0."""
        return SHAPES[(self.number + self.number // COLOURS) % len(SHAPES)]

    @property
    def marker(self) -> Markup:
        """The marker as a small drawing in a line of text."""
        return Markup('<svg class="mark m{}" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{}"/></svg>').format(self.colour, self.path)


@dataclass(frozen=True)
class Scale:
    """From values to 0..1; what lies outside is drawn at the end."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        width = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / width)) if width > 0 else 0.5


POINTS = Scale(0.0, 100.0)


def whisker(interval: Interval | None, scale: Scale) -> Markup:
    """An interval as a line with a dot at the value, for a cell of a table; the numbers stand beside it."""
    if interval is None:
        return Markup("")
    low, value, high = (2 + (_WHISKER_WIDTH - 4) * scale.at(end) for end in (interval.low, interval.value, interval.high))
    return Markup(
        '<svg class="whisker" viewBox="0 0 64 12" aria-hidden="true"><path class="axis" d="M2 6H62"/>'
        '<path d="M{:.1f} 6H{:.1f}"/><circle cx="{:.1f}" cy="6" r="3"/></svg>'
    ).format(low, high, value)


def scale_of(intervals: Sequence[Interval | None], values: Sequence[float]) -> Scale:
    """The range of values and intervals with a little air, for a task without a scale from chance to best."""
    ends = [end for interval in intervals if interval for end in (interval.low, interval.high)] + [value for value in values if math.isfinite(value)]
    if not ends:
        return Scale(0.0, 1.0)
    air = 0.06 * (max(ends) - min(ends)) or abs(ends[0]) * 0.06 or 1.0
    return Scale(min(ends) - air, max(ends) + air)


@dataclass(frozen=True)
class Spoke:
    """One entrant's points on all axes of a radar plot; None where it has none."""

    entrant: int
    look: Look
    points: list[float | None]


def radar(axes: Sequence[str], spokes: Sequence[Spoke], label: str) -> Markup:
    """A radar plot with rings at 25, 50, 75 and 100 points; below 0 is drawn at the middle. An entrant without a value on an axis has no line there."""
    turn = [2 * math.pi * index / len(axes) - math.pi / 2 for index in range(len(axes))]

    def place(axis: int, value: float) -> tuple[float, float]:
        radius = _RADAR * min(1.0, max(0.0, value / 100.0))
        return radius * math.cos(turn[axis]), radius * math.sin(turn[axis])

    rings = Markup("").join(
        Markup('<path class="ring" d="{}"/>').format(_closed([place(axis, value) for axis in range(len(axes))])) for value in (25, 50, 75, 100)
    )
    beams = Markup("").join(Markup('<path class="ring" d="M0 0L{:.1f} {:.1f}"/>').format(*place(axis, 100)) for axis in range(len(axes)))
    names = Markup("").join(_axis_name(name, angle) for name, angle in zip(axes, turn, strict=True))
    lines = Markup("").join(_spoke(spoke, place) for spoke in spokes)
    # each ring says its value beside the first axis
    values = Markup("").join(Markup('<text class="tick" x="3" y="{:.1f}">{}</text>').format(-_RADAR * value / 100 + 9, value) for value in (50, 100))
    return Markup('<svg class="radar" viewBox="-190 -128 380 256" role="img" aria-label="{}">{}{}{}{}{}</svg>').format(
        label, rings, beams, values, names, lines
    )


def _closed(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _axis_name(name: str, angle: float) -> Markup:
    x, y = 110 * math.cos(angle), 110 * math.sin(angle)
    anchor = "middle" if abs(x) < 20 else "start" if x > 0 else "end"
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y + 4, anchor, name)


def _spoke(spoke: Spoke, place: Callable[[int, float], tuple[float, float]]) -> Markup:
    at = [None if value is None else place(axis, value) for axis, value in enumerate(spoke.points)]
    whole = [point for point in at if point is not None]
    if len(whole) == len(at):
        outline = _closed(whole)
    else:
        pairs = [(first, second) for first, second in zip(at, at[1:] + at[:1], strict=True) if first is not None and second is not None]
        outline = "".join(f"M{first[0]:.1f} {first[1]:.1f}L{second[0]:.1f} {second[1]:.1f}" for first, second in pairs)
    mark = Markup('<path class="at" d="{}" transform="translate({:.1f} {:.1f}) scale(0.8)"/>')
    marks = Markup("").join(mark.format(spoke.look.path, *point) for point in whole)
    kind = "area" if len(whole) == len(at) else "open"
    return Markup('<g data-e="{}" class="m{}"><path class="{}" d="{}"/>{}</g>').format(spoke.entrant, spoke.look.colour, kind, outline, marks)
