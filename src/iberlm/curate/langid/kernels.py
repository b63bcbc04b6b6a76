"""Where to look in a text: samples of a document and lines of paragraphs, as byte ranges over Arrow buffers."""

import numba
import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
_SLACK = 64
"""Bytes within which a cut is moved to the next white space."""


@numba.njit(cache=True)
def next_break(data, i, end):  # type: ignore[no-untyped-def]
    """The next white space at or after byte `i`, within `_SLACK` bytes; else the next beginning of a character."""
    for k in range(i, min(end, i + _SLACK)):
        if data[k] <= 0x20:
            return k
    while i < end and data[i] & 0xC0 == 0x80:
        i += 1
    return i


@numba.njit(cache=True)
def sample_ranges(data, offsets, size):  # type: ignore[no-untyped-def]
    """Two byte ranges a text, counted from its first byte: its first `size / 2` bytes and as many from its middle on.

    A text of at most `size` bytes is its own sample. Returns starts and ends, int64 (texts, 2).
    """
    texts = len(offsets) - 1
    starts = np.zeros((texts, 2), np.int64)
    ends = np.zeros((texts, 2), np.int64)
    for text in range(texts):
        first, last = offsets[text], offsets[text + 1]
        if last - first <= size:
            ends[text, 0] = last - first
            continue
        middle = next_break(data, max(first + (last - first) // 2, first + size // 2), last)
        ends[text, 0] = min(next_break(data, first + size // 2, last), middle) - first
        starts[text, 1] = middle - first
        ends[text, 1] = next_break(data, min(middle + size // 2, last), last) - first
    return starts, ends


@numba.njit(cache=True)
def line_ranges(data, offsets, wanted, min_letters, sample_bytes, text_bytes):  # type: ignore[no-untyped-def]
    """The lines of at least `min_letters` letters of the texts where `wanted`, int64 (lines, 5).

    Columns: text, first byte and last byte of the line's sample (its first `sample_bytes` bytes) counted from the text's
    first byte, and the line's start and end in characters. Only the first `text_bytes` bytes of a text are looked at.
    Bytes from 0x80 on that begin a character count as letters, as most are.
    """
    room = 1024
    found = np.empty((room, 5), np.int64)
    lines = 0
    for text in range(len(offsets) - 1):
        if not wanted[text]:
            continue
        first = offsets[text]
        last = min(offsets[text + 1], first + text_bytes)
        i = first
        characters = 0
        while i < last:
            start, start_character, letters = i, characters, 0
            while i < last and data[i] != 0x0A:
                byte = data[i]
                characters += byte & 0xC0 != 0x80
                letters += 0x61 <= (byte | 0x20) <= 0x7A or byte >= 0xC0
                i += 1
            if letters >= min_letters:
                if lines == room:
                    room *= 2
                    larger = np.empty((room, 5), np.int64)
                    larger[:lines] = found
                    found = larger
                found[lines, 0] = text
                found[lines, 1] = start - first
                found[lines, 2] = (i if i - start <= sample_bytes + _SLACK else next_break(data, start + sample_bytes, i)) - first
                found[lines, 3] = start_character
                found[lines, 4] = characters
                lines += 1
            i += 1
            characters += 1
    return found[:lines].copy()
