import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stdnum import iban as stdnum_iban

from iberlm.curate import pii
from iberlm.curate.pii.accounts import IBAN_LENGTHS
from iberlm.curate.pii.search import find_everywhere
from tests.curate.pii_cases import Case, cases


@lru_cache(maxsize=1)
def generated() -> list[Case]:
    return cases()


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Escriba a ana.perez@correo.gal.", "Escriba a <EMAIL>."),
        ("Escriu-nos: info@ajuntament.cat", "Escriu-nos: <EMAIL>"),
        ("https://x.eus/?correu=ane%40posta.eus&h=1", "https://x.eus/?correu=<EMAIL>&h=1"),
        ("DNI 12345678Z, en regla", "DNI <DNI>, en regla"),
        ("DNI:12345678Z", "DNI:<DNI>"),
        ("DNI12345678Z", "DNI<DNI>"),
        ("DNI 12.345.678-Z", "DNI <DNI>"),
        ("dni: 12345678 z", "dni: <DNI>"),
        ("ＤＮＩ：１２３４５６７８Ｚ", "ＤＮＩ：<DNI>"),
        ("el NIE X1234567L.", "el NIE <NIE>."),
        ("NIE: X-1234567-L", "NIE: <NIE>"),
        ("NAN zk.: 1234567L", "NAN zk.: <DNI>"),
        ("CIF B-58378431", "CIF <CIF>"),
        ("NUSS 28/12345678/40", "NUSS <NUSS>"),
        ("NUSS 28 0123456 70 eta 280123456770", "NUSS 28 0123456 70 eta 280123456770"),  # eleven digits are a firm's
        ("IBAN ES91 2100 0418 4502 0005 1332 a nombre de Ana", "IBAN <IBAN> a nombre de Ana"),
        ("compte ES9121000418450200051332", "compte <IBAN>"),
        ("IBAN ES91 2100 0418\n4502 0005 1332", "IBAN <IBAN>"),
        ("c. c. 2100 0418 45 0200051332", "c. c. <CCC>"),
        ("Visa 4111 1111 1111 1111", "Visa <CARD>"),
        ("Telefonoa: 612 34 56 78", "Telefonoa: <PHONE>"),
        ("tel. +34 612 34 56 78, de 9 a 14 h", "tel. <PHONE>, de 9 a 14 h"),
        ("Tel. 612345678, 698765432 / 932184453", "Tel. <PHONE>, <PHONE> / <PHONE>"),
        ("📞612345678", "📞<PHONE>"),
        ("D.N.I.\n1827226Z", "D.N.I.\n<DNI>"),
        ("ftp://servidor.eus\nane@posta.eus", "ftp://servidor.eus\n<EMAIL>"),
        ("desde 84.124.17.9 y 2a02:9140::1", "desde <IP> y <IP>"),
        ("git clone https://ane:h4r-t0z@git.empresa.eus/x", "git clone https://<CREDENTIALS>@git.empresa.eus/x"),
        ("Pasaportea: AAA 123456", "Pasaportea: <PASSPORT>"),
        ("CIP BBBBBBBBCD123456", "CIP <HEALTH_CARD>"),
        ("targeta sanitària PEMA 1 850512 01 2", "targeta sanitària <HEALTH_CARD>"),
        ("ibilgailua, matrikula 1234-BCD", "ibilgailua, matrikula <PLATE>"),
        ("RC 9872023 VH5797S 0001 WX", "RC <CADASTRE>"),
        ("Koordenatuak: 43.26271, -2.92528", "Koordenatuak: <GPS>"),
        ("41°23'14\"N 2°10'11\"E", "<GPS>"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text: str, redacted: str) -> None:
    assert pii.redact(text, pii.find(text)) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "DNI 12345678A",  # wrong check letter
        "X1234567A",
        "ES91 2100 0418 4502 0005 1333",  # wrong check digits
        "NUSS 28/12345678/41",
        "4111 1111 1111 1112",
        "versión 1.2.3.4.5 y 192.168.1.1, 127.0.0.1, 255.255.255.0",
        "versión 84.124.17.9",
        "192.0.2.1, 198.51.100.7, 203.0.113.9 y 2001:db8::1",
        "84.124.0.0/16",
        "el servidor\n4.2.1.3. Instalación",
        "el 112, el 016, el 012 y el 900 123 456",
        "+1 212 555 0142",
        "En 1936 1939 y 2024 2025",
        "a @ b, usuario@, @ejemplo, usuario@example.com, icon@2x.png, user@1000.service, git@github.com:x/y",
        "http://user:password@servidor.es/ y http://${USER}:${PASS}@servidor.es",
        "12:30:45 std::vector a::b",
        "12 345 A",
        "1048576K y 20240131T",
        "612345678",  # nine digits that nothing tells to be a telephone number
        "pedido 612 345 678",
        "8693 00 3695574828",  # a part of something longer, not +36 95574828
        "NIF P-2692285-C",  # the rest of a CIF whose check fails is not a DNI
        "612 345 678 bytes",
        "945.123.456 euros",
        "B12345674 es la referencia",
        "1234 BCD",
        "AAA123456",
        "41.38740, 2.16860",
        "550e8400-e29b-41d4-a716-446655440000",
        "978-84-376-0494-7",
        "",
        "\0",
    ],
)
def test_what_is_not_personal_data_is_left_alone(text: str) -> None:
    assert pii.find(text) == []


def test_precision_and_recall_on_the_generated_set() -> None:
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for case in generated():
        found, expected = {tuple(span) for span in pii.find(case.text)}, set(case.spans)
        right.update(kind for _, _, kind in found & expected)
        wrong.update(kind for _, _, kind in found - expected)
        missed.update(kind for _, _, kind in expected - found)
    assert len(generated()) > 9000
    assert sum(not case.spans for case in generated()) > 4000
    for kind in pii.KINDS:
        assert right[kind] >= 200
        assert right[kind] / (right[kind] + wrong[kind]) >= 0.99, kind
        assert right[kind] / (right[kind] + missed[kind]) >= 0.99, kind


PIECES = (
    "612345678",
    "612 34 56 78",
    "+34 ",
    "0034",
    "(+34) ",
    "93-2184453",
    "12345678Z",
    "12.345.678-",
    "Z",
    "x1234567l",
    "B58378431",
    "ES91 2100 0418 4502 0005 1332",
    "ES9121000418450200051332",
    "2100 0418 45 0200051332",
    "4111 1111 1111 1111",
    "28/12345678/40",
    "281234567840",
    "AAA123456",
    "aaa 123456",
    "BBBBBBBBCD123456",
    "pema 1 850512 01 2",
    "1234 BCD",
    "m-1234-ab",
    "M 1234 AB",
    "9872023VH5797S0001WX",
    "9872023 VH5797S 0001 WX",
    "41.38740, 2.16860",
    "41.387",
    "2.16860",
    "41°23'14\"N ",
    "2°10'11\"E",
    "84.124.17.9",
    "2a02:9140::1",
    "2a02:",
    "::",
    "ane@posta.eus",
    "%40",
    "@",
    "https://",
    "ane:h4rt0z@",
    "git.eus",
    "/",
    ":",
    ".",
    ",",
    "-",
    " ",
    "  ",
    "\n",
    "\t",
    "\0",
    "\u00a0",
    "\u2011",
    "º",
    "°",
    "(",
    ")",
    "+",
    "1",
    "22",
    "333",
    "4444",
    "a",
    "ab",
    "É",
    "ñ",
    "١٢",
    "１２",
    "😀",
    "𝟏",
    "e\u0301",
    "\ufe0f",
    "☎",
    "DNI",
    "NAN",
    "tel. ",
    "Matrícula ",
    "pasaporte ",
    "CIP ",
    "lat ",
    "lon ",
    "GPS ",
    "Seguridad Social ",
    "cuenta ",
    "CIF ",
    "x" * 70,
    " y " * 25,
)
composed = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=25).map("".join)


@settings(max_examples=500, deadline=None)
@given(composed)
@example("12345678Z" * 3)
@example("x" * 300 + "@" + "y" * 300 + ".es")
def test_the_scan_loses_nothing_and_adds_nothing(text: str) -> None:
    assert pii.find(text) == find_everywhere(text)


def test_the_scan_loses_nothing_of_the_generated_set() -> None:
    texts = [case.text for case in generated()[::7]]
    assert [pii.find(text) for text in texts] == [find_everywhere(text) for text in texts]
    joined = " texto sin nada que ver, de relleno " * 9
    long = joined.join(texts[:60])
    assert pii.find(long) == find_everywhere(long)


def as_spans(column: pa.ListArray) -> list[list[pii.Span]]:
    return [[pii.Span(**span) for span in spans] for spans in column.to_pylist()]


@settings(max_examples=100, deadline=None)
@given(st.lists(composed.filter(lambda text: text.isprintable() or text.encode("utf-8", "replace").decode() == text), max_size=6), st.integers(0, 3))
def test_a_column_gives_what_each_text_gives(texts: list[str], offset: int) -> None:
    for kind in (pa.large_string(), pa.string()):
        column = pa.array(texts, kind)[offset:]
        found = pii.find_batch(column)
        found.validate(full=True)
        assert found.type == pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))
        assert as_spans(found) == [pii.find(text) for text in texts[offset:]]


def test_a_column_may_hold_nulls_and_must_hold_strings() -> None:
    assert as_spans(pii.find_batch(pa.array([None, "DNI 12345678Z", None, ""], pa.large_string()))) == [[], [pii.Span(4, 13, "dni")], [], []]
    with pytest.raises(TypeError, match="column of strings, not of int64"):
        pii.find_batch(pa.array([1, 2]))


def test_a_spawned_worker_finds_the_same() -> None:
    texts = [case.text for case in generated()[:40]]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(pii.find, texts, chunksize=40)) == [pii.find(text) for text in texts]


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300) | composed)
def test_spans_are_ordered_disjoint_and_inside_the_text(text: str) -> None:
    position = 0
    for span in pii.find(text):
        assert position <= span.start < span.end <= len(text)
        assert span.kind in pii.KINDS
        position = span.end


@pytest.mark.parametrize("before", ["", "😀", "𝒳̈𝒴 ", "e\u0301\u0302 ", "\ud800 ", "\udfff\ud800\0", "ñ€ŀ", "\ufeff"])
def test_offsets_are_code_points_whatever_stands_before(before: str) -> None:
    text = f"{before} DNI 12345678Z"
    (span,) = pii.find(text)
    assert text[span.start : span.end] == "12345678Z"


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "piece",
    [
        "7",
        "1 ",
        "612 345 678 ",
        "12345678Z ",
        "1.",
        "1,1.1-",
        "@",
        "a@",
        "a@a.",
        "a.a-",
        "://a:b@",
        "((((",
        "+1 (",
        "0049 ",
        "ES91 2100 ",
        "2000::",
        "41.3874, ",
        "41°2'",
        "1234 BCD",
        "%4",
        "tel ",
        "\0",
        "\ud800",
        "e\u0301",
        "----",
        "a" * 63 + ".",
    ],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(piece: str) -> None:
    text = piece * (MEGABYTE // len(piece.encode("utf-8", "surrogatepass")))
    # what would be quadratic here takes hours: that this returns is the test
    spans = pii.find(text)
    assert all(first.end <= second.start for first, second in pairwise(spans))


def test_iban_lengths_are_those_of_the_registry() -> None:
    for country, length in IBAN_LENGTHS.items():
        ((_, properties), *_) = stdnum_iban._ibandb.info(f"{country}00")
        sizes = [int(part.split("!")[0]) for part in stdnum_iban._struct_re.sub(r"\1! ", properties["bban"]).split()]
        assert 4 + sum(sizes) == int(length), country


def positives() -> list[Case]:
    return [case for case in generated() if case.spans]


def test_a_second_search_finds_no_pseudonym() -> None:
    for case in positives():
        text = pii.redact(case.text, [pii.Span(*span) for span in case.spans], "pseudonym", document=case.about, key="release 1")
        assert pii.find(text) == [], (case.text, text)


def test_a_pseudonym_keeps_separators_case_and_length() -> None:
    for case in positives():
        for start, end, kind in case.spans:
            value = case.text[start:end]
            pseudonym = pii.redact(value, [pii.Span(0, len(value), kind)], "pseudonym", key="k")
            assert pseudonym != value
            if kind not in ("email", "credentials", "ip", "gps"):
                assert [c for c in pseudonym if not c.isalnum()] == [c for c in value if not c.isalnum()]
                assert [c.islower() for c in pseudonym] == [c.islower() for c in value]


def test_one_value_has_one_pseudonym_in_a_document_and_another_in_the_next() -> None:
    text = "DNI 12345678Z, o 12.345.678-Z; tel. 612 34 56 78 y +34612345678; 87654321X"
    spans = pii.find(text)
    first = pii.redact(text, spans, "pseudonym", document="a", key="k")
    assert first == pii.redact(text, spans, "pseudonym", document="a", key="k")
    assert len({first, pii.redact(text, spans, "pseudonym", document="b", key="k"), pii.redact(text, spans, "pseudonym", document="a", key="l")}) == 3
    words = first.replace(",", " ").replace(";", " ").split()
    assert words[1].rstrip(",") == words[3].replace(".", "").replace("-", "")
    assert "".join(words[5:9]) == words[10].removeprefix("+34")
    assert words[11] != words[1]


def test_two_values_of_a_document_do_not_share_a_pseudonym() -> None:
    text = "\n".join(f"84.124.{number // 250 + 1}.{number % 250 + 1}" for number in range(500))
    redacted = pii.redact(text, pii.find(text), "pseudonym", key="k").split("\n")
    assert len(set(redacted)) == 500


def test_pseudonyms_are_the_same_on_every_machine() -> None:
    text = "ane@posta.eus 84.124.17.9 2a02:9140::1 +34 612 34 56 78 +44 20 7946 0958 X1234567L CIF B-58378431 ES91 2100 0418 4502 0005 1332"
    assert pii.redact(text, pii.find(text), "pseudonym", document="d", key="k") == PSEUDONYMS


PSEUDONYMS = "kap@example.org 203.0.113.234 2001:db8:ba0c:59b7::619f +34 321 32 46 55 +44 06 3692 6906 X9410977O CIF B-92110511 ES72 0000 1559 6821 9255 3914"


def test_policies_by_kind() -> None:
    text = "ane@posta.eus, DNI 12345678Z, 84.124.17.9"
    spans = pii.find(text)
    assert pii.redact(text, spans, {"email": "tag", "dni": "keep"}) == "<EMAIL>, DNI 12345678Z, 84.124.17.9"
    mixed = pii.redact(text, spans, {"email": "pseudonym", "dni": "tag", "ip": "keep"}, key="k")
    assert mixed.endswith(", DNI <DNI>, 84.124.17.9")
    assert "posta" not in mixed
    assert pii.redact(text, spans, "keep") == text


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"mail": "tag"}, "unknown kind of personal data 'mail'; choose among email, "),
        ({"email": "hide"}, "unknown policy 'hide' for email; choose among keep, tag, pseudonym"),
        ("pseudonym", "pseudonyms need a key"),
        ({"email": "pseudonym"}, "pseudonyms need a key"),
    ],
)
def test_a_wrong_policy_is_refused(policies: str | dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pii.redact("", [], policies)
