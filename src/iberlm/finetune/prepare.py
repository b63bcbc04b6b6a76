"""Before training: read and check the rows, put them through the chat template, split them, write them for the ranks."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import publish
from iberlm.core.manifest import Counts
from iberlm.core.progress import say
from iberlm.finetune import chat
from iberlm.finetune.config import FinetuneConfig
from iberlm.finetune.data import Bad, Row, held_out, read_rows

TRAIN, VALIDATION, TOKENIZER = "train.arrow", "validation.arrow", "tokenizer"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("language", pa.string()),
        pa.field("messages", pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("assistant_masks", pa.list_(pa.int8())),
    ]
)
_BATCH_ROWS = 1000


@dataclass(frozen=True)
class Prepared:
    """What the preparation tells the stage: how to speak, and numbers for the manifest."""

    chat: chat.Chat
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Example:
    row: Row
    encoded: chat.Encoded


def prepare(config: FinetuneConfig, base: Path, files: list[Path], work: Path, counts: Counts) -> Prepared:
    """Write `train.arrow`, `validation.arrow` and `tokenizer/` into `work`; count rows kept and dropped.

    Raises `DataError` when no row is left to train on.
    """
    tokenizer = chat.load_tokenizer(base)
    form = chat.prepare(tokenizer)
    if form.changed:
        say(f"finetune: the tokenizer of {base}: {form.changed}; ours is put in" + (f" and {', '.join(form.added)} added" if form.added else ""))
    longest = sequence_length(config, base)
    examples, truncated = _examples(config, files, tokenizer, longest, counts)
    out = held_out([example.row for example in examples], config.data.validation_share, config.seed)
    train = [example for example, aside in zip(examples, out, strict=True) if not aside]
    validation = [example for example, aside in zip(examples, out, strict=True) if aside]
    if not train:
        reasons = Counter[str]()
        for language in counts.dropped.values():
            reasons.update(language)
        why = ", ".join(f"{reason} {rows}" for reason, rows in reasons.most_common()) or "the files are empty"
        raise DataError(
            f"data: no conversation is left to train on ({why}); a row is {{'language': 'es', 'messages': [{{'role': 'user', 'content': ...}}, ...]}}"
        )
    _write(work / TRAIN, train)
    _write(work / VALIDATION, validation)
    tokenizer.save_pretrained(work / TOKENIZER)
    if truncated:
        say(f"finetune: {truncated} of {len(examples)} conversations are longer than {longest} tokens and are cut there")
    metrics = {
        "examples": len(train),
        "validation_examples": len(validation),
        "truncated": truncated,
        "sequence_length": longest,
        "answer_tokens": _answer_tokens(train, longest),
        "chat_template": "finetune" if form.changed else "base",
        "added_tokens": form.added,
    }
    return Prepared(form, metrics)


def sequence_length(config: FinetuneConfig, base: Path) -> int:
    """Tokens of the longest conversation; `ConfigError` when that is more than the model declares."""
    from transformers import AutoConfig

    allowed = int(AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False).max_position_embeddings)
    if config.sequence_length > allowed:
        raise ConfigError(f"sequence_length: {config.sequence_length} is above the {allowed} positions of the base model; use at most that, or 0")
    return config.sequence_length or allowed


def _examples(config: FinetuneConfig, files: list[Path], tokenizer: Any, longest: int, counts: Counts) -> tuple[list[_Example], int]:
    examples: list[_Example] = []
    truncated = 0
    spellings = chat.special_spellings(tokenizer)
    for row in read_rows(files, config.data):
        if isinstance(row, Bad):
            counts.drop(row.language, row.reason)
        elif any(spelling in message["content"] for message in row.messages for spelling in spellings):
            counts.drop(row.language, "control_token_in_content")
        elif not (encoded := chat.encode(tokenizer, row.messages)).answer[:longest].any():
            counts.drop(row.language, "question_fills_sequence")
        else:
            counts.keep(row.language)
            truncated += len(encoded.ids) > longest
            examples.append(_Example(row, encoded))
    return examples, truncated


def _answer_tokens(examples: list[_Example], longest: int) -> dict[str, int]:
    tokens = Counter[str]()
    for example in examples:
        tokens[example.row.language] += int(example.encoded.answer[:longest].sum())
    return dict(sorted(tokens.items()))


def _write(path: Path, examples: list[_Example]) -> None:
    """An Arrow stream: what `datasets.Dataset.from_file` maps into memory."""
    with publish(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        for begin in range(0, len(examples), _BATCH_ROWS):
            stream.write_batch(
                pa.RecordBatch.from_pylist(
                    [
                        {
                            "id": example.row.id,
                            "language": example.row.language,
                            "messages": example.row.messages,
                            "input_ids": example.encoded.ids,
                            "assistant_masks": example.encoded.answer.astype("int8"),
                        }
                        for example in examples[begin : begin + _BATCH_ROWS]
                    ],
                    schema=SCHEMA,
                )
            )
