"""Learning rate as a pure function of the step."""

import math

from iberlm.train.config import PretrainConfig


def rate_ratio(config: PretrainConfig, step: int) -> float:
    """Share of the peak learning rate at `step` (from 0).

    The warm-up rises linearly and reaches 1 in its last step. Then: `wsd` stays at 1 and falls linearly over the last
    `decay_steps` (Hu et al., 2024, MiniCPM); `cosine` and `linear` fall from there on. `minimum_ratio` would be reached one
    step after the last, so that no step is spent at a rate of 0.
    """
    schedule, steps, begin = config.schedule, config.total_steps, config.warmup_steps
    if step < begin:
        return (step + 1) / begin
    if schedule.kind == "wsd":
        begin = max(begin, steps - config.decay_steps)
    if step < begin:
        return 1.0
    fallen = (step - begin + 1) / (steps - begin + 1)
    if schedule.kind == "cosine":
        fallen = 0.5 * (1 - math.cos(math.pi * fallen))
    return 1 - (1 - schedule.minimum_ratio) * fallen
