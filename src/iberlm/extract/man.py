r"""Reader of manual pages (man(7), and the common part of mdoc(7)): headings and paragraphs, one document a page.

It knows the macros and skips what it does not know, so no groff is needed. Tables, listings and the synopsis are code and
left out, as in DocBook; so are the sections that name persons or stand on every page (authors, translators, copyright).
"""

import re
from collections.abc import Callable
from pathlib import Path

from iberlm.extract.config import ExtractConfig
from iberlm.extract.mdoc import INLINE, inline
from iberlm.extract.records import FileError, Reading, text_or_reject
from iberlm.extract.streams import foreign_kind, whole
from iberlm.extract.troff import arguments, plain, without_comment

_PAGE = re.compile(rb"^[.'][ \t]*(?:TH|Dd|SH|Sh|so)\b", re.MULTILINE)
_REQUEST = re.compile(r"[.'][ \t]*(?P<name>[^\s\\]*)(?P<rest>.*)", re.DOTALL)
_CONTINUED = re.compile(r"(?<!\\)(?:\\\\)*\\$")
_TRANSLATION = re.compile(r"\\\(..([^\\])")
_PARAMETER = re.compile(r"\\{1,2}\$([1-9*@])")
_CONDITION = re.compile(
    r"[ \t]*(?P<not>!?)(?:(?P<mode>[ntoev])(?=[ \t\\]|$)|(?P<groff>\\n(?:\(|\[)\.g\]?)(?=[ \t]|$)|[drcmFS][ \t]+\S+|\S+)[ \t]*(?P<rest>.*)", re.DOTALL
)
_BULLET = re.compile(r"[^\w]{0,2}|o")
_MAX_MACRO_CHARACTERS = 2000
_MAX_ARGUMENT_CHARACTERS = 1000
_MAX_TAG_CHARACTERS = 500
_MAX_BARE_TAG_CHARACTERS = 80
_MAX_TRANSLATIONS = 10

_FONTS = {"B": " ", "I": " ", "R": " ", "SM": " ", "SB": " ", "CW": " ", "BR": "", "RB": "", "IR": "", "RI": "", "BI": "", "IB": ""}
"""Font macros, and what stands between their arguments."""
_PARAGRAPHS = frozenset({"PP", "P", "LP", "HP", "RS", "RE", "Pp", "El", "Bl", "Ed", "Lp", "sp", "Sp", "ce", "bp"})
_BREAKS = frozenset({"br", "in", "ti"})
_LISTINGS = {"nf": "fi", "EX": "EE", "TS": "TE", "EQ": "EN", "PS": "PE", "SY": "YS", "Vb": "Ve"}
"""Macros that begin what is no running text, and those that end it; a heading ends it too."""
_STRINGS = {"lq": "“", "rq": "”", "R": "®", "Tm": "™", "Aq": "'"}
_LEFT_OUT = frozenset(
    {"autor", "autora", "autores", "autors", "autoría", "author", "authors", "egilea", "egileak", "traducción", "traducció", "tradución", "itzulpena"}
    | {"translation", "copyright", "derechos de autor", "drets d'autor", "dereitos de autor", "informar de errores", "informe de errores"}
    | {"informes de fallos", "informar d'errors", "informar de erros", "reporting bugs", "véase también", "vegeu també", "véxase tamén", "ikus ere"}
    | {"see also", "sinopsis", "sintaxis", "sinopsi", "sinopse", "synopsis", "laburpena"}
)
"""Sections of names of persons, of names of commands, and of notices that are the same on every page, in small letters."""


def read_man(path: Path, config: ExtractConfig) -> Reading:
    """Text of a manual page. Rejects: not_man, invalid_utf8, no_text (also for pages that only refer to another), nul, and those of `streams.whole`."""
    data = whole(path, config.max_file_bytes, config.max_expansion_ratio)
    if kind := foreign_kind(data):
        raise FileError("not_man", f"the file is {kind}")
    if not _PAGE.search(data):
        raise FileError("not_man", "the file has no heading of a manual page")
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError("invalid_utf8", f"byte {error.start}") from error
    page = _Page(source)
    page.read()
    if not page.paragraphs:
        raise FileError("no_text", f"it refers to {page.target}" if page.target else "no paragraph in it")
    yield text_or_reject("\n\n".join(page.paragraphs), 0)


class _Page:
    """Walks the lines of a page and gathers `paragraphs`, headings among them."""

    def __init__(self, source: str) -> None:
        self.paragraphs: list[str] = []
        self.target = ""
        """Page that a `.so` request names."""
        self._lines = source.replace("\r\n", "\n").split("\n")
        self._next = 0
        self._budget = 100_000 + len(source)  # of characters that strings and macros of the page may unfold to: no bombs
        self._strings = dict(_STRINGS)
        self._translations: list[tuple[str, str]] = []  # what a character stands for on this page: \(is for an apostrophe
        self._macros: dict[str, list[str]] = {}
        self._branches: list[bool] = []
        self._is_mdoc, self._name = False, ""
        self._headings = ["", ""]  # section and subsection of which no paragraph has come yet
        self._leaves_out = False
        self._listing = ""
        self._awaits: Callable[[str], None] | None = None
        self._tag = ""
        self._words: list[str] = []
        self._glued, self._link = False, ""

    def read(self) -> None:
        """Fill `paragraphs`."""
        while (line := self._take()) is not None:
            self._line(line)
        self._end_paragraph()

    def _take(self) -> str | None:
        """The next line without its comment, joined with those that continue it; comment lines are passed over."""
        parts: list[str] = []
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            cut = without_comment(line)
            if not parts and cut != line and not cut.strip(" \t.'"):
                continue
            if cut == line and _CONTINUED.search(cut):
                parts.append(cut[:-1])
                continue
            return "".join((*parts, cut))
        return "".join(parts) if parts else None

    def _line(self, line: str, in_macro: bool = False) -> None:
        """A text line, or a request; conditions are peeled off one after another."""
        while True:
            found = _REQUEST.fullmatch(line)
            if found is None:
                self._text_line(line)
                return
            name, rest = found["name"], found["rest"].strip(" \t")
            if name not in ("if", "ie", "el", "while"):
                self._request(name, rest, in_macro)
                return
            remainder = self._branch(name, rest)
            if remainder is None:
                return
            line = remainder

    def _branch(self, name: str, rest: str) -> str | None:
        """The line that a condition lets through; None when there is none. A terminal is 'n', and what is not known does not hold."""
        if name == "el":
            holds = not self._branches.pop() if self._branches else False
        elif found := _CONDITION.fullmatch(rest):
            known = found["mode"] or found["groff"]
            holds = bool(known) and (known not in ("t", "e", "v")) != bool(found["not"])
            rest = found["rest"]
        else:
            holds, rest = False, ""
        if name == "ie":
            self._branches.append(holds)
        if not holds or name == "while":
            self._skip_block(rest)
            return None
        return rest.removeprefix("\\{").lstrip(" \t") or None

    def _skip_block(self, line: str) -> None:
        depth = line.count("\\{") - line.count("\\}")
        while depth > 0 and (following := self._take()) is not None:
            depth += following.count("\\{") - following.count("\\}")

    def _request(self, name: str, rest: str, in_macro: bool) -> None:
        if name in ("de", "de1", "am", "ig"):
            self._define(name, arguments(rest))
        elif name in ("SH", "Sh", "SS", "Ss"):
            self._listing = ""
            self._end_paragraph()
            level = 0 if name in ("SH", "Sh") else 1
            title = self._joined(rest, " ")
            if title:
                self._heading(level, title)
            else:
                self._awaits = lambda text: self._heading(level, text)
        elif self._listing:
            if name == self._listing:
                self._listing = ""
        elif name in _LISTINGS or (name == "Bd" and ("-literal" in rest or "-unfilled" in rest)):
            self._end_paragraph()
            self._listing = _LISTINGS.get(name, "Ed")
        elif name == "ds":
            key, _, value = rest.partition(" ")
            self._strings[key] = self._plain(value.lstrip(" ").removeprefix('"'))
        elif name == "tr":
            self._translations += [(found[0][:4], found[1]) for found in _TRANSLATION.finditer(rest[:100])][: _MAX_TRANSLATIONS - len(self._translations)]
        elif name == "so":
            self.target = rest[:100]
        elif name == "Dd":
            self._is_mdoc = True
        else:
            self._running(name, rest, in_macro)

    def _running(self, name: str, rest: str, in_macro: bool) -> None:
        """The requests that make paragraphs and words."""
        if name in _PARAGRAPHS or name == "Bd":
            if name == "RS" and rest == "4" and self._is_tag():
                self._tag, self._words = "".join(self._words).strip(), []
            elif self._words or not self._tag:  # a tag waits for its text
                self._end_paragraph()
        elif name in _BREAKS:
            self._break()
        elif name in _FONTS:
            self._add(self._joined(rest, _FONTS[name]), glue_after=_ends_open(rest))
        elif name in ("TP", "TQ", "IP", "It"):
            self._item(name, rest)
        elif name in ("UR", "MT"):
            self._link = self._joined(rest, " ")
        elif name in ("UE", "ME"):
            self._add(self._link)  # none is left when the link has a text
            self._glued = True
            self._add(self._joined(rest, ""))
            self._glued = False
        elif name == "MR":
            title, section, *tail = [*self._arguments(rest), "", ""]
            self._add(f"{title}({section}){''.join(tail)}" if section else title)
        elif self._is_mdoc and name in INLINE:
            self._mdoc(name, rest)
        elif name in self._macros and not in_macro:
            self._expand(self._macros[name], arguments(rest))

    def _define(self, name: str, values: list[str]) -> None:
        """Read past a macro's definition (or an ignored passage) and keep it, if it is short."""
        end = f".{values[-1]}" if len(values) == (1 if name == "ig" else 2) else ".."
        body: list[str] = []
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            if line.replace(" ", "").rstrip() == end:
                break
            body.append(line)
        if name.startswith("de") and values and sum(len(line) + 1 for line in body) <= _MAX_MACRO_CHARACTERS:
            self._macros[values[0]] = body

    def _expand(self, body: list[str], values: list[str]) -> None:
        """A macro of the page itself, its parameters replaced; macros in macros are not followed."""
        values = [value[:_MAX_ARGUMENT_CHARACTERS] for value in values[:9]]
        for line in body:
            whole_line = _PARAMETER.sub(lambda found: " ".join(values) if found[1] in "*@" else "".join(values[int(found[1]) - 1 : int(found[1])]), line)
            self._budget -= len(whole_line) + 1
            if self._budget < 0:
                return
            self._line(without_comment(whole_line), in_macro=True)

    def _plain(self, text: str) -> str:
        for name, meaning in self._translations:
            text = text.replace(name, meaning)
        return plain(text, self._string)

    def _string(self, name: str) -> str:
        value = self._strings.get(name, "")
        self._budget -= len(value)
        return value if self._budget >= 0 else ""

    def _arguments(self, rest: str) -> list[str]:
        return [self._plain(value) for value in arguments(rest)]

    def _joined(self, rest: str, between: str) -> str:
        return between.join(self._arguments(rest))

    def _mdoc(self, name: str, rest: str) -> None:
        values = self._arguments(rest)
        if name == "Nm":
            self._name = self._name or " ".join(values)
            values = values or [self._name]
        if name == "Nd":
            values = ["-", *values]
        self._add(inline(name, values))

    def _item(self, name: str, rest: str) -> None:
        """A new item. Its tag is the next line (TP, TQ) or the argument (IP, It)."""
        if name == "TQ" and 0 < len(self._tag) < _MAX_TAG_CHARACTERS and not self._words:
            self._awaits = lambda text: self._set_tag(f"{self._tag}, {text}")
            return
        self._end_paragraph()
        if name in ("TP", "TQ"):
            self._awaits = self._set_tag
        elif name == "IP":
            self._set_tag("".join(self._arguments(rest)[:1]))
        else:
            self._set_tag(inline("No", self._arguments(rest)))

    def _is_tag(self) -> bool:
        """Whether the words before an indented block are a tag without a macro that says so, as Asciidoctor and DocBook XSL write them."""
        text = "".join(self._words).rstrip()
        return not self._tag and 0 < len(text) <= _MAX_BARE_TAG_CHARACTERS and "\n" not in text and text[-1] not in ".:,;"

    def _set_tag(self, tag: str) -> None:
        tag = " ".join(tag.split())
        self._tag = "" if _BULLET.fullmatch(tag) else tag

    def _heading(self, level: int, title: str) -> None:
        title = " ".join(title.split())
        if level == 0:
            self._leaves_out = title.casefold().rstrip(":.") in _LEFT_OUT
            self._headings[1] = ""
        self._headings[level] = title

    def _text_line(self, line: str) -> None:
        if self._listing:
            return
        if not line.strip():
            self._end_paragraph()
            return
        if line[0] in " \t":
            self._break()
        self._add(self._plain(line), glue_after=_ends_open(line))

    def _add(self, text: str, glue_after: bool = False) -> None:
        """Words of the paragraph, of an item's tag or of a heading."""
        if self._listing or not text.strip():
            return
        self._link = ""
        if self._awaits is not None:
            receive, self._awaits = self._awaits, None
            receive(text)
            return
        self._words.append(text if self._glued else f" {text}")
        self._glued = glue_after

    def _break(self) -> None:
        if self._words and not self._listing:
            self._words.append("\n")

    def _end_paragraph(self) -> None:
        lines = [" ".join(line.split()) for line in "".join(self._words).split("\n")]
        text, tag = "\n".join(line for line in lines if line), self._tag
        self._words, self._tag, self._glued, self._awaits, self._link = [], "", False, None, ""
        if tag and text:
            # the tag of an item stands beside its text, as on a terminal; a colon takes the place of the column
            text = f"{tag} {text}" if tag[-1] in ".:)" else f"{tag}: {text}"
        text = text or tag
        if self._leaves_out or not any(letter.isalnum() for letter in text):
            return
        self.paragraphs += [heading for heading in self._headings if heading]
        self._headings = ["", ""]
        self.paragraphs.append(text)


def _ends_open(line: str) -> bool:
    r"""Whether a line ends in `\c`: the next one follows without a space."""
    return line.rstrip().endswith("\\c")
