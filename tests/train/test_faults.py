"""Which steps are not applied, and where a run goes back to: pure functions of the numbers so far."""

import dataclasses
import json
import math

import numpy as np
import pytest

from iberlm.core.errors import DataError
from iberlm.train.config_groups import FaultsConfig
from iberlm.train.faults import LAG, Limits, limits, note, rolled_back
from iberlm.train.state import TrainingState

FAULTS = FaultsConfig(skip_sigma=6, window=16, max_skips=3, max_rollbacks=2)


def after(steps: int) -> TrainingState:
    """A state after so many ordinary steps: loss near 3, norm near 1."""
    state, generator = TrainingState(), np.random.default_rng(0)
    for step in range(steps):
        note(state, step, 3 + 0.1 * generator.standard_normal(), 1 + 0.05 * generator.standard_normal(), True, FAULTS)
        state.step = step + 1
    return state


def test_ordinary_steps_are_within_the_limits_and_a_spike_is_not() -> None:
    found = limits(after(40), 40, FAULTS)
    assert 3.3 < found.loss < 4.5
    assert 1.1 < found.norm < 2.0


def test_nothing_is_skipped_for_its_size_before_half_a_window_is_known() -> None:
    assert limits(after(FAULTS.window // 2 + LAG - 2), FAULTS.window // 2 + LAG - 2, FAULTS) == Limits(math.inf, math.inf)
    assert limits(after(40), 40, dataclasses.replace(FAULTS, skip_sigma=0)) == Limits(math.inf, math.inf)


def test_the_limits_of_a_step_do_not_know_the_step_before() -> None:
    """It is still on the device when the step begins; a run that was resumed in between must decide the same."""
    early, late = after(39), after(40)
    assert limits(early, 40, FAULTS) == limits(late, 40, FAULTS)
    restored = TrainingState.from_json(json.loads(json.dumps(dataclasses.asdict(late))))
    assert limits(restored, 40, FAULTS) == limits(late, 40, FAULTS)


def test_skipped_steps_are_counted_and_ask_to_go_back_after_so_many_in_a_row() -> None:
    state = after(20)
    assert [note(state, 20 + number, math.nan, math.inf, False, FAULTS) for number in range(3)] == [False, False, True]
    assert state.skipped_steps == 3
    state = after(20)
    answers = [note(state, 20 + number, 3.0, 1.0, number % 3 == 2, FAULTS) for number in range(9)]
    assert not any(answers)
    assert state.skipped_steps == 6


def test_going_back_leaves_out_every_block_that_was_read_since() -> None:
    read: list[int] = []
    state, checkpoint = TrainingState(), TrainingState()
    plan = [(10, True), (5, False), (8, True), (4, False), (3, False)]  # runs of steps, and whether a checkpoint follows or the run goes back
    for steps, saves in plan:
        for _ in range(steps):
            read.append(state.block(state.step))
            state.step += 1
        if saves:
            checkpoint = dataclasses.replace(state)
        else:
            state = rolled_back(state, checkpoint, FAULTS)
    read.append(state.block(state.step))
    assert read == list(range(len(read))), "no block is read twice and none is left out unread"
    assert state.step == checkpoint.step == 18
    assert state.rollbacks == 3
    with pytest.raises(DataError, match=r"gone back to step 18 2 times: it does not recover"):
        rolled_back(state, checkpoint, FAULTS)


def test_blocks_follow_the_gaps() -> None:
    state = TrainingState(gaps=[[3, 2], [3, 1], [7, 4]])
    assert [state.block(step) for step in range(9)] == [0, 1, 2, 6, 7, 8, 9, 14, 15]
