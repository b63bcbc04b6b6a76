"""Files by which anybody who may write a run's folder talks to it: `save` has it save a checkpoint, `exit` save and stop.

Only the first rank looks, in a thread of its own every two seconds, so that the steps wait for no file system; what it has
seen travels with the numbers that the ranks exchange in every step (`loop.optimise`).
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from iberlm.core.cluster import IN_JOB
from iberlm.core.progress import say
from iberlm.core.stopping import STOPPED

SAVE, EXIT = "save", "exit"
_LOOK_SECONDS = 2.0


class Triggers:
    """The files of one run, looked at by its first rank; on other ranks nothing is ever asked."""

    def __init__(self, folders: Sequence[Path], rank: int) -> None:
        self._folders, self._rank = list(dict.fromkeys(folders)), rank
        self._asked: Path | None = None
        self._exit: Path | None = None
        self._served: dict[Path, tuple[int, int]] = {}  # files that could not be removed, as they were when they were obeyed
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._look, name="triggers", daemon=True)

    def __enter__(self) -> "Triggers":
        if self._rank == 0:
            self._begin()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def save(self) -> bool:
        """A `save` file is there and has not been obeyed."""
        return self._asked is not None

    @property
    def exit(self) -> str:
        """The `exit` file that was found; empty: there is none."""
        return str(self._exit or "")

    def saved(self) -> None:
        """A checkpoint is there: remove the files that asked for one."""
        with self._lock:
            for path in (folder / SAVE for folder in self._folders):
                with contextlib.suppress(FileNotFoundError):
                    self._remove(path)
            self._asked = None

    def _remove(self, path: Path) -> None:
        mark = _mark(path)
        try:
            path.unlink()
        except PermissionError as error:
            self._served[path] = mark
            say(f"pretrain: {path} cannot be removed ({error.strerror}); it is obeyed again when it is written again")

    def _begin(self) -> None:
        for folder in self._folders:
            if IN_JOB not in os.environ and (folder / EXIT).exists():
                with contextlib.suppress(FileNotFoundError):
                    (folder / EXIT).unlink()
                say(f"pretrain: {folder / EXIT} had asked the run before to stop; it is removed, since the run was begun again")
        (self._folders[-1] / STOPPED).unlink(missing_ok=True)

    def _look(self) -> None:
        while True:
            with self._lock:  # a file that is being removed has been obeyed
                self._asked = self._asked or next((path for folder in self._folders if self._is_new(path := folder / SAVE)), None)
            self._exit = self._exit or next((path for folder in self._folders if (path := folder / EXIT).exists()), None)
            if self._ended.wait(_LOOK_SECONDS):
                return

    def _is_new(self, path: Path) -> bool:
        try:
            return _mark(path) != self._served.get(path)
        except OSError:
            return False


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
