"""What submissions ask for, in hours, starts, storage and energy.

Slurm charges what is allocated: every hour below counts whole allocations at their full walltime, unless it says otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from iberlm.core.cluster import ClusterConfig
from iberlm.core.process import WATTS_PER_CORE


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
    """GPU-hours that a submission may use: its allocation at the full walltime, as often as it must start. Failures come on top.

    0 without GPUs. A GPU is what the profile counts as one: a die of an MI250X.
    """
    return _allocated_hours(request) * request.gpus_per_node


def core_hours(request: Request) -> float:
    """Core-hours that a submission may use, counted as `gpu_hours`; of an exclusive node all cores are."""
    return _allocated_hours(request) * request.cores_per_node


def _allocated_hours(request: Request) -> float:
    """Of nodes."""
    return starts(request) * request.elements * request.nodes * request.minutes / 60


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


def hours(minutes: int) -> str:
    """As hours and minutes: 26:05."""
    return f"{minutes // 60}:{minutes % 60:02d}"
