"""The tests' own Slurm: it fails like a real one and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

from iberlm.launch.slurm import client

from .slurm_cluster import SlurmCluster


def processes_of(folder: Path) -> list[str]:
    """Processes that were started for what lies in a folder; one that is only waiting to be reaped is none."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if f"{folder}/".encode() in text:
            found.append(text.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def test_a_cluster_of_the_tests_leaves_nothing_behind(slurm: SlurmCluster) -> None:
    """A second one beside the first, on ports of its own, with a job that has children in the background."""
    other = SlurmCluster(nodes=1)
    try:
        other.up()
        job = other.submit("sleep 1000 & setsid sleep 1001 & echo up; wait")
        other.wait(lambda: "up" in other.log(job), 20, "the job runs")
        assert processes_of(other.folder)
        assert slurm.idle_nodes() == slurm.nodes  # it did not take the first one's job
    finally:
        other.close()
    slurm.wait(lambda: not processes_of(other.folder), 10, "the second cluster's processes are gone")
    assert not other.folder.exists()


def test_a_cluster_dies_with_the_process_that_made_it(slurm: SlurmCluster, tmp_path: Path) -> None:
    code = (
        "import os, sys; from tests.launch.slurm_cluster import SlurmCluster; c = SlurmCluster(1); c.up(); print(c.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600, check=False)
    folder = Path(done.stdout.strip())
    assert folder.is_dir(), done.stderr
    slurm.wait(lambda: not processes_of(folder), 10, "the daemons of a killed process are gone")
    subprocess.run(["rm", "-r", str(folder)], check=True)


def test_a_node_that_is_powered_off_takes_its_processes_along(slurm: SlurmCluster) -> None:
    job = slurm.submit("echo up; exec sleep 4242", "--nodelist=node2", "--requeue")
    slurm.wait(lambda: "up" in slurm.log(job), 20, "the job runs")
    on_node = f"{slurm.folder}/spool/node2/job"
    assert client.queue([job])[0].nodes == "node2"
    assert [text for text in processes_of(slurm.folder) if on_node in text or "sleep 4242" in text]
    slurm.kill_node(2)
    assert not [text for text in processes_of(slurm.folder) if on_node in text or "sleep 4242" in text]
    slurm.down(2)
    slurm.wait(lambda: slurm.job(job)["Restarts"] == "1", 20, "the job is back in the queue")
    slurm.run("scancel", str(job))  # else it begins again there
    slurm.start_node(2)
    slurm.wait(lambda: slurm.idle_nodes() == slurm.nodes, 20, "all nodes are idle")
