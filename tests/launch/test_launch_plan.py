"""What a submission would ask for: hours, starts, storage, energy, and every limit that it would break."""

import json
from dataclasses import replace

import pytest

from iberlm.core.cluster import ClusterConfig, DeviceConfig, FactConfig, QueueConfig
from iberlm.launch.hours import longest_minutes
from iberlm.launch.judge import broken_limits, judge
from iberlm.launch.plan import Request, as_json, core_hours, energy_kwh, gpu_hours, plan_lines, starts, total

from .slurm_cluster import SlurmCluster

GPUS = ClusterConfig(
    name="accelerated",
    scheduler="slurm",
    partition="acc",
    queues={"acc": QueueConfig(walltime_minutes=1440, nodes=16)},
    gpus_per_node=4,
    cores_per_node=80,
    max_array_size=100,
    signal_seconds=600,
    device=DeviceConfig(watts=700, pue=1.1),
)
CORES = ClusterConfig(name="general", scheduler="slurm", partition="gpp", cores_per_node=112)

CURATE = Request(name="curate", verb="curate", cluster=CORES, cpus_per_task=112, minutes=120, elements=8, max_running=3)
TRAIN = Request(
    name="pretrain",
    verb="pretrain",
    cluster=GPUS,
    after=("curate",),
    nodes=16,
    tasks_per_node=4,
    cpus_per_task=20,
    gpus_per_node=4,
    exclusive=True,
    minutes=1440,
    device_hours=5000.0,
    storage_bytes={"checkpoints": 81_000_000_000},
)
EVALUATE = Request(name="evaluate", verb="evaluate", cluster=GPUS, after=("pretrain",), cpus_per_task=20, gpus_per_node=1, minutes=60, elements=3)


def test_hours_are_whole_allocations_at_their_full_walltime() -> None:
    assert gpu_hours(EVALUATE) == 3 * 1 * 1
    assert gpu_hours(CURATE) == 0
    assert core_hours(CURATE) == 8 * 112 * 2
    assert core_hours(EVALUATE) == 3 * 20
    # of an exclusive node all cores are charged, whatever the tasks use
    assert core_hours(replace(EVALUATE, exclusive=True)) == 3 * 80


def test_a_run_longer_than_a_walltime_needs_several_starts_and_all_of_them_are_charged() -> None:
    # 64 GPUs x (1440 - 10) minutes = 1525 device hours a start
    assert starts(TRAIN) == 4
    assert gpu_hours(TRAIN) == 4 * 64 * 24
    assert core_hours(TRAIN) == 4 * 16 * 80 * 24
    short = replace(TRAIN, device_hours=100.0)
    assert starts(short) == 1
    assert gpu_hours(short) == 16 * 4 * 24, "Slurm may charge the whole walltime"
    assert starts(replace(TRAIN, device_hours=2 * 64 * 1430 / 60)) == 2, "exactly two starts are not three"


def test_sums_are_those_of_the_parts() -> None:
    requests = [CURATE, TRAIN, EVALUATE]
    sums = total(requests)
    assert sums.jobs == 8 + 1 + 3
    assert sums.gpu_hours == sum(map(gpu_hours, requests))
    assert sums.core_hours == sum(map(core_hours, requests))
    assert sums.device_hours == 5000
    assert sums.storage_bytes == {"checkpoints": 81_000_000_000}
    assert sums.energy_kwh == pytest.approx(sum(energy_kwh(request) or 0 for request in requests))
    assert energy_kwh(TRAIN) == pytest.approx(4 * 64 * 24 * 700 * 1.1 / 1000)
    assert energy_kwh(CURATE) == pytest.approx(8 * 112 * 2 * 12 / 1000)


def test_energy_is_not_guessed_where_the_power_is_not_known() -> None:
    unknown = replace(TRAIN, cluster=replace(GPUS, device=DeviceConfig()))
    assert total([CURATE, unknown]).energy_kwh is None
    assert "not known" in next(line for line in plan_lines([CURATE, unknown]) if line.startswith("energy"))


def test_the_longest_way_through_the_chain_counts_what_waits_for_what() -> None:
    # 8 elements, 3 at once: three waves of 2 h; then 4 starts of a day, then an hour
    assert longest_minutes([CURATE, TRAIN, EVALUATE]) == 3 * 120 + 4 * 1440 + 60
    beside = replace(EVALUATE, name="beside", after=(), minutes=10)
    assert longest_minutes([CURATE, TRAIN, EVALUATE, beside]) == 3 * 120 + 4 * 1440 + 60


def test_every_limit_that_a_request_breaks_is_named_with_its_mend() -> None:
    greedy = replace(TRAIN, nodes=40, gpus_per_node=8, cpus_per_task=30, minutes=2880, elements=500, cluster=replace(GPUS, account_required=True))
    text = "\n".join(broken_limits(greedy).values())
    for expected in (
        "walltime 48:00 is above 24:00 of 'acc'; cluster.walltime_minutes=1440",
        "40 nodes are above 16 of 'acc'",
        "8 GPUs a node, and one has 4",
        "120 cores a node, and one has 80",
        "500 elements are above 100 of one array",
        "cluster.account=NAME",
    ):
        assert expected in text
    assert len(broken_limits(greedy)) == 6
    assert broken_limits(TRAIN) == {}


def test_a_walltime_that_ends_before_its_signal_is_refused() -> None:
    assert "before the signal 600 s ahead" in broken_limits(replace(TRAIN, minutes=10))["signal"]
    assert "no walltime is given" in broken_limits(replace(TRAIN, minutes=0))["minutes"]


def test_lines_and_json_tell_the_same() -> None:
    requests = [CURATE, TRAIN, EVALUATE]
    lines = plan_lines(requests)
    text = "\n".join(lines)
    assert lines[0].split()[:3] == ["job", "cluster", "after"]
    assert "8 (3 at once)" in lines[1]
    assert "pretrain: 5,000 device hours, of steps alone: 78.1 h on 64 GPUs, 4 starts" in text
    assert "checkpoints 81.0 GB; not known of curate, evaluate" in text
    assert "estimated" in text
    told = json.loads(json.dumps(as_json(requests)))
    assert [job["name"] for job in told["jobs"]] == ["curate", "pretrain", "evaluate"]
    assert told["total"]["gpu_hours"] == 4 * 64 * 24 + 3
    assert told["refused"] == []
    assert plan_lines([]) == ["nothing to submit: everything is complete"]


def test_slurm_is_asked_about_every_job_and_not_only_the_first(slurm: SlurmCluster) -> None:
    lab = ClusterConfig(name="lab", scheduler="slurm", partition="main", cores_per_node=8, gpus_per_node=4, walltime_minutes=10)
    good = Request(name="good", verb="curate", cluster=lab, cpus_per_task=8, minutes=10)
    requests = [
        good,
        replace(good, name="elsewhere", cluster=replace(lab, partition="nowhere")),
        replace(good, name="wide", nodes=7),
        replace(good, name="closed", cluster=replace(lab, partition="closed")),
        replace(good, name="long", minutes=600, nodes=2, gpus_per_node=9, elements=2000, cluster=replace(lab, partition="short", gpus_per_node=0)),
    ]
    refused = judge(requests, ask_slurm=True).refused
    named = {name for line in refused for name in line.partition(":")[0].split(", ")}
    assert {"elsewhere", "wide", "closed", "long"} <= named
    assert "good" not in named
    of_long = [line for line in refused if line.startswith("long: ")]
    for broken in ("walltime_minutes: 600", "nodes: 2", "9 x gpu", "elements: 2000"):
        assert any(broken in line for line in of_long), f"{broken} is told beside the others: {of_long}"
    assert judge(requests, ask_slurm=False).refused == [], "the profile alone knows nothing of them"


def test_facts_that_nobody_verified_are_told_before_the_submission_is_refused(slurm: SlurmCluster) -> None:
    lab = ClusterConfig(name="lab", scheduler="slurm", partition="main", cores_per_node=8, facts={"partition": FactConfig(source="a rumour")})
    request = Request(name="curate", verb="curate", cluster=lab, cpus_per_task=8, minutes=10)
    assert any("a rumour" in line for line in judge([request], ask_slurm=True).refused)


def test_what_is_said_of_several_jobs_is_said_once(slurm: SlurmCluster) -> None:
    lab = ClusterConfig(name="lab", scheduler="slurm", partition="short", cores_per_node=8)
    first = Request(name="first", verb="curate", cluster=lab, cpus_per_task=8, minutes=60)
    refused = judge([first, replace(first, name="second"), replace(first, name="third", minutes=2)], ask_slurm=True).refused
    assert [line.partition(":")[0] for line in refused] == ["first, second"]


def test_without_a_controller_the_plan_says_that_slurm_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    request = Request(name="curate", verb="curate", cluster=CORES, cpus_per_task=8, minutes=10)
    found = judge([request, replace(request, name="again")], ask_slurm=True)
    assert found.refused == []
    assert [line.partition(":")[0] for line in found.remarks] == ["Slurm was not asked"]
