"""The token store: its bytes, its index of documents, its metrics, and what happens when it is damaged."""

import json
import math
import shutil
import signal
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_corpus import TEXTS, documents, small, write_curated
from transformers import AutoTokenizer

from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.core.token_store import open_shard, tokenizer_hash, write_shard
from iberlm.tokenizer import store, train, verify
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
    codec = store.Codec(str(bpe.folder / "tokenizer"), 70_000, BOS, EOS, fast=True)
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


ODD_DOCUMENTS = [
    "",
    "\x00",
    "a\x00b\x01\x1b[0m\x7f\x9f",
    "<s>",
    "</s></s><s><unk><pad><|im_start|><|im_end|><|reserved_0|>",
    "e\u0301 \u0301 \u1100\u1161\u11a8",
    "▁▁ ▁a \ufdd0",
    "\ufeff\u200b\u2028 \U0010ffff\U00011de3",
    " \n\n  ",
]


def test_odd_documents_have_the_ids_of_the_tokenizer(bpe: Manifest, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curate", {"train": {"ca": ODD_DOCUMENTS, "es": ["", ""]}})
    manifest = store.run(one_worker(), [curated, bpe], tmp_path / "out")
    shard = open_shard(manifest.folder / "train/ca-00000")
    assert [list(shard.document(index)) for index in range(len(shard))] == reference_ids(bpe, ODD_DOCUMENTS)
    assert list(open_shard(manifest.folder / "train/es-00000").tokens) == [BOS, EOS, BOS, EOS]
    assert manifest.metrics["bytes"]["train"] == {"es": 0, "ca": sum(len(text.encode()) for text in ODD_DOCUMENTS)}


def test_a_document_longer_than_what_is_encoded_at_a_time_is_whole(bpe: Manifest, tmp_path: Path) -> None:
    long = "La casa és blanca. " * (store.BATCH_BYTES // 19 + 50_000)
    curated = write_curated(tmp_path / "curate", {"train": {"ca": ["abans", long, "després", ""]}})
    manifest = store.run(one_worker(), [curated, bpe], tmp_path / "out")
    shard = open_shard(manifest.folder / "train/ca-00000")
    assert [list(shard.document(index)) for index in (0, 2, 3)] == reference_ids(bpe, ["abans", "després", ""])
    period = reference_ids(bpe, [" La casa és blanca." * 2])[0]
    middle = shard.document(1)[1000:100_000]
    assert len(shard.document(1)) * len(" La casa és blanca." * 2) == pytest.approx(len(long) * (len(period) - 2), rel=1e-3)
    assert np.array_equal(middle[: len(period) - 2], middle[len(period) - 2 : 2 * (len(period) - 2)])


def test_the_manifest_states_boundary_tokenizer_and_encoder(tokenized: Manifest, bpe: Manifest) -> None:
    assert {"bos": BOS, "eos": EOS}.items() <= tokenized.metrics["boundary"].items()
    assert tokenized.metrics["tokenizer"] == tokenizer_hash(bpe.folder / "tokenizer")
    assert tokenized.metrics["encoder"] == {"name": f"gigatoken {version('gigatoken')}", "reason": ""}


def test_either_encoder_writes_the_same_store(
    tokenized: Manifest, curated: Manifest, bpe: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = one_worker()
    config.encoder = "reference"
    manifest = store.run(config, [curated, bpe], tmp_path)
    assert manifest.outputs == tokenized.outputs
    assert manifest.key == tokenized.key
    assert manifest.metrics["encoder"] == {"name": f"tokenizers {version('tokenizers')}", "reason": "as asked by encoder=reference"}
    assert "tokenize: encoder reference (tokenizers " in capsys.readouterr().err


def test_a_unigram_tokenizer_says_why_it_is_not_encoded_fast(curated: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unigram = train.run(small(algorithm="unigram"), [curated], tmp_path / "tokenizer")
    capsys.readouterr()
    manifest = store.run(one_worker(), [curated, unigram], tmp_path / "out")
    assert manifest.metrics["encoder"]["reason"].startswith("gigatoken: ")
    assert manifest.metrics["encoder"]["reason"] in capsys.readouterr().err


def erring(bpe: Manifest, folder: Path) -> Manifest:
    """A tokenizer that gigatoken encodes otherwise, where a private character with the byte EE occurs: it leaves out a byte that has no piece."""

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        shutil.copytree(bpe.folder / "tokenizer", out / "tokenizer")
        definition = json.loads((out / "tokenizer/tokenizer.json").read_text())
        definition["model"]["vocab"]["qqqqqqqq"] = definition["model"]["vocab"].pop("<0xEE>")
        (out / "tokenizer/tokenizer.json").write_text(json.dumps(definition))
        record.output_tree(out / "tokenizer")

    return run_stage("train_tokenizer", 1, body, StageConfig(), [], folder)


def test_an_encoder_that_errs_half_way_is_noticed_and_nothing_of_it_stays(bpe: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the first shard is right, and a document in it that nobody compares is wrong
    texts = [*documents("es") * 20, *documents("es")[:1]]
    quiet = next(index for index in range(store.COMPARED_FIRST, len(texts)) if index % store.COMPARED_EVERY)
    texts[quiet] = "aquí \ue000 falta"
    curated = write_curated(tmp_path / "curate", {"train": {"es": texts, "ca": documents("ca"), "gl": ["onde \ue000 está", *documents("gl")]}})
    trained = erring(bpe, tmp_path / "tokenizer")
    manifest = store.run(one_worker(), [curated, trained], tmp_path / "out")
    said = capsys.readouterr().err
    assert "train.gl-00000: document 0: gigatoken" in said
    assert "2 shards were written before the fast encoder erred" in said
    config = one_worker()
    config.encoder = "reference"
    by_reference = store.run(config, [curated, trained], tmp_path / "reference")
    assert manifest.outputs == by_reference.outputs
    assert manifest.counts == by_reference.counts
    assert manifest.metrics["encoder"]["name"] == by_reference.metrics["encoder"]["name"]
    assert "document 0" in manifest.metrics["encoder"]["reason"]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from iberlm.core.manifest import read_manifest
from iberlm.tokenizer import store
from iberlm.tokenizer.config import TokenizeConfig
done = 0

def kill(name, arguments):
    global done
    if name == "os.rename" and ".shards/train." in str(arguments[1]):
        done += 1
        if done == 8:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
config = TokenizeConfig(max_shard_bytes=1)
config.cluster.workers = 1
store.run(config, [read_manifest(Path(folder)) for folder in sys.argv[1:3]], Path(sys.argv[3]))
"""
"""Kills itself (-9) when the eighth of its shards has been written and is about to be noted as done."""


def test_a_killed_run_goes_on_from_its_shards_and_gives_the_same_bytes(curated: Manifest, bpe: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", PROGRAM, str(curated.folder), str(bpe.folder), str(out)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    kept = {path: path.stat().st_mtime_ns for path in out.glob("train/*.bin") if (out / f".shards/train.{path.stem}.json").exists()}
    assert len(kept) == 7
    assert not (out / "manifest.json").exists()
    config = one_worker(max_shard_bytes=1)
    resumed, whole = store.run(config, [curated, bpe], out), store.run(config, [curated, bpe], tmp_path / "whole")
    assert resumed.outputs == whole.outputs
    assert resumed.metrics == whole.metrics
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_memory_is_that_of_a_row_group_and_not_of_the_shard(bpe: Manifest, tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (40, 500_000), np.uint8)  # does not compress: what is kept of a row group is seen
    curated = write_curated(tmp_path / "curate", {"train": {"es": [text.tobytes().decode() for text in letters]}}, row_group=1)
    shard = store.plan_shards(curated, store.read_codec(bpe, fast=True)[0], 1 << 30)["train.es-00000"]
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in store._texts(shard)]
    assert len(held) == 40
    assert max(held) < 5_000_000


def test_text_that_is_not_utf8_is_refused(bpe: Manifest, tmp_path: Path) -> None:
    curated = write_curated(tmp_path / "curate", {"train": {"es": ["aaaa bbbb", "cccc"]}})
    path = tmp_path / "curate/documents/train.es.parquet"
    table = pq.read_table(path)
    broken = pa.array([b"aaaa \xff\xfe!", b"cccc"], pa.large_binary()).view(pa.large_string())
    pq.write_table(table.set_column(table.column_names.index("text"), "text", broken), path, compression="zstd")
    with pytest.raises(CorruptError, match=r"train.es.parquet: its text is not UTF-8"):
        store.encode_shard(store.plan_shards(curated, store.read_codec(bpe, fast=True)[0], 1 << 30)["train.es-00000"], tmp_path)


@pytest.mark.parametrize(("bos", "error", "message"), [(None, DataError, "bos_token is None"), ("<nobody>", CorruptError, "lacks <nobody>")])
def test_a_tokenizer_without_a_first_token_is_refused(
    curated: Manifest, bpe: Manifest, tmp_path: Path, bos: str | None, error: type[Exception], message: str
) -> None:
    shutil.copytree(bpe.folder, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer/tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": bos}))
    manifest = replace(bpe, folder=tmp_path / "tokenizer")
    with pytest.raises(error, match=message):
        store.read_codec(manifest, fast=False)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": {"content": "<s>"}}))  # as transformers also writes it
    assert store.read_codec(manifest, fast=False)[0].bos == BOS


@given(st.lists(st.lists(st.integers(3, 60_000), max_size=5), max_size=6), st.sampled_from([np.uint16, np.int32]))
def test_ends_go_around_every_document(ids: list[list[int]], dtype: type[np.integer]) -> None:
    flat, lengths = np.array([one for document in ids for one in document], np.int32), np.array([len(document) for document in ids], np.int64)
    found, longer = store.with_ends(flat, lengths, BOS, EOS, dtype)
    assert found.dtype == dtype
    assert found.tolist() == [one for document in ids for one in [BOS, *document, EOS]]
    assert longer.tolist() == [len(document) + 2 for document in ids]


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


def test_a_document_is_checked_in_whichever_block_it_begins_or_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_BLOCK_TOKENS", 4)
    good = [[BOS, 5, EOS], [BOS, EOS], [BOS, *[6] * 9, EOS], [BOS, 7, EOS]]
    check(tmp_path, good, 4)
    for index in range(4):
        for place, verb in ((0, "starts"), (-1, "ends")):
            bad = [list(one) for one in good]
            bad[index][place] = 9
            with pytest.raises(CorruptError, match=f"document {index} {verb} with id 9"):
                check(tmp_path, bad, 4)


def test_a_good_shard_is_counted_and_an_empty_one_is_fine(tmp_path: Path) -> None:
    write_shard(tmp_path / "x", [np.array([BOS, 5, 5, EOS]), np.array([BOS, EOS])], np.uint16)
    counts = check_shard(open_shard(tmp_path / "x"), documents=2, vocabulary_size=8, bos=BOS, eos=EOS)
    assert counts.tolist() == [0, 2, 2, 0, 0, 2, 0, 0]
    check(tmp_path, [], 0)


def test_shard_size_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_shard_bytes: 0 is too small"):
        TokenizeConfig(max_shard_bytes=0)
