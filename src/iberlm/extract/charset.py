"""Bytes of a web page to text: marks and declarations honoured, but never against what the bytes show."""

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_HEAD_BYTES = 4096
_META = re.compile(rb"""<(?:meta|\?xml)\b[^>]{0,500}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_FALLBACK = "cp1252"
"""What the web takes Western text without a declaration for (WHATWG, Encoding)."""
_ASCII = bytes(range(128))
_MIN_GOOD_PER_BAD = 2
"""Characters of several bytes for each byte that is wrong, for a page to be UTF-8: in text of another set they hardly occur."""


def decode(data: bytes, declared: str | None = None) -> str:
    """The text of a page. `declared` is the character set of its Content-Type field.

    In this order: a byte order mark; UTF-8 when the bytes are that (other sets hardly ever make valid UTF-8 by chance, and many pages are
    declared wrongly); UTF-16 by its zero bytes; UTF-8 with a few wrong bytes, which become U+FFFD; the declared set, of the field before
    that of the page; the set that a detector finds. Never raises.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, errors="replace")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start >= len(data) - 3 and error.reason == "unexpected end of data":  # an archive cut the page
            return data[: error.start].decode("utf-8")
    else:
        if b"\0" not in data:
            return text
    if (sixteen := _utf16(data)) is not None:
        return data.decode(sixteen, errors="replace")
    if _mostly_utf8(data):
        return data.decode("utf-8", errors="replace")
    return data.decode(_declared(declared) or _declared(_in_page(data)) or _detected(data), errors="replace")


def _utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: of Latin text every other byte is zero."""
    head = data[: _HEAD_BYTES & ~1]
    zeros = head.count(0)
    if zeros * 3 < len(head):
        return None
    return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"


def _mostly_utf8(data: bytes) -> bool:
    text = data.decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    good = len(text) - bad - (len(data) - len(data.translate(None, _ASCII)))
    return good >= _MIN_GOOD_PER_BAD * bad


def _in_page(data: bytes) -> str | None:
    found = _META.search(data, 0, _HEAD_BYTES)
    return found.group(1).decode("ascii") if found else None


def _declared(label: str | None) -> str | None:
    """Python's name of a declared set; None for none, an unknown one, and UTF-8 and UTF-16, which the bytes have ruled out."""
    codec = map_encoding_to_html5(label.strip(" \"'"), fallback_utf8=False) if label else None
    return codec if codec and not codec.lower().startswith("utf") and _known(codec) else None


def _detected(data: bytes) -> str:
    codec = detect_encoding(data)
    return codec if codec and not codec.lower().startswith("utf") and _known(codec) else _FALLBACK


def _known(codec: str) -> bool:
    try:
        return not codecs.lookup(codec).name.startswith("unicode")
    except LookupError:
        return False
