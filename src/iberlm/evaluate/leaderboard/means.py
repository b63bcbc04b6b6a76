"""Means of a board: of each language over a fixed set of tasks, of what is measured, and of all languages; and the places that follow."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from iberlm.evaluate.catalogue import MEASURES
from iberlm.evaluate.leaderboard.board import Board, Entrant, Task, places
from iberlm.evaluate.statistics.aggregate import mean_of
from iberlm.evaluate.statistics.intervals import Interval


@dataclass(frozen=True)
class Mean:
    """The mean of an entrant's points over a fixed set of tasks, 0 for guessing and 100 for the best there can be."""

    interval: Interval
    tasks: int
    """That it has of the set; of the mean of all languages: languages that are complete."""
    of: int
    """How many the set has."""

    @property
    def complete(self) -> bool:
        """Whether it can be compared with other means of this set."""
        return self.tasks == self.of


@dataclass(frozen=True)
class Standing:
    """All means of one thing (a language, a measure in a language, everything), by entrant's index; entrants without any task of it are not there."""

    means: dict[int, Mean]
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Best and worst place among the entrants that have the whole set."""

    @property
    def ranked(self) -> int:
        """How many have a place."""
        return len(self.places)


@dataclass(frozen=True)
class Standings:
    """Everything that is averaged."""

    core: dict[str, list[Task]]
    """The fixed set of tasks of each language."""
    languages: dict[str, Standing]
    measures: dict[str, dict[str, Standing]]
    """By language and measure."""
    overall: Standing


def standings(board: Board) -> Standings:
    """Means and places of a board."""
    core = {language: _core(board, language) for language in board.languages}
    languages = {language: _standing(board, tasks) for language, tasks in core.items() if tasks}
    measures: dict[str, dict[str, Standing]] = {}
    for language, tasks in core.items():
        kinds = sorted({task.measures for task in tasks}, key=lambda name: MEASURES.index(name) if name in MEASURES else len(MEASURES))
        measures[language] = {kind: _standing(board, [task for task in tasks if task.measures == kind]) for kind in kinds}
    return Standings(core, languages, measures, _overall(board.entrants, languages))


def _core(board: Board, language: str) -> list[Task]:
    """Tasks over which a language's mean is taken: with a suite all of it that counts, else those that more than half of the entrants answered.

    So one model that was asked a task more does not make all others incomplete.
    """
    answered = {task.index: [entrant for entrant, cell in board.row_of(task) if cell.averaged] for task in board.tasks_in(language)}
    entrants = {entrant.index for found in answered.values() for entrant in found}
    least = 1 if board.suite else len(entrants) // 2 + 1
    return [task for task in board.tasks_in(language) if answered[task.index] and len(answered[task.index]) >= least]


def _standing(board: Board, tasks: list[Task]) -> Standing:
    means = {}
    for entrant in board.entrants:
        cells = [cell for task in tasks if (cell := board.cell(entrant, task)) is not None and cell.averaged]
        found = [cell.points for cell in cells if cell.points is not None]
        if found:
            means[entrant.index] = Mean(mean_of(found), len(found), len(tasks))
    return _placed(means)


def _overall(entrants: Iterable[Entrant], languages: dict[str, Standing]) -> Standing:
    """The plain mean of the languages' means: each language counts the same, however many tasks it has."""
    means = {}
    for entrant in entrants:
        found = [standing.means[entrant.index] for standing in languages.values() if entrant.index in standing.means]
        if found:
            whole = sum(mean.complete for mean in found)
            means[entrant.index] = Mean(mean_of([mean.interval for mean in found]), whole, len(languages))
    return _placed(means)


def _placed(means: dict[int, Mean]) -> Standing:
    whole = [index for index, mean in means.items() if mean.complete]
    found = places([means[index].interval for index in whole])
    return Standing(means, {index: place for index, place in zip(whole, found, strict=True) if place is not None})


def in_order(board: Board, standing: Standing) -> list[Entrant]:
    """Entrants as a table shows them at first: those with a place by their mean, then the incomplete ones, then those without any."""

    def key(entrant: Entrant) -> tuple[int, float, str]:
        mean = standing.means.get(entrant.index)
        return (2, 0.0, entrant.label) if mean is None else (0 if mean.complete else 1, -mean.interval.value, entrant.label)

    return sorted(board.entrants, key=key)
