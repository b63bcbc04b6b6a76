"""Items of the tasks on varieties: acceptability, variety_choice, variety and peninsular.

As `items.py` beside it, this finds the files from its own place, builds data sets in memory, and imports nothing of IberLM:
plain `lm_eval --include_path eval` runs it. The harness calls each function with the task's metadata as keywords.

The right form stands first and second in turn, so that a model that scores both alike, or always picks the same place, gets
0.5 (the harness breaks ties in favour of the first choice).
"""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

EVAL = Path(__file__).resolve().parents[1]
SPLIT = "test"
ADDRESSED = ("addressed_peninsular", "addressed_american")


def acceptability(language: str, **_: Any) -> dict[str, Dataset]:
    """Grammatical against ungrammatical sentences: id, phenomenon, choices (2 strings), answer (index of the good one)."""
    rows = []
    for index, pair in enumerate(_read(language, "acceptability.jsonl")):
        choices, answer = _in_turn(index, pair["good"], pair["bad"])
        rows.append({"id": pair["id"], "phenomenon": pair["phenomenon"], "choices": choices, "answer": answer})
    return {SPLIT: Dataset.from_list(rows)}


def choice(language: str, **_: Any) -> dict[str, Dataset]:
    """One sentence with a form of either variety: id, pattern, choices (2 strings), answer (index of the one that fits)."""
    rows = []
    for index, item in enumerate(_read(language, "variety_choice.jsonl")):
        choices, answer = _in_turn(index, item["valencian"], item["central"])
        rows.append({"id": item["id"], "pattern": item["pattern"], "choices": choices, "answer": answer})
    return {SPLIT: Dataset.from_list(rows)}


def frames(language: str, **_: Any) -> dict[str, Dataset]:
    """Frames addressed in the language's variety: id, pattern, context, choices (2 strings), answer (index of its own form).

    The choices of a frame and their order are the same in `ca` and `ca-valencia`; the context and the answer differ.
    """
    own = {"ca-valencia": 0, "ca": 1}[language]
    rows = []
    for index, item in enumerate(_read(language, "variety.jsonl")):
        choices, first = _in_turn(index, item["valencian"], item["central"])
        rows.append({"id": item["id"], "pattern": item["pattern"], "context": item["context"], "choices": choices, "answer": first ^ own})
    return {SPLIT: Dataset.from_list(rows)}


def peninsular(language: str, **_: Any) -> dict[str, Dataset]:
    """Frames each addressed in Peninsular and in American Spanish: id, frame, pattern, addressed, context, choices, answer.

    The two items of a frame stand one after the other and share `frame` and the choices with their order. Answer: index of
    the form of the variety that is addressed.
    """
    rows = []
    for index, item in enumerate(_read(language, "peninsular.jsonl")):
        choices, first = _in_turn(index // 2, item["peninsular"], item["american"])
        own = ADDRESSED.index(item["addressed"])
        about = {name: item[name] for name in ("id", "frame", "pattern", "addressed", "context")}
        rows.append(about | {"choices": choices, "answer": first ^ own})
    return {SPLIT: Dataset.from_list(rows)}


def _in_turn(index: int, right: str, wrong: str) -> tuple[list[str], int]:
    """The two texts, the right one first where `index` is even, and the place of the right one."""
    return ([right, wrong], 0) if index % 2 == 0 else ([wrong, right], 1)


def _read(language: str, name: str) -> list[dict[str, Any]]:
    with (EVAL / language.replace("-", "_") / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
