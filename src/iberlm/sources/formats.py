"""Which format a raw file has: by its name, else by its first bytes."""

import bz2
import re
import zlib
from pathlib import Path

import pyarrow as pa

from iberlm.core.errors import DataError

BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".mo": "gettext",
    ".po": "gettext",
    ".docbook": "docbook",
    ".dbk": "docbook",
    ".page": "docbook",
    ".xml": "docbook",
    ".warc": "warc",
    ".wet": "wet",
}
_COMPRESSED = (".gz", ".zst", ".bz2", ".lz4")
_WIKI_DUMP = re.compile(r"-pages-(?:articles|meta-current)[^/]*\.xml[^/]*$")
"""Names of MediaWiki's dumps: cawiki-20240501-pages-articles.xml.bz2."""
_HEAD_BYTES = 4096
_BZIP2_HEAD_BYTES = 1 << 20
"""bzip2 unpacks nothing before it has a whole block, of up to 900 kB."""
_MAN_PATH = re.compile(r"(?:^|/)man(?P<section>[1-9])/[^/]+\.(?P=section)[a-z]*$")
"""Where manual pages lie: man/es/man1/ls.1.gz."""
_MAN_START = re.compile(rb"^[.'][ \t]*(?:TH|Dd|Dt)[ \t]", re.MULTILINE)


def format_of(path: Path, name: str = "") -> str:
    """Format of a file; raises `DataError` when neither its name nor its content tells.

    An empty file is text: extraction puts it into quarantine, as it does with empty files of every format.
    """
    named = Path(name or path)
    while named.suffix.lower() in _COMPRESSED:
        named = named.with_suffix("")
    if _WIKI_DUMP.search(named.name):
        return "wiki"
    if known := BY_SUFFIX.get(named.suffix.lower()):
        return "wiki" if named.suffix.lower() == ".xml" and b"<mediawiki" in _head(path) else known
    if _MAN_PATH.search(named.as_posix()):
        return "man"
    if path.stat().st_size == 0:
        return "text"
    if found := _sniff(_head(path)):
        return found
    raise DataError(f"{path}: neither its name nor its content tells its format; set `format` of the source, or leave the file out of `path`")


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        head = stream.read(_BZIP2_HEAD_BYTES if path.suffix.lower() == ".bz2" else _HEAD_BYTES)
    try:
        if path.suffix.lower() == ".gz":
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        if path.suffix.lower() == ".bz2":
            return bz2.BZ2Decompressor().decompress(head, _HEAD_BYTES)
        if path.suffix.lower() == ".zst":
            return bytes(pa.CompressedInputStream(str(path), "zstd").read(_HEAD_BYTES))
    except (zlib.error, OSError):
        return b""
    return head


def _sniff(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"WARC/"):
        return "wet" if b"WARC-Type: conversion" in head or b".wet" in head[:1024] else "warc"
    if start.startswith((b"<mediawiki", b"<?xml")) and b"<mediawiki" in head:
        return "wiki"
    if head[:4] in (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"):
        return "gettext"
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if start.startswith(b"<?xml"):
        return "html" if b"<html" in head.lower() else "docbook"
    if start.startswith(b"{"):
        return "jsonl"
    if start and b"\0" not in head and _is_text(head):
        return "man" if start[:1] in (b".", b"'") and _MAN_START.search(head) else "text"
    return None


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # a character cut by the end of the head
    return True
