"""Settings of the stages of `iberlm curate`: annotate, dedup, select."""

from dataclasses import dataclass, field

from iberlm.core.config import at_least, between, given
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, check_language
from iberlm.core.stage import place


@dataclass(kw_only=True)
class AnnotateConfig:
    """What is measured on every document, in one pass."""

    identify_characters: int = 1000
    """Language identification reads this many characters from the start, as many from the middle when there are more."""
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


@dataclass(kw_only=True)
class DedupConfig:
    """Which duplicates are looked for."""

    exact: bool = True
    near: bool = True
    dry_run: bool = place(False)


@dataclass(kw_only=True)
class Thresholds:
    """Limits of one language; `curate/rules.py` compares them, each name says which side is kept."""

    min_language_score: float = 0.5
    min_words: int = 50
    max_words: int = 1_000_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 11.0
    min_alpha_word_ratio: float = 0.7
    min_stop_words: int = 2
    max_symbol_word_ratio: float = 0.1
    max_bullet_line_ratio: float = 0.9
    max_ellipsis_line_ratio: float = 0.3
    min_punctuated_line_ratio: float = 0.1
    max_new_line_ratio: float = 0.3
    max_duplicate_line_ratio: float = 0.3
    max_duplicate_line_character_ratio: float = 0.3
    max_top_2_gram_ratio: float = 0.2
    max_top_3_gram_ratio: float = 0.18
    max_top_4_gram_ratio: float = 0.16
    max_duplicate_5_gram_ratio: float = 0.3
    max_duplicate_6_gram_ratio: float = 0.28
    max_duplicate_7_gram_ratio: float = 0.26
    max_duplicate_8_gram_ratio: float = 0.24
    max_duplicate_9_gram_ratio: float = 0.22
    max_duplicate_10_gram_ratio: float = 0.2


@dataclass(kw_only=True)
class SelectOptions:
    """Which documents stay, in what form, and on which side of the split."""

    languages: list[str] = field(default_factory=lambda: list(LANGUAGES))
    """Languages that the run needs: it ends with an error when one of them has no document left."""
    redact: list[str] = field(default_factory=lambda: ["email", "ip", "phone", "dni", "nie", "iban"])
    """Kinds of personal data that are replaced by a tag such as <EMAIL>."""
    validation_share: float = 0.01
    """Share of documents set aside, by hash of the text."""
    min_validation_documents: int = 1
    max_validation_documents: int = 2000
    samples: int = 3
    """Documents a language and reason that are kept for the report."""
    dry_run: bool = place(False)

    def __post_init__(self) -> None:
        from iberlm.curate.pii import KINDS

        given("select.languages", self.languages)
        for index, tag in enumerate(self.languages):
            check_language(tag, f"select.languages[{index}]")
        for kind in self.redact:
            if kind not in KINDS:
                raise ConfigError(f"select.redact: unknown kind '{kind}'; choose among {', '.join(KINDS)}")
        between("select.validation_share", self.validation_share, 0.0, 0.5)
        at_least("select.min_validation_documents", self.min_validation_documents, 0)
        at_least("select.max_validation_documents", self.max_validation_documents, max(1, self.min_validation_documents))


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
