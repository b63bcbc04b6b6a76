"""The identifiers: the shipped n-gram model, and fastText models by path. Both give probabilities over `TAGS`.

Catalan and Valencian are one class here, `ca`; `variety` tells them apart.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.languages import UNDETERMINED
from iberlm.curate.ngram_model import Integers, NgramModel, buffers, softmax

OTHER = "other"
"""Any language that is not told by name."""
TAGS = ("es", "ca", "eu", "gl", "pt", "fr", "it", "oc", "ast", "an", "en", OTHER)
"""What a model tells apart; `ca` stands for Valencian too."""
SHIPPED = Path(__file__).parent / "languages.safetensors"
_LATIN_ENOUGH = 0.5
"""Share of letters of the Latin script below which a text is in none of our languages."""
_ISO_639_3 = {
    "spa": "es",
    "cat": "ca",
    "eus": "eu",
    "glg": "gl",
    "por": "pt",
    "fra": "fr",
    "ita": "it",
    "oci": "oc",
    "ast": "ast",
    "arg": "an",
    "eng": "en",
}
"""GlotLID's names (with the script after an underscore); lid.176 has the tags themselves."""


class Guess(NamedTuple):
    """What a model says of each sample."""

    probabilities: npt.NDArray[np.float32]
    """Shape (samples, len(TAGS)); rows sum to 1, those without words are 0."""

    @property
    def best(self) -> npt.NDArray[np.int64]:
        """Index into `TAGS` of each sample's language, -1 where there were no words."""
        return np.where(self.probabilities.any(axis=1), self.probabilities.argmax(axis=1), -1)


class Identifier(Protocol):
    """What `load_model` gives."""

    def guess(self, texts: pa.LargeStringArray, rows: Integers, starts: Integers, ends: Integers) -> Guess:
        """Probabilities of samples of texts: byte ranges, as `NgramModel.score` takes them."""


class NgramIdentifier:
    """A model of `iberlm.curate.ngram_model` whose classes are tags; all that begin with "other" are one."""

    def __init__(self, model: NgramModel) -> None:
        named = [OTHER if name.startswith(OTHER) else name for name in model.classes]
        unknown = sorted(set(named) - set(TAGS))
        if unknown:
            raise ConfigError(f"the model's classes {', '.join(unknown)} are not among {', '.join(TAGS)}")
        self.model = model
        self._fold = np.zeros((len(named), len(TAGS)), np.float32)
        self._fold[np.arange(len(named)), [TAGS.index(name) for name in named]] = 1

    def guess(self, texts: pa.LargeStringArray, rows: Integers, starts: Integers, ends: Integers) -> Guess:
        """See `Identifier`."""
        found = self.model.score(texts, rows, starts, ends)
        probabilities = softmax(found.logits) @ self._fold
        letters = np.maximum(found.latin + found.foreign, 1)
        foreign = found.latin < _LATIN_ENOUGH * letters
        probabilities[foreign] = 0
        probabilities[foreign, TAGS.index(OTHER)] = (found.foreign / letters)[foreign]
        probabilities[found.features == 0] = 0
        return Guess(probabilities.astype(np.float32))

    def guess_whole(self, texts: pa.LargeStringArray) -> list[str]:
        """Tag of each text, read whole; `und` where there are no words."""
        lengths = np.diff(buffers(texts)[1])
        best = self.guess(texts, np.arange(len(texts)), np.zeros_like(lengths), lengths).best
        return [TAGS[index] if index >= 0 else UNDETERMINED for index in best]


class FastTextIdentifier:
    """A fastText model by path: lid.176.bin, lid.176.ftz, GlotLID's model.bin. Slower: one call a text."""

    def __init__(self, path: Path) -> None:
        try:
            import fasttext
        except ImportError as error:
            raise ConfigError(
                f"{path}: fastText models need the library fasttext, which is not installed; install fasttext-wheel (`pip install fasttext-wheel`)"
            ) from error
        fasttext.FastText.eprint = lambda *_: None  # a notice about types that it prints at every load
        try:
            self._model: Any = fasttext.load_model(str(path))
        except ValueError as error:
            raise CorruptError(f"{path}: not a fastText model ({error})") from error
        self._columns = {label: _column(label.removeprefix("__label__")) for label in self._model.get_labels()}

    def guess(self, texts: pa.LargeStringArray, rows: Integers, starts: Integers, ends: Integers) -> Guess:
        """See `Identifier`."""
        data, offsets = buffers(texts)
        starts, ends = (offsets[rows, None] + ranges.reshape(len(rows), -1) for ranges in (starts, ends))
        probabilities = np.zeros((len(rows), len(TAGS)), np.float32)
        for sample in range(len(rows)):
            parts = [data[start:end].tobytes() for start, end in zip(starts[sample], ends[sample], strict=True)]
            line = b" ".join(parts).decode("utf-8", "replace").replace("\n", " ")
            if any(character.isalpha() for character in line):
                # the library's own predict() fails under NumPy 2; its inner model gives the same pairs
                for value, label in self._model.f.predict(line + "\n", len(self._columns), 0.0, "strict"):
                    probabilities[sample, self._columns[label]] += value
        sums = probabilities.sum(axis=1, keepdims=True)
        return Guess((probabilities / np.where(sums > 0, sums, 1)).astype(np.float32))


def _column(name: str) -> int:
    """Column of a fastText label: `gl`, `glg` and `glg_Latn` are Galician, any other language is `other`."""
    language = name.split("_")[0]
    tag = _ISO_639_3.get(language, language)
    return TAGS.index(tag if tag in TAGS else OTHER)


@cache
def _load(path: str | None) -> Identifier:
    if path is None:
        return NgramIdentifier(NgramModel.load(SHIPPED))
    if not Path(path).is_file():
        raise ConfigError(f"{path}: there is no such model file")
    if path.endswith((".bin", ".ftz")):
        return FastTextIdentifier(Path(path))
    return NgramIdentifier(NgramModel.load(Path(path)))


def load_model(path: str | None = None) -> Identifier:
    """A model by path, the shipped one without: .bin and .ftz are fastText's (lid.176, GlotLID), others `train-langid`'s.

    Loaded once a process. Raises `ConfigError` when there is no such file or the library fasttext is missing, `CorruptError` when the file is
    not a model.
    """
    return _load(path)
