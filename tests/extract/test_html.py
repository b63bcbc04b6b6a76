"""HTML pages: character sets, both engines, and pages that would keep a parser busy for ever."""

from pathlib import Path

import pytest

from iberlm.core.errors import ConfigError
from iberlm.core.manifest import Manifest
from iberlm.extract import extract
from iberlm.extract.charset import decode
from iberlm.extract.config import ExtractConfig
from iberlm.extract.html import read_page, tame

from .archives import http, record
from .reading import items, reasons, texts

WORDS = "La plaça del mercat obre a les vuit del matí i tanca a la una; hi ha peix fresc, «fruita» i verdures."


def html(text: str, meta: str = "") -> str:
    return f"<!DOCTYPE html><html lang='ca'><head>{meta}</head><body><main><p>{text}</p></main></body></html>"


@pytest.mark.parametrize(
    ("encoding", "field", "meta"),
    [
        ("utf-8", "", ""),
        ("utf-8", "charset=iso-8859-1", ""),  # wrongly declared, as many pages are
        ("utf-8-sig", "charset=windows-1251", ""),
        ("latin-1", "charset=ISO-8859-1", ""),
        ("latin-1", "", "<meta charset=iso-8859-1>"),
        ("latin-1", "", "<meta http-equiv='Content-Type' content='text/html; charset=windows-1252'>"),
        ("latin-1", "charset=utf-8", ""),  # declared as what it is not
        ("latin-1", "charset=nonsense", ""),
        ("latin-1", "", ""),
        ("iso-8859-15", "charset=ISO-8859-15", ""),
        ("mac-roman", "charset=macintosh", ""),
        ("utf-16", "", ""),
        ("utf-16-le", "", ""),
        ("utf-16-be", "charset=utf-16", ""),
    ],
)
def test_character_sets_declared_and_found(tmp_path: Path, encoding: str, field: str, meta: str) -> None:
    body = html(WORDS, meta).encode(encoding)
    declared = f"Content-Type: text/html{f'; {field}' if field else ''}"
    assert texts(items(tmp_path / "a.warc", "warc", record(http(body, declared)))) == [WORDS]


def test_a_few_wrong_bytes_do_not_turn_a_page_into_mojibake() -> None:
    body = html(f"{WORDS} ").encode() + b"<!-- caf\xe9 -->"
    assert WORDS in decode(body, "iso-8859-1")


def test_page_cut_in_the_middle_of_a_character_is_still_utf8() -> None:
    assert decode("això és".encode()[:-1], "latin-1") == "això é"


@pytest.mark.parametrize("engine", ["resiliparse", "trafilatura"])
def test_main_content_by_either_engine(tmp_path: Path, engine: str) -> None:
    navigation = "<nav><ul><li><a href='/'>Inici</a></li><li><a href='/b'>Botigues</a></li></ul></nav>"
    page = html(f"{WORDS}</p><p>{WORDS.replace('matí', 'vespre')}").replace("<main>", f"{navigation}<main>")
    (text,) = texts(items(tmp_path / "a.html", "html", page.encode(), ExtractConfig(html_engine=engine, workers=1)))
    assert WORDS in text
    assert "Botigues" not in text


def test_engine_that_is_not_installed_is_named_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(ConfigError, match=r"html_engine: 'trafilatura' is not installed; .*iberlm\[trafilatura\]"):
        extract.run(ExtractConfig(html_engine="trafilatura"), list[Manifest](), tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown value 'lynx'; choose among resiliparse, trafilatura"):
        ExtractConfig(html_engine="lynx")


N = 40_000
WILD = {
    "deep": "<div>" * N + WORDS,
    "deep and closed": "<div>" * N + WORDS + "</div>" * N,
    "deep behind comments": "<div><!--</div>-->" * N + WORDS,
    "deep lists": "<ul><li>" * N + WORDS,
    "deep tables": "<table><tr><td>" * N + WORDS,
    "open formatting": "".join(f"<p><font size={number}>" for number in range(N)) + WORDS,
    "attributes": "<p " + " ".join(f"a{number}=1" for number in range(N)) + f">{WORDS}</p>",
    "options": "<select>" + "<option>x" * N + f"</select><p>{WORDS}</p>",
    "spaces": f"<p>{WORDS}</p><p>" + "&nbsp;" * N + "x</p>",
    "line ends": f"<pre>{WORDS}" + " \n" * N + "x</pre>",
    "flat": f"<p>{WORDS}</p>" * 2000,
    "one long word": f"<p>{WORDS}</p><p>" + "a" * (1 << 20) + "</p>",
    "one long line": f"<p>{WORDS}</p><p>" + "a b " * (1 << 18) + "</p>",
    "nul": f"<p>{WORDS[:20]}\0{WORDS[20:]}</p>\0",
    "open comment": f"<p>{WORDS}</p>" + "<!-- " * N,
    "open tag": f"<p>{WORDS}</p>" + "<p " * N,
    "open quote": f"<p>{WORDS}</p><p title='" + "<b>" * N,
    "script": f"<p>{WORDS}</p><script>" + "if(a<b){x='" + "y" * 20_000 + "'}</script>" + f"<p>{WORDS}</p>",
    "entities": f"<p>{WORDS}</p>" + "&amp;" * N + "&#xD800;&#0;&#x110000;",
}


@pytest.mark.parametrize("name", WILD)
def test_wild_pages_end_and_keep_their_text(tmp_path: Path, name: str) -> None:
    found = items(tmp_path / "a.html", "html", f"<!doctype html><html><body><main>{WILD[name]}</main></body></html>".encode())
    assert reasons(found) == []
    assert WORDS in texts(found)[0]


def test_ordinary_pages_are_left_as_they_are() -> None:
    page = html(f"<b>{WORDS}</b><a href='x'>" * 50 + "<i class='icon'></i>" * 50)
    assert tame(page, page.count("<")) == page


@pytest.mark.parametrize(("attribute", "language"), [("lang='gl-ES'", "gl"), ("xml:lang='eu'", "eu"), ("lang=''", None), ("", None), ("lang='&x;'", None)])
def test_language_of_the_page_is_its_claim(attribute: str, language: str | None) -> None:
    assert read_page(f"<html {attribute}><p>x</p></html>".encode(), "resiliparse").language == language
