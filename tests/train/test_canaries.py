"""Canaries: where they are planted, that nobody can guess them, and what the test finds in models that know some of them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from iberlm.core.errors import ConfigError
from iberlm.train.canaries import Canaries, longest_common_run
from iberlm.train.config_groups import CanariesConfig

VOCABULARY, LENGTH = 300, 48


def make(seed: int = 3, samples: int = 400, vocabulary: int = VOCABULARY, special: tuple[int, ...] = (0, 1), **changes: Any) -> Canaries:
    config: dict[str, Any] = {"repetitions": [1, 4, 16], "canaries_each": 4, "prefix_tokens": 12, "suffix_tokens": 8}
    return Canaries(CanariesConfig(**(config | changes)), seed=seed, vocabulary_size=vocabulary, special_ids=special, samples=samples, sequence_length=LENGTH)


def planted(canaries: Canaries, samples: int) -> np.ndarray[Any, Any]:
    """All samples of a run without other text, int64[samples, LENGTH + 1]; -1 where nothing was planted."""
    rows = np.full((samples, LENGTH + 1), -1, dtype=np.int64)
    canaries.plant(np.arange(samples), rows)
    return rows


def occurrences(canary: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> list[int]:
    windows = np.lib.stride_tricks.sliding_window_view(rows, len(canary), axis=1)
    return np.flatnonzero((windows == canary).all(axis=2).any(axis=1)).tolist()


def test_each_canary_is_planted_as_often_as_its_group_says_once_a_sample() -> None:
    canaries = make()
    rows = planted(canaries, 400)
    assert canaries.repetitions.tolist() == [0] * 4 + [1] * 4 + [4] * 4 + [16] * 4
    assert ((rows >= 0).sum(axis=1) <= 20).all()
    assert (rows >= 0).sum() == 20 * 4 * (1 + 4 + 16) == canaries.planted_tokens
    for number, (canary, repetitions) in enumerate(zip(canaries.tokens, canaries.repetitions, strict=True)):
        found = occurrences(canary, rows)
        assert len(found) == repetitions
        assert found == canaries.placements()[number]


@given(st.lists(st.integers(0, 399), min_size=1, max_size=30), st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=30)
def test_planting_follows_from_the_sample_number_alone(numbers: list[int], seed: int) -> None:
    whole = planted(make(seed), 400)
    rows = np.full((len(numbers), LENGTH + 1), -1, dtype=np.int64)
    make(seed).plant(np.asarray(numbers), rows)
    assert (rows == whole[numbers]).all()


def test_every_sample_of_a_full_run_has_a_canary_and_those_after_it_none() -> None:
    canaries = make(samples=84)
    assert (planted(canaries, 84) >= 0).any(axis=1).all()
    rows = np.full((5, LENGTH + 1), -1, dtype=np.int64)
    canaries.plant(np.array([84, 85, 1000, 2**40, 84]), rows)  # blocks that a run reads in place of those it had to leave out
    assert (rows == -1).all()


def test_canaries_stand_anywhere_in_the_window_and_anywhere_in_the_run() -> None:
    canaries = make(samples=10**9, canaries_each=40, repetitions=[64])
    numbers = np.array(sorted(number for places in canaries.placements().values() for number in places))
    assert len(np.unique(numbers)) == 40 * 64
    assert np.histogram(numbers, bins=8, range=(0, 10**9))[0].min() > 250  # of 320
    rows = np.full((len(numbers), LENGTH + 1), -1, dtype=np.int64)
    canaries.plant(numbers, rows)
    columns = (rows >= 0).argmax(axis=1)
    assert set(columns.tolist()) == set(range(LENGTH + 1 - 20 + 1))


def test_ids_are_ordinary_and_all_as_likely() -> None:
    canaries = make(special=(0, 1, 7, 299), canaries_each=1000, repetitions=[1], samples=1000)
    counts = np.bincount(canaries.tokens.ravel(), minlength=VOCABULARY)
    assert (counts[[0, 1, 7, 299]] == 0).all()
    ordinary = np.delete(counts, [0, 1, 7, 299])
    expected = ordinary.mean()
    assert ((ordinary - expected) ** 2 / expected).sum() < 296 + 5 * np.sqrt(2 * 296)  # chi-squared
    assert len(np.unique(canaries.tokens, axis=0)) == 2000
    assert (make(seed=3).tokens != make(seed=4).tokens).any()
    assert (make(seed=3).tokens == make(seed=3, samples=900).tokens).all()  # a longer run has the same canaries elsewhere


def test_a_canary_as_long_as_the_sequence_fits() -> None:
    canaries = make(prefix_tokens=LENGTH - 8)
    rows = planted(canaries, 400)
    assert (rows >= 0).sum() == LENGTH * 84


def test_none_are_planted_when_none_are_asked_for() -> None:
    canaries = make(canaries_each=0)
    assert (planted(canaries, 10) == -1).all()
    assert canaries.placements() == {}
    assert canaries.planted_tokens == 0
    with pytest.raises(ValueError, match="nothing was planted"):
        canaries.extract(tiny_model(), torch.device("cpu"))


def test_a_run_with_too_few_samples_is_refused_with_what_would_fit() -> None:
    with pytest.raises(ConfigError, match=r"planted 84 times.*has 83 samples; lower canaries_each to at most 3, leave out"):
        make(samples=83)
    with pytest.raises(ConfigError, match=r"has 5 samples; leave out the largest repetitions"):
        make(samples=5)
    with pytest.raises(ConfigError, match="vocabulary of 3 has 1 ids that are not special"):
        make(vocabulary=3)


def tiny_model(bos: int | None = 0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": LENGTH}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, bos_token_id=bos, eos_token_id=1, **shape))


@pytest.fixture(scope="module")
def learnt() -> tuple[LlamaForCausalLM, Canaries]:
    """A model that was shown the canaries of the group of 16 until it knew them, and no other."""
    canaries, model = make(), tiny_model()
    shown = torch.from_numpy(canaries.tokens[canaries.repetitions == 16])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(150):
        logits = model(input_ids=shown[:, :-1], use_cache=False).logits
        cross_entropy(logits.flatten(0, 1), shown[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, canaries


def test_what_was_learnt_by_heart_is_found_and_nothing_else(learnt: tuple[LlamaForCausalLM, Canaries]) -> None:
    model, canaries = learnt
    found = canaries.extract(model, torch.device("cpu"))
    assert model.training
    assert {key: found[key] for key in ("prefix_tokens", "suffix_tokens", "canaries_each", "planted_tokens")} == {
        "prefix_tokens": 12,
        "suffix_tokens": 8,
        "canaries_each": 4,
        "planted_tokens": 1680,
    }
    results = {result["repetitions"]: result for result in found["results"]}
    assert list(results) == [0, 1, 4, 16]
    known = results[16]
    assert (known["exact"], known["longest_common_tokens"], known["right_tokens"]) == (1.0, 8.0, 1.0)
    assert known["loss"] < 0.5
    assert known["exposure_bits"] == pytest.approx(np.log2(5))
    for repetitions in (0, 1, 4):
        unknown = results[repetitions]
        assert unknown["exact"] == 0
        assert unknown["longest_common_tokens"] <= 2
        assert unknown["loss"] > 3
    assert results[0]["exposure_bits"] is None


def test_the_numbers_are_those_of_generate_and_of_plain_losses(learnt: tuple[LlamaForCausalLM, Canaries], monkeypatch: pytest.MonkeyPatch) -> None:
    model, canaries = learnt
    found = canaries.extract(model, torch.device("cpu"))
    model.eval()
    greedy = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1)  # without EOS, which it might say by chance
    made, losses = [], []
    with torch.no_grad():
        for canary in torch.from_numpy(canaries.tokens):
            row = torch.cat([torch.tensor([0]), canary])[None]
            prefix = row[:, :13]
            whole = model.generate(prefix, attention_mask=torch.ones_like(prefix), generation_config=greedy)
            made.append(whole[0, 13:])
            losses.append(cross_entropy(model(input_ids=row[:, :-1]).logits[0, 12:], row[0, 13:]).item())
    for position, result in enumerate(found["results"]):
        here = slice(4 * position, 4 * position + 4)
        common = [longest_common_run(one.numpy(), other[12:]) for one, other in zip(made[here], canaries.tokens[here], strict=True)]
        assert result["longest_common_tokens"] == pytest.approx(np.mean(common))
        assert result["loss"] == pytest.approx(np.mean(losses[here]), rel=1e-4)
    # one canary at a time, as with a large vocabulary, gives the same
    monkeypatch.setattr("iberlm.train.canaries._LOGITS", 1)
    alone = canaries.extract(model, torch.device("cpu"))
    for one, other in zip(found["results"], alone["results"], strict=True):
        assert {key: one[key] or 0 for key in one} == pytest.approx({key: other[key] or 0 for key in other}, rel=1e-4)


def test_a_model_without_bos_is_asked_without(learnt: tuple[LlamaForCausalLM, Canaries]) -> None:
    model, canaries = learnt
    model.config.bos_token_id = None
    try:
        found = canaries.extract(model, torch.device("cpu"))
    finally:
        model.config.bos_token_id = 0
    assert found["results"][-1]["exact"] == 1  # which is how this model saw them


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3, 4], [9, 2, 3, 9], 2), ([1, 2], [3, 4], 0), ([1, 1, 2, 1], [1, 2, 1, 1], 3), ([5], [4, 5], 1)],
)
def test_the_longest_common_run_stands_anywhere(one: list[int], other: list[int], length: int) -> None:
    assert longest_common_run(np.array(one), np.array(other)) == length
