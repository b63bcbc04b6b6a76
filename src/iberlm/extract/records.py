"""What readers yield: a text with what the source says about it, or a reject with the reason."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TAG = re.compile(r"[A-Za-z]{2,3}([-_@.][A-Za-z0-9]{2,8})*")
_SHORT = {"spa": "es", "cat": "ca", "eus": "eu", "baq": "eu", "glg": "gl", "por": "pt", "fra": "fr", "ita": "it", "eng": "en", "oci": "oc", "arg": "an"}
_VALENCIAN = {"valencia", "valencian"}
MAX_FIELD_CHARACTERS = 2048


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text. `record` tells it from the others of its file: the source's own identifier or a position."""

    text: str
    record: str
    position: int
    """Position in the file, from 0: with the source it makes the document's identifier."""
    language: str | None = None
    url: str | None = None
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Something that could not become a document. `reason` is counted as `quarantine_REASON`."""

    reason: str
    detail: str
    position: int | None = None
    """Position of the record, or None for the whole file (or its rest)."""
    language: str | None = None


Reading = Iterator[Text | Reject]


class FileError(Exception):
    """A file cannot be read, or not any further: what came before stands. `reason` and `detail` as in `Reject`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def text_or_reject(
    value: object, position: int, *, record: str | None = None, language: str | None = None, url: str | None = None, date: str | None = None
) -> Text | Reject:
    """Check a decoded text: a string that is not blank, without NUL characters and lone surrogates."""
    if not isinstance(value, str) or not value.strip():
        return Reject(reason="no_text", detail="the text is missing, blank or not a string", position=position, language=language)
    if "\0" in value:
        return Reject(reason="nul", detail="the text holds NUL characters", position=position, language=language)
    if not is_unicode(value):
        return Reject(reason="invalid_unicode", detail="the text holds lone surrogates", position=position, language=language)
    text = value.replace("\r\n", "\n").replace("\r", "\n").strip()
    return Text(text=text, record=record or str(position), position=position, language=language, url=url, date=date)


def is_unicode(value: str) -> bool:
    """Whether a string can be written as UTF-8 (JSON escapes can smuggle in half a surrogate pair)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def field(value: object) -> str | None:
    """A short field of a record as text: strings and integers as they are, dates in ISO 8601, anything else None."""
    if isinstance(value, bool) or value is None:
        return None
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    if isinstance(value, int) and abs(value) < 1 << 63:
        value = str(value)
    if not isinstance(value, str) or not is_unicode(value):
        return None
    return value.replace("\0", "").strip()[:MAX_FIELD_CHARACTERS] or None


def language_claim(value: object) -> str | None:
    """A source's language tag in our spelling: 'es-ES', 'spa' -> 'es'; 'ca@valencia', 'ca_ES.UTF-8@valencia' -> 'ca-valencia'; None for anything else."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    parts = re.split(r"[-_@.]", value.strip().lower())
    if _TAG.fullmatch(value.strip()) is None and _TAG.fullmatch(parts[0]) is None:
        return None
    base = _SHORT.get(parts[0], parts[0])
    if base == "ca" and _VALENCIAN & set(parts[1:]):
        return "ca-valencia"
    return base if 2 <= len(base) <= 3 and base.isalpha() and base.isascii() else None
