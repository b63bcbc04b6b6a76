"""A tiny Llama with random weights, a byte-level tokenizer, and a curated folder: the real formats in seconds."""

import json
from pathlib import Path

import pyarrow as pa
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from iberlm.core.documents import SCHEMA, batches_of, write_documents
from iberlm.core.languages import file_safe

CONTEXT_TOKENS = 96
SAMPLE = Path(__file__).parents[2] / "src" / "iberlm" / "sources" / "sample"


def sample_texts(language: str) -> list[str]:
    """Texts of the embedded training sample."""
    lines = (SAMPLE / f"documents.{file_safe(language)}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def tiny_tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 384 tokens with BOS and EOS, with or without a BOS that it puts before each text by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sample_texts("es")[:10], trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def write_model(folder: Path, *, adds_bos: bool, seed: int = 0) -> Path:
    """Save a Llama of 2 layers. The weights are spread wide, so that likelihoods differ well beyond rounding."""
    settings = LlamaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(settings)
    model.save_pretrained(folder)
    tiny_tokenizer(adds_bos=adds_bos).save_pretrained(folder)
    return folder


def write_validation(folder: Path, texts: dict[str, list[str]]) -> Path:
    """Write `validation.LANG.parquet` for each language, an empty one for an empty list."""
    for language, entries in texts.items():
        records = [
            {"id": f"{language}-{index}", "text": text, "language": language, "language_score": None, "source": "test", "card": "test",
             "url": None, "date": None, "licence": "CC0-1.0"}
            for index, text in enumerate(entries)
        ]  # fmt: skip
        batches: list[pa.RecordBatch] = list(batches_of(records))
        write_documents(folder / "documents" / f"validation.{file_safe(language)}.parquet", batches, SCHEMA)
    return folder
