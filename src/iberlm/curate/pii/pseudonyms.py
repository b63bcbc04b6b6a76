"""Invented values, one generator a kind: the value's own format, and content that can be nobody's.

Where a range is reserved for examples it is taken (RFC 2606, 5737 and 3849, 555-01xx); where none is, the value is wrong in a
way that its issuer can never make right: check letters and province codes that are not in use, a prefix that no number
begins with. So nobody is named by accident, and a second search finds nothing.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

import phonenumbers
from stdnum import iban as stdnum_iban
from stdnum.es import cif as stdnum_cif

from iberlm.curate.pii.identifiers import PSEUDO_SHEET, compact
from iberlm.curate.pii.phone import is_personal
from iberlm.curate.pii.scan import fold

_CONSONANTS, _VOWELS, _DIGITS = "bcdfgklmnprstvz", "aeiou", "0123456789"
_UNUSED_CHECK_LETTERS = "IOU"  # no DNI or NIE ends in them: the check alphabet leaves them out, they look like digits
_UNUSED_CADASTRE_LETTERS = "CNV"
_NETWORKS = ("192.0.2.", "198.51.100.", "203.0.113.")
_DOMAINS = ("example.com", "example.net", "example.org")
_FRACTION = re.compile(r"\d+([.,])(\d{3,})")
_SEXAGESIMAL = re.compile(r"\d+\xb0")


class Draw:
    """Numbers out of the bits of one hash, the same on every machine."""

    def __init__(self, digest: bytes) -> None:
        self._rest = int.from_bytes(digest, "big")

    def below(self, limit: int) -> int:
        self._rest, number = divmod(self._rest, limit)
        return number

    def digits(self, count: int) -> str:
        return "".join(_DIGITS[self.below(10)] for _ in range(count))

    def one_of(self, choices: str) -> str:
        return choices[self.below(len(choices))]


def canonical(kind: str, value: str) -> str:
    """One spelling for all ways to write a value of `kind`: two values with the same one have the same pseudonym."""
    text = fold(value)
    if kind == "email":
        return text.lower().replace("%40", "@")
    if kind == "ip":
        return str(ipaddress.ip_address(text))
    if kind in ("credentials", "gps"):
        return text
    plain = compact(text)
    if kind == "phone":
        plain = re.sub(r"^00", "", plain) if len(plain) > 9 else plain
        return plain[2:] if len(plain) == 11 and plain.startswith("34") else plain
    if kind in ("dni", "nie", "cif"):
        plain = plain.removeprefix("ES")
        letters = len(plain) - len(plain.lstrip("XYZKLM"))
        return plain[:letters] + plain[letters:].zfill(9 - letters)[letters - 9 :] if kind != "cif" else plain
    return plain


def _refill(value: str, new: str) -> str:
    """`value` with its letters and digits, in order, replaced by the characters of `new`; separators and case stay."""
    characters = iter(new)
    return "".join(_in_case(original, next(characters)) if folded.isalnum() else original for original, folded in zip(value, fold(value), strict=True))


def _in_case(original: str, new: str) -> str:
    return new.lower() if original.islower() else new


def _email(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    at = re.search("@|%40", fold(value))
    assert at is not None, "the pattern of e-mail addresses has one"
    local = "".join(_letter_like(character, index, draw) for index, character in enumerate(value[: at.start()]))
    return f"{local}{value[at.start() : at.end()]}{_DOMAINS[draw.below(len(_DOMAINS))]}"


def _letter_like(character: str, index: int, draw: Draw) -> str:
    if character.isdigit():
        return draw.one_of(_DIGITS)
    if character.isalpha():
        letter = draw.one_of(_VOWELS if index % 2 else _CONSONANTS)
        return letter.upper() if character.isupper() else letter
    return character


def _credentials(_: str, digest: bytes) -> str:
    return f"user{Draw(digest).digits(4)}:password"


def _ip(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    if ":" not in fold(value):
        return f"{_NETWORKS[draw.below(len(_NETWORKS))]}{1 + draw.below(254)}"
    address = f"2001:db8:{1 + draw.below(0xFFFF):x}:{1 + draw.below(0xFFFF):x}::{1 + draw.below(0xFFFF):x}"
    return address.upper() if any(character.isupper() for character in value) else address


def _phone(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    digits = compact(fold(value))
    text = fold(value).lstrip("( ")
    if not text.startswith(("+", "00")):
        prefix = "34" if len(digits) == 11 else ""
        return _refill(value, prefix + "3" + draw.digits(8))  # the Spanish plan has no subscriber number that begins with 3
    international = digits.removeprefix("00") if text.startswith("00") else digits
    country = str(phonenumbers.parse("+" + international).country_code)
    kept = digits[: len(digits) - len(international)] + country
    count = len(international) - len(country)
    for national in _nationals(country, count, draw):
        if not any(is_personal(f"+{country}{national[:length]}") for length in range(4, count + 1)):
            return _refill(value, kept + national)
    return _refill(value, kept + "0" * count)


def _nationals(country: str, count: int, draw: Draw) -> Iterator[str]:
    """Digits after a country's code to be tried, the likeliest to be unassigned first."""
    if country == "34":
        yield "3" + draw.digits(8)
    if country == "1" and count == 10:
        yield f"{2 + draw.below(8)}{draw.digits(2)}55501{draw.digits(2)}"
    for first in ("0", "1", "00", "3", "4", "5"):
        yield (first + draw.digits(count))[:count]


def _dni(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    prefix = plain[:2] if plain.startswith("ES") else ""
    special = plain[len(prefix)] if plain[len(prefix)].isalpha() else ""
    count = len(plain) - len(prefix) - len(special) - 1
    number = ("99" if count == 8 else "9") + draw.digits(count)
    return _refill(value, prefix + special + number[:count] + draw.one_of(_UNUSED_CHECK_LETTERS))


def _cif(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    prefix = plain[:2] if len(plain) == 11 else ""
    number = plain[len(prefix)] + draw.digits(7)
    right = stdnum_cif.calc_check_digits(number)
    alphabet = _DIGITS if plain[-1].isdigit() else "ABCDEFGHIJ"
    wrong = [character for character in alphabet if character not in right]
    return _refill(value, prefix + number + wrong[draw.below(len(wrong))])


def _nuss(value: str, digest: bytes) -> str:
    return _refill(value, "99" + Draw(digest).digits(10))  # no province has the code 99


def _iban(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    account = "".join(draw.one_of(_DIGITS) if character.isdigit() else draw.one_of("ABCDEFGHJKLMNPRSTUVWXYZ") for character in plain[4:])
    if plain.startswith("ES"):
        account = "0000" + account[4:]  # no bank has the code 0000
    right = int(stdnum_iban.calc_check_digits(plain[:2] + "00" + account))
    wrong = 2 + (right - 2 + 1 + draw.below(96)) % 97
    return _refill(value, f"{plain[:2]}{wrong:02d}{account}")


def _ccc(value: str, digest: bytes) -> str:
    return _refill(value, "0000" + Draw(digest).digits(16))


def _card(value: str, digest: bytes) -> str:
    return _refill(value, "9999" + Draw(digest).digits(12))  # 9 is left to national bodies: no card of an issuer begins with it


def _with_x(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    kept = "BBBBBBBB" if plain.startswith("BBBBBBBB") else ""
    rest = plain[len(kept) :]
    if rest.isdigit():
        return _refill(value, "000" + draw.digits(len(rest) - 3))
    return _refill(value, kept + "".join("X" if character.isalpha() else draw.one_of(_DIGITS) for character in rest))


def _plate(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    if plain[0].isdigit():
        return _refill(value, draw.digits(4) + "".join(draw.one_of("AEIOU") for _ in range(3)))  # plates have no vowels
    letters = re.split(r"\d+", plain)
    return _refill(value, "X" * len(letters[0]) + draw.digits(4) + "".join(draw.one_of("BCDFGHJKLMNP") for _ in letters[1]))


def _cadastre(value: str, digest: bytes) -> str:
    draw = Draw(digest)
    plain = compact(fold(value))
    filled = [draw.one_of(_DIGITS) if character.isdigit() else draw.one_of("ABDEFGHJ") for character in plain]
    if plain[:7].isdigit():
        filled[7:9] = PSEUDO_SHEET
    if len(plain) == 20:
        filled[18:] = [draw.one_of(_UNUSED_CADASTRE_LETTERS) for _ in range(2)]
    return _refill(value, "".join(filled))


def _gps(value: str, digest: bytes) -> str:
    """Open sea, less than a degree from 0, 0."""
    draw = Draw(digest)
    text = fold(value)
    if not _SEXAGESIMAL.search(text) or _FRACTION.match(text.lstrip("+-")):
        return _FRACTION.sub(lambda match: f"0{match[1]}{draw.digits(len(match[2]))}", text)
    return re.sub(r"[.,]\d+|\d+\xb0?", lambda match: _sexagesimal(match[0], draw), text)


def _sexagesimal(part: str, draw: Draw) -> str:
    if part.endswith("\xb0"):
        return "0\xb0"
    return f"{draw.below(60):02d}" if part[0].isdigit() else part[0] + draw.digits(len(part) - 1)


GENERATORS: dict[str, Callable[[str, bytes], str]] = {
    "email": _email,
    "credentials": _credentials,
    "ip": _ip,
    "phone": _phone,
    "dni": _dni,
    "nie": _dni,
    "cif": _cif,
    "nuss": _nuss,
    "iban": _iban,
    "ccc": _ccc,
    "card": _card,
    "passport": _with_x,
    "health_card": _with_x,
    "plate": _plate,
    "cadastre": _cadastre,
    "gps": _gps,
}
"""By kind: (value as it stands in the text, 64 bytes of keyed hash) -> pseudonym."""
