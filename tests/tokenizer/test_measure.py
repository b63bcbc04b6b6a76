"""The numbers of a tokenizer, against sums made by hand, and the ways in which parallel text can be wrong."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import LINES, byte_level, llama_like, metaspace_unigram, sentencepiece_model, write_hugging_face
from tokenizer_corpus import TEXTS, documents
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.languages import LANGUAGES
from iberlm.core.manifest import Manifest
from iberlm.tokenizer.corpus import VALIDATION, split_files
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizer
from iberlm.tokenizer.measure import (
    gini,
    measure_documents,
    measure_probes,
    measure_texts,
    measure_tokenizer,
    parallel_cost,
    piece_health,
    read_parallel,
    usage,
    whole_words,
)

COSTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    return load_tokenizer(write_hugging_face(tmp_path_factory.mktemp("byte_level"), byte_level()))


def named(costs: list[int]) -> dict[str, float]:
    return {str(index): float(cost) for index, cost in enumerate(costs)}


@given(COSTS)
def test_gini_is_between_parity_and_one_who_pays_all(costs: list[int]) -> None:
    value = gini(named(costs))
    assert -1e-12 <= value <= (len(costs) - 1) / len(costs) + 1e-12
    assert gini(named([costs[0]] * len(costs))) == pytest.approx(0, abs=1e-12)


@given(COSTS, st.randoms(use_true_random=False), st.integers(1, 1000))
def test_gini_depends_neither_on_order_nor_on_unit(costs: list[int], random: "st.DataObject", factor: int) -> None:
    mixed = list(costs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert gini(named(mixed)) == pytest.approx(gini(named(costs)))
    assert gini(named([cost * factor for cost in costs])) == pytest.approx(gini(named(costs)))


def test_gini_by_hand() -> None:
    assert gini({"a": 0, "b": 1}) == 0.5
    assert gini({"a": 1, "b": 3}) == pytest.approx(4 / (2 * 4 * 2))  # |1-3| twice, n = 2, mean 2
    assert gini({}) == gini({"a": 0}) == 0.0


def test_documents_are_measured_by_the_definitions(tokenizer: LoadedTokenizer, curated: Manifest) -> None:
    paths = split_files(curated, VALIDATION)["ca"]
    texts = documents("ca")[9:]
    tokens = sum(len(ids) for ids in tokenizer.encode(texts))
    words = [word for text in texts for word in text.split()]
    measured = measure_documents(tokenizer, paths, 10**9)
    assert measured["documents"] == len(texts)
    assert measured["tokens_per_word"] == pytest.approx(tokens / len(words), abs=1e-4)
    assert measured["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in texts) / tokens, abs=1e-4)
    assert 0 < measured["whole_words"] < 1
    assert measured == measure_texts(tokenizer, texts)
    assert measure_documents(tokenizer, paths, 1)["documents"] <= len(texts)
    assert measure_documents(tokenizer, [], 10**9) == {}
    assert measure_texts(tokenizer, ["", " \n "]) == {}


def toy(folder: Path, vocabulary: list[str], merges: list[tuple[str, str]], *, metaspace: bool = False) -> LoadedTokenizer:
    """A tokenizer whose every piece is known: byte-level, or with a space put before the text."""
    alphabet = [] if metaspace else sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(token for token in vocabulary if token not in alphabet)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(entries)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Metaspace() if metaspace else decoders.ByteLevel()
    return load_tokenizer(write_hugging_face(folder, tokenizer))


def test_whole_words_have_their_space_and_not_their_punctuation(tmp_path: Path) -> None:
    merges = [("l", "a"), ("Ġ", "la"), ("Ġ", "e"), ("Ġe", "s")]
    tokenizer = toy(tmp_path, ["la", "Ġla", "Ġe", "Ġes"], merges)
    assert whole_words(tokenizer, {"la": 2, "(es),": 1, "sol": 1, "1992": 7, "--": 5}) == 0.75
    assert whole_words(tokenizer, {"1992": 7, "--": 5, "¡": 1}) is None
    spaced = toy(tmp_path / "spaced", ["▁", "l", "a", "s", "▁l", "▁la"], [("▁", "l"), ("▁l", "a")], metaspace=True)
    assert whole_words(spaced, {"la": 1, "las": 1}) == 0.5  # it puts the space itself, and must not get two


def test_embedded_parallel_text_has_the_five_languages_and_english() -> None:
    parallel = read_parallel(None)
    assert parallel.source == "embedded"
    assert list(parallel)[:5] == list(LANGUAGES)
    assert "en" in parallel
    assert len({len(lines) for lines in parallel.values()}) == 1


def write_parallel(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for tag, text in texts.items():
        (folder / f"{tag}.txt").write_text(text, encoding="utf-8")
    return folder


def test_parallel_text_of_ones_own(tokenizer: LoadedTokenizer, tmp_path: Path) -> None:
    folder = write_parallel(tmp_path, gl="a casa\no río\n\n", es="\ufeffla casa\nel ri\u0301o\n", ca_valencia="la casa\nel riu\n", en="the house\nthe river")
    parallel = read_parallel(folder)
    assert parallel == {"es": ["la casa", "el río"], "ca-valencia": ["la casa", "el riu"], "gl": ["a casa", "o río"], "en": ["the house", "the river"]}
    cost = parallel_cost(tokenizer, parallel, ["es", "gl", "eu"])
    tokens = {tag: sum(len(ids) for ids in tokenizer.encode(lines)) for tag, lines in parallel.items()}
    assert cost["tokens"] == tokens
    assert cost["source"] == str(folder)
    assert (cost["languages"], cost["missing"], cost["sentences"]) == (["es", "gl"], ["eu"], 2)
    pair = [tokens["es"], tokens["gl"]]
    assert cost["ratio"] == round(max(pair) / min(pair), 4)
    assert cost["gini"] == round(gini({"es": tokens["es"], "gl": tokens["gl"]}), 4)
    assert cost["tokens_per_word"]["en"] == round(tokens["en"] / 4, 4)
    assert set(cost["whole_words"]) == set(parallel)
    alone = parallel_cost(tokenizer, parallel, ["es"])
    assert (alone["gini"], alone["ratio"]) == (None, None)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"es": "uno\ndos\n", "gl": "un\n"}, r"differ in their number of lines \(es\.txt 2, gl\.txt 1\)"),
        ({"es": "uno\n\ntres\n", "gl": "un\ndous\ntres"}, r"es\.txt:2: an empty line"),
        ({"es": "uno\n"}, "1 files of parallel text, and a comparison needs two"),
        ({}, "0 files of parallel text"),
        ({"es": "", "gl": ""}, r"es\.txt:1: an empty line"),
    ],
)
def test_parallel_text_that_is_not_parallel_is_refused(texts: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read_parallel(write_parallel(tmp_path / "texts", **texts))


def test_other_parallel_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val\.txt: unknown language 'val': .* for Valencian write 'ca-valencia'"):
        read_parallel(write_parallel(tmp_path / "a", es="uno", val="u"))
    with pytest.raises(DataError, match="there is no such folder"):
        read_parallel(tmp_path / "nothing")
    (tmp_path / "a" / "val.txt").unlink()
    (tmp_path / "a" / "gl.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"gl\.txt: cannot be read as UTF-8"):
        read_parallel(tmp_path / "a")


def test_probes_tell_how_digits_are_cut(tmp_path: Path) -> None:
    single = measure_probes(load_tokenizer(write_hugging_face(tmp_path / "single", byte_level())))
    assert single["digits"] == {"digits_per_token": 1.0, "single": True}
    pairs = toy(tmp_path / "pairs", ["Ġ1", "19", "12"], [("1", "9"), ("1", "2")])
    found = measure_probes(pairs)["digits"]
    assert found["single"] is False
    assert 1 < found["digits_per_token"] < 2
    for group in ("punt_volat", "elision"):
        assert single[group]["tokens_per_word"] > 1
    assert single["code"]["bytes_per_token"] > 1
    assert single["english"]["tokens_per_word"] > 1
    without = load_tokenizer(write_hugging_face(tmp_path / "unigram", metaspace_unigram()))
    assert measure_probes(without)["digits"]["digits_per_token"] is not None


@given(st.dictionaries(st.sampled_from([" casa", " río", "col·legi", " ", " 1992", "ã\u0301"]), st.integers(1, 10**12), max_size=6))
def test_usage_is_the_sum_over_words(tokenizer: LoadedTokenizer, words: dict[str, int]) -> None:
    expected: Counter[int] = Counter()
    for word, count in words.items():
        for index in tokenizer.encode([word])[0]:
            expected[index] += count
    counts = usage(tokenizer, words)
    assert counts.shape == (tokenizer.vocabulary_size,)
    assert counts.dtype == np.int64
    assert {int(index): int(counts[index]) for index in np.flatnonzero(counts)} == dict(expected)


def test_usage_of_many_words_goes_in_batches(tokenizer: LoadedTokenizer) -> None:
    words = {f" {''.join(letters)}": 1 for letters in itertools.product("abcdefgh", repeat=5)}
    assert len(words) > 20_000
    assert usage(tokenizer, words).sum() == sum(len(ids) for ids in tokenizer.encode(list(words)))


def test_health_tells_unreachable_unused_and_intermediate_pieces_apart(tmp_path: Path) -> None:
    merges = [("q", "u"), ("qu", "e"), ("l", "o"), ("z", "z"), ("Ã", "¡")]
    tokenizer = toy(tmp_path, ["qu", "que", "lo", "zz", "nomerge", "Ġ¡", "Ã¡", "Ãx"], merges)
    health = piece_health(tokenizer, usage(tokenizer, {"que": 10**9, "lo": 5, "á": 1}))
    assert health["trained"] == 7  # Ã¡ is the single character á
    assert health["partial"] == 2  # Ġ¡ is a space and a byte that needs another before it, Ãx a byte that needs one after it
    assert (health["unreachable"], health["unreachable_examples"]) == (1, ["nomerge"])
    assert health["unused"] == 4
    assert health["intermediate"] == 1  # qu, of que
    assert (health["glitch_count"], health["glitch"]) == (1, ["lo"])
    assert health["dead"] == 5
    assert health["dead_share"] == round(5 / 7, 4)
    assert health["missing_bytes"] == []
    unknown = piece_health(tokenizer, None)
    assert (unknown["unused"], unknown["dead"], unknown["glitch_count"]) == (None, 1, 0)


def test_pieces_of_the_base_are_not_judged(tmp_path: Path) -> None:
    tokenizer = toy(tmp_path, ["qu", "que", "zz"], [("q", "u"), ("qu", "e"), ("z", "z")])
    first = tokenizer.vocabulary_size - 1
    health = piece_health(tokenizer, usage(tokenizer, {"que": 1}), first_id=first)
    assert (health["trained"], health["unused"], health["missing_bytes"]) == (1, 1, [])


def test_what_the_sample_has_is_reachable(tmp_path: Path) -> None:
    tokenizer = toy(tmp_path, ["nomerge"], [])
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    counts[-1] = 3
    assert piece_health(tokenizer, counts)["unreachable"] == 0


def test_pieces_are_reached_behind_a_space_that_the_tokenizer_puts_itself(tmp_path: Path) -> None:
    model = tmp_path / "tokenizer.model"
    model.write_bytes(sentencepiece_model())
    assert piece_health(load_tokenizer(model), None)["unreachable"] == 0
    llama = piece_health(load_tokenizer(write_hugging_face(tmp_path / "llama", llama_like())), None)
    assert (llama["trained"], llama["unreachable"]) == (5, 0)
    unigram = metaspace_unigram()
    health = piece_health(load_tokenizer(write_hugging_face(tmp_path / "unigram", unigram)), None)
    scores = dict(json.loads(unigram.to_str())["model"]["vocab"])
    beaten = [
        piece
        for piece in scores
        if len(piece) > 1 and any(scores[piece] < scores.get(piece[:cut], -99) + scores.get(piece[cut:], -99) for cut in range(1, len(piece)))
    ]
    assert {piece.replace(" ", "\u2581") for piece in health["unreachable_examples"]} == set(beaten) - {"<unk>"}  # two parts are likelier than the piece


def test_missing_bytes_are_named(tmp_path: Path) -> None:
    health = piece_health(load_tokenizer(write_hugging_face(tmp_path, metaspace_unigram())), None)
    assert set(range(0x80, 0x100)) <= set(health["missing_bytes"])
    assert ord("a") not in health["missing_bytes"]


def test_all_numbers_together(tokenizer: LoadedTokenizer, curated: Manifest) -> None:
    validation = split_files(curated, VALIDATION)
    counts = usage(tokenizer, Counter(f" {word}" for line in LINES for word in line.split()))
    measured = measure_tokenizer(
        tokenizer, languages=list(TEXTS), validation=validation | {"pt": []}, max_bytes=10**6, parallel=read_parallel(None), counts=counts
    )
    assert measured["vocabulary_size"] == 700
    assert list(measured["languages"]) == list(LANGUAGES)  # not pt, of which there is no text
    assert measured["parallel"]["missing"] == []
    assert measured["pieces"]["unused"] is not None
    assert measured == measure_tokenizer(tokenizer, languages=list(TEXTS), validation=validation, max_bytes=10**6, parallel=read_parallel(None), counts=counts)


def test_added_tokens_that_are_not_special_are_pieces(tmp_path: Path) -> None:
    trained = byte_level()
    trained.add_tokens([AddedToken("col·legi", normalized=False, special=False)])
    tokenizer = load_tokenizer(write_hugging_face(tmp_path, trained))
    assert tokenizer.piece(tokenizer.vocabulary_size - 1) == "col·legi".encode()
    assert tokenizer.encode(["col·legi"]) == [[tokenizer.vocabulary_size - 1]]
