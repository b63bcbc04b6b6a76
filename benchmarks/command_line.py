"""How long the command line takes to answer: `python benchmarks/command_line.py`. Goals: help 0.5 s, --cfg job 1.5 s."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "iberlm --help": ["--help"],
    "iberlm pretrain --help": ["pretrain", "--help"],
    "iberlm pretrain --cfg job": ["pretrain", "--cfg", "job"],
    "iberlm run pipeline=demo --cfg job": ["run", "pipeline=demo", "--cfg", "job"],
    "iberlm cards list": ["cards", "list"],
}
RUNS = 7


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "iberlm", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        print(f"{name:<36} median of {RUNS}: {statistics.median(seconds(arguments) for _ in range(RUNS)):.2f} s")
