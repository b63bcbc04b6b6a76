"""Training of SentencePiece models, from words and their counts.

Text enters as NFC (the exported tokenizer does it; feed SentencePiece itself NFC text), nothing is put before it and no
space is taken away, so decoding gives the NFC text back exactly. Numbers are split into digits. One thread and no seed:
the same words give the same bytes.
"""

import io
import re
from collections.abc import Mapping

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from iberlm.core.errors import DataError
from iberlm.tokenizer.config import SCRIPT, UNIGRAM, TokenizerConfig
from iberlm.tokenizer.special import BOS, EOS, LITERAL_SPACE, PAD, REQUIRED_CHARACTERS, SPACE, UNKNOWN, control_tokens
from iberlm.tokenizer.words import COUNT_SCALE, trainable

_NO_LIMIT_BYTES = 1 << 30
_ERRORS_ONLY = 2
UNIGRAM_CHARACTERS = 100_000_000
"""The unigram trainer looks for its first pieces in the text written out, however it was counted: 100 million characters take
2 GB and 20 s on one core (64,000 pieces)."""


def train_sentencepiece(config: TokenizerConfig, words: Mapping[str, int]) -> bytes:
    """Train on words and their counts; return the serialized model. Raises `DataError` when the vocabulary does not fit the text.

    Whether it fits is known only when SentencePiece has counted the text, but a text too small for the vocabulary is
    also one that is counted soon.
    """
    table = trainable(words, config.pieces_split)
    if config.algorithm == UNIGRAM:
        table = shrunk(table, UNIGRAM_CHARACTERS)
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word.replace(SPACE, LITERAL_SPACE)}\t{table[word]}" for word in sorted(table)),
            input_format="tsv",
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
            split_by_unicode_script=config.pieces_split == SCRIPT,
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


def shrunk(words: Mapping[str, int], characters: int) -> dict[str, int]:
    """Counts divided so that all words written out as often as they count have about `characters`, none below 1."""
    factor = min(1 / COUNT_SCALE, characters / sum(len(word) * count for word, count in words.items()))
    return {word: max(1, round(count * factor)) for word, count in words.items()}


def _refusal(config: TokenizerConfig, message: str) -> DataError | None:
    """What SentencePiece says of a vocabulary that does not fit, in our words; None for any other error."""
    key = f"tokenizer.vocabulary_size: {config.vocabulary_size}"
    if found := re.search(r"Vocabulary size too high .*value <= (\d+)", message):
        return DataError(f"{key} is too large for this text: at most {found[1]} are possible; set that or less, or add documents")
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return DataError(f"{key} is too small for the characters of this text: at least {found[1]} are needed, or a lower tokenizer.character_coverage")
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
