"""What every test has: no network (in child processes too), offline hubs, a quiet environment, and the same examples of a property in every run."""

import os
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

NO_NETWORK = Path(__file__).parent / "no_network"

os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in (str(NO_NETWORK), os.environ.get("PYTHONPATH", "")) if entry)
os.environ.update(OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
runpy.run_path(str(NO_NETWORK / "sitecustomize.py"))  # patches this process, as PYTHONPATH does its children

# neither the load of the machine nor a draw decides whether a property holds; `pytest --hypothesis-profile=default` looks for new examples
settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB (a tmpfs of its own; needs root, which CI and containers have)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
