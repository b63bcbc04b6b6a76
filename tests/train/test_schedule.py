import itertools

import pytest

from iberlm.core.errors import ConfigError
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import ScheduleConfig
from iberlm.train.schedule import rate_ratio

from .conftest import tiny


def hundred(**schedule: object) -> PretrainConfig:
    return tiny(steps=100, schedule=ScheduleConfig(**schedule))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_a_schedule_warms_up_peaks_and_falls_towards_its_minimum(kind: str) -> None:
    config = hundred(kind=kind, warmup_steps=10, decay_fraction=0.2, minimum_ratio=0.1)
    rates = [rate_ratio(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[99] > rates[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[9:]))
    if kind == "wsd":
        assert set(rates[9:80]) == {1.0}
        assert rates[80] < 1


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_no_step_is_spent_at_a_rate_of_nothing(kind: str) -> None:
    config = hundred(kind=kind, warmup_steps=5, minimum_ratio=0)
    assert min(rate_ratio(config, step) for step in range(100)) > 0


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    config = hundred(kind="wsd", warmup_steps=0, decay_fraction=0)
    assert {rate_ratio(config, step) for step in range(100)} == {1.0}


def test_warm_up_and_decay_in_tokens_are_those_in_steps() -> None:
    batch = tiny().global_batch_tokens
    tokens = hundred(kind="wsd", warmup_tokens=10 * batch, decay_tokens=30 * batch, warmup_steps=77)
    steps = hundred(kind="wsd", warmup_steps=10, decay_fraction=0.3)
    assert [rate_ratio(tokens, step) for step in range(100)] == [rate_ratio(steps, step) for step in range(100)]


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"schedule: 100 warm-up steps are not below the number of steps \(100\)"):
        hundred(warmup_tokens=100 * tiny().global_batch_tokens)
