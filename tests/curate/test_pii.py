import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.curate import pii


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Escriba a ana.perez@example.org.", "Escriba a <EMAIL>."),
        ("Escriu-nos: info@ajuntament.example", "Escriu-nos: <EMAIL>"),
        ("DNI 12345678Z, en regla", "DNI <DNI>, en regla"),
        ("DNI 12.345.678-Z", "DNI <DNI>"),
        ("dni: 12345678 z", "dni: <DNI>"),
        ("el NIE X1234567L.", "el NIE <NIE>."),
        ("NIE: X-1234567-L", "NIE: <NIE>"),
        ("IBAN ES91 2100 0418 4502 0005 1332 a nombre de Ana", "IBAN <IBAN> a nombre de Ana"),
        ("compte ES9121000418450200051332", "compte <IBAN>"),
        ("Telefonoa: 612 34 56 78", "Telefonoa: <PHONE>"),
        ("tel. +34 612 34 56 78, de 9 a 14 h", "tel. <PHONE>, de 9 a 14 h"),
        ("desde 84.124.17.9 y 2a02:9140::1", "desde <IP> y <IP>"),
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
        "versión 1.2.3.4.5 y 192.168.1.1, 127.0.0.1, 255.255.255.0",
        "el 112, el 016 y el 012",
        "En 1936 1939 y 2024 2025",
        "a @ b, usuario@, @ejemplo",
        "12:30:45 std::vector a::b",
        "12 345 A",
    ],
)
def test_what_is_not_personal_data_is_left_alone(text: str) -> None:
    assert pii.find(text) == []


@given(st.text(max_size=300))
def test_spans_are_ordered_disjoint_and_inside_the_text(text: str) -> None:
    spans = pii.find(text)
    position = 0
    for span in spans:
        assert position <= span.start < span.end <= len(text)
        position = span.end
