"""The kernel against a plain reference, on text that hypothesis makes, and what its hashes promise."""

import json
import subprocess
import sys
import unicodedata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES
from iberlm.curate.measure.characters import CLASS_MASK, DIGIT, IDEOGRAPH, LETTER, MARK, SPACE, SYMBOL, UPPER, characters
from iberlm.curate.measure.kernel import STATISTICS, Measured, find_ngrams, measure, ngram_hashes, word_hashes
from iberlm.curate.measure.words import FINEWEB2_STOP_WORDS, STOP_WORDS
from tests.curate import reference

PIECES = """l' d’ se'n -se 'n -la -LA -m'ho ’s 'S N'HI col·legi col‧legi ŀl ... … . ! ? » ) ' " - -- ‐ 3.000,50 12:30 1/2 https://a.org/x?y=1. www.foo.es/a
WWW.x :// a@b.c _ é Fin.Otra fin.otra 漢 字 ก ั ٣ ² º # { } • 😀 JavaScript use cookies lorem ipsum LOREM política de privacitat de la El ÀÈ İ ς Σ ß ﬁ ǅ a b 1 S
n < > \\ | & = / : , － ﾊ 々 eta da etxe-ko""".split()
PIECES += [" ", " ", " ", "\n", "\n", "\n\n", "\t", "\r\n", "\xa0", "\u2028", "\x00", "\x1f", "\u0301", "\u00ad", "\u200d", "❤\ufe0f", "\U00020000", "\ud7ff"]
REPEATING = ["a ", "b ", "a b ", "\n", "\n\n", "c. ", "- x\n", "uno dos tres "]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join),
    st.lists(st.sampled_from(REPEATING), max_size=150).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
)
SAMPLES = {
    "es": """Declaración de los Derechos del Niño

Todos los seres humanos nacen libres e iguales en dignidad y derechos... El 12/10/1492, a las 12:30, costaba 3.000,50 €.
- Primer punto: Castilla-La Mancha
- Primer punto: Castilla-La Mancha
• «Segundo» punto (véase https://www.example.org/a_b?c=1#d).

Usamos cookies. JavaScript { desactivado }
Usamos cookies. JavaScript { desactivado }""",
    "ca": """L'home se'n va anar-se'n a l’escola d'en Joan. Dóna-m'ho, porta-la, vés-te'n!
El col·legi és intel·ligent; el coŀlegi també.
Política de privacitat i termes d'ús""",
    "ca-valencia": "Este xiquet fa huit anys hui. Açò és meua. El col·legi d'este poble.\nEste xiquet fa huit anys hui.",
    "eu": "Elkarrizketa-koadroa ireki da. 2024-ko uztailean etxe-etxean egon zen, eta bat izan da.\n\n\nLege-oharra",
    "gl": "O neno comeu o caldo que lle fixo a súa avoa. Fíxoo onte! Condicións de uso\n \n Fin…  \n",
}


def array(*texts: str | None) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def measured(*texts: str | None, language: str = "es", bands: int = 14, rows: int = 8, paragraph_words: int = 5) -> Measured:
    codes = np.full(len(texts), LANGUAGES.index(language) if language else -1, np.int8)
    return measure(array(*texts), codes, bands=bands, rows=rows, paragraph_words=paragraph_words)


def split(text: str) -> list[str]:
    found = word_hashes(array(text))
    return [text[start:end] for start, end in zip(found.start, found.end, strict=True)]


def assert_equals_reference(text: str, language: str) -> None:
    found = measured(text, language=language)
    expected = reference.statistics(text, language, STOP_WORDS[language])
    assert list(expected) == list(STATISTICS) == list(found.statistics)
    for name, value in expected.items():
        assert found.statistics[name].dtype == STATISTICS[name]
        assert found.statistics[name][0] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    paragraphs = reference.paragraphs(text, language, 5)
    assert found.paragraph_offsets.tolist() == [0, len(paragraphs)]
    assert list(zip(found.paragraph_start.tolist(), found.paragraph_end.tolist(), strict=True)) == [(start, end) for start, end, _ in paragraphs]
    lines = [text[start:end] for start, end, _ in paragraphs]
    assert [int(hashed) for hashed in found.paragraph_hash] == [int(measured(line, language=language).text_hash[0]) for line in lines]


@given(TEXTS, st.sampled_from(LANGUAGES))
@settings(max_examples=600, deadline=None)
def test_every_statistic_equals_the_plain_reference(text: str, language: str) -> None:
    assert_equals_reference(text, language)


@pytest.mark.parametrize("language", SAMPLES)
def test_statistics_of_running_text_equal_the_plain_reference(language: str) -> None:
    assert_equals_reference(SAMPLES[language], language)
    assert_equals_reference("\n\n".join(SAMPLES.values()), language)


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\n\n\n", "\x00", "\ufeff", "\u0301", "…" * 1000, "a" * 1_000_000, "é-" * 30_000, "'" * 5000, "a'" * 5000, "漢" * 3000]
)
def test_odd_texts_equal_the_plain_reference(text: str) -> None:
    assert_equals_reference(text, "ca")


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_places_of_words_are_code_points_of_the_text(text: str) -> None:
    assert split(text) == [text[token.start : token.end] for token in reference.tokens(text) if token.is_word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L'home se'n va", "L'|home|se|'n|va"),
        ("anar-se’n a l’escola", "anar|-se|’n|a|l’|escola"),
        ("Dóna-m'ho, anem-nos-en", "Dóna|-m'|ho|anem|-nos|-en"),
        ("DÓNA-M'HO", "DÓNA|-M'|HO"),
        ("El col·legi i el coŀlegi, col‧legi", "El|col·legi|i|el|coŀlegi|col‧legi"),
        ("franco-español 2024-ko", "franco-español|2024-ko"),
        ("3.000,50 € a las 12:30 del 1/2", "3.000,50|a|las|12:30|del|1/2"),
        ("Fin.Otra y/o (véase archivo.txt, a@b.es).", "Fin|Otra|y|o|véase|archivo.txt|a@b.es"),
        ("«https://a.org/b_(c)?d=1»; www.e.eus/f.", "https://a.org/b_(c)?d=1|www.e.eus/f"),
        ("<a href=http://x.es/>", "a|href|http://x.es/"),
        ("東京タワー 한국어 ไทย", "東|京|タ|ワ|ー|한국어|ไ|ท|ย"),
        ("re\u0301sume\u0301 pa\u00adraula", "re\u0301sume\u0301|pa\u00adraula"),
        ("... --- ’’ ❤\ufe0f", ""),
    ],
)
def test_words_of_our_languages(text: str, words: str) -> None:
    assert split(text) == (words.split("|") if words else [])


def test_punctuation_marks_are_tokens_and_a_run_of_one_mark_is_one() -> None:
    found = measured("Hola... ¿qué?! --- (sí)").statistics
    assert (found["words"][0], found["tokens"][0]) == (3, 10)  # Hola ... ¿ qué ? ! --- ( sí )
    assert found["alpha_word_ratio"][0] == pytest.approx(0.3)


def test_line_statistics() -> None:
    found = {name: values[0] for name, values in measured("Una línea.\n- otra\n- otra\n\nFin...").statistics.items()}
    assert found["lines"] == 5
    assert found["bullet_line_ratio"] == pytest.approx(2 / 5)
    assert found["ellipsis_line_ratio"] == pytest.approx(1 / 5)
    assert found["punctuated_line_ratio"] == pytest.approx(2 / 4)
    assert found["duplicate_line_ratio"] == pytest.approx(1 / 4)
    assert found["duplicate_line_character_ratio"] == pytest.approx(6 / 32)
    assert found["duplicate_full_line_character_ratio"] == pytest.approx(6 / 28)


def test_repetition_by_hand() -> None:
    text = "uno dos tres cuatro cinco uno dos tres cuatro cinco uno dos"
    found = {name: values[0] for name, values in measured(text).statistics.items()}
    assert found["top_2_gram_ratio"] == pytest.approx(3 * len("uno dos") / len(text))
    assert found["top_3_gram_ratio"] == pytest.approx(2 * len("uno dos tres") / len(text))
    assert found["duplicate_5_gram_ratio"] == pytest.approx(len("unodostrescuatrocinco") / len(text))
    assert found["duplicate_6_gram_ratio"] == pytest.approx(len("unodostrescuatrocincouno") / len(text))
    assert found["duplicate_8_gram_ratio"] == 0


@pytest.mark.parametrize("words", [2, 10, 100_000])
def test_one_word_over_and_over(words: int) -> None:
    text = " ".join(["ja"] * words)
    found = {name: values[0] for name, values in measured(text).statistics.items()}
    assert found["top_2_gram_ratio"] == pytest.approx((words - 1) * 5 / len(text))
    repeats = max(0, words - 5) // 5  # the first 5-gram is new, then every fifth word begins a repeated one
    assert found["duplicate_5_gram_ratio"] == pytest.approx((repeats if words < 11 else (words - 1) // 5) * 10 / len(text))


def test_stop_words_are_counted_once_each_and_in_the_language_of_the_document() -> None:
    text = "de la casa de la meua gent eta L'home"
    assert measured(text, language="es").statistics["stop_words"][0] == 2
    assert measured(text, language="eu").statistics["stop_words"][0] == 1
    assert measured(text, language="").statistics["stop_words"][0] == 0
    assert measured("l'home d'ací", language="ca").statistics["stop_words"][0] == 2
    assert measured("l'home d'ací", language="ca").statistics["stop_word_ratio"][0] == pytest.approx(0.5)
    both = measure(array(text, text), np.array([0, 3], np.int8), bands=1, rows=1, stop_words={"es": ["casa"], "eu": ["gent", "meua"]})
    assert both.statistics["stop_words"].tolist() == [1, 2]


def test_every_language_has_stop_words() -> None:
    assert set(STOP_WORDS) == set(FINEWEB2_STOP_WORDS) == set(LANGUAGES)
    assert all(len(set(words)) == len(words) for lists in (STOP_WORDS, FINEWEB2_STOP_WORDS) for words in lists.values())


@pytest.mark.parametrize(("line", "policy", "javascript", "filler"), [
    ("Consulta la Política  de PRIVACITAT.", 1, 0, 0),
    ("Consulta la política\nde privacitat", 0, 0, 0),
    ("Este sitio usa cookies y JavaScript", 1, 1, 0),
    ("Lorem ipsum dolor sit amet", 0, 0, 1),
    ("javascripts", 0, 0, 0),
    ("Pribatutasun-politika", 1, 0, 0),
])  # fmt: skip
def test_phrases_of_notices_and_filler(line: str, policy: int, javascript: int, filler: int) -> None:
    found = measured(f"Hola.\n{line}\nAdiós.", language="eu").statistics
    assert [found[name][0] for name in ("policy_lines", "javascript_lines", "lorem_ipsum")] == [policy, javascript, filler]


@given(st.lists(st.one_of(st.none(), TEXTS), max_size=6), st.data())
@settings(max_examples=80, deadline=None)
def test_slices_and_nulls_are_measured_as_alone(texts: list[str | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(texts)))
    stop = data.draw(st.integers(start, len(texts)))
    whole = array(*texts)[start:stop]
    together = measure(whole, np.zeros(len(whole), np.int8), bands=2, rows=2)
    for row, text in enumerate(texts[start:stop]):
        alone = measured(text or "", bands=2, rows=2)
        assert all(together.statistics[name][row] == alone.statistics[name][0] for name in STATISTICS)
        assert together.text_hash[row] == alone.text_hash[0]
        assert together.bands[:, row].tolist() == alone.bands[:, 0].tolist()
        first, last = together.paragraph_offsets[row : row + 2]
        assert together.paragraph_hash[first:last].tolist() == alone.paragraph_hash.tolist()
    grams = ngram_hashes(whole, 2)
    assert grams.offsets[-1] == len(grams.hashes) == sum(len(ngram_hashes(array(text or ""), 2).hashes) for text in texts[start:stop])


@given(st.lists(st.binary(max_size=40), min_size=3, max_size=3))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_utf8_are_read_within_their_document(parts: list[bytes]) -> None:
    def arrow(*pieces: bytes) -> pa.LargeStringArray:
        offsets = np.cumsum([0, *map(len, pieces)]).astype(np.int64)
        return pa.LargeStringArray.from_buffers(len(pieces), pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces)))

    together = measure(arrow(*parts), np.zeros(3, np.int8), bands=2, rows=2)
    alone = measure(arrow(parts[1]), np.zeros(1, np.int8), bands=2, rows=2)
    assert all(together.statistics[name][1] == alone.statistics[name][0] for name in STATISTICS)
    assert together.text_hash[1] == alone.text_hash[0]
    assert together.bands[:, 1].tolist() == alone.bands[:, 0].tolist()


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_hashes_depend_on_the_lower_cased_words_alone(text: str) -> None:
    found = measured(text)
    plain = [word for word in reference.words(text) if word.isascii() and word.isalnum()]
    one, other = measured(" ".join(plain)), measured("¡" + "\n— ".join(plain).upper() + "!")
    assert one.text_hash[0] == other.text_hash[0]
    if plain:
        assert one.bands.tolist() == other.bands.tolist()
    assert bool(found.text_hash[0] == 0) == (not reference.words(text))


@given(st.lists(TEXTS, min_size=2, max_size=2))
@settings(max_examples=150, deadline=None)
def test_texts_share_their_hash_when_and_only_when_their_words_are_equal(texts: list[str]) -> None:
    found = measured(*texts)
    assert bool(found.text_hash[0] == found.text_hash[1]) == (reference.words(texts[0]) == reference.words(texts[1]))


def test_texts_without_words_meet_only_when_they_are_equal() -> None:
    found = measured("...", "---", "...", "", None)
    assert found.text_hash.tolist() == [0] * 5
    assert len(set(found.bands[0].tolist())) == 3
    assert found.bands[:, 0].tolist() == found.bands[:, 2].tolist()
    assert found.bands[:, 3].tolist() == found.bands[:, 4].tolist()


@given(TEXTS, st.sampled_from(LANGUAGES))
@settings(max_examples=150, deadline=None)
def test_hashes_equal_the_plain_reference(text: str, language: str) -> None:
    found, words = measured(text, language=language, bands=3, rows=2), reference.words(text, language)
    assert int(found.text_hash[0]) == reference.sequence_hash(words)
    if words:
        assert found.bands[:, 0].tolist() == reference.band_hashes(words, 3, 2)
    spoken = reference.words(text)
    assert ngram_hashes(array(text), 3).hashes.tolist() == [reference.sequence_hash(gram) for gram in reference.ngrams(spoken, 3)]


def _signatures(*texts: str, permutations: int = 512) -> npt.NDArray[np.uint64]:
    return measured(*texts, language="", bands=permutations, rows=1).bands


def _shingles(text: str) -> set[tuple[str, ...]]:
    return set(reference.ngrams(text.split(), 5))


@pytest.mark.parametrize("kept", [10, 100, 300, 600, 900])
def test_share_of_equal_minima_is_the_jaccard_similarity(kept: int) -> None:
    generator = np.random.Generator(np.random.PCG64(kept))
    cases, permutations, deviation = 20, 512, []
    for _ in range(cases):
        words = [f"w{number}" for number in generator.integers(0, 1 << 30, 1000 - kept + 1000)]
        one, other = " ".join(words[:1000]), " ".join([*words[:kept], *words[1000:]])
        jaccard = len(_shingles(one) & _shingles(other)) / len(_shingles(one) | _shingles(other))
        pair = _signatures(one, other, permutations=permutations)
        deviation.append((float(np.mean(pair[:, 0] == pair[:, 1])) - jaccard) / np.sqrt(jaccard * (1 - jaccard) / permutations))
    assert abs(float(np.mean(deviation))) < 4 / np.sqrt(cases)  # unbiased: four standard errors
    assert 0.4 < float(np.std(deviation)) < 1.8  # of the size that independent permutations give


def test_permutations_are_independent_of_each_other() -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    texts = [" ".join(f"w{number}" for number in generator.integers(0, 1 << 30, 60)) for _ in range(2000)]
    ranks = np.argsort(np.argsort(_signatures(*texts, permutations=64), axis=1), axis=1)
    correlation = np.corrcoef(ranks)
    assert np.abs(correlation - np.eye(64)).max() < 6 / np.sqrt(len(texts))


def test_band_probability_is_that_of_14_bands_of_8_rows() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    texts, chances = [], []
    for _ in range(300):
        words = [f"w{number}" for number in generator.integers(0, 1 << 30, 400)]
        changed = [*words[:340], *(f"x{number}" for number in generator.integers(0, 1 << 30, 60))]
        texts += [" ".join(words), " ".join(changed)]
        jaccard = len(_shingles(texts[-1]) & _shingles(texts[-2])) / len(_shingles(texts[-1]) | _shingles(texts[-2]))
        chances.append(1 - (1 - jaccard**8) ** 14)
    bands = measured(*texts, language="").bands
    met = (bands[:, ::2] == bands[:, 1::2]).any(axis=0)
    assert abs(float(met.sum()) - sum(chances)) < 4 * np.sqrt(sum(chance * (1 - chance) for chance in chances))
    assert not (bands[:, :-2:2] == bands[:, 2::2]).any()  # other texts, and bands of other numbers, never meet
    assert len(np.unique(bands)) > 0.9 * bands.size / 2


@given(TEXTS, st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_ngrams_are_windows_of_words(text: str, n: int) -> None:
    found, tokens = ngram_hashes(array(text), n), [token for token in reference.tokens(text) if token.is_word]
    windows = [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
    assert list(zip(found.start.tolist(), found.end.tolist(), strict=True)) == [(window[0].start, window[-1].end) for window in windows]
    spelled = [tuple(reference.lower(token.written) for token in window) for window in windows]
    assert len(set(found.hashes.tolist())) == len(set(spelled))
    assert len(set(zip(found.hashes.tolist(), spelled, strict=True))) == len(set(spelled))


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 4), st.data())
@settings(max_examples=200, deadline=None)
def test_matches_are_the_ngrams_in_the_table(texts: list[str], n: int, data: st.DataObject) -> None:
    listed = ngram_hashes(array(*texts), n)
    wanted = data.draw(st.sets(st.sampled_from(sorted(set(listed.hashes.tolist()))))) if len(listed.hashes) else set()
    table = np.array(sorted({*wanted, 1, 1 << 63}), np.uint64)
    found = find_ngrams(array(*texts), n, table)
    inside = np.isin(listed.hashes, table)
    rows = np.repeat(np.arange(len(texts)), np.diff(listed.offsets))
    for column, expected in zip(found, (rows, listed.start, listed.end, listed.hashes), strict=True):
        np.testing.assert_array_equal(column, expected[inside])
    assert not len(find_ngrams(array(*texts), n, np.empty(0, np.uint64)).row)


PINNED_TEXT = "L’home se’n va a la 東京, 3.000,50 € — ÀÉÍ İstanbul e\u0301.\nUna línea más de cinco palabras"
PINNED = {
    "text_hash": 10353899629048007765,
    "bands": [10736920288791934294, 9156762523724082397],
    "paragraphs": [10224358283027370281, 12844804691294027874],
    "ngrams": [10224358283027370281, 5402931853801670921],
}


def _pinned() -> dict[str, object]:
    found = measured(PINNED_TEXT, bands=2, rows=4)
    grams = ngram_hashes(array(PINNED_TEXT), 13)
    return {
        "text_hash": int(found.text_hash[0]),
        "bands": found.bands[:, 0].tolist(),
        "paragraphs": found.paragraph_hash.tolist(),
        "ngrams": grams.hashes[:2].tolist(),
    }


def test_hashes_are_the_same_on_every_machine_and_in_every_process() -> None:
    """Corpora are joined by these numbers: a change of them is a new version of the annotations."""
    assert _pinned() == PINNED
    program = "import json; from tests.curate.test_kernel import _pinned; print(json.dumps(_pinned()))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(child.stdout) == PINNED


@pytest.mark.parametrize(
    ("character", "kind"),
    [("a", LETTER), ("É", LETTER), ("ŀ", LETTER), ("º", LETTER), ("9", DIGIT), ("½", DIGIT), ("Ⅻ", DIGIT), ("\u0301", MARK), ("\u00ad", MARK), ("\ufe0f", MARK),
     ("\U000e0101", MARK), ("漢", IDEOGRAPH), ("ไ", IDEOGRAPH), ("𠀀", IDEOGRAPH), ("\U00032400", SYMBOL), ("\U000f0000", SYMBOL), ("'", SYMBOL), ("€", SYMBOL),
     ("\x00", SYMBOL), ("\xa0", SPACE), ("\u3000", SPACE), ("\x85", SPACE)],
)  # fmt: skip
def test_classes_of_characters(character: str, kind: int) -> None:
    tables, code = characters(), ord(character)
    properties = tables.properties[int(tables.pages[code >> 8]) << 8 | code & 255]
    assert properties & CLASS_MASK == kind
    assert bool(properties & UPPER) == (unicodedata.category(character) in ("Lu", "Lt"))


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(TypeError, match="text is a StringArray, expected a LargeStringArray"):
        measure(pa.array(["a"]), np.zeros(1, np.int8), bands=1, rows=1)
    with pytest.raises(ValueError, match="1 documents, but 2 languages"):
        measure(array("a"), np.zeros(2, np.int8), bands=1, rows=1)
    with pytest.raises(ValueError, match="languages from 5 to 5: expected -1 to 4"):
        measure(array("a"), np.full(1, 5, np.int8), bands=1, rows=1)
    with pytest.raises(ValueError, match="rows: 0 is less than 1"):
        measure(array("a"), np.zeros(1, np.int8), bands=1, rows=0)
    with pytest.raises(ConfigError, match="stop_words: unknown language 'val'"):
        measure(array("a"), np.zeros(1, np.int8), bands=1, rows=1, stop_words={"val": ["de"]})
    with pytest.raises(ValueError, match="not sorted"):
        find_ngrams(array("a"), 1, np.array([2, 1], np.uint64))
    with pytest.raises(ValueError, match="n-grams of 0 words"):
        ngram_hashes(array("a"), 0)
    with pytest.raises(ValueError, match="n-grams of -1 words"):
        find_ngrams(array("a"), -1, np.empty(0, np.uint64))
