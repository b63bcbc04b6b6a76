"""Atomic files and checksums: write beside, fsync, rename. A file under its final name is whole."""

import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from iberlm.core.errors import IberlmError, ResourceError

_BLOCK_BYTES = 1 << 20
TEMPORARY_SUFFIX = ".partial"
"""Files with this ending are unfinished; every stage may delete them."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' and 'read-only' into a `ResourceError` that names `path`; libraries in Rust tell it by text only."""
    try:
        yield
    except IberlmError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOSPC if os.strerror(errno.ENOSPC) in str(error) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{path}: the disk (or quota) is full; free some space and run the same command again") from error
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ResourceError(f"{path}: cannot be written ({os.strerror(error.errno)})") from error
        raise


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync and rename it into place, on failure remove it.

    The temporary name keeps the extension last, for libraries that look at the ending, and has the host and the process id,
    for jobs on several nodes: `documents.parquet` is written as `.documents.HOST-PID.partial.parquet`.
    """
    temporary = path.with_name(f".{path.stem}.{socket.gethostname()[:64]}-{os.getpid()}{TEMPORARY_SUFFIX}{path.suffix}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
    finally:
        with suppress(OSError):  # a disk that has turned read-only: the error above is the one to tell
            temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys sorted, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        _feed(digest, stream)
    return digest.hexdigest()


def _feed(digest: "hashlib._Hash", stream: IO[bytes]) -> None:
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
