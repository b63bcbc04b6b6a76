"""Extraction on real files of every format, good and bad."""

import gzip
import hashlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from iberlm.core.documents import SCHEMA
from iberlm.core.errors import DataError
from iberlm.core.manifest import Counts, Manifest, Output
from iberlm.extract.config import ExtractConfig
from iberlm.extract.extract import RawFile, document_id, read, run
from iberlm.extract.records import Text, language_claim

from .archives import http, page, record
from .reading import Item, raw, reasons, texts
from .reading import items as items_with

SMALL = ExtractConfig(max_line_bytes=4096, max_file_bytes=1 << 20, max_document_bytes=2048, workers=1)


def items(path: Path, form: str, content: bytes, config: ExtractConfig = SMALL, **changes: Any) -> list[Item]:
    return items_with(path, form, content, config, **changes)


def jsonl(*records: Any) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def fetched(folder: Path, files: list[RawFile]) -> Manifest:
    """The manifest of a fetch stage that lists `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({**file.__dict__, "sha256": "0" * 64}) + "\n" for file in files)
    (folder / "files.jsonl").write_text(lines, encoding="utf-8")
    output = Output("files.jsonl", len(lines.encode()), "0" * 64, len(files))
    return Manifest("fetch", "k", {}, "c", "v", [], [output], Counts(), {}, {"town": "CC0-1.0"}, 0.0, 0.0, 0, {}, "now", folder=folder)


def test_jsonl_keeps_good_records_beside_every_kind_of_bad_one(tmp_path: Path) -> None:
    content = (
        b"\xef\xbb\xbf"
        + jsonl({"id": "a", "language": "ca-valencia", "text": "Bon dia a tots.\r\nAdéu."})
        + b"{not json\n\n[1]\n"
        + b'{"text": "caf\xe9"}\n'
        + b'{"text": "\\ud800 half a pair"}\n'
        + jsonl({"text": "a\0b"}, {"text": "  "}, {"body": "x"}, {"text": 7})
        + b'{"text": "' + b"x" * 5000 + b'"}\n'
        + jsonl({"text": "y" * 3000})
        + b"[" * 2000 + b"\n"
        + json.dumps({"id": 12, "text": "last, without a line end", "date": "2024-05-01", "url": "https://example.org/1"}).encode()
    )  # fmt: skip
    found = items(tmp_path / "a.jsonl", "jsonl", content)
    assert texts(found) == ["Bon dia a tots.\nAdéu.", "last, without a line end"]
    assert sorted(reasons(found)) == sorted(
        ["not_json", "not_object", "invalid_utf8", "invalid_unicode", "nul", "no_text", "no_text", "no_text", "line_too_long", "document_too_long", "not_json"]
    )
    first, last = (item for item in found if isinstance(item, Text))
    assert (first.record, first.language) == ("a", "ca-valencia")
    assert (last.record, last.date, last.url) == ("12", "2024-05-01", "https://example.org/1")


def test_compressed_files_of_several_members_are_read_whole(tmp_path: Path) -> None:
    parts = [jsonl({"text": f"record {number}"}) for number in range(3)]
    assert texts(items(tmp_path / "a.jsonl.gz", "jsonl", b"".join(map(gzip.compress, parts)))) == ["record 0", "record 1", "record 2"]
    compress = zstandard.ZstdCompressor().compress
    assert texts(items(tmp_path / "a.jsonl.zst", "jsonl", b"".join(map(compress, parts)))) == ["record 0", "record 1", "record 2"]


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 196608, 131072 + 11])
def test_gzip_of_any_size_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    found = items(tmp_path / "a.txt.gz", "text", gzip.compress(b"a" * size) + b"\0" * 512, ExtractConfig(workers=1))
    assert [len(text) for text in texts(found)] == [size]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_truncated_stream_keeps_the_records_before_the_cut(tmp_path: Path, kind: str) -> None:
    content = jsonl(*({"text": f"{number} " + "x" * (number % 97)} for number in range(20_000)))
    if kind == "gzip":
        path, packed = tmp_path / "a.jsonl.gz", gzip.compress(content)
    else:
        path, packed = tmp_path / "a.jsonl.zst", zstandard.ZstdCompressor(level=1).compress(content)
    found = items(path, "jsonl", packed[: len(packed) // 2])
    assert reasons(found) == [f"truncated_{kind}"]
    assert 1000 < len(texts(found)) < 20_000


def test_damaged_stream_is_quarantined(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(jsonl(*({"text": str(number)} for number in range(50_000)))))
    packed[len(packed) // 2 : len(packed) // 2 + 64] = b"\xff" * 64
    assert reasons(items(tmp_path / "a.jsonl.gz", "jsonl", bytes(packed)))[-1] == "damaged_gzip"
    assert reasons(items(tmp_path / "b.jsonl.gz", "jsonl", gzip.compress(b'{"text": "x"}\n') + b"rubbish")) == ["damaged_gzip"]


@pytest.mark.parametrize(
    ("name", "form", "content", "reason"),
    [
        ("a.jsonl.gz", "jsonl", b'{"text": "plain"}\n', "not_gzip"),
        ("a.jsonl.zst", "jsonl", b'{"text": "plain"}\n', "not_zstd"),
        ("a.jsonl", "jsonl", gzip.compress(b"{}", mtime=0), "not_jsonl"),
        ("a.jsonl", "jsonl", b"a line of prose\n" * 200, "not_jsonl"),
        ("a.jsonl", "jsonl", b"", "empty_file"),
        ("a.parquet", "parquet", b"PAR1 not really", "not_parquet"),
        ("a.parquet", "parquet", b"", "empty_file"),
        ("a.txt", "text", b"", "empty_file"),
        ("a.txt", "text", b" \n\t", "no_text"),
        ("a.txt", "text", b"se\xf1al", "invalid_utf8"),
        ("a.txt", "text", b"%PDF-1.7 x", "not_text"),
        ("a.txt", "text", b"x" * (2 << 20), "file_too_large"),
        ("a.html", "html", b"no element here", "not_html"),
        ("a.html", "html", b"PK\x03\x04zip", "not_html"),
        ("a.docbook", "docbook", b"<book><para>open", "not_xml"),
        ("a.docbook", "docbook", b"<book/>", "no_text"),
        ("a.mo", "gettext", b"\xde\x12\x04\x95\0\0\0\0\xff\xff\xff\x7f", "not_gettext"),
        ("a.po", "gettext", b"prose", "not_gettext"),
        ("a.txt.gz", "text", gzip.compress(b"some words here", mtime=0)[:-10], "truncated_gzip"),
        ("a.warc", "warc", b"x", "not_warc"),
        ("a.pdf", "pdf", b"x", "unknown_format"),
        ("a.txt.bz2", "text", b"plain", "not_bzip2"),
    ],
)
def test_file_that_is_not_what_it_says_is_one_counted_reject(tmp_path: Path, name: str, form: str, content: bytes, reason: str) -> None:
    found = items(tmp_path / name, form, content)
    assert texts(found) == []
    assert reasons(found)[-1:] == [reason]
    if form != "jsonl":
        assert len(found) == 1


def test_missing_file_is_a_reject(tmp_path: Path) -> None:
    assert reasons(list(read(raw(tmp_path / "gone.jsonl", "jsonl"), SMALL))) == ["unreadable"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_huge_line_in_a_small_file_stays_small_in_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb.jsonl{suffix}"
    with gzip.open(path, "wb", compresslevel=1) if suffix == ".gz" else zstandard.open(path, "wb") as stream:
        stream.write(jsonl({"text": "before"}) + b'{"text": "')
        for _ in range(200):
            stream.write(b"a" * (1 << 20))
        stream.write(b'"}\n' + jsonl({"text": "after"}))
    config = ExtractConfig(max_line_bytes=1 << 20, max_expansion_ratio=1e9, workers=1)
    tracemalloc.start()
    found = list(read(raw(path, "jsonl"), config))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(found) == ["before", "after"]
    assert reasons(found) == ["line_too_long"]
    assert peak < 64 << 20
    assert reasons(list(read(raw(path, "jsonl"), ExtractConfig(max_line_bytes=1 << 20, workers=1)))) == ["expansion"]


def test_parquet_rows_with_claims_missing_texts_and_bad_bytes(tmp_path: Path) -> None:
    values = pa.array([b"Kaixo mundua", b"caf\xe9", None, b"Agur"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers(), values.null_count)
    table = pa.table({"text": text, "id": [1, 2, 3, 4], "language": ["eu", "eu", "eu", None], "other": [0, 0, 0, 0]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    found = list(read(raw(tmp_path / "a.parquet", "parquet"), SMALL))
    assert [(item.text, item.record, item.language) for item in found if isinstance(item, Text)] == [("Kaixo mundua", "1", "eu"), ("Agur", "4", None)]
    assert reasons(found) == ["invalid_utf8", "no_text"]
    assert reasons(list(read(raw(tmp_path / "a.parquet", "parquet", text_field="body"), SMALL))) == ["no_text_column"]


def test_text_of_a_dictionary_column_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["hola", "hola"]).dictionary_encode()}), tmp_path / "a.parquet")
    assert texts(list(read(raw(tmp_path / "a.parquet", "parquet"), SMALL))) == ["hola", "hola"]


def test_html_gives_main_content_and_its_language(tmp_path: Path) -> None:
    body = "<p>A praza do mercado abre ás oito da mañá.</p><p>Hai peixe fresco todos os días.</p>"
    page = f'<!DOCTYPE html><html lang="gl-ES"><head><title>x</title></head><body><nav><a href="/">Inicio</a></nav><main>{body}</main>'
    page += "<script>var x=1</script></body></html>"
    found = items(tmp_path / "a.html", "html", page.encode())
    assert texts(found) == ["A praza do mercado abre ás oito da mañá.\n\nHai peixe fresco todos os días."]
    assert found[0].language == "gl"
    assert "mañá" in texts(items(tmp_path / "b.html", "html", page.replace("<head>", '<head><meta charset="iso-8859-1">').encode("latin-1")))[0]


def test_html_manual_without_its_page_furniture(tmp_path: Path) -> None:
    furniture = "<div class='navheader'>Anterior Siguiente</div><div class='toc'>1. Uno</div>"
    page = f"<html><body>{furniture}<h1>Uno</h1><p>Texto   de la página.</p><br><br><br><p>Fin.</p></body></html>"
    assert texts(items(tmp_path / "a.html", "html", page.encode())) == ["Uno\n\nTexto de la página.\n\nFin."]


MALLARD = """<?xml version="1.0" encoding="utf-8"?>
<page xmlns="http://projectmallard.org/1.0/" type="topic" id="x" xml:lang="ca@valencia">
<info><credit><name>Joan</name><email>joan@example.org</email></credit></info>
<title>Obrir la carpeta</title><p>Feu clic en <gui>Fitxers</gui> i
trieu una carpeta.</p><code>ls -l</code><steps><item><p>Premeu <key>Retorn</key>.</p></item></steps></page>"""


def test_mallard_page_without_credits_and_code(tmp_path: Path) -> None:
    found = items(tmp_path / "a.page", "docbook", MALLARD.encode())
    assert texts(found) == ["Obrir la carpeta\n\nFeu clic en Fitxers i trieu una carpeta.\n\nPremeu Retorn."]
    assert found[0].language == "ca-valencia"


def test_docbook_is_cut_at_chapters_and_spells_entities(tmp_path: Path) -> None:
    book = """<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//KDE//DTD" "dtd/kdedbx45.dtd" [ <!ENTITY app "<application>Dolphin</application>"> ]>
    <book lang="es"><bookinfo><title>T</title><author><surname>Penz</surname></author></bookinfo>
    <chapter><title>Uno</title><para>Abra &app; con &Ctrl; en &kde;.</para></chapter>
    <chapter><title>Dos</title><sect1><title>Parte</title><para>Cierre la ventana.</para></sect1></chapter></book>"""
    assert texts(items(tmp_path / "a.docbook", "docbook", book.encode())) == ["Uno\n\nAbra Dolphin con Ctrl en KDE.", "Parte\n\nCierre la ventana."]
    part = '<!-- part --><chapter id="x"><title>Tres</title><para>Sin &LMB; ni DTD.</para></chapter>'
    assert texts(items(tmp_path / "b.docbook", "docbook", part.encode())) == ["Tres\n\nSin LMB ni DTD."]


def test_xml_entities_neither_grow_nor_read_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    grow = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    book = f'<!DOCTYPE book [<!ENTITY a0 "lol">{grow}<!ENTITY file SYSTEM "{secret.as_uri()}">]><book><title>T</title><para>x &a11; &file; y</para></book>'
    found = items(tmp_path / "a.docbook", "docbook", book.encode())
    assert all("secret" not in text and len(text) < 100 for text in texts(found))


def mo(messages: dict[str, str], order: str = "<", charset: str = "utf-8") -> bytes:
    """A catalogue in the layout of GNU gettext."""
    pairs = [(key.encode(charset), value.encode(charset)) for key, value in sorted(messages.items())]
    header = 28
    at = header + 16 * len(pairs)
    tables: list[bytes] = []
    data = b""
    for column in (0, 1):
        table = b""
        for pair in pairs:
            table += struct.pack(f"{order}2I", len(pair[column]), at + len(data))
            data += pair[column] + b"\0"
        tables.append(table)
    return struct.pack(f"{order}7I", 0x950412DE, 0, len(pairs), header, header + 8 * len(pairs), 0, 0) + b"".join(tables) + data


CATALOGUE = {
    "": "Content-Type: text/plain; charset=utf-8\nLanguage: eu\n",
    "Open": "Ireki",
    "menu\x04Open the selected file in a new window": "Ireki hautatutako fitxategia leiho &berri batean",
    "%n file\0%n files": "Fitxategi bat ezabatu da diskotik\0%n fitxategi ezabatu dira diskotik",
    "This one stays as it is": "This one stays as it is",
    "Your names": "Ane, Jon eta Miren, ane@example.org helbidean",
    "<p>Rich text is here</p><p>too</p>": "<p>Testu <b>aberatsa</b> da hemen dagoena</p><p>eta hori ere bai</p>",
}


@pytest.mark.parametrize("order", ["<", ">"])
def test_mo_catalogue_gives_its_translated_running_text(tmp_path: Path, order: str) -> None:
    found = items(tmp_path / "a.mo", "gettext", mo(CATALOGUE, order))
    assert len(found) == 1
    assert found[0].language == "eu"
    assert set(texts(found)[0].split("\n\n")) == {
        "Ireki hautatutako fitxategia leiho berri batean",
        "%n fitxategi ezabatu dira diskotik",
        "Testu aberatsa da hemen dagoena\neta hori ere bai",
    }


def test_po_catalogue_without_fuzzy_and_obsolete_messages(tmp_path: Path) -> None:
    po = (
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=ISO-8859-1\\n"\n"Language: gl_ES\\n"\n\n'
        '#: a.c:1\nmsgid "Delete the file"\nmsgstr "Elimina o ficheiro "\n"da carpeta \\"Música\\" agora"\n\n'
        '#, fuzzy\nmsgid "Old one"\nmsgstr "Isto xa non vale para nada"\n\n'
        '#~ msgid "Gone"\n#~ msgstr "Isto foi retirado hai tempo"\n\n'
        'msgctxt "x"\nmsgid "one"\nmsgid_plural "many"\nmsgstr[0] "un só ficheiro na carpeta"\nmsgstr[1] "moitos ficheiros nesta mesma carpeta"\n'
    )
    found = items(tmp_path / "a.po", "gettext", po.encode("latin-1"))
    assert texts(found) == ['Elimina o ficheiro da carpeta "Música" agora\n\nmoitos ficheiros nesta mesma carpeta']
    assert found[0].language == "gl"


def test_mo_whose_messages_overlap_is_refused(tmp_path: Path) -> None:
    block = b"x" * 4000
    pair = struct.pack("<2I", len(block), 28 + 16 * 100)
    assert reasons(items(tmp_path / "a.mo", "gettext", struct.pack("<7I", 0x950412DE, 0, 100, 28, 28 + 800, 0, 0) + pair * 200 + block)) == ["not_gettext"]


def test_long_catalogue_becomes_documents_of_bounded_size(tmp_path: Path) -> None:
    messages = {f"message number {n}": f"aquest és el missatge número {n} del catàleg" for n in range(200)}
    found = items(tmp_path / "a.mo", "gettext", mo(messages), ExtractConfig(catalogue_document_bytes=1000, workers=1))
    assert len(found) > 5
    assert all(len(text.encode()) < 1100 for text in texts(found))


@pytest.mark.parametrize(
    ("claim", "tag"),
    [
        ("es", "es"),
        ("es-ES", "es"),
        ("spa", "es"),
        ("eus", "eu"),
        ("ca@valencia", "ca-valencia"),
        ("ca_ES.UTF-8@valencia", "ca-valencia"),
        ("ca-ES-valencia", "ca-valencia"),
        ("GL", "gl"),
        ("pt-BR", "pt"),
        ("Spanish", None),
        ("", None),
        (None, None),
        (3, None),
        ("&language;", None),
        ("x" * 100, None),
    ],
)
def test_language_claims_are_read_in_many_spellings(claim: object, tag: str | None) -> None:
    assert language_claim(claim) == tag


def test_stage_writes_documents_counts_and_quarantine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"id": "1", "text": "primer text", "language": "ca"}, {"id": "1", "text": "segon text"}, {"text": ""}))
    (tmp_path / "b.html").write_text("<html lang='fr'><body><p>unha páxina</p></body></html>", encoding="utf-8")
    (tmp_path / "c.txt").write_bytes(b"")
    files = [raw(tmp_path / "a.jsonl", "jsonl", language="es"), raw(tmp_path / "b.html", "html", language="gl"), raw(tmp_path / "c.txt", "text")]
    manifest = run(ExtractConfig(shard_bytes=1, workers=1), [fetched(tmp_path / "fetch", files)], tmp_path / "out")
    tables = [pq.read_table(path) for path in manifest.paths("documents/", ".parquet")]
    assert len(tables) == 3
    table = pa.concat_tables(tables)
    assert table.schema.equals(SCHEMA)
    assert table["text"].to_pylist() == ["primer text", "segon text", "unha páxina"]
    assert table["language"].to_pylist() == ["ca", "es", "gl"]
    assert table["source"].to_pylist() == ["town/a.jsonl#1", "town/a.jsonl#1", "town/b.html#0"]
    assert len(set(table["id"].to_pylist())) == 3
    assert all(len(name) == 16 for name in table["id"].to_pylist())
    assert manifest.counts.kept == {"ca": 1, "es": 1, "gl": 1}
    assert manifest.counts.dropped == {"es": {"quarantine_no_text": 1}, "und": {"quarantine_empty_file": 1}}
    lines = [json.loads(line) for path in manifest.paths("quarantine-") for line in path.read_text().splitlines()]
    assert [(line["source"], line["record"], line["reason"]) for line in lines] == [("town/a.jsonl", 2, "no_text"), ("town/c.txt", None, "empty_file")]
    assert manifest.cards == {"town": "CC0-1.0"}


def test_shards_and_processes_do_not_change_the_documents(tmp_path: Path) -> None:
    files = []
    for number in range(6):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(jsonl(*({"text": f"text {number} {row}"} for row in range(5))))
        files.append(raw(path, "jsonl"))
    manifest = fetched(tmp_path / "fetch", files)
    rows = []
    for name, config in (("one", ExtractConfig(workers=1)), ("many", ExtractConfig(shard_bytes=1, workers=2))):
        done = run(config, [manifest], tmp_path / name)
        rows.append(pa.concat_tables([pq.read_table(path) for path in done.paths("documents/")]).to_pylist())
    assert rows[0] == rows[1]


def test_stage_keeps_what_archives_say_and_counts_skips_apart(tmp_path: Path) -> None:
    licence = "https://creativecommons.org/licenses/by-sa/4.0/"
    body = page("El text de la pa\u0300gina.").replace(b"<title>", f"<link rel='license' href='{licence}'><meta name='robots' content='noai'><title>".encode())
    (tmp_path / "a.warc").write_bytes(record(http(body)) + record(http(b"x", status="404 Not Found"), 1) + record(http(page("Una altra.")), 2) + b"rubbish")
    files = [raw(tmp_path / "a.warc", "warc")]
    manifest = run(ExtractConfig(workers=1), [fetched(tmp_path / "fetch", files)], tmp_path / "out")
    first, second = pq.read_table(*manifest.paths("documents/")).to_pylist()
    assert (first["text"], first["licence"], first["licence_evidence"], first["reserved"]) == (
        "El text de la pàgina.",
        "CC-BY-SA-4.0",
        licence,
        ["robots_meta:noai"],
    )
    assert (second["licence"], second["licence_evidence"], second["reserved"], second["http_status"]) == ("CC0-1.0", None, [], 200)
    assert (second["url"], second["content_type"]) == ("https://exemple.cat/2", "text/html; charset=utf-8")
    assert manifest.counts.kept == {"ca": 2}
    assert manifest.counts.dropped == {"und": {"skipped_http_status": 1, "quarantine_bad_record": 1}}
    assert manifest.metrics["normalised"] == {"unicode": 1}
    assert [output.rows for output in manifest.outputs] == [2, 1]
    assert len(manifest.paths("quarantine-")[0].read_text().splitlines()) == 1


def test_identifiers_are_those_of_the_hash_that_is_documented(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"id": "1", "text": "text"}, {"id": "1", "text": "text"}))
    file = raw(tmp_path / "a.jsonl", "jsonl")
    expected = [hashlib.blake2b(f"town\0town/a.jsonl\0{position}\0text\0".encode(), digest_size=8).hexdigest() for position in (0, 1)]
    assert [document_id(file, item) for item in read(file, SMALL) if isinstance(item, Text)] == expected
    manifest = run(SMALL, [fetched(tmp_path / "fetch", [file])], tmp_path / "out")
    assert pq.read_table(*manifest.paths("documents/"))["id"].to_pylist() == expected


def test_nothing_extracted_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"not one document came out of 1 file:\n +1  quarantine_empty_file"):
        run(SMALL, [fetched(tmp_path / "fetch", [raw(tmp_path / "a.txt", "text")])], tmp_path / "out")
