"""An evaluation that is killed goes on where it was, and the store is that of one that was left alone."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.store.store import Store

KILLS = 3


def command(model: Path, validation: Path, run_dir: Path) -> list[str]:
    settings = [f"model={model}", f"validation={validation}", f"run_dir={run_dir}", "suite.tasks=[reading,bits_per_byte]", "batch_size=2"]
    return [sys.executable, "-m", "iberlm", "evaluate", *settings, f"suite.languages=[{','.join(LANGUAGES)}]"]


def unstamped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "created"} for row in rows]


def answered(store: Path) -> int:
    """Bytes of answers that a store holds, in the journal and in its files."""
    found = 0
    for path in store.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # discarded meanwhile
            continue
    return found


@pytest.mark.usefixtures("one_thread")
def test_killed_again_and_again_it_leaves_the_same_store(model: Path, validation: Path, tmp_path: Path) -> None:
    alone = subprocess.run(command(model, validation, tmp_path / "alone"), capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr[-2000:]
    kills, before = 0, 0
    for _ in range(40):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command(model, validation, tmp_path / "killed"), stdout=log, stderr=log)
        while process.poll() is None and (kills == KILLS or answered(tmp_path / "killed" / "store") < before + 2000):
            time.sleep(0.002)
        if process.poll() is not None:
            if kills == KILLS or process.returncode != 0:
                break
            # it was over before this process was awake again, as may be on a busy machine: once more from the beginning
            shutil.rmtree(tmp_path / "killed")
            kills, before = 0, 0
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills, before = kills + 1, answered(tmp_path / "killed" / "store")
    assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    assert kills == KILLS
    stores = [Store(tmp_path / name / "store") for name in ("alone", "killed")]
    items, results = ([unstamped(getattr(store, kind)().to_pylist()) for store in stores] for kind in ("items", "results"))
    assert items[0] == items[1]
    assert results[0] == results[1]
    assert not list((tmp_path / "killed" / "store" / "journal").glob("*.jsonl"))
