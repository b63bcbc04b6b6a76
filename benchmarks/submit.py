"""How long a user waits on the login node: submission of a chain, a look at it, a second submission that finds all of it queued.

    python -m benchmarks.submit [--runs 5]

It brings up the Slurm of the tests (root, and the Debian packages slurmctld, slurmd, slurm-client and munge), with every job held back, and
measures whole commands in seconds of the wall clock, after one that warms the caches of the system. How long the Slurm itself takes to come up is
measured with them.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.launch.lab import PROFILE
from tests.launch.slurm_cluster import SlurmCluster, missing

SIX = "stages=[fetch,curate,train_tokenizer,tokenize,pretrain,evaluate]"
HELD = "extra: ['--begin=now+36000']\n"


def command(folder: Path, *arguments: str) -> float:
    """Seconds that `iberlm ARGUMENTS` takes. Raises `CalledProcessError` when it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "iberlm", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    if reason := missing():
        sys.exit(f"no Slurm can be brought up here: {reason}")
    seconds: dict[str, list[float]] = {}
    for _ in range(runs):
        cluster = SlurmCluster()
        folder = Path(tempfile.mkdtemp(prefix="submit-"))
        try:
            seconds.setdefault("Slurm of the tests, up", []).append(timed(cluster.up))
            os.environ.update(cluster.environment)
            (folder / "profiles/cluster").mkdir(parents=True)
            (folder / "profiles/cluster/lab.yaml").write_text(PROFILE + HELD)
            chain = [
                "run",
                "pipeline=demo",
                "cluster=lab",
                "run_dir=run",
                "pretrain.strategy.name=fsdp2",
                "pretrain.micro_batch_size=2",
                "--config-dir",
                "profiles",
            ]
            command(folder, *chain, SIX, "dry_run=true")
            seconds.setdefault("a chain of 6 stages, submitted", []).append(command(folder, *chain, SIX))
            seconds.setdefault("the same again: all of it is queued", []).append(command(folder, *chain, SIX))
            seconds.setdefault("iberlm status", []).append(command(folder, "status", "run"))
            seconds.setdefault("iberlm plan run", []).append(command(folder, "plan", "run", *chain[1:], SIX))
        finally:
            cluster.close()
            shutil.rmtree(folder, ignore_errors=True)
    print("| | median | slowest |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.2f} s | {max(values):.2f} s |")


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
