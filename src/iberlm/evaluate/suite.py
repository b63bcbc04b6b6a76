"""Which tasks of ours there are, found by their files `eval/LANG/FAMILY_LANG.yaml`: no registry, no import of the harness."""

from dataclasses import dataclass
from pathlib import Path

from iberlm.core.files import sha256_file
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir

BITS_PER_BYTE = "bits_per_byte"
"""The family that needs validation documents."""


@dataclass(frozen=True)
class SuiteTask:
    """One task of the harness and the cell of the table that it fills."""

    name: str
    family: str
    language: str


def families() -> dict[str, list[str]]:
    """Families of our own tasks and the languages that each has, both in a fixed order."""
    found: dict[str, list[str]] = {}
    for language in LANGUAGES:
        ending = f"_{file_safe(language)}"
        for path in sorted((resource_dir("eval") / file_safe(language)).glob(f"*{ending}.yaml")):
            found.setdefault(path.stem.removesuffix(ending), []).append(language)
    return found


def own_tasks(names: list[str], languages: list[str]) -> tuple[list[SuiteTask], list[SuiteTask]]:
    """Tasks of the families `names` in `languages`: those that exist, and those for which there is no file."""
    known = families()
    wanted = [SuiteTask(f"{family}_{file_safe(language)}", family, language) for family in names for language in languages]
    return [task for task in wanted if task.language in known[task.family]], [task for task in wanted if task.language not in known[task.family]]


def task_files(tasks: list[SuiteTask]) -> dict[str, str]:
    """SHA-256 of every file that decides what our own tasks ask, by path relative to `eval/`."""
    root = resource_dir("eval")
    folders = [root / "shared", *(root / file_safe(language) for language in sorted({task.language for task in tasks}))]
    return {path.relative_to(root).as_posix(): sha256_file(path) for folder in folders for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".pyc")
