"""What IberLM says to Slurm of jobs: submit, queue, cancel; and all else that it asks of Slurm, by the modules that this one names.

Slurm's programs are run from argument lists, each call bounded in time, and their plain text is read, which has kept its
shape from Slurm 22.05 to 25.x (the JSON has not). Nothing here waits or asks twice.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from iberlm.core.errors import ResourceError
from iberlm.launch.records import parse_array
from iberlm.launch.slurm.call import answer, call, known, number
from iberlm.launch.slurm.machine import Limits, Node, Partition, limits, nodes, partitions
from iberlm.launch.slurm.words import FINISHED, explain, never_starts, refusal

__all__ = ["Accounted", "Limits", "Node", "Partition", "QueuedJob", "accounting", "call", "cancel", "explain", "limits", "never_starts"]
__all__ += ["nodes", "partitions", "queue", "queued_elements", "submit"]

SUBMIT_SECONDS = 120.0
"""sbatch tries again by itself when the controller is busy; one that is ended may have submitted."""
_CHUNK = 1000
"""Job numbers in one command line: far below what an argument may hold (128 KiB)."""
_UNKNOWN_JOB = "Invalid job id specified"


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or one element of an array, as squeue has it; finished ones too, as long as the controller knows them (often 5 minutes)."""

    job: int
    """Slurm's number of the job, or of the whole array."""
    element: int | None
    """Number in the array; None without one."""
    name: str
    state: str
    """E.g. PENDING, RUNNING, COMPLETED, TIMEOUT."""
    reason: str
    """Slurm's word why it waits or has ended, e.g. Priority; "" when there is none."""
    partition: str
    nodes: str
    """Nodes that it has or had, as Slurm abbreviates them: node[1-3]; "" while it waits."""
    node_count: int
    """Nodes that it has or asks for."""
    time_used: str
    """[DAYS-][HOURS:]MINUTES:SECONDS; of the present start only."""
    time_left: str
    time_limit: str
    submitted: str
    """ISO 8601 in the cluster's local time; after a requeue the time of that. So are the next two."""
    started: str
    """When it started; of a waiting job when Slurm expects it to; "" when not known."""
    ends: str
    """When it ended, or must; "" when not known."""

    @property
    def label(self) -> str:
        """The number as Slurm's programs take it: 12, or 12_3 of an element."""
        return str(self.job) if self.element is None else f"{self.job}_{self.element}"

    @property
    def is_live(self) -> bool:
        """Waits or runs, or has not let go of its nodes yet."""
        return self.state not in FINISHED

    @property
    def explanation(self) -> str:
        """State and reason in plain words; "" when there is nothing to say."""
        return explain(self.state, self.reason)


@dataclass(frozen=True, kw_only=True)
class Accounted:
    """A job, or one element of an array, as Slurm's accounting has it."""

    job: int
    element: int | None
    state: str
    """Without what Slurm adds to it: CANCELLED, not `CANCELLED by 1000`."""
    exit_status: int
    """0 when it was ended by a signal."""
    signal: int
    seconds: int
    """Of the last start."""
    started: str
    """ISO 8601 in the cluster's local time; "" when it has not."""
    ended: str
    nodes: str
    restarts: int
    """How often it was put back into the queue."""


def submit(script: Path) -> int:
    """Submit a batch script; the number of the job or array.

    Raises `ConfigError` for what a setting can mend (account, QOS, partition, limits) and `ResourceError` for the rest (no sbatch,
    no answer, queue full), each with Slurm's own words and the mend.
    """
    done = call("sbatch", "--parsable", "--", str(script.absolute()), seconds=SUBMIT_SECONDS)
    job = next((found[1] for line in reversed(done.stdout.splitlines()) if (found := re.fullmatch(r"(\d+)(;.*)?", line.strip()))), None)
    if done.returncode != 0 or job is None:
        raise refusal(f"sbatch refuses {script}", done.stderr or done.stdout)
    return int(job)


def queue(jobs: Iterable[int]) -> list[QueuedJob]:
    """What squeue knows of these jobs, in whatever state, each element of an array by itself; unknown ones are left out.

    Raises `ResourceError` when Slurm does not answer.
    """
    found: list[QueuedJob] = []
    for wanted in _chunks(jobs):
        done = call("squeue", "-h", "-r", "-t", "all", "-o", _QUEUE_FORMAT, "--jobs=" + ",".join(map(str, wanted)))
        if done.returncode == 0:
            found += _queued(done.stdout)
        elif _UNKNOWN_JOB not in done.stderr:
            raise refusal("squeue", done.stderr)
        elif len(wanted) > 1:
            # of several numbers squeue passes over those that it does not know; should one refuse them all, the whole queue is read
            found += [job for job in _queued(answer("squeue", "-h", "-r", "-t", "all", "-o", _QUEUE_FORMAT)) if job.job in wanted]
    return sorted(found, key=_order)


# the name comes last: it may hold anything, a separator and a line break too
_QUEUE_FORMAT = "%F|%K|%T|%P|%N|%D|%M|%L|%l|%V|%S|%e|%r|%j"


def _queued(text: str) -> Iterator[QueuedJob]:
    for line in text.splitlines():
        fields = line.split("|", 13)
        # a line that does not begin as one of ours is the rest of a name with a line break, or a heading for another cluster
        if len(fields) < 14 or not fields[0].isdecimal():
            continue
        yield QueuedJob(
            job=int(fields[0]),
            element=int(fields[1]) if fields[1].isdecimal() else None,
            name=fields[13],
            state=fields[2],
            reason="" if fields[12] == "None" else fields[12],
            partition=fields[3],
            nodes=fields[4],
            node_count=number(fields[5]) or 0,
            time_used=fields[6],
            time_left=fields[7],
            time_limit=fields[8],
            submitted=known(fields[9]),
            started=known(fields[10]),
            ends=known(fields[11]),
        )


def queued_elements(user: str | None = None, *, partition: str = "", qos: str = "", account: str = "") -> int:
    """Jobs of a user (None: this one) that wait or run, each element of an array counted; of one partition, QOS or account where that is given."""
    given = {"user": str(os.getuid()) if user is None else user, "partition": partition, "qos": qos, "account": account}
    states = answer("squeue", "-h", "-r", "-o", "%T", *(f"--{option}={value}" for option, value in given.items() if value)).split()
    return sum(state not in FINISHED and state != "COMPLETING" for state in states)


def accounting(jobs: Iterable[int]) -> dict[int, list[Accounted]] | None:
    """What sacct knows of these jobs, by number, elements in order; None where the cluster has no accounting or does not let one read it."""
    text = ""
    for wanted in _chunks(jobs):
        try:
            done = call("sacct", "-nPXD", "--jobs=" + ",".join(map(str, wanted)), "-o", _ACCOUNT_FORMAT)
        except ResourceError:
            return None
        if done.returncode != 0:
            return None
        text += done.stdout
    return read_accounting(text)


_ACCOUNT_FORMAT = "JobID,State,ExitCode,ElapsedRaw,Start,End,NodeList"
_ACCOUNT_LINE = re.compile(r"(\d+)(?:_(\d+|\[[^\]]*\]))?\|([A-Z_]+)[^|]*\|(\d+):(\d+)\|(\d*)\|([^|]*)\|([^|]*)\|(.*)")


def read_accounting(text: str) -> dict[int, list[Accounted]]:
    """Of what sacct writes: a line each start of a job; elements of an array that never started share one, 12_[3-5%2]."""
    starts: dict[tuple[int, int], list[Accounted]] = {}
    unstarted: dict[tuple[int, int], list[Accounted]] = {}
    for line in text.splitlines():
        if (found := _ACCOUNT_LINE.fullmatch(line)) is None:
            continue
        job, elements, state, status, signal, seconds, started, ended, node_list = found.groups()
        record = Accounted(
            job=int(job),
            element=int(elements) if elements and elements.isdecimal() else None,
            state=state,
            exit_status=int(status),
            signal=int(signal),
            seconds=int(seconds or 0),
            started=known(started),
            ended=known(ended),
            nodes="" if node_list == "None assigned" else node_list,
            restarts=0,
        )
        if elements is None or elements.isdecimal():
            starts.setdefault(_order(record), []).append(record)
        elif re.fullmatch(r"\[[\d,-]+(%\d+)?\]", elements):  # a very long list is cut short with dots: squeue knows those elements
            for element in parse_array(elements.strip("[]")):
                unstarted[record.job, element] = [replace(record, element=element)]
    jobs: dict[int, list[Accounted]] = {}
    for (number_of_job, _), records in sorted((unstarted | starts).items()):
        jobs.setdefault(number_of_job, []).append(replace(records[-1], restarts=len(records) - 1))
    return jobs


def cancel(jobs: Iterable[int]) -> None:
    """Cancel jobs, of arrays all elements; those that have ended or are not known are passed over.

    Raises `ResourceError` when Slurm does not answer or a job is somebody else's.
    """
    for wanted in _chunks(jobs):
        done = call("scancel", *map(str, wanted))
        refused = [line for line in done.stderr.splitlines() if not re.search(f"{_UNKNOWN_JOB}|already", line)]
        if done.returncode != 0 and refused:
            raise refusal("scancel", "\n".join(refused))


def _chunks(jobs: Iterable[int]) -> Iterator[list[int]]:
    numbers = sorted({int(job) for job in jobs})
    for first in range(0, len(numbers), _CHUNK):
        yield numbers[first : first + _CHUNK]


def _order(job: QueuedJob | Accounted) -> tuple[int, int]:
    return job.job, -1 if job.element is None else job.element
