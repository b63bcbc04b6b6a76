"""Which tasks a suite asks: families of the catalogue in languages, and further tasks by name. No import of the harness."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.evaluate.catalogue import OWN, UNKNOWN, TaskFacts, catalogue
from iberlm.evaluate.tasks import task_key_files

if TYPE_CHECKING:
    from iberlm.evaluate.config import SuiteConfig

__all__ = ["BITS_PER_BYTE", "SuiteTask", "families", "resolve", "task_key_files", "why_missing"]
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
    for facts in sorted(catalogue().values(), key=lambda facts: (facts.source != OWN, facts.family, LANGUAGES.index(facts.language))):
        found.setdefault(facts.family, []).append(facts.language)
    return found


def resolve(suite: "SuiteConfig") -> tuple[list[SuiteTask], list[SuiteTask]]:
    """The tasks of a suite in its order, each once, and the cells (family and language) that no task fills; `why_missing` says why.

    Families come first, then the names in `suite.upstream`. A family has no task in a language where nobody has stated the
    licence of its data (`suite.licences` can); a task that is named without a licence is for `task_facts` to refuse.
    """
    found, missing = _cells(suite.tasks, suite.languages, {cell: facts for cell, facts in _by_cell().items() if _may_be_asked(facts, suite.licences)})
    known = catalogue()
    for language, names in suite.upstream.items():
        for name in names:
            facts = known.get(name)
            found.append(SuiteTask(name, facts.family if facts else name, facts.language if facts else language))
    return list(dict.fromkeys(found)), missing


def why_missing(missing: Iterable[SuiteTask]) -> list[str]:
    """Sentences on the cells that no task fills: a line a language, and one for those whose data have no known licence."""
    cells, tasks = _by_cell(), list(missing)
    without_licence = [cells[(task.family, task.language)].name for task in tasks if (task.family, task.language) in cells]
    lines = []
    for language in LANGUAGES:
        absent = [task.family for task in tasks if task.language == language and (task.family, language) not in cells]
        lines += [f"no task in {language}: {', '.join(absent)}"] if absent else []
    if without_licence:
        lines.append(f"left out, as nobody has stated a licence for their data: {', '.join(without_licence)} (suite.licences can)")
    return lines


def _by_cell() -> dict[tuple[str, str], TaskFacts]:
    return {(facts.family, facts.language): facts for facts in catalogue().values()}


def _may_be_asked(facts: TaskFacts, licences: dict[str, str]) -> bool:
    return facts.licence != UNKNOWN or facts.name in licences


def _cells(names: list[str], languages: list[str], cells: dict[tuple[str, str], TaskFacts]) -> tuple[list[SuiteTask], list[SuiteTask]]:
    wanted = [(family, language) for family in names for language in languages]
    found = [SuiteTask(cells[cell].name, *cell) for cell in wanted if cell in cells]
    return found, [SuiteTask(f"{family}_{file_safe(language)}", family, language) for family, language in wanted if (family, language) not in cells]
