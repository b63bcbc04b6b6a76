"""Review of IberLM's own items by people: whose verdict on which item stands, and when a task counts as reviewed.

Verdicts lie in `eval/reviews/TASK.jsonl`, one line a (item, reviewer). Each names its item by the SHA-256 of the item's
record, so that an item that is changed loses its verdicts. Nothing heavy is imported here: the catalogue asks this module
for every task.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import sha256_json
from iberlm.core.resources import resource_dir

VERDICTS = ("good", "wrong_answer", "unnatural", "ambiguous", "offensive", "other")
"""What a reviewer can say of an item, once its right answer is shown."""
MIN_REVIEWERS = 2
"""So many reviewers must have called an item good."""


def items_file(task: str) -> Path:
    """The file with a task's items: `eval/LANG/FAMILY.jsonl` of the task `FAMILY_LANG`.

    Raises `ConfigError` for a task that has none: it is unknown, or not IberLM's own.
    """
    known = {f"{path.stem}_{path.parent.name}": path for path in sorted(resource_dir("eval").glob("*/*.jsonl")) if path.parent.name != "reviews"}
    if task in known:
        return known[task]
    close = difflib.get_close_matches(task, known, 1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    raise ConfigError(f"task '{task}' has no items of IberLM's own to review: {meant}Choose among {', '.join(known)}")


def read_items(task: str) -> dict[str, dict[str, Any]]:
    """The task's records by the hash that verdicts name them by, in the file's order."""
    return {item_hash(record): record for record in _read_lines(items_file(task))}


def item_hash(record: dict[str, Any]) -> str:
    """SHA-256 over a record of an items file: any change of its text, choices or answer gives another."""
    return sha256_json(record)


def reviews_file(task: str) -> Path:
    """Where the task's verdicts are kept; there is no such file before the first."""
    return resource_dir("eval") / "reviews" / f"{task}.jsonl"


def read_reviews(task: str) -> list[dict[str, Any]]:
    """All verdicts on a task that were recorded, also those on items that have changed since."""
    path = reviews_file(task)
    return _read_lines(path) if path.is_file() else []


def reviewed_share(task: str) -> float:
    """Share of a task's items that two people have approved, 0 to 1.

    An item is approved when at least `MIN_REVIEWERS` reviewers called it good as it stands now, and nobody's verdict on it
    says otherwise. Raises `ConfigError` for a task without items of IberLM's own.
    """
    items = read_items(task)
    return len(approved(items, read_reviews(task))) / len(items) if items else 0.0


def is_reviewed(task: str) -> bool:
    """Whether every item of a task is approved; False for a task that has no items of IberLM's own."""
    if not reviews_file(task).is_file():
        return False
    return reviewed_share(task) == 1.0


def approved(items: Iterable[str], reviews: Iterable[dict[str, Any]]) -> set[str]:
    """Of `items` (hashes) those that at least `MIN_REVIEWERS` reviewers called good, and none anything else."""
    verdicts: dict[str, dict[str, str]] = {}
    for review in reviews:
        verdicts.setdefault(review["item_hash"], {})[review["reviewer"]] = review["verdict"]
    good = {item for item, by in verdicts.items() if len(by) >= MIN_REVIEWERS and set(by.values()) == {"good"}}
    return good & set(items)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if line:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise CorruptError(f"{path}:{number}: not a line of JSON ({error.msg})") from error
    return records
