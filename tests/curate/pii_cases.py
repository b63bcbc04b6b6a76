"""A generated set of texts with and without personal data, and where it stands: thousands of cases, the same for one seed.

Values come from `pii_values` and are put into sentences of five languages, forms, tables, code and URLs. Each value has
counterparts that are wrong by one digit in the same places. The rest is what looks alike: ISBNs, dates, versions, orders, hashes,
amounts, laws.
"""

import random
import string
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from stdnum import ean as stdnum_ean
from stdnum.es import ccc as stdnum_ccc

from tests.curate.pii_values import LABELS, NBSP, VALUES, Value, digits, groups, other_digit

LANGUAGES = ("es", "ca", "ca-valencia", "eu", "gl")


class Case(NamedTuple):
    """A text, the spans that are right in it (start, end, kind), and what it was made from, for the table."""

    text: str
    spans: list[tuple[int, int, str]]
    about: str
    """The kind; for a value that is wrong "kind, invalid", for other things their name."""


LABELLED = (
    "{l}: {v}",
    "{l} {v}",
    "{l}:{v}",
    "({l} {v})",
    "{l}\n{v}\n",
    "| {l} | {v} | x |",
    "{l.upper}: {v}.",
    "• {l} – {v};",
    "<b>{l}</b>: {v}<br>",
    "{l}={v}&lang=es",
    "😀🇪🇸 {l}: {v}\r\n",
    '{"{l}": "{v}"}',
    "{l.lower} = '{v}'  # ok",
)
BARE = (
    "{v}",
    "({v})",
    "«{v}»",
    "{v}, Bilbo",
    "Ane Etxeberria;{v};1",
    "\n{v}\n",
    '"{v}"',
    "<td>{v}</td>",
    "𝔸 {v} 😀",
    "[{v}]",
    "{v}.",
    "'{v}',",
    "e\u0301 {v}",
    "\t{v}\t",
    "{v}\u2026",
    "x\x00 {v}",
)
SENTENCES = {
    "es": ("El {l} de la titular es {v}, según consta.", "Con {l} n.º {v} y domicilio en Vigo", "¿{l} {v}?"),
    "ca": ("El {l} de la titular és {v}, segons consta.", "Amb {l} núm. {v} i domicili a Girona", "{l} {v}!"),
    "ca-valencia": ("El {l} de la titular és {v}, i res més.", "Amb {l} número {v}, veïna d'Alcoi", "{l} «{v}»"),
    "eu": ("Titularraren {l} {v} da.", "{l} zk.: {v} (Bilbo)", "Hona hemen: {l} {v}, Donostian."),
    "gl": ("O {l} da titular é {v}, segundo consta.", "Con {l} núm. {v} e domicilio en Lugo", "{l} {v}; nada máis"),
}


def label(rng: random.Random, kind: str, language: int) -> str:
    return rng.choice(LABELS[kind][language].split("|"))


def place(frame: str, word: str, value: Value) -> tuple[str, int, int]:
    """The text of a frame, and where the value's core stands in it."""
    core, before, after = value[0], *(value[2:] or ("", ""))
    head, tail = frame.split("{v}")
    head, tail = (part.replace("{l}", word).replace("{l.upper}", word.upper()).replace("{l.lower}", word.lower()) for part in (head, tail))
    start = len(head) + len(before)
    return f"{head}{before}{core}{after}{tail}", start, start + len(core)


def frames(rng: random.Random, language: str, clear: bool) -> list[str]:
    labelled = [*rng.sample(LABELLED, 2), rng.choice(SENTENCES[language])]
    return [*labelled, *rng.sample(BARE, 2)] if clear else labelled


def positives(rng: random.Random) -> Iterator[Case]:
    for kind, values in VALUES.items():
        for index, language in enumerate(LANGUAGES):
            for _ in range(2):
                for value in values(rng):
                    for frame in frames(rng, language, value[1]):
                        text, start, end = place(frame, label(rng, kind, index), value)
                        yield Case(text, [(start, end, kind)], kind)


def several(rng: random.Random) -> Iterator[Case]:
    """More than one value in a text, also of other kinds, next to each other, with letters beyond the basic plane before them."""
    for _ in range(400):
        text, spans = rng.choice(("", "😀 ", "𝒳̈𝒴 ", "ñandú, ")), []
        for kind in rng.sample(sorted(VALUES), 3):
            value = rng.choice([value for value in VALUES[kind](rng) if "\n" not in value[0]])
            piece, start, end = place("{l}: {v}", label(rng, kind, rng.randrange(5)), value)
            spans.append((len(text) + start, len(text) + end, kind))
            text += piece + rng.choice((", ", "; ", "\n", " | ", " // "))
        yield Case(text, spans, "several")
    for separator in (", ", " / ", "/", " y ", " eta ", " | ", "; ", "\n"):
        numbers = [rng.choice(("612", "654", "699")) + digits(rng, 6) for _ in range(3)]
        text, spans = "Teléfonos: ", []
        for number in numbers:
            spans.append((len(text), len(text) + 9, "phone"))
            text += number + separator
        yield Case(text, spans, "several")


NO_CHECK = ("email", "credentials", "ip", "phone", "passport", "health_card", "plate", "gps")


def invalid(rng: random.Random) -> Iterator[Case]:
    """The same frames, with values that are wrong by one digit, one character or one step out of range."""
    for kind, values in VALUES.items():
        for index, language in enumerate(LANGUAGES):
            for value in values(rng):
                wrong = spoil(rng, kind, value)
                for frame in frames(rng, language, value[1]) if wrong is not None else ():
                    # a passport's, plate's or position's only mark may be its label
                    text, _, _ = place(frame, label(rng, kind, index), wrong)  # type: ignore[arg-type]
                    yield Case(text, [], f"{kind}, invalid")


def spoil(rng: random.Random, kind: str, value: Value) -> Value | None:
    core, rest = value[0], value[1:]
    ascii_core = core.translate({ord(wide): plain for wide, plain in zip("０１２３４５６７８９", string.digits, strict=True)})
    if kind not in NO_CHECK:
        for _ in range(20):
            changed = other_digit(rng, ascii_core)
            if kind != "ccc" or not stdnum_ccc.is_valid(changed.replace(NBSP, " ").replace("/", "")):
                return (changed, *rest)  # type: ignore[return-value]
    if kind == "phone":
        last = max(place for place, character in enumerate(ascii_core) if character in string.digits)
        return (ascii_core[:last] + ascii_core[last + 1 :], *rest)  # type: ignore[return-value]
    changes = {
        "email": core.replace(".", ",") if "." in core.partition("@")[2] else None,
        "credentials": f"{core.partition(':')[0]}:{rng.choice(('password', '$TOKEN', '****'))}",
        "ip": rng.choice((f"{core}.7", "192.168.1." + digits(rng, 2), "203.0.113.9", "84.256.1.7"))
        if "." in core
        else core.replace("2a0c", "fe80").replace("2A02", "2001:db8"),
        "passport": core + "77",
        "health_card": core[:-1] if core.startswith("BBBB") else "Q" + core,
        "plate": core[:-1] + "AE" if core[0].isdigit() else core + "QQ",
        "gps": None if "°" in core or "º" in core else "9" + core,
    }
    changed = changes[kind]
    return None if changed is None else (changed, *rest)  # type: ignore[return-value]


def lookalikes(rng: random.Random) -> Iterator[Case]:
    """What has digits, letters and separators, and names nobody."""
    for _ in range(120):
        year, month, day, number = rng.randrange(1900, 2030), rng.randrange(1, 13), rng.randrange(1, 29), rng.randrange(10**8, 10**9)
        book = "978" + digits(rng, 9)
        book += stdnum_ean.calc_check_digit(book)
        version = ".".join(str(rng.randrange(0, 30)) for _ in range(4))
        things = {
            "date": (
                f"{day:02d}/{month:02d}/{year} {month:02d}:{day:02d}:59",
                f"{year}-{month:02d}-{day:02d}T12:30:45.{digits(rng, 6)}Z",
                f"{year}{month:02d}{day:02d}123045",
                f"{day}-{month}-{year}",
            ),
            "ISBN": (f"ISBN {book}", f"ISBN-13: {groups(book, (3, 2, 4, 3, 1), '-')}", f"ISBN {digits(rng, 9)}X", f"ISSN {digits(rng, 4)}-{digits(rng, 4)}"),
            "version": (
                f"versión {version}",
                f"v{version}",
                f"bertsioa {version}",
                f"linux-{version}.tar.gz",
                f"libfoo_{version}-1_amd64.deb",
                f"{rng.randrange(9)}.{rng.randrange(99)}.{rng.randrange(99)}",
            ),
            "order": (
                f"pedido n.º {number}",
                f"comanda {number}",
                f"eskaera zk. {number}",
                f"order no. {digits(rng, 16)}",
                f"factura {year}/{digits(rng, 8)}",
                f"ref. {groups(digits(rng, 9), (3, 3, 3), '-')}",
            ),
            "hash": (
                f"{rng.getrandbits(160):040x}",
                f"sha256:{rng.getrandbits(256):064x}",
                f"{rng.getrandbits(32):08x}",
                f"commit {rng.getrandbits(48):012x}",
                str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            ),
            "amount": (
                f"{number:,} €".replace(",", "."),
                f"{number:,} bytes".replace(",", " "),
                f"{number} bytes",
                f"{year}.{digits(rng, 3)},50 euros",
                f"{digits(rng, 3)}.{digits(rng, 3)}.{digits(rng, 3)} habitants",
                f"{number / 7:.9f}",
            ),
            "law": (
                f"Ley Orgánica {rng.randrange(1, 40)}/{year}, de {day} de mayo",
                f"BOE-A-{year}-{digits(rng, 5)}",
                f"Reglamento (UE) {year}/{digits(rng, 3)}",
                f"DOGC núm. {digits(rng, 4)}, de {day}.{month}.{year}",
            ),
            "code": (
                f"0x{rng.getrandbits(64):016x}",
                f"std::vector<int>::at({digits(rng, 3)})",
                f"id={digits(rng, 9)}",
                f"#{digits(rng, 6)}",
                f"--size={number}",
                "foo@2x.png, user@1000.service, @media, a@b",
                f"E{digits(rng, 4)}-{digits(rng, 5)}",
            ),
            "sequence": (
                "123456789",
                "1234567890123456",
                f"{year}-{year + 4}, {year + 9}",
                f"pp. {digits(rng, 3)}-{digits(rng, 3)}",
                f"({digits(rng, 3)}, {digits(rng, 3)}, {digits(rng, 3)})",
                f"{digits(rng, 4)} RPM, {digits(rng, 4)} DVD",
            ),
            "fraction": (
                f"0.{digits(rng, 4)}, 0.{digits(rng, 5)}",
                f"M {rng.uniform(1, 90):.4f},{rng.uniform(1, 90):.4f} {rng.uniform(1, 90):.4f},{rng.uniform(1, 90):.4f}",
                f"p = 0.{digits(rng, 6)}; t = {rng.uniform(1, 9):.4f}",
            ),
            "special number": (
                "llame al 112",
                "el 016 o el 900 123 456",
                "127.0.0.1, 10.0.0.1, 255.255.255.0",
                "::1, fe80::1, 2001:db8::7",
                "84.12.0.0/16",
                "user@example.com",
                "http://user:password@example.org/",
            ),
            "MAC or barcode": (
                ":".join(f"{rng.randrange(256):02x}" for _ in range(6)),
                f"EAN 84{digits(rng, 11)}",
                f"IMEI 35{digits(rng, 13)}",
                f"{digits(rng, 2)}:{digits(rng, 2)}:{digits(rng, 2)}",
            ),
        }
        for about, texts in things.items():
            text = rng.choice(texts)
            yield Case(rng.choice(("{}", "({})", "Véase {}.", "vegeu {}, p. 3", "{}\n", "Ikus {} eta", "- {}: ok")).replace("{}", text), [], about)


def cases(seed: int = 2025) -> list[Case]:
    """All cases, in a fixed order."""
    rng = random.Random(seed)  # a fixed sequence is meant
    return [*positives(rng), *several(rng), *invalid(rng), *lookalikes(rng)]
