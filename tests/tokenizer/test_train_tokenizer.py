"""Training a tokenizer: the ids of the exported folder, exact round trips, determinism, refusals."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizer_corpus import TEXTS, documents, small, write_curated
from tokenizers import normalizers
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.manifest import Manifest
from iberlm.tokenizer import train
from iberlm.tokenizer.config import ParityConfig, SampleMixtureConfig, TokenizerConfig, TrainTokenizerConfig
from iberlm.tokenizer.special import fixed_pieces, special_tokens

ODD = [
    "col·legi, novel·la, paral·lel; aŀlot amb la lletra antiga",
    "l'home d’aigua, «sí», ¿qué?, 3.400 llibres, 1.234.567,89 €, 2º 3ª",
    "  dos  espais,\tun tabulador\r\n\n\nlínies buides   ",
    "espai\u00a0dur, de\u200bnul·la amplada, estret\u202f!",
    "😀 👩‍👩‍👧 🇪🇸 日本語 العربية ქართული ỉ ẞ",
    "▁ ▂▃▄▅ i un ▁▁ al mig▁",
    "</s> <s> <|im_start|> <|reserved_3|> <0x41> <unk> <pad>",
    "aaaaaaaaaaa ababababa ======== ----- ......",
    "NFD: cafe\u0301, camio\u0301n, n\u0303, l\u0323\u0307, \u1e9b\u0323",
    "\x00\x01\x7f\ufffd\ufffe\uffff\U0010ffff",
    "",
]
FRAGMENTS = ["▁", " ", "  ", "\n", "1", "·", "e\u0301", "aa", "aba", "ls", *ODD]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"))
MIXED = st.lists(st.one_of(ANY_TEXT, st.sampled_from(FRAGMENTS))).map("".join)


def pair(manifest: Manifest) -> tuple[PreTrainedTokenizerFast, SentencePieceProcessor]:
    folder = manifest.folder / "tokenizer"
    reference = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return AutoTokenizer.from_pretrained(folder, split_special_tokens=True), reference


def nfc(text: str) -> str:
    return normalizers.NFC().normalize_str(text)


def assert_same_and_exact(fast: PreTrainedTokenizerFast, reference: SentencePieceProcessor, text: str) -> None:
    ids = fast(text, add_special_tokens=False)["input_ids"]
    assert ids == reference.encode(nfc(text))
    assert fast.decode(ids) == nfc(text)
    assert reference.decode(ids) == nfc(text)
    assert not ids or min(ids) >= len(special_tokens(16))


def test_ids_are_those_of_sentencepiece_and_round_trips_are_exact(trained: Manifest) -> None:
    fast, reference = pair(trained)
    for text in [*ODD, *(text for tag in TEXTS for text in documents(tag))]:
        assert_same_and_exact(fast, reference, text)


def test_any_text_has_the_ids_of_sentencepiece_and_comes_back(bpe: Manifest) -> None:
    fast, reference = pair(bpe)

    @settings(max_examples=300, deadline=None, database=None)
    @given(MIXED)
    def check(text: str) -> None:
        assert_same_and_exact(fast, reference, text)

    check()


def test_any_text_comes_back_from_either_algorithm(trained: Manifest) -> None:
    fast, _ = pair(trained)

    @settings(max_examples=200, deadline=None, database=None)
    @given(MIXED)
    def check(text: str) -> None:
        assert fast.decode(fast(text, add_special_tokens=False)["input_ids"]) == nfc(text)

    check()


def test_repetitive_text_is_merged_in_the_order_of_sentencepiece(bpe: Manifest) -> None:
    fast, reference = pair(bpe)

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.text(st.sampled_from("aelst "), max_size=60))
    def check(text: str) -> None:
        assert_same_and_exact(fast, reference, text)

    check()


def test_numbers_are_split_into_digits(trained: Manifest) -> None:
    fast, _ = pair(trained)
    assert fast.tokenize("any 1992")[-4:] == ["1", "9", "9", "2"]


def test_accents_have_the_same_ids_however_they_are_stored(trained: Manifest) -> None:
    fast, _ = pair(trained)
    assert fast("camio\u0301n")["input_ids"] == fast("camión")["input_ids"]


def test_loaded_tokenizer_has_its_policy_and_special_ids(trained: Manifest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.folder / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(special_tokens(16)) == list(range(22))
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2, 3)
    assert len(tokenizer) == tokenizer.vocab_size == trained.metrics["vocabulary_size"] == 680
    assert tokenizer.model_max_length == 8192
    ids = tokenizer("hola")["input_ids"]
    assert ids[0] == 1
    assert ids[-1] != 2
    assert tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"] == [5]
    assert tokenizer.decode(tokenizer("hola </s>")["input_ids"], skip_special_tokens=True) == "hola "


def test_ids_stay_the_same_in_a_model_folder_and_after_saving_again(bpe: Manifest, tmp_path: Path) -> None:
    plain = AutoTokenizer.from_pretrained(bpe.folder / "tokenizer")
    model = shutil.copytree(bpe.folder / "tokenizer", tmp_path / "model")
    LlamaConfig(vocab_size=680, hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8).save_pretrained(model)
    beside_a_model = AutoTokenizer.from_pretrained(model)
    beside_a_model.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    for text in ODD:
        assert plain(text)["input_ids"] == beside_a_model(text)["input_ids"] == again(text)["input_ids"]
    assert plain.chat_template == again.chat_template


def test_chat_template_marks_what_the_assistant_says_and_the_end_of_its_turn(bpe: Manifest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe.folder / "tokenizer")
    messages = [
        {"role": "system", "content": "Respon en català."},
        {"role": "user", "content": "Bon dia"},
        {"role": "assistant", "content": "Bon dia! Què vols?"},
        {"role": "user", "content": "Res"},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    text = "<s><|im_start|>system\nRespon en català.<|im_end|>\n<|im_start|>user\nBon dia<|im_end|>\n"
    text += "<|im_start|>assistant\nBon dia! Què vols?<|im_end|>\n<|im_start|>user\nRes<|im_end|>\n"
    assert tokenizer.decode(encoded["input_ids"]) == text
    said = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "Bon dia! Què vols?<|im_end|>"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    assert prompt.endswith("<|im_start|>assistant\n")


def test_chat_template_refuses_an_unknown_role(bpe: Manifest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe.folder / "tokenizer")
    with pytest.raises(Exception, match="unknown role 'tool'; choose among system, user, assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_same_documents_give_the_same_bytes(algorithm: str, curated: Manifest, tmp_path: Path) -> None:
    first, second = (train.run(small(algorithm=algorithm), [curated], tmp_path / name) for name in ("first", "second"))
    assert first.outputs == second.outputs
    assert first.content_hash == second.content_hash


def test_measure_is_tokens_a_word_and_bytes_a_token_on_validation_text(bpe: Manifest) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe.folder / "tokenizer")
    texts = documents("eu")[9:]
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    measured = bpe.metrics["languages"]["eu"]
    assert measured["tokens_per_word"] == pytest.approx(tokens / sum(len(text.split()) for text in texts), abs=1e-4)
    assert measured["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in texts) / tokens, abs=1e-4)
    assert list(bpe.metrics["languages"]) == list(TEXTS)
    assert json.loads((bpe.folder / "measure.json").read_text()) == bpe.metrics


def test_every_language_has_the_same_share_of_the_sample(tmp_path: Path) -> None:
    splits = {"train": {"es": documents("es") * 20, "gl": documents("gl") * 10, "eu": documents("eu")[:2]}}
    manifest = train.run(small(vocabulary_size=600), [write_curated(tmp_path / "curate", splits)], tmp_path / "out")
    sampled = manifest.metrics["sampled_bytes"]
    assert sampled["gl"] == sampled["es"] == sum(len(text.encode()) for text in splits["train"]["es"])
    assert sampled["eu"] == 4 * sum(len(text.encode()) for text in splits["train"]["eu"])  # max_repeats
    assert manifest.metrics["weights"] == pytest.approx(dict.fromkeys(("es", "gl", "eu"), 1 / 3))
    capped = train.run(small(vocabulary_size=600, sample_bytes_per_language=2_000), [write_curated(tmp_path / "curate", splits)], tmp_path / "capped")
    assert {tag: size for tag, size in capped.metrics["sampled_bytes"].items() if tag != "eu"} == {"es": 2_000, "gl": 2_000}
    assert capped.metrics["languages"] == {}


def test_mixture_by_temperature_and_by_weights(tmp_path: Path) -> None:
    splits = {"train": {"es": documents("es") * 16, "gl": documents("gl")}}
    curated = write_curated(tmp_path / "curate", splits)
    sizes = {tag: sum(len(text.encode()) for text in texts) for tag, texts in splits["train"].items()}
    warm = train.run(small(vocabulary_size=600, mixture=SampleMixtureConfig(kind="temperature")), [curated], tmp_path / "warm").metrics
    assert warm["weights"]["es"] / warm["weights"]["gl"] == pytest.approx((sizes["es"] / sizes["gl"]) ** 0.5)
    mixture = SampleMixtureConfig(kind="weights", weights={"es": 3.0, "gl": 1.0})
    weighted = train.run(small(vocabulary_size=600, mixture=mixture, sample_bytes_per_language=1_000), [curated], tmp_path / "weighted").metrics
    assert weighted["weights"] == {"es": 0.75, "gl": 0.25}
    assert weighted["sampled_bytes"] == {"es": 1_500, "gl": 500}
    for wrong in ({"es": 1.0}, {"es": 1.0, "gl": 1.0, "eu": 1.0}):
        with pytest.raises(ConfigError, match=r"tokenizer\.mixture\.weights: names es"):
            train.run(small(mixture=SampleMixtureConfig(kind="weights", weights=wrong)), [curated], tmp_path / "wrong")
    for settings_, message in (
        ({"kind": "weights"}, "kind=weights with 0 weights"),
        ({"weights": {"es": 1.0}}, "kind=uniform with 1 weights"),
        ({"kind": "weights", "weights": {"es": 0.0}}, "weights.es: 0.0 must be above 0"),
        ({"kind": "weights", "weights": {"val": 1.0}}, "ca-valencia"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            SampleMixtureConfig(**settings_)


def test_parity_search_evens_the_cost_and_says_how(curated: Manifest, tmp_path: Path) -> None:
    uneven = SampleMixtureConfig(kind="weights", weights={tag: 8.0 if tag == "es" else 1.0 for tag in TEXTS})
    parity = ParityConfig(rounds=3, max_shift=20.0)
    manifest = train.run(small(mixture=uneven, parity=parity), [curated], tmp_path / "out")
    found = manifest.metrics["parity"]
    assert 2 <= len(found["rounds"]) <= 4
    chosen = found["rounds"][found["chosen"]]
    assert chosen["gini"] == min(entry["gini"] for entry in found["rounds"]) < found["rounds"][0]["gini"]
    assert manifest.metrics["weights"] == chosen["weights"]
    assert {tag: manifest.metrics["parallel"]["tokens"][tag] for tag in TEXTS} == chosen["tokens"]
    assert manifest.metrics["parallel"]["gini"] == pytest.approx(chosen["gini"], abs=1e-4)
    assert manifest.metrics["deterministic"] is True


def test_parity_without_parallel_text_of_the_languages_is_refused(curated: Manifest, tmp_path: Path) -> None:
    config = TrainTokenizerConfig(languages=["es"], tokenizer=TokenizerConfig(vocabulary_size=600, parity=ParityConfig(rounds=2)))
    with pytest.raises(DataError, match=r"tokenizer\.parity: the parallel text has .* so no two of es can be compared"):
        train.run(config, [curated], tmp_path / "out")


def test_gates_are_part_of_the_manifest(bpe: Manifest, curated: Manifest, tmp_path: Path) -> None:
    assert set(bpe.metrics["gates"]) == {"bytes", "dead_pieces", "deterministic", "round_trip", "cost"}
    for name in ("bytes", "deterministic", "round_trip"):
        assert bpe.metrics["gates"][name]["passed"] is True
    unchecked = train.run(small(check_determinism=False), [curated], tmp_path / "out")
    assert unchecked.metrics["deterministic"] is None
    assert unchecked.metrics["gates"]["deterministic"]["passed"] is None
    assert unchecked.path("tokenizer/tokenizer.model").read_bytes() == bpe.path("tokenizer/tokenizer.model").read_bytes()


def test_other_tokenizers_are_measured_beside(bpe: Manifest, curated: Manifest, tmp_path: Path) -> None:
    config = small(vocabulary_size=640)
    config.compare = [str(bpe.folder)]
    manifest = train.run(config, [curated], tmp_path / "out")
    (name,) = manifest.metrics["compared"]
    assert manifest.metrics["compared"][name]["languages"] == bpe.metrics["languages"]
    assert manifest.metrics["compared"][name]["parallel"]["tokens"] == bpe.metrics["parallel"]["tokens"]
    config.compare = [str(tmp_path / "nothing")]
    with pytest.raises(ConfigError, match="nothing"):
        train.run(config, [curated], tmp_path / "refused")


def test_words_beyond_the_limit_are_the_rarest(curated: Manifest, tmp_path: Path) -> None:
    manifest = train.run(small(max_words=1_000, vocabulary_size=600), [curated], tmp_path / "out")
    assert manifest.metrics["words"]["trained_on"] == min(1_000, manifest.metrics["words"]["distinct"])


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_too_large_vocabulary_states_the_largest_possible_which_then_works(algorithm: str, curated: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer.vocabulary_size: 50000 is too large for this text: at most \d+ are possible") as caught:
        train.run(small(algorithm=algorithm, vocabulary_size=50_000), [curated], tmp_path / "out")
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    manifest = train.run(small(algorithm=algorithm, vocabulary_size=largest), [curated], tmp_path / "out")
    assert manifest.metrics["vocabulary_size"] == largest


def test_too_small_vocabulary_for_the_characters_states_the_smallest(tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curate", {"train": {"es": ["".join(map(chr, range(0x4E00, 0x5000)))]}})
    with pytest.raises(DataError, match="too small for the characters of this text: at least 9"):
        train.run(small(vocabulary_size=500), [curated], tmp_path / "out")


def test_language_without_documents_is_named(curated: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training documents in pt"):
        train.run(TrainTokenizerConfig(languages=["es", "pt"]), [curated], tmp_path / "out")
    empty = write_curated(tmp_path / "curate", {"train": {"es": documents("es"), "ca-valencia": []}})
    with pytest.raises(DataError, match="no training documents in ca-valencia"):
        train.run(small(), [empty], tmp_path / "out")
    with pytest.raises(DataError, match="no training documents in any language"):
        train.run(small(), [write_curated(tmp_path / "nothing", {})], tmp_path / "out")
    blank = write_curated(tmp_path / "blank", {"train": {"es": ["\n\n"]}})
    with pytest.raises(DataError, match="no line of text"):
        train.run(small(), [blank], tmp_path / "out")


def test_only_the_chosen_languages_are_trained_on(curated: Manifest, tmp_path: Path) -> None:
    config = TrainTokenizerConfig(languages=["eu"], tokenizer=TokenizerConfig(vocabulary_size=600))
    manifest = train.run(config, [curated], tmp_path / "out")
    assert set(manifest.metrics["sampled_bytes"]) == set(manifest.metrics["languages"]) == {"eu"}


@pytest.mark.parametrize(("split", "joined"), [("script", set()), ("elision", {"l'", "▁l'", "d'"}), ("space", {"▁l'", "a."})])
def test_split_says_what_pieces_may_hold(split: str, joined: set[str], tmp_path: Path) -> None:
    lines = ["L'home i l'ona: d'una hora a l'altra. La casa. La vida. Tota. Cada. S'il·lumina la cel·la.", "Una novel·la i l'escola. Nova. Bona. Era."]
    curated = write_curated(tmp_path / "curate", {"train": {"ca": lines}})
    manifest = train.run(small(split=split, vocabulary_size=545), [curated], tmp_path / "out")
    fast, reference = pair(manifest)
    pieces = [reference.id_to_piece(index) for index in range(22 + 256, reference.get_piece_size())]
    mixed = {piece for piece in pieces if any(map(str.isalpha, piece)) and any(sign in piece for sign in "'.,:")}
    assert joined <= mixed
    assert split == "space" or all(piece.lstrip("▁").lower() in ("l'", "d'", "s'") for piece in mixed)
    assert any("l·l" in piece for piece in pieces) == (split != "script")
    for text in [*ODD, *lines]:
        assert_same_and_exact(fast, reference, text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "wordpiece"}, "tokenizer.algorithm: unknown value 'wordpiece'; choose among bpe, unigram, byte_bpe, extend"),
        ({"vocabulary_size": 300}, f"tokenizer.vocabulary_size: 300 is too small; it must be at least {fixed_pieces(16) + 1}"),
        ({"character_coverage": 1.5}, "tokenizer.character_coverage: 1.5 is out of range"),
        ({"max_repeats": 0}, "tokenizer.max_repeats: 0 is too small"),
        ({"split": "words"}, "tokenizer.split: unknown value 'words'; choose among"),
        ({"algorithm": "byte_bpe", "split": "script"}, "tokenizer.split: 'script' with algorithm=byte_bpe, whose pre-tokenizer cuts words"),
        ({"algorithm": "extend"}, "tokenizer.base: '' with algorithm=extend; a base goes with algorithm=extend or keep, and only with them"),
        ({"base": "llama"}, "tokenizer.base: 'llama' with algorithm=bpe"),
        ({"max_words": 10}, "tokenizer.max_words: 10 is too small"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        TokenizerConfig(**settings)
    with pytest.raises(ConfigError, match=r"languages\[0\].*ca-valencia"):
        TrainTokenizerConfig(languages=["val"])


def test_tokenizer_loads_without_network(bpe: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    assert len(AutoTokenizer.from_pretrained(bpe.folder / "tokenizer", local_files_only=True)) == 680


def test_parallel_text_and_compared_tokenizers_enter_the_key_by_their_content(
    bpe: Manifest, curated: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parallel, other = tmp_path / "parallel", tmp_path / "elsewhere" / "parallel"
    parallel.mkdir()
    for tag in ("es", "eu"):
        (parallel / f"{tag}.txt").write_text("bat\nbi\n", encoding="utf-8")
    shutil.copytree(parallel, other)
    config = small()
    config.parallel, config.compare = str(parallel), [str(shutil.copytree(bpe.folder / "tokenizer", tmp_path / "given"))]
    train.run(config, [curated], tmp_path / "out")
    config.parallel = str(other)
    train.run(config, [curated], tmp_path / "out")
    assert "complete, skipped" in capsys.readouterr().err
    (other / "eu.txt").write_text("bat\nhiru\n", encoding="utf-8")
    train.run(config, [curated], tmp_path / "out")
    assert "complete, skipped" not in capsys.readouterr().err
