"""HTTP responses as archives keep them: status, header fields, and the body without transfer and content encodings."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import zstandard

from iberlm.extract.records import FileError

MAX_HEAD_BYTES = 1 << 16
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[^\n]*\n")
_ZLIB_HEADER = 47  # wbits: zlib or gzip, by its header
_RAW_DEFLATE = -15


@dataclass(slots=True)
class Response:
    """A response: status, fields (names in lower case, in order, repeated ones kept) and the body as it was stored."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        """The first field of a name (lower case)."""
        return next((value for key, value in self.fields if key == name), None)

    def all_fields(self, name: str) -> list[str]:
        """Every field of a name (lower case)."""
        return [value for key, value in self.fields if key == name]


def header_fields(head: bytes) -> list[tuple[str, str]]:
    """Fields of a header block, names in lower case. Lines that are no field are passed over; folded lines are joined.

    A block is UTF-8 where it can be, Latin-1 elsewhere.
    """
    try:
        lines = head.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = head.decode("latin-1").split("\n")
    fields: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and fields:
            key, before = fields[-1]
            fields[-1] = key, f"{before} {line.strip()}"
        elif colon and name and " " not in name.strip():
            fields.append((name.strip().lower(), value.strip()))
    return fields


def parse_response(data: bytes) -> Response | None:
    """The response in the payload of a record; None when it does not begin with a status line."""
    if (status := _STATUS_LINE.match(data)) is None:
        return None
    end = _HEAD_END.search(data, 0, MAX_HEAD_BYTES)
    head, body = (data[: end.start()], data[end.end() :]) if end else (data[:MAX_HEAD_BYTES], b"")
    return Response(int(status.group(1)), header_fields(head.partition(b"\n")[2]), body)


def decoded_body(response: Response, max_bytes: int) -> bytes:
    """The body without chunks and compression, as far as its fields say and its bytes agree.

    Archives often keep a decoded body under the fields of the encoded one: bytes that are not in the encoding that a field
    names are taken as they are. Raises `FileError`: `page_too_large` beyond `max_bytes`, `bad_encoding` for a body that begins in
    its encoding and cannot be decoded to its end.
    """
    body = response.body
    if "chunked" in ",".join(response.all_fields("transfer-encoding")).lower():
        body = _without_chunks(body)
    codings = [coding.strip() for coding in ",".join(response.all_fields("content-encoding")).lower().split(",")]
    for coding in reversed(codings):
        if coding in ("gzip", "x-gzip"):
            body = _inflated(body, max_bytes) if body[:2] == b"\x1f\x8b" else body
        elif coding == "deflate":
            body = body if _looks_like_markup(body) else _inflated(body, max_bytes)
        elif coding == "zstd":
            body = _read(zstandard.ZstdDecompressor().stream_reader(BytesIO(body)), max_bytes) if body[:4] == b"\x28\xb5\x2f\xfd" else body
        elif coding == "br":
            body = body if _looks_like_markup(body) else _brotli(body, max_bytes)
    if len(body) > max_bytes:
        raise FileError("page_too_large", f"more than {max_bytes} bytes")
    return body


def _looks_like_markup(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"


def _without_chunks(body: bytes) -> bytes:
    """Chunks joined; a body that does not begin with a chunk is no chunked one, and one that ends early keeps what came."""
    parts, position = [], 0
    while (size := _CHUNK_SIZE.match(body, position)) is not None:
        length = int(size.group(1), 16)
        if not length:
            break
        parts.append(body[size.end() : size.end() + length])
        position = size.end() + length
        position += 2 if body[position : position + 2] == b"\r\n" else body[position : position + 1] == b"\n"
    return b"".join(parts) if parts else body


def _inflated(body: bytes, max_bytes: int) -> bytes:
    raw = len(body) < 2 or not (body[:2] == b"\x1f\x8b" or (body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0))
    decompressor = zlib.decompressobj(wbits=_RAW_DEFLATE if raw else _ZLIB_HEADER)
    try:
        data = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise FileError("bad_encoding", f"the body is no gzip or deflate: {error}") from error
    if len(data) > max_bytes:
        raise FileError("page_too_large", f"unpacks to more than {max_bytes} bytes")
    if not decompressor.eof:
        raise FileError("bad_encoding", "the compressed body ends too soon")
    return data


def _brotli(body: bytes, max_bytes: int) -> bytes:
    from fastwarc.stream_io import BrotliReader

    return _read(BrotliReader(BytesIO(body)), max_bytes)


def _read(reader: Any, max_bytes: int) -> bytes:
    try:
        data = b"".join(_parts(reader, max_bytes + 1))
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise FileError("bad_encoding", str(error)) from error
    if len(data) > max_bytes:
        raise FileError("page_too_large", f"unpacks to more than {max_bytes} bytes")
    return data


def _parts(reader: Any, max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    while left > 0 and (part := reader.read(min(left, 1 << 16))):
        left -= len(part)
        yield part
