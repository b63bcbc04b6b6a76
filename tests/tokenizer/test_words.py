"""What is counted from text: words, their parts, weights, and bounds on memory."""

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_corpus import TEXTS, documents, write_curated

from iberlm.tokenizer.config import ELISION, SCRIPT, SPACE
from iberlm.tokenizer.words import COUNT_SCALE, MAX_WORD_CHARACTERS, count_file, merge, most_frequent, parts_of, trainable, weighted, words_of

COUNTS = st.dictionaries(st.text(st.sampled_from("ab c"), min_size=1, max_size=3), st.integers(1, 50), max_size=30)


def test_words_keep_the_space_before_them() -> None:
    assert words_of("un dia  clar\n  i «tot»\n\nfi ") == ["un", " dia", " ", " clar", " ", " i", " «tot»", "fi", " "]


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n'’·lLdDa1"))))
def test_words_and_their_parts_lose_nothing_but_line_ends(text: str) -> None:
    words = words_of(text)
    assert "".join(words) == text.replace("\n", "")
    assert all("".join(parts_of(word)) == word for word in words)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        (" l'escola,", [" l'", "escola", ","]),
        ("«L'Alguer»", ["«", "L'", "Alguer", "»"]),
        (" d’una", [" d’", "una"]),
        (" n'hi", [" n'", "hi"]),
        (" canta'l", [" canta", "'l"]),
        (" donar-me'n", [" donar", "-", "me", "'n"]),
        (" col·legi.", [" col·legi", "."]),
        ("IL·LÒGIC", ["IL·LÒGIC"]),
        (" a·b", [" a", "·", "b"]),
        (" o'clock", [" o", "'", "clock"]),
        (" 1992,", [" 1", "9", "9", "2", ","]),
        (" foo_bar()", [" foo", "_", "bar", "()"]),
        ("camio\u0301n", ["camio\u0301n"]),
    ],
)
def test_elided_words_and_the_double_l_stay_whole(word: str, parts: list[str]) -> None:
    assert parts_of(word) == parts


def test_a_file_is_counted_as_often_as_is_asked(tmp_path: Path) -> None:
    texts = ["casa gran", "casa blanca\ncasa", "no"]
    path = write_curated(tmp_path, {"train": {"ca": texts}}, row_group=2).folder / "documents/train.ca.parquet"
    assert count_file(path, np.array([1, 2, 0]), 1000) == {"casa": 5, " gran": 1, " blanca": 2}


def test_decomposed_accents_are_counted_with_composed_ones(tmp_path: Path) -> None:
    path = write_curated(tmp_path, {"train": {"es": ["camio\u0301n", "camión"]}}).folder / "documents/train.es.parquet"
    assert count_file(path, np.ones(2, np.int64), 1000) == {"camión": 2}


def test_data_that_is_no_language_is_left_out(tmp_path: Path) -> None:
    path = write_curated(tmp_path, {"train": {"es": ["x" * (MAX_WORD_CHARACTERS + 1) + " sí"]}}).folder / "documents/train.es.parquet"
    assert count_file(path, np.ones(1, np.int64), 1000) == {" sí": 1}


def test_a_line_of_fifty_megabytes_is_counted(tmp_path: Path) -> None:
    path = write_curated(tmp_path, {"train": {"es": ["a" * 50_000_000, "sí"]}}).folder / "documents/train.es.parquet"
    assert count_file(path, np.ones(2, np.int64), 1000) == {"sí": 1}


def test_memory_is_bounded_and_frequent_words_survive_with_their_counts(tmp_path: Path) -> None:
    rare = [" ".join(f"rara{document}x{word}" for word in range(200)) + " casa" for document in range(40)]
    path = write_curated(tmp_path, {"train": {"es": rare}}).folder / "documents/train.es.parquet"
    counts = count_file(path, np.ones(40, np.int64), 1000)
    assert len(counts) <= 2 * 1000 + 4 * 201  # checked after each batch of rows
    assert counts[" casa"] == 40
    assert merge([counts, counts], 500)[" casa"] == 80
    assert len(merge([counts, counts], 500)) == 500


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(COUNTS, max_size=4))
def test_merging_adds_up(parts: list[dict[str, int]]) -> None:
    assert merge(list(parts), 1000) == sum((Counter(part) for part in parts), Counter())


@settings(max_examples=100, deadline=None, database=None)
@given(COUNTS, st.integers(1, 10))
def test_the_most_frequent_are_kept(counts: dict[str, int], limit: int) -> None:
    kept = most_frequent(counts, limit)
    assert len(kept) == min(limit, len(counts))
    assert all(counts[word] <= min(kept.values()) for word in counts if word not in kept)
    assert kept.items() <= counts.items()


def test_weights_multiply_counts() -> None:
    table = weighted({"es": {"a": 10, "b": 1}, "eu": {"a": 4, "c": 2}}, {"es": 0.01, "eu": 2.5}, 1000)
    assert table == {"a": round(10 * 0.01 * COUNT_SCALE) + 10 * COUNT_SCALE, "b": 1, "c": 5 * COUNT_SCALE}


def test_trainable_words_are_cut_where_pieces_may_not_cross_and_hold_no_controls() -> None:
    words = {" l'ou,": 2, "l'ou": 3, "a\tb\x00": 4, "\x07": 9}
    assert trainable(words, ELISION) == {" l'": 2, "ou": 5, ",": 2, "l'": 3, "a": 4, "b": 4}
    for split in (SCRIPT, SPACE):
        assert trainable(words, split) == {" l'ou,": 2, "l'ou": 3, "a": 4, "b": 4}


def test_words_of_real_text_join_to_it_again() -> None:
    for tag in TEXTS:
        for text in documents(tag):
            assert "".join(part for word in words_of(unicodedata.normalize("NFC", text)) for part in parts_of(word)) == text.replace("\n", "")
