"""`iberlm status`, `logs` and `cancel` at the command line: what is printed, what is asked, what is refused."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from iberlm.cli import job_tools
from iberlm.core.errors import ConfigError, DataError

from .run_folder import complete
from .slurm_cluster import SlurmCluster
from .test_status import submit

app = typer.Typer(pretty_exceptions_enable=False)
for tool in (job_tools.status, job_tools.logs, job_tools.cancel):
    app.command(tool.__name__)(tool)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_without_jobs_has_a_status_no_logs_and_nothing_to_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/default"
    complete(run / "fetch")
    monkeypatch.chdir(tmp_path)
    assert call("status").stdout.splitlines()[0].startswith("runs/default  20")
    value = json.loads(call("status", run, "--json").stdout)
    assert (value["stages"][0]["name"], value["stages"][0]["state"], value["slurm"]) == ("fetch", "complete", "not asked: no job was submitted")
    assert "fetch  complete" in call("status", run, "--watch").stdout  # nothing is going on, so there is nothing to watch
    assert isinstance(call("logs", run).exception, DataError)
    assert call("cancel", run).stdout == "nothing is left to cancel\n"


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    complete(tmp_path / "good" / "fetch")
    wrong = call("status", tmp_path / "bad").exception
    assert isinstance(wrong, ConfigError)
    assert f"runs beside it: {tmp_path}/good" in str(wrong)
    assert isinstance(call("status", tmp_path, "--json", "--watch").exception, ConfigError)
    assert call("status", tmp_path, "--watch", "--interval", "9").exit_code == 2
    assert call("logs", tmp_path, "--rank", "-1").exit_code == 2
    assert isinstance(call("cancel", tmp_path, "pretrain").exception, ConfigError)


def test_cancelling_asks_on_a_terminal_and_needs_yes_elsewhere(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = submit(slurm, run, "fetch", "sleep 3000")
    second = submit(slurm, run, "tokenize", "true", f"--dependency=afterok:{first.job}", after=[first.job])
    array = submit(slurm, run, "evaluate-array", "true", "--hold", stage="evaluate", array="0-2")
    slurm.wait_state(first.job, "RUNNING")
    wrong = call("logs", run, "curate").exception
    assert isinstance(wrong, ConfigError)
    assert "choose among fetch, tokenize, evaluate, evaluate-array" in str(wrong)
    wrong = call("logs", run, "evaluate", "--element", "7").exception
    assert isinstance(wrong, ConfigError)
    assert "there are 0 to 2" in str(wrong)
    wrong = call("logs", run, "tokenize").exception
    assert isinstance(wrong, DataError)
    assert f"tokenize (job {second.job}) has written no log yet" in str(wrong)

    refused = call("cancel", run)
    assert isinstance(refused.exception, ConfigError)
    assert refused.stdout.splitlines() == [
        f"3 jobs of {run}:",
        f"  evaluate-array ({array.job}): waits",
        f"  tokenize ({second.job}): waits",
        f"  fetch ({first.job}): runs",
    ]
    assert at_terminal(run, "n").endswith("nothing was cancelled")
    assert slurm.state(second.job) == "PENDING"
    done = call("cancel", run, "evaluate", "--yes")
    assert done.stdout.splitlines()[-1] == f"cancelled: evaluate-array ({array.job})"
    assert slurm.state(second.job) == "PENDING"
    assert at_terminal(run, "y").endswith(f"cancelled: tokenize ({second.job}), fetch ({first.job})")
    slurm.wait_state(first.job, "CANCELLED")
    assert call("cancel", run).stdout == "nothing is left to cancel\n"


def at_terminal(run: Path, answer: str) -> str:
    """What is printed when somebody sits there and answers."""
    person, terminal = pty.openpty()
    command = f"from pathlib import Path; from iberlm.cli.job_tools import cancel; cancel(Path({str(run)!r}), None, False)"
    with subprocess.Popen([sys.executable, "-c", command], stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
        os.close(terminal)
        asked = b""
        while b"[y/N]" not in asked:
            asked += os.read(person, 1000)
        os.write(person, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=600)
    os.close(person)
    assert process.returncode == 0
    return out.strip()
