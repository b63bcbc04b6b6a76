"""Wikipedia dumps: clean text of articles, counted skips, and markup that would keep the parser busy for ever."""

import bz2
import gzip
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import zstandard

from iberlm.extract.config import ExtractConfig
from iberlm.extract.records import Reject, Skip, Text
from iberlm.extract.wikitext import MarkupError, plain_text
from iberlm.sources.formats import format_of

from .reading import items, reasons, texts

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="0.11" xml:lang="ca">
  <siteinfo>
    <sitename>Viquipèdia</sitename><dbname>cawiki</dbname><base>https://ca.wikipedia.org/wiki/Portada</base>
    <namespaces><namespace key="-2" case="first-letter">Multimèdia</namespace><namespace key="0" case="first-letter" />
    <namespace key="6" case="first-letter">Fitxer</namespace><namespace key="14" case="first-letter">Categoria</namespace></namespaces>
  </siteinfo>
"""


def article(title: str, text: str, *, ns: int = 0, number: int = 7, extra: str = "", model: str = "wikitext") -> str:
    return f"""  <page>
    <title>{escape(title)}</title><ns>{ns}</ns><id>{number}</id>{extra}
    <revision><id>99</id><timestamp>2024-05-01T10:00:00Z</timestamp><contributor><username>Ada</username><id>3</id></contributor>
      <model>{model}</model><format>text/x-wiki</format><text bytes="1" xml:space="preserve">{escape(text)}</text></revision>
  </page>
"""


def dump(*pages: str) -> bytes:
    return (HEAD + "".join(pages) + "</mediawiki>\n").encode()


MARKUP = """{{Infotaula|nom=Vila|imatge=[[Fitxer:a.jpg|x]]}}
'''Vila''' ({{lang|es|Villa}}; {{nom}}) és un '''''municipi''''' de la [[comarca|Safor]] i del [[País Valencià]].<ref name="a">{{ref-web}}</ref><!-- nota -->
[[Fitxer:Vila.jpg|thumb|Vista de la [[plaça]] de {{x}}]]
{| class="wikitable"
! Any !! Habitants
|-
| 2020 || {{xifra|1.000}}
|}
Té 1.000&nbsp;habitants&nbsp;&ndash; segons el [https://www.ine.es cens].<ref>x</ref> __NOTOC__

== Història ==
El poble:
* va nàixer el <small>segle</small> [[segle XIII|XIII]];
* va créixer<br />després.
: Una nota.

=== Antiga ===
{{AP|Història}}
== Referències ==
{{Referències}}
== Vegeu també ==
=== Buida ===
[[Categoria:Municipis]]
[[en:Vila]]
[[:Categoria:Pobles|els pobles]] <nowiki>[[cru]]</nowiki> <math>x^2</math>
"""

CLEAN = """Vila és un municipi de la Safor i del País Valencià.

Té 1.000\u00a0habitants\u00a0– segons el cens.

Història

El poble:
va nàixer el segle XIII;
va créixer
després.
Una nota.

Vegeu també

Buida

els pobles [[cru]]"""


def test_markup_becomes_running_text() -> None:
    assert plain_text(MARKUP, frozenset({"fitxer", "categoria"})) == CLEAN


@pytest.mark.parametrize("ending", ["", ".bz2", ".gz", ".zst"])
def test_articles_with_url_date_language_and_identifier(tmp_path: Path, ending: str) -> None:
    pack = {"": bytes, ".bz2": bz2.compress, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    content = dump(article("Sant Joan de l'Énova & Cia", "El text d'un article."), article("Altre", "Un altre text.", number=8))
    path = tmp_path / f"cawiki-20240501-pages-articles.xml{ending}"
    found = items(path, "wiki", pack(content))
    assert found[0] == Text(
        text="El text d'un article.",
        record="7",
        position=1,
        language="ca",
        url="https://ca.wikipedia.org/wiki/Sant_Joan_de_l'%C3%89nova_%26_Cia",
        date="2024-05-01T10:00:00Z",
    )
    assert texts(found) == ["El text d'un article.", "Un altre text."]
    assert format_of(path) == "wiki"


def test_multistream_dump_is_one_stream(tmp_path: Path) -> None:
    parts = [HEAD.encode(), article("A", "Primer text.").encode(), article("B", "Segon text.").encode(), b"</mediawiki>"]
    assert texts(items(tmp_path / "a.xml.bz2", "wiki", b"".join(map(bz2.compress, parts)))) == ["Primer text.", "Segon text."]


def test_what_is_no_article_is_passed_over_and_counted(tmp_path: Path) -> None:
    content = dump(
        article("Vell", "#REDIRECCIÓ [[Nou]]", extra='<redirect title="Nou" />'),
        article("Discussió:X", "Parlem-ne.", ns=1),
        article("Mòdul", "return {}", model="Scribunto"),
        article("Vila (desambiguació)", "* [[Vila]]"),
        article("Roma", "* [[Roma]]\n{{Desambiguació}}"),
        article("Nom", "{{ homónimos | x }}"),
        article("Buit", "{{Infotaula}}"),
        article("Bo", "Un text bo."),
    )
    found = items(tmp_path / "a.xml", "wiki", content)
    assert [item.reason for item in found if isinstance(item, Skip)] == ["redirect", "namespace", "content_model", *["disambiguation"] * 3]
    assert [item.reason for item in found if isinstance(item, Reject)] == ["no_text"]
    assert texts(found) == ["Un text bo."]
    assert {item.language for item in found} == {"ca"}


def test_damaged_page_costs_itself_alone(tmp_path: Path) -> None:
    content = dump(article("A", "Primer text."), article("B", "Segon text.").replace("</title>", "<"), article("C", "Tercer text."))
    found = items(tmp_path / "a.xml", "wiki", content)
    assert texts(found) == ["Primer text.", "Tercer text."]
    assert reasons(found) == ["not_xml"]


def test_long_page_is_not_held(tmp_path: Path) -> None:
    small = ExtractConfig(max_wikitext_bytes=20_000, workers=1)
    content = dump(
        article("A", "Primer text."), article("B", "llarg " * 50_000), article("C", "mitjà " * 2_000), article("D", "un " * 10_000), article("E", "Últim.")
    )
    found = items(tmp_path / "a.xml", "wiki", content, small)
    assert [item.record for item in found if isinstance(item, Text)] == ["7", "7", "7"]
    assert reasons(found) == ["page_too_large", "page_too_large"]


def test_truncated_dump_keeps_what_came_before(tmp_path: Path) -> None:
    content = dump(*(article(str(number), f"Text número {number}.") for number in range(50)))
    found = items(tmp_path / "a.xml", "wiki", content[:-200])
    assert texts(found) == [f"Text número {number}." for number in range(49)]
    assert reasons(found) == ["truncated_xml"]
    found = items(tmp_path / "a.xml.bz2", "wiki", b"".join(bz2.compress(content[at : at + 2000]) for at in range(0, len(content), 2000))[:-50])
    assert reasons(found) == ["truncated_bzip2"]
    assert len(texts(found)) > 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"prose", "not_wiki"),
        (b"<mediawiki></mediawiki>", "not_wiki"),
        (b"x" * (2 << 20), "not_wiki"),
        (b"<book><para>x</para></book>", "not_wiki"),
    ],
)
def test_file_that_is_no_dump_is_one_reject(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reasons(items(tmp_path / "a.xml", "wiki", content)) == [reason]


def test_entities_neither_grow_nor_read_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    declared = f'<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa"><!ENTITY f SYSTEM "{secret.as_uri()}">]>'
    content = declared.encode() + dump(article("A", "Primer text.").replace("Primer", "&a; &f;"), article("B", "Segon text."))
    found = items(tmp_path / "a.xml", "wiki", content)
    assert texts(found) == ["Segon text."]
    assert reasons(found) == ["not_xml"]


N = 30_000
HOSTILE = {
    "braces": "{{a|" * N,
    "links": "[[a|" * N,
    "tags": "<b>" * N,
    "references": "<ref>" * N,
    "tables": "{|\n" * N,
    "attributes": '<b a="' * N,
    "comments": "<!--" * N,
    "mixed": "{{a|[[b|<ref>" * N,
    "closed first": "}}" * N + "{{a|" * N,
    "quotes in tags": "<i>''" * N,
    "italics": "'''a''b" * 10 * N,
    "definitions": ";:" * 10 * N,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_markup_that_the_parser_cannot_end_is_refused(name: str) -> None:
    with pytest.raises(MarkupError) as error:
        plain_text(HOSTILE[name])
    assert error.value.reason == "unbalanced_markup"


ODD = ["{{" * 1000 + "}}" * 1000, "{{{" * 500 + "}}}" * 500, "[[" * 300, "{{a|" * 300, "<b>" * 300 + "x", "''" * 999, "{|" * 100, "\0", "]]}}|}"]


@pytest.mark.parametrize("source", ODD)
def test_odd_markup_ends_in_a_text_or_a_reject(tmp_path: Path, source: str) -> None:
    found = items(tmp_path / "a.xml", "wiki", dump(article("A", source), article("B", "Un text.")))
    assert len(found) == 2
    assert set(reasons(found)) <= {"bad_wikitext", "unbalanced_markup", "no_text", "not_xml"}
    assert texts(found)[-1] == "Un text."
