"""Inputs of the pretraining benchmarks: a tokenizer whose words are numbers, and a token store of made-up documents.

Both go through the stage runner, so `iberlm.train.pretrain` takes them as it takes real ones. Ids follow Zipf's law (frequency as 1 / rank), documents
have log-normal lengths with a median of 400 tokens: what a training step costs depends on neither, but document masking and data reading see documents.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.config import StageConfig
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.core.token_store import dtype_for, tokenizer_hash, write_shard
from iberlm.tokenizer.store import INDEX_SCHEMA
from iberlm.train.config import ModelConfig

BOS, EOS = 0, 1
LANGUAGES = ("es", "ca", "eu")
MODEL_8M = ModelConfig(
    name="8.4M",
    vocabulary_size=8_192,
    parameters=8_425_728,
    hidden_size=256,
    layers=8,
    heads=4,
    kv_heads=4,
    ffn_size=688,
    max_position_embeddings=512,
    tie_embeddings=True,
)
"""A Llama of 8.4 million parameters, a quarter of them in the embeddings, which are the head too."""
MODEL_TINY = ModelConfig(
    name="tiny", vocabulary_size=300, hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=64, max_position_embeddings=64, initializer_range=0.1
)
"""Small enough that a step takes milliseconds: for kills and smoke tests."""


@dataclass(kw_only=True)
class SyntheticConfig(StageConfig):
    """Settings of the made-up inputs."""

    vocabulary_size: int = 8_192
    tokens: int = 1_000_000
    """Tokens of the training split, over all languages."""
    seed: int = 0


def make_tokenizer(folder: Path, vocabulary_size: int) -> Manifest:
    """A tokenizer of whole words "w2", "w3" ...; id 0 begins a document, id 1 ends it and is what unknown words become."""

    def body(config: SyntheticConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = {"<s>": BOS, "</s>": EOS} | {f"w{number}": number for number in range(2, vocabulary_size)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(out / "tokenizer")
        record.output_tree(out / "tokenizer")
        names = ("bytes", "cost", "dead_pieces", "deterministic", "round_trip")
        record.metrics = {
            "vocabulary_size": vocabulary_size,
            "gates": {name: {"passed": True, "value": 0, "limit": 0, "message": "not asked of made-up words"} for name in names},
        }

    return run_stage("train_tokenizer", 1, body, SyntheticConfig(vocabulary_size=vocabulary_size, tokens=0), [], folder)


def make_documents(tokens: int, vocabulary_size: int, generator: np.random.Generator) -> list[npt.NDArray[np.integer]]:
    """Documents with `tokens` ids or a few more together, BOS and EOS included."""
    weights = 1 / np.arange(1, vocabulary_size - 1)
    bounds = np.cumsum(weights) / weights.sum()
    made, documents = 0, []
    while made < tokens:
        length = int(np.clip(generator.lognormal(np.log(400), 1.0), 8, 20_000))
        ids = np.searchsorted(bounds, generator.random(length)).clip(max=vocabulary_size - 3) + 2
        documents.append(np.concatenate([[BOS], ids, [EOS]]))
        made += length + 2
    return documents


def make_store(folder: Path, tokenizer: Manifest, tokens: int) -> Manifest:
    """A token store with `tokens` ids of training text in three languages and a little validation text in each."""
    vocabulary_size = int(tokenizer.metrics["vocabulary_size"])

    def body(config: SyntheticConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        metrics: dict[str, Any] = {name: {"train": {}, "validation": {}} for name in ("tokens", "bytes", "documents")}
        tables, dtype = [], dtype_for(vocabulary_size)
        for number, language in enumerate(LANGUAGES):
            for split, size in (("train", tokens // len(LANGUAGES)), ("validation", 1_500)):
                documents = make_documents(size, vocabulary_size, np.random.default_rng([config.seed, number, size]))
                stem = f"{split}/{file_safe(language)}-00000"
                offsets, lengths = write_shard(out / stem, documents, dtype)
                for suffix in (".bin", ".idx"):
                    record.output(out / f"{stem}{suffix}")
                metrics["tokens"][split][language] = int(lengths.sum())
                metrics["bytes"][split][language] = int(lengths.sum()) * 5
                metrics["documents"][split][language] = len(documents)
                rows = len(documents)
                columns: dict[str, Any] = {"split": split, "language": language, "card": "synthetic", "shard": stem}
                columns = {name: pa.repeat(pa.scalar(value, pa.string()), rows) for name, value in columns.items()}
                columns |= {"id": [f"{stem}/{index}" for index in range(rows)], "index": np.arange(rows), "offset": offsets, "length": lengths}
                tables.append(
                    pa.table(
                        {
                            field.name: pa.array(columns[field.name], field.type) if not isinstance(columns[field.name], pa.Array) else columns[field.name]
                            for field in INDEX_SCHEMA
                        },
                        schema=INDEX_SCHEMA,
                    )
                )
        pq.write_table(pa.concat_tables(tables), out / "documents.parquet")
        record.output(out / "documents.parquet")
        record.metrics = metrics | {
            "dtype": np.dtype(dtype).name,
            "vocabulary_size": vocabulary_size,
            "boundary": {"bos": BOS, "eos": EOS},
            "tokenizer": tokenizer_hash(tokenizer.folder / "tokenizer"),
        }

    return run_stage("tokenize", 1, body, SyntheticConfig(vocabulary_size=vocabulary_size, tokens=tokens), [tokenizer], folder)


def make_inputs(folder: Path, vocabulary_size: int, tokens: int) -> list[Manifest]:
    """Manifests of a tokenize and a train-tokenizer stage, as `iberlm.train.pretrain.run` takes them."""
    tokenizer = make_tokenizer(folder / "train_tokenizer", vocabulary_size)
    return [make_store(folder / "tokenize", tokenizer, tokens), tokenizer]


def first_shard(store: Manifest) -> Path:
    """The ids of the first shard of the training text, raw: what sides that know no token store read."""
    return store.paths("train/", ".bin")[0]


def hugging_face(shape: ModelConfig, sequence_length: int) -> dict[str, Any]:
    """The settings of `transformers.LlamaConfig` for a shape, for sides that import nothing of this project."""
    found = dataclasses.asdict(shape)
    return {
        "vocab_size": found["vocabulary_size"],
        "hidden_size": found["hidden_size"],
        "intermediate_size": found["ffn_size"],
        "num_hidden_layers": found["layers"],
        "num_attention_heads": found["heads"],
        "num_key_value_heads": found["kv_heads"],
        "max_position_embeddings": max(found["max_position_embeddings"], sequence_length),
        "rms_norm_eps": found["norm_eps"],
        "initializer_range": found["initializer_range"],
        "rope_parameters": {"rope_type": "default", "rope_theta": found["rope_theta"]},
        "tie_word_embeddings": found["tie_embeddings"],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
