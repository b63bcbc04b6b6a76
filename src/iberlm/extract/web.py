"""Reader of web archives: the pages of WARC files and the texts of WET files, with what their headers say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iberlm.extract.charset import decode
from iberlm.extract.config import ExtractConfig
from iberlm.extract.frames import archive_blocks
from iberlm.extract.html import read_page
from iberlm.extract.http import Response, decoded_body, parse_response
from iberlm.extract.records import FileError, Reading, Reject, Skip, Text, field, language_claim, text_or_reject
from iberlm.extract.rights import header_reservations
from iberlm.extract.warc import RECORD_START, Record, archive_records

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
_PLAIN_TYPES = frozenset({"text/plain"})
_HTML_START = re.compile(rb"\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_DATE = re.compile(r"\d{4}(?:-\d\d(?:-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?Z)?)?)?")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;\"']+)", re.IGNORECASE)
_MAX_TYPE_CHARACTERS = 200


def read_archive(path: Path, config: ExtractConfig) -> Reading:
    """Texts of the pages in a WARC or WET file, plain or in gzip, zstd or LZ4.

    Read are `response` and `resource` records of HTML or plain text and the `conversion` records of WET files; requests, metadata
    and the like are no documents and not counted. Skips: http_status (any but 200), content_type (neither HTML nor plain text),
    revisit. Rejects: those of `warc.archive_records`, bad_http (no status line), bad_encoding, page_too_large, not_html, invalid_utf8 (WET),
    no_text; for the file: not_warc, no_pages (no record is a page), empty_file, unreadable.
    """
    blocks = archive_blocks(path, config.max_expansion_ratio, RECORD_START)
    first: Reject | None = None
    good, pages = 0, 0
    for item in archive_records(blocks, config.max_page_bytes):
        if isinstance(item, Reject):
            if good or item.reason != "bad_record":
                yield item
            else:
                first = first or item
            continue
        good += 1
        if first is not None:
            yield first
            first = None
        for found in _of_record(item, config):
            pages += 1
            yield found
    if first is not None:
        raise FileError("not_warc", first.detail)
    if not good and path.stat().st_size == 0:
        raise FileError("empty_file", "the file is empty")
    if good and not pages:
        raise FileError("no_pages", f"none of its {good} records is a page or a text")


def _of_record(record: Record, config: ExtractConfig) -> Iterator[Text | Reject | Skip]:
    kind = record.fields.get("warc-type", "").lower()
    try:
        if kind == "response":
            yield _response(record, config)
        elif kind == "conversion":
            yield _conversion(record, config)
        elif kind == "resource":
            yield _page(record, Response(0, [("content-type", record.fields.get("content-type", ""))], record.payload), config)
        elif kind == "revisit":
            yield Skip(reason="revisit", position=record.position)
    except FileError as error:
        yield Reject(reason=error.reason, detail=error.detail, position=record.position)


def _claims(record: Record) -> dict[str, Any]:
    """URL, date and identifier of a record as the fields of a `Text`."""
    date = _DATE.fullmatch(record.fields.get("warc-date", "").strip())
    return {
        "record": field(record.fields.get("warc-record-id", "").strip("<> ").removeprefix("urn:uuid:")),
        "url": field(record.fields.get("warc-target-uri", "").strip("<> ")),
        "date": date.group() if date else None,
    }


def _response(record: Record, config: ExtractConfig) -> Text | Reject | Skip:
    response = parse_response(record.payload)
    if response is None:
        if record.fields.get("content-type", "").lower().startswith("application/http"):
            raise FileError("bad_http", "the response begins without a status line")
        return Skip(reason="content_type", position=record.position)  # the answers of name servers and the like
    if response.status != 200:
        return Skip(reason="http_status", position=record.position)
    return _page(record, response, config)


def _page(record: Record, response: Response, config: ExtractConfig) -> Text | Reject | Skip:
    declared = response.field("content-type") or record.fields.get("warc-identified-payload-type") or ""
    kind = declared.partition(";")[0].strip().lower()
    if kind and kind not in _HTML_TYPES | _PLAIN_TYPES:
        return Skip(reason="content_type", position=record.position)
    if record.too_long:
        raise FileError("page_too_large", f"more than {config.max_page_bytes} bytes")
    body = decoded_body(response, config.max_page_bytes)
    if not kind and not _HTML_START.match(body):
        return Skip(reason="content_type", position=record.position)
    charset = found.group(1) if (found := _CHARSET.search(declared)) else None
    claims = _claims(record) | {"http_status": response.status or None, "content_type": field(declared[:_MAX_TYPE_CHARACTERS])}
    if kind in _PLAIN_TYPES:
        return text_or_reject(decode(body, charset), record.position, reserved=header_reservations(response.fields), **claims)
    page = read_page(body, config.html_engine, charset, response.fields)
    rights = page.rights
    claims |= {"licence": rights.licence, "licence_evidence": rights.evidence, "reserved": rights.reserved}
    return text_or_reject(page.text, record.position, language=page.language, **claims)


def _conversion(record: Record, config: ExtractConfig) -> Text | Reject | Skip:
    declared = record.fields.get("content-type", "")
    if declared.partition(";")[0].strip().lower() not in ("", *_PLAIN_TYPES):
        return Skip(reason="content_type", position=record.position)
    if record.too_long:
        raise FileError("page_too_large", f"more than {config.max_page_bytes} bytes")
    try:
        text = record.payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError("invalid_utf8", f"byte {error.start} of the record") from error
    language = language_claim(record.fields.get("warc-identified-content-language", "").partition(",")[0])
    return text_or_reject(text, record.position, language=language, content_type=field(declared), **_claims(record))
