"""Whether Slurm would take a job and ever start it: asked before anything is submitted, so that a mistake shows at once and not after a night in the queue.

What Slurm and the profile tell is checked; what Slurm does not tell here (a centre may keep its accounts to itself) is
passed over with a remark, never guessed. `sbatch` has the last word.
"""

import grp
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.launch.slurm import client as slurm
from iberlm.launch.slurm.machine import Association, Machine, Node, Partition, Qos, ancestors, expand

__all__ = ["Machine", "check_request"]

MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One job, or one array of equal jobs, and where it is to run."""

    cluster: ClusterConfig
    machine: Machine
    nodes: int
    elements: int
    gpus: int
    cpus: int
    """Of a node."""
    minutes: int
    queued_before: int
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str) -> None:
        """Say something that does not stop the submission; each thing once."""
        if text not in self.remarks:
            self.remarks.append(text)

    @property
    def association(self) -> Association | None:
        """What the job's account lets the user do; None when Slurm does not tell, or the account is not given."""
        name = self.cluster.account.lower()
        entries = [entry for entry in self.machine.associations or [] if entry.account.lower() == name]
        return min(entries, key=lambda entry: entry.partition, default=None)  # the one for all partitions, where there is one

    @property
    def qos(self) -> Qos | None:
        """The job's QOS: what is asked for, else the account's default; None when Slurm does not tell."""
        name = self.cluster.qos or (self.association.default_qos if self.association else "")
        return (self.machine.qualities or {}).get(name)

    @property
    def qos_is_hidden(self) -> bool:
        """A QOS is asked for of which Slurm does not tell here what it gives: some lift limits of their partition."""
        return bool(self.cluster.qos) and self.machine.limits.accounting and self.machine.qualities is None

    def qualities(self, *partitions: Partition) -> list[Qos]:
        """The QOS whose limits hold: the job's and those of the partitions, as far as Slurm tells."""
        known = self.machine.qualities or {}
        wanted = [self.qos.name if self.qos else "", *(partition.qos for partition in partitions)]
        return [known[name] for name in dict.fromkeys(wanted) if name in known]

    @property
    def enforces_limits(self) -> bool:
        """Limits of accounts and QOS hold on this cluster."""
        return "limits" in self.machine.limits.enforced


def check_request(
    cluster: ClusterConfig,
    *,
    nodes: int,
    elements: int,
    gpus_per_node: int,
    cpus_per_task: int,
    tasks_per_node: int,
    minutes: int,
    queued_before: int = 0,
    machine: Machine | None = None,
) -> list[str]:
    """Raise `ConfigError` for what Slurm would refuse or never start; return remarks for people.

    Looked at: the partition, its state and to whom it is open; account and QOS; walltime; number and size of the nodes; the size
    of the array; and how many more jobs may be queued. Every element of an array counts as a queued job from the moment that
    it is submitted, so `%` does not help: what is too many is refused, with the number that fits now.

    `elements` is 1 without an array, `cpus_per_task` 0 when not known, `minutes` 0 when none are asked for. `queued_before` counts
    the jobs and elements of the same submission that come before this one; `machine` spares asking Slurm again for each of them.
    Raises `ResourceError` when Slurm does not answer.
    """
    asked = _Asked(
        cluster=cluster,
        machine=machine or Machine(),
        nodes=nodes,
        elements=elements,
        gpus=gpus_per_node,
        cpus=max(1, cpus_per_task) * tasks_per_node,
        minutes=minutes,
        queued_before=queued_before,
    )
    partitions = _partitions(asked)
    _check_account(asked)
    _check_qos(asked)
    # of several partitions (a,b) Slurm takes the first that can start the job: one that fits is enough
    for check in (_check_open, _check_admission, _check_time, _check_nodes):
        partitions = _fitting(partitions, partial(check, asked))
    _check_array(asked)
    _check_room(asked, partitions)
    return asked.remarks


def _fitting(partitions: list[Partition], check: Callable[[Partition], None]) -> list[Partition]:
    """The partitions that pass a check. Raises what the first one raised when none does."""
    passed: list[Partition] = []
    errors: list[ConfigError] = []
    for partition in partitions:
        try:
            check(partition)
            passed.append(partition)
        except ConfigError as error:
            errors.append(error)
    if not passed:
        raise errors[0]
    return passed


def _partitions(asked: _Asked) -> list[Partition]:
    known = asked.machine.partitions
    if asked.cluster.partition:
        wanted = asked.cluster.partition.split(",")
    else:
        wanted = [name for name, partition in known.items() if partition.default]
        if not wanted:
            raise ConfigError(f"cluster.partition: must be given, since this Slurm has no default; choose among {_list(known)}")
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"cluster.partition: there is no partition {name!r} on {asked.machine.limits.cluster or 'this cluster'}; choose among {_list(known)}"
            )
    return [known[name] for name in wanted]


def _check_open(asked: _Asked, partition: Partition) -> None:
    if partition.state != "UP":
        open_ones = [name for name, other in asked.machine.partitions.items() if other.state == "UP"]
        raise ConfigError(f"cluster.partition: '{partition.name}' is closed (state {partition.state}), no job starts there; open are {_list(open_ones)}")
    if partition.needs_reservation and not asked.cluster.reservation:
        raise ConfigError(f"cluster.reservation: must be given: the partition '{partition.name}' takes only jobs of a reservation")


def _check_account(asked: _Asked) -> None:
    cluster, known = asked.cluster, asked.machine.associations
    mine = sorted({entry.account for entry in known or []})
    if not cluster.account:
        if cluster.account_required:
            raise ConfigError(
                f"cluster.account: must be given on '{cluster.name}'" + (f"; yours are {_list(mine)}" if mine else "; the centre's letter names it")
            )
        if os.environ.get("SBATCH_ACCOUNT"):
            asked.remark("the account in SBATCH_ACCOUNT is not used: a script says all that it asks for; give cluster.account")
        return
    if not asked.machine.limits.accounting:
        asked.remark("this Slurm keeps no accounts: cluster.account is not checked")
    elif known is None:
        asked.remark("Slurm does not tell which accounts are yours: cluster.account is not checked")
    elif asked.association is None and "associations" in asked.machine.limits.enforced:
        raise ConfigError(f"cluster.account: {cluster.account!r} is no account of yours on '{asked.machine.limits.cluster}'; choose among {_list(mine)}")


def _check_qos(asked: _Asked) -> None:
    cluster, known = asked.cluster, asked.machine.qualities
    if not cluster.qos:
        if os.environ.get("SBATCH_QOS"):
            asked.remark("the QOS in SBATCH_QOS is not used: a script says all that it asks for; give cluster.qos")
        return
    if known is None:
        why = "does not tell its QOS" if asked.machine.limits.accounting else "keeps no QOS"
        asked.remark(f"this Slurm {why}: cluster.qos is not checked")
        return
    if cluster.qos not in known:
        raise ConfigError(f"cluster.qos: there is no QOS {cluster.qos!r}; choose among {_list(known)}")
    if asked.association and asked.association.qos and cluster.qos not in asked.association.qos:
        raise ConfigError(f"cluster.qos: the account '{asked.association.account}' may not use {cluster.qos!r}; it may use {_list(asked.association.qos)}")


def _check_admission(asked: _Asked, partition: Partition) -> None:
    """To whom the partition is open: accounts, QOS and groups of the system."""
    cluster = asked.cluster
    account = cluster.account.lower()
    if account and account in map(str.lower, partition.deny_accounts):
        raise ConfigError(f"cluster.account: {cluster.account!r} may not use the partition '{partition.name}'")
    if partition.allow_accounts and account not in map(str.lower, partition.allow_accounts):
        _check_allowed(asked, partition)
    if cluster.qos and cluster.qos in partition.deny_qos:
        raise ConfigError(f"cluster.qos: {cluster.qos!r} may not be used in the partition '{partition.name}'")
    if cluster.qos and partition.allow_qos and cluster.qos not in partition.allow_qos:
        raise ConfigError(f"cluster.qos: {cluster.qos!r} may not be used in the partition '{partition.name}'; it takes {_list(partition.allow_qos)}")
    if partition.allow_groups and os.getuid() != 0 and not _groups() & set(partition.allow_groups):
        raise ConfigError(f"cluster.partition: '{partition.name}' is open to the groups {_list(partition.allow_groups)} only, and you are in none of them")


def _check_allowed(asked: _Asked, partition: Partition) -> None:
    account, allowed = asked.cluster.account, set(partition.allow_accounts)
    if not account and asked.machine.limits.accounting:
        asked.remark(f"no account is given; the partition '{partition.name}' takes {_list(allowed)} only, and your default one must be among them")
    elif account and asked.machine.limits.accounting and allowed & set(ancestors(account, asked.machine.limits.cluster)):
        asked.remark(f"'{account}' belongs to an account that the partition '{partition.name}' takes; older Slurms (22.05) do not count that")
    else:
        what = f"{account!r} may not use" if account else "must be given for"
        raise ConfigError(f"cluster.account: {what} the partition '{partition.name}', which takes {_list(allowed)} only")


def _check_time(asked: _Asked, partition: Partition) -> None:
    cluster, minutes, qos = asked.cluster, asked.minutes, asked.qos
    if not minutes:
        given = partition.default_minutes or partition.max_minutes
        asked.remark(
            f"no walltime is asked for: the partition '{partition.name}' gives {_time(given) if given else 'what it likes'}; see cluster.walltime_minutes"
        )
        return
    limits = [(cluster.queue.walltime_minutes or None, f"the queue {(cluster.qos or cluster.partition)!r} by the profile '{cluster.name}'")]
    if asked.qos_is_hidden:
        if minutes > (partition.max_minutes or minutes):
            asked.remark(
                f"{_time(minutes)} is more than the partition '{partition.name}' gives; Slurm does not tell whether the QOS {cluster.qos!r} lifts that"
            )
    elif not (qos and qos.overrides_time):
        limits.append((partition.max_minutes, f"the partition '{partition.name}'"))
    if asked.enforces_limits:
        limits += [(known.max_minutes, f"the QOS '{known.name}'") for known in asked.qualities(partition)]
    if asked.enforces_limits and asked.association:
        limits.append((asked.association.max_minutes, f"the account '{asked.association.account}'"))
    for limit, whose in limits:
        if limit is not None and minutes > limit:
            raise ConfigError(
                f"cluster.walltime_minutes: {minutes} ({_time(minutes)}) is more than {whose} gives, {limit} ({_time(limit)}); "
                "ask for less: a training run saves before its limit and goes on in another job"
            )


def _check_nodes(asked: _Asked, partition: Partition) -> None:
    _check_number(asked, partition)
    cluster = asked.cluster
    there = [node for node in asked.machine.nodes if partition.name in node.partitions]
    if not there:
        if not partition.total_nodes:
            raise ConfigError(f"cluster.partition: '{partition.name}' has no nodes")
        asked.remark(f"Slurm does not show the nodes of the partition '{partition.name}': their size is not checked")
        return
    excluded = set(expand(cluster.exclude))
    there = [node for node in there if node.name not in excluded]
    large_enough = [node for node in there if not _lacks(asked, node)]
    if len(large_enough) < asked.nodes:
        example = max(there, key=lambda node: (node.count("gpu"), node.cpus, node.memory_mb), default=None)
        has = f"; {example.name} has {', '.join(_lacks(asked, example))}" if example and _lacks(asked, example) else ""
        raise ConfigError(
            f"cluster.nodes: {asked.nodes} of {_wanted(asked)} {'is' if asked.nodes == 1 else 'are'} asked for, and of the {len(there)} nodes that the "
            f"partition '{partition.name}' lets one use {len(large_enough)} {'is' if len(large_enough) == 1 else 'are'} that large{has}; see "
            "cluster.cores_per_node, gpus_per_node, gres, memory_gb_per_node, tasks_per_node, constraint, exclude"
        )
    up = sum(node.is_up for node in large_enough)
    if up < asked.nodes:
        asked.remark(f"only {up} of the {asked.nodes} nodes that are asked for are up now in the partition '{partition.name}'; the job waits for the others")


def _check_number(asked: _Asked, partition: Partition) -> None:
    cluster, qos = asked.cluster, asked.qos
    limits = [(cluster.queue.nodes or None, f"the queue {(cluster.qos or cluster.partition)!r} by the profile '{cluster.name}'")]
    if asked.qos_is_hidden:
        if asked.nodes > (partition.max_nodes or asked.nodes):
            asked.remark(
                f"{asked.nodes} nodes are more than the partition '{partition.name}' gives; Slurm does not tell whether the QOS {cluster.qos!r} lifts that"
            )
    elif not (qos and qos.overrides_nodes):
        limits.append((partition.max_nodes, f"the partition '{partition.name}'"))
    limits.append((partition.total_nodes, f"the partition '{partition.name}' in all"))
    for limit, whose in limits:
        if limit is not None and asked.nodes > limit:
            raise ConfigError(f"cluster.nodes: {asked.nodes} is more than {whose} gives a job, {limit}")
    if asked.nodes < partition.min_nodes:
        raise ConfigError(f"cluster.nodes: {asked.nodes} is less than the partition '{partition.name}' takes, {partition.min_nodes}")
    amounts = {"node": asked.nodes, "cpu": asked.nodes * asked.cpus, "gres/gpu": asked.nodes * asked.gpus}
    for known in asked.qualities(partition) if asked.enforces_limits else []:
        for what, most in known.max_per_job.items():
            if amounts.get(what, 0) > most:
                raise ConfigError(f"cluster.nodes: {amounts[what]} x {what} is more than the QOS '{known.name}' gives a job, {most}")


def _lacks(asked: _Asked, node: Node) -> list[str]:
    """What a node has too little of."""
    cluster, lacking = asked.cluster, []
    if node.cpus < asked.cpus:
        lacking.append(f"{node.cpus} cores")
    if asked.gpus and cluster.gres and node.count(cluster.gres) < asked.gpus:
        lacking.append(f"{node.count(cluster.gres)} x {_plain(cluster.gres)}")
    if node.memory_mb < _memory_mb(asked):
        lacking.append(f"{node.memory_mb} MB of memory")
    if cluster.constraint.replace("_", "").replace("-", "").isalnum() and cluster.constraint not in node.features:
        lacking.append(f"the features {_list(node.features) or 'none'}")
    return lacking


def _wanted(asked: _Asked) -> str:
    cluster = asked.cluster
    parts = [f"{asked.cpus} cores"]
    parts += [f"{asked.gpus} x {_plain(cluster.gres)}"] if asked.gpus and cluster.gres else []
    parts += [f"{_memory_mb(asked)} MB of memory"] if _memory_mb(asked) else []
    parts += [f"the feature {cluster.constraint!r}"] if cluster.constraint else []
    return ", ".join(parts)


def _memory_mb(asked: _Asked) -> int:
    """What the job asks for of a node's memory: its share, as it has a share of the profile's cores or GPUs."""
    cluster = asked.cluster
    shares = [asked.cpus / cluster.cores_per_node] if cluster.cores_per_node else []
    shares += [asked.gpus / cluster.gpus_per_node] if cluster.gpus_per_node and asked.gpus else []
    return math.floor(cluster.memory_gb_per_node * min(1.0, max(shares, default=1.0))) * 1024


def _check_array(asked: _Asked) -> None:
    if asked.elements == 1:
        return
    limits = [(asked.cluster.max_array_size, f"the profile '{asked.cluster.name}'"), (asked.machine.limits.max_array_size, "Slurm (MaxArraySize)")]
    for most, whose in limits:
        if most and asked.elements > most:
            raise ConfigError(f"cluster.elements: {asked.elements} is more than an array may have by {whose}, {most}")


def _check_room(asked: _Asked, partitions: Iterable[Partition]) -> None:
    """The job and all its elements must fit into what may still be queued.

    A profile's max_array_size counts here too: centres that state such a cap mean jobs in the queue. It is held against what is
    queued in the partition, and for arrays only, since a single job more is sbatch's to refuse.
    """
    names = ",".join(partition.name for partition in partitions)
    caps: list[tuple[int, int, str]] = []
    if asked.cluster.max_array_size and asked.elements > 1:
        caps.append((asked.cluster.max_array_size, slurm.queued_elements(partition=names), f"the profile '{asked.cluster.name}' (max_array_size)"))
    qualities = asked.qualities(*partitions) if asked.enforces_limits else []
    caps += [(known.max_queued, slurm.queued_elements(qos=known.name), f"the QOS '{known.name}'") for known in qualities if known.max_queued is not None]
    account = asked.association if asked.enforces_limits else None
    if account and account.max_queued is not None:
        caps.append((account.max_queued, slurm.queued_elements(account=account.account), f"the account '{account.account}'"))
    for most, queued, whose in caps:
        room = max(0, most - queued - asked.queued_before)
        if asked.elements > room:
            before = f" and {asked.queued_before} come before it" if asked.queued_before else ""
            mend = f"cluster.elements={room} fits now" if room and asked.elements > 1 else "wait until some have ended (iberlm status)"
            raise ConfigError(f"cluster.elements: {asked.elements} more jobs are too many for {whose}: {most} may be queued, {queued} are{before}; {mend}")


def _groups() -> set[str]:
    found = set()
    for number in {*os.getgroups(), os.getgid()}:
        try:
            found.add(grp.getgrgid(number).gr_name)
        except KeyError:  # a number without a name is in no partition's list
            continue
    return found


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _time(minutes: int) -> str:
    days, rest = divmod(minutes, MINUTES_A_DAY)
    return (f"{days} d " if days else "") + f"{rest // 60}:{rest % 60:02d} h"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
