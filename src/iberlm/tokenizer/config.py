"""Settings of `iberlm train-tokenizer` and `iberlm tokenize`. Imports nothing heavy."""

from dataclasses import dataclass, field

from iberlm.core.config import StageConfig, at_least, between, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language
from iberlm.core.stage import place
from iberlm.tokenizer.special import fixed_pieces

BPE, UNIGRAM, BYTE_BPE, EXTEND, KEEP = "bpe", "unigram", "byte_bpe", "extend", "keep"
ALGORITHMS = (BPE, UNIGRAM, BYTE_BPE, EXTEND, KEEP)
WITH_BASE = (EXTEND, KEEP)
UNIFORM, TEMPERATURE, WEIGHTS = "uniform", "temperature", "weights"
MIXTURES = (UNIFORM, TEMPERATURE, WEIGHTS)
SCRIPT, ELISION, SPACE = "script", "elision", "space"
SPLITS = ("", SCRIPT, ELISION, SPACE)


@dataclass(kw_only=True)
class SampleMixtureConfig:
    """How much of the training sample each language gets (`tokenizer.mixture`)."""

    kind: str = UNIFORM
    """uniform: the same bytes of every language; temperature: in proportion to the bytes at hand to the power 1/temperature; weights: as given."""
    temperature: float = 2.0
    """With kind=temperature. 1 is in proportion to the text at hand; the larger, the nearer to uniform."""
    weights: dict[str, float] = field(default_factory=dict)
    """With kind=weights: one positive number for each language that is trained on; they need not add up to 1."""

    def __post_init__(self) -> None:
        one_of("tokenizer.mixture.kind", self.kind, MIXTURES)
        if not self.temperature > 0:
            raise ConfigError(f"tokenizer.mixture.temperature: {self.temperature} must be above 0")
        if (self.kind == WEIGHTS) != bool(self.weights):
            raise ConfigError(f"tokenizer.mixture: kind={self.kind} with {len(self.weights)} weights; weights go with kind=weights, and only with it")
        for tag, weight in self.weights.items():
            check_language(tag, "tokenizer.mixture.weights", among=LANGUAGES + NEIGHBOURS)
            if not weight > 0:
                raise ConfigError(f"tokenizer.mixture.weights.{tag}: {weight} must be above 0; to leave a language out, name the others in 'languages'")


@dataclass(kw_only=True)
class ParityConfig:
    """Weights of the languages chosen so that the same content costs the same number of tokens in each (`tokenizer.parity`)."""

    rounds: int = 0
    """Trainings of the search, each with weights corrected by what the one before measured; 0: the mixture stays as it is."""
    tolerance: float = 0.002
    """The search ends when the Gini coefficient of the costs is at most this, or no longer falls."""
    strength: float = 6.0
    """A language's weight is multiplied by (its cost / the mean cost) to this power after each training."""
    max_shift: float = 3.0
    """No weight leaves the mixture's by more than this factor: a language that costs more for other reasons than its weight would take all of it."""

    def __post_init__(self) -> None:
        between("tokenizer.parity.rounds", self.rounds, 0, 50)
        between("tokenizer.parity.tolerance", self.tolerance, 0.0, 1.0)
        between("tokenizer.parity.strength", self.strength, 0.1, 50.0)
        between("tokenizer.parity.max_shift", self.max_shift, 1.0, 100.0)


@dataclass(kw_only=True)
class GatesConfig:
    """What a tokenizer must hold to be trained on (`gates`). `pretrain` refuses one that failed a gate that was not waived."""

    max_dead_share: float = 0.05
    """Share of the trained pieces that may be dead: unreachable, or absent from the sample when it is encoded."""
    max_cost_ratio: float = 1.25
    """Tokens of the dearest language over those of the cheapest for the same content (parallel text)."""

    def __post_init__(self) -> None:
        between("gates.max_dead_share", self.max_dead_share, 0.0, 1.0)
        at_least("gates.max_cost_ratio", self.max_cost_ratio, 1.0)


@dataclass(kw_only=True)
class TokenizerConfig:
    """A vocabulary (`tokenizer=`, from `recipes/tokenizer/`)."""

    algorithm: str = BPE
    """bpe and unigram: SentencePiece with byte fallback. byte_bpe: byte-level BPE. extend: pieces added to the tokenizer `base`. keep: `base` as it is."""
    vocabulary_size: int = 32_768
    """All ids: special tokens, 256 bytes and pieces; with extend also those of the base. Below 65,500 a token takes two bytes in the store, else four.
    With keep 0: the base's."""
    base: str = place("")
    """With extend: folder of a Hugging Face tokenizer (tokenizer.json) of the BPE kind. With keep: of any kind that can be measured, BOS and EOS named."""
    character_coverage: float = 0.9999
    """bpe and unigram: share of the characters of the sample that get a piece of their own; the rest are written as bytes."""
    sample_bytes_per_language: int = 20_000_000
    """UTF-8 bytes of training text a language, on average over the languages; the mixture distributes them."""
    max_repeats: float = 4.0
    """How often over the text of a small language may count to fill its share."""
    max_words: int = 3_000_000
    """Distinct words that are trained on, the most frequent ones: what bounds the memory, however large the sample. 3 million take 1.5 GB a training."""
    mixture: SampleMixtureConfig = field(default_factory=SampleMixtureConfig)
    parity: ParityConfig = field(default_factory=ParityConfig)
    split: str = ""
    """bpe and unigram: where pieces may not cross inside a word, besides digits. script: between letters and all else. elision (what empty means): the
    same, but an elided word keeps its apostrophe (l', d', s') and l·l its point. space: nowhere; then a word has other ids before a full stop than
    elsewhere. With byte_bpe, extend and keep the pre-tokenizer decides, and this stays empty."""
    reserved_tokens: int = 16
    """Unused special tokens <|reserved_0|>.. for later fine-tuning, so that no embedding needs to be added. Not with extend and keep."""
    model_max_length: int = 8_192
    """Tokens beyond which the exported tokenizer warns."""
    check_determinism: bool = True
    """Train twice at the same time, in two processes, and compare. Off, the gate 'deterministic' is open and must be waived."""

    def __post_init__(self) -> None:
        one_of("tokenizer.algorithm", self.algorithm, ALGORITHMS)
        one_of("tokenizer.split", self.split, SPLITS)
        if (self.algorithm in WITH_BASE) != bool(self.base):
            raise ConfigError(f"tokenizer.base: '{self.base}' with algorithm={self.algorithm}; a base goes with algorithm=extend or keep, and only with them")
        if self.split and self.algorithm not in (BPE, UNIGRAM):
            raise ConfigError(f"tokenizer.split: '{self.split}' with algorithm={self.algorithm}, whose pre-tokenizer cuts words; leave it empty")
        at_least("tokenizer.reserved_tokens", self.reserved_tokens, 0)
        if self.algorithm == KEEP:
            self._check_kept()
        else:
            at_least("tokenizer.vocabulary_size", self.vocabulary_size, fixed_pieces(self.reserved_tokens) + 1)
        between("tokenizer.character_coverage", self.character_coverage, 0.98, 1.0)
        at_least("tokenizer.sample_bytes_per_language", self.sample_bytes_per_language, 1)
        at_least("tokenizer.max_repeats", self.max_repeats, 1)
        at_least("tokenizer.max_words", self.max_words, 1_000)
        at_least("tokenizer.model_max_length", self.model_max_length, 1)

    def _check_kept(self) -> None:
        for key, value in (("vocabulary_size", self.vocabulary_size), ("parity.rounds", self.parity.rounds)):
            if value:
                raise ConfigError(f"tokenizer.{key}: {value} with algorithm=keep, which trains nothing and has the vocabulary of the base; set it to 0")

    @property
    def pieces_split(self) -> str:
        """`split`, with what empty means."""
        return self.split or ELISION


@dataclass(kw_only=True)
class TrainTokenizerConfig(StageConfig):
    """Train a tokenizer on a mixture of the languages, measure it, and say whether it may be trained on."""

    documents: str = place("")
    """Folder of the curate stage; empty means the one of this run."""
    languages: list[str] = field(default_factory=list)
    """Languages to train on; empty means all that the documents have. Each must have documents."""
    measured_bytes_per_language: int = 5_000_000
    """UTF-8 bytes of validation text, from its beginning, on which tokens a word are measured."""
    parallel: str = place("")
    """Folder with LANG.txt files whose lines say the same, for cost and parity; empty means the one that comes with IberLM."""
    compare: list[str] = place(default_factory=list)
    """Other tokenizers to measure on the same texts and show beside: folders or files, as for `iberlm measure-tokenizer`."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)

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
    encoder: str = place("fast")
    """fast: gigatoken where it can encode this tokenizer and gives the ids of the reference, which is checked as it goes; reference: the tokenizer itself.
    The ids are the same."""

    def __post_init__(self) -> None:
        at_least("max_shard_bytes", self.max_shard_bytes, 1)
        one_of("encoder", self.encoder, ("fast", "reference"))
