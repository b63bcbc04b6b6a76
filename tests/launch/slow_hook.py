"""A training hook that makes the first two starts of a job slow enough for faults to reach them. It needs nothing of the tests."""

import os
import time
from typing import Any


def slow(context: Any) -> dict[str, float]:
    """Wait at each validation, until the job has been begun for the third time."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "2" if "SLURM_JOB_ID" not in os.environ else "0")) < 2:
        time.sleep(4.0)
    return {}
