"""The review form of a task: one HTML file that works offline, with every item as a model is asked it."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.languages import NAMES
from iberlm.evaluate.review import FORMAT, VERDICTS, read_items, reviewer_problem

KEYS = {"good": "g", "wrong_answer": "w", "unnatural": "u", "ambiguous": "a", "offensive": "o", "other": "x"}
"""Keys of the verdicts in the form."""


def review_form(task: str, *, reviewer: str = "") -> str:
    """The form of a task of IberLM's own as HTML: nothing is fetched, and nothing leaves the page but by saving a file.

    Raises `ConfigError` for a task without items of IberLM's own and for a reviewer's name that verdicts cannot have.
    """
    if reviewer and (problem := reviewer_problem(reviewer)):
        raise ConfigError(f"--reviewer: {problem}")
    language, asked = asked_items(task)
    content = {"format": FORMAT, "task": task, "reviewer": reviewer, "items": asked}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("review.html.j2").render(
        task=task,
        language=language,
        language_name=NAMES[language],
        number=len(asked),
        with_choices=any(item["choices"] for item in asked),
        verdicts=[(verdict, verdict.replace("_", " "), meaning, KEYS[verdict]) for verdict, meaning in VERDICTS.items()],
        content=script_json(content),
    )


def asked_items(task: str) -> tuple[str, list[dict[str, Any]]]:
    """The task's language and what it asks: id, hash of the record, parts, prompt, choices, key, and the order to show the choices in.

    `key` is the place of the right choice, None where there are no choices. The order is drawn from the hash: in some tasks the
    right choice stands first and second in turn, which a reader would notice.
    """
    from iberlm.evaluate.catalogue import catalogue
    from iberlm.evaluate.tasks import load_task

    records = {record["id"]: hashed for hashed, record in read_items(task).items()}
    facts = catalogue()[task]
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded = load_task(facts, overrides={}, metadata={})
    asked = [_asked(loaded, doc, _record_of(task, str(doc["id"]), records)) for doc in loaded.eval_docs]
    parts: dict[str, int] = {}
    for item in asked:
        parts[item["item_hash"]] = parts.get(item["item_hash"], 0) + 1
    return facts.language, [item | {"parts": parts[item["item_hash"]]} for item in asked]


def _record_of(task: str, identifier: str, records: dict[str, str]) -> str:
    """The hash of the record that an item is made from: of its id, or of what stands before the colon where a record makes several."""
    for name in (identifier, identifier.rpartition(":")[0]):
        if name in records:
            return records[name]
    raise DataError(f"{task}: asks item '{identifier}', which its file of items does not have")


def _asked(task: Any, doc: dict[str, Any], hashed: str) -> dict[str, Any]:
    choices = [str(choice) for choice in task.doc_to_choice(doc)] if task.OUTPUT_TYPE == "multiple_choice" else []
    target = task.doc_to_target(doc) if choices else None
    key = choices.index(target) if isinstance(target, str) else target
    order = sorted(range(len(choices)), key=lambda place: hashlib.sha256(f"{hashed} {doc['id']} {place}".encode()).digest())
    return {"item": str(doc["id"]), "item_hash": hashed, "prompt": str(task.doc_to_text(doc)), "choices": choices, "key": key, "order": order}


def script_json(value: Any) -> str:
    """`value` as JSON that can stand in a `script` element: no text in it ends the element or a line of the script."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
