"""Readers of the forms that a snapshot of robots files comes in: Parquet, JSONL, WARC, folders of hosts."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.documents import record_batches
from iberlm.core.errors import ConfigError, DataError
from iberlm.curate.urls import canonical_host, hosts_of

KINDS = ("robots.txt", "ai.txt")
MAX_FILE_BYTES = 500 << 10
"""What is read of one robots file: RFC 9309 (2.5) asks for at least 500 KiB."""
MAX_LINE_BYTES = 16 << 20

_BATCH_ROWS = 1024
_COLUMNS = ("host", "fetched", "status", "content", "kind", "location")
_STAMP = re.compile(r"\d{14}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_ENDINGS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".warc.lz4": "warc",
}


class Fetched(NamedTuple):
    """One answer of a host to the question for its robots file."""

    host: str
    """Canonical authority, see `iberlm.curate.urls.hosts_of`."""
    kind: int
    """Index into `KINDS`."""
    fetched: str
    """ISO 8601 in UTC; '' when it is not known."""
    status: int | None
    """HTTP status; None when the snapshot has only files that were there."""
    content: str | None
    """The file's text, at most `MAX_FILE_BYTES` of it, a line that this cuts left out; None when there is none."""
    location: str | None
    """Where a redirect leads."""


def snapshot_files(snapshot: Path) -> list[tuple[Path, int]]:
    """Files of a snapshot and their sizes in bytes, sorted; a folder of host folders is one entry of its own.

    Raises `ConfigError` when the path does not exist or is of no known form.
    """
    if snapshot.is_file():
        if form_of(snapshot) is None:
            raise ConfigError(f"robots.snapshot: {snapshot} ends like none of the known forms; choose among {', '.join(_ENDINGS)}, or a folder")
        return [(snapshot, snapshot.stat().st_size)]
    if not snapshot.is_dir():
        raise ConfigError(f"robots.snapshot: {snapshot} does not exist; give a file or folder of robots files")
    files = sorted(path for path in snapshot.rglob("*") if form_of(path) is not None and path.is_file())
    if files:
        return [(path, path.stat().st_size) for path in files]
    hosts = _host_files(snapshot)
    if not hosts:
        raise ConfigError(f"robots.snapshot: {snapshot} holds neither {', '.join(_ENDINGS)} files nor folders HOST/robots.txt")
    return [(snapshot, sum(path.stat().st_size for path in hosts))]


def _host_files(snapshot: Path) -> list[Path]:
    return sorted(path for kind in KINDS for path in snapshot.glob(f"*/{kind}"))


def form_of(path: Path) -> str | None:
    """parquet, jsonl or warc, by the end of the name; None for anything else."""
    name = path.name.lower()
    return next((form for ending, form in _ENDINGS.items() if name.endswith(ending)), None)


def read_fetched(path: Path) -> Iterator[Fetched | None]:
    """Answers of one entry of `snapshot_files`; None stands for a record that cannot be understood, for counting.

    Raises `DataError` when the file is damaged and `ConfigError` when a column is missing.
    """
    if path.is_dir():
        yield from _read_folder(path)
        return
    reader = {"parquet": _read_parquet, "jsonl": _read_jsonl, "warc": _read_warc}[str(form_of(path))]
    try:
        yield from reader(path)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); fetch it again or take it out of the snapshot") from error


def _read_folder(folder: Path) -> Iterator[Fetched | None]:
    for path in _host_files(folder):
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        yield _answer({"host": path.parent.name, "kind": path.name, "content": content})


def _read_parquet(path: Path) -> Iterator[Fetched | None]:
    with pq.ParquetFile(path) as parquet:
        names = parquet.schema_arrow.names
        if missing := [name for name in ("host", "content") if name not in names]:
            raise ConfigError(f"{path}: no column '{missing[0]}' among {', '.join(names)[:200]}; a snapshot needs host and content")
        for batch in record_batches(parquet, _BATCH_ROWS, [name for name in _COLUMNS if name in names]):
            for row in batch.to_pylist():
                yield _answer(row)


def _read_jsonl(path: Path) -> Iterator[Fetched | None]:
    with pa.input_stream(str(path), compression="detect") as stream:
        for line in _lines(stream):
            if line is None:
                yield None
            elif line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                yield _answer(record) if isinstance(record, dict) else None


def _lines(stream: Any) -> Iterator[bytes | None]:
    """Lines of a stream; None for one that is longer than `MAX_LINE_BYTES`, of which nothing is held."""
    rest, skipping = b"", False
    while block := stream.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield None if skipping or len(line) > MAX_LINE_BYTES else line
            skipping = False
        if len(rest) > MAX_LINE_BYTES:
            rest, skipping = b"", True
    if rest or skipping:
        yield None if skipping else rest


def _read_warc(path: Path) -> Iterator[Fetched | None]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    for record in ArchiveIterator(str(path), record_types=WarcRecordType.response, auto_decode="all", fsspec_args=False):
        url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
        try:
            name = urlsplit(url).path.removeprefix("/")
        except ValueError:
            name = ""
        if name not in KINDS or record.http_headers is None:
            yield None
            continue
        content = record.reader.read(MAX_FILE_BYTES + 1)
        headers = record.http_headers
        yield _answer(
            {"host": url, "kind": name, "fetched": record.record_date, "status": headers.status_code, "content": content, "location": headers.get("Location")}
        )


def _answer(row: dict[str, Any]) -> Fetched | None:
    """A record of any form made one of ours; None when its host, status or kind means nothing."""
    host, kind, status, content = row.get("host"), row.get("kind") or KINDS[0], row.get("status"), row.get("content")
    authority = _authority(host) if isinstance(host, str) else None
    if authority is None or kind not in KINDS or not (status is None or isinstance(status, int)) or not isinstance(content, str | bytes | None):
        return None
    text = content.decode("utf-8", errors="replace") if isinstance(content, bytes) else content
    location = row.get("location")
    return Fetched(
        authority,
        KINDS.index(kind),
        _iso(row.get("fetched")),
        status,
        _cut(text and text.removeprefix("\ufeff")),
        location if isinstance(location, str) else None,
    )


def _authority(host: str) -> str | None:
    """`example.com`, `example.com:8080`, or an address whose host is meant."""
    if host.isascii() and ":" not in host:
        return canonical_host(host)
    return _host_of(host if "://" in host else f"http://{host}/")


def _host_of(url: str) -> str | None:
    found: str | None = hosts_of(pa.array([url], pa.string()))[0].as_py()
    return found


def _cut(text: str | None) -> str | None:
    """At most `MAX_FILE_BYTES` characters; the line that this cuts is left out, for half a rule is another rule."""
    if text is None or len(text) <= MAX_FILE_BYTES:
        return text
    return text[:MAX_FILE_BYTES].rpartition("\n")[0]


def _iso(value: Any) -> str:
    """A date or time stamp as ISO 8601 in UTC, to the second, so that text order is time order; '' for what is none."""
    if isinstance(value, str):
        try:
            if _STAMP.fullmatch(value):  # of CDX files
                value = datetime.strptime(value, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            elif _DATE.match(value):
                value = datetime.fromisoformat(value)
        except ValueError:
            return ""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        return ""
    value = value if value.tzinfo else value.replace(tzinfo=UTC)
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}"
