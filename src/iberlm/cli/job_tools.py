"""The tools that look after the jobs of a run: status, logs, cancel."""

from pathlib import Path
from typing import Annotated

import typer

from iberlm.core.errors import ConfigError

DEFAULT_RUN_DIR = Path("runs/default")
WATCH_SECONDS = 10
"""The shortest interval of `status --watch`: a controller serves thousands of users."""

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, such as runs/default.")]


def status(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")] = DEFAULT_RUN_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C or until nothing is queued or runs any more.")] = False,
    interval: Annotated[int, typer.Option(min=WATCH_SECONDS, help="Seconds between two looks of --watch; 10 at least, since each asks Slurm.")] = 30,
) -> None:
    """Say how a run fares: its stages, jobs, progress, speed, what failed and why, what to do next.

    Works from what the run has left on disk and from Slurm's queue, with accounting or without; also for a run without jobs.
    """
    import dataclasses
    import json

    from rich.console import Console

    from iberlm.launch.status.run import run_status
    from iberlm.launch.status.view import show

    if as_json and watch:
        raise ConfigError("status: --json and --watch exclude each other; call --json from a program as often as it needs, every 10 s at most")
    _known_folder(run_dir)
    if watch:
        _watch(run_dir, interval)
        return
    found = run_status(run_dir)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2, ensure_ascii=False))
    else:
        show(Console(highlight=False, emoji=False), found)


def logs(
    run_dir: RunDir,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage, or the name of a job; without one the log that was written last.")] = "",
    rank: Annotated[int | None, typer.Option(min=0, help="Only the lines of this rank.")] = None,
    element: Annotated[int | None, typer.Option(min=0, help="The log of this element of an array.")] = None,
    lines: Annotated[int, typer.Option(min=0, help="How many of the last lines; 0 shows all.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until the job has ended.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only lines that say of an error, tracebacks whole.")] = False,
) -> None:
    """Show the log of a job; which file it is goes to standard error."""
    import contextlib
    import sys

    from iberlm.launch.status.logs import Wanted, show_log

    _known_folder(run_dir)
    wanted = Wanted(stage=stage, element=element, rank=rank, lines=lines, errors=errors)
    with contextlib.suppress(KeyboardInterrupt) if follow else contextlib.nullcontext():  # Ctrl-C is how one stops looking
        show_log(run_dir.absolute(), wanted, sys.stdout, follow=follow)


def cancel(
    run_dir: RunDir,
    stages: Annotated[list[str] | None, typer.Argument(metavar="STAGE", help="Stages, or names of jobs; all jobs of the run without any.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Cancel the jobs of a run, those that wait first. The same command that submitted them submits again what is missing.

    A training saves when it is cancelled, as far as the centre gives it time; to be sure, create a file `exit` in RUN_DIR and wait.
    """
    import sys

    from iberlm.launch.status import cancel as cancelling

    _known_folder(run_dir)
    found = cancelling.find(run_dir.absolute(), stages or ())
    if not found.targets:
        print("nothing is left to cancel" + (f"; on the way to its end: {', '.join(found.ending)}" if found.ending else ""))
        return
    count = len(found.targets)
    print("\n".join([f"{count} {'job' if count == 1 else 'jobs'} of {run_dir}:", *cancelling.lines(found)]))
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError("cancel: nothing was cancelled, since nobody can be asked here; --yes cancels them")
        print("Cancel them? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was cancelled")
            return
    cancelling.cancel(found)
    print(f"cancelled: {', '.join(target.label for target in found.targets)}")


def _watch(run_dir: Path, interval: int) -> None:
    import time

    from rich.console import Console

    from iberlm.launch.status.jobs import LIVE
    from iberlm.launch.status.run import run_status
    from iberlm.launch.status.view import show

    console = Console(highlight=False, emoji=False)
    while True:
        found = run_status(run_dir)
        console.clear()  # does nothing where there is no terminal
        show(console, found)
        if not any(stage.state in LIVE for stage in found.stages):
            return
        console.print(f"every {interval} s; Ctrl-C ends it", style="dim")
        time.sleep(interval)


def _known_folder(run_dir: Path) -> None:
    """Raise `ConfigError` for a folder that is not there, with those that may be meant."""
    if run_dir.is_dir():
        return
    try:
        marks = ("slurm/jobs.jsonl", "configs", "*/manifest.json")
        beside = sorted(path for path in run_dir.parent.iterdir() if path.is_dir() and any(any(path.glob(mark)) for mark in marks))
    except OSError:
        beside = []
    hint = f"; runs beside it: {', '.join(map(str, beside[:8]))}" if beside else ""
    raise ConfigError(f"{run_dir}: no such folder{hint}; give the one that `run_dir=` named")
