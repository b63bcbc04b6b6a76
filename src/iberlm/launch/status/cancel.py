"""Cancel the jobs of a run: those that wait first, so that none begins because another has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iberlm.core.errors import ConfigError
from iberlm.launch.records import JobRecord
from iberlm.launch.slurm import client as slurm
from iberlm.launch.status.run import all_records

ENDING = ("COMPLETING", "STAGE_OUT", "SIGNALING")
"""States in which Slurm has already told a job to end."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A job that would be cancelled."""

    record: JobRecord
    running: bool
    """It, or an element of it, runs."""
    because: str = ""
    """The job that it waits for, where only that one was asked for: Slurm would cancel it too."""

    @property
    def label(self) -> str:
        """As messages name it."""
        return f"{self.record.name} ({self.record.job})"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a cancellation would do."""

    targets: list[Target]
    """In the order in which they are to be cancelled."""
    ending: list[str]
    """Jobs that were told to end before, and still are on their way."""


def find(run_dir: Path, stages: Sequence[str] = ()) -> Found:
    """Jobs of the run (of these stages, or with these names) that Slurm has in its queue, and those that wait for them.

    Raises `ConfigError` for a stage that no job was submitted for, `ResourceError` when Slurm does not answer.
    """
    records = all_records(run_dir)
    known = list(dict.fromkeys([record.stage for record in records] + [record.name for record in records]))
    for stage in stages:
        if stage not in known:
            raise ConfigError(
                f"cancel: '{stage}' has no job in {run_dir}; choose among {', '.join(known)}" if known else f"cancel: no job was submitted from {run_dir}"
            )
    entries = slurm.queue([record.job for record in records]) if records else []
    states = {record.job: {entry.state for entry in entries if entry.job == record.job and entry.is_live} for record in records}
    live = [record for record in records if states[record.job] - set(ENDING)]
    asked = [record for record in live if not stages or record.stage in stages or record.name in stages]
    targets = [Target(record=record, running=states[record.job] != {"PENDING"}) for record in asked]
    targets += _waiting_for(targets, [record for record in live if record not in asked])
    # the end of the chain first: what waits must not begin because what it waits for has gone
    ordered = sorted(targets, key=lambda target: (target.running, -target.record.job))
    ending = [f"{record.name} ({record.job})" for record in records if states[record.job] and states[record.job] <= set(ENDING)]
    return Found(targets=ordered, ending=ending)


def _waiting_for(targets: list[Target], others: list[JobRecord]) -> list[Target]:
    found: list[Target] = []
    names = {target.record.job: target.label for target in targets}
    for record in sorted(others, key=lambda record: record.job):
        if because := next((names[job] for job in record.after if job in names), ""):
            found.append(Target(record=record, running=False, because=because))
            names[record.job] = found[-1].label
    return found


def lines(found: Found) -> list[str]:
    """What would be cancelled, a line a job."""
    return [
        f"  {target.label}: {'runs' if target.running else 'waits'}{f' for {target.because}, and ends with it' if target.because else ''}"
        for target in found.targets
    ]


def cancel(found: Found) -> None:
    """Cancel them, waiting ones first. Raises `ResourceError` when Slurm does not answer."""
    for running in (False, True):
        if jobs := [target.record.job for target in found.targets if target.running is running]:
            slurm.cancel(jobs)
