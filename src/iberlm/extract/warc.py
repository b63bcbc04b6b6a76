"""Records of a web archive (WARC 0.18 to 1.1, ISO 28500), past damaged frames, broken headers and lengths that lie.

FastWARC's iterator ends at the first record that it cannot read, and yields a record that the file's end cut as if it were whole.
Here a bad record costs itself alone: reading goes on at the next line that begins a record.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from iberlm.extract.frames import Damage
from iberlm.extract.http import header_fields
from iberlm.extract.records import Reject

RECORD_START = b"WARC/"
MAX_HEADER_BYTES = 1 << 16
_PEEK_BYTES = 1 << 16
"""Of a record that is too long to be held, so much is shown: the fields of its response."""
_VERSION = re.compile(rb"WARC/\d\.\d\d?[ \t]*\r?\n")
_MARK = re.compile(rb"\n(WARC/\d\.\d\d?\r?\n)[A-Za-z-]{1,30}:")
_MARK_IN_RUBBISH = re.compile(rb"(WARC/\d\.\d\d?\r?\n)[A-Za-z-]{1,30}:")
"""Where a record begins: at a line's start, or anywhere in what is no record anyway."""
_MARK_BYTES = 48
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_DIGITS = re.compile(r"\d{1,18}")


@dataclass(slots=True)
class Record:
    """One record: its position in the file (from 0), its fields (names in lower case) and its payload.

    The payload of a record longer than the limit is only its beginning: `too_long` tells.
    """

    position: int
    fields: dict[str, str]
    payload: bytes
    too_long: bool = False


class _Ahead:
    """The unpacked bytes ahead of the reader, up to the next damage."""

    def __init__(self, blocks: Iterator[bytes | Damage]) -> None:
        self._blocks = blocks
        self.data = b""
        self.at = 0
        self.damage: Damage | None = None
        self.ended = False

    def has(self, size: int) -> bool:
        """Whether `size` bytes are ahead, after reading what that takes; False when the file or the undamaged part is shorter."""
        missing = size - (len(self.data) - self.at)
        if missing <= 0:
            return True
        if self.ended or self.damage:
            return False
        parts = [self.data[self.at :]]
        while missing > 0:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                break
            if isinstance(block, Damage):
                self.damage = block
                break
            parts.append(block)
            missing -= len(block)
        self.data, self.at = b"".join(parts), 0
        return missing <= 0

    def after_damage(self) -> Damage | None:
        """Drop what is left before the damage and go behind it; None when the file ended instead."""
        damage, self.damage = self.damage, None
        self.data, self.at = b"", 0
        return damage


def archive_records(blocks: Iterator[bytes | Damage], max_payload_bytes: int) -> Iterator[Record | Reject]:
    """The records of an unpacked archive in their order; holds at most `max_payload_bytes` and some blocks.

    Rejects: wrong_length (its Content-Length does not lead to the next record), bad_record (no header that can be understood, or bytes that are
    no record), truncated_record (the file ends in it), and the reasons of `frames.archive_blocks`, one for each damage.
    """
    ahead, position = _Ahead(blocks), 0
    while True:
        _pass_blank(ahead)
        if not ahead.has(1):
            if (damage := ahead.after_damage()) is None:
                return
            yield Reject(reason=damage.reason, detail=damage.detail, position=position)
            position += 1
            continue
        found = _next_record(ahead, position, max_payload_bytes)
        if found is not None:
            yield found
            position += 1


def _pass_blank(ahead: _Ahead) -> None:
    while ahead.has(1) and ahead.data[ahead.at] in b"\r\n":
        ahead.at += 1


def _next_record(ahead: _Ahead, position: int, max_payload_bytes: int) -> Record | Reject | None:
    """The record or the rubbish where the reader stands; None when it is cut by a damage, which is told of by itself."""
    ahead.has(_MARK_BYTES)
    if _VERSION.match(ahead.data, ahead.at) is None:
        return _rubbish(ahead, position, "bytes that are no record")
    if (end := _HEADER_END.search(ahead.data, ahead.at)) is None:
        ahead.has(MAX_HEADER_BYTES)
        end = _HEADER_END.search(ahead.data, ahead.at, ahead.at + MAX_HEADER_BYTES)
    if end is None:
        return _rubbish(ahead, position, "its header has no end") if ahead.damage is None else _cut(ahead, position, 0)
    fields = dict(reversed(header_fields(ahead.data[ahead.at : end.start()].partition(b"\n")[2])))  # the first of a name holds
    length = fields.get("content-length", "")
    if not _DIGITS.fullmatch(length):
        return _rubbish(ahead, position, f"Content-Length '{length[:40]}' is no number")
    ahead.at = end.end()
    return _payload(ahead, position, fields, int(length), max_payload_bytes)


def _payload(ahead: _Ahead, position: int, fields: dict[str, str], length: int, max_payload_bytes: int) -> Record | Reject | None:
    if length > max_payload_bytes:
        return _too_long(ahead, position, fields, length)
    complete = ahead.has(length)
    if complete and _at_boundary(ahead, length):
        payload = ahead.data[ahead.at : ahead.at + length]
        ahead.at += length
        return Record(position, fields, payload)
    mark = _MARK.search(ahead.data, ahead.at)
    if mark is None and complete:
        return _rubbish(ahead, position, f"Content-Length {length} does not lead to a record", "wrong_length")
    if mark is None:
        return _cut(ahead, position, length)
    real = mark.start(1) - ahead.at
    ahead.at = mark.start(1)
    return Reject(reason="wrong_length", detail=f"Content-Length {length}, but the next record begins after {real} bytes", position=position)


def _at_boundary(ahead: _Ahead, length: int) -> bool:
    """Whether a record ends `length` bytes on: with its two line ends, or, where they are wrong, before another record or the end."""
    ahead.has(length + 4 + _MARK_BYTES)
    after = ahead.data[ahead.at + length : ahead.at + length + 4 + _MARK_BYTES]
    rest = after.lstrip(b"\r\n")
    return after.startswith(b"\r\n\r\n") or not rest or rest.startswith(RECORD_START)


def _cut(ahead: _Ahead, position: int, length: int, before: int = 0) -> Reject | None:
    """The record goes on where the file (or its undamaged part) ends; `before` bytes of it were passed already."""
    got = before + len(ahead.data) - ahead.at
    ahead.at = len(ahead.data)
    if ahead.damage is not None:
        return None
    return Reject(reason="truncated_record", detail=f"{got} of {length} bytes are there", position=position)


def _rubbish(ahead: _Ahead, position: int, detail: str, reason: str = "bad_record") -> Reject:
    """Go to the next line that begins a record, behind the present one, holding one block at a time."""
    passed = 1
    ahead.at += 1
    while True:
        if (mark := _MARK_IN_RUBBISH.search(ahead.data, ahead.at)) is not None:
            passed += mark.start(1) - ahead.at
            ahead.at = mark.start(1)
            break
        keep = min(len(ahead.data) - ahead.at, _MARK_BYTES)  # a mark may begin here and end in the next block
        passed += len(ahead.data) - ahead.at - keep
        ahead.at = len(ahead.data) - keep
        if not ahead.has(keep + 1):
            passed += keep
            ahead.at = len(ahead.data)
            break
    return Reject(reason=reason, detail=f"{detail} ({passed} bytes passed over)", position=position)


def _too_long(ahead: _Ahead, position: int, fields: dict[str, str], length: int) -> Record | Reject | None:
    """Pass over a long payload without holding it; a length that leads past the next record is a lie."""
    ahead.has(_PEEK_BYTES)
    peek, left = ahead.data[ahead.at : ahead.at + _PEEK_BYTES], length
    while left > 0:
        complete = ahead.has(min(left, _PEEK_BYTES))
        here = min(left, len(ahead.data) - ahead.at)
        if (mark := _MARK.search(ahead.data, ahead.at, ahead.at + here)) is not None:
            real = length - left + mark.start(1) - ahead.at
            ahead.at = mark.start(1)
            return Reject(reason="wrong_length", detail=f"Content-Length {length}, but a record begins after {real} bytes", position=position)
        if not complete:
            return _cut(ahead, position, length, length - left)
        step = here if here == left else here - _MARK_BYTES  # a mark may begin here and end in the next block
        ahead.at += step
        left -= step
    return Record(position, fields, peek, too_long=True)
