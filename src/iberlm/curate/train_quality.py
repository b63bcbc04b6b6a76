"""`iberlm train-quality`: a classifier of good and bad texts from two sets of examples, with a held-out part and a card.

A linear model over hashed n-grams (`iberlm.curate.ngram_model`), as fastText's, which the published quality filters
(DCLM, Li et al. 2024, arXiv 2406.11794) found as good as larger ones. Deterministic: the same files and settings give the same bytes.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from iberlm import __version__
from iberlm.core.config import at_least, between
from iberlm.core.documents import record_batches
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file, write_json, write_text
from iberlm.curate.contamination.word_sequences import normal
from iberlm.curate.ngram_model import NgramFeatures, NgramModel, TrainSettings, train
from iberlm.curate.quality_model import ABOUT, CARD, CLASSES, FORMAT, MODEL, Measures, QualityModel, measure
from iberlm.curate.text_files import READ_ERRORS, open_text

ENDINGS = (".parquet", *(f"{ending}{packed}" for ending in (".jsonl", ".txt") for packed in ("", ".gz", ".zst")))
MIN_TRAINING_TEXTS, MIN_HELD_OUT_TEXTS = 50, 10
"""Of each set. With fewer, the numbers that are printed would mean nothing."""
UNKNOWN = "und"
_FACTORS = np.geomspace(1 / 64, 8, 73)
"""Factors of the logits that are tried in calibration."""


@dataclass(frozen=True)
class Examples:
    """Texts of both sets, each once."""

    texts: list[str]
    positive: npt.NDArray[np.bool_]
    language: list[str]
    held_out: npt.NDArray[np.bool_]
    files: list[dict[str, Any]]
    """Of each file: set, name, SHA-256, texts read."""
    in_both: int
    """Texts that stand in both sets: left out."""
    repeated: int
    """Texts that were read before: left out."""


def train_quality(
    positive: Sequence[Path],
    negative: Sequence[Path],
    out: Path,
    *,
    text_field: str = "text",
    held_out_share: float = 0.1,
    max_characters: int = 4000,
    epochs: int = 4,
    bits: int = 20,
    seed: int = 0,
) -> int:
    """Train on examples of good (`positive`) and bad (`negative`) text; write a model's folder, print its measures; return the exit status.

    Files: JSONL (.gz, .zst) and Parquet with the texts under `text_field`, text files (.txt) of a text a line, and folders of these. A
    `language` beside a text is used to measure by language. Which texts are held out depends on the text and the seed alone, so
    that copies never stand on both sides. Raises `ConfigError` for bad settings or a folder in the way, and `DataError` when a file
    cannot be read or a set is too small.
    """
    between("held_out_share", held_out_share, 0.01, 0.5)
    at_least("max_characters", max_characters, 100)
    _check_out(out)
    examples = read_examples(positive, negative, text_field=text_field, held_out_share=held_out_share, max_characters=max_characters, seed=seed)
    _check_sizes(examples)
    settings = TrainSettings(classes=CLASSES, epochs=epochs, seed=seed)
    features = NgramFeatures(longest=4, pairs=True, bits=bits)
    raw = _train(examples, features, settings)
    held_out = np.flatnonzero(examples.held_out)
    texts = pa.array([examples.texts[row] for row in held_out], pa.large_string())
    truth = examples.positive[held_out]
    model = QualityModel(_calibrated(raw, texts, truth), max_characters)
    scores = model.score(texts)
    measures = {"all": measure(scores, truth)}
    languages = np.array([examples.language[row] for row in held_out])
    if set(examples.language) != {UNKNOWN}:
        measures.update({language: measure(scores[languages == language], truth[languages == language]) for language in sorted(set(languages))})
    about = {
        "format": FORMAT,
        "version": __version__,
        "max_characters": max_characters,
        "held_out_share": held_out_share,
        "features": dataclasses.asdict(features),
        "training": dataclasses.asdict(settings),
        "files": examples.files,
        "texts_in_both_sets": examples.in_both,
        "texts_repeated": examples.repeated,
        "training_texts": {name: int((~examples.held_out & (examples.positive == (name == "positive"))).sum()) for name in CLASSES},
        "held_out": {name: found.as_json() for name, found in measures.items()},
        "thresholds": _thresholds(scores, truth),
    }
    model.model.save(out / MODEL)
    write_text(out / CARD, card(about, measures))
    write_json(out / ABOUT, about)  # last: its presence means that the folder is complete
    print(table(measures))
    return 0


def _check_out(out: Path) -> None:
    if out.is_dir() and (foreign := sorted(entry.name for entry in out.iterdir() if entry.name not in (MODEL, ABOUT, CARD))):
        raise ConfigError(f"{out}: holds other files ({', '.join(foreign[:3])}); choose an empty folder or that of an earlier quality model")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; choose a folder")
    (out / ABOUT).unlink(missing_ok=True)


def _check_sizes(examples: Examples) -> None:
    for name, side in zip(CLASSES, (~examples.positive, examples.positive), strict=True):
        kept, held = int((side & ~examples.held_out).sum()), int((side & examples.held_out).sum())
        if kept < MIN_TRAINING_TEXTS or held < MIN_HELD_OUT_TEXTS:
            raise DataError(
                f"train-quality: {kept} {name} texts to train on and {held} to measure with; at least {MIN_TRAINING_TEXTS} and {MIN_HELD_OUT_TEXTS} are needed "
                f"(left out: {examples.repeated} repeated, {examples.in_both} in both sets)"
            )


def read_examples(positive: Sequence[Path], negative: Sequence[Path], *, text_field: str, held_out_share: float, max_characters: int, seed: int) -> Examples:
    """Read both sets. Memory: the beginnings of all texts. Raises `ConfigError` and `DataError` as `train_quality` does."""
    sides: dict[int, int] = {}  # by hash of the text: 1 negative, 2 positive, 3 both
    rows: dict[int, tuple[str, str]] = {}
    files: list[dict[str, Any]] = []
    repeated = 0
    for side, name, paths in ((2, "positive", positive), (1, "negative", negative)):
        for path in _files(paths, name):
            read = 0
            for text, language in _texts(path, text_field):
                beginning = normal(text)[:max_characters]
                if not beginning.strip():
                    continue
                read += 1
                key = xxhash.xxh3_64_intdigest(" ".join(beginning.casefold().split()).encode())
                repeated += bool(sides.get(key, 0) & side)
                sides[key] = sides.get(key, 0) | side
                rows.setdefault(key, (beginning, language))
            files.append({"set": name, "name": path.name, "sha256": sha256_file(path), "texts": read})
    keys = [key for key in rows if sides[key] != 3]
    held_out = [xxhash.xxh3_64_intdigest(key.to_bytes(8, "little"), seed=seed) < held_out_share * (1 << 64) for key in keys]
    return Examples(
        texts=[rows[key][0] for key in keys],
        positive=np.array([sides[key] == 2 for key in keys], np.bool_),
        language=[rows[key][1] for key in keys],
        held_out=np.array(held_out, np.bool_),
        files=files,
        in_both=len(rows) - len(keys),
        repeated=repeated,
    )


def _files(paths: Sequence[Path], name: str) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(entry for entry in path.rglob("*") if entry.is_file() and entry.name.endswith(ENDINGS))
        elif path.is_file() and path.name.endswith(ENDINGS):
            found.append(path)
        else:
            raise ConfigError(
                f"{name}: {path} {'ends like none of' if path.is_file() else 'does not exist; give folders or files that end in'} {', '.join(ENDINGS)}"
            )
    if not found:
        raise ConfigError(f"{name}: no file that ends in {', '.join(ENDINGS)}")
    return found


def _texts(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    """(text, language) of each record. Raises `DataError` naming file and line."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet_texts(path, text_field)
            return
        with open_text(path) as stream:
            plain = ".txt" in path.suffixes[-2:]
            for number, line in enumerate(stream, 1):
                if plain:
                    yield line.strip("\n"), UNKNOWN
                elif line.strip():
                    yield _record(line, text_field, f"{path}:{number}")
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _parquet_texts(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(path) as parquet:
        names = parquet.schema_arrow.names
        if text_field not in names:
            raise DataError(f"{path}: no column '{text_field}' among {', '.join(names)[:200]}")
        for batch in record_batches(parquet, 1024, [name for name in (text_field, "language") if name in names]):
            for row in batch.to_pylist():
                yield _fields(row, text_field, str(path))


def _record(line: str, text_field: str, where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__} instead of an object")
    return _fields(record, text_field, where)


def _fields(record: dict[str, Any], text_field: str, where: str) -> tuple[str, str]:
    text, language = record.get(text_field), record.get("language")
    if not isinstance(text, str):
        raise DataError(f"{where}: no text under '{text_field}'; name the key with text_field")
    return text, language if isinstance(language, str) and language else UNKNOWN


def _train(examples: Examples, features: NgramFeatures, settings: TrainSettings) -> NgramModel:
    """Both sets weigh the same, however many texts each has: 0.5 then lies between them."""
    rows = np.flatnonzero(~examples.held_out)
    labels = examples.positive[rows].astype(np.int64)
    share = np.bincount(labels, minlength=2) / len(labels)
    texts = pa.array([examples.texts[row] for row in rows], pa.large_string())
    return train(texts, labels, features, settings, importance=(0.5 / share[labels]).astype(np.float32))


def _calibrated(model: NgramModel, texts: pa.LargeStringArray, truth: npt.NDArray[np.bool_]) -> NgramModel:
    """The model with its logits scaled to the smallest log loss on the held-out texts (Guo et al. 2017, arXiv 1706.04599).

    One number learnt on the texts that are measured: it moves the log loss a little, and neither the order of the scores nor 0.5.
    """
    logits = model.score(texts).logits.astype(np.float64)
    margin = np.where(truth, 1, -1) * (logits[:, 1] - logits[:, 0])
    weight = np.where(truth, 0.5 / truth.mean(), 0.5 / (~truth).mean())
    losses = [float((weight * np.logaddexp(0, -factor * margin)).mean()) for factor in _FACTORS]
    return model.calibrated(float(_FACTORS[int(np.argmin(losses))]))


def _thresholds(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """What would be kept of each held-out set at thresholds from 0.1 to 0.9."""
    rows = []
    for tenth in range(1, 10):
        kept = scores >= np.float32(tenth / 10)
        rows.append(
            {"min_quality_score": tenth / 10, "positive_kept": round(float(kept[truth].mean()), 4), "negative_kept": round(float(kept[~truth].mean()), 4)}
        )
    return rows


def table(measures: dict[str, Measures]) -> str:
    """The measures as lines of a Markdown table, a language a line."""
    lines = ["| held out | texts | positive | precision | recall | AUC | log loss |", "|---|---|---|---|---|---|---|"]
    for name, found in measures.items():
        numbers = (f"{value:.3f}" for value in (found.precision, found.recall, found.auc, found.log_loss))
        lines.append(f"| {name} | {found.texts:,} | {found.positive:,} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def card(about: dict[str, Any], measures: dict[str, Measures]) -> str:
    """The model card: what it was trained on, how it measures, what it is not."""
    files = "\n".join(f"| {entry['set']} | {entry['name']} | {entry['texts']:,} | `{entry['sha256']}` |" for entry in about["files"])
    kept = "\n".join(f"| {row['min_quality_score']:.1f} | {row['positive_kept']:.1%} | {row['negative_kept']:.1%} |" for row in about["thresholds"])
    counts = about["training_texts"]
    return f"""# Quality classifier

**Not validated.** It tells the two sets below from each other. Whether its score means quality, in any language or kind of text, nobody has
checked: read documents from both ends of the score before you drop any by it. It learns whatever else sets the two sets apart: topics, sources,
formats, varieties of a language.

A linear model over hashed character n-grams, words and pairs of words, of the first {about["max_characters"]:,} characters of a text; made by IberLM
{about["version"]}. The score is the probability of the positive set when both are equally frequent.

## Trained on

{counts["positive"]:,} positive and {counts["negative"]:,} negative texts. Left out: {about["texts_repeated"]:,} repeated ones, and
{about["texts_in_both_sets"]:,} in both sets.

| set | file | texts | SHA-256 |
|---|---|---|---|
{files}

Licences and languages of these files are not known to the program: state them here before you pass the model on.

## Measured on held-out texts

{about["held_out_share"]:.0%} of the texts, chosen by their hash. Precision and recall at a score of 0.5. Texts of the same pages or authors may stand on
both sides, so that other texts will give lower numbers. The scale of the scores was set on these same texts.

{table(measures)}

| min_quality_score | positive kept | negative kept |
|---|---|---|
{kept}
"""
