"""What evaluation needs from elsewhere: the model, validation documents, and what lm-eval's own tasks would fetch.

lm-eval's files are read only where its tasks are asked for: that takes some seconds. They are read, not run.
"""

import ast
import difflib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.core.needs import DATASET, MODEL, REFUSED, Need, folder_need, path_need
from iberlm.evaluate.config import EvaluateConfig

_FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow", "xml")
"""Builders of the data sets library that read files named by the task, of no data set on the hub."""


def needs(config: EvaluateConfig) -> list[Need]:
    """Needs of the model and of each task of lm-eval's. Raises `ConfigError` for a task that lm-eval does not have, and for a group of tasks."""
    found = folder_need(MODEL, config.model_folder, "model_folder")
    found += [path_need(config.validation, "validation")] if config.validation else []
    for names in config.suite.upstream.values():
        for name in names:
            found += _of_task(name, _task_config(name))
    return found


@cache
def _index() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    return dict(TaskManager().task_index)


def _task_config(name: str) -> dict[str, Any]:
    """The task's settings, includes resolved; functions stand as `FOLDER/module.function`."""
    index = _index()
    kinds = {task: entry.kind.name for task, entry in index.items()}
    if name not in kinds:
        close = difflib.get_close_matches(name, [task for task, kind in kinds.items() if kind.endswith("TASK")], 3)
        raise ConfigError(f"suite.upstream: lm-eval has no task '{name}'" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    if not kinds[name].endswith("TASK"):
        raise ConfigError(f"suite.upstream: '{name}' is a {kinds[name].lower()} of lm-eval; name its tasks")
    return dict(index[name].cfg or {}) | ({"class": name} if kinds[name] == "PY_TASK" else {})


def _of_task(name: str, settings: dict[str, Any]) -> list[Need]:
    key = f"suite.upstream {name}"
    if "class" in settings or "custom_dataset" in settings:
        return [_refused(name, key, "fetches its data by a program of its own")]
    path = str(settings.get("dataset_path") or "")
    arguments = {entry: value for entry, value in (settings.get("dataset_kwargs") or {}).items() if entry != "trust_remote_code"}
    found = [_refused(name, key, f"its metric '{metric}' is a program on the hub, which would be run") for metric in _metrics_of_hub(settings)]
    if path in _FILE_FORMATS:
        remote = [file for file in _strings(arguments.get("data_files")) if "://" in file]
        return found + [_refused(name, key, f"reads {file} each time that it is loaded") for file in remote[:1]]
    revision = str(arguments.pop("revision", "") or "")
    need = Need(kind=DATASET, name=path, revision=revision, config=str(settings.get("dataset_name") or ""), arguments=arguments, used_by=key)
    return [*found, need] if path and not Path(path).is_dir() else found


def _refused(name: str, key: str, why: str) -> Need:
    return Need(kind=REFUSED, name=name, used_by=key, remark=f"{why}; leave the task out of the suite")


def _metrics_of_hub(settings: dict[str, Any]) -> list[str]:
    """Metrics that the `evaluate` library would load from the hub: named in the settings, or by a function that they name."""
    from lm_eval.api.registry import get_metric, metric_registry

    get_metric("acc")  # the registry fills itself at the first question
    listed = settings.get("metric_list") or []
    named = [] if "process_results" in settings else [entry for entry in listed if "/" not in str(entry["metric"])]  # that function gives the values itself
    found = [str(entry["metric"]) for entry in named if entry.get("hf_evaluate") or str(entry["metric"]) not in metric_registry]
    for reference in dict.fromkeys(_strings(settings)):
        module, _, function = reference.rpartition(".")
        file = Path(f"{module}.py")
        if reference.startswith("/") and function.isidentifier() and file.is_file():
            found += _loaded_by(file, function)
    return list(dict.fromkeys(found))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)


@cache
def _loaded_by(file: Path, function: str) -> tuple[str, ...]:
    """Names X of `evaluate.load("X")` in a module's own code and in a function of it, and in those functions that this one calls."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    pending: list[ast.AST] = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    pending += [functions[function]] if function in functions else []
    seen, found = {function}, list[str]()
    while pending:
        for node in ast.walk(pending.pop()):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in functions and called.id not in seen:
                seen.add(called.id)
                pending.append(functions[called.id])
            if isinstance(called, ast.Attribute) and called.attr == "load" and "evaluate" in ast.unparse(called.value) and node.args:
                found += [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
    return tuple(found)
