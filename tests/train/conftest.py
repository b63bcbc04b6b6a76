"""A tiny real tokenizer and token store, made through the stage runner as the stages before `pretrain` make theirs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from iberlm.core.config import ClusterConfig, StageConfig
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.core.token_store import tokenizer_hash, write_shard
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import CheckpointConfig, MixtureConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StrategyConfig

VOCABULARY = 300
SENTENCES = {
    "es": "La casa blanca está cerca del río y el molino viejo ya no muele trigo.",
    "ca-valencia": "La casa blanca està prop del riu i el molí vell ja no mol blat per a ningú.",
    "eu": "Etxe zuria ibaitik gertu dago eta errota zaharrak ez du garirik ehotzen.",
}
DOCUMENTS = pa.schema(
    [(name, pa.string()) for name in ("id", "split", "language", "card", "shard")] + [("index", pa.int64()), ("offset", pa.int64()), ("length", pa.int32())]
)


@dataclass(kw_only=True)
class Nothing(StageConfig):
    """Settings of the hand-made stages."""

    documents: dict[str, int] = field(default_factory=dict)


def make_tokenizer(folder: Path) -> Manifest:
    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(SENTENCES.values(), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(out / "tokenizer")
        record.output_tree(out / "tokenizer")
        # the gates of a tokenizer with all bytes, whose few pieces are used and whose languages nobody compared
        gates = {name: {"passed": True, "value": 0, "limit": 0, "message": "fine"} for name in ("bytes", "dead_pieces", "deterministic", "round_trip")}
        gates["cost"] = {"passed": None, "value": None, "limit": 1.25, "message": "there is no parallel text, so its cost is not known"}
        record.metrics = {"vocabulary_size": VOCABULARY, "gates": gates}

    return run_stage("train_tokenizer", 1, body, Nothing(), [], folder)


def make_store(folder: Path, tokenizer: Manifest, documents: dict[str, int]) -> Manifest:
    """A store of so many training documents a language, in two shards where there are two documents or more.

    The Spanish documents come from two cards in turn, the others from one.
    """

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        encode = PreTrainedTokenizerFast.from_pretrained(str(tokenizer.folder / "tokenizer")).encode
        metrics: dict[str, Any] = {"tokens": {}, "bytes": {}, "documents": {}, "dtype": "uint16", "vocabulary_size": VOCABULARY}
        metrics |= {"boundary": {"bos": 0, "eos": 1}, "tokenizer": tokenizer_hash(tokenizer.folder / "tokenizer")}
        rows: list[dict[str, Any]] = []
        for split, shrink in (("train", 1), ("validation", 4)):
            for key in ("tokens", "bytes", "documents"):
                metrics[key][split] = {}
            for tag, count in config.documents.items():
                words = SENTENCES[tag].split()
                generator = np.random.default_rng(len(words) + shrink)
                texts = [" ".join(generator.permutation(words)) for _ in range(max(1, count // shrink))]
                ids = [np.asarray([*encode(text), 1]) for text in texts]
                middle = len(ids) // 2
                for number, part in enumerate([ids[:middle], ids[middle:]] if middle else [ids]):
                    stem = out / split / f"{file_safe(tag)}-{number:05d}"
                    offsets, lengths = write_shard(stem, part, np.uint16)
                    for index, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
                        card = f"books_{index % 2}" if tag == "es" else "books"
                        name = f"{split}-{file_safe(tag)}-{number}-{index}"
                        place = {"shard": stem.relative_to(out).as_posix(), "index": index, "offset": offset, "length": length}
                        rows.append({"id": name, "split": split, "language": tag, "card": card} | place)
                    for suffix in (".bin", ".idx"):
                        record.output(stem.with_name(stem.name + suffix))
                metrics["tokens"][split][tag] = sum(len(entry) for entry in ids)
                metrics["bytes"][split][tag] = sum(len(text.encode()) for text in texts)
                metrics["documents"][split][tag] = len(texts)
        pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), out / "documents.parquet")
        record.output(out / "documents.parquet")
        record.metrics = metrics

    return run_stage("tokenize", 1, body, Nothing(documents=documents), [tokenizer], folder)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on more threads, and CI's cores are few; children inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Manifests of a tokenize and a train-tokenizer stage."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = make_tokenizer(folder / "train_tokenizer")
    return [make_store(folder / "tokenize", tokenizer, {"es": 60, "ca-valencia": 30, "eu": 20}), tokenizer]


@pytest.fixture
def own_store(inputs: list[Manifest], tmp_path: Path) -> Callable[[dict[str, int]], Manifest]:
    """Makes a store that a test may damage."""
    return lambda documents: make_store(tmp_path / "tokenize", inputs[1], documents)


def tiny(**settings: Any) -> PretrainConfig:
    """Six steps of a model of two layers, two micro steps on one or two ranks; `settings` replace whole fields."""
    defaults: dict[str, Any] = {
        "model": ModelConfig(
            name="tiny",
            vocabulary_size=VOCABULARY,
            hidden_size=32,
            layers=2,
            heads=4,
            kv_heads=2,
            ffn_size=64,
            max_position_embeddings=64,
            initializer_range=0.1,
        ),
        "mixture": MixtureConfig(kind="temperature", temperature=2.0),
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "schedule": ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.5),
        "strategy": StrategyConfig(name="single"),
        "checkpoint": CheckpointConfig(every_steps=2, keep_last=10),
        "cluster": ClusterConfig(processes=1),
        "sequence_length": 32,
        "global_batch_tokens": 32 * 8,
        "micro_batch_size": 2,
        "steps": 6,
        "seed": 3,
        "precision": "fp32",
        "compile": "off",
        "log_every_steps": 1,
        "max_new_tokens": 4,
        "waived_gates": ["cost"],
        "prompts": {"es": "La casa", "ca_valencia": "La casa"},
    }
    return PretrainConfig(**(defaults | settings))
