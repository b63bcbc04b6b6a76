"""Brings together the answers to a suite: what the store has is taken from it, the rest is asked.

Neither lm-eval nor torch is imported where the store has all.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iberlm.core.progress import progress, say
from iberlm.evaluate.asked import Asked, ModelIdentity, identity
from iberlm.evaluate.catalogue import TaskFacts
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.contamination import Seen, clean_mask, not_searched, seen_items
from iberlm.evaluate.scoring import Metric, Scoring, prompts_hash, result_rows
from iberlm.evaluate.store.schema import ITEM_SCHEMA
from iberlm.evaluate.store.store import Store

Rows = list[dict[str, Any]]
Advance = Callable[..., None]
CLEAN = ("clean_n", "clean_value", "clean_low", "clean_high")


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the stage writes down, in the order of the suite."""

    results: Rows
    """`RESULT_SCHEMA`."""
    items: Rows
    """`ITEM_SCHEMA`, and `seen`: the share of the item's word sequences that the training corpus holds, None where nobody looked."""
    computed: int
    """Requests that were answered anew."""


def evaluate_tasks(config: EvaluateConfig, tasks: list[Asked]) -> Evaluated:
    """Score every task. Raises what loading the model, a task or its data raises; what was finished before stays in the store."""
    store = Store(Path(config.store))
    seen = seen_items(Path(config.contamination), [task.facts.name for task in tasks]) if config.contamination else None
    if seen is not None and (said := not_searched(seen, [task.facts.name for task in tasks])):
        say(f"evaluate: {said}")
    model = identity(config)
    store.set_aside_damaged(model=model.key)
    done: dict[str, tuple[Rows, Rows]] = {}
    for task in tasks:
        if task.known_before_loading and (found := stored(store, model, task)) is not None:
            done[task.facts.name] = found
    if done:
        say(f"evaluate: {len(done)} of {len(tasks)} tasks are answered in {config.store}")
    computed = 0
    if len(done) < len(tasks):
        from iberlm.evaluate.asking import ask_all

        pending = [task for task in tasks if task.facts.name not in done]
        with progress("evaluate", len(tasks), "tasks") as advance:
            if done:
                advance(len(done), "from the store")
            computed = ask_all(config, store, pending, done, advance)
    results, items = Rows(), Rows()
    given = {"suite": config.suite.title, "model_name": model_name(config), "step": step(config)}
    for task in tasks:
        rows, answers = done[task.facts.name]
        # the primary metric first, as the rows of a task that was just asked
        rows = sorted(rows, key=lambda row: (bool(row["group"]), not row["primary"], row["group"], row["metric"]))
        rows, answers = _with_contamination(config, task.facts, rows, answers, seen)
        results += [row | about_task(task.facts) | given for row in rows]
        items += answers
    return Evaluated(results, items, computed)


def model_name(config: EvaluateConfig) -> str:
    """As the user calls the model: its folder, its name on the hub, or its name on a server."""
    return config.backend.model or config.model_folder


def about_task(facts: TaskFacts) -> dict[str, Any]:
    """Columns of results that tell of the task and decide no number: as the catalogue and the reviews have them today."""
    return {name: getattr(facts, name) for name in ("language", "family", "measures", "dataset", "licence", "synthetic", "human_reviewed")}


def step(config: EvaluateConfig) -> int | None:
    """Training step of the checkpoint that is evaluated; None for what is none."""
    return config.step if config.step >= 0 else None


def stored(store: Store, model: ModelIdentity, task: Asked) -> tuple[Rows, Rows] | None:
    """Result and item rows of a task that was asked just so before; None when there are none, or not all of its items."""
    rows = [
        row for row in store.results(model=model.key, tasks=[task.facts.name]).to_pylist() if row["task_key"] == task.key and same_conditions(row, model, task)
    ]
    primary = next((row for row in rows if row["primary"] and not row["group"]), None)
    if primary is None:
        return None
    items = [item for item in store.answered(model.key, task.facts.name) if item["task_key"] == task.key and same_conditions(item, model, task)]
    items.sort(key=lambda item: item["item"])
    if len(items) != primary["n"] or prompts_hash(items) != primary["prompts_hash"]:
        return None
    return rows, items


def same_conditions(row: dict[str, Any], model: ModelIdentity, task: Asked) -> bool:
    """Whether a row of a model is an answer to this task by the same backend, in the same type of number and template."""
    return bool((row["task"], row["backend"], row["dtype"], row["template"]) == (task.facts.name, model.backend, model.dtype, task.template))


def _with_contamination(config: EvaluateConfig, facts: TaskFacts, rows: Rows, items: Rows, seen: Seen | None) -> tuple[Rows, Rows]:
    """Results with their values on the items that the corpus does not hold, and items with the share of them that it does."""
    shares = [seen.share(facts.name, item["item_hash"], item["id"]) if seen is not None else None for item in items]
    items = [{name: item.get(name) for name in ITEM_SCHEMA.names} | {"seen": share} for item, share in zip(items, shares, strict=True)]
    if seen is None or all(share is None for share in shares):
        return [row | dict.fromkeys(CLEAN) for row in rows], items
    clean = clean_mask(items, seen, config.contamination_share)
    metrics = [Metric(row["metric"], row["aggregation"], row["higher_is_better"]) for row in rows if not row["group"]]
    again = {(row["group"], row["metric"]): row for row in result_rows(Scoring(facts, metrics, config.seed, None), items, clean)}
    return [row | {name: again[row["group"], row["metric"]][name] for name in CLEAN} for row in rows], items
