"""Readers of files that are one text or a few: plain text, HTML, DocBook and Mallard XML."""

import re
from pathlib import Path
from typing import Any

from lxml import etree

from iberlm.extract.config import ExtractConfig
from iberlm.extract.html import read_page
from iberlm.extract.records import FileError, Reading, language_claim, text_or_reject
from iberlm.extract.streams import foreign_kind, whole

_SPACE = re.compile(r"\s+")
_PARAGRAPHS = frozenset({"para", "simpara", "formalpara", "title", "subtitle", "term", "p", "seg", "glossterm", "td", "th", "entry"})
_SKIPPED = frozenset(
    {"info", "bookinfo", "articleinfo", "legalnotice", "revhistory", "authorgroup", "author", "othercredit", "copyright", "credit", "indexterm"}
    | {"programlisting", "screen", "screenshot", "mediaobject", "inlinemediaobject", "imageobject", "media", "code", "listing", "literallayout", "synopsis"}
)
"""Elements without running text: credits (names and addresses of persons), code, pictures."""
_CODE_INLINE = frozenset({"code", "media", "inlinemediaobject"})
_SECTIONS = frozenset({"preface", "chapter", "appendix", "sect1"})
"""DocBook elements that begin a document of their own: a handbook is too long to be one."""
_ENTITY = re.compile(r'<!ENTITY\s+([A-Za-z][\w.-]*)\s+(?:"([^"&%]{0,200})"|\'([^\'&%]{0,200})\')\s*>')
_LOWER_CASE_ENTITIES = {"eg": "e.g.", "ie": "i.e.", "etc": "etc.", "nbsp": " ", "hellip": "…", "mdash": "—", "ndash": "–", "copy": "©"}


def _content(path: Path, form: str, config: ExtractConfig) -> bytes:
    data = whole(path, config.max_file_bytes, config.max_expansion_ratio)
    if kind := foreign_kind(data):
        raise FileError(f"not_{form}", f"the file is {kind}")
    return data


def read_text(path: Path, config: ExtractConfig) -> Reading:
    """A plain text file is one document. Rejects: invalid_utf8, no_text, nul, and those of `streams.whole`."""
    data = _content(path, "text", config)
    try:
        yield text_or_reject(data.decode("utf-8-sig"), 0)
    except UnicodeDecodeError as error:
        raise FileError("invalid_utf8", f"byte {error.start}") from error


def read_html(path: Path, config: ExtractConfig) -> Reading:
    """Main content of an HTML page, without navigation. Rejects: not_html, no_text, nul, and those of `streams.whole`.

    The `lang` attribute of the page is its claim; a licence and reservations that stand in the page are taken up (see `rights`).
    """
    page = read_page(_content(path, "html", config), config.html_engine)
    rights = page.rights
    yield text_or_reject(page.text, 0, language=page.language, licence=rights.licence, licence_evidence=rights.evidence, reserved=rights.reserved)


def read_docbook(path: Path, config: ExtractConfig) -> Reading:
    """Paragraphs and headings of DocBook or Mallard XML; a DocBook book is cut at chapters and top sections.

    Entities are never expanded by the parser, no DTD is loaded and nothing is fetched. Rejects: not_xml, no_text, nul,
    and those of `streams.whole`.
    """
    data = _content(path, "xml", config)
    try:
        root = _parse_xml(data)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise FileError("not_xml", str(error)[:200]) from error
    claim = language_claim(root.get("{http://www.w3.org/XML/1998/namespace}lang") or root.get("lang"))
    writer = _Writer(_entities(data))
    writer.walk(root)
    documents = writer.documents()
    if not documents:
        raise FileError("no_text", "no paragraph in it")
    for position, text in enumerate(documents):
        yield text_or_reject(text, position, language=claim)


def _parse_xml(data: bytes) -> Any:
    """Parse without expanding entities. A chapter of a split book has no DOCTYPE, and then its entities are errors: it gets one."""
    if b"<!DOCTYPE" not in data:
        end = data.find(b"?>") + 2 if data.lstrip().startswith(b"<?xml") else 0
        data = data[:end] + b'<!DOCTYPE part SYSTEM "none">' + data[end:]
    parser = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)
    return etree.fromstring(data, parser)


def _entities(data: bytes) -> dict[str, str]:
    """Plain entities of the internal subset, tags removed; those that refer to others are left out, so none can grow."""
    subset = data[:65536].partition(b"]>")[0].decode("utf-8", errors="replace")
    return {name: re.sub(r"<[^>]*>", "", double or single) for name, double, single in _ENTITY.findall(subset)}


class _Writer:
    """Walks an XML tree and gathers its paragraphs, cut into documents."""

    def __init__(self, entities: dict[str, str]) -> None:
        self._entities = entities
        self._documents: list[list[str]] = [[]]

    def documents(self) -> list[str]:
        """Texts of the documents that have more than a heading."""
        return ["\n\n".join(paragraphs) for paragraphs in self._documents if len(paragraphs) > 1]

    def walk(self, element: Any) -> None:
        """Gather the paragraphs below an element (libxml2 refuses trees deeper than 256, so recursion is bounded)."""
        name = _local(element)
        if name in _SKIPPED:
            return
        if name in _SECTIONS:
            self._documents.append([])
        if name in _PARAGRAPHS and not any(_local(child) in _PARAGRAPHS for child in element.iterdescendants()):
            text = _SPACE.sub(" ", self._inline(element)).strip()
            if text:
                self._documents[-1].append(text)
            return
        for child in element:
            self.walk(child)

    def _inline(self, element: Any) -> str:
        parts = [element.text or ""]
        for child in element:
            if child.tag is etree.Entity:
                parts.append(self._entity(child.name))
            elif isinstance(child.tag, str) and _local(child) not in _SKIPPED - _CODE_INLINE:
                parts.append(self._inline(child))
            parts.append(child.tail or "")
        return "".join(parts)

    def _entity(self, name: str) -> str:
        """Text for an entity whose DTD is not here. Their names are near what they stand for: kde, konqueror, Ctrl."""
        if name in self._entities:
            return self._entities[name]
        if name in _LOWER_CASE_ENTITIES:
            return _LOWER_CASE_ENTITIES[name]
        return (name.upper() if len(name) <= 3 else name.capitalize()) if name.islower() else name


def _local(element: Any) -> str:
    return etree.QName(element).localname if isinstance(element.tag, str) else ""
