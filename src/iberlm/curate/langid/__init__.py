"""Which language a text is in: the five of the project, their neighbours, or another; for documents also by paragraph.

Two linear n-gram models that are shipped with the package (`iberlm.curate.ngram_model`) decide: the first among es, ca, eu, gl,
pt, fr, it, oc, ast, an, en and `other`, the second, for texts in Catalan, between its central and its Valencian forms.
What they learnt from is in the data card `iberlm_langid`; `iberlm train-langid` makes them anew.

A score is the first model's probability of the language, calibrated on texts that it had not seen: of the texts with a score
around 0.9 about nine in ten are right. It is lower for a short text, and for one in a mixture of languages. `ca` and
`ca-valencia` have the score of Catalan as a whole: how sure the variety is, `variety` says.

A text without marks of its variety is `ca`, the variety `undetermined`. A text without words is `und`, with a score of 0.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.core.config import at_least
from iberlm.core.errors import ConfigError
from iberlm.core.languages import UNDETERMINED
from iberlm.curate.langid.kernels import sample_ranges
from iberlm.curate.langid.model import OTHER, TAGS, Identifier, load_model
from iberlm.curate.langid.paragraphs import other_languages
from iberlm.curate.langid.variety import UNDETERMINED_VARIETY, VALENCIAN, VARIETIES, catalan_variety
from iberlm.curate.ngram_model import Integers, buffers

__all__ = ["OTHER", "TAGS", "Identification", "Identifier", "identify", "identify_documents", "load_model"]


class Identification(NamedTuple):
    """What is found of each document, in the order of the documents."""

    languages: list[str]
    """Tags: those of `TAGS`, `ca-valencia` or `und`."""
    scores: npt.NDArray[np.float32]
    """Shape (documents,), 0..1."""
    variety: list[str | None]
    """`valencian`, `central` or `undetermined` for ca and ca-valencia, None for other languages."""
    other_languages: pa.ListArray
    """A list of struct<start: int32, end: int32, language: string> a document: paragraphs (lines of at least 40 letters) that
    are surely in another language, in characters. Catalan and Valencian are not other languages to each other."""


def identify(texts: Sequence[str], *, model: Identifier | None = None) -> list[tuple[str, float]]:
    """The language of each text, read whole, and its score: the module tells what tags and scores mean.

    `model`: what `load_model` gives; the shipped one when None.
    """
    array = pa.array([_plain(text) for text in texts], pa.large_string())
    ends = np.diff(buffers(array)[1])[:, None]
    languages, scores, _ = _identify(array, np.zeros_like(ends), ends, [None] * len(array), model or load_model())
    return [(language, float(score)) for language, score in zip(languages, scores, strict=True)]


def identify_documents(text: pa.LargeStringArray, claims: Sequence[str | None], *, characters: int = 1000, model: Identifier | None = None) -> Identification:
    """The language, score, variety and foreign paragraphs of each document.

    `text` is in NFC, without nulls. `claims`, one a document: the tag that its source states, or None. A claim decides only between `ca` and
    `ca-valencia` where the text bears no mark of either. `characters`: how much of a document is read to identify it, half from its start and half
    from its middle, counted in bytes of UTF-8. The variety is decided from the first 50,000 bytes, paragraphs each from their first 200.
    """
    at_least("characters", characters, 20)
    if len(claims) != len(text):
        raise ConfigError(f"claims: {len(claims)} for {len(text)} documents; there must be one each")
    model = model or load_model()
    starts, ends = sample_ranges(*buffers(text), characters)
    languages, scores, variety = _identify(text, starts, ends, claims, model)
    return Identification(languages, scores, variety, other_languages(text, languages, model))


def _identify(
    text: pa.LargeStringArray, starts: Integers, ends: Integers, claims: Sequence[str | None], model: Identifier
) -> tuple[list[str], npt.NDArray[np.float32], list[str | None]]:
    guess = model.guess(text, np.arange(len(text)), starts, ends)
    best = guess.best
    varieties = catalan_variety(text, best == TAGS.index("ca"))
    languages: list[str] = []
    variety: list[str | None] = []
    for index, found, claim in zip(best.tolist(), varieties.tolist(), claims, strict=True):
        tag = TAGS[index] if index >= 0 else UNDETERMINED
        if tag == "ca" and (found == VALENCIAN or (found == UNDETERMINED_VARIETY and claim == "ca-valencia")):
            languages.append("ca-valencia")
        else:
            languages.append(tag)
        variety.append(VARIETIES[found] if tag == "ca" else None)
    return languages, guess.probabilities.max(axis=1, initial=0), variety


def _plain(text: str) -> str:
    """NFC and encodable: lone surrogates, which are in no language, become question marks."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
