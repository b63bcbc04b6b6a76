"""Items and scores of fidelity_*.yaml: does the model answer in the language in which it is asked?

The answers are read by IberLM's language identifier, so this family needs IberLM installed; it is imported when the first answer
is scored, not when the task is listed or loaded.

An answer is faithful when it is surely in the language asked. Where the identifier is not sure (an answer of few words, one word
again and again, code, a mixture of languages) the answer is not faithful. Catalan and Valencian are told apart as far as marks
go: an answer without marks of either variety is faithful to both.
"""

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset

EVAL = Path(__file__).resolve().parents[1]
SPLIT = "test"
SURE = 0.6
"""Score of the identifier from which on an answer's language is believed."""
MIN_WORDS = 4
"""Different words that an answer must have to be in any language."""
SURE_SENTENCE = 0.9
"""Score from which on a sentence in another language than the one asked is an intrusion."""
MIN_LETTERS = 20
"""Letters of a sentence from which on it is looked at: shorter ones are names, titles and greetings."""
INTRUDERS = {
    "es": ("en",),
    "ca": ("es", "en"),
    "ca-valencia": ("es", "en", "central"),
    "eu": ("es", "en"),
    "gl": ("es", "pt", "en"),
}
"""What is looked for in the answers of each language: other languages, and for Valencian the Central variety."""

_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"»”')\]]*\s+|\n+")


def prompts(language: str, **_: Any) -> dict[str, Dataset]:
    """Prompts in the language: id, kind, prompt, language (asked)."""
    path = EVAL / language.replace("-", "_") / "fidelity.jsonl"
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {SPLIT: Dataset.from_list([row | {"language": language} for row in rows])}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The metrics of one answer: `fidelity`, `empty` and an `intrusion_X` for each of the language's intruders.

    `fidelity` and `empty` are 0 or 1. An answer without a letter is empty, and not faithful. `intrusion_X` is the share of the answer's
    sentences of at least `MIN_LETTERS` letters that are in X; 0 where there are none.
    """
    answer, asked = results[0], doc["language"]
    empty = not _WORD.search(answer)
    sentences = [] if empty else split_sentences(answer)
    found = {f"intrusion_{intruder}": 0.0 for intruder in INTRUDERS[asked]}
    for intruder in _intrusions(sentences, asked):
        found[f"intrusion_{intruder}"] += 1 / len(sentences)
    return {"fidelity": float(not empty and is_faithful(answer, asked)), "empty": float(empty)} | found


def is_faithful(answer: str, asked: str) -> bool:
    """Whether an answer is surely in the language asked, and of Catalan not in the other variety."""
    from iberlm.curate.langid import identify

    if len({word.casefold() for word in _WORD.findall(answer)}) < MIN_WORDS:
        return False
    ((language, sure),) = identify([answer])
    if sure < SURE:
        return False
    if asked in ("ca", "ca-valencia"):
        other = "valencian" if asked == "ca" else "central"
        return language in ("ca", "ca-valencia") and _varieties([answer]) != [other]
    return language == asked


def split_sentences(text: str) -> list[str]:
    """Sentences and lines of a text that have at least `MIN_LETTERS` letters; the last may be cut short."""
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if sum(map(str.isalpha, part)) >= MIN_LETTERS]


def _intrusions(sentences: list[str], asked: str) -> list[str]:
    """The intruder in each sentence that has one."""
    from iberlm.curate.langid import identify

    if not sentences:
        return []
    found = [language for language, sure in identify(sentences) if sure >= SURE_SENTENCE]
    intruders = [language for language in found if language != asked and language in INTRUDERS[asked]]
    if "central" in INTRUDERS[asked]:
        intruders += [variety for variety in _varieties(sentences) if variety == "central"]
    return intruders


def _varieties(texts: list[str]) -> list[str | None]:
    """`valencian`, `central` or `undetermined` of each text in Catalan, None of others."""
    import pyarrow as pa
    from iberlm.curate.langid import identify_documents

    return identify_documents(pa.array(texts, pa.large_string()), [None] * len(texts), characters=100_000).variety
