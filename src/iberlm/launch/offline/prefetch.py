"""Fills a bundle: downloads what jobs need from a hub, pins it by commit, and checks that it loads with every hub switched off.

A second call downloads nothing; one after an interruption goes on where the first ended.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError, IberlmError, ResourceError
from iberlm.core.files import disk_errors, sha256_file
from iberlm.core.needs import COMMIT, DATASET, MODEL, TOKENIZER, Need
from iberlm.core.progress import say
from iberlm.core.stage import code_version
from iberlm.launch.offline import hub
from iberlm.launch.offline.bundle import HUB, NUMBA, Item, bundle_environment, offline_environment, read_bundle, write_bundle
from iberlm.launch.offline.data_sets import folder_of, gather_data_set, missing_in_folder, stage_folder

_DOWNLOADS, _LOCK = ".downloads", ".lock"
_FROM_HUB = (MODEL, TOKENIZER)


class GatedError(ResourceError):
    """A model or data set whose page asks for an account's consent."""


@contextmanager
def _locked(bundle: Path) -> Iterator[None]:
    with disk_errors(bundle):
        bundle.mkdir(parents=True, exist_ok=True)
        lock = (bundle / _LOCK).open("w")
    with lock as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"{bundle}: another `iberlm prefetch` fills it; wait for it or choose another folder") from None
        except OSError:
            say(f"prefetch: the file system of {bundle} has no locks: take care that no second prefetch fills it")
        yield


def gather(bundle: Path, needs: list[Need]) -> None:
    """Bring everything that `needs` ask of a hub into `bundle`, each thing complete before the next, and record it.

    What is there already is compared with its checksums, and what is damaged is fetched again.
    Raises `ResourceError` when the hub cannot be reached, asks for a token, or the disk is full; `ConfigError` for a name or
    commit that the hub does not have; `DataError` for what is refused: models without safetensors, or that need code of their own;
    `CorruptError` for a download that is damaged. What was complete before stays. Of data sets that the hub does not give, all are tried
    before they are told.
    """
    with _locked(bundle):
        items = read_bundle(bundle)
        write_bundle(bundle, items, code_version())
        failed: list[IberlmError] = []
        for need in needs:
            if need.kind == DATASET:
                try:
                    _stage(bundle, need)
                except (ConfigError, DataError, GatedError) as error:  # of this one only: the next can be had
                    say(f"prefetch: {error}")
                    failed.append(error)
            if need.kind not in _FROM_HUB:
                continue
            before = next((item for item in items if item.is_for(need)), None)
            problems = before.problems(bundle, checksums=True) if before is not None else []
            if before is not None and not problems:
                say(f"prefetch: {need.kind} {need.title}: already there")
                if need.used_by in before.used_by:
                    continue
                found = replace(before, used_by=sorted({*before.used_by, need.used_by}))
            else:
                for problem in problems:
                    say(f"prefetch: {problem}; it is fetched again")
                if before is not None:
                    _discard(bundle, before)
                found = _fetch(bundle, need, before.commit if before is not None else "")
            items = [item for item in items if item is not before] + [found]
            write_bundle(bundle, items, code_version())
        shutil.rmtree(bundle / _DOWNLOADS, ignore_errors=True)  # the files that data sets came in
        for path in (bundle / HUB).rglob("*.incomplete"):  # what a kill left: the libraries begin such a file again under another name
            path.unlink() if path.is_file() else shutil.rmtree(path)
    _tell(failed)


def _tell(failed: list[IberlmError]) -> None:
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise DataError(f"{len(failed)} data sets cannot be had; the others are there:\n  " + "\n  ".join(map(str, failed)))


def _discard(bundle: Path, item: Item) -> None:
    """Delete the damaged files of an item, which the libraries would believe."""
    for entry in item.files:
        path = bundle / entry["path"]
        whole = path.is_file() and path.stat().st_size == entry["bytes"] and sha256_file(path) == entry["sha256"]
        if not whole:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def gather_from_folder(bundle: Path, needs: list[Need], place: Path) -> None:
    """Stage the data sets that `needs` ask for from a folder of files that somebody copied; no hub is asked.

    Raises `DataError`, after all others are staged, for data sets that the folder does not have.
    """
    with _locked(bundle):
        write_bundle(bundle, read_bundle(bundle), code_version())
        for need in needs:
            if need.kind == DATASET and (found := folder_of(place, need.name)) is not None:
                say(f"prefetch: {need.kind} {need.title} from {found}")
                stage_folder(bundle, need, found, partial(_ask, need, _online(bundle) | _downloads(bundle) | offline_environment()))
        shutil.rmtree(bundle / _DOWNLOADS, ignore_errors=True)
    missing_in_folder(needs, place)


def _stage(bundle: Path, need: Need) -> None:
    """Bring a data set's splits into the bundle."""
    _check_commit(need)
    environment = _online(bundle)
    gather_data_set(bundle, need, lambda: _newest(need, environment), partial(_ask, need, environment | _downloads(bundle)))


def _downloads(bundle: Path) -> dict[str, str]:
    """Variables for files that are not kept. The switch is for xet, which keeps a second copy."""
    folder = (bundle / _DOWNLOADS).absolute()
    return {"HF_HUB_CACHE": str(folder), "HF_DATASETS_CACHE": str(folder / "prepared"), "HF_HUB_DISABLE_XET": "1"}


def _check_commit(need: Need) -> None:
    if need.revision and not COMMIT.fullmatch(need.revision):
        raise ConfigError(f"{need.used_by}: '{need.revision}' is not a commit of {need.name}; pin it by its 40 hexadecimal digits")


def _newest(need: Need, environment: dict[str, str]) -> str:
    kind = DATASET if need.kind == DATASET else MODEL
    return str(_ask(need, environment, action="repository", name=need.name, revision="", kind=kind)["commit"])


def record(bundle: Path, item: Item) -> None:
    """Put an item that was gathered elsewhere (the packages) into the record, in place of the one of its kind and name."""
    with _locked(bundle):
        others = [entry for entry in read_bundle(bundle) if (entry.kind, entry.name) != (item.kind, item.name)]
        write_bundle(bundle, [*others, item], code_version())


def _fetch(bundle: Path, need: Need, commit: str) -> Item:
    """Download a model or a tokenizer; `commit` is the one that a damaged item had."""
    _check_commit(need)
    environment = _online(bundle)
    commit = need.revision or commit or _newest(need, environment)
    item = Item(kind=need.kind, name=need.name, revision=need.revision, commit=commit, used_by=[need.used_by])
    say(f"prefetch: {need.kind} {need.title} at {item.commit[:12]}, for {need.used_by}")
    return _fetch_model(bundle, need, item, environment)


def _fetch_model(bundle: Path, need: Need, item: Item, environment: dict[str, str]) -> Item:
    request = {"action": "model", "name": need.name, "revision": item.commit, "tokenizer_only": need.kind == TOKENIZER}
    answer = _ask(need, environment, **request)
    files = [Path(answer["folder"]) / name for name in answer["files"]]
    if damaged := [path for path in files if not _whole(path)]:
        for path in damaged:  # the cache would be believed the next time
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        raise CorruptError(f"{need.used_by}: {need.title}: {damaged[0].name} came damaged from the hub and was deleted; run the same command again")
    return replace(item, files=_entries(bundle, files))


def _whole(path: Path) -> bool:
    """Large files lie in the cache under their SHA-256, as the hub tells it: libraries compare sizes only."""
    name = path.resolve().name
    return len(name) != 64 or sha256_file(path) == name


def _entries(bundle: Path, files: list[Path]) -> list[dict[str, Any]]:
    root = bundle.absolute()
    return [{"path": path.absolute().relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files]


def _online(bundle: Path) -> dict[str, str]:
    """This process's environment with the bundle's folders. The user's token stays where it is: below HF_HOME it would travel with the bundle."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    token = os.environ.get("HF_TOKEN_PATH") or str(Path(home) / "token")
    folders = {name: value for name, value in bundle_environment(bundle).items() if name.startswith("HF_") and value.startswith("/")}
    quiet = {} if sys.stderr.isatty() else {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return dict(os.environ) | folders | quiet | {"HF_TOKEN_PATH": token, "HF_HUB_DISABLE_TELEMETRY": "1"}


def _ask(need: Need, environment: dict[str, str], **request: Any) -> dict[str, Any]:
    """The answer of `iberlm.launch.offline.hub` in a process with this environment. No time limit: a download takes what it takes."""
    command = [sys.executable, "-m", "iberlm.launch.offline.hub"]
    ended = subprocess.run(command, input=json.dumps(request), stdout=subprocess.PIPE, env=environment, text=True, check=False)
    answer: dict[str, Any] = {}
    with suppress(ValueError):
        answer = json.loads(ended.stdout)
    if ended.returncode != 0 or not answer:
        raise ResourceError(f"{need.used_by}: {need.title}: the process that asks the hub ended with status {ended.returncode}; run the same command again")
    if "error" in answer:
        raise _explained(need, environment, answer["error"], answer["message"])
    return answer


def _explained(need: Need, environment: dict[str, str], kind: str, message: str) -> IberlmError:
    what = f"{need.used_by}: the {need.kind} {need.title}"
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    if kind == hub.OFFLINE:
        switches = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE") if environment.get(name)]
        return ResourceError(f"{what} must be downloaded, and the hub is switched off ({', '.join(switches)}); unset that, or do it where there is internet")
    if kind == hub.UNREACHABLE:
        return ResourceError(
            f"{what}: the hub {endpoint} cannot be reached ({message}). Run the same command again, which goes on where this one ended, or on a machine with "
            "internet, and copy the bundle"
        )
    if kind == hub.GATED:
        return GatedError(f"{what} is gated: ask for access on its page of {endpoint}, then put a token of your account into the variable HF_TOKEN ({message})")
    if kind == hub.UNKNOWN:
        return ConfigError(f"{what} is not on the hub {endpoint}, or is private: see name and commit; for a private one put a token into HF_TOKEN ({message})")
    if kind == hub.DISK:
        return ResourceError(f"{what}: the disk (or quota) of the bundle is full: {message}; free some space and run the same command again")
    if kind == hub.REFUSED:
        return DataError(f"{what} {message}")
    return DataError(f"{what} cannot be had: {message}")


def compile_loops(bundle: Path, command: list[str]) -> None:
    """Run `command`, which calls the loops of curation, with the bundle's cache of compiled loops.

    numba takes a loop from there where the code has the same path and time of change, and the processor is of the same kind;
    otherwise jobs compile it as they do without. Raises `ResourceError` when the command fails.
    """
    folder = bundle.absolute() / NUMBA
    with _locked(bundle), disk_errors(folder):
        folder.mkdir(exist_ok=True)
        ended = subprocess.run(command, env=dict(os.environ) | {"NUMBA_CACHE_DIR": str(folder)}, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        raise ResourceError(f"prefetch: the loops of curation could not be compiled: {' '.join(ended.stderr.split())[-300:]}")
