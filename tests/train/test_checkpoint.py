import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import ConfigError, CorruptError, DataError, ResourceError
from iberlm.core.files import sha256_json
from iberlm.core.manifest import Manifest
from iberlm.core.stopping import Interrupted
from iberlm.train import checkpoint_model, pretrain
from iberlm.train.checkpoint import Checkpoints
from iberlm.train.checkpoint_files import apply_retention, checkpoint_path, list_checkpoints, read_record
from iberlm.train.checkpoint_model import checkpoint_to_model
from iberlm.train.config_groups import CheckpointConfig, ModelConfig, OptimizerConfig, StrategyConfig
from iberlm.train.frozen import Inputs, freeze
from iberlm.train.state import TrainingState

from .conftest import tiny
from .elastic_ranks import Job, look, open_checkpoints, read_whole, text, train_step, world


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
    config = tiny(checkpoint=CheckpointConfig(every_steps=2, keep_last=10, asynchronous=False))  # so that the one of step 2 is there for certain
    frozen = freeze(config, Inputs(inputs[0].folder, inputs[1].folder), out)
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


def test_a_run_that_does_not_recover_saves_nothing_after_it_went_wrong(inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(optimizer=OptimizerConfig(learning_rate=1e30), checkpoint=CheckpointConfig(every_steps=1, keep_last=9), steps=40)
    with pytest.raises(DataError, match=r"gone back to step 1 2 times: it does not recover.*nothing was saved after step 1"):
        pretrain.run(config, inputs, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk_is_told_as_such(inputs: list[Manifest], small_disk: Path) -> None:
    large = ModelConfig(hidden_size=256, layers=4, heads=4, ffn_size=768, max_position_embeddings=64)
    with pytest.raises(ResourceError, match="full"):
        pretrain.run(tiny(model=large), inputs, small_disk / "run")


def test_an_asynchronous_run_leaves_the_checkpoints_of_a_synchronous_one(finished: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    pretrain.run(tiny(checkpoint=CheckpointConfig(every_steps=2, keep_last=10, asynchronous=False)), inputs, tmp_path)
    for step in (2, 4, 6):
        folders = [checkpoint_path(folder / "checkpoints", step) for folder in (tmp_path, finished.folder)]
        for first, second in zip(*(sorted(folder.glob("*.distcp")) for folder in folders), strict=True):
            assert first.read_bytes() == second.read_bytes()
        states = [read_record(folder)["state"] for folder in folders]
        for state in states:
            assert state.pop("seconds") > 0
            state.pop("watt_hours")
        assert states[0] == states[1]
        assert states[0]["step"] == step


def make_checkpoints(folder: Path, scores: dict[int, float | None]) -> None:
    """Folders as far as retention looks at them."""
    for step, score in scores.items():
        path = checkpoint_path(folder, step)
        path.mkdir(parents=True)
        record = {"format": 2, "files": {}, "bits_per_byte": score}
        (path / "checkpoint.json").write_text(json.dumps(record | {"sha256": sha256_json(record)}))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep_last": 1}, [60]),
        ({"keep_last": 2}, [50, 60]),
        ({"keep_last": 1, "keep_every_steps": 20}, [20, 40, 60]),
        ({"keep_last": 1, "keep_best": 2}, [20, 30, 60]),
        ({"keep_last": 2, "keep_best": 1, "keep_every_steps": 40}, [30, 40, 50, 60]),
        ({"keep_last": 9}, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_retention_keeps_the_last_every_so_many_and_the_best(settings: dict[str, int], kept: list[int], tmp_path: Path) -> None:
    # 70 was damaged or given up: it is made again, and must not push out the others
    make_checkpoints(tmp_path, {10: None, 20: 1.2, 30: 1.1, 40: 1.3, 50: float("nan"), 60: 1.25, 70: 0.1})
    apply_retention(tmp_path, checkpoint_path(tmp_path, 60), CheckpointConfig(**settings))
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in [*kept, 70]]
    assert len(list(tmp_path.iterdir())) == len(kept) + 1


def test_a_run_keeps_its_best_checkpoint(inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(checkpoint=CheckpointConfig(every_steps=2, keep_last=1, keep_best=1), validate_every_steps=2)
    manifest = pretrain.run(config, inputs, tmp_path)
    validations = [json.loads(line) for line in (manifest.folder / "validation.jsonl").read_text().splitlines()]
    means = {line["step"]: float(np.mean([value["bits_per_byte"] for value in line["validation"].values()])) for line in validations}
    best = min(means, key=lambda step: means[step])
    left = list_checkpoints(tmp_path / "checkpoints")
    assert left == [checkpoint_path(tmp_path / "checkpoints", step) for step in sorted({best, 6})]
    assert read_record(left[-1])["bits_per_byte"] == pytest.approx(means[6])


def test_state_and_scores_come_back_and_a_changed_record_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with world(job := Job("one", {"name": "single"}, 1), tmp_path) as parallel:
        checkpoints = open_checkpoints(parallel, tmp_path / "run", job)
        assert checkpoints.resume() == TrainingState()
        train_step(parallel, 0)
        state = TrainingState(step=5, gaps=[[3, 2]], recent=[[4, 2.5, 0.25]], skipped_steps=1, rollbacks=1, seconds=1.5, watt_hours=0.125)
        checkpoints.save(state, bits_per_byte=1.5)
        checkpoints.save(TrainingState(step=6), bits_per_byte=float("nan"))
        checkpoints.wait()
        assert [read_record(path)["bits_per_byte"] for path in list_checkpoints(tmp_path / "run")] == [1.5, None]
        # older than the newest, when that is what is asked for
        assert checkpoints.roll_back(TrainingState(step=5)) == state
        assert checkpoints.roll_back(TrainingState(step=4)) is None
        record = checkpoint_path(tmp_path / "run", 6) / "checkpoint.json"
        record.write_text(record.read_text().replace('"step": 6', '"step": 7'))
        assert checkpoints.resume() == state
        assert "checkpoint.json cannot be read (its own checksum does not fit); falling back to the one before" in capsys.readouterr().err


def test_before_the_first_step_there_is_no_optimiser_state_to_save(tmp_path: Path) -> None:
    with world(job := Job("one", {"name": "single"}, 1), tmp_path) as parallel:
        checkpoints = open_checkpoints(parallel, tmp_path / "run", job)
        checkpoints.save(TrainingState(), wait=True)
        expected = [train_step(parallel, step) for step in range(2)]
        assert checkpoints.resume() == TrainingState()
        assert [train_step(parallel, step) for step in range(2)] == expected
    assert not any(key.startswith("optimizer.") for key in read_whole(checkpoint_path(tmp_path / "run", 0)))


def saved_once(folder: Path, **settings: Any) -> Path:
    """A checkpoint of a single process after one step."""
    with world(job := Job("one", {"name": "single"}, 1, **settings), folder) as parallel:
        train_step(parallel, 0)
        open_checkpoints(parallel, folder, job).save(TrainingState(step=1), wait=True)
    return checkpoint_path(folder, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": 3}, r"holds another model: model\.model\.layers\.2\.\S+ is not there and has the shape \[\d+, \d+\] here; give the same model"),
        ({"hidden_size": 42}, r"holds another model: model\.model\.embed_tokens\.weight has the shape \[300, 30\] there and has the shape \[300, 42\] here"),
        ({"optimizer": "muon"}, r"holds the state of another optimiser: optimizer\.\S+ .*; give the same optimizer"),
    ],
)
def test_a_checkpoint_of_another_model_or_optimiser_is_refused_before_loading(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved_once(tmp_path / "run")
    with world(job := Job("other", {"name": "single"}, 1, **changed), tmp_path) as parallel:
        before = [parameter.detach().clone() for parameter in parallel.module.parameters()]
        with pytest.raises(ConfigError, match=message):
            open_checkpoints(parallel, tmp_path / "other", job, resume_from=str(path)).resume()
        assert all((parameter == old).all() for parameter, old in zip(parallel.module.parameters(), before, strict=True))


def test_a_checkpoint_in_the_format_of_before_is_refused(tmp_path: Path) -> None:
    path = saved_once(tmp_path / "run")
    (path / "checkpoint.json").write_text(json.dumps({"step": 1, "format": "deepspeed", "ranks": 1, "fingerprint": {"seed": 3}, "files": {}}))
    with world(job := Job("one", {"name": "single"}, 1), tmp_path) as parallel, pytest.raises(ConfigError, match="written by an older IberLM"):
        open_checkpoints(parallel, tmp_path / "run", job).resume()
    with pytest.raises(ConfigError, match="written by an older IberLM"):
        checkpoint_to_model(path, tmp_path / "model")


def test_an_error_of_the_last_write_is_only_printed_where_a_run_has_failed_already(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with world(job := Job("one", {"name": "single"}, 1, hidden_size=480, heads=4), small_disk) as parallel:
        checkpoints: Checkpoints = open_checkpoints(parallel, small_disk / "run", job)
        train_step(parallel, 0)
        checkpoints.save(TrainingState(step=1))
        checkpoints.close()
    assert "the last one could not be written" in capsys.readouterr().err
    assert list((small_disk / "run").iterdir()) == []


def test_a_model_from_a_checkpoint_has_the_logits_of_the_model_in_training(inputs: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(job := Job("one", {"name": "single"}, 1, tie_embeddings=True), tmp_path) as parallel:
        train_step(parallel, 0)
        seen = look(parallel)["logits"]
        open_checkpoints(parallel, tmp_path / "run", job).save(TrainingState(step=1), wait=True)
    path = checkpoint_path(tmp_path / "run", 1)
    monkeypatch.setattr(checkpoint_model, "_FILE_BYTES", 30_000)  # of several files
    tokenizer = inputs[1].folder / "tokenizer"
    with pytest.raises(ConfigError, match="the files of the run's tokenizer are no longer there; give their folder with --tokenizer"):
        checkpoint_to_model(path, tmp_path / "model")
    assert checkpoint_to_model(path, tmp_path / "model", tokenizer=tokenizer) == tmp_path / "model"
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    with torch.no_grad():
        assert torch.equal(model(text()[:, :-1]).logits, seen)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = AutoTokenizer.from_pretrained(str(tmp_path / "model"))("La casa blanca").input_ids
    assert ids == AutoTokenizer.from_pretrained(str(tokenizer))("La casa blanca").input_ids
    with pytest.raises(ConfigError, match="is there already"):
        checkpoint_to_model(path, tmp_path / "model", tokenizer=tokenizer)
    half = checkpoint_to_model(path, tmp_path / "half", tokenizer=tokenizer, precision="bf16")
    assert AutoModelForCausalLM.from_pretrained(str(half)).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="precision: unknown value 'fp16'"):
        checkpoint_to_model(path, tmp_path / "other", tokenizer=tokenizer, precision="fp16")
    with pytest.raises(ConfigError, match=r"is no checkpoint \(there is no checkpoint\.json\); give one of the folders step-N"):
        checkpoint_to_model(tmp_path, tmp_path / "other", tokenizer=tokenizer)
    damage(path / "__0_0.distcp", "flipped")
    with pytest.raises(CorruptError, match=r"has another checksum than checkpoint\.json says; choose another checkpoint"):
        checkpoint_to_model(path, tmp_path / "other", tokenizer=tokenizer)
    assert not (tmp_path / "other").exists()


def test_the_folder_of_a_continued_model_keeps_its_generation_settings(finished: Manifest, inputs: list[Manifest], tmp_path: Path) -> None:
    initial = tmp_path / "initial"
    shutil.copytree(finished.folder / "model", initial)
    settings = json.loads((initial / "generation_config.json").read_text()) | {"repetition_penalty": 1.25}
    (initial / "generation_config.json").write_text(json.dumps(settings))
    manifest = pretrain.run(tiny(initial_model=str(initial), steps=3), inputs, tmp_path / "run")
    exported = checkpoint_to_model(manifest.folder / "checkpoints/step-00000003", tmp_path / "exported")
    for folder in (manifest.folder / "model", exported):
        assert json.loads((folder / "generation_config.json").read_text()) == settings
        assert json.loads((folder / "config.json").read_text())["hidden_size"] == 32
    weights = [AutoModelForCausalLM.from_pretrained(str(folder)).state_dict() for folder in (manifest.folder / "model", exported)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
