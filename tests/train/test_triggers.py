"""`save` and `exit` files, on real ranks: somebody writes them while a run is under way, and the run does what they say."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.config import ClusterConfig
from iberlm.core.manifest import Manifest
from iberlm.core.stopping import Interrupted
from iberlm.train import pretrain
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import CheckpointConfig, FaultsConfig, MonitorConfig, StrategyConfig

from .conftest import tiny

# a team-mate: asks for a checkpoint first, and to stop once that is there
TEAM_MATE = """
def ask(context):
    if context.rank:
        return {}
    asked, run_dir = context.out / "asked", context.out.parent
    if not asked.exists():
        (run_dir / "save").touch()
        asked.touch()
    elif not (run_dir / "save").exists():
        (context.out / "exit").touch()
    return {}
"""


@pytest.fixture
def team_mate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hook that asks, by name; found by ranks in processes of their own, too."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/team_mate.py").write_text(TEAM_MATE)
    monkeypatch.syspath_prepend(str(tmp_path / "hooks"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "hooks"), os.environ.get("PYTHONPATH", "")]))
    return "team_mate:ask"


def endless(run_dir: Path, ranks: int = 1, hang_seconds: float = 1800, **settings: Any) -> PretrainConfig:
    """A run that goes on until it is told to stop, and saves only when it is told to."""
    return tiny(
        run_dir=str(run_dir),
        steps=100_000,
        strategy=StrategyConfig(name="ddp" if ranks > 1 else "single"),
        cluster=ClusterConfig(processes=ranks),
        checkpoint=CheckpointConfig(every_steps=0, keep_last=10),
        faults=FaultsConfig(hang_seconds=hang_seconds, straggler_ratio=0, skip_sigma=0),
        validation_tokens=32,
        tracker="none",
        **settings,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def saved_steps(out: Path) -> set[int]:
    return {int(path.name.removeprefix("step-")) for path in (out / "checkpoints").iterdir()}


def test_a_save_file_saves_and_an_exit_file_stops_on_all_ranks(inputs: list[Manifest], team_mate: str, tmp_path: Path, capfd: Any) -> None:
    settings: dict[str, Any] = {"validate_every_steps": 5, "monitor": MonitorConfig(hooks=[team_mate])}
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match=rf"stopped at step \d+ of 100000 as {out}/exit asks; run the same command again") as stopped:
        pretrain.run(endless(tmp_path, 2, **settings), inputs, out)
    assert stopped.value.exit_status == 75
    (event,) = lines(out / "events.jsonl")
    assert event["event"] == "save"
    assert not (tmp_path / "save").exists()
    told = json.loads((out / "stopped.json").read_text())
    assert told["reason"] == "exit"
    assert saved_steps(out) == {event["step"], told["step"]}
    assert (out / "exit").exists(), "who begins the run again takes it away"
    capfd.readouterr()

    with pytest.raises(Interrupted):  # begun again by hand: the old file does not count, and the team-mate asks anew
        pretrain.run(endless(tmp_path, **settings), inputs, out)
    said = capfd.readouterr().err
    assert f"{out}/exit had asked the run before to stop; it is removed, since the run was begun again" in said
    assert f"going on from {out}/checkpoints/step-{told['step']:08d}" in said
    later = json.loads((out / "stopped.json").read_text())["step"]
    assert [line["step"] for line in lines(out / "metrics.jsonl")] == list(range(1, later + 1))
    assert later > told["step"]


def test_an_exit_file_stays_in_a_batch_job_and_works_without_the_watchdog(inputs: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job may have been requeued while somebody wrote the file: then it is news, not history."""
    monkeypatch.setenv("IBERLM_JOB", str(tmp_path / "slurm/pretrain"))
    (tmp_path / "exit").touch()
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match=rf"as {tmp_path}/exit asks"):
        pretrain.run(endless(tmp_path, hang_seconds=0), inputs, out)
    assert (tmp_path / "exit").exists()
    step = json.loads((out / "stopped.json").read_text())["step"]
    assert step < 100_000
    assert saved_steps(out) == {step}
