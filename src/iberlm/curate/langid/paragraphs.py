"""Paragraphs in another language than their document's: what makes a document known as mixed."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from iberlm.core.languages import UNDETERMINED
from iberlm.curate.langid.kernels import line_ranges
from iberlm.curate.langid.model import OTHER, TAGS, Identifier
from iberlm.curate.ngram_model import buffers

MIN_LETTERS = 40
"""Letters of a line from which on it is looked at: shorter ones are often names, titles and code."""
SAMPLE_BYTES = 200
"""What is read of a line."""
SURE = 0.9
"""Probability from which on a paragraph's language is believed against its document's."""
SURE_OTHER = 0.98
"""The same for `other`, which lists of names come near to."""
_WHOLE = 1 << 60
_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("language", pa.string())])


def other_languages(text: pa.LargeStringArray, languages: Sequence[str], model: Identifier) -> pa.ListArray:
    """For each document the lines that are surely in another language, as list<struct<start, end, language>> in characters.

    A line of Catalan in a Valencian document, or the other way round, is not. Documents of undetermined language have none.
    """
    data, offsets = buffers(text)
    wanted = np.array([language != UNDETERMINED for language in languages], bool)
    lines = line_ranges(data, offsets, wanted, MIN_LETTERS, SAMPLE_BYTES, _WHOLE)
    rows = lines[:, 0]
    mine = np.array([TAGS.index(_family(language)) if language != UNDETERMINED else -1 for language in languages], np.int64)
    guess = model.guess(text, rows, lines[:, 1], lines[:, 2])
    best = guess.best
    probability = guess.probabilities.max(axis=1, initial=0)
    sure = (best >= 0) & (best != mine[rows]) & (probability >= np.where(best == TAGS.index(OTHER), SURE_OTHER, SURE))
    kept = np.nonzero(sure)[0]
    counts = np.bincount(rows[kept], minlength=len(text))
    spans = pa.StructArray.from_arrays(
        [pa.array(lines[kept, 3], pa.int32()), pa.array(lines[kept, 4], pa.int32()), pa.array([TAGS[index] for index in best[kept]], pa.string())],
        fields=list(_SPAN),
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32()), spans)


def _family(language: str) -> str:
    return "ca" if language == "ca-valencia" else language
