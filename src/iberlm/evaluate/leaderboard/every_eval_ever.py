"""Results in the format of Every Eval Ever (schema 0.3.0): a JSON file a model and task, and its items as JSON lines beside it.

The format is at https://github.com/evaleval/every_eval_ever: files are data/COLLECTION/DEVELOPER/MODEL/UUID.json and UUID_samples.jsonl.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from iberlm.core.errors import ConfigError
from iberlm.core.files import sha256_json
from iberlm.evaluate.leaderboard.board import Board, Cell, Entrant, Row, Task
from iberlm.evaluate.leaderboard.items import answer, of_cell, read_items
from iberlm.evaluate.leaderboard.wording import Slugs

SCHEMA_VERSION = "0.3.0"
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
"""Of whoever evaluates to the model."""
UNSTATED = "not stated"
_BOUNDS = {
    "bits_per_byte": (0.0, math.inf),
    "byte_perplexity": (1.0, math.inf),
    "word_perplexity": (1.0, math.inf),
    "mcc": (-1.0, 1.0),
    "bleu": (0.0, 100.0),
    "chrf": (0.0, 100.0),
}
"""The lowest and the highest value of metrics that are no shares."""
_SHARES = re.compile(r"acc(_\w+)?|exact_match|em|f1|mc[12]|rouge\w*|prompt_level_\w+|inst_level_\w+")
_FOLDER_CHARACTERS = 200
"""The format wants folders to be called as the models are."""
_ENGINES = {"transformers": "transformers", "vllm": "vllm"}


@dataclass(frozen=True)
class Evaluator:
    """Who evaluates, as the format wants to know it."""

    organisation: str = ""
    relationship: str = "other"

    def __post_init__(self) -> None:
        if self.relationship not in RELATIONSHIPS:
            raise ConfigError(f"leaderboard --relationship: unknown value '{self.relationship}'; choose among {', '.join(RELATIONSHIPS)}")


def every_eval_ever(board: Board, stores: Sequence[Path], evaluator: Evaluator, *, items: bool) -> Iterator[tuple[str, str]]:
    """(path, text) of each file. With `items` also what each model answered, of tasks where every answer is right or wrong.

    Results that are no numbers are left out: the format has no place for them. The same results give the same names and bytes.
    """
    slugs, known = Slugs(_FOLDER_CHARACTERS), set[UUID]()
    for task in board.tasks:
        table = read_items(stores, task) if items else None
        for entrant, cell in board.row_of(task):
            if not math.isfinite(cell.value):
                continue
            log = aggregate(entrant, task, cell, evaluator)
            developer, _, name = log["model_info"]["id"].partition("/")
            folder = f"data/{slugs.of(task.name)}/{slugs.of(developer)}/{slugs.of(name)}"
            uuid = _uuid(log)
            if uuid in known:  # a task without a template belongs to the model in each of its templates
                continue
            known.add(uuid)
            lines = [sample(log, task, row) for row in _answers(table, cell)] if table is not None else []
            if lines:
                path = f"{folder}/{uuid}_samples.jsonl"
                log["detailed_evaluation_results"] = {"format": "jsonl", "file_path": path, "hash_algorithm": "sha256", "total_rows": len(lines)}
                text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
                log["detailed_evaluation_results"]["checksum"] = hashlib.sha256(text.encode()).hexdigest()
                yield path, text
            yield f"{folder}/{uuid}.json", json.dumps(log, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _uuid(log: dict[str, Any]) -> UUID:
    """A version 4 UUID as the format's file names want it, made of the content so that it stays the same."""
    return UUID(bytes=bytes.fromhex(sha256_json(log)[:32]), version=4)


def model_id(entrant: Entrant) -> str:
    """DEVELOPER/MODEL: a hub's name as it is; of a folder what the board calls it, with a developer that nobody knows."""
    parts = entrant.name.split("/")
    if len(parts) == 2 and all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
        return entrant.name
    return f"unknown/{Slugs(_FOLDER_CHARACTERS).of(entrant.label)}"


def aggregate(entrant: Entrant, task: Task, cell: Cell, evaluator: Evaluator) -> dict[str, Any]:
    """The JSON of one model and task: the primary metric first, then further metrics and groups."""
    row = cell.row
    when = str(int(row["created"] or 0))
    software = _software(row)
    identity = model_id(entrant)
    engine = _ENGINES.get(entrant.backend)
    info: dict[str, Any] = {"name": entrant.name, "id": identity, "developer": identity.partition("/")[0]}
    if engine:
        info["inference_engine"] = {"name": engine} | ({"version": software[engine]} if engine in software else {})
    details = {
        "deployment_type": "self_deployed" if engine else "unknown",
        "model_availability": "unknown",
        "sha256": entrant.model,
        "dtype": entrant.dtype,
        "template": row["template"],
        "parameters": entrant.parameters,
        "step": entrant.step,
    }
    info["additional_details"] = {name: str(value) for name, value in details.items() if value is not None}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{task.name}/{identity}/{when}",
        "evaluation_timestamp": when,
        "retrieved_timestamp": when,
        "source_metadata": {
            "source_name": "IberLM",
            "source_type": "evaluation_run",
            "source_organization_name": evaluator.organisation or UNSTATED,
            "evaluator_relationship": evaluator.relationship,
        },
        "eval_library": {"name": "lm_eval", "version": software.get("lm_eval", "unknown"), "additional_details": {"run_by": "iberlm"} | software},
        "model_info": info,
        "evaluation_results": [_result(task, found) for found in (row, *cell.others) if found["value"] is not None and math.isfinite(found["value"])],
    }


def _software(row: Row) -> dict[str, str]:
    try:
        found = json.loads(row["software"] or "{}")
    except ValueError:
        return {}
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def _result(task: Task, row: Row) -> dict[str, Any]:
    name = f"{task.name}/{row['group']}" if row["group"] else task.name
    told = {
        "language": row["language"],
        "measures": row["measures"],
        "aggregation": row["aggregation"],
        "num_fewshot": row["num_fewshot"],
        "chance": row["chance"],
        "clusters": row["clusters"],
        "limit": row["limit"] or None,
        "seed": row["seed"],
        "clean_value": row["clean_value"],
        "clean_n": row["clean_n"],
        "alarms": row["note"],
        "licence": task.licence,
        "task_version": row["version"],
        "synthetic": str(task.synthetic).lower(),
        "human_reviewed": "unknown" if task.human_reviewed is None else str(task.human_reviewed).lower(),
    }
    found: dict[str, Any] = {
        "evaluation_result_id": _result_id(row),
        "evaluation_name": name,
        "source_data": _source(task, row),
        "metric_config": _metric(row),
        "score_details": {"score": row["value"], "details": {key: str(value) for key, value in told.items() if value is not None}},
    }
    if uncertainty := _uncertainty(row):
        found["score_details"]["uncertainty"] = uncertainty
    if row["command"]:
        found["generation_config"] = {"generation_args": {"execution_command": row["command"]}}
    return found


def _result_id(row: Row) -> str:
    return "/".join(filter(None, (row["task"], row["group"], row["metric"])))


def _source(task: Task, row: Row) -> dict[str, Any]:
    details = {"config": task.dataset_config, "revision": task.revision, "licence": task.licence}
    told = {name: value for name, value in details.items() if value}
    if task.on_hub:
        return {"dataset_name": task.name, "source_type": "hf_dataset", "hf_repo": task.dataset, "samples_number": row["n"] or 0, "additional_details": told}
    return {"dataset_name": task.name, "source_type": "other", "additional_details": told}


def _metric(row: Row) -> dict[str, Any]:
    name = row["metric"].partition(",")[0]
    lower_is_better = row["higher_is_better"] is False
    found: dict[str, Any] = {"evaluation_description": row["metric"], "metric_id": name, "metric_name": name, "lower_is_better": lower_is_better}
    ends = bounds(name, row["best"])
    if ends is not None and ends[0] <= row["value"] <= ends[1]:
        found |= {"score_type": "continuous", "min_score": ends[0], "max_score": "Infinity" if math.isinf(ends[1]) else ends[1]}
    return found


def bounds(metric: str, best: float | None) -> tuple[float, float] | None:
    """The lowest and the highest value that a metric can have; None where that is not known.

    Shares are counted to 1, by some tasks to 100: `best` tells, as far as it is known.
    """
    if _SHARES.fullmatch(metric):
        return 0.0, best or 1.0
    return _BOUNDS.get(metric)


_METHODS = dict.fromkeys(("mean", "bits_per_byte"), "analytic") | dict.fromkeys(("bleu", "chrf", "ter", "perplexity", "weighted_perplexity"), "jackknife")
"""How the standard error is found, by aggregation; see `statistics.intervals`."""


def _uncertainty(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if row["stderr"] is not None and math.isfinite(row["stderr"]):
        found["standard_error"] = {"value": row["stderr"], "method": _METHODS.get(row["aggregation"], "bootstrap")}
    if row["low"] is not None and row["high"] is not None and math.isfinite(row["low"]) and math.isfinite(row["high"]):
        found["confidence_interval"] = {"lower": row["low"], "upper": row["high"], "confidence_level": 0.95}
    if found and row["n"]:
        found["num_samples"] = row["n"]
    return found


def _answers(table: pa.Table, cell: Cell) -> list[Row]:
    """Items of a result, if every one of them is right or wrong: the format knows no other items."""
    rows: list[Row] = of_cell(table, cell).to_pylist()
    return rows if rows and all(row["score"] in (0.0, 1.0) for row in rows) else []


def sample(log: dict[str, Any], task: Task, row: Row) -> dict[str, Any]:
    """The line of one item."""
    choices = row["choices"] or []
    given = answer(row, len(choices))
    taken = _chosen(choices, row["prediction"]) or ""
    reference = _chosen(choices, row["target"])
    raw = given if isinstance(given, str) else taken
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": log["evaluation_id"],
        "model_id": log["model_info"]["id"],
        "evaluation_name": task.name,
        "evaluation_result_id": log["evaluation_results"][0]["evaluation_result_id"],
        "sample_id": row["id"] or str(row["item"]),
        "sample_hash": hashlib.sha256(((row["prompt"] or "") + (reference or "")).encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": row["prompt"] or "", "reference": [reference] if reference is not None else [], **({"choices": choices} if choices else {})},
        "output": {"raw": [raw]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": taken,
                "extraction_method": "highest log-likelihood" if choices else "filter of the task",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": row["score"], "is_correct": row["score"] == 1.0},
        "metadata": {"item": str(row["item"]), **({"group": row["group"]} if row["group"] else {})},
    }


def _chosen(choices: list[str], value: str | None) -> str | None:
    """A choice by its number; what is no number of a choice as it stands."""
    return choices[int(value)] if value is not None and choices and value.isdecimal() and int(value) < len(choices) else value
