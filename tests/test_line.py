"""The whole line as `iberlm run` goes through it, with a tiny model: killed in every stage, and made again to the byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iberlm.core.manifest import read_manifest

TINY = [
    "run_dir=run",
    "curate.select.validation_share=0.1",
    "pretrain.model.hidden_size=32",
    "pretrain.model.layers=2",
    "pretrain.model.ffn_size=64",
    "pretrain.sequence_length=32",
    "pretrain.micro_batch_size=4",
    "pretrain.global_batch_tokens=128",
    "pretrain.steps=40",
    "pretrain.schedule.warmup_steps=2",
    "pretrain.checkpoint.every_steps=5",
    "pretrain.validate_every_steps=0",
    "pretrain.max_new_tokens=4",
    "pretrain.prompts={es: La}",
    "finetune.max_steps=3",
    "finetune.max_new_tokens=4",
    "evaluate.limit=2",
    "evaluate_finetuned.limit=2",
]
KILLED = ("extract", "annotate", "curate", "train_tokenizer", "tokenize", "pretrain", "evaluate", "finetune", "report")
"""Folders of the stages in which the line is killed."""
MUST = {"annotate", "pretrain", "evaluate", "finetune"}
"""Those that take long enough to be cut off."""
SAME_BYTES = ("extract", "annotate", "dedup", "curate", "train_tokenizer", "tokenize")


def command(folder: Path, *more: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    folder.mkdir(exist_ok=True)
    arguments = [sys.executable, "-m", "iberlm", "run", "pipeline=demo", *TINY, *more]
    return subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def whole(folder: Path) -> str:
    process = command(folder)
    _, said = process.communicate(timeout=3000)
    assert process.returncode == 0, said
    return said


def kill_in(folder: Path, stage: str) -> bool:
    """Start the line, kill it with -9 once `stage` has begun; whether the stage was cut off before its end."""
    process = command(folder)
    begun, ended = folder / "run" / stage / ".stage.json", folder / "run" / stage / "manifest.json"
    checkpoints = folder / "run/pretrain/checkpoints"
    deadline = time.monotonic() + 3000
    while time.monotonic() < deadline and process.poll() is None and not ended.exists():
        if begun.exists() and (stage != "pretrain" or any(checkpoints.glob("step-*"))):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until its children have gone, too: they hold the other end
    return begun.exists() and not ended.exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """An undisturbed run, one that was killed in every stage and then completed, and the stages that were really cut off."""
    folder = tmp_path_factory.mktemp("line")
    whole(folder / "undisturbed")
    cut_off = []
    for stage in KILLED:
        cut = kill_in(folder / "killed", stage)
        for _ in range(4):
            if not cut and stage in MUST:  # it was over before this process was awake again, as may be on a busy machine
                shutil.rmtree(folder / "killed/run" / stage)
                cut = kill_in(folder / "killed", stage)
        cut_off += [stage] if cut else []
    whole(folder / "killed")
    return folder / "undisturbed" / "run", folder / "killed" / "run", cut_off


def test_the_kills_landed(runs: tuple[Path, Path, list[str]]) -> None:
    assert set(runs[2]) >= MUST


@pytest.mark.parametrize("stage", SAME_BYTES)
def test_after_kills_the_outputs_are_the_same_to_the_byte(runs: tuple[Path, Path, list[str]], stage: str) -> None:
    undisturbed, killed = (read_manifest(run / stage) for run in runs[:2])
    killed.check_files(checksums=True)
    assert {output.path: output.sha256 for output in killed.outputs} == {output.path: output.sha256 for output in undisturbed.outputs}


def test_after_kills_the_model_is_the_same_to_the_byte(runs: tuple[Path, Path, list[str]]) -> None:
    weights = [{output.path: output.sha256 for output in read_manifest(run / "pretrain").outputs}["model/model.safetensors"] for run in runs[:2]]
    assert weights[0] == weights[1]


def test_a_second_run_skips_every_stage(runs: tuple[Path, Path, list[str]]) -> None:
    said = whole(runs[0].parent)
    assert said.count("complete, skipped") == 12
    assert "start" not in said


def test_the_report_tells_of_every_stage(runs: tuple[Path, Path, list[str]]) -> None:
    page = (runs[0] / "report/report.html").read_text(encoding="utf-8")
    assert "has not run" not in page
    for section in ("Funnel", "Tokenizer", "Training", "Evaluation", "Fine-tuning", "Configuration"):
        assert section in page


def test_sigterm_reaches_the_stage_which_saves_and_the_next_run_goes_on_from_there(runs: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("pretrain", "evaluate*", "finetune", "report"))
    process = command(tmp_path, "pretrain.steps=40000")  # more than it does before the signal
    metrics = tmp_path / "run/pretrain/metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=3000)
    assert process.returncode == 75, said
    assert "stopped in 'pretrain'; run the same command again to go on" in said
    assert any((tmp_path / "run/pretrain/checkpoints").glob("step-*"))
    assert not (tmp_path / "run/pretrain/manifest.json").exists()


def test_a_failing_stage_stops_the_line_with_its_message_and_status(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "iberlm", "run", "pipeline=demo", "run_dir=run", "train_tokenizer.tokenizer.vocabulary_size=60000"]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 4
    assert "60000" in ended.stderr.replace(",", "")
    assert "the pipeline stopped at 'train_tokenizer'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run/train_tokenizer/manifest.json").exists()
