"""Task files: read without lm-eval where their settings are enough, loaded as lm-eval's tasks where they are asked.

`TaskManager()` reads all of lm-eval's 14,000 task files before it loads one. Here a task is loaded from its own file.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.resources import resource_dir

if TYPE_CHECKING:
    from iberlm.evaluate.catalogue import TaskFacts

_FUNCTION = "!function"


class Function(str):
    """`MODULE.NAME` of a `!function` entry, relative to `folder`, the one of the file that names it."""

    folder: Path

    def __new__(cls, name: str, folder: Path) -> "Function":
        """Make one."""
        made = super().__new__(cls, name)
        made.folder = folder
        return made

    @property
    def module(self) -> Path | None:
        """The module's file below `folder`; None where it is a module of an installed package."""
        path = self.folder / f"{self.rpartition('.')[0].replace('.', '/')}.py"
        return path.resolve() if path.is_file() else None


@cache
def lm_eval_tasks() -> Path:
    """The folder of lm-eval's own tasks, found without importing lm-eval. Raises `ConfigError` when lm-eval is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("evaluation needs lm-eval: pip install 'lm-eval>=0.4.13,<0.5'")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def read_file(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """The settings of a task file with its includes, and the files that were read, `path` first.

    As lm-eval reads them (YAML 1.1, an entry of the file beats that of an include as a whole), but functions stay
    `Function` strings and nothing is executed. Raises `ConfigError` for a file that cannot be read, is no YAML, or
    includes itself.
    """
    return _read(path.resolve(), ())


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path]]:
    if path in above:
        raise ConfigError(f"{path}: includes itself")
    own, merged, files = _parse(path), dict[str, Any](), [path]
    includes = own.get("include", [])
    for include in [includes] if isinstance(includes, str) else includes:
        settings, read = _read((path.parent / include).resolve(), (*above, path))
        merged |= {name: value for name, value in settings.items() if name != "task_list"}  # lists the tasks of the included file only
        files += read
    return merged | {name: value for name, value in own.items() if name != "include"}, files


def _parse(path: Path) -> dict[str, Any]:
    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """As lm-eval's, with functions left alone."""

    Loader.add_constructor(_FUNCTION, lambda loader, node: Function(loader.construct_scalar(node), path.parent))
    try:
        with path.open("rb") as stream:
            settings = yaml.load(stream, Loader=Loader)  # noqa: S506 -- a safe loader, and functions stay strings
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds no settings of a task")
    return settings


def read_config(facts: "TaskFacts") -> dict[str, Any]:
    """The settings of a task with its includes; functions are `Function` strings, nothing is executed."""
    return read_file(facts.file)[0]


def load_task(facts: "TaskFacts", *, overrides: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
    """The lm-eval task of a file, with some settings replaced and metadata added.

    `overrides` are settings of the task (`dataset_path`, `dataset_kwargs`, ...); `metadata` is handed to data sets that
    a function makes. Raises `DataError` when it cannot be made: its data are not there, or its functions fail at import.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        settings = load_yaml(facts.file, resolve_func=True)
    except Exception as error:  # modules of tasks raise what they like
        raise DataError(f"{facts.name}: {facts.file} cannot be loaded ({type(error).__name__}: {error})") from error
    manager = TaskManager(include_defaults=False, metadata=dict(metadata))
    try:
        return manager.load({**settings, **overrides})["tasks"][settings["task"]]
    except Exception as error:  # so do loaders of data sets
        raise DataError(
            f"{facts.name}: cannot be loaded ({type(error).__name__}: {error}); without a network its data set must have been gathered with `iberlm prefetch`"
        ) from error


def task_key_files(facts: "TaskFacts") -> dict[str, str]:
    """SHA-256 by name of every file that decides what a task asks and how it is scored, without importing lm-eval.

    The task file with its includes; the modules of its functions, with those that they import from the same folder; of
    a task of ours also the files of items in its language's folder, but for those of other families (`reading.jsonl`
    belongs to `reading` alone). Names are relative to `eval/` or to lm-eval's tasks.
    """
    settings, files = read_file(facts.file)
    files += _modules(settings)
    if facts.source == "own":
        files += _item_files(facts)
    return {_shown(path): sha256_file(path) for path in sorted(set(files))}


def _modules(settings: Any) -> list[Path]:
    pending = [module for function in functions(settings) if (module := function.module)]
    found: list[Path] = []
    while pending:
        path = pending.pop()
        if path not in found:
            found.append(path)
            pending += _imported(path)
    return found


def functions(settings: Any) -> Iterator[Function]:
    """All functions that the settings of a task name."""
    if isinstance(settings, Function):
        yield settings
    elif isinstance(settings, dict | list):
        for entry in settings.values() if isinstance(settings, dict) else settings:
            yield from functions(entry)


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Modules of lm-eval's tasks or of `eval/` that a module imports, wherever in its text."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names += [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
    places = [(lm_eval_tasks(), name.removeprefix("lm_eval.tasks.")) for name in names if name.startswith("lm_eval.tasks.")]
    places += [(path.parent, name) for name in names]
    found = [(folder / f"{name.replace('.', '/')}.py").resolve() for folder, name in places if name]
    return tuple(dict.fromkeys(module for module in found if module.is_file()))


def _item_files(facts: "TaskFacts") -> list[Path]:
    from iberlm.evaluate.catalogue import own_families

    folder = facts.file.parent
    others = set(own_families()) - {facts.family}
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix not in (".yaml", ".pyc") and path.stem not in others]


def _shown(path: Path) -> str:
    for root in (resource_dir("eval"), lm_eval_tasks()):
        if path.is_relative_to(root.resolve()):
            return path.relative_to(root.resolve()).as_posix()
    return path.as_posix()
