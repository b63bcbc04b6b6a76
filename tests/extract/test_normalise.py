"""Normalisation: each repair, what it leaves alone, and that twice is once."""

import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iberlm.extract.config import NormaliseConfig
from iberlm.extract.normalise import _SUSPECT, Normaliser, RefusedError
from iberlm.extract.punt_volat import is_known, repair


def normalise(text: str, **switches: bool) -> str:
    repaired, data = Normaliser(NormaliseConfig(**switches))(text)
    assert data == repaired.encode()
    return repaired


@pytest.mark.parametrize(
    ("text", "repaired", "repairs"),
    [
        ("cafe\u0301 i cam\u0131\u0301", "café i camı́", ["unicode"]),
        ("\u212b \u2126 a\u0327\u0301", "\u00c5 \u03a9 \u00e1\u0327", ["unicode"]),
        ("a\x00b"[:1] + "b\x07c\x1bd\x7fe\u0085f", "abcde\nf", ["controls", "whitespace"]),
        ("\ufeffa\u200bb\u200cc\u200dd\u2060e\u200ef\u202eg\u2066h\u00adi", "abcdefghi", ["controls"]),
        ("exem\u00ad\nple i a\u00ad\n\n1", "exemple i a\n\n1", ["controls"]),
        ("\x1b[31mvermell\x1b[0m", "vermell", ["controls"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 می\u200cخواهم", "\U0001f468\u200d\U0001f469\u200d\U0001f467 می\u200cخواهم", []),
        ("a\u00a0b\u202fc\u2009d\u3000e", "a b c d e", ["whitespace"]),
        ("a  \nb\t\n\n\n\n\nc \n \n\nd  ", "a\nb\n\nc\n\nd", ["whitespace"]),
        ("a\r\nb\rc\u2028d\u2029e\vf\fg", "a\nb\nc\nd\n\ne\nf\ng", ["whitespace"]),
        ("  dins  hi ha  espais\n\tsagnat", "dins  hi ha  espais\n\tsagnat", ["whitespace"]),
        ("L'educaciÃ³ i la mÃºsica\nNo Ã©s aixÃ² â€œdit aixÃ­â€\u009d", "L'educació i la música\nNo és això “dit així”", ["mojibake"]),
        ("â\x80\x9cuno\u00e2\x80\x9d", "“uno”", ["mojibake"]),
        ("NÃO É ASSIM, SÃO PAULO. Âmbito, câmara, â", "NÃO É ASSIM, SÃO PAULO. Âmbito, câmara, â", []),
        ("el col.legi, l'il•lusió, la novel-la i la coŀlecció", "el col·legi, l'il·lusió, la novel·la i la col·lecció", ["punt_volat"]),
        ("EL COL.LEGI I LA INTEĿLIGÈNCIA; Al‧lèrgia, paral∙lel, mol⋅lusc", "EL COL·LEGI I LA INTEL·LIGÈNCIA; Al·lèrgia, paral·lel, mol·lusc", ["punt_volat"]),
        ("Més text, amb «cometes» – i … punts; l'·l· ja és bé: col·legi.", "Més text, amb «cometes» – i … punts; l'·l· ja és bé: col·legi.", []),
    ],
)  # fmt: skip
def test_each_repair_and_its_count(text: str, repaired: str, repairs: list[str]) -> None:
    normaliser = Normaliser(NormaliseConfig())
    assert normaliser(text)[0] == repaired
    assert sorted(name for name, number in normaliser.changed.items() if number) == sorted(repairs)
    assert normaliser(repaired)[0] == repaired


@pytest.mark.parametrize(
    "text",
    [
        "https://col.legi.cat/novel.la www.col.legi.cat info@col.legi.cat",
        "/el-col-legi/novel-la.html i C:\\col.legi i ?q=col.legi",
        "fitxer col.legi.txt, col.legi.Acaba, val.la, social-liberal, nivel-local, mal.lloc",
        "la mol-la, i ara .col.legi",
        "baŀ coŀ",
    ],
)
def test_punt_volat_leaves_addresses_and_other_words(text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize("text", ["Això és un col.legi.", "un col.legi? Sí", "(col.legi)", "“col.legi”,", "col.legi\nnou", "d'aquell col.legi: \tno"])
def test_punt_volat_at_the_edges_of_a_sentence(text: str) -> None:
    assert normalise(text) == text.replace("col.legi", "col·legi")


def test_lexicon_knows_inflected_words_and_no_others() -> None:
    known = "col·legi col·legis il·lusió il·lustraríem intel·ligent novel·la novel·les vil·la paral·lelament al·lergologia pel·lícula cèl·lula gal·lionel·les"
    assert [word for word in known.split() if not is_known(word)] == []
    assert [word for word in "val·la mal·lloc nivell·la social·liberal hotel·la col·x l·l · ".split(" ") if is_known(word)] == []


def test_switches_turn_repairs_off() -> None:
    text = "cafe\u0301\u200b  \n\n\n\ncol.legi Ã©s\u00a0 "
    everything = dict.fromkeys(NormaliseConfig.__dataclass_fields__, False)
    assert normalise(text, **everything) == text
    assert normalise(text, **everything | {"unicode": True}) == "café\u200b  \n\n\n\ncol.legi Ã©s\u00a0 "
    assert normalise(text, **everything | {"controls": True}) == "cafe\u0301  \n\n\n\ncol.legi Ã©s\u00a0 "
    assert normalise(text, **everything | {"whitespace": True}) == "cafe\u0301\u200b\n\ncol.legi Ã©s"
    assert normalise(text, **everything | {"mojibake": True}) == "cafe\u0301\u200b  \n\n\n\ncol.legi és\u00a0 "
    assert normalise(text, **everything | {"punt_volat": True}) == "cafe\u0301\u200b  \n\n\n\ncol·legi Ã©s\u00a0 "


@pytest.mark.parametrize(("text", "reason"), [("a\0b", "nul"), ("a \ud800 b", "invalid_unicode"), ("\udfff", "invalid_unicode")])
def test_what_is_no_text_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RefusedError) as error:
        normalise(text)
    assert error.value.reason == reason


def test_characters_that_the_fast_path_lets_through_need_no_composition() -> None:
    pairs = (unicodedata.decomposition(chr(code)).split() for code in range(sys.maxunicode + 1))
    composing = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and pair[0][0] != "<"}
    passed = [character for character in map(chr, range(sys.maxunicode + 1)) if not _SUSPECT.match(character)]
    assert len(passed) > 2000
    for character in passed:
        assert unicodedata.is_normalized("NFC", character), hex(ord(character))
        assert unicodedata.combining(character) == 0, hex(ord(character))
        assert character not in composing, hex(ord(character))


_INVISIBLE = ["\u00ad", "\u200b", "\u200d", "\u0301", "\u0085", "\x1b[", "\u2029", "\u2028", "\ufeff", "\u0387", "\u1100", "\u1161", "Ã\u00ad", "\u00ad\n"]
PIECES = st.sampled_from([*"col.legi coŀlegi l-l e Ã © Â â€ ™ 0m . · l ŀ ñ http:// ﬁ \U0001f600".split(), *_INVISIBLE, " ", "\n", "\r\n", "\t", "\u00a0"])


@settings(max_examples=600, deadline=None)
@given(text=st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=60)))
@example("Ã\u200b©")
@example("a\u00ad \n\nb")
@example("\x1b\u200b[0m")
@example("coŀ\u00adlegi")
def test_twice_is_once_and_the_result_is_clean(text: str) -> None:
    try:
        once = normalise(text)
    except RefusedError:
        return
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == once.strip()
    assert "\n\n\n" not in once
    assert not {"\r", "\u00a0", "\u200b", "\u00ad", "\ufeff"} & set(once)


def test_long_runs_take_linear_time() -> None:
    for text in (
        " " * 500_000 + "x",
        "\n" * 500_000 + "x",
        " \n" * 250_000 + "x",
        "l.l" * 200_000,
        "a-l-l" * 100_000,
        "Ã©" * 100_000,
        "\u0301" * 100_000,
        "ŀl" * 200_000,
    ):
        once = normalise("a" + text)
        assert unicodedata.normalize("NFD", once).startswith("a")
        assert normalise(once) == once


def test_repair_in_a_text_without_candidates_gives_the_same_text() -> None:
    assert repair("sense res") == "sense res"
