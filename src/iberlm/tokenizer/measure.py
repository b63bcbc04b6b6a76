"""What a tokenizer costs each language, and how healthy its vocabulary is.

A word is a maximal run of characters that are not white space. Tokens a word (fertility; Rust et al. 2021, arXiv 2012.15613) are the tokens
of a text over its words, bytes a token its UTF-8 bytes over its tokens. Neither BOS nor EOS is counted anywhere. Numbers are rounded to
four decimals; the same tokenizer and texts give the same numbers.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.core.documents import read_batches
from iberlm.core.errors import DataError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language, file_safe, from_file_safe
from iberlm.tokenizer import probes
from iberlm.tokenizer.health import piece_health
from iberlm.tokenizer.health import usage as usage  # what `counts` of `measure_tokenizer` is made with
from iberlm.tokenizer.load import LoadedTokenizer

EMBEDDED_PARALLEL = Path(str(files("iberlm.tokenizer"))) / "parallel"
EMBEDDED = "embedded"
"""Source of the parallel text that comes with IberLM."""
ENGLISH = "en"
_BATCH = 256
_WORDS_BATCH = 20_000
_DIGIT = re.compile(r"\d")


class ParallelText(dict[str, list[str]]):
    """Lines by language tag: line i of every language says the same."""

    def __init__(self, lines: Mapping[str, list[str]], source: str) -> None:
        super().__init__(lines)
        self.source = source
        """`embedded`, or the folder that it was read from."""


def gini(costs: Mapping[str, float]) -> float:
    """Gini coefficient of the costs c of n languages: sum over i, j of |c_i - c_j| / (2 n^2 mean(c)).

    0 when all pay the same, (n - 1) / n when one pays everything. Used for tokenizers by Foroutan et al. 2025 (arXiv 2508.04796).
    """
    values = np.asarray(list(costs.values()), np.float64)
    if not len(values) or not values.any():
        return 0.0
    return float(np.abs(values[:, None] - values[None, :]).sum() / (2 * len(values) * values.sum()))


def read_parallel(folder: Path | None) -> ParallelText:
    """Read `TAG.txt` files (file-safe tags, such as ca_valencia.txt) whose lines say the same; None is the text that comes with IberLM.

    Lines are brought into NFC; lines at the end that are empty do not count. Raises `ConfigError` for a file named after no language, and
    `DataError` when there are fewer than two files, when they differ in length, or when a line is empty in one of them.
    """
    place = EMBEDDED_PARALLEL if folder is None else folder
    if not place.is_dir():
        raise DataError(f"{place}: there is no such folder; parallel text is a folder of files such as es.txt and ca_valencia.txt")
    lines: dict[str, list[str]] = {}
    for path in sorted(place.glob("*.txt")):
        tag = check_language(from_file_safe(path.stem), str(path), among=LANGUAGES + NEIGHBOURS)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            raise DataError(f"{path}: cannot be read as UTF-8 ({error})") from error
        lines[tag] = [unicodedata.normalize("NFC", line.strip()) for line in text.rstrip().split("\n")]
    _check_parallel(place, lines)
    order = [*(tag for tag in (*LANGUAGES, *NEIGHBOURS) if tag in lines)]
    return ParallelText({tag: lines[tag] for tag in order}, EMBEDDED if folder is None else str(folder))


def _check_parallel(folder: Path, lines: Mapping[str, list[str]]) -> None:
    if len(lines) < 2:
        raise DataError(f"{folder}: {len(lines)} files of parallel text, and a comparison needs two; name them after their languages: es.txt, ca_valencia.txt")
    if len({len(own) for own in lines.values()}) > 1:
        counted = ", ".join(f"{file_safe(tag)}.txt {len(own)}" for tag, own in lines.items())
        raise DataError(f"{folder}: the files differ in their number of lines ({counted}); line 1 of each must say the same, line 2 too, and so on")
    for tag, own in lines.items():
        if "" in own:
            raise DataError(f"{folder / file_safe(tag)}.txt:{own.index('') + 1}: an empty line; every language must say the same on each line")


def parallel_cost(tokenizer: LoadedTokenizer, parallel: Mapping[str, list[str]], languages: Iterable[str]) -> dict[str, Any]:
    """What the same content costs: each line is encoded by itself, and its line end is not counted.

    Returns {"source", "sentences", "tokens": {tag: n}, "tokens_per_word": {tag: x}, "bytes_per_token": {tag: x}, "whole_words": {tag: x},
    "languages": those compared, "missing": those without parallel text, "gini", "ratio": most tokens over fewest}. `gini` and `ratio` are
    over `languages`, as far as the parallel text has them, and None when it has fewer than two; the other tags are measured beside.
    """
    wanted = list(languages)
    compared = [tag for tag in wanted if tag in parallel]
    tokens, fits = {}, {}
    for tag, lines in parallel.items():
        fit = Fit(tokenizer)
        fit.add(lines)
        tokens[tag], fits[tag] = fit.tokens, fit.result()
    costs = {tag: tokens[tag] for tag in compared}
    enough = len(costs) > 1
    numbers = {key: {tag: fit[key] for tag, fit in fits.items() if key in fit} for key in ("tokens_per_word", "bytes_per_token", "whole_words")}
    return {
        "source": parallel.source if isinstance(parallel, ParallelText) else "given",
        "sentences": max((len(lines) for lines in parallel.values()), default=0),
        "tokens": tokens,
        **numbers,
        "languages": compared,
        "missing": [tag for tag in wanted if tag not in parallel],
        "gini": round(gini(costs), 4) if enough else None,
        "ratio": round(max(costs.values()) / min(costs.values()), 4) if enough and min(costs.values()) else None,
    }


class Fit:
    """Adds up how a tokenizer fits the texts it is shown."""

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words: Counter[str] = Counter()
        self.tokens = self.words = self.bytes = self.documents = 0

    def add(self, texts: Sequence[str]) -> None:
        """Measure texts."""
        self.tokens += sum(map(len, self._tokenizer.encode(texts)))
        for text in texts:
            words = text.split()
            self.words += len(words)
            self._words.update(words)
            self.bytes += len(text.encode())
        self.documents += len(texts)

    def result(self) -> dict[str, Any]:
        """See `measure_documents`."""
        if not self.words or not self.tokens:
            return {}
        result = {"tokens_per_word": round(self.tokens / self.words, 4), "bytes_per_token": round(self.bytes / self.tokens, 4)}
        if (whole := whole_words(self._tokenizer, self._words)) is not None:
            result["whole_words"] = round(whole, 4)
        return result | {"documents": self.documents}


def measure_documents(tokenizer: LoadedTokenizer, paths: list[Path], max_bytes: int) -> dict[str, Any]:
    """Measure documents files from their beginning, until `max_bytes` UTF-8 bytes have been read.

    Returns {"tokens_per_word", "bytes_per_token", "whole_words" (see `whole_words`; absent without letters), "documents"}; {} when there
    is no word.
    """
    fit = Fit(tokenizer)
    for texts in first_texts(paths, max_bytes):
        fit.add(texts)
    return fit.result()


def measure_texts(tokenizer: LoadedTokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """As `measure_documents`, of texts at hand."""
    fit = Fit(tokenizer)
    for start in range(0, len(texts), _BATCH):
        fit.add(texts[start : start + _BATCH])
    return fit.result()


def first_texts(paths: list[Path], max_bytes: int) -> Iterator[list[str]]:
    """Texts of documents files from their beginning, some at a time, until `max_bytes` UTF-8 bytes have been given."""
    size = 0
    for path in paths:
        for batch in read_batches(path, ["text"], batch_rows=_BATCH):
            if size >= max_bytes:
                return
            texts = batch["text"].to_pylist()
            size += sum(len(text.encode()) for text in texts)
            yield texts


def whole_words(tokenizer: LoadedTokenizer, words: Mapping[str, int]) -> float | None:
    """Share of the words that are a single token, with the space before them and without the punctuation around them.

    Words without a letter (numbers, dashes) are left out; None when there are no others. `words` counts each word.
    """
    plain: Counter[str] = Counter()
    for word, count in words.items():
        stripped = _stripped(word)
        if any(character.isalpha() for character in stripped):
            plain[stripped] += count
    if not plain:
        return None
    space = _space(tokenizer)
    whole = sum(count for (_, count), ids in _encoded(tokenizer, [(space + word, count) for word, count in plain.items()]) if len(ids) == 1)
    return whole / plain.total()


def _stripped(word: str) -> str:
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]


def _space(tokenizer: LoadedTokenizer) -> str:
    """What must be put before a word so that it is encoded as in the middle of a text: nothing where the tokenizer itself puts a space."""
    (ids,) = tokenizer.encode(["a"])
    return "" if ids and (tokenizer.piece(ids[0]) or b"").startswith(b" ") else " "


def _encoded(tokenizer: LoadedTokenizer, words: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], list[int]]]:
    for start in range(0, len(words), _WORDS_BATCH):
        batch = words[start : start + _WORDS_BATCH]
        yield from zip(batch, tokenizer.encode([word for word, _ in batch]), strict=True)


def measure_probes(tokenizer: LoadedTokenizer) -> dict[str, Any]:
    """What averages hide: how digits, l·l, elided words, code and English are cut. The texts are those of `probes`, as in the middle of a text.

    Returns {"digits": {"digits_per_token", "single": whether no token holds two digits}, "punt_volat" and "elision": {"tokens_per_word"},
    "code": {"bytes_per_token"}, "english": {"tokens_per_word", "bytes_per_token"} (of the English lines of the embedded parallel text)}.
    """
    space = _space(tokenizer)
    english = measure_texts(tokenizer, read_parallel(None).get(ENGLISH, []))
    return {
        "digits": _digits(tokenizer, [space + text for text in probes.DIGITS]),
        "punt_volat": {"tokens_per_word": measure_texts(tokenizer, [space + text for text in probes.PUNT_VOLAT]).get("tokens_per_word")},
        "elision": {"tokens_per_word": measure_texts(tokenizer, [space + text for text in probes.ELISION]).get("tokens_per_word")},
        "code": {"bytes_per_token": measure_texts(tokenizer, probes.CODE).get("bytes_per_token")},
        "english": {key: english[key] for key in ("tokens_per_word", "bytes_per_token") if key in english},
    }


def _digits(tokenizer: LoadedTokenizer, texts: Sequence[str]) -> dict[str, Any]:
    held = [len(_DIGIT.findall((tokenizer.piece(index) or b"").decode("utf-8", "replace"))) for ids in tokenizer.encode(texts) for index in ids]
    with_digits = [digits for digits in held if digits]
    if not with_digits:  # no token holds a digit: they are unknown to it
        return {"digits_per_token": None, "single": None}
    return {"digits_per_token": round(sum(with_digits) / len(with_digits), 4), "single": max(with_digits) == 1}


def measure_tokenizer(
    tokenizer: LoadedTokenizer,
    *,
    languages: Sequence[str],
    validation: Mapping[str, list[Path]],
    max_bytes: int,
    parallel: Mapping[str, list[str]],
    counts: npt.NDArray[np.int64] | None,
    first_id: int = 0,
) -> dict[str, Any]:
    """All numbers of a tokenizer: {"vocabulary_size", "languages": {tag: `measure_documents`}, "parallel", "probes", "pieces"}.

    `languages` are those it is for: cost is compared between them. `validation`: documents files by tag, of which `max_bytes` are read
    each; tags without a word are left out. `counts`: `usage` on the training sample, int64[vocabulary_size], None when unknown. `first_id`:
    the first id that was trained here, see `piece_health`.
    """
    measured = {tag: fit for tag, paths in validation.items() if (fit := measure_documents(tokenizer, paths, max_bytes))}
    return {
        "vocabulary_size": tokenizer.vocabulary_size,
        "languages": measured,
        "parallel": parallel_cost(tokenizer, parallel, languages),
        "probes": measure_probes(tokenizer),
        "pieces": piece_health(tokenizer, counts, first_id=first_id),
    }
