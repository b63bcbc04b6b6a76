"""Main text of HTML pages by one of two engines, with the guards that keep a hostile page from stopping the run."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from iberlm.extract.charset import decode
from iberlm.extract.records import FileError, language_claim
from iberlm.extract.rights import Rights, page_rights

_FURNITURE = ["div.navheader", "div.navfooter", "div.toc", "ul.docnav"]
"""What manuals made with DocBook XSL and Publican put around a page, and the main-content heuristics let through."""

_MANY_TAGS = 2000
_MAX_FORMATTING = 500
"""Formatting elements with attributes: the standard has a parser open those left open again in every paragraph, and time grows with their cube."""
_FORMATTING = re.compile(r"<(?:[bisu]|big|code|em|font|small|strike|strong|tt)[\s/][^<>]*>", re.IGNORECASE)
_FORMATTING_END = re.compile(r"</(?:[bisu]|big|code|em|font|small|strike|strong|tt)\s*>", re.IGNORECASE)
_OPTION = re.compile(r"<option\b[^<]*", re.IGNORECASE)
_MAX_TAG_CHARACTERS = 1 << 14
"""A longer tag loses its attributes: time grows with the square of their number."""
_TAG_NAME = re.compile(r"<[A-Za-z][\w:-]{0,40}")
_VERY_MANY_TAGS = 8000
"""Fewer tags cannot nest so deep that the main content takes more than seconds to find."""
_DEEP = " > ".join("*" * 256)
"""Matches an element at a depth where finding the main content takes too long: time grows with the square of the depth."""


@dataclass(slots=True)
class Page:
    """Main text of a page, its own word on its language, and its rights."""

    text: str
    language: str | None
    rights: Rights


def read_page(data: bytes, engine: str, charset: str | None = None, fields: Iterable[tuple[str, str]] = ()) -> Page:
    """Read a page of `data`; `charset` and `fields` are what its HTTP header says.

    `engine` is one of `config.HTML_ENGINES`. NUL characters are left out. Raises `FileError` (`not_html`) when there is no element in it or
    the parser gives up.
    """
    if b"<" not in data:
        raise FileError("not_html", "the file has no element")
    html, tags = decode(data, charset), data.count(b"<")
    if b"\0" in data:
        html = html.replace("\0", "")
    html = tame(html, tags)
    try:
        tree = HTMLTree.parse(html)
        root = tree.document.first_element_child if tree.document is not None else None
        claim = language_claim(root.getattr("lang") or root.getattr("xml:lang")) if root is not None else None
        rights = page_rights(tree, data.lower(), fields)
        text = _by_trafilatura(html) if engine == "trafilatura" else _by_resiliparse(tree, main_content=not _is_deep(tree, tags))
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise FileError("not_html", f"{type(error).__name__}: {error}"[:200]) from error
    return Page(text, claim, rights)


def _by_resiliparse(tree: Any, *, main_content: bool) -> str:
    return str(extract_plain_text(tree, preserve_formatting=True, main_content=main_content, list_bullets=False, alt_texts=False, skip_elements=_FURNITURE))


def _by_trafilatura(html: str) -> str:
    import trafilatura  # an optional extra: `extract.run` has made sure that it is there

    return trafilatura.extract(html, include_comments=False, include_tables=True, include_images=False, include_links=False) or ""


def _is_deep(tree: Any, tags: int) -> bool:
    """Whether a page nests so deep that all of its text is taken instead of the main content."""
    return tags > _VERY_MANY_TAGS and tree.document is not None and tree.document.query_selector(_DEEP) is not None


def tame(html: str, tags: int) -> str:
    """The page without what is known to keep the parser busy for minutes: hundreds of open formatting elements, thousands of
    options of a form, thousands of attributes of a tag. `tags` is about their number. An ordinary page comes back as it is, and no running text is lost.
    """
    if tags > _MANY_TAGS:
        if sum(1 for _ in _FORMATTING.finditer(html)) > _MAX_FORMATTING and _leaves_open(html):
            html = _FORMATTING_END.sub("", _FORMATTING.sub("", html))
        if sum(1 for _ in _OPTION.finditer(html)) > _MANY_TAGS:
            html = _OPTION.sub("", html)
    if any(html.find(">", start, start + _MAX_TAG_CHARACTERS) < 0 for start in range(0, len(html) - _MAX_TAG_CHARACTERS, _MAX_TAG_CHARACTERS)):
        html = ">".join(map(_short_tag, html.split(">")))
    return html


def _leaves_open(html: str) -> bool:
    return sum(1 for _ in _FORMATTING_END.finditer(html)) < sum(1 for _ in _FORMATTING.finditer(html))


def _short_tag(part: str) -> str:
    """What stands before a '>', without the attributes of an enormous tag; what holds an end tag is no tag but a script."""
    if len(part) <= _MAX_TAG_CHARACTERS or (name := _TAG_NAME.search(part)) is None or "</" in part[name.end() :]:
        return part
    return part[: name.end()]
