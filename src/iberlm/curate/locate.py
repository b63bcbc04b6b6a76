"""Passages that someone asks to be removed, found in the documents once: requests with offsets, which `select` can apply without a text.

A file of passages has one JSON object a line: `text`, `requested`, `reason` and, where there is one, `reference` (see
`iberlm.curate.removals`). What is written, `removals.jsonl`, names documents and places only; the file of passages can then be deleted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iberlm.core.config import given
from iberlm.core.documents import read_batches
from iberlm.core.errors import ConfigError
from iberlm.core.files import publish, sha256_file
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, place, run_stage
from iberlm.curate.contamination.word_sequences import Sequences, normal, search, word_counts
from iberlm.curate.removals import check_about, lines_of, parsed

VERSION = 1
REMOVALS = "removals.jsonl"
MIN_WORDS = 6
"""A passage of fewer words stands in documents that have nothing to do with the request."""
_KEYS = ("text", "requested", "reason", "reference")


@dataclass(kw_only=True)
class LocateConfig:
    """Which passages are looked for."""

    passages: str = place("")
    """File of passages (JSON lines); its content decides, not its place."""
    dry_run: bool = place(False)
    workers: int = place(0)

    def __post_init__(self) -> None:
        given("locate.passages", self.passages)


@dataclass(frozen=True)
class Passages:
    """Passages of a file, ready to be looked for."""

    sequences: Sequences
    about: list[dict[str, str]]
    """Of each: when and why it is asked for."""


def read_passages(path: Path) -> Passages:
    """Read a file of passages. Raises `ConfigError` naming the line: not JSON, another key, no date or reason, too few words."""
    texts, about = [], []
    for number, line in lines_of(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        request = parsed(line, where)
        if unknown := [key for key in request if key not in _KEYS]:
            raise ConfigError(f"{where}: unknown key '{unknown[0]}'; choose among {', '.join(_KEYS)}")
        if not isinstance(request.get("text"), str):
            raise ConfigError(f"{where}: text is {json.dumps(request.get('text'))}; it must be the words of the passage")
        check_about(request, where)
        text = normal(request.pop("text"))
        if (words := int(word_counts(pa.array([text], pa.large_string()))[0])) < MIN_WORDS:
            raise ConfigError(
                f"{where}: a passage of {words} words is in many documents; give {MIN_WORDS} words or more, or the document's id with start and end"
            )
        texts.append(text)
        about.append(request)
    if not texts:
        raise ConfigError(f"{path}: no passage in it")
    return Passages(Sequences.of(pa.array(texts, pa.large_string()), np.arange(len(texts)), MIN_WORDS), about)


def run(config: LocateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Look for passages in the documents of the extraction `inputs[0]`; write `removals.jsonl`. Raises as `read_passages` and `run_stage` do."""
    path = Path(config.passages)
    passages = read_passages(path)

    def body(config: LocateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        shards = {source.stem: (source, passages) for source in inputs[0].paths("documents/", ".parquet")}
        results = map_shards("locate", locate_shard, shards, record, workers=config.workers)
        found: dict[int, int] = {}
        with publish(out / REMOVALS) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for name in shards:
                stream.write((out / "located" / f"{name}.jsonl").read_text(encoding="utf-8"))
        for result in results.values():
            for number, occurrences in result.metrics["found"].items():
                found[int(number)] = found.get(int(number), 0) + occurrences
        record.output(out / REMOVALS, sum(found.values()))
        record.metrics = {"passages": len(passages.about), "passages_found": len(found), "occurrences": sum(found.values())}

    return run_stage("locate", VERSION, body, config, inputs, out, fingerprint=sha256_file(path), resumable=True)


def locate_shard(shard: tuple[Path, Passages], out: Path) -> ShardResult:
    """Requests for one documents file, in the order of its documents."""
    source, passages = shard
    counts, found, requests = Counts(), dict[int, int](), list[dict[str, Any]]()
    for batch in read_batches(source, ["id", "text", "language"]):
        for language in batch.column("language").to_pylist():
            counts.keep(language)
        matches = search(batch.column("text"), passages.sequences.find)
        for row, start, end, number in zip(*(column.tolist() for column in matches[:4]), strict=True):
            requests.append({"id": batch.column("id")[row].as_py(), "start": start, "end": end, **passages.about[number]})
            found[number] = found.get(number, 0) + 1
    path = out / "located" / f"{source.stem}.jsonl"
    with publish(path) as temporary:
        temporary.write_text("".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests), encoding="utf-8")
    return ShardResult({path.relative_to(out).as_posix(): len(requests)}, counts, {"found": {str(number): count for number, count in sorted(found.items())}})
