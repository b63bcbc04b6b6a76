"""What evaluation needs from elsewhere: the model, validation documents, and the data of the suite's tasks.

Task files are read, not run.
"""

import ast
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.core.needs import DATASET, MODEL, REFUSED, TOKENIZER, Need, folder_need, package_need, path_need
from iberlm.evaluate.asked import data_folders, suite_facts
from iberlm.evaluate.catalogue import TaskFacts, catalogue
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.staging import source_of, staged
from iberlm.evaluate.tasks import Function, functions, read_config

_SHOWN_TASKS = 3


def needs(config: EvaluateConfig) -> list[Need]:
    """Needs of the model and of each data set of the suite, once however many tasks read it.

    Raises `ConfigError` for a task that nobody knows, and for one whose data have no known licence.
    """
    found = _of_backend(config)
    found += [path_need(config.validation, "validation")] if config.validation else []
    found += [path_need(config.data_folder, "data_folder")] if config.data_folder else []
    facts, _ = suite_facts(config)
    return found + data_needs(facts, data_folders(config)[:1] if config.data_folder else [])


def _of_backend(config: EvaluateConfig) -> list[Need]:
    if config.backend.kind == "openai":
        return folder_need(TOKENIZER, config.backend.tokenizer, "backend.tokenizer")
    found = folder_need(MODEL, config.model_folder, "model_folder")
    return [*found, package_need("vllm", "vllm", "backend.kind")] if config.backend.kind == "vllm" else found


def data_needs(tasks: list[TaskFacts], folders: list[Path]) -> list[Need]:
    """The data sets of these tasks that none of `folders` has, with the splits that they read; and tasks that cannot be asked without a network."""
    found: dict[tuple[Any, ...], Need] = {}
    readers: dict[tuple[Any, ...], list[str]] = {}
    refused: list[Need] = []
    for facts in tasks:
        refused += [_refused(facts, reason) for reason in hub_metrics(facts)]
        try:
            source = source_of(facts)
        except ConfigError as error:
            refused.append(_refused(facts, str(error).removeprefix(f"{facts.name}: ")))
            continue
        here = staged(facts, folders) if source else None
        if source is None or (here is not None and set(here.names) == set(source.splits)):
            continue
        key = (source.dataset, source.config, source.revision, repr(sorted(source.arguments.items())))
        before = found.get(key)
        splits = tuple(sorted({*source.splits, *(before.splits if before else ())}))
        readers.setdefault(key, []).append(facts.name)
        found[key] = Need(
            kind=DATASET,
            name=source.dataset,
            revision=source.revision,
            config=source.config,
            arguments=source.arguments,
            splits=splits,
            licence=facts.licence,
            licence_evidence=facts.licence_evidence,
            used_by="suite",
        )
    return refused + [replace(need, used_by=_used_by(readers[key])) for key, need in found.items()]


def _used_by(names: list[str]) -> str:
    rest = len(names) - _SHOWN_TASKS
    return f"suite: {', '.join(names[:_SHOWN_TASKS])}{f' and {rest} more' if rest > 0 else ''}"


def _refused(facts: TaskFacts, why: str) -> Need:
    return Need(kind=REFUSED, name=facts.name, used_by="suite", remark=why)


def hub_metrics(facts: TaskFacts) -> list[str]:
    """Why a task cannot be scored without a network: metrics that the `evaluate` library would load from the hub and run."""
    settings = read_config(facts)
    return [f"its metric '{metric}' is a program on the hub, which would be run; {instead(facts)}" for metric in _metrics_of_hub(settings)]


def instead(facts: TaskFacts) -> str:
    """What to ask in place of a task that cannot be asked."""
    stands = next((entry.name for entry in catalogue().values() if entry.repairs == facts.name), "")
    return f"ask '{stands}' in its place" if stands else "leave the task out of the suite"


def _metrics_of_hub(settings: Mapping[str, Any]) -> list[str]:
    """Metrics that the `evaluate` library would load from the hub: named in the settings, or by a function that they name."""
    from lm_eval.api.registry import get_metric, metric_registry

    get_metric("acc")  # the registry fills itself at the first question
    listed = settings.get("metric_list") or []
    named = [] if "process_results" in settings else [entry for entry in listed if not isinstance(entry["metric"], Function)]  # that function gives the values
    found = [str(entry["metric"]) for entry in named if entry.get("hf_evaluate") or str(entry["metric"]) not in metric_registry]
    for function in functions(dict(settings)):
        if function.module is not None:
            found += _loaded_by(function.module, function.rpartition(".")[2])
    return list(dict.fromkeys(found))


@cache
def _loaded_by(file: Path, function: str) -> tuple[str, ...]:
    """Names X of `evaluate.load("X")` in a module's own code and in a function of it, and in those functions that this one calls."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions_of = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    pending: list[ast.AST] = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    pending += [functions_of[function]] if function in functions_of else []
    seen, found = {function}, list[str]()
    while pending:
        for node in ast.walk(pending.pop()):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in functions_of and called.id not in seen:
                seen.add(called.id)
                pending.append(functions_of[called.id])
            if isinstance(called, ast.Attribute) and called.attr == "load" and "evaluate" in ast.unparse(called.value) and node.args:
                found += [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
    return tuple(found)
