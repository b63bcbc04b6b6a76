"""What happens after the work of each start of a job: `python -m iberlm.launch.job.end FOLDER STATUS`.

It decides whether the job is to run again, and which node a failure is put down to, and adds the end to starts.jsonl. Standard
output has the actions for the script, standard error the words for people. The exit status is 0; the script ends with the
work's own.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from iberlm.core.errors import CardError, ConfigError, CorruptError, DataError
from iberlm.core.progress import say
from iberlm.core.stopping import Interrupted
from iberlm.launch import records
from iberlm.launch.job import attempts, blame, quarantine
from iberlm.launch.job.attempts import Attempt, JobFile, Progress
from iberlm.launch.job.node import NodeRecord, guarded, read_records
from iberlm.launch.job.start import SPENT

TOLD_OF_LIMIT = 128 + signal.SIGUSR2
"""Exit status of a stage that does not listen for the signal before the limit, and ends of it."""
ENDED = 128 + signal.SIGTERM
TOLD = (Interrupted.exit_status, ENDED, TOLD_OF_LIMIT)
"""Exit statuses of work that did not fail."""
MENDED_BY_PEOPLE = tuple(kind.exit_status for kind in (ConfigError, CardError, DataError, CorruptError))
"""Exit statuses of errors that come again until somebody mends what they say."""
STATE = "IBERLM_JOB_STATE"
"""Variable in which the script hands over what `squeue -h -j JOB -O State,PreemptTime` says of the job, since squeue may be missing in a container."""
_SLACK_SECONDS = 45.0
"""Slurm looks at limits about every 30 s."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the decision depends on."""

    job: JobFile
    attempt: Attempt
    status: int
    """What the work ended with."""
    seconds: float
    """Since the start."""
    ending: bool = False
    """Slurm is ending the job: its state is not RUNNING. To requeue it would bring back what somebody cancelled."""
    preempted: bool = False
    reason: str = ""
    """Of stopped.json: SIGUSR2, SIGTERM or exit; empty: nobody says."""
    reports: list[blame.Report] = field(default_factory=list)
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Slurm's names of hosts."""
    gone: Mapping[str, str] = field(default_factory=dict)
    """Nodes of this start that Slurm says are down or drained; looked at when the work failed."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """This start and those before it."""
    progress: Progress = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of the job."""

    kind: str
    """complete, limit, node, preempted, ended, exit, mend, given-up or failed."""
    message: str
    requeue: bool = False
    blamed: dict[str, str] = field(default_factory=dict)


def decide(facts: Facts) -> Decision:
    """Whether the job runs again. Pure: everything it looks at is in `facts`."""
    status, name = facts.status, facts.job.name
    if status == 0 and not facts.ending:  # srun ends with 0 for a step that Slurm had to kill
        return Decision(kind="complete", message=f"{name} is complete")
    if status == SPENT:
        return Decision(kind="given-up", message="given up")
    if status in MENDED_BY_PEOPLE:
        return Decision(kind="mend", message=f"ended with status {status}; what is said above has to be mended before it is submitted again")
    if status in (0, *TOLD) or facts.ending:
        return _stopped(facts, _asked_by(facts))
    suspects = blame.suspects(facts.reports, facts.attempt.nodes, facts.hosts, facts.job.ranks)
    how = f"was ended by {_signal(status - 128)}" if status > 128 else f"failed with status {status}"
    return _again(facts, Decision(kind="failed", message=how, blamed=suspects))


def _asked_by(facts: Facts) -> str:
    """Who asked the work to stop: `exit` (a file), `limit` (its signal), `time` (the limit itself), `preempted` or `person`."""
    limit = 60.0 * facts.job.minutes
    if facts.reason == "exit":
        return "exit"
    if limit and facts.seconds >= limit - _SLACK_SECONDS and (facts.ending or facts.reason == signal.SIGTERM.name):
        return "time"
    if facts.ending:
        return "person"  # or preemption without grace, after which Slurm requeues the job itself
    if facts.preempted:
        return "preempted"
    if facts.status == TOLD_OF_LIMIT or facts.reason == signal.SIGUSR2.name:
        return "limit"
    # who does not say by what it was stopped is taken to have been stopped by the signal when it was due
    due = limit and facts.status == Interrupted.exit_status and facts.seconds >= limit - facts.job.signal_seconds - _SLACK_SECONDS
    return "limit" if due and not facts.reason else "person"


def _stopped(facts: Facts, asked_by: str) -> Decision:
    if asked_by == "limit":
        return _again(facts, Decision(kind="limit", message="its time was nearly up"))
    if asked_by == "time":
        return _again(facts, Decision(kind="limit", message="its time was up before it had stopped (a larger cluster.signal_seconds gives it more)"))
    if asked_by == "preempted":  # whoever ends within the time of grace has ended, as Slurm sees it
        return _again(facts, Decision(kind="preempted", message="was preempted"))
    if asked_by == "exit":
        message = "an `exit` file asked it to stop, and it saved; whoever submits it again goes on from there (that removes the file)"
        return Decision(kind="exit", message=message)
    if facts.ending and (lost := {node: why for node, why in facts.gone.items() if "DOWN" in why or "FAIL" in why}):
        told = "; ".join(f"{node} failed: {why}" for node, why in lost.items())
        return Decision(kind="node", message=f"{told}; Slurm puts the job back into the queue by itself")
    return Decision(kind="ended", message="was told to end by scancel or a signal (or Slurm preempted it, and requeues it itself); submit it again to go on")


def _again(facts: Facts, found: Decision) -> Decision:
    """`found` with a requeue, unless that is switched off or the budget is used up."""
    retry = facts.job.retry
    vain = attempts.starts_in_vain(facts.history, facts.progress)
    if not retry.requeue:
        return Decision(kind=found.kind, message=f"{found.message}; cluster.retry.requeue is off, so it ends here", blamed=found.blamed)
    if found.kind == "limit" and vain and facts.job.verb not in records.SAVES:
        return Decision(kind="given-up", message=f"{found.message}, and nothing of it is saved; submit it again with a longer cluster.walltime_minutes")
    if vain >= retry.max_starts_without_progress:
        message = (
            f"{found.message}; {vain} starts in a row brought the run no further (cluster.retry.max_starts_without_progress="
            f"{retry.max_starts_without_progress}), so it is given up"
        )
        return Decision(kind="given-up", message=message, blamed=found.blamed)
    return Decision(kind=found.kind, message=f"{found.message}; it is requeued", requeue=True, blamed=found.blamed)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def collect(folder: Path, job: JobFile, attempt: Attempt, status: int) -> Facts:
    """Look at everything that the decision depends on."""
    history = attempts.read_history(folder, attempt, this=True)
    checks = read_records(folder, attempt)
    ending, preempted = slurm_state(os.environ.get(STATE, ""))
    return Facts(
        job=job,
        attempt=attempt,
        status=status,
        seconds=max(0.0, time.time() - _began(history, checks)),
        ending=ending,
        preempted=preempted,
        reason=_stop_reason(job.out),
        reports=read_reports(folder / records.REPORTS),
        hosts={record.host: record.node for record in checks},
        gone=quarantine.gone_nodes(attempt.nodes, lost=True) if status and status not in TOLD else {},
        history=history,
        progress=attempts.measure_progress(job.folders),
    )


def slurm_state(text: str) -> tuple[bool, bool]:
    """From what the script hands over in `STATE`: whether Slurm is ending the job, and whether it has preempted it."""
    state, preempted = [*text.split(), "", ""][:2]
    return state not in ("", "RUNNING"), preempted[:1].isdigit()


def _began(history: list[dict[str, Any]], checks: list[NodeRecord]) -> float:
    """When this start of the job began, in seconds since the epoch: Slurm says so since version 23.02, else the first that is known of it."""
    if (told := os.environ.get("SLURM_JOB_START_TIME", "")).isdigit():
        return float(told)
    start, _ = attempts.ending_of(history)
    known = [record.time for record in checks] + ([datetime.fromisoformat(start["time"]).timestamp()] if start else [])
    return min(known, default=time.time())


def _stop_reason(out: Path) -> str:
    try:
        return str(json.loads((out / records.STOPPED).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_reports(folder: Path) -> list[blame.Report]:
    """What the ranks left; a report that cannot be read is one that was not left."""
    found: list[blame.Report] = []
    for path in sorted(folder.glob("rank-*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            found.append({key: value[key] for key in ("class", "message", "exit_status", "time", "host", "rank")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"end: {path} cannot be read ({error})")
    return found


def main(arguments: list[str]) -> int:
    """Judge the end of this start; print the actions."""
    folder, status = Path(arguments[0]), int(arguments[1])
    job, attempt = attempts.read_job(folder), attempts.current_attempt()
    facts = collect(folder, job, attempt, status)
    decision = decide(facts)
    bad = dict(facts.gone) | quarantine.blame(job, decision.blamed)
    line = {"event": "end", "job": attempt.job, "element": attempt.element, "restart": attempt.restart, "status": status, "time": attempts.now()}
    line |= {"kind": decision.kind, "message": decision.message, "requeue": decision.requeue, "progress": facts.progress, "blamed": decision.blamed}
    records.append_line(folder / records.STARTS, line)
    if status:
        say(f"end: {job.name}, job {attempt.label.rpartition('-')[0]}: {decision.message}")
    for node, why in decision.blamed.items():
        say(f"end: the failure is put down to {node}: {why}")
    if decision.kind == "given-up":
        for text in attempts.retell([*facts.history, line]):
            say(f"end: {text}")
    print("\n".join(quarantine.put_away(job, attempt, bad, requeue=decision.requeue).lines()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
