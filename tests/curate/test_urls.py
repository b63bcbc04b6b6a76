"""Canonical addresses, their hashes, and the hosts that robots files are looked up by."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iberlm.curate.urls import MAX_URL_CHARACTERS, canonical_host, canonical_url, hosts_of, url_hashes

PARTS = st.text(st.sampled_from("aZ0-._~%/?&=#:@ ñ·\\+;!$'()*,[]|\"<>{}^`é漢€\t\u00a0"), max_size=24)
ADDRESSES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "", "//"]),
    st.sampled_from(["example.com", "EXAMPLE.com:80", "user:pw@a.es:8080", "paral·lel.cat", "[::1]", "a..b", "xn--a.cat", "ñandú.es.", "a_b.eus:443", ""]),
    PARTS,
)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("http://Example.COM", "https://example.com/"),
        ("https://example.com:443/a/../b/./c/", "https://example.com/b/c"),
        ("http://user:secret@example.com:80/", "https://example.com/"),
        ("https://example.com:8080/a#part", "https://example.com:8080/a"),
        ("https://example.com/%7ea/%e3%81x y", "https://example.com/~a/%E3%81x%20y"),
        ("https://example.com/camión?q=ñ", "https://example.com/cami%C3%B3n?q=%C3%B1"),
        ("https://example.com/?utm_source=a&id=3&fbclid=b&UTM_medium=c", "https://example.com/?id=3"),
        ("https://example.com/a?gclid=1", "https://example.com/a"),
        ("https://example.com/a?b=2&a=1", "https://example.com/a?b=2&a=1"),  # the order may matter to the server
        ("https://paral·lel.cat/a", "https://xn--parallel-koa.cat/a"),
        ("  https://example.com./a\n", "https://example.com/a"),
        ("https://example.com\\a\\b", "https://example.com/a/b"),
        ("http://[::1]:8080/x", "https://[::1]:8080/x"),
        ("https://example.com/100%", "https://example.com/100%25"),
    ],
)
def test_addresses_of_one_page_have_one_spelling(url: str, canonical: str) -> None:
    assert canonical_url(url) == canonical


@pytest.mark.parametrize(
    "url",
    [None, "", "example.com/a", "ftp://example.com/", "mailto:a@b.es", "http://", "http:///a", "http://a..b/", "http://a b/", "http://[x/", "http://a:99999/"],
)
def test_what_is_no_address_of_a_page_has_no_spelling(url: str | None) -> None:
    assert canonical_url(url) is None


def test_an_address_that_is_too_long_has_no_spelling() -> None:
    assert canonical_url("https://example.com/" + "a" * MAX_URL_CHARACTERS) is None
    assert canonical_url("https://example.com/" + "ñ" * (MAX_URL_CHARACTERS // 2)) is None  # too long once it is encoded


@settings(deadline=None)
@given(ADDRESSES)
@example("http://a//./")
@example("http://a/..//b")
@example("http://a/%%32%35")
@example("http://a/?utm%5Fsource=x")
def test_the_spelling_of_a_spelling_is_itself(url: str) -> None:
    canonical = canonical_url(url)
    if canonical is not None:
        assert canonical.isascii()
        assert canonical_url(canonical) == canonical


@settings(deadline=None)
@given(st.lists(ADDRESSES | st.none(), max_size=8))
def test_hashes_are_equal_just_where_spellings_are(urls: list[str | None]) -> None:
    hashes, known = url_hashes(urls)
    assert (hashes.dtype, known.dtype, hashes.shape, known.shape) == (np.uint64, np.bool_, (len(urls),), (len(urls),))
    canonical = [canonical_url(url) for url in urls]
    assert known.tolist() == [url is not None for url in canonical]
    for i in range(len(urls)):
        for j in range(len(urls)):
            if known[i] and known[j]:
                assert (hashes[i] == hashes[j]) == (canonical[i] == canonical[j])


@settings(deadline=None)
@given(ADDRESSES)
@example("http://example.com: ")
@example("\u00a0http://example.com\u00a0")
def test_the_host_of_an_address_is_that_of_its_spelling(url: str) -> None:
    canonical = canonical_url(url.replace("\t", ""))
    host = hosts_of(pa.array([url.replace("\t", "")], pa.string()))[0].as_py()
    if canonical is not None:
        assert host == canonical.removeprefix("https://").partition("/")[0]


def test_hosts_of_a_column_keep_its_order_and_its_nulls() -> None:
    urls = pa.chunked_array([["https://B.es/x", None], ["http://a.es:8080", "nothing"]], pa.string())
    assert hosts_of(urls).to_pylist() == ["b.es", None, "a.es:8080", None]
    assert hosts_of(pa.chunked_array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize(
    ("host", "canonical"), [("ÑANDÚ.ES.", "xn--and-6ma2c.es"), ("a_b.cat", "a_b.cat"), ("-", "-"), ("a b", None), ("", None), ("[::1]", "[::1]")]
)
def test_hosts_are_in_lower_case_and_ascii(host: str, canonical: str | None) -> None:
    assert canonical_host(host) == canonical
