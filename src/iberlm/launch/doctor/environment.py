"""Checks of what a shell and a profile set: variables that harm, tokens that others can read, caches for nodes without internet, the jobs' Python."""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from iberlm import __version__
from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import CorruptError
from iberlm.core.process import usable_cores
from iberlm.launch.doctor.checks import NOTE, OK, PROBLEM, WARNING, Finding, ask
from iberlm.launch.offline.bundle import read_bundle

SECTION = "Environment"
_SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SLOWS: dict[str, str] = {
    "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before",
    "NCCL_P2P_DISABLE": "GPUs of a node exchange through memory",
    "NCCL_SHM_DISABLE": "ranks of a node exchange through the network",
    "NCCL_IB_DISABLE": "nodes exchange by TCP, at a tenth of InfiniBand's speed",
}
_VERBOSE: dict[str, tuple[str, ...]] = {"NCCL_DEBUG": ("INFO", "TRACE"), "TORCH_DISTRIBUTED_DEBUG": ("DETAIL",), "TORCH_CPP_LOG_LEVEL": ("INFO",)}
MODULE_SECONDS = 60.0


def check_environment(environment: Mapping[str, str], cluster: ClusterConfig) -> Iterator[Finding]:
    """Variables of this shell, and of the profile's jobs, that are known to hurt. Jobs take nothing from the shell but `cluster.pass_environment`."""
    findings = [*_python_variables(environment), *_ranks_variables(environment), *_network_variables(environment), *_secrets(environment, cluster)]
    if not findings:
        yield _finding("variables", OK, "none that is known to hurt")
    yield from findings


def _finding(name: str, level: str, seen: str, mend: str = "") -> Finding:
    return Finding(SECTION, name, level, seen, mend)


def _python_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    if paths := [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]:
        yield _finding("PYTHONPATH", WARNING, f"{os.pathsep.join(paths)}: its modules come before the installed ones", "unset PYTHONPATH")
    if "PYTHONHOME" in environment:
        yield _finding("PYTHONHOME", PROBLEM, environment["PYTHONHOME"], "unset PYTHONHOME: it gives this Python another one's library")
    if "LD_PRELOAD" in environment:
        yield _finding("LD_PRELOAD", WARNING, f"{environment['LD_PRELOAD']} is loaded into every program", "unset LD_PRELOAD, unless the centre asks for it")
    if (folder := environment.get("TMPDIR")) and not os.access(folder, os.W_OK | os.X_OK):
        yield _finding("TMPDIR", PROBLEM, f"{folder} is not there or cannot be written", "unset TMPDIR, or set it to a folder that can be written")
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > usable_cores():
        mend = "unset OMP_NUM_THREADS: each rank then gets its share of the cores"
        yield _finding("OMP_NUM_THREADS", WARNING, f"{threads}, and this process may use {usable_cores()} cores", mend)


def _ranks_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    if "SLURM_PROCID" not in environment and (names := [name for name in _OF_A_RANK if name in environment]):
        yield _finding("ranks", WARNING, f"{', '.join(names)} set outside a job", f"unset {' '.join(names)}: a training run takes itself for one rank of many")
    if names := sorted(name for name in environment if name.startswith("SBATCH_")):
        mend = "set cluster.partition, cluster.account and their like instead"
        yield _finding("SBATCH_*", NOTE, f"{', '.join(names)}: iberlm submits without them, since sbatch would put them before what a script says", mend)


def _network_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name, why in _SLOWS.items():
        if environment.get(name, "0") not in ("", "0"):
            yield _finding(name, WARNING, f"{environment[name]}: {why}", f"unset {name}, unless it is there to find a fault")
    for name, values in _VERBOSE.items():
        if environment.get(name, "").upper() in values:
            yield _finding(name, WARNING, f"{environment[name]}: every rank writes much to its log", f"unset {name}, unless it is there to find a fault")
    known = {entry.name for entry in Path("/sys/class/net").iterdir()} if Path("/sys/class/net").is_dir() else set()
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        # ^eth leaves out, =eth0 means exactly this one; else a name is a beginning
        wanted = [part.lstrip("=") for part in environment.get(name, "").split(",") if part and not part.startswith("^")]
        if wanted and known and not any(here.startswith(part) for part in wanted for here in known):
            mend = f"unset {name}, or name one of {', '.join(sorted(known))}; on compute nodes they may differ"
            yield _finding(name, WARNING, f"{environment[name]}: there is no such network interface here", mend)


def _secrets(environment: Mapping[str, str], cluster: ClusterConfig) -> Iterator[Finding]:
    for key in ("environment", "task_environment"):
        for name in sorted(name for name in getattr(cluster, key) if _SECRET.search(name.upper())):
            mend = f"take it out of cluster.{key} and set cluster.pass_environment=[{name}]: then its value is written nowhere"
            yield _finding(name, PROBLEM, f"a secret in cluster.{key}: it would stand in job.sh and config.yaml of the run folder", mend)
    for name in cluster.pass_environment:
        if name not in environment:
            yield _finding(name, PROBLEM, "cluster.pass_environment names it, and it is not set here", f"export {name}=... in the shell that submits")
    home = Path(environment.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    token = Path(environment.get("HF_TOKEN_PATH") or home / "token")
    try:
        mode = stat.S_IMODE(token.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        yield _finding("HF token", WARNING, f"{token} can be read by others (mode {mode:o})", f"chmod 600 {token}")


# what jobs find


def check_offline(environment: Mapping[str, str], cluster: ClusterConfig) -> Iterator[Finding]:
    """Where models and data sets are looked for, and whether jobs on nodes without internet find them."""
    section = "Offline"
    home = Path(os.path.expandvars(cluster.environment.get("HF_HOME") or environment.get("HF_HOME") or "~/.cache/huggingface")).expanduser()
    where = "HF_HOME" if "HF_HOME" in environment or "HF_HOME" in cluster.environment else "the default, no HF_HOME is set"
    if cluster.bundle:
        yield _bundle(Path(os.path.expandvars(cluster.bundle)))
    elif cluster.is_slurm and not cluster.compute_internet:
        mend = "iberlm prefetch on the login node, then cluster.bundle=FOLDER; not needed where models and data are files of yours"
        yield Finding(section, "bundle", NOTE, "none, and compute nodes have no internet: jobs find only what the cache below has", mend)
    if not cluster.bundle:
        under_home = home.resolve().is_relative_to(Path.home().resolve()) and cluster.is_slurm
        mend = "export HF_HOME=FOLDER on scratch: homes have small quotas" if under_home else ""
        state = "is there" if home.is_dir() else "is not there yet"
        yield Finding(section, "cache", WARNING if under_home else OK, f"{home} {state} ({where})", mend)
    if environment.get("HF_HUB_OFFLINE", "0") not in ("", "0") and not cluster.is_slurm:
        yield Finding(section, "HF_HUB_OFFLINE", NOTE, "set: nothing is fetched from a hub in this shell")


def _bundle(folder: Path) -> Finding:
    """Whether every file of a bundle is there with its size; `iberlm prefetch` compares contents."""
    try:
        items = read_bundle(folder)
    except CorruptError as error:
        return Finding("Offline", "bundle", PROBLEM, str(error), "iberlm prefetch again")
    problems = [problem for item in items for problem in item.problems(folder, checksums=False)]
    if problems or not items:
        seen = f"{problems[0]} ({len(problems)} such)" if problems else f"{folder} is no bundle, or an empty one"
        return Finding("Offline", "bundle", PROBLEM, seen, "iberlm prefetch on a machine with internet, then copy the whole folder")
    kinds = [item.kind for item in items]
    counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return Finding("Offline", "bundle", OK, f"{folder}: {counts}; every file is there with its size")


def check_jobs(cluster: ClusterConfig) -> Iterator[Finding]:
    """What a job of the profile starts with, seen from here: its modules, set-up file, Python or container."""
    section = "Jobs"
    if cluster.setup_file and not Path(os.path.expandvars(cluster.setup_file)).is_file():
        mend = "cluster.setup_file=FILE, one that is there and that the nodes see"
        yield Finding(section, "setup_file", PROBLEM, f"{cluster.setup_file} is not there", mend)
    if cluster.modules:
        yield _modules(cluster.modules)
    if cluster.container.image:
        yield from _container(cluster)
    elif cluster.python:
        yield _python(cluster)


def _modules(names: list[str]) -> Finding:
    # `module` is a function of login shells; the names are arguments, not text of the script
    script = 'type module >/dev/null || exit 3; for name; do module load "$name" || exit 4; done; module list 2>&1'
    answer = ask(["bash", "-lc", script, "bash", *names], seconds=MODULE_SECONDS)
    wanted = ", ".join(names)
    if answer.status == 0 and all(name in answer.out for name in names):
        return Finding("Jobs", "modules", OK, f"{wanted} can be loaded")
    if answer.status == 3:
        mend = "cluster.modules=[], or a shell in which `module` is there: look into /etc/profile.d"
        return Finding("Jobs", "modules", PROBLEM, f"{wanted}: there is no command `module` here", mend)
    mend = "module avail shows what there is; then cluster.modules=[...]"
    return Finding("Jobs", "modules", PROBLEM, f"{wanted}: {answer.words}", mend)


def _container(cluster: ClusterConfig) -> Iterator[Finding]:
    section, image = "Jobs", Path(os.path.expandvars(cluster.container.image))
    there = image.is_file()
    mend = "" if there else "build it from slurm/containers/, copy it here, or set cluster.container.image="
    yield Finding(section, "container", OK if there else PROBLEM, f"{image} is {'there' if there else 'not there'}", mend)
    program = shutil.which(cluster.container.runtime)
    if program is None:
        mend = f"module load {cluster.container.runtime}, and the same in cluster.modules; some centres have it on compute nodes only"
        yield Finding(section, "container", WARNING, f"no program {cluster.container.runtime} here", mend)
    for bind in cluster.container.binds:
        folder = os.path.expandvars(bind.partition(":")[0])
        if "$" not in folder and not Path(folder).exists():
            mend = "take it out of cluster.container.binds"
            yield Finding(section, "container", WARNING, f"bind {bind}: {folder} is not there", mend)


def _python(cluster: ClusterConfig) -> Finding:
    answer = ask([os.path.expandvars(cluster.python), "-c", "import iberlm; print(iberlm.__version__)"])
    version = answer.out.strip()
    if answer.status != 0:
        mend = "install IberLM there, or cluster.python= for the one that submits"
        return Finding("Jobs", "python", PROBLEM, f"{cluster.python}: {answer.words}", mend)
    same = version == __version__
    mend = "" if same else "install the same version in both"
    return Finding("Jobs", "python", OK if same else WARNING, f"{cluster.python} has IberLM {version}; this is {__version__}", mend)
