"""Conversations from files: read, check and split. Every row that is not used is counted under a reason.

Reads .jsonl (plain, .gz or .zst) and .parquet as streams; knows nothing of tokens.
"""

import glob
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import iberlm
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.languages import UNDETERMINED, from_file_safe
from iberlm.finetune.config import KNOWN_LANGUAGES, DataConfig

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FORMATS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MAX_LINE_BYTES = 16 << 20
"""A longer line is no conversation: it is skipped without being held, so that a small compressed file cannot fill the memory."""

Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One conversation: an optional system message, then user and assistant in turn, ending with the assistant."""

    id: str
    language: str
    messages: list[Message]

    @property
    def question(self) -> str:
        """Content of the first message by the user."""
        return next(message["content"] for message in self.messages if message["role"] == "user")


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used, and why."""

    language: str
    reason: str


def data_files(config: DataConfig) -> list[Path]:
    """The files that a configuration means, sorted; `ConfigError` for a pattern without files or an unknown format."""
    if config.kind == "sample":
        found = sorted((Path(iberlm.__file__).parent / "sources" / "sample").glob("instructions.*.jsonl"))
        if not found:
            raise ConfigError("data.kind: this installation has no sample instructions; install IberLM again, or use data.kind=path")
        return found
    files: set[Path] = set()
    for pattern in config.paths:
        # not Path.glob, which takes no absolute pattern
        matches = [Path(match) for match in glob.glob(pattern, recursive=True) if Path(match).is_file()]  # noqa: PTH207
        if not matches:
            raise ConfigError(f"data.paths: no file matches '{pattern}' (current folder {Path.cwd()})")
        files.update(path.absolute() for path in matches)
    for path in sorted(files):
        if not path.name.endswith(FORMATS):
            raise ConfigError(f"data.paths: '{path}' is in no format that is read here; choose among {', '.join(FORMATS)}")
    return sorted(files)


def fingerprint(files: list[Path]) -> list[list[str]]:
    """Name and checksum of each file, for the key of the stage."""
    return [[path.name, sha256_file(path)] for path in files]


def read_rows(files: list[Path], config: DataConfig) -> Iterator[Row | Bad]:
    """Stream all rows, each checked. Raises `DataError` for a file that is cut short or not what its name says."""
    for path in files:
        for number, record in enumerate(_records(path), start=1):
            yield check(record, f"{path.name}:{number}", config) if isinstance(record, dict) else Bad(UNDETERMINED, record)


def check(record: dict[str, Any], place: str, config: DataConfig) -> Row | Bad:
    """A record as a `Row` if it is a whole conversation in a language that is wanted."""
    spelling = record.get("language") or config.language
    if not isinstance(spelling, str) or not spelling:
        return Bad(UNDETERMINED, "no_language")
    language = from_file_safe(spelling)
    if language not in KNOWN_LANGUAGES:
        return Bad(UNDETERMINED, "unknown_language")
    if config.languages and language not in config.languages:
        return Bad(language, "language_not_wanted")
    reason = _fault(record.get("messages"))
    if reason is not None:
        return Bad(language, reason)
    messages = [{"role": message["role"], "content": message["content"].strip()} for message in record["messages"]]
    return Row(str(record.get("id") or place), language, messages)


def _fault(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "no_messages"
    if any(not isinstance(message, dict) or not isinstance(message.get("role"), str) for message in messages):
        return "message_without_role"
    if any(not isinstance(message.get("content"), str) or not message["content"].strip() for message in messages):
        return "empty_content"
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        return "wrong_role_order"
    return None


def held_out(rows: list[Row], share: float, seed: int) -> list[bool]:
    """For each row whether it is for validation: by a hash of (seed, question), so a question is never on both sides.

    With `share` above 0, a language whose hashes would hold nothing out gives the question with the smallest hash, if
    it has another to train on.
    """
    draws = [_draw(row.question, seed) for row in rows]
    out = [draw < share for draw in draws]
    if share <= 0:
        return out
    for language in {row.language for row in rows}:
        own = [index for index, row in enumerate(rows) if row.language == language]
        smallest = min(draws[index] for index in own)
        if not any(out[index] for index in own) and any(draws[index] > smallest for index in own):
            for index in own:
                out[index] = draws[index] == smallest
    return out


def _draw(text: str, seed: int) -> float:
    """A number from 0 to below 1 that stands for a text."""
    digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def _records(path: Path) -> Iterator[dict[str, Any] | str]:
    """Records of a file; a string in place of one that could not be read is the reason."""
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
        return
    try:
        with _opened(path) as stream:
            for line in _lines(stream):
                if line is None:
                    yield "line_too_long"
                elif line.strip():
                    yield _parsed(line)
    except OSError as error:
        if path.suffix not in COMPRESSIONS:
            raise
        raise DataError(f"{path}: cannot be decompressed ({error}): the file is damaged or cut short; fetch it again") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix not in COMPRESSIONS:
        return path.open("rb")
    import pyarrow as pa

    # Arrow's reader notices a zstd frame that is cut short, which that of `zstandard` passes off as the end
    return io.BufferedReader(pa.input_stream(path, compression=COMPRESSIONS[path.suffix]))


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    while line := stream.readline(MAX_LINE_BYTES):
        if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield None


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "not_json"
    return value if isinstance(value, dict) else "not_an_object"


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from iberlm.core.documents import record_batches

    try:
        with pq.ParquetFile(path) as parquet:
            names = parquet.schema_arrow.names
            if "messages" not in names:
                raise DataError(f"{path}: has no column 'messages'; its columns are {', '.join(names)}")
            columns = [name for name in ("id", "language", "messages") if name in names]
            for batch in record_batches(parquet, 1024, columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a whole Parquet file of UTF-8 text ({error}); fetch it again") from error
