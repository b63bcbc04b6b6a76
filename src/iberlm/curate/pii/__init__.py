"""Personal data in text: found as spans with offsets, replaced by tags or by pseudonyms, or kept, kind by kind.

Found are e-mail addresses, URLs with credentials, IP addresses, telephone numbers, the Spanish identity, tax, Social
Security, passport and health-card numbers, bank accounts, payment cards, plates, cadastral references and positions;
`docs/reference/personal-data.md` says what makes each of them certain. Works alike in Spanish, Catalan, Valencian, Basque, Galician and English.
"""

from typing import TYPE_CHECKING

from iberlm.curate.pii.redaction import POLICIES, redact
from iberlm.curate.pii.spans import KINDS, Span

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["KINDS", "POLICIES", "Span", "find", "find_batch", "redact"]


def find(text: str) -> list[Span]:
    """All spans of a text, in order, none overlapping another. Offsets are code points; lone surrogates are allowed.

    Time is linear in the text's length, whatever it holds.
    """
    # settings are checked and --help is shown with this package imported: the compiled scan and the numbering plans load at first use
    from iberlm.curate.pii.search import find as find_in_text

    return find_in_text(text)


def find_batch(texts: "pa.Array") -> "pa.ListArray":
    """Spans of each text of a string or large_string column: list<struct<start: int32, end: int32, kind: string>>, one list a row.

    The same as `find` on each text, several times as fast: texts without any trigger never become Python strings. A null has an
    empty list. Raises `TypeError` for a column of another type.
    """
    from iberlm.curate.pii.search import find_batch as find_in_column

    return find_in_column(texts)
