"""What can be wrong with a card, as `file:line field - problem - mend`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Location = tuple[str | int, ...]
"""Where in a card: keys and list positions, e.g. ('languages', 0, 'tag')."""


@dataclass(frozen=True)
class Finding:
    """A problem at a place in a card; a warning does not make the card invalid."""

    location: Location
    problem: str
    mend: str
    warning: bool = False


@dataclass(frozen=True)
class Problem:
    """A finding with its file and line (counted from 1)."""

    path: Path
    line: int
    field: str
    problem: str
    mend: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.field} - {self.problem} - {self.mend}"


def spell(location: Sequence[str | int]) -> str:
    """('languages', 0, 'tag') -> 'languages[0].tag'."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "card"
