"""Personal data in text: e-mail, IP and phone numbers, DNI, NIE and IBAN, each confirmed by a validating library.

A pattern only proposes; python-stdnum (check letters and digits), phonenumbers (numbering plans) and ipaddress decide.
Spans are offsets in characters of the text; `redact` replaces them by tags.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import phonenumbers
from stdnum import iban as stdnum_iban
from stdnum.es import dni as stdnum_dni
from stdnum.es import nie as stdnum_nie

KINDS = ("email", "ip", "phone", "dni", "nie", "iban")

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w](?:[\w-]{0,61}[\w])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]{6,45}(?![\w:])")
_DNI = re.compile(r"(?<![\w.-])(\d{1,2}\.?\d{3}\.?\d{3})[ \-.]?([A-Za-z])(?!\w)")
_NIE = re.compile(r"(?<![\w.-])([XYZxyz])[ \-.]?(\d\.?\d{3}\.?\d{3}|\d{7})[ \-.]?([A-Za-z])(?!\w)")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ \-]?[A-Za-z0-9]){11,30}(?!\w)")
_PHONE_HINT = re.compile(r"(?:\d[ ().\-/]{0,2}){9}")
_DIGIT = re.compile(r"\d")
_NOT_PUBLIC = ("0.0.0.0", "255.255.255.255")  # noqa: S104  # named to be left alone, not bound


class Span(NamedTuple):
    """Personal data at text[start:end]."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """All spans of a text, in order, none overlapping another (the longer of two overlapping ones stays).

    IP addresses that name no person are left alone: loopback, private, link-local, documentation ranges, masks.
    """
    spans = list(_emails(text)) if "@" in text else []
    if _DIGIT.search(text):
        spans += [*_ibans(text), *_dnis(text), *_nies(text), *_addresses(text), *_phones(text)]
    elif "::" in text:
        spans += _addresses(text)
    return _without_overlaps(spans)


def redact(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced by its tag, e.g. <EMAIL>. Spans do not overlap."""
    pieces, position = [], 0
    for span in sorted(spans):
        pieces += [text[position : span.start], f"<{span.kind.upper()}>"]
        position = span.end
    return "".join([*pieces, text[position:]])


def _emails(text: str) -> Iterator[Span]:
    return (Span(*match.span(), "email") for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        # the pattern may run on into the words that follow: try the country's length, with its spaces
        length = _iban_length(match[0])
        end = _end_of(match[0], length)
        candidate = match[0][:end]
        follows = text[match.start() + end : match.start() + end + 1]
        if end and not follows.isalnum() and stdnum_iban.is_valid(candidate):
            yield Span(match.start(), match.start() + end, "iban")


def _iban_length(candidate: str) -> int:
    lengths = {"ES": 24, "PT": 25, "FR": 27, "AD": 24, "DE": 22, "IT": 27, "GB": 22, "NL": 18, "BE": 16}
    return lengths.get(candidate[:2].upper(), sum(character.isalnum() for character in candidate))


def _end_of(candidate: str, length: int) -> int:
    """Index after the `length`-th letter or digit; 0 when there are fewer."""
    seen = 0
    for index, character in enumerate(candidate):
        seen += character.isalnum()
        if seen == length:
            return index + 1
    return 0


def _dnis(text: str) -> Iterator[Span]:
    for match in _DNI.finditer(text):
        digits = match[1].replace(".", "").zfill(8)
        # fewer than seven digits are a page or a paragraph number ("12 345 A"), not a DNI
        if len(match[1].replace(".", "")) >= 7 and stdnum_dni.is_valid(digits + match[2]):
            yield Span(*match.span(), "dni")


def _nies(text: str) -> Iterator[Span]:
    for match in _NIE.finditer(text):
        if stdnum_nie.is_valid(match[1] + match[2].replace(".", "") + match[3]):
            yield Span(*match.span(), "nie")


def _addresses(text: str) -> Iterator[Span]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            if address.is_global and str(address) not in _NOT_PUBLIC:
                yield Span(*match.span(), "ip")


def _phones(text: str) -> Iterator[Span]:
    if not _PHONE_HINT.search(text):
        return
    for match in phonenumbers.PhoneNumberMatcher(text, "ES"):
        yield Span(match.start, match.end, "phone")


def _without_overlaps(spans: list[Span]) -> list[Span]:
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda entry: (entry.start - entry.end, entry.start)):
        if all(span.end <= other.start or span.start >= other.end for other in chosen):
            chosen.append(span)
    return sorted(chosen)
