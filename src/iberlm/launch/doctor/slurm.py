"""Checks of Slurm: its programs, its controller, and the profile against what they say on the spot (`doctor.profile`)."""

import dataclasses
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig, setting
from iberlm.core.errors import IberlmError, ResourceError
from iberlm.launch.checks import check_request
from iberlm.launch.doctor.checks import NOTE, OK, PROBLEM, Finding
from iberlm.launch.doctor.profile import AGREES, DIFFERS, UNTOLD, Fact, Kind, Seen, compare, partition_names
from iberlm.launch.profile import unverified
from iberlm.launch.slurm.call import call, fields_of, number
from iberlm.launch.slurm.machine import Machine, Node
from iberlm.launch.work import RANKS, size_of

SECTION = "Slurm"
OLDEST = 21
"""Year of the oldest Slurm whose sbatch and scontrol do all that the scripts ask for."""
PING_SECONDS = 8.0


def check_slurm(cluster: ClusterConfig, profile: Path | None = None) -> Iterator[Finding]:
    """Slurm's programs and controller; with a Slurm profile every fact of it that can be told here. `profile` is its file, whose lines are to be mended."""
    if shutil.which("sbatch") is None:
        mend = "run this on a login node, or load the module that has Slurm; cluster=local works without" if cluster.is_slurm else ""
        seen = "no sbatch here" if cluster.is_slurm else "no sbatch here: commands do their work themselves"
        yield Finding(SECTION, "programs", PROBLEM if cluster.is_slurm else NOTE, seen, mend)
        yield from _not_asked(cluster)
        return
    machine = Machine()
    try:
        _ping()
        limits = machine.limits
    except IberlmError as error:
        # the message has its mend
        yield Finding(SECTION, "controller", PROBLEM if cluster.is_slurm else NOTE, " ".join(str(error).split()))
        yield from _not_asked(cluster)
        return
    old = int((re.match(r"\d+", limits.version) or ["0"])[0]) < OLDEST
    mend = f"IberLM's scripts need Slurm {OLDEST} or newer" if old else ""
    seen = f"{limits.cluster} answers, Slurm {limits.version}, {'with' if limits.accounting else 'without'} accounting"
    yield Finding(SECTION, "controller", PROBLEM if old else OK, seen, mend)
    if not cluster.is_slurm:
        yield Finding(SECTION, "profile", NOTE, f"'{cluster.name}' submits nothing; cluster=NAME checks another one against this Slurm")
        return
    try:
        seen_here = look(cluster, machine)
    except IberlmError as error:
        yield Finding(SECTION, "profile", PROBLEM, " ".join(str(error).split()))
        return
    facts = list(compare(cluster, seen_here))
    yield from _shown(cluster, facts, profile)
    yield from _unverified(cluster, facts)
    yield _whole_job(cluster, machine)


def _ping() -> None:
    """Raise `ResourceError` unless a controller is up. Other programs wait for one for ten seconds and more."""
    done = call("scontrol", "ping", seconds=PING_SECONDS)
    if " is UP" not in done.stdout:
        words = " ".join((done.stderr or done.stdout).replace("*", "").split())
        raise ResourceError(f"Slurm's controller does not answer ({words}); try again later, ask the centre, or see whether SLURM_CONF is right")


def _not_asked(cluster: ClusterConfig) -> Iterator[Finding]:
    if cluster.is_slurm:
        yield from _unverified(cluster, [])


# reading


def look(cluster: ClusterConfig, machine: Machine) -> Seen:
    """Everything that is compared. Raises `ResourceError` when Slurm does not answer."""
    names = set(partition_names(cluster, machine.partitions))
    return Seen(
        partitions=machine.partitions,
        kinds=_kinds([node for node in machine.nodes if names & set(node.partitions)]),
        limits=machine.limits,
        qos=machine.qualities,
        associations=machine.associations,
        reservations=_reservations() if cluster.reservation else frozenset(),
    )


def _kinds(nodes: Sequence[Node]) -> list[Kind]:
    """Nodes that are alike together, the most frequent first."""

    def alike(node: Node) -> tuple[Any, ...]:
        # the sockets to which GPUs are bound are no difference here
        return node.cpus, node.memory_mb, re.sub(r"\(.*?\)", "", node.gres), node.features

    groups = [list(group) for _, group in itertools.groupby(sorted(nodes, key=alike), key=alike)]
    return [_kind(group) for group in sorted(groups, key=len, reverse=True)]


def _kind(group: Sequence[Node]) -> Kind:
    node = group[0]
    text = call("scontrol", "-o", "show", "node", node.name).stdout

    fields = fields_of(text)
    # CPUEfctv (Slurm 22.05) is CPUTot without the cores that are kept for the system; both count threads
    cpus = number(fields.get("CPUEfctv", "")) or number(fields.get("CPUTot", "")) or node.cpus
    cores = cpus // (number(fields.get("ThreadsPerCore", "")) or 1)
    return Kind(node=node, number=len(group), cores=cores, architecture=fields.get("Arch", ""))


def _reservations() -> frozenset[str]:
    return frozenset(re.findall(r"ReservationName=(\S+)", call("scontrol", "-o", "show", "reservation").stdout))


# shown


def _shown(cluster: ClusterConfig, facts: Sequence[Fact], profile: Path | None) -> Iterator[Finding]:
    for fact in facts:
        if fact.verdict == AGREES:
            yield _finding(cluster, fact.key, OK, f"{fact.ours} agrees ({fact.theirs})" if fact.theirs != fact.ours else f"{fact.ours} agrees")
        elif fact.verdict == DIFFERS:
            yield _finding(cluster, fact.key, fact.level, f"differs: the profile has {fact.ours}, Slurm {fact.theirs}", _mend(fact, profile))
        else:
            yield _finding(cluster, fact.key, NOTE, f"{fact.ours}: {UNTOLD}: {fact.theirs}")


def _finding(cluster: ClusterConfig, name: str, level: str, seen: str, mend: str = "") -> Finding:
    return Finding(f"cluster={cluster.name}", name, level, seen, mend)


def _mend(fact: Fact, profile: Path | None) -> str:
    override = f"cluster.{fact.key}={fact.better or 'VALUE'}"
    line = profile_line(profile, fact.key) if profile else 0
    return f"{override}, or for good in {profile}:{line}" if line else override


def profile_line(path: Path, key: str) -> int:
    """Number of the line that has a setting in a profile, dots for nested ones; 0 when it is not there, or in braces on another's line."""
    line, depth = 0, -1
    try:
        text = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for part in key.split("."):
        for index in range(line, len(text)):
            indent = len(text[index]) - len(text[index].lstrip())
            if text[index].strip() and indent <= depth:
                return line  # the end of the block
            if (depth >= 0 or not indent) and re.match(rf"\s*['\"]?{re.escape(part)}['\"]?\s*:", text[index]):
                line, depth = index + 1, indent
                break
        else:
            return line
    return line


def _unverified(cluster: ClusterConfig, facts: Sequence[Fact]) -> Iterator[Finding]:
    """Facts that a submission is refused for, what Slurm said of each, and the setting that accepts those that agree."""
    open_facts = unverified(cluster)
    if not open_facts:
        yield _finding(cluster, "facts", OK, "all are verified, confirmed or given by you")
        return
    verdicts = {key: _verdict(key, facts) for key in open_facts}
    for key, fact in open_facts.items():
        if any(told.key == key for told in facts):
            continue  # shown above
        source = f"{fact.source or 'no source'}{f', {fact.date}' if fact.date else ''}"
        yield _finding(cluster, key, NOTE, f"{_value(cluster, key)}: {UNTOLD}, and nobody has verified it ({source})")
    agreed = [key for key in open_facts if verdicts[key] == AGREES]
    rest = [key for key in open_facts if key not in agreed]
    mends = []
    if agreed:
        mends.append(f"'cluster.confirmed=[{','.join([*cluster.confirmed, *agreed])}]' accepts those that agree with what was seen")
    if rest:
        mends.append(f"look the others up in the centre's documentation, then give or confirm each: {', '.join(rest)}")
    one = len(open_facts) == 1
    seen = f"{len(open_facts)} of the profile's facts {'is' if one else 'are'} unverified, so a submission is refused"
    yield _finding(cluster, "facts", PROBLEM, seen, "; ".join(mends))


def _verdict(key: str, facts: Sequence[Fact]) -> str:
    """Of a fact, or of a group of settings (queues.NAME) that a profile vouches for as one."""
    found = {fact.verdict for fact in facts if fact.key == key or fact.key.startswith(f"{key}.")}
    return found.pop() if len(found) == 1 else DIFFERS if DIFFERS in found else UNTOLD


def _value(cluster: ClusterConfig, key: str) -> str:
    try:
        value = setting(cluster, key)
    except KeyError:
        return "?"
    return str(dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value) or "(empty)"


def _whole_job(cluster: ClusterConfig, machine: Machine) -> Finding:
    """Whether Slurm would take a training job as wide as the profile says."""
    size = size_of(RANKS, cluster)
    cores = size.tasks_per_node * size.cpus_per_task
    what = f"{size.nodes} {'node' if size.nodes == 1 else 'nodes'} x {size.gpus_per_node} GPUs"
    what += (f", {cores} cores a node" if cores else "") + (f", {cluster.minutes} minutes" if cluster.minutes else "")
    try:
        remarks = check_request(
            cluster,
            nodes=size.nodes,
            elements=1,
            gpus_per_node=size.gpus_per_node,
            cpus_per_task=size.cpus_per_task,
            tasks_per_node=size.tasks_per_node,
            minutes=cluster.minutes,
            machine=machine,
        )
    except IberlmError as error:
        return _finding(cluster, "a training job", PROBLEM, f"{what}: {error}", "mend what differs above, then try again")
    return _finding(cluster, "a training job", OK, f"{what}: Slurm would take it{''.join(f'; {remark}' for remark in remarks)}")
