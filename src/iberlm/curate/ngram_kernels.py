"""The loops of `ngram_model`: words out of UTF-8 bytes, features out of words, sums and steps over rows of weights."""

import math
import unicodedata
from functools import cache

import numba
import numpy as np
import numpy.typing as npt

SPACE, LATIN, FOREIGN, APOSTROPHE, HYPHEN, SYMBOL = range(6)
"""Classes of characters: white space, letters and marks of the Latin script and of the others, and what stands between words."""
MAX_WORD = 40
"""Letters of a word that count; the rest of a longer one is passed over: bounds the work on texts without spaces."""
MAX_CHUNK = 1024
"""Bytes after which a chunk without white space is cut."""
BLOCK = 1 << 16
"""Code points of words that are held at once."""
_WORD_START, _WORD_END = np.uint32(1), np.uint32(2)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0x100000001B3)  # the prime of FNV-1a (Fowler, Noll, Vo)
_MIX = np.uint64(0xD6E8FEB86659FD93)  # odd; spreads the low bits of the running hash over the high ones, of which the row is made
_WORD_MARK = np.uint64(0xA5A5)
_CACHE_BITS = 14


@cache
def characters() -> npt.NDArray[np.uint32]:
    """For each code point of the basic plane its lower case and, from bit 16 on, its class; shape (65536,)."""
    table = np.empty(1 << 16, np.uint32)
    for code in range(1 << 16):
        character = chr(code)
        lower = character.lower()
        small = ord(lower) if len(lower) == 1 else code
        category = unicodedata.category(character)
        if character in "'’ʼ":
            kind, small = APOSTROPHE, ord("'")
        elif character in "-‐‑":
            kind, small = HYPHEN, ord("-")
        elif category[0] in "LM" or character == "·":
            kind = LATIN if code < 0x370 or 0x1E00 <= code < 0x1F00 else FOREIGN
        elif category in ("Zs", "Zl", "Zp", "Cc"):
            kind = SPACE
        else:
            kind = SYMBOL
        table[code] = small | kind << 16
    return table


@numba.njit(cache=True, inline="always")
def decode(data, i, end):  # type: ignore[no-untyped-def]
    """The code point at byte `i` and the byte after it. A byte that does not fit reads as a code point of its own."""
    byte = np.int64(data[i])
    if byte < 0x80:
        return byte, i + 1
    if byte < 0xE0 and i + 1 < end:
        return (byte & 0x1F) << 6 | np.int64(data[i + 1]) & 0x3F, i + 2
    if byte < 0xF0 and i + 2 < end:
        return (byte & 0x0F) << 12 | (np.int64(data[i + 1]) & 0x3F) << 6 | np.int64(data[i + 2]) & 0x3F, i + 3
    if i + 3 < end:
        return (byte & 0x07) << 18 | (np.int64(data[i + 1]) & 0x3F) << 12 | (np.int64(data[i + 2]) & 0x3F) << 6 | np.int64(data[i + 3]) & 0x3F, i + 4
    return byte, i + 1


@numba.njit(cache=True)
def chunk_end(data, i, end):  # type: ignore[no-untyped-def]
    """Where the chunk that begins at `i` ends (white space of ASCII, or `MAX_CHUNK` bytes), and whether it looks like code.

    Code is what has an @, a backslash, an underscore, "://", two slashes or one at its start, a full stop or a digit beside
    letters on both sides or within, a placeholder (%s, $name, {name}) or begins with two hyphens.
    """
    first = np.int64(data[i])
    code = first in (0x2F, 0x7E, 0x24, 0x25)
    slashes = 0
    letter = False  # the last byte was a letter
    digit = False
    point = False  # a full stop or colon came after a letter
    j = i
    last = min(end, i + MAX_CHUNK)
    while j < last:
        byte = np.int64(data[j])
        if byte <= 0x20:
            break
        if byte >= 0x80 or 0x61 <= (byte | 0x20) <= 0x7A:
            if (point and byte < 0x80) or digit:
                code = True
            letter, digit, point = True, False, False
        elif 0x30 <= byte <= 0x39:
            if letter:
                code = True
            letter, digit, point = False, True, False
        else:
            if byte in (0x40, 0x5C, 0x5F, 0x7B, 0x24, 0x3D):
                code = True
            elif byte == 0x2F:
                slashes += 1
            elif (byte == 0x2D and j == i + 1 and first == 0x2D) or (byte == 0x25 and not digit):
                code = True
            point = letter and byte == 0x2E
            letter, digit = False, False
        j += 1
    if j == last:  # cut between characters
        while j < end and np.int64(data[j]) & 0xC0 == 0x80:
            j += 1
    return j, code or slashes > 1


@numba.njit(cache=True)
def read_words(data, i, end, table, letters, bounds, counts):  # type: ignore[no-untyped-def]
    """Read words from byte `i` on into `letters` (code points with a mark at both ends; word w is bounds[w]:bounds[w + 1]).

    Stops at `end` or when `letters` is nearly full. Adds Latin and foreign letters to counts[1] and counts[2]. Returns the
    number of words and the byte to go on from.
    """
    words, n = 0, 0
    full = len(letters) - 2 * MAX_CHUNK - 4 * MAX_WORD
    bounds[0] = 0
    while i < end and n < full:
        if data[i] <= 0x20:
            i += 1
            continue
        stop, code = chunk_end(data, i, end)
        if code:
            i = stop
            continue
        length = 0
        hyphen = False
        while i < stop:
            point, i = decode(data, i, stop)
            entry = np.int64(table[point]) if point < 0x10000 else FOREIGN << 16
            kind = entry >> 16
            if kind in (LATIN, FOREIGN):
                counts[kind] += 1
                if length == 0:
                    letters[n] = _WORD_START
                    n += 1
                    if hyphen:
                        letters[n] = 0x2D
                        n += 1
                        hyphen = False
                if length < MAX_WORD:
                    letters[n] = np.uint32(entry & 0xFFFF)
                    n += 1
                length += 1
                continue
            if length:
                if kind == APOSTROPHE:
                    letters[n] = 0x27
                    n += 1
                letters[n] = _WORD_END
                n += 1
                words += 1
                bounds[words] = n
            hyphen = kind == HYPHEN and length > 0
            length = 0
        if length:
            letters[n] = _WORD_END
            n += 1
            words += 1
            bounds[words] = n
    return words, i


@numba.njit(cache=True, inline="always")
def row_of(h, shift):  # type: ignore[no-untyped-def]
    """Row of the weights for a running hash."""
    return np.int64(((h ^ (h >> np.uint64(29))) * _MIX) >> shift)


@numba.njit(cache=True)
def word_hash(letters, start, end):  # type: ignore[no-untyped-def]
    """64-bit hash of a word with its marks."""
    h = _SEED
    for k in range(start, end):
        h = (h ^ np.uint64(letters[k])) * _STEP
        h ^= h >> np.uint64(31)
    return h


@numba.njit(cache=True)
def word_features(letters, start, end, h, rows, n, shortest, longest, words, shift):  # type: ignore[no-untyped-def]
    """Write the rows of a word's n-grams, and of the word with hash `h`, into rows[n:]; return how many are written in all."""
    for k in range(start, end):
        running = _SEED
        for m in range(min(longest, end - k)):
            running = (running ^ np.uint64(letters[k + m])) * _STEP
            running ^= running >> np.uint64(31)
            if m + 1 >= shortest:
                rows[n] = row_of(running, shift)
                n += 1
    if words:
        rows[n] = row_of(h ^ _WORD_MARK, shift)
        n += 1
    return n


@numba.njit(cache=True)
def score(data, first, last, groups, table, weights, shortest, longest, words, pairs, bits):  # type: ignore[no-untyped-def]
    """Sums of the weights of each group of byte ranges, int32 (groups, classes), and its features, Latin and foreign letters, (groups, 3).

    A word's sum is kept in a table of 2**14 places, for most words of a text come again: integers, so the sum is the same.
    """
    width = weights.shape[1]
    shift = np.uint64(64 - bits)
    letters = np.empty(BLOCK, np.uint32)
    bounds = np.empty(BLOCK // 2, np.int64)
    rows = np.empty((MAX_WORD + 4) * 9, np.int64)
    kept = np.zeros((1 << _CACHE_BITS, width), np.int32)
    kept_counts = np.zeros(1 << _CACHE_BITS, np.int32)
    keys = np.zeros(1 << _CACHE_BITS, np.uint64)
    sums = np.zeros((len(groups) - 1, width), np.int32)
    counts = np.zeros((len(groups) - 1, 3), np.int32)
    for group in range(len(groups) - 1):
        total = sums[group]
        count = counts[group]
        for part in range(groups[group], groups[group + 1]):
            i = first[part]
            previous = np.uint64(0)
            while i < last[part]:
                found, i = read_words(data, i, last[part], table, letters, bounds, count)
                for w in range(found):
                    h = word_hash(letters, bounds[w], bounds[w + 1])
                    place = np.int64((h * _MIX) >> np.uint64(64 - _CACHE_BITS))
                    mine = kept[place]
                    if keys[place] != h:
                        keys[place] = h
                        n = word_features(letters, bounds[w], bounds[w + 1], h, rows, 0, shortest, longest, words, shift)
                        kept_counts[place] = n
                        mine[:] = 0
                        for k in range(n):
                            row = weights[rows[k]]
                            for c in range(width):
                                mine[c] += np.int32(row[c])
                    for c in range(width):
                        total[c] += mine[c]
                    count[0] += kept_counts[place]
                    if pairs and previous:
                        row = weights[row_of(previous * _STEP ^ h, shift)]
                        for c in range(width):
                            total[c] += np.int32(row[c])
                        count[0] += 1
                    previous = h
    return sums, counts


@numba.njit(cache=True)
def exponential(x):  # type: ignore[no-untyped-def]
    """e**x to about 1e-15, from additions and multiplications alone: the same bits on every IEEE 754 machine."""
    x = min(max(x, -700.0), 700.0)
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = x - k * 0.6931471803691238 - k * 1.9082149292705877e-10
    value = 1.0
    for m in range(14, 0, -1):
        value = 1.0 + value * r / m
    return math.ldexp(value, int(k))


@numba.njit(cache=True)
def learn(data, offsets, order, labels, importance, rates, table, weights, bias, dropout, seed, shortest, longest, words, pairs, bits):  # type: ignore[no-untyped-def]
    """One visit to every text in `order`: steps of stochastic gradient descent on `weights` (rows, classes) and `bias`, in place."""
    width = weights.shape[1]
    shift = np.uint64(64 - bits)
    letters = np.empty(BLOCK, np.uint32)
    bounds = np.empty(BLOCK // 2, np.int64)
    rows = np.empty(BLOCK * 10, np.int64)
    counts = np.zeros(3, np.int32)
    logits = np.empty(width, np.float32)
    steps = np.empty(width, np.float32)
    state = seed
    for visit in range(len(order)):
        text = order[visit]
        found, _ = read_words(data, offsets[text], offsets[text + 1], table, letters, bounds, counts)
        n = 0
        previous = np.uint64(0)
        for w in range(found):
            state ^= state << np.uint64(13)  # xorshift (Marsaglia 2003)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            h = word_hash(letters, bounds[w], bounds[w + 1])
            if (state >> np.uint64(11)) * 1.1102230246251565e-16 >= dropout:
                n = word_features(letters, bounds[w], bounds[w + 1], h, rows, n, shortest, longest, words, shift)
                if pairs and previous:
                    rows[n] = row_of(previous * _STEP ^ h, shift)
                    n += 1
            previous = h
        if n == 0:
            continue
        value = np.float32(1.0 / math.sqrt(n))
        logits[:] = 0
        for k in range(n):
            row = weights[rows[k]]
            for c in range(width):
                logits[c] += row[c]
        largest = np.float32(-np.inf)
        for c in range(width):
            logits[c] = logits[c] * value + bias[c]
            largest = max(largest, logits[c])
        total = 0.0
        for c in range(width):
            power = exponential(np.float64(logits[c] - largest))
            logits[c] = np.float32(power)
            total += power
        rate = np.float32(rates[visit]) * importance[text]
        for c in range(width):
            error = np.float32(logits[c] / total) - (np.float32(1) if c == labels[text] else np.float32(0))
            bias[c] -= rate * error * value
            steps[c] = rate * error * value
        for k in range(n):
            row = weights[rows[k]]
            for c in range(width):
                row[c] -= steps[c]
