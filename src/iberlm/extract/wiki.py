"""Reader of MediaWiki XML dumps (`pages-articles`): the running text of articles.

Pages are cut out of the stream by their tags (which cannot stand in escaped text) and parsed one by one, so a damaged page costs itself alone
and nothing but one page is held. Entities are never expanded and no DTD is loaded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lxml import etree

from iberlm.extract.config import ExtractConfig
from iberlm.extract.records import FileError, Reading, Reject, Skip, Text, language_claim, text_or_reject
from iberlm.extract.streams import blocks
from iberlm.extract.wikitext import MarkupError, is_disambiguation, plain_text

_PAGE, _PAGE_END = b"<page>", b"</page>"
_MAX_HEAD_BYTES = 1 << 20
_ESCAPED = 2
"""XML escapes make wikitext longer, and a page has fields beside it: so many times `max_wikitext_bytes` are held."""
_FILE_KEYS, _CATEGORY_KEYS = ("6", "-2"), ("14",)
_DROPPED_NAMES = frozenset({"file", "image", "media", "category"})
"""Names of the namespaces in English, which every wiki understands."""


@dataclass(frozen=True)
class Site:
    """What the head of a dump says of its wiki."""

    base: str = ""
    """Address before a page's title, with its last slash."""
    language: str | None = None
    dropped: frozenset[str] = field(default_factory=lambda: _DROPPED_NAMES)
    """Namespaces, in small letters, whose links show no text: files and categories."""


def read_wiki(path: Path, config: ExtractConfig) -> Reading:
    """Articles of a dump (.xml, or .xml in .bz2, .gz or .zst).

    Skips: redirect, namespace (no article), content_model (no wikitext), disambiguation. Rejects: not_xml, page_too_large, unbalanced_markup (its
    open brackets and tags would keep the parser busy for ever), bad_wikitext, no_text; for the file: not_wiki (no page in it), empty_file,
    truncated_xml (it ends within a page), and those of `streams.blocks`.
    """
    site, position = Site(), -1
    for position, part in enumerate(_parts(blocks(path, config.max_expansion_ratio), _ESCAPED * config.max_wikitext_bytes)):
        if position == 0:
            site = _site(part or b"")
        elif part is None:
            yield Reject(reason="page_too_large", detail=f"more than {_ESCAPED * config.max_wikitext_bytes} bytes", position=position, language=site.language)
        else:
            yield _article(part, position, site, config)
    if position < 0:
        raise FileError("empty_file", "the file is empty")
    if position == 0:
        raise FileError("not_wiki", "there is no <page> in it")


def _parts(source: Iterator[bytes], max_page_bytes: int) -> Iterator[bytes | None]:
    """What stands before the first page, then each page with its tags; None for a page longer than `max_page_bytes`, of which nothing is held."""
    held, begun, skipping = bytearray(), False, False
    for block in source:
        held += block
        while True:
            if not begun:
                start = held.find(_PAGE)
                if start < 0:
                    if len(held) > _MAX_HEAD_BYTES:
                        raise FileError("not_wiki", f"there is no <page> in its first {_MAX_HEAD_BYTES} bytes")
                    break
                yield bytes(held[:start])
                del held[:start]
                begun = True
            end = held.find(_PAGE_END)
            if end < 0:
                if len(held) > max_page_bytes:
                    skipping = True
                    del held[: -len(_PAGE_END)]
                break
            end += len(_PAGE_END)
            yield None if skipping or end > max_page_bytes else bytes(held[:end])
            skipping = False
            following = held.find(_PAGE, end)
            del held[: following if following >= 0 else end]
            if following < 0:
                break
    if not begun and held:
        yield bytes(held)
    elif begun and _PAGE in held:
        raise FileError("truncated_xml", "the file ends within a page")


def _parser() -> Any:
    return etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=True, remove_comments=True, remove_pis=True)


def _site(head: bytes) -> Site:
    """The wiki that the head of a dump describes; what it does not say is left open."""
    root_tag = re.search(rb"<mediawiki\b[^>]*>", head)
    if root_tag is None:
        return Site()
    try:
        root = etree.fromstring(head[root_tag.start() :] + b"</mediawiki>", _parser())
    except etree.XMLSyntaxError:
        return Site()
    base = _text_of(root, "base")
    database = _text_of(root, "dbname")
    stated = root.get("{http://www.w3.org/XML/1998/namespace}lang") or re.sub(r"wiki\w*$", "", database).replace("_", "-")
    dropped = set(_DROPPED_NAMES)
    for namespace in root.iter("{*}namespace"):
        if namespace.get("key") in _FILE_KEYS + _CATEGORY_KEYS and namespace.text:
            dropped.add(namespace.text.strip().lower())
    return Site(base.rpartition("/")[0] + "/" if base else "", language_claim(stated), frozenset(dropped))


def _text_of(element: Any, name: str) -> str:
    return (element.findtext(f".//{{*}}{name}") or "").strip()


def _article(part: bytes, position: int, site: Site, config: ExtractConfig) -> Text | Reject | Skip:
    try:
        page = etree.fromstring(part, _parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        return Reject(reason="not_xml", detail=str(error)[:200], position=position, language=site.language)
    title = _text_of(page, "title")
    revision = (page.findall("{*}revision") or [page])[-1]
    source = _text_of(revision, "text")
    if page.find("{*}redirect") is not None:
        return Skip(reason="redirect", position=position, language=site.language)
    if _text_of(page, "ns") not in ("", "0"):
        return Skip(reason="namespace", position=position, language=site.language)
    if _text_of(revision, "model") not in ("", "wikitext"):
        return Skip(reason="content_model", position=position, language=site.language)
    if is_disambiguation(title, source):
        return Skip(reason="disambiguation", position=position, language=site.language)
    if len(source.encode("utf-8", errors="replace")) > config.max_wikitext_bytes:
        return Reject(reason="page_too_large", detail=f"more than {config.max_wikitext_bytes} bytes", position=position, language=site.language)
    try:
        text = plain_text(source, site.dropped)
    except MarkupError as error:
        return Reject(reason=error.reason, detail=str(error), position=position, language=site.language)
    url = site.base + quote(title.replace(" ", "_"), safe="/:@!$*(),;~'") if site.base and title else None
    record = page.findtext("{*}id") or title or str(position)
    date = _text_of(revision, "timestamp") or None
    return text_or_reject(text, position, record=record, language=site.language, url=url, date=date)
