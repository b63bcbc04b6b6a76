"""Reviews of IberLM's own items by people: which verdicts there are, and when a task counts as reviewed.

Verdicts lie in `eval/reviews/TASK.ndjson`, one line an item and reviewer. Each names its item by the SHA-256 of the item's
record, so that an item that is changed has no verdicts until somebody reads it again. Nothing heavy is imported here: the
catalogue asks this module for every task.
"""

import datetime
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import sha256_json, write_text
from iberlm.core.resources import resource_dir

GOOD = "good"
VERDICTS = {
    GOOD: "nothing to mend",
    "wrong_answer": "the answer marked as right is not, or not the best",
    "unnatural": "a careful speaker would not put it so",
    "ambiguous": "more than one answer can be defended, or none",
    "offensive": "it would hurt or belittle somebody",
    "other": "something else, in the comment",
}
"""What a reviewer can say of an item, once its right answer is shown."""
MIN_REVIEWERS = 2
"""So many reviewers must have called an item good."""
FORMAT = "iberlm-review-1"
"""Of the files that the form saves."""
FIELDS = ("item", "item_hash", "parts", "choices", "key", "blind", "verdict", "answer", "correction", "comment", "reviewed_on")
"""Of a verdict in such a file; the lines of `eval/reviews` have `reviewer` besides.

`item` is the id of what was asked; `parts` how many questions the record of `item_hash` makes. `choices` is their number, `key`
the right one's place, `blind` the reviewer's before it was shown (null: could not tell), `answer` the one that should be right.
"""
_REVIEWER = re.compile(r"\w[\w .'@-]{0,59}")


def items_file(task: str) -> Path:
    """The file with a task's items: `eval/LANG/FAMILY.jsonl` of the task `FAMILY_LANG`.

    Raises `ConfigError` for a task that has none: it is unknown, or not IberLM's own.
    """
    known = _items_files()
    if task in known:
        return known[task]
    close = difflib.get_close_matches(task, known, 1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    raise ConfigError(f"task '{task}' has no items of IberLM's own that could be reviewed: {meant}choose among {', '.join(known)}")


@cache
def _items_files() -> dict[str, Path]:
    found = {f"{path.stem}_{path.parent.name}": path for path in sorted(resource_dir("eval").glob("*/*.jsonl"))}
    return {task: path for task, path in found.items() if path.with_name(f"{task}.yaml").is_file()}


def read_items(task: str) -> dict[str, dict[str, Any]]:
    """The task's records by the hash that verdicts name them by, in the file's order. Raises as `items_file`."""
    return {item_hash(record): record for record in _read_lines(items_file(task))}


def item_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 over a record of an items file: any change of its text, choices or answer gives another."""
    return sha256_json(record)


def reviews_file(task: str, folder: Path | None = None) -> Path:
    """Where the task's verdicts are kept, in `folder` (none: `eval/reviews`); there is no such file before the first.

    JSON lines, but not ending in `.jsonl`: decontamination takes such files below `eval/` for items, and comments are none.
    """
    return (folder or resource_dir("eval") / "reviews") / f"{task}.ndjson"


def read_reviews(task: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """All verdicts on a task that were recorded, also those on items that have changed since.

    Raises `CorruptError` for a file that is damaged.
    """
    path = reviews_file(task, folder)
    rows = _read_lines(path) if path.is_file() else []
    for number, row in enumerate(rows, 1):
        if problem := "no verdict" if not isinstance(row, dict) else _row_problem(row, {*FIELDS, "reviewer"}):
            raise CorruptError(f"{path}, verdict {number}: {problem}; restore the file from version control, or delete the line")
    return rows


def reviewed_share(task: str, folder: Path | None = None) -> float:
    """Share of a task's items that people have approved as they stand now, 0 to 1. See `approved`.

    Raises `ConfigError` for a task without items of IberLM's own.
    """
    items = read_items(task)
    return len(approved(items, read_reviews(task, folder))) / len(items) if items else 0.0


def is_reviewed(task: str, folder: Path | None = None) -> bool:
    """Whether every item of a task is approved; False for a task that has no items of IberLM's own."""
    return reviews_file(task, folder).is_file() and reviewed_share(task, folder) == 1.0


def approved(items: Iterable[str], reviews: Iterable[Mapping[str, Any]]) -> set[str]:
    """Of `items` (hashes) those that `MIN_REVIEWERS` reviewers called good, and nobody anything else.

    A record that is asked in several ways (`parts`) is approved when each of them is.
    """
    verdicts: dict[str, dict[str, dict[str, str]]] = {}
    parts: dict[str, int] = {}
    for review in reviews:
        verdicts.setdefault(review["item_hash"], {}).setdefault(review["item"], {})[review["reviewer"]] = review["verdict"]
        parts[review["item_hash"]] = review["parts"]

    def good(hashed: str) -> bool:
        asked = verdicts.get(hashed, {})
        return len(asked) == parts.get(hashed) and all(len(by) >= MIN_REVIEWERS and {*by.values()} == {GOOD} for by in asked.values())

    return {hashed for hashed in items if good(hashed)}


@dataclass(frozen=True)
class Recorded:
    """What became of the verdicts in some files."""

    new: int
    replaced: int
    """The same reviewer had said something else before."""
    unchanged: int
    stale: int
    """Their items have changed or are gone since the form was made; not recorded."""


def record(task: str, files: Iterable[Path], folder: Path | None = None) -> Recorded:
    """Check files that the form saved and add their verdicts to `eval/reviews/TASK.ndjson`, written anew as a whole.

    Of one reviewer's verdicts on an item the last one counts, by `reviewed_on` and then by the order of the files. Nothing is
    written when a file is not as it should be: `DataError` with what is wrong where. Raises `ConfigError` for an unknown task.
    """
    items = read_items(task)
    places = {hashed: place for place, hashed in enumerate(items)}
    known = {_key(row): row for row in read_reviews(task, folder)}
    new = replaced = unchanged = stale = 0
    for path in files:
        for row in read_verdicts(task, path):
            before = known.get(_key(row))
            if row["item_hash"] not in items:
                stale += 1
            elif before == row or (before and before["reviewed_on"] > row["reviewed_on"]):
                unchanged += 1
            else:
                new, replaced = (new, replaced + 1) if before else (new + 1, replaced)
                known[_key(row)] = row
    rows = sorted(known.values(), key=lambda row: (places.get(row["item_hash"], len(places)), row["item"], row["reviewer"]))
    if new or replaced:
        write_text(reviews_file(task, folder), "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
    return Recorded(new, replaced, unchanged, stale)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["item_hash"], row["item"], row["reviewer"]


def read_verdicts(task: str, path: Path) -> list[dict[str, Any]]:
    """The verdicts of a file that the form saved, each with its reviewer. Raises `DataError` for one that is not as it should be."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); give the file that the review form saved") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise DataError(f"{path}: is no file of verdicts: its format is {found!r}, not '{FORMAT}'; give the file that the review form saved")
    if content.get("task") != task:
        raise DataError(f"{path}: has verdicts on '{content.get('task')}', not on '{task}'; give that task: iberlm review-items {content.get('task')}")
    reviewer, verdicts = content.get("reviewer"), content.get("verdicts")
    if problem := reviewer_problem(reviewer):
        raise DataError(f"{path}: reviewer: {problem}")
    if not isinstance(verdicts, list) or not verdicts:
        raise DataError(f"{path}: has no verdicts; save the file again after the first one")
    for number, verdict in enumerate(verdicts, 1):
        if problem := "is no object" if not isinstance(verdict, dict) else _row_problem(verdict, {*FIELDS}):
            raise DataError(f"{path}: verdict {number}: {problem}; save the file again with the form")
    return [verdict | {"reviewer": reviewer} for verdict in verdicts]


def reviewer_problem(reviewer: object) -> str:
    """What is wrong with a reviewer's name; empty when nothing is."""
    if isinstance(reviewer, str) and _REVIEWER.fullmatch(reviewer):
        return ""
    return f"{reviewer!r} is no name: 1 to 60 letters, digits, spaces and . ' @ _ -, beginning with a letter or a digit; a pseudonym will do"


def _row_problem(row: Mapping[str, Any], fields: set[str]) -> str:
    if wrong := sorted(fields ^ {*row}):
        return f"'{wrong[0]}' is {'missing' if wrong[0] in fields else 'no field of a verdict'}"
    texts = ("item", "item_hash", "verdict", "correction", "comment", "reviewed_on")
    if wrong := [name for name in texts if not isinstance(row[name], str)]:
        return f"{wrong[0]} is {row[wrong[0]]!r}, not text"
    if row["verdict"] not in VERDICTS:
        return f"verdict is '{row['verdict']}'; choose among {', '.join(VERDICTS)}"
    if wrong := [name for name, least in (("parts", 1), ("choices", 0)) if type(row[name]) is not int or row[name] < least]:
        return f"{wrong[0]} is {row[wrong[0]]!r}, not a count"
    if (row["key"] is None) != (row["choices"] == 0):
        return f"key is {row['key']!r} with {row['choices']} choices; it is the place of the right one, null only where there are none"
    for name in ("key", "blind", "answer"):
        if row[name] is not None and not (type(row[name]) is int and 0 <= row[name] < row["choices"]):
            return f"{name} is {row[name]!r}, not the place of one of {row['choices']} choices nor null"
    try:
        datetime.date.fromisoformat(row["reviewed_on"])
    except ValueError:
        return f"reviewed_on is '{row['reviewed_on']}', not a date YYYY-MM-DD"
    return ""


def _read_lines(path: Path) -> list[Any]:
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
