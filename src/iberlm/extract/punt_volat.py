"""The punt volat of Catalan: `col.legi`, `col-legi`, `col•legi` and `coŀlegi` become `col·legi`, in words that are known to have it.

The words are in `punt_volat.txt`: a line for each beginning up to the first l, then the ways in which what follows the point may begin (three
letters behind the l, or fewer where the word ends there, marked by a full stop). They are facts gathered from the forms of the Catalan
spelling dictionary of Softcatalà (hunspell-ca 3.0.7; general and Valencian), as its own header tells. To gather them again:

    python -m iberlm.extract.punt_volat ca.dic ca.aff ca_ES-valencia.dic ca_ES-valencia.aff
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

POINTS = ".•∙‧⋅・･-"
"""What stands for the point, but for U+0140 and U+013F, which are a letter with it."""
CANDIDATE = re.compile(r"[.•∙‧⋅・･ŀĿ-](?=[lL])(?:(?<=[lL].)|(?<=[ŀĿ]))")
_WORD = re.compile(r"[^\W\d_]+(?:(?:(?<=[lL])[.•∙‧⋅・･·-](?=[lL])|(?<=[ŀĿ])(?=[lL]))[^\W\d_]+)+")
_TO_POINT = str.maketrans(dict.fromkeys(POINTS, "·"))
_LETTERS = 4
"""Letters kept of what follows the point, its l among them."""
_CLITICS = frozenset({"la", "les", "li", "lo", "los"})
_WINDOW = 200
"""Characters to either side that are looked at for the rest of an address."""
_NO_TEXT = re.compile(r"://|@|www\.|[/\\_=]|[?&#]\w", re.IGNORECASE)
"""What a word in running text does not have in it: then it is an address, a path or a name in a program."""


@cache
def _lexicon() -> dict[str, frozenset[str]]:
    """What may follow the point, by what stands before it."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    entries = (line.split() for line in lines if line and not line.startswith("#"))
    return {left: frozenset(rights) for left, *rights in entries}


def is_known(word: str) -> bool:
    """Whether a word in small letters, written with `l·l`, is one of the lexicon."""
    pieces = word.split("·")
    return len(pieces) > 1 and all(_beginning(pieces[number]) in _lexicon().get("·".join(pieces[:number]), ()) for number in range(1, len(pieces)))


def _beginning(right: str) -> str:
    """The key of what follows a point; a word that ends before its fourth letter is marked as ended."""
    return right[:_LETTERS] if len(right) >= _LETTERS else f"{right}."


def repair(text: str) -> str:
    """The text with `l·l` in all known words. Addresses and paths are left as they are."""
    parts, done = [], 0
    for candidate in CANDIDATE.finditer(text):
        if candidate.start() < done:
            continue  # a second point of the same word
        start, end = candidate.span()
        while start > done and candidate.start() - start < _WINDOW and (text[start - 1].isalpha() or text[start - 1] in POINTS):
            start -= 1
        while end < len(text) and end - candidate.end() < _WINDOW and (text[end].isalpha() or text[end] in POINTS):
            end += 1
        for word in _WORD.finditer(text, start, end):
            parts += [text[done : word.start()], _repaired(word)]
            done = word.end()
    return "".join(parts) + text[done:] if parts else text


def _repaired(found: "re.Match[str]") -> str:
    word = found.group()
    pointed = word.replace("ŀ", "l·").replace("Ŀ", "L·").translate(_TO_POINT)
    if pointed == word or not is_known(pointed.lower()) or _in_address(found):
        return word
    left, _, right = pointed.lower().partition("·")
    if "-" in word and right in _CLITICS and len(left) <= 3:
        return word  # mol-la: grind it
    return pointed


def _in_address(found: "re.Match[str]") -> bool:
    """Whether the word is part of something between spaces that is no word: https://col.legi.cat, info@col.legi.cat, /el-col-legi."""
    start, end = found.span()
    before = re.split(r"\s", found.string[max(start - _WINDOW, 0) : start])[-1]
    after = re.split(r"\s", found.string[end : end + _WINDOW], maxsplit=1)[0]
    return _NO_TEXT.search(f"{before} {after}") is not None or before.endswith(".") or re.match(r"\.\w", after) is not None


def derive(dictionaries: Iterable[tuple[Path, Path]]) -> Iterator[str]:
    """Lines of the lexicon out of the words and suffix rules of hunspell dictionaries (.dic and .aff with two-character flags)."""
    rights: dict[str, set[str]] = defaultdict(set)
    for words, affixes in dictionaries:
        suffixes = _suffixes(affixes)
        for line in words.read_text(encoding="utf-8").splitlines()[1:]:
            word, _, flags = line.strip().lower().partition("/")
            if "l·l" not in word:
                continue
            flags = line.strip().partition("/")[2]
            forms = {word}
            for flag in (flags[at : at + 2] for at in range(0, len(flags), 2)):
                forms |= {word[: len(word) - len(cut)] + end for cut, end, fits in suffixes.get(flag, ()) if word.endswith(cut) and fits.search(word)}
            for part in (part for form in forms for part in re.split(r"[-' ]", form)):
                pieces = part.split("·")
                for number in range(1, len(pieces)):
                    rights["·".join(pieces[:number])].add(_beginning(pieces[number]))
    for left in sorted(rights):
        yield f"{left} {' '.join(sorted(rights[left]))}"


def _suffixes(affixes: Path) -> dict[str, list[tuple[str, str, re.Pattern[str]]]]:
    """(what is cut, what is put on, condition) by flag."""
    rules: dict[str, list[tuple[str, str, re.Pattern[str]]]] = defaultdict(list)
    for line in affixes.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0] == "SFX":
            cut, end = ("" if value == "0" else value for value in (fields[2], fields[3].partition("/")[0]))
            rules[fields[1]].append((cut, end, re.compile(fields[4] + "$")))
    return rules


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[1:]]
    print("\n".join(derive(zip(paths[::2], paths[1::2], strict=True))))
