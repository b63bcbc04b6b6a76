"""Numbers of bank accounts and payment cards: IBAN, CCC (the Spanish account number before it) and cards."""

import re
from collections.abc import Iterator

from stdnum import iban as stdnum_iban
from stdnum import luhn
from stdnum.es import ccc as stdnum_ccc

from iberlm.curate.pii.context import told, told_otherwise
from iberlm.curate.pii.identifiers import compact
from iberlm.curate.pii.spans import Proposal, every

IBAN_LENGTHS = dict(
    entry.split(":")
    for entry in (
        "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FO:18 FR:27 "
        "GB:22 GE:22 GI:23 GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 "
        "MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 SA:24 SC:31 SE:24 SI:19 SK:24 SM:27 SV:28 TN:24 TR:26 "
        "UA:29 VA:22 VG:24 XK:20"
    ).split()
)
"""Characters of an IBAN by country (SWIFT IBAN registry)."""

_IBAN = re.compile(r"(?:(?<![^\W_])|(?<=iban))([a-z]{2})(?=\d\d)[a-z\d](?:[ .\n-]?[a-z\d]){12,31}", re.IGNORECASE)
_CCC = re.compile(
    r"(?<![^\W_])(?<!\d[ .,/-])(?<![a-z]{2}\d\d[ .-])(?:\d{4}([ ./-]?)\d{4}\1\d{2}\1\d{10}|\d{4}( ?)(?:\d{4}\2){3}\d{4})(?![^\W_]|[ .,/-]\d)", re.IGNORECASE
)
_CARD = re.compile(
    r"(?<![^\W_])(?<!\d[ .,/-])(?<![a-z]{2}\d\d[ .-])(?:\d{4}([ .\-]?)\d{4}\1\d{4}\1\d{4}|\d{4}([ .\-]?)\d{6}\2\d{4,5})(?![^\W_]|[.,-]\d)(?! \d{4}(?!\d))",
    re.IGNORECASE,
)
# ISO/IEC 7812: Visa, Mastercard, American Express, Diners Club, Discover, JCB, with their lengths
_ISSUER = re.compile(
    r"4\d{15}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)
_INSIDE_CODE = frozenset("/=_-.#%+&~")


def ibans(window: str, start: int) -> Iterator[Proposal]:
    """IBAN of any country of the registry, by its check digits and the structure of its country; a line may break inside it."""
    for match in every(_IBAN, window, start):
        end = _end_of(match[0], int(IBAN_LENGTHS.get(match[1].upper(), 0)))
        follows = window[match.start() + end : match.start() + end + 1]
        number = compact(match[0][:end])
        # every account number has digits: fewer than 8 are words that fit by chance
        if end and not follows.isalnum() and sum(map(str.isdigit, number)) >= 8 and stdnum_iban.is_valid(number):
            yield Proposal(match.start(), match.start() + end, "iban")


def _end_of(candidate: str, length: int) -> int:
    """Index after the `length`-th letter or digit; 0 when there are fewer, or when `length` is 0."""
    seen = 0
    for index, character in enumerate(candidate):
        seen += character.isalnum()
        if seen == length:
            return index + 1
    return 0


def cccs(window: str, start: int) -> Iterator[Proposal]:
    """CCC: 20 digits with two check digits; written 4-4-2-10, or with a word nearby. Not inside an IBAN whose own check fails."""
    for match in every(_CCC, window, start):
        number = compact(match[0])
        if number.startswith("0000") or not stdnum_ccc.is_valid(number):
            continue
        if (match[1] and not told_otherwise(window, match.start())) or told("account", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "ccc")


def cards(window: str, start: int) -> Iterator[Proposal]:
    """Payment cards of 14 to 16 digits: an issuer's range and Luhn's check digit, grouped, or alone and not part of a path or a code."""
    for match in every(_CARD, window, start):
        number = compact(match[0])
        if not _ISSUER.fullmatch(number) or len(set(number)) == 1 or not luhn.is_valid(number):
            continue
        grouped = match[1] or match[2]
        loose = not grouped and window[max(0, match.start() - 1) : match.start()] in _INSIDE_CODE
        if (not loose and not told_otherwise(window, match.start())) or told("card", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "card")
