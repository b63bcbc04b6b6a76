import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import ConfigError, CorruptError, DataError, ResourceError
from iberlm.core.manifest import Manifest
from iberlm.core.ranks import Interrupted
from iberlm.train import pretrain
from iberlm.train.config import CheckpointConfig, ModelConfig, OptimizerConfig, StrategyConfig
from iberlm.train.worker import freeze

from .conftest import tiny


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(inputs: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A run that nothing interrupted: six steps, checkpoints of steps 2, 4 and 6."""
    return pretrain.run(tiny(), inputs, tmp_path_factory.mktemp("finished"))


def unfinish(folder: Path, key: str) -> None:
    """The folder as a kill just before the manifest leaves it."""
    (folder / "manifest.json").unlink()
    (folder / ".stage.json").write_text(json.dumps({"stage": "pretrain", "key": key}))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    else:
        path.unlink()


STOP_AT_STEP_3 = """
import os, signal, sys
from iberlm.core.ranks import rank_main
from iberlm.train import checkpoint, loop, worker

def settle(run, entry, real=loop.settle):
    answer = real(run, entry)
    if entry and entry.step == 2 and run.parallel.rank == run.parallel.world - 1:
        os.kill(os.getpid(), signal.{name})
    return answer

loop.settle = settle
rank_main(worker.main)
"""


def stopper(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """A module that trains like the worker and sends a signal once step 3 is done: a real signal at a known step."""
    (folder / "stopping_worker.py").write_text(STOP_AT_STEP_3.format(name=name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"], str(Path(pretrain.__file__).parents[2])]))
    return "stopping_worker"


def test_a_run_killed_with_sigkill_goes_on_bit_for_bit(finished: Manifest, inputs: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = stopper(tmp_path, monkeypatch, "SIGKILL")

    out = tmp_path / "run"
    out.mkdir()
    frozen = freeze(tiny(), inputs[0].folder, inputs[1].folder, out)
    assert subprocess.run([sys.executable, "-m", module, str(frozen)], check=False).returncode == -signal.SIGKILL
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"]
    assert len(losses(out)) == 3
    (out / ".stage.json").write_text(json.dumps({"stage": "pretrain", "key": finished.key}))
    manifest = pretrain.run(tiny(), inputs, out)
    assert losses(out) == losses(finished.folder)
    assert manifest.metrics["validation"] == finished.metrics["validation"]
    weights = [(entry.folder / "model/model.safetensors").read_bytes() for entry in (manifest, finished)]
    assert weights[0] == weights[1]


def test_sigterm_to_one_of_two_ranks_saves_on_both_and_one_rank_can_go_on(
    finished: Manifest, inputs: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, out = stopper(tmp_path, monkeypatch, "SIGTERM"), tmp_path / "run"
    config = tiny(strategy=StrategyConfig(name="ddp"), cluster=ClusterConfig(processes=2), checkpoint=CheckpointConfig(every_steps=0))
    with pytest.raises(Interrupted, match=r"stopped at step 4 of 6 on SIGTERM; run the same command again to go on") as caught:
        pretrain.run(config, inputs, out, launcher=lambda _, arguments, processes: pretrain.run_ranks(module, arguments, processes))
    assert caught.value.exit_status == 75
    assert len(list((out / "checkpoints").iterdir())) == 1
    pretrain.run(tiny(checkpoint=CheckpointConfig(every_steps=0)), inputs, out)
    np.testing.assert_allclose(losses(out), losses(finished.folder), rtol=1e-4)


@pytest.mark.parametrize("how", ["cut", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    how: str, finished: Manifest, inputs: list[Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain.run(tiny(), inputs, tmp_path)
    unfinish(tmp_path, finished.key)
    damage(tmp_path / "checkpoints/step-00000006/__0_0.distcp", how)
    pretrain.run(tiny(), inputs, tmp_path)
    assert losses(tmp_path) == losses(finished.folder)
    printed = capsys.readouterr().err
    assert "falling back to the one before" in printed
    assert "going on from" in printed
    assert "step-00000004" in printed


def test_with_every_checkpoint_damaged_the_run_begins_again(finished: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    pretrain.run(tiny(), inputs, tmp_path)
    unfinish(tmp_path, finished.key)
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path / "checkpoint.json", "cut")
    pretrain.run(tiny(), inputs, tmp_path)
    assert losses(tmp_path) == losses(finished.folder)


def test_a_damaged_named_checkpoint_is_an_error(inputs: list[Manifest], tmp_path: Path) -> None:
    first = pretrain.run(tiny(), inputs, tmp_path / "first")
    named = first.folder / "checkpoints/step-00000006"
    damage(named / "__0_0.distcp", "cut")
    with pytest.raises(CorruptError, match=r"resume_from: .*__0_0\.distcp has \d+ bytes where checkpoint.json says"):
        pretrain.run(tiny(steps=8, checkpoint=CheckpointConfig(resume_from=str(named))), inputs, tmp_path / "second")


def test_a_run_is_made_longer_from_a_named_checkpoint(finished: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    named = finished.folder / "checkpoints/step-00000006"
    pretrain.run(tiny(steps=8, checkpoint=CheckpointConfig(resume_from=str(named))), inputs, tmp_path)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [7, 8]


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 4}, r"seed \(then 3, now 4\)"), ({"sequence_length": 16, "micro_batch_size": 4}, r"sequence_length \(then 32, now 16\)")]
)
def test_a_checkpoint_of_another_run_is_refused(change: dict[str, Any], named: str, finished: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(checkpoint=CheckpointConfig(resume_from=str(finished.folder / "checkpoints/step-00000004")), **change)
    with pytest.raises(ConfigError, match=named):
        pretrain.run(config, inputs, tmp_path)


def test_a_checkpoint_of_other_data_is_refused(
    finished: Manifest, inputs: list[Manifest], own_store: Callable[[dict[str, int]], Manifest], tmp_path: Path
) -> None:
    other = own_store({"es": 61, "ca-valencia": 30, "eu": 20})
    config = tiny(checkpoint=CheckpointConfig(resume_from=str(finished.folder / "checkpoints/step-00000004")))
    with pytest.raises(ConfigError, match=r"differing in token store \(then .*; mixture"):
        pretrain.run(config, [other, inputs[1]], tmp_path / "run")


def test_only_the_newest_checkpoints_are_kept(inputs: list[Manifest], tmp_path: Path) -> None:
    manifest = pretrain.run(tiny(checkpoint=CheckpointConfig(every_steps=1, keep_last=2)), inputs, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000006"]
    manifest.check_files(checksums=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(optimizer=OptimizerConfig(learning_rate=1e30), checkpoint=CheckpointConfig(every_steps=1, keep_last=9))
    with pytest.raises(DataError, match=r"step 2: loss (nan|inf).*nothing was saved after it\. Lower optimizer.learning_rate"):
        pretrain.run(config, inputs, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk_is_told_as_such(inputs: list[Manifest], small_disk: Path) -> None:
    large = ModelConfig(hidden_size=256, layers=4, heads=4, ffn_size=768, max_position_embeddings=64)
    with pytest.raises(ResourceError, match="full"):
        pretrain.run(tiny(model=large), inputs, small_disk / "run")
