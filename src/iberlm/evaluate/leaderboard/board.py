"""What a leaderboard shows: models as they were asked, tasks, and a cell wherever a model answered a task."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from iberlm.evaluate.statistics.aggregate import normalised
from iberlm.evaluate.statistics.intervals import Interval

Row = dict[str, Any]
SIZE_CLASSES = (("below 1 B", 1e9), ("1 to 4 B", 4e9), ("4 to 10 B", 1e10), ("10 to 40 B", 4e10), ("40 B and more", math.inf))
"""Names and upper ends of the sizes that the page filters by."""
UNKNOWN_SIZE = "size unknown"


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model as it was asked: the same weights in another number type, template or backend are another entrant."""

    index: int
    """Its place in `Board.entrants`, by which the page knows it."""
    model: str
    """SHA-256 of what it is."""
    name: str
    """As it was called, or renamed."""
    label: str
    """Short, and told apart from all others on the board."""
    parameters: int | None
    backend: str
    dtype: str
    template: str
    num_fewshot: int | None
    """Solved examples, where the board has this model with several numbers of them; else each cell says its own."""
    step: int | None = None

    @property
    def template_name(self) -> str:
        """The template in words."""
        if self.template == "none":
            return "no chat template"
        return "the server's chat template" if self.template == "server" else "chat template"

    @property
    def size_class(self) -> str:
        """One of `SIZE_CLASSES`, or `UNKNOWN_SIZE`."""
        if self.parameters is None:
            return UNKNOWN_SIZE
        return next(name for name, end in SIZE_CLASSES if self.parameters < end)

    @property
    def settings(self) -> str:
        """How it was asked, in a line."""
        shots = [] if self.num_fewshot is None else [f"{self.num_fewshot} shots"]
        step = [] if self.step is None else [f"step {self.step}"]
        template = [] if self.template == "none" else [self.template_name]
        return " · ".join([self.backend, self.dtype, *template, *shots, *step])


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of the board; what the results and the catalogue say of it."""

    index: int
    name: str
    family: str
    language: str
    measures: str
    metric: str
    chance: float | None
    best: float | None
    higher_is_better: bool | None
    dataset: str
    dataset_config: str
    revision: str
    licence: str
    licence_evidence: str
    synthetic: bool
    human_reviewed: bool | None

    @property
    def marks(self) -> list[str]:
        """What a reader of its numbers must know."""
        return (["synthetic"] if self.synthetic else []) + (["not human-reviewed"] if self.human_reviewed is False else [])

    @property
    def on_hub(self) -> bool:
        """Whether `dataset` names a data set of the Hugging Face hub."""
        return "/" in self.dataset


@dataclass(frozen=True)
class Cell:
    """A model's primary result of a task."""

    row: Row
    """Of `RESULT_SCHEMA`."""
    others: tuple[Row, ...] = ()
    """The same evaluation's rows of its groups and further metrics."""
    aside: str = ""
    """Why it is not compared: the model was asked other questions than most."""

    @property
    def value(self) -> float:
        """On the metric's own scale; NaN where it is not a number."""
        found = self.row["value"]
        return math.nan if found is None else float(found)

    @property
    def interval(self) -> Interval | None:
        """The value with its interval; None where it has none."""
        low, high = self.row["low"], self.row["high"]
        if low is None or high is None or not all(map(math.isfinite, (self.value, low, high))):
            return None
        return Interval(self.value, self.row["stderr"], low, high, self.row["n"] or 0, self.row["clusters"] or self.row["n"] or 0)

    @cached_property
    def points(self) -> Interval | None:
        """From 0 (chance) to 100 (best); None where the task has no such scale."""
        return points(self.interval, self.row["chance"], self.row["best"])

    @property
    def averaged(self) -> bool:
        """Whether it can count in a mean."""
        return bool(self.row["averaged"]) and self.points is not None and not self.aside

    @property
    def groups(self) -> list[Row]:
        """Rows of the task's groups (phenomena, subjects)."""
        return [row for row in self.others if row["group"] and row["primary"]]

    @property
    def metrics(self) -> list[Row]:
        """Rows of further metrics of the whole task."""
        return [row for row in self.others if not row["group"]]


def points(interval: Interval | None, chance: float | None, best: float | None) -> Interval | None:
    """An interval on the scale from chance (0) to best (100); None where there is no such scale."""
    if interval is None or chance is None or best is None or not (math.isfinite(chance) and math.isfinite(best)) or chance == best:
        return None
    return normalised(interval, chance, best)


@dataclass(frozen=True)
class Board:
    """A whole leaderboard."""

    title: str
    entrants: list[Entrant]
    tasks: list[Task]
    cells: dict[tuple[int, int], Cell]
    """By entrant's and task's index."""
    suspicions: list[str] = field(default_factory=list)
    """Sentences on models that may be one and the same."""
    suite: str = ""
    stores: tuple[str, ...] = ()

    @property
    def languages(self) -> list[str]:
        """Tags, in the order of the tasks."""
        return list(dict.fromkeys(task.language for task in self.tasks))

    def tasks_in(self, language: str) -> list[Task]:
        """The tasks of a language."""
        return [task for task in self.tasks if task.language == language]

    def cell(self, entrant: Entrant, task: Task) -> Cell | None:
        """Where the two meet; None where the task was not asked."""
        return self.cells.get((entrant.index, task.index))

    def row_of(self, task: Task, entrants: Iterable[Entrant] | None = None) -> list[tuple[Entrant, Cell]]:
        """All cells of a task."""
        return [(entrant, cell) for entrant in (self.entrants if entrants is None else entrants) if (cell := self.cell(entrant, task)) is not None]

    @property
    def newest(self) -> float | None:
        """When the newest result came, in seconds since 1970."""
        return max((cell.row["created"] for cell in self.cells.values() if cell.row["created"] is not None), default=None)

    @property
    def rows(self) -> list[Row]:
        """All result rows that are shown, primary ones first in each task."""
        return [row for task in self.tasks for _, cell in self.row_of(task) for row in (cell.row, *cell.others)]


def places(intervals: Sequence[Interval | None]) -> list[tuple[int, int] | None]:
    """The best and the worst place that each of several intervals may have: those that overlap are not ranked apart."""
    known = [interval for interval in intervals if interval is not None]
    found: list[tuple[int, int] | None] = []
    for interval in intervals:
        if interval is None:
            found.append(None)
            continue
        above = sum(other.low > interval.high for other in known)
        below = sum(other.high < interval.low for other in known)
        found.append((1 + above, len(known) - below))
    return found
