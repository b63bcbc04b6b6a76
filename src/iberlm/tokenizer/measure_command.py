"""`iberlm measure-tokenizer`: any number of tokenizers side by side, on the same texts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import disk_errors, write_json, write_text
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language
from iberlm.core.manifest import read_manifest
from iberlm.core.progress import say
from iberlm.tokenizer.corpus import VALIDATION, split_files
from iberlm.tokenizer.gates import round_trip
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizers
from iberlm.tokenizer.measure import EMBEDDED, ParallelText, measure_texts, measure_tokenizer, read_parallel

MEASURED_BYTES = 5_000_000
"""UTF-8 bytes of validation documents that are read of each language: as the stage does by default."""
_TEXT_CHARACTERS = 100_000
"""A text file is encoded in parts of about this length, cut at line ends, so that memory stays small."""
FIT = (("tokens_per_word", "tokens a word", 3), ("bytes_per_token", "bytes a token", 2), ("whole_words", "share of words that are one token", 3))


def measure_command(tokenizers: list[Path], *, documents: Path | None, parallel: Path | None, texts: list[str], out: Path | None) -> int:
    """Measure tokenizers and print tables; with `out`, write measure.json and measure.html there. Returns the exit status.

    `documents`: folder of a curate stage, whose validation documents are measured. `parallel`: folder of parallel text, None for the one that
    comes with IberLM. `texts`: 'LANG=FILE' each. What is wrong in any of them is raised before anything is measured.
    """
    own = read_texts(texts)
    lines = read_parallel(parallel)
    validation = _validation(documents) if documents else {}
    loaded = load_tokenizers(tokenizers)
    measured = {}
    for tokenizer in loaded:
        say(f"measure-tokenizer: {tokenizer.name} ({tokenizer.kind}, {tokenizer.vocabulary_size:,} ids)")
        measured[tokenizer.name] = _measured(tokenizer, lines, validation, own)
    print("\n".join(table_lines(measured)))
    if out is not None:
        from iberlm.tokenizer.measure_page import page  # jinja is needed by nothing else here

        with disk_errors(out):
            write_json(out / "measure.json", measured)
            write_text(out / "measure.html", page(measured))
        print(f"\nlook at {out / 'measure.html'}")
    return 0


def read_texts(texts: Iterable[str]) -> dict[str, list[str]]:
    """Texts by language from 'LANG=FILE' arguments; files of one language are put together.

    Raises `ConfigError` for an argument of another form and an unknown language, `DataError` for a file that is not UTF-8 or has no word.
    """
    found: dict[str, list[str]] = {}
    for argument in texts:
        tag, equals, name = argument.partition("=")
        if not equals or not name:
            raise ConfigError(f"measure-tokenizer --text: '{argument}' is not LANG=FILE, such as es=novel.txt")
        check_language(tag, "measure-tokenizer --text", among=LANGUAGES + NEIGHBOURS)
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: is not UTF-8 ({error})") from error
        except OSError as error:
            raise ConfigError(f"measure-tokenizer --text: {name}: cannot be read ({error.strerror})") from error
        if not text.strip():
            raise DataError(f"{name}: has no word")
        found.setdefault(tag, []).extend(_parts(text))
    return {tag: found[tag] for tag in (*LANGUAGES, *NEIGHBOURS) if tag in found}


def _parts(text: str) -> list[str]:
    parts, start = [], 0
    while start < len(text):
        end = text.find("\n", start + _TEXT_CHARACTERS) + 1 or len(text)
        parts.append(text[start:end])
        start = end
    return parts


def _validation(folder: Path) -> dict[str, list[Path]]:
    curated = read_manifest(folder)
    if not (found := split_files(curated, VALIDATION)):
        raise DataError(f"{folder}: has no validation documents; give the folder of a curate stage (this is '{curated.stage}')")
    return found


def _measured(tokenizer: LoadedTokenizer, parallel: ParallelText, validation: Mapping[str, list[Path]], own: Mapping[str, list[str]]) -> dict[str, Any]:
    compared = [tag for tag in LANGUAGES if tag in parallel] or list(parallel)
    result = measure_tokenizer(tokenizer, languages=compared, validation=validation, max_bytes=MEASURED_BYTES, parallel=parallel, counts=None)
    every = [text for texts in (*parallel.values(), *own.values()) for text in texts]
    return {
        "path": str(tokenizer.path),
        "kind": tokenizer.kind,
        **result,
        "texts": {tag: fit for tag, texts in own.items() if (fit := measure_texts(tokenizer, texts))},
        "round_trip": round_trip(tokenizer, every),
    }


def content(measured: Mapping[str, Any]) -> str:
    """What the parallel text is, in words."""
    found = next(iter(measured.values()))["parallel"]
    source = "that come with IberLM" if found["source"] == EMBEDDED else f"of {found['source']}"
    return f"{found['sentences']:,} lines {source}, which say the same in each language"


def costs(found: Mapping[str, Any]) -> dict[str, float]:
    """Tokens of the parallel text over those of the cheapest of the languages compared, by tag."""
    tokens = found["parallel"]["tokens"]
    least = min((tokens[tag] for tag in found["parallel"]["languages"]), default=0)
    return {tag: count / least for tag, count in tokens.items()} if least else {}


def sets(measured: Mapping[str, Any]) -> list[tuple[str, dict[str, dict[str, dict[str, Any]]]]]:
    """The sets of texts that were measured: (title, {tokenizer: {tag: numbers}}), without those that nobody asked for."""

    def turned(parallel: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return {tag: {key: parallel[key][tag] for key, _, _ in FIT if tag in parallel[key]} for tag in parallel["tokens"]}

    found = [
        (content(measured), {name: turned(one["parallel"]) for name, one in measured.items()}),
        ("validation documents", {name: one["languages"] for name, one in measured.items()}),
        ("own text", {name: one["texts"] for name, one in measured.items()}),
    ]
    return [(title, by_name) for title, by_name in found if any(by_name.values())]


Cells = list[str]


def table_lines(measured: Mapping[str, Any]) -> list[str]:
    """The tables for the terminal: a row a tokenizer, a column a language; one table each quantity and set of texts."""
    lines: list[str] = []
    for title, by_name in sets(measured):
        tags = list(dict.fromkeys(tag for by_tag in by_name.values() for tag in by_tag))
        lines += [f"== {title}", ""]
        for key, words, digits in FIT:
            rows = [(name, [number(by_tag.get(tag, {}).get(key), digits) for tag in tags]) for name, by_tag in by_name.items()]
            lines += [*_table(words, tags, rows), ""]
        if title == content(measured):
            lines += [*_cost_table(measured, tags), ""]
    return [*lines, "== how it cuts what averages hide", "", *_probe_table(measured), "", "== vocabularies", "", *_piece_table(measured)]


def _cost_table(measured: Mapping[str, Any], tags: Sequence[str]) -> list[str]:
    rows = []
    for name, found in measured.items():
        parallel, relative = found["parallel"], costs(found)
        tokens = sum(parallel["tokens"][tag] for tag in parallel["languages"])
        cells = [number(relative.get(tag), 3) for tag in tags]
        rows.append((name, [*cells, f"{tokens:,}", number(parallel["ratio"], 3), number(parallel["gini"], 4)]))
    compared = ", ".join(next(iter(measured.values()))["parallel"]["languages"])
    head = [*tags, "all", "most/least", "Gini"]
    return [*_table("tokens, the cheapest = 1", head, rows), f"all, most/least and Gini: of {compared}"]


def probe_rows(measured: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, Cells]]]:
    """Heads of the columns and a row a tokenizer, of the probes."""
    heads = ["digits a token", "l\u00b7l: tokens a word", "elision: tokens a word", "code: bytes a token", "English: tokens a word"]
    keys = ("digits.digits_per_token", "punt_volat.tokens_per_word", "elision.tokens_per_word", "code.bytes_per_token", "english.tokens_per_word")
    groups = [key.split(".") for key in keys]
    rows = [(name, [number(found["probes"][group].get(key), 2) for group, key in groups]) for name, found in measured.items()]
    return heads, rows


def piece_rows(measured: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, Cells]]]:
    """Heads of the columns and a row a tokenizer, of the vocabularies."""
    heads = ["ids", "learnt pieces", "unreachable", "missing bytes", "texts not given back"]
    rows = []
    for name, found in measured.items():
        pieces, trip = found["pieces"], found["round_trip"]
        counted = (found["vocabulary_size"], pieces["trained"], pieces["unreachable"], len(pieces["missing_bytes"]))
        rows.append((name, [*(f"{number:,}" for number in counted), f"{trip['failed']:,} of {trip['texts']:,}"]))
    return heads, rows


def _probe_table(measured: Mapping[str, Any]) -> list[str]:
    return _table("", *probe_rows(measured))


def _piece_table(measured: Mapping[str, Any]) -> list[str]:
    lines = _table("", *piece_rows(measured))
    return lines + [f"{name}: {found['round_trip']['example']}" for name, found in measured.items() if found["round_trip"]["example"]]


def number(value: float | None, digits: int) -> str:
    """A number with its decimals, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Cells]]) -> list[str]:
    first = max(len(title), *(len(name) for name, _ in rows))
    widths = [max(len(head), *(len(cells[column]) for _, cells in rows)) + 2 for column, head in enumerate(heads)]
    lines = [f"{title:<{first}}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    return lines + [f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) for name, cells in rows]
