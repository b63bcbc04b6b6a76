"""A tiny Llama with a tiny byte-level tokenizer, and a data card: what a fine-tuning test starts from."""

import datetime
import json
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import iberlm
from iberlm.finetune.chat import TEMPLATE, TURN_END, TURN_START
from iberlm.finetune.config import DataConfig, FinetuneConfig, LoraConfig, MethodConfig

SAMPLE = Path(iberlm.__file__).parent / "sources" / "sample"
VOCABULARY = 400


def sample_rows(*languages: str) -> list[dict[str, Any]]:
    """Real instruction rows that ship with the package."""
    return [json.loads(line) for language in languages for line in (SAMPLE / f"instructions.{language}.jsonl").read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows), encoding="utf-8")
    return path


def build_model(folder: Path, *, chat: bool = True, tied: bool = False) -> Path:
    """A Hugging Face folder of a random model of about 0.1 M parameters; without `chat`, its tokenizer knows no turns."""
    special = ["<unk>", "<s>", "</s>", "<pad>", *([TURN_START, TURN_END] if chat else [])]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((message["content"] for row in sample_rows("es", "ca") for message in row["messages"]), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        fast.chat_template = TEMPLATE.read_text(encoding="utf-8")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_card(folder: Path, name: str, uses: list[str]) -> None:
    """A valid data card with the given permitted uses."""
    day = datetime.date(2026, 1, 2)
    card = {
        "schema_version": 1,
        "name": name,
        "title": "Questions and answers of a town hall",
        "description": "Short conversations about errands at a town hall, written for tests in Spanish and Catalan by the people of this project.",
        "version": "1.0.0",
        "languages": [{"tag": "es", "proportion": 1.0, "basis": "documents"}],
        "registers": ["conversational"],
        "modality": "text",
        "source_type": "public_dataset",
        "licence": {"spdx": "CC-BY-4.0", "url": "https://example.org/cc", "evidence": {"kind": "url", "ref": "https://example.org/terms", "checked_on": day}},
        "tdm": {"status": "no_reservation"},
        "personal_data": {"present": "none", "special_categories": False},
        "pii": {"status": "not_needed"},
        "dates": {"collected_from": day, "collected_to": day},
        "files": [{"path": "data/rows.jsonl", "sha256": "0" * 64, "bytes": 1}],
        "splits": [{"name": "train", "files": ["data/rows.jsonl"], "documents": 1}],
        "quality": {"known_issues": ["Written for tests."]},
        "permitted_uses": uses,
        "maintainer": {"name": "Maria", "email": "maria@example.org"},
        "takedown": {"contact": "remove@example.org", "sla_days": 7},
    }
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(card, stream)


def config_of(model: Path, data: Path, *, method: str = "full", data_settings: dict[str, Any] | None = None, **settings: Any) -> FinetuneConfig:
    """Settings for a few steps on a CPU."""
    own = MethodConfig(kind=method, learning_rate=3e-3, lora=LoraConfig(r=4, alpha=8.0))
    values: dict[str, Any] = {"epochs": 1, "max_steps": 3, "global_batch_examples": 4, "micro_batch_size": 2, "sequence_length": 384, "max_new_tokens": 8}
    return FinetuneConfig(
        model_folder=str(model),
        data=DataConfig(kind="path", paths=[str(data)], card="town_answers", **(data_settings or {})),
        method=own,
        **(values | settings),
    )
