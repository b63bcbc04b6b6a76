"""A profile beside what Slurm says on the spot: each fact agrees, differs, or cannot be told here.

What differs names both values and the setting to mend. Pure functions of what was read; `doctor.slurm` reads it and shows what came of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iberlm.core.cluster import ClusterConfig, QueueConfig
from iberlm.launch.doctor.checks import NOTE, PROBLEM, WARNING
from iberlm.launch.slurm.machine import Association, Limits, Node, Partition, Qos

AGREES, DIFFERS, UNTOLD = "agrees", "differs", "cannot be told here"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One setting of a profile beside what Slurm says of it."""

    key: str
    """As in `cluster.KEY=`."""
    verdict: str
    """agrees, differs, or cannot be told here."""
    ours: str
    theirs: str
    """What Slurm says; or why it cannot be told."""
    level: str = NOTE
    """Of what differs: problem where Slurm would refuse a job or never start it, warning where it has more than the profile uses."""
    better: str = ""
    """Value that would agree, as it is written after `cluster.KEY=`; empty where there is no single one."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Nodes that are alike."""

    node: Node
    """One of them."""
    number: int
    cores: int
    """That jobs can use: without those that are kept for the system, and threads not counted."""
    architecture: str = ""
    """As the kernel names it: x86_64, aarch64."""

    def __str__(self) -> str:
        gres = f", {self.node.gres}" if self.node.gres else ""
        return f"{self.number} x {self.cores} cores, {self.node.memory_mb / 1024:,.1f} GiB{gres}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What Slurm said. None: it cannot be told here, for want of accounting."""

    partitions: Mapping[str, Partition]
    kinds: Sequence[Kind]
    """Kinds of node in the profile's partition."""
    limits: Limits
    qos: Mapping[str, Qos] | None = None
    associations: Sequence[Association] | None = None
    """Of this user."""
    reservations: frozenset[str] = frozenset()


def compare(cluster: ClusterConfig, seen: Seen) -> Iterator[Fact]:
    """Every setting of the profile that is given and of which Slurm knows something. Facts about nodes come only when the partition is there."""
    partition = _partition(cluster, seen)
    yield partition
    yield from _rights(cluster, seen)
    yield from _queues(cluster, seen)
    if partition.verdict != DIFFERS and seen.kinds:
        yield from _nodes(cluster, seen.kinds)
    if cluster.max_array_size:
        yield _array(cluster.max_array_size, seen.limits.max_array_size)


def partition_names(cluster: ClusterConfig, partitions: Mapping[str, Partition]) -> list[str]:
    """The partitions that a job of the profile may run in, Slurm's default where it names none."""
    if cluster.partition:
        return cluster.partition.split(",")
    return [name for name, partition in partitions.items() if partition.default]


def _partition(cluster: ClusterConfig, seen: Seen) -> Fact:
    key, ours = "partition", cluster.partition or "(Slurm's default)"
    names = partition_names(cluster, seen.partitions)
    missing = [name for name in names if name not in seen.partitions]
    if missing or not names:
        there = ", ".join(sorted(seen.partitions)) or "none that this user may see"
        return Fact(key=key, verdict=DIFFERS, ours=ours, theirs=f"no such partition; there is {there}", level=PROBLEM)
    down = [name for name in names if seen.partitions[name].state != "UP"]
    if len(down) == len(names):
        return Fact(key=key, verdict=DIFFERS, ours=ours, theirs=f"it is {seen.partitions[down[0]].state}: jobs wait until it is up", level=PROBLEM)
    kinds = "; ".join(map(str, seen.kinds)) or "nodes not told"
    return Fact(key=key, verdict=AGREES, ours=ours if cluster.partition else f"{names[0]} (Slurm's default)", theirs=f"up: {kinds}")


# who may


def _rights(cluster: ClusterConfig, seen: Seen) -> Iterator[Fact]:
    partitions = [seen.partitions[name] for name in partition_names(cluster, seen.partitions) if name in seen.partitions]
    if cluster.account:
        yield _account(cluster.account, partitions, seen)
    elif cluster.account_required:
        theirs = "an account must be given" + (f": this user has {', '.join(_accounts(seen))}" if _accounts(seen) else "")
        yield Fact(key="account", verdict=DIFFERS, ours="(none)", theirs=theirs, level=PROBLEM)
    if cluster.qos:
        yield _qos(cluster, partitions, seen)
    if cluster.reservation:
        if cluster.reservation in seen.reservations:
            yield Fact(key="reservation", verdict=AGREES, ours=cluster.reservation, theirs="it is there")
        else:
            there = ", ".join(sorted(seen.reservations)) or "none"
            yield Fact(key="reservation", verdict=DIFFERS, ours=cluster.reservation, theirs=f"no such reservation; there is {there}", level=PROBLEM)


def _account(account: str, partitions: Sequence[Partition], seen: Seen) -> Fact:
    for partition in partitions:
        if not _allowed(account, partition.allow_accounts, partition.deny_accounts):
            theirs = f"partition {partition.name} takes {', '.join(partition.allow_accounts) or 'all but ' + ', '.join(partition.deny_accounts)}"
            return Fact(key="account", verdict=DIFFERS, ours=account, theirs=theirs, level=PROBLEM)
    if seen.associations is None:
        return Fact(key="account", verdict=UNTOLD, ours=account, theirs="there is no accounting that could be asked")
    if account in _accounts(seen):
        return Fact(key="account", verdict=AGREES, ours=account, theirs="this user may charge it")
    return Fact(key="account", verdict=DIFFERS, ours=account, theirs=f"this user has {', '.join(_accounts(seen)) or 'none'}", level=PROBLEM)


def _accounts(seen: Seen) -> list[str]:
    return sorted({association.account for association in seen.associations or ()})


def _qos(cluster: ClusterConfig, partitions: Sequence[Partition], seen: Seen) -> Fact:
    qos = cluster.qos
    for partition in partitions:
        if not _allowed(qos, partition.allow_qos, partition.deny_qos):
            theirs = f"partition {partition.name} takes {', '.join(partition.allow_qos) or 'all but ' + ', '.join(partition.deny_qos)}"
            return Fact(key="qos", verdict=DIFFERS, ours=qos, theirs=theirs, level=PROBLEM)
    if seen.qos is None:
        return Fact(key="qos", verdict=UNTOLD, ours=qos, theirs="there is no accounting that could be asked")
    if qos not in seen.qos:
        return Fact(key="qos", verdict=DIFFERS, ours=qos, theirs=f"no such QOS; there is {', '.join(sorted(seen.qos))}", level=PROBLEM)
    own = {name for association in seen.associations or () if association.account == cluster.account for name in association.qos}
    if own and qos not in own:
        return Fact(key="qos", verdict=DIFFERS, ours=qos, theirs=f"account {cluster.account} may use {', '.join(sorted(own))}", level=PROBLEM)
    return Fact(key="qos", verdict=AGREES, ours=qos, theirs="it is there")


def _allowed(name: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    return name not in denied and (not allowed or name in allowed)


# limits


def _queues(cluster: ClusterConfig, seen: Seen) -> Iterator[Fact]:
    for name, queue in cluster.queues.items():
        used = queue is cluster.queue
        if name in seen.partitions:
            partition = seen.partitions[name]
            yield from _limits(name, queue, partition.max_minutes, partition.max_nodes, "the partition sets none; a QOS may", used=used)
        elif seen.qos is not None and name in seen.qos:
            qos = seen.qos[name]
            yield from _limits(name, queue, qos.max_minutes, qos.max_per_job.get("node"), "the QOS sets none; the partition or the account may", used=used)
        else:
            verdict, why = (UNTOLD, "no accounting tells about a QOS") if seen.qos is None else (DIFFERS, "neither a partition nor a QOS of this name")
            for key, value in (("walltime_minutes", queue.walltime_minutes), ("nodes", queue.nodes)):
                if value:
                    yield Fact(key=f"queues.{name}.{key}", verdict=verdict, ours=str(value), theirs=why, level=PROBLEM if used else WARNING)


def _limits(name: str, ours: QueueConfig, minutes: int | None, nodes: int | None, none: str, *, used: bool) -> Iterator[Fact]:
    for key, mine, limit in (("walltime_minutes", ours.walltime_minutes, minutes), ("nodes", ours.nodes, nodes)):
        if not mine:
            continue
        full = f"queues.{name}.{key}"
        if not limit:
            yield Fact(key=full, verdict=UNTOLD, ours=str(mine), theirs=none)
        elif mine == limit:
            yield Fact(key=full, verdict=AGREES, ours=str(mine), theirs=str(limit))
        else:
            level = PROBLEM if used and mine > limit else WARNING
            yield Fact(key=full, verdict=DIFFERS, ours=str(mine), theirs=str(limit), level=level, better=str(limit))


def _array(ours: int, theirs: int) -> Fact:
    if ours > theirs:
        return Fact(key="max_array_size", verdict=DIFFERS, ours=str(ours), theirs=f"MaxArraySize allows {theirs}", level=PROBLEM, better=str(theirs))
    if ours == theirs:
        return Fact(key="max_array_size", verdict=AGREES, ours=str(ours), theirs=str(theirs))
    return Fact(key="max_array_size", verdict=UNTOLD, ours=str(ours), theirs=f"MaxArraySize allows {theirs}; a limit of the user or QOS may be lower")


# nodes


def _nodes(cluster: ClusterConfig, kinds: Sequence[Kind]) -> Iterator[Fact]:
    """Against the kind of node that fits best: a partition may have several, and the constraint chooses among them."""
    named = [kind for kind in kinds if not cluster.constraint or _has_features(cluster.constraint, kind.node.features)]
    if cluster.constraint:
        if named:
            yield Fact(key="constraint", verdict=AGREES, ours=cluster.constraint, theirs=f"{sum(kind.number for kind in named)} nodes have it")
        else:
            there = ", ".join(sorted({feature for kind in kinds for feature in kind.node.features})) or "none"
            yield Fact(key="constraint", verdict=DIFFERS, ours=cluster.constraint, theirs=f"no node has it; features there are {there}", level=PROBLEM)
    candidates = [list(_node(cluster, kind)) for kind in named or kinds]
    yield from min(candidates, key=lambda facts: [sum(fact.verdict == DIFFERS and fact.level == level for fact in facts) for level in (PROBLEM, WARNING)])


def _node(cluster: ClusterConfig, kind: Kind) -> Iterator[Fact]:
    if cluster.cores_per_node:
        yield _number("cores_per_node", cluster.cores_per_node, kind.cores)
    if cluster.memory_gb_per_node:
        yield _memory(cluster.memory_gb_per_node, kind.node.memory_mb)
    if cluster.gpus_per_node and cluster.gres:
        yield from _gpus(cluster, kind)
    elif cluster.gpus_per_node and kind.node.count("gpu"):
        yield _number("gpus_per_node", cluster.gpus_per_node, kind.node.count("gpu"))
    if kind.architecture and cluster.architecture:
        same = kind.architecture == cluster.architecture
        better = "" if same else kind.architecture
        yield Fact(key="architecture", verdict=AGREES if same else DIFFERS, ours=cluster.architecture, theirs=kind.architecture, level=PROBLEM, better=better)


def _number(key: str, ours: int, theirs: int) -> Fact:
    """More than there is never starts; less leaves some of the node unused."""
    if ours == theirs:
        return Fact(key=key, verdict=AGREES, ours=str(ours), theirs=str(theirs))
    return Fact(key=key, verdict=DIFFERS, ours=str(ours), theirs=str(theirs), level=PROBLEM if ours > theirs else WARNING, better=str(theirs))


def _memory(ours_gb: int, theirs_mb: int) -> Fact:
    # a job is given --mem=NG, and G is 1024 MiB
    key, theirs = "memory_gb_per_node", f"{theirs_mb / 1024:,.1f} GiB"
    if ours_gb * 1024 > theirs_mb:
        return Fact(key=key, verdict=DIFFERS, ours=str(ours_gb), theirs=theirs, level=PROBLEM, better=str(theirs_mb // 1024))
    if ours_gb * 1024 < 0.8 * theirs_mb:
        return Fact(key=key, verdict=DIFFERS, ours=str(ours_gb), theirs=theirs, level=WARNING, better=str(theirs_mb // 1024))
    return Fact(key=key, verdict=AGREES, ours=str(ours_gb), theirs=theirs)


def _gpus(cluster: ClusterConfig, kind: Kind) -> Iterator[Fact]:
    if number := kind.node.count(cluster.gres):
        yield Fact(key="gres", verdict=AGREES, ours=cluster.gres, theirs=kind.node.gres)
        yield _number("gpus_per_node", cluster.gpus_per_node, number)
        return
    better = "gpu" if kind.node.count("gpu") else ""
    yield Fact(key="gres", verdict=DIFFERS, ours=cluster.gres, theirs=kind.node.gres or "no such resource", level=PROBLEM, better=better)


def _has_features(constraint: str, features: Sequence[str]) -> bool:
    """A plain list joined by & or |; what has counts or brackets is left to Slurm."""
    if any(sign in constraint for sign in "[]()*"):
        return True
    return any(all(name.strip() in features for name in part.split("&")) for part in constraint.replace(",", "&").split("|"))
