"""Linear classifier over hashed character n-grams and words: trained by SGD, scored from Arrow buffers without making strings.

Language identification and the quality score stand on it. In use:

    model = train(texts, labels, NgramFeatures(), TrainSettings(classes=("bad", "good")))  # LargeStringArray, int array (texts,)
    model.save(path)
    model = NgramModel.load(path)
    model.probabilities(texts)       # float32 (texts, classes)
    model.score(texts, rows, starts, ends).logits   # of samples of the texts: byte ranges; float32 (samples, classes)

A text is a sequence of words: letters, marks and the middle dot, lower-cased; an apostrophe ends its word and belongs to it
(`l'`), a hyphen begins the next (`-se`); digits and punctuation end a word. Chunks between white space that look like code,
not language, are skipped: e-mail and web addresses, paths, options, placeholders, names with digits, dots or underscores.
Features are the character n-grams of each word with its two ends marked, the word, and (where asked for) pairs of
neighbouring words, each hashed into one of `2**bits` rows of the weights. A class's logit is
`scale * sum(weights of the text's features) / sqrt(number of features) + bias`: it grows with the root of the length, so that
a short text gets a lower probability than a long one. The linear model with hashed n-grams is fastText's (Joulin et al. 2016,
arXiv 1607.01759) without its hidden layer.

Weights are int8 and sums are integers, so that a score does not depend on how texts are batched. Training uses one thread,
plain IEEE 754 operations and an exponential of its own: the same texts and settings give the same bytes.
Texts are expected in NFC.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iberlm.core.config import at_least, between
from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import publish
from iberlm.curate import ngram_kernels

Integers = npt.NDArray[np.int64]
FORMAT = "iberlm-ngram-model-1"
_LARGEST_SHARE = 0.9999
"""Share of the weights that int8 holds unclipped: the few largest ones would make all others coarse."""


@dataclass(frozen=True, kw_only=True)
class NgramFeatures:
    """What a text is turned into."""

    shortest: int = 2
    """Shortest character n-gram; the two ends of a word count as characters."""
    longest: int = 5
    """Longest character n-gram."""
    words: bool = True
    """Whole words too."""
    pairs: bool = False
    """Pairs of neighbouring words too."""
    bits: int = 18
    """log2 of the number of rows of the weights."""

    def __post_init__(self) -> None:
        between("features.shortest", self.shortest, 1, 8)
        between("features.longest", self.longest, self.shortest, 8)
        between("features.bits", self.bits, 8, 24)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How weights are learnt."""

    classes: tuple[str, ...]
    """Name of each class, in the order of the labels."""
    epochs: int = 4
    """Visits to each text."""
    rate: float = 0.8
    """Learning rate at the start; it falls linearly to 0."""
    word_dropout: float = 0.25
    """Share of a text's words left out at each visit, so that no name carries a text alone."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("classes", len(self.classes), 2)
        at_least("epochs", self.epochs, 1)
        between("rate", self.rate, 1e-6, 100)
        between("word_dropout", self.word_dropout, 0, 0.9)
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes: a name occurs twice in {', '.join(self.classes)}")


class Scores(NamedTuple):
    """What a model says of each text or sample, and how much there was to go by."""

    logits: npt.NDArray[np.float32]
    """Shape (samples, classes)."""
    features: npt.NDArray[np.int32]
    """Number of features, shape (samples,): 0 where there was no word, and then the logits are the biases."""
    latin: npt.NDArray[np.int32]
    """Letters of the Latin script in words, shape (samples,)."""
    foreign: npt.NDArray[np.int32]
    """Letters of other scripts in words, shape (samples,)."""


@dataclass(frozen=True, kw_only=True)
class NgramModel:
    """A trained model. Immutable; pickles, so that it may be sent to worker processes."""

    classes: tuple[str, ...]
    features: NgramFeatures
    weights: npt.NDArray[np.int8]
    """Shape (2**bits, classes)."""
    scale: npt.NDArray[np.float32]
    """What a unit of each class's weights is worth, shape (classes,)."""
    bias: npt.NDArray[np.float32]
    """Shape (classes,)."""

    def score(self, texts: pa.LargeStringArray, rows: Integers | None = None, starts: Integers | None = None, ends: Integers | None = None) -> Scores:
        """Score texts, or samples of them.

        A sample is one or more byte ranges of a text, taken together: `rows`, shape (samples,), which text; `starts` and
        `ends`, shape (samples,) or (samples, ranges), half open, counted from the text's first byte. Without them every
        text is scored whole. A range should not cut a character; one that does reads a wrong letter there and nothing
        worse. A null text has no words. Raises `ConfigError` when a range lies outside its text.
        """
        data, offsets = buffers(texts)
        if rows is None or starts is None or ends is None:
            first, last = offsets[:-1, None], offsets[1:, None]
        else:
            width = starts.size // len(rows) if len(rows) else 1
            starts, ends = starts.reshape(len(rows), width), ends.reshape(len(rows), width)
            first, last = offsets[rows, None] + starts, offsets[rows, None] + ends
            if not (np.all(starts >= 0) and np.all(last <= offsets[rows + 1, None]) and np.all(starts <= ends)):
                raise ConfigError("ranges: each must lie inside its text and start before it ends")
        groups = np.arange(len(first) + 1, dtype=np.int64) * first.shape[1]
        table = ngram_kernels.characters()
        sums, counts = ngram_kernels.score(data, first.ravel(), last.ravel(), groups, table, self.weights, *_shape(self.features))
        roots = np.sqrt(np.maximum(counts[:, 0], 1)).astype(np.float32)
        return Scores(sums.astype(np.float32) * self.scale / roots[:, None] + self.bias, counts[:, 0], counts[:, 1], counts[:, 2])

    def probabilities(self, texts: pa.LargeStringArray) -> npt.NDArray[np.float32]:
        """Softmax of the logits of whole texts, shape (texts, classes)."""
        return softmax(self.score(texts).logits)

    def calibrated(self, factor: float) -> Self:
        """The same model with logits times `factor` (1 over the temperature): the same order, other probabilities."""
        return replace(self, scale=self.scale * np.float32(factor), bias=self.bias * np.float32(factor))

    def shifted(self, logits: npt.NDArray[np.float32]) -> Self:
        """The same model with `logits`, shape (classes,), added to every text's."""
        return replace(self, bias=self.bias + np.asarray(logits, np.float32))

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; the same model gives the same bytes."""
        about = json.dumps({"format": FORMAT, "classes": self.classes, "features": asdict(self.features)}, sort_keys=True)
        tensors: dict[str, npt.NDArray[Any]] = {"bias": self.bias, "scale": self.scale, "weights": self.weights}
        with publish(path) as temporary:
            temporary.write_bytes(save(tensors, {"model": about}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `CorruptError` when the file is not such a model."""
        try:
            with safe_open(path, "numpy") as stored:
                about = json.loads((stored.metadata() or {})["model"])
                tensors = {name: stored.get_tensor(name) for name in ("bias", "scale", "weights")}
            features = NgramFeatures(**about["features"])
            classes = tuple(about["classes"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{path}: not a model of {FORMAT} ({error})") from error
        model = cls(classes=classes, features=features, **tensors)
        shapes = (len(classes),), (len(classes),), (1 << features.bits, len(classes))
        if about.get("format") != FORMAT or (model.bias.shape, model.scale.shape, model.weights.shape) != shapes or model.weights.dtype != np.int8:
            raise CorruptError(f"{path}: not a model of {FORMAT}: format, shapes or types differ")
        return model


def train(
    texts: pa.LargeStringArray,
    labels: npt.NDArray[np.integer],
    features: NgramFeatures,
    settings: TrainSettings,
    *,
    importance: npt.NDArray[np.floating] | None = None,
) -> NgramModel:
    """Learn a model by stochastic gradient descent on the cross entropy (multinomial logistic regression).

    `labels`, shape (texts,): the index of each text's class in `settings.classes`. `importance`, shape (texts,), multiplies
    a text's step: 1 when not given. Of a text longer than 64 KB only the beginning counts. Memory: 4 bytes a row and class
    of the weights; features are made anew at every visit. One thread: a run is repeatable to the byte.
    Raises `ConfigError` when labels, importance and texts do not fit.
    """
    count, width = len(texts), len(settings.classes)
    labels = np.asarray(labels, np.int64)
    weight = np.ones(count, np.float32) if importance is None else np.asarray(importance, np.float32)
    if count == 0 or labels.shape != (count,) or weight.shape != (count,):
        raise ConfigError(f"train: {count} texts, {labels.shape} labels, {weight.shape} importances; there must be one of each a text, and at least one")
    if labels.min() < 0 or labels.max() >= width:
        raise ConfigError(f"train: labels from {labels.min()} to {labels.max()}, but there are {width} classes")
    data, offsets = buffers(texts)
    learnt = np.zeros((1 << features.bits, width), np.float32)
    bias = np.zeros(width, np.float32)
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    for epoch in range(settings.epochs):
        order = generator.permutation(count)
        rates = settings.rate * (1 - (epoch + np.arange(count) / count) / settings.epochs)
        seed = np.uint64(generator.integers(1, 1 << 63))
        ngram_kernels.learn(
            data, offsets, order, labels, weight, rates, ngram_kernels.characters(), learnt, bias, settings.word_dropout, seed, *_shape(features)
        )
    return quantise(settings.classes, features, learnt, bias)


def quantise(classes: tuple[str, ...], features: NgramFeatures, weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> NgramModel:
    """A model whose int8 weights stand for `weights`, shape (2**bits, classes), each class with a scale of its own."""
    used = np.abs(weights[np.any(weights != 0, axis=1)])
    largest = np.quantile(used, _LARGEST_SHARE, axis=0) if len(used) else np.ones(len(classes))
    scale = (np.maximum(largest, 1e-6) / 127).astype(np.float32)
    small = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
    return NgramModel(classes=classes, features=features, weights=small, scale=scale, bias=bias)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities of logits along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: npt.NDArray[np.float32] = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return found


def buffers(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint8], Integers]:
    """UTF-8 bytes of an Arrow array of texts and where each text begins and ends in them, shape (texts + 1,), without copying.

    Nulls must have no bytes (Arrow's writers leave none). Raises `ConfigError` for another type: `pa.string()` has offsets of
    32 bits, so cast it.
    """
    if not pa.types.is_large_string(texts.type):
        raise ConfigError(f"texts: an array of {texts.type}; cast it to large_string")
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or offsets is None:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    ends = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8)
    return (np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)), ends


def _shape(features: NgramFeatures) -> tuple[int, int, bool, bool, int]:
    return features.shortest, features.longest, features.words, features.pairs, features.bits
