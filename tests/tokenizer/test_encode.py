"""Encoders: the fast one gives the ids of the reference on whatever text, says when it cannot, and is noticed when it errs."""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_corpus import TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from iberlm.core.errors import CorruptError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer import encoder_check, normal_form
from iberlm.tokenizer.encode import GigatokenEncoder, ReferenceEncoder, first_difference, open_encoder
from iberlm.tokenizer.reference_encoder import cut, may_be_cut

LINES = [line for text in TEXTS.values() for line in text.split("\n")]
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
MIXED = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.text(st.sampled_from("aeiotnlrs'·-. \n\u0301\u0327\u2581\ufdd0"), max_size=30),
        st.sampled_from([*SPECIAL, *LINES, "<think>", "\x00", "▁▁", "e\u0301", "\u1100\u1161\u11a8", "🇪🇸👩\u200d👧", "  \n\n\t", "\U00011de3", "\u0378"]),
    ),
    max_size=8,
).map("".join)
"""Pieces that no script would put together, real lines, what normalisation and special tokens turn on, and code points not yet assigned."""


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SCHEMES = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama3": lambda: split_by(LLAMA3),
    "qwen2": lambda: split_by(QWEN2),
    "gpt2 with a prefix": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
}


def byte_level(scheme: pre_tokenizers.PreTokenizer, *, nfc: bool = True, added: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE of 700 pieces; `added` are tokens that are not special."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = scheme, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=bool(index % 2)) for index, token in enumerate(added)])
    return tokenizer


def saved(folder: Path, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def without_byte(folder: Path, piece: str, out: Path) -> Path:
    """A copy of a tokenizer folder in which another piece, of which no text is made, stands for a byte."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["model"]["vocab"]["qqqqqqqq"] = definition["model"]["vocab"].pop(piece)
    (out / "tokenizer.json").write_text(json.dumps(definition))
    return out


@pytest.fixture(scope="module", params=["bpe", *SCHEMES, "without NFC", "added tokens"])
def folder(request: pytest.FixtureRequest, bpe: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind that gigatoken takes."""
    if request.param == "bpe":
        return bpe.folder / "tokenizer"
    made = {name: byte_level(scheme()) for name, scheme in SCHEMES.items() if name == request.param}
    made |= {"without NFC": byte_level(split_by(LLAMA3), nfc=False)} if request.param == "without NFC" else {}
    made |= {"added tokens": byte_level(split_by(QWEN2), added=("<think>", "e\u0301", "mañá"))} if request.param == "added tokens" else {}
    return saved(tmp_path_factory.mktemp("tokenizer"), made[request.param])


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    """Ids by `tokenizers` and nothing of ours."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def split_ids(ids: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if len(lengths) else []


def test_any_text_has_the_ids_of_the_tokenizer(folder: Path) -> None:
    encoder = open_encoder(folder)
    assert isinstance(encoder, GigatokenEncoder), encoder.reason

    @settings(max_examples=80, deadline=None, database=None)
    @given(st.lists(MIXED, max_size=4))
    @example(["", "a</s>", "", "e\u0301", "\u0378", "\u2581", ""])
    @example(["\U00011de3 x", "mañ\u0301a mañá man\u0303á<think>"])
    def check(texts: list[str]) -> None:
        ids, lengths = encoder.encode(texts)
        assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
        assert split_ids(ids, lengths) == ids_of(folder, texts)

    check()


def test_the_reference_is_the_tokenizer(folder: Path) -> None:
    reference = open_encoder(folder, fast=False)
    assert isinstance(reference, ReferenceEncoder)
    assert reference.reason == ""
    assert split_ids(*reference.encode(encoder_check.ODD)) == ids_of(folder, encoder_check.ODD)


def test_repetitive_words_are_merged_in_the_order_of_the_file(bpe: Manifest) -> None:
    encoder, folder = open_encoder(bpe.folder / "tokenizer"), bpe.folder / "tokenizer"
    assert encoder.name.startswith("gigatoken ")

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(st.text(st.sampled_from("aelst "), max_size=60), max_size=4))
    def check(texts: list[str]) -> None:
        assert split_ids(*encoder.encode(texts)) == ids_of(folder, texts)

    check()


def test_a_part_of_a_column_is_encoded_as_if_it_were_alone(bpe: Manifest) -> None:
    encoder = open_encoder(bpe.folder / "tokenizer")
    texts = [*LINES, "e\u0301", "", "\u0378", "a </s>"]
    for kind in (pa.string(), pa.large_string()):
        part = pa.array(texts, kind).slice(5, 17)
        ids, lengths = encoder.encode_column(part)
        assert split_ids(ids, lengths) == ids_of(bpe.folder / "tokenizer", texts[5:22])


@pytest.mark.parametrize("trained", ["unigram"], indirect=True)
def test_a_model_that_gigatoken_refuses_is_encoded_by_the_reference(trained: Manifest) -> None:
    folder = trained.folder / "tokenizer"
    encoder = open_encoder(folder)
    assert encoder.name.startswith("tokenizers ")
    assert encoder.reason.startswith("gigatoken: ")
    assert split_ids(*encoder.encode(LINES)) == ids_of(folder, LINES)
    assert open_encoder(folder, fast=False).reason == ""


def test_a_tokenizer_that_gigatoken_encodes_otherwise_is_noticed(bpe: Manifest, tmp_path: Path) -> None:
    # gigatoken leaves out a byte that has no piece, where `tokenizers` gives <unk>
    encoder = open_encoder(without_byte(bpe.folder / "tokenizer", "<0xE4>", tmp_path))
    assert encoder.name.startswith("tokenizers ")
    assert encoder.reason.startswith("gigatoken gives other ids than the tokenizer for ")


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()], "pass over"),
        ([pre_tokenizers.Split(Regex(QWEN2), behavior="merged_with_next"), pre_tokenizers.ByteLevel(use_regex=False)], "pass over"),
        ([pre_tokenizers.Split(Regex(r"\p{L}+"), behavior="isolated"), pre_tokenizers.ByteLevel(use_regex=False)], "Unknown pre_tokenizer"),
    ],
)
def test_a_pre_tokenizer_that_gigatoken_does_not_follow_is_told(scheme: list[pre_tokenizers.PreTokenizer], reason: str, tmp_path: Path) -> None:
    encoder = open_encoder(saved(tmp_path, byte_level(pre_tokenizers.Sequence(scheme))))
    assert encoder.name.startswith("tokenizers ")
    assert reason in encoder.reason
    assert split_ids(*encoder.encode(LINES)) == ids_of(tmp_path, LINES)


def test_the_first_differing_text_is_named(bpe: Manifest) -> None:
    reference = open_encoder(bpe.folder / "tokenizer", fast=False)
    assert isinstance(reference, ReferenceEncoder)
    column = pa.array(LINES[:8])
    ids, lengths = reference.encode_column(column)
    every = np.arange(8)
    assert first_difference(reference, column, ids, lengths, every) is None
    ids = ids.copy()
    ids[int(lengths[:5].sum()) + 1] += 1
    assert first_difference(reference, column, ids, lengths, every) == 5
    assert first_difference(reference, column, ids, lengths, np.array([0, 4, 6])) is None
    shifted = lengths.copy()
    shifted[[2, 3]] += 1, -1
    assert first_difference(reference, column, ids, shifted, every) == 2


def test_a_file_that_is_no_tokenizer_is_named(bpe: Manifest, tmp_path: Path) -> None:
    # `tokenizers` does not raise on this one but panics: merges of letters without the prefix
    panicking = json.loads((bpe.folder / "tokenizer/tokenizer.json").read_text())
    panicking["model"]["continuing_subword_prefix"] = "@@"
    for written in (None, '{"model": ', json.dumps(panicking)):
        if written is not None:
            (tmp_path / "tokenizer.json").write_text(written)
        with pytest.raises(CorruptError, match=r"tokenizer\.json: cannot be read"):
            open_encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"tokenizer\.json: cannot be read"):
        open_encoder(tmp_path)


def test_settings_of_a_tokenizer_that_cut_or_pad_do_not_reach_the_ids(bpe: Manifest, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bpe.folder / "tokenizer/tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    saved(tmp_path, tokenizer)
    for fast in (True, False):
        encoder = open_encoder(tmp_path, fast)
        assert split_ids(*encoder.encode(LINES)) == ids_of(bpe.folder / "tokenizer", LINES)


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"])), max_size=5))
def test_a_text_that_is_left_alone_is_in_normal_form(texts: list[str]) -> None:
    steps = normal_form.split({"type": "NFC"})
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)
    for text, need in zip(texts, steps.needs(np.frombuffer(b"".join(encoded), np.uint8), offsets), strict=True):
        assert need != normal_form.REFERENCE
        assert need == normal_form.NORMALISE or normalizers.NFC().normalize_str(text) == text


def test_every_character_that_normal_form_changes_is_found() -> None:
    steps, nfc = normal_form.split({"type": "NFC"}), normalizers.NFC()
    characters = [chr(code) for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000]
    before = ["".join((letter, character)) for character in characters for letter in ("a", "\u1100\u1161")[: 2 if character in normal_form.seconds() else 1]]
    encoded = [text.encode() for text in before]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)
    needs = steps.needs(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    for text, need in zip(before, needs.tolist(), strict=True):
        assert need or nfc.normalize_str(text) == text
    plain = {unicodedata.category(text[-1]) for text, need in zip(before, needs.tolist(), strict=True) if not need}
    assert {"Ll", "Lo", "So", "Po", "Nd"} <= plain  # most characters are left alone


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(st.sampled_from("ab \n\u0301▁"), max_size=60), st.integers(1, 12))
def test_a_long_text_is_cut_where_no_piece_goes_across(text: str, length: int) -> None:
    parts = cut(text, length)
    assert "".join(parts) == text
    assert all(part.startswith(" ") and not before.endswith(" ") for before, part in pairwise(parts))
    assert len(parts) > 1 or not re.search(rf"(?s).{{{length}}}[^ ] [^ ]", text)


def test_cutting_a_text_changes_no_id(bpe: Manifest) -> None:
    folder = bpe.folder / "tokenizer"
    reference = open_encoder(folder, fast=False)

    @settings(max_examples=100, deadline=None, database=None)
    @given(MIXED, st.integers(1, 20))
    def check(text: str, length: int) -> None:
        parts, _ = reference.encode(cut(text, length))
        assert parts.tolist() == ids_of(folder, [text])[0]

    check()


def test_only_texts_that_merge_over_spaces_nowhere_are_cut(bpe: Manifest, folder: Path) -> None:
    definition = json.loads((bpe.folder / "tokenizer/tokenizer.json").read_text())
    assert may_be_cut(definition)
    across = definition | {"model": definition["model"] | {"vocab": definition["model"]["vocab"] | {"a\u2581b": 9999}}}
    assert not may_be_cut(across)
    assert not may_be_cut(definition | {"added_tokens": [{"content": "de la", "special": False}]})
    assert not may_be_cut(definition | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]}})
    assert may_be_cut(json.loads((folder / "tokenizer.json").read_text())) == (folder == bpe.folder / "tokenizer")


def test_a_text_beyond_the_limit_is_encoded_whole_by_both(bpe: Manifest) -> None:
    text = " ".join(LINES * 600) + "x" * 5_000  # more than a million characters
    assert len(text) > 1 << 20
    fast, reference = (open_encoder(bpe.folder / "tokenizer", kind) for kind in (True, False))
    expected = ids_of(bpe.folder / "tokenizer", ["a", text])
    assert split_ids(*fast.encode(["a", text])) == expected
    assert split_ids(*reference.encode(["a", text])) == expected


def test_encoding_starts_no_thread(bpe: Manifest) -> None:
    program = f"""
import os
from pathlib import Path
from iberlm.tokenizer.encode import open_encoder
os.environ["TOKENIZERS_PARALLELISM"] = "false"
encoder = open_encoder(Path({str(bpe.folder / "tokenizer")!r}), checked=True)
encoder.encode(["a"])
before = len(os.listdir("/proc/self/task"))
encoder.encode([{LINES[0]!r} * 100] * 500)
print(encoder.name.split()[0], len(os.listdir("/proc/self/task")) - before)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split() == ["gigatoken", "0"]
