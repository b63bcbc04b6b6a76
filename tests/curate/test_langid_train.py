import json
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.curate.langid.evaluate import read_labelled, table_of
from iberlm.curate.langid.marks import Marks, learn_marks, write_marks
from iberlm.curate.langid.material import Source, read_sources, spread
from iberlm.curate.langid.train import load_recipe, train_langid
from iberlm.curate.ngram_model import NgramModel

EVERYDAY = Path(__file__).parent / "everyday"
LANGUAGES = {"ca": ["ca"], "ca-valencia": ["ca-valencia"], "gl": ["gl", "gl_ES"], "en": ["en"], "other-germanic": ["de"]}
GALICIAN = "A veciñanza está contenta coa nova biblioteca do barrio"


def catalogue(messages: dict[str, str]) -> bytes:
    """A compiled gettext catalogue, little-endian."""
    originals, translations = [key.encode() for key in messages], [value.encode() for value in messages.values()]
    start = 28 + 16 * len(messages)
    tables, texts = b"", b""
    for strings in (originals, translations):
        for string in strings:
            tables += struct.pack("<II", len(string), start + len(texts))
            texts += string + b"\0"
    return struct.pack("<IIIIIII", 0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, 0) + tables + texts


def read(root: Path, **source: object) -> list[str]:
    return [text.text for text in read_sources([Source(domain="test", tags=["gl"], **source)], LANGUAGES, root, 10)]


def test_every_format_is_read_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "gl"
    folder.mkdir()
    folder.joinpath("a.mo").write_bytes(catalogue({"": "Language: gl", "Close": f"_{GALICIAN}", "Kept by name": "Kept by name"}))
    folder.joinpath("a.po").write_text(
        f'msgid ""\nmsgstr "Language: gl"\n\nmsgid "Open"\nmsgstr ""\n"{GALICIAN[:20]}"\n"{GALICIAN[20:]}"\n\n'
        '#, fuzzy\nmsgid "x"\nmsgstr "Isto non vale para nada"\n',
        encoding="utf-8",
    )
    folder.joinpath("a.json").write_text(json.dumps({"@metadata": {"authors": ["Xoán"]}, "a": f"<b>{GALICIAN}</b> $1 {{{{PLURAL:$1|a|b}}}}"}), encoding="utf-8")
    folder.joinpath("a.html").write_text(f"<html><body><p>{GALICIAN}</p><script>var un = 'texto de guión'</script></body></html>", encoding="utf-8")
    folder.joinpath("a.txt").write_text(f"# comentario que non se le\n{GALICIAN}\n", encoding="utf-8")
    folder.joinpath("a.dic").write_text("3\nbiblioteca/10\nconcello\nMadrid\nveciñanza\n", encoding="utf-8")
    for form, name in (("mo", "a.mo"), ("po", "a.po"), ("messages", "a.json"), ("html", "a.html"), ("text", "a.txt")):
        assert read(tmp_path, path=f"{{language}}/{name}", format=form) == [GALICIAN], form
    assert set(read(tmp_path, path="gl/*.dic", format="lexicon")[0].split()) == {"biblioteca", "concello", "veciñanza"}


def test_documents_with_much_english_are_left_out_and_the_package_is_the_origin(tmp_path: Path) -> None:
    records = [
        {"text": f"{GALICIAN}\ncurta", "source": "paquete 1.0-2", "en_ratio": 0.0},
        {"text": "Outra liña en galego, pero de moito inglés", "source": "paquete 1.0-2", "en_ratio": 0.8},
    ]
    (tmp_path / "documents.gl.jsonl.zst").write_bytes(zstandard.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    source = Source(path="documents.{language}.jsonl.zst", format="documents", domain="test", tags=["gl"])
    found = read_sources([source], LANGUAGES, tmp_path, 10)
    assert [(text.text, text.tag, text.origin) for text in found] == [(GALICIAN, "gl", "paquete")]


def test_a_text_of_two_languages_is_of_neither_but_catalan_and_valencian_share(tmp_path: Path) -> None:
    for tag, lines in {
        "ca": ["la mateixa frase aquí", "frase catalana del tot"],
        "ca-valencia": ["La mateixa frase aquí"],
        "gl": ["frase catalana del tot"],
    }.items():
        (tmp_path / f"{tag}.txt").write_text("\n".join(lines), encoding="utf-8")
    found = read_sources([Source(path="{language}.txt", format="text", domain="test", tags=["ca", "ca-valencia", "gl"])], LANGUAGES, tmp_path, 10)
    assert [(text.tag, text.text) for text in found] == [("ca", "la mateixa frase aquí"), ("ca-valencia", "La mateixa frase aquí")]


def test_what_is_taken_of_many_texts_does_not_change_with_the_rest() -> None:
    texts = [f"frase número {n}" for n in range(300)]
    kept = spread(texts, 100)
    assert len(kept) == 100
    assert kept == [text for text in texts if text in set(kept)]
    assert set(spread(texts[:200], 100)) >= set(kept) & set(texts[:200])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "none/*.mo", "format": "mo", "domain": "d"}, "no text in any language"),
        ({"path": "*.txt", "format": "text", "domain": "d", "tags": ["xx"]}, "'xx' is not among the languages"),
    ],
)
def test_sources_that_cannot_be_right_are_refused(tmp_path: Path, source: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_sources([Source(**source)], LANGUAGES, tmp_path, 10)


def test_marks_are_words_that_only_one_variety_has(tmp_path: Path) -> None:
    pairs = [(f"Aquesta llista {n} obre la sortida", f"Esta llista {n} obri l'eixida", f"package{n % 4}") for n in range(12)]
    marks = learn_marks(pairs, [("La seua casa", True)] * 3, [("La llista obri finestres", f"handbook{n}") for n in range(40)])
    assert marks["esta"] > 0 > marks["aquesta"]
    assert marks["seua"] > 0
    assert "llista" not in marks
    assert "obri" not in marks, "Catalan documents have it"
    write_marks(tmp_path / "marks.tsv", marks)
    sums = Marks.load(tmp_path / "marks.tsv")
    data = np.frombuffer(b"Esta llista. Aquesta eixida", np.uint8)
    valencian, central = sums.sums(data, np.array([0, 0]), np.array([12, len(data)])).T
    assert valencian[0] == pytest.approx(marks["esta"])
    assert central.tolist() == pytest.approx([0, -marks["aquesta"]])


def test_a_list_of_marks_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "marks.tsv").write_text("este\tmolt\n", encoding="utf-8")
    with pytest.raises(CorruptError, match="not a list of marks"):
        Marks.load(tmp_path / "marks.tsv")


def test_precision_recall_and_confusions() -> None:
    table = table_of(["es", "es", "gl", "gl"], ["es", "gl", "gl", "gl"])
    assert (table.recall("es"), table.precision("gl"), table.accuracy) == (0.5, pytest.approx(2 / 3), 0.75)
    assert table.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert "gl 1" in table.rendered()


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no TAG\.txt"):
        read_labelled(tmp_path)


RECIPE = """
root: {root}
languages: {{es: [es], ca: [ca], ca-valencia: [ca-valencia], gl: [gl], other-germanic: [en]}}
sources:
  - {{path: "{{language}}.txt", format: text, domain: daily life, tags: [es, ca, ca-valencia, gl], varieties: true, background: true, held_out: false}}
  - {{path: "aside.*.txt", format: text, domain: daily life, tags: [es]}}
  - {{path: "en.txt", format: text, domain: daily life, tags: [other-germanic]}}
pairs:
  - {{path: pairs.jsonl}}
max_texts: 500
language_model: {{bits: 12, epochs: 3}}
variety_model: {{shortest: 4, longest: 6, pairs: true, bits: 12, epochs: 3}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    material = tmp_path / "material"
    material.mkdir()
    for tag in ("es", "ca", "ca-valencia", "gl", "en"):
        (material / f"{tag}.txt").write_text((EVERYDAY / f"{tag}.txt").read_text("utf-8"), encoding="utf-8")
    for name in range(30):  # some of these origins fall among those that are kept aside
        (material / f"aside.{name}.txt").write_text(f"Hoy hemos salido a pasear por el parque del barrio nuevo número {'un' * (name + 1)}.", encoding="utf-8")
    lines = [
        {
            "ca": f"Aquesta llista de fitxers {'molt ' * n} és la seva i surt aquí",
            "va": f"Esta llista de fitxers {'molt ' * n} és la seua i ix ací",
            "source": f"p{n}",
        }
        for n in range(30)
    ]
    (material / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(root=material), encoding="utf-8")
    return path


def test_a_recipe_is_trained_twice_to_the_same_bytes(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("one", "two"):
        assert train_langid(recipe, tmp_path / out) == 0
    names = ["languages.safetensors", "marks.tsv", "measures.json", "valencian.safetensors"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert NgramModel.load(tmp_path / "one" / "languages.safetensors").classes == ("es", "ca", "gl", "other-germanic")
    said = capsys.readouterr().out
    assert "daily life: es" in said
    assert "Valencian strings found" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sources: 5", "sources"),
        ("root: ''", "root: must be given"),
        ("max_texts: 3", "max_texts"),
        ("colour: red", "colour"),
        ("root: ${oc.env:NO_SUCH_NAME}", "NO_SUCH_NAME"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_key(recipe: Path, wrong: str, message: str) -> None:
    key = wrong.split(":")[0]
    lines = [line for line in recipe.read_text("utf-8").split("\n") if not line.startswith(f"{key}:")]
    if key == "sources":
        lines = [line for line in lines if not line.startswith('  - {path: "')]
    recipe.write_text("\n".join([*lines, wrong]), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe)
