"""What a page is made of: sections of blocks. Sections build these; the template alone turns them into HTML."""

from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `tone` colours a word that already says the same: 'good', 'bad', 'plain'."""

    text: str
    number: bool = False
    language: str | None = None
    """BCP 47 tag whose colour is shown beside the text."""
    tone: str = ""
    share: float | None = None
    """0..1, drawn as a faint bar behind a number."""
    note: str = ""
    """A sentence in small print below the head of a row."""


@dataclass(frozen=True)
class Column:
    """Head of a column; numbers are set flush right."""

    name: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows whose first cell is the row's head."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """One chart in two drawings, for wide and narrow columns; `label` says in words what it shows."""

    caption: str
    label: str
    wide: Markup
    narrow: Markup
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Facts:
    """Names and values in a list."""

    rows: list[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Remark:
    """A sentence of its own: what is missing (`missing`), or what to take care of."""

    text: str
    missing: bool = False
    kind: ClassVar[str] = "remark"


@dataclass(frozen=True)
class Excerpt:
    """A piece of somebody's (or a model's) text: hostile until proven otherwise, always escaped, in its own language."""

    heading: str
    text: str
    language: str = ""
    meta: str = ""
    prompt: str = ""
    """What a model was given, shown strong before its `text`."""


@dataclass(frozen=True)
class Excerpts:
    """Excerpts under a heading that opens and closes."""

    summary: str
    items: list[Excerpt]
    language: str | None = None
    open: bool = False
    note: str = ""
    """A sentence above the excerpts."""
    count: str = ""
    """What the number beside the summary says; the number of excerpts when empty."""
    kind: ClassVar[str] = "excerpts"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    language: str | None = None
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Comparison:
    """A prompt with what a model wrote before and after a stage."""

    heading: str
    language: str
    prompt: str
    before: str
    after: str
    remark: str = ""


@dataclass(frozen=True)
class Comparisons:
    """Prompts with both answers beside each other."""

    items: list[Comparison]
    kind: ClassVar[str] = "comparisons"


@dataclass(frozen=True)
class SourceCard:
    """What a reader must know of one data set before believing a number."""

    name: str
    title: str
    licence: str
    licence_url: str
    badges: list[str]
    description: str
    known_issues: list[str]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class SourceCards:
    """Data sets side by side."""

    items: list[SourceCard]
    kind: ClassVar[str] = "sources"


@dataclass(frozen=True)
class Listing:
    """A configuration as text, folded."""

    summary: str
    text: str
    kind: ClassVar[str] = "listing"


Block = Table | Chart | Facts | Remark | Heading | Excerpts | Comparisons | SourceCards | Listing


@dataclass
class Section:
    """One section of the page: anchor, heading, a sentence on how to read it, blocks."""

    anchor: str
    title: str
    lead: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A number that the head of the page shows large, with its unit or context in small print."""

    value: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    run: str
    facts: list[tuple[str, str]]
    figures: list[Figure]
    remarks: list[str]
    sections: list[Section]
