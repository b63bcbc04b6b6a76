"""Stage `train_tokenizer`: SentencePiece on equal parts of every language, exported for Hugging Face and measured.

Text enters as NFC (the fast tokenizer does it; feed SentencePiece itself NFC text), nothing is put before it and no
space is taken away, so decoding gives the NFC text back exactly. Numbers are split into digits. One thread and no seed:
the same documents give the same bytes.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import Tokenizer

from iberlm.core.documents import read_batches
from iberlm.core.errors import DataError
from iberlm.core.files import write_json
from iberlm.core.manifest import Manifest
from iberlm.core.progress import say
from iberlm.core.stage import Record, run_stage
from iberlm.tokenizer.config import TokenizerConfig, TrainTokenizerConfig
from iberlm.tokenizer.corpus import TRAIN, VALIDATION, split_files
from iberlm.tokenizer.export import export
from iberlm.tokenizer.sample import plan_sample, sample_lines
from iberlm.tokenizer.special import BOS, EOS, LITERAL_SPACE, PAD, REQUIRED_CHARACTERS, SPACE, UNKNOWN, control_tokens

STAGE = "train_tokenizer"
VERSION = 1
FOLDER = "tokenizer"
_NO_LIMIT_BYTES = 1 << 30  # SentencePiece drops longer lines; its default of 4,192 would lose paragraphs
_ERRORS_ONLY = 2


def run(config: TrainTokenizerConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Train on the train documents of a curate manifest: `tokenizer/` and `measure.json`.

    Metrics: {"languages": {tag: {"tokens_per_word", "bytes_per_token", "documents"}}, "vocabulary_size",
    "sampled_bytes": {tag: n}}. Raises `DataError` for a language without documents and for a vocabulary larger than the
    text allows.
    """
    return run_stage(STAGE, VERSION, _body, config, inputs, out)


def _body(config: TrainTokenizerConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    (curated,) = inputs
    files = _chosen(split_files(curated, TRAIN), config.languages, curated.folder)
    samples = plan_sample(files, config.tokenizer.sample_bytes_per_language, config.tokenizer.max_repeats)
    sampled = {tag: sample.sampled_bytes for tag, sample in samples.items()}
    say(f"{STAGE}: {config.tokenizer.algorithm} of {config.tokenizer.vocabulary_size:,} pieces on {sum(sampled.values()):,} bytes")
    model = train_sentencepiece(config.tokenizer, sample_lines(samples))
    export(model, out / FOLDER, model_max_length=config.tokenizer.model_max_length)
    tokenizer = Tokenizer.from_file(str(out / FOLDER / "tokenizer.json"))
    validation = {tag: paths for tag, paths in split_files(curated, VALIDATION).items() if tag in files}
    languages = {tag: measured for tag, paths in validation.items() if (measured := measure(tokenizer, paths, config.measured_bytes_per_language))}
    if unmeasured := sorted(set(files) - set(languages)):
        say(f"{STAGE}: no validation documents in {', '.join(unmeasured)}, so nothing was measured there")
    record.metrics = {"languages": languages, "vocabulary_size": tokenizer.get_vocab_size(), "sampled_bytes": sampled}
    write_json(out / "measure.json", record.metrics)
    record.output_tree(out / FOLDER)
    record.output(out / "measure.json")


def _chosen(files: dict[str, list[Path]], languages: list[str], folder: Path) -> dict[str, list[Path]]:
    if missing := [tag for tag in languages if tag not in files]:
        raise DataError(f"{folder}: no training documents in {', '.join(missing)}: add documents of that language, or leave it out of 'languages'")
    if not files:
        raise DataError(f"{folder}: has no training documents in any language; look at what curate dropped")
    return {tag: paths for tag, paths in files.items() if not languages or tag in languages}


def train_sentencepiece(config: TokenizerConfig, lines: Iterator[str]) -> bytes:
    """Train on NFC lines; return the serialized model. Raises `DataError` when the vocabulary does not fit the text.

    Whether it fits is known only when SentencePiece has counted the text, but a text too small for the vocabulary is
    also one that is counted soon.
    """
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.replace(SPACE, LITERAL_SPACE) for line in lines),
            model_writer=writer,
            model_type=config.algorithm,
            vocab_size=config.vocabulary_size,
            character_coverage=config.character_coverage,
            required_chars=REQUIRED_CHARACTERS,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            split_by_unicode_script=config.split_by_script,
            max_sentence_length=_NO_LIMIT_BYTES,
            num_threads=1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=UNKNOWN,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            control_symbols=control_tokens(config.reserved_tokens),
            minloglevel=_ERRORS_ONLY,
        )
    except RuntimeError as error:
        raise _refusal(config, str(error)) or error from error
    return _with_literal_space(writer.getvalue())


def _refusal(config: TokenizerConfig, message: str) -> DataError | None:
    """What SentencePiece says of a vocabulary that does not fit, in our words; None for any other error."""
    key = f"tokenizer.vocabulary_size: {config.vocabulary_size}"
    if found := re.search(r"Vocabulary size too high .*value <= (\d+)", message):
        return DataError(f"{key} is too large for this text: at most {found[1]} are possible; set that or less, or add documents")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return DataError(f"{key} is too small for the characters of this text: at least {found[1]} are needed, or a lower tokenizer.character_coverage")
    if "!sentences_.empty()" in message:
        return DataError("the training documents have no line of text; look at what curate kept")
    return None


def _with_literal_space(model: bytes) -> bytes:
    """Teach the model itself that a U+2581 of the text is U+FDD0 inside, and back: see `special.LITERAL_SPACE`.

    Set afterwards because a rule given to the trainer leaves the path of its file in the model.
    """
    proto = model_pb2.ModelProto.FromString(model)
    sentencepiece.set_min_log_level(_ERRORS_ONLY)
    for spec, rule in ((proto.normalizer_spec, (SPACE, LITERAL_SPACE)), (proto.denormalizer_spec, (LITERAL_SPACE, SPACE))):
        compiled = sentencepiece.SentencePieceNormalizer(norm_map=[rule]).serialized_normalizer_spec()
        spec.name = "literal_space"
        spec.precompiled_charsmap = model_pb2.NormalizerSpec.FromString(compiled).precompiled_charsmap
    back = proto.denormalizer_spec
    back.add_dummy_prefix = back.remove_extra_whitespaces = back.escape_whitespaces = False
    return bytes(proto.SerializeToString(deterministic=True))


def measure(tokenizer: Tokenizer, paths: list[Path], max_bytes: int) -> dict[str, Any]:
    """Tokens a white-space separated word and UTF-8 bytes a token (neither <s> nor </s> counted) on the first `max_bytes`.

    Empty when there is no word.
    """
    tokens = words = size = documents = 0
    for path in paths:
        for batch in read_batches(path, ["text"], batch_rows=256):
            if size >= max_bytes:
                break
            texts = batch["text"].to_pylist()
            tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
            words += sum(len(text.split()) for text in texts)
            size += pc.sum(pc.binary_length(batch["text"])).as_py()
            documents += len(texts)
    if not words:
        return {}
    return {"tokens_per_word": round(tokens / words, 4), "bytes_per_token": round(size / tokens, 4), "documents": documents}
