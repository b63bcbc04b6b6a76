"""Does a model keep to the variety in which it is addressed, or does it prefer one whatever it is addressed in?

The tasks `variety_ca` and `variety_ca_valencia` ask the same frames, addressed in Central Catalan and in Valencian, and
`peninsular_es` asks each of its frames in Peninsular and in American Spanish. One score alone does not tell keeping from
preferring: a model that always takes the Central form has 1.0 on `variety_ca`. Counted by frame the two can be told.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from iberlm.core.errors import DataError

ADDRESSED_PENINSULAR, ADDRESSED_AMERICAN = "addressed_peninsular", "addressed_american"


def preference(items_ca: Iterable[Mapping[str, Any]], items_va: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a model does with the frames of `variety_ca` and `variety_ca_valencia`: rows of the result store with `id`, `score`, `group`.

    Gives `frames` (asked in both), `counts` and `shares` of four kinds, which add up to `frames` and to 1: `kept` (the form
    of the variety addressed, in both), `central` and `valencian` (this form in both), `contrary` (in both the form of the variety not
    addressed); `unpaired`, items whose frame was asked in one variety only; and `patterns`, {pattern: {frames, counts, shares}}.
    A model that does not look at the context has 0 kept frames and 0 contrary ones; one that guesses has a quarter of each.
    Raises `DataError` when no frame was asked in both, an id comes twice, or a score is neither 0 nor 1.
    """
    return _preference(_by_frame(items_ca, "variety_ca"), _by_frame(items_va, "variety_ca_valencia"), ("central", "valencian"))


def spanish_preference(items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """As `preference`, of the rows of `peninsular_es`: `kept`, `peninsular`, `american` and `contrary`; no patterns."""
    addressed: dict[str, list[dict[str, Any]]] = {ADDRESSED_PENINSULAR: [], ADDRESSED_AMERICAN: []}
    for row in items:
        if row["group"] not in addressed:
            raise DataError(f"peninsular_es, item {row['id']}: group '{row['group']}' is not among {', '.join(addressed)}")
        addressed[row["group"]].append({"id": row["id"].rpartition(":")[0], "score": row["score"], "group": ""})
    first, second = (_by_frame(rows, f"peninsular_es, {name}") for name, rows in addressed.items())
    found = _preference(first, second, ("peninsular", "american"))
    del found["patterns"]
    return found


def _by_frame(items: Iterable[Mapping[str, Any]], task: str) -> dict[str, tuple[str, bool]]:
    """Pattern and whether the form of the variety addressed was taken, by frame."""
    frames: dict[str, tuple[str, bool]] = {}
    for row in items:
        if row["id"] in frames:
            raise DataError(f"{task}: item {row['id']} comes twice; give the rows of one model and one version of the task")
        if row["score"] not in (0, 1):
            raise DataError(f"{task}: item {row['id']} has the score {row['score']}; it must be 0 or 1, from the metric acc")
        frames[row["id"]] = (row["group"] or "", bool(row["score"]))
    return frames


def _preference(first: dict[str, tuple[str, bool]], second: dict[str, tuple[str, bool]], names: tuple[str, str]) -> dict[str, Any]:
    both = [frame for frame in first if frame in second]
    if not both:
        raise DataError(
            f"no frame was asked in both varieties ({len(first)} in {names[0]}, {len(second)} in {names[1]}): evaluate both tasks on the same items"
        )
    patterns = [first[frame][0] for frame in both]
    right = np.array([[first[frame][1], second[frame][1]] for frame in both])
    return {
        **_shares(right, names),
        "unpaired": len(first) + len(second) - 2 * len(both),
        "patterns": {name: _shares(right[[pattern == name for pattern in patterns]], names) for name in dict.fromkeys(patterns)},
    }


def _shares(right: np.ndarray[Any, np.dtype[np.bool_]], names: tuple[str, str]) -> dict[str, Any]:
    """Counts and shares of the four kinds; `right`, shape (frames, 2): the form of the variety addressed was taken."""
    first, second = right.T
    kinds = {"kept": first & second, names[0]: first & ~second, names[1]: ~first & second, "contrary": ~first & ~second}
    counts = {kind: int(mask.sum()) for kind, mask in kinds.items()}
    return {"frames": len(right), "counts": counts, "shares": {kind: count / len(right) for kind, count in counts.items()}}
