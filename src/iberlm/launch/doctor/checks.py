"""Checks of a machine that need no child process of torch: Python, packages, compilers, limits, the environment.

A check never raises for what it finds: a missing program or an unreadable file is a finding. What it cannot tell it says.
"""

import os
import resource
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from iberlm.core.process import usable_cores

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
GIB = 2**30
PROGRAM_SECONDS = 30.0
OPEN_FILES = 4096
"""A run has a shard, an index and a log open for each of its workers, and loaders pass tensors as open files."""
SHARED_MEMORY_BYTES = GIB
"""Loaders and NCCL pass data through /dev/shm; a container's default of 64 MiB ends them with a bus error."""
CLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """What one check saw."""

    section: str
    name: str
    level: str
    """ok; note: worth knowing, or not to be told here; warning: may hurt; problem: something will fail."""
    seen: str
    mend: str = ""
    """What to do; empty where nothing is to be done."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    status: int
    """Exit status; -1: the program is missing or cannot be started, -2: it did not answer in time."""
    out: str
    err: str

    @property
    def words(self) -> str:
        """What went wrong, in one line."""
        lines = [line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        return lines[0] if lines else f"exit status {self.status}"


def ask(arguments: Sequence[str], *, seconds: float = PROGRAM_SECONDS, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a program and wait for it, so long at most; whatever happens is in the answer."""
    try:
        done = subprocess.run(
            list(arguments), capture_output=True, text=True, errors="replace", timeout=seconds, check=False, stdin=subprocess.DEVNULL, env=environment
        )
    except subprocess.TimeoutExpired:
        return Answer(-2, "", f"{arguments[0]} did not answer in {seconds:g} s")
    except OSError as error:
        return Answer(-1, "", f"{arguments[0]}: {error.strerror or error}")
    return Answer(done.returncode, done.stdout, done.stderr)


# Python and its packages


def check_python() -> Iterator[Finding]:
    """The version of Python, and what shadows the packages of its environment."""
    needed = _metadata("Requires-Python") or ">=3.11"
    version = ".".join(map(str, sys.version_info[:3]))
    good = version in SpecifierSet(needed)
    mend = "" if good else "make the environment again with a newer Python"
    yield Finding("Python", "version", OK if good else PROBLEM, f"{version} at {sys.executable}; IberLM needs {needed}", mend)
    if site.ENABLE_USER_SITE and Path(site.getusersitepackages()).is_dir():
        mend = "set PYTHONNOUSERSITE=1, or use a virtual environment: packages there come before those that were installed for IberLM"
        yield Finding("Python", "user packages", WARNING, f"{site.getusersitepackages()} is used too", mend)
    elif sys.prefix == sys.base_prefix:
        yield Finding("Python", "environment", NOTE, "no virtual environment: packages are those of the whole machine")


def requirements() -> list[Requirement]:
    """Packages that IberLM needs here: of a clone what pyproject.toml says, else what the installed metadata say."""
    found: list[Requirement] = []
    for text in _clone_requirements() or metadata.requires("iberlm") or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(requirement)
    return found


def check_packages() -> Iterator[Finding]:
    """Each package that IberLM needs: installed, and in a version that it works with. Whether it can be imported a child tells (`doctor.child`)."""
    wrong = 0
    wanted = requirements()
    for requirement in wanted:
        name, limits = requirement.name, str(requirement.specifier)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong += 1
            yield Finding("Packages", name, PROBLEM, f"not installed; needed {limits}", _install(requirement))
            continue
        try:
            fits = Version(version) in SpecifierSet(limits, prereleases=True)
        except InvalidVersion:
            fits = True
        if not fits:
            wrong += 1
            yield Finding("Packages", name, PROBLEM, f"{version}; needed {limits}", _install(requirement))
    if not wrong:
        yield Finding("Packages", "versions", OK, f"{len(wanted)} packages, all in versions that IberLM works with")
    if stale := _stale_metadata():
        yield Finding("Packages", "iberlm", NOTE, stale, "pip install -e . again in the clone")


def modules_to_import() -> list[str]:
    """Modules of the packages that are installed, torch first: what imports it too is then quick, and a failure is put down to the right one."""
    provided: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            if module.isidentifier() and not module.startswith("_"):
                provided.setdefault(canonicalize_name(distribution), []).append(module)
    names: list[str] = []
    for requirement in requirements():
        modules = provided.get(canonicalize_name(requirement.name), [])
        own = canonicalize_name(requirement.name).replace("-", "_")
        names += [own] if own in modules else modules[:1]
    return sorted(dict.fromkeys(names), key=lambda name: name != "torch")


def _install(requirement: Requirement) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


def _metadata(key: str) -> str:
    try:
        return metadata.metadata("iberlm")[key] or ""
    except (metadata.PackageNotFoundError, KeyError):
        return ""


def _clone_requirements() -> list[str]:
    """Dependencies in the clone's pyproject.toml; none where IberLM is installed from a wheel."""
    path = Path(__file__).resolve().parents[3] / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return []
    return list(project.get("dependencies", [])) if project.get("name") == "iberlm" else []


def _stale_metadata() -> str:
    """How the metadata of an editable installation differ from its clone: they are those of the day when it was installed."""
    clone = _keys(_clone_requirements())
    try:
        installed = _keys(text for text in metadata.requires("iberlm") or [] if "extra ==" not in text)
    except metadata.PackageNotFoundError:
        return "not installed: it runs from a folder that is on Python's path"
    differing = {name for name, _ in clone ^ installed} if clone else set()
    return f"the clone's pyproject.toml and the installed metadata differ in {', '.join(sorted(differing))}" if differing else ""


def _keys(requirements: Iterable[str]) -> set[tuple[str, str]]:
    parsed = [Requirement(text) for text in requirements]
    return {(canonicalize_name(entry.name), str(entry.specifier)) for entry in parsed}


# compilers


def check_compilers() -> Iterator[Finding]:
    """A C++ compiler that works, Python's headers and ninja: torch.compile needs the first two, DeepSpeed's optimisers all."""
    section, compiler = "Compilers", os.environ.get("CXX", "g++")
    missing = _cannot_compile(compiler)
    mend = "" if not missing else "load a module with a C++ compiler (module load gcc), or set CXX; without one set compile=off and no strategy zero_*"
    yield Finding(section, "C++", WARNING if missing else OK, missing or f"{compiler} ({shutil.which(compiler.split()[0])}) compiles", mend)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        mend = "install Python's development files (python3-dev), or use a Python that has them: Triton compiles against them at first use"
        yield Finding(section, "Python.h", WARNING, f"{header} is not there", mend)
    # DeepSpeed calls the program; the package puts it beside the interpreter
    ninja = shutil.which("ninja", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    answer = ask([ninja, "--version"]) if ninja else Answer(-1, "", "not found")
    good = answer.status == 0
    seen = f"{answer.out.strip()} at {ninja}" if good else answer.words
    yield Finding(section, "ninja", OK if good else WARNING, seen, "" if good else "pip install ninja: DeepSpeed compiles with it")


def _cannot_compile(compiler: str) -> str:
    """Why `compiler` cannot make a shared library; empty when it can."""
    with tempfile.TemporaryDirectory(prefix="iberlm-doctor-") as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <vector>\nint probe() { return static_cast<int>(std::vector<int>(3).size()); }\n", encoding="utf-8")
        answer = ask([*compiler.split(), "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))])
    return "" if answer.status == 0 else f"{compiler} does not compile: {answer.words}"


# limits of the shell, the clock


def check_limits() -> Iterator[Finding]:
    """Open files, locked memory, processes, CPU time, shared memory. Those of a login node: the nodes' own may differ, and a job tells its own."""
    section = "Limits"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = _finite(files) and files < OPEN_FILES
    mend = f"ulimit -n {OPEN_FILES} in the shell, or in cluster.setup_file for jobs" if few else ""
    yield Finding(section, "open files", WARNING if few else OK, _limit(files), mend)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    adapters = _infiniband()
    if adapters:
        short = _finite(locked)
        mend = "ask the centre: InfiniBand registers memory that is locked, and NCCL falls back to sockets or fails without" if short else ""
        yield Finding(section, "locked memory", WARNING if short else OK, f"{_limit(locked)}, with {', '.join(adapters)}", mend)
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if _finite(processes) and processes < 16 * usable_cores() + 256:
        yield Finding(section, "processes", WARNING, f"{processes} for all of this user's together", "ulimit -u with more, or fewer workers")
    seconds = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if _finite(seconds):
        mend = "do the work in a job (cluster=NAME); login nodes end processes that compute for long"
        yield Finding(section, "CPU time", NOTE, f"a process is ended after {seconds} s", mend)
    shared = Path("/dev/shm")  # noqa: S108 - it is what is checked
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        small = size < SHARED_MEMORY_BYTES
        mend = "give the container more (--shm-size), or use workers=1" if small else ""
        yield Finding(section, str(shared), WARNING if small else OK, f"{size / GIB:.1f} GiB", mend)


def check_clock(folder: Path) -> Iterator[Finding]:
    """The clock against that of the run folder's file server, by which heartbeats are read, and whether it is kept by NTP."""
    section = "Limits"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".iberlm-doctor-") as stream:
            before = time.time()
            stream.write(b"0")
            stream.flush()
            os.fsync(stream.fileno())
            difference = Path(stream.name).stat().st_mtime - before
    except OSError:
        return  # the disk's own check says it
    answer = ask(["timedatectl", "show", "--property=NTPSynchronized", "--value"], seconds=5)
    kept = {"yes": "kept by NTP", "no": "not kept by NTP"}.get(answer.out.strip() if answer.status == 0 else "", "cannot tell whether NTP keeps it")
    off = abs(difference) > CLOCK_SECONDS
    mend = "tell the administrators: a node whose clock is off reads others' heartbeats as old" if off else ""
    yield Finding(section, "clock", WARNING if off else OK, f"{difference:+.1f} s against the file server of {folder}; {kept}", mend)


def _finite(limit: int) -> bool:
    return limit != resource.RLIM_INFINITY


def _limit(value: int) -> str:
    return f"{value:,}" if _finite(value) else "unlimited"


def _infiniband() -> list[str]:
    folder = Path("/sys/class/infiniband")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
