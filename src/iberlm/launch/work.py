"""What is to be submitted: one job or array, with the size that its kind of work takes on a cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.core.config import StageConfig

CPU, GPU, RANKS = "cpu", "gpu", "ranks"
"""Kinds of work: one task on cores; one task with a GPU (all of a node's with `whole_node`); one task a rank on all nodes."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one job, or one element of an array, is given."""

    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    """0: not known, Slurm's default."""
    gpus_per_node: int
    exclusive: bool

    @property
    def ranks(self) -> int:
        """Tasks in all."""
        return self.nodes * self.tasks_per_node


def size_of(kind: str, cluster: ClusterConfig, *, whole_node: bool = False) -> Size:
    """The size of a job of `kind` on a cluster.

    Ranks take the profile's nodes whole. A task with a GPU takes its share of a node's cores, `whole_node` all GPUs and
    cores. A task on cores takes `workers` cores, or all of a node.
    """
    cores, gpus = cluster.cores_per_node, cluster.gpus_per_node
    if kind == RANKS:
        tasks = cluster.ranks_per_node
        return Size(nodes=cluster.nodes, tasks_per_node=tasks, cpus_per_task=cores // tasks, gpus_per_node=gpus, exclusive=cluster.exclusive)
    if kind == GPU and gpus:
        used = gpus if whole_node else 1
        return Size(nodes=1, tasks_per_node=1, cpus_per_task=cores * used // gpus, gpus_per_node=used, exclusive=False)
    return Size(nodes=1, tasks_per_node=1, cpus_per_task=cluster.workers or cores, gpus_per_node=0, exclusive=False)


@dataclass(kw_only=True)
class Work:
    """One submission to be made. Names are unique within a run."""

    name: str
    stage: str
    verb: str
    settings: list[StageConfig]
    """What the job runs with; of a sweep one for each element."""
    size: Size
    out: Path
    after: list[str] = field(default_factory=list)
    """Names of works that must succeed before: of the same submission, or of jobs that are queued already."""
    folders: list[Path] = field(default_factory=list)
    """Stage folders whose finished shards and manifests are the job's progress."""
    uses_gpus: bool = False
    goal: int = 0
    """Steps of a training run."""
    share: int = 0
    """Elements that share the shards of a stage; 0: none."""
    until: str = ""
    elements: list[int] = field(default_factory=list)
    """Of the array, those that are to run; none: no array."""
    sweep: bool = False
    device_hours: float | None = None
    """Planned hours of all devices until a training run is done; None: not planned."""
    storage_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def cluster(self) -> ClusterConfig:
        """The profile that it is submitted with."""
        return self.settings[0].cluster

    @property
    def arguments(self) -> list[str]:
        """Of `iberlm VERB --frozen CONFIG`, beside the share."""
        return ["--until", self.until] if self.until else []

    def description(self, run_dir: Path, code_version: str) -> dict[str, Any]:
        """`job.json`: what the job's start and end, and `status`, must know."""
        cluster = self.cluster
        return {
            "name": self.name,
            "verb": self.verb,
            "stage": self.stage,
            "run_dir": str(run_dir),
            "out": str(self.out),
            "folders": [str(folder) for folder in self.folders],
            "cluster": cluster.name,
            "accelerator": cluster.accelerator if self.uses_gpus else "none",
            "gpus_per_node": self.size.gpus_per_node,
            "nodes": self.size.nodes,
            "ranks": self.size.ranks,
            "minutes": cluster.minutes,
            "goal": self.goal,
            "retry": {
                "requeue": cluster.retry.requeue,
                "max_starts_without_progress": cluster.retry.max_starts_without_progress,
                "node_failures": cluster.retry.node_failures,
            },
            "exclude": list(cluster.exclude),
            "pass_environment": list(cluster.pass_environment),
            "signal_seconds": cluster.signal_seconds,
            "code_version": code_version,
        }
