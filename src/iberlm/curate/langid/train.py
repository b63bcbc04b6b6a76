"""Train the two models of the language identifier from a recipe: `iberlm train-langid recipes/langid/iberlm.yaml OUT`.

Texts are split by origin (package, folder or file), never by line: one origin in ten is held out, the models are trained on the
rest and measured and calibrated on it, then trained again on everything. The same material and recipe give the same bytes.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iberlm.core.config import at_least, between, given
from iberlm.core.errors import ConfigError
from iberlm.core.files import write_json
from iberlm.curate.langid.evaluate import Table, table_of
from iberlm.curate.langid.marks import learn_marks, write_marks
from iberlm.curate.langid.material import Source, Text, clean, hash_of, read_jsonl, read_sources
from iberlm.curate.langid.model import OTHER, NgramIdentifier
from iberlm.curate.langid.variety import MARGIN
from iberlm.curate.ngram_model import NgramFeatures, NgramModel, TrainSettings, train

_HELD_OUT_ONE_IN = 10
_FOLDS = 5
_SENTENCE_SHARE = 0.9
"""Letters and spaces in a line that counts as a sentence."""
CATALAN = ("ca", "ca-valencia")
LONG = 60
"""Characters of a string or sentence from which on it enters the published measures."""


@dataclass(kw_only=True)
class ModelSettings:
    """Features and steps of one model: see `NgramFeatures` and `TrainSettings`."""

    shortest: int = 2
    longest: int = 5
    pairs: bool = False
    bits: int = 18
    epochs: int = 6
    rate: float = 0.8
    word_dropout: float = 0.5
    seed: int = 0


@dataclass(kw_only=True)
class PairSource:
    """JSON lines {ca, va, source}: a string in Catalan and in Valencian, and where it is from."""

    path: str = ""
    importance: float = 1.0
    """Multiplies the step of each string."""
    measured: bool = True
    """Whether its strings set and measure the threshold of Valencian, each by a model that has seen nothing from the same place."""


@dataclass(kw_only=True)
class LangidRecipe:
    """A recipe of `recipes/langid/`."""

    root: str = ""
    """Folder that paths are relative to; environment variables are put in."""
    languages: dict[str, list[str]] = field(default_factory=dict)
    """Tag of each class and the names of the language in paths. Those that begin with "other" are one answer."""
    sources: list[Source] = field(default_factory=list)
    pairs: list[PairSource] = field(default_factory=list)
    """Strings that exist in Catalan and in Valencian."""
    min_letters: int = 20
    max_texts: int = 60_000
    """Texts of a class, spread over its origins; half as many of the other languages' classes."""
    valencian_false_share: float = 0.025
    """Share of held-out Catalan strings of 60 characters or more that may be called Valencian."""
    language_model: ModelSettings = field(default_factory=ModelSettings)
    variety_model: ModelSettings = field(default_factory=ModelSettings)

    def __post_init__(self) -> None:
        for key in ("root", "languages", "sources", "pairs"):
            given(key, getattr(self, key))
        at_least("min_letters", self.min_letters, 1)
        at_least("max_texts", self.max_texts, 100)
        between("valencian_false_share", self.valencian_false_share, 0.0001, 0.5)


class Examples(NamedTuple):
    """Texts with their classes, ready to train on."""

    texts: list[str]
    labels: npt.NDArray[np.int64]
    importance: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]


def train_langid(recipe: Path, out: Path) -> int:
    """Train all that a recipe asks for into the folder `out`, print what was read and measured; 0 when all went well.

    Writes languages.safetensors, valencian.safetensors, marks.tsv and measures.json. Raises `ConfigError` for what is wrong with the recipe or its files.
    """
    config = load_recipe(recipe)
    texts = read_sources(config.sources, dict(config.languages), Path(config.root), config.min_letters)
    _print_material(texts)
    languages, measures = train_languages(texts, config)
    languages.save(out / "languages.safetensors")
    valencian, more = train_variety(texts, config)
    valencian.save(out / "valencian.safetensors")
    marks = train_marks(texts, config)
    write_marks(out / "marks.tsv", marks)
    write_json(out / "measures.json", {"languages": measures.as_dict(), "valencian": more})
    print(measures.rendered())
    print("\n".join(f"{name}: {value:.4f}" for name, value in more.items()))
    print(f"written: {out}/languages.safetensors, valencian.safetensors, marks.tsv ({len(marks)} words), measures.json")
    return 0


def load_recipe(path: Path) -> LangidRecipe:
    """Read a recipe. Raises `ConfigError` naming the key that is wrong."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(LangidRecipe), OmegaConf.load(path))
        found: Any = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(found, LangidRecipe)
    return found


def _print_material(texts: list[Text]) -> None:
    counts = Counter((text.source.domain, text.tag) for text in texts)
    for domain in dict.fromkeys(text.source.domain for text in texts):
        print(f"{domain}: " + ", ".join(f"{tag} {counts[domain, tag]}" for tag in dict.fromkeys(t for d, t in counts if d == domain)))


def is_held_out(origin: str) -> bool:
    """Whether an origin is kept aside to measure with."""
    return hash_of(origin) % _HELD_OUT_ONE_IN == 0


def train_languages(texts: list[Text], config: LangidRecipe) -> tuple[NgramModel, Table]:
    """The model of languages, calibrated, and its table on held-out sentences of at least 60 characters."""
    classes = tuple(tag for tag in config.languages if tag != "ca-valencia")
    examples = _language_examples(texts, classes, config.max_texts)
    settings = _settings(config.language_model, classes)
    trial = _train(examples, ~examples.held_out, config.language_model, settings)
    aside = np.nonzero(examples.held_out & np.array([len(text) >= LONG and is_sentence(text) for text in examples.texts]))[0]
    array = pa.array([examples.texts[row] for row in aside], pa.large_string())
    factor = _temperature(trial.score(array).logits, examples.labels[aside])
    identifier = NgramIdentifier(trial.calibrated(factor))
    truth = [OTHER if classes[label].startswith(OTHER) else classes[label] for label in examples.labels[aside]]
    measured = table_of(truth, identifier.guess_whole(array))
    return _train(examples, np.ones(len(examples.texts), bool), config.language_model, settings).calibrated(factor), measured


def _language_examples(texts: list[Text], classes: tuple[str, ...], most: int) -> Examples:
    """At most `most` texts a class, by hash; classes with fewer get steps that are larger by the root of what they lack."""
    by_class: dict[str, list[Text]] = defaultdict(list)
    for text in texts:
        by_class["ca" if text.tag == "ca-valencia" else text.tag].append(text)
    chosen: list[tuple[Text, int, float]] = []
    for label, tag in enumerate(classes):
        if not by_class[tag]:
            raise ConfigError(f"languages: no text in {tag}")
        limit = most // 2 if tag.startswith(OTHER) else most
        mine = sorted(by_class[tag], key=lambda text: hash_of(text.text))[:limit]
        boost = math.sqrt(limit / len(mine))
        chosen += [(text, label, text.source.importance * boost) for text in mine]
    return _examples([(text.text, label, importance, text.source.held_out and is_held_out(text.origin)) for text, label, importance in chosen])


def _examples(rows: list[tuple[str, int, float, bool]]) -> Examples:
    texts, labels, importance, held_out = zip(*rows, strict=True)
    return Examples(list(texts), np.array(labels, np.int64), np.array(importance, np.float32), np.array(held_out, bool))


def _settings(model: ModelSettings, classes: tuple[str, ...]) -> TrainSettings:
    return TrainSettings(classes=classes, epochs=model.epochs, rate=model.rate, word_dropout=model.word_dropout, seed=model.seed)


def _train(examples: Examples, rows: npt.NDArray[np.bool_], model: ModelSettings, settings: TrainSettings) -> NgramModel:
    kept = np.nonzero(rows)[0]
    features = NgramFeatures(shortest=model.shortest, longest=model.longest, pairs=model.pairs, bits=model.bits)
    array = pa.array([examples.texts[row] for row in kept], pa.large_string())
    return train(array, examples.labels[kept], features, settings, importance=examples.importance[kept])


def is_sentence(text: str) -> bool:
    """Whether a line is made of words, begins as a sentence and ends as one: what is measured is language, not listings."""
    words = sum(character.isalpha() or character == " " for character in text)
    return text[0].isupper() and text[-1] in ".!?…:»" and words >= _SENTENCE_SHARE * len(text)


def _temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """The factor on logits under which the labels are likeliest, to a hundredth (Guo et al. 2017, arXiv 1706.04599)."""

    def surprise(factor: float) -> float:
        scaled = logits.astype(np.float64) * factor
        largest = scaled.max(axis=1)
        return float(np.mean(largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1)) - scaled[np.arange(len(labels)), labels]))

    return min((step / 100 for step in range(20, 400)), key=surprise)


def train_variety(texts: list[Text], config: LangidRecipe) -> tuple[NgramModel, dict[str, float]]:
    """The model of Catalan and Valencian strings, shifted so that the margin errs as often as the recipe allows, and its measures.

    Measured over five folds of origins of the pairs, each scored by a model that has seen none of them.
    """
    rows: list[tuple[str, int, float, bool]] = []
    folds: list[int] = []
    for source in config.pairs:
        for *strings, origin in read_pairs(source, config):
            rows += [(string, label, source.importance, False) for label, string in enumerate(strings)]
            folds += [hash_of(origin) % _FOLDS if source.measured else _FOLDS] * 2
    for text in texts:
        if text.source.varieties and text.tag in CATALAN:
            rows.append((text.text, int(text.tag == "ca-valencia"), text.source.importance, False))
            folds.append(_FOLDS)
    examples, fold_of = _examples(rows), np.array(folds)
    settings = _settings(config.variety_model, CATALAN)
    long = np.array([len(text) >= LONG for text in examples.texts])
    odds: dict[int, list[npt.NDArray[np.float32]]] = {0: [], 1: []}
    for fold in range(_FOLDS):
        trial = _train(examples, fold_of != fold, config.variety_model, settings)
        for label in odds:
            aside = np.nonzero((fold_of == fold) & (examples.labels == label) & long)[0]
            logits = trial.score(pa.array([examples.texts[row] for row in aside], pa.large_string())).logits
            odds[label].append(logits[:, 1] - logits[:, 0])
    catalan, valencian = np.concatenate(odds[0]), np.concatenate(odds[1])
    threshold = float(np.quantile(catalan, 1 - config.valencian_false_share))
    measures = {
        "Catalan strings called Valencian": float(np.mean(catalan > threshold)),
        "Valencian strings found": float(np.mean(valencian > threshold)),
        "threshold (log odds)": threshold,
    }
    model = _train(examples, np.ones(len(rows), bool), config.variety_model, settings)
    return model.shifted(np.array([0, MARGIN - threshold], np.float32)), measures


def train_marks(texts: list[Text], config: LangidRecipe) -> dict[str, float]:
    """The marks of long texts: see `learn_marks`."""
    pairs = [(catalan, valencian, origin) for source in config.pairs for catalan, valencian, origin in read_pairs(source, config)]
    single = [(text.text, text.tag == "ca-valencia") for text in texts if text.source.varieties and text.tag in CATALAN]
    background = [(text.text, text.origin) for text in texts if text.source.background and text.tag == "ca"]
    return learn_marks(pairs, single, background)


def read_pairs(source: PairSource, config: LangidRecipe) -> Iterator[tuple[str, str, str]]:
    """(Catalan, Valencian, origin) of each pair that differs."""
    for record in read_jsonl(Path(config.root) / source.path):
        catalan, valencian = clean(record["ca"]), clean(record["va"])
        if catalan != valencian:
            yield catalan, valencian, record["source"]
