"""Extending a tokenizer: what stays as the base has it, what is learnt, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_corpus import TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer import extend as module
from iberlm.tokenizer import train
from iberlm.tokenizer.config import TokenizerConfig, TrainTokenizerConfig
from iberlm.tokenizer.extend import Extension, expected_saving, extend

ENGLISH = """The quick brown fox jumps over the lazy dog, and the dog does not mind. In 1987 there were 3,400 of them on the hill;
the others had gone to the river, where the water was high and the bridge was old. "Nobody knows," said the baker, "what comes next."
We'll see what the morning brings: the oven is hot, the bread is on the table, and it's only six. Señora Peña está aquí. l·l"""
WORDS = Counter(word for text in TEXTS.values() for line in text.split("\n") for word in re.findall(r" *[^ ]+", line))
SPLIT = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>"]
KINDS = ("llama3", "gpt2", "llama2", "metaspace", "ours")
TEMPLATE = "{% for message in messages %}<|user|>{{ message.content }}{% endfor %}"


def trained(tokenizer: Tokenizer, size: int, **settings: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **settings)
    tokenizer.train_from_iterator(ENGLISH.split("\n"), trainer)
    return tokenizer


def byte_level(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.pre_tokenizer = split if kind == "llama3" else pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trained(tokenizer, 340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))])
    return tokenizer


def with_byte_fallback(kind: str) -> Tokenizer:
    """Trained on words; then the steps are put in that a tokenizer of this kind has, which cuts no words."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained(learnt, 420, special_tokens=["<unk>", "<s>", "</s>", *BYTES])
    model = json.loads(learnt.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        back.append(decoders.Strip(" ", 1, 0))
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        back.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("▁", "\ufdd0"), normalizers.Replace(" ", "▁")])
        back.append(decoders.Replace("\ufdd0", "▁"))
    tokenizer.decoder = decoders.Sequence(back)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>", *SPECIAL)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_base(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True)
    (byte_level if kind in ("llama3", "gpt2") else with_byte_fallback)(kind).save(str(folder / "tokenizer.json"))
    start = "<|begin|>" if kind in ("llama3", "gpt2") else "<s>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": start, "eos_token": "<|end|>", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(b"the same in another format")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_base(tmp_path_factory.mktemp("bases") / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, bases: dict[str, Path]) -> tuple[Tokenizer, Tokenizer, Extension]:
    base = bases[request.param]
    extension = extend(base, WORDS, vocabulary_size=size_of(base) + 150)
    return Tokenizer.from_file(str(base / "tokenizer.json")), Tokenizer.from_str(extension.tokenizer_json), extension


def size_of(base: Path) -> int:
    return Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab_size()


def spelt_out(extension: Extension, ids: list[int]) -> list[int]:
    return [part for index in ids for part in (extension.parts[index - extension.base_size] if index >= extension.base_size else [index])]


def rewritten(base: Path, folder: Path, change: Mapping[str, Any], **model: Any) -> Path:
    """A copy of a base with other values in its tokenizer.json."""
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(spec | change | {"model": spec["model"] | model}), encoding="utf-8")
    return folder


FRAGMENTS = [*(word for word in WORDS if len(word) > 4), *SPECIAL, "<s>", "<0x41>", "<tool>", "▁", "  ", "\n", "\r\n", "1987", "l·l", "e\u0301", "\ufdd0", "😀"]
ANY_TEXT = st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(FRAGMENTS))).map("".join)


def test_new_pieces_spelt_out_are_the_encoding_of_the_base(pair: tuple[Tokenizer, Tokenizer, Extension]) -> None:
    base, extended, extension = pair

    @settings(max_examples=400, deadline=None, database=None)
    @given(ANY_TEXT, st.booleans(), st.booleans())
    def check(text: str, as_text: bool, special: bool) -> None:
        base.encode_special_tokens = extended.encode_special_tokens = as_text
        before, after = (tokenizer.encode(text, add_special_tokens=special).ids for tokenizer in (base, extended))
        assert spelt_out(extension, after) == before
        assert extended.decode(after, skip_special_tokens=False) == base.decode(before, skip_special_tokens=False)

    check()
    for text in TEXTS.values():
        before, after = (tokenizer.encode(text).ids for tokenizer in (base, extended))
        assert spelt_out(extension, after) == before
        assert len(after) < 0.8 * len(before)


def test_every_new_piece_is_reached_and_has_the_ids_after_the_base(pair: tuple[Tokenizer, Tokenizer, Extension]) -> None:
    base, extended, extension = pair
    assert extension.base_size == base.get_vocab_size()
    assert extension.vocabulary_size == extended.get_vocab_size() == extension.base_size + 150
    assert [extended.token_to_id(piece) for piece in extension.added] == list(range(extension.base_size, extension.vocabulary_size))
    assert {token: extended.token_to_id(token) for token in base.get_vocab()} == base.get_vocab()
    bare = Tokenizer.from_str(json.dumps(json.loads(extension.tokenizer_json) | {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}))
    for index, piece in enumerate(extension.added):
        assert bare.encode(piece, add_special_tokens=False).ids == [extension.base_size + index]
        assert len(extension.parts[index]) >= 2
        assert "".join(base.id_to_token(part) for part in extension.parts[index]) == piece


def test_the_rest_of_the_tokenizer_is_the_bases(pair: tuple[Tokenizer, Tokenizer, Extension]) -> None:
    base, extended, _ = pair
    before, after = json.loads(base.to_str()), json.loads(extended.to_str())
    assert {name: part for name, part in after.items() if name != "model"} == {name: part for name, part in before.items() if name != "model"}
    changed = ("vocab", "merges")
    settings_ = [{key: value for key, value in spec["model"].items() if key not in changed} for spec in (before, after)]
    assert settings_[0] == settings_[1]
    assert after["model"]["merges"][: len(before["model"]["merges"])] == before["model"]["merges"]


@pytest.mark.parametrize("kind", KINDS)
def test_written_folder_loads_with_transformers(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    extension = extend(bases[kind], WORDS, vocabulary_size=size_of(bases[kind]) + 50)
    extension.write(tmp_path / "extended")
    assert sorted(file.name for file in (tmp_path / "extended").iterdir()) == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    base, extended = AutoTokenizer.from_pretrained(bases[kind]), AutoTokenizer.from_pretrained(tmp_path / "extended")
    chat = [{"role": "user", "content": "En 2003 volveron as embarcacións ao porto"}]
    before, after = (tokenizer.apply_chat_template(chat, return_dict=False) for tokenizer in (base, extended))
    assert spelt_out(extension, after) == before
    assert len(after) < len(before)
    assert after[0] == before[0] == extended.convert_tokens_to_ids("<|user|>")
    assert (extended.bos_token_id, extended.eos_token_id) == (base.bos_token_id, base.eos_token_id)
    assert extended("Mendiaren oinean")["input_ids"][0] == base.bos_token_id
    extended.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXTS["eu"])["input_ids"] == extended(TEXTS["eu"])["input_ids"]


def test_the_same_words_in_any_order_give_the_same_bytes_in_any_process(bases: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps(dict(reversed(WORDS.items()))), encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from iberlm.tokenizer.extend import extend\n"
        "base, words, size = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding='utf-8')), int(sys.argv[3])\n"
        "sys.stdout.buffer.write(extend(base, words, vocabulary_size=size).tokenizer_json.encode())"
    )
    for kind, seed in (("llama3", "1"), ("ours", "2")):
        size = size_of(bases[kind]) + 150
        made = subprocess.run(
            [sys.executable, "-c", program, str(bases[kind]), str(tmp_path / "words.json"), str(size)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr.decode()
        assert made.stdout.decode() == extend(bases[kind], WORDS, vocabulary_size=size).tokenizer_json


@pytest.mark.parametrize("kind", ["gpt2", "llama2"])
def test_neither_special_tokens_nor_bytes_are_made_of_text(kind: str, bases: dict[str, Path]) -> None:
    words = {" <|end|>casa": 900, " </s>casa": 900, "<tool>casa": 900, " <0x41>": 900, "<0xe1>": 900, " ŀŀŀ": 900, " casa": 5, " cases": 3}
    with pytest.raises(DataError, match="can be learnt") as error:
        extend(bases[kind], words, vocabulary_size=2_000)
    possible = int(re.search(r"at most (\d+)", str(error.value))[1])  # type: ignore[index]
    extension = extend(bases[kind], words, vocabulary_size=possible)
    extended = Tokenizer.from_str(extension.tokenizer_json)
    assert not {*BYTES, *SPECIAL, "<s>", "</s>", "<tool>", "<0xe1>"} & set(extension.added)
    if kind == "llama2":
        extended.encode_special_tokens = True
        assert extended.decode(extended.encode("ŀŀŀ <0x41> <0xe1> </s>", add_special_tokens=False).ids) == "ŀŀŀ <0x41> <0xe1> </s>"
    assert any(piece.strip("Ġ▁") == "casa" for piece in extension.added)


def test_no_piece_reaches_over_an_added_token(tmp_path: Path) -> None:
    """A text is cut at added tokens before the model sees it: a piece across one would never be used."""
    tokenizer = with_byte_fallback("ours")
    tokenizer.add_tokens(["etxe"])
    (tmp_path / "base").mkdir()
    tokenizer.save(str(tmp_path / "base/tokenizer.json"))
    extension = extend(tmp_path / "base", {" etxekoak": 90, " etxera": 80, " koak": 5}, vocabulary_size=tokenizer.get_vocab_size() + 3)
    assert Tokenizer.from_str(extension.tokenizer_json).encode("etxekoak", add_special_tokens=False).tokens == ["etxe", "koak"]
    assert not any("tx" in piece for piece in extension.added)


def test_a_piece_that_the_base_only_takes_whole_is_not_made_elsewhere(bases: dict[str, Path], tmp_path: Path) -> None:
    """Llama 3 has tokens that its merges do not make; it knows them as whole words only."""
    spec = json.loads((bases["llama3"] / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["vocab"]["Ġmendi"] = len(spec["model"]["vocab"])
    for token in spec["added_tokens"]:
        token["id"] += 1
    base = rewritten(bases["llama3"], tmp_path / "base", {"added_tokens": spec["added_tokens"], "post_processor": None}, vocab=spec["model"]["vocab"])
    words = {" mendi": 50, " mendiak": 40, " mendira": 30, " mendian": 20, " etxeak": 3}
    extension = extend(base, words, vocabulary_size=size_of(base) + 5)
    assert "Ġmendi" not in extension.added
    assert extension.passed_over > 0
    before, after = Tokenizer.from_file(str(base / "tokenizer.json")), Tokenizer.from_str(extension.tokenizer_json)
    for word in words:
        assert spelt_out(extension, after.encode(word).ids) == before.encode(word).ids
    assert after.encode(" mendi").tokens == ["Ġmendi"]


def test_files_of_older_versions_keep_their_notation_of_merges(bases: dict[str, Path], tmp_path: Path) -> None:
    merges = [" ".join(pair) for pair in json.loads((bases["gpt2"] / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]]
    base = rewritten(bases["gpt2"], tmp_path / "base", {}, merges=merges)
    made = json.loads(extend(base, WORDS, vocabulary_size=size_of(base) + 20).tokenizer_json)["model"]["merges"]
    assert made[: len(merges)] == merges
    assert len(made) == len(merges) + 20
    assert all(isinstance(merge, str) for merge in made)
    assert extend(base, WORDS, vocabulary_size=size_of(base) + 20).added == extend(bases["gpt2"], WORDS, vocabulary_size=size_of(base) + 20).added


def test_large_counts_are_scaled_and_keep_their_proportions(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    many = {word: 1_000 * count for word, count in WORDS.items()}
    size = size_of(bases["llama3"]) + 40
    whole = extend(bases["llama3"], many, vocabulary_size=size)
    monkeypatch.setattr(module, "MAX_WORDS_FED", 20_000)
    scaled = extend(bases["llama3"], many, vocabulary_size=size)
    assert len(set(whole.added) & set(scaled.added)) > 0.8 * 40
    assert whole.added[:3] == scaled.added[:3]
    assert extend(bases["llama3"], dict(reversed(many.items())), vocabulary_size=size).added == scaled.added


def test_long_words_are_data_and_teach_nothing(bases: dict[str, Path]) -> None:
    junk = {"QZ" * 600: 10_000, "x" * 50_000: 5}
    size = size_of(bases["ours"]) + 20
    assert extend(bases["ours"], WORDS | junk, vocabulary_size=size).added == extend(bases["ours"], WORDS, vocabulary_size=size).added


def test_saving_is_told_by_language(bases: dict[str, Path], tmp_path: Path) -> None:
    extend(bases["llama3"], WORDS, vocabulary_size=size_of(bases["llama3"]) + 150).write(tmp_path / "tokenizer")
    saving = expected_saving(bases["llama3"], tmp_path, {tag: [text, ""] for tag, text in TEXTS.items()} | {"en": [ENGLISH], "und": []})
    assert set(saving) == {*TEXTS, "en"}
    assert all(0.2 < saving[tag] < 0.7 for tag in TEXTS)
    assert saving["en"] < 0.1
    before, after = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (bases["llama3"], tmp_path / "tokenizer"))
    counts = [len(tokenizer.encode(TEXTS["eu"], add_special_tokens=False)) for tokenizer in (before, after)]
    assert saving["eu"] == pytest.approx(1 - counts[1] / counts[0], abs=1e-4)


def test_what_cannot_be_extended_is_refused_with_the_reason(bases: dict[str, Path], tmp_path: Path) -> None:
    size = size_of(bases["llama3"])
    with pytest.raises(ConfigError, match=rf"{size} must be above the {size} ids"):
        extend(bases["llama3"], WORDS, vocabulary_size=size)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in"):
        extend(tmp_path, WORDS, vocabulary_size=1_000)
    with pytest.raises(DataError, match=r"0 pieces can be learnt"):
        extend(bases["llama3"], {}, vocabulary_size=size + 1)
    for name, model, reason in (
        ("unigram", models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False), "its model is Unigram"),
        ("wordpiece", models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "its model is WordPiece"),
        ("characters", models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]), "neither byte-level nor with byte fallback"),
    ):
        (tmp_path / name).mkdir()
        Tokenizer(model).save(str(tmp_path / name / "tokenizer.json"))
        with pytest.raises(ConfigError, match=reason):
            extend(tmp_path / name, WORDS, vocabulary_size=1_000)
    for name, setting, reason in (("dropout", {"dropout": 0.1}, "at random"), ("suffix", {"end_of_word_suffix": "</w>"}, "end_of_word_suffix")):
        with pytest.raises(ConfigError, match=reason):
            extend(rewritten(bases["gpt2"], tmp_path / name, {}, **setting), WORDS, vocabulary_size=1_000)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/tokenizer.json").write_text('{"model": {"type": "BPE"', encoding="utf-8")
    with pytest.raises(CorruptError, match="cannot be read as a tokenizer"):
        extend(tmp_path / "cut", WORDS, vocabulary_size=1_000)


def test_a_special_token_that_is_a_word_of_text_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """With ignore_merges a word that is in the vocabulary is taken whole, and the new ids need the special tokens there."""
    tokenizer = byte_level("llama3")
    tokenizer.add_special_tokens(["PADDING"])
    (tmp_path / "base").mkdir()
    tokenizer.save(str(tmp_path / "base/tokenizer.json"))
    with pytest.raises(ConfigError, match="'PADDING' is a word of plain text"):
        extend(tmp_path / "base", WORDS, vocabulary_size=tokenizer.get_vocab_size() + 10)


def test_ids_that_do_not_load_as_written_are_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    spec = json.loads((bases["gpt2"] / "tokenizer.json").read_text(encoding="utf-8"))
    spec["added_tokens"][-1]["id"] += 7
    with pytest.raises(ConfigError, match="but loads as"):
        extend(rewritten(bases["gpt2"], tmp_path / "base", {"added_tokens": spec["added_tokens"]}), WORDS, vocabulary_size=1_000)


def test_the_stage_extends_measures_and_judges_only_what_it_added(curated: Manifest, bpe: Manifest, tmp_path: Path) -> None:
    base_size = bpe.metrics["vocabulary_size"]
    config = TrainTokenizerConfig(tokenizer=TokenizerConfig(algorithm="extend", base=str(bpe.folder), vocabulary_size=base_size + 40))
    manifest = train.run(config, [curated], tmp_path / "out")
    found = manifest.metrics["extension"]
    assert (found["base_size"], found["added"]) == (base_size, 40)
    assert set(found["saving"]) == set(TEXTS)
    assert all(share > 0 for share in found["saving"].values())
    assert manifest.metrics["pieces"]["trained"] == 40
    assert manifest.metrics["deterministic"] is True
    for tag, tokens in bpe.metrics["parallel"]["tokens"].items():
        assert manifest.metrics["parallel"]["tokens"][tag] <= tokens
    old, new = (AutoTokenizer.from_pretrained(stage.folder / "tokenizer") for stage in (bpe, manifest))
    assert len(new) == base_size + 40
    assert new.chat_template == old.chat_template
    assert (new.bos_token_id, new.eos_token_id) == (old.bos_token_id, old.eos_token_id)
    again = train.run(config, [curated], tmp_path / "again")
    assert again.outputs == manifest.outputs
