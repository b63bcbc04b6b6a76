"""The fetch stage: gather the raw files of a corpus under their data cards, and write `files.jsonl`.

What is on this machine already is listed, not copied; what comes from elsewhere is kept under `raw/`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iberlm.cards import Card, find_card, require
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file, write_text
from iberlm.core.manifest import Manifest
from iberlm.core.progress import say
from iberlm.core.stage import Record, run_stage
from iberlm.sources import debian, huggingface, local, sample
from iberlm.sources.config import FetchConfig, SourceConfig
from iberlm.sources.entries import FileEntry

VERSION = 1
FILES = "files.jsonl"
RAW = "raw"


def run(config: FetchConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Fetch `config.corpus` into `out`.

    Raises `ConfigError` for a corpus without sources, `CardError` when a card is missing, invalid or does not permit
    pretraining, `DataError` for sources without usable files, and `ResourceError` when a source cannot be reached.
    """
    if not config.corpus.sources:
        raise ConfigError("corpus.sources: is empty; choose a corpus, e.g. corpus=sample, or add a source")
    cards = {name: require(source.card, "pretrain") for name, source in config.corpus.sources.items()}
    fingerprint = {name: _fingerprint(name, source) for name, source in sorted(config.corpus.sources.items())}

    def body(config: FetchConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        _fetch(config, cards, out, record)

    return run_stage("fetch", VERSION, body, config, inputs, out, fingerprint=fingerprint, resumable=True)


def _fingerprint(name: str, source: SourceConfig) -> Any:
    """What stands for the files and the card of a source in the stage's key."""
    card = sha256_file(find_card(source.card))
    if source.kind == "sample":
        return [card, [[path.name, sha256_file(path)] for path in sample.sample_files()]]
    if source.kind == "path":
        files = local.local_files(f"corpus.sources.{name}.path", source.path)
    elif source.kind == "huggingface" and source.is_local_dataset:
        files = local.local_files(f"corpus.sources.{name}.dataset", source.dataset)
    else:
        files = [Path(package).absolute() for package in source.packages if package.endswith(".deb") and Path(package).is_file()]
    return [card, [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]]


def _fetch(config: FetchConfig, cards: dict[str, Card], out: Path, record: Record) -> None:
    lines: list[str] = []
    sizes: dict[str, dict[str, int]] = {}
    for name, source in sorted(config.corpus.sources.items()):
        entries = _gather(name, source, cards[name], out)
        sizes[name] = {"files": len(entries), "bytes": sum(entry.bytes for entry in entries)}
        say(f"fetch {name}: {len(entries)} {'file' if len(entries) == 1 else 'files'}, {sizes[name]['bytes']:,} bytes")
        lines += [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
        record.cards[source.card] = cards[name].licence.spdx
    if not any(size["bytes"] for size in sizes.values()):
        raise DataError(f"corpus '{config.corpus.name}': all its files are empty")
    write_text(out / FILES, "".join(lines))
    record.output(out / FILES, rows=len(lines))
    if (out / RAW).is_dir():
        record.output_tree(out / RAW)
    record.metrics["sources"] = sizes


def _gather(name: str, source: SourceConfig, card: Card, out: Path) -> list[FileEntry]:
    """Entries of one source. What was downloaded whole before an interruption is not downloaded again."""
    if source.kind == "sample":
        return sample.gather(name, source, card)
    if source.kind == "path":
        return local.gather(name, source, card)
    done = out / RAW / f"{name}.files.jsonl"
    if done.is_file():
        return [FileEntry(**json.loads(line)) for line in done.read_text(encoding="utf-8").splitlines()]
    gather = debian.gather if source.kind == "debian" else huggingface.gather
    entries = gather(name, source, card, out / RAW / name, out)
    write_text(done, "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries))
    return entries
