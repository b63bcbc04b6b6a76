"""Asks a model one task after the other: lm-eval renders the requests and scores the answers, the store keeps them.

lm-eval's own cache of requests is never used: it does not tell models apart (lm-eval issue 4063).
"""

import dataclasses
import json
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate

from iberlm.core.errors import ConfigError, DataError, IberlmError
from iberlm.core.files import sha256_json, write_json
from iberlm.core.needs import local_folder
from iberlm.core.progress import say
from iberlm.core.ranks import run_ranks
from iberlm.core.stage import code_version
from iberlm.evaluate.answers import StoredLM
from iberlm.evaluate.asked import NO_TEMPLATE, Asked, ModelIdentity, data_folders
from iberlm.evaluate.backends import Backend, Slices, open_backend
from iberlm.evaluate.catalogue import TaskFacts
from iberlm.evaluate.command import command_of, suite_words
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.engine import Advance, Rows, about_task, model_name, same_conditions, step
from iberlm.evaluate.fingerprint import parameters
from iberlm.evaluate.item_rows import item_rows, metrics_of
from iberlm.evaluate.model import gpu_count
from iberlm.evaluate.preflight import preflight
from iberlm.evaluate.quiet import quiet_harness
from iberlm.evaluate.scoring import Scoring, prompts_hash, result_rows
from iberlm.evaluate.store.journal import Journal, writing
from iberlm.evaluate.store.schema import item_key
from iberlm.evaluate.store.store import Store

ANSWERED = ("responses", "truncated", "created", "model_name", "device", "batch", "software")
"""Columns that tell of the answer: an item that was answered before keeps them, whatever its task's data have become since."""


def ask_all(config: EvaluateConfig, store: Store, pending: list[Asked], done: dict[str, tuple[Rows, Rows]], advance: Advance) -> int:
    """Ask the model every pending task; put each task's rows into `done`, and return the number of requests that were computed."""
    built = _preflight(config, pending)
    processes = config.processes or max(1, gpu_count())
    if processes > 1:
        _answer_in_processes(config, [task.facts.name for task in pending], processes)
    computed = 0
    with quiet_harness():
        # the processes have left all answers in the journal: no weights are needed to score them
        backend = open_backend(config, weights=processes == 1)
        model = ModelIdentity(backend.model, backend.dtype, backend.name)
        for task in pending:
            slices = {"computes": processes == 1, "random_seed": config.seed}
            rows, items, requests = _ask(config, backend, store, model, task, slices, built.pop(task.facts.name), advance)
            done[task.facts.name] = rows, items
            computed += requests
            advance(1, task.facts.name)
    return computed


def _preflight(config: EvaluateConfig, pending: list[Asked]) -> dict[str, Any]:
    """The tasks of lm-eval by name, built and rehearsed. Raises `DataError` with all that stands against asking them."""
    built: dict[str, Any] = {}
    problems = preflight(
        [asked.facts for asked in pending],
        data_folders(config),
        num_fewshot=config.num_fewshot,
        seed=config.seed,
        chat_template=config.chat_template,
        model_folder=local_folder(config.model_folder, config.cluster) if config.in_process else None,
        validation=config.validation,
        command=shlex.join(["iberlm", "prefetch", "evaluate", *suite_words(config.suite), "--out", "BUNDLE"]),
        built=built,
    )
    if problems:
        raise DataError("the suite cannot be asked:\n  " + "\n  ".join(problems))
    return built


def _answer_in_processes(config: EvaluateConfig, tasks: list[str], processes: int) -> None:
    say(f"evaluate: {processes} processes share the items")
    with tempfile.TemporaryDirectory(prefix="iberlm-evaluate-") as folder:
        settings = Path(folder) / "settings.json"
        write_json(settings, {"config": dataclasses.asdict(config), "tasks": tasks})
        run_ranks("iberlm.evaluate.worker", [str(settings)], processes)


def answer_tasks(config: EvaluateConfig, tasks: list[Asked], rank: int, ranks: int) -> None:
    """Answer every `ranks`-th slice of tasks into the journal, as process `rank` of so many."""
    store = Store(Path(config.store))
    with quiet_harness():
        backend = open_backend(config)
        model = ModelIdentity(backend.model, backend.dtype, backend.name)
        for asked in tasks:
            with Journal(store.folder, _journal_name(model, asked), f"{rank} of {ranks}, process {os.getpid()}") as journal:
                task = asked.load(config)
                _harness(config, StoredLM(backend, Slices(journal, rank, ranks, random_seed=config.seed), _responses(store, model, asked, task)), asked, task)


def _journal_name(model: ModelIdentity, asked: Asked) -> str:
    return f"{asked.facts.name}-{sha256_json([model.key, asked.key, model.backend, model.dtype])[:16]}"


def _responses(store: Store, model: ModelIdentity, asked: Asked, task: Any) -> dict[str, list[Any]]:
    """Answers of the store to this version of the task, by prompt hash."""
    return {name: json.loads(row["responses"]) for name, row in _held(store, model, asked, task).items()}


def _held(store: Store, model: ModelIdentity, asked: Asked, task: Any) -> dict[str, dict[str, Any]]:
    """The earliest item row of each prompt hash, whatever else the task asked then."""
    conditions = (str(task.VERSION), _shots(task))
    rows = [row for row in store.answered(model.key, asked.facts.name) if same_conditions(row, model, asked)]
    return {row["prompt_hash"]: row for row in reversed(rows) if (row["version"], row["num_fewshot"]) == conditions}


def _shots(task: Any) -> int:
    return int(task.get_config("num_fewshot") or 0)


def _harness(config: EvaluateConfig, lm: StoredLM, asked: Asked, task: Any) -> Any:
    """lm-eval's evaluation of one task. Raises what the backend raises, with the task's name."""
    chat = asked.template != NO_TEMPLATE
    try:
        return evaluate(
            lm,
            {"tasks": {asked.facts.name: task}, "groups": {}},
            limit=config.limit or None,
            bootstrap_iters=0,  # intervals are computed from the items, for every metric
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    except IberlmError as error:
        raise type(error)(f"{asked.facts.name}: {error}") from error


def _ask(
    config: EvaluateConfig, backend: Backend, store: Store, model: ModelIdentity, asked: Asked, given: dict[str, Any], task: Any, advance: Advance
) -> tuple[Rows, Rows, int]:
    """Ask one task and store its items and results."""
    name, count = asked.facts.name, 0

    def done(requests: int) -> None:
        nonlocal count
        count += requests
        advance(0, f"{name}, {count:,} requests")

    asked.prepare(task, config.seed)  # the rehearsal has drawn examples
    journal_name = _journal_name(model, asked)
    with writing(store.folder, journal_name), Journal(store.folder, journal_name) as journal:
        slices = Slices(journal, done=done, **given)
        lm = StoredLM(backend, slices, _responses(store, model, asked, task))
        found = _harness(config, lm, asked, task)
        values = {key: float(value) for key, value in found["results"][name].items() if "," in key and not key.partition(",")[0].endswith("_stderr")}
        try:
            metrics = metrics_of(task, asked.facts.metric, values, found["higher_is_better"][name])
        except KeyError as error:
            raise ConfigError(f"{name}: the task has no metric {error}; it has {', '.join(values)}. Mend its entry in eval/catalogue") from error
        stamp = _stamp(config, backend, model)
        items = [row | stamp for row in item_rows(asked, task, found["samples"][name], metrics, lm.prompt_hashes, lm.truncated)]
        held = _held(store, model, asked, task)
        for row in items:
            row["key"] = item_key(row)
            if (before := held.get(row["prompt_hash"])) is not None:
                row |= {column: before[column] for column in ANSWERED}
        scoring = Scoring(asked.facts, metrics, config.seed, _chance(asked.facts, metrics[0].name, items))
        rows = [row | _about(config, asked, items) | stamp for row in result_rows(scoring, items, None, values)]
        there = {(row["key"], row["item"]) for row in store.answered(model.key, name) if row["task_key"] == asked.key}
        store.append([row for row in items if (row["key"], row["item"]) not in there], rows)
        journal.discard()
    return rows, items, slices.computed


def _stamp(config: EvaluateConfig, backend: Backend, model: ModelIdentity) -> dict[str, Any]:
    """Columns of items and results that tell who answered, when and with what."""
    batch = f"{config.batch_size} sequences" if config.batch_size else f"{config.batch_tokens} tokens"
    return {
        "model": model.key,
        "backend": model.backend,
        "dtype": model.dtype,
        "model_name": model_name(config),
        "device": backend.device,
        "batch": batch if config.in_process else "by the server",
        "software": json.dumps(backend.software | {"iberlm": code_version()}, sort_keys=True),
        "created": time.time(),
    }


def _about(config: EvaluateConfig, asked: Asked, items: Rows) -> dict[str, Any]:
    """Columns of results that tell what was asked."""
    facts, data = asked.facts, asked.staged
    return about_task(facts) | {
        "parameters": parameters(local_folder(config.model_folder, config.cluster)) if config.in_process else None,
        "task": facts.name,
        "version": items[0]["version"],
        "task_key": asked.key,
        "suite": config.suite.title,
        "num_fewshot": items[0]["num_fewshot"],
        "template": asked.template,
        "limit": config.limit,
        "seed": config.seed,
        "prompts_hash": prompts_hash(items),
        "revision": data.revision if data is not None else facts.revision,
        "command": command_of(config, facts),
        "step": step(config),
    }


def _chance(facts: TaskFacts, metric: str, items: Rows) -> float | None:
    """What guessing scores: as the catalogue says, else by the number of choices of each item."""
    if facts.chance is not None or not metric.startswith("acc") or not all(item["choices"] for item in items):
        return facts.chance
    return sum(1 / len(item["choices"]) for item in items) / len(items)
