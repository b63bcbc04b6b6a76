"""Telephone numbers: Spanish ones, and international ones with their prefix. libphonenumber's numbering plans decide."""

import re
from collections.abc import Iterator
from functools import lru_cache

import phonenumbers
from phonenumbers import PhoneNumberType

from iberlm.curate.pii.context import amount_follows, told, told_otherwise
from iberlm.curate.pii.spans import Proposal, every

_START = r"(?:(?<![^\W_])|(?<=tel)|(?<=tlf)|(?<=fax)|(?<=tfno)|(?<=movil))(?<!\d[.:])(?:(?<!\d[,/-])|(?<=\d{9}[,/-]))(?<!\+)"
_SPANISH = re.compile(
    rf"{_START}(?P<prefix>\(?(?:\+|00) ?34\)?[ .\-/]{{0,3}}|34[ .-]?)?"
    r"(?P<number>\(?[6-9](?:[ .\-/]?\d\)?(?:[ .\-/]{0,2}\d){7}|(?:[ .\-/]?\d){2}\)?(?:[ .\-/]{0,2}\d){6}))(?!\d|[.:]\d|[,/-]\d{1,8}(?!\d)|[^\W_])",
    re.IGNORECASE,
)
_INTERNATIONAL = re.compile(rf"{_START}\(?(?P<sign>\+|00) ?[1-9](?:[ .\-/()]{{0,3}}\d){{6,14}}(?![^\W_])", re.IGNORECASE)
_GROUPS = frozenset(((3, 2, 2, 2), (2, 3, 2, 2), (3, 3, 3), (2, 7), (3, 6), (2, 3, 4)))
_LIST = re.compile(r"[ \t\n]*(?:[,;/|·¤-]|\b(?:y|i|e|eta|o|u|edo|ou|and|or)\b)?[ \t\n]*")
_COMPANY = frozenset((PhoneNumberType.TOLL_FREE, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN))
_FICTION = re.compile(r"\+1\d{3}55501\d\d")
_FOREIGN_PREFIX = re.compile(r"\+\d{1,3}[ .()-]{0,2}\Z")
_MORE_DIGITS = re.compile(r"[ ./-]\d")
_GROUP = re.compile(r"\d+")
_BEFORE_LIST = 8


def phones(window: str, start: int) -> Iterator[Proposal]:
    """Numbers of nine Spanish digits or with an international prefix, assigned in their numbering plan.

    Without prefix, they need a word nearby, another number right before, or the grouping of a telephone number (600 00 00 00, 90 000 00 00,
    and 600 000 000 where no amount follows). Left alone: freephone, premium and shared-cost lines, which are of firms, and 555-01xx.
    """
    yield from _international(window, start)
    for match in every(_SPANISH, window, start):
        digits = _digits(match["number"])
        if not _brackets_close(match[0]) or _FOREIGN_PREFIX.search(window, max(0, match.start() - 8), match.start()) or not is_personal("+34" + digits):
            continue
        prefix = match["prefix"] or ""
        end = match.end()
        certain = prefix.lstrip("(").startswith(("+", "00")) or (not _in_digits(window, match, end) and _reads_as_phone(window, match, prefix))
        certain = certain or told("phone", window, match.start(), end)
        yield Proposal(match.start(), end, "phone", certain, -1 if certain else _list_before(window, match.start()))


def _reads_as_phone(window: str, match: re.Match[str], prefix: str) -> bool:
    number = match["number"]
    groups = tuple(len(group) for group in re.findall(r"\d+", number))
    if prefix or groups not in _GROUPS or told_otherwise(window, match.start()) or amount_follows(window, match.end()):
        return False
    if groups == (3, 3, 3):
        # 612.345.678 and 612,345,678 are amounts
        return number[3] == number[7] and number[3] in " -"
    if groups in ((3, 6), (2, 7), (2, 3, 4)):
        return number.startswith("(") and ")" in number
    separators = set(re.findall(r"\D+", number))
    if separators == {"."} and groups == (2, 3, 2, 2):
        return False  # the shape of an IP address
    return len(separators) == 1 or number.startswith("(") or (len(groups) == 4 and separators <= {" ", "-", "/"})


def _in_digits(window: str, match: re.Match[str], end: int) -> bool:
    """Whether other digits stand a space away, so that this may be a part of something longer."""
    return bool(re.match(r" \d", window[end : end + 2])) or bool(re.search(r"\d ?\Z", window[max(0, match.start() - 2) : match.start()]))


def _international(window: str, start: int) -> Iterator[Proposal]:
    for match in every(_INTERNATIONAL, window, start):
        plus = match["sign"] == "+"
        # the pattern may run on into the next number: groups are taken away from the end until the rest is one
        digits, ends = "", []
        for group in _GROUP.finditer(match[0]):
            digits += group[0]
            ends.append((group.end(), len(digits)))
        for end, count in reversed(ends):
            text = match[0][:end]
            if count < 8 or not _brackets_close(text):
                break
            if is_personal("+" + digits[0 if plus else 2 : count]):
                # 00 also begins account numbers: without a word, such a number must stand alone and be grouped
                grouped = text == match[0] and not text[2:].isdigit() and not _digits_around(window, match)
                if plus or grouped or told("phone", window, match.start(), match.start() + end):
                    yield Proposal(match.start(), match.start() + end, "phone")
                break


def _digits_around(window: str, match: re.Match[str]) -> bool:
    return bool(_MORE_DIGITS.match(window, match.end())) or bool(re.search(r"\d[ ./-]?\Z", window[max(0, match.start() - 2) : match.start()]))


def _brackets_close(text: str) -> bool:
    return text.count("(") == text.count(")")


def _list_before(window: str, start: int) -> int:
    """Where the separators of a list before `start` begin, e.g. after the first of "612345678 / 698765432"; -1 without one."""
    for begin in range(max(0, start - _BEFORE_LIST), start):
        if begin and window[begin - 1].isdigit() and _LIST.fullmatch(window, begin, start):
            return begin
    return -1


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


@lru_cache(maxsize=1 << 14)
def is_personal(number: str) -> bool:
    """Whether a number in the form +CC... is assigned in its country's plan, to lines that a person can have."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(parsed) and phonenumbers.number_type(parsed) not in _COMPANY and not _FICTION.fullmatch(number)
