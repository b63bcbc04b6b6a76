"""The extraction stage: raw files to `documents/NNNNN.parquet`, and to `quarantine-NNNNN.jsonl` what could not be read.

A shard is a group of raw files of bounded size. A bad record never loses its neighbours, a bad file never stops the
run, and each is counted under `quarantine_REASON`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from iberlm.core.documents import batches_of, write_documents
from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import publish
from iberlm.core.languages import UNDETERMINED
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.progress import say
from iberlm.core.stage import Record, ShardResult, map_shards, run_stage
from iberlm.extract.config import ExtractConfig
from iberlm.extract.gettext import read_gettext
from iberlm.extract.man import read_man
from iberlm.extract.pages import read_docbook, read_html, read_text
from iberlm.extract.records import FileError, Reading, Reject, Text
from iberlm.extract.tables import read_jsonl, read_parquet

VERSION = 1
FILES = "files.jsonl"
DOCUMENTS = "documents"
MAX_DETAIL_CHARACTERS = 200
_MAX_SHARD_FILES = 5000
_RECORD_CLAIMS = ("jsonl", "parquet")
"""Formats whose records know their language better than the recipe; pages often carry a wrong `lang` attribute."""


@dataclass(frozen=True)
class RawFile:
    """A line of `files.jsonl`, its path made absolute."""

    path: str
    format: str
    language: str | None
    card: str
    licence: str
    source: str
    url: str | None
    date: str | None
    text_field: str
    id_field: str
    bytes: int


@dataclass(frozen=True)
class Shard:
    """The work of one process: files, settings, and the number in the names of what it writes."""

    number: int
    files: list[RawFile]
    config: ExtractConfig


def run(config: ExtractConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Extract the files listed by the fetch stages in `inputs`; return the manifest.

    Raises `DataError` when not one document comes out, with the reasons, and `CorruptError` when a list of files
    cannot be understood.
    """
    return run_stage("extract", VERSION, _extract, config, inputs, out, resumable=True)


def _extract(config: ExtractConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    files = [file for manifest in inputs for file in _listed(manifest)]
    if not files:
        raise DataError("extract: there are no raw files; run `iberlm fetch` first")
    groups = _group(files, config.shard_bytes)
    shards = {f"{number:05d}": Shard(number, group, config) for number, group in enumerate(groups)}
    map_shards("extract", extract_shard, shards, record, workers=config.workers)
    lost = sum(sum(reasons.values()) for reasons in record.counts.dropped.values())
    if not record.counts.kept:
        raise DataError(f"extract: not one document came out of {len(files)} files:\n{_reasons_table(record.counts)}")
    if lost:
        say(f"extract: {lost} records or files in quarantine, see {out}/quarantine-*.jsonl\n{_reasons_table(record.counts)}")


def _reasons_table(counts: Counts) -> str:
    totals: dict[str, int] = {}
    for reasons in counts.dropped.values():
        for reason, number in reasons.items():
            totals[reason] = totals.get(reason, 0) + number
    return "\n".join(f"  {number:>9,}  {reason}" for reason, number in sorted(totals.items(), key=lambda item: (-item[1], item[0])))


def _listed(manifest: Manifest) -> Iterator[RawFile]:
    path = manifest.path(FILES)
    names = [name for name in RawFile.__dataclass_fields__ if name not in ("id_field", "path")]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            yield RawFile(path=str(manifest.folder / entry["path"]), id_field=entry.get("id_field", "id"), **{name: entry[name] for name in names})
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{path}:{number}: not an entry of a raw file ({error}); run the '{manifest.stage}' stage again") from error


def _group(files: list[RawFile], shard_bytes: int) -> list[list[RawFile]]:
    """Cut the list, in its order, into groups of at most `shard_bytes` and `_MAX_SHARD_FILES` (or one larger file)."""
    groups: list[list[RawFile]] = []
    size = 0
    for file in files:
        if not groups or size + file.bytes > shard_bytes or len(groups[-1]) >= _MAX_SHARD_FILES:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.bytes
    return groups


def extract_shard(shard: Shard, out: Path) -> ShardResult:
    """Extract the files of one shard; a pure function of them."""
    documents, quarantine = f"{DOCUMENTS}/{shard.number:05d}.parquet", f"quarantine-{shard.number:05d}.jsonl"
    result = ShardResult()
    (out / DOCUMENTS).mkdir(parents=True, exist_ok=True)
    with publish(out / quarantine) as temporary, temporary.open("w", encoding="utf-8") as rejects:
        rows = write_documents(out / documents, batches_of(_rows(shard, result.counts, rejects)))
    result.outputs = {documents: rows, quarantine: sum(sum(reasons.values()) for reasons in result.counts.dropped.values())}
    return result


def _rows(shard: Shard, counts: Counts, rejects: IO[str]) -> Iterator[dict[str, Any]]:
    for file in shard.files:
        for item in read(file, shard.config):
            claims = (item.language, file.language) if file.format in _RECORD_CLAIMS else (file.language, item.language)
            language = claims[0] or claims[1] or UNDETERMINED
            if isinstance(item, Reject):
                counts.drop(language, f"quarantine_{item.reason}")
                line = {"source": file.source, "record": item.position, "reason": item.reason, "detail": item.detail[:MAX_DETAIL_CHARACTERS]}
                rejects.write(json.dumps(line) + "\n")
                continue
            counts.keep(language)
            yield {
                "id": document_id(file, item),
                "text": item.text,
                "language": language,
                "language_score": None,
                "source": f"{file.source}#{item.record}",
                "card": file.card,
                "url": item.url or file.url,
                "date": item.date or file.date,
                "licence": file.licence,
            }


def document_id(file: RawFile, item: Text) -> str:
    """16 hexadecimal digits of BLAKE2b over card, source, position and text: stable, and distinct for records that share an identifier."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (file.card, file.source, str(item.position), item.text):
        digest.update(part.encode("utf-8", errors="replace") + b"\0")
    return digest.hexdigest()


def read(file: RawFile, config: ExtractConfig) -> Reading:
    """Texts and rejects of one raw file; whatever its bytes are, nothing is raised but for a full memory."""
    try:
        for item in _reader(file, config):
            if isinstance(item, Text) and len(item.text.encode("utf-8")) > config.max_document_bytes:
                yield Reject(reason="document_too_long", detail=f"more than {config.max_document_bytes} bytes", position=item.position, language=item.language)
            else:
                yield item
    except FileError as error:
        yield Reject(reason=error.reason, detail=error.detail)


def _reader(file: RawFile, config: ExtractConfig) -> Reading:
    path = Path(file.path)
    if not path.is_file():
        raise FileError("unreadable", "the file is gone since it was listed")
    match file.format:
        case "jsonl":
            return read_jsonl(path, file.text_field, file.id_field, config)
        case "parquet":
            return read_parquet(path, file.text_field, file.id_field, config)
        case "text":
            return read_text(path, config)
        case "html":
            return read_html(path, config)
        case "gettext":
            return read_gettext(path, config)
        case "docbook":
            return read_docbook(path, config)
        case "man":
            return read_man(path, config)
    raise FileError("unknown_format", f"no reader for '{file.format}'")
