"""What `annotate` measures of texts: statistics for the filters, hashes for duplicates, paragraphs and word n-grams with their places.

Texts are Arrow buffers; no Python string is made. The loops are compiled (`iberlm.curate.measure.loops`) at the first call of each machine and
kept in numba's cache, beside the code or, where that folder cannot be written, in the user's cache folder.

**Tokens.** The published limits (Gopher, FineWeb, FineWeb2) were set with datatrove over spaCy's tokens, of which punctuation marks are
tokens of their own, so shares of tokens count them here too. A token is a word, or a run of one and the same punctuation mark or symbol.

- A *word* is a run of letters, digits and marks (Unicode L, N, M).
- An apostrophe ends an elided word (l'home -> l' home). Enclitics begin with their apostrophe or hyphen (anar-se'n -> anar -se 'n).
- Inside a word stand: a hyphen, a punt volat, `_`, `@`; a full stop, but not between a lower-case and an upper-case letter; a comma,
  colon or slash between digits (3.000,50; 12:30; 1/2). After `://` and `www.` the word goes on to the end of the address.
- In scripts written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) each letter is a word.
- ’ is ', U+2010 and U+2011 are hyphens, U+2027 is the punt volat; format characters (soft hyphen) do not count in comparisons.

Words are hashed in lower case (code point by code point); repetition and stop words compare tokens as written, as datatrove does.
A line ends at a line feed: the extraction has turned all other line ends into it.
"""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.core.languages import LANGUAGES, check_language
from iberlm.curate.measure.characters import characters
from iberlm.curate.measure.words import JAVASCRIPT_PHRASES, LOREM_IPSUM_PHRASES, POLICY_PHRASES, STOP_WORDS

Integers = npt.NDArray[np.int64]
Counts = Mapping[str, Integers]
"""What the loops counted, by name (`loops.COUNTS`), each of shape (documents,)."""

_COUNTED = "characters bytes words tokens sentences lines stop_words longest_word curly_brackets lorem_ipsum javascript_lines policy_lines".split()
_RATIOS: dict[str, tuple[str, str]] = {
    "mean_word_length": ("word_characters", "words"),
    "alpha_word_ratio": ("alpha_tokens", "tokens"),
    "stop_word_ratio": ("stop_word_tokens", "tokens"),
    "hash_ratio": ("hashes", "tokens"),
    "ellipsis_ratio": ("ellipses", "tokens"),
    "bullet_line_ratio": ("bullet_lines", "lines"),
    "ellipsis_line_ratio": ("ellipsis_lines", "lines"),
    "punctuated_line_ratio": ("punctuated_lines", "full_lines"),
    "short_line_ratio": ("short_lines", "full_lines"),
    "new_line_ratio": ("line_feeds", "tokens"),
    "duplicate_line_ratio": ("duplicate_lines", "gopher_lines"),
    "duplicate_line_character_ratio": ("duplicate_line_characters", "characters"),
    "duplicate_full_line_character_ratio": ("duplicate_full_line_characters", "characters_in_lines"),
    "duplicate_paragraph_ratio": ("duplicate_paragraphs", "paragraphs"),
    "duplicate_paragraph_character_ratio": ("duplicate_paragraph_characters", "characters"),
    **{f"top_{n}_gram_ratio": (f"top_{n}", "characters") for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram_ratio": (f"duplicate_{n}", "characters") for n in range(5, 11)},
    "few_word_line_ratio": ("few_word_lines", "full_lines"),
    "c4_line_ratio": ("c4_lines", "full_lines"),
    "policy_line_ratio": ("notice_lines", "full_lines"),
    "curly_bracket_ratio": ("curly_brackets", "characters"),
}
STATISTICS: dict[str, np.dtype[Any]] = {**{name: np.dtype(np.int32) for name in _COUNTED}, **{name: np.dtype(np.float32) for name in _RATIOS}}
"""Names and types of the statistics, in the order of the annotation columns. A share of nothing is 0. Definitions are those of datatrove
0.10.1, by which the published limits were set (filter in brackets), over our tokens:

- `characters` (code points), `bytes` (UTF-8), `tokens`; `words` (GopherQuality: tokens that are no punctuation; here, with a letter, digit
  or mark); `lines` (`str.splitlines`: of a text that ends with a line feed that is the last); `longest_word` (characters without white
  space between); `curly_brackets` ({ and }).
- `sentences`: terminal marks (Unicode Sentence_Terminal) after a word, with closing marks at most before the next white space or the end.
- `stop_words` (GopherQuality: *different* words of the language's list, as written); `stop_word_ratio` (ours): such tokens / tokens.
- `mean_word_length` (GopherQuality): characters of words / words. `alpha_word_ratio` (GopherQuality): tokens with a letter / tokens.
- `hash_ratio`, `ellipsis_ratio` (GopherQuality): number of #, of `...` and … in the text / tokens.
- `bullet_line_ratio` (GopherQuality): lines that begin with • or - after white space / lines. `ellipsis_line_ratio`: that end with `...`
  or … before white space / lines.
- `punctuated_line_ratio` (FineWebQuality): full lines (with more than white space) whose very last character is a terminal mark / full
  lines. `short_line_ratio`: of up to 30 characters / full lines. `new_line_ratio`: line feeds / tokens.
  `duplicate_full_line_character_ratio`: characters of full lines that occurred before / characters that are no line feed (FineWeb2's
  limit of 0.1 is on this one).
- `duplicate_line_ratio` (GopherRepetition): parts between runs of line feeds, blank ones too, that occurred before / parts;
  `duplicate_line_character_ratio`: their characters / characters. `duplicate_paragraph_ratio`, `duplicate_paragraph_character_ratio`: the
  same of parts of the stripped text between runs of two or more line feeds.
- `top_N_gram_ratio` (GopherRepetition): times that the commonest N-gram of tokens occurs (once counts too; the first of several) x its
  characters, tokens joined by spaces / characters. Can exceed 1 in tiny texts.
- `duplicate_N_gram_ratio` (GopherRepetition): characters of the tokens of N-grams that occurred before / characters; the search goes on
  behind a repeated N-gram, and the N-grams that it skips are not held to have occurred. (datatrove compares the N-grams' characters without
  spaces; here the tokens are compared, which differs for 'ab c' and 'a bc'.)
- `few_word_line_ratio`: full lines of fewer than 3 words between white space / full lines. `c4_line_ratio` (C4Quality): full lines that C4
  keeps / full lines: they end with . ? ! " or ' but not `...`, have 3 words or more, none over 1,000 characters, and no phrase of
  `javascript_lines` or `policy_lines` (the citations of Wikipedia, which datatrove removes first, are left in).
- `javascript_lines`, `policy_lines`: lines with one of the phrases of `words.py`; `lorem_ipsum`: 1 if the text has it.
  `policy_line_ratio`: the sum of both / full lines. `curly_bracket_ratio`: curly brackets / characters.

Against spaCy's tokens of 250 documents a language of software documentation (the first 3,000 characters of each): F1 of token boundaries
0.97 (es), 0.95 (ca), 0.98 (eu). What differs: spaCy parts Catalan del, al, pel; it cuts runs of brackets and of some marks one by one,
keeps `--option`, and knows abbreviations with their full stop.
"""


class Measured(NamedTuple):
    """What `measure` returns."""

    statistics: dict[str, npt.NDArray[Any]]
    """`STATISTICS`, each of shape (documents,)."""
    text_hash: npt.NDArray[np.uint64]
    """Hash of the words of each document in lower case and in their order, whatever stands between them; 0 without words. Shape (documents,)."""
    bands: npt.NDArray[np.uint64]
    """Hashes of the bands of the MinHash signature, shape (bands, documents)."""
    paragraph_offsets: Integers
    """First paragraph of each document, and the number of all; shape (documents + 1,)."""
    paragraph_hash: npt.NDArray[np.uint64]
    """Hash of the words of each paragraph, made as `text_hash`; shape (paragraphs,)."""
    paragraph_start: npt.NDArray[np.int32]
    """Code point where the line begins, shape (paragraphs,)."""
    paragraph_end: npt.NDArray[np.int32]
    """Code point of the line feed or end of the text behind it, shape (paragraphs,)."""


class Ngrams(NamedTuple):
    """n-grams of words of documents, one after another."""

    offsets: Integers
    """First n-gram of each document, and the number of all; shape (documents + 1,)."""
    hashes: npt.NDArray[np.uint64]
    """Shape (n-grams,), as the two below."""
    start: npt.NDArray[np.int32]
    """Code point where the first word begins."""
    end: npt.NDArray[np.int32]
    """Code point behind the last word."""


class Matches(NamedTuple):
    """n-grams of words that stand in a table, in the order of the documents and of their places; each of shape (matches,)."""

    row: Integers
    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    hashes: npt.NDArray[np.uint64]


def measure(
    text: pa.LargeStringArray,
    language: npt.NDArray[np.int8],
    *,
    bands: int,
    rows: int,
    paragraph_words: int = 5,
    stop_words: Mapping[str, Collection[str]] = STOP_WORDS,
) -> Measured:
    """Statistics, hashes and paragraphs of documents; a null is measured as an empty text.

    `language`: index in `LANGUAGES` of each document, -1 for another; it decides the stop words, and in Basque hyphens between letters
    part words. `stop_words`: by language, compared as written. `paragraph_words`: lines of fewer words are no paragraphs.

    MinHash (Broder 1997): for each of `bands * rows` permutations x -> a * x + b (mod 2^64; a odd, drawn by SplitMix64) of the 64-bit
    hashes of the 5-grams of words the least; each band is the hash of `rows` of these. Texts of Jaccard similarity s share a band with
    probability 1 - (1 - s^rows)^bands. A text of fewer than five words is one shingle; one without words has its bytes as shingle, so that
    only equal ones meet.

    Raises `TypeError` for another type of text, `ValueError` for lengths or codes that do not fit or a document of 2 GiB, and
    `ConfigError` for stop words of an unknown language. Memory: about 13 times the bytes of the largest document of running text, up to
    45 times where every second character is punctuation.
    """
    from iberlm.curate.measure import loops

    documents = _Documents.of(text)
    _check(documents, language, bands, rows, paragraph_words)
    out = loops.Results(
        counts=np.zeros((len(text), len(loops.COUNTS)), np.int64),
        text_hash=np.empty(len(text), np.uint64),
        bands=np.empty((bands, len(text)), np.uint64),
        paragraph_offsets=np.zeros(len(text) + 1, np.int64),
    )
    phrases = _phrases(tuple((tag, tuple(stop_words[tag])) for tag in stop_words))
    hashes, start, end = loops.measure_documents(
        *documents,
        np.array(language, np.int8),
        LANGUAGES.index("eu"),
        characters(),
        loops.scratch(documents.largest),
        phrases._replace(stop_seen=np.full(len(phrases.stop_hash), -1)),
        (*_permutations(bands * rows), np.empty(bands * rows, np.uint64)),
        paragraph_words,
        out,
    )
    last = out.paragraph_offsets[-1]
    paragraphs = (hashes[:last].copy(), start[:last].copy(), end[:last].copy())
    statistics = _statistics({name: out.counts[:, i] for i, name in enumerate(loops.COUNTS)}, documents)
    return Measured(statistics, out.text_hash, out.bands, out.paragraph_offsets, *paragraphs)


def prepare() -> None:
    """Compile the loops, or load them from numba's cache: once before workers start, as each would compile for itself.

    numba keeps them beside the code or in the user's cache folder; where neither can be written, name one with `NUMBA_CACHE_DIR`.
    """
    text = pa.array(["a"], pa.large_string())
    measure(text, np.zeros(1, np.int8), bands=1, rows=1)
    find_ngrams(text, 1, word_hashes(text).hashes)


def _check(documents: "_Documents", language: npt.NDArray[np.int8], bands: int, rows: int, paragraph_words: int) -> None:
    if len(language) != len(documents.starts):
        raise ValueError(f"{len(documents.starts)} documents, but {len(language)} languages")
    if len(language) and not -1 <= int(language.min()) <= int(language.max()) < len(LANGUAGES):
        raise ValueError(f"languages from {language.min()} to {language.max()}: expected -1 to {len(LANGUAGES) - 1}")
    for name, value in (("bands", bands), ("rows", rows), ("paragraph_words", paragraph_words)):
        if value < 1:
            raise ValueError(f"{name}: {value} is less than 1")


def _statistics(counts: dict[str, Integers], documents: "_Documents") -> dict[str, npt.NDArray[Any]]:
    counts["bytes"] = documents.ends - documents.starts
    counts["characters_in_lines"] = counts["characters"] - counts["line_feeds"]
    counts["notice_lines"] = counts["policy_lines"] + counts["javascript_lines"]
    found: dict[str, npt.NDArray[Any]] = {name: counts[name].astype(np.int32) for name in _COUNTED}
    for name, (part, whole) in _RATIOS.items():
        found[name] = np.divide(counts[part], counts[whole], out=np.zeros(len(counts[part])), where=counts[whole] > 0).astype(np.float32)
    return found


def ngram_hashes(text: pa.LargeStringArray, n: int) -> Ngrams:
    """All n-grams of words of each document, in lower case; a document of fewer words has none. Hyphens part no words in any language."""
    from iberlm.curate.measure import loops

    documents = _Documents.of(text)
    offsets = np.zeros(len(text) + 1, np.int64)
    hashes, start, end = loops.list_ngrams(*documents, characters(), loops.scratch(documents.largest), _at_least_one(n), offsets)
    last = offsets[-1]
    return Ngrams(offsets, hashes[:last].copy(), start[:last].copy(), end[:last].copy())


def word_hashes(text: pa.LargeStringArray) -> Ngrams:
    """The words of each document."""
    return ngram_hashes(text, 1)


def find_ngrams(text: pa.LargeStringArray, n: int, table: npt.NDArray[np.uint64]) -> Matches:
    """The n-grams of words whose hash is in `table` (sorted; made by `ngram_hashes` with the same `n`), and no others held in memory."""
    from iberlm.curate.measure import loops

    documents = _Documents.of(text)
    table = np.ascontiguousarray(table, np.uint64).view()
    table.flags.writeable = False
    if (table[1:] < table[:-1]).any():
        raise ValueError("table: the hashes are not sorted")
    marks = np.zeros(loops.slots_for(max(len(table), 1)) // 4, np.uint64)  # at least 16 bits for each hash
    loops.mark_hashes(table, marks)
    *columns, found = loops.search_ngrams(*documents, characters(), loops.scratch(documents.largest), _at_least_one(n), table, marks)
    return Matches(*(column[:found].copy() for column in columns))


def _at_least_one(n: int) -> int:
    if n < 1:
        raise ValueError(f"n-grams of {n} words: n must be at least 1")
    return n


class _Documents(NamedTuple):
    """Bytes of documents and where each begins and ends in them."""

    data: npt.NDArray[np.uint8]
    starts: Integers
    ends: Integers

    @property
    def largest(self) -> int:
        return int((self.ends - self.starts).max(initial=0))

    @staticmethod
    def of(text: pa.LargeStringArray) -> "_Documents":
        if not isinstance(text, pa.LargeStringArray):
            raise TypeError(f"text is a {type(text).__name__}, expected a LargeStringArray")
        _, offsets, data = text.buffers()
        if offsets is None or not len(text):
            return _Documents(_read_only(np.empty(0, np.uint8)), np.empty(0, np.int64), np.empty(0, np.int64))
        bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        starts, ends = bounds[:-1].copy(), bounds[1:].copy()
        if text.null_count:
            missing = text.is_null().to_numpy(zero_copy_only=False)
            ends[missing] = starts[missing]
        if int((ends - starts).max(initial=0)) >= 1 << 31:
            raise ValueError("a document of 2 GiB or more: places are 32-bit integers")
        return _Documents(_read_only(np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)), starts, ends)


def _read_only(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    array.flags.writeable = False  # one type for the compiler, whatever the buffer
    return array


@cache
def _permutations(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Odd multipliers and additions by SplitMix64 (Steele et al. 2014), which is the same everywhere."""
    state, values = 0x1BE12, []
    for _ in range(2 * count):
        state = (state + 0x9E3779B97F4A7C15) % (1 << 64)
        value = state
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ value >> shift) * factor % (1 << 64)
        values.append(value ^ value >> 31)
    drawn = np.array(values, np.uint64)
    return drawn[:count] | np.uint64(1), drawn[count:].copy()


@cache
def _phrases(stop_words: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """`loops.Phrases` of the lists. A stop word need not be a token by itself: l' is one before a word only."""
    from iberlm.curate.measure import loops

    masks: dict[int, int] = {}
    for tag, words in stop_words:
        documents = _Documents.of(pa.array(words, pa.large_string()))
        for start, end in zip(documents.starts, documents.ends, strict=True):
            written = int(loops.hash_token(documents.data, start, end, characters()))
            masks[written] = masks.get(written, 0) | 1 << LANGUAGES.index(check_language(tag, "stop_words"))
    kinds = ((1, JAVASCRIPT_PHRASES), (2, POLICY_PHRASES), (4, LOREM_IPSUM_PHRASES))
    by_first: dict[int, list[int]] = {}
    for kind, phrases in kinds:
        for first, *more in _word_hashes(phrases):
            by_first.setdefault(first, []).extend((kind, len(more), *more))
    listed: list[int] = []
    places = {}
    for first, entries in by_first.items():
        places[first] = len(listed)
        listed += [*entries, 0]
    stop_hash, languages = _hash_table(masks, np.uint32)
    phrase_hash, first_entry = _hash_table(places, np.int32)
    return loops.Phrases(stop_hash, languages, np.full(len(stop_hash), -1), phrase_hash, first_entry, np.array(listed, np.uint64))


def _hash_table(entries: Mapping[int, int], dtype: type[np.generic]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]:
    """Keys and values in an open hash table, half empty or more; searched from the key's low bits on."""
    slots = 1 << (2 * len(entries) + 2).bit_length()
    keys, values = np.zeros(slots, np.uint64), np.zeros(slots, dtype)
    for key, value in entries.items():
        slot = key % slots
        while keys[slot]:
            slot = (slot + 1) % slots
        keys[slot], values[slot] = key, value
    return keys, values


def _word_hashes(texts: Collection[str]) -> list[list[int]]:
    """Hashes of the words of each text, as the loops compare them: `ngram_hashes` finalises them once more."""
    from iberlm.curate.measure import loops

    found = []
    for text in texts:
        documents = _Documents.of(pa.array([text], pa.large_string()))
        scratch, counts = loops.scratch(documents.largest), np.zeros(len(loops.COUNTS), np.int64)
        loops.tokenize(documents.data, np.int64(0), documents.ends[0], characters(), False, scratch, counts)
        found.append(scratch.word_hash[: counts[loops.WORDS]].tolist())
    return found
