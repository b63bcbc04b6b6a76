"""What a run must remember besides weights and optimiser: a few numbers, in every checkpoint."""

from dataclasses import dataclass, field
from typing import Any

STATE = "state.json"
"""Where the folder of a run says how far it is: a `TrainingState` as JSON."""


@dataclass
class TrainingState:
    """Where a run is. The data order is a function, so this and the weights are all that a run goes on from."""

    step: int = 0
    """Optimisation steps done, those that were skipped included."""
    gaps: list[list[int]] = field(default_factory=list)
    """[step, blocks] pairs: from this step (counted from 0) on, so many more blocks of samples are left out. A block is what one step reads."""
    recent: list[list[float]] = field(default_factory=list)
    """[step, loss, gradient norm] of the last steps that were applied, oldest first; steps count from 0."""
    skipped_steps: int = 0
    """Steps whose update was not applied, so far."""
    skipped_in_a_row: int = 0
    rollbacks: int = 0
    """Returns to a checkpoint, so far."""
    seconds: float = 0.0
    """Time spent in steps, so far: what throughput and energy are counted over."""
    watt_hours: float = 0.0

    def block(self, step: int) -> int:
        """The block of samples that a step (from 0) reads: samples block * global_batch_samples up to the next block's first."""
        return step + sum(blocks for at, blocks in self.gaps if at <= step)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainingState":
        """Read what `dataclasses.asdict` gave."""
        return cls(**value)
