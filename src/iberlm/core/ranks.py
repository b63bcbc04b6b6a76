"""Several ranks on this machine: start them, forward signals, and when one fails end the others and say why.

The launcher runs `python -m MODULE ARGUMENTS` once a rank (by way of `rank`, which notes signals at once) with torch's
environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). The module's `main` goes through `rank_main`, which
lets an `IberlmError` of a rank reach the launcher as what it was.

On a cluster srun starts the ranks, one task each, from the batch script and outside any container. There `run_ranks` is
cut in two (`ranks_elsewhere`): the first process says what is to be started and ends, the second reads what the ranks
reported and raises or goes on as if it had started them.
"""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from iberlm.core import errors
from iberlm.core.cluster import RANK_REPORTS
from iberlm.core.errors import IberlmError, ResourceError
from iberlm.core.files import write_json, write_text
from iberlm.core.process import die_with_parent, usable_cores
from iberlm.core.progress import say
from iberlm.core.stopping import Interrupted, forwarded_stop_signals

_PARENT, _REPORT = "IBERLM_LAUNCHER_PID", "IBERLM_RANK_REPORT"
RANKS, REPORTS = "ranks", "reports"
"""In a job's folder: what srun is to start, separated by NUL; what the ranks reported."""
_ENTRY = "iberlm.core.rank"
_GRACE_SECONDS = 3.0
"""How long the others may take to end by themselves after a rank has failed: theirs may be the better message."""
_POLL_SECONDS = 0.05
_TAIL_LINES = 40


class RanksReadyError(Exception):
    """Raised instead of starting ranks: everything is checked and frozen, and `srun` may start them."""


@dataclass(frozen=True)
class Elsewhere:
    """Ranks that a batch script starts between two processes of ours."""

    folder: Path
    """Of the job: `ranks` and `reports/` lie in it."""
    status: int | None = None
    """What srun ended with; None before it."""


_elsewhere: Elsewhere | None = None


@contextlib.contextmanager
def ranks_elsewhere(where: Elsewhere) -> Iterator[None]:
    """Inside, `run_ranks` starts nothing: before srun it leaves `ranks` and raises `RanksReadyError`, after it it judges the reports."""
    global _elsewhere
    before, _elsewhere = _elsewhere, where
    if where.status is None:
        (where.folder / RANKS).unlink(missing_ok=True)
    try:
        yield
    finally:
        _elsewhere = before


def ranks_have_run() -> bool:
    """True in the process after srun: what was prepared for the ranks is there, and must not be made anew."""
    return _elsewhere is not None and _elsewhere.status is not None


def seconds_elsewhere() -> float:
    """Seconds that the ranks took, in the process after srun; 0 in any other."""
    if _elsewhere is None or _elsewhere.status is None:
        return 0.0
    with contextlib.suppress(OSError):
        return max(0.0, time.time() - (_elsewhere.folder / RANKS).stat().st_mtime)
    return 0.0


@dataclass
class _Rank:
    number: int
    process: "subprocess.Popen[str]"
    report: Path
    tail: "deque[str]" = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    reader: threading.Thread | None = None
    failed_at: float | None = None


def run_ranks(module: str, arguments: list[str], processes: int) -> None:
    """Run `python -m module arguments` as `processes` ranks and wait for all of them.

    Their output goes to standard error. SIGTERM and SIGUSR2 are forwarded. Raises what a rank raised when that was an
    `IberlmError` (same class, message and exit status), and else `ResourceError` with the rank and its last line.
    """
    if _elsewhere is not None:
        _run_elsewhere(_elsewhere, [module, *arguments])
        return
    with tempfile.TemporaryDirectory(prefix="iberlm-ranks-") as reports, reserved_port() as port:
        environment = _environment(processes, port)
        ranks: list[_Rank] = []
        try:
            # the handlers first: a signal while ranks start must not leave them behind
            with forwarded_stop_signals(lambda: [rank.process for rank in ranks]):
                for number in range(processes):
                    ranks.append(_start(module, arguments, number, environment, Path(reports)))  # noqa: PERF401 - the signal handler sees each at once
                _wait(ranks)
        finally:
            for rank in ranks:
                if rank.process.poll() is None:
                    rank.process.kill()
                rank.process.wait()
                if rank.reader is not None:
                    rank.reader.join()
        _raise_failure(ranks)


def _run_elsewhere(where: Elsewhere, command: list[str]) -> None:
    if where.status is None:
        write_text(where.folder / RANKS, "".join(f"{part}\0" for part in [_ENTRY, *command]))
        raise RanksReadyError
    reports = sorted((_json(path) for path in (where.folder / REPORTS).glob("rank-*.json")), key=lambda report: float(report["time"]))
    if not reports and where.status == 0:
        return
    # a rank that was interrupted while another broke is not the news
    if told := sorted((report for report in reports if report["class"]), key=lambda report: report["exit_status"] == Interrupted.exit_status):
        raise _error(told[0])
    if reports:
        first = reports[0]
        raise ResourceError(f"rank {first['rank']} on host {first['host']} ended with status {first['exit_status']}: {str(first['message']).splitlines()[0]}")
    raise ResourceError(f"srun ended with status {where.status}, and no rank could say why; the lines above are what is known")


def rank_main(main: Callable[[list[str]], object]) -> NoReturn:
    """Run `main(sys.argv[1:])` as one rank: dies with its launcher, reports an error, ends with its exit status.

    The process ends without Python's teardown, and what `main` returns or raises is kept until then: with torch 2.13 and
    gloo, freeing what an interrupted rank held took minutes in one run of three, with everything long saved.
    """
    launcher = os.environ.get(_PARENT)
    if launcher is not None:
        die_with_parent(int(launcher))
    _adopt_slurm(os.environ)
    try:
        kept = main(sys.argv[1:])
        _end(0, kept)
    except IberlmError as error:
        _report(type(error).__name__, str(error), error.exit_status)
        if launcher is None and os.environ.get("RANK", "0") == "0":
            say(f"{error}")
        # srun ends the other ranks when one fails: a rank that did as it was told has not
        _end(0 if RANK_REPORTS in os.environ and isinstance(error, Interrupted) else error.exit_status, error)
    except Exception as error:
        _report("", f"{type(error).__name__}: {error}", 1)
        traceback.print_exc()
        _end(1, error)


def end_rank(error: IberlmError) -> NoReturn:
    """End this rank at once with `error`, from any of its threads; the launcher raises it."""
    _report(type(error).__name__, str(error), error.exit_status)
    if _PARENT not in os.environ:
        say(f"{error}")
    _end(error.exit_status, error)


def _end(status: int, _kept: object) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _report(kind: str, message: str, exit_status: int) -> None:
    rank = os.environ.get("RANK", "0")
    path = os.environ.get(_REPORT) or (f"{folder}/rank-{rank}.json" if (folder := os.environ.get(RANK_REPORTS)) else None)
    if path is None:
        return
    # with the time, since the first to fail has the reason: the others fail because it is gone
    report = {"class": kind, "message": message, "exit_status": exit_status, "time": time.time(), "host": socket.gethostname(), "rank": int(rank)}
    write_json(Path(path), report)


def _adopt_slurm(environment: "os._Environ[str]") -> None:
    # srun gives each task its number under other names than torch's
    if "RANK" not in environment and int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        environment["RANK"] = environment["SLURM_PROCID"]
        environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
        environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that the system gives to no other program meanwhile, and on which a rank may listen that is told its number.

    A port that is only looked up may have gone to another program before the ranks have imported torch. This one stays bound; Linux lets a second
    socket listen on it when both set SO_REUSEADDR, as torch's store does.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def _environment(processes: int, port: int) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    return environment | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
        _PARENT: str(os.getpid()),
    }


def _start(module: str, arguments: list[str], number: int, environment: dict[str, str], reports: Path) -> _Rank:
    report = reports / f"rank-{number}.json"
    own = environment | {"RANK": str(number), "LOCAL_RANK": str(number), _REPORT: str(report)}
    command = [sys.executable, "-m", _ENTRY, module, *arguments]
    process = subprocess.Popen(
        command, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )
    rank = _Rank(number, process, report)
    rank.reader = threading.Thread(target=_pass_on, args=(rank,), daemon=True)
    rank.reader.start()
    return rank


def _pass_on(rank: _Rank) -> None:
    assert rank.process.stdout is not None
    prefix = "" if rank.number == 0 else f"[rank {rank.number}] "
    with rank.process.stdout as lines:
        for line in lines:
            if line.strip():
                rank.tail.append(line.strip())
            print(prefix + line, end="", file=sys.stderr, flush=True)


def _wait(ranks: list[_Rank]) -> None:
    deadline: float | None = None
    while any(rank.process.poll() is None for rank in ranks):
        for rank in ranks:
            if rank.failed_at is None and rank.process.poll() not in (None, 0, Interrupted.exit_status):
                rank.failed_at = time.monotonic()
                deadline = deadline or rank.failed_at + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)
    for rank in ranks:  # all ended within one poll: who was killed is still to be told from who failed because of it
        if rank.failed_at is None and rank.process.poll() not in (None, 0, Interrupted.exit_status):
            rank.failed_at = time.monotonic()


def _raise_failure(ranks: list[_Rank]) -> None:
    failed = [rank for rank in ranks if rank.process.returncode != 0]
    if not failed:
        return
    reports = sorted((_json(rank.report) for rank in failed if rank.report.is_file()), key=lambda report: float(report["time"]))
    ours = [report for report in reports if report["class"]]
    # a rank that was interrupted while another broke is not the news
    broken = [report for report in ours if report["exit_status"] != Interrupted.exit_status]
    if broken or len(ours) == len(failed):
        raise _error((broken or ours)[0])
    # then one that a signal ended (failed_at is None when the signal was ours), then the first traceback
    signalled = [rank for rank in failed if rank.process.returncode < 0 and rank.failed_at is not None]
    if signalled or not reports:
        rank = min(signalled or failed, key=lambda rank: rank.failed_at or math.inf)
        number, code, last = rank.number, rank.process.returncode, rank.tail[-1] if rank.tail else "(none)"
    else:
        first = next(report for report in reports if not report["class"])
        number, code, last = first["rank"], 1, str(first["message"]).splitlines()[0]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = " (often: the machine ran out of memory)" if code == -signal.SIGKILL else ""
    raise ResourceError(f"rank {number} of {len(ranks)} {how}{hint}; its last line: {last}")


def _json(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _error(report: dict[str, Any]) -> IberlmError:
    kinds = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IberlmError)}
    kinds[Interrupted.__name__] = Interrupted
    error = kinds.get(report["class"], IberlmError)(report["message"])
    error.exit_status = int(report["exit_status"])
    return error
