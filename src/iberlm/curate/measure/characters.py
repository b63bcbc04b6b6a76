"""What the kernel knows of each code point: its class, some flags, and its lower case, as tables that compiled loops can index.

Classes follow Unicode's general categories as the running Python knows them (`unicodedata`), so a code point that Unicode assigned
only lately may count as a symbol in an older Python; everything older is the same everywhere. The numbers of classes and flags are
compiled into `loops`: when one changes, so must that file, or numba's cache keeps the old.
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SPACE, SYMBOL, MARK, LETTER, DIGIT, IDEOGRAPH = range(6)
"""Classes. SPACE: `str.isspace`. MARK: categories M and Cf, which continue the token before them. DIGIT: N. IDEOGRAPH: letters of
scripts written without spaces, each a word. SYMBOL: all the rest, punctuation and unassigned ones as well."""
CLASS_MASK = 7
UPPER, TERMINAL, CLOSING, IGNORABLE = 8, 16, 32, 64
"""Flags beside the class. UPPER: Lu, Lt. TERMINAL: ends a sentence. CLOSING: may stand between that and the next space.
IGNORABLE: Cf (soft hyphen, zero-width joiner, byte order mark), no part of a word's hash."""

_UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3021, 0x30FF),  # Hangzhou numerals, Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
_SENTENCE_TERMINAL_RANGES = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA 1803 1809 "
    "1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F "
    "A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 "
    "10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 "
    "115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 "
    "16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
SENTENCE_TERMINAL = frozenset(
    code for ends in ([int(code, 16) for code in entry.split("-")] for entry in _SENTENCE_TERMINAL_RANGES.split()) for code in range(ends[0], ends[-1] + 1)
)
"""Code points with Unicode's property Sentence_Terminal (PropList.txt), which `unicodedata` does not have. FineWeb's line rule uses the same."""
_LAST_PLANES = 0xE0000  # nothing is assigned between the ideographs of plane 3 and the tags and variation selectors of plane 14
_LIMIT = 0x110000
_PAGE = 256


class Characters(NamedTuple):
    """Two-stage tables: the entry of code point c stands at `pages[c >> 8] << 8 | c & 255`. The first page is ASCII and Latin-1."""

    pages: npt.NDArray[np.uint16]
    """Shape (0x1100,): number of the page of each 256 code points."""
    properties: npt.NDArray[np.uint8]
    """Class and flags, shape (256 * pages,)."""
    lower: npt.NDArray[np.int32]
    """Simple lower case: one code point to one, without context or language; shape (256 * pages,)."""


@cache
def characters() -> Characters:
    """The tables, made from `unicodedata` once a process."""
    unspaced = {code for first, last in _UNSPACED_RANGES for code in range(first, last + 1)}
    numbers: dict[bytes, int] = {}
    pages, properties, lower = np.zeros(_LIMIT // _PAGE, np.uint16), [], []
    for page in range(len(pages)):
        codes = range(page * _PAGE, (page + 1) * _PAGE)
        assigned = codes.start < 0x40000 or codes.start >= _LAST_PLANES
        found = np.array([_properties(code, unspaced) for code in codes] if assigned else [SYMBOL] * _PAGE, np.uint8)
        small = np.array([simple_lower(code) for code in codes] if codes.start < 0x20000 else codes, np.int32)
        cased = bool((small != np.arange(codes.start, codes.stop)).any())
        key = found.tobytes() + (small.tobytes() if cased else b"")
        if key not in numbers:
            numbers[key] = len(numbers)
            properties.append(found)
            lower.append(small if cased else np.full(_PAGE, -1, np.int32))
        pages[page] = numbers[key]
    return Characters(pages, np.concatenate(properties), np.concatenate(lower))


def _properties(code: int, unspaced: set[int]) -> int:
    character = chr(code)
    if character.isspace():
        return SPACE
    category = unicodedata.category(character)
    if category[0] == "L":
        return IDEOGRAPH if code in unspaced else LETTER | (UPPER if category in ("Lu", "Lt") else 0)
    if category[0] == "N":
        return DIGIT
    if category[0] == "M":
        return MARK
    if category == "Cf":
        return MARK | IGNORABLE
    closing = category in ("Pe", "Pf") or character in "\"'"
    return SYMBOL | (TERMINAL if code in SENTENCE_TERMINAL else 0) | (CLOSING if closing else 0)


def simple_lower(code: int) -> int:
    """Simple lower case of a code point (UnicodeData.txt): of the only one that has a longer full form, U+0130, the first of the two."""
    return ord(chr(code).lower()[0])
