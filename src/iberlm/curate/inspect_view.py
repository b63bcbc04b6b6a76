"""Documents in the terminal: a head of facts, then the text with its cuts, evaluation items and personal data marked.

Marks can be read without colour, in a pipe or a log: `[-cut passages-]`, `{=text of an evaluation=}`, `<EMAIL>`. Text comes from anywhere,
so that control characters are shown as symbols: no document can move the cursor, change colours or hide what it says.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from iberlm.core.languages import NAMES
from iberlm.curate.inspect import KEPT, Inspected

_REPLACEMENT = "\ufffd"
_BIDIRECTIONAL = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CUT, _SEEN = ("[-", "-]"), ("{=", "=}")


def show(console: Console, found: Inspected, *, characters: int, personal_data: bool) -> None:
    """Print one document: `characters` of its text (0: all), personal data as tags unless `personal_data` asks for them as they are."""
    plain = not console.is_terminal
    title = f"{found.document['id']}  {found.reason if found.reason == KEPT else f'dropped: {found.reason}'}"
    heading = Text(visible(title), style="bold green" if found.reason == KEPT else "bold red")
    if plain:
        console.print(heading, soft_wrap=True)
    else:
        console.rule(heading, align="left")
    for fact in facts(found):
        console.print(Text(visible(fact), style="dim"), soft_wrap=plain)
    console.print(marked(found, characters, show_personal_data=personal_data), soft_wrap=plain)
    console.print()


def visible(text: str) -> str:
    """The text with control characters, and marks that turn the writing direction, as symbols; its length stays."""
    if text.isprintable():
        return text
    return "".join(_symbol(character) for character in text)


def _symbol(character: str) -> str:
    if character in "\n\t" or (character not in _BIDIRECTIONAL and unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")):
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else _REPLACEMENT


def facts(found: Inspected) -> Iterator[str]:
    """What is known of a document, a line each."""
    document, columns, cluster_licence = found.document, found.columns, found.verdict["licence_of_cluster"]
    yield _joined(document["url"] or document["source"], document["date"])
    yield _joined(f"card {document['card']}", document["licence"], f"in its cluster {cluster_licence}" if cluster_licence else "")
    yield f"claimed {_language(document['language'])}, identified {_language(columns['language'])}{_sureness(columns)}"
    yield f"{columns['words']:,} words; {_beside_limits(found)}"
    robots = f"robots: {columns['robots']}" if columns.get("robots", "no_url") != "no_url" else ""
    if signals := _joined(robots, *(f"reserved: {name}" for name in document["reserved"] or ())):
        yield signals
    yield from _clusters(found)
    for match in columns.get("contamination") or ():
        yield f"evaluation item {match['item']} of {match['suite']} at {match['start']:,}-{match['end']:,}"
    yield from _cuts(found)


def _sureness(columns: dict[str, Any]) -> str:
    score = "" if columns["language_score"] is None else f" {columns['language_score']:.3f}"
    return f"{score}, {columns['variety']}" if columns["variety"] else score


def _beside_limits(found: Inspected) -> str:
    if found.limits is None:
        return "no limits for its language"
    beyond = "; ".join(f"{name} {_number(value)} ({side} {_number(limit)})" for name, value, side, limit in found.beyond())
    return f"beyond its limits: {beyond}" if beyond else "within its limits"


def _clusters(found: Inspected) -> Iterator[str]:
    said = {"exact_cluster": "has the text of", "cluster": "is a near duplicate of", "url_cluster": "has the address of"}
    parts = [f"{words} {found.firsts[name]}" for name, words in said.items() if name in found.firsts]
    if "cluster" in found.firsts and found.firsts.get("exact_cluster") == found.firsts["cluster"]:
        parts = [part for part in parts if "near duplicate" not in part]
    size = found.columns.get("cluster_size") or 1
    if parts or size > 1:
        first = size > 1 and "cluster" not in found.firsts
        yield _joined(f"cluster of {size:,} documents{', of which it is the first' * first}" if size > 1 else "", *parts)


def _cuts(found: Inspected) -> Iterator[str]:
    """A line a cause, with the places."""
    by_cause: dict[str, list[str]] = {}
    for cut in found.verdict["cuts"] or ():
        for cause in _causes(cut, found.columns):
            by_cause.setdefault(cause, []).append(f"{cut['start']:,}-{cut['end']:,}")
    for cause, places in by_cause.items():
        yield f"cut, {cause}: {' '.join(places)}"


def _causes(cut: dict[str, int], columns: dict[str, Any]) -> list[str]:
    """What a cut is for: every column with a passage inside it; a cut without any is one that was asked for."""

    def inside(name: str) -> list[dict[str, Any]]:
        return [span for span in columns.get(name) or () if span["start"] < cut["end"] and cut["start"] < span["end"]]

    causes = [f"in {_language(span['language'])}" for span in inside("other_languages")]
    causes += ["repeated in many documents"] * bool(inside("boilerplate")) + ["evaluation item"] * bool(inside("contamination"))
    return list(dict.fromkeys(causes)) or ["request for removal"]


def _joined(*parts: str | None) -> str:
    return " · ".join(part for part in parts if part)


def _language(tag: str) -> str:
    return f"{NAMES[tag]} ({tag})" if tag in NAMES else tag


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or value == int(value) else f"{value:.3g}"


class _Mark(NamedTuple):
    start: int
    end: int
    label: str = ""
    """What stands in place of personal data."""


class _Marks:
    """Passages of one kind, none overlapping another, ordered."""

    def __init__(self, spans: Iterable[_Mark]) -> None:
        self.all: list[_Mark] = []
        for span in sorted(spans):
            if self.all and span.start < self.all[-1].end:  # items of two suites may share a passage
                self.all[-1] = self.all[-1]._replace(end=max(self.all[-1].end, span.end))
            else:
                self.all.append(span)
        self._starts = [span.start for span in self.all]

    def at(self, position: int) -> _Mark | None:
        """The passage that holds this place."""
        index = bisect_right(self._starts, position) - 1
        return self.all[index] if index >= 0 and position < self.all[index].end else None

    def behind(self, position: int) -> int:
        """How many end behind this place."""
        return sum(span.end > position for span in self.all)


def marked(found: Inspected, characters: int, *, show_personal_data: bool) -> Text:
    """The beginning of the text with its marks, and how much is left out."""
    text = visible(found.document["text"])
    most = min(characters or len(text), len(text))
    personal = _Marks(_Mark(span["start"], span["end"], f"<{span['kind'].upper()}>") for span in found.columns["personal_data"] or ())
    cuts = _Marks(_Mark(cut["start"], cut["end"]) for cut in found.verdict["cuts"] or ())
    seen = _Marks(_Mark(span["start"], span["end"]) for span in found.columns.get("contamination") or ())
    edges = sorted({0, most, *(edge for marks in (personal, cuts, seen) for mark in marks.all for edge in mark[:2] if edge < most)})
    result = Text()
    for start, end in pairwise(edges):
        cut, item, person = cuts.at(start), seen.at(start), personal.at(start)
        piece = text[start:end]
        if person and not show_personal_data:
            piece = person.label if start == person.start else ""
        for mark, (opening, closing) in ((item, _SEEN), (cut, _CUT)):
            if mark:
                piece = f"{opening * (start == mark.start)}{piece}{closing * (end in (mark.end, most))}"
        style = " ".join(["strike dim"] * bool(cut) + ["underline"] * bool(item) + ["reverse yellow"] * bool(person))
        result.append(piece, style=style)
    return result.append(_left_out(len(text) - most, cuts.behind(most), personal.behind(most)), style="dim")


def _left_out(characters: int, cuts: int, personal: int) -> str:
    said = ((characters, "more character", "more characters"), (cuts, "cut", "cuts"), (personal, "piece of personal data", "pieces of personal data"))
    more = [f"{number:,} {one if number == 1 else many}" for number, one, many in said if number]
    return f" ... ({', '.join(more)})" if characters else ""
