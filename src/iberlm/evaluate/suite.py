"""Which tasks a suite asks: families of the catalogue in languages, and further tasks by name. No import of the harness."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iberlm.core.files import sha256_file
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.resources import resource_dir
from iberlm.evaluate.catalogue import catalogue
from iberlm.evaluate.tasks import task_key_files

if TYPE_CHECKING:
    from iberlm.evaluate.config import SuiteConfig

__all__ = ["BITS_PER_BYTE", "SuiteTask", "families", "own_tasks", "resolve", "task_files", "task_key_files"]
BITS_PER_BYTE = "bits_per_byte"
"""The family that needs validation documents."""


@dataclass(frozen=True)
class SuiteTask:
    """One task of the harness and the cell of the table that it fills."""

    name: str
    family: str
    language: str


def families() -> dict[str, list[str]]:
    """Families of the catalogue and the languages that each has: our own first, by name, languages in the order of every table."""
    found: dict[str, list[str]] = {}
    for facts in sorted(catalogue().values(), key=lambda facts: (facts.source != "own", facts.family, LANGUAGES.index(facts.language))):
        found.setdefault(facts.family, []).append(facts.language)
    return found


def own_tasks(names: list[str], languages: list[str]) -> tuple[list[SuiteTask], list[SuiteTask]]:
    """Tasks of the families `names` in `languages`: those that exist, and those that do not (named FAMILY_LANG)."""
    cells = {(facts.family, facts.language): facts.name for facts in catalogue().values()}
    wanted = [(family, language) for family in names for language in languages]
    found = [SuiteTask(cells[cell], *cell) for cell in wanted if cell in cells]
    return found, [SuiteTask(f"{family}_{file_safe(language)}", family, language) for family, language in wanted if (family, language) not in cells]


def resolve(suite: "SuiteConfig") -> tuple[list[SuiteTask], list[SuiteTask]]:
    """The tasks of a suite in its order, each once, and the cells (family and language) that no task fills.

    Families come first, then `upstream`. Whether a task has a licence is for `task_facts` to say.
    """
    found, missing = own_tasks(suite.tasks, suite.languages)
    known = catalogue()
    for language, names in suite.upstream.items():
        for name in names:
            facts = known.get(name)
            found.append(SuiteTask(name, facts.family if facts else name, facts.language if facts else language))
    return list(dict.fromkeys(found)), missing


def task_files(tasks: list[SuiteTask]) -> dict[str, str]:
    """SHA-256 of every file that decides what our own tasks ask, by path relative to `eval/`."""
    root = resource_dir("eval")
    folders = [root / "shared", *(root / file_safe(language) for language in sorted({task.language for task in tasks}))]
    return {path.relative_to(root).as_posix(): sha256_file(path) for folder in folders for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".pyc")
