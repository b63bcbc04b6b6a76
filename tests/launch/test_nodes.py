"""Nodes: what is found of them, which one a failure is put down to, and which ones a run uses no more."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.launch import records
from iberlm.launch.job import attempts, blame, environment, node, quarantine
from iberlm.launch.job.actions import Actions
from iberlm.launch.job.attempts import JobFile

from .job_files import NODES, attempt, began, job_file, queue


@pytest.fixture
def job(tmp_path: Path) -> JobFile:
    folder = tmp_path / "slurm/pretrain"
    folder.mkdir(parents=True)
    (folder / records.JOB).write_text(json.dumps(job_file(tmp_path, nodes=2, ranks=4)))
    return attempts.read_job(folder)


# ---------------------------------------------------------------------------------------------------------- the blame


def report(rank: int, message: str, at: float = 0.0, **values: Any) -> dict[str, Any]:
    """Of rank 0 and 1 on the first node, 2 and 3 on the second."""
    return {"class": "", "message": message, "exit_status": 1, "time": at, "host": f"gs0{1 + rank // 2}.cluster", "rank": rank} | values


GLOO = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:2130"
HUNG = "pretrain: nothing moves any more: rank 3 on host gs02.cluster (process 5): in 'step' of step 9 for 60 s; the other 3 wait in 'step' of step 9"


@pytest.mark.parametrize(
    ("reports", "nodes"),
    [
        ([report(2, "AcceleratorError: CUDA error: uncorrectable ECC error encountered", 1), report(0, GLOO, 2)], ["gs02"]),
        ([report(0, "DistBackendError: NCCL error: remote process exited", 1), report(3, "CUDA error: unspecified launch failure", 2)], ["gs02"]),
        ([report(rank, "CUDA error: unknown error", 4 - rank) for rank in range(4)], ["gs02"]),  # all say so: the first has the reason
        ([report(rank, "CUDA error: device-side assert triggered", rank) for rank in range(4)], []),  # the program's
        ([report(0, "OutOfMemoryError: CUDA out of memory", 1), report(2, "OutOfMemoryError: CUDA out of memory", 1)], []),
        ([report(0, HUNG, 1, **{"class": "ResourceError", "exit_status": 6})], ["gs02"]),
        ([report(0, HUNG.replace("the other 3 wait", "no rank is ahead of another"), 1, **{"class": "ResourceError"})], []),
        ([report(0, GLOO), report(1, GLOO), report(2, GLOO)], ["gs02"]),  # rank 3 ended without a word
        ([report(0, GLOO)], []),  # so did ranks of both nodes
        ([report(2, "OSError: [Errno 5] Input/output error", 1), report(0, GLOO, 2)], ["gs02"]),
        ([report(0, "ValueError: shape"), report(2, "ValueError: shape")], []),  # a defect is everywhere
        ([report(0, "steps: bad", **{"class": "ConfigError", "exit_status": 2})], []),
        ([report(0, "stopped", **{"class": "Interrupted", "exit_status": 75}), report(2, "stopped", **{"class": "Interrupted", "exit_status": 75})], []),
        ([], []),
    ],
)
def test_a_failure_is_put_down_to_the_node_that_it_came_from_or_to_none(reports: list[dict[str, Any]], nodes: list[str]) -> None:
    hosts = {f"{name}.cluster": name for name in NODES}
    assert list(blame.suspects(reports, NODES, hosts, 4)) == nodes
    assert list(blame.suspects(reports, NODES, {}, 4)) == nodes, "Slurm's names are mostly the short ones"


def test_a_node_is_put_away_after_so_many_failures_of_the_run(job: JobFile) -> None:
    assert quarantine.blame(job, {"gs02": "Xid 79"}) == {}
    folder = job.run_dir / "slurm/another-job"
    records.append_line(folder / records.STARTS, {"event": "end", "blamed": {"gs02": "Xid 79"}})
    assert quarantine.blame(job, {"gs02": "Xid 79", "gs01": "Xid 79"}) == {"gs02": "2 failures of the run are put down to it, the last: Xid 79"}


# ------------------------------------------------------------------------------------------------- quarantine, actions


def test_the_quarantine_reaches_all_jobs_of_the_run_that_have_not_begun(job: JobFile) -> None:
    for name, number, array in (("curate", 5, ""), ("pretrain", 7, ""), ("evaluate", 8, "0-2"), ("sweep", 9, "0-1"), ("report", 10, "")):
        queue(job.run_dir, name, number, array)
    records.append_line(job.run_dir / "slurm/curate" / records.STARTS, began(0, 0, job=5))
    records.append_line(job.run_dir / "slurm/evaluate" / records.STARTS, began(0, 0, job=8, element=1))
    for element in (0, 1):
        records.append_line(job.run_dir / f"slurm/sweep/{element}" / records.STARTS, began(0, 0, job=9, element=element))
    (job.run_dir / "slurm/report").mkdir()
    (job.run_dir / "slurm/report" / records.JOB).write_text(json.dumps(job_file(job.run_dir, exclude=["login1"])))
    bad = {"gs02": "Xid 79"}
    assert quarantine.put_away(job, attempt(), {}, requeue=True).lines() == ["requeue"]
    found = quarantine.put_away(job, attempt(), bad, requeue=True)
    assert found.lines() == ["requeue", "exclude gs02,login1", "chain 8 10"]
    assert quarantine.put_away(job, attempt(), bad, requeue=True).lines() == ["requeue", "exclude gs02,login1"], "the others know it already"
    assert quarantine.put_away(job, attempt(), bad, requeue=False) == Actions()
    assert quarantine.quarantined(job.run_dir) == bad


def test_a_quarantine_that_is_none_is_told(job: JobFile) -> None:
    path = job.run_dir / "slurm" / records.QUARANTINE
    for text in ("{", '["gs01"]', '{"gs01": "no reason"}'):
        path.write_text(text)
        with pytest.raises(CorruptError, match=r"quarantine.json: .* delete it to use all nodes again"):
            quarantine.quarantined(job.run_dir)


STATES = """\
NodeName=gs01 Arch=x86_64 OS=Linux 5.14.0 State=DOWN*+DRAIN ThreadsPerCore=1 SlurmdStartTime=None Reason=Not responding [b] [slurm@2026-11-23T01:21:58]
NodeName=gs02 Arch=x86_64 State=MIXED+DRAIN ThreadsPerCore=1 Reason=maintenance [root@2026-11-23T01:21:58]
NodeName=gs03 State=ALLOCATED+COMPLETING Partitions=main
NodeName=gs04 State=IDLE* Partitions=main
NodeName=gs05 State=FAIL
"""


def test_slurms_words_on_nodes_are_understood() -> None:
    down = {"gs01": "Slurm says DOWN*+DRAIN (Not responding [b])", "gs05": "Slurm says FAIL"}
    assert quarantine.judge_states(STATES, lost=False) == down
    away = {"gs02": "Slurm says MIXED+DRAIN (maintenance)", "gs04": "Slurm says IDLE*"}
    assert quarantine.judge_states(STATES, lost=True) == down | away


# --------------------------------------------------------------------------------------------- node, environment, files


def test_gpus_are_judged_by_what_their_driver_says() -> None:
    sound = "0, NVIDIA H100, 550.54, 4, 0, No, No, [N/A]\n1, NVIDIA H100, 550.54, 4, 0, No, No, [N/A]\n"
    assert node.judge_nvidia(sound) == node.Found(["NVIDIA H100"] * 2, [], [], "550.54")
    bad = "0, NVIDIA A100, 550.54, 70000, 3, No, Yes, No\n1, NVIDIA A100, 550.54, 4, 0, Yes, No, No\n"
    bad += "Unable to determine the device handle for GPU0002: Unknown Error\n"
    found = node.judge_nvidia(bad)
    assert found.problems[:2] == ["GPU 0: remapping of a bad row of its memory failed", "GPU 1: bad memory waits for a reset of the device"]
    assert found.problems[-1].startswith("nvidia-smi: Unable to determine")
    assert found.remarks == ["GPU 0: 3 uncorrected memory errors since the driver was loaded", "GPU 0: 70000 MiB are in use already"]
    assert node.judge_nvidia("0, Tesla V100, 450.1, 4\n").names == ["Tesla V100"], "an older driver knows less"


def test_the_kernels_log_is_read_for_errors_of_devices() -> None:
    log = "[1.0] NVRM: Xid (PCI:0000:1b:00): 13, pid=7, Graphics Exception\n[2.0] NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.\n"
    assert node.xids(log) == [f"kernel log: Xid 79 (fallen off the bus) of PCI:0000:1b:00: {log.splitlines()[1]}"]


def test_secrets_are_not_written_down() -> None:
    given = {"HF_TOKEN": "x", "WANDB_API_KEY": "x", "HF_ENDPOINT": "https://me:pass@hub.example/a", "EDITOR": "vi", "PATH": "/bin"}
    found = environment.variables(given | {"NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "7", "HF_PASS_ON": "x"}, ["HF_PASS_ON"])
    assert found == {"HF_ENDPOINT": "https://...@hub.example/a", "NCCL_DEBUG": "INFO", "PATH": "/bin", "SLURM_JOB_ID": "7"}


def test_code_that_changed_since_the_submission_is_told() -> None:
    assert environment.differ("0.1.0 (abc)", "0.1.0 (def)")
    assert environment.differ("0.1.0 (abc)", "0.2.0")
    assert not environment.differ("0.1.0 (abc)", "0.1.0")
    assert not environment.differ("0.1.0 (abc+changes)", "0.1.0 (abc+changes)")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("gs[01-03,7]r1,login", ["gs01r1", "gs02r1", "gs03r1", "gs7r1", "login"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("", []),
    ],
)
def test_slurms_short_lists_of_nodes_are_written_out(text: str, names: list[str]) -> None:
    assert attempts.expand_nodes(text) == names


def test_progress_is_read_from_what_stages_leave(tmp_path: Path) -> None:
    assert attempts.measure_progress([tmp_path / "nothing"]) == [[0, 0, 0, 0]]
    (tmp_path / "state.json").write_text('{"step": 40}')
    for name in ("checkpoints/checkpoint-20", "checkpoints/checkpoint-100", ".shards"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkpoints/checkpoint-20/whole").touch()  # the other was cut short
    for name in ("a.json", "b.json", "plan.json", ".c.host-1.partial.json"):
        (tmp_path / ".shards" / name).touch()
    assert attempts.measure_progress([tmp_path]) == [[0, 40, 20, 2]]
    (tmp_path / "manifest.json").touch()
    assert attempts.measure_progress([tmp_path])[0][0] == 1


def test_outside_a_job_and_with_a_foreign_job_file_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SLURM_JOB_ID is not set"):
        attempts.current_attempt({})
    (tmp_path / records.JOB).write_text("{}")
    with pytest.raises(CorruptError, match=r"job.json: cannot be read as a job of this version \(KeyError: 'run_dir'\); submit the job again"):
        attempts.read_job(tmp_path)


def test_jobs_that_end_at_once_lose_no_entry_of_the_quarantine(job: JobFile) -> None:
    program = "import sys; from pathlib import Path; from iberlm.launch.job import quarantine; quarantine.add(Path(sys.argv[1]), {sys.argv[2]: 'died'}, 7)"
    nodes = [f"gs0{number}" for number in range(6)]
    processes = [subprocess.Popen([sys.executable, "-c", program, str(job.run_dir), name], stderr=subprocess.DEVNULL) for name in nodes]
    assert [process.wait(600) for process in processes] == [0] * len(nodes)
    assert quarantine.quarantined(job.run_dir) == dict.fromkeys(nodes, "died")
