"""Where a text can hold personal data at all: windows of folded characters, found by one pass over its UTF-8 bytes.

Most text holds none, so it must be read as fast as memory allows and must never become a Python string. The pass folds
each code point to one byte (so that an index is an offset in code points) and looks for triggers, which are *necessary*
conditions of the patterns in `iberlm.curate.pii.search`: an @ between characters, a cluster of digits, an address with
colons. Around each trigger it keeps a window wide enough for the pattern and for the words that give it its context.

Folding keeps Latin-1 and maps what people type in its place: full-width forms to ASCII, all spaces to a space, all dashes
to a hyphen, typographic quotes and primes to ' and ", º to °. Any other letter, digit or combining mark becomes `ª` (so
that it still glues to what stands beside it), any other character `¤`.
"""

import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]

ADDRESS, NUMBER, LONG_NUMBER, PHONE, DOTTED, COLONS, POSITION, IBAN, SHORT_CODE = (1 << bit for bit in range(9))
"""Triggers, as bits: @ between characters; 7 digits in a row or 3 + 3; 12 digits; 9 digits; a.b.c.d; 2000: to 3fff:;
a decimal fraction of 4 digits or a degree sign; two letters, two digits and what can be an account; letters beside digits."""

PHONE_SIGN = "\x9d"
"""What the signs ☎ ☏ ✆ 📞 📱 📲 fold to: they stand for the word."""
_WORD, _SYMBOL, _PHONE_SIGN = 0xAA, 0xA4, ord(PHONE_SIGN)

CONTEXT = 64
"""Code points before a number in which a word may tell what it is."""
_LEFT = CONTEXT + 48  # a pattern begins at most 47 characters before the digits that trigger it: a latitude before its longitude
_RIGHT = 40  # letters after the last digit, then the words that may follow
_ADDRESS_LEFT = 12 + 3 + 64 + 1 + 128 + 8  # scheme://user:password, and the characters that must not stand before it
_ADDRESS_RIGHT = 256 + 8  # a domain has at most 253 characters
_GAP = 3  # characters between two digits of one cluster

_DIGIT, _LOWER, _UPPER, _OTHER_WORD = 1, 2, 3, 4


class Windows(NamedTuple):
    """Windows of a column of texts, ordered by document, those with an @ after the others of their document."""

    document: npt.NDArray[np.int64]
    """Row of the text, shape (windows,)."""
    start: npt.NDArray[np.int64]
    """First code point, shape (windows,)."""
    triggers: npt.NDArray[np.int64]
    """Bits, shape (windows,)."""
    whole: npt.NDArray[np.int64]
    """1 where the window begins at the text's start, 2 where it ends at its end, 3 for both; shape (windows,)."""
    limits: npt.NDArray[np.int64]
    """Window i is `folded[limits[i]:limits[i + 1]]`; shape (windows + 1,)."""
    folded: Bytes
    """Latin-1 bytes of all windows, shape (characters of all windows,)."""


def windows(data: Bytes, offsets: npt.NDArray[np.int64]) -> Windows:
    """The windows of texts that lie one after the other in `data` (UTF-8, lone surrogates allowed).

    `data`: shape (bytes,), uint8. `offsets`: shape (texts + 1,), int64, text i is `data[offsets[i]:offsets[i + 1]]`.
    Time and memory are linear in the bytes. Any bytes may be given: what is not UTF-8 folds to `¤`, nothing is read beyond a text.
    """
    rows, folded = _windows(data, offsets, _fold_table(), _class_table())
    limits = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows[:, 2] - rows[:, 1], out=limits[1:])
    return Windows(rows[:, 0], rows[:, 1], rows[:, 3], rows[:, 4], limits, folded)


def fold(text: str) -> str:
    """A text as the patterns see it: one Latin-1 character a code point. For tests, and for values to be compared."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    out = np.empty(len(data), np.uint8)
    length = _fold(data, 0, len(data), _fold_table(), out)
    return out[:length].tobytes().decode("latin-1")


@lru_cache(maxsize=1)
def _fold_table() -> Bytes:
    """One byte for each code point of the basic plane, shape (65536,)."""
    table = np.full(65536, _SYMBOL, np.uint8)
    table[:256] = np.arange(256)
    table[0x80:0xA0] = _SYMBOL
    table[0x85] = ord("\n")
    table[0xBA] = 0xB0
    table[0xA0] = ord(" ")
    for code in range(256, 65536):
        category = unicodedata.category(chr(code))
        # a variation selector is a mark that belongs to a sign before it, not to a word
        if category[0] in "LN" or (category[0] == "M" and not 0xFE00 <= code <= 0xFE0F):
            table[code] = _WORD
        elif category == "Zs":
            table[code] = ord(" ")
        elif category in ("Zl", "Zp"):
            table[code] = ord("\n")
        elif category == "Pd" or code == 0x2212:
            table[code] = ord("-")
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    table[[0x2018, 0x2019, 0x201B, 0x2032, 0x02B9, 0x02BC]] = ord("'")
    table[[0x201C, 0x201D, 0x2033, 0x02BA]] = ord('"')
    table[[0x260E, 0x260F, 0x2706]] = _PHONE_SIGN
    return table


@lru_cache(maxsize=1)
def _class_table() -> Bytes:
    """Class of each folded byte, shape (256,): 0 for what is no part of a word."""
    table = np.zeros(256, np.uint8)
    for byte in range(256):
        character = chr(byte)
        if character.isalnum():
            table[byte] = _OTHER_WORD
        if character.isascii() and character.isalpha():
            table[byte] = _UPPER if character.isupper() else _LOWER
        if character.isascii() and character.isdigit():
            table[byte] = _DIGIT
    return table


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fold(data: Bytes, start: int, end: int, table: Bytes, out: Bytes) -> int:
    """Fold the code points of data[start:end] into `out`; their number."""
    position, length = start, 0
    while position < end:
        byte = data[position]
        if byte < 0x80:
            out[length] = byte
            position += 1
        elif 0xC2 <= byte < 0xE0 and position + 1 < end:
            out[length] = table[(byte & 0x1F) << 6 | (data[position + 1] & 0x3F)]
            position += 2
        elif 0xE0 <= byte < 0xF0 and position + 2 < end:
            out[length] = table[(byte & 0x0F) << 12 | (data[position + 1] & 0x3F) << 6 | (data[position + 2] & 0x3F)]
            position += 3
        elif 0xF0 <= byte < 0xF8 and position + 3 < end:
            code = (byte & 0x07) << 18 | (data[position + 1] & 0x3F) << 12 | (data[position + 2] & 0x3F) << 6 | (data[position + 3] & 0x3F)
            telephone = code in (0x1F4DE, 0x1F4F1, 0x1F4F2)
            out[length] = _PHONE_SIGN if telephone else _SYMBOL
            position += 4
        else:
            out[length] = _SYMBOL
            position += 1
        length += 1
    return length


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _windows(data: Bytes, offsets: npt.NDArray[np.int64], table: Bytes, classes: Bytes) -> tuple[npt.NDArray[np.int64], Bytes]:
    """Rows (document, start, end, triggers, whole) and the folded bytes of the windows."""
    longest = 0
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    text = np.empty(longest, np.uint8)
    found = np.empty((64, 5), np.int64)
    folded = np.empty(4096, np.uint8)
    rows, used = 0, 0
    for document in range(len(offsets) - 1):
        length = _fold(data, offsets[document], offsets[document + 1], table, text)
        first = rows
        found, rows = _number_windows(text, length, classes, found, rows, document)
        found, rows = _address_windows(text, length, classes, found, rows, document)
        for row in range(first, rows):
            start, end = found[row, 1], found[row, 2]
            if used + end - start > len(folded):
                larger = np.empty(2 * (used + end - start), np.uint8)
                _copy(folded, 0, used, larger, 0)
                folded = larger
            _copy(text, start, end, folded, used)
            used += end - start
    return found[:rows].copy(), folded[:used].copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _copy(source: Bytes, start: int, end: int, target: Bytes, at: int) -> None:
    """target[at:] = source[start:end]; a slice assignment would take five seconds to compile, for the wording of its errors."""
    for offset in range(end - start):
        target[at + offset] = source[start + offset]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add(found: Any, rows: int, document: int, start: int, end: int, length: int, triggers: int) -> tuple[Any, int]:
    """Add a window, or widen the last one where they meet and are of one class (with @ or without)."""
    start, end = max(0, start), min(length, end)
    address = triggers == ADDRESS
    if rows and found[rows - 1, 0] == document and start <= found[rows - 1, 2] and (found[rows - 1, 3] == ADDRESS) == address:
        last = rows - 1
        found[last, 1] = min(found[last, 1], start)
        found[last, 2] = max(found[last, 2], end)
        found[last, 3] |= triggers
    else:
        if rows == len(found):
            larger = np.empty((2 * rows, 5), np.int64)
            for row in range(rows):
                for column in range(5):
                    larger[row, column] = found[row, column]
            found = larger
        last = rows
        rows += 1
        found[last, 0], found[last, 1], found[last, 2], found[last, 3] = document, start, end, triggers
    found[last, 4] = (found[last, 1] == 0) + 2 * (found[last, 2] == length)
    return found, rows


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _address_windows(text: Bytes, length: int, classes: Bytes, found: Any, rows: int, document: int) -> tuple[Any, int]:
    """Windows around each @ (or %40, as a URL writes it) that has a character before it and a letter, digit or [ after it."""
    for position in range(1, length - 1):
        byte = text[position]
        after = position + 1
        if byte == 0x25 and text[position + 1] == 0x34 and position + 3 < length and text[position + 2] == 0x30:
            after = position + 3
        elif byte != 0x40:
            continue
        if text[position - 1] > 0x20 and (1 <= classes[text[after]] <= _OTHER_WORD or text[after] == 0x5B):
            found, rows = _add(found, rows, document, position - _ADDRESS_LEFT, position + _ADDRESS_RIGHT, length, ADDRESS)
    return found, rows


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number_windows(text: Bytes, length: int, classes: Bytes, found: Any, rows: int, document: int) -> tuple[Any, int]:
    """Windows around clusters: runs of digits at most `_GAP` characters apart, with a trigger among them."""
    position = 0
    first, last, reach = 0, -_GAP - 2, 0  # of the cluster: first digit, end of the last run, where its window ends at least
    digits, dots, previous, triggers = 0, 0, 0, 0
    while position < length:
        if position == last and text[position] == 0xB0 and _before_minutes(text, length, position, classes):
            triggers |= POSITION
            reach = max(reach, position + 80)
        while position < length and not 0x30 <= text[position] <= 0x39:
            position += 1
        if position == length:
            break
        end = position + 1
        while end < length and classes[text[end]] == _DIGIT:
            end += 1
        run = end - position
        if position - last > _GAP:
            if triggers:
                found, rows = _add(found, rows, document, first - _LEFT, max(last + _RIGHT, reach), length, triggers)
            first, reach, digits, dots, previous, triggers = position, 0, 0, 0, 0, 0
        digits += run
        dotted = digits > run and position - last == 1 and text[position - 1] == 0x2E
        dots = dots + 1 if dotted and run <= 3 and previous <= 3 else 0
        if dots >= 3:
            triggers |= DOTTED
        if run >= 7 or (run == 3 and previous == 3):
            triggers |= NUMBER
        if digits >= 9:
            triggers |= PHONE
        if digits >= 12:
            triggers |= LONG_NUMBER
        if run >= 4 and 1 <= previous <= 3 and position - last == 1 and (text[position - 1] == 0x2E or text[position - 1] == 0x2C):
            triggers |= POSITION
            reach = max(reach, end + 80)
        if run >= 2 and _begins_account(text, length, position, classes):
            triggers |= IBAN
            reach = max(reach, end + 72)
        if 4 <= run <= 8 and _letters_beside(text, length, position, end, classes):
            triggers |= SHORT_CODE
        last, previous, position = end, run, end
        # "2a02:": letters may end the first group, so the colon is looked for here
        if run <= 4 and _begins_colons(text, length, end - run, classes):
            triggers |= COLONS
            reach = max(reach, end + 64)
    if triggers:
        found, rows = _add(found, rows, document, first - _LEFT, max(last + _RIGHT, reach), length, triggers)
    return found, rows


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _before_minutes(text: Bytes, length: int, position: int, classes: Bytes) -> bool:
    """41°23': a digit one or two characters after the degree sign."""
    close = position + 1 < length and classes[text[position + 1]] == _DIGIT
    return close or (position + 2 < length and classes[text[position + 2]] == _DIGIT)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _begins_colons(text: Bytes, length: int, start: int, classes: Bytes) -> bool:
    """Four hexadecimal digits that begin a global unicast address (2000::/3), then a colon."""
    if not 0x32 <= text[start] <= 0x33 or start + 5 >= length or text[start + 4] != 0x3A:
        return False
    for offset in range(1, 4):
        byte = text[start + offset] | 0x20
        if not (0x30 <= text[start + offset] <= 0x39 or 0x61 <= byte <= 0x66):
            return False
    return start == 0 or not 1 <= classes[text[start - 1]] <= _OTHER_WORD


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _begins_account(text: Bytes, length: int, position: int, classes: Bytes) -> bool:
    """Two ASCII letters before two digits, and at least six more digits among the 33 letters and digits that follow."""
    for offset in range(1, 3):
        if position < offset or not _LOWER <= classes[text[position - offset]] <= _UPPER:
            return False
    seen, digits, index, gap = 0, 0, position, 0
    while index < length and seen < 34 and gap <= 1:
        kind = classes[text[index]]
        if kind in (_DIGIT, _LOWER, _UPPER):
            seen += 1
            digits += kind == _DIGIT
            gap = 0
        else:
            gap += 1
        index += 1
    return digits >= 8


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _letters_beside(text: Bytes, length: int, start: int, end: int, classes: Bytes) -> bool:
    """Digits of a plate (1234 BCD, M-1234-AB), a passport (AAA 123456) or a health card (letters and 6 digits or more)."""
    after = end + (end < length and (text[end] == 0x20 or text[end] == 0x2D))
    before = start - 1 - (start > 0 and (text[start - 1] == 0x20 or text[start - 1] == 0x2D))
    letter_before = before >= 0 and _LOWER <= classes[text[before]] <= _UPPER
    letter_after = after < length and _LOWER <= classes[text[after]] <= _UPPER
    if end - start >= 6:
        return letter_before or (letter_after and after == end)
    if end - start > 4 or not letter_after:
        return False
    letters = after
    while letters < length and letters - after < 4 and _LOWER <= classes[text[letters]] <= _UPPER:
        letters += 1
    if letters < length and 1 <= classes[text[letters]] <= _OTHER_WORD:
        return False
    if letters - after == 3:
        return True
    return letter_before and letters - after <= 2 and (classes[text[before]] == _UPPER or text[start - 1] == 0x2D)
