"""The kernel's definitions once more, in plain Python on strings: slow, and meant to be read and believed.

Tokens come from a grammar of regular expressions over the *shape* of a text, a string of the same length in which each character that
needs a class is replaced by a stand-in of its class. Statistics follow datatrove's definitions (see `iberlm.curate.measure.kernel`).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import NamedTuple

from iberlm.curate.measure.characters import SENTENCE_TERMINAL
from iberlm.curate.measure.words import JAVASCRIPT_PHRASES, LOREM_IPSUM_PHRASES, POLICY_PHRASES

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff"
UNSPACED += "\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_MARK, _UPPER, _LOWER, _IDEOGRAPH, _SYMBOL = "\u0301", "Ā", "ā", "漢", "¤"
_SPELLINGS = str.maketrans({"’": "'", "\u2010": "-", "\u2011": "-", "\u2027": "·"})
TERMINAL = frozenset(map(chr, SENTENCE_TERMINAL))


class Token(NamedTuple):
    """A token at [start, end) of the text, in the spelling that counts for comparisons."""

    written: str
    start: int
    end: int
    is_word: bool


def shape(character: str) -> str:
    """A stand-in for the class of a character; ASCII, apostrophes, hyphens and the punt volat stand for themselves."""
    character = character.translate(_SPELLINGS)
    category = unicodedata.category(character)
    if character.isspace():
        return " "
    if character in "·'-" or (category != "Cc" and character.isascii()):
        return character
    if category[0] == "L":
        return _IDEOGRAPH if _UNSPACED.match(character) else _UPPER if category in ("Lu", "Lt") else _LOWER
    return _MARK if category[0] == "M" or category == "Cf" else "0" if category[0] == "N" else _SYMBOL


W = f"[a-zA-Z0-9{_UPPER}{_LOWER}]"  # a letter or digit
APOSTROPHE_CLITIC = f"""'(?i:[mtsln]|ns|ls) (?![a-zA-Z0-9{_UPPER}{_LOWER}{_MARK}{_IDEOGRAPH}])"""
CLITIC = f"""(?:
    {APOSTROPHE_CLITIC}
  | -(?i:la|lo|li|me|te|se|ne|hi|ho|us|en|les|los|nos|vos) (?![a-zA-Z0-9{_UPPER}{_LOWER}{_MARK}{_IDEOGRAPH}])
  | -(?i:[mtsln])'(?={W})
)"""


def _word_grammar(hyphen: str) -> re.Pattern[str]:
    return re.compile(
        f"""
        {W}{_MARK}*
        (?:
            {W}
          | {_MARK}
          | {hyphen}
          | [·_@](?={W})
          | (?<![a-z{_LOWER}]) \\.(?={W})
          | (?<=[a-z{_LOWER}]) \\.(?=[a-z0-9{_LOWER}])
          | (?<=[0-9]) [,:/] (?=[0-9])
        )*
        (?: (?!{APOSTROPHE_CLITIC}) '(?={W}) )?
        """,
        re.VERBOSE,
    )


LETTER = f"[a-zA-Z{_UPPER}{_LOWER}]"
WORD = _word_grammar(f"(?!{CLITIC}) -(?={W})")
BASQUE_WORD = _word_grammar(f"(?<!{LETTER}) -(?={W}) | -(?=[0-9])")
CLITIC_TOKEN, BASQUE_CLITIC_TOKEN = re.compile(CLITIC, re.VERBOSE), re.compile(APOSTROPHE_CLITIC, re.VERBOSE)
ADDRESS_REST = re.compile(f'(?:[^\\s"<>\\\\^`{{|}}{_SYMBOL}·]*[a-zA-Z0-9{_UPPER}{_LOWER}{_MARK}{_IDEOGRAPH}/])?')


def _token_end(text: str, shapes: str, at: int, after_word: bool, basque: bool) -> tuple[int, bool]:
    """End of the token that begins at `at`, and whether it is a word."""
    if after_word and (clitic := (BASQUE_CLITIC_TOKEN if basque else CLITIC_TOKEN).match(shapes, at)):
        return clitic.end(), True
    if shapes[at] == _IDEOGRAPH:
        return re.compile(f"{_IDEOGRAPH}{_MARK}*").match(shapes, at).end(), True
    if word := (BASQUE_WORD if basque else WORD).match(shapes, at):
        end = word.end()
        if re.compile(f"(?i:www)\\.{W}").match(shapes, at):
            end = at + 3
        elif not re.compile(f"://{W}").match(shapes, end):
            return end, True
        return ADDRESS_REST.match(shapes, end).end(), True
    end = at + 1
    while end < len(text) and text[end] == text[at]:
        end += 1
    return re.compile(f"{_MARK}*").match(shapes, end).end(), False


def tokens(text: str, language: str = "") -> list[Token]:
    """All tokens of a text in their order. In Basque a hyphen between letters is a token."""
    shapes = "".join(map(shape, text))
    found: list[Token] = []
    at = 0
    while at < len(text):
        if shapes[at] == " ":
            at += 1
            continue
        after_word = bool(found) and found[-1].is_word and found[-1].end == at
        end, is_word = _token_end(text, shapes, at, after_word, language == "eu")
        written = "".join(c for c in text[at:end].translate(_SPELLINGS) if unicodedata.category(c) != "Cf")
        found.append(Token(written, at, end, is_word))
        at = end
    return found


def lower(word: str) -> str:
    """Lower case code point by code point."""
    return "".join(character.lower()[0] for character in word)


def words(text: str, language: str = "") -> list[str]:
    """Words of a text as they are hashed."""
    return [lower(token.written) for token in tokens(text, language) if token.is_word]


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Windows of n items."""
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def top_ngram_characters(found: Sequence[Token], n: int) -> int:
    """Gopher, datatrove `find_top_duplicate`: of the n-gram that occurs most, the first of several."""
    grams = Counter(ngrams([token.written for token in found], n))
    if not grams:
        return 0
    gram, times = grams.most_common(1)[0]
    first = ngrams([token.written for token in found], n).index(gram)
    return times * (sum(token.end - token.start for token in found[first : first + n]) + n - 1)


def duplicate_ngram_characters(found: Sequence[Token], n: int) -> int:
    """Gopher, datatrove `find_all_duplicate`: goes on behind an n-gram that it has seen before."""
    seen, repeated, i = set(), 0, 0
    while i + n <= len(found):
        gram = tuple(token.written for token in found[i : i + n])
        if gram in seen:
            repeated += sum(token.end - token.start for token in found[i : i + n])
            i += n
        else:
            seen.add(gram)
            i += 1
    return repeated


def duplicates(items: Sequence[str]) -> tuple[int, int]:
    """How many items occurred before, and their characters."""
    repeats = [item for i, item in enumerate(items) if item in items[:i]] if len(items) < 50 else _repeats(items)
    return len(repeats), sum(map(len, repeats))


def _repeats(items: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in items if item in seen or seen.add(item)]


def contains(line: Sequence[str], phrases: Collection[str]) -> bool:
    """Whether one of the phrases stands in the words of a line."""
    joined = f" {' '.join(line)} "
    return any(f" {' '.join(_phrase_words(phrase))} " in joined for phrase in phrases)


@cache
def _phrase_words(phrase: str) -> list[str]:
    return words(phrase)


def sentences(text: str) -> int:
    """Ends of sentences."""
    count = 0
    word, ended = False, False
    for character in text + " ":
        category = unicodedata.category(character)
        if character.isspace():
            if ended:
                count, word = count + 1, False
            ended = False
        elif character in TERMINAL:
            ended = word
        elif category[0] in "LN":
            word, ended = True, False
        elif not (category in ("Pe", "Pf", "Cf") or category[0] == "M" or character in "\"'"):
            ended = False
    return count


def c4_keeps(line: str, language: str) -> bool:
    """C4's rules for a line, less its citations."""
    line_words = line.split()
    ends = line.strip().endswith((".", "?", "!", '"', "'")) and not line.strip().endswith("...")
    notice = contains(words(line, language), [*JAVASCRIPT_PHRASES, *POLICY_PHRASES])
    return ends and len(line_words) >= 3 and not any(len(word) > 1000 for word in line_words) and not notice


def statistics(text: str, language: str, stop_words: Collection[str]) -> dict[str, float]:
    """Every statistic of a text."""
    found = tokens(text, language)
    only_words = [token for token in found if token.is_word]
    lines = text.split("\n")[: -1 if text.endswith("\n") or not text else None]
    full = [line for line in text.split("\n") if line.strip()]
    gopher_lines = re.split("\n+", text) if text else []
    paragraphs = re.split("\n{2,}", text.strip()) if text else []
    javascript = sum(contains(words(line, language), JAVASCRIPT_PHRASES) for line in full)
    policy = sum(contains(words(line, language), POLICY_PHRASES) for line in full)
    brackets = text.count("{") + text.count("}")

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return {
        "characters": len(text),
        "bytes": len(text.encode()),
        "words": len(only_words),
        "tokens": len(found),
        "sentences": sentences(text),
        "lines": len(lines),
        "stop_words": len({token.written for token in found} & set(stop_words)),
        "longest_word": max(map(len, text.split()), default=0),
        "curly_brackets": brackets,
        "lorem_ipsum": int(any(contains(words(line, language), LOREM_IPSUM_PHRASES) for line in full)),
        "javascript_lines": javascript,
        "policy_lines": policy,
        "mean_word_length": ratio(sum(token.end - token.start for token in only_words), len(only_words)),
        "alpha_word_ratio": ratio(sum(any(map(str.isalpha, text[token.start : token.end])) for token in found), len(found)),
        "stop_word_ratio": ratio(sum(token.written in stop_words for token in found), len(found)),
        "hash_ratio": ratio(text.count("#"), len(found)),
        "ellipsis_ratio": ratio(text.count("...") + text.count("…"), len(found)),
        "bullet_line_ratio": ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "ellipsis_line_ratio": ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "punctuated_line_ratio": ratio(sum(line.endswith(tuple(TERMINAL)) for line in full), len(full)),
        "short_line_ratio": ratio(sum(len(line) <= 30 for line in full), len(full)),
        "new_line_ratio": ratio(text.count("\n"), len(found)),
        "duplicate_line_ratio": ratio(duplicates(gopher_lines)[0], len(gopher_lines)),
        "duplicate_line_character_ratio": ratio(duplicates(gopher_lines)[1], len(text)),
        "duplicate_full_line_character_ratio": ratio(duplicates(full)[1], len(text.replace("\n", ""))),
        "duplicate_paragraph_ratio": ratio(duplicates(paragraphs)[0], len(paragraphs)),
        "duplicate_paragraph_character_ratio": ratio(duplicates(paragraphs)[1], len(text)),
        **{f"top_{n}_gram_ratio": ratio(top_ngram_characters(found, n), len(text)) for n in (2, 3, 4)},
        **{f"duplicate_{n}_gram_ratio": ratio(duplicate_ngram_characters(found, n), len(text)) for n in range(5, 11)},
        "few_word_line_ratio": ratio(sum(len(line.split()) < 3 for line in full), len(full)),
        "c4_line_ratio": ratio(sum(c4_keeps(line, language) for line in full), len(full)),
        "policy_line_ratio": ratio(javascript + policy, len(full)),
        "curly_bracket_ratio": ratio(brackets, len(text)),
    }


def paragraphs(text: str, language: str, least: int) -> list[tuple[int, int, list[str]]]:
    """Start, end and words of the lines that have enough words."""
    found, start = [], 0
    for line in text.split("\n"):
        line_words = words(line, language)
        if len(line_words) >= least:
            found.append((start, start + len(line), line_words))
        start += len(line) + 1
    return found


MASK = (1 << 64) - 1
SEQUENCE = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """Finaliser of MurmurHash3."""
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def word_hash(word: str) -> int:
    """FNV-1a over code points, finalised."""
    value = 0xCBF29CE484222325
    for character in word:
        value = (value ^ ord(character)) * 0x100000001B3 & MASK
    return mix(value)


def sequence_hash(items: Sequence[str]) -> int:
    """Polynomial of the hashes of words, finalised."""
    value = 0
    for word in items:
        value = (value * SEQUENCE + word_hash(word)) & MASK
    return mix(value)


def split_mix(count: int) -> list[int]:
    """Random numbers by SplitMix64."""
    state, found = 0x1BE12, []
    for _ in range(count):
        state = state + 0x9E3779B97F4A7C15 & MASK
        value = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        found.append(value ^ value >> 31)
    return found


def band_hashes(items: Sequence[str], bands: int, rows: int) -> list[int]:
    """MinHash bands of the 5-grams of words; of all words where there are fewer."""
    shingles = [sequence_hash(gram) for gram in ngrams(items, 5)] or [sequence_hash(items)]
    drawn = split_mix(2 * bands * rows)
    permutations = [(drawn[i] | 1, drawn[bands * rows + i]) for i in range(bands * rows)]
    minima = [min((shingle * a + b) & MASK for shingle in shingles) for a, b in permutations]
    found = []
    for band in range(bands):
        value = mix(band + 1)
        for minimum in minima[band * rows : (band + 1) * rows]:
            value = mix(value ^ minimum) * SEQUENCE & MASK
        found.append(mix(value))
    return found
