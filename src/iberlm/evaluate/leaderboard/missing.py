"""What a full table lacks, and the commands that fill it."""

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from iberlm.evaluate.catalogue import catalogue
from iberlm.evaluate.leaderboard.board import Board, Entrant, Task
from iberlm.evaluate.suite import BITS_PER_BYTE

_ABOUT_TASKS = re.compile(r"\+?suite(\.\w+)?=")
_VALIDATION = "validation="


@dataclass(frozen=True)
class Gap:
    """Tasks of one language that an entrant was not asked (or not as the others were), and what to run."""

    language: str
    tasks: list[Task]
    command: str

    @property
    def count(self) -> int:
        """How many cells it would fill."""
        return len(self.tasks)


def gaps(board: Board, entrants: Sequence[Entrant]) -> list[tuple[Entrant, list[Gap]]]:
    """Every empty or incomparable cell of the board, by entrant and language; entrants without any are left out."""
    found: list[tuple[Entrant, list[Gap]]] = []
    for entrant in entrants:
        base = _base(board, entrant)
        lacking = []
        for language in board.languages:
            tasks = [task for task in board.tasks_in(language) if (cell := board.cell(entrant, task)) is None or cell.aside]
            if tasks:
                lacking.append(Gap(language, tasks, _command(board, base, language, tasks)))
        if lacking:
            found.append((entrant, lacking))
    return found


def _base(board: Board, entrant: Entrant) -> list[str]:
    """The command of one of the entrant's results without what names tasks: model, backend and settings stay as they were."""
    cells = [cell for task in board.tasks for _, cell in board.row_of(task, [entrant]) if cell.row["command"]]
    if not cells:
        return ["iberlm", "evaluate", f"model={entrant.name}"]
    # one that asked what the others did, with validation documents where any of them has some
    chosen = min(cells, key=lambda cell: (bool(cell.aside), _VALIDATION not in cell.row["command"], cell.row["command"]))
    unlimited = bool(chosen.aside)
    try:
        words = shlex.split(chosen.row["command"])
    except ValueError:  # no command line that a shell could read
        return ["iberlm", "evaluate", f"model={entrant.name}"]
    return [word for word in words if not _ABOUT_TASKS.match(word) and not (unlimited and word.startswith("limit="))]


def _command(board: Board, base: Sequence[str], language: str, tasks: Sequence[Task]) -> str:
    known = catalogue()
    families = [task.family for task in tasks if task.name in known]
    others = [task for task in tasks if task.name not in known]
    words = [word for word in base if not word.startswith((_VALIDATION, "store="))]
    words += [f"suite.tasks=[{','.join(families)}]"]
    if families:
        words.append(f"suite.languages=[{language}]")
    by_language: dict[str, list[str]] = defaultdict(list)
    for task in others:
        by_language[task.language].append(task.name)
    if others:
        listed = ", ".join(f"{tag}: [{', '.join(names)}]" for tag, names in by_language.items())
        words.append(f"+suite.upstream={{{listed}}}")
    licences = {task.name: task.licence for task in others}
    if licences:
        words.append(f"+suite.licences={{{', '.join(f'{name}: {licence}' for name, licence in licences.items())}}}")
    if BITS_PER_BYTE in families:
        words.append(next((word for word in base if word.startswith(_VALIDATION)), "validation=RUN_DIR/curate"))
    if board.stores:
        words.append(f"store={board.stores[0]}")
    return shlex.join(words)
