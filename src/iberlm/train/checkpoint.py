"""Checkpoints: written beside, checksummed, renamed into place; a damaged one is never loaded.

single, ddp and fsdp2 use torch.distributed.checkpoint, whose files fit any of the three and any number of ranks. zero2 uses
DeepSpeed's own files, which fit the same number of ranks. Beside them lies `checkpoint.json`: step, fingerprint, and the
size and SHA-256 of every file. Model, optimiser and step are the whole state: the data order is a function of the step
and nothing in the model is random.
"""

import contextlib
import errno
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, fsync, sha256_file, write_json
from iberlm.core.progress import say
from iberlm.core.stage import shown
from iberlm.train.strategy import Parallel

RECORD = "checkpoint.json"
_DEEPSPEED_TAG = "zero2"
_FULL_BELOW_BYTES = 4 << 20


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, oldest first, valid or not."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def save(parallel: Parallel, folder: Path, step: int, fingerprint: dict[str, Any], keep_last: int) -> Path:
    """Publish the state after `step` steps and delete all but the `keep_last` newest. All ranks call this."""
    path = checkpoint_path(folder, step)
    temporary = folder / f".{path.name}{TEMPORARY_SUFFIX}"
    if parallel.rank == 0:
        with disk_errors(path):
            for left in folder.glob(f".step-*{TEMPORARY_SUFFIX}"):
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
    parallel.barrier()
    with _dcp(path):
        _write_state(parallel, temporary)
    parallel.barrier()
    files = {name: entry for part in parallel.gather_objects(_checksums(temporary, parallel.rank, parallel.world)) for name, entry in part.items()}
    if parallel.rank == 0:
        with disk_errors(path):
            record = {"step": step, "format": _format(parallel), "ranks": parallel.world, "fingerprint": fingerprint, "files": dict(sorted(files.items()))}
            write_json(temporary / RECORD, record)
            if path.exists():  # a damaged one of the same step, left behind when this run fell back
                shutil.rmtree(path)
            temporary.replace(path)
            fsync(folder)
            for old in list_checkpoints(folder)[:-keep_last]:
                shutil.rmtree(old)
        say(f"checkpoint: saved {shown(path)}")
    parallel.barrier()
    return path


def resume(parallel: Parallel, folder: Path, fingerprint: dict[str, Any], named: str = "") -> int:
    """Load the newest valid checkpoint of `folder`, else the `named` one, else nothing; return the steps already done.

    A damaged checkpoint of `folder` is passed over with a printed line; a damaged `named` one raises `CorruptError`.
    `ConfigError` when the fingerprint differs or the format does not fit the strategy. All ranks call this.
    """
    found: list[Path] = parallel.broadcast_object(list_checkpoints(folder))
    for path in reversed(found):
        problem = _problem(parallel, path)
        if problem is None:
            return _load(parallel, path, fingerprint)
        if parallel.rank == 0:
            fallback = "falling back to the one before" if path != found[0] else named or "no other is left, so training begins anew at step 0"
            say(f"checkpoint: {problem}; {fallback}")
    if named:
        problem = _problem(parallel, Path(named))
        if problem is not None:
            raise CorruptError(f"checkpoint.resume_from: {problem}; name another checkpoint")
        return _load(parallel, Path(named), fingerprint)
    return 0


def _format(parallel: Parallel) -> str:
    return "deepspeed" if parallel.engine is not None else "torch.distributed.checkpoint"


def _write_state(parallel: Parallel, folder: Path) -> None:
    if parallel.engine is not None:
        parallel.engine.save_checkpoint(str(folder), tag=_DEEPSPEED_TAG)
        return
    model, optimizer = get_state_dict(parallel.model, parallel.optimizer)
    save_sharded({"model": model, "optimizer": optimizer}, checkpoint_id=folder, no_dist=not dist.is_initialized())


def _load(parallel: Parallel, path: Path, fingerprint: dict[str, Any]) -> int:
    record = json.loads((path / RECORD).read_text())
    changed = [
        f"{key} (then {_short(record['fingerprint'].get(key))}, now {_short(value)})"
        for key, value in fingerprint.items()
        if record["fingerprint"].get(key) != value
    ]
    if changed:
        raise ConfigError(f"{path}: was saved by another run, differing in {'; '.join(changed)}; give the same settings and data, or another run_dir")
    if record["format"] != _format(parallel):
        raise ConfigError(
            f"{path}: is in the format of {record['format']}, and strategy={parallel.verified.name} reads {_format(parallel)}; keep the strategy that saved it"
        )
    if parallel.engine is not None and record["ranks"] != parallel.world:
        raise ConfigError(f"{path}: was saved by zero2 on {record['ranks']} ranks and fits only as many; now there are {parallel.world}")
    if parallel.engine is not None:
        parallel.engine.load_checkpoint(str(path), tag=_DEEPSPEED_TAG)
    else:
        model, optimizer = get_state_dict(parallel.model, parallel.optimizer)
        with _dcp(path):
            load_sharded({"model": model, "optimizer": optimizer}, checkpoint_id=path, no_dist=not dist.is_initialized())
        set_state_dict(parallel.model, parallel.optimizer, model_state_dict=model, optim_state_dict=optimizer)
    if parallel.rank == 0:
        say(f"checkpoint: going on from {shown(path)}")
    return int(record["step"])


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."


def _data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)


def _checksums(folder: Path, rank: int, world: int) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of one rank's share of the files: hashing 100 GB on one rank would take minutes."""
    files = {}
    for path in _data_files(folder)[rank::world]:
        fsync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


def _problem(parallel: Parallel, path: Path) -> str | None:
    """What is wrong with a checkpoint, the same answer on every rank; None when it is whole."""
    problems = parallel.gather_objects(_problem_of_share(path, parallel.rank, parallel.world))
    return next((problem for problem in problems if problem is not None), None)


def _problem_of_share(path: Path, rank: int, world: int) -> str | None:
    try:
        files = json.loads((path / RECORD).read_text())["files"]
        for name, entry in list(files.items())[rank::world]:
            file = path / name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{file} has {file.stat().st_size} bytes where {RECORD} says {entry['bytes']}"
            if sha256_file(file) != entry["sha256"]:
                return f"{file} has another checksum than {RECORD} says"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path / RECORD} cannot be read ({error})"
    return None


@contextlib.contextmanager
def _dcp(path: Path) -> Iterator[None]:
    """Unwrap the operating system's errors, which torch gathers of all ranks in one of its own: a full disk must say so."""
    with disk_errors(path), warnings.catch_warnings():
        # one process without a process group is what `single` means
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            yield
        except (CheckpointException, RuntimeError) as error:
            failures = error.failures.values() if isinstance(error, CheckpointException) else ()
            for failure in failures:
                if isinstance(failure[0], OSError):
                    raise failure[0] from error
            # torch.save's archive writer turns a full disk into "unexpected pos"
            if shutil.disk_usage(path.parent).free < _FULL_BELOW_BYTES:
                raise OSError(errno.ENOSPC, "no space left", str(path)) from error
            raise
