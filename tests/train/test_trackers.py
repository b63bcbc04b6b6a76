"""Trackers write below the run's folder and go on in the same run; what they wrote is read back with their own libraries."""

import importlib.util
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iberlm.core.errors import ConfigError
from iberlm.train.config import PretrainConfig
from iberlm.train.trackers import RUN_FILE, check_tracker, flat_settings, log, start_trackers

from .conftest import tiny


def logged(config: PretrainConfig, out: Path, begin: int, values: dict[int, dict[str, Any]]) -> None:
    """A run that goes on after `begin` steps and gives numbers to its tracker."""
    named = None if config.tracker == "none" else config.tracker
    accelerator = Accelerator(cpu=True, log_with=named, project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)))
    try:
        start_trackers(accelerator, config, out, begin)
        for step, numbers in values.items():
            log(accelerator, numbers, step)
        for tracker in accelerator.trackers:
            tracker.finish()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path: Path) -> None:
    config = tiny(tracker="tensorboard")
    logged(config, tmp_path, 0, {step: {"loss": 9.0 - step, "losses": {"es/books": 1.0 * step}, "mfu": None} for step in (1, 2, 3, 4)})
    logged(config, tmp_path, 2, {step: {"loss": 19.0 - step, "grad_norm": math.nan, "applied": True} for step in (3, 4)})  # from the checkpoint of step 2
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 8.0), (2, 7.0), (3, 16.0), (4, 15.0)]
    assert [(event.step, event.value) for event in read.Scalars("losses/es/books")] == [(1, 1.0), (2, 2.0)]
    assert [(event.step, event.value) for event in read.Scalars("applied")] == [(3, 1.0), (4, 1.0)]
    assert not {"mfu", "grad_norm"} & set(read.Tags()["scalars"])
    settings = read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    optimizer.learning_rate: 0.01\n" in settings
    assert [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()] == []


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    logged(tiny(tracker="none"), tmp_path, 0, {1: {"loss": 1.0}})
    assert list(tmp_path.iterdir()) == []


def test_settings_are_flat() -> None:
    found = flat_settings(tiny())
    assert found["optimizer.learning_rate"] == 0.01
    assert found["prompts.es"] == "La casa"
    assert found["phases"] == "[]"
    assert all(isinstance(value, str | int | float | bool) for value in found.values())


@pytest.mark.parametrize("name", ["trackio", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_before_training(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [])  # nothing is found on no path
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ConfigError, match=rf'tracker: {name} is not installed; install it with `pip install "iberlm\[{name}\]"`, or set tracker=tensorboard'):
        check_tracker(name)


def of_another_process(name: str, out: Path, begin: int, values: dict[int, dict[str, Any]], environment: dict[str, str]) -> str:
    """As `logged`, in a process of its own: these libraries keep threads and read their environment at import. Returns what it said."""
    code = (
        "import json, sys; from pathlib import Path; from tests.train.conftest import tiny; from tests.train.test_trackers import logged;"
        "name, out, begin, values = json.loads(sys.argv[1]);"
        "logged(tiny(tracker=name), Path(out), begin, {int(step): numbers for step, numbers in values.items()})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([name, str(out), begin, values])],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed (pip install "iberlm[{name}]"): its tracker is not tried')


FIRST, SECOND = {1: {"loss": 8.0}, 2: {"loss": 7.0, "losses": {"es": 5.5}}}, {3: {"loss": 6.0}}


def test_trackio_goes_on_in_the_same_local_run(tmp_path: Path) -> None:
    installed("trackio")
    out = tmp_path / "demo" / "pretrain"
    out.mkdir(parents=True)
    said = of_another_process("trackio", out, 0, FIRST, {"TRACKIO_SPACE_ID": "somebody/somewhere"})
    assert "TRACKIO_SPACE_ID is not used" in said
    of_another_process("trackio", out, 2, SECOND, {})
    databases = list((out / "trackio").glob("*.db"))
    assert len(databases) == 1
    with sqlite3.connect(databases[0]) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    connection.close()
    assert [(name, step) for name, step, _ in rows] == [("demo", 1), ("demo", 2), ("demo", 3)]
    assert json.loads(rows[1][2])["losses/es"] == 5.5


def test_mlflow_goes_on_in_the_same_local_run(tmp_path: Path) -> None:
    installed("mlflow")
    out = tmp_path / "demo" / "pretrain"
    out.mkdir(parents=True)
    of_another_process("mlflow", out, 0, FIRST, {"MLFLOW_TRACKING_URI": "http://192.0.2.1:5000"})
    of_another_process("mlflow", out, 2, SECOND, {})
    run = json.loads((out / "mlflow" / RUN_FILE).read_text())["run"]
    found = list((out / "mlflow").glob(f"*/{run}/metrics/loss"))
    assert [line.split()[1:] for line in found[0].read_text().splitlines()] == [["8.0", "1"], ["7.0", "2"], ["6.0", "3"]]
    assert [path.read_text() for path in (out / "mlflow").glob(f"*/{run}/params/optimizer.learning_rate")] == ["0.01"]


def test_wandb_stays_offline_under_one_name(tmp_path: Path) -> None:
    installed("wandb")
    out = tmp_path / "demo" / "pretrain"
    out.mkdir(parents=True)
    of_another_process("wandb", out, 0, FIRST, {"WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40})
    of_another_process("wandb", out, 2, SECOND, {})
    run = json.loads((out / "wandb" / RUN_FILE).read_text())["run"]
    assert len(list((out / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))) == 2
