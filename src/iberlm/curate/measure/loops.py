# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The compiled loops of the kernel: documents as UTF-8 bytes in, counts and hashes out, no Python object in between.

`iberlm.curate.measure.kernel` is the way in, says what each number means, and imports this module at its first call, as numba takes a while
to load. All loops stand in one file because numba's cache on disk looks at the file of a function alone, not of those that it calls.

A document is `data[lo:hi]`. Each loop is linear in it, and works in the arrays of `Scratch`, made once for the largest document.
Bytes that are no UTF-8 read as U+FFFD, one by one; none outside of [lo, hi) is read.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from iberlm.curate.measure.characters import CLASS_MASK, CLOSING, DIGIT, IDEOGRAPH, IGNORABLE, LETTER, MARK, SPACE, SYMBOL, TERMINAL, UPPER

COUNTS = (
    "characters words tokens word_characters alpha_tokens stop_words stop_word_tokens "
    "hashes ellipses curly_brackets line_feeds lines bullet_lines ellipsis_lines longest_word sentences "
    "gopher_lines duplicate_lines duplicate_line_characters paragraphs duplicate_paragraphs duplicate_paragraph_characters "
    "full_lines punctuated_lines short_lines duplicate_full_line_characters few_word_lines c4_lines "
    "lorem_ipsum javascript_lines policy_lines "
    "top_2 top_3 top_4 duplicate_5 duplicate_6 duplicate_7 duplicate_8 duplicate_9 duplicate_10"
).split()
"""What `measure_documents` counts of each document, in the order of its columns; `kernel` divides them."""
# fmt: off
(
    CHARACTERS, WORDS, TOKENS, WORD_CHARACTERS, ALPHA_TOKENS, STOP_WORDS, STOP_WORD_TOKENS,
    HASHES, ELLIPSES, CURLY_BRACKETS, LINE_FEEDS, LINES, BULLET_LINES, ELLIPSIS_LINES, LONGEST_WORD, SENTENCES,
    GOPHER_LINES, DUPLICATE_LINES, DUPLICATE_LINE_CHARACTERS, PARAGRAPHS, DUPLICATE_PARAGRAPHS, DUPLICATE_PARAGRAPH_CHARACTERS,
    FULL_LINES, PUNCTUATED_LINES, SHORT_LINES, DUPLICATE_FULL_LINE_CHARACTERS, FEW_WORD_LINES, C4_LINES,
    LOREM_IPSUM, JAVASCRIPT_LINES, POLICY_LINES, TOP_2,
) = range(len(COUNTS) - 8)
# fmt: on

SHORT_LINE_CHARACTERS = 30
"""FineWeb (Penedo et al. 2024, section 3.6): a line of up to 30 characters is short."""
C4_LINE_WORDS = 3
"""C4 (Raffel et al. 2020, section 2.2): a line of fewer words is dropped."""
C4_WORD_CHARACTERS = 1000
"""C4's reference implementation drops lines with a longer word."""
SHINGLE_WORDS = 5
_FULL, _C4_LINE = 1, 2  # flags of a line

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_SEQUENCE = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 over the golden ratio
_EMPTY = np.int32(-1)
_APOSTROPHES, _HYPHENS = (0x27, 0x2019), (0x2D, 0x2010, 0x2011)
_FULL_STOP, _COMMA, _COLON, _SLASH, _UNDERSCORE, _AT, _PUNT_VOLAT, _HYPHENATION_POINT = 0x2E, 0x2C, 0x3A, 0x2F, 0x5F, 0x40, 0xB7, 0x2027

# `_nrt=False`, as numba's own string functions have it: no reference is counted for arrays at each call, which took two thirds of the time
# (12.9 MB/s with, 30.9 without). Such functions cannot make arrays.
_compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
_allocating = njit(cache=True, nogil=True, error_model="numpy")


class Scratch(NamedTuple):
    """Arrays for one document, reused. Pages that no document reaches are never touched, so they cost address space, not memory."""

    token_hash: npt.NDArray[np.uint64]
    """Of each token as it is written."""
    token_end: npt.NDArray[np.int32]
    """Characters of all tokens before each, one more entry than tokens."""
    word_hash: npt.NDArray[np.uint64]
    """Of each word in lower case."""
    word_start: npt.NDArray[np.int32]
    word_end: npt.NDArray[np.int32]
    line_hash: npt.NDArray[np.uint64]
    line_end: npt.NDArray[np.int32]
    """Code point of the line feed that ends each line, or of the end of the text."""
    line_flags: npt.NDArray[np.uint8]
    gram: npt.NDArray[np.uint64]
    first: npt.NDArray[np.int32]
    counted: npt.NDArray[np.int32]
    candidates: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]
    values: npt.NDArray[np.int32]


def scratch(document_bytes: int) -> Scratch:
    """Room for documents of up to `document_bytes` bytes."""
    room = document_bytes + 2
    slots = slots_for(room)
    kinds = {"keys": (np.uint64, slots), "values": (np.int32, slots), "line_flags": (np.uint8, room)}
    wide = ("token_hash", "word_hash", "line_hash", "gram")
    made = {name: kinds.get(name, (np.uint64 if name in wide else np.int32, room)) for name in Scratch._fields}
    return Scratch(**{name: np.empty(size, dtype) for name, (dtype, size) in made.items()})


def slots_for(entries: int) -> int:
    """Slots of a hash table for so many entries: a power of two, at most three quarters full."""
    slots = 16
    while slots * 3 < entries * 4:
        slots *= 2
    return slots


class Phrases(NamedTuple):
    """What stop words and phrases a document is searched for, as two open hash tables of a power of two slots each."""

    stop_hash: npt.NDArray[np.uint64]
    """Hash of the stop word in each slot, 0 where none is; shape (slots,)."""
    stop_languages: npt.NDArray[np.uint32]
    """One bit a language that has it, shape (slots,)."""
    stop_seen: npt.NDArray[np.int64]
    """Document that last had it: scratch, shape (slots,)."""
    phrase_hash: npt.NDArray[np.uint64]
    """Hash of the first word of the phrases in each slot, 0 where none is; shape (slots,)."""
    phrase_first: npt.NDArray[np.int32]
    """Where its phrases begin in `phrase_words`, shape (slots,)."""
    phrase_words: npt.NDArray[np.uint64]
    """Phrases one after another: kind, number of words left, their hashes; a kind of 0 ends those of one first word."""


@_compiled
def mix(value):
    """Finaliser of MurmurHash3 (Appleby): every bit of the result depends on every bit of the value."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@_compiled
def _decode(data, i, hi):
    """The code point at byte `i` and the number of its bytes."""
    lead = np.int64(data[i])
    if lead < 0x80:
        return lead, 1
    left = hi - i
    if 0xC2 <= lead < 0xE0 and left > 1 and data[i + 1] & 0xC0 == 0x80:
        return (lead & 0x1F) << 6 | np.int64(data[i + 1]) & 0x3F, 2
    if 0xE0 <= lead < 0xF0 and left > 2 and data[i + 1] & 0xC0 == 0x80 and data[i + 2] & 0xC0 == 0x80:
        return (lead & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | np.int64(data[i + 2]) & 0x3F, 3
    if 0xF0 <= lead < 0xF5 and left > 3 and data[i + 1] & 0xC0 == 0x80 and data[i + 2] & 0xC0 == 0x80 and data[i + 3] & 0xC0 == 0x80:
        code = (lead & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12 | (np.int64(data[i + 2]) & 0x3F) << 6 | np.int64(data[i + 3]) & 0x3F
        if code < 0x110000:
            return code, 4
    return 0xFFFD, 1


@_compiled
def _entry(tables, code):
    return np.int64(tables.pages[code >> 8]) << 8 | code & 255


@_compiled
def _properties(data, i, hi, tables):
    """Class and flags of the code point at byte `i`; a space where the text has ended."""
    if i >= hi:
        return SPACE
    lead = np.int64(data[i])
    if lead < 0x80:
        return np.int64(tables.properties[lead])
    code, _ = _decode(data, i, hi)
    return np.int64(tables.properties[_entry(tables, code)])


@_compiled
def _is_letter_or_digit(properties):
    kind = properties & CLASS_MASK
    return kind in (LETTER, DIGIT)


@_compiled
def _clitic(data, i, hi, tables):
    """Bytes of the enclitic pronoun (Catalan, Galician) or 's that begins at the apostrophe or hyphen at byte `i`, 0 where none does."""
    code, size = _decode(data, i, hi)
    a = np.int64(data[i + size]) | 32 if i + size < hi else 0  # 32: the bit of small letters
    b = np.int64(data[i + size + 1]) | 32 if i + size + 1 < hi else 0
    c = np.int64(data[i + size + 2]) | 32 if i + size + 2 < hi else 0
    if code in _APOSTROPHES:
        length = size + _apostrophe_clitic(a, b)
        if length == size:
            return 0
    else:
        length = _hyphen_clitic(a, b, c)
        if length == 0:
            return 0
        length += size
        if length == size + 1:  # -m' -t' -s' -l' -n' before a vowel
            mark, mark_size = _decode(data, i + length, hi) if i + length < hi else (0, 0)
            elided = mark in _APOSTROPHES and _is_letter_or_digit(_properties(data, i + length + mark_size, hi, tables))
            return length + mark_size if elided else 0
    after = _properties(data, i + length, hi, tables) & CLASS_MASK
    return 0 if MARK <= after <= IDEOGRAPH else length


@_compiled
def _apostrophe_clitic(a, b):
    """Letters of the pronoun that two letters after an apostrophe begin: ns ls, or one of m t s l n."""
    m, t, s, ell, n = 0x6D, 0x74, 0x73, 0x6C, 0x6E
    if a in (n, ell) and b == s:
        return 2
    return 1 if a in (m, t, s, ell, n) else 0


@_compiled
def _hyphen_clitic(a, b, c):
    """Letters of the pronoun that three letters after a hyphen begin: les los nos vos la lo li me te se ne hi ho us en, or one of m t s l n."""
    e, h, i, ell, m, n, o, s, t, u, v = 0x65, 0x68, 0x69, 0x6C, 0x6D, 0x6E, 0x6F, 0x73, 0x74, 0x75, 0x76
    if c == s and ((b == e and a == ell) or (b == o and a in (ell, n, v))):
        return 3
    if (a == ell and b in (0x61, o, i)) or (b == e and a in (m, t, s, n)) or (a == h and b in (i, o)) or (a == u and b == s) or (a == e and b == n):
        return 2
    return 1 if a in (m, t, s, ell, n) else 0


@_compiled
def _in_url(code, properties):
    """Whether RFC 3986 lets the character stand in an address (letters of other scripts as well)."""
    if properties & CLASS_MASK >= MARK:
        return True
    return 0x20 < code < 0x7F and code not in (0x22, 0x3C, 0x3E, 0x5C, 0x5E, 0x60, 0x7B, 0x7C, 0x7D)  # none of "<>\\^`{|}


@_compiled
def _url_end(data, i, hi, tables):
    """Byte after the address that goes on at `i`: without punctuation at its end, but for a slash."""
    end = i
    while i < hi:
        code, size = _decode(data, i, hi)
        properties = np.int64(tables.properties[_entry(tables, code)])
        if not _in_url(_normal(code), properties):
            break
        i += size
        if properties & CLASS_MASK >= MARK or code == _SLASH:
            end = i
    return end


@_compiled
def _joins(data, i, size, hi, code, before, split_hyphens, tables):
    """Whether the character at byte `i`, between one of properties `before` and what follows, stands inside a word."""
    after = _properties(data, i + size, hi, tables)
    if not _is_letter_or_digit(after):
        return False
    letters = before & CLASS_MASK == LETTER and after & CLASS_MASK == LETTER
    if code == _FULL_STOP:  # 3.000, example.org; the end of a sentence where the next begins at once
        return not (letters and before & UPPER == 0 and after & UPPER)
    if code in (_COMMA, _COLON, _SLASH):  # 3,50 12:30 1/2
        return before & CLASS_MASK == DIGIT and after & CLASS_MASK == DIGIT
    if code in _HYPHENS:
        return not letters if split_hyphens else _clitic(data, i, hi, tables) == 0
    return code in (_PUNT_VOLAT, _HYPHENATION_POINT, _UNDERSCORE, _AT)


@_compiled
def _normal(code):
    """One code point for the spellings of apostrophe, hyphen and punt volat."""
    if code < 0x2010:
        return code
    if code in _APOSTROPHES:
        return 0x27
    if code in _HYPHENS:
        return 0x2D
    return _PUNT_VOLAT if code == _HYPHENATION_POINT else code


@_compiled
def _absorb(data, i, end, tables, written, lower):
    """Go on with the hashes of a token as written and in lower case (FNV-1a over code points). Also its characters, and 1 if one is a letter."""
    length, has_letter = 0, 0
    while i < end:
        code, size = _decode(data, i, end)
        entry = _entry(tables, code)
        properties = np.int64(tables.properties[entry])
        if properties & IGNORABLE == 0:
            small = np.int64(tables.lower[entry])
            code = _normal(code)
            written = (written ^ np.uint64(code)) * _FNV_PRIME
            lower = (lower ^ np.uint64(code if small < 0 else _normal(small))) * _FNV_PRIME
        kind = properties & CLASS_MASK
        has_letter |= kind in (LETTER, IDEOGRAPH)
        i += size
        length += 1
    return written, lower, length, has_letter


@_compiled
def hash_token(data, lo, hi, tables):
    """Hash of a token as written."""
    return mix(_absorb(data, lo, hi, tables, _FNV_OFFSET, _FNV_OFFSET)[0])


@_compiled
def _opens_address(data, i, hi, tables):
    """Whether `://` and a letter or digit begin at byte `i`."""
    slashes = i + 3 < hi and data[i + 1] == _SLASH and data[i + 2] == _SLASH
    return slashes and _is_letter_or_digit(_properties(data, i + 3, hi, tables))


@_compiled
def _is_www(data, i):
    return data[i] | 32 == 0x77 and data[i + 1] | 32 == 0x77 and data[i + 2] | 32 == 0x77


@_compiled
def _word(data, i, hi, tables, split_hyphens):
    """End (byte) of the word that begins with the letter or digit at byte `i`, and what `_absorb` says of it."""
    start, before = i, np.int64(0)
    written, lower, length, has_letter = _FNV_OFFSET, _FNV_OFFSET, 0, 0
    while i < hi:
        lead = np.int64(data[i])
        if lead < 0x80:
            code, size, entry = lead, 1, lead
        else:
            code, size = _decode(data, i, hi)
            entry = _entry(tables, code)
        properties = np.int64(tables.properties[entry])
        kind = properties & CLASS_MASK
        stop, address = False, False
        if kind < MARK or kind > DIGIT:
            if kind != SYMBOL:
                break
            if code in _APOSTROPHES:  # an elided word keeps its apostrophe: l' home
                stop = True
                if not _is_letter_or_digit(_properties(data, i + size, hi, tables)) or _clitic(data, i, hi, tables) > 0:
                    break
            elif code == _COLON and _opens_address(data, i, hi, tables):
                address = True
            elif not _joins(data, i, size, hi, code, before, split_hyphens, tables):
                break
            elif code == _FULL_STOP and i == start + 3 and _is_www(data, start):
                address = True
        if address:
            end = _url_end(data, i, hi, tables)
            written, lower, more, letter = _absorb(data, i, end, tables, written, lower)
            return end, written, lower, length + more, has_letter | letter
        if properties & IGNORABLE == 0:
            small = np.int64(tables.lower[entry])
            code = _normal(code)
            written = (written ^ np.uint64(code)) * _FNV_PRIME
            lower = (lower ^ np.uint64(code if small < 0 else small)) * _FNV_PRIME
        has_letter |= kind == LETTER
        length += 1
        i += size
        before = properties
        if stop:
            break
    return i, written, lower, length, has_letter


@_compiled
def _other_token(data, i, hi, tables, code, size, ideograph, after_word):
    """End (byte) of the token at byte `i` that begins with neither letter nor digit, and whether it is a word."""
    clitic = _clitic(data, i, hi, tables) if after_word and (code in _APOSTROPHES or code in _HYPHENS) else 0
    if clitic:
        return i + clitic, True
    end = i + size
    while not ideograph and end < hi and _decode(data, end, hi)[0] == code:  # a run of one mark is one token
        end += size
    while end < hi and _properties(data, end, hi, tables) & CLASS_MASK == MARK:
        end += _decode(data, end, hi)[1]
    return end, ideograph


@_compiled
def tokenize(data, lo, hi, tables, split_hyphens, scratch, counts):
    """Fill the tokens and words of `scratch`, and count them, with their characters, in `counts`."""
    i, characters, tokens, words, token_characters, word_characters, alpha_tokens = lo, 0, 0, 0, 0, 0, 0
    word_stop = np.int64(-1)
    scratch.token_end[0] = 0
    while i < hi:
        lead = np.int64(data[i])
        if lead < 0x80:
            code, size, entry = lead, 1, lead
        else:
            code, size = _decode(data, i, hi)
            entry = _entry(tables, code)
        kind = np.int64(tables.properties[entry]) & CLASS_MASK
        if kind == SPACE:
            i += size
            characters += 1
            continue
        if kind in (LETTER, DIGIT):
            is_word = True
            end, written, lower, length, has_letter = _word(data, i, hi, tables, split_hyphens)
        else:
            after_word = i == word_stop and not (split_hyphens and code in _HYPHENS)
            end, is_word = _other_token(data, i, hi, tables, code, size, kind == IDEOGRAPH, after_word)
            written, lower, length, has_letter = _absorb(data, i, end, tables, _FNV_OFFSET, _FNV_OFFSET)
        scratch.token_hash[tokens] = mix(written)
        tokens += 1
        token_characters += length
        scratch.token_end[tokens] = token_characters
        if is_word:
            scratch.word_hash[words] = mix(lower)
            scratch.word_start[words] = characters
            scratch.word_end[words] = characters + length
            words += 1
            word_characters += length
            word_stop = end
        alpha_tokens += has_letter
        characters += length
        i = end
    counts[CHARACTERS], counts[TOKENS], counts[WORDS] = characters, tokens, words
    counts[WORD_CHARACTERS], counts[ALPHA_TOKENS] = word_characters, alpha_tokens


@_compiled
def scan_lines(data, lo, hi, tables, scratch, counts):
    """Cut the lines at line feeds into `scratch`, and count in `counts` what can be seen of a text without its words. Number of lines."""
    i, lines, characters, feeds = lo, 0, 0, 0
    has_word, ended = False, False  # of the sentence: a word since its beginning, and after it a terminal mark with closing marks at most
    while True:  # the text after the last line feed is a line, be it empty
        line_start, fnv = characters, _FNV_OFFSET
        full, bullet, last_code, dots = False, False, np.int64(0), 0  # of the line without white space round it
        word_run, line_words, long_word = 0, 0, False
        final = np.int64(0)  # properties of the very last character
        fed = False
        while i < hi:
            lead = np.int64(data[i])
            if lead == 0x0A:
                fed = True
                i += 1
                break
            if lead < 0x80:
                code, size, entry = lead, 1, lead
            else:
                code, size = _decode(data, i, hi)
                entry = _entry(tables, code)
            final = np.int64(tables.properties[entry])
            fnv = (fnv ^ np.uint64(code)) * _FNV_PRIME
            characters += 1
            i += size
            kind = final & CLASS_MASK
            if kind == SPACE:
                word_run = 0
                counts[SENTENCES] += ended
                has_word, ended = has_word and not ended, False
                continue
            if kind >= LETTER:
                has_word, ended = True, False
            elif final & TERMINAL:
                ended = has_word
            elif kind == SYMBOL and final & CLOSING == 0:
                ended = False
            if word_run == 0:
                line_words += 1
            word_run += 1
            long_word |= word_run > C4_WORD_CHARACTERS
            counts[LONGEST_WORD] = max(counts[LONGEST_WORD], word_run)
            if not full:
                full = True
                bullet = code in (0x2022, 0x2D)
            dots = dots + 1 if code == 0x2E and word_run > 1 and last_code == 0x2E else (1 if code == 0x2E else 0)
            last_code = code
            if code == 0x23:
                counts[HASHES] += 1
            elif code == 0x2026 or (code == 0x2E and dots % 3 == 0):
                counts[ELLIPSES] += 1
            elif code == 0x7B or code == 0x7D:
                counts[CURLY_BRACKETS] += 1
        ellipsis = last_code == 0x2026 or dots >= 3
        c4 = last_code in (0x2E, 0x3F, 0x21, 0x22, 0x27) and dots < 3 and line_words >= C4_LINE_WORDS and not long_word
        length = characters - line_start
        scratch.line_hash[lines] = mix(fnv)
        scratch.line_end[lines] = characters
        scratch.line_flags[lines] = (_FULL if full else 0) | (_C4_LINE if c4 else 0)
        lines += 1
        if fed:
            feeds += 1
            characters += 1
        if fed or length > 0:
            counts[LINES] += 1
        counts[SENTENCES] += ended
        has_word, ended = has_word and not ended, False
        counts[BULLET_LINES] += bullet
        counts[ELLIPSIS_LINES] += ellipsis
        if full:
            counts[FULL_LINES] += 1
            counts[PUNCTUATED_LINES] += final & TERMINAL != 0
            counts[SHORT_LINES] += length <= SHORT_LINE_CHARACTERS
            counts[FEW_WORD_LINES] += line_words < C4_LINE_WORDS
        if not fed:
            counts[LINE_FEEDS] = feeds
            return lines


@_compiled
def _slots(entries):
    slots = 16
    while slots * 3 < entries * 4:
        slots *= 2
    return slots


@_compiled
def _clear(values, slots):
    for slot in range(slots):
        values[slot] = _EMPTY


@_compiled
def _place(key, position, keys, values, slots):
    """First position of `key` in the hash table; `position` where it is new."""
    slot = np.int64((key * _SEQUENCE) >> np.uint64(20)) & (slots - 1)
    while True:
        held = values[slot]
        if held == _EMPTY:
            keys[slot] = key
            values[slot] = position
            return position
        if keys[slot] == key:
            return np.int64(held)
        slot = (slot + 1) & (slots - 1)


@_compiled
def repeated_lines(lines, fed, scratch, counts):
    """Lines that occurred before, as Gopher splits them (at runs of line feeds) and as FineWeb does (without blank ones)."""
    slots = _slots(lines)
    _clear(scratch.values, slots)
    start = np.int64(0)
    for line in range(lines):
        end = np.int64(scratch.line_end[line])
        if end > start:
            counts[GOPHER_LINES] += 1
            if _place(scratch.line_hash[line], line, scratch.keys, scratch.values, slots) != line:
                counts[DUPLICATE_LINES] += 1
                counts[DUPLICATE_LINE_CHARACTERS] += end - start
                if scratch.line_flags[line] & _FULL:
                    counts[DUPLICATE_FULL_LINE_CHARACTERS] += end - start
        start = end + 1
    # a split at line feeds leaves an empty string before one that opens the text and after one that ends it
    opening, closing = fed > 0 and scratch.line_end[0] == 0, fed > 0 and lines > 0 and scratch.line_end[lines - 1] == _line_start(scratch, lines - 1)
    counts[GOPHER_LINES] += opening + closing
    counts[DUPLICATE_LINES] += opening and closing


@_compiled
def _line_start(scratch, line):
    return np.int64(scratch.line_end[line - 1]) + 1 if line else 0


@_compiled
def repeated_paragraphs(data, lo, hi, tables, scratch, counts):
    """Paragraphs that occurred before: parts of the text, without space round it, between runs of two or more line feeds."""
    while lo < hi and _properties(data, lo, hi, tables) & CLASS_MASK == SPACE:
        lo += _decode(data, lo, hi)[1]
    i, end = lo, lo
    breaks = 0
    while i < hi:  # the last character that is no space, and room for the table
        size = _decode(data, i, hi)[1]
        breaks += data[i] == 0x0A and i + 1 < hi and data[i + 1] == 0x0A
        if _properties(data, i, hi, tables) & CLASS_MASK != SPACE:
            end = i + size
        i += size
    hi = end
    slots = _slots(breaks + 1)
    _clear(scratch.values, slots)
    i = lo
    paragraph = 0
    while True:
        fnv, length = _FNV_OFFSET, 0
        while i < hi and not (data[i] == 0x0A and i + 1 < hi and data[i + 1] == 0x0A):
            length += data[i] & 0xC0 != 0x80
            fnv = (fnv ^ np.uint64(data[i])) * _FNV_PRIME
            i += 1
        if _place(mix(fnv), paragraph, scratch.keys, scratch.values, slots) != paragraph:
            counts[DUPLICATE_PARAGRAPHS] += 1
            counts[DUPLICATE_PARAGRAPH_CHARACTERS] += length
        paragraph += 1
        if i >= hi:
            break
        while i < hi and data[i] == 0x0A:
            i += 1
    counts[PARAGRAPHS] = paragraph


@_compiled
def repeated_ngrams(tokens, scratch, counts):
    """Gopher's repetition of n-grams of tokens: characters of the commonest 2, 3 and 4-gram, and in repeated 5 to 10-grams.

    An n-gram can only repeat where the (n-1)-grams at its place and at the next repeat: each step looks at those places alone.
    """
    left = tokens - 1
    for i in range(tokens):
        scratch.candidates[i] = i
        scratch.gram[i] = scratch.token_hash[i]
    for n in range(2, 11):
        if tokens < n:
            return
        left = _count_ngrams(n, left, scratch)
        if n <= 4:
            counts[TOP_2 + n - 2] = _top_ngram(n, left, scratch)
        else:
            counts[TOP_2 + n - 2] = _duplicate_ngrams(n, left, scratch)
        kept = 0
        for j in range(left - 1):  # the places of which the next is one as well
            i = scratch.candidates[j]
            if scratch.candidates[j + 1] == i + 1:
                scratch.candidates[kept] = i
                kept += 1
        left = kept


@_compiled
def _count_ngrams(n, left, scratch):
    """Count the n-grams at the first `left` candidates; keep the candidates whose n-gram occurs twice or more, and return their number."""
    slots = _slots(left)
    _clear(scratch.values, slots)
    for j in range(left):
        i = np.int64(scratch.candidates[j])
        key = scratch.gram[i] * _SEQUENCE + scratch.token_hash[i + n - 1]
        scratch.gram[i] = key
        first = _place(key, i, scratch.keys, scratch.values, slots)
        scratch.first[i] = first
        scratch.counted[first] = scratch.counted[first] + 1 if first != i else 1
    kept = 0
    for j in range(left):
        i = scratch.candidates[j]
        if scratch.counted[scratch.first[i]] > 1:
            scratch.candidates[kept] = i
            kept += 1
    return kept


@_compiled
def _characters(i, n, scratch):
    return np.int64(scratch.token_end[i + n]) - np.int64(scratch.token_end[i])


@_compiled
def _top_ngram(n, left, scratch):
    """Occurrences times characters of the commonest n-gram, its tokens joined by spaces; the first among equals."""
    top, most = np.int64(0), np.int64(1)
    for j in range(left):
        i = np.int64(scratch.candidates[j])
        if scratch.first[i] == i and scratch.counted[i] > most:
            top, most = i, np.int64(scratch.counted[i])
    return most * (_characters(top, n, scratch) + n - 1)


@_compiled
def _duplicate_ngrams(n, left, scratch):
    """Characters in n-grams that occurred before; after one the search goes on behind it."""
    repeated, free = 0, np.int64(0)
    for j in range(left):
        i = np.int64(scratch.candidates[j])
        if i < free:
            continue
        first = scratch.first[i]
        if scratch.counted[first] < 0:  # marked: seen
            repeated += _characters(i, n, scratch)
            free = i + n
        else:
            scratch.counted[first] = -1
    return repeated


@_compiled
def find_stop_words(document, language, tokens, phrases, scratch, counts):
    """Count the tokens in the language's list of stop words, and how many different ones there are."""
    bit, mask = np.uint32(1) << np.uint32(language), len(phrases.stop_hash) - 1
    for token in range(tokens):
        key = scratch.token_hash[token]
        slot = np.int64(key) & mask
        while phrases.stop_hash[slot] != np.uint64(0):
            if phrases.stop_hash[slot] == key:
                if phrases.stop_languages[slot] & bit:
                    counts[STOP_WORD_TOKENS] += 1
                    counts[STOP_WORDS] += phrases.stop_seen[slot] != document
                    phrases.stop_seen[slot] = document
                break
            slot = (slot + 1) & mask


@_compiled
def _phrase_kinds(word, stop, phrases, scratch):
    """Kinds (bits) of the phrases that begin at a word and end before word `stop`."""
    mask, key, kinds = len(phrases.phrase_hash) - 1, scratch.word_hash[word], np.int64(0)
    slot = np.int64(key) & mask
    while phrases.phrase_hash[slot] != key:
        if phrases.phrase_hash[slot] == np.uint64(0):
            return 0
        slot = (slot + 1) & mask
    at = np.int64(phrases.phrase_first[slot])
    while phrases.phrase_words[at] != np.uint64(0):
        more = np.int64(phrases.phrase_words[at + 1])
        found = word + more < stop
        for k in range(more):
            found = found and scratch.word_hash[word + 1 + k] == phrases.phrase_words[at + 2 + k]
        if found:
            kinds |= np.int64(phrases.phrase_words[at])
        at += 2 + more
    return kinds


@_compiled
def read_lines(lines, phrases, paragraph_words, scratch, counts, paragraphs, hashes, starts, ends):
    """Phrases in each line, and the hash and place of each line of at least `paragraph_words` words. The new number of paragraphs."""
    word, words, start = np.int64(0), counts[WORDS], np.int64(0)
    for line in range(lines):
        end = np.int64(scratch.line_end[line])
        stop = word
        while stop < words and scratch.word_start[stop] < end:
            stop += 1
        kinds, sequence = np.int64(0), np.uint64(0)
        for k in range(word, stop):
            kinds |= _phrase_kinds(k, stop, phrases, scratch)
            sequence = sequence * _SEQUENCE + scratch.word_hash[k]
        counts[JAVASCRIPT_LINES] += kinds & 1
        counts[POLICY_LINES] += (kinds & 2) >> 1
        counts[LOREM_IPSUM] |= (kinds & 4) >> 2
        counts[C4_LINES] += scratch.line_flags[line] & _C4_LINE != 0 and kinds & 3 == 0
        if stop - word >= paragraph_words:
            hashes[paragraphs], starts[paragraphs], ends[paragraphs] = mix(sequence), start, end
            paragraphs += 1
        word, start = stop, end + 1
    return paragraphs


@_compiled
def sequence_hash(words, scratch):
    """Hash of all words of a document in their order."""
    sequence = np.uint64(0)
    for word in range(words):
        sequence = sequence * _SEQUENCE + scratch.word_hash[word]
    return mix(sequence)


@_compiled
def _power(n):
    power = np.uint64(1)
    for _ in range(n):
        power *= _SEQUENCE
    return power


@_compiled
def hash_ngrams(words, n, hashes, out):
    """Hashes of the n-grams of words, `words - n + 1` of them, into `out`."""
    rolling, leaving = np.uint64(0), _power(n)
    for i in range(words):
        rolling = rolling * _SEQUENCE + hashes[i]
        if i >= n:
            rolling -= leaving * hashes[i - n]
        if i >= n - 1:
            out[i - n + 1] = mix(rolling)


@_compiled
def minimum_hashes(shingles, count, multipliers, additions, signature):
    """Minimum of `multiplier * shingle + addition` over the shingles for each permutation; the inner loop is made for vector units."""
    permutations = len(signature)
    for k in range(permutations):
        signature[k] = np.uint64(0xFFFFFFFFFFFFFFFF)
    for i in range(0, count - 3, 4):
        a, b, c, d = shingles[i], shingles[i + 1], shingles[i + 2], shingles[i + 3]
        for k in range(permutations):
            multiplier, addition = multipliers[k], additions[k]
            low = min(min(a * multiplier + addition, b * multiplier + addition), min(c * multiplier + addition, d * multiplier + addition))
            signature[k] = min(signature[k], low)
    for i in range(count & ~3, count):
        a = shingles[i]
        for k in range(permutations):
            signature[k] = min(signature[k], a * multipliers[k] + additions[k])


@_compiled
def hash_bands(signature, bands, document, out):
    """One hash a band of the signature, into the column of the document; the same rows in two bands do not meet."""
    rows = len(signature) // bands
    for band in range(bands):
        combined = mix(np.uint64(band + 1))
        for row in range(rows):
            combined = mix(combined ^ signature[band * rows + row]) * _SEQUENCE
        out[band, document] = mix(combined)


@_compiled
def hash_bytes(data, lo, hi):
    """Hash of a text's bytes."""
    fnv = _FNV_OFFSET
    for i in range(lo, hi):
        fnv = (fnv ^ np.uint64(data[i])) * _FNV_PRIME
    return mix(fnv)


@_allocating
def grown(array, room):
    """The array, or a copy of it with room for at least `room` entries and twice what it had."""
    if room <= len(array):
        return array
    larger = np.empty(max(room, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


class Results(NamedTuple):
    """Arrays that `measure_documents` fills: a row a document, a column in `bands`, and one more entry in `paragraph_offsets`."""

    counts: npt.NDArray[np.int64]
    text_hash: npt.NDArray[np.uint64]
    bands: npt.NDArray[np.uint64]
    paragraph_offsets: npt.NDArray[np.int64]


@_allocating
def measure_documents(data, starts, ends, language, split_language, tables, scratch, phrases, permutations, paragraph_words, out):
    """Fill `out`, and return hash, start and end of all paragraphs (with spare room).

    `split_language`: the language in which hyphens between letters part words. `permutations`: multipliers, additions, and room for minima.
    """
    multipliers, additions, signature = permutations
    paragraphs = 0
    hashes, places, stops = np.empty(64, np.uint64), np.empty(64, np.int32), np.empty(64, np.int32)
    for document in range(len(starts)):
        lo, hi, row = starts[document], ends[document], out.counts[document]
        tokenize(data, lo, hi, tables, language[document] == split_language, scratch, row)
        lines = scan_lines(data, lo, hi, tables, scratch, row)
        if lo < hi:
            repeated_lines(lines, row[LINE_FEEDS], scratch, row)
            row[PARAGRAPHS] = 1
            if row[LINE_FEEDS] > row[GOPHER_LINES] - 1:  # two line feeds in a row, somewhere
                repeated_paragraphs(data, lo, hi, tables, scratch, row)
        repeated_ngrams(row[TOKENS], scratch, row)
        if language[document] >= 0:
            find_stop_words(document, language[document], row[TOKENS], phrases, scratch, row)
        room = paragraphs + lines
        hashes, places, stops = grown(hashes, room), grown(places, room), grown(stops, room)
        paragraphs = read_lines(lines, phrases, paragraph_words, scratch, row, paragraphs, hashes, places, stops)
        out.paragraph_offsets[document + 1] = paragraphs
        words = row[WORDS]
        out.text_hash[document] = sequence_hash(words, scratch)
        if words >= SHINGLE_WORDS:
            hash_ngrams(words, SHINGLE_WORDS, scratch.word_hash, scratch.gram)
        else:  # one shingle: all words, or where there are none the bytes
            scratch.gram[0] = out.text_hash[document] if words else hash_bytes(data, lo, hi)
        minimum_hashes(scratch.gram, max(words - SHINGLE_WORDS + 1, 1), multipliers, additions, signature)
        hash_bands(signature, len(out.bands), document, out.bands)
    return hashes, places, stops


@_allocating
def list_ngrams(data, starts, ends, tables, scratch, n, offsets):
    """Hash, start and end (code points) of all n-grams of words; fills `offsets`."""
    found = 0
    hashes, places, stops = np.empty(64, np.uint64), np.empty(64, np.int32), np.empty(64, np.int32)
    counts = np.zeros(TOP_2 + 9, np.int64)
    for document in range(len(starts)):
        tokenize(data, starts[document], ends[document], tables, False, scratch, counts)
        grams = max(counts[WORDS] - n + 1, 0)
        room = found + grams
        hashes, places, stops = grown(hashes, room), grown(places, room), grown(stops, room)
        hash_ngrams(counts[WORDS], n, scratch.word_hash, scratch.gram)
        for i in range(grams):
            hashes[found], places[found], stops[found] = scratch.gram[i], scratch.word_start[i], scratch.word_end[i + n - 1]
            found += 1
        offsets[document + 1] = found
    return hashes, places, stops


@_allocating
def search_ngrams(data, starts, ends, tables, scratch, n, table, marks):
    """Row, start, end and hash of the n-grams of words whose hash is in the sorted `table`, with spare room, and their number.

    `marks`: the bits that `mark_hashes` set for the table, which settles most n-grams without a search.
    """
    found = 0
    rows, hashes, places, stops = np.empty(64, np.int64), np.empty(64, np.uint64), np.empty(64, np.int32), np.empty(64, np.int32)
    counts = np.zeros(TOP_2 + 9, np.int64)
    for document in range(len(starts)):
        tokenize(data, starts[document], ends[document], tables, False, scratch, counts)
        hash_ngrams(counts[WORDS], n, scratch.word_hash, scratch.gram)
        for i in range(counts[WORDS] - n + 1):
            key = scratch.gram[i]
            if not _marked(key, marks) or not _holds(table, key):
                continue
            room = found + 1
            rows, hashes, places, stops = grown(rows, room), grown(hashes, room), grown(places, room), grown(stops, room)
            rows[found], hashes[found], places[found], stops[found] = document, key, scratch.word_start[i], scratch.word_end[i + n - 1]
            found += 1
    return rows, places, stops, hashes, found


@_compiled
def _marked(key, marks):
    bit = np.int64(key & np.uint64(len(marks) * 64 - 1))
    return (marks[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1) != np.uint64(0)


@_compiled
def mark_hashes(table, marks):
    """Set the bit of each hash in `marks`, a power of two words of 64 bits."""
    for key in table:
        bit = np.int64(key & np.uint64(len(marks) * 64 - 1))
        marks[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)


@_compiled
def _holds(table, key):
    low, high = 0, len(table)
    while low < high:
        middle = (low + high) // 2
        if table[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low < len(table) and table[low] == key
