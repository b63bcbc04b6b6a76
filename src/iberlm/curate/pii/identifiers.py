"""Numbers that identify a person, a firm, a vehicle or a property in Spain: DNI, NIE, CIF, NUSS, passport, health card, plate, cadastre.

A pattern proposes, check letters and digits decide (python-stdnum), and where those are weak or missing a word nearby must tell.
All patterns run on folded windows (`scan`), begin where no letter or digit stands before, and have bounded length.
"""

import re
from collections.abc import Iterator

from stdnum.es import cif as stdnum_cif
from stdnum.es import dni as stdnum_dni
from stdnum.es import nie as stdnum_nie
from stdnum.es import referenciacatastral as stdnum_cadastre

from iberlm.curate.pii.context import told, told_otherwise, told_right_before
from iberlm.curate.pii.spans import Proposal, every

# a label may be glued to its number ("DNI12345678Z"); each alternative has a fixed width, as a lookbehind must
_START = r"(?:(?<![^\W_])|(?<=dni)|(?<=nif)|(?<=nie)|(?<=cif)|(?<=nan)|(?<=ifz)|(?<=ifk)|(?<=aiz))(?<!\d[.,])"
_END = r"(?![^\W_])"
_EIGHT = r"\d{8}|\d{2}\.\d{3}\.\d{3}|\d{2} \d{3} \d{3}|\d{2}-\d{3}-\d{3}"
_SEVEN = r"\d{7}|\d\.\d{3}\.\d{3}|\d \d{3} \d{3}"
_DNI = re.compile(rf"{_START}(?:(?-i:ES)-?)?({_EIGHT}|{_SEVEN})( ?- ?|[ ./]?)([a-z]){_END}", re.IGNORECASE)
_NIE = re.compile(rf"{_START}(?:(?-i:ES)-?)?([xyzklm])( ?- ?|[ ./]?)(0?(?:{_SEVEN}))( ?- ?|[ ./]?)([a-z]){_END}", re.IGNORECASE)
_CIF = re.compile(rf"{_START}((?-i:ES)-?)?([abcdefghjnpqrsuvw])[ ./-]?({_EIGHT}|(?:{_SEVEN})[ ./-]?[a-j\d]){_END}", re.IGNORECASE)
_NUSS = re.compile(r"(?<![^\W_])(?<!\d[ .,/-])(\d{2})([ /.-]?)(\d{8})([ /.-]?)(\d{2})(?![^\W_]|[.,/-]\d)")
_PASSPORT = re.compile(rf"(?<![^\W_])(?:[a-z]{{3}}[ -]?\d{{6}}|[a-z]{{2}}[ -]?\d{{6,7}}){_END}", re.IGNORECASE)
_HEALTH_SNS = re.compile(rf"(?<![^\W_])BBBBBBBB[ -]?[a-z]{{2}}[ -]?\d{{6}}{_END}", re.IGNORECASE)
_HEALTH = re.compile(
    rf"(?<![^\W_])(?:[a-z]{{4}}[ -]?[01][ -]?\d{{6}}[ -]?\d{{2}}[ -]?\d|[a-z]{{4}}\d{{12}}|an\d{{10}}|\d{{6}}[a-z]{{4}}\d{{4}}){_END}", re.IGNORECASE
)
_HEALTH_DIGITS = re.compile(rf"(?<![^\W_])(?<!\d[ .,/-])\d{{7,12}}{_END}(?![.,]\d)")
_PLATE = re.compile(rf"(?<![^\W_])(?<!\d[.,])(\d{{4}})([ -]?)[bcdfghj-np-tv-z]{{3}}{_END}", re.IGNORECASE)
_PROVINCES = (
    "a|ab|al|av|b|ba|bi|bu|c|ca|cc|ce|co|cr|cs|cu|gc|ge|gi|gr|gu|h|hu|ib|j|l|le|lo|lu|m|ma|ml|mu|na|o|or|ou|p|pm|po|s|sa|se|sg|so|ss|t|te|tf|to|v|va|vi|z|za"
)
_OLD_PLATE = re.compile(rf"(?<![^\W_])(?:(?i:{_PROVINCES})-\d{{4}}-[A-Za-z]{{1,2}}|(?:{_PROVINCES.upper()})( ?)\d{{4}}\1[A-Z]{{1,2}}){_END}")
_CADASTRE = re.compile(
    rf"(?<![^\W_])(?:\d{{7}}[ -]?[a-z]{{2}}\d{{4}}[a-z]|\d{{2}}[ -]?\d{{3}}[ -]?[a-z][ -]?\d{{3}}[ -]?\d{{5}})[ -]?\d{{4}}[ -]?[a-z]{{2}}{_END}", re.IGNORECASE
)
_PARCEL = re.compile(rf"(?<![^\W_])\d{{7}}[ -]?[a-z]{{2}}\d{{4}}[a-z]{_END}(?![ -]?\d{{4}}[ -]?[a-z]{{2}}{_END})", re.IGNORECASE)
PSEUDO_SHEET = "XX"
"""Letters of the map sheet in pseudonyms of cadastral references: X names no row of the national grid."""
_CODE_BEFORE = re.compile(r"(?<![^\W_])(?:[A-Za-z][-./]|[A-Z] )\Z")  # P-2692285-C may be another number
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_SEPARATOR = re.compile(r"[^0-9a-z]", re.IGNORECASE)
_MAX_PROVINCE = 66  # 01 to 52 are the provinces, 53 and 66 are used for registrations from abroad


def compact(value: str) -> str:
    """Letters and digits of a value, in upper case."""
    return _SEPARATOR.sub("", value).upper()


def dnis(window: str, start: int) -> Iterator[Proposal]:
    """DNI: 8 digits (7 in old ones, with a word nearby) and a check letter. In lower case, or apart from dotted digits, only with a word nearby."""
    for match in every(_DNI, window, start):
        digits, separator, letter = compact(match[1]), match[2], match[3]
        if len(set(digits)) == 1 or not stdnum_dni.is_valid(digits.zfill(8) + letter) or _CODE_BEFORE.search(window, max(0, match.start() - 3), match.start()):
            continue
        if (letter.isupper() and _reads_as_dni(match[1], separator, letter)) or told("identity", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "dni")


def _reads_as_dni(number: str, separator: str, letter: str) -> bool:
    """Whether it is a DNI without a word that tells: not 12.345.678 M or 12 345 678B (amounts), 1048576K or 20240131T (a date)."""
    grouped, hyphen = not number.isdigit(), "-" in separator
    if len(compact(number)) == 7:
        return grouped and hyphen
    if grouped:
        return hyphen or ("." in number and separator in ("", "."))
    return not (_DATE.fullmatch(number) and letter in "TZ")


def nies(window: str, start: int) -> Iterator[Proposal]:
    """NIE: X, Y or Z, 7 digits and a check letter. K, L and M (minors, Spaniards abroad, foreigners without NIE) are `dni`, with a word nearby."""
    for match in every(_NIE, window, start):
        first, digits, letter = match[1].upper(), compact(match[3]), match[5]
        if len(digits) == 8:
            digits = digits[1:]
        special = first in "KLM"
        if len(set(digits)) == 1 or not (stdnum_dni.is_valid("0" + digits + letter) if special else stdnum_nie.is_valid(first + digits + letter)):
            continue
        # no hexadecimal number has X, Y or Z, so lower case is as clear, unless it may be words: "y 1234567 a"
        clear = not special and ((match[1] + letter).isupper() or " " not in match[2] + match[4])
        if clear or told("identity", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "dni" if special else "nie")


def cifs(window: str, start: int) -> Iterator[Proposal]:
    """CIF, the tax number of a firm: its check digit is right by chance in one of ten, so a word nearby or the prefix ES must tell."""
    for match in every(_CIF, window, start):
        number = compact(match[2] + match[3])
        if not stdnum_cif.is_valid(number) or len(set(number[1:8])) == 1:
            continue
        if match[1] or told("company", window, match.start(), match.end(), within=40):
            yield Proposal(match.start(), match.end(), "cif")


def nusss(window: str, start: int) -> Iterator[Proposal]:
    """Social Security number: province, 8 digits, and their remainder by 97; unformatted only with a word nearby."""
    for match in every(_NUSS, window, start):
        if not nuss_is_valid(match[1] + match[3] + match[5]):
            continue
        formatted = match[2] and match[2] == match[4] and not told_otherwise(window, match.start())
        if formatted or told("social_security", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "nuss")


def nuss_is_valid(number: str) -> bool:
    """Whether the last two of 12 digits are the remainder of the others by 97.

    A sequence below 10^7 counts with 7 digits, as it is in the numbers of the old format.
    """
    province, sequence, check = int(number[:2]), int(number[2:10]), int(number[10:])
    base = province * (10**7 if sequence < 10**7 else 10**8) + sequence
    return 1 <= province <= _MAX_PROVINCE and sequence > 0 and base % 97 == check


def passports(window: str, start: int) -> Iterator[Proposal]:
    """Passport: 2 or 3 letters and 6 or 7 digits after a word that tells; it has no check digit outside its machine-readable zone."""
    for match in every(_PASSPORT, window, start):
        if not _template(match[0]) and told("passport", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "passport")


def health_cards(window: str, start: int) -> Iterator[Proposal]:
    """Health cards: the national code (CIP-SNS) by its shape, those of the regions after a word that tells."""
    for match in every(_HEALTH_SNS, window, start):
        if not _template(match[0][8:]):
            yield Proposal(match.start(), match.end(), "health_card")
    for match in every(_HEALTH, window, start):
        if not _template(match[0]) and told("health", window, match.start(), match.end(), within=48):
            yield Proposal(match.start(), match.end(), "health_card")
    for match in every(_HEALTH_DIGITS, window, start):
        if not _template(match[0]) and told_right_before("health_digits", window, match.start()):
            yield Proposal(match.start(), match.end(), "health_card")


def _template(value: str) -> bool:
    """XXX123456, 0001234567: letters X only, or three zeros and no letter, as forms and pseudonyms have them."""
    letters = {character for character in value if character.isalpha()}
    return letters in ({"X"}, {"x"}) or (not letters and value.startswith("000"))


def plates(window: str, start: int) -> Iterator[Proposal]:
    """Number plates, 1234 BCD and the provincial ones before 2000, after a word that tells."""
    for pattern in (_PLATE, _OLD_PLATE):
        for match in every(pattern, window, start):
            # "coches de 2004 BMW": a year beside a name
            year = pattern is _PLATE and match[2] == " " and 1900 <= int(match[1]) <= 2040
            if told("registration" if year else "plate", window, match.start(), match.end(), within=48):
                yield Proposal(match.start(), match.end(), "plate")


def cadastres(window: str, start: int) -> Iterator[Proposal]:
    """Cadastral references: 20 characters, two of them check letters; the 14 of a plot only after a word that tells."""
    for match in every(_CADASTRE, window, start):
        if stdnum_cadastre.is_valid(compact(match[0])):
            yield Proposal(match.start(), match.end(), "cadastre")
    for match in every(_PARCEL, window, start):
        if match[0][-7:-5].upper() != PSEUDO_SHEET and told("cadastre", window, match.start(), match.end()):
            yield Proposal(match.start(), match.end(), "cadastre")
