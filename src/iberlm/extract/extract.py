"""The extraction stage: raw files to `documents/NNNNN.parquet`, and to `quarantine-NNNNN.jsonl` what could not be read.

A shard is a group of raw files of bounded size. A bad record never loses its neighbours, a bad file never stops the
run, and each is counted under `quarantine_REASON`. Records that are in order and no documents are counted under `skipped_REASON`.
"""

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from iberlm.core.documents import BATCH_ROWS, SCHEMA, write_documents
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import publish
from iberlm.core.languages import UNDETERMINED
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.progress import say
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage, shown
from iberlm.extract.config import ExtractConfig
from iberlm.extract.gettext import read_gettext
from iberlm.extract.man import read_man
from iberlm.extract.normalise import Normaliser, RefusedError
from iberlm.extract.pages import read_docbook, read_html, read_text
from iberlm.extract.records import FileError, Reading, Reject, Skip, Text
from iberlm.extract.tables import read_jsonl, read_parquet
from iberlm.extract.web import read_archive
from iberlm.extract.wiki import read_wiki

VERSION = 2
FILES = "files.jsonl"
DOCUMENTS = "documents"
QUARANTINE, SKIPPED = "quarantine_", "skipped_"
"""What the reasons begin with, of what could not be read and of what is no document."""
MAX_DETAIL_CHARACTERS = 200
_TEXT_COLUMN = SCHEMA.get_field_index("text")
_BATCH_BYTES = 32 << 20
_MAX_SHARD_FILES = 5000
_RECORD_CLAIMS = ("jsonl", "parquet", "wet", "wiki")
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

    Raises `DataError` when not one document comes out, with the reasons, `CorruptError` when a list of files
    cannot be understood, and `ConfigError` when the engine for HTML is not installed.
    """
    if config.html_engine == "trafilatura" and importlib.util.find_spec("trafilatura") is None:
        raise ConfigError("extract.html_engine: 'trafilatura' is not installed; `pip install 'iberlm[trafilatura]'`, or choose resiliparse")
    return run_stage("extract", VERSION, _extract, config, inputs, out, resumable=True)


def _extract(config: ExtractConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    files = [file for manifest in inputs for file in _listed(manifest)]
    if not files:
        raise DataError("extract: there are no raw files; run `iberlm fetch` first")
    groups = _group(files, config.shard_bytes)
    shards = {f"{number:05d}": Shard(number, group, config) for number, group in enumerate(groups)}
    results = map_shards("extract", extract_shard, shards, record, workers=config.workers)
    changed: Counter[str] = Counter()
    for result in results.values():
        changed.update(result.metrics["normalised"])
    record.metrics["normalised"] = dict(sorted(changed.items()))
    totals = _totals(record.counts)
    lost, passed = (sum(number for reason, number in totals.items() if reason.startswith(kind)) for kind in (QUARANTINE, SKIPPED))
    if not record.counts.kept:
        raise DataError(f"extract: not one document came out of {_number(len(files), 'file')}:\n{_reasons_table(totals)}")
    told = [f"{_number(lost, 'record or file', 'records or files')} in quarantine, see {shown(out)}/quarantine-*.jsonl"] if lost else []
    told += [f"{_number(passed, 'record')} passed over"] if passed else []
    if told:
        say(f"extract: {'; '.join(told)}\n{_reasons_table(totals)}")


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _totals(counts: Counts) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for reasons in counts.dropped.values():
        totals.update(reasons)
    return dict(totals)


def _reasons_table(totals: dict[str, int]) -> str:
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
    result, normalise = ShardResult(), Normaliser(shard.config.normalise)
    (out / DOCUMENTS).mkdir(parents=True, exist_ok=True)
    with publish(out / quarantine) as temporary, temporary.open("w", encoding="utf-8") as rejects:
        rows = write_documents(out / documents, _batches(_rows(shard, result.counts, rejects, normalise)))
    lost = sum(number for reason, number in _totals(result.counts).items() if reason.startswith(QUARANTINE))
    result.outputs = {documents: rows, quarantine: lost}
    result.metrics["normalised"] = {name: number for name, number in sorted(normalise.changed.items()) if number}
    return result


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
    """Rows in the order of `SCHEMA`'s columns, gathered into record batches of at most `BATCH_ROWS` rows or about `_BATCH_BYTES` of text."""
    held: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row[_TEXT_COLUMN])
        if len(held) >= BATCH_ROWS or size >= _BATCH_BYTES:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    values = list(zip(*rows, strict=True))
    columns = [pa.array(column, type=field.type) for column, field in zip(values, SCHEMA, strict=True) if field.name != "text"]
    # encoded by us, so Arrow need not check that it is UTF-8
    columns.insert(_TEXT_COLUMN, pa.array(values[_TEXT_COLUMN], type=pa.large_binary()).view(pa.large_string()))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _rows(shard: Shard, counts: Counts, rejects: IO[str], normalise: Normaliser) -> Iterator[tuple[Any, ...]]:
    """Values of the documents in the order of `SCHEMA`'s columns; the text as UTF-8, which Arrow takes as it is."""
    for file in shard.files:
        start = _start_of_identifiers(file)
        for item in read(file, shard.config, normalise):
            claims = (item.language, file.language) if file.format in _RECORD_CLAIMS else (file.language, item.language)
            language = claims[0] or claims[1] or UNDETERMINED
            if isinstance(item, Skip):
                counts.drop(language, f"{SKIPPED}{item.reason}")
                continue
            if isinstance(item, Reject):
                counts.drop(language, f"{QUARANTINE}{item.reason}")
                line = {"source": file.source, "record": item.position, "reason": item.reason, "detail": item.detail[:MAX_DETAIL_CHARACTERS]}
                rejects.write(json.dumps(line) + "\n")
                continue
            counts.keep(language)
            yield (
                _identifier(start, item.position, item.data),
                item.data,
                language,
                None,  # language_score: of the identification, which comes later
                f"{file.source}#{item.record}",
                file.card,
                item.url or file.url,
                item.date or file.date,
                item.licence or file.licence,
                item.licence_evidence,
                item.http_status,
                item.content_type,
                item.reserved,
            )


def document_id(file: RawFile, item: Text) -> str:
    """16 hexadecimal digits of BLAKE2b over card, source, position and text: stable, and distinct for records that share an identifier."""
    return _identifier(_start_of_identifiers(file), item.position, item.text.encode("utf-8"))


def _start_of_identifiers(file: RawFile) -> "hashlib.blake2b":
    return hashlib.blake2b(f"{file.card}\0{file.source}\0".encode("utf-8", errors="replace"), digest_size=8)


def _identifier(start: "hashlib.blake2b", position: int, text: bytes) -> str:
    digest = start.copy()
    digest.update(b"%d\0" % position)
    digest.update(text)
    digest.update(b"\0")
    return digest.hexdigest()


def read(file: RawFile, config: ExtractConfig, normalise: Normaliser | None = None) -> Reading:
    """Normalised texts, rejects and skips of one raw file; whatever its bytes are, nothing is raised but for a full memory.

    `normalise` counts what it repairs; one of `config.normalise` is made when none is given.
    """
    normalise = normalise or Normaliser(config.normalise)
    try:
        for item in _reader(file, config):
            yield _finished(item, config, normalise) if isinstance(item, Text) else item
    except FileError as error:
        yield Reject(reason=error.reason, detail=error.detail)


def _finished(item: Text, config: ExtractConfig, normalise: Normaliser) -> Text | Reject:
    """The text normalised, or the reason for which it is none."""
    try:
        item.text, item.data = normalise(item.text)
    except RefusedError as error:
        return Reject(reason=error.reason, detail=str(error), position=item.position, language=item.language)
    if not item.text:
        return Reject(reason="no_text", detail="nothing is left of the text", position=item.position, language=item.language)
    if len(item.data) > config.max_document_bytes:
        return Reject(reason="document_too_long", detail=f"more than {config.max_document_bytes} bytes", position=item.position, language=item.language)
    return item


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
        case "warc" | "wet":
            return read_archive(path, config)
        case "wiki":
            return read_wiki(path, config)
    raise FileError("unknown_format", f"no reader for '{file.format}'")
