"""Rows of the store from what lm-eval made of a task: one an item, with the request's text, the answers and every metric's value."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat

from iberlm.core.files import sha256_json
from iberlm.evaluate.asked import Asked
from iberlm.evaluate.contamination import item_hash
from iberlm.evaluate.scoring import Metric, metric_key

CHOICES, ROLLING, GENERATED = "multiple_choice", "loglikelihood_rolling", "generate_until"


def item_rows(
    asked: Asked, task: Any, samples: Iterable[dict[str, Any]], metrics: list[Metric], hashes: Mapping[int, str], cut: set[int]
) -> list[dict[str, Any]]:
    """Rows of `ITEM_SCHEMA`, in the order of the items, without the columns of the model.

    `samples` are lm-eval's, one an item and filter; `hashes` are the prompt hashes by item; `cut` are the items of which a request was longer
    than the context.
    """
    primary, facts = metrics[0], asked.facts
    filter_name = primary.key.rpartition(",")[2]
    of_item: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        of_item.setdefault(sample["doc_id"], []).append(sample)
    rows = []
    for number, (item, found) in enumerate(sorted(of_item.items())):
        sample = next(entry for entry in found if entry["filter"] == filter_name)
        doc = sample["doc"]
        values = {f"{name},{entry['filter']}": entry[name] for entry in found for name in entry["metrics"]}
        value, weight = _score(primary, values)
        rows.append(
            {
                "task": facts.name,
                "version": str(task.VERSION),
                "prompt_hash": hashes[item],
                "num_fewshot": asked.num_fewshot if task.get_config("num_fewshot") != 0 else 0,
                "template": asked.template,
                "task_key": asked.key,
                "language": facts.language,
                "family": facts.family,
                "item": item,
                "id": _name(doc, number),
                "item_hash": item_hash(doc),
                "cluster": _cluster(doc, facts.cluster),
                "group": str(doc[facts.group]) if facts.group and doc.get(facts.group) is not None else None,
                "prompt": "" if task.OUTPUT_TYPE == ROLLING else str(sample["arguments"][0][0]),
                "choices": [str(choice) for choice in task.doc_to_choice(doc)] if task.OUTPUT_TYPE == CHOICES else [],
                "target": None if task.OUTPUT_TYPE == ROLLING else _target(sample["target"]),
                "responses": dump([entry for repeats in sample["resps"] for entry in repeats]),
                "prediction": prediction(task, primary, sample),
                "metrics": dump(values),
                "score": value,
                "weight": weight,
                "truncated": item in cut,
            }
        )
    return rows


def dump(value: Any) -> str:
    """JSON of an answer or a metric; numbers of NumPy as plain ones. A float comes back as it was."""
    return json.dumps(value, ensure_ascii=False, default=_plain_number, separators=(",", ":"))


def _plain_number(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def _score(primary: Metric, values: dict[str, Any]) -> tuple[float | None, float]:
    """The item's own score of the primary metric, and its weight in the task's value."""
    value = values.get(primary.key)
    if primary.aggregation == "bits_per_byte" and isinstance(value, list | tuple):
        loglikelihood, size = value
        if not size:
            return None, 0.0
        return -loglikelihood / math.log(2) / size, float(size)
    return (float(value) if isinstance(value, SupportsFloat) else None), 1.0


def _name(doc: Mapping[str, Any], number: int) -> str:
    found = doc.get("id")
    return str(number) if found is None or found == "" else str(found)


def _cluster(doc: Mapping[str, Any], key: str) -> str | None:
    """A short name for what items share: the hash of a passage."""
    return sha256_json(str(doc[key]))[:16] if key and doc.get(key) is not None else None


def _target(target: Any) -> str:
    return target if isinstance(target, str) else dump(target)


def prediction(task: Any, metric: Metric, sample: dict[str, Any]) -> str | None:
    """What the model chose or wrote; the index of a choice as lm-eval finds it for this metric."""
    responses = sample["filtered_resps"]
    if task.OUTPUT_TYPE == CHOICES:
        choices = task.doc_to_choice(sample["doc"])
        name = metric.key.partition(",")[0]
        lengths = [{"acc_norm": len(choice), "acc_bytes": len(choice.encode())}.get(name, 1) for choice in choices]
        scores = [response[0] / length for response, length in zip(responses, lengths, strict=False)]
        return str(max(range(len(scores)), key=scores.__getitem__))
    if task.OUTPUT_TYPE != GENERATED:
        return None
    found = responses[0] if responses else ""
    return found if isinstance(found, str) else dump(found)


def metrics_of(task: Any, primary: str, found: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> list[Metric]:
    """The task's metrics with their aggregations, the primary one first (`primary` is the catalogue's name; empty: the first of the task's file).

    Raises `KeyError` when the task does not have the primary one.
    """
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    names = {id(function): name for name, function in AGGREGATION_REGISTRY.items()}
    aggregations = task.aggregation()
    keys = [key for key in found if "," in key and not key.partition(",")[0].endswith("_stderr")]
    order = list(aggregations)
    keys.sort(key=lambda key: order.index(key.partition(",")[0]) if key.partition(",")[0] in order else len(order))
    wanted = metric_key(primary) if primary else keys[0]
    if wanted not in keys:
        raise KeyError(wanted)
    listed = []
    for key in [wanted, *(key for key in keys if key != wanted)]:
        name = key.partition(",")[0]
        function = aggregations.get(name)
        named = names.get(id(function), "custom") if function is not None else "mean"
        listed.append(Metric(key.removesuffix(",none"), named, higher_is_better.get(name), function))
    return listed
