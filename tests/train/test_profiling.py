"""The profiler records the steps that were asked for, and leaves what it has when a run ends early."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from iberlm.train import profiling
from iberlm.train.config_groups import MonitorConfig
from iberlm.train.profiling import profiler


def steps(out: Path, settings: MonitorConfig, numbers: Iterable[int], *, begin: int = 0, rank: int = 0) -> None:
    """A run of so many steps, each a product of matrices under its own name."""
    with profiler(settings, out, rank, begin=begin) as done:
        for number in numbers:
            with torch.profiler.record_function(f"the step {number}"):
                torch.ones(8, 8) @ torch.ones(8, 8)
            done(number)


def recorded(path: Path) -> set[int]:
    trace = path.read_bytes()
    names = {str(event.get("name")) for event in json.loads(gzip.decompress(trace) if path.suffix == ".gz" else trace)["traceEvents"]}
    assert "aten::mm" in names
    return {int(name.rsplit(" ", 1)[1]) for name in names if name.startswith("the step ")}


@pytest.mark.parametrize(
    ("asked", "numbers", "begin", "expected"),
    [
        ([4, 6], range(1, 10), 0, {4, 5, 6}),
        ([1, 2], range(1, 10), 0, {1, 2}),
        ([2, 2], range(1, 10), 0, {2}),
        ([3, 20], range(1, 7), 0, {3, 4, 5, 6}),  # the run ends before the last
        ([4, 6], range(5, 10), 4, {5, 6}),  # it was resumed in between
    ],
)
def test_the_steps_asked_for_are_recorded(asked: list[int], numbers: range, begin: int, expected: set[int], tmp_path: Path) -> None:
    steps(tmp_path, MonitorConfig(profile_steps=asked), numbers, begin=begin)
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank-0.json"]
    assert recorded(tmp_path / "profile" / "rank-0.json") == expected


def test_nothing_is_done_unless_asked(tmp_path: Path) -> None:
    steps(tmp_path, MonitorConfig(), range(1, 4))
    steps(tmp_path, MonitorConfig(profile_steps=[2, 3]), range(5, 8), begin=4)  # those steps are over
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_what_was_recorded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        steps(tmp_path, MonitorConfig(profile_steps=[1, 9]), numbers(), rank=3)
    assert recorded(tmp_path / "profile" / "rank-3.json") == {1}
    assert f"profile of this rank: {tmp_path}/profile/rank-3.json" in capfd.readouterr().err


def test_a_long_trace_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "LARGE_BYTES", 100)
    steps(tmp_path, MonitorConfig(profile_steps=[2, 3]), range(1, 5))
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank-0.json.gz"]
    assert recorded(tmp_path / "profile" / "rank-0.json.gz") == {2, 3}
