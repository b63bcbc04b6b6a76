"""Nodes that no job of a run may use any more, each with the reason: `RUN_DIR/slurm/quarantine.json`.

A node gets there at once when it fails the check at the start of a job or when Slurm calls it down, and after
`cluster.retry.node_failures` failures of the run that are put down to it. Nobody but a person takes it out again: delete its
entry (or the file) when the node is mended.

    {"NODE": {"reason": "...", "job": 17, "time": "2026-11-23T10:00:00+01:00"}}
"""

import contextlib
import errno
import fcntl
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iberlm.core.errors import CorruptError
from iberlm.core.files import disk_errors, write_json
from iberlm.core.progress import say
from iberlm.launch import records
from iberlm.launch.job.actions import Actions
from iberlm.launch.job.attempts import Attempt, JobFile, now

_ASK_SECONDS = 30
_DOWN = frozenset(("DOWN", "FAIL", "ERROR"))
"""States of a node that cannot work (scontrol(1), NodeState)."""
_AWAY = _DOWN | {"NOT_RESPONDING", "DRAIN", "FAILING"}
"""Those, and that of a node that does not answer, or that an administrator or the centre's own health check has taken out."""


def quarantined(run_dir: Path) -> dict[str, str]:
    """Nodes that the run must not use, and why. Raises `CorruptError` for a file that is not ours."""
    return {node: str(entry["reason"]) for node, entry in _read(run_dir / records.FOLDER / records.QUARANTINE).items()}


def add(run_dir: Path, bad: Mapping[str, str], job: int) -> list[str]:
    """Put nodes into quarantine, each with its reason; return those that were not in it. Jobs on several nodes may do it at once."""
    path = run_dir / records.FOLDER / records.QUARANTINE
    if not bad:
        return []
    with _locked(path):
        held = _read(path)
        new = [node for node in bad if node not in held]
        if new:
            held |= {node: {"reason": bad[node], "job": job, "time": now()} for node in new}
            write_json(path, held)
    for node in new:
        say(f"quarantine: {node} is not used any more by this run: {bad[node]} (delete its entry in {path} when it is mended)")
    return new


def put_away(job: JobFile, attempt: Attempt, bad: Mapping[str, str], *, requeue: bool) -> Actions:
    """Put nodes into quarantine and say what Slurm is to do: nothing beyond `requeue` where nothing is new for it.

    ExcNodeList of a job is replaced, not added to, so the list has what the profiles of the run exclude, too.
    """
    new = add(job.run_dir, bad, attempt.job)
    if not new and not requeue:
        return Actions()
    held = quarantined(job.run_dir)
    exclude = sorted({*held, *_excluded_by_profiles(job)}) if held else []
    return Actions(requeue=requeue, exclude=exclude, chain=_not_begun(job.run_dir, attempt) if new else [])


def blame(job: JobFile, suspects: Mapping[str, str]) -> dict[str, str]:
    """Those of `suspects` (node: reason) that this failure, the latest, brings to `retry.node_failures`, with the reason for quarantine."""
    counts = Counter(suspects.keys())
    for path in (job.run_dir / records.FOLDER).glob(f"*/**/{records.STARTS}"):
        for line in records.read_lines(path):
            counts.update(line.get("blamed", {}).keys())
    limit = job.retry.node_failures
    return {node: f"{_failures(counts[node])} put down to it, the last: {why}" for node, why in suspects.items() if counts[node] >= limit}


def _failures(number: int) -> str:
    return "1 failure of the run is" if number == 1 else f"{number} failures of the run are"


def gone_nodes(nodes: list[str], *, lost: bool) -> dict[str, str]:
    """Those of `nodes` that Slurm says cannot work, each with the reason; none where `scontrol` is not to be had.

    With `lost`, for nodes of a start that failed, drained and silent ones are named, too. For nodes of this start they are not: who is drained may
    end its work, and who is silent was seen by the check. When more than half of several nodes are gone it is the centre, which brings them back,
    and none is named.
    """
    found = judge_states(_show_nodes(nodes), lost=lost) if nodes else {}
    if len(found) > max(1, len(nodes) // 2):
        why = next(iter(found.values()))
        say(f"quarantine: {len(found)} of {len(nodes)} nodes are gone at once ({why}): a matter of the centre, none is put into quarantine")
        return {}
    return found


def judge_states(text: str, *, lost: bool) -> dict[str, str]:
    """As `gone_nodes`, from what `scontrol show node -o` printed."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, state = re.search(r"\bNodeName=(\S+)", line), re.search(r"\bState=(\S+)", line)
        if name is None or state is None:
            continue
        flags = set(re.split(r"[^A-Z_]+", state[1]))
        if flags & (_AWAY if lost else _DOWN) or (lost and state[1].partition("+")[0].endswith("*")):  # *: does not answer
            reason = re.search(r"\bReason=(.*?)(?: \[\S+@\S+\]|$)", line)
            found[name[1]] = f"Slurm says {state[1]}" + (f" ({reason[1]})" if reason and reason[1] else "")
    return found


def _show_nodes(nodes: list[str]) -> str:
    if shutil.which("scontrol") is None:
        return ""
    try:
        done = subprocess.run(["scontrol", "show", "node", "-o", ",".join(nodes)], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"quarantine: scontrol does not answer, so nobody knows what Slurm says of the nodes ({error})")
        return ""
    if done.returncode != 0:
        say(f"quarantine: scontrol show node failed, so nobody knows what Slurm says of the nodes: {done.stderr.strip()}")
    return done.stdout


def _excluded_by_profiles(job: JobFile) -> set[str]:
    found = set(job.exclude)
    for path in (job.run_dir / records.FOLDER).glob(f"*/{records.JOB}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # of another version: its nodes are none of ours
            found |= set(json.loads(path.read_text(encoding="utf-8"))["exclude"])
    return found


def _not_begun(run_dir: Path, attempt: Attempt) -> list[int]:
    """Jobs of the run, this one left out, that have not begun or (arrays) not with all elements."""
    found = []
    for record in records.current_jobs(run_dir):
        lines = [line for path in record.folder(run_dir).glob(f"**/{records.STARTS}") for line in records.read_lines(path)]
        begun = {line["element"] for line in lines if line["event"] == "start" and line["job"] == record.job}
        begun |= {attempt.element} if record.job == attempt.job else set()
        if not begun or set(record.elements) - begun:
            found.append(record.job)
    return found


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path}: cannot be read ({error}); mend it, or delete it to use all nodes again") from error
    if not isinstance(value, dict) or not all(isinstance(entry, dict) and "reason" in entry for entry in value.values()):
        raise CorruptError(f"{path}: is no list of nodes with reasons; mend it, or delete it to use all nodes again")
    return value


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.lock")
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            say(f"quarantine: the file system of {path} has no locks; two jobs that write it in the same moment may lose an entry")
        yield
