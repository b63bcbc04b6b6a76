"""Renders the batch script of a job from `slurm/job.sbatch.j2`: every value quoted, or refused where it cannot be."""

from dataclasses import dataclass, field
from pathlib import Path

from iberlm.core.cluster import ClusterConfig


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the template is filled with."""

    name: str
    """Job name, of letters, digits and `._-`."""
    verb: str
    run_dir: Path
    """Absolute; logs lie in slurm/logs/ below it."""
    folder: Path
    """Absolute folder of the job's files (`records.JobRecord.folder`)."""
    python: str
    """Python of the jobs; with a container the one in it."""
    cluster: ClusterConfig
    version: str
    """IberLM's version and commit, for the head comment."""
    uses_gpus: bool
    """Asks for GPUs: training, fine-tuning, evaluation."""
    ranks: bool
    """Several ranks: `before`, srun, `after` (see the contract); else one task."""
    arguments: list[str] = field(default_factory=list)
    """After `iberlm VERB --frozen CONFIG`: e.g. [--share, "$SLURM_ARRAY_TASK_ID/8"] is given by `share`, not here; [--until, extract]."""
    share: int = 0
    """Elements among which shards are shared out: `--share $SLURM_ARRAY_TASK_ID/share`; 0: none."""
    sweep: bool = False
    """Each element has a configuration of its own: folder/config-$SLURM_ARRAY_TASK_ID.yaml."""
    array: str = ""
    after: list[int] = field(default_factory=list)
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 0
    gpus_per_node: int = 0
    exclusive: bool = False
    minutes: int = 0
