"""Programs that `benchmarks/tokenizer.py` starts and watches, and the Markdown that it prints."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup import Peak

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
ONE_THREAD |= {"TOKENIZERS_PARALLELISM": "false", "ARROW_NUM_THREADS": "1"}
LANGUAGES = ("es", "ca", "ca-valencia", "eu", "gl")


@dataclass(frozen=True)
class Finished:
    """A program that has ended: seconds, the most memory that it and its children held together in bytes, its exit status and what it said."""

    wall: float
    cpu: float
    peak: int
    status: int
    said: str


def run(arguments: Sequence[str], log: Path, *, core: int | None = None, status: Iterable[int] = (0,)) -> Finished:
    """Run this Python on `arguments`, on one core alone if it is given; ends the benchmark unless the exit status is among `status`."""
    command = [*(["taskset", "-c", str(core)] if core is not None else []), sys.executable, *arguments]
    started, before = time.perf_counter(), os.times()
    environment = os.environ | (ONE_THREAD if core is not None else {})
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, env=environment) as process, Peak(process.pid) as peak:
        code = process.wait()
    wall, after = time.perf_counter() - started, os.times()
    said = log.read_text(encoding="utf-8", errors="replace")
    if code not in status:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{said[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Finished(wall, cpu, peak.together, code, said)


def iberlm(*arguments: str, log: Path, core: int | None = None, status: Iterable[int] = (0,)) -> Finished:
    """Run a command of the project."""
    return run(["-m", "iberlm", *arguments], log, core=core, status=status)


def measured(program: str, settings: dict[str, Any], folder: Path, *, core: int) -> tuple[dict[str, Any], Finished]:
    """Run a part of the benchmark in a process of its own on one core; what it found, and what it took."""
    file, result = folder / f"{program}.json", folder / f"{program}.result.json"
    file.write_text(json.dumps(settings | {"result": str(result)}))
    finished = run([str(Path(__file__).with_name("tokenizer.py")), program, str(file)], folder / f"{program}.log", core=core)
    return json.loads(result.read_text()), finished


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    lines = [f"\n**{title}**\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]), flush=True)
