"""What the script of a job is asked to do with Slurm: one action a line on standard output.

The commands of Slurm are often missing in a container, so the script, which is outside, carries them out:

    requeue                this job is to run again
    exclude NODE,NODE      nodes that the requeued job, and the `chain` jobs, must not get
    chain JOB JOB          jobs of the run that have not begun
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What is to be done; nothing when empty."""

    requeue: bool = False
    exclude: list[str] = field(default_factory=list)
    chain: list[int] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As the script reads them."""
        found = ["requeue"] if self.requeue else []
        if self.exclude and (self.requeue or self.chain):
            found.append(f"exclude {','.join(self.exclude)}")
            if self.chain:
                found.append(f"chain {' '.join(map(str, self.chain))}")
        return found
