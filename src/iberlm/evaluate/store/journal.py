"""The journal of an evaluation that runs: what the model answered, slice by slice, until the rows are in the store.

A journal is a file of lines that are only ever appended. Each line has a checksum, so a line that a kill (or a failing disk) cut
short is known as such; it is dropped, and its slice is computed again.
"""

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

from iberlm.core.files import disk_errors, fsync
from iberlm.core.progress import say

FOLDER = "journal"
_CHECKSUM_CHARACTERS = 16
_LONGEST_NAME = 120
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Journal:
    """Answers by slice of one evaluation, in `STORE/journal/NAME.WRITER.jsonl`.

    Each process that computes slices of the same evaluation has a file of its own, named by `writer`; all are read. An answer is any JSON
    value; NaN and the infinities are allowed, tuples come back as lists, and every float comes back with the same bits.
    """

    def __init__(self, folder: Path, name: str, writer: str = "") -> None:
        """`folder` is the store's. Nothing is created before the first note."""
        self._folder = Path(folder) / FOLDER
        self._name = _file_safe(name)
        self._path = self._folder / f"{self._name}.{_file_safe(writer or 'main')}.jsonl"
        self._descriptor: int | None = None

    def read(self) -> dict[str, list[Any]]:
        """Answers by slice, of all writers. Damaged lines are left out, and said where they are not the last one."""
        found: dict[str, list[Any]] = {}
        for path in self._files():
            content = _content(path)
            entries, whole, damaged = _parse(content)
            for slice_id, answers in entries:
                found.setdefault(slice_id, answers)
            if damaged:
                say(f"{path}: {damaged} damaged lines; what they held is computed again")
            elif whole < len(content):
                say(f"{path}: the last line was cut short; what it held is computed again")
        return found

    def note(self, slice_id: str, answers: list[Any]) -> None:
        """Append the answers of one slice; on return they are on the disk. Raises `ResourceError` when the disk is full or read-only."""
        body = json.dumps([slice_id, answers], separators=(",", ":"))  # ASCII: a lone surrogate in a model's output is no valid UTF-8
        line = f"{_checksum(body.encode())} {body}\n".encode()
        with disk_errors(self._path):
            if self._descriptor is None:
                self._descriptor = self._open()
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                _write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, end)  # or the next line would be glued to half of this one
                raise

    def discard(self) -> None:
        """Delete the journal, of all writers: to be called after the rows are in the store."""
        self.close()
        with disk_errors(self._folder):
            for path in self._files():
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close this writer's file; a later note opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}.*.jsonl"))

    def _open(self) -> int:
        """The file's descriptor, with the rest of a line that was cut short taken away."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            content = self._path.read_bytes()
            _, whole, _ = _parse(content)
            if whole < len(content):
                os.ftruncate(descriptor, whole)
            fsync(self._folder)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def unfinished(folder: Path) -> dict[str, int]:
    """Names of the evaluations whose journals lie in the store `folder`, and how many slices each has."""
    names = sorted({unquote(path.name.split(".")[0]) for path in (Path(folder) / FOLDER).glob("*.*.jsonl")})
    return {name: sum(len(_parse(_content(path))[0]) for path in Journal(folder, name)._files()) for name in names}


def _content(path: Path) -> bytes:
    """Content of a file that an evaluation at work may just have discarded: then nothing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _parse(content: bytes) -> tuple[list[tuple[str, list[Any]]], int, int]:
    """Entries of the good lines, the length in bytes up to the end of the last good one, and how many bad lines lie before that."""
    entries: list[tuple[str, list[Any]]] = []
    whole, position, bad, damaged = 0, 0, 0, 0
    for line in content.splitlines(keepends=True):
        position += len(line)
        checksum, _, body = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum.decode("latin-1") != _checksum(body):
            bad += 1
            continue
        slice_id, answers = json.loads(body)
        entries.append((slice_id, answers))
        whole, damaged = position, bad
    return entries, whole, damaged


def _checksum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:_CHECKSUM_CHARACTERS]


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _file_safe(name: str) -> str:
    """A name as part of a file's name: without '/' and '.', different for different names, and short enough."""
    safe = quote(name, safe="").replace(".", "%2E")
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[: _LONGEST_NAME - 33]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@contextmanager
def writing(folder: Path, name: str) -> Iterator[None]:
    """Hold the evaluation `name` of the store `folder`: inside, no other process is in it.

    Waits, after one message that names the holder, while another process has it. The system frees the lock of a process that dies. On
    a file system without locks it says so and goes on. Raises `ResourceError` where the store cannot be written to.
    """
    path = Path(folder) / FOLDER / f"{_file_safe(name)}.lock"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = _locked(path, name)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
    with stream:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees below that it is gone


def _locked(path: Path, name: str) -> IO[str]:
    """The lock's file, locked. A holder deletes it at the end, so whoever gets the lock of a deleted file tries again with a new one."""
    told = False
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    stream.seek(0)
                    holder = stream.read().strip() or "another process"
                    say(f"{path.parent.parent}: '{name}' is held by {holder}; waiting for it to end")
                    told = True
                fcntl.flock(stream, fcntl.LOCK_EX)
            if _same_file(stream, path):
                return stream
        except OSError as error:
            if error.errno in _NO_LOCKS:
                say(f"the file system of {path.parent} has no locks: take care that no second process works on '{name}' there")
                return stream
            stream.close()
            raise
        except BaseException:
            stream.close()
            raise
        stream.close()


def _same_file(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
