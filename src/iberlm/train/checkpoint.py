"""Checkpoints: one format for all strategies, written while training goes on, checksummed, renamed into place; a damaged one is never loaded.

The files are torch.distributed.checkpoint's; what is in them, `checkpoint_state` says, and `checkpoint_files` where they lie. Beside them lies
`checkpoint.json`: step, the state of the run, who wrote it, fingerprint, the model's configuration, and size and SHA-256 of every file. Model, optimisers
and `TrainingState` are the whole state: the data order is a function and nothing in the model is random.
"""

import contextlib
import dataclasses
import errno
import json
import math
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_files
from torch.distributed.tensor import DTensor

from iberlm.core.errors import ConfigError, CorruptError, IberlmError
from iberlm.core.files import disk_errors
from iberlm.core.progress import say
from iberlm.core.stage import shown
from iberlm.train import checkpoint_files as files
from iberlm.train import checkpoint_state, zero_state
from iberlm.train.config_groups import CheckpointConfig
from iberlm.train.export import generation_settings
from iberlm.train.state import TrainingState
from iberlm.train.strategy import Parallel

_FULL_BELOW_BYTES = 4 << 20
_AHEAD_BYTES = 10_000_000
_LONGEST_WRITE = timedelta(hours=12)
"""Ranks wait for each other this long: a slow file system is no reason to end a run."""


class Checkpoints:
    """The checkpoints of one run. All ranks make one, and call each method together.

    `fingerprint` is what must not have changed when a run goes on, `model_config` the model's Hugging Face configuration, `tokenizer_folder` the files that
    an exported model needs beside its weights.
    """

    def __init__(
        self, parallel: Parallel, folder: Path, settings: CheckpointConfig, fingerprint: dict[str, Any], model_config: dict[str, Any], tokenizer_folder: Path
    ) -> None:
        self._parallel = parallel
        self._folder = folder
        self._settings = settings
        self._fingerprint = fingerprint
        self._about = {
            "format": files.FORMAT,
            "ranks": parallel.world,
            "strategy": parallel.verified.name,
            "fingerprint": fingerprint,
            "model": model_config,
            "generation": generation_settings(parallel.module.causal),
            "tokenizer_folder": str(tokenizer_folder.resolve()),
        }
        # a group of its own: the writer's messages must never meet the training loop's
        self._group = dist.new_group(backend="gloo", timeout=_LONGEST_WRITE) if parallel.world > 1 else None
        self._staging = Staging(parallel.device)
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        quiet_single_process()

    def save(self, state: TrainingState, *, bits_per_byte: float | None = None, wait: bool = False) -> None:
        """Publish the state after `state.step` steps as `step-N`, then delete what retention does not keep.

        With `settings.asynchronous` this returns when a copy of the state is made; it is written meanwhile. `wait` writes before it returns. First it waits
        for the save before. Raises what that one raised, and its own errors when it writes here: `ResourceError` for a full disk, on all ranks; the
        checkpoints that were there survive.
        """
        self.wait()
        path = files.checkpoint_path(self._folder, state.step)
        score = bits_per_byte if bits_per_byte is not None and math.isfinite(bits_per_byte) else None
        record = self._about | {"step": state.step, "state": dataclasses.asdict(state), "bits_per_byte": score}
        background = self._settings.asynchronous and not wait
        # what DeepSpeed hands out is put together for the moment, so it is always copied
        copied = background or self._parallel.engine is not None
        own = {key: self._staging.copy(key, tensor) if copied else tensor for key, tensor in self._own_tensors()}
        self._staging.finish()
        if not background:
            self._write(path, record, own)
            return
        # a daemon: a run that fails must not hang on a write; what it leaves has no final name
        self._writer = threading.Thread(target=self._write_apart, args=(path, record, own), name="checkpoint", daemon=True)
        self._writer.start()

    def settle(self) -> None:
        """Raise what the write under way has raised, if it has ended; return at once if it has not."""
        if self._writer is not None and not self._writer.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the write under way and raise what it raised, the same on all ranks."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for the write under way; an error is only printed. For the end of a run that has failed already."""
        try:
            self.wait()
        except Exception as error:
            say(f"checkpoint: the last one could not be written: {error}")

    def resume(self, named: str = "") -> TrainingState:
        """Load the newest valid checkpoint of the folder, else the `named` one (or `settings.resume_from`), else nothing; return where the run is.

        A damaged checkpoint of the folder is passed over with a printed line; a damaged named one raises `CorruptError`. `ConfigError` when the fingerprint
        differs or it holds another model or the state of another optimiser: before anything is loaded.
        """
        self.wait()
        named = named or self._settings.resume_from
        state = self._load_newest(otherwise=f"going on from {named}" if named else "no other is left, so training begins anew at step 0")
        if state is None and named:
            path = Path(named)
            record, problem = self._examine(path)
            if problem is not None:
                raise CorruptError(f"checkpoint.resume_from: {problem}; name another checkpoint")
            state = self._load(path, record)
        return state or TrainingState()

    def roll_back(self, state: TrainingState) -> TrainingState | None:
        """Load the newest valid checkpoint of the folder that is not after `state.step`; None, and nothing loaded, when there is none."""
        self.wait()
        return self._load_newest(otherwise="no other is left", up_to=state.step)

    def _load_newest(self, otherwise: str, up_to: int | None = None) -> TrainingState | None:
        # rank 0 looks for all: on a network file system others may see other folders
        found: list[Path] = self._gather(files.list_checkpoints(self._folder) if self._parallel.rank == 0 else [])[0]
        found = [path for path in found if up_to is None or files.step_of(path) <= up_to]
        for path in reversed(found):
            record, problem = self._examine(path)
            if problem is None:
                return self._load(path, record)
            if self._parallel.rank == 0:
                say(f"checkpoint: {problem}; {otherwise if path == found[0] else 'falling back to the one before'}")
        return None

    def _examine(self, path: Path) -> tuple[dict[str, Any], str | None]:
        """A checkpoint's record and what is wrong with it, the same on every rank. `ConfigError` when it belongs to another run."""
        record: dict[str, Any] = {}
        problem = None
        try:
            record = files.read_record(path)
        except (OSError, ValueError) as error:
            problem = f"{path / files.RECORD} cannot be read ({error})"
        problems = self._gather(problem)
        if not any(problems):  # cheap checks first: reading terabytes to refuse a run would be a waste
            self._refuse_others(path, record)
            problems = self._gather(files.problem_with_files(path, record["files"], self._parallel.rank, self._parallel.world))
        return record, next((problem for problem in problems if problem is not None), None)

    def _refuse_others(self, path: Path, record: dict[str, Any]) -> None:
        if record.get("format") != files.FORMAT:
            raise ConfigError(f"{path}: was written by an older IberLM, in a format that this one does not read; go on with that one, or give another run_dir")
        then = record["fingerprint"]
        changed = [f"{key} (then {_short(then.get(key))}, now {_short(value)})" for key, value in self._fingerprint.items() if then.get(key) != value]
        if changed:
            raise ConfigError(f"{path}: was saved by another run, differing in {'; '.join(changed)}; give the same settings and data, or another run_dir")

    def _load(self, path: Path, record: dict[str, Any]) -> TrainingState:
        with disk_errors(path):
            if self._parallel.engine is not None:
                zero_state.load(self._parallel, path)
            else:
                checkpoint_state.load(self._parallel, path, self._group)
        if self._parallel.rank == 0:
            say(f"checkpoint: going on from {shown(path)}")
        return TrainingState.from_json(record["state"])

    def _own_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._parallel.engine is not None:
            return zero_state.own_tensors(self._parallel)
        return checkpoint_state.own_tensors(self._parallel)

    def _write_apart(self, path: Path, record: dict[str, Any], own: dict[str, torch.Tensor]) -> None:
        try:
            if self._parallel.device.type == "cuda":
                torch.cuda.set_device(self._parallel.device)
            self._write(path, record, own)
        except BaseException as error:
            self._error = error

    def _write(self, path: Path, record: dict[str, Any], own: dict[str, torch.Tensor]) -> None:
        """Write, checksum, publish. Each part ends on all ranks or fails on all."""
        rank = self._parallel.rank
        temporary = files.partial(path)

        def publish() -> None:
            if rank == 0:
                files.publish_checkpoint(path, record)
                files.apply_retention(self._folder, path, self._settings)
                say(f"checkpoint: saved {shown(path)}")

        try:
            self._together(path, lambda: files.begin(path) if rank == 0 else None)
            self._together(path, lambda: _write_files(temporary, own, self._group))
            parts = self._together(path, lambda: files.file_entries(temporary, _written_by(temporary, rank)))
            record["files"] = {name: entry for part in parts for name, entry in sorted(part.items())}
            self._together(path, publish)
        except Exception:
            if rank == 0:  # on a full disk this is what there is to give back
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _together(self, path: Path, work: Callable[[], Any]) -> list[Any]:
        """What `work` returned on each rank. When it failed on one, every rank raises: none may wait for an answer that never comes."""
        value: Any = None
        error: BaseException | None = None
        try:
            with _disk_errors(path):
                value = work()
        except Exception as failure:
            error = failure
        told = error if error is None or isinstance(error, IberlmError) else RuntimeError(f"rank {self._parallel.rank}: {type(error).__name__}: {error}")
        answers = self._gather((value, told))
        failures = [failure for _, failure in answers if failure is not None]
        if failures:
            # a reason that a user can act on first, then this rank's own with its traceback
            raise next((failure for failure in failures if isinstance(failure, IberlmError)), error or failures[0])
        return [value for value, _ in answers]

    def _gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        gathered: list[Any] = [None] * self._parallel.world
        dist.all_gather_object(gathered, value, group=self._group)
        return gathered


def quiet_single_process() -> None:
    """Say nothing of one process without a process group: that is what `single` means."""
    # for good, and not around each call: the writer is a thread, and Python's filters belong to the whole process
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized", category=UserWarning)


class Staging:
    """Copies of tensors in host memory, in buffers that are kept: pinned ones for a GPU, whose copies then run at the speed of the bus."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor`, or of this rank's part of it, in the buffer of that name. Valid after `finish`."""
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
            pin = self._device.type == "cuda" and local.numel() > 0
            buffer = self._buffers[key] = torch.empty(local.shape, dtype=local.dtype, pin_memory=pin)
        buffer.copy_(local, non_blocking=True)
        # the layout of the original, which the files tell; `from_local` would move it back to the GPU
        return DTensor(buffer, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else buffer  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Wait for the copies under way."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def _write_files(folder: Path, own: dict[str, torch.Tensor], group: dist.ProcessGroup | None) -> None:
    nested: dict[str, dict[str, torch.Tensor]] = {checkpoint_state.MODEL: {}, checkpoint_state.OPTIMIZER: {}}
    for key, tensor in own.items():
        kind, _, name = key.partition(".")
        nested[kind][name] = tensor
    # copies ahead of writing are for tensors on a GPU, and what was staged is on the host
    ahead = _AHEAD_BYTES if any(tensor.is_cuda for tensor in own.values()) else 0
    save_files(nested, storage_writer=FileSystemWriter(folder, per_thread_copy_ahead=ahead), process_group=group, no_dist=group is None)


def _written_by(folder: Path, rank: int) -> list[Path]:
    """The files of one rank; those of no rank (the metadata) are the first's. Hashing all on one rank would take minutes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if path.name.startswith(f"__{rank}_") or (rank == 0 and not path.name.startswith("__"))]


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Unwrap the operating system's errors, which torch gathers of all ranks in one of its own: a full disk must say so."""
    with disk_errors(path):
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


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."
