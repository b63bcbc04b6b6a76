"""What a submission would ask for, before anything is submitted: jobs, GPU-hours, core-hours, storage, energy, and the limits that it would break.

Slurm charges what is allocated: every hour below counts whole allocations at their full walltime, unless it says otherwise.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError, IberlmError, ResourceError
from iberlm.core.process import WATTS_PER_CORE

_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One submission: a job, or an array of jobs of the same size."""

    name: str
    """Name of the job, unique among those that are planned together."""
    verb: str
    cluster: ClusterConfig
    """Profile that it is submitted with."""
    after: tuple[str, ...] = ()
    """Names of the requests that must succeed before."""
    nodes: int = 1
    """Of one element."""
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    exclusive: bool = False
    """Whole nodes: all their cores are charged, used or not."""
    minutes: int
    """Walltime of one start of one element; 0: not known."""
    elements: int = 1
    """Of the array; 1: no array."""
    max_running: int = 0
    """Elements that run at once; 0: all."""
    device_hours: float | None = None
    """Hours of all devices together until the work is done, as `train.plan` has them; None: not planned."""
    storage_bytes: dict[str, int] = field(default_factory=dict)
    """What it leaves on disk by kind, e.g. checkpoints; what is not known is not there."""

    @property
    def devices(self) -> int:
        """Devices of one element: its GPUs, or its tasks where there are none."""
        return self.nodes * (self.gpus_per_node or self.tasks_per_node)

    @property
    def cores_per_node(self) -> int:
        """Cores of a node that are allocated."""
        asked = self.tasks_per_node * self.cpus_per_task
        return max(asked, self.cluster.cores_per_node) if self.exclusive else asked


@dataclass(frozen=True, kw_only=True)
class Total:
    """Sums over requests."""

    jobs: int
    """Elements, each counted."""
    gpu_hours: float
    core_hours: float
    device_hours: float
    """Of what was planned."""
    energy_kwh: float | None
    """None when the power of some device is not known."""
    storage_bytes: dict[str, int]


def starts(request: Request) -> int:
    """How often a job must start until the planned device hours are done; 1 where nothing is planned or the walltime is not known.

    Each start ends `signal_seconds` before its limit. What starting, loading and saving cost comes on top.
    """
    usable_minutes = request.minutes - request.cluster.signal_seconds / 60
    if request.device_hours is None or usable_minutes <= 0:
        return 1
    return max(1, math.ceil(request.device_hours * 60 / (request.devices * request.elements * usable_minutes) - 1e-9))


def gpu_hours(request: Request) -> float:
    """GPU-hours that a submission may use: its allocation at the full walltime, or the planned hours where they need several starts.

    0 without GPUs. A device is what the profile counts as one: a die of an MI250X.
    """
    if not request.gpus_per_node:
        return 0.0
    return max(request.elements * request.nodes * request.gpus_per_node * request.minutes / 60, request.device_hours or 0.0)


def core_hours(request: Request) -> float:
    """Core-hours that a submission may use, counted as `gpu_hours`; of a whole node all cores are."""
    once = request.elements * request.nodes * request.cores_per_node * request.minutes / 60
    planned = (request.device_hours or 0.0) / request.devices * request.nodes * request.cores_per_node
    return max(once, planned)


def energy_kwh(request: Request) -> float | None:
    """An estimate: GPU-hours x rated power x PUE, or core-hours x 12 W (which has the building in it). None when the power is not known."""
    if not request.gpus_per_node:
        return core_hours(request) * WATTS_PER_CORE / 1000
    device = request.cluster.device
    return gpu_hours(request) * device.watts * device.pue / 1000 if device.watts else None


def total(requests: Sequence[Request]) -> Total:
    """Everything together."""
    energies = [energy_kwh(request) for request in requests]
    storage: dict[str, int] = {}
    for request in requests:
        for kind, size in request.storage_bytes.items():
            storage[kind] = storage.get(kind, 0) + size
    return Total(
        jobs=sum(request.elements for request in requests),
        gpu_hours=sum(map(gpu_hours, requests)),
        core_hours=sum(map(core_hours, requests)),
        device_hours=sum(request.device_hours or 0.0 for request in requests),
        energy_kwh=None if None in energies else sum(energy for energy in energies if energy is not None),
        storage_bytes=storage,
    )


def longest_minutes(requests: Sequence[Request]) -> int:
    """Minutes from the first start to the last end if nothing waited in the queue and every job used its whole walltime. What is waited for comes before."""
    ends: dict[str, int] = {}
    for request in requests:
        waves = math.ceil(request.elements / (request.max_running or request.elements))
        begins = max((ends.get(name, 0) for name in request.after), default=0)
        ends[request.name] = begins + request.minutes * waves * starts(request)
    return max(ends.values(), default=0)


# what would be refused


def broken_limits(request: Request) -> list[str]:
    """Each limit of the profile that a request breaks: queue, node, account, array. A limit that the profile does not know breaks nothing."""
    cluster, queue = request.cluster, request.cluster.queue
    name = cluster.qos if cluster.qos in cluster.queues else cluster.partition
    rules = [
        (
            queue.walltime_minutes and request.minutes > queue.walltime_minutes,
            f"walltime {_hours(request.minutes)} is above {_hours(queue.walltime_minutes)} of '{name}'; cluster.walltime_minutes={queue.walltime_minutes}",
        ),
        (queue.nodes and request.nodes > queue.nodes, f"{request.nodes} nodes are above {queue.nodes} of '{name}'; cluster.nodes={queue.nodes}"),
        (
            cluster.gpus_per_node and request.gpus_per_node > cluster.gpus_per_node,
            f"{request.gpus_per_node} GPUs a node, and one has {cluster.gpus_per_node}",
        ),
        (
            cluster.cores_per_node and request.tasks_per_node * request.cpus_per_task > cluster.cores_per_node,
            f"{request.tasks_per_node * request.cpus_per_task} cores a node, and one has {cluster.cores_per_node}",
        ),
        (
            cluster.max_array_size and request.elements > cluster.max_array_size,
            f"{request.elements} elements are above {cluster.max_array_size} of one array; cluster.elements={cluster.max_array_size}",
        ),
        (cluster.is_slurm and cluster.account_required and not cluster.account, "an account must be given; cluster.account=NAME"),
        (
            cluster.is_slurm and request.gpus_per_node and not request.minutes,
            f"no walltime is given, and the profile knows no limit of '{name}'; cluster.walltime_minutes=N",
        ),
        (
            request.minutes and request.device_hours is not None and request.minutes * 60 <= cluster.signal_seconds,
            f"walltime {_hours(request.minutes)} is over before the signal {cluster.signal_seconds} s ahead of its end; cluster.signal_seconds=N, or longer",
        ),
    ]
    return [text for broken, text in rules if broken]


def refusals(requests: Sequence[Request], *, ask_slurm: bool) -> list[str]:
    """Everything that a submission would be refused for or would never start for, each as a line that names the job.

    `ask_slurm` also asks the controller where one answers, and whether the facts of the profiles are verified.
    """
    found: list[str] = []
    for request in requests:
        found += [f"{request.name}: {text}" for text in broken_limits(request)]
    if ask_slurm:
        found += _refused_by_slurm([request for request in requests if request.cluster.is_slurm], found)
    return found


def _refused_by_slurm(requests: Sequence[Request], known: list[str]) -> list[str]:
    from iberlm.launch.checks import check_request
    from iberlm.launch.profile import require_verified

    found: list[str] = []
    for cluster in {request.cluster.name: request.cluster for request in requests}.values():
        try:
            require_verified(cluster)
        except IberlmError as error:
            found.append(f"{cluster.name}: {error}")
    for request in requests:
        if any(line.startswith(f"{request.name}: ") for line in known):
            continue  # Slurm would say the same
        try:
            found += [
                f"{request.name}: {remark}"
                for remark in check_request(
                    request.cluster,
                    nodes=request.nodes,
                    elements=request.elements,
                    gpus_per_node=request.gpus_per_node,
                    cpus_per_task=request.cpus_per_task,
                    tasks_per_node=request.tasks_per_node,
                    minutes=request.minutes,
                )
            ]
        except ConfigError as error:
            found.append(f"{request.name}: {error}")
        except ResourceError as error:
            found.append(f"Slurm was not asked about {request.name}: {error}")
            break  # nor will it answer about the others
    return found


# shown


def plan_lines(requests: Sequence[Request], *, ask_slurm: bool = False) -> list[str]:
    """Lines to print: a table of the jobs, sums, and everything that would be refused (`refusals`)."""
    if not requests:
        return ["nothing to submit: everything is complete"]
    lines = _table(requests)
    sums = total(requests)
    lines += ["", f"jobs           {sums.jobs} in {len(requests)} {_plural(len(requests), 'submission')}"]
    if sums.gpu_hours:
        lines.append(f"GPU-hours      {sums.gpu_hours:,.0f} at most: whole allocations at their full walltime, or the planned hours where they are more")
    lines.append(f"core-hours     {sums.core_hours:,.0f} at most, counted in the same way; of a whole node all cores")
    for request in requests:
        if request.device_hours is not None:
            devices = f"{request.devices * request.elements:,} {'GPUs' if request.gpus_per_node else 'processes'}"
            number = starts(request)
            lines.append(
                f"planned        {request.name}: {request.device_hours:,.0f} device hours, of steps alone: "
                f"{request.device_hours / request.devices / request.elements:,.1f} h on {devices}, {number} {_plural(number, 'start')}"
            )
    unknown = [request.name for request in requests if not request.minutes]
    if unknown:
        lines.append(f"note           no walltime is known of {', '.join(unknown)}: not counted")
    lines.append(f"time           {_hours(longest_minutes(requests))} h from first to last at full walltimes, without waiting in the queue")
    lines.append(f"energy         {_energy(requests, sums)}")
    kinds = ", ".join(f"{kind} {_bytes(size)}" for kind, size in sorted(sums.storage_bytes.items()))
    silent = [request.name for request in requests if not request.storage_bytes]
    rest = f"not known of {', '.join(silent)}" if silent else ""
    lines.append(f"storage        {'; '.join(filter(None, [kinds, rest]))}")
    lines += [f"refused        {text}" for text in refusals(requests, ask_slurm=ask_slurm)]
    return lines


def as_json(requests: Sequence[Request], *, ask_slurm: bool = False) -> dict[str, Any]:
    """The same for programs."""
    jobs = [
        {
            "name": request.name,
            "verb": request.verb,
            "cluster": request.cluster.name,
            "after": list(request.after),
            "nodes": request.nodes,
            "tasks_per_node": request.tasks_per_node,
            "cpus_per_task": request.cpus_per_task,
            "gpus_per_node": request.gpus_per_node,
            "minutes": request.minutes,
            "elements": request.elements,
            "max_running": request.max_running,
            "starts": starts(request),
            "gpu_hours": gpu_hours(request),
            "core_hours": core_hours(request),
            "device_hours": request.device_hours,
            "energy_kwh": energy_kwh(request),
            "storage_bytes": request.storage_bytes,
        }
        for request in requests
    ]
    sums = dataclasses.asdict(total(requests)) | {"longest_minutes": longest_minutes(requests)}
    return {"jobs": jobs, "total": sums, "refused": refusals(requests, ask_slurm=ask_slurm)}


def _table(requests: Sequence[Request]) -> list[str]:
    rows = [["job", "cluster", "after", "nodes", "GPUs a node", "cores a node", "walltime", "elements", "starts", "GPU-hours", "core-hours"]]
    for request in requests:
        running = f" ({request.max_running} at once)" if request.max_running and request.max_running < request.elements else ""
        rows.append(
            [
                request.name,
                request.cluster.name,
                ", ".join(request.after) or "-",
                str(request.nodes),
                str(request.gpus_per_node),
                str(request.cores_per_node),
                _hours(request.minutes) if request.minutes else "?",
                f"{request.elements}{running}" if request.elements > 1 else "-",
                str(starts(request)),
                f"{gpu_hours(request):,.0f}",
                f"{core_hours(request):,.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _energy(requests: Sequence[Request], sums: Total) -> str:
    missing = sorted({request.cluster.name for request in requests if energy_kwh(request) is None})
    if missing:
        return f"not known: the power of a device of {', '.join(missing)} is not; cluster.device.watts=N"
    ways = [
        f"{request.cluster.device.watts:g} W a GPU x hours x PUE {request.cluster.device.pue:g}"
        if request.gpus_per_node
        else f"{WATTS_PER_CORE:g} W a core x hours, the building in it"
        for request in requests
    ]
    return f"{sums.energy_kwh or 0.0:,.1f} kWh, estimated from the hours above: {'; '.join(dict.fromkeys(ways))}"


def _hours(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"


def _bytes(number: float) -> str:
    for unit in _DECIMAL_UNITS:
        if number < 1000 or unit == _DECIMAL_UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
