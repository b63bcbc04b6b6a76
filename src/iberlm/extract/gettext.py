"""Reader of gettext catalogues (.mo and .po): translated messages that are running text, joined to documents.

The .mo layout is that of the GNU gettext manual, section 10.3: magic number, revision, count and offsets of two tables
of (length, offset) pairs.
"""

import codecs
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from iberlm.extract.config import ExtractConfig
from iberlm.extract.records import FileError, Reading, is_unicode, language_claim, text_or_reject
from iberlm.extract.streams import foreign_kind, whole

_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_CHARSET = re.compile(r"charset=([A-Za-z0-9_.:-]+)")
_LANGUAGE = re.compile(r"^Language:\s*([A-Za-z0-9_@.-]+)\s*$", re.MULTILINE)
_BLOCK_MARKUP = re.compile(r"</?(?:p|para|br|nl|li|item|ul|ol|list|title|note|warning|table|tr|td|th|h[1-6]|div|dt|dd)\b[^<>]{0,200}>", re.IGNORECASE)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
_ACCELERATOR = re.compile(r"&(?=\w)(?!#?\w{1,10};)|(?<!\w)_(?=[^\W_])")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "r": "\r", "a": "", "b": "", "f": "", "v": ""}
_CREDITS = re.compile(r"[^\s@]+@[^\s@]+\.[a-z]{2,}", re.IGNORECASE)
"""A message with an e-mail address is nearly always the list of translators."""

Message = tuple[str, str]
"""Original and translation; the header is the message with the empty original."""


def read_gettext(path: Path, config: ExtractConfig) -> Reading:
    """Documents of about `catalogue_document_bytes` out of a catalogue's messages, in their order.

    Messages that equal their original (not translated), short ones and repeated ones are passed over. Rejects:
    not_gettext, invalid_utf8, no_text (nothing translated in it), and those of `streams.whole`.
    """
    data = whole(path, config.max_file_bytes, config.max_expansion_ratio)
    if data[:4] in _MAGIC:
        messages = list(_mo_messages(data))
    elif kind := foreign_kind(data):
        raise FileError("not_gettext", f"the file is {kind}")
    else:
        messages = list(_po_messages(data))
    header = next((translation for original, translation in messages if not original), "")
    found = _LANGUAGE.search(header)
    claim = language_claim(found.group(1)) if found else None
    position = -1
    for position, text in enumerate(_documents(messages, config)):
        yield text_or_reject(text, position, language=claim)
    if position < 0:
        raise FileError("no_text", f"none of its {len(messages)} messages is running text")


def _documents(messages: list[Message], config: ExtractConfig) -> Iterator[str]:
    kept: list[str] = []
    size, seen = 0, set[str]()
    for original, translation in messages:
        text = _running_text(translation)
        if not original or translation == original or len(text.split()) < config.min_message_words or text in seen or not is_unicode(text) or "\0" in text:
            continue
        seen.add(text)
        kept.append(text)
        size += len(text.encode("utf-8"))
        if size >= config.catalogue_document_bytes:
            yield "\n\n".join(kept)
            kept, size = [], 0
    if kept:
        yield "\n\n".join(kept)


def _running_text(translation: str) -> str:
    """A message without markup and accelerator marks; empty for lists of translators."""
    if _CREDITS.search(translation):
        return ""
    text = _ACCELERATOR.sub("", _MARKUP.sub("", _BLOCK_MARKUP.sub("\n", translation)))
    return "\n".join(line for line in (" ".join(line.split()) for line in text.split("\n")) if line)


def _mo_messages(data: bytes) -> Iterator[Message]:
    order = _MAGIC[data[:4]]
    try:
        _, count, originals, translations = struct.unpack_from(f"{order}4I", data, 4)
        if count > len(data) // 16:
            raise FileError("not_gettext", f"its header promises {count} messages, more than fit in")
        spans = [struct.unpack_from(f"{order}2I", data, table + 8 * index) for index in range(count) for table in (originals, translations)]
    except struct.error as error:
        raise FileError("not_gettext", f"the file is cut short ({error})") from error
    if any(length + offset > len(data) for length, offset in spans):
        raise FileError("not_gettext", "the file is cut short")
    if sum(length for length, _ in spans) > len(data):
        raise FileError("not_gettext", "its messages overlap")  # a small file could unfold to any size
    strings = [data[offset : offset + length] for length, offset in spans]
    pairs = list(zip(strings[::2], strings[1::2], strict=True))
    header = next((translation for original, translation in pairs if not original), b"")
    charset = _charset(header)
    for original, translation in pairs:
        # a context ends with EOT; plural forms are NUL apart, and the last is the plural
        yield _decode(original, charset).rpartition("\x04")[2].partition("\0")[0], _decode(translation, charset).split("\0")[-1]


def _charset(header: bytes) -> str:
    found = _CHARSET.search(header.decode("latin-1"))
    try:
        return "utf-8" if found is None else codecs.lookup(found.group(1)).name
    except LookupError:
        return "utf-8"


def _decode(value: bytes, charset: str) -> str:
    try:
        return value.decode(charset)
    except (UnicodeError, LookupError) as error:
        raise FileError("invalid_utf8", f"a message is not in {charset}") from error


def _po_messages(data: bytes) -> Iterator[Message]:
    """Messages of a .po file: `msgid`, `msgid_plural`, `msgstr`, `msgstr[N]` and continued strings; fuzzy and obsolete ones left out."""
    if b"msgid" not in data:
        raise FileError("not_gettext", "the file has no message")
    current: dict[str, list[str]] = {}
    key, fuzzy = "", False
    for line in _decode(data.removeprefix(b"\xef\xbb\xbf"), _charset(data[:8192])).splitlines():
        line = line.strip()
        if line.startswith("#"):
            if "msgstr" in current or "msgstr[0]" in current:
                yield from _po_message(current, fuzzy)
                current, key, fuzzy = {}, "", False
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
            continue
        keyword, _, rest = line.partition(" ")
        if keyword in ("msgctxt", "msgid", "msgid_plural") or keyword.startswith("msgstr"):
            if keyword in ("msgctxt", "msgid") and any(name.startswith("msgstr") for name in current):
                yield from _po_message(current, fuzzy)
                current, fuzzy = {}, False
            key = keyword
            current[key] = [_unquote(rest)]
        elif line.startswith('"') and key:
            current[key].append(_unquote(line))
    yield from _po_message(current, fuzzy)


def _po_message(current: dict[str, list[str]], fuzzy: bool) -> Iterator[Message]:
    original = "".join(current.get("msgid", []))
    forms = ["".join(parts) for name, parts in current.items() if name.startswith("msgstr")]
    if forms and (not fuzzy or not original):  # msginit marks headers fuzzy
        yield original, forms[-1]


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return ""
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape.group(1), escape.group(1)), text[1:-1])
