"""llama.cpp cuts texts into the ids that the Hugging Face tokenizer gives, and renders the same conversations."""

import json
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.export.chat import portable
from iberlm.export.gguf import export_gguf
from iberlm.export.pre_tokenizer import PRE_TOKENIZERS
from iberlm.export.vocabulary import read_vocabulary
from iberlm.sources import sample
from iberlm.tokenizer.extend import extend
from iberlm.tokenizer.words import words_of
from tests.export.llama_cpp import LlamaCpp
from tests.export.models import build_model, edit_json
from tests.tokenizer.tokenizer_corpus import TEXTS, documents

SAMPLE = Path(sample.__file__).parent / "sample"
LINES = [
    json.loads(line)["text"]
    for tag in ("es", "ca", "ca_valencia", "eu", "gl")
    for line in (SAMPLE / f"documents.{tag}.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Real documents in five languages, that ship with the package."""

HARD = [
    "col·legi, novel·la, paral·lel; L'HORA DEL COL·LEGI; aŀlot amb la lletra antiga",
    "l'home d’aigua, s'ha d'anar-se'n, «sí», ¿qué?, ¡no!, 3.400 llibres, 1.234.567,89 €, 2º 3ª",
    "O ESPAÑOL, a MIÑA avoa; LA CIGÜEÑA y ÀREA, niÑo camióN vàlèncIA",
    "bihotza, Euskal Herrian; Zergatik? Hau da: 1936an",
    "  dos  espais,\tun tabulador\r\n\n\nlínies buides   \n \n",
    "    def f(x: int) -> str:\n\t\treturn f'{x!r:>{10}}'  # l'última\n\n\nif (a<=b && !c) { return a[0]->b; }",
    "espai\u00a0dur, de\u200bnul·la amplada, estret\u202f!\u2028i més",
    "😀 👩‍👩‍👧 🇪🇸 日本語 العربية ქართული ỉ ẞ",
    "</s> <s> <|im_start|> <|reserved_3|> <0x41> <unk> <pad>",
    "aaaaaaaaaaa ababababa ======== ----- ...... \u00ba\u00ba\u00ba",
    "\x00\x01\x7f\ufffd\ufffe\uffff\U0010ffff",
    "https://www.exemple.cat/a_b?c=d&e=%20f#g",
]
ORDINARY = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\u2581\ufdd0")
"""All that Unicode has assigned: whether the newest letters are letters, two libraries may see differently."""
MIXED = st.lists(st.one_of(st.text(ORDINARY), st.sampled_from([" ", "\n", "1", "·", "'s", "aa", "aba", "ls", "'", *HARD]))).map("".join)


class Pair:
    """A GGUF file in llama.cpp, and the tokenizer of the folder that it was made from."""

    def __init__(self, folder: Path, out: Path) -> None:
        export_gguf(folder, out, precision="bf16")
        self.folder, self.path, self.llama = folder, out, LlamaCpp(out)
        self.reference = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)

    def assert_same(self, text: str) -> None:
        text = unicodedata.normalize("NFC", text)
        ids = self.reference(text, add_special_tokens=False)["input_ids"]
        assert self.llama.encode(text) == ids


@pytest.fixture(scope="module", params=["bpe", "byte_bpe"])
def pair(request: pytest.FixtureRequest, tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    build_model(folder / "model", tokenizers[request.param])
    return Pair(folder / "model", folder / f"{request.param}.gguf")


def test_hard_texts_and_real_documents_have_the_same_ids(pair: Pair) -> None:
    for text in [*HARD, *LINES, *(text for tag in TEXTS for text in documents(tag))]:
        pair.assert_same(text)


@settings(max_examples=200, deadline=None)
@given(MIXED)
def test_any_text_has_the_same_ids(pair: Pair, text: str) -> None:
    pair.assert_same(text)


def test_what_differs_is_said(tokenizers: dict[str, Path]) -> None:
    nfc, space = "llama.cpp does not put text into NFC: give it text in that form", "llama.cpp takes the character U+2581 in a text for a space"
    assert read_vocabulary(tokenizers["bpe"], 680).notes == [nfc, space]
    assert read_vocabulary(tokenizers["byte_bpe"], 680).notes == [nfc]


def test_bos_is_put_before_a_text_and_special_tokens_are_read_where_asked(pair: Pair) -> None:
    reading = AutoTokenizer.from_pretrained(pair.folder)
    for text in ["Bon dia", "", "<|im_start|>user\nBon dia <s>  <|im_end|>\n</s>l'hora<|reserved_0|>"]:
        assert pair.llama.encode(text, framed=True, parse_special=True) == reading(text)["input_ids"]
    assert pair.llama.encode("Bon dia", framed=True)[0] == 1


def test_ids_are_decoded_to_the_same_text(pair: Pair) -> None:
    for text in [*HARD[:10], *LINES[:20]]:
        text = unicodedata.normalize("NFC", text)
        assert pair.llama.decode(pair.llama.encode(text)) == text


CONVERSATIONS = [
    [{"role": "user", "content": "Que horario ten a biblioteca?"}],
    [
        {"role": "system", "content": "Sigues breu.\n\n"},
        {"role": "user", "content": "  ¿Qué <b>hora</b> es? {{ x }} {% if %}\n"},
        {"role": "assistant", "content": "Les tres i mitja.\n"},
        {"role": "user", "content": "L'àvia: «Eskerrik asko»"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_conversations_are_rendered_and_cut_into_the_same_ids(pair: Pair, messages: list[dict[str, str]]) -> None:
    reading = AutoTokenizer.from_pretrained(pair.folder)
    expected = reading.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = reading.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)["input_ids"]
    prompt = pair.llama.render(messages)
    assert "<s>" + prompt == expected
    assert pair.llama.encode(prompt, framed=True, parse_special=True) == ids
    assert pair.llama.prompt_tokens(messages, whole=300) == len(ids)


def test_a_role_that_the_template_refuses_is_refused(pair: Pair) -> None:
    with pytest.raises(OSError, match="HTTP Error"):
        pair.llama.render([{"role": "bishop", "content": "Pax"}])


def test_stored_vocabulary_names_the_tokens_of_a_conversation(pair: Pair) -> None:
    fields = gguf.GGUFReader(pair.path).fields
    stored = {key: fields[f"tokenizer.ggml.{key}_token_id"].contents() for key in ("bos", "eos", "unknown", "padding", "eot")}
    assert stored == {"bos": 1, "eos": 2, "unknown": 0, "padding": 3, "eot": 5}
    types = fields["tokenizer.ggml.token_type"].contents()
    assert set(types[1:22]) == {gguf.TokenType.CONTROL}
    assert "endgeneration" not in fields["tokenizer.chat_template"].contents()


def test_scores_are_those_of_the_sentencepiece_model(tokenizers: dict[str, Path], saved: Path, tmp_path: Path) -> None:
    export_gguf(saved, tmp_path / "m.gguf", precision="bf16")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    reference = SentencePieceProcessor(model_file=str(tokenizers["bpe"] / "tokenizer.model"))
    scores, types = fields["tokenizer.ggml.scores"].contents(), fields["tokenizer.ggml.token_type"].contents()
    normal = [index for index, kind in enumerate(types) if kind == gguf.TokenType.NORMAL]
    assert len(normal) > 300
    assert [scores[index] for index in normal] == [reference.get_score(index) for index in normal]
    assert fields["tokenizer.ggml.tokens"].contents() == [reference.id_to_piece(index) for index in range(reference.vocab_size())]


def test_a_fine_tuned_folder_without_sentencepiece_model_gives_the_same_vocabulary(model: Path, tmp_path: Path) -> None:
    with_model, without = tmp_path / "with.gguf", tmp_path / "without.gguf"
    export_gguf(model, with_model, precision="bf16")
    AutoTokenizer.from_pretrained(model).save_pretrained(model)
    (model / "tokenizer.model").unlink()
    export_gguf(model, without, precision="bf16")
    first, second = (gguf.GGUFReader(path).fields for path in (with_model, without))
    for key in ("tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "padding_token_id", "unknown_token_id", "eot_token_id"):
        assert first[f"tokenizer.ggml.{key}"].contents() == second[f"tokenizer.ggml.{key}"].contents()


def test_a_space_before_the_text_is_put_where_the_tokenizer_does_it(model: Path, tmp_path: Path) -> None:
    """As the tokenizers of Llama 2 and Mistral 7B do."""
    steps = [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]
    edit_json(model / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": steps})
    pair = Pair(model, tmp_path / "m.gguf")
    for text in [*HARD, *LINES[:20]]:
        pair.assert_same(text)


def _patterns_of(name: str) -> tuple[list[Any], bool]:
    patterns, ignore_merges = next(key for key, known in PRE_TOKENIZERS.items() if known == name)
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns], ignore_merges


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS.values()))
def test_every_known_pre_tokenizer_cuts_alike(name: str, saved: Path, tmp_path: Path) -> None:
    splits, ignore_merges = _patterns_of(name)
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*HARD * 20, *LINES], trainer)  # repeated, so that what stands together becomes one token where it may
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    build_model(tmp_path / "model", folder)
    pair = Pair(tmp_path / "model", tmp_path / "m.gguf")
    assert gguf.GGUFReader(pair.path).fields["tokenizer.ggml.pre"].contents() == name
    for text in [*HARD, *LINES]:
        pair.assert_same(text)


def test_pre_tokenizers_are_recognised_however_they_are_written(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    for number, (written, name) in enumerate([(gpt2, "gpt-2"), ({"type": "Sequence", "pretokenizers": [digits, gpt2]}, "smollm")]):
        folder = Path(shutil.copytree(tokenizers["byte_bpe"], tmp_path / f"tokenizer{number}"))
        edit_json(folder / "tokenizer.json", pre_tokenizer=written)
        build_model(tmp_path / f"model{number}", folder)
        pair = Pair(tmp_path / f"model{number}", tmp_path / f"{number}.gguf")
        assert gguf.GGUFReader(pair.path).fields["tokenizer.ggml.pre"].contents() == name
        for text in [*HARD, *LINES[:20]]:
            pair.assert_same(text)


def test_added_tokens_that_are_not_special_are_found_in_texts(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["Generalitat", "a b"])
    tokenizer.save_pretrained(model)
    build_model(tmp_path / "larger", model, vocab_size=len(tokenizer) + 3)
    pair = Pair(tmp_path / "larger", tmp_path / "m.gguf")
    for text in ["la Generalitat Valenciana", "a b c", "Generalitat"]:
        pair.assert_same(text)
    fields = gguf.GGUFReader(pair.path).fields
    assert fields["tokenizer.ggml.tokens"].contents()[-3:] == [f"[PAD{len(tokenizer) + index}]" for index in range(3)]
    assert fields["tokenizer.ggml.token_type"].contents()[-4:] == [gguf.TokenType.USER_DEFINED, *[gguf.TokenType.UNUSED] * 3]


def _refusal(folder: Path, kind: type[Exception]) -> str:
    out = folder.parent / "refused.gguf"
    with pytest.raises(kind) as caught:
        export_gguf(folder, out, precision="bf16")
    assert not out.exists()
    return str(caught.value)


def test_unigram_is_refused(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    build_model(tmp_path / "model", tokenizers["unigram"])
    message = _refusal(tmp_path / "model", ConfigError)
    assert "Unigram" in message
    assert "no byte fallback" in message


def test_a_missing_or_broken_tokenizer_is_named(model: Path) -> None:
    (model / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "tokenizer.json: not a tokenizer" in _refusal(model, CorruptError)
    (model / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in _refusal(model, DataError)


def test_a_tokenizer_larger_than_the_model_is_refused(model: Path) -> None:
    edit_json(model / "config.json", vocab_size=500)
    assert "the id 679, and the model has 500 rows" in _refusal(model, CorruptError)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("normalizer", {"type": "NFKC"}, "NFKC"),
        ("normalizer", None, "does not write spaces as U+2581"),
        ("pre_tokenizer", {"type": "Whitespace"}, "Whitespace"),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}, "Metaspace"),
    ],
)
def test_what_llama_cpp_does_not_do_to_a_text_is_refused(model: Path, key: str, value: Any, said: str) -> None:
    definition = json.loads((model / "tokenizer.json").read_text(encoding="utf-8")) | {key: value}
    (model / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    assert said in _refusal(model, ConfigError)


def test_an_unknown_pre_tokenizer_is_refused_with_the_known_names(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    build_model(tmp_path / "model", tokenizers["byte_bpe"])
    steps = [
        {"type": "Split", "pattern": {"Regex": r"\p{L}+|\P{L}+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    edit_json(tmp_path / "model" / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    message = _refusal(tmp_path / "model", ConfigError)
    assert "gpt-2, llama-bpe, qwen2, qwen35, smaug-bpe, smollm" in message
    assert r"\\P{L}+" in message


@pytest.mark.parametrize("spoil", ["gap", "apart", "character"])
def test_merges_that_scores_cannot_say_are_stored_by_rank(model: Path, tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str]) -> None:
    definition = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    inner, merges = definition["model"], definition["model"]["merges"]
    twice = next(index for index in range(1, len(merges)) if "".join(merges[index]) == "".join(merges[index - 1]))
    if spoil == "gap":
        del merges[twice]
        said = "but no merge makes it of them"
    elif spoil == "apart":
        merges.append(merges.pop(twice))
        said = "do not stand together"
    else:
        inner["vocab"]["\u0436"] = inner["vocab"].pop("a")
        inner["merges"] = [pair for pair in merges if "a" not in pair]
        said = "has no piece of its own"
    (model / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    pair = Pair(model, tmp_path / "m.gguf")
    assert gguf.GGUFReader(pair.path).fields["tokenizer.ggml.model"].contents() == "gemma4"
    assert said in capsys.readouterr().err
    for text in [*HARD, *LINES]:
        pair.assert_same(text)
    assert pair.llama.decode(pair.llama.encode(LINES[0])) == LINES[0]
    assert pair.llama.encode("a\n", framed=True)[0] == 1
    edit_json(model / "tokenizer.json", post_processor=None)
    assert "no BOS is" in _refusal(model, ConfigError)


@pytest.mark.parametrize("algorithm", ["bpe", "byte_bpe"])
def test_extended_tokenizers(algorithm: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    words = Counter(word for text in LINES for word in words_of(text))
    extend(tokenizers[algorithm], words, vocabulary_size=900).write(tmp_path / "extended")
    build_model(tmp_path / "model", tmp_path / "extended")
    pair = Pair(tmp_path / "model", tmp_path / "m.gguf")
    for text in [*HARD, *LINES]:
        pair.assert_same(text)
    assert max(index for text in LINES for index in pair.llama.encode(text)) > 800


def test_merges_in_the_notation_of_older_files_are_read(model: Path, tmp_path: Path) -> None:
    definition = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    definition["model"]["merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]
    (model / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    pair = Pair(model, tmp_path / "m.gguf")
    for text in HARD:
        pair.assert_same(text)


def test_a_tokenizer_that_frames_texts_otherwise_is_refused(model: Path) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<pad>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<pad>": {"id": "<pad>", "ids": [3], "tokens": ["<pad>"]}},
    }
    edit_json(model / "tokenizer.json", post_processor=template)
    assert "can only put BOS (1) before a text" in _refusal(model, ConfigError)


def test_portable_templates_keep_their_white_space_control() -> None:
    template = "{%- generation -%}\n a {% endgeneration %}{%generation%}{%+ endgeneration +%}{% set generation = 1 %}"
    assert portable(template) == "{%- if true -%}\n a {% endif %}{% if true %}{%+ endif +%}{% set generation = 1 %}"


@pytest.mark.parametrize("stored", ["file", "list", "none"])
def test_chat_templates_are_found_where_transformers_finds_them(model: Path, tmp_path: Path, stored: str) -> None:
    template = "{{ bos_token }}{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    if stored == "file":
        (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    edit_json(model / "tokenizer_config.json", chat_template=named if stored == "list" else None)
    export_gguf(model, tmp_path / "m.gguf", precision="bf16")
    field = gguf.GGUFReader(tmp_path / "m.gguf").get_field("tokenizer.chat_template")
    assert (field.contents() if field else None) == (None if stored == "none" else template)
