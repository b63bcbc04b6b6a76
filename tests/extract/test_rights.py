"""Licences and reservations as pages state them, and what does not count as such."""

import json

import pytest
from resiliparse.parse.html import HTMLTree

from iberlm.extract.rights import header_reservations, page_rights, spdx_of_link

BY = "https://creativecommons.org/licenses/by/4.0/"
SA = "https://creativecommons.org/licenses/by-sa/4.0/deed.ca"


def rights(head: str = "", body: str = "", *fields: tuple[str, str]) -> tuple[str | None, str | None, list[str]]:
    source = f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"
    found = page_rights(HTMLTree.parse(source), source.lower().encode(), fields)
    return found.licence, found.evidence, found.reserved


@pytest.mark.parametrize(
    ("link", "expression"),
    [
        (BY, "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-sa/3.0", "CC-BY-SA-3.0"),
        ("//www.creativecommons.org/licenses/by-nc-nd/2.5/deed.es", "CC-BY-NC-ND-2.5"),
        ("HTTPS://CreativeCommons.org/Licenses/BY/4.0/legalcode.es", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/es/", "LicenseRef-CC-BY-SA-3.0-ES"),
        ("https://creativecommons.org/licenses/by/3.0/de/deed.de", "CC-BY-3.0-DE"),
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/igo/", "CC-BY-NC-SA-3.0-IGO"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed.ca", "CC-PDM-1.0"),
        ("https://creativecommons.org/licenses/by-sa/", None),
        ("https://creativecommons.org/licenses/sampling/1.0/", None),
        ("https://creativecommons.org/about", None),
        ("https://creativecommons.org.example.com/licenses/by/4.0/", None),
        ("https://example.com/?u=https://creativecommons.org/licenses/by/4.0/", None),
        ("javascript://creativecommons.org/licenses/by/4.0/", None),
        ("https://[bad/licenses/by/4.0/", None),
        ("", None),
    ],
)
def test_links_to_spdx(link: str, expression: str | None) -> None:
    assert spdx_of_link(link) == expression


def test_every_expression_is_spdx() -> None:
    from iberlm.cards.licences import problem_of
    from iberlm.extract.rights import _CC_KINDS, _SPDX_PORTS  # the tables themselves are under test

    links = [f"https://creativecommons.org/licenses/{kind}/{version}/" for kind in _CC_KINDS for version in ("1.0", "2.0", "2.5", "3.0", "4.0")]
    assert [expression for link in links if problem_of(expression := spdx_of_link(link) or "")] == []
    assert [port for port in _SPDX_PORTS if problem_of(f"CC-{port}")] == []


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f"<link rel='license' href='{BY}'>", ""),
        (f"<LINK REL='License nofollow' HREF='{BY}'>", ""),
        ("", f"<footer><p>Text under <a rel='license noopener' href='{BY}'>CC BY</a></p></footer>"),
        (f"<meta name='DC.rights' content='{BY}'>", ""),
        (f"<meta name='dcterms.license' content='Licence: {BY}, all pages'>", ""),
        ("<script type='application/ld+json'>" + json.dumps({"@type": "NewsArticle", "license": BY}) + "</script>", ""),
        ("<script type='application/ld+json'>" + json.dumps({"@graph": [{"@type": ["WebPage", "FAQPage"], "license": {"@id": BY}}]}) + "</script>", ""),
        ("", "<script type='application/ld+json; charset=utf-8'>" + json.dumps([{"@type": "http://schema.org/Article", "license": [BY]}]) + "</script>"),
        (f"<link rel=license href='{BY}'>", f"<a rel=license href='{BY.replace('https', 'http')}'>the same twice</a>"),
    ],
)
def test_licence_that_is_said_of_the_page(head: str, body: str) -> None:
    assert rights(head, body)[:2] == ("CC-BY-4.0", BY)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("", f"<p>Photo: <a href='{BY}'>CC BY 4.0</a></p>"),
        ("", f"<figure><img src=x><figcaption>Ada, <a rel='license' href='{BY}'>CC BY</a></figcaption></figure>"),
        ("", f"<blockquote>quoted <a rel='license' href='{BY}'>CC BY</a></blockquote>"),
        ("", f"<div about='photo.jpg'><a rel='license' href='{BY}'>CC BY</a></div>"),
        ("", f"<div itemscope itemtype='https://schema.org/ImageObject'><a rel='license' href='{BY}'>CC BY</a></div>"),
        ("", f"<a rel='license' href='{BY}'>one</a> <a rel='license' href='{SA}'>another</a>"),
        (f"<link rel='license' href='{BY}'>", f"<a rel='license' href='{SA}'>another</a>"),
        ("", f"<a rel='nolicense' href='{BY}'>x</a><a rel='license'>x</a>"),
        ("<script type='application/ld+json'>" + json.dumps({"@type": "ImageObject", "license": BY}) + "</script>", ""),
        ("<script type='application/ld+json'>" + json.dumps({"@type": "Article", "image": {"@type": "ImageObject", "license": BY}}) + "</script>", ""),
        (f"<script type='application/ld+json'>{{'@type': 'Article', 'license': '{BY}'</script>", ""),
        ("<script type='application/ld+json'>" + '{"a":' * 100_000 + f'"{BY}"' + "</script>", ""),
        (f"<script>var x = '{BY}'</script>", ""),
        (f"<!-- <link rel='license' href='{BY}'> -->", ""),
        (f"<meta name='description' content='{BY}'>", ""),
        ("<link rel='license' href='https://example.org/licence'>", "creativecommons.org"),
    ],
)
def test_link_that_is_for_something_else_licenses_nothing(head: str, body: str) -> None:
    assert rights(head, body)[:2] == (None, None)


@pytest.mark.parametrize(
    ("head", "signals"),
    [
        ("<meta name='robots' content='noai, noimageai'>", ["robots_meta:noai", "robots_meta:noimageai"]),
        ("<META NAME='ROBOTS' CONTENT='index,NOAI'>", ["robots_meta:noai"]),
        ("<meta name=robots content='noai;noai  noai'>", ["robots_meta:noai"]),
        ("<meta name='googlebot' content='noai'><meta name='GPTBot' content='noindex'>", ["robots_meta:googlebot:noai", "robots_meta:gptbot:noindex"]),
        ("<meta name='CCBot' content='none'>", ["robots_meta:ccbot:none"]),
        ("<meta name='robots' content='noindex, none, nosnippet, noarchive, nofollow'>", []),
        ("<meta name='googlebot' content='noindex'>", []),
        ("<meta name='robots' content='max-image-preview:large, noaix'>", []),
        ("<meta name='robots'><meta content='noai'><meta name='robots' content=''>", []),
        (
            "<meta name='tdm-reservation' content='1'><meta name='tdm-policy' content='https://x.cat/p.json'>",
            ["tdm_reservation:1", "tdm_policy:https://x.cat/p.json"],
        ),
        ("<meta http-equiv='TDM-Reservation' content=' 1 '>", ["tdm_reservation:1"]),
        ("<meta name='tdm-reservation' content='0'><meta name='tdm-policy' content='https://x.cat/p.json'>", []),
        ("<meta name='description' content='robots noai tdm-reservation 1'>", []),
    ],
)
def test_reservations_in_meta_elements(head: str, signals: list[str]) -> None:
    assert rights(head)[2] == signals


def test_reservation_in_the_body_counts_too() -> None:
    assert rights("", "<p>x</p><meta name='robots' content='noai'>")[2] == ["robots_meta:noai"]


@pytest.mark.parametrize(
    ("fields", "signals"),
    [
        ([("x-robots-tag", "noai, noimageai")], ["x_robots_tag:noai", "x_robots_tag:noimageai"]),
        ([("x-robots-tag", "noindex"), ("x-robots-tag", "NoAI")], ["x_robots_tag:noai"]),
        ([("x-robots-tag", "googlebot: noindex, nofollow")], []),
        ([("x-robots-tag", "GPTBot: noindex, otherbot: none, ccbot: none")], ["x_robots_tag:gptbot:noindex", "x_robots_tag:ccbot:none"]),
        ([("x-robots-tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai")], ["x_robots_tag:noai"]),
        ([("x-robots-tag", "otherbot: noai")], ["x_robots_tag:otherbot:noai"]),
        ([("tdm-reservation", "1"), ("tdm-policy", "https://x.cat/p")], ["tdm_reservation:1", "tdm_policy:https://x.cat/p"]),
        ([("tdm-reservation", "0"), ("tdm-policy", "https://x.cat/p")], []),
        ([("content-usage", "train-ai=n")], ["content_usage:train-ai=n"]),
        ([("content-usage", "search=y, train-ai = n")], ["content_usage:train-ai=n"]),
        ([("content-usage", "train-ai=y")], []),
        ([("x-robots-tag", ":,:,,noai:")], []),
        ([], []),
    ],
)
def test_reservations_in_header_fields(fields: list[tuple[str, str]], signals: list[str]) -> None:
    assert header_reservations(fields) == signals


def test_header_and_page_together() -> None:
    found = rights("<meta name='tdm-reservation' content='1'><meta name='robots' content='noai'>", "", ("tdm-reservation", "1"))
    assert found[2] == ["tdm_reservation:1", "robots_meta:noai"]
