"""Scores of several tasks as one: on a scale from chance to the best there can be, and their mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from iberlm.core.errors import DataError
from iberlm.evaluate.statistics.intervals import Interval

POINTS = 100.0


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """A task's result on the metric's own scale, and what its ends are: guessing and the best there can be."""

    task: str
    interval: Interval
    chance: float
    best: float
    higher_is_better: bool = True

    @property
    def points(self) -> Interval:
        """The result in points from 0 (chance) to 100 (best). Raises `DataError` when chance is no worse than best."""
        if (self.best - self.chance) * (1 if self.higher_is_better else -1) <= 0:
            raise DataError(f"{self.task}: chance {self.chance} is not worse than best {self.best}; mend them in the catalogue of tasks")
        return normalised(self.interval, self.chance, self.best)


def normalised(interval: Interval, chance: float, best: float) -> Interval:
    """100 (value - chance) / (best - chance), of the value, its error and its ends (normalised preferred metric, as IberoBench and Latxa report it).

    Below 0 is worse than guessing. Where lower is better, `best` is below `chance`. Raises `DataError` when the two are equal.
    """
    if best == chance or not (math.isfinite(best) and math.isfinite(chance)):
        raise DataError(f"a score cannot be normalised between chance {chance} and best {best}")
    slope = POINTS / (best - chance)
    return interval.mapped(lambda score: slope * (score - chance), slope)


def language_mean(tasks: Sequence[Normalised]) -> Interval:
    """The plain mean of the tasks' points, with an interval for other items of the same tasks.

    The tasks are fixed, and their errors independent: variances add. Each end is as far from the mean as the root of the
    tasks' squared distances (MOVER: Zou and Donner, Statistics in Medicine 27, 2008), so that lopsided intervals stay so.
    `n` and `clusters` are sums. Raises `DataError` without tasks.
    """
    return mean_of([task.points for task in tasks])


def mean_of(intervals: Sequence[Interval]) -> Interval:
    """The plain mean of independent values and its interval; see `language_mean`."""
    if not intervals:
        raise DataError("a mean of tasks needs at least one task")
    k = len(intervals)
    value = sum(interval.value for interval in intervals) / k
    errors = [interval.stderr for interval in intervals if interval.stderr is not None]
    below = math.sqrt(sum((interval.value - interval.low) ** 2 for interval in intervals)) / k
    above = math.sqrt(sum((interval.high - interval.value) ** 2 for interval in intervals)) / k
    return replace(
        intervals[0],
        value=value,
        stderr=math.sqrt(sum(error**2 for error in errors)) / k if len(errors) == k else None,
        low=value - below,
        high=value + above,
        n=sum(interval.n for interval in intervals),
        clusters=sum(interval.clusters for interval in intervals),
    )
