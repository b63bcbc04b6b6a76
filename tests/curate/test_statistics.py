"""Each statistic against a plain reference, on text that hypothesis makes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.curate.minhash import band_hashes
from iberlm.curate.statistics import duplicate_ngram_ratio, split_words, statistics, top_ngram_ratio, word_hashes

words_of_few = st.lists(st.sampled_from(["a", "bé", "casa", "d'", "etxea", "mar"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L'home se'n va", ["l'", "home", "se", "'n", "va"]),
        ("anar-se’n a l’escola", ["anar-se", "'n", "a", "l'", "escola"]),
        ("El col·legi, intel·ligent!", ["el", "col·legi", "intel·ligent"]),
        ("«Ezkerraldea» 2024ko uztailean", ["ezkerraldea", "2024ko", "uztailean"]),
        ("ÀÉÍÒÚ ñandú ç", ["àéíòú", "ñandú", "ç"]),
        ("", []),
        ("... --- ’’", []),
    ],
)
def test_words_of_our_languages(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(words_of_few, st.integers(2, 4))
def test_top_ngram_ratio_equals_a_plain_count(words: list[str], n: int) -> None:
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(grams.values(), default=0)
    longest = max((len("".join(gram)) for gram, count in grams.items() if count == most), default=0)
    expected = 0.0 if most < 2 else min(1.0, longest * most / max(1, len("".join(words))))
    assert top_ngram_ratio(word_hashes(words), lengths, n) == pytest.approx(expected)


@given(words_of_few, st.integers(5, 10))
def test_duplicate_ngram_ratio_equals_a_plain_count(words: list[str], n: int) -> None:
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    seen: set[tuple[str, ...]] = set()
    covered = [False] * len(words)
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            covered[i : i + n] = [True] * n
        seen.add(gram)
    expected = sum(len(word) for word, inside in zip(words, covered, strict=True) if inside) / max(1, len("".join(words)))
    assert duplicate_ngram_ratio(word_hashes(words), lengths, n) == pytest.approx(expected)


@given(st.text(max_size=400))
def test_any_text_has_finite_statistics_and_ratios_within_bounds(text: str) -> None:
    found, hashes = statistics(text, "es")
    assert found["words"] == len(hashes)
    for name, value in found.items():
        assert np.isfinite(value)
        if name.endswith("gram_ratio") or name in ("alpha_word_ratio", "bullet_line_ratio", "duplicate_line_ratio", "duplicate_line_character_ratio"):
            assert 0 <= value <= 1, name


def test_line_statistics() -> None:
    found, _ = statistics("Una línea.\n- otra\n- otra\n\nFin...", "es")
    assert found["duplicate_line_ratio"] == pytest.approx(1 / 4)
    assert found["duplicate_line_character_ratio"] == pytest.approx(6 / (10 + 6 + 6 + 6))
    assert found["bullet_line_ratio"] == pytest.approx(2 / 4)
    assert found["ellipsis_line_ratio"] == pytest.approx(1 / 4)
    assert found["punctuated_line_ratio"] == pytest.approx(2 / 4)


@given(words_of_few)
def test_bands_depend_on_the_set_of_shingles_only(words: list[str]) -> None:
    hashes = word_hashes(words)
    bands = band_hashes(hashes, 14, 8)
    assert len(bands) == (14 if words else 0)
    np.testing.assert_array_equal(bands, band_hashes(word_hashes(list(words)), 14, 8))


def test_one_changed_word_in_two_hundred_keeps_a_band_and_other_texts_share_none() -> None:
    generator = np.random.Generator(np.random.PCG64(7))
    shared, cases = 0, 50
    for _ in range(cases):
        words = [f"w{number}" for number in generator.integers(0, 5000, 200)]
        changed = [*words[:190], "nuevo", *words[191:]]
        other = [f"w{number}" for number in generator.integers(0, 5000, 200)]
        bands = band_hashes(word_hashes(words), 14, 8)
        shared += bool(np.intersect1d(bands, band_hashes(word_hashes(changed), 14, 8)).size)
        assert not np.intersect1d(bands, band_hashes(word_hashes(other), 14, 8)).size
    assert shared == cases  # Jaccard 0.95: missed with probability 10^-7


def test_collision_rate_of_minhash_is_the_jaccard_similarity() -> None:
    generator = np.random.Generator(np.random.PCG64(11))
    total = 0.0
    for _ in range(40):
        common = [f"c{number}" for number in generator.integers(0, 1 << 30, 300)]
        left, right = ([*common, *(f"{side}{number}" for number in generator.integers(0, 1 << 30, 100))] for side in "lr")
        one, other = (band_hashes(word_hashes(words), 64, 1) for words in (left, right))
        total += float(np.mean(one == other))
    # shingles: 296 + 100 a side, 296 common (the four across the seam differ) -> 296 / (2 * 396 - 296)
    assert total / 40 == pytest.approx(296 / 496, abs=0.03)
