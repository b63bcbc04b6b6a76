"""Training on two nodes of a real Slurm: FSDP2 through a node that is powered off and a time limit, ZeRO, and the same losses as undisturbed runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from iberlm.core.manifest import read_manifest
from tests.train.conftest import make_store, make_tokenizer

from .lab import PROFILE, lines, login, logs
from .slow_hook import STOPS
from .slurm_cluster import SlurmCluster

STEPS = 24
SETTINGS = [
    "tokens=inputs/tokenize",
    "tokenizer_folder=inputs/train_tokenizer",
    "model.hidden_size=32",
    "model.layers=2",
    "model.ffn_size=64",
    "model.heads=4",
    "model.kv_heads=2",
    "model.max_position_embeddings=64",
    "sequence_length=32",
    "global_batch_tokens=256",
    "micro_batch_size=2",
    f"steps={STEPS}",
    "schedule.warmup_steps=2",
    "validate_every_steps=2",
    "validation_tokens=64",
    "checkpoint.every_steps=4",
    "waived_gates=[cost]",
    "prompts={es: La}",
    "max_new_tokens=2",
    "tracker=none",
    "compile=off",
    "monitor.hooks=[slow_hook:slow]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user works: inputs and a module of their own."""
    folder = tmp_path_factory.mktemp("training")
    tokenizer = make_tokenizer(folder / "inputs/train_tokenizer")
    make_store(folder / "inputs/tokenize", tokenizer, {"es": 60, "ca-valencia": 30, "eu": 20})
    (folder / "modules").mkdir()
    shutil.copy(Path(__file__).with_name("slow_hook.py"), folder / "modules")
    return folder


def losses(run: Path) -> dict[int, float]:
    """Of a training that has ended."""
    return {line["step"]: line["loss"] for line in lines(run / "pretrain/metrics.jsonl")}


def newest_step(run: Path) -> int:
    """Of a training at work, whose last line may be half written; 0: none yet."""
    path = run / "pretrain/metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.is_file() else []
    return int(json.loads(whole[-1])["step"]) if whole else 0


def undisturbed(folder: Path, run: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict[int, float]:
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'modules'}")
    ended = login(folder, "pretrain", f"run_dir={run}", "cluster.processes=4", *SETTINGS, *more)
    assert ended.returncode == 0, ended.stderr
    return losses(folder / run)


def profile(folder: Path, **settings: int) -> str:
    changed = PROFILE + f"environment: {{PYTHONPATH: {folder / 'modules'}}}\n"
    for key, value in settings.items():
        changed = "\n".join(f"{key}: {value}" if line.startswith(f"{key}:") else line for line in changed.splitlines()) + "\n"
        changed += "" if f"{key}:" in changed else f"{key}: {value}\n"
    return changed


def test_fsdp2_on_two_nodes_survives_a_dead_node_and_a_time_limit_with_the_same_losses(
    slurm: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"walltime_minutes": 60, "signal_seconds": 600}
    submitted = login(folder, "pretrain", "cluster=lab", "run_dir=runs/fsdp2", "strategy=fsdp2", *SETTINGS, profile=profile(folder, **limits))
    assert submitted.returncode == 0, submitted.stderr
    run = folder / "runs/fsdp2"
    job = lines(run / "slurm/jobs.jsonl")[-1]["job"]

    # each start stands still at a step of its own until its fault has come
    slurm.wait(lambda: newest_step(run) == STOPS[0], 240, "the first steps are done")
    assert any((run / "pretrain/checkpoints").glob("step-*"))
    first = lines(run / "slurm/pretrain/starts.jsonl")[0]["nodes"]
    dead = int(first[1].removeprefix("node"))
    slurm.kill_node(dead)
    slurm.down(dead)
    slurm.wait(lambda: slurm.job(job).get("Restarts") == "1", 30, "Slurm requeues the job")
    slurm.wait(lambda: newest_step(run) > STOPS[0], 180, "the second start trains")
    # the limit comes so near that the signal is due; Slurm looks every 30 s
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    slurm.wait(lambda: slurm.job(job).get("Restarts") == "2", 90, "the time limit's signal requeues the job")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    state = slurm.wait(lambda: state if (state := slurm.state(job)) not in ("RUNNING", "PENDING", "COMPLETING", "CONFIGURING") else "", 240, "the job ends")
    assert state == "COMPLETED", logs(run)

    # both faults landed while it trained, and each start went on where the last one had saved
    starts = [line for line in lines(run / "slurm/pretrain/starts.jsonl") if line["event"] == "start"]
    assert [line["restart"] for line in starts[:3]] == [0, 1, 2]
    assert f"node{dead}" not in starts[1]["nodes"] + starts[2]["nodes"]
    log = (run / f"slurm/logs/pretrain-{job}.log").read_text()
    assert "DUE TO NODE FAILURE" in log
    stopped = re.search(rf"stopped at step (\d+) of {STEPS} on SIGUSR2; run the same command again", log)
    assert stopped is not None, log
    assert STOPS[0] < int(stopped[1]) < STEPS
    assert not (run / "pretrain/stopped.json").exists()
    assert read_manifest(run / "pretrain").metrics
    assert losses(run) == undisturbed(folder, "runs/alone", monkeypatch, "strategy=fsdp2")


def test_zero2_on_two_nodes_has_the_losses_of_one(slurm: SlurmCluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["steps=6", "strategy=zero2", "monitor.hooks=[]"]
    submitted = login(folder, "pretrain", "cluster=lab", "run_dir=runs/zero", *SETTINGS, *few, profile=profile(folder))
    assert submitted.returncode == 0, submitted.stderr
    run = folder / "runs/zero"
    job = lines(run / "slurm/jobs.jsonl")[-1]["job"]
    slurm.wait_state(job, "COMPLETED", "FAILED", "CANCELLED", seconds=180)
    assert (run / "pretrain/manifest.json").is_file(), logs(run)
    assert "[zero2" in logs(run) or "zero2" in logs(run)
    assert losses(run) == undisturbed(folder, "runs/zero-alone", monkeypatch, *few)
