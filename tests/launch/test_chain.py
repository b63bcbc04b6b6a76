"""The demo as a chain of jobs on a real Slurm: arrays, a killed element, what is missing submitted again, a cancelled chain, hostile names."""

import fcntl
from pathlib import Path

import pytest

from iberlm.core.manifest import read_manifest
from iberlm.launch.job import quarantine
from iberlm.launch.submit import live_jobs

from .lab import PROFILE, TINY, jobs, lines, login, logs
from .slurm_cluster import SlurmCluster

HOSTILE = "a run 'of' \"mine\"; $(touch pwned) %j &ñ"
"""Name of a run folder that no shell and no Slurm may take for anything but a name."""


def chain(folder: Path, run_dir: str, *more: str) -> tuple[int, str]:
    quoted = "'" + run_dir.replace("'", "\\'") + "'"
    ended = login(folder, "run", "pipeline=demo", "cluster=lab", f"run_dir={quoted}", "pretrain.strategy.name=fsdp2", *TINY, *more)
    return ended.returncode, ended.stdout + ended.stderr


def test_the_demo_runs_as_a_chain_whose_killed_element_is_submitted_again_alone(slurm: SlurmCluster, tmp_path: Path) -> None:
    # one rank a node, and one in all: what several ranks need is tested in test_training
    sizes = ["pretrain.cluster.tasks_per_node=1", "finetune.cluster.nodes=1", "finetune.cluster.tasks_per_node=1"]
    arrays = [*sizes, "curate.cluster.elements=2", "curate.extract.shard_bytes=200000", "tokenize.cluster.elements=2"]
    # the element that is to be killed waits for it
    setup = tmp_path / "profiles" / "setup.sh"
    setup.parent.mkdir()
    setup.write_text('[ "${SLURM_ARRAY_TASK_ID:-}" != 1 ] || sleep 3000\n')
    arrays.append(f"curate.cluster.setup_file={setup}")
    # not to begin by itself, so that the kill does not race with the work
    status, said = chain(tmp_path, HOSTILE, *arrays, "curate.cluster.extra=['--begin=now+3600']")
    assert status == 0, said
    run_dir = tmp_path / HOSTILE
    first = jobs(run_dir)
    assert list(first) == [
        *("fetch", "curate-extract-array", "curate-extract", "curate-annotate-array", "curate", "train_tokenizer"),
        *("tokenize-array", "tokenize", "pretrain", "evaluate", "finetune", "evaluate_finetuned", "report"),
    ]
    array = first["curate-extract-array"]["job"]
    slurm.wait_state(first["fetch"]["job"], "COMPLETED", seconds=60)
    slurm.run("scontrol", "update", f"JobId={array}_0", "StartTime=now")
    slurm.wait_state(f"{array}_0", "COMPLETED", seconds=60)
    slurm.run("scontrol", "update", f"JobId={array}_1", "StartTime=now")
    slurm.wait_state(f"{array}_1", "RUNNING")
    slurm.run("scancel", "--signal=KILL", "--full", f"{array}_1")
    slurm.wait_state(f"{array}_1", "FAILED", "CANCELLED")
    # the fault landed: the element has no end, its shards are not done, and everything after it is gone
    events = [(line["event"], line["element"]) for line in lines(run_dir / "slurm/curate-extract-array/starts.jsonl")]
    assert ("end", 0) in events
    assert ("end", 1) not in events
    done = {path.stem for path in (run_dir / "extract/.shards").glob("[0-9]*.json")}
    planned = read_plan(run_dir / "extract")
    assert done == set(planned[0::2]) != set(planned)
    slurm.wait(lambda: not slurm.run("squeue", "-h", "-o", "%i").strip(), 30, "the rest of the chain is cancelled")
    setup.write_text("")

    status, said = chain(tmp_path, HOSTILE, *arrays)
    assert status == 0, said
    again = jobs(run_dir)
    assert again["curate-extract-array"]["array"] == "1"
    assert again["fetch"]["job"] == first["fetch"]["job"]  # complete: not submitted again
    # a third call finds all of it queued
    status, said = chain(tmp_path, HOSTILE, *arrays)
    assert (status, jobs(run_dir)) == (0, again), said
    assert "queued or running already" in said

    last = again["report"]["job"]
    ended = slurm.wait(lambda: state if (state := slurm.state(last)) in ("COMPLETED", "CANCELLED", "FAILED", "") else "", 240, "the chain ends")
    assert ended == "COMPLETED", logs(run_dir)
    assert "has not run" not in (run_dir / "report/report.html").read_text()
    assert read_manifest(run_dir / "pretrain").config["cluster"]["nodes"] == 2
    assert not list(tmp_path.glob("**/pwned"))
    assert {entry.name for entry in tmp_path.iterdir()} == {HOSTILE, "profiles"}
    # what a job was, is in its folder
    folder = run_dir / "slurm/pretrain"
    assert {"job.sh", "config.yaml", "job.json", "code.json", "starts.jsonl"} <= {path.name for path in folder.iterdir()}
    assert lines(folder / "starts.jsonl")
    # and nothing is left to do
    status, said = chain(tmp_path, HOSTILE, *arrays)
    assert (status, jobs(run_dir)) == (0, again), said
    assert "all stages are complete" in said


def read_plan(stage: Path) -> list[str]:
    import json

    names: list[str] = json.loads((stage / ".shards/plan.json").read_text())["shards"]
    return names


def test_a_dry_run_prints_the_scripts_and_touches_nothing(slurm: SlurmCluster, tmp_path: Path) -> None:
    status, said = chain(tmp_path, "runs/x", "dry_run=true")
    assert status == 0, said
    assert said.count("#!/bin/bash") == 9
    assert {entry.name for entry in tmp_path.iterdir()} == {"profiles"}
    assert not slurm.run("squeue", "-h")


def test_nodes_in_quarantine_are_left_out_of_what_is_submitted_later(slurm: SlurmCluster, tmp_path: Path) -> None:
    quarantine.add(tmp_path / "runs/x", {"node2": "died"}, 7)
    status, said = chain(tmp_path, "runs/x", "dry_run=true", "cluster.exclude=[node1]")
    assert status == 0, said
    assert said.count("#SBATCH --exclude=node1,node2\n") == 9


def test_data_cards_that_the_shell_names_are_found_by_jobs_too(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IBERLM_CARDS", "own cards:/more")
    status, said = chain(tmp_path, "runs/x", "dry_run=true", "stages=[fetch]")
    assert status == 0, said
    assert f'export IBERLM_CARDS="{tmp_path}/own cards:/more"' in said.replace("'", '"')


def test_a_verb_that_is_queued_is_not_submitted_twice_and_with_other_settings_refused(slurm: SlurmCluster, tmp_path: Path) -> None:
    later = ["fetch", "cluster=lab", "run_dir=runs/x", "cluster.extra=['--begin=now+3600']"]
    assert login(tmp_path, *later).returncode == 0
    first = jobs(tmp_path / "runs/x")
    again = login(tmp_path, *later)
    assert (again.returncode, jobs(tmp_path / "runs/x")) == (0, first)
    assert f"fetch: job {first['fetch']['job']} is queued or running already" in again.stderr
    assert login(tmp_path, *later, "confirm=5").returncode == 0  # which says nothing of what the job does
    other = login(tmp_path, *later, "corpus.name=other")
    assert other.returncode == 2
    assert "is queued or running with other settings" in other.stderr
    assert jobs(tmp_path / "runs/x") == first


def test_a_sweep_is_one_array_and_only_missing_elements_are_submitted_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    sweep = ["fetch", "cluster=lab", "run_dir=runs/s", "cluster.max_running=2", "--multirun", "out=runs/s/fetch", "corpus.name=a,b,c"]
    ended = login(tmp_path, *sweep)
    assert ended.returncode == 0, ended.stderr
    record = jobs(tmp_path / "runs/s")["fetch-sweep"]
    assert record["array"] == "0-2%2"
    slurm.wait(lambda: not slurm.run("squeue", "-h", "-j", str(record["job"]), check=False).strip(), 60, "the array ends")
    outs = sorted((tmp_path / "runs/s/fetch_sweep").iterdir())
    assert [out.name for out in outs] == ["corpus.name=a", "corpus.name=b", "corpus.name=c"]
    assert all((out / "manifest.json").is_file() for out in outs), logs(tmp_path / "runs/s")
    (outs[1] / "manifest.json").unlink()
    # another setting of the cluster alone makes no other folders
    assert login(tmp_path, *sweep, "cluster.walltime_minutes=5").returncode == 0
    assert jobs(tmp_path / "runs/s")["fetch-sweep"]["array"] == "1"


def test_two_commands_at_once_submit_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "runs/x/slurm").mkdir(parents=True)
    with (tmp_path / "runs/x/slurm/.lock").open("w") as stream:  # as a command that is submitting
        fcntl.flock(stream, fcntl.LOCK_EX)
        ended = login(tmp_path, "fetch", "cluster=lab", "run_dir=runs/x")
    assert ended.returncode == 6
    assert "another command is submitting from runs/x" in ended.stderr
    assert not slurm.run("squeue", "-h")


def test_a_stage_on_a_cluster_is_submitted_from_a_local_pipeline(slurm: SlurmCluster, tmp_path: Path) -> None:
    told = ["run", "pipeline=demo", "run_dir=runs/x", "cluster@curate.cluster=lab", "stages=[fetch,curate]"]
    planned = login(tmp_path, *told, "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "fetch: would run here first" in planned.stderr
    assert not (tmp_path / "runs").exists()
    ended = login(tmp_path, *told, "curate.cluster.extra=['--begin=now+3600']")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs/x/fetch/manifest.json").is_file()
    assert list(jobs(tmp_path / "runs/x")) == ["curate"]


@pytest.mark.parametrize("key", ["account", "partition", "qos", "reservation", "constraint", "extra", "exclude", "gres"])
@pytest.mark.parametrize("value", ["a b", "a;b", "$(touch pwned)", 'a"b', "a'b", "a\nb", "`id`", "--export=ALL\n#SBATCH x"])
def test_hostile_values_are_refused_before_anything_is_written(slurm: SlurmCluster, tmp_path: Path, key: str, value: str) -> None:
    from iberlm.core.cluster import ClusterConfig
    from iberlm.core.config import StageConfig
    from iberlm.core.errors import ConfigError
    from iberlm.launch.submit import Submission, submit
    from iberlm.launch.work import Work, size_of

    given = [value] if key in ("extra", "exclude") else value
    cluster = ClusterConfig(name="lab", scheduler="slurm", cores_per_node=1, gpus_per_node=1, walltime_minutes=20, **{key: given})
    settings = StageConfig(run_dir=str(tmp_path / "run"), out=str(tmp_path / "run/evaluate"), cluster=cluster)
    work = Work(name="evaluate", stage="evaluate", verb="evaluate", settings=[settings], size=size_of("gpu", cluster), out=tmp_path, uses_gpus=True)
    with pytest.raises(ConfigError, match=key):
        submit([work], Submission(run_dir=tmp_path / "run", freeze=lambda settings, path: None))
    assert not list(tmp_path.iterdir())
    assert not slurm.run("squeue", "-h")


def test_a_chain_that_sbatch_refuses_in_the_middle_is_taken_back(slurm: SlurmCluster, tmp_path: Path) -> None:
    # Slurm knows this licence no more than we do: only sbatch can say so
    status, said = chain(tmp_path, "runs/x", "tokenize.cluster.extra=['--licenses=nowhere']")
    assert status in (2, 6), said
    assert "taken back: fetch" in said
    slurm.wait(lambda: not slurm.run("squeue", "-h"), 30, "the queue is empty: a job that had begun already ends first")
    assert not live_jobs(tmp_path / "runs/x")


def test_without_slurm_the_message_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ended = login(tmp_path, "fetch", "cluster=lab", "run_dir=run", profile=PROFILE)
    assert ended.returncode == 6
    assert "cluster=local" in ended.stderr
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] == [".lock"]
