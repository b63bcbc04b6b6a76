"""A real Slurm for tests: three nodes on this machine, each with a host name, a process tree and four GPUs of its own, all state in one short folder.

It needs root, the Debian packages slurmctld, slurmd, slurm-client and munge, and the right to make namespaces
(`unshare`) and device nodes. A node is powered off by killing the first process of its tree: the kernel ends the others.
Every daemon dies with this process (`setpriv --pdeathsig`), so that nothing outlives a test run that was killed.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NODES, CORES, MEMORY_MB, GPUS = 3, 8, 8000, 4
PATIENCE = 10.0
"""How many times longer than on an idle machine of two cores anything may take before a test is given up."""
PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge", "unshare": "util-linux", "setpriv": "util-linux"}
PATH = os.pathsep.join([*dict.fromkeys(["/usr/sbin", "/sbin", *os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)])])

CONFIGURATION = """
ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,ttl=600,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/pid/slurmctld
SlurmdPidFile={folder}/pid/%n
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmctldTimeout=100
SlurmdTimeout=60
MessageTimeout=60
KillWait=60
MinJobAge=3600
FirstJobId={first_job}
JobRequeue=1
ReturnToService=1
"""
PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=2 MaxNodes=1 State=UP
PartitionName=closed Nodes=ALL MaxTime=INFINITE State=DOWN
PartitionName=project Nodes=ALL MaxTime=INFINITE AllowAccounts=allowed State=UP
"""
# what a node is: its name, its view of the others' addresses (one address for all), and a first process that reaps what slurmd leaves
NODE = 'hostname "$1" && mount --bind "$2" /etc/hosts || exit 1; slurmd -D -c -N "$1" & wait $!'


def missing() -> str:
    """Why no cluster can be brought up here; empty when one can."""
    packages = sorted({package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None})
    if packages:
        return f"not installed: {', '.join(packages)} (apt-get install --no-install-recommends {' '.join(packages)})"
    if os.geteuid() != 0:
        return "the Slurm of the tests needs root"
    namespaces = subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True, check=False)
    if namespaces.returncode != 0:
        return f"no right to make namespaces (docker run --privileged): {namespaces.stderr.strip()}"
    return ""


class SlurmCluster:
    """Nodes node1, node2, node3 of 8 cores and 4 GPUs; partitions main (default), short (2 minutes, one node), closed (down), project (account `allowed`)."""

    def __init__(self, nodes: int = NODES) -> None:
        self.nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: the path of a unix socket has less than 108 characters
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which Slurm's programs find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}

    def up(self) -> None:
        """Start all daemons; returns when every node is idle."""
        self._write_files()
        socket_path = self.folder / "munge" / "socket"
        files = {"socket": socket_path, "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("munged", "munged", "--foreground", "--force", *(f"--{key}={self.folder / 'munge' / name}" for key, name in files.items()))
        self.wait(socket_path.exists, 10, "munged makes its socket")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for number in range(1, self.nodes + 1):
            self._power_on(number)
        self.wait(lambda: self.idle_nodes() == self.nodes, 20, "all nodes are idle")

    def close(self) -> None:
        """End everything and remove the folder, whatever state it is in."""
        for name in [*(name for name in self._daemons if name.startswith("node")), "slurmctld", "munged"]:
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str | Path, check: bool = True) -> str:
        """Output of a program of Slurm. Raises `AssertionError` with its words when it fails."""
        done = subprocess.run(
            [str(word) for word in command], env={**os.environ, **self.environment}, capture_output=True, text=True, errors="replace", timeout=600, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def wait(self, predicate: Callable[[], T], seconds: float, what: str) -> T:
        """The predicate's first true value. Raises `AssertionError` with the queue and the logs when there is none within `PATIENCE` times so many seconds."""
        end = time.monotonic() + PATIENCE * seconds
        while not (value := predicate()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {PATIENCE * seconds:g} s: {what}\n{self.report()}")
            time.sleep(0.2)
        return value

    def submit(self, command: str, *options: str) -> int:
        """Number of a job that runs a line of bash; its log is `log(number)`."""
        log = self.folder / "log" / "job-%j"
        words = self.run("sbatch", "--parsable", "--export=NONE", "--open-mode=append", f"--output={log}", *options, "--wrap", command)
        return int(words.strip().partition(";")[0])

    def log(self, job: int) -> str:
        """What a job of `submit` has written."""
        path = self.folder / "log" / f"job-{job}"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def job(self, job: int | str) -> dict[str, str]:
        """Fields of `scontrol show job`, of an array its first line; empty for a job that Slurm does not know."""
        lines = self.run("scontrol", "show", "job", "-o", str(job), check=False).splitlines()
        return _fields(lines[0]) if lines else {}

    def state(self, job: int | str) -> str:
        """State of a job, e.g. RUNNING; empty for a job that Slurm does not know."""
        return self.job(job).get("JobState", "")

    def wait_state(self, job: int | str, *states: str, seconds: float = 30) -> str:
        """Wait until a job is in one of these states; the state."""
        return self.wait(lambda: state if (state := self.state(job)) in states else "", seconds, f"job {job} is {' or '.join(states)}")

    def idle_nodes(self) -> int:
        """Number of nodes that are up, answer and have no job."""
        return len(set(self.run("sinfo", "-h", "-N", "-r", "-t", "idle", "-o", "%N", check=False).split()))

    def kill_node(self, number: int) -> None:
        """Power a node off: every process on it is gone when this returns. Slurm finds out after a minute (`down` tells it at once)."""
        self._end(f"node{number}")

    def start_node(self, number: int) -> None:
        """Power a node on, after `down` too; returns when Slurm may use it."""
        self._power_on(number)

        def is_up() -> bool:
            state = self._node_state(number)
            if "DOWN" in state:
                self.run("scontrol", "update", f"nodename=node{number}", "state=resume", check=False)
            return not re.search(r"\*|NOT_RESPONDING|DOWN|DRAIN|FAIL|UNKNOWN", state)

        self.wait(is_up, 20, f"node{number} is up")

    def down(self, number: int) -> None:
        """Tell Slurm that a node is down; jobs on it are requeued or failed."""
        self.run("scontrol", "update", f"nodename=node{number}", "state=down", "reason=test")

    def resume(self, number: int) -> None:
        """Give a node back after `down`."""
        self.run("scontrol", "update", f"nodename=node{number}", "state=resume")

    def clean(self) -> None:
        """Leave no job, and all nodes as they were."""
        self._cancel_all()
        for number in range(1, self.nodes + 1):
            if f"node{number}" not in self._daemons or self._daemons[f"node{number}"].poll() is not None:
                self._power_on(number)
            if re.search("DOWN|DRAIN|FAIL", self._node_state(number)):
                self.run("scontrol", "update", f"nodename=node{number}", "state=resume", check=False)
        self.wait(lambda: self.idle_nodes() == self.nodes, 30, "all nodes are idle after a test")

    def report(self) -> str:
        """The queue, the nodes, and the ends of the jobs' logs and the controller's."""
        jobs = [_fields(line) for line in self.run("scontrol", "show", "job", "-o", check=False).splitlines() if line.startswith("JobId=")]
        parts = [self.run("squeue", "-a", check=False), self.run("sinfo", "-N", "-l", check=False)]
        parts += [_tail(Path(path), 25) for path in list(dict.fromkeys(job["StdOut"] for job in jobs if "StdOut" in job))[-4:]]
        return "\n".join([*parts, _tail(self.folder / "log" / "slurmctld", 25)])

    def _cancel_all(self) -> None:
        def gone() -> bool:
            self.run("scancel", "--quiet", "--user=root", check=False)
            self.run("scancel", "--quiet", "--full", "--signal=KILL", "--user=root", check=False)
            return not self.run("squeue", "-h", "-o", "%i").strip()

        self.wait(gone, 30, "the queue is empty after a test")

    def _node_state(self, number: int) -> str:
        return _fields(self.run("scontrol", "show", "node", "-o", f"node{number}")).get("State", "")

    def _write_files(self) -> None:
        for name, mode in {"munge": 0o755, "state": 0o700, "spool": 0o755, "log": 0o755, "pid": 0o755, "dev": 0o755}.items():
            (self.folder / name).mkdir(mode=mode)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        for number in range(GPUS):  # a GPU that Slurm hands out must be a device: these are /dev/null under other names
            os.mknod(self.folder / "dev" / f"gpu{number}", 0o666 | 0o020000, os.makedev(1, 3))
        names = [f"node{number}" for number in range(1, self.nodes + 1)]
        (self.folder / "hosts").write_text("127.0.0.1 localhost " + " ".join(names) + "\n")
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]\n")
        port, *node_ports = _free_ports(1 + self.nodes)
        of_node = f"NodeHostname=localhost NodeAddr=127.0.0.1 Sockets=1 CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory={MEMORY_MB} Gres=gpu:{GPUS}"
        lines = [f"NodeName={name} Port={node_port} {of_node}" for name, node_port in zip(names, node_ports, strict=True)]
        # jobs of several clusters at once must not have the same numbers: the port at which their ranks meet comes from it
        configuration = CONFIGURATION.format(folder=self.folder, port=port, first_job=random.randrange(1, 20_000))
        (self.folder / "slurm.conf").write_text(configuration + "\n".join(lines) + PARTITIONS)

    def _power_on(self, number: int) -> None:
        name = f"node{number}"
        (self.folder / "spool" / name).mkdir(exist_ok=True)
        namespaces = ["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._daemon(name, "unshare", *namespaces, "bash", "-c", NODE, "node", name, str(self.folder / "hosts"))

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"HOME": "/root", "LANG": "C.UTF-8", **self.environment},  # nothing of the test run reaches the nodes
                start_new_session=True,  # an interrupt from the keyboard is ours to handle
            )

    def _end(self, name: str) -> None:
        process = self._daemons.pop(name, None)
        if process is None:
            return
        # of a node it is the first process of the tree that is killed: `unshare` ends when the kernel has ended all the others
        targets = _children(process.pid) if name.startswith("node") else [process.pid]
        for pid in targets or [process.pid]:
            os.kill(pid, 9)
        process.wait(timeout=200)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _fields(line: str) -> dict[str, str]:
    """`A=1 B=x y C=` -> {"A": "1", "B": "x y", "C": ""}."""
    parts = re.split(r"(?:^|\s)([A-Z][A-Za-z/:_]*)=", line)
    return dict(zip(parts[1::2], (value.strip() for value in parts[2::2]), strict=True))


def _tail(path: Path, lines: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "(not there)"
    return f"--- {path}\n" + "\n".join(text.splitlines()[-lines:])


def _free_ports(number: int) -> Iterable[int]:
    """Below those that the system gives to clients, so that a node that was off finds its port free again, and above those at which ranks of jobs meet."""
    found: list[int] = []
    while len(found) < number:
        port = random.randrange(30_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
