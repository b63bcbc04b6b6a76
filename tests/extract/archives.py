"""Web archives made by hand, so that they can be wrong in every way."""

import gzip
import io

import zstandard
from fastwarc.stream_io import BrotliWriter, Lz4Writer

HEAD = b"<!DOCTYPE html><html lang='ca'><head><meta charset='utf-8'><title>x</title></head><body><main>"


def page(text: str, head: bytes = HEAD) -> bytes:
    """An HTML page with one paragraph."""
    return head + f"<p>{text}</p></main></body></html>".encode()


def http(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    """An HTTP response; HTML in UTF-8 unless a field says otherwise."""
    if not any(entry.lower().startswith("content-type:") for entry in fields):
        fields = ("Content-Type: text/html; charset=utf-8", *fields)
    return f"HTTP/1.1 {status}\r\n".encode() + "".join(f"{entry}\r\n" for entry in fields).encode() + b"\r\n" + body


def record(payload: bytes, number: int = 0, *fields: str, kind: str = "response", length: int | str | None = None, version: str = "1.0") -> bytes:
    """A WARC record of a payload; `length` is what its header says when it lies."""
    content_type = "application/http; msgtype=response" if kind == "response" else "text/plain"
    lines = [
        f"WARC/{version}",
        f"WARC-Type: {kind}",
        f"WARC-Target-URI: https://exemple.cat/{number}",
        "WARC-Date: 2024-05-01T10:00:00Z",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>",
        f"Content-Length: {len(payload) if length is None else length}",
    ]
    if not any(entry.lower().startswith("content-type:") for entry in fields):
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, *fields]).encode() + b"\r\n\r\n" + payload + b"\r\n\r\n"


def brotli(data: bytes) -> bytes:
    """A brotli stream."""
    stream = io.BytesIO()
    writer = BrotliWriter(stream)
    writer.write(data)
    writer.close()
    return stream.getvalue()


def lz4(data: bytes) -> bytes:
    """One LZ4 frame."""
    stream = io.BytesIO()
    writer = Lz4Writer(stream)
    writer.write(data)
    writer.finish()
    writer.close()
    return stream.getvalue()


def zstd(data: bytes) -> bytes:
    """One zstd frame with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".lz4": lz4}
"""Compressions of one record, by the ending of the file."""
