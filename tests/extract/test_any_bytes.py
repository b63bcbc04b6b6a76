"""Any bytes through every reader: nothing raised, nothing endless, every item a clean text or a counted reason, neighbours kept."""

import bz2
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iberlm.core.documents import SCHEMA
from iberlm.extract.config import ExtractConfig
from iberlm.extract.extract import Shard, extract_shard
from iberlm.extract.records import Text

from .archives import PACK, http, page, record
from .reading import items, raw
from .test_extract import CATALOGUE, MALLARD, jsonl, mo
from .test_wiki import MARKUP, article, dump

SMALL = ExtractConfig(max_line_bytes=4096, max_file_bytes=1 << 20, max_document_bytes=2048, max_page_bytes=1 << 16, max_wikitext_bytes=1 << 14, workers=1)


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["uno", "dos"], "id": ["a", "b"], "licence": ["CC0-1.0", "x"]}), stream)
    return stream.getvalue()


RECORDS = [
    record(b"software: x\r\n", kind="warcinfo"),
    record(http(page("Una <b>pàgina</b> amb <a rel='license' href='https://creativecommons.org/licenses/by/4.0/'>llicència</a>.")), 1),
    record(http(gzip.compress(page("Una altra pàgina.")), "Content-Encoding: gzip", "X-Robots-Tag: noai"), 2),
    record(http(b"Text pla.", "Content-Type: text/plain"), 3),
    record(b"Un text de WET.", 4, "WARC-Identified-Content-Language: cat", kind="conversion"),
]
WIKI = dump(article("A", MARKUP), article("B", "Un text."))
SEEDS = {
    ("a.jsonl", "jsonl"): jsonl({"text": "hola", "language": "es"}, {"text": "adiós", "licence": "CC0-1.0"}),
    ("a.jsonl.gz", "jsonl"): gzip.compress(jsonl({"text": "hola"}), mtime=0),
    ("a.jsonl.zst", "jsonl"): zstandard.ZstdCompressor().compress(jsonl({"text": "hola"})),
    ("a.jsonl.bz2", "jsonl"): bz2.compress(jsonl({"text": "hola"})),
    ("a.parquet", "parquet"): parquet(),
    ("a.txt", "text"): "canción\u00a0 col.legi Ã©s".encode(),
    ("a.html", "html"): b"<!DOCTYPE html><html lang='es'><head><meta charset='utf-8'></head><body><main><p>hola</p></main></body></html>",
    ("a.docbook", "docbook"): MALLARD.encode(),
    ("a.mo", "gettext"): mo(CATALOGUE),
    ("a.po", "gettext"): b'msgid ""\nmsgstr "charset=UTF-8"\n\nmsgid "a"\nmsgstr "one two three four"\n',
    ("man1/a.1", "man"): b".TH HORA 1 2024 Plaza\n.SH USO\nDice la hora de la \\fIplaza\\fP.\n",
    ("a.xml", "wiki"): WIKI,
    ("a.xml.bz2", "wiki"): bz2.compress(WIKI),
    **{(f"a.warc{ending}", "warc"): b"".join(map(pack, RECORDS)) for ending, pack in PACK.items()},
    ("a.warc.wet.gz", "wet"): gzip.compress(RECORDS[4], mtime=0),
}


def changed(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with pieces replaced, cut out, put in or doubled, and bits flipped."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 0, 1, 2, 8, 100, 10_000])))
        piece = draw(st.one_of(st.just(b""), st.binary(max_size=20), st.just(bytes(content[end : end + 50])), st.just(b"\0" * 8), st.just(b"\xff")))
        content[start:end] = piece
        if content and draw(st.booleans()):
            at = draw(st.integers(0, len(content) - 1))
            content[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@pytest.mark.parametrize(("name", "form"), SEEDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_end_in_texts_and_counted_reasons(tmp_path: Path, name: str, form: str, data: st.DataObject) -> None:
    seed = SEEDS[name, form]
    content = data.draw(st.one_of(st.composite(changed)(seed), st.binary(max_size=300)))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    found = items(path, form, content, SMALL)
    for item in found:
        if isinstance(item, Text):
            assert item.text.strip() == item.text != ""
            assert "\0" not in item.text
            item.text.encode("utf-8")
        else:
            assert item.reason.isidentifier()
    result = extract_shard(Shard(0, [raw(path, form)], SMALL), tmp_path / "out")
    kept, dropped = sum(result.counts.kept.values()), Counter[str]()
    for reasons in result.counts.dropped.values():
        dropped.update(reasons)
    table = pq.read_table(tmp_path / "out/documents/00000.parquet")
    table.validate(full=True)
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == kept == sum(isinstance(item, Text) for item in found)
    assert dropped.total() == len(found) - kept
    lines = (tmp_path / "out/quarantine-00000.jsonl").read_text().splitlines()
    assert Counter(f"quarantine_{json.loads(line)['reason']}" for line in lines) == {
        name: number for name, number in dropped.items() if name.startswith("quarantine_")
    }


NEIGHBOURS = ["Primera pàgina del diari.", "Segona pàgina del diari.", "Quarta pàgina del diari.", "Cinquena pàgina del diari."]


@pytest.mark.parametrize("ending", PACK)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_neighbours_of_a_damaged_record_stay(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    good = [PACK[ending](record(http(page(text)), number)) for number, text in enumerate(NEIGHBOURS)]
    damaged = data.draw(
        st.composite(changed)(
            PACK[ending](
                record(
                    http(
                        page("Tercera pàgina."),
                    ),
                    9,
                )
            )
        )
    )
    found = items(tmp_path / f"a.warc{ending}", "warc", b"".join([*good[:2], damaged, *good[2:]]), SMALL)
    texts = [item.text for item in found if isinstance(item, Text)]
    assert texts[:2] == NEIGHBOURS[:2]
    assert texts[-1:] == NEIGHBOURS[3:]  # the one right behind may be swallowed, where its head looks like the damaged one's rest


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_neighbours_of_a_damaged_line_and_article_stay(tmp_path: Path, data: st.DataObject) -> None:
    damaged = data.draw(st.composite(changed)(b'{"id": "2", "text": "segon"}'))
    found = items(tmp_path / "a.jsonl", "jsonl", jsonl({"text": "primer"}) + damaged + b"\n" + jsonl({"text": "tercer"}), SMALL)
    texts = [item.text for item in found if isinstance(item, Text)]
    assert (texts[0], texts[-1]) == ("primer", "tercer")
    parts = [article("A", "Primer."), article("B", "Segon."), article("C", "Tercer."), article("D", "Quart.")]
    cut = dump(*parts).split(parts[1].encode())
    damaged = data.draw(st.composite(changed)(parts[1].encode()))
    found = items(tmp_path / "a.xml", "wiki", cut[0] + damaged + cut[1], SMALL)
    texts = [item.text for item in found if isinstance(item, Text)]
    assert texts[0] == "Primer."
    assert texts[-1] == "Quart."
