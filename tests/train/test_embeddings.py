"""Another tokenizer for a model: rows copied and averaged, the same logits, files that load, and refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.train.embeddings import resize_embeddings
from iberlm.train.vocabulary import read_vocabulary

from .conftest import SENTENCES

SMALL = "the cat is on the mat and the dog is in the house with the old red door, and all of them went there with their children to the other side of this"
NEW_WORDS = ("Ġcasa", "Ġblanca", "Ġetxe", "Ġestà", "Ġmolí")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def save(tokenizer: Tokenizer, folder: Path, **roles: str) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return folder


def byte_level(texts: list[str], size: int, special: tuple[str, ...] = ("<s>", "</s>")) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], tokenizer.token_to_id(special[0]))])
    return tokenizer


def sentencepiece_like(texts: list[str], size: int) -> Tokenizer:
    """As Llama 2 has it: a space is put before the text, bytes for what has no piece."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learnt.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False))
    model = json.loads(learnt.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def bare(folder: Path) -> Tokenizer:
    """The model of a tokenizer alone: it takes pieces as they are spelt in the vocabulary."""
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return Tokenizer.from_str(json.dumps(spec | {"normalizer": None, "pre_tokenizer": None, "post_processor": None}))


def extended(base: Path, words: tuple[str, ...]) -> Tokenizer:
    """The same tokenizer with pieces that join what it makes of the words, in the alphabet of its model."""
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = spec["model"]["vocab"], spec["model"]["merges"]
    for word in words:
        left, *rest = bare(base).encode(word).tokens
        for right in rest:
            vocabulary.setdefault(left + right, len(vocabulary))
            merges.append([left, right])
            left += right
    return Tokenizer.from_str(json.dumps(spec))


def in_alphabet(word: str) -> str:
    """A word as byte-level BPE spells it."""
    return "".join(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)[0][0])


ADDED = tuple(in_alphabet(word.replace("Ġ", " ")) for word in NEW_WORDS)


def llama(rows: int, **settings: Any) -> LlamaConfig:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    return LlamaConfig(vocab_size=rows, **({"bos_token_id": 0, "eos_token_id": 1} | small | settings))


def write_model(folder: Path, config: PretrainedConfig, tokenizer: Path, dtype: torch.dtype = torch.float32, **saving: Any) -> Path:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # rows that differ from each other also in biases
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder, **saving)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A byte-level tokenizer, its extension, and others that replace it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    old = save(byte_level([SMALL], 300), folder / "old", bos_token="<s>", eos_token="</s>")
    texts = [*SENTENCES.values(), SMALL]
    other = byte_level(texts, 330, ("<bos>", "<eos>", "<pad>", "</s>"))
    return {
        "old": old,
        "extended": save(extended(old, ADDED), folder / "extended", bos_token="<s>", eos_token="</s>"),
        "replaced": save(other, folder / "replaced", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
        "pieces": save(sentencepiece_like(texts, 400), folder / "pieces", bos_token="<s>", eos_token="</s>", unk_token="<unk>"),
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


SMALL_SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
ENDS = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
CONFIGS: dict[str, tuple[PretrainedConfig, int]] = {
    "llama": (llama(300), 2),
    "llama tied": (llama(300, tie_word_embeddings=True), 1),
    "padded": (llama(320), 2),
    "neox": (GPTNeoXConfig(**SMALL_SHAPE, **ENDS), 2),
    "gpt2": (GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=300, **ENDS), 1),
    "phi": (PhiConfig(**SMALL_SHAPE, **ENDS), 3),
}
"""With the number of tensors that have a row an id: Phi's head has a bias; GPT-2 here has as many positions as ids."""


@pytest.mark.parametrize("name", CONFIGS)
def test_an_extended_model_has_the_old_logits_and_means_of_pieces(name: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    config, count = CONFIGS[name]
    model = write_model(tmp_path / "model", config, tokenizers["old"])
    summary = resize_embeddings(model, tokenizers["extended"], tmp_path / "out")
    old, new = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert summary["rows"] == len(new) > 300
    assert (summary["copied"], summary["mean"], summary["overall"]) == (300, len(new) - 300, 0)
    assert len(summary["tensors"]) == count
    before, after = weights(model), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for tensor in before.keys() - set(summary["tensors"]):
        assert torch.equal(before[tensor], after[tensor])
    for tensor in summary["tensors"]:
        assert torch.equal(after[tensor][:300], before[tensor][:300])
        for index in range(300, len(new)):
            parts = bare(model).encode(new.convert_ids_to_tokens(index)).ids
            assert len(parts) > 1
            torch.testing.assert_close(after[tensor][index], before[tensor][parts].mean(0))
    models_ = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (model, tmp_path / "out")]
    ids = new(SMALL, return_tensors="pt")["input_ids"]
    assert ids.tolist() == old(SMALL, return_tensors="pt")["input_ids"].tolist()
    with torch.no_grad():
        first, second = (entry(ids).logits for entry in models_)
    assert second.shape[-1] == len(new) == models_[1].config.vocab_size
    torch.testing.assert_close(second[..., :300], first[..., :300])
    inputs = new("La casa blanca", return_tensors="pt")
    assert inputs["input_ids"].max() >= 300
    assert models_[1].generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=1).shape[1] > inputs["input_ids"].shape[1]


def test_shards_and_types_stay_and_other_shards_are_the_same_bytes(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"], torch.bfloat16, max_shard_size="30KB")
    files = sorted(file.name for file in model.glob("*.safetensors"))
    assert len(files) > 2
    summary = resize_embeddings(model, tokenizers["extended"], tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.safetensors")) == files
    before, after = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (model, tmp_path / "out"))
    assert after["weight_map"] == before["weight_map"]
    more = 2 * 32 * (summary["rows"] - 300)
    assert after["metadata"]["total_parameters"] == before["metadata"]["total_parameters"] + more
    assert after["metadata"]["total_size"] == before["metadata"]["total_size"] + 2 * more == sum(tensor.nbytes for tensor in weights(tmp_path / "out").values())
    changed = {before["weight_map"][name] for name in summary["tensors"]}
    for file in files:
        assert (file in changed) == ((model / file).read_bytes() != (tmp_path / "out" / file).read_bytes())
        with safe_open(model / file, "pt") as one, safe_open(tmp_path / "out" / file, "pt") as other:
            assert one.metadata() == other.metadata()
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.bfloat16}
    embeddings, old = weights(tmp_path / "out")["model.embed_tokens.weight"], weights(model)["model.embed_tokens.weight"]
    parts = AutoTokenizer.from_pretrained(model)(" casa", add_special_tokens=False)["input_ids"]
    index = AutoTokenizer.from_pretrained(tmp_path / "out")(" casa", add_special_tokens=False)["input_ids"]
    assert torch.equal(embeddings[index[0]], old[parts].float().mean(0).bfloat16())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@pytest.mark.parametrize("other", ["replaced", "pieces"])
def test_a_replaced_vocabulary_copies_what_both_have(other: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"])
    summary = resize_embeddings(model, tokenizers[other], tmp_path / "out")
    old, new = read_vocabulary(model), read_vocabulary(tmp_path / "out")
    before, after = (weights(folder)["model.embed_tokens.weight"] for folder in (model, tmp_path / "out"))
    ids = {data: index for index, data in old.text.items()}
    overlap = 0
    for index, data in (new.text | new.byte).items():
        if data in ids:
            overlap += 1
            assert torch.equal(after[index], before[ids[data]])
        else:
            torch.testing.assert_close(after[index], before[old.spell([data])[0]].mean(0))
    assert overlap > 256
    assert summary["rows"] == new.size == len(after) == sum(summary[key] for key in ("copied", "mean", "overall"))
    for role in ("bos", "eos"):
        assert torch.equal(after[new.roles[role]], before[old.roles[role]])
    model_out, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    for settings in (model_out.config, model_out.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert model_out.config.pad_token_id == tokenizer.pad_token_id
    inputs = tokenizer("Etxe zuria", return_tensors="pt")
    assert inputs["input_ids"][0, 0] == tokenizer.bos_token_id
    assert model_out.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=2, pad_token_id=0).shape[0] == 1


def test_what_the_old_tokenizer_cannot_write_gets_the_mean_of_all_rows(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"])
    summary = resize_embeddings(model, tokenizers["replaced"], tmp_path / "out", pad_to_multiple=64)
    assert summary["rows"] == 384
    before, after = (weights(folder)["lm_head.weight"] for folder in (model, tmp_path / "out"))
    new = read_vocabulary(tmp_path / "out")
    assert summary["overall"] == 1 + 384 - new.size  # <pad>; <bos> and <eos> have their roles, </s> its spelling
    for index in (new.roles["pad"], *range(new.size, 384)):
        torch.testing.assert_close(after[index], before.mean(0))
    assert torch.equal(after[new.roles["eos"]], before[1])
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 384
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().num_embeddings == 384


def test_bytes_are_found_between_kinds_of_tokenizers(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    """From bytes as pieces to byte-level pieces: what is no whole character is spelt by its bytes."""
    model = write_model(tmp_path / "model", llama(400), tokenizers["pieces"])
    resize_embeddings(model, tokenizers["replaced"], tmp_path / "out")
    old, new = read_vocabulary(model), read_vocabulary(tmp_path / "out")
    before, after = (weights(folder)["model.embed_tokens.weight"] for folder in (model, tmp_path / "out"))
    index = next(index for index, data in new.text.items() if data == b"\xc3")
    assert torch.equal(after[index], before[next(piece for piece, data in old.byte.items() if data == b"\xc3")])
    assert old.spell([b"\xa7\xff"]) == [[old_byte(old, 0xA7), old_byte(old, 0xFF)]]
    assert old.spell([b"\xc3a"]) == [[old_byte(old, 0xC3), *old.spell([b"a"])[0]]]
    assert old.spell(["ŀ".encode(), b" casa"]) == [[old_byte(old, 0xC5), old_byte(old, 0x80)], bare(model).encode("▁casa").ids]


def old_byte(vocabulary: Any, byte: int) -> int:
    return next(index for index, data in vocabulary.byte.items() if data == bytes([byte]))


def test_ids_in_the_settings_follow_their_tokens(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300, eos_token_id=[1, 0]), tokenizers["old"])
    generation = json.loads((model / "generation_config.json").read_text()) | {
        "eos_token_id": [1, 0],
        "suppress_tokens": [7],
        "temperature": 0.5,
        "do_sample": True,
    }
    (model / "generation_config.json").write_text(json.dumps(generation))
    (model / "LICENSE").write_text("as it is")
    (model / "merges.txt").write_text("of the old tokenizer")
    (model / "pytorch_model.bin").write_bytes(b"a copy")
    resize_embeddings(model, tokenizers["extended"], tmp_path / "extended")
    resize_embeddings(model, tokenizers["replaced"], tmp_path / "replaced")
    kept, moved = (json.loads((tmp_path / name / "generation_config.json").read_text()) for name in ("extended", "replaced"))
    assert kept == generation
    tokenizer = AutoTokenizer.from_pretrained(tokenizers["replaced"])
    assert moved["eos_token_id"] == [tokenizer.eos_token_id]  # </s> had the role; <s>, which is no more, stood for the same
    assert moved["bos_token_id"] == tokenizer.bos_token_id
    assert moved["temperature"] == 0.5
    assert "suppress_tokens" not in moved
    assert json.loads((tmp_path / "replaced/config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id
    assert (tmp_path / "replaced/LICENSE").read_text() == "as it is"
    assert not [name for name in ("merges.txt", "pytorch_model.bin") if (tmp_path / "replaced" / name).exists()]


def test_the_same_input_gives_the_same_bytes_and_leaves_nothing_beside(tokenizers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"])
    (tmp_path / "one").mkdir()
    for name in ("one", "two"):
        resize_embeddings(model, tokenizers["replaced"], tmp_path / name)
    assert {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()} == {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "one", "two"]
    output = capsys.readouterr()
    assert "two: 330 rows" in output.out
    assert "the mean of all rows" in output.out
    assert "same bytes" in output.err


def test_what_cannot_be_resized_is_refused_and_nothing_written(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"])
    new = tokenizers["extended"]

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(model, tmp_path / name))

    def refused(folder: Path, kind: type[Exception], reason: str, tokenizer: Path = new) -> None:
        with pytest.raises(kind, match=reason):
            resize_embeddings(folder, tokenizer, tmp_path / "out")
        assert not [entry for entry in tmp_path.iterdir() if entry.name in ("out", ".out.partial")]

    with pytest.raises(ConfigError, match="is not an empty folder"):
        resize_embeddings(model, new, model)
    refused(tmp_path / "nowhere", ConfigError, r"config\.json: there is no such file")
    pickled = damaged("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, ConfigError, "is a pickle, which can run code")
    cut = damaged("cut")
    (cut / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-10])
    refused(cut, CorruptError, "not a whole safetensors file")
    without = damaged("without")
    save_file({name: tensor for name, tensor in load_file(model / "model.safetensors").items() if "lm_head" not in name}, without / "model.safetensors")
    refused(without, CorruptError, r"of the tensors with 300 rows")
    integers = damaged("integers")
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(model / "model.safetensors").items()}, integers / "model.safetensors")
    refused(integers, ConfigError, "is of type I8")
    strange = damaged("strange")
    (strange / "config.json").write_text('{"model_type": "nobody_knows", "vocab_size": 300}')
    refused(strange, ConfigError, "cannot build a causal language model")
    (damaged("old") / "tokenizer.json").unlink()
    refused(tmp_path / "old", ConfigError, r"no tokenizer\.json")
    refused(model, ConfigError, r"no tokenizer\.json", tmp_path)
    words = tmp_path / "words"
    words.mkdir()
    Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(words / "tokenizer.json"))
    refused(model, ConfigError, "its model is WordPiece", words)


def test_a_folder_of_a_stage_is_taken_and_a_killed_run_leaves_no_trouble(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(300), tokenizers["old"])
    shutil.copytree(tokenizers["extended"], tmp_path / "train_tokenizer/tokenizer")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/model.safetensors").write_bytes(b"half")
    resize_embeddings(model, tmp_path / "train_tokenizer", tmp_path / "out")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) > 300
    assert not (tmp_path / ".out.partial").exists()


def test_files_that_leave_out_the_prefix_of_the_model_are_understood(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    """As the published GPT-2 and BLOOM do; GPT-2 here has as many positions as ids, so that shapes alone would not tell."""
    model = write_model(tmp_path / "model", CONFIGS["gpt2"][0], tokenizers["old"])
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    summary = resize_embeddings(model, tokenizers["extended"], tmp_path / "out")
    assert summary["tensors"] == ["wte.weight"]
    assert torch.equal(weights(tmp_path / "out")["wpe.weight"], tensors["wpe.weight"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().num_embeddings == summary["rows"]


def test_pieces_of_the_same_bytes_keep_their_own_rows(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    """Vocabularies of SentencePiece may have a space twice, as U+2581 and as itself."""
    spec = json.loads((tokenizers["pieces"] / "tokenizer.json").read_text(encoding="utf-8"))
    size = len(spec["model"]["vocab"])
    spec["model"]["vocab"][" "] = size
    twice = save(Tokenizer.from_str(json.dumps(spec)), tmp_path / "twice", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    model = write_model(tmp_path / "model", llama(size + 1), twice)
    summary = resize_embeddings(model, twice, tmp_path / "out")
    assert summary["copied"] == summary["rows"] == size + 1
    assert (tmp_path / "out/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_ids_without_a_row_are_not_read(tokenizers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some models have fewer rows than their tokenizer has ids, since a token was added later; and a setting may name what is no more."""
    model = write_model(tmp_path / "model", llama(296, pad_token_id=290), tokenizers["old"])
    summary = resize_embeddings(model, tokenizers["old"], tmp_path / "out")
    assert (summary["rows"], summary["copied"], summary["overall"]) == (300, 296, 4)
    before, after = (weights(folder)["lm_head.weight"] for folder in (model, tmp_path / "out"))
    torch.testing.assert_close(after[296:], before.mean(0).expand(4, -1))
    assert "4 ids of the old tokenizer have no row" in capsys.readouterr().err
    resize_embeddings(model, tokenizers["pieces"], tmp_path / "pieces")
    assert json.loads((tmp_path / "pieces/config.json").read_text())["pad_token_id"] is None
    assert "no token for 'pad_token_id' (290); it is unset" in capsys.readouterr().err
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "pieces").config.pad_token_id is None
