"""What a run folder tells by itself: local runs, jobs that Slurm has forgotten, logs, damaged records."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.launch.job import start
from iberlm.launch.job.attempts import Attempt
from iberlm.launch.records import FOLDER, JOB, LOGS, STARTS, JobRecord, append_job, append_line
from iberlm.launch.status.run import Stage, evidence, run_status, span
from iberlm.launch.status.view import lines
from iberlm.train import config_groups, frozen, state, watchdog

from .run_folder import Settings, begun, complete, describe, heartbeat, interrupted_map, job_record, metrics, older
from .slurm_cluster import SlurmCluster


def test_names_and_limits_are_those_of_training() -> None:
    assert (evidence.HEARTBEATS, evidence.STATE, evidence.FROZEN) == (watchdog.FOLDER, state.STATE, frozen.FROZEN)
    assert (watchdog.PATIENCE, config_groups.FaultsConfig().hang_seconds) == (evidence.PATIENCE, evidence.HANG_SECONDS)


def test_a_watchdogs_own_heartbeat_is_read(tmp_path: Path) -> None:
    dog = watchdog.Watchdog(tmp_path, rank=0, world=1, hang_seconds=60)
    dog.start()
    dog.beat(7, "validation")
    dog.stop()
    (tmp_path / "heartbeats" / "rank-1.json").write_text('{"rank": 1, "ho')
    found = evidence.beats(tmp_path)
    assert found is not None
    assert (found.ranks, found.patience) == (1, evidence.PATIENCE * evidence.HANG_SECONDS)
    assert evidence.beats(tmp_path, since=time.time() + 60) is None


# ------------------------------------------------------------------------------------------------------------- local runs


def told(run: Path, now: float | None = None) -> str:
    return "\n".join(lines(run_status(run, now)))


def stages(run: Path, now: float | None = None) -> dict[str, Stage]:
    return {stage.name: stage for stage in run_status(run, now).stages}


def test_a_local_run_is_told_from_its_folders(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("report", "fetch", "curate"):
        complete(run / name)
    interrupted_map(run / "tokenize", "tokenize", 8)
    interrupted_map(run / "dedup", "dedup: clusters", 3)
    metrics(run / "pretrain", 230)
    (run / "pretrain/.stage.json").write_text('{"stage": "pretrain", "key": ""}')
    (run / "pretrain/stopped.json").write_text(json.dumps({"reason": "SIGTERM", "step": 230, "time": 0}))
    begun(run / "evaluate")
    (run / "curate/manifest.json").write_text("{")
    (run / "notes").mkdir()
    now = time.time() + 7200
    text = told(run, now)
    assert [line.split()[0] for line in text.splitlines()[1:] if line[0].strip()] == ["fetch", "dedup", "curate", "tokenize", "pretrain", "evaluate", "report"]
    found = stages(run, now)
    assert found["fetch"].state == "complete"
    assert (found["curate"].state, "not a manifest" in found["curate"].why) == ("damaged", True)
    assert found["tokenize"].shards == evidence.Shards(label="tokenize", done=2, total=8)
    assert "2 of 8 shards (25%)\n" in text
    assert "2 of 3 shards (67%) of 'clusters'\n" in text
    assert (found["tokenize"].state, found["pretrain"].state, found["evaluate"].state) == ("unfinished", "stopped", "unfinished")
    assert found["pretrain"].why == "told to stop (SIGTERM) at step 230"
    steps = found["pretrain"].steps
    assert steps is not None
    assert (steps.step, steps.goal, steps.checkpoint, steps.tokens_per_second, steps.seconds_left) == (230, 3000, 200, 2048.0, 5540.0)
    assert "begun, and no process on this machine works in it; last written 2 h ago" in text
    assert "-> the same command goes on from what is saved" in text


def test_a_stage_that_works_on_this_machine_is_seen_without_touching_its_lock(tmp_path: Path) -> None:
    seen: list[Stage] = []

    def body(config: Any, inputs: list[Manifest], out: Path, record: Record) -> None:
        seen.append(stages(tmp_path, time.time() + 7200)["evaluate"])

    run_stage("evaluate", 1, body, Settings(), [], tmp_path / "evaluate")
    assert (seen[0].state, "on this machine" in seen[0].why) == ("running", True)
    assert stages(tmp_path)["evaluate"].state == "complete"


def test_a_stage_that_was_written_just_now_may_be_another_machines(tmp_path: Path) -> None:
    begun(tmp_path / "evaluate")
    assert stages(tmp_path)["evaluate"].state == "unknown"
    assert "another machine may" in told(tmp_path)


def test_an_empty_folder_is_told_friendly_and_none_is_an_error(tmp_path: Path) -> None:
    assert "nothing has been run here yet" in told(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        run_status(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [b"{\n{}\n", b"[1]\n[2]\n", b'{"name": "x"}\n', b"\xff\xfe\x00\n\x00", b'"text"\n1\n', b"@ARRAY@\n", b"@SUBMITTED@\n", b"@JOB@\n"],
)
def test_damaged_records_name_the_file(tmp_path: Path, content: bytes) -> None:
    good = job_record(tmp_path, "pretrain", job=7)
    record = vars(good)
    bad = {b"@ARRAY@": {"array": "0-x"}, b"@SUBMITTED@": {"submitted": "yesterday"}, b"@JOB@": {"job": "seven"}}
    for mark, change in bad.items():
        content = content.replace(mark, json.dumps(record | change).encode())
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "jobs.jsonl").write_bytes(content)
    with pytest.raises(CorruptError, match=r"jobs\.jsonl"):
        run_status(tmp_path)


@pytest.mark.parametrize("content", [b"[]\n[]\n", b'{"event": "start"}\n', b'{"event": "pause", "job": 1}\n', b"\xff\xfe\n", b"{\n{}\n"])
def test_a_damaged_history_of_starts_names_the_file(tmp_path: Path, content: bytes) -> None:
    record = forgotten(tmp_path, "pretrain", job=900001)
    record.folder(tmp_path).mkdir(parents=True)
    (record.folder(tmp_path) / STARTS).write_bytes(content)
    with pytest.raises(CorruptError, match=r"starts\.jsonl"):
        run_status(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"config": 3}', '{"config": {"faults": []}}', "{"])
def test_what_cannot_be_understood_of_a_training_is_left_out(tmp_path: Path, content: str) -> None:
    for name in ("frozen.json", "state.json", "stopped.json", ".stage.json", ".shards/plan.json", "heartbeats/rank-0.json"):
        path = tmp_path / "pretrain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "pretrain" / "metrics.jsonl").write_text('{"step": 3}\n[1]\n{"step": null, "loss": "x"}\n')
    stage = stages(tmp_path, time.time() + 7200)["pretrain"]
    assert stage.state == "unfinished"
    assert stage.steps is not None
    assert (stage.steps.step, stage.steps.goal, stage.steps.loss) == (3, 0, None)
    assert "step 3, no checkpoint yet" in told(tmp_path)


# --------------------------------------------------------------------------------------------- jobs that Slurm has forgotten


def history(run: Path, record: JobRecord, *ends: dict[str, Any] | None, element: int | None = None, refused: str = "") -> None:
    """Starts of a submission, and how each ended; None: without a word."""
    path = record.folder(run) / STARTS
    for restart, end in enumerate(ends):
        common = {"job": record.job, "element": element, "restart": restart, "time": "2026-11-20T10:00:00+01:00"}
        append_line(
            path, common | {"event": "start", "nodes": ["node1", "node2"], "progress": [], "before": "", "refused": refused if restart == len(ends) - 1 else ""}
        )
        if end is not None:
            append_line(path, common | {"event": "end", "status": 1, "message": "", "requeue": False, "progress": [], "blamed": {}} | end)


def forgotten(run: Path, name: str, *, job: int, log: Sequence[str] = (), **more: Any) -> JobRecord:
    record = job_record(run, name, job=job, **more)
    append_job(run, record)
    if log:
        path = run / FOLDER / LOGS / f"{name}-{job}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(log) + "\n")
    return record


def test_jobs_that_slurm_has_forgotten_are_judged_by_what_they_left(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path
    now = time.time()
    forgotten(run, "fetch", job=900001, submitted=now - 60)
    complete(run / "fetch")
    # a manifest of an earlier run is no proof that this one went well
    complete(run / "tokenize")
    forgotten(run, "tokenize", job=900002, submitted=now + 60)
    # unless the job found it and let it stand
    complete(run / "curate")
    history(run, forgotten(run, "curate", job=900003, submitted=now + 60), {"status": 0, "kind": "complete"})
    begins = "2026-11-20T10:00:00 start: pretrain, job 900004, start {} on 2 nodes: node1, node2"
    log = [begins.format(1), "srun: error: Node failure on node2", begins.format(2), "iberlm: pretrain: stopped at step 7; run the same command again to go on"]
    log += [begins.format(3), "srun: error: node2: task 1: Killed", "iberlm: rank 1 of 4 was ended by SIGKILL"]
    pretrain = forgotten(run, "pretrain", job=900004, log=log)
    given_up = {"status": 6, "kind": "given-up", "message": "failed with status 6; 3 starts in a row brought the run no further, so it is given up"}
    history(run, pretrain, None, {"status": 75, "kind": "limit", "message": "its time was nearly up; it is requeued"}, given_up)
    history(run, forgotten(run, "evaluate", job=900005, log=["loading"]), None)
    limit = {"status": 75, "kind": "limit", "message": "its time was nearly up; cluster.retry.requeue is off, so it ends here"}
    history(run, forgotten(run, "finetune", job=900006, log=["iberlm: finetune: stopped; run the same command again to go on"]), limit)
    found = stages(run)
    assert {name: stage.state for name, stage in found.items()} == {
        "fetch": "complete",
        "curate": "complete",
        "tokenize": "cancelled",
        "pretrain": "failed",
        "evaluate": "failed",
        "finetune": "stopped",
    }
    assert found["tokenize"].why == "it left the queue without having begun: cancelled, or what it waited for failed"
    assert found["pretrain"].why == f"rank 1 of 4 was ended by SIGKILL; {given_up['message']}"
    assert found["evaluate"].why == "it ended without a word: its node failed, or somebody cancelled it"
    text = told(run)
    assert "began 3 times" in text
    assert "start 1, 2026-11-20" in text
    assert "node1,node2: the node node2 failed" in text
    assert "node1,node2: its time was nearly up; it is requeued" in text
    assert "-> the same command goes on from what is saved" in text


def test_a_start_that_an_exit_file_refused_is_no_failure(slurm: SlurmCluster, tmp_path: Path) -> None:
    record = forgotten(tmp_path, "pretrain", job=900001)
    job = describe(tmp_path, record)
    attempt = Attempt(job=900001, element=None, restart=0, nodes=["node1"])
    decision = start.decide(start.Facts(job=job, attempt=attempt, exit_file=tmp_path / "exit"))
    history(tmp_path, record, None, refused=decision.reason)
    history(tmp_path, forgotten(tmp_path, "finetune", job=900002), None, refused="5 allocations in a row had a node that is not fit")
    found = stages(tmp_path)
    assert (found["pretrain"].state, found["finetune"].state) == ("stopped", "failed")
    assert "5 allocations" in found["finetune"].why


def test_arrays_that_slurm_has_forgotten_are_judged_by_element(slurm: SlurmCluster, tmp_path: Path) -> None:
    record = forgotten(tmp_path, "curate-extract-array", job=900001, array="0-4", out=tmp_path / "extract")
    for element in (0, 3):
        history(tmp_path, record, {"status": 0, "kind": "complete"}, element=element)
    history(tmp_path, record, None, {"status": 4, "kind": "mend", "message": "ended with status 4"}, element=1)
    job = stages(tmp_path)["curate"].jobs[0]
    assert job.elements is not None
    assert (job.elements.complete, job.elements.failed) == ([0, 3], [1, 2, 4])
    assert "element 1: ended with status 4 (input data cannot be used)" in told(tmp_path)
    assert "element 1, start 1, 2026-11-20" in told(tmp_path)
    # each element of a sweep has a folder, and so a manifest, of its own
    sweep = forgotten(tmp_path, "pretrain-sweep", job=900002, stage="sweep", array="0-1", out=tmp_path / "pretrain_sweep", submitted=time.time() - 60)
    for element in (0, 1):
        (sweep.folder(tmp_path) / str(element)).mkdir(parents=True)
        (sweep.folder(tmp_path) / str(element) / JOB).write_text(json.dumps({"out": str(tmp_path / "pretrain_sweep" / f"lr={element}")}))
    complete(tmp_path / "pretrain_sweep" / "lr=0", "pretrain")
    job = stages(tmp_path)["sweep"].jobs[0]
    assert job.elements is not None
    assert (job.elements.complete, job.elements.failed) == ([0], [1])


def test_what_a_later_submission_has_overtaken_is_history(slurm: SlurmCluster, tmp_path: Path) -> None:
    array = forgotten(tmp_path, "curate-extract-array", job=900001, array="0", out=tmp_path / "extract", submitted=time.time() - 900_000)
    history(tmp_path, array, {"status": 4, "kind": "mend", "message": "ended with status 4"}, element=0)
    assert stages(tmp_path)["curate"].state == "failed"
    later = forgotten(tmp_path, "curate", job=900002, log=["curate: start"])
    history(tmp_path, later, {"status": 0, "kind": "complete"})
    stage = stages(tmp_path)["curate"]
    assert [job.name for job in stage.jobs] == ["curate"]
    assert stage.state == "unfinished"  # it says that it ended well, and there is no manifest
    complete(tmp_path / "curate")
    assert stages(tmp_path)["curate"].state == "complete"


def test_quarantined_nodes_are_named(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "quarantine.json").write_text(json.dumps({"node3": {"reason": "Slurm says DOWN*\x1b[2J", "job": 7, "time": ""}}))
    assert "quarantined: node3: Slurm says DOWN*" in told(tmp_path)
    assert "\x1b" not in told(tmp_path)


def test_a_file_that_is_being_written_or_has_gigabytes_is_read_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(50_000)) + '{"step": 9')
    assert evidence.tail_objects(path)[-1] == {"step": 49_999}
    assert len(evidence.tail_objects(path)) < 10_000
    assert evidence.tail_lines(tmp_path / "none", 10) == []
    older(path, 100)
    assert time.time() - (evidence.modified(path) or 0) > 90
    heartbeat(tmp_path, at=1, alive=2)
    assert evidence.changed_at(tmp_path) is not None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (42, "42 s"), (600, "10 min"), (7500, "2 h 5 min"), (7200, "2 h"), (190_800, "2 days 5 h"), (-5, "0.0 s")]
)
def test_spans_are_told_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
