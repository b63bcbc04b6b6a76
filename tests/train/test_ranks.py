import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iberlm.core.errors import DataError, ResourceError
from iberlm.core.ranks import Elsewhere, RanksReadyError, ranks_elsewhere, ranks_have_run, run_ranks
from iberlm.core.stopping import Interrupted

PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
from iberlm.core.errors import DataError
from iberlm.core.ranks import rank_main

rank = int(os.environ["RANK"])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module's file; a test writes the body of its `main` into it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"], str(Path(__file__).parents[2] / "src")]))
    return tmp_path / "ranks_under_test.py"


def write(path: Path, body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    path.write_text(f"{PREAMBLE}\ndef main(arguments):\n{lines}\nrank_main(main)\n")
    return path.stem


def test_every_rank_runs_in_its_world(module: Path, tmp_path: Path) -> None:
    keys = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
    name = write(module, f"Path(arguments[0], str(rank)).write_text(json.dumps({{key: os.environ[key] for key in {keys}}}))")
    run_ranks(name, [str(tmp_path)], 2)
    worlds = [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    assert [world["RANK"] for world in worlds] == ["0", "1"]
    assert worlds[0]["WORLD_SIZE"] == "2"
    assert worlds[0]["MASTER_PORT"] == worlds[1]["MASTER_PORT"]


def test_nobody_takes_the_port_of_the_ranks_before_the_first_one_listens(module: Path) -> None:
    body = """
import errno, socket
place = ("127.0.0.1", int(os.environ["MASTER_PORT"]))
try:
    socket.socket().bind(place)
except OSError as error:
    assert error.errno == errno.EADDRINUSE
else:
    raise DataError("another program may have it")
if rank == 0:
    with socket.socket() as store:  # as torch's
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind(place)
        store.listen()
"""
    run_ranks(write(module, body), [], 2)


def test_an_error_for_the_user_arrives_as_what_it_was(module: Path) -> None:
    name = write(module, "if rank == 1:\n    raise DataError('no tokens in gl')\nsignal.pause()")
    with pytest.raises(DataError, match=r"^no tokens in gl$") as caught:
        run_ranks(name, [], 2)
    assert caught.value.exit_status == DataError.exit_status


def test_a_crash_names_the_rank_and_its_last_line(module: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = write(module, "if rank == 1:\n    raise ValueError('out of cheese')\nsignal.pause()")
    with pytest.raises(ResourceError, match=r"rank 1 of 2 ended with status 1; its last line: ValueError: out of cheese"):
        run_ranks(name, [], 2)
    assert "[rank 1] Traceback" in capfd.readouterr().err


def test_a_killed_rank_is_told_as_such_and_takes_the_others_along(module: Path, tmp_path: Path) -> None:
    body = """
Path(arguments[0], f"pid-{rank}").write_text(str(os.getpid()))
while rank == 0 and not Path(arguments[0], "pid-1").exists():  # the others are given three seconds from the kill on
    time.sleep(0.01)
if rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""
    with pytest.raises(ResourceError, match=r"rank 0 of 2 was ended by SIGKILL \(often: the machine ran out of memory\)"):
        run_ranks(write(module, body), [str(tmp_path)], 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid-1").read_text()), 0)


def report(folder: Path, rank: int, kind: str, message: str, status: int, at: float) -> None:
    (folder / "reports").mkdir(exist_ok=True)
    told = {"class": kind, "message": message, "exit_status": status, "time": at, "host": f"node{rank}", "rank": rank}
    (folder / "reports" / f"rank-{rank}.json").write_text(json.dumps(told))


def test_before_srun_it_is_written_down_what_the_ranks_are(tmp_path: Path) -> None:
    with ranks_elsewhere(Elsewhere(tmp_path)), pytest.raises(RanksReadyError):
        run_ranks("a.module", ["a file.json", "ñ'"], 4)
    assert (tmp_path / "ranks").read_bytes().split(b"\0") == [b"iberlm.core.rank", b"a.module", b"a file.json", "ñ'".encode(), b""]
    with ranks_elsewhere(Elsewhere(tmp_path)):  # a stage that is complete calls nothing: the script finds no file
        pass
    assert not (tmp_path / "ranks").exists()


@pytest.mark.parametrize(
    ("reports", "status", "raised", "told"),
    [
        ([], 0, None, ""),
        ([("Interrupted", "stopped", 75), ("Interrupted", "stopped too", 75)], 0, Interrupted, "stopped"),
        ([("Interrupted", "stopped", 75), ("DataError", "no tokens in gl", 4)], 143, DataError, "no tokens in gl"),
        ([("", "ValueError: out of cheese\nmore", 1)], 1, ResourceError, "rank 0 on host node0 ended with status 1: ValueError: out of cheese$"),
        ([], 137, ResourceError, "srun ended with status 137, and no rank could say why"),
    ],
)
def test_after_srun_what_a_rank_reported_is_raised(
    tmp_path: Path, reports: list[tuple[str, str, int]], status: int, raised: type[Exception] | None, told: str
) -> None:
    for rank, (kind, message, exit_status) in enumerate(reports):
        report(tmp_path, rank, kind, message, exit_status, 10.0 + rank)
    with ranks_elsewhere(Elsewhere(tmp_path, status)):
        assert ranks_have_run()
        if raised is None:
            run_ranks("a.module", [], 2)
            return
        with pytest.raises(raised, match=told):
            run_ranks("a.module", [], 2)


def test_a_rank_that_srun_starts_reports_where_it_is_told_and_was_not_wrong_to_stop(module: Path, tmp_path: Path) -> None:
    name = write(module, "from iberlm.core.stopping import Interrupted\nraise (Interrupted if rank else DataError)(f'rank {rank}')")
    environment = {key: value for key, value in os.environ.items() if key != "RANK"} | {"SLURM_NTASKS": "2", "IBERLM_RANK_REPORTS": str(tmp_path / "reports")}
    body = f"import os\nos.environ['RANK'] = os.environ['SLURM_PROCID']\nimport {name}"
    ended = [
        subprocess.run([sys.executable, "-c", body], env=environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0"}, check=False).returncode
        for rank in (0, 1)
    ]
    assert ended == [DataError.exit_status, 0]
    with ranks_elsewhere(Elsewhere(tmp_path, 4)), pytest.raises(DataError, match="rank 0"):
        run_ranks(name, [], 2)


def test_a_signal_while_the_module_is_still_imported_is_noted_and_ends_nothing(module: Path, tmp_path: Path) -> None:
    # the module's import sends itself the signal, before its `main` could listen
    name = write(module, "from iberlm.core.stopping import Interrupted, noted_signal\nraise Interrupted(f'told by {noted_signal()}')")
    module.write_text(module.read_text().replace("rank = int", "os.kill(os.getpid(), signal.SIGUSR2)\nrank = int"))
    with pytest.raises(Interrupted, match="told by SIGUSR2"):
        run_ranks(name, [], 2)
