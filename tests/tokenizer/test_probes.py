"""The texts that tokenizers are probed with: each what it claims to be, and parallel lines that do say the same."""

import ast
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest

from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.curate.langid import identify
from iberlm.tokenizer import probes
from iberlm.tokenizer.measure import EMBEDDED, ENGLISH, read_parallel

FOLDER = Path(str(files("iberlm.tokenizer"))) / "parallel"
SAMPLE = Path(str(files("iberlm.sources"))) / "sample"
TAGS = (*LANGUAGES, ENGLISH)
PARALLEL = read_parallel(None)
WORDS_PER_SPANISH_WORD = {"es": (1, 1), "ca": (0.95, 1.08), "ca-valencia": (0.95, 1.08), "eu": (0.65, 0.85), "gl": (0.9, 1.02), "en": (0.92, 1.08)}
"""Bounds for each file as a whole. Basque declines where the others have articles and prepositions."""
WORDS = {name: getattr(probes, name) for name in ("DIGITS", "PUNT_VOLAT", "ELISION")}
NOT_COPIED_WORDS = 8


def ngrams(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def sample_texts() -> Iterator[str]:
    """Every string of the sample documents and instructions."""

    def strings(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from strings(item)

    for path in sorted(SAMPLE.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from strings(json.loads(line))


def figures(line: str) -> list[int]:
    """The numbers of a line in increasing order, whatever stands between thousands or before decimals."""
    return sorted(int(re.sub(r"\D", "", number)) for number in re.findall(r"\d+(?:[., :]\d+)*", line))


def test_every_language_has_the_same_number_of_lines() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {file_safe(tag) for tag in TAGS}
    assert PARALLEL.source == EMBEDDED
    assert {tag: len(lines) for tag, lines in PARALLEL.items()} == dict.fromkeys(TAGS, 120)


@pytest.mark.parametrize("tag", TAGS)
def test_lines_are_clean_and_occur_once(tag: str) -> None:
    text = (FOLDER / f"{file_safe(tag)}.txt").read_bytes().decode("utf-8")
    lines = text.removesuffix("\n").split("\n")
    assert lines == PARALLEL[tag]  # so that nothing was mended on reading: no BOM, no CR, no spaces at an end
    assert text.endswith("\n")
    assert unicodedata.is_normalized("NFC", text)
    assert "  " not in text
    assert not [character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") and character not in " \n"]
    assert len(set(lines)) == len(lines)


def test_each_file_is_in_its_language() -> None:
    assert [tag for tag, _ in identify(["\n".join(PARALLEL[tag]) for tag in TAGS])] == list(TAGS)


@pytest.mark.parametrize("tag", [tag for tag in TAGS if not tag.startswith("ca")])
def test_each_line_is_in_its_language(tag: str) -> None:
    assert {found for found, _ in identify(PARALLEL[tag])} == {tag}


@pytest.mark.parametrize("tag", [tag for tag in TAGS if tag.startswith("ca")])
def test_lines_in_catalan_and_valencian_are_told_from_all_others(tag: str) -> None:
    """Many sentences bear no mark of either variety, so that single lines need not be told apart."""
    assert {found for found, _ in identify(PARALLEL[tag])} <= {"ca", "ca-valencia"}


def test_languages_differ_on_every_line_and_varieties_on_nearly_all() -> None:
    for one, other in combinations(TAGS, 2):
        equal = sum(first == second for first, second in zip(PARALLEL[one], PARALLEL[other], strict=True))
        varieties = {one, other} == {"ca", "ca-valencia"}
        assert equal <= (0.1 * len(PARALLEL[one]) if varieties else 0), (one, other)


@pytest.mark.parametrize("tag", TAGS)
def test_words_agree_with_spanish_in_number(tag: str) -> None:
    """A line that slipped by one, or a file with more to say than the others."""
    words, spanish = ([len(line.split()) for line in PARALLEL[own]] for own in (tag, "es"))
    low, high = WORDS_PER_SPANISH_WORD[tag]
    assert low <= sum(words) / sum(spanish) <= high
    ratios = {number: own / other for number, (own, other) in enumerate(zip(words, spanish, strict=True), 1)}
    assert {number: ratio for number, ratio in ratios.items() if not 0.45 <= ratio <= 1.6} == {}
    characters = {number: len(own) / len(other) for number, (own, other) in enumerate(zip(PARALLEL[tag], PARALLEL["es"], strict=True), 1)}
    assert {number: ratio for number, ratio in characters.items() if not 0.7 <= ratio <= 1.5} == {}


@pytest.mark.parametrize("tag", [tag for tag in TAGS if tag != ENGLISH])
def test_figures_are_the_same_in_all_languages(tag: str) -> None:
    """English is left out: it tells the hours from one to twelve."""
    assert [figures(line) for line in PARALLEL[tag]] == [figures(line) for line in PARALLEL["es"]]


def test_figures_stand_in_about_a_fifth_of_the_lines() -> None:
    assert 0.15 <= sum(bool(figures(line)) for line in PARALLEL["es"]) / len(PARALLEL["es"]) <= 0.25


def test_parallel_text_is_not_in_the_sample_documents() -> None:
    theirs: set[tuple[str, ...]] = set()
    for text in sample_texts():
        theirs |= ngrams(text, NOT_COPIED_WORDS)
    assert len(theirs) > 10_000
    shared = {(tag, number) for tag in TAGS for number, line in enumerate(PARALLEL[tag], 1) if ngrams(line, NOT_COPIED_WORDS) & theirs}
    assert shared == set()


@pytest.mark.parametrize("name", WORDS)
def test_probing_words_stand_alone_and_occur_once(name: str) -> None:
    words = WORDS[name]
    assert len(set(words)) == len(words)
    assert all(unicodedata.is_normalized("NFC", word) and word.split() == [word] for word in words)


def test_probing_words_are_of_their_kind() -> None:
    assert [len(text) for text in probes.DIGITS[:12]] == list(range(1, 13))
    assert all(re.search(r"\d", text) for text in probes.DIGITS)
    assert not any(character.isalpha() and character != "C" for text in probes.DIGITS for character in text)
    assert all(re.fullmatch(r"\w+l·l\w+", word) for word in probes.PUNT_VOLAT)
    assert all(re.fullmatch(r"[dlmnst]'\w+|\w+([-'](\w+|[nsm]'\w+))+", word) for word in probes.ELISION)


def test_code_is_indented_ascii_or_nearly_and_of_seven_languages() -> None:
    assert len(set(probes.CODE)) == len(probes.CODE) == 7
    for snippet in probes.CODE:
        assert unicodedata.is_normalized("NFC", snippet)
        assert 8 <= snippet.count("\n") <= 15
        assert snippet == "\n".join(line.rstrip() for line in snippet.split("\n"))
        assert "\t" not in snippet


def test_code_that_python_can_read_is_correct() -> None:
    python, sql = probes.CODE[0], probes.CODE[4]
    assert ast.parse(python).body
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE books (id INTEGER, title TEXT, language TEXT)")
    connection.executescript(sql)
    connection.close()
