"""Texts to learn languages from: files by pattern in the formats that translations come in, cleaned, without doubles.

A recipe lists sources; each is a path pattern, a format, a domain (named in the model's card) and the languages it has.
The order of files, texts and languages is fixed by the recipe and by names, so that training repeats to the byte.
"""

import html
import json
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import xxhash
import zstandard

from iberlm.core.config import at_least, between, given, one_of
from iberlm.core.errors import ConfigError

_TAG = re.compile(r"<[^<>]{0,200}>|&\w{1,8};")
_ACCELERATOR = re.compile(r"(?<!\w)[&_](?=\w)|(?<=\w)[&_](?=\w)")
_LETTER = re.compile(r"[^\W\d_]")
_PARAGRAPH = re.compile(r"<(p|li|h[1-6]|dd|dt|td)\b[^>]*>(.*?)</\1>", re.DOTALL)
_ENGLISH = frozenset("the of and this with from which are your their been will would should not when then there these than only into".split())
"""Function words of English that none of our languages and their neighbours has."""
PACKAGE = Path(__file__).parent
_PACKAGE = "iberlm:"
"""Paths that begin so are relative to this package: texts that are shipped with it."""
_LEXICON_WORDS = 7
"""Words of a word list that make one text."""


@dataclass(kw_only=True)
class Source:
    """Files of one format. In `path`, relative to the recipe's root, {language} stands for each name of each language."""

    path: str = ""
    format: str = ""
    domain: str = ""
    tags: list[str] = field(default_factory=list)
    """Languages to read; all of the recipe's when empty."""
    importance: float = 1.0
    """Multiplies the step of each of its texts."""
    max_texts: int = 4000
    """Texts taken from one origin in one language, spread over it."""
    max_english_ratio: float = 0.1
    """For `documents`: records whose field en_ratio (share of English lines) is higher are left out."""
    varieties: bool = False
    """Its ca and ca-valencia texts teach the difference of the two as well: only where they are of one kind and rich in marks."""
    background: bool = False
    """Its ca texts show which words Catalan texts do have, whatever pairs of strings say."""
    held_out: bool = True
    """Whether it takes part in what is kept aside to measure."""

    def __post_init__(self) -> None:
        given("sources: path", self.path)
        given(f"{self.path}: domain", self.domain)
        one_of(f"{self.path}: format", self.format, READERS)
        between(f"{self.path}: importance", self.importance, 0, 1000)
        at_least(f"{self.path}: max_texts", self.max_texts, 1)


class Text(NamedTuple):
    """One line or message to learn from."""

    text: str
    tag: str
    origin: str
    """What is held out together: a package, a folder or a file."""
    source: Source


def read_sources(sources: list[Source], languages: dict[str, list[str]], root: Path, min_letters: int) -> list[Text]:
    """Texts of all sources, cleaned; those found in two languages are in neither.

    Raises `ConfigError` when a pattern matches nothing, or a source names a language that the recipe does not.
    """
    found: list[Text] = []
    for source in sources:
        before = len(found)
        for tag in source.tags or languages:
            if tag not in languages:
                raise ConfigError(f"{source.path}: tags: '{tag}' is not among the languages of the recipe: {', '.join(languages)}")
            base = PACKAGE if source.path.startswith(_PACKAGE) else root
            pattern = source.path.removeprefix(_PACKAGE)
            for name in languages[tag] if "{language}" in pattern else [tag]:
                found += _read_language(source, tag, sorted(base.glob(pattern.replace("{language}", name))), base, min_letters)
        if len(found) == before:
            raise ConfigError(f"{source.path}: no text in any language below {root}; check the pattern and the recipe's root")
    return _without_doubles(found)


def _read_language(source: Source, tag: str, paths: list[Path], root: Path, min_letters: int) -> list[Text]:
    by_origin: dict[str, list[str]] = {}
    for path in paths:
        for text, origin in READERS[source.format](path, source):
            cleaned = clean(text)
            if len(_LETTER.findall(cleaned)) >= min_letters and (tag == "en" or not is_english(cleaned)):
                by_origin.setdefault(origin or _origin(path, source, root), []).append(cleaned)
    return [Text(text, tag, origin, source) for origin in sorted(by_origin) for text in spread(list(dict.fromkeys(by_origin[origin])), source.max_texts)]


def _origin(path: Path, source: Source, root: Path) -> str:
    """The folder that the first wildcard of the pattern stands for, or the file's name: `packages/*/locale/...` -> the package."""
    for part, actual in zip(Path(source.path.removeprefix(_PACKAGE)).parts, path.relative_to(root).parts, strict=False):
        if "*" in part:
            return actual
    return path.name


def spread(texts: list[str], most: int) -> list[str]:
    """At most `most` of the texts, those with the lowest hashes, in their order: the same ones whatever else is there."""
    if len(texts) <= most:
        return texts
    limit = sorted(hash_of(text) for text in texts)[most - 1]
    return [text for text in texts if hash_of(text) <= limit]


def hash_of(text: str) -> int:
    """64-bit hash of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def clean(text: str) -> str:
    """NFC, without tags, entities and the marks of keyboard accelerators; white space made plain."""
    text = _ACCELERATOR.sub("", _TAG.sub(" ", unicodedata.normalize("NFC", text)))
    return " ".join(text.split())


def is_english(text: str) -> bool:
    """Whether a text has the function words of English: translations keep lines that nobody has translated."""
    words = text.lower().split()
    english = [word for word in words if word in _ENGLISH]
    return len(set(english)) >= 2 and len(english) >= 0.1 * len(words)


def _without_doubles(texts: list[Text]) -> list[Text]:
    """Leave out a text's second and later occurrences in a language, and all of one that two languages have.

    Catalan and Valencian share texts rightly: their doubles stay in both.
    """
    owners: dict[str, str] = {}
    shared: set[str] = set()
    for text in texts:
        key = text.text.casefold()
        owner = "ca" if text.tag == "ca-valencia" else text.tag
        if owners.setdefault(key, owner) != owner:
            shared.add(key)
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for text in texts:
        key = text.text.casefold()
        seen[key, text.tag] += 1
        if key not in shared and seen[key, text.tag] == 1:
            kept.append(text)
    return kept


def read_documents(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Lines of JSON lines with a field text, plain or zstd; the origin is the first word of the field source."""
    for record in read_jsonl(path):
        if record.get("en_ratio", 0) <= source.max_english_ratio:
            origin = str(record.get("source", "")).split(" ")[0]
            for line in record["text"].split("\n"):
                yield line, origin


def read_jsonl(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    """Records of JSON lines, plain or zstd."""
    with zstandard.open(path, "rt", encoding="utf-8") if path.suffix == ".zst" else path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def read_mo(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Translations of a compiled gettext catalogue that differ from what they translate (GNU gettext manual, 10.3)."""
    data = path.read_bytes()
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    if len(data) < 20 or struct.unpack(order + "I", data[:4])[0] != 0x950412DE:
        raise ConfigError(f"{path}: not a compiled gettext catalogue")
    count, originals, translations = struct.unpack(order + "III", data[8:20])
    for entry in range(count):
        length, start = struct.unpack_from(order + "II", data, originals + 8 * entry)
        original = data[start : start + length]
        length, start = struct.unpack_from(order + "II", data, translations + 8 * entry)
        translation = data[start : start + length]
        if original and original != translation:
            for form in translation.decode("utf-8", "replace").split("\0"):
                yield from ((line, "") for line in form.split("\n"))


def read_po(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Translations of a gettext catalogue in text form; entries marked fuzzy are left out."""
    for block in re.split(r"\n\s*\n", path.read_text("utf-8", "replace")):
        if re.search(r"^#,.*\bfuzzy\b", block, re.MULTILINE) or 'msgid ""\nmsgstr' in block:
            continue
        for match in re.finditer(r'^msgstr(?:\[\d\])? ("(?:[^"\\]|\\.)*"(?:\n"(?:[^"\\]|\\.)*")*)', block, re.MULTILINE):
            parts = re.findall(r'"((?:[^"\\]|\\.)*)"', match[1])
            for line in "".join(parts).replace('\\"', '"').replace("\\t", " ").split("\\n"):
                yield line, ""


def read_messages(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Values of a flat JSON object of messages, as MediaWiki has them; parameters and wiki marks are cut out."""
    for key, value in json.loads(path.read_text("utf-8")).items():
        if isinstance(value, str) and not key.startswith("@"):
            for line in re.sub(r"\{\{[^{}]*\}\}|\[\[[^\[\]|]*\||\[?https?:\S+|[\[\]']{2,}|\$\d", " ", value).split("\n"):
                yield line, ""


def read_html(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Paragraphs, headings, list items and cells of simple HTML."""
    for match in _PARAGRAPH.finditer(path.read_text("utf-8", "replace")):
        yield html.unescape(re.sub(r"<[^<>]*>", " ", match[2])), ""


def read_text(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Lines of a UTF-8 file; those that begin with # are comments."""
    for line in path.read_text("utf-8", "replace").split("\n"):
        if not line.startswith("#"):
            yield line, ""


def read_lexicon(path: Path, source: Source) -> Iterator[tuple[str, str]]:
    """Lower-case words of a Hunspell dictionary, in an order by hash, several a text: vocabulary of all domains."""
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = data.decode("iso8859-15").split("\n")
    words = {line.split("/")[0].split("\t")[0].split(" ")[0].strip() for line in lines[1:]}
    chosen = sorted((word for word in words if len(word) > 2 and word.islower() and word.replace("'", "").isalpha()), key=hash_of)
    for start in range(0, len(chosen), _LEXICON_WORDS):
        yield " ".join(chosen[start : start + _LEXICON_WORDS]), path.name


READERS = {
    "documents": read_documents,
    "mo": read_mo,
    "po": read_po,
    "messages": read_messages,
    "html": read_html,
    "text": read_text,
    "lexicon": read_lexicon,
}
"""Reader of each format: (path, source) to pairs of a text and its origin ("" for the one by path)."""
