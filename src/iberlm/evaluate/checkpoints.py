"""Checkpoints of a training run that are evaluated while it trains: where their evaluations lie, and which of them are done.

RUN_DIR/checkpoints_evaluated/step-N   the checkpoint as a model folder, as long as it is evaluated
RUN_DIR/watch/step-N                   its evaluation
RUN_DIR/watch/step-N.json              which checkpoint that is: after a return to an older one a step is trained again
"""

import json
from dataclasses import dataclass
from pathlib import Path

from iberlm.core.errors import CorruptError
from iberlm.core.files import write_json
from iberlm.core.manifest import FILE_NAME, find_manifest

WATCH, EXPORTED = "watch", "checkpoints_evaluated"


def step_of(path: Path) -> int:
    """The step that a folder is named for: `step-00000100` -> 100."""
    return int(path.name.partition("-")[2])


@dataclass(frozen=True)
class Watched:
    """The evaluations of one run's checkpoints. A checkpoint is told by its folder's name and the checksum of its record."""

    run_dir: Path

    @property
    def folder(self) -> Path:
        """Where the evaluations lie."""
        return self.run_dir / WATCH

    def out(self, name: str) -> Path:
        """The stage folder of an evaluation; `name` is the checkpoint's, step-N."""
        return self.folder / name

    def model(self, name: str) -> Path:
        """Where the model folder of a checkpoint lies while it is evaluated."""
        return self.run_dir / EXPORTED / name

    def begin(self, name: str, checksum: str) -> None:
        """Note which checkpoint is evaluated as `name`; an evaluation of another one of this name counts no longer."""
        if self.noted(name) != checksum:
            (self.out(name) / FILE_NAME).unlink(missing_ok=True)
        write_json(self._note(name), {"checkpoint": checksum})

    def is_evaluated(self, name: str, checksum: str, settings: str) -> bool:
        """Whether this very checkpoint was evaluated with settings of this hash (`Manifest.config_hash`)."""
        if self.noted(name) != checksum:
            return False
        try:
            manifest = find_manifest(self.out(name))
        except CorruptError:  # it is made again
            return False
        return manifest is not None and manifest.config_hash == settings

    def noted(self, name: str) -> str:
        """Checksum of the checkpoint that `name` last was; empty when none was evaluated as that."""
        try:
            return str(json.loads(self._note(name).read_text(encoding="utf-8"))["checkpoint"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _note(self, name: str) -> Path:
        return self.folder / f"{name}.json"
