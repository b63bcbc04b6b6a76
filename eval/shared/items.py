"""Items of IberLM's own tasks, for the `custom_dataset: !function` entries of the task files in this folder.

The harness resolves a relative data file against the current folder, so the files are found from this module instead:
the tasks work from any folder, in a clone and in an installed wheel, with `iberlm evaluate` and with plain
`lm_eval --include_path eval`. For that reason nothing of IberLM is imported here. Data sets are built in memory; no
cache is written.

The harness calls each function with the task's metadata (and those of the command line) as keywords.
"""

import json
import os
from pathlib import Path
from typing import Any

from datasets import Dataset

EVAL = Path(__file__).resolve().parents[1]
VALIDATION_VARIABLE = "IBERLM_VALIDATION"
SPLIT = "test"


def minimal_pairs(language: str, **_: Any) -> dict[str, Dataset]:
    """Pairs of sentences as two choices: id, phenomenon, choices (2 strings), answer (index of the good one).

    The good sentence stands first and second in turn: a model that scores both alike, or always picks the same place,
    gets 0.5 (the harness breaks ties in favour of the first choice).
    """
    rows = []
    for index, pair in enumerate(_read(language, "minimal_pairs.jsonl")):
        answer = index % 2
        choices = [pair["good"], pair["bad"]] if answer == 0 else [pair["bad"], pair["good"]]
        rows.append({"id": pair["id"], "phenomenon": pair["phenomenon"], "choices": choices, "answer": answer})
    return {SPLIT: Dataset.from_list(rows)}


def reading(language: str, **_: Any) -> dict[str, Dataset]:
    """Questions on a passage: id, passage, question, choices (4 strings), answer (index of the right one).

    Where several questions share a passage they also share a `passage_id`.
    """
    return {SPLIT: Dataset.from_list(_read(language, "reading.jsonl"))}


def commonsense(language: str, **_: Any) -> dict[str, Dataset]:
    """Causes and effects: id, pair_id, premise, question ("causa" or "efecte"), choices (2 continuations), answer (index of the right one).

    The two items of a `pair_id` have the same choices in the same order, and different answers.
    """
    return {SPLIT: Dataset.from_list(_read(language, "commonsense.jsonl"))}


def validation_documents(language: str, validation: str | None = None, **_: Any) -> dict[str, Dataset]:
    """Validation documents of a run: id, text, in the file's order, without empty texts.

    `validation` (metadata, e.g. `lm_eval --metadata validation=FOLDER`) or the environment variable IBERLM_VALIDATION
    names the folder that `iberlm curate` wrote. Raises `ValueError` when neither is set or the language has no
    documents, `FileNotFoundError` when the folder has no file for it.
    """
    import pyarrow.parquet as pq

    folder = validation or os.environ.get(VALIDATION_VARIABLE)
    if not folder:
        raise ValueError(f"bits per byte needs validation documents: set {VALIDATION_VARIABLE} to the 'curate' folder of a run")
    table = pq.read_table(validation_file(Path(folder), language), columns=["id", "text"])
    rows = [row for row in table.to_pylist() if row["text"]]
    if not rows:
        raise ValueError(f"{folder}: no validation documents in '{language}', so its bits per byte cannot be measured")
    return {SPLIT: Dataset.from_list(rows)}


def validation_file(folder: Path, language: str) -> Path:
    """The language's Parquet file in a curated folder or in its subfolder `documents`."""
    name = f"validation.{_file_safe(language)}.parquet"
    for path in (folder / name, folder / "documents" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: no {name} here nor in its subfolder 'documents'; give the 'curate' folder of a run")


def _read(language: str, name: str) -> list[dict[str, Any]]:
    with (EVAL / _file_safe(language) / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _file_safe(language: str) -> str:
    return language.replace("-", "_")
