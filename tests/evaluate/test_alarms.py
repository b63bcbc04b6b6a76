"""What makes a score doubtful is said, and nothing is said where nothing does."""

import json
from typing import Any

import pyarrow as pa
import pytest

from iberlm.evaluate.alarms import alarms, same_scores
from iberlm.evaluate.store.schema import ITEM_SCHEMA, RESULT_SCHEMA

Row = dict[str, Any]


def choice(item: int, likelihoods: list[float], target: int, **columns: Any) -> Row:
    """An item of a multiple choice, answered by the likeliest."""
    best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    return {
        "item": item,
        "choices": [f"choice {index}" for index in range(len(likelihoods))],
        "target": str(target),
        "prediction": str(best),
        "responses": json.dumps([[value, False] for value in likelihoods]),
        "truncated": False,
    } | columns


def written(item: int, text: str, target: str = "") -> Row:
    """An item whose answer is a text."""
    return {"item": item, "choices": [], "target": target or f"right {item}", "prediction": text, "responses": json.dumps([text]), "truncated": False}


def result(value: float, low: float | None, high: float | None, **columns: Any) -> Row:
    return {"metric": "acc", "value": value, "low": low, "high": high, "chance": 0.5, "higher_is_better": True} | columns


GOOD = [choice(index, [-3.0 - index % 2, -3.5 + index % 2], index % 2) for index in range(20)]


def test_a_good_run_raises_no_alarm() -> None:
    assert alarms(GOOD, result(0.9, 0.7, 0.97)) == []


def test_constant_predictions_are_told() -> None:
    items = [choice(index, [-1.0 - index, -2.0 - index], index % 2) for index in range(10)]
    assert alarms(items, result(0.9, 0.7, 0.97)) == ["constant prediction: always choice 0"]
    all_the_same_target = [{**item, "target": "0"} for item in items]
    assert alarms(all_the_same_target, result(1.0, 0.7, 1.0)) == []


def test_choices_that_all_score_the_same_are_told() -> None:
    items = [choice(index, [-2.0, -2.0], index % 2) for index in range(10)]
    assert alarms(items, result(0.9, 0.7, 0.97)) == ["every choice scores the same"]


def test_an_interval_that_holds_chance_is_told_and_so_is_one_below() -> None:
    assert alarms(GOOD, result(0.55, 0.45, 0.65)) == ["at chance: the interval holds 0.5"]
    assert alarms(GOOD, result(0.3, 0.2, 0.4)) == ["below chance (0.5)"]
    assert alarms(GOOD, result(0.3, 0.2, 0.4, higher_is_better=False)) == []
    assert alarms(GOOD, result(0.7, 0.6, 0.8, higher_is_better=False)) == ["below chance (0.5)"]
    assert alarms(GOOD, result(0.5, None, None)) == []
    assert alarms(GOOD, result(0.5, float("nan"), float("nan"))) == []
    assert alarms(GOOD, result(0.55, 0.45, 0.65, chance=None)) == []


@pytest.mark.parametrize(("value", "told"), [(7.99, []), (8.0, ["no better than guessing bytes"])])
def test_bits_per_byte_of_guessing_are_told(value: float, told: list[str]) -> None:
    items = [{"item": 0, "choices": [], "target": None, "prediction": None, "responses": "[-12.5]", "truncated": False}]
    assert alarms(items, result(value, value - 0.1, value + 0.1, metric="bits_per_byte", chance=None, higher_is_better=False)) == told


def test_a_likelihood_that_is_not_a_number_is_told() -> None:
    items = [*GOOD[:-1], choice(19, [float("nan"), -1.0], 1)]
    assert alarms(items, result(0.9, 0.7, 0.97)) == ["a log-likelihood that is not a number on 1 of 20 items (5%)"]
    rolling = [{"item": 0, "choices": [], "responses": "[-Infinity]"}]
    assert alarms(rolling, result(float("nan"), None, None)) == ["a log-likelihood that is not a number on 1 of 1 items (100%)", "the value is not a number"]


def test_empty_and_equal_outputs_are_told() -> None:
    assert alarms([written(0, "una resposta"), written(1, "\n ")], result(0.9, 0.7, 0.97)) == ["empty output on 1 of 2 items (50%)"]
    assert alarms([written(index, "sí") for index in range(5)], result(0.9, 0.7, 0.97)) == ["every output is the same"]
    assert alarms([written(index, "sí", "sí") for index in range(5)], result(0.9, 0.7, 0.97)) == []
    assert alarms([written(index, "") for index in range(5)], result(0.9, 0.7, 0.97)) == ["empty output on 5 of 5 items (100%)"]


def test_the_share_that_was_cut_is_told() -> None:
    items = [{**item, "truncated": index < 3} for index, item in enumerate(GOOD)]
    assert alarms(items, result(0.9, 0.7, 0.97)) == ["prompts longer than the context: 3 of 20 items (15%)"]


def results_of(values: dict[str, dict[str, float]], **columns: Any) -> pa.Table:
    """Results by model and task."""
    rows = [
        {"model": model * 8, "model_name": model, "task": task, "version": "1", "task_key": task, "group": "", "metric": "acc", "primary": True, "value": value}
        | columns
        for model, tasks in values.items()
        for task, value in tasks.items()
    ]
    return pa.Table.from_pylist(rows, schema=RESULT_SCHEMA)


def test_models_with_the_same_scores_on_several_tasks_are_told() -> None:
    first, second, third = (
        {"a": 0.51234, "b": 0.7, "c": 0.1, "d": 0.3},
        {"a": 0.51231, "b": 0.7, "c": 0.1, "d": 0.2},
        {"a": 0.51239, "b": 0.6, "c": 0.1, "d": 0.3},
    )
    table = results_of({"first": first, "second": second, "third": third})
    assert same_scores(table) == ["first and second have the same score on 3 of 4 tasks (a, b, c): are they one model?"]
    assert same_scores(results_of({"first": {"a": 0.5}, "second": {"a": 0.5}})) == []
    assert same_scores(results_of({"first": {"a": 0.5, "b": 0.5}, "second": {"a": 0.5, "b": 0.5}}, primary=False)) == []


def test_models_with_the_same_answers_are_told() -> None:
    rows = [
        {"model": model * 8, "model_name": model, "task": "a", "version": "1", "task_key": "k", "item": item, "responses": f"[-{item + shift}.5]"}
        for model, shift in (("first", 0), ("second", 0), ("third", 1))
        for item in range(12)
    ]
    table = results_of({name: {"a": 0.1 * index} for index, name in enumerate(("first", "second", "third"))})
    items = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
    assert same_scores(table, items) == ["first and second gave the same answers to all items of a: are they one model?"]
    few = pa.Table.from_pylist([row for row in rows if row["item"] < 9], schema=ITEM_SCHEMA)
    assert same_scores(table, few) == []
