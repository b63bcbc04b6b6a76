"""Numbers, sizes, times and foreign text as a reader sees them. Nothing here raises on odd values: they are shown as what they are."""

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from iberlm.core.languages import LANGUAGES, NAMES, NEIGHBOURS, UNDETERMINED

NONE = "–"
"""What a table shows where there is no value."""
MAX_EXCERPT_CHARACTERS = 6000
_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_INVISIBLE = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNNAMED = {UNDETERMINED: "Undetermined", "other": "Another language"}
_ORDER = {tag: index for index, tag in enumerate((*LANGUAGES, *NEIGHBOURS, UNDETERMINED))}


def real(value: Any) -> float | None:
    """`value` as a finite float, or None when it is not one (a missing key, text, NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def dig(value: Any, *keys: str) -> Any:
    """Value below nested dictionaries, None when any of them is missing."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dictionary, an empty one otherwise; keys as text."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def whole(value: Any) -> str:
    """A count with thousands separators."""
    number = real(value)
    return NONE if number is None else f"{number:,.0f}"


def decimal(value: Any, digits: int = 3) -> str:
    """A number with a fixed count of decimals."""
    number = real(value)
    return NONE if number is None else f"{number:,.{digits}f}".replace("-", "−")


def percent(part: float, total: float) -> str:
    """A share, with one decimal below ten per cent."""
    if not total:
        return NONE
    share = 100 * part / total
    return f"{share:.1f} %" if 0 < share < 10 else f"{share:.0f} %"


def short_count(value: Any) -> str:
    """A large count in three digits: 3.41 M."""
    number = real(value)
    if number is None:
        return NONE
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return f"{number:,.0f}"


def duration(value: Any) -> str:
    """Seconds as a person says them."""
    seconds = real(value)
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    total = round(seconds)
    hours, minutes = divmod(total // 60, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {total % 60:02d} s"


def size(value: Any) -> str:
    """Bytes in binary units."""
    number = real(value)
    if number is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def energy(value: Any) -> str:
    """Watt-hours, kilowatt-hours from a thousand on."""
    number = real(value)
    if number is None:
        return NONE
    return f"{number / 1000:,.1f} kWh" if number >= 1000 else f"{number:.2f} Wh" if number >= 0.005 or number == 0 else "< 0.01 Wh"


def clean(text: Any) -> str:
    """Any text as HTML can carry it: control characters become visible symbols, lone surrogates U+FFFD.

    HTML forbids U+0000 and the C0 and C1 controls; browsers drop or replace them, so a reader would not see that they
    were there. Line ends and tabs stay.
    """
    if not isinstance(text, str):
        text = NONE if text is None else str(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(_visible(character) if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def shorten(text: str) -> str:
    """The beginning of a text that is too long for the page."""
    return text if len(text) <= MAX_EXCERPT_CHARACTERS else text[:MAX_EXCERPT_CHARACTERS] + " …"


def line(text: Any) -> str:
    """Cleaned text on one line, without marks that turn the writing direction: for headings, cells and chart labels."""
    return " ".join(_INVISIBLE.sub("", clean(text)).split())


def tag(value: Any) -> str:
    """A language tag that may stand in a `lang` attribute; empty (HTML's 'unknown') for what is none, and for `und`."""
    return value if isinstance(value, str) and value != UNDETERMINED and _TAG.fullmatch(value) else ""


def language_name(value: str) -> str:
    """English name of a language, its tag where we know none."""
    return _UNNAMED.get(value) or NAMES.get(value) or line(value)


def counted_name(value: str) -> str:
    """As `language_name`, of what curation counts a document under: one of our languages, or none of them."""
    return "Other languages" if value == UNDETERMINED else language_name(value)


def ordered(tags: Iterable[str]) -> list[str]:
    """Language tags in the order of every table: ours, their neighbours, undetermined, others by name."""
    return sorted({str(entry) for entry in tags}, key=lambda entry: (_ORDER.get(entry, len(_ORDER)), entry))


def spoken(name: str) -> str:
    """A key as words: `near_duplicate` -> `near duplicate`."""
    return line(name).replace("_", " ")


def listed(words: Iterable[str]) -> str:
    """Words in a sentence: 'a, b and c'."""
    found = list(words)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""
