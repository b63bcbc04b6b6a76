"""Why a job ended, in plain words, from the end of its log and from its exit status.

A log of many ranks ends in dozens of lines that follow from one: who was ended because another had failed, which collective lost its
peer, how srun cleaned up. A table knows kinds of lines and how near each is to the cause; the nearest one is told.
"""

import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from iberlm.launch.status.evidence import tail_lines

TAIL_BYTES = 256 * 1024
"""How much of the end of a log is read: the reason of an end stands near it, and the log of a long run has gigabytes."""
MAX_CHARACTERS = 500

_NODE, _SLURM, _OURS, _KNOWN, _EXCEPTION, _FOLLOWS = range(6)
"""How near to the cause: which node failed, Slurm's word on the job, our own message, a known fault, another exception, what follows from all that."""


@dataclass(frozen=True)
class Reason:
    """Why a job ended."""

    text: str
    """In plain words."""
    line: str
    """The line of the log that says so, without label, time and colours."""
    mend: str = ""
    """What to do; empty where the text says it, or where nothing general can be said."""


@dataclass(frozen=True)
class _Rule:
    place: int
    pattern: re.Pattern[str]
    text: str
    """With the pattern's named groups in braces."""
    mend: str


_MEMORY = "ask for more memory (cluster.memory_gb_per_node), or use less: fewer workers (cluster.workers), a smaller micro_batch_size"
_GPU_MEMORY = "lower micro_batch_size, set activation_checkpointing=full, or share the model among more GPUs (strategy=fsdp2, more cluster.nodes)"
_ENVIRONMENT = "the job's environment is not the one that you tried: see cluster.python, cluster.modules, cluster.setup_file and cluster.container"
_DISK = "free some, and run the same command again"
_HUB = "nodes have no internet: run `iberlm prefetch` where there is one, and give its folder as cluster.bundle"
_BAD_NODE = "tell the centre; leave the node out with cluster.exclude=[NODE], and run the same command again"
_AGAIN = "run the same command again: it goes on from what is saved"

_CANCELLED = r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ DUE TO "
_TASKS = r"srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,-]+): "
_TABLE: list[tuple[int, str, str, str]] = [
    # (how near to the cause, pattern, plain words, mend)
    # Slurm on the job. A STEP that is cancelled, without a reason, only follows from a rank that failed
    (_SLURM, _CANCELLED + r"TIME LIMIT", "ran into its time limit", f"{_AGAIN} (longer: cluster.walltime_minutes)"),
    (_NODE, r"srun: error: Node failure on (?P<node>\S+)", "the node {node} failed", _AGAIN),
    (_SLURM, _CANCELLED + r"NODE FAILURE", "a node failed", _AGAIN),
    (_SLURM, _CANCELLED + r"PREEMPTION", "had to make room for another job (preemption)", _AGAIN),
    (_SLURM, r"\*\*\* JOB \S+ ON \S+ CANCELLED AT (?P<time>[^\s*]+) \*\*\*", "was cancelled at {time}", _AGAIN),
    (
        _SLURM,
        r"(?i)oom[-_]kill event|cgroup out-of-memory handler|exceeded (?:job|step) memory limit|: Out Of Memory$",
        "used more memory than the job was given",
        _MEMORY,
    ),
    # hardware, before what it leads to
    (_KNOWN, r"uncorrectable (?:NVLink|ECC) error|fallen off the bus", "a GPU is defective", _BAD_NODE),
    (_KNOWN, r"(?:CUDA|HIP) out of memory", "a GPU ran out of memory", _GPU_MEMORY),
    (_KNOWN, r"No space left on device", "the disk is full", _DISK),
    (_KNOWN, r"Disk quota exceeded", "the quota is used up (bytes, or number of files)", _DISK),
    (_KNOWN, r"Read-only file system", "the disk cannot be written: a read-only file system", "choose another run_dir, or tell the centre"),
    (
        _KNOWN,
        r"Stale file handle|Input/output error|Transport endpoint is not connected",
        "the file system did not answer",
        f"tell the centre if it comes twice; {_AGAIN}",
    ),
    (_KNOWN, r"No module named (?P<name>'?[\w.]+'?)", "the job's Python has no module {name}", _ENVIRONMENT),
    (_KNOWN, r"line \d+: (?P<name>\S+): command not found", "the node has no program '{name}'", _ENVIRONMENT),
    (_KNOWN, r"execve\(\): (?P<name>.+): No such file or directory", "the node has no program '{name}'", _ENVIRONMENT),
    (
        _KNOWN,
        r"Unable to locate a? ?modulefile for '(?P<name>[^']+)'",
        "there is no module '{name}' to load",
        "cluster.modules: `module avail` on the login node shows the names",
    ),
    (
        _KNOWN,
        r"following module\(s\) are unknown: \"(?P<name>[^\"]+)\"",
        "there is no module '{name}' to load",
        "cluster.modules: `module avail` shows the names",
    ),
    (_KNOWN, r"error while loading shared libraries: (?P<name>[^:]+)", "the library {name} is not found on the node", _ENVIRONMENT),
    (_KNOWN, r"GLIBC(?:XX)?_[\d.]+' not found", "a program is newer than the node's C library", _ENVIRONMENT),
    (
        _KNOWN,
        r"FATAL: +could not open image (?P<name>\S+?):",
        "the container image {name} cannot be opened",
        "cluster.container.image: a .sif file that the nodes see",
    ),
    (
        _KNOWN,
        r"(?i)no CUDA-capable device|No CUDA GPUs are available|No HIP GPUs are available",
        "no GPU is visible to the job",
        "see cluster.gpus_per_node, cluster.gres and the driver (iberlm doctor)",
    ),
    (_KNOWN, r"CUDA driver version is insufficient|driver on your system is too old", "the node's GPU driver is older than what torch needs", _ENVIRONMENT),
    (
        _KNOWN,
        r"OfflineModeIsEnabled|LocalEntryNotFoundError|couldn't connect to 'https://huggingface\.co'|outgoing traffic has been disabled",
        "something that a hub would give is not there",
        _HUB,
    ),
    (_KNOWN, r"Address already in use", "another program on the node uses the port", _AGAIN),
    (_KNOWN, r"Watchdog caught collective operation timeout", "a collective between the GPUs took too long: a rank hung, or the network", _AGAIN),
    (
        _KNOWN,
        r"(?:slurmstepd|srun)\S*: error: Unable to create step for job \d+: (?P<why>.+)",
        "srun cannot start the ranks: {why}",
        "see cluster.tasks_per_node, cluster.cores_per_node and cluster.gpus_per_node",
    ),
    (_KNOWN, _TASKS + r"Bus error", "rank {ranks} on {node} ended by a bus error: /dev/shm or a disk is full", _DISK),
    (_KNOWN, _TASKS + r"Segmentation fault", "rank {ranks} on {node} ended by a segmentation fault", ""),
    (_KNOWN, _TASKS + r"Killed", "rank {ranks} on {node} was killed, most often for lack of memory", _MEMORY),
    (_KNOWN, r"^MemoryError\b|std::bad_alloc|Cannot allocate memory", "the node ran out of memory", _MEMORY),
    (
        _FOLLOWS,
        r"(?i)remote process exited or there was a network error|connection (?:closed|reset) by (?:remote )?peer|DistBackendError",
        "a rank lost its connection to another one",
        "see the log of the other ranks: iberlm logs --errors",
    ),
    (_FOLLOWS, _TASKS + r"(?P<how>Exited with exit code \d+|User defined signal \d|Aborted)", "rank {ranks} on {node}: {how}", ""),
]
_RULES = [_Rule(place, re.compile(pattern), text, mend) for place, pattern, text, mend in _TABLE]

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LABEL = re.compile(r"^ *(\d+): ")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ")
_OWN = re.compile(r"^iberlm: (?P<message>.+)")
_STOPPED = re.compile(r"run the same command again to go on$")
"""What we say when a run was told to stop: that is no error."""
_EXCEPTION_LINE = re.compile(r"^(?:[\w.]+\.)?[A-Z]\w*(?::|$)")
_ERROR = re.compile(r"\b(?:error|ERROR|FATAL|Error):\s")
_START = re.compile(r"\S+ start: \S+, job \S+, start (\d+) on ")
"""What `launch.job.start` says first."""
_TRACE = "Traceback (most recent call last):"


def reason_of(log: Path) -> Reason | None:
    """Why the last start in a log ended; None when the log is not there or says nothing of it."""
    return find_reason(last_start(tail_lines(log, TAIL_BYTES)))


def reasons_by_start(log: Path) -> dict[int, Reason]:
    """Why each start (from 1) in the end of a log ended, as far as the log says."""
    parts: dict[int, list[str]] = {}
    current: list[str] = []
    for line in tail_lines(log, TAIL_BYTES):
        if found := _START.match(line):
            current = parts.setdefault(int(found[1]), [])
        current.append(line)
    return {number: reason for number, lines in parts.items() if (reason := find_reason(lines)) is not None}


def find_reason(lines: Iterable[str]) -> Reason | None:
    """The line nearest to the cause; of equals the last, since what was survived stands before what was not."""
    best: tuple[int, Reason] | None = None
    for place, reason in _candidates(lines):
        if best is None or place <= best[0]:
            best = place, reason
    return best[1] if best else None


class ErrorLines:
    """Tells the lines that say of an error, one after the other: tracebacks whole, by the label of their rank."""

    def __init__(self) -> None:
        self._traces: set[str] = set()

    def keep(self, raw: str) -> bool:
        """Whether the next line is one of them."""
        label, line = split_label(clean(raw))
        inside = label in self._traces
        if line.startswith(_TRACE):
            self._traces.add(label)
        elif inside and line and not line[0].isspace():
            self._traces.discard(label)
        return inside or label in self._traces or _of_line(line) is not None or bool(_ERROR.search(line))


def clean(line: str) -> str:
    """A line without colours and other control characters: a log may hold anything, and none of it moves a cursor."""
    line = _COLOURS.sub("", line.rstrip("\r\n"))
    return line if line.isprintable() else "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)


def split_label(line: str) -> tuple[str, str]:
    """The rank's number that srun puts before a line ('' without one), and the line."""
    found = _LABEL.match(line)
    return (str(int(found[1])), line[found.end() :]) if found else ("", line)  # 3 of a thousand is written 003


def explain_status(status: int) -> str:
    """What an exit status of a job means; empty for 0."""
    known = {
        0: "",
        1: "an error that IberLM did not foresee; the traceback is in the log",
        2: "a setting is wrong",
        3: "a data card forbids it, or is wrong",
        4: "input data cannot be used",
        5: "a file is damaged",
        6: "the machine could not do it",
        75: "told to stop; its state is saved",
        126: "a program could not be started",
        127: "a program was not found",
        130: "interrupted",
    }
    if status in known:
        return known[status]
    if status > 128 and status - 128 in signal.valid_signals():
        return _signal_words(status - 128)
    return "the job failed"


def _signal_words(number: int) -> str:
    words = {
        signal.SIGKILL: "killed, most often for lack of memory",
        signal.SIGTERM: "ended from outside, or because another rank had failed",
        signal.SIGUSR2: "ended by the signal before the time limit; what was finished is kept",
        signal.SIGSEGV: "a segmentation fault",
        signal.SIGBUS: "a bus error: /dev/shm or a disk is full, or a file was cut short",
        signal.SIGABRT: "a library gave up; see the log",
    }
    return words.get(signal.Signals(number), f"ended by {signal.Signals(number).name}")


def last_start(lines: list[str]) -> list[str]:
    """The lines since the job last began: a requeued job appends to its log, and what ended an earlier start is not the news."""
    begun = [number for number, line in enumerate(lines) if _START.match(line)]
    return lines[begun[-1] :] if begun else lines


def _candidates(lines: Iterable[str]) -> Iterator[tuple[int, Reason]]:
    traces: set[str] = set()
    for raw in lines:
        label, line = split_label(clean(raw))
        if line.startswith(_TRACE):
            traces.add(label)
            continue
        ends_trace = label in traces and bool(line) and not line[0].isspace()
        if ends_trace:
            traces.discard(label)
        if (found := _of_line(line)) is not None:
            yield found
        elif ends_trace and _EXCEPTION_LINE.match(line):
            yield _EXCEPTION, Reason(_short(line), _short(line))


def _of_line(line: str) -> tuple[int, Reason] | None:
    if _TIME.match(line):  # what we say on the way: progress, and what earlier starts came to
        return None
    rule, found = next(((rule, found) for rule in _RULES if (found := rule.pattern.search(line))), (None, None))
    if own := _OWN.match(line):
        # our own words stand as they are; what the table knows of them is how to mend it
        message = own["message"]
        return None if _STOPPED.search(message) else (_OURS, Reason(_short(message), _short(line), rule.mend if rule and rule.place == _KNOWN else ""))
    if rule is None or found is None:
        return None
    return rule.place, Reason(rule.text.format(**found.groupdict()), _short(line), rule.mend)


def _short(line: str) -> str:
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1] + "…"
