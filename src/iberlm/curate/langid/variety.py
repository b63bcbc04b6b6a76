"""Central Catalan or Valencian: a short text by a model of n-grams, a longer one by the words that mark either.

Strings differ in all sorts of small ways that a model of character n-grams, words and pairs of neighbouring words can weigh; it is
set so that few Catalan strings are called Valencian. Over a long text such weak evidence adds up to nothing reliable, for it also tells
one translator from another: there only marks count (`marks`). Valencian texts often keep Catalan forms, many being made from Catalan by
rule, while Catalan texts hardly have Valencian ones: so a text is Valencian from a small share of the strength of its marks on.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.curate.langid.marks import Marks
from iberlm.curate.ngram_model import NgramModel, buffers

CENTRAL, UNDETERMINED_VARIETY, VALENCIAN = 0, 1, 2
VARIETIES = ("central", "undetermined", "valencian")
MARGIN = 1.0
"""Log odds of a short text, either way, from which on its variety is told; the model is shifted at training so that this errs seldom."""
SHORT_BYTES = 400
"""Texts of fewer bytes are short."""
TEXT_BYTES = 50_000
"""What is looked at of a long text."""
SHARE = 0.26
"""Strength of Valencian marks that a long text needs for each unit of strength of Catalan ones."""
VALENCIAN_STRENGTH = 3.0
"""Strength of Valencian marks that a long text needs in any case: a weak one alone may be a slip, a name or a word of the west."""
CENTRAL_STRENGTH = 3.0
"""Strength of Catalan marks from which on a long text is central: one weak mark may be a slip."""
MIXED_SHARE = 0.05
"""As `SHARE`, from which on a text that is not Valencian is not surely central either."""
_FOLDER = Path(__file__).parent


@cache
def _shipped() -> tuple[NgramModel, Marks]:
    return NgramModel.load(_FOLDER / "valencian.safetensors"), Marks.load(_FOLDER / "marks.tsv")


def catalan_variety(
    texts: pa.LargeStringArray, wanted: npt.NDArray[np.bool_], *, model: NgramModel | None = None, marks: Marks | None = None
) -> npt.NDArray[np.int64]:
    """Index into `VARIETIES` of each text where `wanted`, shape (texts,), undetermined elsewhere.

    `model` (classes Catalan and Valencian, in this order) and `marks`: the shipped ones when None.
    """
    model, marks = model or _shipped()[0], marks or _shipped()[1]
    data, offsets = buffers(texts)
    found = np.full(len(texts), UNDETERMINED_VARIETY, np.int64)
    lengths = np.diff(offsets)
    short = np.nonzero(wanted & (lengths < SHORT_BYTES))[0]
    scores = model.score(texts, short, np.zeros_like(short), lengths[short])
    odds = np.where(scores.features > 0, scores.logits[:, 1] - scores.logits[:, 0], 0)
    found[short[odds > MARGIN]] = VALENCIAN
    found[short[odds < -MARGIN]] = CENTRAL
    long = np.nonzero(wanted & (lengths >= SHORT_BYTES))[0]
    valencian, central = marks.sums(data, offsets[long], offsets[long] + np.minimum(lengths[long], TEXT_BYTES)).T
    found[long[(central >= CENTRAL_STRENGTH) & (valencian <= MIXED_SHARE * central)]] = CENTRAL
    found[long[(valencian >= VALENCIAN_STRENGTH) & (valencian > SHARE * central)]] = VALENCIAN
    return found
