"""What counts as a bad step, and what is done about it. Pure functions: every rank decides the same from the same numbers."""

import math
import statistics
from dataclasses import dataclass

from iberlm.core.errors import DataError
from iberlm.train.config_groups import FaultsConfig
from iberlm.train.state import TrainingState

LAG = 2
"""The limits of step s come from steps up to s - 2. Step s - 1 is still under way on a GPU when s is launched, and a run that
was resumed must decide as one that was not."""


@dataclass(frozen=True)
class Limits:
    """The largest loss (nats a token) and gradient norm with which a step is applied; infinite when nothing is known yet."""

    loss: float = math.inf
    norm: float = math.inf


def limits(state: TrainingState, step: int, faults: FaultsConfig) -> Limits:
    """Limits of a step (from 0): mean plus `skip_sigma` standard deviations of the applied steps before it.

    The rule is that of OLMo 2 (OLMo et al., 2025, arXiv:2501.00656, section 3.2), which saw spikes after single batches.
    """
    known = [entry for entry in state.recent if entry[0] <= step - LAG][-faults.window :]
    if not faults.skip_sigma or len(known) < max(2, faults.window // 2):
        return Limits()
    return Limits(*(_limit([entry[column] for entry in known], faults.skip_sigma) for column in (1, 2)))


def _limit(values: list[float], sigma: float) -> float:
    return statistics.fmean(values) + sigma * statistics.stdev(values)


def note(state: TrainingState, step: int, loss: float, norm: float, applied: bool, faults: FaultsConfig) -> bool:
    """Enter a step that is done into the state; True when so many were skipped in a row that the run must go back."""
    if applied:
        state.recent = [*state.recent, [step, loss, norm]][-(faults.window + LAG) :]
        state.skipped_in_a_row = 0
        return False
    state.skipped_steps += 1
    state.skipped_in_a_row += 1
    return state.skipped_in_a_row >= faults.max_skips


def rolled_back(before: TrainingState, checkpoint: TrainingState, faults: FaultsConfig) -> TrainingState:
    """The state to go on with from a checkpoint: its own, with all blocks left out that were read since.

    The same data again would lead to the same place, so they are left out, as PaLM did (Chowdhery et al., 2022, section 5.1).
    Raises `DataError` when the run came back to this checkpoint `max_rollbacks` times already.
    """
    at = checkpoint.step
    if sum(step == at for step, _ in before.gaps) >= faults.max_rollbacks:
        raise DataError(
            f"pretrain: {before.skipped_in_a_row} steps in a row could not be applied, and the run has gone back to step {at} {faults.max_rollbacks} times: "
            "it does not recover. Lower optimizer.learning_rate, lengthen schedule.warmup_steps, and run again; nothing was saved after step "
            f"{at}"
        )
    gap = before.block(before.step - 1) + 1 - before.block(at)
    # gaps at this very step are already part of before.block(at), so they stay and the new one comes on top
    kept = [entry for entry in before.gaps if entry[0] <= at]
    return TrainingState(
        step=at,
        gaps=[*kept, [at, gap]],
        recent=checkpoint.recent,
        skipped_steps=before.skipped_steps,
        rollbacks=before.rollbacks + 1,
        seconds=before.seconds,
        watt_hours=before.watt_hours,
    )
