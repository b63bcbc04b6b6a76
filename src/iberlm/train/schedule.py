"""Learning rate as a pure function of the step."""

import math

from iberlm.train.config import ScheduleConfig


def rate_ratio(config: ScheduleConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`.

    The warm-up rises linearly and reaches 1 in its last step. Then: `wsd` stays at 1 and falls linearly over the last
    `decay_fraction` of all steps (Hu et al., 2024, MiniCPM); `cosine` and `linear` fall from there on. The last step has
    `minimum_ratio`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    begin = config.warmup_steps
    if config.kind == "wsd":
        begin = max(begin, steps - round(config.decay_fraction * steps))
    if step < begin:
        return 1.0
    fallen = (step - begin + 1) / (steps - begin)
    if config.kind == "cosine":
        fallen = 0.5 * (1 - math.cos(math.pi * fallen))
    return 1 - (1 - config.minimum_ratio) * fallen
