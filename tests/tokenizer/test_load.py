"""Any tokenizer behind one interface: ids as its own library gives them, pieces that are the bytes of the text, and clear refusals."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizers import (
    LINES,
    byte_level,
    llama_like,
    metaspace_unigram,
    ranked,
    sentencepiece_model,
    tekken,
    tiktoken_lines,
    write_hugging_face,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizer, load_tokenizers, unique_names
from iberlm.tokenizer.ranks import PATTERNS

LOSSLESS = ("byte_level", "tiktoken", "tekken", "sentencepiece_identity", "ours")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, bpe: Manifest) -> dict[str, LoadedTokenizer]:
    """One of each format, by name."""
    folder = tmp_path_factory.mktemp("tokenizers")
    trained = byte_level()
    write_hugging_face(folder / "byte_level", trained)
    write_hugging_face(folder / "llama_like", llama_like())
    write_hugging_face(folder / "unigram", metaspace_unigram())
    (folder / "tiktoken").mkdir()
    (folder / "tiktoken" / "small_cl100k_base.tiktoken").write_text(tiktoken_lines(ranked(trained)))
    (folder / "tekken").mkdir()
    (folder / "tekken" / "tekken.json").write_text(tekken(ranked(trained)))
    as_it_is = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    for name, chosen in {"sentencepiece": {}, "sentencepiece_identity": as_it_is}.items():
        (folder / name).mkdir()
        (folder / name / "tokenizer.model").write_bytes(sentencepiece_model(**chosen))
    return {entry.name: load_tokenizer(entry) for entry in sorted(folder.iterdir())} | {"ours": load_tokenizer(bpe.folder)}


NAMES = ("byte_level", "llama_like", "unigram", "tiktoken", "tekken", "sentencepiece", "sentencepiece_identity", "ours")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_says_what_it_is(loaded: dict[str, LoadedTokenizer], name: str, bpe: Manifest) -> None:
    tokenizer = loaded[name]
    assert tokenizer.name == (bpe.folder.name if name == "ours" else name)
    kinds = {"tiktoken": "tiktoken", "tekken": "tiktoken", "sentencepiece": "sentencepiece", "sentencepiece_identity": "sentencepiece"}
    assert tokenizer.kind == kinds.get(name, "tokenizers")
    assert len(tokenizer.byte_ids) == (0 if name == "unigram" else 256)
    assert all(tokenizer.piece(index) is None for index in tokenizer.special_ids)
    assert all(len(tokenizer.piece(index) or b"") == 1 for index in tokenizer.byte_ids)
    every = [index for ids in tokenizer.encode(LINES) for index in ids]
    assert 0 <= min(every) <= max(every) < tokenizer.vocabulary_size
    assert tokenizer.encode([]) == []
    assert tokenizer.encode([""]) == [[]]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
@example(text=" ")
@example(text="\u2581 \ufdd0")
def test_pieces_are_the_bytes_of_the_text(loaded: dict[str, LoadedTokenizer], name: str, text: str) -> None:
    tokenizer = loaded[name]
    (ids,) = tokenizer.encode([text])
    if tokenizer.special_ids & set(ids):
        assert name == "unigram"  # without byte fallback it has <unk>
        return
    joined = b"".join(tokenizer.piece(index) or b"?" for index in ids).decode()
    expected = tokenizer.normalise(text)
    if name in LOSSLESS:
        before = " " if name == "sentencepiece_identity" and text else ""
        marks = expected.replace("\u2581", " ") if name == "sentencepiece_identity" else expected
        own = joined.replace("\ufdd0", "\u2581") if name == "ours" else joined  # its decoder reads the mark when the bytes are one text
        assert own == before + marks
    else:  # a space before the text, unless it has one there, and U+2581 read as a space
        marks = expected.replace("\u2581", " ")
        assert joined.replace("\u2581", " ") in (marks, f" {marks}")


@pytest.mark.parametrize("name", LOSSLESS)
@settings(max_examples=60, deadline=None)
@given(text=TEXT.filter(lambda text: "\u2581" not in text))
def test_round_trip_gives_the_normalised_text(loaded: dict[str, LoadedTokenizer], name: str, text: str) -> None:
    tokenizer = loaded[name]
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == tokenizer.normalise(text)


def test_normalisation_is_what_the_tokenizer_declares(loaded: dict[str, LoadedTokenizer]) -> None:
    text = "e\u0301  \ufb01n "
    assert loaded["tiktoken"].normalise(text) == text
    assert loaded["byte_level"].normalise(text) == "é  \ufb01n "
    assert loaded["llama_like"].normalise(text) == text
    assert loaded["unigram"].normalise(text) == "é  fin "
    assert loaded["sentencepiece"].normalise(text) == "é fin"
    assert loaded["sentencepiece_identity"].normalise(text) == text
    assert loaded["ours"].normalise(text + "\u2581") == "é  \ufb01n \u2581"
    assert loaded["ours"].normalise("\ufdd0") == "\u2581"  # set aside by Unicode, and our own mark for U+2581


def test_special_spellings_are_text_and_nothing_is_added(loaded: dict[str, LoadedTokenizer]) -> None:
    text = "<s> </s><unk><|im_start|><0x41>"
    for name in NAMES:
        (ids,) = loaded[name].encode([text])
        if name == "unigram":
            continue  # < has no piece in it
        assert not loaded[name].special_ids & set(ids), name
        assert loaded[name].decode(ids).strip() == text


def test_ids_are_those_of_the_library(loaded: dict[str, LoadedTokenizer]) -> None:
    reference = byte_level()
    assert loaded["byte_level"].encode(LINES) == [reference.encode(line, add_special_tokens=False).ids for line in LINES]
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    assert loaded["sentencepiece"].encode(LINES) == processor.encode(LINES)


def test_truncation_and_padding_of_a_folder_are_off(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    found = load_tokenizer(write_hugging_face(tmp_path, tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert found.encode(LINES) == [tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]


def merged(word: bytes, tokens: dict[bytes, int]) -> list[int]:
    """tiktoken's algorithm as published: a whole word that is a token, else the leftmost pair of the lowest rank, again and again."""
    if word in tokens:
        return [tokens[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        found = [(tokens[left + right], index) for index, (left, right) in enumerate(pairwise(parts)) if left + right in tokens]
        if not found:
            return [tokens[part] for part in parts]
        _, index = min(found)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]


@settings(max_examples=300, deadline=None)
@given(word=st.text("aelnrsdtoiçàñ", min_size=1, max_size=24) | st.text("ab", min_size=1, max_size=12), space=st.booleans())
def test_rank_files_give_the_ids_of_tiktokens_algorithm(loaded: dict[str, LoadedTokenizer], word: str, space: bool) -> None:
    tokens = ranked(byte_level())
    text = (" " if space else "") + word
    expected = merged(text.encode(), tokens)
    assert loaded["tiktoken"].encode([text]) == [expected]
    small = {token: rank for token, rank in tokens.items() if rank < len(tokens) - 5}  # tekken has no room for the last five
    assert loaded["tekken"].encode([text]) == [[10 + index for index in merged(text.encode(), small)]]


@settings(max_examples=300, deadline=None)
@given(word=st.text("ab", min_size=1, max_size=14))
def test_overlapping_merges_are_taken_from_the_left(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    tokens = {bytes([byte]): byte for byte in range(256)}
    for token in (b"ab", b"aba", b"bab", b"abab", b"aa", b"aaa", b"ababab"):
        tokens[token] = len(tokens)
    file = tmp_path_factory.getbasetemp() / "gpt2.tiktoken"
    file.write_text(tiktoken_lines(tokens))
    assert load_tokenizer(file).encode([word]) == [merged(word.encode(), tokens)]


def test_name_of_a_rank_file_tells_how_text_is_cut(tmp_path: Path) -> None:
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"12": 256, b"123": 257, b"1234": 258}
    for name, expected in {"o200k_base": [257, 52], "qwen": [49, 50, 51, 52], "r50k_base": [258], "llama-3": [257, 52]}.items():
        (tmp_path / f"{name}.tiktoken").write_text(tiktoken_lines(tokens))
        assert load_tokenizer(tmp_path / f"{name}.tiktoken").encode(["1234"]) == [expected]
    (tmp_path / "mine.tiktoken").write_text(tiktoken_lines(tokens))
    with pytest.raises(ConfigError, match=r"mine\.tiktoken: .* its name is not known; call it NAME\.tiktoken with one of o200k, cl100k, llama3"):
        load_tokenizer(tmp_path / "mine.tiktoken")
    assert set(PATTERNS) >= {"r50k", "cl100k", "o200k", "qwen"}


def test_names_are_made_unique(tmp_path: Path) -> None:
    for place in ("a/train_tokenizer", "b/train_tokenizer", "c/other"):
        write_hugging_face(tmp_path / place, byte_level(300))
    paths = [tmp_path / place for place in ("a/train_tokenizer", "b/train_tokenizer", "c/other", "c/other")]
    assert [tokenizer.name for tokenizer in load_tokenizers(paths)] == ["a/train_tokenizer", "b/train_tokenizer", "other", "other (2)"]


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(lambda parts: Path("/", *parts)), min_size=1, max_size=6))
def test_unique_names_differ_and_end_a_path(paths: list[Path]) -> None:
    names = unique_names(paths)
    assert len(set(names)) == len(names)
    assert all(str(path).endswith(name.split(" (")[0]) for path, name in zip(paths, names, strict=True))


def refused(path: Path, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        load_tokenizer(path)
    for word in words:
        assert word in str(caught.value)


def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", ConfigError, str(tmp_path / "nothing"), "there is no such folder or file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", ConfigError, "has no tokenizer; looked for tokenizer.json, tekken*.json")
    file = tmp_path / "tokenizer.json"
    for content in ("{", '{"model"', "\ufeff{}", ""):
        file.write_text(content)
        refused(tmp_path, CorruptError, str(file), "not valid JSON")
    file.write_bytes(b"\xff\xfe{}")
    refused(tmp_path, CorruptError, "not valid JSON")
    for value in ({}, [], "x", None, {"model": 3}, {"config": {}, "vocab": {}}):
        file.write_text(json.dumps(value))
        refused(file, ConfigError, str(file), "neither a tokenizer of the library tokenizers")
    file.write_text(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}))
    refused(file, CorruptError, "cannot read it", "update tokenizers")


def test_models_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    write_hugging_face(tmp_path, Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")))
    refused(tmp_path, ConfigError, "its model is WordPiece; BPE and Unigram can be measured")
    write_hugging_face(tmp_path, Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")))
    refused(tmp_path, ConfigError, "'</w>' (end_of_word_suffix)")


def test_damaged_models_and_rank_files_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "x.model"
    for content in (b"not a model", b"", sentencepiece_model()[:2000]):
        model.write_bytes(content)
        refused(model, CorruptError, str(model), "not a SentencePiece model")
    model.write_text(tiktoken_lines({bytes([byte]): byte for byte in range(256)}))
    refused(model, ConfigError, "is a rank file of tiktoken, not a SentencePiece model", "NAME.tiktoken")
    rank_file = tmp_path / "gpt2.tiktoken"
    for content, said in {
        "IQ== 0\nnonsense\n": ":2: not a line",
        "IQ== x": ":1: not a line",
        "I=Q 1": ":1",
        "": "no tokens",
        "IQ== 0\nIg== 0": "one for each",
    }.items():
        rank_file.write_text(content)
        refused(rank_file, CorruptError, str(rank_file), said)
    broken = tmp_path / "tekken.json"
    good = json.loads(tekken({bytes([byte]): byte for byte in range(256)}))
    for change in ({"vocab": [{"rank": 0}]}, {"vocab": []}, {"config": {"pattern": "("} | {}}, {"config": good["config"] | {"pattern": "("}}):
        broken.write_text(json.dumps(good | change))
        refused(broken, CorruptError, str(broken))


def test_a_folder_with_several_tokenizers_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(sentencepiece_model())
    refused(tmp_path, ConfigError, "has several tokenizers (a.model, b.model); give the file that is meant")
    assert load_tokenizer(tmp_path / "a.model").name == "a.model"
    write_hugging_face(tmp_path, byte_level())
    assert load_tokenizer(tmp_path).kind == "tokenizers"  # what a model is trained with goes first


def test_normalisers_that_lose_text_are_declared(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace("x", "y")])
    assert load_tokenizer(write_hugging_face(tmp_path, tokenizer)).normalise("Àx") == "ay"
    plain = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert load_tokenizer(write_hugging_face(tmp_path / "plain", plain)).normalise(" À x") == " À x"
