"""What makes a score doubtful: predictions that do not depend on the item, scores of guessing, prompts that were cut, answers that are empty."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pyarrow as pa

GUESSED_BITS = 8.0
"""Bits per byte of a model for which all 256 bytes are alike."""
SAME_TASKS, SAME_SHARE = 3, 0.5
"""Two models may have the same score on one task by chance."""
DECIMALS = 4
_MIN_ITEMS = 10


def alarms(items: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[str]:
    """Sentences on what makes the primary result of a task doubtful; none where nothing does.

    `items`: the task's rows of `ITEM_SCHEMA`; `result`: its row of `RESULT_SCHEMA` with value, low, high, chance, metric and higher_is_better.
    """
    answers = [_responses(item) for item in items]
    return [
        *_not_numbers(answers, result),
        *_predictions(items, answers),
        *_against_chance(result),
        *_texts(items, answers),
        *_truncated(items),
    ]


def _responses(item: Mapping[str, Any]) -> list[Any]:
    text = item.get("responses")
    found = json.loads(text) if text else []
    return found if isinstance(found, list) else [found]


def _likelihood(response: Any) -> float | None:
    first = response[0] if isinstance(response, list) and response else response
    return float(first) if isinstance(first, int | float) and not isinstance(first, bool) else None


def _not_numbers(answers: Sequence[Sequence[Any]], result: Mapping[str, Any]) -> Iterator[str]:
    broken = sum(any((value := _likelihood(response)) is not None and not math.isfinite(value) for response in responses) for responses in answers)
    if broken:
        yield f"a log-likelihood that is not a number on {_of(broken, len(answers))}"
    value = result.get("value")
    if value is None or not math.isfinite(value):
        yield "the value is not a number"


def _predictions(items: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[Any]]) -> Iterator[str]:
    asked = [
        (item, [_likelihood(response) for response in responses]) for item, responses in zip(items, answers, strict=True) if len(item.get("choices") or ()) > 1
    ]
    if len(asked) < 2:
        return
    predictions = Counter(item["prediction"] for item, _ in asked if item["prediction"] is not None)
    if all(len(set(values)) == 1 for _, values in asked):
        yield "every choice scores the same"
    elif len(predictions) == 1 and len({item["target"] for item, _ in asked}) > 1:
        yield f"constant prediction: always choice {next(iter(predictions))}"


def _against_chance(result: Mapping[str, Any]) -> Iterator[str]:
    value, chance, low, high = (result.get(name) for name in ("value", "chance", "low", "high"))
    if value is None or not math.isfinite(value):
        return
    if str(result.get("metric", "")).partition(",")[0] == "bits_per_byte" and value >= GUESSED_BITS:
        yield "no better than guessing bytes"
    if chance is None or low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return
    if low <= chance <= high:
        yield f"at chance: the interval holds {chance:.4g}"
    elif (high < chance) == (result.get("higher_is_better") is not False):
        yield f"below chance ({chance:.4g})"


def _texts(items: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[Any]]) -> Iterator[str]:
    written = [responses[0] for responses in answers if responses and isinstance(responses[0], str)]
    if not written:
        return
    empty = sum(not text.strip() for text in written)
    if empty:
        yield f"empty output on {_of(empty, len(written))}"
    if len(written) > 1 and len(set(written)) == 1 and empty < len(written) and len({item.get("target") for item in items}) > 1:
        yield "every output is the same"


def _truncated(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cut = sum(bool(item.get("truncated")) for item in items)
    if cut:
        yield f"prompts longer than the context: {_of(cut, len(items))}"


def _of(count: int, total: int) -> str:
    return f"{count} of {total} items ({100 * count / total:.3g}%)"


def same_scores(results: pa.Table, items: pa.Table | None = None) -> list[str]:
    """Sentences on pairs of different models whose primary scores agree to four decimals on several tasks, or that gave the same answers to all of one.

    Such pairs are often one model under two names, or one model's answers taken for the other's. `results` are rows of a store; the answers are
    looked at where `items` is given.
    """
    scores: dict[str, dict[tuple[Any, ...], float]] = defaultdict(dict)
    names: dict[str, str] = {}
    for row in results.select(["model", "model_name", "task", "version", "task_key", "group", "metric", "primary", "value"]).to_pylist():
        names[row["model"]] = row["model_name"] or row["model"][:12]
        if row["primary"] and not row["group"] and row["value"] is not None:
            scores[row["model"]][row["task"], row["version"], row["task_key"], row["metric"]] = round(row["value"], DECIMALS)
    sentences = []
    for a, b in combinations(scores, 2):
        common = scores[a].keys() & scores[b].keys()
        same = sorted(key[0] for key in common if scores[a][key] == scores[b][key])
        if len(same) >= SAME_TASKS and len(same) >= SAME_SHARE * len(common):
            sentences.append(f"{names[a]} and {names[b]} have the same score on {len(same)} of {len(common)} tasks ({_some(same)}): are they one model?")
    return sentences + (_same_answers(items, names) if items is not None else [])


def _same_answers(items: pa.Table, names: Mapping[str, str]) -> list[str]:
    answers: dict[tuple[str, str, str], dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in items.select(["model", "task", "version", "task_key", "item", "responses"]).to_pylist():
        answers[row["task"], row["version"], row["task_key"]][row["model"]][row["item"]] = row["responses"]
    tasks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (task, _, _), models in answers.items():
        for a, b in combinations(sorted(models), 2):
            if len(models[a]) >= _MIN_ITEMS and models[a] == models[b]:
                tasks[a, b].append(task)
    return [
        f"{names.get(a, a[:12])} and {names.get(b, b[:12])} gave the same answers to all items of {_some(sorted(same))}: are they one model?"
        for (a, b), same in sorted(tasks.items())
    ]


def _some(tasks: Sequence[str]) -> str:
    return ", ".join(tasks[:5]) + (f" and {len(tasks) - 5} more" if len(tasks) > 5 else "")
