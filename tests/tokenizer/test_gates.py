"""The gates: what passes, what fails, what stays open, and what is said about it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import byte_level, llama_like, metaspace_unigram, write_hugging_face
from tokenizers import decoders, normalizers

from iberlm.core.manifest import Manifest
from iberlm.tokenizer.config import GatesConfig
from iberlm.tokenizer.gates import ADVERSARIAL, GATES, check, round_trip
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizer
from iberlm.tokenizer.measure import measure_tokenizer, read_parallel

LIMITS = GatesConfig(max_dead_share=0.05, max_cost_ratio=1.25)


def measured(**changes: Any) -> dict[str, Any]:
    """Numbers of a tokenizer that holds every gate, but for `changes` (pieces__dead_share=0.1)."""
    found: dict[str, Any] = {
        "pieces": {"trained": 1000, "unreachable": 2, "unused": 8, "dead": 10, "dead_share": 0.01, "missing_bytes": []},
        "parallel": {"languages": ["es", "eu"], "missing": [], "tokens": {"es": 100, "eu": 120, "en": 500}, "ratio": 1.2},
    }
    for name, value in changes.items():
        group, key = name.split("__")
        found[group][key] = value
    return found


GOOD = {"texts": 30, "failed": 0, "example": None}


def verdicts(found: dict[str, Any] | None = None, trip: dict[str, Any] | None = None, deterministic: bool | None = True) -> dict[str, Any]:
    return check(found or measured(), round_trip=trip or GOOD, deterministic=deterministic, limits=LIMITS)


def test_a_sound_tokenizer_passes_every_gate() -> None:
    found = verdicts()
    assert tuple(found) == GATES
    assert all(verdict["passed"] is True for verdict in found.values())
    assert found["dead_pieces"]["value"] == 0.01
    assert found["cost"] == {
        "passed": True,
        "value": 1.2,
        "limit": 1.25,
        "message": "the same content takes 1.200 times as many tokens in eu as in es; at most 1.25 may be",
    }


@pytest.mark.parametrize(
    ("gate", "changes", "value", "said"),
    [
        ("bytes", {"pieces__missing_bytes": [0, 255]}, 2, "2 of 256 bytes have no id (00 FF), so some text cannot be written; train with byte fallback"),
        ("bytes", {"pieces__missing_bytes": list(range(128, 256))}, 128, "(80 81 82 83 84 85 86 87 ...)"),
        ("dead_pieces", {"pieces__dead_share": 0.06, "pieces__dead": 60}, 0.06, "60 of 1,000 pieces are dead (6.00%: 2 unreachable, 8 not used"),
        ("dead_pieces", {"pieces__dead_share": 0.06}, 0.06, "at most 5.00% may be (gates.max_dead_share); take a smaller tokenizer.vocabulary_size"),
        (
            "cost",
            {"parallel__ratio": 1.3},
            1.3,
            "1.300 times as many tokens in eu as in es, and at most 1.25 may be (gates.max_cost_ratio); set tokenizer.parity",
        ),
    ],
)
def test_what_fails_says_value_limit_and_mend(gate: str, changes: dict[str, Any], value: float, said: str) -> None:
    found = verdicts(measured(**changes))
    assert found[gate]["passed"] is False
    assert found[gate]["value"] == value
    assert said in found[gate]["message"]
    assert [name for name, verdict in found.items() if verdict["passed"] is not True] == [gate]


def test_what_was_not_measured_is_open() -> None:
    assert verdicts(deterministic=None)["deterministic"]["passed"] is None
    assert verdicts(deterministic=False)["deterministic"]["passed"] is False
    assert verdicts(trip={"texts": 0, "failed": 0, "example": None})["round_trip"]["passed"] is None
    uncounted = verdicts(measured(pieces__unused=None))["dead_pieces"]
    assert uncounted["passed"] is None
    many = verdicts(measured(pieces__unused=None, pieces__dead_share=0.2))["dead_pieces"]
    assert many["passed"] is False  # unreachable pieces alone are too many
    missing = verdicts(measured(parallel__missing=["gl"]))["cost"]
    assert (missing["passed"], missing["value"]) == (None, 1.2)
    assert "no parallel text in gl" in missing["message"]
    alone = verdicts(measured(parallel__languages=["es"], parallel__ratio=None))["cost"]
    assert (alone["passed"], alone["message"]) == (True, "one language (es): there is none to compare it with")


@given(st.floats(0, 1), st.floats(1, 5))
def test_limits_are_inclusive_and_compared_as_named(share: float, ratio: float) -> None:
    limits = GatesConfig(max_dead_share=share, max_cost_ratio=ratio)
    found = check(measured(pieces__dead_share=share, parallel__ratio=ratio), round_trip=GOOD, deterministic=True, limits=limits)
    assert found["dead_pieces"]["passed"] is True
    assert found["cost"]["passed"] is True
    worse = check(measured(pieces__dead_share=share + 0.01, parallel__ratio=ratio + 0.01), round_trip=GOOD, deterministic=True, limits=limits)
    assert worse["dead_pieces"]["passed"] is False
    assert worse["cost"]["passed"] is False


def test_adversarial_texts_have_every_byte_of_utf8() -> None:
    seen = {byte for text in ADVERSARIAL for byte in text.encode()}
    assert set(range(256)) - seen == {0xC0, 0xC1, *range(0xF5, 0x100)}  # which UTF-8 never has
    assert any("\x00" in text for text in ADVERSARIAL)
    assert any("\u2581" in text and "\ufdd0" in text for text in ADVERSARIAL)


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=50))
def test_our_own_tokenizer_gives_every_text_back(own: LoadedTokenizer, text: str) -> None:
    found = round_trip(own, [text])
    assert found == {"texts": 1 + len(ADVERSARIAL), "failed": 0, "example": None}


@pytest.fixture(scope="module")
def own(bpe: Manifest) -> LoadedTokenizer:
    return load_tokenizer(bpe.folder)


def test_losses_are_counted_and_shown(tmp_path: Path) -> None:
    found = round_trip(load_tokenizer(write_hugging_face(tmp_path / "llama", llama_like())), ["a\u2581b"])
    assert found["failed"] > 0
    assert found["example"] == r"at character 1: 'a\u2581b' comes back as 'a b'"
    unknown = load_tokenizer(write_hugging_face(tmp_path / "unigram", metaspace_unigram()))
    assert round_trip(unknown, ["\u4e2d"])["failed"] > 0
    lossy = byte_level()
    lossy.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("!", "")])
    found = round_trip(
        load_tokenizer(write_hugging_face(tmp_path / "lossy", lossy)), ["as it is", "with a long beginning and a mark! and an end of it that is long too"]
    )
    assert found["example"] == "at character 32: 'and a mark! and an end of it that is lon' comes back as 'and a mark and an end of it that is long'"


def test_declared_normalisation_is_no_loss(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    assert round_trip(load_tokenizer(write_hugging_face(tmp_path, tokenizer)), ["E\u0301poca"])["failed"] == 0


def test_gates_on_real_numbers(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_hugging_face(tmp_path, metaspace_unigram()))
    found = measure_tokenizer(tokenizer, languages=["es", "eu"], validation={}, max_bytes=1, parallel=read_parallel(None), counts=None)
    judged = check(found, round_trip=round_trip(tokenizer, []), deterministic=None, limits=LIMITS)
    assert {name: verdict["passed"] for name, verdict in judged.items() if name != "cost"} == {
        "bytes": False,
        "dead_pieces": None,
        "deterministic": None,
        "round_trip": False,
    }
    assert judged["cost"]["value"] == found["parallel"]["ratio"]
