"""Unpacked bytes of an archive that is many compressed frames (gzip members, zstd or LZ4 frames), past damage.

`streams.blocks` stops at the first damage, which is right for one text. A web archive has a frame a record: a damaged
frame costs its own record, and reading goes on at the next frame that unpacks to the start of a record.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from iberlm.extract.records import FileError
from iberlm.extract.streams import FREE_BYTES, GZIP_MAGIC, LZ4_MAGIC, ZSTD_MAGIC

_BLOCK_BYTES = 1 << 18
_PROBE_BYTES = 1 << 12
"""Packed bytes tried when looking for the next frame: enough for any encoder's first block of a record to begin."""
_GZIP_WBITS = 31
_GZIP_START = GZIP_MAGIC + b"\x08"
_SKIPPABLE = tuple(bytes([0x50 + number, 0x2A, 0x4D, 0x18]) for number in range(16))
_DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
"""A zstd dictionary for all frames, at the start of a .warc.zst (IIPC, "Zstandard-compressed WARC", 1.0)."""
_MAX_DICTIONARY_BYTES = 16 << 20
_MAX_WINDOW_BYTES = 1 << 27
_LZ4_BLOCK_BYTES = (0, 0, 0, 0, 64 << 10, 256 << 10, 1 << 20, 4 << 20)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes are missing here; what follows begins with a new frame. `reason` and `detail` as in `Reject`."""

    reason: str
    detail: str


class _BadFrameError(Exception):
    """A frame cannot be unpacked to its end."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.damage = Damage(reason, detail)


def archive_blocks(path: Path, max_expansion_ratio: float, record_start: bytes) -> Iterator[bytes | Damage]:
    """Blocks of the unpacked archive, with a `Damage` wherever bytes are lost.

    The compression goes by content, not by name. After damage, reading goes on at the next frame that unpacks to
    `record_start`. A frame that unpacks to more than `max_expansion_ratio` times its size (once beyond 16 MiB) is left
    there. Raises `FileError` (`unreadable`) when the file cannot be read at all.
    """
    try:
        with path.open("rb", buffering=_BLOCK_BYTES) as stream:
            head = stream.read(len(ZSTD_MAGIC))
            stream.seek(0)
            if head[:2] == GZIP_MAGIC:
                yield from _past_damage(stream, _GZIP_START, _gzip_frame, max_expansion_ratio, record_start)
            elif head in (ZSTD_MAGIC, *_SKIPPABLE):
                yield from _past_damage(stream, ZSTD_MAGIC, _zstd_unpacker(stream), max_expansion_ratio, record_start)
            elif head == LZ4_MAGIC:
                yield from _past_damage(stream, LZ4_MAGIC, _lz4_frame, max_expansion_ratio, record_start)
            else:
                while block := stream.read(_BLOCK_BYTES):
                    yield block
    except OSError as error:
        raise FileError("unreadable", str(error.strerror or error)) from error


Unpack = Callable[[IO[bytes]], Iterator[bytes]]
"""Blocks of the frame that begins where the stream stands; afterwards the stream stands behind it. Raises `_BadFrameError`."""


def _past_damage(stream: IO[bytes], magic: bytes, unpack: Unpack, ratio: float, record_start: bytes) -> Iterator[bytes | Damage]:
    while True:
        start = stream.tell()
        if not _at_frame(stream, magic):
            return
        try:
            yield from _within_ratio(unpack(stream), stream, start, ratio)
        except _BadFrameError as error:
            yield error.damage
            if not _seek_frame(stream, start + 1, magic, unpack, record_start):
                return


def _at_frame(stream: IO[bytes], magic: bytes) -> bool:
    """Whether anything but padding (zero bytes, as on tapes) is left; the stream does not move."""
    start = stream.tell()
    head = stream.read(len(magic))
    if head and not head.strip(b"\0"):
        while block := stream.read(_BLOCK_BYTES):
            if block.strip(b"\0"):
                break
        else:
            return False
    stream.seek(start)
    return bool(head)


def _within_ratio(blocks: Iterator[bytes], stream: IO[bytes], start: int, ratio: float) -> Iterator[bytes]:
    unpacked = 0
    for block in blocks:
        unpacked += len(block)
        if unpacked > FREE_BYTES and unpacked > ratio * (stream.tell() - start):
            raise _BadFrameError("expansion", f"a frame unpacks to more than {ratio:g} times its size")
        yield block


def _seek_frame(stream: IO[bytes], start: int, magic: bytes, unpack: Unpack, record_start: bytes) -> bool:
    """Move to the next frame at or behind `start` that unpacks to `record_start`; False when there is none."""
    position, tail = start, b""
    while True:
        stream.seek(position)
        block = stream.read(_BLOCK_BYTES)
        if not block:
            return False
        data, base = tail + block, position - len(tail)
        found = data.find(magic)
        while found >= 0:
            stream.seek(base + found)
            if _begins(unpack(stream), record_start):
                stream.seek(base + found)
                return True
            found = data.find(magic, found + 1)
        position += len(block)
        tail = data[-(len(magic) - 1) :]


def _begins(blocks: Iterator[bytes], record_start: bytes) -> bool:
    head = b""
    try:
        for block in blocks:
            head += block[: len(record_start)]
            if len(head) >= len(record_start):
                break
    except _BadFrameError:
        return False
    return head.startswith(record_start)


def _gzip_frame(stream: IO[bytes]) -> Iterator[bytes]:
    """One member, with zlib itself: FastWARC's reader does not tell where a member ends nor what it read before an error."""
    member = zlib.decompressobj(wbits=_GZIP_WBITS)
    step = _PROBE_BYTES  # most members are small: to read far beyond one costs more than it saves
    while not member.eof:
        data = stream.read(step)
        step = min(2 * step, _BLOCK_BYTES)
        if not data:
            raise _BadFrameError("truncated_gzip", "the file ends in the middle of compressed data")
        while data and not member.eof:
            try:
                block = member.decompress(data, _BLOCK_BYTES)
            except zlib.error as error:
                raise _BadFrameError("damaged_gzip", str(error)) from error
            if block:
                yield block
            data = member.unconsumed_tail
    stream.seek(-len(member.unused_data), io.SEEK_CUR)


class _Pieces:
    """A file of the raw pieces of one frame, for decompressors that read files and would read on into the next frame."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._given = 0
        self.error: _BadFrameError | None = None
        """What stopped the pieces: a reader that is not written in Python makes an error of its own of it."""

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            try:
                self._rest = next(self._pieces, b"")
            except _BadFrameError as error:
                self.error = error
                raise
        given, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        self._given += len(given)
        return given

    def tell(self) -> int:
        return self._given

    def seek(self, offset: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("the pieces of a frame come once")

    def close(self) -> None:
        self._rest = b""


def _exactly(stream: IO[bytes], size: int, kind: str) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise _BadFrameError(f"truncated_{kind}", "the file ends in the middle of compressed data")
    return data


def _skippable(stream: IO[bytes], kind: str) -> bytes | None:
    """Content of the skippable frame where the stream stands, or None, unmoved, when there is no such frame."""
    start = stream.tell()
    if stream.read(4) not in _SKIPPABLE:
        stream.seek(start)
        return None
    size = int.from_bytes(_exactly(stream, 4, kind), "little")
    if size > _MAX_DICTIONARY_BYTES:
        stream.seek(size, io.SEEK_CUR)
        return b""
    return _exactly(stream, size, kind)


def _zstd_unpacker(stream: IO[bytes]) -> Unpack:
    """An unpacker with the dictionary that the file begins with, if it has one; the stream stands at the first frame after it."""
    settings: dict[str, Any] = {"max_window_size": _MAX_WINDOW_BYTES}
    head = stream.read(4)
    stream.seek(0)
    if head == _DICTIONARY_FRAME:
        try:
            content = _skippable(stream, "zstd") or b""
            if content.startswith(ZSTD_MAGIC):
                content = zstandard.ZstdDecompressor().decompress(content, max_output_size=_MAX_DICTIONARY_BYTES)
            settings["dict_data"] = zstandard.ZstdCompressionDict(content)
        except (_BadFrameError, zstandard.ZstdError):
            stream.seek(0)  # the first frame that needs it tells that it is missing
    decompressor = zstandard.ZstdDecompressor(**settings)

    def unpack(stream: IO[bytes]) -> Iterator[bytes]:
        if _skippable(stream, "zstd") is not None:
            return
        pieces = _Pieces(_zstd_pieces(stream))
        yield from _read_all(decompressor.stream_reader(pieces, read_size=_BLOCK_BYTES), pieces, "zstd")  # type: ignore[arg-type]

    return unpack


def _zstd_pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Header, blocks and checksum of one frame (RFC 8878, section 3.1.1)."""
    start = stream.tell()
    head = stream.read(18)
    try:
        size = zstandard.frame_header_size(head)
        has_checksum = zstandard.get_frame_parameters(head).has_checksum
    except zstandard.ZstdError as error:
        raise _BadFrameError("damaged_zstd" if len(head) == 18 else "truncated_zstd", str(error)) from error
    stream.seek(start + size)
    yield head[:size]
    last = False
    while not last:
        header = _exactly(stream, 3, "zstd")
        value = int.from_bytes(header, "little")
        last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
        yield header + _exactly(stream, 1 if kind == 1 else size, "zstd")
    if has_checksum:
        yield _exactly(stream, 4, "zstd")


def _lz4_frame(stream: IO[bytes]) -> Iterator[bytes]:
    from fastwarc.stream_io import Lz4Reader

    if _skippable(stream, "lz4") is not None:
        return
    pieces = _Pieces(_lz4_pieces(stream))
    yield from _read_all(Lz4Reader(pieces), pieces, "lz4")


def _lz4_pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Header, blocks and checksum of one frame (LZ4 frame format 1.6)."""
    head = _exactly(stream, 7, "lz4")
    flags, largest = head[4], _LZ4_BLOCK_BYTES[head[5] >> 4 & 7]
    if not head.startswith(LZ4_MAGIC) or flags >> 6 != 1 or not largest:
        raise _BadFrameError("damaged_lz4", "no frame begins here")
    yield head + _exactly(stream, 8 * bool(flags & 8) + 4 * bool(flags & 1), "lz4")
    while True:
        header = _exactly(stream, 4, "lz4")
        size = int.from_bytes(header, "little") & 0x7FFFFFFF
        if size > largest:
            raise _BadFrameError("damaged_lz4", f"a block of {size} bytes")
        yield header + (_exactly(stream, size + 4 * bool(flags & 16), "lz4") if size else b"")
        if not size:
            break
    if flags & 4:
        yield _exactly(stream, 4, "lz4")


def _read_all(reader: Any, pieces: _Pieces, kind: str) -> Iterator[bytes]:
    try:
        while block := reader.read(_BLOCK_BYTES):
            yield block
        while pieces.read():  # a checksum that the reader did not ask for
            pass
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise pieces.error or _BadFrameError(f"damaged_{kind}", str(error)) from error
