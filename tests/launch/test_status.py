"""`iberlm status`, `logs` and `cancel` on a real Slurm, as the owner of a run reads them."""

import itertools
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from iberlm.launch.records import FOLDER, LOGS, JobRecord, append_job
from iberlm.launch.status import cancel as cancelling
from iberlm.launch.status.logs import Clock, Wanted, show_log
from iberlm.launch.status.run import Stage, run_status
from iberlm.launch.status.view import lines, show

from .run_folder import begun, complete, describe, heartbeat, job_record, metrics
from .slurm_cluster import SlurmCluster

LABELLED = """srun --label --kill-on-bad-exit=1 -n2 bash -c '
echo rank $SLURM_PROCID begins
if [ $SLURM_PROCID = 1 ]; then while ! [ -e begun ]; do sleep 0.1; done; python3 -c "import no_such"; exit 1; fi
touch begun
sleep 3000'"""
"""Two ranks, one of which fails when the other has begun; in a folder of the test's own."""
REAL = f"{sys.executable} -m iberlm.launch.job"


def submit(slurm: SlurmCluster, run: Path, name: str, work: str, *options: str, book: bool = False, **more: object) -> JobRecord:
    """Submit a line of bash as a job of the run; with `book` its start and end are written down as those of real jobs are."""
    record = job_record(run, name, **more)  # type: ignore[arg-type]
    folder = record.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    (run / FOLDER / LOGS).mkdir(exist_ok=True)
    describe(run, record)
    begin = f"trap : TERM; {REAL}.start '{folder}' >/dev/null || exit $?" if book else ":"
    end = f"{REAL}.end '{folder}' $status >/dev/null" if book else ":"
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{begin}\n{work}\nstatus=$?\n{end}\nexit $status\n")
    log = f"{name}-%A_%a.log" if record.array else f"{name}-%j.log"
    array = [f"--array={record.array}"] if record.array else []
    said = slurm.run("sbatch", "--parsable", "--open-mode=append", f"--job-name={name}", f"--output={run / FOLDER / LOGS / log}", *array, *options, script)
    record = JobRecord(**{**asdict(record), "job": int(said), "submitted": datetime.now().astimezone().isoformat(timespec="seconds")})
    append_job(run, record)
    return record


def by_name(run: Path, now: float | None = None) -> dict[str, Stage]:
    return {stage.name: stage for stage in run_status(run, now).stages}


def told(run: Path, now: float | None = None) -> str:
    return "\n".join(lines(run_status(run, now)))


def row(text: str, name: str) -> str:
    """The lines of one stage."""
    found: list[str] = []
    for line in text.splitlines()[1:]:
        if line[:1].strip():
            found.append("") if line.split()[0] == name else found.append("\0")
        if found and found[-1] != "\0":
            found[-1] += line + "\n"
    return "".join(part for part in found if part != "\0")


def test_a_chain_with_a_failed_element_as_its_owner_sees_it_and_cancels_it(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    complete(run / "fetch")
    work = "case $SLURM_ARRAY_TASK_ID in 1) echo 'iberlm: raw: part-1.warc is cut short; fetch it again' >&2; (exit 4);; 2) sleep 3000;; esac"
    array = submit(slurm, run, "curate-extract-array", work, array="0-3%3", out=run / "extract", book=True)
    curate = submit(slurm, run, "curate", "true", f"--dependency=afterok:{array.job}", "--kill-on-invalid-dep=yes", after=[array.job])
    train = submit(slurm, run, "pretrain", "true", f"--dependency=afterok:{curate.job}", "--kill-on-invalid-dep=yes", after=[curate.job], goal=100)
    held = submit(slurm, run, "evaluate", "true", "--hold")
    failed = submit(slurm, run, "finetune", "echo \"ModuleNotFoundError: No module named 'peft'\" >&2; (exit 1)", book=True)
    orphan = submit(slurm, run, "report", "true", f"--dependency=afterok:{failed.job}", after=[failed.job])
    slurm.wait_state(f"{array.job}_1", "FAILED")
    for element in (0, 3):
        slurm.wait_state(f"{array.job}_{element}", "COMPLETED")
    slurm.wait_state(f"{array.job}_2", "RUNNING")
    slurm.wait_state(failed.job, "FAILED")
    slurm.wait(lambda: slurm.job(orphan.job).get("Reason") == "DependencyNeverSatisfied", 10, "Slurm sees that it never starts")

    text = told(run)
    print(text)
    assert text.splitlines()[0].startswith(f"{run}  20")
    assert row(text, "fetch").split()[1] == "complete"
    assert row(text, "curate").split()[1] == "running"
    assert "4 elements: 2 complete, 1 running (2), 1 not done (1)" in row(text, "curate")
    assert "element 1: raw: part-1.warc is cut short; fetch it again" in row(text, "curate")
    assert f"curate (job {curate.job}): queued: since" in row(text, "curate")
    assert row(text, "pretrain").split()[1] == "queued"
    assert f"waits for curate ({curate.job})" in row(text, "pretrain")
    assert "held by its owner: `scontrol release JOB`" in row(text, "evaluate")
    assert row(text, "finetune").split()[1] == "failed"
    assert "the job's Python has no module 'peft'" in row(text, "finetune")
    assert "-> the job's environment is not the one that you tried" in row(text, "finetune")
    assert "the same command submits what is missing" in row(text, "finetune")
    assert f"log: {run}/slurm/logs/finetune-{failed.job}.log" in row(text, "finetune")
    assert row(text, "report").split()[1:3] == ["never", "starts"]
    assert "a job that it waited for failed or was cancelled" in row(text, "report")
    assert f"iberlm cancel '{run}' report" in row(text, "report")
    # where Slurm cannot be asked, the files still tell most of it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        text = told(run)
        print(text)
    assert "Slurm does not answer, so this is what the files tell: squeue: there is no such program" in text
    assert "the job's Python has no module 'peft'" in row(text, "finetune")
    assert row(text, "curate").split()[1] == "running"
    assert "by its log" in row(text, "curate")
    assert row(text, "evaluate").split()[1] == "unknown"

    # one stage, and what waits for it
    found = cancelling.find(run, ["curate"])
    assert [target.record.job for target in found.targets] == [train.job, curate.job, array.job]
    assert cancelling.lines(found)[0] == f"  pretrain ({train.job}): waits for curate ({curate.job}), and ends with it"
    found = cancelling.find(run)
    assert [target.record.job for target in found.targets] == [orphan.job, held.job, train.job, curate.job, array.job]  # what runs comes last
    cancelling.cancel(found)
    slurm.wait(lambda: slurm.state(f"{array.job}_2") == "CANCELLED", 20, "the running element is cancelled")
    assert not cancelling.find(run).targets
    text = told(run)
    print(text)
    assert row(text, "pretrain").split()[1] == "cancelled"
    assert "-> the same command submits it again" in row(text, "pretrain")
    assert row(text, "curate").split()[1] == "failed"  # one of its elements did
    assert row(text, "fetch").split()[1] == "complete"
    again = submit(slurm, run, "pretrain", "true", "--hold", goal=100)
    assert f"job {again.job}: since" in row(told(run), "pretrain")


def test_a_hang_is_told_by_log_and_heartbeat_together_and_never_of_a_requeued_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "run" / "pretrain"
    begun(out)
    job = submit(slurm, run, "pretrain", "echo begun; sleep 3000", "--time=60", "--requeue", goal=3000, book=True)
    slurm.wait(lambda: any("begun" in path.read_text() for path in job.logs(run)), 20, "it trains")
    now = time.time()
    heartbeat(out, at=now, alive=now, step=-1, phase="start")
    assert "no step yet: 1 rank in 'start' for 42 s" in told(run, now + 42)
    metrics(out, 118, hang_seconds=600)
    heartbeat(out, at=now, alive=now)
    heartbeat(out, at=now - 1, alive=now, rank=1, host="node2")
    text = told(run, now)
    print(text)
    assert row(text, "pretrain").split()[1] == "running"
    assert "step 118 of 3,000 (3.9%), loss 4.400, 2,048 tokens/s, MFU 31.0%, about 1 h 36 min of steps left, last checkpoint: step 100" in text
    assert "on node1, for 0:0" in text
    assert "left" in row(text, "pretrain").splitlines()[0]
    assert not by_name(run, now)["pretrain"].hangs
    # 400 s later: more than 20 times a usual step, and less than the run gives itself
    stage = by_name(run, now + 400)["pretrain"]
    assert not stage.hangs
    assert stage.remarks[0] == "no rank has come on for 7 min (in 'step' of step 118; it may take 10 min), and the log was last written 7 min ago"
    stage = by_name(run, now + 3600)["pretrain"]
    assert stage.hangs
    assert "it hangs: no rank has come on for 60 min (in 'step' of step 118; it may take 10 min), and the log was last written 60 min ago" in stage.remarks
    assert f"-> iberlm cancel {run} pretrain" in told(run, now + 3600)
    # one of the two alone is no hang
    log = job.logs(run)[0]
    os.utime(log, (now + 3590, now + 3590))
    stage = by_name(run, now + 3600)["pretrain"]
    assert not stage.hangs
    assert "but the log is being written" in stage.remarks[0]
    os.utime(log, (now, now))
    heartbeat(out, at=now + 3600, alive=now + 3600)
    stage = by_name(run, now + 3600)["pretrain"]
    assert not stage.hangs
    assert stage.remarks == ["rank 1 on node2 has not been heard of for 60 min"]
    # saving may take ten times as long
    heartbeat(out, at=now, alive=now, phase="checkpoint")
    assert not by_name(run, now + 3600)["pretrain"].hangs

    slurm.run("scontrol", "requeue", str(job.job))
    slurm.wait_state(job.job, "PENDING")
    slurm.run("scontrol", "update", f"JobId={job.job}", "StartTime=now+3600")  # else it begins again in some seconds, whether all is asked or not
    stage = by_name(run, now + 360_000)["pretrain"]
    assert (stage.state, stage.hangs, stage.remarks) == ("queued", False, [])
    # Slurm gives the reason with its next look at the queue
    slurm.wait(lambda: "this is no fault" in row(told(run, now), "pretrain"), 20, "Slurm says why it waits")
    text = told(run, now)
    print(text)
    assert "starts again " in row(text, "pretrain")
    slurm.run("scontrol", "update", f"JobId={job.job}", "StartTime=now")
    slurm.wait_state(job.job, "RUNNING", seconds=30)
    slurm.wait(lambda: (run / "slurm/pretrain/starts.jsonl").read_text().count('"start"') == 2, 20, "it has begun again")
    # the heartbeats of the start before say nothing of this one
    stage = by_name(run, time.time() + 3600)["pretrain"]
    assert not stage.hangs
    text = told(run)
    print(text)
    assert "began 2 times" in text
    assert ", node1: was told to end" in text
    assert ", node1: runs" in text


def test_logs_of_ranks_and_following_until_the_end(slurm: SlurmCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    job = submit(slurm, run, "pretrain", "while ! [ -e go ]; do sleep 0.2; done; " + LABELLED, "-n2", f"--chdir={tmp_path}", goal=5)
    with (tmp_path / "followed").open("w") as out:
        passed = [0.0]

        def sleep(seconds: float) -> None:
            (tmp_path / "go").touch()  # from the first look on the job may go on
            passed[0] += 5 * seconds  # the reader's clock is fast, so that Slurm is asked sooner
            time.sleep(0.2 * seconds)

        show_log(run, Wanted(stage="pretrain"), out, follow=True, clock=Clock(now=lambda: passed[0], sleep=sleep))
    text = (tmp_path / "followed").read_text()
    assert "0: rank 0 begins" in text
    assert "1: ModuleNotFoundError: No module named 'no_such'" in text
    said = capsys.readouterr().err
    assert f"{run}/slurm/logs/pretrain-{job.job}.log" in said
    assert f"pretrain (job {job.job}) has ended" in said

    def shown(wanted: Wanted) -> list[str]:
        show_log(run, wanted, sys.stdout, follow=False)
        return capsys.readouterr().out.splitlines()

    assert shown(Wanted(rank=0))[0] == "rank 0 begins"
    assert not any("no_such" in line for line in shown(Wanted(rank=0)))
    assert shown(Wanted(rank=1, lines=1)) == ["ModuleNotFoundError: No module named 'no_such'"]
    errors = shown(Wanted(errors=True))
    assert errors[:2] == ["1: Traceback (most recent call last):", '1:   File "<string>", line 1, in <module>']
    assert not any("begins" in line for line in errors)
    slurm.wait_state(job.job, "FAILED")
    stage = by_name(run)["pretrain"]
    assert stage.why == "the job's Python has no module 'no_such'"
    assert stage.jobs[0].error is not None


@pytest.mark.parametrize("before", ["one\n", "x" * 700_000 + "\n", ""])
@pytest.mark.parametrize("half", ["tw", "tw" * 300_000])
def test_a_line_that_is_half_written_when_following_begins_is_shown_whole(slurm: SlurmCluster, tmp_path: Path, before: str, half: str) -> None:
    run = tmp_path / "run"
    job = submit(slurm, run, "pretrain", "true", "--hold")
    log = run / FOLDER / LOGS / f"pretrain-{job.job}.log"
    log.write_text(before + half)

    def write_on(_: float) -> None:
        with log.open("a") as stream:
            stream.write("o\nthree")
        slurm.run("scancel", str(job.job))
        slurm.wait_state(job.job, "CANCELLED")

    passed = itertools.count(0.0, 1000.0)
    with (tmp_path / "followed").open("w") as out:
        show_log(run, Wanted(stage="pretrain"), out, follow=True, clock=Clock(now=lambda: next(passed), sleep=write_on))
    assert (tmp_path / "followed").read_text() == f"{before}{half}o\nthree\n"


def test_a_status_is_json_for_programs_and_a_table_on_a_terminal(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    submit(slurm, run, "fetch", "true", "--hold")
    status = run_status(run)
    value = json.loads(json.dumps(asdict(status)))
    assert value["stages"][0]["jobs"][0]["state"] == "queued"
    with (tmp_path / "terminal").open("w") as stream:
        show(Console(file=stream, force_terminal=True, width=100, highlight=False), status)
    assert "held by its owner" in (tmp_path / "terminal").read_text()
