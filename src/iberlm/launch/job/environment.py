"""What a start of a job ran in: FOLDER/environment/JOB-RESTART.json, so that two starts, or two runs, can be compared.

Modules, the variables that libraries look at, driver, kernel, Python, every installed package, and IberLM's own version at
submission and now. Left out are
the variables that a job takes from the shell that submits (`cluster.pass_environment`), those whose names sound like a
secret, and credentials in addresses.
"""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from iberlm.core.files import write_json
from iberlm.core.stage import code_version
from iberlm.launch import records
from iberlm.launch.job.attempts import Attempt, JobFile, now
from iberlm.launch.job.node import NodeRecord

_FAMILIES = tuple(
    "NCCL RCCL SLURM SRUN HF TRANSFORMERS DATASETS CUDA NVIDIA ROCR ROCM HIP HSA MIOPEN OMP MKL OPENBLAS KMP TORCH TORCHINDUCTOR TRITON PYTORCH GLOO "
    "FI UCX OFI MPICH PMI MASTER LOCAL IBERLM APPTAINER SINGULARITY PYTHON CONDA DS DEEPSPEED XLA GOMP MALLOC".split()
)
_ALONE = frozenset(
    ("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "TMPDIR", "HOME", "LANG", "LC_ALL", "TZ", "HOSTNAME", "MODULEPATH", "XDG_CACHE_HOME")
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def variables(environment: Mapping[str, str], secret: Collection[str] = ()) -> dict[str, str]:
    """The variables that are kept, by name: none of `secret`, and none that sounds like one."""
    kept = (name for name in environment if name in _ALONE or name.split("_")[0] in _FAMILIES)
    return {name: _LOGIN.sub("...@", environment[name]) for name in sorted(kept) if name not in secret and not _SECRET.search(name)}


def packages() -> dict[str, str]:
    """Every package that this Python finds, with its version."""
    found = ((distribution.metadata["Name"], distribution.version) for distribution in importlib.metadata.distributions())
    return dict(sorted((str(name), version) for name, version in found if name))


def describe(job: JobFile, attempt: Attempt, nodes: list[NodeRecord]) -> dict[str, Any]:
    """The environment of this start as plain values."""
    environment = os.environ
    return {
        "job": attempt.job,
        "element": attempt.element,
        "restart": attempt.restart,
        "time": now(),
        "nodes": attempt.nodes,
        "modules": [name for name in environment.get("LOADEDMODULES", "").split(":") if name],
        "variables": variables(environment, job.pass_environment),
        "drivers": {record.node: record.driver for record in nodes if record.driver},
        "kernels": {record.node: record.kernel for record in nodes} or {platform.node(): platform.release()},
        "machine": platform.machine(),
        "python": {"version": platform.python_version(), "executable": sys.executable, "prefix": sys.prefix},
        "packages": packages(),
        "code_version": {"submitted": job.code_version, "now": code_version()},
    }


def dump(folder: Path, job: JobFile, attempt: Attempt, nodes: list[NodeRecord]) -> list[str]:
    """Write the environment of this start; return remarks on it: what is not the same on all nodes, and code that changed since submission."""
    found = describe(job, attempt, nodes)
    write_json(folder / records.ENVIRONMENTS / f"{attempt.label}.json", found)
    code, remarks = found["code_version"], []
    if differ(code["submitted"], code["now"]):
        remarks.append(f"the code is {code['now']} now and was {code['submitted']} when the job was submitted; what runs is the code as it is now")
    for what, versions in (("drivers", found["drivers"]), ("kernels", found["kernels"])):
        if len(set(versions.values())) > 1:
            remarks.append(f"{what} differ: " + ", ".join(f"{version} on {_where(versions, version)}" for version in sorted(set(versions.values()))))
    return remarks


def differ(submitted: str, now: str) -> bool:
    """Whether two code versions, `0.1.0 (COMMIT)` or `0.1.0`, are not the same. Where git is missing, as in most containers, nobody knows the commit."""
    both = all("(" in version for version in (submitted, now))
    return submitted != now if both else submitted.split()[0] != now.split()[0]


def _where(versions: dict[str, str], version: str) -> str:
    nodes = [node for node, value in versions.items() if value == version]
    return ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
