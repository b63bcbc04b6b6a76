from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.curate.ngram_model import NgramFeatures, NgramModel, TrainSettings, quantise, softmax, train

SPANISH = ["El perro duerme en la casa", "La niña come una manzana roja", "Mañana iremos al mercado con los abuelos", "El tren llega tarde otra vez"]
BASQUE = ["Txakurrak etxean egiten du lo", "Neskak sagar gorri bat jaten du", "Bihar azokara joango gara aitona-amonekin", "Trena berriro berandu dator"]
FEATURES = NgramFeatures(bits=12)
SETTINGS = TrainSettings(classes=("es", "eu"), epochs=10, word_dropout=0.2)


def array(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def trained(features: NgramFeatures = FEATURES) -> NgramModel:
    return train(array(SPANISH + BASQUE), np.repeat([0, 1], 4), features, SETTINGS)


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return trained()


def test_what_was_learnt_is_found_again_and_carries_over(model: NgramModel) -> None:
    assert model.probabilities(array(SPANISH + BASQUE)).argmax(axis=1).tolist() == [0] * 4 + [1] * 4
    assert model.probabilities(array(["La abuela come en la casa", "Neskak etxean du sagarra"])).argmax(axis=1).tolist() == [0, 1]


def test_training_twice_gives_the_same_bytes(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "one.safetensors")
    trained().save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_saved_model_scores_as_before(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    again = NgramModel.load(tmp_path / "model.safetensors")
    assert again.classes == model.classes
    assert np.array_equal(again.score(array(SPANISH)).logits, model.score(array(SPANISH)).logits)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"PK\x03\x04 not a model"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptError, match=r"model\.safetensors: not a model"):
        NgramModel.load(tmp_path / "model.safetensors")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=12), st.booleans())
def test_scores_do_not_depend_on_the_batch_and_ranges_are_texts(texts: list[str], pairs: bool) -> None:
    model = quantise(
        ("a", "b", "c"),
        NgramFeatures(bits=10, pairs=pairs),
        np.random.default_rng(0).normal(size=(1024, 3)).astype(np.float32),
        np.zeros(3, np.float32),
    )
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    together = model.score(array(texts))
    alone = [model.score(array([text])) for text in texts]
    assert together.logits.shape == (len(texts), 3)
    assert all(np.array_equal(together.logits[row], one.logits[0]) for row, one in enumerate(alone))
    joined = array(["".join(texts)])
    ends = np.cumsum([len(text.encode()) for text in texts], dtype=np.int64)
    starts = np.concatenate(([0], ends))[: len(texts)].astype(np.int64)
    assert np.array_equal(model.score(joined, np.zeros(len(texts), np.int64), starts, ends).logits, together.logits)


def test_case_and_code_do_not_count(model: NgramModel) -> None:
    plain, loud = "el perro duerme", "EL PERRO https://example.org/mira duerme --force a@b.eus /usr/share x_y foto3 %s"
    assert np.array_equal(model.score(array([plain])).logits, model.score(array([loud])).logits)


def test_letters_are_counted_by_script_and_no_word_means_no_features(model: NgramModel) -> None:
    found = model.score(array(["", "123 -- 4", "perro", "собака", "perro собака"]))
    assert found.features.tolist()[:2] == [0, 0]
    assert found.latin.tolist() == [0, 0, 5, 0, 5]
    assert found.foreign.tolist() == [0, 0, 0, 6, 6]


def test_longer_evidence_is_surer(model: NgramModel) -> None:
    short, long = model.probabilities(array(["perro", " ".join(SPANISH)]))[:, 0]
    assert 0.5 < short < long


def test_megabyte_words_are_bounded(model: NgramModel) -> None:
    found = model.score(array(["a" * 2_000_000, "漢" * 700_000]))
    assert found.features[0] < 1_000_000
    assert found.latin[0] == 2_000_000


def test_sliced_arrays_and_nulls(model: NgramModel) -> None:
    texts = array([*SPANISH, None, *BASQUE])
    assert np.array_equal(model.score(texts[5:]).logits, model.score(array(BASQUE)).logits)
    assert model.score(texts).features[4] == 0


def test_calibration_changes_probabilities_and_a_shift_the_choice(model: NgramModel) -> None:
    logits = model.score(array(SPANISH)).logits
    assert np.allclose(model.calibrated(2.0).score(array(SPANISH)).logits, 2 * logits, rtol=1e-5)
    assert np.allclose(model.shifted(np.array([0, 3], np.float32)).score(array(SPANISH)).logits, logits + np.array([0, 3]), rtol=1e-5)
    assert np.allclose(softmax(logits).sum(axis=1), 1)


def test_what_does_not_fit_is_refused(model: NgramModel) -> None:
    texts = array(SPANISH)
    with pytest.raises(ConfigError, match="cast it to large_string"):
        model.score(pa.array(SPANISH))
    with pytest.raises(ConfigError, match="must lie inside its text"):
        model.score(texts, np.array([0]), np.array([0]), np.array([1000]))
    with pytest.raises(ConfigError, match="labels from 0 to 2"):
        train(texts, np.array([0, 1, 2, 0]), FEATURES, SETTINGS)
    with pytest.raises(ConfigError, match="4 texts, \\(3,\\) labels"):
        train(texts, np.array([0, 1, 1]), FEATURES, SETTINGS)
    with pytest.raises(ConfigError, match="classes"):
        TrainSettings(classes=("es", "es"))
    with pytest.raises(ConfigError, match=r"features\.longest"):
        NgramFeatures(shortest=4, longest=3)
