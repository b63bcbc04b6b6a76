"""Byte-level BPE through `tokenizers`: any text is spelt by 256 bytes, nothing is left to a fallback.

The pre-tokenizer is that of Qwen 2, since programs that run or encode models know pre-tokenizers by name, and this one
cuts numbers into digits: llama.cpp calls it "qwen2", and gigatoken knows its pattern.
"""

from collections.abc import Iterator, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from iberlm.core.errors import DataError
from iberlm.tokenizer.config import TokenizerConfig
from iberlm.tokenizer.special import BOS, UNKNOWN, special_tokens

QWEN2_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""As in the tokenizer.json of Qwen 2."""

_BATCH_WORDS = 4096


def train_byte_level(config: TokenizerConfig, words: Mapping[str, int]) -> str:
    """Train on words and their counts; return the text of tokenizer.json.

    Raises `DataError` when the vocabulary does not fit the text.
    """
    special = special_tokens(config.reserved_tokens)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        min_frequency=1,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    if (size := tokenizer.get_vocab_size()) < config.vocabulary_size:
        raise DataError(
            f"tokenizer.vocabulary_size: {config.vocabulary_size} is too large for this text: at most {size} are possible; set that or less, or add documents"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    assert tokenizer.token_to_id(UNKNOWN) == 0
    return str(tokenizer.to_str())


def _repeated(words: Mapping[str, int]) -> Iterator[list[str]]:
    """Batches of words, each as often as it counts: the trainer takes text, and counts it again."""
    batch: list[str] = []
    for word, count in words.items():
        batch.extend([word] * count)
        if len(batch) >= _BATCH_WORDS:
            yield batch
            batch = []
    yield batch
