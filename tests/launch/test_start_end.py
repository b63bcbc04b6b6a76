"""Starts and ends of jobs: what is decided, from facts; and on a real Slurm jobs that are stopped, cancelled, lose their node, or get nowhere."""

import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.cluster import ClusterConfig, RetryConfig
from iberlm.launch import records
from iberlm.launch.job import attempts, end, quarantine, start
from iberlm.launch.job.attempts import JobFile
from iberlm.launch.script import Script, render

from .job_files import NODES, attempt, began, checked, job_file, queue
from .slurm_cluster import SlurmCluster


@pytest.fixture
def job(tmp_path: Path) -> JobFile:
    folder = tmp_path / "slurm/pretrain"
    folder.mkdir(parents=True)
    (folder / records.JOB).write_text(json.dumps(job_file(tmp_path, nodes=2, ranks=4)))
    return attempts.read_job(folder)


# ---------------------------------------------------------------------------------------------------------- the start


def test_a_first_start_with_sound_nodes_begins(job: JobFile) -> None:
    assert start.decide(start.Facts(job=job, attempt=attempt(), records=[checked(name) for name in NODES])) == start.Decision()


def test_where_no_node_could_be_looked_at_the_work_begins(job: JobFile) -> None:
    assert start.decide(start.Facts(job=job, attempt=attempt())).status == 0


@pytest.mark.parametrize(
    ("facts", "node", "why"),
    [
        ({"records": [checked("gs01", problems=["3 of 4 GPUs"]), checked("gs02")]}, "gs01", "3 of 4 GPUs"),
        ({"records": [checked("gs01")]}, "gs02", "does not answer"),
        ({"records": [checked(name) for name in NODES], "gone": {"gs02": "Slurm says DOWN"}}, "gs02", "Slurm says DOWN"),
    ],
)
def test_a_bad_node_is_put_away_and_the_job_requeued_without_it(job: JobFile, facts: dict[str, Any], node: str, why: str) -> None:
    found = start.decide(start.Facts(job=job, attempt=attempt(), **facts))
    assert (found.status, found.requeue, found.bad) == (75, True, {node: why})
    stays = start.decide(start.Facts(job=replace(job, retry=RetryConfig(requeue=False)), attempt=attempt(), **facts))
    assert (stays.status, stays.requeue, stays.bad) == (6, False, {node: why})


def test_an_allocation_with_a_quarantined_node_is_given_back(job: JobFile) -> None:
    facts = start.Facts(job=job, attempt=attempt(), records=[checked(name) for name in NODES], quarantined={"gs01": "died"})
    found = start.decide(facts)
    assert (found.status, found.requeue, found.bad, found.reason) == (75, True, {}, "gs01: died")


def test_the_set_up_is_not_blamed_on_nodes(job: JobFile) -> None:
    """Else a job that cannot work anywhere would take the nodes of a cluster out one by one."""
    facts = start.Facts(job=job, attempt=attempt(), records=[checked(name, problems=["/tmp: cannot be written"]) for name in NODES])
    found = start.decide(facts)
    assert (found.status, found.requeue, found.bad) == (6, False, {})
    assert "all 2 nodes fail the check" in found.reason
    alone = attempt(nodes=["gs09"])
    others = {f"gs0{number}": f"{number} of 4 GPUs" for number in range(3)}
    facts = start.Facts(job=job, attempt=alone, records=[checked("gs09", problems=["0 of 4 GPUs"])], quarantined=others)
    assert start.decide(facts).status == 6
    assert start.decide(replace(facts, quarantined={"gs01": "3 of 4 GPUs"})).bad == {"gs09": "0 of 4 GPUs"}
    many = [began(restart, 0, refused="gs01: died") for restart in range(start.REFUSALS - 1)]
    assert start.decide(replace(facts, quarantined={}, history=many)).status == start.SPENT


def test_starts_that_bring_the_run_no_further_end_it(job: JobFile) -> None:
    def decided(*steps: int, now: int) -> start.Decision:
        history = [began(restart, step) for restart, step in enumerate(steps)]
        return start.decide(start.Facts(job=job, attempt=attempt(len(steps)), history=history, progress=[[0, now, 0, 0]]))

    assert decided(10, now=10).status == 0, "one start in vain, and two are allowed"
    assert decided(0, 10, 10, now=20).status == 0
    found = decided(0, 10, 10, now=10)
    assert (found.status, found.requeue) == (start.SPENT, False)
    assert "2 starts in a row brought the run no further (cluster.retry.max_starts_without_progress=2)" in found.reason
    assert decided(30, 20, now=20).status == start.SPENT, "a run that went back and got no further than before has not come further"


def test_refused_starts_do_not_count_against_the_budget(job: JobFile) -> None:
    history = [began(0, 10), began(1, 10, refused="gs01: died"), began(2, 10, refused="gs03: died")]
    assert attempts.starts_in_vain(history, [[0, 10, 0, 0]]) == 1
    assert attempts.refused_in_a_row(history) == 2


def test_a_node_that_went_away_with_a_start_is_put_away(job: JobFile) -> None:
    facts = start.Facts(job=job, attempt=attempt(1, nodes=["gs03", "gs04"]), history=[began(0, 0)], progress=[[0, 5, 0, 0]], lost={"gs02": "Slurm says DOWN"})
    found = start.decide(facts)
    assert found.status == 0
    assert found.bad == {"gs02": "Slurm says DOWN; it went away while job 7 ran on it"}
    words = "ended without a word: its node failed, or Slurm or a person requeued it"
    assert attempts.retell(facts.history) == [f"start 1 (2026-11-23T10:00:00+01:00, gs01, gs02): {words}"]


def test_an_exit_file_keeps_the_next_start_from_beginning(job: JobFile) -> None:
    found = start.decide(start.Facts(job=job, attempt=attempt(), exit_file=job.run_dir / "exit"))
    assert (found.status, found.requeue) == (75, False)
    assert found.reason == f"{job.run_dir}/exit asks the run to stop; submit again to go on"


# ------------------------------------------------------------------------------------------------------------ the end


def ended(job: JobFile, status: int, seconds: float = 100.0, steps: tuple[int, int] = (0, 10), **values: Any) -> end.Decision:
    history = [began(0, steps[0])]
    return end.decide(end.Facts(job=job, attempt=attempt(), status=status, seconds=seconds, history=history, progress=[[0, steps[1], 0, 0]], **values))


LIMIT = 3600.0


@pytest.mark.parametrize(
    ("status", "values", "kind", "requeue"),
    [
        (0, {}, "complete", False),
        (75, {"reason": "SIGUSR2"}, "limit", True),
        (140, {}, "limit", True),
        (75, {"reason": "SIGTERM"}, "ended", False),
        (75, {"reason": "SIGTERM", "preempted": True}, "preempted", True),
        (75, {"reason": "SIGTERM", "preempted": True, "ending": True}, "ended", False),  # Slurm requeues it itself
        (75, {"reason": "SIGTERM", "ending": True, "seconds": LIMIT}, "limit", True),  # it was too slow for the limit's signal
        (75, {"reason": "SIGUSR2", "ending": True}, "ended", False),  # cancelled while it was saving
        (75, {"reason": "exit"}, "exit", False),
        (75, {"reason": "exit", "preempted": True}, "exit", False),
        (75, {"seconds": LIMIT - 290}, "limit", True),  # who says nothing was stopped by what was due
        (75, {"seconds": LIMIT / 2}, "ended", False),
        (143, {}, "ended", False),
        (137, {}, "failed", True),
        (137, {"ending": True}, "ended", False),  # scancel: to requeue it would bring it back
        (6, {"ending": True}, "ended", False),
        (1, {"ending": True, "gone": {"node2": "Slurm says DOWN (power)"}}, "node", False),  # Slurm requeues it itself
        (1, {"ending": True, "gone": {"node2": "Slurm says IDLE+DRAIN (disk)"}}, "ended", False),  # who is drained had not failed
        (0, {"ending": True}, "ended", False),  # srun ends with 0 for a step that Slurm had to kill
        (1, {}, "failed", True),
        (6, {}, "failed", True),
        (2, {}, "mend", False),
        (3, {}, "mend", False),
        (4, {}, "mend", False),
        (5, {}, "mend", False),
        (70, {}, "given-up", False),
    ],
)
def test_what_ends_is_requeued_or_not(job: JobFile, status: int, values: dict[str, Any], kind: str, requeue: bool) -> None:
    found = ended(job, status, **values)
    assert (found.kind, found.requeue) == (kind, requeue)
    assert not ended(replace(job, retry=RetryConfig(requeue=False)), status, **values).requeue


def test_a_stage_that_keeps_nothing_is_not_run_into_the_same_limit_again(job: JobFile) -> None:
    evaluation = replace(job, verb="evaluate")
    assert ended(evaluation, 140, steps=(10, 10)).kind == "given-up"
    assert ended(job, 140, steps=(10, 10)).kind == "limit"
    assert ended(evaluation, 140, steps=(10, 20)).requeue  # shards that are done stay done


@pytest.mark.parametrize(
    ("text", "ending", "preempted"),
    [
        ("RUNNING             N/A                 ", False, False),
        ("RUNNING             2026-11-23T01:35:55 ", False, True),
        ("COMPLETING          N/A                 ", True, False),
        ("COMPLETING          2026-11-23T01:36:12 ", True, True),
        ("", False, False),
    ],
)
def test_what_squeue_says_of_the_job_is_understood(text: str, ending: bool, preempted: bool) -> None:
    assert end.slurm_state(text) == (ending, preempted)


def test_the_budget_holds_for_every_kind_of_end(job: JobFile) -> None:
    strict = replace(job, retry=RetryConfig(max_starts_without_progress=1))
    for status, values in ((1, {}), (140, {}), (75, {"reason": "SIGUSR2"})):
        found = ended(strict, status, steps=(10, 10), **values)
        assert (found.kind, found.requeue) == ("given-up", False)
        assert "1 starts in a row brought the run no further" in found.message
        assert ended(strict, status, steps=(10, 11), **values).requeue


# -------------------------------------------------------------------------------------------------------- a real Slurm

# in the place of `python -m iberlm`: the work of a job, by the name of the job
WORK = """
import json, os, signal, socket, sys, time
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--frozen") + 1]).parent
name, out, restart = folder.name, folder.parents[1] / "out", int(os.environ.get("SLURM_RESTART_COUNT", "0"))
if name in ("limit", "cancelled"):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
out.mkdir(exist_ok=True)
(out / f"{name}-{restart}").touch()
if restart == 0 and name == "limit":
    signal.sigwait({signal.SIGUSR2})
    (out / "state.json").write_text('{"step": 5}')
    (out / "stopped.json").write_text(json.dumps({"reason": "SIGUSR2", "step": 5, "time": time.time()}))
    sys.exit(75)
if name == "futile":
    sys.exit(6)
if name == "cancelled":
    signal.sigwait({signal.SIGTERM})
    sys.exit(6)  # as a stage does whose worker processes have been ended
if restart == 0 and name == "broken":
    report = {"class": "", "message": "CUDA error: uncorrectable ECC error encountered", "exit_status": 1, "time": time.time(), "rank": 0}
    (folder / "reports/rank-0.json").write_text(json.dumps(report | {"host": socket.gethostname()}))
    sys.exit(1)
if restart == 0 and name == "powered-off":
    signal.pause()
"""
# the Python of the jobs: IberLM's own, but for the work; and on the node that a file names it does not start
PYTHON = """#!/bin/bash
if [[ $2 == iberlm ]]; then exec {python} {work} "$@"; fi
if [[ $2 == iberlm.launch.job.node && $(hostname) == "$(cat {silent} 2>/dev/null)" ]]; then exit 1; fi
exec {python} "$@"
"""


class Lab:
    """Submits jobs whose script is the one that IberLM renders, and whose work is `WORK`."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm, self.folder, self.silent = slurm, folder, folder / "silent"
        work, self.python = folder / "work.py", folder / "python"
        work.write_text(WORK)
        self.python.write_text(PYTHON.format(python=sys.executable, work=work, silent=self.silent))
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def submit(self, name: str, run: str, *, nodes: int = 1, after: int | None = None, **retry: Any) -> int:
        run_dir = self.folder / run
        folder = run_dir / "slurm" / name
        folder.mkdir(parents=True)
        (run_dir / "slurm/logs").mkdir(exist_ok=True)
        cluster = ClusterConfig(name="lab", scheduler="slurm", partition="main", node_local="/tmp", signal_seconds=30, retry=RetryConfig(**retry))
        plain = {"verb": "tokenize", "run_dir": run_dir, "folder": folder, "python": str(self.python), "cluster": cluster, "version": "0"}
        size = {"uses_gpus": False, "ranks": False, "nodes": nodes, "cpus_per_task": 1, "minutes": 5}
        text = render(Script(name=name, after=[after] if after else [], **plain, **size))
        (folder / records.SCRIPT).write_text(text)
        settings = {"requeue": True, "max_starts_without_progress": 2, "node_failures": 2} | retry
        (folder / records.JOB).write_text(json.dumps(job_file(run_dir, name, nodes=nodes, minutes=5, retry=settings)))
        job = int(self.slurm.run("sbatch", "--parsable", folder / records.SCRIPT))
        queue(run_dir, name, job)
        return job

    def lines(self, run: str, name: str, event: str) -> list[dict[str, Any]]:
        return [line for line in records.read_lines(self.folder / run / "slurm" / name / records.STARTS) if line["event"] == event]

    def log(self, run: str, name: str) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / run / "slurm/logs").glob(f"{name}-*.log")))

    def working(self, run: str, name: str, restart: int = 0) -> bool:
        return (self.folder / run / "out" / f"{name}-{restart}").exists()


def test_jobs_are_requeued_given_up_or_let_be(slurm: SlurmCluster, tmp_path: Path) -> None:
    lab = Lab(slurm, tmp_path)
    lab.silent.write_text("node2")
    limit = lab.submit("limit", "a")
    futile = lab.submit("futile", "b")
    cancelled = lab.submit("cancelled", "c")
    refused = lab.submit("refused", "d", nodes=3)
    (tmp_path / "e").mkdir()
    (tmp_path / "e/exit").touch()
    asked = lab.submit("asked", "e")

    slurm.wait(lambda: lab.working("a", "limit") and lab.working("c", "cancelled"), 30, "the work has begun")
    slurm.run("scancel", "--signal=USR2", str(limit))
    slurm.run("scancel", str(cancelled))

    # whoever stops for the limit goes on in the same job
    slurm.wait_state(limit, "COMPLETED", seconds=60)
    assert [line["kind"] for line in lab.lines("a", "limit", "end")] == ["limit", "complete"]
    assert [line["progress"][0][1] for line in lab.lines("a", "limit", "start")] == [0, 5]
    assert "before: start 1" in lab.log("a", "limit")
    assert "its time was nearly up; it is requeued" in lab.log("a", "limit")

    # whoever gets nowhere is begun as often as allowed
    slurm.wait_state(futile, "FAILED", seconds=60)
    assert [line["kind"] for line in lab.lines("b", "futile", "end")] == ["failed", "given-up"]
    assert slurm.job(futile)["ExitCode"] == "6:0"
    assert "2 starts in a row brought the run no further (cluster.retry.max_starts_without_progress=2), so it is given up" in lab.log("b", "futile")

    # a job that was cancelled stays so, though its work ended as one that failed
    slurm.wait_state(cancelled, "CANCELLED", seconds=30)
    (end_line,) = lab.lines("c", "cancelled", "end")
    assert (end_line["status"], end_line["kind"], end_line["requeue"]) == (6, "ended", False)
    assert not lab.working("c", "cancelled", 1)

    # an `exit` file that is there before the work is obeyed, not overlooked
    slurm.wait_state(asked, "FAILED", seconds=30)
    assert slurm.job(asked)["ExitCode"] == "75:0"
    assert "e/exit asks the run to stop; submit again to go on" in lab.log("e", "asked")
    assert not lab.working("e", "asked")

    # a node that does not answer is left out: the job waits for a third one, and does no work on two
    slurm.wait(lambda: slurm.job(refused).get("Restarts") == "1" and slurm.job(refused).get("ExcNodeList") == "node2", 30, "the job is requeued without node2")
    assert quarantine.quarantined(tmp_path / "d") == {"node2": "does not answer"}
    assert not lab.working("d", "refused")


def test_a_node_that_failed_is_used_no_more_by_the_run(slurm: SlurmCluster, tmp_path: Path) -> None:
    lab = Lab(slurm, tmp_path)
    broken = lab.submit("broken", "run", node_failures=1)
    waits = lab.submit("powered-off", "run", after=broken)
    slurm.wait(lambda: lab.working("run", "powered-off"), 60, "the second job of the chain works")
    first, second = lab.lines("run", "broken", "start")
    bad = first["nodes"][0]
    assert lab.lines("run", "broken", "end")[0]["blamed"] == {bad: "rank 0: CUDA error: uncorrectable ECC error encountered"}
    assert slurm.job(broken)["ExcNodeList"] == slurm.job(waits)["ExcNodeList"] == bad
    assert second["nodes"] != first["nodes"]
    assert (slurm.state(broken), lab.lines("run", "broken", "end")[1]["kind"]) == ("COMPLETED", "complete")

    (off,) = lab.lines("run", "powered-off", "start")[0]["nodes"]
    assert off != bad
    number = int(off.removeprefix("node"))
    slurm.kill_node(number)
    slurm.down(number)
    slurm.wait_state(waits, "COMPLETED", seconds=60)
    (last,) = lab.lines("run", "powered-off", "start")[1]["nodes"]
    assert last not in (bad, off)
    found = quarantine.quarantined(tmp_path / "run")
    assert set(found) == {bad, off}
    assert found[bad] == "1 failure of the run is put down to it, the last: rank 0: CUDA error: uncorrectable ECC error encountered"
    # sooner or later Slurm adds that it has not heard of it: DOWN+NOT_RESPONDING, or DOWN*
    assert re.fullmatch(rf"Slurm says DOWN(\*|\+NOT_RESPONDING)? \(test\); it went away while job {waits} ran on it", found[off])
    assert "ended without a word: its node failed, or Slurm or a person requeued it" in lab.lines("run", "powered-off", "start")[1]["before"]

    # what it ran in is written down once a start
    dumps = sorted((tmp_path / "run/slurm/powered-off" / records.ENVIRONMENTS).iterdir())
    assert [path.name for path in dumps] == [f"{waits}-0.json", f"{waits}-1.json"]
    dumped = json.loads(dumps[1].read_text())
    assert (dumped["nodes"], dumped["variables"]["SLURM_RESTART_COUNT"]) == ([last], "1")
    assert "torch" in dumped["packages"]
    assert re.match(r"the code is .* now and was 0 when the job was submitted", "".join(lab.log("run", "powered-off").partition("the code is")[1:]))
    assert not [name for name in dumped["variables"] if "TOKEN" in name]
    assert os.environ["SLURM_CONF"] == dumped["variables"]["SLURM_CONF"]
