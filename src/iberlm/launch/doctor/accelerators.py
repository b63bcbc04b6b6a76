"""Checks of what needs torch: that packages can be imported, that torch's build fits the driver and the GPUs, that ranks can talk. All in a child process."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.launch.doctor.checks import GIB, NOTE, OK, PROBLEM, WARNING, Finding, ask

CHILD = "iberlm.launch.doctor.child"
CHILD_SECONDS = 300.0
"""For all imports and exchanges together: a cold shared file system takes minutes for torch."""
SLOW_IMPORT_SECONDS = 30.0
_CUDA_OF_DRIVER = re.compile(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)")


@dataclass(kw_only=True)
class Probe:
    """What the child told."""

    failed: dict[str, str] = field(default_factory=dict)
    """Module -> why it cannot be imported."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Module -> how long its import took."""
    told: dict[str, Any] = field(default_factory=dict)
    """torch, cuda, hip: versions; gpus, gloo, nccl: what each fork said."""


def probe(modules: Sequence[str]) -> Probe:
    """Import `modules` in a child, and examine torch there. A child that crashes is begun again after the module that did it."""
    found, left = Probe(), list(modules)
    while left:
        status, out = _run_child(left)
        begun = ""
        for line in map(json.loads, filter(None, out.splitlines())):
            begun = line.get("begin", begun)
            if "failed" in line:
                found.failed[line["failed"]] = line["error"]
            elif "imported" in line:
                found.seconds[line["imported"]] = line["seconds"]
            elif "begin" not in line:
                found.told |= line
        if status == 0:
            break
        if not begun:
            found.failed[left[0]] = f"its process did not begin (status {status})"
            break
        if begun not in found.failed:
            took = f"it took longer than {CHILD_SECONDS:g} s" if status is None else f"it ended the process ({_how(status)})"
            found.failed[begun] = took
            found.seconds.pop(begun, None)
        left = left[left.index(begun) + 1 :]
    return found


def _how(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def _run_child(modules: list[str]) -> tuple[int | None, str]:
    """Exit status and output; None when it took too long."""
    command = [sys.executable, "-m", CHILD, *modules]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its forks too
        out, _ = process.communicate()
        return None, out
    return process.returncode, out


def check_imports(found: Probe) -> Iterator[Finding]:
    """Every package comes up, and how long that takes."""
    section = "Packages"
    for module, error in found.failed.items():
        mend = "pip install --force-reinstall the package: it was built for another machine, another Python or another version of its neighbours"
        yield Finding(section, module, PROBLEM, f"installed, but cannot be imported: {error}", mend)
    seconds = sum(found.seconds.values())
    slow = seconds > SLOW_IMPORT_SECONDS
    mend = "a shared file system is slow with many small files: keep the environment in a container image, or on a faster file system" if slow else ""
    yield Finding(section, "imports", WARNING if slow else OK, f"{len(found.seconds)} packages imported in {seconds:.1f} s", mend)


def check_gpus(found: Probe, cluster: ClusterConfig) -> Iterator[Finding]:
    """GPUs by their driver and by torch, and torch's build against the driver."""
    section = "GPUs"
    expected = cluster.accelerator != "none" and (not cluster.is_slurm or "SLURM_JOB_ID" in os.environ)
    drivers = [*_nvidia(), *_amd()]
    by_driver = 0
    for entry in drivers:
        yield entry.finding
        by_driver += entry.devices
    usable = _usable(found)
    yield from _build(found, drivers, usable)
    if not drivers and not usable:
        level = PROBLEM if expected else NOTE
        mend = "ask for GPUs (salloc --gres=gpu:1), or load the driver; nvidia-smi or rocm-smi must show them" if expected else ""
        elsewhere = cluster.is_slurm and cluster.accelerator != "none" and not expected
        seen = f"none here; those of {cluster.name} are on its compute nodes: run this in a job there" if elsewhere else "none here"
        yield Finding(section, "devices", level, seen, mend)
    for number, gpu in enumerate(usable):
        memory = f"{gpu['memory_bytes'] / GIB:.1f} GiB"
        if gpu["error"]:
            mend = "install a build of torch that has kernels for this GPU, or see whether somebody else uses it"
            yield Finding(section, f"GPU {number}", PROBLEM, f"{gpu['name']}, {memory}: cannot compute: {gpu['error']}", mend)
        else:
            yield Finding(section, f"GPU {number}", OK, f"{gpu['name']}, {memory}, computes")
    if cluster.device.name and usable and cluster.device.name not in {gpu["name"] for gpu in usable}:
        seen = f"the profile has {cluster.device.name}, and this is {usable[0]['name']}: `iberlm plan` counts with the profile's"
        yield Finding(section, "device.name", NOTE, seen, f"cluster.device.name='{usable[0]['name']}', and its memory, peak and power")
    if by_driver and usable and by_driver != len(usable):
        hidden = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if name in os.environ}
        why = f" ({', '.join(f'{name}={value}' for name, value in hidden.items())})" if hidden else ""
        yield Finding(section, "devices", NOTE, f"torch sees {len(usable)} of {by_driver}{why}")


def check_ranks(found: Probe) -> Iterator[Finding]:
    """Two ranks met and added up a tensor, by gloo and, with two GPUs, by NCCL (on AMD: RCCL)."""
    section = "Ranks"
    if "gloo" not in found.told:
        return  # torch did not come up: said above
    mends = {
        "gloo": "two processes of this machine cannot exchange over loopback: see whether a firewall or a sandbox forbids it",
        "nccl": "run again with NCCL_DEBUG=INFO and read what it says; NCCL_P2P_DISABLE=1 tells whether it is the link between the GPUs",
    }
    for name, mend in mends.items():
        if name not in found.told:
            yield Finding(section, name, NOTE, "not tried: it needs two GPUs here")
            continue
        errors = [result["error"] for result in found.told[name] if "error" in result]
        if errors:
            yield Finding(section, name, PROBLEM, f"all_reduce between two ranks failed: {errors[0]}", mend)
        else:
            seconds = max(result["value"] for result in found.told[name])
            yield Finding(section, name, OK, f"all_reduce between two ranks of this machine, {seconds:.1f} s with the start")


@dataclass(frozen=True)
class Driver:
    """What a driver's own program told."""

    kind: str
    """cuda or rocm."""
    devices: int
    supports: tuple[int, int] | None
    """Newest CUDA that the driver works with."""
    finding: Finding


def _nvidia() -> list[Driver]:
    answer = ask(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
    if answer.status == -1:
        if not Path("/dev/nvidiactl").exists():
            return []
        mend = "put nvidia-smi on PATH (in a container: start it with --nv)"
        return [Driver("cuda", 0, None, Finding("GPUs", "driver", WARNING, "an NVIDIA driver, but no nvidia-smi", mend))]
    if answer.status != 0:
        mend = "the driver is not loaded or the GPU has failed: ask the administrators, or take another node"
        return [Driver("cuda", 0, None, Finding("GPUs", "driver", PROBLEM, f"nvidia-smi: {answer.words}", mend))]
    lines = [[part.strip() for part in line.split(",")] for line in answer.out.splitlines() if line.strip()]
    head = _CUDA_OF_DRIVER.search(ask(["nvidia-smi"]).out)
    supports = (int(head[1]), int(head[2])) if head else None
    kinds = ", ".join(f"{sum(line[0] == name for line in lines)} x {name}" for name in dict.fromkeys(line[0] for line in lines))
    newest = f", for CUDA up to {supports[0]}.{supports[1]}" if supports else ""
    seen = f"NVIDIA driver {lines[0][-1] if lines else '?'}{newest}: {kinds or 'no GPU'}"
    return [Driver("cuda", len(lines), supports, Finding("GPUs", "driver", OK, seen))]


def _amd() -> list[Driver]:
    answer = ask(["rocm-smi", "--showproductname", "--json"])
    if answer.status == -1:
        if not Path("/dev/kfd").exists():
            return []
        mend = "put rocm-smi on PATH (in a container: start it with --rocm)"
        return [Driver("rocm", 0, None, Finding("GPUs", "driver", WARNING, "an AMD driver, but no rocm-smi", mend))]
    try:
        cards = [value for key, value in json.loads(answer.out).items() if key.startswith("card")]
    except (ValueError, AttributeError):
        mend = "the driver is not loaded or the GPU has failed: ask the administrators, or take another node"
        return [Driver("rocm", 0, None, Finding("GPUs", "driver", PROBLEM, f"rocm-smi: {answer.words}", mend))]
    names = [str(card.get("Card Series") or card.get("Card series") or "GPU") if isinstance(card, dict) else "GPU" for card in cards]
    kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return [Driver("rocm", len(cards), None, Finding("GPUs", "driver", OK, f"AMD driver: {kinds or 'no GPU'}"))]


def _usable(found: Probe) -> list[dict[str, Any]]:
    told = found.told.get("gpus") or [{}]
    return list(told[0].get("value") or [])


def _build(found: Probe, drivers: list[Driver], usable: list[dict[str, Any]]) -> Iterator[Finding]:
    """What torch was built for, and whether that fits the driver."""
    if "torch" not in found.told:
        return
    version, cuda, hip = found.told["torch"], found.told["cuda"], found.told["hip"]
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "processors only"
    level, mend = OK, ""
    for driver in drivers:
        if driver.devices and not usable:
            level, mend = PROBLEM, f"install a build of torch for {'CUDA' if driver.kind == 'cuda' else 'ROCm'}: this one cannot use the GPUs"
            error = (found.told["gpus"][0] or {}).get("error")
            built += f"; {error}" if error else ""
        if driver.supports and cuda and int(cuda.partition(".")[0]) > driver.supports[0]:
            level = PROBLEM
            newest = f"{driver.supports[0]}.{driver.supports[1]}"
            mend = f"install a build of torch for CUDA {driver.supports[0]}.x, or have the driver renewed: it works with CUDA up to {newest}"
    yield Finding("GPUs", "torch", level, f"{version}, built for {built}", mend)
