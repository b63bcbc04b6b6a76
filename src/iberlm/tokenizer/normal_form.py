"""Normal form C before a fast encoder: which documents need it, found by looking at their bytes.

Almost no document has a character that normalisation could change, so it is looked for in the UTF-8 of a whole batch:
only characters from U+0300 on can be one, and they begin with a byte from 0xCC on. A text is in normal form C when no
character of it has a combining class other than 0 or can be the second of a composition (Unicode Standard Annex 15,
section 9). This is decided by Python's Unicode database; the composing itself is done by `tokenizers`, as in the reference.
The versions of Unicode differ between Python, `tokenizers` and an encoder, but a character that one of them has is never
changed in the next (the stability policies of Unicode); so characters that Python's version lacks go to the reference.
"""

import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers

PLAIN, NORMALISE, REFERENCE = 0, 1, 2
"""What a text needs: nothing; our part of the normalisation before it is encoded; the reference, for it has characters unknown here."""
_UNKNOWN = 255
_FIRST_LEAD = 0xCC
"""First byte of U+0300. All characters before it are in normal form C alone and in any company of their own kind."""
_BLOCK_BYTES = 1 << 20


@dataclass
class Steps:
    """A tokenizer's normaliser in two parts: what is done here, and the `rest`, a list of the JSON of steps, left to the encoder."""

    composes: bool
    replaced: dict[str, str]
    """Characters that are replaced after composing."""
    rest: list[dict[str, Any]]
    _table: npt.NDArray[np.uint8] = field(default_factory=lambda: np.full(0x110000, _UNKNOWN, np.uint8))

    def normalise(self, text: str) -> str:
        """Our part of the normalisation."""
        if self.composes:
            text = normalizers.NFC().normalize_str(text)
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text

    def needs(self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """What each text needs, uint8[n]: text i is the UTF-8 in `data[offsets[i] : offsets[i + 1]]`, `offsets` int64[n + 1]."""
        needs = np.zeros(len(offsets) - 1, np.uint8)
        for start in range(int(offsets[0]), int(offsets[-1]), _BLOCK_BYTES):
            leads = start + np.flatnonzero(data[start : min(start + _BLOCK_BYTES, int(offsets[-1]))] >= _FIRST_LEAD)
            kinds = self._kinds(_code_points(data, leads))
            special = np.flatnonzero(kinds)
            texts = np.searchsorted(offsets, leads[special], side="right") - 1
            np.maximum.at(needs, texts, kinds[special])
        return needs

    def _kinds(self, code_points: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
        kinds = self._table[code_points]
        if (kinds == _UNKNOWN).any():
            for code_point in np.unique(code_points[kinds == _UNKNOWN]).tolist():
                self._table[code_point] = self._kind(chr(code_point))
            kinds = self._table[code_points]
        return kinds

    def _kind(self, character: str) -> int:
        if unicodedata.category(character) == "Cn":
            return REFERENCE
        if character in self.replaced:
            return NORMALISE
        changes = unicodedata.combining(character) or character in seconds() or not unicodedata.is_normalized("NFC", character)
        return NORMALISE if self.composes and changes else PLAIN


def _code_points(data: npt.NDArray[np.uint8], leads: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Code points of the characters of valid UTF-8 that begin at `leads`, of two bytes or more each."""
    first = data[leads].astype(np.uint32)
    found = np.asarray((first & 0x1F) << 6 | (data[leads + 1] & 0x3F), np.uint32)
    longer = np.flatnonzero(first >= 0xE0)
    at = leads[longer]
    found[longer] = (first[longer] & 0x0F) << 12 | (data[at + 1] & 0x3F).astype(np.uint32) << 6 | (data[at + 2] & 0x3F).astype(np.uint32)
    longest = np.flatnonzero(first >= 0xF0)
    at = leads[longest]
    tail = (data[at + 1] & 0x3F).astype(np.uint32) << 12 | (data[at + 2] & 0x3F).astype(np.uint32) << 6 | (data[at + 3] & 0x3F).astype(np.uint32)
    found[longest] = (first[longest] & 0x07) << 18 | tail
    return found


@cache
def seconds() -> frozenset[str]:
    """Characters that normal form C may join to the one before: seconds of canonical decompositions, and Hangul vowels and finals."""
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(0xC0, 0x30000))
    found = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")}
    return frozenset(found | set(map(chr, range(0x1161, 0x1176))) | set(map(chr, range(0x11A8, 0x11C3))))


def split(normalizer: dict[str, Any] | None) -> Steps:
    """The parts of the "normalizer" of a tokenizer.json. Ours are a leading NFC, and after it the replacing of single characters from U+0300 on."""
    rest = [] if normalizer is None else list(normalizer["normalizers"]) if normalizer["type"] == "Sequence" else [normalizer]
    composes = bool(rest) and rest[0]["type"] == "NFC"
    if composes:
        del rest[0]
    replaced: dict[str, str] = {}
    while rest and rest[0]["type"] == "Replace":
        pattern, content = rest[0]["pattern"].get("String", ""), rest[0]["content"]
        if len(pattern) != 1 or pattern < "\u0300" or pattern in replaced.values():
            break
        replaced[pattern] = content
        del rest[0]
    return Steps(composes, replaced, rest)
