"""Items and scores of fidelity_*.yaml: does the model answer in the language in which it is asked?

The answers are read by IberLM's language identifier, so this family needs IberLM installed; it is imported when the first answer
is scored, not when the task is listed or loaded.

An answer is faithful when it is surely in the language asked. Where the identifier is not sure (an answer of few words, one word
again and again, code, a mixture of languages) the answer is not faithful. Catalan and Valencian are told apart by the
forms in which they differ: an answer without any is faithful to both.
"""

import json
import re
from pathlib import Path
from typing import Any

from datasets import Dataset

EVAL = Path(__file__).resolve().parents[1]
SPLIT = "test"
SURE = 0.9
"""Score of the identifier from which on a language is believed, of an answer and of a sentence. Texts of 150 characters mostly have it; a toy
model's scraps of words do not."""
MIN_WORDS = 4
"""Different words that an answer must have to be in any language."""
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

_REGULAR = "acab agaf ajud arrib baix busc cant començ compr convid crid deix deman dormi don entr escolt esper estim estudi guany intent mir necessit"
_REGULAR += " parl pass pens port pos pregunt prepar record regal sembl sent sop toc torn treball trob utilitz viatj"
CENTRAL = re.compile(
    r"\b(?:"
    r"[mts]ev(?:a|es)"  # possessives: meua, teua, seua
    r"|avui|gairebé|(?:di)?vuit(?:anta|cents|centes|è|ena)?|disset|dinou"  # hui, quasi, huit, dèsset, dènou
    r"|nen(?:a|s|es)?|noi(?:a|s|es)?|av(?:i|is|ia)|àvi(?:a|es)"  # xiquet, xic, iaio
    r"|surt(?:o|i|in|is|en|es)?|sort(?:im|iu|ir|it|int|irem|irà|iran|iré|ia|ien|íem)"  # eixir
    r"|tre(?:u|uen|ure|ient|ies|ia|ien)|ne(?:ix|ixen|ixer|ixent)|néixer"  # traure, nàixer
    r"|aquí|enrere|endavant|aviat|sota|petit(?:a|s|es)?"  # ací, arrere, avant, prompte, davall, menut
    r"|\w+eix(?:o|i|in|is)|\w+(?:gui|guin|guis)|(?:hag|fac|vag|veg)(?:i|in|is)|sàpig(?:a|uen|ues)"  # subjunctives in -i; llegeixo
    r"|\w+(?:éssim|éssiu|essin|essis|guessin)|(?!portu|bur)\w+gués|fos|fossin|anés"  # -ara, -era, -ira
    r"|(?-i:(?!perquè\b|què\b)[a-zà-ÿ]\w*(?:è|ès|èn)|\w+èixer)"  # cinqué, francés, depén, conéixer; not the names Mercè, Agnès
    rf"|(?:{'|'.join(_REGULAR.split())})(?:o|i|in|is)"  # parle, parlen
    r")\b",
    re.IGNORECASE,
)
"""Forms of Central Catalan in the place of which Valencian texts have others. Some of them the Valencian standard admits too."""
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
        return language in ("ca", "ca-valencia") and _keeps_variety(answer, asked)
    return language == asked


def split_sentences(text: str) -> list[str]:
    """Sentences and lines of a text that have at least `MIN_LETTERS` letters; the last may be cut short."""
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if sum(map(str.isalpha, part)) >= MIN_LETTERS]


def _intrusions(sentences: list[str], asked: str) -> list[str]:
    """The intruder in each sentence that has one."""
    from iberlm.curate.langid import identify

    intruders = []
    for sentence, (language, sure) in zip(sentences, identify(sentences), strict=True):
        if language in INTRUDERS[asked] and sure >= SURE:
            intruders.append(language)
        elif language in ("ca", "ca-valencia") and "central" in INTRUDERS[asked] and CENTRAL.search(sentence):
            intruders.append("central")
    return intruders


def _keeps_variety(answer: str, asked: str) -> bool:
    """Whether an answer in Catalan is not in the other variety.

    The identifier takes a long text for Valencian on few marks, and some Valencian texts bear none: Central forms overrule the first
    and decide the second.
    """
    import pyarrow as pa

    from iberlm.curate.langid import identify_documents

    (variety,) = identify_documents(pa.array([answer], pa.large_string()), [None], characters=100_000).variety
    has_central_forms = CENTRAL.search(answer) is not None
    if asked == "ca":
        return variety != "valencian" or has_central_forms
    return variety == "valencian" or (variety == "undetermined" and not has_central_forms)
