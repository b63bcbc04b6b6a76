"""Wikitext to running text: templates, tables, references, files and categories are left out, headings and lists keep their lines."""

import re
from collections.abc import Iterator
from typing import Any

MAX_MARKS = 150_000
"""Pages with more marks of markup take longer than ten seconds to parse."""
MAX_OPEN_WORK = 20_000_000
"""Open marks times characters: the parser tries each open bracket or tag to the end of the page, about ten million characters a second."""

_MARK = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|<!--|-->|<(?P<end>/?)(?P<tag>[A-Za-z][A-Za-z0-9]*)|/>|''+|^[*#:;]+", re.MULTILINE)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|", "-->": "<!--"}
_NEVER_CLOSED = frozenset({"br", "hr", "wbr", "img", "references"})
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:desambigua(?:ci[oó]n?|ção|da|r)?|desambig|desambigación|disambig(?:uation|ua)?|dab|homónimos|homonymie|argipen|omonimia|omonímia|dixebra|hndis)"
    r"[^{}|]{0,40}(?:\||\}\})|__DISAMBIG__",
    re.IGNORECASE,
)
_DISAMBIGUATION_TITLE = re.compile(r"\((?:desambiguaci[oó]n?|desambiguação|disambiguation|homonymie|disambigua|argipena?|homónimos|dixebra)\)$", re.IGNORECASE)
_MAGIC_WORD = re.compile(r"__[A-ZÀ-Þ]{3,30}__")
_DROPPED_TAGS = frozenset(
    {"ref", "references", "gallery", "table", "math", "chem", "ce", "timeline", "syntaxhighlight", "source", "score", "imagemap", "hiero", "graph", "mapframe"}
    | {
        "maplink",
        "templatedata",
        "templatestyles",
        "indicator",
        "inputbox",
        "section",
        "categorytree",
        "includeonly",
        "noinclude",
        "style",
        "script",
        "dynamicpagelist",
    }
)
_BLOCK_TAGS = frozenset({"p", "div", "blockquote", "center", "poem", "pre", "ul", "ol", "dl", "tr", "h1", "h2", "h3", "h4", "h5", "h6"})
_LINE_TAGS = frozenset({"li", "dd", "dt", "br", "hr"})
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]{2,12})?|simple")
_EMPTY_BRACKETS = re.compile(r"[ \t]?\([ \t,;:.–-]*\)")
_SPACES = re.compile(r"[ \t]{2,}")
_SPACE_BEFORE_MARK = re.compile(r"(?<=\w) +(?=[,;.](?:\s|$))")
_LINE_EDGES = re.compile(r"(?<![ \t])[ \t]+\n|\n[ \t]+")
_BLANK_LINES = re.compile(r"\n{3,}")


class MarkupError(Exception):
    """Wikitext that is not given to the parser, or that it cannot make anything of. `reason` is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def is_disambiguation(title: str, source: str) -> bool:
    """Whether a page only lists the meanings of a name, by its title or a template of the Iberian and neighbouring wikis."""
    return _DISAMBIGUATION_TITLE.search(title) is not None or _DISAMBIGUATION.search(source) is not None


def plain_text(source: str, dropped_namespaces: frozenset[str] = frozenset()) -> str:
    """Running text of a page. Headings and list items are lines of their own; a heading with nothing below it is left out.

    `dropped_namespaces` are the names, in small letters, of the namespaces whose links show no text. Raises `MarkupError`.
    """
    import mwparserfromhell  # only where there is a dump to read

    _check_cost(source)
    try:
        code = mwparserfromhell.parse(source)
        sections = list(_sections(code, dropped_namespaces))
    except Exception as error:  # its tokenizer and builder raise half a dozen unrelated types on broken markup, RecursionError among them
        raise MarkupError("bad_wikitext", f"{type(error).__name__}: {error}"[:200]) from error
    kept: list[str] = []
    below: set[int] = set()  # going backwards: levels of the kept sections that an earlier heading may stand over
    for level, heading, body in reversed(sections):
        text = _tidy(body)
        if text or any(inner > level for inner in below):
            kept.append(f"{_tidy(heading)}\n\n{text}".strip())
            below.add(level)
        below = {inner for inner in below if inner <= level}
    return "\n\n".join(reversed(kept))


def _check_cost(source: str) -> None:
    """Refuse what would take the parser minutes: its time grows with the marks, and with the open ones times the length."""
    open_marks: dict[str, int] = {}
    marks = 0
    last_tag = ""
    for found in _MARK.finditer(source):
        marks += len(found.group()) if found.group()[0] in "*#:;" else 1
        mark, tag = found.group(), (found["tag"] or "").lower()
        if tag and tag not in _NEVER_CLOSED:
            key = f"<{tag}"
            if found["end"]:
                open_marks[key] = max(open_marks.get(key, 0) - 1, 0)
            else:
                open_marks[key] = open_marks.get(key, 0) + 1
                last_tag = key
        elif mark == "/>":
            open_marks[last_tag] = max(open_marks.get(last_tag, 0) - 1, 0)
        elif mark in _CLOSES:
            open_marks[_CLOSES[mark]] = max(open_marks.get(_CLOSES[mark], 0) - 1, 0)
        elif mark in ("{{", "[[", "{|", "<!--"):
            open_marks[mark] = open_marks.get(mark, 0) + 1
    left_open = sum(open_marks.values())
    if marks > MAX_MARKS:
        raise MarkupError("unbalanced_markup", f"{marks} marks of markup")
    if left_open * len(source) > MAX_OPEN_WORK:
        raise MarkupError("unbalanced_markup", f"{left_open} brackets or tags are open in {len(source)} characters")


def _sections(code: Any, dropped: frozenset[str]) -> Iterator[tuple[int, str, str]]:
    """(level, heading, text) of each section in order; the lead has level 1 and no heading."""
    from mwparserfromhell.nodes import Heading

    level, heading = 1, ""
    parts: list[str] = []
    for node in code.nodes:
        if isinstance(node, Heading):
            yield level, heading, "".join(parts)
            level, heading, parts = node.level, "".join(_strings(node.title, dropped)), []
        else:
            parts.extend(_of_node(node, dropped))
    yield level, heading, "".join(parts)


def _strings(code: Any, dropped: frozenset[str]) -> Iterator[str]:
    for node in code.nodes:
        yield from _of_node(node, dropped)


def _of_node(node: Any, dropped: frozenset[str]) -> Iterator[str]:
    """Text of one node; templates, arguments and comments have none. The parser bounds its depth (40), so recursion is bounded."""
    from mwparserfromhell import nodes

    if isinstance(node, nodes.Text):
        yield node.value
    elif isinstance(node, nodes.Wikilink):
        yield from _of_link(node, dropped)
    elif isinstance(node, nodes.ExternalLink):
        if node.title is not None:
            yield from _strings(node.title, dropped)
        elif not node.brackets:
            yield str(node.url)
    elif isinstance(node, nodes.HTMLEntity):
        yield node.normalize()
    elif isinstance(node, nodes.Heading):  # inside of a tag
        yield "\n\n"
        yield from _strings(node.title, dropped)
        yield "\n\n"
    elif isinstance(node, nodes.Tag):
        yield from _of_tag(node, dropped)


def _of_tag(node: Any, dropped: frozenset[str]) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return
    if name in _LINE_TAGS and not node.contents:
        yield "" if node.wiki_markup and name != "hr" else "\n"  # wiki lists stand at line starts already
        return
    edge = "\n\n" if name in _BLOCK_TAGS else "\n" if name in _LINE_TAGS else ""
    yield edge
    if node.contents is not None:
        yield from _strings(node.contents, dropped)
    yield edge


def _of_link(node: Any, dropped: frozenset[str]) -> Iterator[str]:
    title = str(node.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and (prefix.strip().lower() in dropped or _LANGUAGE_LINK.fullmatch(prefix)):
        return  # files, categories, the same page in other languages; with a colon before it, it is a link like others
    if node.text is not None:
        yield from _strings(node.text, dropped)
    else:
        yield title.lstrip(":")


def _tidy(text: str) -> str:
    """Lines without the holes that left-out templates make: empty brackets, double spaces, spaces before commas."""
    text = _MAGIC_WORD.sub("", text)
    text = _SPACES.sub(" ", _EMPTY_BRACKETS.sub("", text))
    text = _LINE_EDGES.sub("\n", _SPACE_BEFORE_MARK.sub("", text))
    return _BLANK_LINES.sub("\n\n", text).strip()
