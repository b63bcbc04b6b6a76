"""Formats of web archives, dumps and empty files, told by name or content."""

import bz2
import gzip
from pathlib import Path

import pytest

from iberlm.sources.formats import format_of

from .archives import record
from .test_wiki import article, dump

PAGES = record(b"x", kind="response")
TEXTS = record(b"x", kind="conversion")
DUMP = dump(article("A", "x"))


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("CC-MAIN-20240501-00000.warc.gz", gzip.compress(PAGES), "warc"),
        ("CC-MAIN-20240501-00000.warc.wet.gz", gzip.compress(TEXTS), "wet"),
        ("a.warc", PAGES, "warc"),
        ("a.warc.zst", b"", "warc"),
        ("a.warc.lz4", b"", "warc"),
        ("archive", PAGES, "warc"),
        ("texts.gz", gzip.compress(TEXTS), "wet"),
        ("cawiki-20240501-pages-articles.xml.bz2", bz2.compress(DUMP), "wiki"),
        ("eswiki-20240501-pages-articles-multistream1.xml-p1p159400.bz2", bz2.compress(DUMP), "wiki"),
        ("export.xml", DUMP, "wiki"),
        ("export.xml.bz2", bz2.compress(DUMP), "wiki"),
        ("export", DUMP, "wiki"),
        ("book.xml", b"<?xml version='1.0'?><book/>", "docbook"),
        ("a.jsonl.bz2", b"", "jsonl"),
        ("nothing", b"", "text"),
        ("nothing.gz", b"", "text"),
    ],
)
def test_format_by_name_and_content(tmp_path: Path, name: str, content: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert format_of(tmp_path / name) == form
