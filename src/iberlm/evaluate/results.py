"""The result store: rows for each metric and each item, the table of families by languages, and what looks wrong in it."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.files import publish, sha256_json
from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.suite import SuiteTask

RESULT_SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("model", pa.string()),
        ("weights", pa.string()),  # SHA-256 over the safetensors files' checksums
        ("task", pa.string()),
        ("version", pa.string()),
        ("language", pa.string()),
        ("family", pa.string()),
        ("metric", pa.string()),
        ("primary", pa.bool_()),  # the metric of the table
        ("value", pa.float64()),
        ("stderr", pa.float64()),  # null for a single item
        ("n", pa.int64()),
        ("chance", pa.float64()),
        ("higher_is_better", pa.bool_()),
        ("num_fewshot", pa.int64()),
        ("chat_template", pa.bool_()),
        ("prompt_hash", pa.string()),  # SHA-256 over all that the model was given
        ("limit", pa.int64()),
        ("batch_size", pa.int64()),
        ("dtype", pa.string()),
        ("device", pa.string()),
        ("lm_eval", pa.string()),
        ("transformers", pa.string()),
        ("torch", pa.string()),
        ("note", pa.string()),  # what makes the value doubtful
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("language", pa.string()),
        ("family", pa.string()),
        ("item", pa.int64()),
        ("id", pa.string()),  # the item's own name, where it has one
        ("metric", pa.string()),  # the primary metric
        ("target", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),  # of the primary metric on this item
        ("weight", pa.float64()),  # of the item in the task's value: UTF-8 bytes for bits per byte, else 1
        ("loglikelihoods", pa.string()),  # JSON, natural logarithms, one a choice
        ("item_hash", pa.string()),
    ]
)
Table = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Scored:
    """What the harness made of one task."""

    wanted: SuiteTask
    task: Any
    metrics: dict[str, Any]
    """`{"acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 50}`."""
    higher_is_better: dict[str, bool]
    samples: list[dict[str, Any]]
    chat_template: bool


def metric_rows(scored: Scored) -> list[dict[str, Any]]:
    """One row a metric and filter of a task: the columns of `RESULT_SCHEMA` that belong to the task."""
    metadata = scored.task.get_config("metadata") or {}
    rows: list[dict[str, Any]] = []
    for metric, filter_name in _metrics(scored):
        samples = [sample for sample in scored.samples if sample["filter"] == filter_name]
        row: dict[str, Any] = {
            "task": scored.wanted.name,
            "version": str(scored.task.VERSION),
            "language": scored.wanted.language,
            "family": scored.wanted.family,
            "metric": metric if filter_name == "none" else f"{metric},{filter_name}",
            "primary": not rows,
            "value": float(scored.metrics[f"{metric},{filter_name}"]),
            "stderr": _stderr(scored, metric, filter_name, samples),
            "n": len(samples),
            "chance": _chance(scored, metric, metadata, samples),
            "higher_is_better": scored.higher_is_better.get(metric),
            "num_fewshot": int(scored.task.get_config("num_fewshot") or 0),
            "chat_template": scored.chat_template,
            "prompt_hash": sha256_json([sample["arguments"] for sample in samples]),
        }
        rows.append(row | {"note": _note(scored, metric, row, samples)})
    return rows


def item_rows(scored: Scored) -> list[dict[str, Any]]:
    """One row an item (`ITEM_SCHEMA`), scored with the primary metric."""
    metric, filter_name = _metrics(scored)[0]
    rows = []
    for sample in scored.samples:
        if sample["filter"] != filter_name:
            continue
        score, weight = _item_score(metric, sample)
        chosen = _prediction(scored, metric, sample)
        rows.append(
            {
                "task": scored.wanted.name,
                "language": scored.wanted.language,
                "family": scored.wanted.family,
                "item": sample["doc_id"],
                "id": _name(sample),
                "metric": metric,
                "target": None if metric == "bits_per_byte" else str(sample["target"]),
                "prediction": chosen,
                "correct": bool(score) if score in (0, 1) and metric != "bits_per_byte" else None,
                "score": score,
                "weight": weight,
                "loglikelihoods": json.dumps(_likelihoods(sample)) if scored.task.OUTPUT_TYPE != "generate_until" else None,
                "item_hash": sample["doc_hash"],
            }
        )
    return rows


def _metrics(scored: Scored) -> list[tuple[str, str]]:
    """(metric, filter) pairs of a task, in the order of its file: the first is the primary one."""
    pairs = [(metric, filter_name) for metric, comma, filter_name in (key.partition(",") for key in scored.metrics) if comma and not metric.endswith("_stderr")]
    order = list(scored.task.aggregation())
    return sorted(pairs, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def table_of(results: list[dict[str, Any]]) -> Table:
    """`{family: {language: {metric, value, stderr, n, chance, note}}}` of the primary metrics."""
    table: Table = {}
    for row in results:
        if row["primary"]:
            cell = {name: row[name] for name in ("metric", "value", "stderr", "n", "chance", "note")}
            table.setdefault(row["family"], {})[row["language"]] = cell
    return table


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Publish result rows as Parquet. Each row says of itself what it is, so files of many runs can be read as one."""
    _write(path, rows, RESULT_SCHEMA)


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    """Publish item rows as Parquet."""
    _write(path, rows, ITEM_SCHEMA)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with publish(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def ratio_stderr(numerators: list[float], denominators: list[float]) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) over independent items; None for a single item.

    Linearised ratio estimator (Cochran, Sampling Techniques, 3rd ed., section 6.4, without the correction for a finite
    population): the tokens of a document depend on one another, the documents are what was sampled.
    """
    n, total = len(numerators), sum(denominators)
    if n < 2:
        return None
    ratio = sum(numerators) / total
    squares = sum((top - ratio * bottom) ** 2 for top, bottom in zip(numerators, denominators, strict=True))
    return math.sqrt(squares * n / (n - 1)) / total


def _stderr(scored: Scored, metric: str, filter_name: str, samples: list[dict[str, Any]]) -> float | None:
    if metric == "bits_per_byte":
        bits = [-sample[metric][0] / math.log(2) for sample in samples]
        return ratio_stderr(bits, [float(sample[metric][1]) for sample in samples])
    value = scored.metrics.get(f"{metric}_stderr,{filter_name}")
    return float(value) if isinstance(value, int | float) else None


def _chance(scored: Scored, metric: str, metadata: dict[str, Any], samples: list[dict[str, Any]]) -> float | None:
    if not metric.startswith("acc"):
        return None
    if "chance" in metadata:
        return float(metadata["chance"])
    if scored.task.OUTPUT_TYPE != "multiple_choice":
        return None
    return sum(1 / len(scored.task.doc_to_choice(sample["doc"])) for sample in samples) / len(samples)


def _note(scored: Scored, metric: str, row: dict[str, Any], samples: list[dict[str, Any]]) -> str | None:
    """What a reader of the value must know: it may say nothing about the model."""
    notes = []
    if scored.task.OUTPUT_TYPE == "multiple_choice" and metric.startswith("acc"):
        predictions = {_prediction(scored, metric, sample) for sample in samples}
        if len(samples) > 1 and all(len(set(_likelihoods(sample))) == 1 for sample in samples):
            notes.append("every choice scores the same")
        elif len(predictions) == 1 and len({str(sample["target"]) for sample in samples}) > 1:
            notes.append(f"constant prediction: always choice {predictions.pop()}")
    if row["chance"] is not None and row["stderr"] is not None and abs(row["value"] - row["chance"]) <= row["stderr"]:
        notes.append("within one standard error of chance")
    if metric == "bits_per_byte" and row["value"] >= 8:
        notes.append("no better than guessing bytes")
    return "; ".join(notes) or None


def _likelihoods(sample: dict[str, Any]) -> list[float]:
    return [response[0] if isinstance(response, tuple) else response for response in sample["filtered_resps"]]


def _prediction(scored: Scored, metric: str, sample: dict[str, Any]) -> str | None:
    """Index of the choice that the metric takes (as lm-eval does: the first of equals), or the generated text."""
    if scored.task.OUTPUT_TYPE == "generate_until":
        return str(sample["filtered_resps"][0])
    if scored.task.OUTPUT_TYPE != "multiple_choice":
        return None
    choices = scored.task.doc_to_choice(sample["doc"])
    lengths = [{"acc_norm": len(choice), "acc_bytes": len(choice.encode())}.get(metric, 1) for choice in choices]
    scores = [value / length for value, length in zip(_likelihoods(sample), lengths, strict=False)]
    return str(max(range(len(scores)), key=scores.__getitem__))


def _item_score(metric: str, sample: dict[str, Any]) -> tuple[float | None, float]:
    value = sample.get(metric)
    if metric == "bits_per_byte" and isinstance(value, tuple):
        loglikelihood, size = value
        return -loglikelihood / math.log(2) / size, float(size)
    return (float(value) if isinstance(value, int | float) else None), 1.0


def _name(sample: dict[str, Any]) -> str | None:
    name = sample["doc"].get("id")
    return None if name is None else str(name)


def print_table(table: Table) -> None:
    """Print families by languages to standard output: rich on a terminal, aligned plain text otherwise; notes below."""
    languages = [tag for tag in LANGUAGES if any(tag in cells for cells in table.values())]
    header = ["task", "metric", "chance", *languages]
    rows = [[family, *_first(cells), *(_shown(cells.get(tag)) for tag in languages)] for family, cells in table.items()]
    notes = [f"* {family}, {tag}: {cell['note']}" for family, cells in table.items() for tag, cell in cells.items() if cell["note"]]
    if sys.stdout.isatty():
        _print_rich(header, rows, notes)
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip())
    print("\n".join(notes), end="\n" if notes else "", flush=True)


def _first(cells: dict[str, dict[str, Any]]) -> tuple[str, str]:
    cell = next(iter(cells.values()))
    return cell["metric"], "" if cell["chance"] is None else f"{cell['chance']:.2f}"


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    error = "" if cell["stderr"] is None else f" ±{cell['stderr']:.3f}"
    return f"{cell['value']:.3f}{error}" + ("*" if cell["note"] else "")


def _print_rich(header: list[str], rows: list[list[str]], notes: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    shown = RichTable()
    for column, title in enumerate(header):
        shown.add_column(title, justify="left" if column < 2 else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    for note in notes:
        console.print(note, style="dim", markup=False)
