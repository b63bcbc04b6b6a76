"""What stands against a submission before it is made: every limit that it breaks, of the profile and of Slurm, not only the first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.launch.checks import check_request
from iberlm.launch.hours import Request, hours
from iberlm.launch.profile import require_verified
from iberlm.launch.slurm.machine import Machine

ACCOUNT, CORES, ELEMENTS, GPUS, MINUTES, NODES, SIGNAL = "account", "cores", "elements", "gpus", "minutes", "nodes", "signal"


@dataclass(frozen=True)
class Judgement:
    """What is said of a submission before it is made; each line names its jobs."""

    refused: list[str]
    """What it would be refused for, or would never start for."""
    remarks: list[str]


def judge(requests: Sequence[Request], *, ask_slurm: bool) -> Judgement:
    """Everything that stands against a submission, of every job.

    `ask_slurm` also asks the controller where one answers, and whether the facts of the profiles are verified.
    """
    broken = {request.name: broken_limits(request) for request in requests}
    refused = [(name, text) for name, texts in broken.items() for text in texts.values()]
    remarks: list[tuple[str, str]] = []
    slurm = [request for request in requests if request.cluster.is_slurm] if ask_slurm else []
    unverified: dict[str, None] = {}
    for request in slurm:
        try:
            require_verified(request.cluster)
        except ConfigError as error:
            unverified[str(error)] = None
    refused += [("", text) for text in unverified]
    machine, queued_before = Machine(), 0
    for request in slurm:
        try:
            found = _asked(request, set(broken[request.name]), machine, queued_before)
        except ResourceError as error:
            remarks.append(("", f"Slurm was not asked: {error}"))
            break  # nor will it answer about the others
        refused += [(request.name, text) for text in found.refused]
        remarks += [(request.name, text) for text in found.remarks]
        queued_before += request.elements
    return Judgement(_grouped(refused), _grouped(remarks))


def _grouped(told: Sequence[tuple[str, str]]) -> list[str]:
    """Lines, those that say the same of several jobs as one."""
    jobs: dict[str, list[str]] = {}
    for name, text in told:
        jobs.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" if any(names) else text for text, names in jobs.items()]


def broken_limits(request: Request) -> dict[str, str]:
    """Each limit of the profile that a request breaks, by what breaks it. A limit that the profile does not know breaks nothing."""
    cluster, queue = request.cluster, request.cluster.queue
    name = cluster.qos if cluster.qos in cluster.queues else cluster.partition
    cores = request.tasks_per_node * request.cpus_per_task
    found: dict[str, str] = {}
    if queue.walltime_minutes and request.minutes > queue.walltime_minutes:
        mend = f"cluster.walltime_minutes={queue.walltime_minutes}"
        found[MINUTES] = f"walltime {hours(request.minutes)} is above {hours(queue.walltime_minutes)} of '{name}'; {mend}"
    elif cluster.is_slurm and request.gpus_per_node and not request.minutes:
        found[MINUTES] = f"no walltime is given, and the profile knows no limit of '{name}'; cluster.walltime_minutes=N"
    if queue.nodes and request.nodes > queue.nodes:
        found[NODES] = f"{request.nodes} nodes are above {queue.nodes} of '{name}'; cluster.nodes={queue.nodes}"
    if cluster.gpus_per_node and request.gpus_per_node > cluster.gpus_per_node:
        found[GPUS] = f"{request.gpus_per_node} GPUs a node, and one has {cluster.gpus_per_node}"
    if cluster.cores_per_node and cores > cluster.cores_per_node:
        found[CORES] = f"{cores} cores a node, and one has {cluster.cores_per_node}"
    if cluster.max_array_size and request.elements > cluster.max_array_size:
        found[ELEMENTS] = f"{request.elements} elements are above {cluster.max_array_size} of one array; cluster.elements={cluster.max_array_size}"
    if cluster.is_slurm and cluster.account_required and not cluster.account:
        found[ACCOUNT] = "an account must be given; cluster.account=NAME"
    if request.minutes and request.device_hours is not None and request.minutes * 60 <= cluster.signal_seconds:
        mend = "a longer walltime, or cluster.signal_seconds=N"
        found[SIGNAL] = f"walltime {hours(request.minutes)} is over before the signal {cluster.signal_seconds} s ahead of its end; {mend}"
    return found


@dataclass(frozen=True, kw_only=True)
class _Size:
    """What Slurm is asked about."""

    nodes: int
    elements: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    tasks_per_node: int = 1
    minutes: int = 0


def _asked(request: Request, broken: set[str], machine: Machine, queued_before: int) -> Judgement:
    """What Slurm would refuse a request for, and remarks. The check stops at the first thing that is wrong, so each size is asked about by itself too.

    What breaks a limit of the profile is asked about no more. Raises `ResourceError` when Slurm does not answer.
    """
    refused: list[str] = []
    for size in _questions(request, broken, machine):
        try:
            remarks = check_request(
                request.cluster,
                nodes=size.nodes,
                elements=size.elements,
                gpus_per_node=size.gpus_per_node,
                cpus_per_task=size.cpus_per_task,
                tasks_per_node=size.tasks_per_node,
                minutes=size.minutes,
                queued_before=queued_before,
                machine=machine,
            )
        except ConfigError as error:
            if ACCOUNT not in broken or not str(error).startswith("cluster.account: must be given"):
                refused += [] if str(error) in refused else [str(error)]
        else:
            if not refused:
                return Judgement([], remarks)  # the whole request passes
    return Judgement(refused, [])


def _questions(request: Request, broken: set[str], machine: Machine) -> Iterator[_Size]:
    """The whole request first, then each size with the others as small as they may be."""
    named = [machine.partitions[name].min_nodes for name in request.cluster.partition.split(",") if name in machine.partitions]
    fewest = max(1, min(named, default=1))
    nodes = fewest if NODES in broken else request.nodes
    elements = 1 if ELEMENTS in broken else request.elements
    gpus = 0 if GPUS in broken else request.gpus_per_node
    cpus, tasks = (1, 1) if CORES in broken else (request.cpus_per_task, request.tasks_per_node)
    minutes = 0 if MINUTES in broken else request.minutes
    yield _Size(nodes=nodes, elements=elements, gpus_per_node=gpus, cpus_per_task=cpus, tasks_per_node=tasks, minutes=minutes)
    yield _Size(nodes=fewest, minutes=minutes)
    yield _Size(nodes=nodes)
    yield _Size(nodes=fewest, gpus_per_node=gpus, cpus_per_task=cpus, tasks_per_node=tasks)
    yield _Size(nodes=fewest, elements=elements)
