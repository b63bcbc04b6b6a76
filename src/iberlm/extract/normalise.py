"""Normalisation of every text before it is written, so that no later stage has to.

Most texts need nothing, and one pass of a compiled loop over their UTF-8 shows it. Repairs, in this order and again until nothing changes: mojibake, line ends,
invisible characters, NFC, spaces, the punt volat. Applying it twice gives what once gives.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt

from iberlm.extract.config import NormaliseConfig
from iberlm.extract.punt_volat import repair

_SUSPECT = re.compile(
    "[^\\n\\t -~\u00a1-\u00ac\u00ae-\u00c1\u00c4-\u00e1\u00e3-\u013e\u0141-\u02ff\u0370-\u0373\u0375-\u037d\u037f-\u0386\u0388-\u0482\u048a-\u0558\u0561-\u0586"
    "\u2010-\u2021\u2023-\u2026\u2030-\u205e\u2070-\u20cf\u2100-\u2125\u2127-\u2129\u212c-\u2218\u221a-\u22c4\u22c6-\u2328\u232b-\u2adb\u2add-\u2bff]"
)
"""Any character that a repair may be about, or that is outside of what European texts are made of. What it does not match is in NFC."""
_SPECIAL = np.array([_SUSPECT.match(chr(code)) is not None for code in range(1 << 16)])
"""By code point: the suspects, and `\\n`, `.` and `-`, whose neighbours must be looked at. Characters beyond are all suspects."""
_SPECIAL[[ord("\n"), ord("."), ord("-")]] = True
_SPACE_LINES = re.compile(r"\n(?:\n\n|(?<=[ \t]\n))")
"""A third line end in a row, or white space before a line end: searched by its first character, which is fast."""
_DOT_OR_HYPHEN = (re.compile(r"\.(?<=[lL]\.)[lL]"), re.compile(r"-(?<=[lL]-)[lL]"))

_MOJIBAKE_STARTS = frozenset("ÂÃâ")
_MOJIBAKE = re.compile("[ÂÃ][\u0080-\u00bfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]|â[€\u0080]")
_LINE_ENDS = frozenset("\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
_LINE_END = re.compile("\r\n?|[\v\f\x1c-\x1e\u0085\u2028]|\u2029")
_INVISIBLE = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]"  # colours of terminals
    "|\u00ad(?:\\n(?=[^\\W\\d_]))?"  # a soft hyphen, and the line end at which it has broken a word
    "|[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ufffe\uffff\ufdd0-\ufdef]"
    "|(?<![\u0590-\U0010ffff])[\u200c\u200d]"  # joiners mean something in Arabic and Indic scripts and between emojis only
)
_INVISIBLE_CHARACTERS = frozenset("\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\ufeff\ufff9\ufffa\ufffb\ufffc\ufffe\uffff\x7f") | frozenset(
    map(chr, (*range(9), *range(0x0B, 0x20), *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xFDD0, 0xFDF0)))
)
_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000") | frozenset(map(chr, range(0x2000, 0x200B)))
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_EDGE = re.compile(r"(?<![ \t])[ \t]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")
_POINTS = frozenset("ŀĿ•∙‧⋅・･")
_COMPOSED = _MOJIBAKE_STARTS | _LINE_ENDS | _INVISIBLE_CHARACTERS | (_SPACES - {"\u2000", "\u2001"}) | _POINTS
"""Suspects that are in NFC whatever stands beside them."""
_MAX_ROUNDS = 8
"""A repair can make room for another (a soft hyphen inside of mojibake); real texts are done after two rounds."""


class RefusedError(ValueError):
    """A text that is no text: NUL characters (`nul`) or lone surrogates (`invalid_unicode`)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Normaliser:
    """Repairs texts by `config` and counts, by repair, the texts that it changed."""

    def __init__(self, config: NormaliseConfig) -> None:
        self._config = config
        self.changed: Counter[str] = Counter()

    def __call__(self, text: str) -> tuple[str, bytes]:
        """The repaired text, maybe empty, and its UTF-8. Raises `RefusedError`."""
        stripped = text.strip() if self._config.whitespace else text
        data = _encoded(stripped)
        if not _needs_a_look(np.frombuffer(data, np.uint8), _SPECIAL):
            self.changed["whitespace"] += stripped is not text
            return stripped, data
        changed = set() if stripped is text else {"whitespace"}
        for _ in range(_MAX_ROUNDS):
            repaired = self._repaired(stripped, changed)
            if repaired == stripped:
                break
            stripped = repaired
        self.changed.update(changed)
        return stripped, _encoded(stripped) if changed else data

    def _repaired(self, text: str, changed: set[str]) -> str:
        """One round. Names of the repairs that changed something go into `changed`."""
        config, found = self._config, frozenset(_SUSPECT.findall(text))
        if "\0" in found:
            raise RefusedError("nul", "the text holds NUL characters")
        if config.mojibake and not found.isdisjoint(_MOJIBAKE_STARTS) and _MOJIBAKE.search(text) is not None:
            text = _note(text, "\n".join(map(_without_mojibake, text.split("\n"))), "mojibake", changed)
            found = frozenset(_SUSPECT.findall(text))
        if config.whitespace and not found.isdisjoint(_LINE_ENDS):
            text = _note(text, _LINE_END.sub(_line_end, text), "whitespace", changed)
        if config.controls and not found.isdisjoint(_INVISIBLE_CHARACTERS):
            text = _note(text, _INVISIBLE.sub("", text), "controls", changed)
        if config.unicode and not found <= _COMPOSED and not unicodedata.is_normalized("NFC", text):
            text = _note(text, unicodedata.normalize("NFC", text), "unicode", changed)
        if config.whitespace:
            if not found.isdisjoint(_SPACES):
                text = _note(text, _SPACE.sub(" ", text), "whitespace", changed)
            if _SPACE_LINES.search(text) is not None:
                text = _note(text, _BLANK_LINES.sub("\n\n", _LINE_EDGE.sub("", text)), "whitespace", changed)
            text = _note(text, text.strip(), "whitespace", changed)
        if config.punt_volat and not (found.isdisjoint(_POINTS) and all(search.search(text) is None for search in _DOT_OR_HYPHEN)):
            text = _note(text, repair(text), "punt_volat", changed)
        return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedError("invalid_unicode", "the text holds lone surrogates") from error


def _compiled(function: Callable[..., bool]) -> Callable[..., bool]:
    return cast(Callable[..., bool], numba.njit(cache=True, nogil=True)(function))


@_compiled
def _needs_a_look(data: npt.NDArray[np.uint8], special: Any) -> bool:
    """Whether UTF-8 has a suspect character, white space before a line end, a third line end in a row, or a dot or hyphen between two l."""
    at, size = 0, len(data)
    while at < size:
        byte = data[at]
        if byte < 0x80:
            if special[byte]:
                if byte == 0x0A:
                    if at >= 1 and (data[at - 1] == 0x20 or data[at - 1] == 0x09):
                        return True
                    if at >= 2 and data[at - 1] == 0x0A and data[at - 2] == 0x0A:
                        return True
                elif byte == 0x2E or byte == 0x2D:
                    if 0 < at < size - 1 and data[at - 1] | 0x20 == 0x6C and data[at + 1] | 0x20 == 0x6C:
                        return True
                else:
                    return True
            at += 1
        elif byte < 0xE0:
            if special[(byte & 0x1F) << 6 | (data[at + 1] & 0x3F)]:
                return True
            at += 2
        elif byte < 0xF0:
            if special[(byte & 0x0F) << 12 | (data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F)]:
                return True
            at += 3
        else:
            return True
    return False


def _note(before: str, after: str, repair_name: str, changed: set[str]) -> str:
    if after != before:
        changed.add(repair_name)
    return after


def _line_end(found: "re.Match[str]") -> str:
    return "\n\n" if found.group() == "\u2029" else "\n"


def _without_mojibake(line: str) -> str:
    """A line as ftfy mends its encoding; it leaves what makes sense as it is (Portuguese `NÃO`)."""
    if _MOJIBAKE.search(line) is None:
        return line
    import ftfy  # only where a text needs it

    return str(ftfy.fix_encoding(line))
