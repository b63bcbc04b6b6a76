"""What jobs leave in their folders, made up: job.json, lines of starts.jsonl, checks of nodes."""

from pathlib import Path
from typing import Any

from iberlm.launch import records
from iberlm.launch.job.attempts import Attempt
from iberlm.launch.job.node import NodeRecord

NODES = ["gs01", "gs02"]


def job_file(run_dir: Path, name: str = "pretrain", **values: Any) -> dict[str, Any]:
    """What a submission writes into job.json."""
    out = str(run_dir / "out")
    value = {"name": name, "verb": "pretrain", "stage": "pretrain", "run_dir": str(run_dir), "out": out, "folders": [out], "cluster": "lab"}
    value |= {"gpus_per_node": 0, "nodes": 1, "ranks": 1, "minutes": 60, "goal": 0, "exclude": [], "accelerator": "none", "signal_seconds": 300}
    value |= {"code_version": "0", "retry": {"requeue": True, "max_starts_without_progress": 2, "node_failures": 2}}
    return value | values


def attempt(restart: int = 0, **values: Any) -> Attempt:
    return Attempt(**({"job": 7, "element": None, "restart": restart, "nodes": NODES} | values))


def began(restart: int, step: int, **values: Any) -> dict[str, Any]:
    line = {"event": "start", "job": 7, "element": None, "restart": restart, "nodes": NODES, "time": "2026-11-23T10:00:00+01:00"}
    return line | {"progress": [[0, step, 0, 0]], "before": "", "refused": ""} | values


def checked(name: str, **values: Any) -> NodeRecord:
    plain: dict[str, Any] = {
        "node": name,
        "host": f"{name}.cluster",
        "attempt": "7-0",
        "time": 0.0,
        "gpus": [],
        "driver": "",
        "kernel": "",
        "temporary": "/tmp",
    }
    return NodeRecord(**(plain | {"free_bytes": 1 << 40, "problems": [], "remarks": []} | values))


def queue(run_dir: Path, name: str, number: int, array: str = "") -> None:
    plain = {"stage": name, "verb": name, "cluster": "lab", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "gpus_per_node": 0, "minutes": 1}
    records.append_job(run_dir, records.JobRecord(name=name, job=number, array=array, out="", submitted="", **plain))
