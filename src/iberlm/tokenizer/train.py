"""Stage `train_tokenizer`: a vocabulary from a mixture of the languages, exported for Hugging Face, measured and judged.

No seed and no threads: the same documents give the same bytes, which is checked by training twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from iberlm.core.documents import read_batches
from iberlm.core.errors import DataError
from iberlm.core.files import sha256_file, write_json
from iberlm.core.manifest import Manifest
from iberlm.core.needs import local_folder
from iberlm.core.progress import say
from iberlm.core.stage import Record, run_stage
from iberlm.tokenizer import gates, parity
from iberlm.tokenizer.byte_level import train_byte_level
from iberlm.tokenizer.config import BYTE_BPE, EXTEND, KEEP, TokenizerConfig, TrainTokenizerConfig
from iberlm.tokenizer.corpus import TRAIN, VALIDATION, split_files
from iberlm.tokenizer.export import export_byte_level, export_sentencepiece
from iberlm.tokenizer.extend import expected_saving, extend, write_extended
from iberlm.tokenizer.health import usage
from iberlm.tokenizer.keep import keep, verdicts
from iberlm.tokenizer.load import LoadedTokenizer, load_tokenizer, load_tokenizers
from iberlm.tokenizer.material import Material, read_material
from iberlm.tokenizer.measure import EMBEDDED_PARALLEL, measure_tokenizer, read_parallel
from iberlm.tokenizer.sentencepiece_model import train_sentencepiece
from iberlm.tokenizer.words import Words, unscaled

STAGE = "train_tokenizer"
VERSION = 2
FOLDER = "tokenizer"
_TOKENIZER_FILES = {".json", ".model", ".tiktoken", ".txt", ".jinja"}
_SAVING_BYTES = 1_000_000
"""Text of each language on which the saving by an extension is measured."""


def run(config: TrainTokenizerConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Train on the train documents of a curate manifest: `tokenizer/` and `measure.json`.

    Metrics: what `measure.measure_tokenizer` says of the tokenizer (and under "compared" of the others), "algorithm",
    "weights" and "sampled_bytes" by language (its share, and the UTF-8 bytes it counted for), "words" (distinct ones, and
    those trained on), "deterministic", "parity" (the rounds of the search, when there was one), "extension" (when a base
    was extended), "kept" (the base, when it was copied as it is: what tells of training is missing then) and "gates". A gate
    that fails does not fail the stage: `pretrain` refuses the tokenizer.
    Raises `DataError` for a language without documents and for a vocabulary larger than the text allows.
    """
    return run_stage(STAGE, VERSION, _body, config, inputs, out, fingerprint=_outside_files(config))


def _outside_files(config: TrainTokenizerConfig) -> dict[str, list[tuple[str, str]]]:
    """Names and checksums of the files that decide the output and belong to no stage, by what they are for."""
    others = [_folder(place, config) for place in config.compare]
    places = {"base": [_folder(config.tokenizer.base, config)], "parallel": [config.parallel or str(EMBEDDED_PARALLEL)], "compare": others}
    return {use: [entry for place in paths if place for entry in _checksums(Path(place))] for use, paths in places.items()}


def _folder(place: str, config: TrainTokenizerConfig) -> str:
    return str(local_folder(place, config.cluster)) if place else ""


def _checksums(place: Path) -> list[tuple[str, str]]:
    if not place.exists():
        return [(place.name, "missing")]  # another key, so that the stage runs, and says so
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place] if place.is_file() else []
    return [(str(file.relative_to(place.parent)), sha256_file(file)) for file in files if file.suffix in _TOKENIZER_FILES]


@dataclass(frozen=True)
class Trained:
    """A trained vocabulary: bytes of a SentencePiece model, or of a tokenizer.json; the languages' shares; how it came about."""

    payload: bytes
    shares: dict[str, float]
    deterministic: bool | None
    rounds: list[dict[str, Any]]
    chosen: int


def _body(config: TrainTokenizerConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    (curated,) = inputs
    files = _chosen(split_files(curated, TRAIN), config.languages, curated.folder)
    parallel = read_parallel(Path(config.parallel) if config.parallel else None)
    others = load_tokenizers([Path(_folder(place, config)) for place in config.compare])  # before anything costs time
    kept = config.tokenizer.algorithm == KEEP
    table: Words | None = None
    about: dict[str, Any] = {"algorithm": config.tokenizer.algorithm}
    if kept:
        keep(Path(_folder(config.tokenizer.base, config)), out / FOLDER)
        about["kept"] = config.tokenizer.base
    else:
        material = read_material(config.tokenizer, files, record, workers=config.cluster.workers)
        trained = _train(config.tokenizer, material, parallel, record)
        table = material.table(trained.shares)
        _export(config.tokenizer, trained.payload, out / FOLDER)
        about |= _training(trained, material, table)
    base = load_tokenizer(Path(_folder(config.tokenizer.base, config))) if config.tokenizer.base else None
    tokenizer = load_tokenizer(out / FOLDER)
    validation = {tag: paths for tag, paths in split_files(curated, VALIDATION).items() if tag in files}
    asked: dict[str, Any] = {"languages": list(files), "validation": validation, "max_bytes": config.measured_bytes_per_language, "parallel": parallel}
    first_id = base.vocabulary_size if base else 0  # pieces of a base are not ours to judge
    counts = None if table is None else usage(tokenizer, table)
    metrics: dict[str, Any] = measure_tokenizer(tokenizer, counts=counts, first_id=first_id, **asked) | about
    if base and not kept:
        metrics["extension"] = _extension(base, tokenizer, validation or files)
    trip = gates.round_trip(tokenizer, _texts(validation or files, config.measured_bytes_per_language))
    found = gates.check(metrics, round_trip=trip, deterministic=about.get("deterministic"), limits=config.gates)
    metrics["gates"] = verdicts(found) if kept else found
    metrics["compared"] = {other.name: measure_tokenizer(other, counts=None, **asked) for other in others}
    for name, verdict in metrics["gates"].items():
        if not verdict["passed"]:
            say(f"{STAGE}: gate {name} {'failed' if verdict['passed'] is False else 'is open'}: {verdict['message']}")
    if unmeasured := sorted(set(files) - set(metrics["languages"])):
        say(f"{STAGE}: no validation documents in {', '.join(unmeasured)}, so nothing was measured there")
    record.metrics = metrics
    write_json(out / "measure.json", metrics)
    record.output_tree(out / FOLDER)
    record.output(out / "measure.json")


def _training(trained: Trained, material: Material, table: Words) -> dict[str, Any]:
    """What the metrics say of the training."""
    about: dict[str, Any] = {
        "weights": trained.shares,
        "sampled_bytes": material.counted_bytes(trained.shares),
        "words": {"distinct": len(set().union(*material.words.values())), "trained_on": len(table)},
        "deterministic": trained.deterministic,
    }
    return about | ({"parity": {"rounds": trained.rounds, "chosen": trained.chosen}} if trained.rounds else {})


def _chosen(files: dict[str, list[Path]], languages: list[str], folder: Path) -> dict[str, list[Path]]:
    if missing := [tag for tag in languages if tag not in files]:
        raise DataError(f"{folder}: no training documents in {', '.join(missing)}: add documents of that language, or leave it out of 'languages'")
    if not files:
        raise DataError(f"{folder}: has no training documents in any language; look at what curate dropped")
    return {tag: paths for tag, paths in files.items() if not languages or tag in languages}


def train_payload(config: TokenizerConfig, words: Words) -> bytes:
    """One training: a SentencePiece model, or a tokenizer.json in UTF-8. Runs here and in a process of its own."""
    if config.algorithm == BYTE_BPE:
        return train_byte_level(config, unscaled(words)).encode()
    if config.algorithm == EXTEND:
        return extend(Path(config.base), unscaled(words), vocabulary_size=config.vocabulary_size).tokenizer_json.encode()
    return train_sentencepiece(config, words)


def _train(config: TokenizerConfig, material: Material, parallel: Mapping[str, list[str]], record: Record) -> Trained:
    """Train, at the mixture's shares or at those that the parity search finds, and once more in another process to compare."""
    shares = material.shares
    total = sum(material.counted_bytes(shares).values())
    table = material.table(shares)
    say(f"{STAGE}: {config.algorithm} of {config.vocabulary_size:,} pieces on {total:,} bytes, {len(table):,} distinct words")
    lines = {tag: parallel[tag] for tag in shares if tag in parallel}
    if config.parity.rounds and len(lines) < 2:
        raise DataError(f"tokenizer.parity: the parallel text has {', '.join(parallel)}, so no two of {', '.join(shares)} can be compared")
    pool = record.pool(1) if config.check_determinism else None
    again = pool.submit(train_payload, config, table) if pool else None
    rounds, best = parity.search(
        lambda weights: train_payload(config, table if weights == shares else material.table(weights)),
        lambda payload: _tokens(config, payload, lines),
        shares,
        config.parity,
    )
    found = rounds[best]
    if pool and best:
        again = pool.submit(train_payload, config, material.table(found.shares))
    history = [{"weights": entry.shares, "tokens": entry.tokens, "gini": entry.gini} for entry in rounds] if config.parity.rounds else []
    return Trained(found.trained, found.shares, again.result() == found.trained if again else None, history, best)


def _tokens(config: TokenizerConfig, payload: bytes, parallel: Mapping[str, list[str]]) -> dict[str, int]:
    """Tokens of the parallel text by language."""
    if config.algorithm in (BYTE_BPE, EXTEND):
        tokenizer = Tokenizer.from_str(payload.decode())
        return {tag: sum(len(entry.ids) for entry in tokenizer.encode_batch_fast(lines, add_special_tokens=False)) for tag, lines in parallel.items()}
    processor = SentencePieceProcessor(model_proto=payload)
    return {tag: sum(map(len, processor.encode(lines, num_threads=1))) for tag, lines in parallel.items()}


def _export(config: TokenizerConfig, payload: bytes, folder: Path) -> None:
    if config.algorithm == BYTE_BPE:
        export_byte_level(payload.decode(), folder, reserved_tokens=config.reserved_tokens, model_max_length=config.model_max_length)
    elif config.algorithm == EXTEND:
        write_extended(Path(config.base), payload.decode(), folder)
    else:
        export_sentencepiece(payload, folder, model_max_length=config.model_max_length)


def _extension(base: LoadedTokenizer, tokenizer: LoadedTokenizer, files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """What the extension saves, by language: printed, and part of the metrics."""
    saving = expected_saving(base.path, tokenizer.path, {tag: list(_texts({tag: paths}, _SAVING_BYTES)) for tag, paths in files.items()})
    say(
        f"{STAGE}: {tokenizer.vocabulary_size - base.vocabulary_size:,} pieces added; fewer tokens: "
        + ", ".join(f"{tag} {share:.1%}" for tag, share in saving.items())
    )
    return {"base": str(base.path), "base_size": base.vocabulary_size, "added": tokenizer.vocabulary_size - base.vocabulary_size, "saving": saving}


def _texts(files: Mapping[str, list[Path]], max_bytes: int) -> Iterator[str]:
    """Documents from the beginning of each language, until `max_bytes` of it are read."""
    for paths in files.values():
        size = 0
        for path in paths:
            for batch in read_batches(path, ["text"], batch_rows=256):
                for text in batch["text"].to_pylist():
                    if size >= max_bytes:
                        break
                    size += len(text.encode())
                    yield text
