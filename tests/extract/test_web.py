"""Web archives: pages with what their headers say, and damage that costs its own record alone."""

import gzip
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.extract.config import ExtractConfig
from iberlm.extract.records import Reject, Text
from iberlm.extract.warc import Record, archive_records

from .archives import PACK, brotli, http, page, record, zstd
from .reading import CONFIG, items, reasons, texts

PAGES = [record(http(page(f"Aquesta és la pàgina número {number} del poble.")), number) for number in range(5)]
TEXTS = [f"Aquesta és la pàgina número {number} del poble." for number in range(5)]


@pytest.mark.parametrize("ending", PACK)
def test_pages_come_with_url_date_status_and_type(tmp_path: Path, ending: str) -> None:
    found = items(tmp_path / f"a.warc{ending}", "warc", b"".join(map(PACK[ending], PAGES)))
    assert texts(found) == TEXTS
    assert found[3] == Text(
        text=TEXTS[3],
        record="00000000-0000-4000-8000-000000000003",
        position=3,
        language="ca",
        url="https://exemple.cat/3",
        date="2024-05-01T10:00:00Z",
        http_status=200,
        content_type="text/html; charset=utf-8",
        reserved=[],
    )


@pytest.mark.parametrize("ending", PACK)
def test_archive_packed_as_one_piece_is_read_alike(tmp_path: Path, ending: str) -> None:
    assert texts(items(tmp_path / f"a.warc{ending}", "warc", PACK[ending](b"".join(PAGES)))) == TEXTS


def test_compression_goes_by_content_not_by_name(tmp_path: Path) -> None:
    assert texts(items(tmp_path / "a.warc.gz", "warc", b"".join(PAGES))) == TEXTS
    assert texts(items(tmp_path / "a.warc", "warc", b"".join(map(gzip.compress, PAGES)))) == TEXTS


def test_what_is_no_page_is_passed_over_and_counted(tmp_path: Path) -> None:
    content = [
        record(b"software: x\r\n", kind="warcinfo"),
        record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        record(http(b"gone", status="404 Not Found"), 1),
        record(http(b"", "Location: /x", status="301 Moved"), 2),
        record(http(b"\x89PNG", "Content-Type: image/png"), 3),
        record(http(b"<rss/>", "Content-Type: application/xml"), 4),
        record(b"192.0.2.1", 5, "Content-Type: text/dns"),
        record(http(b""), 6, kind="revisit"),
        PAGES[0],
    ]
    found = items(tmp_path / "a.warc", "warc", b"".join(content))
    assert texts(found) == TEXTS[:1]
    assert reasons(found) == ["http_status", "http_status", "content_type", "content_type", "content_type", "revisit"]
    assert not any(isinstance(item, Reject) for item in found)


def test_wet_texts_with_their_language(tmp_path: Path) -> None:
    wet = [
        record(b"", kind="warcinfo"),
        record("Bon dia a tothom.\nAdéu.\n".encode(), 1, "WARC-Identified-Content-Language: cat,spa", kind="conversion"),
        record(b"caf\xe9", 2, kind="conversion"),
        record(b"Kaixo mundua.", 3, "WARC-Identified-Content-Language: eus", kind="conversion"),
    ]
    found = items(tmp_path / "a.warc.wet.gz", "wet", b"".join(map(gzip.compress, wet)))
    assert [(item.text, item.language, item.reserved) for item in found if isinstance(item, Text)] == [
        ("Bon dia a tothom.\nAdéu.", "ca", None),
        ("Kaixo mundua.", "eu", None),
    ]
    assert reasons(found) == ["invalid_utf8"]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("lie", [-100, -3, 5, 150, 700, 10**7, 10**12])
def test_length_that_lies_costs_its_own_record(tmp_path: Path, ending: str, lie: int) -> None:
    payload = http(page(TEXTS[1]))
    content = [PAGES[0], record(payload, 1, length=len(payload) + lie), *PAGES[2:]]
    found = items(tmp_path / f"a.warc{ending}", "warc", b"".join(map(PACK[ending], content)))
    assert texts(found) == [TEXTS[0], *TEXTS[2:]]
    assert reasons(found) == ["wrong_length"]


def test_length_that_lies_in_the_last_record(tmp_path: Path) -> None:
    payload = http(page(TEXTS[1]))
    assert reasons(items(tmp_path / "a.warc", "warc", PAGES[0] + record(payload, 1, length=len(payload) + 50))) == ["truncated_record"]
    assert reasons(items(tmp_path / "b.warc", "warc", PAGES[0] + record(payload, 1, length=10**12))) == ["truncated_record"]


@pytest.mark.parametrize(
    "rubbish",
    [b"rubbish\n\n", b"WARC/1.0\r\nfoo\r\nbar: baz\r\n\r\nhello\r\n\r\n", b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: many\r\n\r\n", b"\0" * 99],
)
def test_broken_headers_and_rubbish_between_records(tmp_path: Path, rubbish: bytes) -> None:
    found = items(tmp_path / "a.warc", "warc", PAGES[0] + rubbish + PAGES[1] + PAGES[2])
    assert texts(found) == TEXTS[:3]
    assert reasons(found) == ["bad_record"]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "lz4"])
@pytest.mark.parametrize("damage", ["middle", "cut", "zeros"])
def test_damaged_frame_costs_its_own_record(tmp_path: Path, kind: str, damage: str) -> None:
    ending = {"gzip": ".gz", "zstd": ".zst", "lz4": ".lz4"}[kind]
    frames = [bytearray(PACK[ending](entry)) for entry in PAGES]
    middle = len(frames[2]) // 2
    if damage == "middle":
        frames[2][middle : middle + 8] = b"\xff" * 8
    elif damage == "cut":
        del frames[2][middle:]
    else:
        frames[2][4:40] = bytes(36)
    found = items(tmp_path / f"a.warc{ending}", "warc", b"".join(frames))
    kept = [TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[4]]
    if kind == "gzip" or len(texts(found)) < 5:  # an LZ4 block without a checksum may hold other letters and still be a page
        assert [text for text in texts(found) if text in TEXTS] in (kept, kept[:2] + kept[3:])  # a cut frame may take the head of the next one along
        assert reasons(found)


@pytest.mark.parametrize("ending", [".gz", ".zst", ".lz4"])
def test_truncated_file_keeps_what_came_before(tmp_path: Path, ending: str) -> None:
    content = b"".join(map(PACK[ending], PAGES))
    found = items(tmp_path / f"a.warc{ending}", "warc", content[:-20])
    assert texts(found) == TEXTS[:4]
    assert reasons(found) == [f"truncated_{ {'.gz': 'gzip', '.zst': 'zstd', '.lz4': 'lz4'}[ending] }"]
    found = items(tmp_path / "b.warc", "warc", b"".join(PAGES)[:-200])
    assert texts(found) == TEXTS[:4]
    assert reasons(found) == ["truncated_record"]


def test_padding_and_empty_members_are_no_damage(tmp_path: Path) -> None:
    content = gzip.compress(PAGES[0]) + gzip.compress(b"") + gzip.compress(PAGES[1]) + b"\0" * 1024
    found = items(tmp_path / "a.warc.gz", "warc", content)
    assert texts(found) == TEXTS[:2]
    assert reasons(found) == []


def test_zstd_dictionary_at_the_start_of_the_file(tmp_path: Path) -> None:
    dictionary = zstandard.train_dictionary(2048, [entry + bytes([number]) for number in range(40) for entry in PAGES])
    packed = zstandard.ZstdCompressor(dict_data=dictionary)
    for content in (dictionary.as_bytes(), zstd(dictionary.as_bytes())):
        head = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
        found = items(tmp_path / "a.warc.zst", "warc", head + b"".join(map(packed.compress, PAGES)))
        assert texts(found) == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".zst", ".lz4"])
def test_decompression_bomb_is_left_and_its_neighbours_stay(tmp_path: Path, ending: str) -> None:
    bomb = record(http(b"<html>" + b"a" * (96 << 20)), 9)
    tracemalloc.start()
    found = items(tmp_path / f"a.warc{ending}", "warc", PACK[ending](PAGES[0]) + PACK[ending](bomb) + PACK[ending](PAGES[1]), ExtractConfig(workers=1))
    del bomb
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(found) == TEXTS[:2]
    assert len(reasons(found)) == 1
    assert reasons(found)[0] in ("expansion", "page_too_large")
    assert peak < 400 << 20


def test_long_records_are_passed_over_without_being_held(tmp_path: Path) -> None:
    small = ExtractConfig(max_page_bytes=100_000, workers=1)
    long_page = record(http(page("molt llarg " * 20_000)), 1)
    long_film = record(http(bytes(300_000), "Content-Type: video/mp4"), 2)
    found = items(tmp_path / "a.warc", "warc", PAGES[0] + long_page + long_film + PAGES[3], small)
    assert texts(found) == [TEXTS[0], TEXTS[3]]
    assert reasons(found) == ["page_too_large", "content_type"]


BODY = page(TEXTS[0])


def chunked(data: bytes, size: int = 50) -> bytes:
    """Chunks with an extension, as servers may write them."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(f"{len(part):x};name=value\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


ENCODED = {
    "chunked": (chunked(BODY), ["Transfer-Encoding: chunked"]),
    "gzip": (gzip.compress(BODY, mtime=0), ["Content-Encoding: gzip"]),
    "x-gzip in chunks": (chunked(gzip.compress(BODY)), ["Transfer-Encoding: chunked", "Content-Encoding: x-gzip"]),
    "deflate": (zlib.compress(BODY), ["Content-Encoding: deflate"]),
    "raw deflate": (zlib.compress(BODY)[2:-4], ["Content-Encoding: deflate"]),
    "br": (brotli(BODY), ["Content-Encoding: br"]),
    "zstd": (zstandard.ZstdCompressor().compress(BODY), ["Content-Encoding: zstd"]),
    "gzip twice": (gzip.compress(gzip.compress(BODY)), ["Content-Encoding: gzip, gzip"]),
    "decoded already": (BODY, ["Transfer-Encoding: chunked", "Content-Encoding: br"]),
    "decoded, said to be gzip": (BODY, ["content-encoding: GZIP"]),
    "identity": (BODY, ["Content-Encoding: identity"]),
}


@pytest.mark.parametrize("name", ENCODED)
def test_transfer_and_content_encodings(tmp_path: Path, name: str) -> None:
    body, fields = ENCODED[name]
    assert texts(items(tmp_path / "a.warc", "warc", record(http(body, *fields)))) == TEXTS[:1]


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (gzip.compress(BODY, mtime=0)[:60], "gzip", "bad_encoding"),
        (b"\x1f\x8b rubbish and more rubbish", "gzip", "bad_encoding"),
        (brotli(BODY)[:-30], "br", "bad_encoding"),
        (gzip.compress(b"<p>" + b"a" * (20 << 20), mtime=0), "gzip", "page_too_large"),
        (brotli(b"<p>" + b"a" * (20 << 20)), "br", "page_too_large"),
        (zstandard.ZstdCompressor().compress(b"<p>" + b"a" * (20 << 20)), "zstd", "page_too_large"),
    ],
)
def test_body_that_cannot_be_decoded_is_a_reject(tmp_path: Path, body: bytes, coding: str, reason: str) -> None:
    found = items(tmp_path / "a.warc", "warc", record(http(body, f"Content-Encoding: {coding}")) + PAGES[1])
    assert reasons(found) == [reason]
    assert texts(found) == [TEXTS[1]]


def test_header_fields_may_be_broken(tmp_path: Path) -> None:
    odd = b"HTTP/1.1 200\nno colon here\nContent-Type:\n text/html;\n\tcharset=utf-8\nX: \xe9\nSet Cookie: x\n\n" + BODY
    found = items(tmp_path / "a.warc", "warc", record(odd) + record(b"no status line", 1) + record(http(BODY, "CONTENT-TYPE: Text/HTML"), 2))
    assert texts(found) == [TEXTS[0], TEXTS[0]]
    assert reasons(found) == ["bad_http"]


def test_plain_text_resources_and_missing_types(tmp_path: Path) -> None:
    content = [
        record(http("Només text.".encode("latin-1"), "Content-Type: text/plain; charset=ISO-8859-1", "X-Robots-Tag: noai"), 1),
        record(BODY, 2, "Content-Type: text/html", kind="resource"),
        record(b"HTTP/1.0 200 OK\r\n\r\n" + BODY, 3),
        record(b"HTTP/1.0 200 OK\r\n\r\n\x89PNG", 4),
    ]
    found = items(tmp_path / "a.warc", "warc", b"".join(content))
    assert [(item.text, item.http_status, item.reserved) for item in found if isinstance(item, Text)] == [
        ("Només text.", 200, ["x_robots_tag:noai"]),
        (TEXTS[0], None, []),
        (TEXTS[0], 200, []),
    ]
    assert reasons(found) == ["content_type"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"x", "not_warc"),
        (b"prose\n" * 50_000, "not_warc"),
        (b"<!doctype html><p>hola", "not_warc"),
        (gzip.compress(b"prose", mtime=0), "not_warc"),
        (record(b"x", kind="warcinfo") + record(b"x", kind="request"), "no_pages"),
    ],
)
def test_file_that_is_no_archive_is_one_reject(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reasons(items(tmp_path / "a.warc", "warc", content)) == [reason]


@settings(max_examples=200, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    limit=st.integers(50, 300),
)
def test_records_do_not_depend_on_how_the_stream_is_cut(payloads: list[bytes], sizes: list[int], limit: int) -> None:
    data = b"".join(record(payload, number) for number, payload in enumerate(payloads))
    blocks, at = [], 0
    while at < len(data):
        size = sizes[len(blocks) % len(sizes)]
        blocks.append(data[at : at + size])
        at += size
    found = list(archive_records(iter(blocks), limit))
    assert found == list(archive_records(iter([data]), limit))
    assert [entry.position for entry in found] == list(range(len(payloads)))
    for entry, payload in zip(found, payloads, strict=True):
        assert isinstance(entry, Record)
        assert entry.too_long == (len(payload) > limit)
        assert entry.payload == payload


def test_bounded_memory_over_a_long_archive(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(record(http(page("paraula " * 5000)), number) for number in range(20)), 1)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(packed * 20)
    tracemalloc.start()
    found = [item for item in items(path, "warc", packed * 20, CONFIG) if isinstance(item, Reject)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == []
    assert peak < 64 << 20
