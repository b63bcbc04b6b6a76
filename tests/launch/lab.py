"""Commands as a user types them on a login node of the tests' cluster, whose profile is a user's own file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROFILE = """\
name: lab
scheduler: slurm
partition: main
nodes: 2
tasks_per_node: 2
cores_per_node: 4
exclusive: false
walltime_minutes: 60
signal_seconds: 60
node_local: /tmp
"""
TINY = [
    "curate.select.validation_share=0.1",
    "pretrain.model.hidden_size=32",
    "pretrain.model.layers=2",
    "pretrain.model.ffn_size=64",
    "pretrain.sequence_length=32",
    "pretrain.micro_batch_size=4",
    "pretrain.global_batch_tokens=512",
    "pretrain.steps=10",
    "pretrain.schedule.warmup_steps=2",
    "pretrain.validate_every_steps=0",
    "pretrain.max_new_tokens=4",
    "pretrain.prompts={es: La}",
    "pretrain.tracker=none",
    "finetune.max_steps=2",
    "finetune.max_new_tokens=4",
    "finetune.micro_batch_size=4",
    "evaluate.limit=2",
    "evaluate_finetuned.limit=2",
]
"""Of the demo: everything in it, and nothing that takes long."""


def login(folder: Path, *arguments: str, profile: str = PROFILE, timeout: float = 1800) -> "subprocess.CompletedProcess[str]":
    """Run `iberlm ARGUMENTS` in `folder`, beside which the cluster's profile is."""
    configs = folder / "profiles" / "cluster"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "lab.yaml").write_text(profile)
    hydra = ["--config-dir", str(folder / "profiles")] if any("=" in argument for argument in arguments) else []
    return subprocess.run(
        [sys.executable, "-m", "iberlm", *arguments, *hydra],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def jobs(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The newest submission of each name."""
    return {record["name"]: record for record in lines(run_dir / "slurm/jobs.jsonl")}


def logs(run_dir: Path) -> str:
    """The ends of all logs, for a failing assertion."""
    return "\n".join(f"--- {path.name}\n" + path.read_text()[-1500:] for path in sorted((run_dir / "slurm/logs").glob("*.log")))
