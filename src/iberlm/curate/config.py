"""Settings of the stages of `iberlm curate`, but for `dedup`, which is a package with its own.

They stand apart from the stages because the command line reads them at start-up: no stage, and nothing compiled, is imported for them.
"""

import re
from dataclasses import dataclass, field

from iberlm.core.config import at_least, between, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, check_language
from iberlm.core.stage import place
from iberlm.curate.pii import KINDS, POLICIES

EVERYONE = "*"
"""How a robots file names all agents."""
_AGENT = re.compile(r"[A-Za-z0-9_./ -]+")
CONTAMINATED = ("drop", "cut", "keep")
"""What may happen to documents that hold items of an evaluation; the mark stays beside them in any case."""


@dataclass(kw_only=True)
class AnnotateConfig:
    """What is measured on every document, in one pass."""

    identifier: str = ""
    """Language identifier: empty for the one that is shipped, or the path of a fastText model (lid.176, GlotLID)."""
    identify_characters: int = 1000
    """A document is identified from this many characters of its start and its middle together."""
    minhash_bands: int = 14
    minhash_rows: int = 8
    """Bands x rows of 64-bit MinHash values on word 5-grams; 14 x 8 finds pairs of Jaccard similarity 0.72 half of the time."""
    personal_data: bool = True
    workers: int = place(0)
    dry_run: bool = place(False)

    def __post_init__(self) -> None:
        at_least("annotate.identify_characters", self.identify_characters, 100)
        between("annotate.minhash_bands", self.minhash_bands, 1, 64)
        between("annotate.minhash_rows", self.minhash_rows, 1, 64)
        at_least("annotate.workers", self.workers, 0)


@dataclass(kw_only=True)
class DecontaminateConfig:
    """Which items are looked for, and what counts as finding one."""

    evaluation: list[str] = place(default_factory=list)
    """Files of items (JSONL, JSON, CSV, Parquet), folders of them, or `iberlm` for IberLM's own tasks; their content decides, not their place."""
    fields: list[str] = field(default_factory=list)
    """Keys of a record whose texts are looked for; all of them when none is given."""
    id_field: str = "id"
    """Key that names an item; items without it are numbered."""
    ngram_words: int = 13
    """Words in a row that make a match."""
    short_item_words: int = 6
    """Texts of fewer words than an n-gram match as a whole, from this many words on: fewer are in many a sentence."""
    max_items: int = 10
    """An n-gram in more different texts than this belongs to a template, and is not looked for."""
    dry_run: bool = place(False)
    workers: int = place(0)

    def __post_init__(self) -> None:
        given("decontaminate.id_field", self.id_field)
        between("decontaminate.ngram_words", self.ngram_words, 5, 50)
        between("decontaminate.short_item_words", self.short_item_words, 3, self.ngram_words)
        at_least("decontaminate.max_items", self.max_items, 1)


@dataclass(kw_only=True)
class RobotsConfig:
    """Which robots files are applied, and for whom they are asked."""

    snapshot: str = place("")
    """File or folder of robots files (see `iberlm.curate.optout.snapshot`); its content decides, not its place."""
    agents: list[str] = field(default_factory=list)
    """Agents that are asked for besides `*`, which always is (`recipes/robots/`)."""
    dry_run: bool = place(False)
    workers: int = place(0)

    def __post_init__(self) -> None:
        for index, agent in enumerate(self.agents):
            if agent != EVERYONE and not _AGENT.fullmatch(agent):
                raise ConfigError(f"robots.agents[{index}]: '{agent}' is no name of an agent; write it as robots files do, e.g. GPTBot")


@dataclass(kw_only=True)
class QualityConfig:
    """Which model scores."""

    model: str = place("")
    """Folder that `iberlm train-quality` wrote; its content decides, not its place."""
    dry_run: bool = place(False)
    workers: int = place(0)


@dataclass(kw_only=True)
class Thresholds:
    """Limits of one language; `curate/rules.py` compares them, each name says which side is kept.

    A ratio of 1 as maximum, or 0 as minimum, switches a rule off.
    """

    min_language_score: float = 0.5
    max_other_language_ratio: float = 0.5
    min_words: int = 50
    max_words: int = 1_000_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 11.0
    min_alpha_word_ratio: float = 0.7
    min_stop_words: int = 2
    max_hash_ratio: float = 0.1
    max_ellipsis_ratio: float = 0.1
    max_bullet_line_ratio: float = 0.9
    max_ellipsis_line_ratio: float = 0.3
    min_punctuated_line_ratio: float = 0.1
    max_short_line_ratio: float = 1.0
    max_new_line_ratio: float = 0.3
    max_duplicate_line_ratio: float = 0.3
    max_duplicate_line_character_ratio: float = 0.2
    max_duplicate_full_line_character_ratio: float = 1.0
    max_duplicate_paragraph_ratio: float = 0.3
    max_duplicate_paragraph_character_ratio: float = 0.2
    max_top_2_gram_ratio: float = 0.2
    max_top_3_gram_ratio: float = 0.18
    max_top_4_gram_ratio: float = 0.16
    max_duplicate_5_gram_ratio: float = 0.15
    max_duplicate_6_gram_ratio: float = 0.14
    max_duplicate_7_gram_ratio: float = 0.13
    max_duplicate_8_gram_ratio: float = 0.12
    max_duplicate_9_gram_ratio: float = 0.11
    max_duplicate_10_gram_ratio: float = 0.1
    max_curly_bracket_ratio: float = 0.01
    max_policy_line_ratio: float = 0.3
    min_quality_score: float = 0.0


@dataclass(kw_only=True)
class SelectOptions:
    """Which documents stay, in what form, and on which side of the split."""

    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    """Languages that the run needs: it ends with an error when one of them has no document left."""
    redact: dict[str, str] = field(default_factory=lambda: dict.fromkeys(KINDS, "tag"))
    """By kind of personal data: `tag` (<EMAIL>), `pseudonym` (an invented value, the same for the same one in a document) or `keep`."""
    release: str = "1"
    """Name of the release: the pseudonyms of two releases differ."""
    honour_reservations: bool = True
    """Drop pages that reserve their use for text and data mining, and those that their site's robots file keeps from AI agents."""
    contaminated: str = "drop"
    """Documents that hold items of an evaluation: `drop` them, `cut` the passages, or `keep` them."""
    removals: list[str] = field(default_factory=list)
    """Files of removal requests (.jsonl) and block lists of domains (.txt): they hold for every document, before any rule."""
    cut_boilerplate: bool = True
    """Cut paragraphs that occur in many documents, but for the first."""
    cut_other_languages: bool = True
    """Cut paragraphs that are surely in another language than their document."""
    min_characters_left: int = 200
    """A document of which the cuts leave less is dropped."""
    rehydrate: bool = False
    """Weigh documents by the size of their cluster of duplicates (FineWeb2): column `weight`."""
    validation_share: float = 0.01
    """Share of documents set aside, by hash of the text."""
    min_validation_documents: int = 1
    max_validation_documents: int = 2000
    file_bytes: int = 512 << 20
    """Text (UTF-8 bytes) of the shards that are joined to one file a language."""
    samples: int = 3
    """Documents a language and reason that are kept for the report."""
    workers: int = place(0)
    dry_run: bool = place(False)

    def __post_init__(self) -> None:
        given("select.languages", self.languages)
        for index, tag in enumerate(self.languages):
            check_language(tag, f"select.languages[{index}]")
        for kind, policy in self.redact.items():
            if kind not in KINDS:
                raise ConfigError(f"select.redact: unknown kind '{kind}'; choose among {', '.join(KINDS)}")
            one_of(f"select.redact.{kind}", policy, POLICIES)
        one_of("select.contaminated", self.contaminated, CONTAMINATED)
        at_least("select.min_characters_left", self.min_characters_left, 1)
        between("select.validation_share", self.validation_share, 0.0, 0.5)
        at_least("select.min_validation_documents", self.min_validation_documents, 0)
        between("select.max_validation_documents", self.max_validation_documents, max(1, self.min_validation_documents), 100_000)
        at_least("select.file_bytes", self.file_bytes, 1)
        at_least("select.samples", self.samples, 0)
        at_least("select.workers", self.workers, 0)


@dataclass(kw_only=True)
class SelectConfig(SelectOptions):
    """Settings of the stage: the options, and the limits of each language."""

    filters: dict[str, Thresholds]
    """By language tag (`filters=`, from `recipes/filters/`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for tag in self.filters:
            check_language(tag, "filters")
        if missing := [tag for tag in self.languages if tag not in self.filters]:
            raise ConfigError(f"filters: no limits for {', '.join(missing)}; add them, or leave the language out of select.languages")
