"""Bytes of raw files: decompression within limits, whole small files, and lines that cannot fill the memory."""

import bz2
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from iberlm.extract.records import FileError

_BLOCK_BYTES = 1 << 16
FREE_BYTES = 16 << 20
"""Up to this unpacked size no expansion ratio is asked for: small files of spaces are no attack."""
_ZSTD_BLOCK_BYTES = 1 << 13
_GZIP_WBITS = 31

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
_FOREIGN = {
    GZIP_MAGIC: "gzip",
    ZSTD_MAGIC: "zstd",
    LZ4_MAGIC: "LZ4",
    b"WARC/": "WARC",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "ZIP",
    b"%PDF": "PDF",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
}


def blocks(path: Path, max_expansion_ratio: float) -> Iterator[bytes]:
    """Blocks of a file, decompressed by its ending (.gz, .bz2, .zst); several members or frames in a row are one stream.

    Raises `FileError` where reading must stop: `not_gzip`, `not_bzip2`, `not_zstd`, `truncated_gzip`, `damaged_gzip` (and the same
    of the others), `expansion`, `unreadable`. What was yielded before stands.
    """
    unpack = {".gz": _gzip_blocks, ".bz2": _bzip2_blocks, ".zst": _zstd_blocks}.get(path.suffix.lower())
    try:
        if unpack is None:
            yield from _plain_blocks(path)
            return
        unpacked_bytes, packed_bytes = 0, path.stat().st_size
        for block in unpack(path):
            unpacked_bytes += len(block)
            if unpacked_bytes > FREE_BYTES and unpacked_bytes > max_expansion_ratio * packed_bytes:
                raise FileError("expansion", f"unpacks to more than {max_expansion_ratio:g} times its size")
            yield block
    except OSError as error:
        raise FileError("unreadable", str(error.strerror or error)) from error


def _plain_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            yield block


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    """With zlib itself: Python's gzip module loses what it has unpacked when the file ends too soon."""
    member, first = zlib.decompressobj(wbits=_GZIP_WBITS), True
    fed = False  # whether the current member has had any bytes
    for packed in _plain_blocks(path):
        data = packed
        while data:
            if not fed and not first and not data.strip(b"\0"):
                break  # padding after the last member, as on tapes
            try:
                block = member.decompress(data, _BLOCK_BYTES)
            except zlib.error as error:
                raise FileError("not_gzip" if first and not fed else "damaged_gzip", str(error)) from error
            fed = True
            if block:
                yield block
            data = member.unconsumed_tail
            if member.eof:
                data, member, first, fed = member.unused_data, zlib.decompressobj(wbits=_GZIP_WBITS), False, False
    while fed and (block := member.decompress(member.unconsumed_tail, _BLOCK_BYTES)):
        yield block
    if fed and not member.eof:
        raise FileError("truncated_gzip", "the file ends in the middle of compressed data")


def _bzip2_blocks(path: Path) -> Iterator[bytes]:
    """With bz2's own decompressor: Wikipedia's multistream dumps are many streams in a row."""
    stream, first, fed = bz2.BZ2Decompressor(), True, False
    for packed in _plain_blocks(path):
        data = packed
        while data or (fed and not stream.needs_input):
            try:
                block = stream.decompress(data, _BLOCK_BYTES)
            except OSError as error:
                raise FileError("not_bzip2" if first and not fed else "damaged_bzip2", str(error)) from error
            data, fed = b"", True
            if block:
                yield block
            if stream.eof:
                data, stream, first, fed = stream.unused_data, bz2.BZ2Decompressor(), False, False
    if fed:
        raise FileError("truncated_bzip2", "the file ends in the middle of compressed data")


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    """With Arrow, whose reader bounds its output and tells a cut from an end; at most one small block before a cut is lost."""
    with path.open("rb") as stream:
        head = stream.read(len(ZSTD_MAGIC))
        if head and not ZSTD_MAGIC.startswith(head):
            raise FileError("not_zstd", "the file does not begin as its name says")
        stream.seek(0)
        with pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd") as unpacked:
            while True:
                try:
                    block = unpacked.read(_ZSTD_BLOCK_BYTES)
                except (OSError, pa.ArrowException) as error:
                    raise FileError("truncated_zstd" if "Truncated" in str(error) else "damaged_zstd", str(error)) from error
                if not block:
                    return
                yield block


def whole(path: Path, max_bytes: int, max_expansion_ratio: float) -> bytes:
    """All bytes of a file, unpacked. Raises `FileError`: as `blocks`, and `empty_file`, `file_too_large`."""
    parts, size = [], 0
    for block in blocks(path, max_expansion_ratio):
        parts.append(block)
        size += len(block)
        if size > max_bytes:
            raise FileError("file_too_large", f"more than {max_bytes} bytes")
    if not size:
        raise FileError("empty_file", "the file is empty")
    return b"".join(parts)


def foreign_kind(head: bytes) -> str | None:
    """What a file really is, if its first bytes are those of a binary format: 'gzip', 'PDF', ..."""
    return next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None)


def lines(source: Iterator[bytes], max_line_bytes: int) -> Iterator[bytes | None]:
    """Lines without their end; None stands for a line longer than `max_line_bytes`, of which nothing is kept.

    Never holds more than `max_line_bytes` and one block. An error of `source` comes after the whole lines before it;
    the line that it cuts is dropped.
    """
    kept: list[bytes] = []
    size, skipping = 0, False
    for block in source:
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            if skipping or size + end - start > max_line_bytes:
                yield None
            else:
                yield b"".join((*kept, block[start:end])) if kept else block[start:end]
            kept, size, skipping, start = [], 0, False, end + 1
        size += len(block) - start
        if skipping or size > max_line_bytes:
            kept, size, skipping = [], 0, True
        elif start < len(block):
            kept.append(block[start:])
    if skipping:
        yield None
    elif kept:
        yield b"".join(kept)
