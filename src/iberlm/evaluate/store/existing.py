"""Which folder is a result store, and which evaluations are at work in it or were killed."""

import contextlib
from pathlib import Path
from urllib.parse import unquote

from iberlm.core.errors import DataError
from iberlm.evaluate.store.journal import FOLDER, unfinished
from iberlm.evaluate.store.store import MARK, Store

COMPACTION = "compaction"
"""Name of the lock that a process holds which takes files away, or relies on their staying."""


def existing_store(folder: Path, *, just_begun: bool = False) -> Store:
    """The store that is there; nothing is created.

    The mark is written with the first rows: before them a store has a journal alone. Such a one is returned with `just_begun` only. Raises
    `DataError` for it otherwise, with what is at work, and for what is no store; else as `Store`.
    """
    if not (folder / MARK).is_file():
        if not (folder / FOLDER).is_dir():
            raise DataError(f"{folder}: is no result store: it has no {MARK}; the stage evaluate keeps its own in RUN_DIR/store")
        store = Store(folder)  # refuses a folder with other files
        if not just_begun:
            raise DataError("\n  ".join([f"{folder}: has no result yet", *begun_evaluations(folder)]))
        return store
    return Store(folder)


def begun_evaluations(folder: Path) -> list[str]:
    """A line for each evaluation that is not finished, with the process that began it: it may be at work, or was killed."""
    slices, holders = unfinished(folder), _holders(folder)
    lines = []
    for name in sorted(slices.keys() | holders.keys()):
        by = f", begun by {holders[name]}" if holders.get(name) else ""
        count = slices.get(name, 0)
        noted = f"{count:,} {'slice' if count == 1 else 'slices'} in the journal" if count else "no answer in the journal yet"
        lines.append(f"unfinished: {name}{by}, {noted}; the same evaluation goes on from there")
    return lines


def _holders(folder: Path) -> dict[str, str]:
    """Evaluations that have a lock, and what it says of the process."""
    found = {}
    for path in (folder / FOLDER).glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            found[unquote(path.stem)] = path.read_text(encoding="utf-8").strip()
    found.pop(COMPACTION, None)
    return found
