"""Checkpoints of a real small training run are evaluated as they appear, once each, whatever happens to them meanwhile."""

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iberlm.cli.watch_tool import Checkpoint, Watcher, watch
from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import read_manifest
from iberlm.core.stopping import Interrupted
from iberlm.evaluate.checkpoints import Watched
from iberlm.evaluate.curves import curves
from tests.evaluate.watched_run import SETTINGS, trained

FIRST, SECOND = "step-00000002", "step-00000004"


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run with two checkpoints. Tests that change it take a copy."""
    return trained(tmp_path_factory.mktemp("training") / "run")


@pytest.fixture
def run_dir(training: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(training, tmp_path / "run"))


def look(run_dir: Path, *overrides: str, once: bool = False, last: int = 0, keep: bool = False) -> None:
    watch(run_dir, [*SETTINGS, *overrides], 1, once, last, keep, None)


def checkpoint(run_dir: Path, name: str) -> Checkpoint:
    path = run_dir / "pretrain" / "checkpoints" / name
    return Checkpoint(name, path, sha256_file(path / "checkpoint.json"))


def watcher(run_dir: Path, *overrides: str) -> Watcher:
    from iberlm.cli.watch_tool import _settings

    return Watcher(Watched(run_dir), _settings(run_dir, [*SETTINGS, *overrides], None), last=0, keep=False)


def copy_made(run_dir: Path, name: str) -> None:
    """Leave a model folder as a watcher does that was ended before it evaluated the checkpoint."""
    shutil.copytree(run_dir / "pretrain" / "model", run_dir / "checkpoints_evaluated" / name)
    Watched(run_dir).begin(name, checkpoint(run_dir, name).checksum)


def test_checkpoints_are_evaluated_as_they_appear_and_never_twice(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run that is still going on: its second checkpoint is being written when the first look happens, and its manifest comes last."""
    folder = run_dir / "pretrain" / "checkpoints"
    written, manifest = folder / f".{SECOND}.partial", run_dir / "pretrain" / "manifest.json"
    (folder / SECOND).rename(written)
    manifest.rename(tmp_path / "manifest.json")
    look(run_dir, once=True)
    assert re.fullmatch(r"step 2  es: bits per byte \d\.\d{3} \(.*\); minimal_pairs 0\.\d{3} \(.*\)\n", capfd.readouterr().out)
    assert [path.name for path in sorted((run_dir / "watch").glob("step-*[0-9]"))] == [FIRST]

    written.rename(folder / SECOND)
    (tmp_path / "manifest.json").rename(manifest)
    look(run_dir)
    said = capfd.readouterr()
    assert said.out.startswith("step 4  es: bits per byte ")
    assert f"watch: {FIRST}" not in said.err
    assert not list((run_dir / "checkpoints_evaluated").iterdir())
    found = {curve.family: list(curve.points) for curve in curves(run_dir)}
    assert found == {"bits_per_byte": [2, 4], "minimal_pairs": [2, 4]}
    for step, name in ((2, FIRST), (4, SECOND)):
        rows = pq.read_table(run_dir / "watch" / name / "results.parquet").to_pylist()
        assert {row["step"] for row in rows} == {step}
        assert read_manifest(run_dir / "watch" / name).config["step"] == step

    look(run_dir)
    said = capfd.readouterr()
    assert said.out == ""
    assert "2 checkpoints are evaluated already" in said.err
    assert [entry.name for entry in watcher(run_dir, "limit=1").pending()] == [FIRST, SECOND]  # that is another question


def test_one_checkpoint_that_is_damaged_and_one_that_retention_deletes_stop_nothing(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = next((run_dir / "pretrain" / "checkpoints" / FIRST).glob("*.distcp"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    at_work, second = watcher(run_dir), checkpoint(run_dir, SECOND)
    assert at_work.prepare(second)
    shutil.rmtree(second.path)
    with pytest.raises(DataError, match=f"not evaluated: {FIRST}; see above, and run the same command to try again"):
        look(run_dir, keep=True)
    said = capfd.readouterr()
    assert "bytes where checkpoint.json says" in said.err
    assert said.out.startswith("step 4  es: ")  # from the copy
    assert (run_dir / "checkpoints_evaluated" / SECOND / "model.safetensors").is_file()


def test_a_checkpoint_that_is_gone_before_it_was_read_is_no_failure(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at_work, first = watcher(run_dir), checkpoint(run_dir, FIRST)
    shutil.rmtree(first.path)
    assert not at_work.prepare(first)
    assert f"{FIRST} was deleted by the training's retention while it was read" in capfd.readouterr().err
    assert not at_work.failed
    assert [entry.name for entry in at_work.pending()] == [SECOND]


def test_a_step_that_is_trained_again_is_evaluated_again(run_dir: Path) -> None:
    at_work, entry = watcher(run_dir), checkpoint(run_dir, FIRST)
    settings = at_work.settings_of(entry)
    assert (settings.step, settings.model_folder) == (2, str(run_dir / "checkpoints_evaluated" / FIRST))
    at_work.watched.begin(FIRST, entry.checksum)
    manifest = {name: value for name, value in vars(read_manifest(run_dir / "pretrain")).items() if name != "folder"}
    out = run_dir / "watch" / FIRST
    done = type(read_manifest(run_dir / "pretrain"))(**(manifest | {"stage": "evaluate", "config_hash": at_work._hash, "folder": out}))
    out.mkdir()
    done.write()
    assert [found.name for found in at_work.pending()] == [SECOND]
    record = entry.path / "checkpoint.json"
    record.write_text(record.read_text().replace('"step": 2', '"step":  2'))
    again = checkpoint(run_dir, FIRST)
    assert at_work.pending()[0] == again != entry
    at_work.watched.begin(FIRST, again.checksum)
    assert not (out / "manifest.json").exists()


def test_only_the_newest_are_asked_for(run_dir: Path) -> None:
    at_work = watcher(run_dir)
    newest = Watcher(Watched(run_dir), at_work.settings, last=1, keep=False)
    assert [entry.name for entry in at_work.pending()] == [FIRST, SECOND]
    assert [entry.name for entry in newest.pending()] == [SECOND]


def test_two_watchers_do_not_work_on_one_run(run_dir: Path) -> None:
    (run_dir / "watch").mkdir()
    with (run_dir / "watch" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="another watcher is at work on"):
            look(run_dir)
    assert not (run_dir / "checkpoints_evaluated").exists()


@pytest.mark.parametrize("override", ["model=m", "+model_folder=m", "out=x", "step=3", "run_dir=y", "dry_run=true"])
def test_settings_that_are_the_watchers_own_are_refused(training: Path, override: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"watch: '{re.escape(override)}': {key} is set by the watcher"):
        look(training, override)


def test_folders_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder; give that of a training run"):
        look(tmp_path / "none")
    with pytest.raises(DataError, match="pretrain has no checkpoint; without --once they are waited for"):
        look(tmp_path, once=True)


def test_settings_that_fit_no_checkpoint_end_the_watch(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy_made(run_dir, FIRST)
    with pytest.raises(ConfigError, match=f"{FIRST} cannot be evaluated with these settings; mend what is said above"):
        look(run_dir, "suite.tasks=[reading]", "chat_template=true")
    assert "use chat_template=false" in capfd.readouterr().err


AS_COMMAND = """
import sys
from pathlib import Path
from iberlm.cli.watch_tool import watch
from iberlm.core.errors import IberlmError
try:
    watch(Path(sys.argv[1]), sys.argv[2:], 1, False, 0, False, None)
except IberlmError as error:
    sys.exit(error.exit_status)
"""


def test_a_watcher_that_is_ended_takes_its_evaluation_along_and_the_next_goes_on(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run_dir / "pretrain" / "checkpoints" / FIRST)
    for _ in range(5):  # on a busy machine the evaluation may end before this process is awake again
        copy_made(run_dir, SECOND)
        with subprocess.Popen([sys.executable, "-c", AS_COMMAND, str(run_dir), *SETTINGS], stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stderr is not None
            for line in watching.stderr:
                if "evaluate: start" in line:
                    watching.terminate()
                    break
            rest = watching.stderr.read()  # until the last process that could write there is gone
        if "evaluate: done" not in rest:
            break
        for name in ("watch", "checkpoints_evaluated", "store"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
    assert watching.returncode == Interrupted.exit_status
    assert "evaluate: done" not in rest
    assert not (run_dir / "watch" / SECOND / "manifest.json").exists()
    look(run_dir)
    said = capfd.readouterr()
    assert said.out.startswith("step 4  es: ")
    assert "checkpoint: step 4 as a model" not in said.err  # the folder was there
