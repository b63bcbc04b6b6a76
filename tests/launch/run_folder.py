"""Parts of a run folder as the real code leaves them: stages by the stage runner, heartbeats by the watchdog."""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.cluster import ClusterConfig
from iberlm.core.config import StageConfig
from iberlm.core.files import write_json
from iberlm.core.manifest import Manifest
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, code_version, run_stage
from iberlm.launch.job.attempts import JobFile, read_job
from iberlm.launch.records import JOB, JobRecord
from iberlm.launch.work import Work, size_of


@dataclass
class Settings:
    """Settings of a stand-in stage."""

    name: str = "small"


def complete(folder: Path, name: str = "") -> Manifest:
    """A complete stage, made by the stage runner."""

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        (out / "made.txt").write_text("made")
        record.output(out / "made.txt")

    return run_stage(name or folder.name, 1, body, Settings(), [], folder)


def no_shard(shard: int, out: Path) -> ShardResult:
    """A shard's work; those from 2 on fail."""
    if shard >= 2:
        raise RuntimeError("shard")
    return ShardResult()


def interrupted_map(folder: Path, label: str, shards: int) -> None:
    """A sharded stage that ended after two of its shards."""

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        map_shards(label, no_shard, {f"{number:05d}": number for number in range(shards)}, record, workers=1)

    with pytest.raises(RuntimeError):
        run_stage(folder.name, 1, body, Settings(), [], folder, resumable=True)


def begun(folder: Path) -> None:
    """A stage that was begun and interrupted."""

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(folder.name, 1, body, Settings(), [], folder, resumable=True)


def metrics(out: Path, steps: int, *, seconds: float = 2.0, goal: int = 3000, hang_seconds: float = 1800.0) -> None:
    """What a training leaves on the way: a line a step, the first of them slow, settings, a checkpoint and how far it is."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "metrics.jsonl").open("w") as stream:
        for step in range(1, steps + 1):
            took = seconds if step > 1 else 100 * seconds
            line = {"step": step, "loss": 9 * step**-0.15, "tokens_per_second": 4096 / took, "seconds": took, "mfu": 0.31, "applied": True}
            stream.write(json.dumps(line) + "\n")
        stream.write('{"step": 99999, "lo')  # being written
    config = {"steps": 0, "tokens_total": goal * 4096, "global_batch_tokens": 4096, "faults": {"hang_seconds": hang_seconds}}
    (out / "frozen.json").write_text(json.dumps({"config": config}))
    (out / "state.json").write_text(json.dumps({"step": steps // 100 * 100, "skipped_steps": 2, "rollbacks": 1}))
    (out / "checkpoints" / f"step-{steps // 100 * 100:08d}").mkdir(parents=True)
    (out / "checkpoints" / ".step-00009999.partial").mkdir()


def heartbeat(out: Path, *, at: float, alive: float, step: int = 118, phase: str = "step", rank: int = 0, host: str = "node1") -> None:
    """As `train.watchdog` writes it."""
    (out / "heartbeats").mkdir(parents=True, exist_ok=True)
    beat = {"rank": rank, "host": host, "process": 4711, "turn": step, "step": step, "phase": phase, "at": at, "alive": alive, "launch": "node1:29500:5:"}
    (out / "heartbeats" / f"rank-{rank}.json").write_text(json.dumps(beat).ljust(511) + "\n")


def job_record(run: Path, name: str, *, job: int = 0, stage: str = "", out: Path | None = None, submitted: float | None = None, **more: Any) -> JobRecord:
    """A submission of a run; `array`, `after` and `goal` as they are in a record."""
    stage = stage or name.partition("-")[0]
    when = datetime.fromtimestamp(submitted).astimezone() if submitted is not None else datetime.now().astimezone()
    values = {"cluster": "lab", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1, "gpus_per_node": 0, "minutes": 10} | more
    out = out or run / stage
    return JobRecord(name=name, stage=stage, verb=stage.replace("_", "-"), job=job, out=str(out), submitted=when.isoformat(timespec="seconds"), **values)


def describe(run: Path, record: JobRecord) -> JobFile:
    """Write job.json of a submission as submitting does."""
    cluster = ClusterConfig(name="lab", scheduler="slurm", walltime_minutes=record.minutes, signal_seconds=60)
    settings = StageConfig(run_dir=str(run), out=record.out, cluster=cluster)
    out = Path(record.out)
    work = Work(
        name=record.name, stage=record.stage, verb=record.verb, settings=[settings], size=size_of("cpu", cluster), out=out, folders=[out], goal=record.goal
    )
    write_json(record.folder(run) / JOB, work.description(run, code_version()))
    return read_job(record.folder(run))


def older(path: Path, seconds: float) -> None:
    """Make a file look as if it had been written so long ago."""
    time = path.stat().st_mtime - seconds
    os.utime(path, (time, time))
