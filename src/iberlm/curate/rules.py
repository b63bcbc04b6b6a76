"""The filter rules: each is a pure comparison of annotation columns with limits, and its name is the reason it gives.

A rule is true where a document is to be dropped. To add one, write the function, list it in `RULES` (the first rule
that applies is the reason counted), and add its limit to `Thresholds`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from iberlm.curate.config import Thresholds

Columns = Mapping[str, npt.NDArray[np.float64]]
"""Annotation columns of one language's documents, each of shape (documents,)."""
Flags = npt.NDArray[np.bool_]
Rule = Callable[[Columns, Thresholds], Flags]


def language_score(columns: Columns, limits: Thresholds) -> Flags:
    """The identification is not sure enough."""
    return columns["language_score"] < limits.min_language_score


def mixed_language(columns: Columns, limits: Thresholds) -> Flags:
    """Too much of the text is surely in another language than the whole."""
    return columns["other_language_ratio"] > limits.max_other_language_ratio


def too_short(columns: Columns, limits: Thresholds) -> Flags:
    """Too few words to be a document."""
    return columns["words"] < limits.min_words


def too_long(columns: Columns, limits: Thresholds) -> Flags:
    """More words than any document: a dump or a list."""
    return columns["words"] > limits.max_words


def stop_words(columns: Columns, limits: Thresholds) -> Flags:
    """Too few function words: not made of sentences."""
    return columns["stop_words"] < limits.min_stop_words


def word_length(columns: Columns, limits: Thresholds) -> Flags:
    """Mean word length outside what the language has."""
    length = columns["mean_word_length"]
    return (length < limits.min_mean_word_length) | (length > limits.max_mean_word_length)


def alpha_words(columns: Columns, limits: Thresholds) -> Flags:
    """Too few words with a letter: tables, code, numbers."""
    return columns["alpha_word_ratio"] < limits.min_alpha_word_ratio


def symbols(columns: Columns, limits: Thresholds) -> Flags:
    """Too many '#' or '...' for its words."""
    return (columns["hash_ratio"] > limits.max_hash_ratio) | (columns["ellipsis_ratio"] > limits.max_ellipsis_ratio)


def bullets(columns: Columns, limits: Thresholds) -> Flags:
    """Nearly all lines are bullets."""
    return columns["bullet_line_ratio"] > limits.max_bullet_line_ratio


def ellipses(columns: Columns, limits: Thresholds) -> Flags:
    """Too many lines break off in '...': teasers."""
    return columns["ellipsis_line_ratio"] > limits.max_ellipsis_line_ratio


def line_punctuation(columns: Columns, limits: Thresholds) -> Flags:
    """Too few lines end like sentences: menus."""
    return columns["punctuated_line_ratio"] < limits.min_punctuated_line_ratio


def short_lines(columns: Columns, limits: Thresholds) -> Flags:
    """Too many lines of a few words: menus and lists."""
    return columns["short_line_ratio"] > limits.max_short_line_ratio


def new_lines(columns: Columns, limits: Thresholds) -> Flags:
    """Too many line breaks for its words: lists."""
    return columns["new_line_ratio"] > limits.max_new_line_ratio


def duplicate_lines(columns: Columns, limits: Thresholds) -> Flags:
    """Too many lines are repeats of another line."""
    lines = columns["duplicate_line_ratio"] > limits.max_duplicate_line_ratio
    characters = columns["duplicate_line_character_ratio"] > limits.max_duplicate_line_character_ratio
    return lines | characters | (columns["duplicate_full_line_character_ratio"] > limits.max_duplicate_full_line_character_ratio)


def duplicate_paragraphs(columns: Columns, limits: Thresholds) -> Flags:
    """Too many paragraphs are repeats of another paragraph."""
    paragraphs = columns["duplicate_paragraph_ratio"] > limits.max_duplicate_paragraph_ratio
    return paragraphs | (columns["duplicate_paragraph_character_ratio"] > limits.max_duplicate_paragraph_character_ratio)


def top_ngrams(columns: Columns, limits: Thresholds) -> Flags:
    """One phrase of 2 to 4 words makes up too much of the text."""
    flags = np.zeros(len(columns["words"]), dtype=bool)
    for n in (2, 3, 4):
        flags |= columns[f"top_{n}_gram_ratio"] > getattr(limits, f"max_top_{n}_gram_ratio")
    return flags


def duplicate_ngrams(columns: Columns, limits: Thresholds) -> Flags:
    """Too much of the text stands in phrases of 5 to 10 words that occurred before."""
    flags = np.zeros(len(columns["words"]), dtype=bool)
    for n in range(5, 11):
        flags |= columns[f"duplicate_{n}_gram_ratio"] > getattr(limits, f"max_duplicate_{n}_gram_ratio")
    return flags


def curly_brackets(columns: Columns, limits: Thresholds) -> Flags:
    """Too many curly brackets: code or a template."""
    return columns["curly_bracket_ratio"] > limits.max_curly_bracket_ratio


def placeholder(columns: Columns, limits: Thresholds) -> Flags:
    """Filler text of a page that was never written (lorem ipsum)."""
    return columns["lorem_ipsum"] > 0


def policy_lines(columns: Columns, limits: Thresholds) -> Flags:
    """Too many lines speak of cookies, JavaScript or terms of use."""
    return columns["policy_line_ratio"] > limits.max_policy_line_ratio


def quality(columns: Columns, limits: Thresholds) -> Flags:
    """The quality classifier scores it below the limit (where one was given)."""
    return columns["quality_score"] < limits.min_quality_score


RULES: tuple[Rule, ...] = (
    too_short,
    too_long,
    placeholder,
    duplicate_lines,
    duplicate_paragraphs,
    top_ngrams,
    duplicate_ngrams,
    stop_words,
    language_score,
    mixed_language,
    word_length,
    alpha_words,
    symbols,
    bullets,
    ellipses,
    line_punctuation,
    short_lines,
    new_lines,
    curly_brackets,
    policy_lines,
    quality,
)


def first_reason(columns: Columns, limits: Thresholds) -> npt.NDArray[np.int8]:
    """Index in `RULES` of the first rule that drops each document, -1 where none does; shape (documents,)."""
    reasons = np.full(len(columns["words"]), -1, dtype=np.int8)
    for index, rule in enumerate(RULES):
        reasons[(reasons < 0) & rule(columns, limits)] = index
    return reasons
