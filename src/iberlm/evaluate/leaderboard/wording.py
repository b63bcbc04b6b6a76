"""Numbers, names and dates as the leaderboard writes them, and file names from other people's words."""

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

from markupsafe import Markup, escape

from iberlm.core.languages import LANGUAGES, NAMES

NONE = "–"
MINUS = "−"
_SLUG_CHARACTERS = 60
_SIZES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def number(value: float | None, digits: int = 1) -> str:
    """A number with a real minus sign; a dash for none, `not a number` for NaN."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not a number"
    text = f"{value:.{digits}f}"
    return MINUS + text[1:] if text.startswith("-") and float(text) else text.removeprefix("-")


def between(low: float | None, high: float | None, digits: int = 1) -> str:
    """The ends of an interval; empty where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, digits)} to {number(high, digits)}"


def digits_of(*values: float | None) -> int:
    """Decimals for a metric on its own scale: 3 for shares and bits per byte, 1 for metrics in hundreds."""
    return 1 if any(value is not None and math.isfinite(value) and abs(value) >= 20 for value in values) else 3


def count(value: int | None) -> str:
    """A whole number with thin spaces between thousands."""
    return NONE if value is None else f"{value:,}".replace(",", "\u202f")


def size(parameters: int | None) -> str:
    """Parameters in three figures: `6.74 B`."""
    if parameters is None:
        return "unknown"
    for unit, letter in _SIZES:
        if parameters >= unit:
            return f"{parameters / unit:.3g}\u202f{letter}"
    return str(parameters)


def day(seconds: float | None) -> str:
    """The day of a moment, in UTC."""
    return NONE if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def language_name(tag: str) -> str:
    """English name of a language; the tag itself where it is none of ours."""
    return NAMES.get(tag, tag)


def language_rank(tag: str) -> tuple[int, str]:
    """For sorting: ours in the order of every table, then the others."""
    return (LANGUAGES.index(tag), "") if tag in LANGUAGES else (len(LANGUAGES), tag)


def words(name: str) -> str:
    """`language_modelling` -> `language modelling`."""
    return name.replace("_", " ")


def breakable(name: str) -> Markup:
    """A name for HTML that may be broken after what joins its parts."""
    return Markup(re.sub(r"(?<=[/_-])(?=[^/_-])", "<wbr>", str(escape(name))))  # noqa: S704 (escaped; no entity holds these characters)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence; the rest is counted."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What models are called in tables: names of a hub as they are, paths by as many of their last parts (two or more) as tell them apart."""
    found: dict[str, str] = {}
    paths = [name for name in dict.fromkeys(names) if _is_path(name)]
    for name in dict.fromkeys(names):
        if name not in paths:
            found[name] = name
            continue
        parts = PurePosixPath(name).parts
        for length in range(2, len(parts) + 1):
            tail = parts[-length:]
            if sum(PurePosixPath(other).parts[-length:] == tail for other in paths) == 1:
                break
        found[name] = "/".join(parts[-length:]).replace("//", "/") if len(parts) > 1 else name
    return found


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


class Slugs:
    """Names for files from any text: readable where it can be, never the same twice, nor on a file system that does not tell capitals."""

    def __init__(self, characters: int = _SLUG_CHARACTERS) -> None:
        self._characters = characters
        self._taken: dict[str, str] = {}

    def of(self, text: str) -> str:
        """The same text gives the same name."""
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")[: self._characters]
        if not slug or slug != text.replace("/", "-") or self._taken.get(slug.lower(), text) != text:
            slug = f"{slug or 'name'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self._taken[slug.lower()] = text
        return slug
