"""What one node of an allocation has: `python -m iberlm.launch.job.node FOLDER`, once a node before each start of a job.

It leaves FOLDER/nodes/NODE.json (NODE-ELEMENT.json of an array) and ends with 0 whatever it found; `iberlm.launch.job.start`
judges. A node that leaves nothing, or hangs, is told by its silence.
"""

import csv
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from iberlm.core.errors import IberlmError
from iberlm.core.files import write_json
from iberlm.core.progress import say
from iberlm.launch import records
from iberlm.launch.job.attempts import Attempt, current_attempt, read_job

_ASK_SECONDS = 60
"""A GPU whose driver hangs makes nvidia-smi wait for ever; a sound node with eight answers in seconds."""
_LEAST_FREE_BYTES = 256 << 20
"""Less on the node's own disk, and the kernels' caches cannot be written."""
_CLOCK_SECONDS = 30
"""A clock that is further off makes nonsense of heartbeats and of times in logs."""
_BASIC = ("index", "name", "driver_version", "memory.used")
_HEALTH = ("ecc.errors.uncorrected.volatile.total", "remapped_rows.pending", "remapped_rows.failure", "retired_pages.pending")
"""Fields of `nvidia-smi --help-query-gpu`; older drivers do not know all."""
_XIDS = {
    48: "uncorrectable memory error",
    64: "row remapping failed",
    74: "NVLink error",
    79: "fallen off the bus",
    95: "uncontained memory error",
    119: "GSP timeout",
}
"""Those that point to the device and not to a program (NVIDIA, XID Errors, r555)."""


@dataclass(frozen=True)
class Found:
    """What was found of a node's accelerators."""

    names: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What makes the node useless for the job."""
    remarks: list[str] = field(default_factory=list)
    driver: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """The check of one node, as it lies in nodes/."""

    node: str
    """Slurm's name of it; `host` is its own."""
    host: str
    attempt: str
    """Which start of which job looked: an older record says nothing about now."""
    time: float
    """Seconds since the epoch, by the node's clock."""
    gpus: list[str]
    driver: str
    kernel: str
    temporary: str
    free_bytes: int
    """In `temporary`, the folder for temporary files; -1: cannot be written."""
    problems: list[str]
    remarks: list[str]


def check(accelerator: str, gpus: int, attempt: Attempt) -> NodeRecord:
    """Look at this node. `gpus` is how many the job has asked for on it."""
    found = Found() if accelerator == "none" or gpus == 0 else (_nvidia() if accelerator == "cuda" else _amd())
    problems, remarks = list(found.problems), list(found.remarks)
    if not problems and len(found.names) < gpus and accelerator != "none":
        problems.append(f"{len(found.names)} of {gpus} GPUs")
    temporary = Path(tempfile.gettempdir())
    free = _free_bytes(temporary)
    if free < _LEAST_FREE_BYTES:
        problems.append(f"{temporary}: " + ("cannot be written" if free < 0 else f"{free >> 20} MiB are free"))
    return NodeRecord(
        node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        host=socket.gethostname(),
        attempt=attempt.label,
        time=time.time(),
        gpus=found.names,
        driver=found.driver,
        kernel=platform.release(),
        temporary=str(temporary),
        free_bytes=free,
        problems=problems,
        remarks=remarks,
    )


def record_path(folder: Path, node: str, attempt: Attempt) -> Path:
    """Where the record of a node lies; elements of an array may look at the same node at the same time."""
    return folder / records.NODES / (f"{node}.json" if attempt.element is None else f"{node}-{attempt.element}.json")


def read_records(folder: Path, attempt: Attempt) -> list[NodeRecord]:
    """What the nodes of this start have left."""
    found = []
    for path in sorted((folder / records.NODES).glob("*.json")):
        try:
            record = NodeRecord(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            say(f"start: {path} cannot be read, so that node counts as one that did not answer ({error})")
            continue
        if record.attempt == attempt.label:
            found.append(record)
    return found


def _free_bytes(folder: Path) -> int:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="iberlm-node-") as stream:
            stream.write(b"\0" * 4096)
            stream.flush()
        return shutil.disk_usage(folder).free
    except OSError:
        return -1


def _ask(*command: str) -> tuple[str, str]:
    """What a program prints, and why it did not: one of the two is empty."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "", f"{command[0]} is missing"
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} has not answered for {_ASK_SECONDS} s"
    except OSError as error:
        return "", f"{command[0]} cannot be run ({error})"
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return "", f"{command[0]} ended with {done.returncode}" + (f": {said[0]}" if said else "")
    return done.stdout, ""


def _nvidia() -> Found:
    def query(*fields: str) -> tuple[str, str]:
        return _ask("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")

    text, problem = query(*_BASIC, *_HEALTH)
    if problem:
        text, problem = query(*_BASIC)
    if "missing" in problem:  # a container that was begun without --nv, say; the work itself tells
        devices = [path.name for path in sorted(Path("/dev").glob("nvidia*")) if re.fullmatch(r"nvidia\d+", path.name)]
        return Found(devices, [], [f"{problem}: GPUs are counted by their device files"])
    if problem:
        return Found(problems=[problem])
    found = judge_nvidia(text)
    log, _ = _ask("dmesg")  # most centres forbid it
    return Found(found.names, found.problems, [*found.remarks, *xids(log)], found.driver)


def judge_nvidia(text: str) -> Found:
    """What nvidia-smi printed for `_BASIC`, and `_HEALTH` where the driver knows it: comma-separated, a line a GPU, no units."""
    names, problems, remarks, driver = [], [], [], ""
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) < len(_BASIC):
            problems.append(f"nvidia-smi: {', '.join(row)}")
            continue
        index, name, driver, used, *health = (cell.strip() for cell in row)
        names.append(name)
        values = dict(zip(_HEALTH, health, strict=False))
        if values.get("remapped_rows.failure") in ("1", "Yes"):
            problems.append(f"GPU {index}: remapping of a bad row of its memory failed")
        if values.get("remapped_rows.pending") in ("1", "Yes") or values.get("retired_pages.pending") == "Yes":
            problems.append(f"GPU {index}: bad memory waits for a reset of the device")
        if (errors := values.get("ecc.errors.uncorrected.volatile.total", "")).isdigit() and int(errors):
            remarks.append(f"GPU {index}: {errors} uncorrected memory errors since the driver was loaded")
        if any("ERR!" in cell or "Unknown Error" in cell for cell in row):
            problems.append(f"GPU {index}: the driver cannot read it")
        if used.isdigit() and int(used) > 2048:
            remarks.append(f"GPU {index}: {used} MiB are in use already")
    return Found(names, problems, remarks, driver)


def xids(log: str) -> list[str]:
    """What the kernel's log (`dmesg`) has of NVIDIA's errors that point to a device, the last of each. They may be old: a device may have been reset since."""
    last: dict[tuple[str, int], str] = {}
    for line in log.splitlines():
        if (match := re.search(r"NVRM: Xid \(([^)]*)\): (\d+)", line)) and int(match[2]) in _XIDS:
            last[match[1], int(match[2])] = line.strip()
    return [f"kernel log: Xid {number} ({_XIDS[number]}) of {device}: {line[:200]}" for (device, number), line in last.items()]


def _amd() -> Found:
    driver = _text(Path("/sys/module/amdgpu/version")) or platform.release()
    text, problem = _ask("rocm-smi", "--showproductname", "--json")
    if not problem:
        try:
            cards = {key: value for key, value in json.loads(text).items() if re.fullmatch(r"card\d+", key)}
            return Found([str(value.get("Card Series") or value.get("Card series") or key) for key, value in cards.items()], [], _ras_errors(), driver)
        except (ValueError, AttributeError):
            problem = "rocm-smi printed something else than JSON"
    if "missing" not in problem:
        return Found(problems=[problem], driver=driver)
    # a container without rocm-smi: the kernel's own list, in which processors are entries without SIMD units
    properties = [_text(path / "properties") for path in sorted(Path("/sys/class/kfd/kfd/topology/nodes").glob("*"))]
    names = [
        f"gfx target {match[1]}"
        for entry in properties
        if re.search(r"^simd_count [1-9]", entry, re.M) and (match := re.search(r"gfx_target_version (\d+)", entry))
    ]
    return Found(names, [], [*_ras_errors(), f"{problem}: GPUs are counted by the kernel's list"], driver)


def _ras_errors() -> list[str]:
    """Uncorrected errors that the kernel has counted (amdgpu, RAS), by device and unit."""
    counters = [(path, _text(path)) for path in sorted(Path("/sys/class/drm").glob("card*/device/ras/*_err_count"))]
    counted = [(path, match[1]) for path, text in counters if (match := re.search(r"ue:\s*([1-9]\d*)", text))]
    return [f"{path.parts[4]}: {number} uncorrected errors of {path.name.removesuffix('_err_count')}" for path, number in counted]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _clock_remark(path: Path) -> str:
    """The node's clock against that of the file system, when they differ much."""
    skew = path.stat().st_mtime - time.time()
    return f"the clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} that of the file system" if abs(skew) > _CLOCK_SECONDS else ""


def main(arguments: list[str]) -> int:
    """Look at this node and leave what is found in FOLDER/nodes/."""
    folder = Path(arguments[0])
    job, attempt = read_job(folder), current_attempt()
    record = check(job.accelerator, job.gpus_per_node, attempt)
    path = record_path(folder, record.node, attempt)
    write_json(path, asdict(record))
    if remark := _clock_remark(path):
        record.remarks.append(remark)
        write_json(path, asdict(record))
    return 0


def guarded(main: Callable[[list[str]], int]) -> int:
    """Run a `main` of the job's script: an error of ours is told in a line, with its exit status."""
    try:
        return main(sys.argv[1:])
    except IberlmError as error:
        say(f"iberlm: {error}")
        return error.exit_status


if __name__ == "__main__":
    sys.exit(guarded(main))
