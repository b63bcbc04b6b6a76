"""What IberLM says to Slurm and reads from it, on a real Slurm."""

import dataclasses
import os
from pathlib import Path

import pytest

from iberlm.core.errors import ConfigError, IberlmError, ResourceError
from iberlm.launch.slurm import client
from iberlm.launch.slurm.call import minutes
from iberlm.launch.slurm.words import FINISHED, refusal

from .slurm_cluster import SlurmCluster

HOSTILE = "a b'c\"d;$(touch x)|`e`"


def write_script(folder: Path, *directives: str, body: str = "hostname", name: str = "job.sh") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(["#!/bin/bash", "#SBATCH --output=/dev/null", *(f"#SBATCH {directive}" for directive in directives), body, ""]))
    return path


def test_an_array_is_submitted_followed_and_cancelled(slurm: SlurmCluster, tmp_path: Path) -> None:
    name = f'--job-name="{HOSTILE.replace(chr(34), "")}"'
    body = 'if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then exit 3; fi; sleep 600'
    job = client.submit(write_script(tmp_path / HOSTILE, "--array=0-3%1", name, "--time=30", body=body, name=f"-x {HOSTILE}.sh"))
    other = client.submit(write_script(tmp_path, "--hold"))
    slurm.wait(lambda: client.queue([job])[1].state == "RUNNING", 20, "the second element runs")
    slurm.wait(lambda: all(entry.reason == "JobArrayTaskLimit" for entry in client.queue([job])[2:]), 20, "Slurm has looked at the others")

    elements = client.queue([job, 999_999])
    assert [(entry.job, entry.element, entry.label) for entry in elements] == [(job, number, f"{job}_{number}") for number in range(4)]
    assert [entry.state for entry in elements] == ["FAILED", "RUNNING", "PENDING", "PENDING"]
    assert [entry.is_live for entry in elements] == [False, True, True, True]
    assert [entry.reason for entry in elements] == ["NonZeroExitCode", "", "JobArrayTaskLimit", "JobArrayTaskLimit"]
    assert elements[0].explanation
    assert not elements[1].explanation
    assert "max_running" in elements[2].explanation
    running = elements[1]
    assert (running.nodes, running.node_count, running.partition, running.time_limit) == ("node1", 1, "main", "30:00")
    assert running.started.startswith("20")
    assert running.submitted <= running.started < running.ends
    assert not elements[2].started
    assert running.name == HOSTILE.replace('"', "")

    held = client.queue([other])[0]
    assert (held.element, held.state, held.reason, held.label) == (None, "PENDING", "JobHeldUser", str(other))
    assert "scontrol release" in held.explanation
    assert client.queued_elements() == 4
    assert client.queued_elements(partition="short") == 0
    assert client.queued_elements(user="nobody") == 0

    client.cancel([])  # nobody's
    assert client.queued_elements() == 4
    client.cancel([job, 999_999])
    slurm.wait(lambda: not any(entry.is_live for entry in client.queue([job])), 20, "the array is cancelled")
    assert client.queue([job])[2].explanation == "was cancelled"
    client.cancel([job])  # once more is no error
    assert client.queue([other])[0].is_live


def test_many_and_unknown_jobs_are_one_call(slurm: SlurmCluster, tmp_path: Path) -> None:
    assert client.queue([]) == []
    assert client.queue([999_999]) == []
    assert client.queue([999_998, 999_999]) == []
    jobs = [client.submit(write_script(tmp_path, "--hold")) for _ in range(2)]
    assert [entry.job for entry in client.queue([*range(700_000, 702_500), *jobs, *jobs])] == jobs


def test_a_name_with_a_line_break_breaks_no_list(slurm: SlurmCluster) -> None:
    job = slurm.submit("true", "--hold", "--job-name=one\n7|N/A|RUNNING|two")
    assert [(entry.job, entry.name) for entry in client.queue([job, job + 1])] == [(job, "one")]


def test_the_shell_s_defaults_change_neither_a_list_nor_a_submission(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SQUEUE_FORMAT", "%j")
    monkeypatch.setenv("SINFO_PARTITION", "short")
    monkeypatch.setenv("SBATCH_PARTITION", "no-such-partition")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    job = client.submit(write_script(tmp_path, "--hold"))
    (entry,) = client.queue([job])
    assert entry.partition == "main"
    assert entry.submitted.startswith("20")
    assert "main" in client.nodes()[0].partitions


@pytest.mark.parametrize(
    ("options", "reason", "told"),
    [
        (["--partition=short", "--time=10"], "PartitionTimeLimit", "cluster.walltime_minutes"),
        (["--partition=short", "--nodes=2", "--time=1"], "PartitionNodeLimit", "cluster.nodes"),
        (["--nodes=9"], "PartitionNodeLimit", "cluster.nodes"),
        (["--partition=project", "--account=other"], "Job's account not", "cluster.account"),
    ],
)
def test_a_job_that_can_never_start_is_reported_as_such(slurm: SlurmCluster, options: list[str], reason: str, told: str) -> None:
    job = slurm.submit("hostname", *options)
    slurm.wait(lambda: client.queue([job])[0].reason.startswith(reason), 20, f"job {job} waits for {reason}")
    (entry,) = client.queue([job])
    assert entry.state == "PENDING"
    assert client.never_starts(entry.reason)
    assert told in entry.explanation
    assert "cancel it" in entry.explanation


def test_a_chain_behind_a_failed_job_says_so(slurm: SlurmCluster) -> None:
    failing = slurm.submit("exit 3")
    waiting = slurm.submit("hostname", f"--dependency=afterok:{failing}")
    ended = slurm.submit("hostname", f"--dependency=afterok:{failing}", "--kill-on-invalid-dep=yes")
    closed = slurm.submit("hostname", "--partition=closed")
    slurm.wait(lambda: client.queue([waiting])[0].reason == "DependencyNeverSatisfied", 20, "the dependency can never be satisfied")
    slurm.wait_state(ended, "CANCELLED")
    slurm.wait(lambda: client.queue([closed])[0].reason == "PartitionDown", 20, "Slurm has looked at the job for the closed partition")
    by_job = {entry.job: entry for entry in client.queue([failing, waiting, ended, closed])}
    assert by_job[failing].explanation.startswith("ended with an error")
    assert client.never_starts(by_job[waiting].reason)
    assert by_job[waiting].explanation.startswith("a job that it waited for failed")
    assert by_job[ended].explanation.startswith("was cancelled while it waited: a job that it waited for failed")
    assert by_job[closed].reason == "PartitionDown"
    assert not client.never_starts("PartitionDown")
    assert "closed" in by_job[closed].explanation


def test_waiting_after_a_requeue_is_no_fault(slurm: SlurmCluster) -> None:
    job = slurm.submit("sleep 600", "--requeue")
    slurm.wait_state(job, "RUNNING")
    slurm.run("scontrol", "requeue", str(job))
    slurm.wait_state(job, "PENDING")
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+3600")  # else it waits some seconds only
    slurm.wait(lambda: client.queue([job])[0].reason == "BeginTime", 20, "the job waits to begin again")
    (entry,) = client.queue([job])
    assert entry.is_live
    assert not client.never_starts(entry.reason)
    assert "no fault" in entry.explanation
    slurm.run("scontrol", "requeuehold", str(job), check=False)
    slurm.run("scontrol", "hold", str(job))
    assert "scontrol release" in client.queue([job])[0].explanation


@pytest.mark.parametrize(
    ("directive", "kind", "slurm_says", "mend"),
    [
        ("--partition=nope", ConfigError, "Invalid partition name", "cluster.partition"),
        ("--constraint=nope", ConfigError, "Invalid feature", "cluster.constraint"),
        ("--array=0-5000", ConfigError, "Invalid job array", "cluster.elements"),
        ("--gres=tpu:1", ConfigError, "gres", "cluster.gres"),
        ("--gres=gpu:9", ConfigError, "configuration is not available", "gpus_per_node"),
        ("--cpus-per-task=20", ConfigError, "configuration is not available", "cores_per_node"),
        ("--mem=900G", ConfigError, "Memory specification", "memory_gb_per_node"),
        ("--exclude=node77", ConfigError, "Invalid node name", "cluster.exclude"),
        ("--reservation=nope", ConfigError, "reservation is invalid", "cluster.reservation"),
        ("--licenses=nope", ConfigError, "Invalid license", "cluster.extra"),
        ("--dependency=afterok:x", ConfigError, "Job dependency problem", "same command again"),
        ("--no-such-option=1", ConfigError, "unrecognized option", "cluster.extra"),
        ("--time=soon", ConfigError, "Invalid --time", "cluster.walltime_minutes"),
        ("#" + "x" * 5_000_000, ConfigError, "too long", "script is larger"),
    ],
)
def test_a_refusal_has_slurm_s_words_and_the_mend(
    slurm: SlurmCluster, tmp_path: Path, directive: str, kind: type[IberlmError], slurm_says: str, mend: str
) -> None:
    with pytest.raises(kind) as raised:
        client.submit(write_script(tmp_path, directive))
    message = str(raised.value)
    assert slurm_says in message
    assert mend in message
    assert "\n" not in message
    assert client.queued_elements() == 0


def test_a_machine_without_slurm_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (
        lambda: client.submit(tmp_path / "job.sh"),
        lambda: client.queue([1]),
        client.partitions,
        client.nodes,
        client.limits,
        lambda: client.cancel([1]),
    ):
        with pytest.raises(ResourceError, match=r"no login node of a Slurm cluster.*cluster=local"):
            ask()
    assert client.accounting([1]) is None


def test_a_controller_that_is_not_there_is_named(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (slurm.folder / "slurm.conf").read_text()
    dead = tmp_path / "slurm.conf"
    other = {"SlurmctldPort": "1", "MessageTimeout": "5"}  # nothing listens there, and Slurm asks again for as long as a message may take
    dead.write_text("".join(f"{key}={other.get(key, value)}\n" for key, _, value in (line.partition("=") for line in text.splitlines()) if key))
    (tmp_path / "gres.conf").write_text((slurm.folder / "gres.conf").read_text())
    monkeypatch.setenv("SLURM_CONF", str(dead))
    with pytest.raises(ResourceError, match=r"Unable to contact slurm controller.*scontrol ping"):
        client.submit(write_script(tmp_path))


def test_a_program_that_does_not_answer_is_given_up() -> None:
    with pytest.raises(ResourceError, match=r"sleep: no answer within 0\.2 s"):
        client.call("sleep", "60", seconds=0.2)


def test_the_cluster_is_read_as_it_is(slurm: SlurmCluster) -> None:
    found = client.partitions()
    assert sorted(found) == ["closed", "main", "project", "short"]
    assert found["main"].default
    assert found["main"].max_minutes is None
    assert found["main"].max_nodes is None
    short = found["short"]
    assert (short.state, short.max_minutes, short.max_nodes, short.total_nodes, short.allow_accounts) == ("UP", 2, 1, 3, ())
    assert found["closed"].state == "DOWN"
    assert found["project"].allow_accounts == ("allowed",)
    limits = client.limits()
    assert (limits.cluster, limits.max_array_size, limits.accounting, limits.enforced) == ("lab", 1001, False, ())
    assert limits.version[0].isdecimal()
    slurm.down(3)
    one, _, three = client.nodes()
    assert (one.name, one.state, one.cpus, one.memory_mb, one.count("gpu"), one.is_up, one.reason) == ("node1", "idle", 8, 8000, 4, True, "")
    assert sorted(one.partitions) == sorted(found)
    assert (three.state, three.is_up, three.reason) == ("down", False, "test")
    assert client.accounting([1]) is None


def test_generic_resources_are_counted_by_name_and_type() -> None:
    node = client.Node(name="n", state="idle", responds=True, cpus=1, memory_mb=1, gres="", features=(), partitions=(), reason="")
    for text, name, count in [
        ("gpu:a100:4(S:0-1)", "gpu", 4),
        ("gpu:a100:4(S:0-1)", "gpu:a100", 4),
        ("gpu:a100:4(S:0-1)", "gpu:h100", 0),
        ("gpu:a100:2(S:0,1),gpu:h100:2,tmpfs:1K", "gpu", 4),
        ("tmpfs:(null):1K", "tmpfs", 1024),
        ("gpu:8", "gpu", 8),
        ("gpu:8", "gpu:mi250", 0),
        ("", "gpu", 0),
    ]:
        assert dataclasses.replace(node, gres=text).count(name) == count


def test_accounting_is_read_with_requeues_and_elements_that_never_started() -> None:
    # written by sacct 22.05 for an array 0-3%1 of which element 1 was requeued, and which was cancelled while element 2 ran
    text = """\
14_0|COMPLETED|0:0|2|2026-11-23T01:26:28|2026-11-23T01:26:30|node1
14_1|REQUEUED|0:0|1|2026-11-23T01:26:30|2026-11-23T01:26:31|node1
14_2|CANCELLED by 0|0:0|8|2026-11-23T01:26:31|2026-11-23T01:26:39|node1
14_[2-3%1]|CANCELLED by 0|0:0|0|None|2026-11-23T01:26:39|None assigned
14_1|CANCELLED by 0|0:0|0|None|2026-11-23T01:26:39|None assigned
20|FAILED|3:0|1|2026-11-23T01:29:02|2026-11-23T01:29:03|node[1-2]
"""
    found = client.read_accounting(text)
    assert [(entry.element, entry.state, entry.seconds, entry.nodes, entry.restarts) for entry in found[14]] == [
        (0, "COMPLETED", 2, "node1", 0),
        (1, "CANCELLED", 0, "", 1),
        (2, "CANCELLED", 8, "node1", 0),
        (3, "CANCELLED", 0, "", 0),
    ]
    assert [(entry.element, entry.exit_status, entry.nodes, entry.started) for entry in found[20]] == [(None, 3, "node[1-2]", "2026-11-23T01:29:02")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2-00:00:00", 2880), ("1-12", 2160), ("00:02:00", 2), ("30:00", 30), ("01:30", 2), ("90", 90), ("UNLIMITED", None), ("NONE", None), ("", None)],
)
def test_times_are_read_as_slurm_writes_them(text: str, expected: int | None) -> None:
    assert minutes(text) == expected


NEVER = """
DependencyNeverSatisfied BadConstraints PartitionTimeLimit PartitionNodeLimit PartitionConfig InvalidAccount InvalidQOS AccountNotAllowed
QOSNotAllowed MaxMemPerLimit ReservationDeleted QOSMaxWallDurationPerJobLimit QOSMaxCpuPerJobLimit QOSMaxNodePerJobLimit QOSMaxGRESPerJob
QOSMaxMemoryPerNode QOSMinCpuNotSatisfied QOSMinGRES AssocMaxWallDurationPerJobLimit AssocMaxNodePerJobLimit AssocMaxCpuMinutesPerJobLimit DeadLine
""".split()
WAITS = """
None Priority Resources Dependency BeginTime JobHeldUser JobHeldAdmin JobHoldMaxRequeue JobArrayTaskLimit Licenses Reservation Prolog Cleaning
PartitionDown PartitionInactive ReqNodeNotAvail NodeDown QOSMaxJobsPerUserLimit QOSMaxCpuPerUserLimit QOSMaxNodePerUserLimit QOSMaxGRESPerUser
QOSMaxSubmitJobPerUserLimit QOSGrpCpuLimit QOSGrpNodeLimit QOSGrpGRES QOSGrpCPUMinutesLimit QOSUsageThreshold AssocGrpCpuLimit AssocGrpGRES
AssocGrpGRESMinutes AssocGrpCPURunMinutesLimit AssocGrpBillingMinutes AssocMaxJobsLimit AssocMaxSubmitJobLimit AssocGrpNodeLimit MaxJobsPerAccount
MaxGRESPerAccount BurstBufferResources SchedDefer launch_failed_requeued_held
ReqNodeNotAvail,_UnavailableNodes:node[3-4] (ReqNodeNotAvail,_Reserved_for_maintenance)
Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions
""".split()


def test_the_reasons_that_users_meet_are_in_plain_words() -> None:
    told = {reason: client.explain("PENDING", reason) for reason in NEVER + WAITS}
    assert not {reason: words for reason, words in told.items() if not words or "gives the reason" in words}
    assert [reason for reason in NEVER if not client.never_starts(reason)] == []
    assert [reason for reason in WAITS if client.never_starts(reason)] == []
    assert "budget" in told["AssocGrpBillingMinutes"]
    assert "account" in told["AssocGrpBillingMinutes"]
    assert "your other jobs" in told["QOSMaxNodePerUserLimit"]
    assert "QOS" in told["QOSMaxNodePerUserLimit"]
    assert "walltime" in told["QOSMaxWallDurationPerJobLimit"]
    assert "GPUs" in told["QOSMaxGRESPerUser"]
    assert client.explain("PENDING", "SomethingNew") == "waits; Slurm gives the reason 'SomethingNew'"


def test_the_states_are_in_plain_words() -> None:
    assert client.explain("RUNNING", "None") == client.explain("COMPLETED", "None") == ""
    assert all(client.explain(state, "None") for state in FINISHED - {"COMPLETED"})
    assert client.explain("CANCELLED by 1000", "") == "was cancelled"
    assert client.explain("FAILED", "BadConstraints").startswith("was given up while it waited: no node has what it asks for")
    assert "goes on from what is saved" in client.explain("TIMEOUT", "TimeLimit")


@pytest.mark.parametrize(
    ("words", "kind", "mend"),
    [  # as sbatch 22.05 wrote them on a Slurm with accounts, and two that only a busy controller gives
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", ConfigError, "cluster.account"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", ConfigError, "cluster.qos"),
        (
            "sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
            "(job submit limit, user's size and/or time limits)",
            ConfigError,
            "cluster.walltime_minutes",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
            ResourceError,
            "wait until",
        ),
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy", ResourceError, "wait until"),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            ConfigError,
            "cluster.walltime_minutes",
        ),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", ResourceError, "may have taken the job all the same"),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", ResourceError, "try again later"),
        ("", ResourceError, "it gave no reason"),
        ("sbatch: error: \x1b[31mweird\x07\nthing\n", ResourceError, "weird thing"),
    ],
)
def test_refusals_are_sorted_into_settings_and_circumstances(words: str, kind: type[IberlmError], mend: str) -> None:
    error = refusal("sbatch refuses job.sh", words)
    assert type(error) is kind
    assert mend in str(error)
    assert str(error).isprintable()


def test_another_s_job_is_not_cancelled_in_silence(slurm: SlurmCluster) -> None:
    job = slurm.submit("sleep 600", "--hold")
    os.seteuid(65534)
    try:
        with pytest.raises(ResourceError, match=r"scancel: Kill job error .* denied"):
            client.cancel([job])
    finally:
        os.seteuid(0)
    assert slurm.state(job) == "PENDING"
