"""Before any model is loaded: every task of a suite is built from staged data and rehearsed, with the network off, and all that is wrong is told at once."""

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.progress import say
from iberlm.core.staged import record_problems
from iberlm.evaluate.catalogue import TaskFacts
from iberlm.evaluate.fingerprint import chat_template_key, context_tokens
from iberlm.evaluate.needs import hub_metrics
from iberlm.evaluate.rehearsal import rehearse, token_counter
from iberlm.evaluate.staging import overrides, source_of, staged
from iberlm.evaluate.tasks import load_task

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
_CONSTANTS = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE"))


def preflight(
    tasks: list[TaskFacts],
    data: list[Path],
    *,
    num_fewshot: int = -1,
    seed: int = 1234,
    chat_template: bool = False,
    model_folder: Path | None = None,
    validation: str = "",
    command: str = "iberlm prefetch evaluate suite=... --out BUNDLE",
    built: dict[str, Any] | None = None,
    remark: Callable[[str], None] = say,
) -> list[str]:
    """Why the suite cannot be asked, a sentence each with its mend; [] when it can.

    Every task's data are found in the folders `data` (or in the cache of the data sets library), it is built, its first items are rendered
    with `num_fewshot` solved examples (-1: as many as its authors report), and made-up answers go through its filters, metrics and
    aggregations. `command` is the `iberlm prefetch` that fills such a folder. What is odd but does not forbid the suite (another number of
    items, another chance level than the catalogue's; prompts longer than the context of the model in `model_folder`) goes to `remark`.
    Tasks that were built are put into `built` by name.
    """
    problems = _chat_template(model_folder, tasks) if chat_template and model_folder is not None else []
    context = context_tokens(model_folder) if model_folder is not None and (model_folder / "config.json").is_file() else None
    length = token_counter(model_folder)
    absent: dict[str, list[str]] = {}
    with _offline():
        for facts in tasks:
            try:
                task = _built(facts, data, validation)
            except _NotThereError as error:
                absent.setdefault(str(error), []).append(facts.name)
                continue
            except (ConfigError, DataError, CorruptError) as error:
                problems.append(f"{facts.name}: {_module_mend(error) or str(error).removeprefix(f'{facts.name}: ')}")
                continue
            shots = facts.num_fewshot if num_fewshot < 0 else num_fewshot
            shots = 0 if task.get_config("num_fewshot") == 0 else shots
            task.set_config("num_fewshot", shots)
            task.set_fewshot_seed(seed)
            findings = rehearse(task, facts, shots, context, length)
            problems += [f"{facts.name}: {problem}" for problem in findings.problems]
            for text in findings.remarks:
                remark(f"evaluate: {facts.name}: {text}")
            if built is not None and not findings.problems:
                task._instances = None
                task.set_fewshot_seed(seed)  # the rehearsal drew solved examples: who asks next draws the same as from a fresh task
                built[facts.name] = task
    where = f"is not in {' or '.join(map(str, data))}" if data else "is nowhere; give data=FOLDER"
    problems += [f"{', '.join(names)}: {title} {where}" for title, names in absent.items()]
    return [*problems, f"what is missing or damaged is gathered, where there is internet, with: {command}"] if absent else problems


class _NotThereError(DataError):
    """A data set that no folder has; says its name."""


def _built(facts: TaskFacts, data: list[Path], validation: str) -> Any:
    """The task with its data. Raises `ConfigError`, `DataError` or `CorruptError` where it cannot be asked without a network."""
    if reasons := hub_metrics(facts):
        raise ConfigError(reasons[0])
    metadata = {"validation": validation} if validation else {}
    source = source_of(facts)
    if source is None:
        return load_task(facts, overrides={}, metadata=metadata)
    found = staged(facts, data)
    if found is None:
        try:
            return load_task(facts, overrides={}, metadata=metadata)  # from the cache of the data sets library
        except DataError as error:
            raise _NotThereError(f"the data set {source.title}") from error
    if problems := record_problems(found.folder, found.record, source.splits, checksums=False):
        raise CorruptError(f"{problems[0]}; gather it again with `iberlm prefetch`")
    if empty := [split for split, rows in found.rows.items() if not rows]:
        raise DataError(f"split '{empty[0]}' of the data set {source.title} in {found.folder} is empty")
    return load_task(facts, overrides=overrides(found), metadata=metadata)


def _module_mend(error: Exception) -> str:
    """What to install where a task's functions import a module that is not there."""
    if not isinstance(error.__cause__, ModuleNotFoundError):
        return ""
    return f"its functions need the Python module '{error.__cause__.name}', which is not installed; `pip install` its package"


def _chat_template(folder: Path, tasks: list[TaskFacts]) -> list[str]:
    if all(facts.raw_text for facts in tasks):
        return []
    try:
        chat_template_key(folder)
    except (ConfigError, DataError) as error:
        return [str(error)]
    return []


@contextmanager
def _offline() -> Iterator[None]:
    """Within: the libraries ask no hub, and neither log nor draw bars. Those that are imported have read their switches already: both are set."""
    import datasets

    with ExitStack() as stack:
        for name in _OFFLINE:
            stack.callback(_restore, name, os.environ.get(name))
            os.environ[name] = "1"
        for module_name, name in _CONSTANTS:
            module = importlib.import_module(module_name)
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, True)
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)  # metrics of a few items complain
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
