"""`iberlm measure-tokenizer` as a user meets it: tables, files, a page in a real browser, and refusals before anything is measured."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_level, metaspace_unigram, sentencepiece_model, write_hugging_face
from tests.browser import chromium
from tokenizer_corpus import TEXTS

from iberlm.cli.tools import run_tool
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer.measure_command import read_texts
from iberlm.tokenizer.measure_page import Axis, page

HOSTILE = "a<script>document.title='owned'<"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bpe: Manifest) -> Path:
    """Tokenizers: two folders of the same name, a SentencePiece file, and one with a name that is markup."""
    folder = tmp_path_factory.mktemp("measured")
    write_hugging_face(folder / "first" / "tokenizer", byte_level())
    write_hugging_face(folder / "second" / "tokenizer", byte_level(500))
    write_hugging_face(folder / HOSTILE, metaspace_unigram())
    (folder / "small.model").write_bytes(sentencepiece_model(normalization_rule_name="identity", remove_extra_whitespaces=False))
    for tag, text in TEXTS.items():
        (folder / f"{tag}.txt").write_text(text)
    return folder


def tokenizers(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("first/tokenizer", "second/tokenizer", "small.model", HOSTILE)]


@pytest.fixture(scope="module")
def made(folder: Path, curated: Manifest) -> Path:
    """The folder of measure.json and measure.html, of everything that can be asked for."""
    out = folder / "out"
    texts = [f"--text={tag}={folder / f'{tag}.txt'}" for tag in ("es", "eu")]
    assert run_tool(["measure-tokenizer", *tokenizers(folder), "--documents", str(curated.folder), *texts, "--out", str(out)]) == 0
    return out


def test_tables_have_a_row_a_tokenizer_and_a_column_a_language(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(["measure-tokenizer", *tokenizers(folder)[:3]]) == 0
    printed = capsys.readouterr().out
    tables = re.split(r"\n\n", printed)
    cost = next(table for table in tables if table.startswith("tokens, the cheapest = 1")).splitlines()
    assert cost[0].split()[4:] == ["1", "es", "ca", "ca-valencia", "eu", "gl", "en", "all", "most/least", "Gini"]
    rows = {line.split()[0]: [float(cell.replace(",", "")) for cell in line.split()[1:]] for line in cost[1:4]}
    assert list(rows) == ["first/tokenizer", "second/tokenizer", "small.model"]
    for cells in rows.values():
        assert min(cells[:5]) == 1.0
        assert max(cells[:5]) == pytest.approx(cells[7])
    assert cost[-1] == "all, most/least and Gini: of es, ca, ca-valencia, eu, gl"
    words = next(table for table in tables if table.startswith("tokens a word ")).splitlines()
    assert float(words[1].split()[1]) < float(words[2].split()[1])  # a larger vocabulary takes fewer tokens
    assert "own text" not in printed
    assert "validation documents" not in printed
    assert "small.model: at character 0: " in printed  # which text it loses


def test_json_has_all_that_was_measured(made: Path, folder: Path) -> None:
    found = json.loads((made / "measure.json").read_text())
    assert set(found) == {"first/tokenizer", "second/tokenizer", "small.model", HOSTILE}
    one = found["small.model"]
    assert one["kind"] == "sentencepiece"
    assert one["path"] == str(folder / "small.model")
    assert set(one["languages"]) == set(TEXTS)
    assert set(one["texts"]) == {"es", "eu"}
    assert one["texts"]["es"]["documents"] == 1
    assert one["round_trip"]["failed"] > 0
    assert found["first/tokenizer"]["round_trip"]["failed"] == 0
    assert found["first/tokenizer"]["pieces"]["missing_bytes"] == []


class Elements(HTMLParser):
    """Elements and text of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_is_whole_and_hostile_names_are_text(made: Path) -> None:
    html = (made / "measure.html").read_text(encoding="utf-8")
    elements = Elements(html)
    assert not [tag for tag, _ in elements.found if tag == "script"]
    assert HOSTILE in "".join(elements.words)
    assert not [attributes for _, attributes in elements.found if re.match("(https?:)?//", attributes.get("href") or attributes.get("src") or "")]
    labels = [attributes["aria-label"] for tag, attributes in elements.found if tag == "svg" and attributes.get("role") == "img"]
    assert len(labels) == 4 + 4 * 6  # a row a tokenizer, and in the panel of each language
    assert all(re.search(r"\d", label) for label in labels)
    text = " ".join("".join(elements.words).split())
    for said in ("What the same content costs", "Validation documents, in numbers", "Own text, in numbers", "A text that is not given back"):
        assert said in text


@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_its_window_and_fetches_nothing(made: Path, width: int) -> None:
    with chromium() as browser:
        window = browser.new_page(viewport={"width": width, "height": 900})
        requests, complaints = [], []
        window.on("request", lambda request: requests.append(request.url))
        window.on("console", lambda message: complaints.append(message.text))
        window.goto((made / "measure.html").as_uri())
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        assert requests == [(made / "measure.html").as_uri()]
        assert complaints == []
        assert window.title() == "Tokenizers side by side · IberLM"
        boxes = [box for svg in window.locator("figure svg[role=img]").all() if (box := svg.bounding_box())]
        assert min(box["width"] for box in boxes) > 120
        sizes = window.evaluate(
            "[...document.querySelectorAll('figure span, figure i')].filter(e => e.textContent).map(e => parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 12


def test_same_input_gives_the_same_page(made: Path, folder: Path, curated: Manifest, tmp_path: Path) -> None:
    texts = [f"--text={tag}={folder / f'{tag}.txt'}" for tag in ("es", "eu")]
    run_tool(["measure-tokenizer", *tokenizers(folder), "--documents", str(curated.folder), *texts, "--out", str(tmp_path)])
    for name in ("measure.json", "measure.html"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_page_can_do_without_a_common_language(made: Path) -> None:
    """Parallel text of one of our languages and a neighbour: no Gini, and nothing to compare."""
    found = json.loads((made / "measure.json").read_text())
    for one in found.values():
        one["parallel"] |= {"tokens": {"es": 10, "pt": 10}, "languages": ["es"], "gini": None, "ratio": None}
        for key in ("tokens_per_word", "bytes_per_token", "whole_words"):
            one["parallel"][key] = {"es": 1.0, "pt": 1.0}
    assert "Portuguese is shown beside" in page(found)


@given(st.lists(st.floats(0.01, 1e7), min_size=1, max_size=5))
def test_axes_hold_their_values_and_have_few_ticks(values: list[float]) -> None:
    axis = Axis(values)
    assert all(0 <= float(axis.place(value)) <= 100 for value in values)
    ticks = axis.ticks(str)
    assert len(ticks) <= 6
    assert all(0 <= float(place) <= 100 for place, _ in ticks)
    if max(values) > 1.01 * min(values) + 1:
        assert ticks


@pytest.mark.parametrize(
    ("argument", "kind", "said"),
    [
        ("es", ConfigError, "'es' is not LANG=FILE, such as es=novel.txt"),
        ("es=", ConfigError, "is not LANG=FILE"),
        ("val=x.txt", ConfigError, "for Valencian write 'ca-valencia'"),
        ("es=nothing.txt", ConfigError, "nothing.txt: cannot be read"),
    ],
)
def test_wrong_texts_are_refused(argument: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        read_texts([argument])


def test_texts_without_words_or_utf8_are_refused_and_long_ones_are_cut_at_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xff\xfea")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_texts([f"es={file}"])
    file.write_text(" \n\n")
    with pytest.raises(DataError, match="has no word"):
        read_texts([f"es={file}"])
    file.write_text("una línea de texto\n" * 20_000)
    found = read_texts([f"gl={file}", f"es={file}", f"gl={file}"])
    assert list(found) == ["es", "gl"]
    assert "".join(found["es"]) == file.read_text()
    assert len(found["es"]) > 1
    assert all(part.endswith("\n") for part in found["es"])
    assert found["gl"] == found["es"] * 2


def test_nothing_is_measured_when_one_tokenizer_cannot_be_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, kind in ((tmp_path / "missing", ConfigError), (folder / "es.txt", CorruptError)):
        with pytest.raises(kind, match=re.escape(str(wrong))):
            run_tool(["measure-tokenizer", str(folder / "small.model"), str(wrong), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()


def test_folders_that_have_no_validation_documents_are_refused(folder: Path, tmp_path: Path, bpe: Manifest) -> None:
    with pytest.raises(DataError, match="has not finished"):
        run_tool(["measure-tokenizer", str(folder / "small.model"), "--documents", str(tmp_path)])
    with pytest.raises(DataError, match=r"has no validation documents; give the folder of a curate stage \(this is 'train_tokenizer'\)"):
        run_tool(["measure-tokenizer", str(folder / "small.model"), "--documents", str(bpe.folder)])


def test_parallel_files_of_unequal_length_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "es.txt").write_text("una\ndos")
    (tmp_path / "gl.txt").write_text("unha")
    with pytest.raises(DataError, match="differ in their number of lines"):
        run_tool(["measure-tokenizer", str(folder / "small.model"), "--parallel", str(tmp_path)])


def test_parallel_text_of_ones_own_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "es.txt").write_text("una casa\ndos")
    (tmp_path / "pt.txt").write_text("uma casa\ndois")
    assert run_tool(["measure-tokenizer", str(folder / "small.model"), "--parallel", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"== 2 lines of {tmp_path}, which say the same in each language" in printed
    assert "all, most/least and Gini: of es" in printed
