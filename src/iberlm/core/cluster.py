"""Settings of a machine or a cluster (`cluster=`, one file each in `slurm/cluster/`): what a job asks for, and what is known of its nodes.

A profile says of each of its facts where it is from and whether somebody has verified it; `iberlm.launch` refuses to
submit with facts that nobody has.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from iberlm.core.errors import ConfigError

LOCAL, SLURM = "local", "slurm"
SCHEDULERS = (LOCAL, SLURM)
ACCELERATORS = ("none", "cuda", "rocm")
RUNTIMES = ("apptainer", "singularity")
IN_JOB, RANK_REPORTS = "IBERLM_JOB", "IBERLM_RANK_REPORTS"
"""Variables that the script of a batch job sets: its folder, and the folder of the reports of ranks that srun starts."""
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(kw_only=True)
class FactConfig:
    """Where a fact of a profile is from."""

    source: str = ""
    date: str = ""
    """When the source was read or dated, e.g. 2026-11."""
    verified: bool = False
    """Somebody has read it in the centre's own documentation, or seen it on the machine."""


@dataclass(kw_only=True)
class QueueConfig:
    """Limits of one queue: a QOS, or a partition where QOS are not used. 0: not known."""

    walltime_minutes: int = 0
    nodes: int = 0


@dataclass(kw_only=True)
class DeviceConfig:
    """What `iberlm plan` computes with; the fields of `train.machines.Machine`. 0: not known."""

    name: str = ""
    """As the driver names it; decides the peak."""
    memory_gib: float = 0.0
    """Of one device, as a program sees it."""
    peak_tflops: float = 0.0
    watts: float = 0.0
    """Of one device under load."""
    pue: float = 1.2
    network_gb_s: float = 0.0
    """What one node can take in from the others."""
    bandwidth_gb_s: float = 0.0
    """What a checkpoint is written at, by all nodes together."""


@dataclass(kw_only=True)
class ContainerConfig:
    """Image that everything of a job runs in; without one it runs from a Python environment that the nodes see."""

    image: str = ""
    """A .sif file; empty: no container."""
    runtime: str = "apptainer"
    options: list[str] = field(default_factory=list)
    """E.g. [--nv] or [--rocm]."""
    binds: list[str] = field(default_factory=list)
    """Folders of the machine that the image sees."""
    python: str = "python3"
    """Python in the image."""


@dataclass(kw_only=True)
class RetryConfig:
    """When a job is begun again, and when it is given up."""

    requeue: bool = True
    max_starts_without_progress: int = 3
    """So many starts in a row that bring the run no further end it."""
    node_failures: int = 2
    """A node to which so many failures are put down is quarantined; one that Slurm calls down, or that fails the check at the start, at once."""


@dataclass(kw_only=True)
class ClusterConfig:
    """Where and how wide a stage runs. Nothing here decides what a stage makes."""

    name: str = "local"
    scheduler: str = LOCAL
    """local: the command itself does the work. slurm: it submits jobs."""
    workers: int = 0
    """Processes of a sharded stage; 0 means one a usable core."""
    processes: int = 1
    """Ranks of a training or fine-tuning run with scheduler=local."""

    # what is asked for
    nodes: int = 1
    """Nodes of a training or fine-tuning run; other stages take one node (see `elements`)."""
    partition: str = ""
    qos: str = ""
    account: str = ""
    account_required: bool = False
    reservation: str = ""
    constraint: str = ""
    walltime_minutes: int = 0
    """Of one job; 0: the queue's limit."""
    elements: int = 1
    """Nodes that share the shards of a sharded stage: more than 1 makes them a job array of so many elements, one node each."""
    max_running: int = 0
    """Elements of an array that run at once (`%`); 0: all."""
    exclude: list[str] = field(default_factory=list)
    """Nodes that are never used."""
    extra: list[str] = field(default_factory=list)
    """Further options of sbatch, e.g. [--licenses=scratch]."""

    # a node
    accelerator: str = "none"
    gpus_per_node: int = 0
    gres: str = "gpu"
    """Name of the generic resource, e.g. gpu or gpu:a100; empty: the partition gives its GPUs without being asked."""
    cores_per_node: int = 0
    memory_gb_per_node: int = 0
    """0: none is asked for by number (whole nodes: all of it)."""
    exclusive: bool = True
    """Whole nodes for training; the other stages share where they can."""
    tasks_per_node: int = 0
    """Ranks a node; 0: one a GPU, or one."""
    architecture: str = "x86_64"
    srun: list[str] = field(default_factory=list)
    """Further options of srun for ranks, e.g. [--cpu-bind=none]."""

    # limits
    queues: dict[str, QueueConfig] = field(default_factory=dict)
    """By QOS, or by partition."""
    max_array_size: int = 0
    """Elements that one array may have; 0: ask Slurm."""
    confirm_above_gpu_hours: float = 100.0
    """A submission that may use more must be confirmed (`confirm=GPU_HOURS`)."""

    # environment
    modules: list[str] = field(default_factory=list)
    """`module load` of each, in order."""
    setup_file: str = ""
    """A bash file that a job sources at its start."""
    python: str = ""
    """Python of the jobs; empty: the one that submits. Not used with a container."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of a job; `$NAME` in a value is replaced on the node, all else stands as it is."""
    task_environment: dict[str, str] = field(default_factory=dict)
    """Variables of one rank, such as ROCR_VISIBLE_DEVICES: $SLURM_LOCALID."""
    pass_environment: list[str] = field(default_factory=list)
    """Names of variables that a job takes from the shell that submits (secrets); nothing else is taken, and their values are written nowhere."""
    scratch: str = ""
    """Where large files belong; for `doctor` and the documentation."""
    node_local: str = "$TMPDIR"
    """Fast disk of a node: kernels' caches lie there."""
    bundle: str = ""
    """Folder that `iberlm prefetch` filled; jobs find models and data sets there."""
    compute_internet: bool = False
    """Compute nodes reach the internet; without, every hub is switched off in jobs."""
    login_internet: bool = True

    # long runs
    signal_seconds: int = 600
    """A training run is told so long before its limit, saves and goes on in another job. Other stages have nothing to save and are
    ended at most two minutes before it."""
    retry: RetryConfig = field(default_factory=RetryConfig)

    device: DeviceConfig = field(default_factory=DeviceConfig)
    facts: dict[str, FactConfig] = field(default_factory=dict)
    """Where each fact is from, by the name of its setting, dots for nested ones: partition, environment.NCCL_IB_HCA."""
    confirmed: list[str] = field(default_factory=list)
    """Facts that nobody had verified and that the user answers for."""

    def __post_init__(self) -> None:
        for key in ("scheduler", "accelerator"):
            choices = {"scheduler": SCHEDULERS, "accelerator": ACCELERATORS}[key]
            if getattr(self, key) not in choices:
                raise ConfigError(f"cluster.{key}: unknown value '{getattr(self, key)}'; choose among {', '.join(choices)}")
        if self.container.runtime not in RUNTIMES:
            raise ConfigError(f"cluster.container.runtime: unknown value '{self.container.runtime}'; choose among {', '.join(RUNTIMES)}")
        for key, minimum in {"workers": 0, "processes": 1, "nodes": 1, "walltime_minutes": 0, "elements": 1, "max_running": 0, "gpus_per_node": 0}.items():
            _at_least(f"cluster.{key}", getattr(self, key), minimum)
        for key, minimum in {"cores_per_node": 0, "memory_gb_per_node": 0, "tasks_per_node": 0, "max_array_size": 0, "signal_seconds": 0}.items():
            _at_least(f"cluster.{key}", getattr(self, key), minimum)
        _at_least("cluster.retry.max_starts_without_progress", self.retry.max_starts_without_progress, 1)
        _at_least("cluster.retry.node_failures", self.retry.node_failures, 1)
        for key in ("environment", "task_environment", "pass_environment"):
            for name in getattr(self, key):
                if not _ENVIRONMENT_NAME.fullmatch(name):
                    raise ConfigError(f"cluster.{key}: '{name}' is no name of a variable; write letters, digits and '_'")
        if self.scheduler == SLURM and self.processes != 1:
            raise ConfigError(
                f"cluster.processes: {self.processes} on the Slurm cluster '{self.name}', where nodes x tasks_per_node decides; set cluster.nodes (and "
                "cluster.tasks_per_node where a rank is not a GPU)"
            )
        if self.scheduler == LOCAL and (self.nodes > 1 or self.elements > 1):
            raise ConfigError(f"cluster.nodes: {self.nodes} nodes and {self.elements} elements with scheduler=local; choose a cluster that has a queue")

    @property
    def is_slurm(self) -> bool:
        """Commands submit jobs."""
        return self.scheduler == SLURM

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a training or fine-tuning run on one node."""
        return self.processes if self.scheduler == LOCAL else self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Ranks of a training or fine-tuning run."""
        return self.nodes * self.ranks_per_node

    @property
    def queue(self) -> QueueConfig:
        """Limits of the queue that is asked for: its QOS's, else its partition's; empty ones when nothing is known."""
        return self.queues.get(self.qos) or self.queues.get(self.partition) or QueueConfig()

    @property
    def minutes(self) -> int:
        """Walltime of a job in minutes: what is asked for, else the queue's limit; 0 when neither is known."""
        return self.walltime_minutes or self.queue.walltime_minutes


def setting(cluster: ClusterConfig, key: str) -> Any:
    """The value of a setting by the name that `facts` has for it. Raises `KeyError` when there is none."""
    value: Any = cluster
    for part in key.split("."):
        if isinstance(value, dict):
            value = value[part]
        elif any(entry.name == part for entry in dataclasses.fields(value)):
            value = getattr(value, part)
        else:
            raise KeyError(key)
    return value


def _at_least(key: str, value: float, minimum: float) -> None:
    if not value >= minimum:
        raise ConfigError(f"{key}: {value:g} is too small; it must be at least {minimum:g}")
