"""A run that stands still is ended by the rank that sees it, and the rank that is behind is named: with real processes, one of them really stopped."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from iberlm.core.errors import ResourceError
from iberlm.core.ranks import run_ranks
from iberlm.train.strategy import collective_timeout
from iberlm.train.watchdog import PATIENCE, PHASES, Heartbeat, Watchdog, judge, probe, stragglers

PREAMBLE = """
import os, signal, sys, time
import torch, torch.distributed as dist  # before the watchdog begins to count
from pathlib import Path
from iberlm.core.ranks import rank_main
from iberlm.train.watchdog import Watchdog

rank = int(os.environ["RANK"])
"""


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a body as `main` of so many ranks, in which `dog` is a watchdog that has started."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"], str(Path(__file__).parents[2] / "src")]))

    def run(body: str, world: int, hang_seconds: float) -> None:
        lines = [f"dog = Watchdog(Path(arguments[0]), rank, {world}, {hang_seconds})", "dog.start()", *body.strip().splitlines()]
        (tmp_path / "watched.py").write_text(f"{PREAMBLE}\ndef main(arguments):\n" + "".join(f"    {line}\n" for line in lines) + "\nrank_main(main)\n")
        run_ranks("watched", [str(tmp_path)], world)

    return run


def test_a_stopped_rank_is_named_while_the_others_wait_in_a_collective(ranks: Any, tmp_path: Path) -> None:
    body = """
dist.init_process_group("gloo")
for step in range(1, 10**9):
    dog.beat(step, "data")
    if rank == 1 and step % 10 == 0 and dog.read()[1].step > 2:  # what the others will read of it
        os.kill(os.getpid(), signal.SIGSTOP)
    dog.beat(step, "step")
    dist.all_reduce(torch.ones(1))
"""
    with pytest.raises(ResourceError, match="nothing moves any more") as caught:
        ranks(body, 2, 4.0)
    message = str(caught.value)
    assert caught.value.exit_status == 6
    assert re.search(
        r"rank 1 on host .* \(process \d+\): has not run for \d+ s \(stopped, or its machine is gone\), last in '(data|step)' of step \d+; ", message
    )
    assert re.search(r"rank 0 waits in 'step' of step \d+0 ", message)
    # the rank that waits says where: in the collective
    assert "all_reduce" in (tmp_path / "heartbeats" / "rank-0.stack").read_text()


def test_a_rank_that_is_blocked_is_named_with_its_phase(ranks: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")  # whoever reads it waits for a writer, as for a file system that does not answer
    body = """
while any(entry is None for entry in dog.read()):  # ranks start when they can
    time.sleep(0.01)
for step in (1, 2, 3):
    dog.beat(step, "data")
    if step == 3 and rank == 2:
        (Path(arguments[0]) / "never").read_bytes()
    dog.beat(step, "step")
signal.pause()
"""
    with pytest.raises(ResourceError, match=r"rank 2 on host .*: in 'data' of step 3 for \d+ s; the other 2 wait in 'step' of step 3") as caught:
        ranks(body, 3, 6.0)
    assert "the same command goes on from the newest checkpoint" in str(caught.value)


def beat(rank: int, **more: Any) -> Heartbeat:
    known: dict[str, Any] = {"host": "n1", "process": 7, "turn": 9, "step": 119, "phase": "step", "at": 1000.0, "alive": 2000.0, "launch": ""}
    return Heartbeat(rank=rank, **(known | more))


@pytest.mark.parametrize("hang_seconds", [1.0, 1800.0, 7200.0])
def test_collectives_wait_longer_than_the_watchdog(hang_seconds: float) -> None:
    """Else torch ends the run first, and nobody is named."""
    assert collective_timeout(hang_seconds).total_seconds() > PATIENCE * hang_seconds
    assert collective_timeout(0).total_seconds() >= 86_400


def test_who_is_behind() -> None:
    """hang_seconds=500, and it is the second 2000: a beat at 1000 is late for a step and early for anything else."""
    late = beat(3, host="n2", turn=8, step=118, phase="data", at=195.0)
    said = judge([beat(0), beat(1), beat(2), late], 500, 2000)
    assert said == "rank 3 on host n2 (process 7): in 'data' of step 118 for 1,805 s; the other 3 wait in 'step' of step 119"
    assert judge([beat(0), beat(1, phase="data")], 500, 2000).startswith("rank 1 on host n1 (process 7): in 'data' of step 119 for 1,000 s; rank 0 waits")
    # a run that went back is further on, though its step number is lower
    assert judge([beat(0, turn=10, step=90), beat(1, phase="rollback")], 50, 2000).startswith("rank 1 on host n1 (process 7): in 'rollback' of step 119")
    assert "no rank is ahead of another, so a collective, a device or a disk" in judge([beat(0), beat(1)], 500, 2000)
    gone = judge([beat(0), beat(1, alive=1010.0)], 500, 2000)
    assert gone.startswith("rank 1 on host n1 (process 7): has not run for 990 s (stopped, or its machine is gone), last in 'step' of step 119; rank 0 waits")
    assert judge([beat(0, at=-4000.0), None], 500, 2000) == "rank 1: has not begun, or its heartbeat cannot be read; rank 0 waits in 'step' of step 119"
    many = judge([beat(0, turn=10), *(beat(number) for number in range(1, 21))], 500, 2000)
    assert many.count("on host") == 8
    assert "; and 12 more; rank 0 waits" in many


def test_who_still_has_time() -> None:
    assert judge([beat(0), beat(1, phase="data", at=1600.0)], 500, 2000) == ""
    for phase in ("checkpoint", "validation", "export"):
        assert judge([beat(0, turn=10, step=120), beat(1, phase=phase)], 500, 2000) == ""
    assert judge([beat(0, turn=1, step=1), beat(1, turn=1, step=1)], 500, 2000) == ""  # the first step compiles
    assert judge([beat(0, turn=1), beat(1, turn=1)], 500, 1001 + PATIENCE * 500) != ""
    assert judge([beat(0), None], 500, 1400) == ""


def test_heartbeats_are_written_over_in_place_and_of_this_launch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    dogs = [Watchdog(tmp_path, rank, 2, 60.0) for rank in (0, 1)]
    path = tmp_path / "heartbeats" / "rank-0.json"
    for dog in dogs:
        dog.start()
    inode, size = path.stat().st_ino, path.stat().st_size
    dogs[0].beat(118, "data")
    dogs[0]._write()
    found = dogs[1].read()
    assert [entry.rank for entry in found if entry] == [0, 1]
    assert found[0] is not None
    assert (found[0].step, found[0].phase, found[0].process) == (118, "data", os.getpid())
    assert abs(found[0].at - time.time()) < 60
    assert (path.stat().st_ino, path.stat().st_size) == (inode, size)
    assert json.loads(path.read_text())["host"]
    monkeypatch.setenv("MASTER_PORT", "29501")
    assert Watchdog(tmp_path, 0, 2, 60.0).read() == [None, None]
    for dog in dogs:
        dog.stop()
    path.write_text("{")
    assert dogs[1].read()[0] is None


def test_switched_off_it_writes_nothing(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, 0, 1, 0.0)
    dog.start()
    for phase in PHASES:
        dog.beat(1, phase)  # type: ignore[arg-type]
    dog.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "heartbeats").write_text("a file in its place")
    with pytest.raises(ResourceError, match=r"heartbeats: cannot be written \(File exists\); the run's folder must be one that all ranks can write"):
        Watchdog(tmp_path, 0, 1, 60.0).start()


def test_stragglers_are_measured_against_the_median() -> None:
    assert stragglers([1.0, 1.1, 1.0, 1.6], 1.5) == [3]
    assert stragglers([1.0, 1.6], 1.5) == [1]  # of two ranks the slower one
    assert stragglers([1.0, 1.1, 1.0, 1.4], 1.5) == []
    assert stragglers([5.0, 1.0], 0) == []
    assert stragglers([0.0, 0.0, 3.0], 1.5) == []  # one measurement is none
    assert stragglers([2.0], 1.5) == []


def test_the_probe_times_a_real_product() -> None:
    first, second = (probe(torch.device("cpu")) for _ in range(2))
    assert first > 0
    assert second > 0
