"""What readers yield: a text with what the source says about it, a reject with the reason, or a record passed over."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as field_of
from typing import Any

_TAG = re.compile(r"[A-Za-z]{2,3}([-_@.][A-Za-z0-9]{2,8})*")
_SHORT = {"spa": "es", "cat": "ca", "eus": "eu", "baq": "eu", "glg": "gl", "por": "pt", "fra": "fr", "ita": "it", "eng": "en", "oci": "oc", "arg": "an"}
_VALENCIAN = {"valencia", "valencian"}
MAX_FIELD_CHARACTERS = 2048


@dataclass(slots=True, kw_only=True)
class Text:
    """One text. `record` tells it from the others of its file: the source's own identifier or a position."""

    text: str
    record: str
    position: int
    """Position in the file, from 0: with the source it makes the document's identifier."""
    language: str | None = None
    url: str | None = None
    date: str | None = None
    licence: str | None = None
    """SPDX expression that the record or the page states; None leaves it to the data card."""
    licence_evidence: str | None = None
    """The link by which a page states its licence."""
    http_status: int | None = None
    content_type: str | None = None
    data: bytes = field_of(default=b"", compare=False, repr=False)
    """UTF-8 of the text, once it is normalised."""
    reserved: list[str] | None = None
    """Signals by which the page reserves its use; empty when there are none, None where none could stand."""


@dataclass(slots=True, kw_only=True)
class Reject:
    """Something that could not become a document. `reason` is counted as `quarantine_REASON`."""

    reason: str
    detail: str
    position: int | None = None
    """Position of the record, or None for the whole file (or its rest)."""
    language: str | None = None


@dataclass(slots=True, kw_only=True)
class Skip:
    """A record in order that is no document: an image, a redirect. Counted as `skipped_REASON`, not kept in quarantine."""

    reason: str
    position: int | None = None
    language: str | None = None


Reading = Iterator[Text | Reject | Skip]


class FileError(Exception):
    """A file cannot be read, or not any further: what came before stands. `reason` and `detail` as in `Reject`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def text_or_reject(value: object, position: int, *, record: str | None = None, language: str | None = None, **claims: Any) -> Text | Reject:
    """A `Text` of a string that is not blank; `claims` are its other fields."""
    if not isinstance(value, str) or not value or value.isspace():
        return Reject(reason="no_text", detail="the text is missing, blank or not a string", position=position, language=language)
    return Text(text=value, record=record or str(position), position=position, language=language, **claims)


def is_unicode(value: str) -> bool:
    """Whether a string can be written as UTF-8 (JSON escapes can smuggle in half a surrogate pair)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def field(value: object) -> str | None:
    """A short field of a record as text: strings and integers as they are, dates in ISO 8601, anything else None."""
    if isinstance(value, str) and value.isascii() and value.isprintable():  # nearly all: nothing to look into
        return value.strip()[:MAX_FIELD_CHARACTERS] or None
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
