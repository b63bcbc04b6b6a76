"""From result stores to a board: which rows belong to one entrant, which of several results of a task is shown, and whether models were asked the same."""

import dataclasses
import fnmatch
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from iberlm.core.errors import ConfigError, DataError
from iberlm.evaluate.alarms import same_scores
from iberlm.evaluate.catalogue import MEASURES, TaskFacts, catalogue
from iberlm.evaluate.config import suite_recipe, suite_recipes
from iberlm.evaluate.leaderboard.board import Board, Cell, Entrant, Row, Task
from iberlm.evaluate.leaderboard.wording import count, language_rank, short_names
from iberlm.evaluate.store.existing import existing_store
from iberlm.evaluate.store.order import newest
from iberlm.evaluate.suite import resolve

NO_TEMPLATE = "none"
_MIN_HASH = 4


def read_results(stores: Sequence[Path]) -> pa.Table:
    """Result rows of several stores as if they were one. Raises `DataError` for a folder that is no store, or when there are no results at all."""
    opened = [existing_store(folder) for folder in stores]
    found = newest(pa.concat_tables([store.results() for store in opened]))
    if not len(found):
        raise DataError(f"{', '.join(map(str, stores))}: no results yet; fill a store with iberlm evaluate model=MODEL store={stores[0]}")
    return found


def gather(stores: Sequence[Path], *, models: Sequence[str] = (), suite: str = "", title: str = "", names: Mapping[str, str] | None = None) -> Board:
    """The board of what the stores hold.

    `models` keeps those whose name is (or matches, with * and ?), or whose hash begins with, one of them. `suite` keeps the tasks of this
    suite; what a model lacks of them is then missing. `names` gives models other names. Raises `DataError` for stores that cannot be
    read or hold nothing, `ConfigError` for a model or suite that is not there.
    """
    table = read_results(stores)
    wanted = suite_tasks(suite) if suite else {}
    rows = _chosen_models(table.to_pylist(), models)
    rows = _renamed(rows, names or {})
    if suite:
        rows = [row for row in rows if row["task"] in wanted]
    rows = [row for row in rows if row["language"]]
    if not rows:
        raise DataError(f"the stores hold no result of the suite '{suite}' for these models" if suite else "the stores hold no result for these models")
    whole = [row for row in rows if row["primary"] and not row["group"]]
    entrants, chosen = _entrants(whole)
    tasks = _tasks(whole, wanted)
    cells = _cells(chosen, tasks, rows)
    return Board(
        title=title or "Leaderboard",
        entrants=entrants,
        tasks=tasks,
        cells=cells,
        suspicions=same_scores(_with_short_names(rows, table.schema)),
        suite=suite,
        stores=tuple(map(str, stores)),
    )


def suite_tasks(name: str) -> dict[str, tuple[str, str]]:
    """Family and language of the tasks of a suite's recipe, by name. Raises `ConfigError` for a suite that is not there."""
    if name not in (known := suite_recipes()):
        raise ConfigError(f"leaderboard --suite: there is no suite '{name}'; choose among {', '.join(known)}")
    found, _ = resolve(suite_recipe(name))
    return {task.name: (task.family, task.language) for task in found}


def _chosen_models(rows: list[Row], models: Sequence[str]) -> list[Row]:
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        names[row["model"]].add(row["model_name"] or "")
    kept: set[str] = set()
    for pattern in models:
        fitting = {model for model, called in names.items() if _fits(pattern, model, called)}
        if not fitting:
            listed = "\n".join(f"  {model[:12]}  {', '.join(sorted(called))}" for model, called in sorted(names.items()))
            raise ConfigError(f"leaderboard --models: no model '{pattern}'; there are:\n{listed}")
        kept |= fitting
    return [row for row in rows if not models or row["model"] in kept]


def _fits(pattern: str, model: str, names: Iterable[str]) -> bool:
    by_hash = len(pattern) >= _MIN_HASH and model.startswith(pattern)
    return by_hash or any(name == pattern or fnmatch.fnmatchcase(name, pattern) or name.rpartition("/")[2] == pattern for name in names)


def _renamed(rows: list[Row], names: Mapping[str, str]) -> list[Row]:
    """One name a model: the one that is given, else the newest."""
    called: dict[str, tuple[float, str]] = {}
    for row in rows:
        called[row["model"]] = max(called.get(row["model"], (-math.inf, "")), (row["created"] or 0.0, row["model_name"] or row["model"][:12]))
    final = {model: name for model, (_, name) in called.items()}
    for old, new in names.items():
        fitting = [model for model, name in final.items() if _fits(old, model, [name])]
        if len(fitting) != 1:
            raise ConfigError(f"leaderboard --name: '{old}' names {len(fitting) or 'none'} of the models: {', '.join(sorted(set(final.values())))}")
        final[fitting[0]] = new
    return [row | {"model_name": final[row["model"]]} for row in rows]


def _with_short_names(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    short = short_names([row["model_name"] for row in rows])
    return pa.Table.from_pylist([row | {"model_name": short[row["model_name"]]} for row in rows], schema=schema)


def _entrants(rows: list[Row]) -> tuple[list[Entrant], dict[int, dict[str, Row]]]:
    """The entrants, and the row that each shows of every task it was asked; in the order of name and settings."""
    of_model: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        of_model[row["model"], row["backend"] or "unknown", row["dtype"] or "unknown"].append(row)
    parts = [
        (model, backend, dtype, template, shots, chosen)
        for (model, backend, dtype), found in of_model.items()
        for template, with_template in _by_template(found).items()
        for shots, chosen in _by_shots(with_template)
    ]
    names = {part[0]: next(iter(part[5].values()))["model_name"] for part in parts}
    short = short_names(list(names.values()))
    parts.sort(key=lambda part: (short[names[part[0]]], part[0], *part[1:4], -1 if part[4] is None else part[4]))
    entrants, chosen_rows = [], {}
    for index, (model, backend, dtype, template, shots, chosen) in enumerate(parts):
        some = max(chosen.values(), key=lambda row: row["created"] or 0.0)
        entrants.append(
            Entrant(
                index=index,
                model=model,
                name=names[model],
                label=short[names[model]],
                parameters=some["parameters"],
                backend=backend,
                dtype=dtype,
                template=template,
                num_fewshot=shots,
                step=some["step"],
            )
        )
        chosen_rows[index] = chosen
    return _told_apart(entrants), chosen_rows


def _by_template(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by chat template. Tasks that score raw text are asked without one, whatever the others are asked in: they belong to each."""
    templates = sorted({row["template"] or NO_TEMPLATE for row in rows})
    chat = [template for template in templates if template != NO_TEMPLATE]
    known = catalogue()
    plain = [row for row in rows if (row["template"] or NO_TEMPLATE) == NO_TEMPLATE]
    raw = [row for row in plain if row["task"] in known and known[row["task"]].raw_text]
    found = {template: [row for row in rows if row["template"] == template] + raw for template in chat}
    return ({NO_TEMPLATE: plain} if len(plain) > len(raw) or not chat else {}) | found


def _by_shots(rows: list[Row]) -> list[tuple[int | None, dict[str, Row]]]:
    """One entrant where every task was asked with one number of solved examples, else one for each number; a task that has one number belongs to all."""
    by_task: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_task[row["task"]][row["num_fewshot"] or 0].append(row)
    several = sorted({shots for found in by_task.values() if len(found) > 1 for shots in found})
    parts: list[tuple[int | None, dict[str, Row]]] = []
    wanted: int | None
    for wanted in several if several else (None,):
        chosen = {}
        for task, found in by_task.items():
            fitting = found.get(wanted, []) if wanted is not None and len(found) > 1 else [row for part in found.values() for row in part]
            if fitting:
                chosen[task] = max(fitting, key=lambda row: (not row["limit"], row["created"] or 0.0, row["task_key"] or ""))
        parts.append((wanted, chosen))
    return parts


def _told_apart(entrants: list[Entrant]) -> list[Entrant]:
    """Labels with the settings, or the beginning of the hash, in which entrants of one name differ."""
    by_label: dict[str, list[Entrant]] = defaultdict(list)
    for entrant in entrants:
        by_label[entrant.label].append(entrant)
    found = []
    for entrant in entrants:
        same = by_label[entrant.label]
        ways: dict[str, set[Any]] = {
            entrant.model[:8]: {other.model for other in same},
            entrant.backend: {other.backend for other in same},
            entrant.dtype: {other.dtype for other in same},
            entrant.template_name: {other.template for other in same},
            "" if entrant.num_fewshot is None else f"{entrant.num_fewshot} shots": {other.num_fewshot for other in same},
        }
        apart = [way for way, values in ways.items() if len(values) > 1 and way]
        if len({(other.model, other.template_name) for other in same}) < len({(other.model, other.template) for other in same}):
            apart.append(entrant.template[:8])
        found.append(dataclasses.replace(entrant, label=f"{entrant.label} ({', '.join(apart)})" if apart else entrant.label))
    return found


def _tasks(rows: list[Row], wanted: Mapping[str, tuple[str, str]]) -> list[Task]:
    """All tasks that were asked or that the suite wants, in the order of languages, of what they measure, and of names."""
    facts = catalogue()
    latest: dict[str, Row] = {}
    for row in rows:
        if row["task"] not in latest or (row["created"] or 0.0) > (latest[row["task"]]["created"] or 0.0):
            latest[row["task"]] = row
    found = [_task(row, facts.get(name)) for name, row in latest.items()]
    found += [_unasked(facts[name]) for name in wanted if name not in latest and name in facts]
    found.sort(key=lambda task: (language_rank(task.language), MEASURES.index(task.measures) if task.measures in MEASURES else len(MEASURES), task.name))
    return [dataclasses.replace(task, index=index) for index, task in enumerate(found)]


def _task(row: Row, facts: TaskFacts | None) -> Task:
    return Task(
        index=-1,
        name=row["task"],
        family=row["family"] or row["task"],
        language=row["language"],
        measures=row["measures"] or "unknown",
        metric=row["metric"],
        chance=row["chance"],
        best=row["best"],
        higher_is_better=row["higher_is_better"],
        dataset=row["dataset"] or (facts.dataset if facts else ""),
        dataset_config=facts.dataset_config if facts else "",
        revision=row["revision"] or "",
        licence=row["licence"] or (facts.licence if facts else "unknown"),
        licence_evidence=facts.licence_evidence if facts else "",
        synthetic=bool(row["synthetic"]),
        human_reviewed=row["human_reviewed"],
    )


def _unasked(facts: TaskFacts) -> Task:
    return Task(
        index=-1,
        name=facts.name,
        family=facts.family,
        language=facts.language,
        measures=facts.measures,
        metric=facts.metric,
        chance=facts.chance,
        best=facts.best,
        higher_is_better=None,
        dataset=facts.dataset,
        dataset_config=facts.dataset_config,
        revision=facts.revision,
        licence=facts.licence,
        licence_evidence=facts.licence_evidence,
        synthetic=facts.synthetic,
        human_reviewed=facts.human_reviewed,
    )


def _cells(chosen: Mapping[int, Mapping[str, Row]], tasks: Sequence[Task], rows: Sequence[Row]) -> dict[tuple[int, int], Cell]:
    beside: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["group"] or not row["primary"]:
            beside[_evaluation(row)].append(row)
    cells = {}
    for task in tasks:
        found = {index: of_task[task.name] for index, of_task in chosen.items() if task.name in of_task}
        asides = _asides(found)
        for index, row in found.items():
            others = sorted(beside[_evaluation(row)], key=lambda other: (other["group"] or "", other["metric"]))
            cells[index, task.index] = Cell(row, tuple(others), asides.get(index, ""))
    return cells


def _evaluation(row: Row) -> tuple[object, ...]:
    """Rows that agree in these came of one evaluation of a task."""
    return tuple(row[name] for name in ("model", "task", "version", "task_key", "backend", "dtype"))


def _asides(rows: Mapping[int, Row]) -> dict[int, str]:
    """Which results of a task cannot be compared with the others', and why: another version, another number of items, or other texts in the same setting."""
    if len(rows) < 2:
        return {}
    asked = Counter((row["version"] or "", row["n"]) for row in rows.values())
    version, n = max(asked, key=lambda key: (asked[key], key[1] or 0, key[0]))
    found: dict[int, str] = {}
    texts: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for index, row in rows.items():
        if (row["version"] or "") != version:
            found[index] = f"asked version {row['version']} of the task, the others version {version}"
        elif row["n"] != n:
            found[index] = f"asked {count(row['n'])} items, the others {count(n)}"
        elif row["prompts_hash"]:
            texts[row["num_fewshot"], row["template"]][row["prompts_hash"]] += 1
    for index, row in rows.items():
        same = texts.get((row["num_fewshot"], row["template"]))
        if index not in found and row["prompts_hash"] and same and row["prompts_hash"] != max(same, key=lambda text: (same[text], text)):
            found[index] = "asked other texts than the others, in the same setting"
    return found
