"""The stage runner: skip what is complete, resume what was begun, publish the manifest last.

A stage is a function `run(config, inputs, out) -> Manifest` whose body is handed to `run_stage`. Kill it anywhere and
run it again: the same bytes. A sharded stage maps a pure function of one shard over a process pool with
`shards.map_shards`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

from iberlm import __version__
from iberlm.core.cluster import IN_JOB, RANK_REPORTS
from iberlm.core.errors import ConfigError, CorruptError, ResourceError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, sha256_file, sha256_json, write_json
from iberlm.core.manifest import FILE_NAME, Counts, Manifest, Output, find_manifest
from iberlm.core.process import Usage, die_with_parent, energy_estimate
from iberlm.core.progress import say
from iberlm.core.scope import EnoughError, scope

BEGUN = ".stage.json"
"""Marks a folder as a stage's own: its name, and the key it was begun with, so that only matching shards are resumed."""
LOCK = ".lock"
SHARDS = ".shards"
_JOB_PATIENCE_SECONDS = 600.0
_SHARE_PATIENCE_SECONDS = 60.0
"""How long an element of an array waits for another one to prepare the stage's folder."""

PLACE = {"place": True}
"""Field metadata of settings that say where or how wide a stage runs, never what it makes: left out of the key."""


def place(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that does not decide the output: paths, worker counts, dry_run. See `identity`."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata=PLACE)


def identity(config: Any) -> dict[str, Any]:
    """The settings of a stage that decide its output, as plain values: what is hashed into its key."""
    value: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        if entry.metadata.get("place"):
            continue
        setting = getattr(config, entry.name)
        value[entry.name] = identity(setting) if dataclasses.is_dataclass(setting) else _plain(setting)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return identity(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return value


@dataclass
class Record:
    """What a running stage notes for its manifest."""

    folder: Path
    key: str
    counts: Counts = field(default_factory=Counts)
    metrics: dict[str, Any] = field(default_factory=dict)
    cards: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, int | None] = field(default_factory=dict)
    seconds_elsewhere: float = 0.0
    """Wall seconds that were spent before this process, by ranks that srun started."""
    replace_earlier: Callable[[], None] = lambda: None
    """Empty the folder of what an earlier run left; of a stage that `replaces_late`."""
    _pools: dict[int, ProcessPoolExecutor] = field(default_factory=dict)

    def pool(self, workers: int) -> ProcessPoolExecutor:
        """Worker processes that stay for all the steps of the stage: starting them costs seconds of imports."""
        if workers not in self._pools:
            # spawn: a fork of a process with Arrow or BLAS threads can hang
            context = multiprocessing.get_context("spawn")
            self._pools[workers] = ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent, initargs=(os.getpid(),))
        return self._pools[workers]

    def close(self) -> None:
        """End the worker processes; what waits is cancelled."""
        while self._pools:
            self._pools.popitem()[1].shutdown(wait=True, cancel_futures=True)

    def output(self, path: Path, rows: int | None = None) -> None:
        """Note a file, already published below the stage's folder; its checksum is taken when the stage ends."""
        self.outputs[path.relative_to(self.folder).as_posix()] = rows

    def output_tree(self, folder: Path) -> None:
        """Note every file below `folder`."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.output(path)


class WouldRunError(Exception):
    """Raised instead of doing the work under `dry_run`: the stage is not complete and would run in `out`, with `key` where its inputs are there."""

    def __init__(self, stage: str, out: Path, key: str = "") -> None:
        super().__init__(f"{stage}: would run in {shown(out)}")
        self.stage, self.out, self.key = stage, out, key


def shown(path: Path) -> Path:
    """A path as messages show it: relative to the current folder when it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class Body(Protocol):
    """The work of a stage: write outputs below `out`, note them in `record`."""

    def __call__(self, config: Any, inputs: list[Manifest], out: Path, record: Record) -> None: ...


def stage_key(stage: str, version: int, config: Any, inputs: Sequence[Manifest], fingerprint: Any = None) -> str:
    """Hash of all that decides a stage's output: its name, version and settings, its inputs' content, outside files."""
    return sha256_json([stage, version, identity(config), [manifest.content_hash for manifest in inputs], fingerprint])


def complete_manifest(key: str, out: Path) -> Manifest | None:
    """The manifest in `out` if it was made with `key` and its files are all there in their sizes; None otherwise."""
    try:
        manifest = find_manifest(out)
        if manifest is None or manifest.key != key:
            return None
        manifest.check_files()
    except CorruptError as error:
        say(f"{error}")
        return None
    return manifest


def run_stage(
    stage: str,
    version: int,
    body: Body,
    config: Any,
    inputs: list[Manifest],
    out: Path,
    *,
    fingerprint: Any = None,
    resumable: bool = False,
    whole_inputs: bool = True,
    replaces_late: bool = False,
) -> Manifest:
    """Run `body` in `out` unless a matching manifest is there; return the manifest.

    `version` is raised whenever the stage's output changes for the same settings. `fingerprint` is a JSON value that
    stands for inputs that have no manifest (the user's own files). With `resumable`, the files of an interrupted run
    with the same key are kept for `body` to go on from; otherwise (and whenever the key differs) the folder is
    emptied first, but only if it is one that this stage made; with `replaces_late` only when `body` calls
    `record.replace_earlier()`, so that what an earlier run left outlives one that fails. Raises `CorruptError` when a file of `inputs` is missing or
    has another size (unless `whole_inputs` is off: the report tells of such files), `ConfigError` for a folder with
    foreign files and `ResourceError` when another process works in it or the disk is full.
    """
    out = out.absolute()
    key = stage_key(stage, version, config, inputs, fingerprint)
    if (done := complete_manifest(key, out)) is not None:
        say(f"{stage}: complete, skipped ({shown(out)})")
        if scope().until == stage:
            raise EnoughError
        return done
    if getattr(config, "dry_run", False):
        raise WouldRunError(stage, out, key)
    for manifest in inputs if whole_inputs else ():
        manifest.check_files()
    _check_place(stage, out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if scope().share is not None:
        _prepare_share(stage, out, key, resumable)
    with _lock(stage, out, shared=scope().share is not None):
        if scope().share is None and not replaces_late:
            with disk_errors(out):
                _prepare(stage, out, key, resumable)
        say(f"{stage}: start ({shown(out)})")
        wall, before = time.monotonic(), Usage.now()
        record = Record(out, key, replace_earlier=functools.partial(_prepare, stage, out, key, resumable))
        for manifest in inputs:
            record.cards.update(manifest.cards)
        with disk_errors(out), contextlib.closing(record):
            body(config, inputs, out, record)
        if scope().share is not None:
            raise ConfigError(f"{stage}: has no shards that could be shared out; run it without --share")
        after, seconds = Usage.now(), time.monotonic() - wall + record.seconds_elsewhere
        cpu_seconds = after.cpu_seconds - before.cpu_seconds
        manifest = Manifest(
            stage=stage,
            key=key,
            config=_plain_all(config),
            config_hash=sha256_json(identity(config)),
            code_version=code_version(),
            inputs=[{"stage": entry.stage, "folder": str(entry.folder), "key": entry.key, "content": entry.content_hash} for entry in inputs],
            outputs=[Output(name, (out / name).stat().st_size, sha256_file(out / name), rows) for name, rows in record.outputs.items()],
            counts=record.counts,
            metrics=record.metrics,
            cards=dict(sorted(record.cards.items())),
            wall_seconds=round(seconds, 3),
            cpu_seconds=round(cpu_seconds, 3),
            peak_memory_bytes=after.peak_memory_bytes,
            energy=energy_estimate(cpu_seconds),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            folder=out,
        )
        with disk_errors(out):
            manifest.write()
            shutil.rmtree(out / SHARDS, ignore_errors=True)
        say(f"{stage}: done in {seconds:.1f} s")
    if scope().until == stage:
        raise EnoughError
    return manifest


def _plain_all(config: Any) -> dict[str, Any]:
    return {entry.name: _full(getattr(config, entry.name)) for entry in dataclasses.fields(config)}


def _full(value: Any) -> Any:
    return _plain_all(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else _plain(value)


@functools.cache
def code_version() -> str:
    """Version of the package, with the commit (and '+changes' for a dirty tree) when it runs from a clone."""
    clone = Path(__file__).resolve().parents[3]
    if not (clone / ".git").exists():
        return __version__
    # without optional locks: a kill in this moment must not leave a lock in the user's clone
    git = ["git", "--no-optional-locks", "-C", str(clone)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} ({commit}{'+changes' if dirty else ''})"


@contextlib.contextmanager
def _lock(stage: str, out: Path, *, shared: bool = False) -> Iterator[None]:
    with disk_errors(out):
        lock = (out / LOCK).open("w")
    with lock as stream:
        try:
            _take(stream, shared)
        except BlockingIOError:
            raise ResourceError(f"{stage}: another process is writing {out}; wait for it or choose another run_dir") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            say(f"{stage}: the file system of {out} has no locks: take care that no second run writes there")
        yield


def _take(stream: IO[str], shared: bool) -> None:
    """Lock a file. Only elements of an array share a lock, and these wait for the one that prepares the folder."""
    deadline = time.monotonic() + _patience(shared)
    while True:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _patience(shared: bool) -> float:
    """Seconds to wait for a lock. File systems of several nodes may hold that of a node that died for minutes, and a job has nobody to try again."""
    return _JOB_PATIENCE_SECONDS if IN_JOB in os.environ else _SHARE_PATIENCE_SECONDS if shared else 0.0


@contextlib.contextmanager
def held_by_first_rank(stage: str, out: Path) -> Iterator[None]:
    """Inside, a rank that srun started holds the stage's folder if it is the first: the process that keeps the stage's books has ended meanwhile."""
    with _lock(stage, out) if RANK_REPORTS in os.environ and os.environ.get("RANK") == "0" else contextlib.nullcontext():
        yield


def _check_place(stage: str, out: Path) -> None:
    """Raise `ConfigError` unless `out` may become this stage's folder: new, empty, or made by the same stage. Nothing is touched."""
    try:
        entries = sorted(entry.name for entry in out.iterdir() if entry.name != LOCK)
    except FileNotFoundError:
        if (blocking := next((parent for parent in out.parents if parent.exists()), None)) is not None and not blocking.is_dir():
            raise ConfigError(f"{stage}: {blocking} is a file, and the folder {out} cannot be made below it; choose another run_dir") from None
        return
    except NotADirectoryError:
        raise ConfigError(f"{stage}: {out} is, or lies below, a file; choose a folder") from None
    if not entries:
        return
    owner = begun(out).get("stage")
    if owner is None:
        with contextlib.suppress(CorruptError):
            owner = manifest.stage if (manifest := find_manifest(out)) else None
    if owner is None:
        raise ConfigError(f"{stage}: {out} holds files that no stage of IberLM made ({', '.join(entries[:3])}); choose an empty folder")
    if owner != stage:
        raise ConfigError(f"{stage}: {out} is the folder of the stage '{owner}'; choose another folder, or delete it")


def begun(out: Path) -> dict[str, str]:
    """What the mark in a stage's folder says; empty when there is none or it cannot be read."""
    try:
        value = json.loads((out / BEGUN).read_text(encoding="utf-8"))
        return {"stage": str(value["stage"]), "key": str(value["key"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _prepare(stage: str, out: Path, key: str, resumable: bool) -> None:
    mark = out / BEGUN
    same = not (out / FILE_NAME).exists() and begun(out).get("key") == key
    (out / FILE_NAME).unlink(missing_ok=True)
    keep = {LOCK, BEGUN} | ({entry.name for entry in out.iterdir()} if same and resumable else set())
    if not mark.exists():  # before anything is deleted: a kill in between must leave the folder recognisable
        write_json(mark, {"stage": stage, "key": key})
    for entry in out.iterdir():
        if entry.name in keep:
            continue
        _delete(entry)
    if not same:
        write_json(mark, {"stage": stage, "key": key})
    elif resumable:
        for unfinished in list(out.rglob(f".*{TEMPORARY_SUFFIX}*")):  # of processes that were killed: `out` is locked, so none is alive
            _delete(unfinished)
        say(f"{stage}: going on from what a run with the same settings left in {shown(out)}")


def _prepare_share(stage: str, out: Path, key: str, resumable: bool) -> None:
    """Prepare the folder unless another element of the array has, or is doing it now."""
    deadline = time.monotonic() + _patience(shared=True)
    while (out / FILE_NAME).exists() or begun(out).get("key") != key:
        try:
            with _lock(stage, out), disk_errors(out):
                if (out / FILE_NAME).exists() or begun(out).get("key") != key:
                    _prepare(stage, out, key, resumable)
        except ResourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
