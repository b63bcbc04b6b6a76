"""What is refused before anything is submitted, on a real Slurm."""

from dataclasses import replace
from typing import Any

import pytest

from iberlm.core.cluster import ClusterConfig, QueueConfig
from iberlm.core.errors import ConfigError
from iberlm.launch.checks import check_request
from iberlm.launch.slurm.machine import Machine, read_associations, read_qualities

from .slurm_cluster import SlurmCluster

# as sacctmgr 22.05 writes them: an account with two QOS, one of them for short jobs, and one without
ASSOCIATIONS = ["proj||debug,normal||7|1-00:00:00", "root||normal|||"]
QUALITIES = ["normal||||", "debug|00:30:00|5|gres/gpu=4,node=1|DenyOnLimit", "long|10-00:00:00|||PartitionTimeLimit", "of_main||6|cpu=16|"]


def cluster(**settings: Any) -> ClusterConfig:
    return ClusterConfig(name="lab", scheduler="slurm", **{"partition": "main", "gpus_per_node": 4, "cores_per_node": 8} | settings)


def ask(config: ClusterConfig, **changes: Any) -> list[str]:
    request = {"nodes": 1, "elements": 1, "gpus_per_node": 4, "cpus_per_task": 2, "tasks_per_node": 4, "minutes": 1}
    return check_request(config, **request | changes)


def accounts(**changes: Any) -> Machine:
    """The tests' Slurm as it would be with accounts."""
    machine = Machine()
    machine.limits = replace(machine.limits, accounting=True, enforced=("associations", "limits", "qos"))
    machine.associations = read_associations(ASSOCIATIONS)
    machine.qualities = read_qualities(QUALITIES)
    machine.partitions = {name: replace(partition, **changes) if name == "main" else partition for name, partition in machine.partitions.items()}
    return machine


def test_what_slurm_would_run_passes(slurm: SlurmCluster) -> None:
    assert ask(cluster()) == []
    assert ask(cluster(partition="")) == []  # the default partition
    assert ask(cluster(partition="short"), minutes=2) == []
    assert ask(cluster(partition="closed,main")) == []  # one that fits is enough
    assert ask(cluster(gres="", memory_gb_per_node=7), nodes=3, minutes=60 * 24 * 30) == []
    assert ask(cluster(exclude=["node[1-2]"]), elements=1001) == []


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        ({"partition": "nope"}, {}, r"cluster.partition: there is no partition 'nope' on lab; choose among closed, main, project, short"),
        ({"partition": "main,nope"}, {}, r"no partition 'nope'"),
        ({"partition": "closed"}, {}, r"'closed' is closed \(state DOWN\).*open are main, project, short"),
        ({"partition": "project"}, {}, r"cluster.account: must be given for the partition 'project', which takes allowed only"),
        ({"partition": "project", "account": "other"}, {}, r"'other' may not use the partition 'project', which takes allowed only"),
        ({"account_required": True}, {}, r"cluster.account: must be given on 'lab'"),
        ({"partition": "short"}, {"minutes": 61}, r"cluster.walltime_minutes: 61 \(1:01 h\) is more than the partition 'short' gives, 2 \(0:02 h\)"),
        (
            {"queues": {"main": QueueConfig(walltime_minutes=1500)}},
            {"minutes": 1501},
            r"1501 \(1 d 1:01 h\) is more than the queue 'main' by the profile 'lab'",
        ),
        ({"partition": "short"}, {"nodes": 2}, r"cluster.nodes: 2 is more than the partition 'short' gives a job, 1"),
        ({}, {"nodes": 4}, r"cluster.nodes: 4 is more than the partition 'main' in all gives a job, 3"),
        ({"queues": {"main": QueueConfig(nodes=2)}}, {"nodes": 3}, r"more than the queue 'main' by the profile 'lab' gives a job, 2"),
        ({}, {"cpus_per_task": 3}, r"1 of 12 cores, 4 x gpu is asked for, and of the 3 nodes .* 0 are that large; node\d has 8 cores"),
        ({}, {"gpus_per_node": 5}, r"node\d has 4 x gpu; see .*gpus_per_node"),
        ({"gres": "gpu:h100"}, {}, r"node\d has 0 x gpu:h100"),
        ({"memory_gb_per_node": 8}, {}, r"node\d has 8000 MB of memory"),
        ({"constraint": "a100"}, {}, r"the feature 'a100' is asked for.*the features none"),
        ({"exclude": ["node1", "node3"]}, {"nodes": 2}, r"of the 1 nodes that the partition 'main' lets one use 1 is that large"),
        ({}, {"elements": 1002}, r"cluster.elements: 1002 is more than an array may have by Slurm \(MaxArraySize\), 1001"),
        ({"max_array_size": 200}, {"elements": 201}, r"cluster.elements: 201 is more than an array may have by the profile 'lab', 200"),
    ],
)
def test_what_slurm_would_refuse_or_never_start_is_refused(slurm: SlurmCluster, settings: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ask(cluster(**settings), **changes)


def test_an_array_leaves_room_for_what_is_queued(slurm: SlurmCluster) -> None:
    slurm.submit("hostname", "--hold", "--array=0-3")
    capped = cluster(max_array_size=6)
    assert ask(capped, elements=2) == []
    with pytest.raises(
        ConfigError, match=r"3 more jobs are too many for the profile 'lab' \(max_array_size\): 6 may be queued, 4 are; cluster.elements=2 fits now"
    ):
        ask(capped, elements=3)
    with pytest.raises(ConfigError, match=r"4 are and 1 come before it; cluster.elements=1 fits now"):
        ask(capped, elements=2, queued_before=1)
    assert ask(capped) == []  # no array
    assert ask(cluster(max_array_size=6, partition="short"), elements=3) == []  # another queue


def test_nodes_that_are_down_are_told_and_waited_for(slurm: SlurmCluster) -> None:
    slurm.down(2)
    assert ask(cluster(), nodes=2) == []
    (remark,) = ask(cluster(), nodes=3)
    assert remark.startswith("only 2 of the 3 nodes that are asked for are up now in the partition 'main'")


def test_what_slurm_does_not_tell_is_passed_over_with_a_remark(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks = ask(cluster(account="mine", qos="debug"))
    assert remarks == ["this Slurm keeps no accounts: cluster.account is not checked", "this Slurm keeps no QOS: cluster.qos is not checked"]
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SBATCH_QOS", "debug")
    assert [remark.split(" is not used")[0] for remark in ask(cluster())] == ["the account in SBATCH_ACCOUNT", "the QOS in SBATCH_QOS"]
    remarks = ask(cluster(partition="short"), minutes=0)
    assert "no walltime is asked for: the partition 'short' gives 0:02 h; see cluster.walltime_minutes" in remarks
    hidden = accounts()
    hidden.associations = hidden.qualities = None
    remarks = ask(cluster(partition="short", account="mine", qos="long"), minutes=60, nodes=2, machine=hidden)
    assert any("which accounts are yours" in remark for remark in remarks)
    assert sum("does not tell whether the QOS 'long' lifts that" in remark for remark in remarks) == 2


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        ({"account": "theirs"}, {}, r"cluster.account: 'theirs' is no account of yours on 'lab'; choose among proj, root"),
        ({"account_required": True}, {}, r"cluster.account: must be given on 'lab'; yours are proj, root"),
        ({"qos": "nope"}, {}, r"cluster.qos: there is no QOS 'nope'; choose among debug, long, normal, of_main"),
        ({"account": "root", "qos": "debug"}, {}, r"the account 'root' may not use 'debug'; it may use normal"),
        ({"account": "proj", "qos": "debug"}, {"minutes": 31}, r"31 \(0:31 h\) is more than the QOS 'debug' gives, 30"),
        ({"account": "proj"}, {"minutes": 1441}, r"is more than the account 'proj' gives, 1440"),
        ({"account": "proj", "qos": "debug"}, {"nodes": 2}, r"cluster.nodes: 8 x gres/gpu is more than the QOS 'debug' gives a job, 4"),
        ({"account": "proj", "qos": "debug"}, {"nodes": 2, "gpus_per_node": 0}, r"2 x node is more than the QOS 'debug' gives a job, 1"),
        (
            {"account": "proj", "qos": "debug"},
            {"elements": 6},
            r"6 more jobs are too many for the QOS 'debug': 5 may be queued, 0 are; cluster.elements=5 fits now",
        ),
        ({"account": "proj"}, {"elements": 8}, r"too many for the account 'proj': 7 may be queued"),
        ({"account": "proj"}, {"queued_before": 7}, r"0 are and 7 come before it; wait until some have ended"),
        ({"partition": "project", "account": "proj"}, {}, r"'proj' may not use the partition 'project'"),
    ],
)
def test_accounts_and_qos_are_held_to(slurm: SlurmCluster, settings: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ask(cluster(**settings), machine=accounts(), **changes)


def test_partitions_may_have_a_qos_and_lists_of_their_own(slurm: SlurmCluster) -> None:
    assert ask(cluster(account="PROJ", qos="debug"), machine=accounts(), elements=5) == []  # Slurm writes accounts in small letters
    assert ask(cluster(partition="short", qos="long"), machine=accounts(), minutes=600) == []  # this QOS lifts the partition's limit
    with pytest.raises(ConfigError, match="24 x cpu is more than the QOS 'of_main' gives a job, 16"):
        ask(cluster(), machine=accounts(qos="of_main"), nodes=3)
    with pytest.raises(ConfigError, match="too many for the QOS 'of_main': 6 may be queued"):
        ask(cluster(), machine=accounts(qos="of_main"), elements=7)
    with pytest.raises(ConfigError, match="'proj' may not use the partition 'main'"):
        ask(cluster(account="proj"), machine=accounts(deny_accounts=("proj",)))
    with pytest.raises(ConfigError, match="'debug' may not be used in the partition 'main'; it takes normal"):
        ask(cluster(account="proj", qos="debug"), machine=accounts(allow_qos=("normal",)))
    with pytest.raises(ConfigError, match="'debug' may not be used in the partition 'main'"):
        ask(cluster(account="proj", qos="debug"), machine=accounts(deny_qos=("debug",)))
    with pytest.raises(ConfigError, match=r"cluster.reservation: must be given"):
        ask(cluster(), machine=accounts(needs_reservation=True))
    with pytest.raises(ConfigError, match=r"cluster.nodes: 1 is less than the partition 'main' takes, 2"):
        ask(cluster(), machine=accounts(min_nodes=2))


HOSTILE = "a b'c\"d;$(touch /tmp/no)\n--help `e`"


@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "gres", "reservation"])
def test_hostile_names_are_words_like_others(slurm: SlurmCluster, key: str) -> None:
    try:
        remarks = ask(cluster(**{key: HOSTILE}), machine=accounts())
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - refused or passed over, both are right
    else:
        assert key in ("constraint", "reservation")  # whether a node has what an expression says, only Slurm knows
        assert not any("\n" in remark for remark in remarks)


def test_hostile_nodes_are_no_nodes(slurm: SlurmCluster) -> None:
    assert ask(cluster(exclude=[HOSTILE, "node[1-", "[", "--help"]), nodes=3) == []
