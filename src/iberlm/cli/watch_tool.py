"""`iberlm watch`: evaluates the checkpoints of a training run as they appear, here or as arrays of a cluster.

A checkpoint under its final name is whole (`iberlm.train.checkpoint_files`). It is written as a model folder, evaluated by a process of
its own, and the folder is deleted. The training is not touched, so its retention may delete a checkpoint while it is read: then it is left
out, with a line that says so.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from iberlm.cli.main import INTERRUPTED_STATUS
from iberlm.core.errors import CardError, ConfigError, DataError, ResourceError
from iberlm.core.files import disk_errors, sha256_file, sha256_json
from iberlm.core.manifest import find_manifest
from iberlm.core.progress import say
from iberlm.core.stage import identity, shown
from iberlm.core.stopping import STOP_SIGNALS, Interrupted, forwarded_stop_signals

if TYPE_CHECKING:
    from iberlm.evaluate.checkpoints import Watched

SUITE = "quick"
"""What is asked where the command names no suite."""
TRAINING = "pretrain"
LOCK = ".lock"
OWN = ("model", "model_folder", "out", "step", "run_dir", "dry_run")
"""Settings that the watcher gives each evaluation itself."""


class Checkpoint(NamedTuple):
    """One checkpoint of the training run."""

    name: str
    """step-N"""
    path: Path
    checksum: str
    """Of its record, which has those of its files."""


def watch(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a training run, such as runs/default.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]", help="Hydra overrides, as for `iberlm evaluate`.")] = None,
    every: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Time between two looks.")] = 60,
    once: Annotated[bool, typer.Option("--once", help="Evaluate (with cluster=NAME: submit) what is there, and end.")] = False,
    last: Annotated[int, typer.Option(min=0, metavar="N", help="Only the N newest checkpoints at each look; 0: all.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the model folders of the checkpoints.")] = False,
    config_dir: Annotated[Path | None, typer.Option(help="Folder with recipes of your own, as for the verbs.")] = None,
) -> None:
    """Evaluate the checkpoints of a training run as they appear, and print what each scored, a line a language.

    Ends when the training is complete and all its checkpoints are evaluated; Ctrl-C ends it before. The same command goes on where it was.
    With cluster=NAME what is new is submitted as one array, a checkpoint an element, whenever the array before has ended.
    """
    from iberlm.evaluate.checkpoints import Watched

    if not run_dir.is_dir():
        raise ConfigError(f"watch: {run_dir}: there is no such folder; give that of a training run, such as runs/default")
    run_dir = run_dir.absolute()
    settings = _settings(run_dir, overrides or [], config_dir)
    kind = ClusterWatcher if settings.cluster.is_slurm else Watcher
    watcher = kind(Watched(run_dir), settings, last=last, keep=keep)
    with _alone(watcher.watched.folder):
        watcher.begin()
        while True:
            ended = find_manifest(run_dir / TRAINING) is not None  # before the look: what was saved until then, the look sees
            if (watcher.look(patient=not once) and ended) or once:
                break
            time.sleep(every)
    if once and not watcher.met:
        raise DataError(f"watch: {shown(run_dir / TRAINING)} has no checkpoint; without --once they are waited for")
    if watcher.failed:
        names = ", ".join(sorted(checkpoint.name for checkpoint in watcher.failed))
        raise DataError(f"watch: not evaluated: {names}; see above, and run the same command to try again")


def _settings(run_dir: Path, overrides: list[str], config_dir: Path | None) -> Any:
    """Settings of the evaluations, still without a checkpoint."""
    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.verbs import VERBS

    for override in overrides:
        if (key := re.split("[=@]", override.lstrip("+~"))[0]) in OWN:
            raise ConfigError(f"watch: '{override}': {key} is set by the watcher, for each checkpoint")
    suite = [] if any(override.startswith("suite=") for override in overrides) else [f"suite={SUITE}"]
    quoted = str(run_dir).replace("'", "\\'")
    return compose_settings(VERBS["evaluate"], [f"run_dir='{quoted}'", *suite, *overrides], config_dir)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other watcher works on the run. Raises `ResourceError` while one does."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"watch: another watcher is at work on {shown(folder.parent)}; end it first, or let it go on") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            say(f"watch: the file system of {folder} has no locks: take care that no second watcher runs")
        yield


class Watcher:
    """Evaluates the checkpoints of a run on this machine, one after the other, the oldest first: it is the first that retention deletes."""

    def __init__(self, watched: "Watched", settings: Any, *, last: int, keep: bool) -> None:
        self.watched, self.settings = watched, settings
        self.failed: set[Checkpoint] = set()
        """Of this watcher: they are not tried again by it."""
        self.met = False
        """A checkpoint was seen."""
        self._last, self._keep = last, keep
        self._hash = sha256_json(identity(settings))
        self._said = ""

    def begin(self) -> None:
        """Say what is watched. Raises `ConfigError` for a suite that cannot be asked: nobody should wait a night to be told so."""
        from iberlm.evaluate.asked import data_folders, suite_facts
        from iberlm.evaluate.catalogue import OWN as OWN_TASKS
        from iberlm.evaluate.staging import staged

        facts, _ = suite_facts(self.settings)
        folders = data_folders(self.settings)
        if left := [entry.name for entry in facts if entry.source != OWN_TASKS and staged(entry, folders) is None]:
            named = f"{len(left)} tasks ({', '.join([*left[:3], *(['...'] if left[3:] else [])])})" if left[1:] else left[0]
            say(f"watch: the data of {named} is not staged, and must be in the local cache; iberlm prefetch evaluate gathers it, for data=FOLDER")
        done = sum(self._is_evaluated(checkpoint) for checkpoint in self._all())
        say(f"watch: {shown(self.watched.run_dir)}, suite {self.settings.suite.title}" + (f"; {done} checkpoints are evaluated already" if done else ""))

    def look(self, *, patient: bool) -> bool:
        """Evaluate what is new; whether all that is there is done."""
        while new := self.pending():
            checkpoint = new[0]
            if self.prepare(checkpoint) and self._evaluate(checkpoint):
                self.report(checkpoint)
        return True

    def pending(self) -> list[Checkpoint]:
        """Checkpoints that are to be evaluated, the oldest first."""
        found = self._all()
        self.met |= bool(found)
        return [checkpoint for checkpoint in found[-self._last :] if checkpoint not in self.failed and not self._is_evaluated(checkpoint)]

    def _all(self) -> list[Checkpoint]:
        """The checkpoints on disk, and those that retention has deleted since a model folder was made of them, by step."""
        from iberlm.evaluate.checkpoints import EXPORTED
        from iberlm.train.checkpoint_files import RECORD, list_checkpoints
        from iberlm.train.files import CHECKPOINTS

        found: dict[str, Checkpoint] = {}
        for path in (self.watched.run_dir / EXPORTED).glob("step-*"):
            if checksum := self.watched.noted(path.name):
                found[path.name] = Checkpoint(path.name, path, checksum)
        for path in list_checkpoints(self.watched.run_dir / TRAINING / CHECKPOINTS):
            with contextlib.suppress(OSError):  # it is just being deleted
                found[path.name] = Checkpoint(path.name, path, sha256_file(path / RECORD))
        return [found[name] for name in sorted(found)]

    def _is_evaluated(self, checkpoint: Checkpoint) -> bool:
        return self.watched.is_evaluated(checkpoint.name, checkpoint.checksum, self._hash)

    def prepare(self, checkpoint: Checkpoint) -> bool:
        """Make the model folder of a checkpoint, unless it is there; False when it could not be made."""
        model = self.watched.model(checkpoint.name)
        if model.is_dir() and self.watched.noted(checkpoint.name) == checkpoint.checksum:
            return True
        shutil.rmtree(model, ignore_errors=True)
        status, words = _apart(["export-checkpoint", str(checkpoint.path), str(model)], quiet=True)
        if status == 0:
            self.watched.begin(checkpoint.name, checkpoint.checksum)
            return True
        if not checkpoint.path.is_dir():
            say(f"watch: {checkpoint.name} was deleted by the training's retention while it was read (checkpoint.keep_every_steps keeps more); left out")
            return False
        for line in words.strip().splitlines()[-5:]:
            say(f"watch: {checkpoint.name}: {line}")
        self.fail(checkpoint, f"could not be made into a model (exit status {status})")
        return False

    def fail(self, checkpoint: Checkpoint, why: str) -> None:
        """Note that a checkpoint could not be evaluated."""
        say(f"watch: {checkpoint.name} {why}; left out")
        self.failed.add(checkpoint)

    def settings_of(self, checkpoint: Checkpoint) -> Any:
        """Settings of the evaluation of a checkpoint."""
        from iberlm.evaluate.checkpoints import step_of

        model, out = self.watched.model(checkpoint.name), self.watched.out(checkpoint.name)
        return dataclasses.replace(self.settings, model_folder=str(model), out=str(out), step=step_of(out))

    def _evaluate(self, checkpoint: Checkpoint) -> bool:
        from iberlm.cli.hydra_app import freeze

        path = self.watched.run_dir / "configs" / "watch.yaml"
        freeze(self.settings_of(checkpoint), path)
        say(f"watch: {checkpoint.name}")
        status, _ = _apart(["evaluate", "--frozen", str(path)], quiet=False)
        if status in (ConfigError.exit_status, CardError.exit_status):
            raise ConfigError(f"watch: {checkpoint.name} cannot be evaluated with these settings; mend what is said above and run the same command again")
        if status != 0:
            self.fail(checkpoint, f"could not be evaluated (exit status {status})")
        return status == 0

    def report(self, checkpoint: Checkpoint) -> None:
        """Print what a checkpoint scored, and delete its model folder."""
        from iberlm.evaluate.checkpoints import step_of
        from iberlm.evaluate.curves import curves, step_lines

        print("\n".join(step_lines(curves(self.watched.run_dir), step_of(self.watched.out(checkpoint.name)))), flush=True)
        if not self._keep:
            shutil.rmtree(self.watched.model(checkpoint.name), ignore_errors=True)

    def say_once(self, message: str) -> None:
        """Say what has not been said just before: a watcher looks a thousand times."""
        if message != self._said:
            say(f"watch: {message}")
        self._said = message


class ClusterWatcher(Watcher):
    """Submits what is new as one array, an element a checkpoint; the next one when that has ended."""

    def __init__(self, watched: "Watched", settings: Any, *, last: int, keep: bool) -> None:
        super().__init__(watched, settings, last=last, keep=keep)
        self._submitted: list[Checkpoint] = []

    def begin(self) -> None:
        """Say what is watched; an array of an earlier watcher may still be at work."""
        super().begin()
        self._submitted = [entry for entry in self._all() if self.watched.model(entry.name).is_dir() and not self._is_evaluated(entry)]

    def look(self, *, patient: bool) -> bool:
        """Report what has been evaluated, submit what is new; whether all that is there is done."""
        from iberlm.launch.submit import live_jobs

        try:
            self._collect()
            live = live_jobs(self.watched.run_dir).get(ARRAY)
            if live is not None:
                left = ", ".join(entry.name for entry in self._submitted)
                self.say_once(f"job {live[0].job} is at work on {left}" if left else f"job {live[0].job} has done its work and is about to end")
                return False
            self._collect()  # what ended between the two looks
            for checkpoint in self._submitted:
                self.fail(checkpoint, f"was not evaluated by its job (iberlm logs {shown(self.watched.run_dir)} {ARRAY} --errors)")
            self._submitted = []
            return not self._submit()
        except ResourceError as error:  # Slurm is busy, or another command is submitting
            if not patient:
                raise
            self.say_once(str(error))
            return False

    def _collect(self) -> None:
        done = [checkpoint for checkpoint in self._submitted if self._is_evaluated(checkpoint)]
        for checkpoint in done:
            self.report(checkpoint)
        self._submitted = [checkpoint for checkpoint in self._submitted if checkpoint not in done]

    def _submit(self) -> bool:
        """Submit what is new; whether something was, or still is to be."""
        from iberlm.cli.cluster_run import submit_sweep
        from iberlm.cli.verbs import VERBS
        from iberlm.launch.submit import TRIGGERS

        new = self.pending()
        if new and (asked := [name for name in TRIGGERS if (self.watched.run_dir / name).exists()]):
            # a submission clears them: the training must see them first
            self.say_once(f"nothing is submitted while the training is asked to {asked[0]} ({shown(self.watched.run_dir / asked[0])})")
            return True
        ready = [checkpoint for checkpoint in new if self.prepare(checkpoint)]
        if ready:
            submit_sweep(VERBS["evaluate"], [self.settings_of(checkpoint) for checkpoint in ready])
            self._submitted = ready
        return bool(ready)


ARRAY = "evaluate-sweep"
"""Name of the job that `submit_sweep` makes of evaluations."""
_CHILD = "import sys; from iberlm.core.process import die_with_parent; die_with_parent(int(sys.argv.pop(1))); from iberlm.cli.main import main; main()"
"""`iberlm`, asked by itself not to outlive the watcher: a function of ours between fork and exec would be unsafe beside Arrow's threads."""


def _apart(arguments: list[str], *, quiet: bool) -> tuple[int, str]:
    """Run `iberlm ARGUMENTS` in a process of its own; its exit status, and with `quiet` what it wrote to standard error.

    Raises `Interrupted` when it was told to stop.
    """
    children: list[subprocess.Popen[str]] = []
    with forwarded_stop_signals(lambda: children):
        pipe = subprocess.PIPE if quiet else None
        command = [sys.executable, "-c", _CHILD, str(os.getpid()), *arguments]
        children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True, errors="replace"))
        words = children[0].communicate()[1] or ""
    status = children[0].returncode
    if status == Interrupted.exit_status or -status in STOP_SIGNALS:
        raise Interrupted("watch: stopped; run the same command again to go on")
    if status == INTERRUPTED_STATUS:
        raise KeyboardInterrupt
    return status, words
