"""Checkpoints of a training run evaluated on a cluster: one array, a checkpoint an element."""

import subprocess
import sys
from pathlib import Path

import pytest

from iberlm.cli.watch_tool import watch
from iberlm.core.manifest import read_manifest
from iberlm.evaluate.curves import curves
from tests.evaluate.watched_run import SETTINGS, trained

from .lab import PROFILE, jobs, logs
from .slurm_cluster import SlurmCluster

NAMES = ["step-00000002", "step-00000004"]
WATCHER = """
import sys
from pathlib import Path
from iberlm.cli.watch_tool import watch
watch(Path("run"), sys.argv[1:], 1, False, 0, False, Path("profiles"))
"""


def test_checkpoints_are_one_array_whose_elements_are_reported_when_they_end(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    profile = tmp_path / "profiles" / "cluster" / "lab.yaml"
    profile.parent.mkdir(parents=True)
    setup = tmp_path / "profiles" / "setup.sh"  # the elements begin when the second watcher has seen them
    setup.write_text(f"while ! [ -e '{tmp_path}/profiles/go' ]; do sleep 0.2; done\n")
    profile.write_text(PROFILE + f"environment: {{OMP_NUM_THREADS: '1'}}\nsetup_file: {setup}\n")
    run_dir = trained(tmp_path / "run")
    settings = [*SETTINGS, "cluster=lab"]

    def look(*, once: bool) -> None:
        watch(Path("run"), settings, 1, once, 0, False, tmp_path / "profiles")

    (run_dir / "exit").touch()  # a submission would take it away from the training
    look(once=True)
    assert not (run_dir / "slurm").exists() or not jobs(run_dir)
    assert "nothing is submitted while the training is asked to exit" in capsys.readouterr().err
    (run_dir / "exit").unlink()

    look(once=True)
    assert jobs(run_dir)["evaluate-sweep"]["array"] == "0-1"
    assert sorted(path.name for path in (run_dir / "checkpoints_evaluated").iterdir()) == NAMES
    # another watcher, which finds the array at work and ends when all is done
    with subprocess.Popen([sys.executable, "-c", WATCHER, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        before = next((line for line in watching.stderr if "is at work on" in line), "")
        (tmp_path / "profiles" / "go").touch()
        out, said = watching.communicate()
    assert ", ".join(NAMES) in before, said + logs(run_dir)
    # the elements run beside each other: whichever ends first is reported first
    assert sorted(line.partition(": ")[0] for line in out.splitlines()) == ["step 2  es", "step 4  es"], said + logs(run_dir)
    assert [read_manifest(run_dir / "watch" / name).config["step"] for name in NAMES] == [2, 4]
    assert {step for curve in curves(run_dir) for step in curve.points} == {2, 4}
    assert not list((run_dir / "checkpoints_evaluated").iterdir())
    assert len((run_dir / "slurm" / "jobs.jsonl").read_text().splitlines()) == 1
