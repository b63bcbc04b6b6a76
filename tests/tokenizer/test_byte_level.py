"""Byte-level BPE: exact round trips of any text, the ids of special tokens, refusals."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_tokenizer import MIXED, ODD, nfc
from tokenizer_corpus import TEXTS, documents, small
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from iberlm.core.errors import DataError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer import train
from iberlm.tokenizer.special import special_tokens

SIZE = 460


@pytest.fixture(scope="module")
def manifest(curated: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return train.run(small(algorithm="byte_bpe", vocabulary_size=SIZE), [curated], tmp_path_factory.mktemp("byte_level"))


@pytest.fixture(scope="module")
def tokenizer(manifest: Manifest) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(manifest.folder / "tokenizer", split_special_tokens=True)


def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast) -> None:
    @settings(max_examples=300, deadline=None, database=None)
    @given(st.one_of(MIXED, st.text(st.characters(exclude_categories=["Cs"]))))
    def check(text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == nfc(text)
        assert not ids or min(ids) >= len(special_tokens(16))

    check()
    for text in [*ODD, *(text for tag in TEXTS for text in documents(tag))]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == nfc(text)


def test_ids_of_special_tokens_and_bytes(manifest: Manifest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(manifest.folder / "tokenizer")
    assert len(tokenizer) == SIZE
    assert tokenizer.convert_tokens_to_ids(special_tokens(16)) == list(range(22))
    assert sorted(len(piece) for piece in tokenizer.get_vocab() if tokenizer.get_vocab()[piece] in range(22, 278)) == [1] * 256
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    assert tokenizer("hola")["input_ids"][0] == 1
    assert tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"] == [5]
    assert "<|im_start|>user" in tokenizer.apply_chat_template([{"role": "user", "content": "hola"}], tokenize=False)


def test_numbers_are_split_into_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("1992") == list("1992")


def test_same_documents_give_the_same_bytes(manifest: Manifest, curated: Manifest, tmp_path: Path) -> None:
    again = train.run(small(algorithm="byte_bpe", vocabulary_size=SIZE), [curated], tmp_path / "again")
    assert again.outputs == manifest.outputs
    assert manifest.metrics["deterministic"] is True
    assert not (manifest.folder / "tokenizer/tokenizer.model").exists()


def test_too_large_vocabulary_states_the_largest_possible_which_then_works(curated: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer.vocabulary_size: 50000 is too large for this text: at most \d+ are possible") as caught:
        train.run(small(algorithm="byte_bpe", vocabulary_size=50_000), [curated], tmp_path / "out")
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train.run(small(algorithm="byte_bpe", vocabulary_size=largest), [curated], tmp_path / "out").metrics["vocabulary_size"] == largest
