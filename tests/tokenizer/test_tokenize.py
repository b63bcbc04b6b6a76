"""The token store: its bytes, its index of documents, its metrics, and what happens when it is damaged."""

import math
import shutil
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizer_corpus import TEXTS, documents, write_curated
from transformers import AutoTokenizer

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.token_store import open_shard, write_shard
from iberlm.tokenizer import store
from iberlm.tokenizer.config import TokenizeConfig
from iberlm.tokenizer.unigram import best_unigrams, unigram_bits_per_byte
from iberlm.tokenizer.verify import check_shard

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenized(curated: Manifest, bpe: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return store.run(one_worker(), [curated, bpe], tmp_path_factory.mktemp("tokenize"))


def one_worker(**settings: int) -> TokenizeConfig:
    config = TokenizeConfig(**settings)
    config.cluster.workers = 1
    return config


def reference_ids(tokenizer_stage: Manifest, texts: list[str]) -> list[list[int]]:
    """Ids of each text as a user of the exported tokenizer gets them, </s> added."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_stage.folder / "tokenizer", split_special_tokens=True)
    return [[*tokenizer(text)["input_ids"], EOS] for text in texts]


def test_store_is_byte_for_byte_megatrons_layout(tokenized: Manifest, bpe: Manifest) -> None:
    ids = reference_ids(bpe, documents("eu")[:9])
    lengths = [len(document) for document in ids]
    starts = [2 * sum(lengths[:index]) for index in range(9)]
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 9, 10)
    expected += struct.pack("<9i", *lengths) + struct.pack("<9q", *starts) + struct.pack("<10q", *range(10))
    assert (tokenized.folder / "train/eu-00000.idx").read_bytes() == expected
    assert (tokenized.folder / "train/eu-00000.bin").read_bytes() == b"".join(struct.pack(f"<{len(document)}H", *document) for document in ids)


def test_store_of_a_large_vocabulary_has_four_bytes_a_token(curated: Manifest, bpe: Manifest, tmp_path: Path) -> None:
    codec = store.Codec(str(bpe.path("tokenizer/tokenizer.json")), 70_000, BOS, EOS)
    shard = store.plan_shards(curated, codec, 1 << 30)["validation.gl-00000"]
    result = store.encode_shard(shard, tmp_path)
    written = open_shard(tmp_path / shard.stem)
    assert written.tokens.dtype == np.int32
    assert [list(written.document(index)) for index in range(3)] == reference_ids(bpe, documents("gl")[9:])
    assert result.metrics["tokens"] == len(written.tokens)
    assert (tmp_path / "validation/gl-00000.idx").read_bytes()[17] == 4


def test_index_leads_from_a_document_to_its_tokens(tokenized: Manifest, bpe: Manifest) -> None:
    rows = pq.read_table(tokenized.path("documents.parquet")).to_pylist()
    assert [row["id"] for row in rows] == [
        f"{split}-{tag}-{index}" for split, count in (("train", 9), ("validation", 3)) for tag in TEXTS for index in range(count)
    ]
    texts = {f"train-{tag}-{index}": text for tag in TEXTS for index, text in enumerate(documents(tag)[:9])}
    texts |= {f"validation-{tag}-{index}": text for tag in TEXTS for index, text in enumerate(documents(tag)[9:])}
    expected = reference_ids(bpe, [texts[row["id"]] for row in rows])
    for row, ids in zip(rows, expected, strict=True):
        shard = open_shard(tokenized.folder / row["shard"])
        assert list(shard.document(row["index"])) == list(shard.tokens[row["offset"] : row["offset"] + row["length"]]) == ids
        assert (row["split"], row["language"], row["card"]) == (*row["id"].rsplit("-", 1)[0].split("-", 1), "tales")


def test_metrics_count_tokens_bytes_and_documents(tokenized: Manifest, bpe: Manifest) -> None:
    metrics = tokenized.metrics
    for split, part in (("train", slice(0, 9)), ("validation", slice(9, 12))):
        for tag in TEXTS:
            texts = documents(tag)[part]
            assert metrics["documents"][split][tag] == len(texts)
            assert metrics["bytes"][split][tag] == sum(len(text.encode()) for text in texts)
            assert metrics["tokens"][split][tag] == sum(map(len, reference_ids(bpe, texts)))
    assert (metrics["dtype"], metrics["vocabulary_size"]) == ("uint16", bpe.metrics["vocabulary_size"])
    assert tokenized.counts.kept == dict.fromkeys(TEXTS, 12)
    assert tokenized.cards == {"tales": "CC0-1.0"}


def test_unigram_bits_per_byte_are_those_of_the_formula(tokenized: Manifest, bpe: Manifest) -> None:
    vocabulary = bpe.metrics["vocabulary_size"]
    train = {tag: Counter(token for ids in reference_ids(bpe, documents(tag)[:9]) for token in ids[1:-1]) for tag in TEXTS}
    everything = sum(train.values(), Counter())
    for tag in TEXTS:
        measured = [token for ids in reference_ids(bpe, documents(tag)[9:]) for token in ids[1:-1]]
        size = sum(len(text.encode()) for text in documents(tag)[9:])
        bits = {
            name: -sum(math.log2((counts[token] + 1) / (counts.total() + vocabulary)) for token in measured) / size
            for name, counts in (("own", train[tag]), ("all", everything))
        }
        assert tokenized.metrics["unigram_bits_per_byte"][tag] == pytest.approx(min(bits.values()))
        assert tokenized.metrics["unigram_model"][tag] == min(bits, key=lambda name: bits[name])


def test_the_better_unigram_is_taken() -> None:
    train = {"es": np.array([1, 1, 90, 0]), "gl": np.array([1, 1, 0, 90])}
    validation = {"es": np.array([1, 1, 9, 0]), "gl": np.array([1, 1, 9, 0]), "eu": np.array([1, 1, 4, 4]), "ca": np.array([0, 0, 0, 0])}
    bits, better = best_unigrams(train, validation, {"es": 10, "gl": 10, "eu": 10, "ca": 0}, ends=(0,))
    assert better == {"es": "own", "gl": "all", "eu": "all"}
    assert bits["es"] == pytest.approx(unigram_bits_per_byte(train["es"], validation["es"], 10, ends=(0,)))
    assert bits["es"] == pytest.approx(-(9 * math.log2(91 / 95) + math.log2(2 / 95)) / 10)


def test_text_that_spells_special_tokens_stays_text(bpe: Manifest, tmp_path: Path) -> None:
    text = "un text amb </s> i <s> i <|im_end|> a dins"
    curated = write_curated(tmp_path / "curate", {"train": {"ca": [text, ""]}})
    manifest = store.run(one_worker(), [curated, bpe], tmp_path / "out")
    ids = list(open_shard(manifest.folder / "train/ca-00000").document(0))
    assert ids.count(BOS) == ids.count(EOS) == 1
    assert AutoTokenizer.from_pretrained(bpe.folder / "tokenizer").decode(ids[1:-1]) == text
    assert list(open_shard(manifest.folder / "train/ca-00000").document(1)) == [BOS, EOS]
    assert manifest.metrics["unigram_bits_per_byte"] == {}


def test_small_shards_in_two_workers_hold_the_same_documents_in_the_same_order(tokenized: Manifest, curated: Manifest, bpe: Manifest, tmp_path: Path) -> None:
    config = TokenizeConfig(max_shard_bytes=1)
    config.cluster.workers = 2
    manifest = store.run(config, [curated, bpe], tmp_path / "out")
    for tag in TEXTS:
        parts = [open_shard(tmp_path / f"out/train/{file_safe(tag)}-{number:05d}") for number in range(3)]  # 9 documents in row groups of 4
        assert [len(part) for part in parts] == [4, 4, 1]
        whole = open_shard(tokenized.folder / f"train/{file_safe(tag)}-00000")
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    assert manifest.metrics == tokenized.metrics
    same = ["id", "split", "language", "card", "length"]
    assert pq.read_table(tmp_path / "out/documents.parquet", columns=same).equals(pq.read_table(tokenized.folder / "documents.parquet", columns=same))


def test_nothing_to_train_on_is_refused(bpe: Manifest, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curate", {"validation": {"es": documents("es")}})
    with pytest.raises(DataError, match="no training documents"):
        store.run(one_worker(), [curated, bpe], tmp_path / "out")


def test_broken_documents_file_is_named(bpe: Manifest, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curate", {"train": {"es": documents("es")}})
    path = tmp_path / "curate/documents/train.es.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptError, match=r"train.es.parquet: \d+ bytes where manifest.json says"):
        store.run(one_worker(), [curated, bpe], tmp_path / "out")
    path.write_bytes(b"?" * next(output.bytes for output in curated.outputs if output.path.endswith("train.es.parquet")))
    with pytest.raises(CorruptError, match=r"train.es.parquet: not a whole Parquet file"):
        store.run(one_worker(), [curated, bpe], tmp_path / "out")


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_bin_and_idx_that_disagree_are_corrupt(tokenized: Manifest, tmp_path: Path, ending: str) -> None:
    for suffix in (".bin", ".idx"):
        shutil.copy(tokenized.folder / f"train/es-00000{suffix}", tmp_path / f"es{suffix}")
    path = tmp_path / f"es{ending}"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptError, match=rf"es\{ending}: \d+ bytes where .* says"):
        open_shard(tmp_path / "es")


def check(folder: Path, documents_ids: list[list[int]], documents: int) -> None:
    write_shard(folder / "x", [np.array(ids) for ids in documents_ids], np.int32)
    check_shard(open_shard(folder / "x"), documents=documents, vocabulary_size=10, bos=BOS, eos=EOS)


@pytest.mark.parametrize(
    ("ids", "documents", "message"),
    [
        ([[BOS, 5, EOS]], 2, "1 documents where 2 were read"),
        ([[BOS, 5, EOS], [EOS]], 2, "document 1 has fewer than two ids"),
        ([[BOS, 5, EOS], [5, 5, EOS]], 2, "document 1 starts with id 5 where 1 belongs"),
        ([[BOS, 5, 6], [BOS, EOS]], 2, "document 0 ends with id 6 where 2 belongs"),
        ([[BOS, 10, EOS]], 1, "id 10 is outside the vocabulary of 10"),
        ([[BOS, -1, EOS]], 1, "id -1 is outside the vocabulary of 10"),
        ([[BOS, 5, EOS, 5, EOS]], 1, "the last id 2 of a document occurs 2 times in 1 documents"),
    ],
)
def test_shard_that_is_not_what_training_relies_on_is_corrupt(tmp_path: Path, ids: list[list[int]], documents: int, message: str) -> None:
    with pytest.raises(CorruptError, match=message):
        check(tmp_path, ids, documents)


def test_a_good_shard_is_counted_and_an_empty_one_is_fine(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", [np.array([BOS, 5, 5, EOS]), np.array([BOS, EOS])], np.uint16)
    counts = check_shard(open_shard(tmp_path / "x"), documents=2, vocabulary_size=8, bos=BOS, eos=EOS)
    assert counts.tolist() == [0, 2, 2, 0, 0, 2, 0, 0]
    check(tmp_path, [], 0)


def test_shard_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_shard_bytes: 0 is too small"):
        TokenizeConfig(max_shard_bytes=0)
