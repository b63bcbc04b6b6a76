"""Results for a model's card on the Hugging Face hub: a README's front matter with a `model-index`."""

import io
import math
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from iberlm.evaluate.leaderboard.board import Board, Cell, Entrant, Task
from iberlm.evaluate.leaderboard.wording import Slugs, between, day, digits_of, language_name, words

_KINDS = {"translation": "translation", "summarisation": "summarization"}
"""The hub's names of what a task is; everything else is asked of a language model as text to go on from."""
TEXT_GENERATION = "text-generation"
_METRICS = {"acc": "accuracy", "em": "exact_match", "mcc": "matthews_correlation", "rouge1": "rouge", "rougeL": "rouge"}
"""The hub's names of metrics that lm-eval calls otherwise."""


def model_index(board: Board, source_url: str = "") -> Iterator[tuple[str, str]]:
    """(file name, text) of each model that has results: Markdown whose front matter goes to the top of the model's README.md.

    As `huggingface_hub.ModelCard` reads it. Values that are not numbers, and results of other questions than the other models were asked, are
    left out; alarms stand in the metric's name, since the format has no other place for them. `source_url` is where the leaderboard is found.
    """
    slugs = Slugs()
    for entrant in board.entrants:
        results = [
            _result(board, entrant, task, cell, source_url)
            for task in board.tasks
            if (cell := board.cell(entrant, task)) is not None and not cell.aside and math.isfinite(cell.value)
        ]
        if results:
            data = {"model-index": [{"name": entrant.name.rpartition("/")[2] or entrant.name, "results": results}]}
            yield f"{slugs.of(entrant.label)}.md", f"---\n{_yaml(data)}---\n"


def _result(board: Board, entrant: Entrant, task: Task, cell: Cell, source_url: str) -> dict[str, Any]:
    row = cell.row
    dataset: dict[str, Any] = {"name": f"{task.name} ({language_name(task.language)})", "type": task.dataset or "iberlm"}
    if task.dataset_config:
        dataset["config"] = task.dataset_config
    if re.fullmatch("[0-9a-f]{40}", task.revision):
        dataset["revision"] = task.revision
    metric = {
        "name": metric_name(cell),
        "type": metric_type(row["metric"]),
        "value": cell.value,
        "args": {"num_fewshot": row["num_fewshot"] or 0, "dtype": entrant.dtype, "backend": entrant.backend, "template": entrant.template_name},
    }
    found: dict[str, Any] = {
        "task": {"type": _KINDS.get(task.measures, TEXT_GENERATION), "name": f"{words(task.measures)}, {day(row['created'])}"},
        "dataset": dataset,
        "metrics": [metric],
    }
    if source_url:
        found["source"] = {"name": board.title, "url": source_url}
    return found


def metric_type(metric: str) -> str:
    """The hub's name of a metric: `acc_norm` -> `accuracy`, `exact_match,flexible-extract` -> `exact_match`."""
    name = metric.partition(",")[0]
    return "accuracy" if name.startswith("acc") else _METRICS.get(name, name)


def metric_name(cell: Cell) -> str:
    """The metric with the interval, the items, and what makes the value doubtful."""
    row, digits = cell.row, digits_of(cell.value)
    ends = between(row["low"], row["high"], digits).replace("−", "-")
    told = [f"95% interval {ends}" if ends else "", f"{row['n']} items", f"the first {row['limit']} only" if row["limit"] else "", row["note"] or ""]
    return f"{row['metric']} ({'; '.join(filter(None, told))})"


def _yaml(data: dict[str, Any]) -> str:
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.width = 10_000
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    writer.dump(data, stream)
    return stream.getvalue()
