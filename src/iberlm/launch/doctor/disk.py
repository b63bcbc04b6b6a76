"""Checks of the folders that a run writes to: space, files (inodes), quotas, locks, and what kind of file system they lie on."""

import errno
import fcntl
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iberlm.core.cluster import ClusterConfig
from iberlm.launch.doctor.checks import GIB, NOTE, OK, PROBLEM, WARNING, Finding, ask

SECTION = "Disks"
IN_MEMORY = ("tmpfs", "ramfs")
OF_ONE_MACHINE = (*IN_MEMORY, "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "f2fs")
"""File systems that other nodes see only when one machine serves them to the others."""
WITHOUT_SHARED_LOCKS = {"lustre": ("localflock", "noflock"), "nfs": ("nolock", "local_lock=all", "local_lock=flock")}
"""Mount options by which a lock is not seen on other nodes."""


@dataclass(frozen=True)
class Room:
    """What a folder should have left: below the first number something will fail, below the second it may."""

    bytes_problem: int
    bytes_warning: int
    files_problem: int
    files_warning: int


RUN = Room(GIB, 20 * GIB, 1_000, 50_000)
"""A checkpoint of 2 billion parameters has 27 GB; a run writes some thousand files."""
HOME = Room(GIB // 10, GIB, 200, 5_000)
"""Programs keep caches and histories there even where a run does not."""
NODE_LOCAL = Room(GIB // 10, 2 * GIB, 1_000, 10_000)
"""Compiled kernels and what programs put in TMPDIR."""


@dataclass(frozen=True)
class Quota:
    """What one quota leaves. Limits of 0: none."""

    of: str
    """Whose: user NAME, group NAME, project NUMBER."""
    used_bytes: int
    limit_bytes: int
    used_files: int
    limit_files: int


def check_disks(cluster: ClusterConfig, run_dir: Path) -> Iterator[Finding]:
    """The run folder, the profile's scratch and bundle, the node's own disk, the home folder; each file system once for the same room."""
    folders = [("run folder", run_dir.absolute(), RUN)]
    for name, text, room in (("scratch", cluster.scratch, RUN), ("bundle", cluster.bundle, HOME), ("node_local", cluster.node_local, NODE_LOCAL)):
        expanded = os.path.expandvars(text)
        if not expanded:
            continue
        if "$" in expanded:
            if expanded != "$TMPDIR":  # which only jobs have
                yield Finding(SECTION, name, NOTE, f"{text}: cannot be told here, since the variable is not set")
            continue
        folders.append((name, Path(expanded), room))
    folders.append(("home", Path.home(), HOME))
    seen: set[tuple[int, Room]] = set()
    for name, path, room in folders:
        if name in ("scratch", "bundle") and not path.exists():
            mend = f"cluster.{name}=FOLDER, one that is there" if name == "scratch" else f"iberlm prefetch, or cluster.{name}=FOLDER"
            yield Finding(SECTION, name, WARNING, f"{path} is not there", mend)
            continue
        here = existing(path)
        key = (here.stat().st_dev, room)
        if key not in seen:
            seen.add(key)
            yield room_left(name, path, room, shared=cluster.is_slurm and name in ("run folder", "scratch", "bundle"))
            yield from quotas_left(name, here)
    yield from check_locks(run_dir)


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there already."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def room_left(name: str, path: Path, room: Room, *, shared: bool = False) -> Finding:
    """Space and files that the file system of `path` has left for this user; `shared`: several nodes must see it."""
    here = existing(path)
    where = f"{path}" if here == path.absolute() else f"{path} (not there yet; of {here})"
    if not os.access(here, os.W_OK | os.X_OK):
        return Finding(SECTION, name, PROBLEM, f"{where}: this user cannot write there", "choose another folder, or have its rights changed")
    try:
        counts = os.statvfs(here)
    except OSError as error:
        return Finding(SECTION, name, PROBLEM, f"{where}: {error.strerror}", "choose another folder")
    free, kind = counts.f_bavail * counts.f_frsize, file_system(here)[0]
    # some file systems make files as they are needed and tell no number
    files = counts.f_favail if counts.f_files else None
    seen = f"{where}: {_size(free)} free" + (f", {files:,} files more" if files is not None else "") + f" ({kind})"
    level, mend = _judge(free, files, room)
    if level == OK and name != "node_local" and kind in IN_MEMORY:
        level, mend = WARNING, "choose a folder on a disk: this one is in memory and is gone when the machine starts again"
    elif level == OK and shared and kind in OF_ONE_MACHINE:
        level, mend = WARNING, "choose a folder on a file system that all nodes see, unless this machine is the only node"
    return Finding(SECTION, name, level, seen, mend)


def _judge(free_bytes: int, free_files: int | None, room: Room) -> tuple[str, str]:
    for level, least_bytes, least_files in ((PROBLEM, room.bytes_problem, room.files_problem), (WARNING, room.bytes_warning, room.files_warning)):
        if free_bytes < least_bytes:
            return level, f"free some space, or choose another folder: it should have {_size(least_bytes)}"
        if free_files is not None and free_files < least_files:
            return level, f"remove files (old environments and caches have the most), or choose another folder: it should have room for {least_files:,} more"
    return OK, ""


# quotas


def quotas_left(name: str, folder: Path) -> Iterator[Finding]:
    """What quotas leave on the file system of `folder`, where the programs that tell are there; nothing where there are none."""
    kind, mount, _ = file_system(folder)
    room = HOME if name == "home" else RUN
    for quota in _lustre(folder) if kind == "lustre" else _posix(mount):
        left = quota.limit_bytes - quota.used_bytes if quota.limit_bytes else None
        files = quota.limit_files - quota.used_files if quota.limit_files else None
        if left is None and files is None:
            continue
        parts = [f"{_size(max(0, left))} of {_size(quota.limit_bytes)} left"] if left is not None else []
        parts += [f"{max(0, files):,} of {quota.limit_files:,} files left"] if files is not None else []
        level, mend = _judge(room.bytes_warning if left is None else left, files, room)
        yield Finding(SECTION, f"{name}, quota", level, f"{quota.of}: {', '.join(parts)}", mend)


def _posix(mount: str) -> list[Quota]:
    if shutil.which("quota") is None:
        return []
    found: list[Quota] = []
    for option, who in (("-u", f"user {_user()}"), ("-g", "group")):
        # -w: one line a file system; its status is 1 when a quota is exceeded
        for device, quota in parse_quota(ask(["quota", "-w", "-p", option], seconds=15).out, who):
            if device == mount or _device_of(mount) == device:
                found.append(quota)
    return found


def parse_quota(text: str, of: str) -> list[tuple[str, Quota]]:
    """File system and quota of each line of `quota -w -p`: blocks of 1 KiB, a star where one is exceeded, grace periods as plain seconds."""
    found = []
    for line in text.splitlines():
        fields = line.replace("*", " ").split()
        if len(fields) >= 8 and all(field.isdigit() for field in fields[1:8]):
            blocks, soft, hard, _, files, files_soft, files_hard = map(int, fields[1:8])
            found.append((fields[0], Quota(of, blocks * 1024, (soft or hard) * 1024, files, files_soft or files_hard)))
    return found


def _lustre(folder: Path) -> list[Quota]:
    if shutil.which("lfs") is None:
        return []
    mount = file_system(folder)[1]
    kinds = [("-u", _user(), "user"), ("-g", str(folder.stat().st_gid), "group")]
    project = re.match(r"\s*(\d+)", ask(["lfs", "project", "-d", str(folder)], seconds=15).out)
    if project and int(project[1]):
        kinds.append(("-p", project[1], "project"))
    found: list[Quota] = []
    for option, who, word in kinds:
        quota = parse_lfs_quota(ask(["lfs", "quota", "-q", option, who, mount], seconds=15).out, f"{word} {who}")
        found += [quota] if quota else []
    return found


def parse_lfs_quota(text: str, of: str) -> Quota | None:
    """The line of `lfs quota -q`: file system, KiB used, quota, limit, grace, files used, quota, limit, grace. A long name has a line of its own."""
    fields = re.sub(r"[*\[\]]", "", text).split()
    if len(fields) < 8 or not all(fields[index].isdigit() for index in (1, 2, 3, 5, 6, 7)):
        return None
    numbers = [int(fields[index]) for index in (1, 2, 3, 5, 6, 7)]
    return Quota(of, numbers[0] * 1024, (numbers[1] or numbers[2]) * 1024, numbers[3], numbers[4] or numbers[5])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # no entry: a container that runs with any number
        return str(os.geteuid())


# locks


def check_locks(run_dir: Path) -> Iterator[Finding]:
    """Whether a lock in the run folder keeps a second holder out; stages hold one so that two commands do not write the same folder."""
    folder = existing(run_dir)
    kind, _, options = file_system(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".iberlm-doctor-") as first, Path(first.name).open("r+b") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                seen, level = "a second holder got the same lock", PROBLEM
            except BlockingIOError:
                seen, level = "flock keeps a second holder out", OK
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            return  # said by the room that is left
        seen, level = f"flock: {error.strerror}", PROBLEM
    mend = "" if level == OK else "choose a run folder on another file system, or have this one mounted with locks (Lustre: -o flock)"
    if level == OK and (without := [option for option in WITHOUT_SHARED_LOCKS.get(kind.removesuffix("4"), ()) if option in options]):
        level, seen = WARNING, f"{kind} is mounted with {without[0]}: a lock is not seen on other nodes"
        mend = "never run the same command on two nodes at once in this folder; Lustre mounted with -o flock would see to it"
    yield Finding(SECTION, "locks", level, f"{seen} ({folder})", mend)


# mounts


def file_system(path: Path) -> tuple[str, str, list[str]]:
    """Kind (ext4, lustre, nfs4, gpfs), mount point and options of the file system that holds `path`; empty where the system does not tell."""
    best: tuple[str, str, list[str]] = ("", "", [])
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return best
    real = str(path.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = _unescape(before.split()[4])
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best[1]):
            kind, _, *options = after.split()
            best = (kind, mount, [*before.split()[5].split(","), *(options[0].split(",") if options else [])])
    return best


def _device_of(mount: str) -> str:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if _unescape(before.split()[4]) == mount:
            return _unescape(after.split()[1])
    return ""


def _unescape(text: str) -> str:
    """The kernel writes blanks and backslashes of a path as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
