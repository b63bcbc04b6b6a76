"""The folder of a quality classifier: what it is, what it was trained on, and the score of a text."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.curate.ngram_model import NgramModel

MODEL, ABOUT, CARD = "model.safetensors", "quality.json", "README.md"
FORMAT = "iberlm-quality-1"
CLASSES = ("negative", "positive")


@dataclass(frozen=True)
class QualityModel:
    """A classifier of texts into `CLASSES`."""

    model: NgramModel
    max_characters: int
    """Only so much of a text's beginning is read, in training as in use."""

    def score(self, texts: pa.LargeStringArray) -> npt.NDArray[np.float32]:
        """Probability of the positive class, float32 of shape (texts,), 0..1; 0 where a text has no words."""
        found = self.model.score(beginnings(texts, self.max_characters))
        margin = np.clip((found.logits[:, 1] - found.logits[:, 0]).astype(np.float64), -60, 60)
        scores: npt.NDArray[np.float32] = np.where(found.features > 0, 1 / (1 + np.exp(-margin)), 0).astype(np.float32)
        return scores

    @classmethod
    def load(cls, folder: Path) -> "QualityModel":
        """Read a model's folder. Raises `ConfigError` when it is none and `CorruptError` when its files do not belong together."""
        if not (folder / ABOUT).is_file():
            raise ConfigError(f"quality.model: {folder} holds no quality model ({ABOUT}); train one with `iberlm train-quality`")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            known, characters = about["format"] == FORMAT, int(about["max_characters"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{folder / ABOUT}: not the description of a quality model ({error}); train it again") from error
        model = NgramModel.load(folder / MODEL)
        if not known or model.classes != CLASSES or characters < 1:
            raise CorruptError(f"{folder}: {ABOUT} and {MODEL} are not those of a quality model of {FORMAT}; train it again")
        return cls(model, characters)


def beginnings(texts: pa.LargeStringArray, max_characters: int) -> pa.LargeStringArray:
    """At most so many code points of each text; a null is an empty text."""
    return pc.fill_null(pc.utf8_slice_codeunits(texts, 0, max_characters), "")


@dataclass(frozen=True)
class Measures:
    """How well scores tell positive texts from negative ones, at the threshold 0.5 and without any."""

    texts: int
    positive: int
    precision: float
    """Share of positive texts among those with a score of at least 0.5; nan when there are none."""
    recall: float
    """Share of the positive texts that have a score of at least 0.5; nan when there are none."""
    auc: float
    """Probability that a positive text has a higher score than a negative one, ties half; nan when one side is empty."""
    log_loss: float
    """Mean of -log of the probability given to the right class, in nats."""

    def as_json(self) -> dict[str, Any]:
        """Rounded values; None for nan."""
        return {name: None if isinstance(value, float) and math.isnan(value) else round(value, 4) for name, value in vars(self).items()}


def measure(scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> Measures:
    """Measures of `scores`, shape (texts,), against the truth, shape (texts,)."""
    chosen = scores >= 0.5
    right = int((chosen & positive).sum())
    exact = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return Measures(
        texts=len(scores),
        positive=int(positive.sum()),
        precision=right / int(chosen.sum()) if chosen.any() else math.nan,
        recall=right / int(positive.sum()) if positive.any() else math.nan,
        auc=area_under_curve(scores, positive),
        log_loss=float(-np.log(np.where(positive, exact, 1 - exact)).mean()) if len(scores) else math.nan,
    )


def area_under_curve(scores: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney 1947), ties counted half; nan when one side is empty."""
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * few))
