"""Settings of `iberlm train-tokenizer` and `iberlm tokenize`. Imports nothing heavy."""

from dataclasses import dataclass, field

from iberlm.core.config import StageConfig, at_least, between, one_of
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language
from iberlm.core.stage import place
from iberlm.tokenizer.special import fixed_pieces

ALGORITHMS = ("bpe", "unigram")


@dataclass(kw_only=True)
class TokenizerConfig:
    """A SentencePiece vocabulary (`tokenizer=`, from `recipes/tokenizer/`)."""

    algorithm: str = "bpe"
    """bpe or unigram. With unigram the exported ids rarely differ from SentencePiece's, see `export`."""
    vocabulary_size: int = 32_768
    """All ids: special tokens, 256 bytes and pieces. Below 65,500 a token takes two bytes in the store, else four."""
    character_coverage: float = 0.9999
    """Share of the characters of the sample that get a piece of their own; the rest are written as bytes."""
    sample_bytes_per_language: int = 20_000_000
    """UTF-8 bytes of training text of each language. When all have less, the largest language sets the share."""
    max_repeats: int = 4
    """How often the text of a small language may be repeated to fill its share."""
    split_by_script: bool = True
    """Keep letters apart from punctuation, as is usual. Off, pieces such as "l'" and "a." take 3 to 10 % fewer tokens (measured
    at 32,768 pieces; most in Catalan, Valencian and Basque), but a word has other ids before a full stop than elsewhere."""
    reserved_tokens: int = 16
    """Unused special tokens <|reserved_0|>.. for later fine-tuning, so that no embedding needs to be added."""
    model_max_length: int = 8_192
    """Tokens beyond which the exported tokenizer warns."""

    def __post_init__(self) -> None:
        one_of("tokenizer.algorithm", self.algorithm, ALGORITHMS)
        at_least("tokenizer.reserved_tokens", self.reserved_tokens, 0)
        at_least("tokenizer.vocabulary_size", self.vocabulary_size, fixed_pieces(self.reserved_tokens) + 1)
        between("tokenizer.character_coverage", self.character_coverage, 0.98, 1.0)
        at_least("tokenizer.sample_bytes_per_language", self.sample_bytes_per_language, 1)
        at_least("tokenizer.max_repeats", self.max_repeats, 1)
        at_least("tokenizer.model_max_length", self.model_max_length, 1)


@dataclass(kw_only=True)
class TrainTokenizerConfig(StageConfig):
    """Train a tokenizer on an equal amount of text of every language, and measure it."""

    documents: str = place("")
    """Folder of the curate stage; empty means the one of this run."""
    languages: list[str] = field(default_factory=list)
    """Languages to train on; empty means all that the documents have. Each must have documents."""
    measured_bytes_per_language: int = 5_000_000
    """UTF-8 bytes of validation text, from its beginning, on which tokens a word are measured."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)

    def __post_init__(self) -> None:
        for index, tag in enumerate(self.languages):
            check_language(tag, f"languages[{index}]", among=LANGUAGES + NEIGHBOURS)
        at_least("measured_bytes_per_language", self.measured_bytes_per_language, 1)


@dataclass(kw_only=True)
class TokenizeConfig(StageConfig):
    """Turn documents into a token store."""

    documents: str = place("")
    """Folder of the curate stage; empty means the one of this run."""
    tokenizer_folder: str = place("")
    """Folder of the train-tokenizer stage; empty means the one of this run."""
    max_shard_bytes: int = 1_000_000_000
    """Uncompressed bytes of Parquet text in one shard: what one worker does at a time and what an interruption costs."""

    def __post_init__(self) -> None:
        at_least("max_shard_bytes", self.max_shard_bytes, 1)
