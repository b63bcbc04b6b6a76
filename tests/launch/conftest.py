"""The tests' Slurm: brought up once, swept after each test."""

import os
from collections.abc import Iterator

import pytest

from .slurm_cluster import SlurmCluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A real Slurm of three nodes, which all of this process's commands find."""
    if reason := missing():
        if os.environ.get("IBERLM_REQUIRE_SLURM") or os.environ.get("CI"):
            pytest.fail(f"the tests on Slurm may not be skipped here: {reason}")
        pytest.skip(f"NO TEST ON SLURM IS RUN: {reason}")
    cluster = SlurmCluster()
    with pytest.MonkeyPatch.context() as patch:
        try:
            cluster.up()
            for name, value in cluster.environment.items():
                patch.setenv(name, value)
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(autouse=True)
def _swept(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test on Slurm finds a job or a down node that another left."""
    cluster: SlurmCluster | None = request.getfixturevalue("slurm") if "slurm" in request.fixturenames else None
    yield
    if cluster is not None:
        cluster.clean()
