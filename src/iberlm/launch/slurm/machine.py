"""What a Slurm cluster is made of and what it lets one do: partitions, nodes, limits, and, where it has accounting, accounts and QOS."""

import os
import pwd
import re
from dataclasses import dataclass
from functools import cached_property

from iberlm.core.errors import ResourceError
from iberlm.launch.slurm.call import answer, call, fields_of, minutes, names, number


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What a partition gives and to whom. An empty `allow_...` lets all in."""

    name: str
    state: str
    """UP, DOWN (takes jobs, starts none), DRAIN (takes none), INACTIVE (neither)."""
    default: bool
    max_minutes: int | None
    """None: no limit."""
    default_minutes: int | None
    max_nodes: int | None
    min_nodes: int
    total_nodes: int
    allow_accounts: tuple[str, ...]
    deny_accounts: tuple[str, ...]
    allow_qos: tuple[str, ...]
    deny_qos: tuple[str, ...]
    allow_groups: tuple[str, ...]
    qos: str
    """Whose limits hold for every job of the partition; "" for none."""
    needs_reservation: bool


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What `scontrol show config` says of the cluster."""

    cluster: str
    version: str
    max_array_size: int
    """One more than the highest number that an element may have; so the greatest number of elements, which are counted from 0."""
    max_job_count: int
    """Jobs that the controller holds at once, of all users."""
    accounting: bool
    """There is a database of accounts; without one Slurm knows neither accounts nor QOS."""
    enforced: tuple[str, ...]
    """What of it is enforced, e.g. associations, limits, qos."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node, as sinfo has it."""

    name: str
    state: str
    """In Slurm's long form without marks: idle, mixed, allocated, down, drained, draining, reserved, maint, planned, ..."""
    responds: bool
    cpus: int
    memory_mb: int
    gres: str
    """Generic resources, e.g. gpu:a100:4(S:0-1); "" for none."""
    features: tuple[str, ...]
    partitions: tuple[str, ...]
    reason: str
    """Why it is down or drained, in the words of the one who did it; "" for none."""

    @property
    def is_up(self) -> bool:
        """Runs jobs, or would if it were free."""
        return self.responds and not re.match(r"down|drain|fail|error|unk|inval|future|powering_down", self.state)

    def count(self, gres: str) -> int:
        """How many it has of a generic resource by name (gpu) or name and type (gpu:a100)."""
        name, _, kind = gres.partition(":")
        total = 0
        for part in re.split(r",(?![^(\[]*[)\]])", self.gres):
            words = re.sub(r"\([^)]*\)", "", part).split(":")
            amount = re.fullmatch(r"(\d+)([KMGT]?)", words[-1])
            if words[0] == name and (not kind or kind in words[1:-1]) and amount:
                total += int(amount[1]) * 1024 ** " KMGT".index(amount[2] or " ")
        return total


def partitions() -> dict[str, Partition]:
    """All partitions by name, hidden ones too. Raises `ResourceError` when Slurm does not answer."""
    found = [fields_of(line) for line in answer("scontrol", "-a", "-o", "show", "partition").splitlines() if line.startswith("PartitionName=")]
    return {fields["PartitionName"]: _partition(fields) for fields in found}


def _partition(fields: dict[str, str]) -> Partition:
    return Partition(
        name=fields["PartitionName"],
        state=fields.get("State", ""),
        default=fields.get("Default") == "YES",
        max_minutes=minutes(fields.get("MaxTime", "")),
        default_minutes=minutes(fields.get("DefaultTime", "")),
        max_nodes=number(fields.get("MaxNodes", "")),
        min_nodes=number(fields.get("MinNodes", "")) or 0,
        total_nodes=number(fields.get("TotalNodes", "")) or 0,
        allow_accounts=names(fields.get("AllowAccounts", "")),
        deny_accounts=names(fields.get("DenyAccounts", "")),
        allow_qos=names(fields.get("AllowQos", "")),
        deny_qos=names(fields.get("DenyQos", "")),
        allow_groups=names(fields.get("AllowGroups", "")),
        qos="" if fields.get("QoS", "N/A") == "N/A" else fields["QoS"],
        needs_reservation=fields.get("ReqResv") == "YES",
    )


def limits() -> Limits:
    """Limits of the cluster as a whole. Raises `ResourceError` when Slurm does not answer."""
    lines = answer("scontrol", "show", "config").splitlines()
    values = {key.strip(): value.strip() for key, mark, value in (line.partition("=") for line in lines) if mark}
    return Limits(
        cluster=values.get("ClusterName", ""),
        version=values.get("SLURM_VERSION", ""),
        max_array_size=number(values.get("MaxArraySize", "")) or 0,
        max_job_count=number(values.get("MaxJobCount", "")) or 0,
        accounting=values.get("AccountingStorageType", "").endswith("slurmdbd"),
        enforced=tuple(word for word in values.get("AccountingStorageEnforce", "").split(",") if word not in ("", "none")),
    )


def nodes() -> list[Node]:
    """All nodes by name, each once. Raises `ResourceError` when Slurm does not answer."""
    found: dict[str, Node] = {}
    for line in answer("sinfo", "-a", "-h", "-N", "-o", "%N|%R|%T|%c|%m|%G|%f|%E").splitlines():
        fields = line.split("|", 7)
        if len(fields) < 8:
            continue
        name, partition, state = fields[:3]
        known = found[name].partitions if name in found else ()
        found[name] = Node(
            name=name,
            state=re.sub(r"[^a-z_]", "", state.lower()),
            responds="*" not in state,
            cpus=number(fields[3]) or 0,
            memory_mb=number(fields[4]) or 0,
            gres="" if fields[5] == "(null)" else fields[5],
            features=names(fields[6]),
            partitions=(*known, partition),
            reason="" if fields[7] == "none" else fields[7],
        )
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True, kw_only=True)
class Association:
    """What an account lets this user do."""

    account: str
    partition: str
    """"" for all."""
    qos: tuple[str, ...]
    default_qos: str
    max_queued: int | None
    """Jobs that may wait and run at once, each element of an array counted; None: no limit."""
    max_minutes: int | None


@dataclass(frozen=True, kw_only=True)
class Qos:
    """What a QOS lets one do. None: no limit."""

    name: str
    max_minutes: int | None
    max_queued: int | None
    """Jobs of one user that may wait and run at once, each element of an array counted."""
    max_per_job: dict[str, int]
    """What one job may have of node, cpu, gres/gpu, ..."""
    flags: tuple[str, ...]

    @property
    def overrides_time(self) -> bool:
        """Its own time limit holds in place of the partition's."""
        return "PartitionTimeLimit" in self.flags

    @property
    def overrides_nodes(self) -> bool:
        """Its own limit of nodes holds in place of the partition's."""
        return "PartitionMaxNodes" in self.flags


def associations(cluster: str) -> list[Association] | None:
    """Accounts of this user on a cluster; None where Slurm has no accounting or does not say."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
    columns = "Account,Partition,QOS,DefaultQOS,MaxSubmitJobs,MaxWall"
    lines = _accounts("show", "assoc", f"user={user}", f"cluster={cluster}", f"format={columns}")
    return None if lines is None else read_associations(lines)


def read_associations(lines: list[str]) -> list[Association]:
    """Of what sacctmgr writes: account, partition, QOS, default QOS, MaxSubmitJobs, MaxWall."""
    return [_association(line.split("|")) for line in lines if line.count("|") == 5]


def _association(fields: list[str]) -> Association:
    return Association(
        account=fields[0],
        partition=fields[1],
        qos=names(fields[2]),
        default_qos=fields[3],
        max_queued=number(fields[4]),
        max_minutes=minutes(fields[5]),
    )


def qualities() -> dict[str, Qos] | None:
    """All QOS by name; None where Slurm has no accounting or does not say."""
    lines = _accounts("show", "qos", "format=Name,MaxWall,MaxSubmitJobsPU,MaxTRES,Flags")
    return None if lines is None else read_qualities(lines)


def read_qualities(lines: list[str]) -> dict[str, Qos]:
    """Of what sacctmgr writes: name, MaxWall, MaxSubmitJobsPU, MaxTRES, flags."""
    return {line.partition("|")[0]: _quality(line.split("|")) for line in lines if line.count("|") == 4}


def _quality(fields: list[str]) -> Qos:
    amounts = {name: number(amount) for name, _, amount in (part.partition("=") for part in names(fields[3]))}
    return Qos(
        name=fields[0],
        max_minutes=minutes(fields[1]),
        max_queued=number(fields[2]),
        max_per_job={name: amount for name, amount in amounts.items() if amount is not None},
        flags=names(fields[4]),
    )


def expand(hosts: list[str]) -> list[str]:
    """Names of nodes: [node[1-2], other] -> [node1, node2, other]; what Slurm cannot read stays as it is."""
    if not any("[" in host for host in hosts):
        return hosts
    done = call("scontrol", "show", "hostnames", ",".join(hosts))
    return done.stdout.split() if done.returncode == 0 else hosts


def ancestors(account: str, cluster: str) -> list[str]:
    """The accounts that an account is a part of, the nearest first; none where Slurm does not say."""
    lines = _accounts("show", "assoc", f"cluster={cluster}", "user=", "format=Account,ParentName") or []
    parents = dict(line.split("|") for line in lines if line.count("|") == 1 and not line.endswith("|"))
    found = [account]
    while (parent := parents.get(found[-1])) and parent not in found:
        found.append(parent)
    return found[1:]


def _accounts(*arguments: str) -> list[str] | None:
    try:
        done = call("sacctmgr", "-nP", *arguments)
    except ResourceError:  # a centre may not install it on the login nodes
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


class Machine:
    """What Slurm says of itself, each thing asked once, when it is first needed: one serves all the jobs of a submission."""

    @cached_property
    def partitions(self) -> dict[str, Partition]:
        """By name."""
        return partitions()

    @cached_property
    def limits(self) -> Limits:
        """Of the cluster as a whole."""
        return limits()

    @cached_property
    def nodes(self) -> list[Node]:
        """All of them."""
        return nodes()

    @cached_property
    def associations(self) -> list[Association] | None:
        """The user's accounts; None when Slurm does not tell."""
        return associations(self.limits.cluster) if self.limits.accounting else None

    @cached_property
    def qualities(self) -> dict[str, Qos] | None:
        """All QOS by name; None when Slurm does not tell."""
        return qualities() if self.limits.accounting else None
