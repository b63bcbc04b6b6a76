"""What is found: spans, the proposals that become spans, and which of two that overlap stays."""

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "email",
    "credentials",
    "ip",
    "phone",
    "dni",
    "nie",
    "cif",
    "nuss",
    "iban",
    "ccc",
    "card",
    "passport",
    "health_card",
    "plate",
    "cadastre",
    "gps",
)
"""Kinds of personal data, the values of `Span.kind`. The order decides between two of one length at one place: earlier wins."""

_RANK = {kind: rank for rank, kind in enumerate(("credentials", "iban", "ccc", "card", "health_card", "passport", "cadastre"))}


class Span(NamedTuple):
    """Personal data at text[start:end]; offsets in characters (code points)."""

    start: int
    end: int
    kind: str


class Proposal(NamedTuple):
    """A span of a window that passed its checks.

    `certain`: nothing more is needed. Otherwise it is accepted only as the next of a list: when another one of its kind
    that was accepted ends at `after` (offset in the window), with only separators between.
    """

    start: int
    end: int
    kind: str
    certain: bool = True
    after: int = -1


def every(pattern: re.Pattern[str], window: str, start: int) -> Iterator[re.Match[str]]:
    """Matches at every place from `start` on where one begins, overlapping ones too.

    What stands at one place must not depend on what was tried before it: a shape that fails its check digits must not hide the one inside it.
    """
    position = start
    while match := pattern.search(window, position):
        yield match
        position = match.start() + 1


def resolve(proposals: set[tuple[int, int, str, bool, int]]) -> list[Span]:
    """Spans in order, none overlapping another: the longer one stays, then the kind of higher rank, then the first.

    Proposals that wait for another of their kind are accepted from left to right, before overlaps are resolved.
    """
    accepted: list[Span] = []
    ends: set[tuple[str, int]] = set()
    for start, end, kind, certain, after in sorted(proposals):
        if certain or (kind, after) in ends:
            accepted.append(Span(start, end, kind))
            ends.add((kind, end))
    chosen: list[Span] = []
    position, waiting = 0, sorted(set(accepted))
    while position < len(waiting):
        # only spans that overlap, directly or through others, compete: the work stays linear in their number
        stop, reach = position + 1, waiting[position].end
        while stop < len(waiting) and waiting[stop].start < reach:
            reach = max(reach, waiting[stop].end)
            stop += 1
        chosen += _longest(waiting[position:stop])
        position = stop
    return chosen


def _longest(group: list[Span]) -> list[Span]:
    if len(group) == 1:
        return group
    chosen: list[Span] = []
    covered: set[int] = set()
    for span in sorted(group, key=lambda entry: (entry.start - entry.end, _RANK.get(entry.kind, len(_RANK)), entry.start)):
        # the spans taken so far are no shorter, so one that overlaps holds an end of this one
        if span.start not in covered and span.end - 1 not in covered:
            covered.update(range(span.start, span.end))
            chosen.append(span)
    return sorted(chosen)
