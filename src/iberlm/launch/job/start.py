"""What happens before the work of each start of a job: `python -m iberlm.launch.job.start FOLDER`.

It removes what an earlier start left for this one, judges the nodes (`iberlm.launch.job.node` has looked at them), writes down
the environment, and decides whether the work may begin. Standard output has the actions for the script, standard error the
words for people. Exit status: 0 begin; 75 not now (a bad node: the job is requeued without it; or somebody's `exit` file); 70
the failure budget is used up (EX_SOFTWARE, never requeued); 6 no node of the allocation is fit.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.errors import ResourceError
from iberlm.core.files import disk_errors
from iberlm.core.progress import say
from iberlm.core.stopping import Interrupted
from iberlm.launch import records
from iberlm.launch.job import attempts, environment, quarantine
from iberlm.launch.job.actions import Actions
from iberlm.launch.job.attempts import Attempt, JobFile, Progress
from iberlm.launch.job.node import NodeRecord, guarded, read_records

SPENT = 70
"""Exit status of a job that was given up."""
EXIT = "exit"
"""File in the run's folder, or the stage's, by which anybody asks the run to save and stop."""
REFUSALS = 5
"""So many allocations in a row with a bad node end the job: then it is hardly the nodes."""
ALIKE = 3
"""So many nodes that were taken out for the same reason make it the set-up's when yet another fails like them."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the decision depends on."""

    job: JobFile
    attempt: Attempt
    history: list[dict[str, Any]] = field(default_factory=list)
    progress: Progress = field(default_factory=list)
    records: list[NodeRecord] = field(default_factory=list)
    """What the nodes of this start have left."""
    gone: Mapping[str, str] = field(default_factory=dict)
    """Nodes of this allocation that Slurm says cannot work."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Nodes of the last start that Slurm says are down or drained; looked at when that start has no end."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    exit_file: Path | None = None
    """Somebody asks the run to stop."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the work begins."""

    status: int = 0
    reason: str = ""
    """Why it does not; empty: it does."""
    bad: dict[str, str] = field(default_factory=dict)
    """Nodes for quarantine."""
    requeue: bool = False


def decide(facts: Facts) -> Decision:
    """Whether this start may begin. Pure: everything it looks at is in `facts`."""
    job, attempt = facts.job, facts.attempt
    lost = {node: f"{why}; it went away while job {attempt.job} ran on it" for node, why in facts.lost.items()}
    if facts.exit_file is not None:
        return Decision(status=Interrupted.exit_status, reason=f"{facts.exit_file} asks the run to stop; submit again to go on", bad=lost)
    unfit = unfit_nodes(facts)
    if reason := _set_up_fault(unfit, facts):
        return Decision(status=ResourceError.exit_status, reason=reason, bad=lost)
    held = {node: facts.quarantined[node] for node in attempt.nodes if node in facts.quarantined}
    if unfit or held:
        named = "; ".join(f"{node}: {why}" for node, why in (held | unfit).items())
        if attempts.refused_in_a_row(facts.history) + 1 >= REFUSALS:
            return Decision(status=SPENT, reason=f"{REFUSALS} allocations in a row had a node that is not fit, the last: {named}", bad=lost | unfit)
        if not job.retry.requeue:
            return Decision(status=ResourceError.exit_status, reason=f"the allocation has a node that is not fit: {named}", bad=lost | unfit)
        return Decision(status=Interrupted.exit_status, reason=named, bad=lost | unfit, requeue=True)
    vain = attempts.starts_in_vain(facts.history, facts.progress)
    if vain >= job.retry.max_starts_without_progress:
        limit = job.retry.max_starts_without_progress
        reason = f"{vain} starts in a row brought the run no further (cluster.retry.max_starts_without_progress={limit}), so it is given up"
        return Decision(status=SPENT, reason=reason, bad=lost)
    return Decision(bad=lost)


def _set_up_fault(unfit: Mapping[str, str], facts: Facts) -> str:
    """Why the check fails for another reason than a bad node; empty where it may be one. Else a run would use up the cluster's nodes one by one."""
    nodes = facts.attempt.nodes
    if not unfit or facts.gone or set(unfit) != set(nodes):
        return ""
    first = nodes[0]
    if len(nodes) > 1:
        return f"all {len(nodes)} nodes fail the check ({first}: {unfit[first]}), so it is the set-up and not a node"
    alike = [node for node, why in facts.quarantined.items() if _without_numbers(why) == _without_numbers(unfit[first])]
    if len(alike) >= ALIKE and first not in alike:
        return f"{first} fails the check as {', '.join(alike)} did ({unfit[first]}), so it is the set-up and not a node; mend it, and empty the quarantine"
    return ""


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def unfit_nodes(facts: Facts) -> dict[str, str]:
    """Nodes of the allocation that cannot do the work, each with the reason.

    A node that did not answer is one, unless none did: then the check itself could not run.
    """
    nodes = facts.attempt.nodes
    answered = {record.node: record for record in facts.records}
    unfit = {node: "; ".join(record.problems) for node, record in answered.items() if record.problems and node in nodes}
    if any(node in answered for node in nodes):
        unfit |= {node: "does not answer" for node in nodes if node not in answered}
    return unfit | {node: why for node, why in facts.gone.items() if node in nodes}


def collect(folder: Path, job: JobFile, attempt: Attempt) -> Facts:
    """Look at everything that the decision depends on."""
    history = attempts.read_history(folder, attempt)
    last, end = attempts.ending_of(history)
    return Facts(
        job=job,
        attempt=attempt,
        history=history,
        progress=attempts.measure_progress(job.folders),
        records=read_records(folder, attempt),
        gone=quarantine.gone_nodes(attempt.nodes, lost=False),
        lost=quarantine.gone_nodes(last["nodes"], lost=True) if last is not None and end is None else {},
        quarantined=quarantine.quarantined(job.run_dir),
        exit_file=next((path for path in (job.run_dir / EXIT, job.out / EXIT) if path.exists()), None),
    )


def clear(folder: Path, job: JobFile) -> None:
    """Remove what an earlier start left and a later step of this one would take for its own."""
    with disk_errors(folder):
        (folder / records.RANKS).unlink(missing_ok=True)
        (job.out / records.STOPPED).unlink(missing_ok=True)
        (folder / records.REPORTS).mkdir(parents=True, exist_ok=True)
        for report in (folder / records.REPORTS).iterdir():  # elements of an array may do this at once
            report.unlink(missing_ok=True)


def note(folder: Path, facts: Facts, decision: Decision) -> None:
    """Add this start to starts.jsonl."""
    last, end = attempts.ending_of(facts.history)
    attempt = facts.attempt
    line = {"event": "start", "job": attempt.job, "element": attempt.element, "restart": attempt.restart, "nodes": attempt.nodes, "time": attempts.now()}
    line |= {"progress": facts.progress, "before": attempts.told(last, end) if last else "", "refused": decision.reason}
    records.append_line(folder / records.STARTS, line)


def announce(facts: Facts, decision: Decision, remarks: list[str]) -> None:
    """Say in the log what is known at this start."""
    attempt = facts.attempt
    where = f"{len(attempt.nodes)} node{'s' if len(attempt.nodes) != 1 else ''}: {', '.join(attempt.nodes)}"
    say(f"start: {facts.job.name}, job {attempt.label.rpartition('-')[0]}, start {attempt.restart + 1} on {where}")
    for line in attempts.retell(facts.history):
        say(f"start: before: {line}")
    if not facts.records:
        say("start: no node has left a check (iberlm.launch.job.node), so nobody has looked at them")
    for record in facts.records:
        for text in record.remarks:
            say(f"start: {record.node}: {text}")
    for text in remarks:
        say(f"start: {text}")
    if decision.reason:
        say(f"start: the work does not begin: {decision.reason}")


def main(arguments: list[str]) -> int:
    """Prepare and judge this start; print the actions; return the exit status."""
    folder = Path(arguments[0])
    job, attempt = attempts.read_job(folder), attempts.current_attempt()
    clear(folder, job)
    facts = collect(folder, job, attempt)
    decision = decide(facts)
    remarks = environment.dump(folder, job, attempt, facts.records)
    note(folder, facts, decision)
    announce(facts, decision, remarks)
    actions: Actions = quarantine.put_away(job, attempt, decision.bad, requeue=decision.requeue)
    print("\n".join(actions.lines()), flush=True)
    return decision.status


if __name__ == "__main__":
    sys.exit(guarded(main))
