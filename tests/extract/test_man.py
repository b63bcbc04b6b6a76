"""Manual pages in troff, as small pages of our own and as any bytes."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iberlm.extract.config import ExtractConfig
from iberlm.extract.extract import RawFile, read
from iberlm.extract.records import Reject, Text
from iberlm.sources.formats import format_of

CONFIG = ExtractConfig(max_file_bytes=1 << 20, workers=1)


def items(path: Path, content: bytes, config: ExtractConfig = CONFIG) -> list[Text | Reject]:
    path.write_bytes(content)
    file = RawFile(str(path), "man", "es", "town", "CC0-1.0", f"town/{path.name}", None, None, "text", "id", len(content))
    return list(read(file, config))


def page(tmp_path: Path, body: str) -> str:
    """Text of a page with this body, without its first heading."""
    (item,) = items(tmp_path / "hora.1", f".TH HORA 1 2024 Plaza\n.SH USO\n{body}\n".encode())
    assert isinstance(item, Text), item
    return item.text.removeprefix("USO\n\n")


def reason(path: Path, content: bytes) -> str:
    (item,) = items(path, content)
    assert isinstance(item, Reject)
    return item.reason


MANUAL = r""".\" -*- coding: UTF-8 -*-
.\" Nadie lee esto \
'\" t
.TH HORA 1 "3 de mayo de 2024" "Plaza 2.0" "Manual del usuario"
.SH NOMBRE
hora \- dice la hora de la plaza
.SH SINOPSIS
\fBhora\fP [\fIopciones\fP]
.SH DESCRIPCIÓN
.B hora
dice la hora que da el
reloj de la \fIplaza\fP; véase
.BR reloj (1),
y no otra. \" una nota
.\" otra nota
Sigue igual.
.PP
Otro párrafo.
.SS "Las opciones"
.TP 8
\fB\-l\fR, \fB\-\-larga\fR
También dice
los segundos.
.TP
.BI \-z " zona"
.TQ
.BI \-\-zona= zona
Usa esa zona.
.IP \(bu 2
Un punto de la lista.
.IP 1. 4
Lo primero.
.SH EJEMPLOS
Así se llama:
.PP
.nf
hora \-l
.fi
.EX
hora \-z Europe/Madrid
.EE
.TS
lb l.
uno	dos
.TE
.SH CÓDIGO
.nf
esto no se lee
.SH AUTOR
Ana <ana@example.org>
.SS Gracias
A todas.
.SH "VÉASE TAMBIÉN"
\fBdate\fP(1)
.SH TRADUCCIÓN
La hizo Ana.
"""

READ = """NOMBRE

hora - dice la hora de la plaza

DESCRIPCIÓN

hora dice la hora que da el reloj de la plaza; véase reloj(1), y no otra. Sigue igual.

Otro párrafo.

Las opciones

-l, --larga: También dice los segundos.

-z zona, --zona=zona: Usa esa zona.

Un punto de la lista.

1. Lo primero.

EJEMPLOS

Así se llama:"""


@pytest.mark.parametrize("name", ["hora.1", "hora.1.gz"])
def test_page_gives_headings_and_paragraphs_without_code_and_credits(tmp_path: Path, name: str) -> None:
    content = MANUAL.encode()
    found = items(tmp_path / name, gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert [item.text for item in found if isinstance(item, Text)] == [READ]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\fBuno\fP \f[B]dos\f[R] \f(CWtres\fP", "uno dos tres"),
        (r"a\-b \(hy \(em \[en] \(aqx\(aq \(dqy\(dq", "a-b - — – 'x' \"y\""),
        (r"ca\[~n]a pa\('is \[u00F1] \[u0061_0301] \[char65] \N'66'", "caña país ñ á A B"),
        (r"\(Fohola\(Fc \(r?qu\('e? \(co \(bu \(zz \[nosuch]fin", "«hola» ¿qué? © • fin"),
        (r"\*(lqcita\*(rq y \*[lq]otra\*[rq] \*R ``esta''", "“cita” y “otra” ® “esta”"),
        (r"uno\~dos\ tres\0cuatro a\|b\^c\&d\/e\,f\:g", "uno dos tres cuatro abcdefg"),
        (r"\s+1grande\s0 \s-2menos\s+2 \s10diez \s[12]doce", "grande menos diez doce"),
        (r"C:\edir \\ \. \'", r"C:\dir \ . '"),
        (r"x\h'-1n'y\v'2'z\w'ancho'w \h'-\w' 'u' fin", "xyzw fin"),
        (r"\m[red]rojo\m[] \n(zZ \n+[x] fin", "rojo fin"),
        ("uno\\\ndos", "unodos"),
        ("uno\\c\ndos", "unodos"),
        ("uno\\\"nota\ndos\\#nota", "uno dos"),
        (r"nulo\[u0000]\[uD800]\[u110000]\N'7'.", "nulo."),
    ],
)  # fmt: skip
def test_escapes_become_characters(tmp_path: Path, source: str, text: str) -> None:
    assert page(tmp_path, source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('.B "uno  dos" tres\n.BR a "b c" d\n.IB x y\n.SM\nz', "uno dos tres ab cd xy z"),
        ('.BI "dice ""hola""" \\ fin', 'dice "hola" fin'),
        ("uno\n.br\ndos\n\ntres\n  cuatro", "uno\ndos\n\ntres\ncuatro"),
        ("lea\n.UR https://example.org\nla página\n.UE .\n.UR https://example.org/b\n.UE ,\nfin", "lea la página. https://example.org/b, fin"),
        ("escriba a\n.MT a@example.org\nAna\n.ME .\nvea\n.MR reloj 1 ,\nfin", "escriba a Ana. vea reloj(1), fin"),
        (
            ".sp\n\\-h, \\-\\-help\n.RS 4\nAyuda.\n.RE\n.sp\nSe dice:\n.RS 4\nfin\n.RE\n.PP\no bien\n.RS\ntres",
            "-h, --help: Ayuda.\n\nSe dice:\n\nfin\n\no bien\n\ntres",
        ),
        (".TP\n\\-a\n.PP\nTodo.", "-a: Todo."),
        (".TP\n.B \\-a\n.TP\n.B \\-b\nLas dos.", "-a\n\n-b: Las dos."),
        (".if n uno\n.if t dos\n.ie t tres\n.el cuatro\n.if !t cinco", "uno cuatro cinco"),
        (".ie n \\{\\\nuno\n.\\}\n.el \\{\\\ndos\n.if n \\{\\\ntres\n.\\}\n.\\}\nfin", "uno fin"),
        (".if \\n(zZ=1 .ig zZ\n.ie \\n(.g .ds c \\(co\n.el .ds c (c)\n\\*c fin", "© fin"),
        (".de FN\n\\fI\\\\$1\\fP\\\\$2\n..\nvea\n.FN /etc/hora ,\nfin", "vea /etc/hora, fin"),
        (".de xx yy\nno se lee\n.yy\n.ig\ntampoco\n..\nfin\n.ad l\n.nosuch palabras que no se dicen", "fin"),
        (".tr \\(is'\nel d\\(isa", "el d'a"),
        (".SY hora\n.OP \\-a\n.YS\n.PD 0\n.RS 4\nfin\n.RE", "fin"),
        (".so man1/otra.1\nfin", "fin"),
        ("texto\n.SH\nOTRA\nmás", "texto\n\nOTRA\n\nmás"),
        (".SS uno\n.SS dos\ntexto\n.SS tres\n.nf\ncódigo", "dos\n\ntexto"),
    ],
)
def test_macros_become_words_and_paragraphs(tmp_path: Path, source: str, text: str) -> None:
    assert page(tmp_path, source) == text


def test_mdoc_page_gives_its_words(tmp_path: Path) -> None:
    source = r""".Dd 1 de mayo de 2024
.Dt HORA 1
.Os
.Sh NOMBRE
.Nm hora
.Nd dice la hora
.Sh DESCRIPCIÓN
.Nm
lee
.Pa /etc/hora ,
véase
.Xr reloj 5 .
Con
.Op Fl a Ns Ar zona ,
todo en
.Dq la plaza ,
o
.Fn hora .
Más en
.Lk https://example.org la página .
.Bl -tag
.It Fl l Ar larga
Dice los segundos.
.El
.Bd -literal
hora -l
.Ed
"""
    (item,) = items(tmp_path / "hora.1", source.encode())
    assert isinstance(item, Text)
    assert item.text.split("\n\n") == [
        "NOMBRE",
        "hora - dice la hora",
        "DESCRIPCIÓN",
        "hora lee /etc/hora, véase reloj(5). Con [-azona], todo en “la plaza”, o hora(). Más en la página.",
        "-l larga: Dice los segundos.",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b".so man1/hora.1\n", "no_text"),
        (b".TH HORA 1\n.SH CODIGO\n.nf\nhora\n", "no_text"),
        (b".TH HORA 1\n.SH AUTOR\nAna\n", "no_text"),
        (b"Un texto sin cabecera.\n", "not_man"),
        (b"%PDF-1.7 .TH", "not_man"),
        (".TH HORA 1\n.SH USO\nseñal\n".encode("latin-1"), "invalid_utf8"),
        (b".TH HORA 1\n.SH USO\nuno\0dos\n", "nul"),
        (b"", "empty_file"),
    ],
)
def test_page_without_text_is_one_counted_reject(tmp_path: Path, content: bytes, expected: str) -> None:
    assert reason(tmp_path / "hora.1", content) == expected


def test_redirect_names_its_page(tmp_path: Path) -> None:
    (item,) = items(tmp_path / "hora.1", b".so man1/reloj.1\n")
    assert isinstance(item, Reject)
    assert "man1/reloj.1" in item.detail


def test_strings_and_macros_cannot_unfold_without_end(tmp_path: Path) -> None:
    strings = ".ds a0 jajaja\n" + "".join(f".ds a{n} " + f"\\*[a{n - 1}]" * 10 + "\n" for n in range(1, 12)) + "\\*[a11]\n"
    macro = ".de X\n" + "\\\\$1" * 400 + "\n..\n" + f".X {'b' * 1000}\n" * 1000
    for body in (strings, macro, ".de Y\n.Y\n..\n.Y\nfin\n", "\\[" * 100_000, "\\h'" * 100_000, ".if n " * 50_000, ".TP\na\n" + ".TQ\nb\n" * 50_000):
        found = items(tmp_path / "hora.1", f".TH HORA 1\n.SH USO\nfin\n{body}".encode(), ExtractConfig(workers=1))
        assert sum(len(item.text) for item in found if isinstance(item, Text)) < 5_000_000


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("man/es/man1/hora.1", b"Sin nada.", "man"),
        ("man/es/man5/host.conf.5.gz", gzip.compress(b".so man5/x.5\n", mtime=0), "man"),
        ("man/man3/hora.3ssl", b"x", "man"),
        ("man/es/man1/notas.txt", b".TH X 1\n", "text"),
        ("pages/hora", MANUAL.encode(), "man"),
        ("pages/notas", b".Una linea que empieza con punto\n", "text"),
        ("pages/charla", b"Escriba\n.TH X 1\n", "text"),
    ],
)
def test_manual_pages_are_told_by_their_place_and_their_first_lines(tmp_path: Path, name: str, content: bytes, form: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert format_of(path) == form


FRAGMENTS = [
    *MANUAL.splitlines(keepends=True),
    ".if n \\{\\\n",
    ".\\}\n",
    ".el ",
    ".ie ",
    ".de X\n",
    "..\n",
    ".X a b\n",
    ".ds a \\*a\n",
    "\\*a",
    ".ig\n",
    ".Dd x\n",
]
FRAGMENTS += [
    ".Op Fl a\n",
    ".Xr\n",
    ".Fn\n",
    ".Lk\n",
    ".UE .\n",
    ".TQ\n",
    ".SH\n",
    "\\",
    "\\[",
    "\\*[",
    "\\N'99999'",
    '"',
    "\\s",
    ".tr \\(isx\n",
    ".while n x\n",
    ".so\n",
    "\\$1",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(st.sampled_from(FRAGMENTS).map(str.encode), st.binary(max_size=12), st.text(max_size=12).map(str.encode)), max_size=40))
def test_any_bytes_end_in_texts_and_counted_rejects(tmp_path: Path, parts: list[bytes]) -> None:
    for item in items(tmp_path / "hora.1", b".TH X 1\n" + b"".join(parts)):
        if isinstance(item, Text):
            assert item.text.strip()
            assert "\0" not in item.text
            item.text.encode("utf-8")
        else:
            assert item.reason.isidentifier()
