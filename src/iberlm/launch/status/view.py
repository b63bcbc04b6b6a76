"""`iberlm status` as people read it: a line a stage and what belongs to it below; in colours on a terminal, plain and aligned elsewhere."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from iberlm.core.stage import shown
from iberlm.launch.records import format_array
from iberlm.launch.status.evidence import Shards, Steps
from iberlm.launch.status.jobs import CANCELLED, COMPLETE, FAILED, NEVER, QUEUED, RUNNING, STOPPED, Elements, Job, Start
from iberlm.launch.status.reasons import clean
from iberlm.launch.status.run import DAMAGED, UNFINISHED, RunStatus, Stage, span

_STYLES = {COMPLETE: "green", RUNNING: "bold cyan", QUEUED: "yellow", NEVER: "bold red", STOPPED: "yellow", CANCELLED: "yellow", FAILED: "bold red"}
_STYLES |= {DAMAGED: "bold red", UNFINISHED: "yellow"}
_STARTS = 5
"""Starts of a job that are told one by one, the last ones."""


class Row(NamedTuple):
    """One stage as it is shown."""

    name: str
    state: str
    lines: list[str]


def show(console: Console, status: RunStatus) -> None:
    """Print the status."""
    if not console.is_terminal:
        for line in lines(status):
            print(line)
        return
    console.print(Text(_title(status), style="bold"))
    table = Table.grid(padding=(0, 2))
    for row in rows(status):
        details = Text("\n".join(row.lines))
        table.add_row(Text(row.name, style="bold"), Text(row.state, style=_STYLES.get(row.state, "")), details)
    console.print(table)
    for line in footer(status):
        console.print(Text(line))


def lines(status: RunStatus) -> list[str]:
    """The status as plain lines: columns aligned, nothing cut off."""
    found = rows(status)
    names, states = (max((len(text) for text in column), default=0) for column in ([row.name for row in found], [row.state for row in found]))
    told = [_title(status)]
    for row in found:
        for number, text in enumerate(row.lines or [""]):
            head = f"{row.name:<{names}}  {row.state:<{states}}" if number == 0 else " " * (names + states + 2)
            told.append(f"{head}  {text}".rstrip())
    return told + footer(status)


def rows(status: RunStatus) -> list[Row]:
    """The stages in order, each with what is to be said of it."""
    return [Row(clean(stage.name), stage.state, [clean(line) for line in _stage_lines(stage, status.at)]) for stage in status.stages]


def footer(status: RunStatus) -> list[str]:
    """What concerns the run as a whole."""
    found = [f"quarantined: {node}: {why}" for node, why in status.quarantine.items()]
    if not status.stages:
        found.append("nothing has been run here yet: no stage has left anything, and no job was submitted")
    if not status.slurm.startswith(("asked", "not asked")):
        found.append(f"Slurm does not answer, so this is what the files tell: {status.slurm}")
    return [clean(line) for line in found]


def _stage_lines(stage: Stage, at: str) -> Iterator[str]:
    if stage.state == COMPLETE:
        took = f", took {span(stage.wall_seconds)}" if stage.wall_seconds is not None else ""
        reached = f"; step {stage.steps.step:,}" + (f", loss {stage.steps.loss:.3f}" if stage.steps.loss is not None else "") if stage.steps else ""
        yield f"{_when(stage.finished, at)}{took}{reached}" if stage.finished else ""
        for job in stage.jobs:
            if job.requeues:
                yield (
                    f"{_job(job)}: began {len(job.starts)} times"
                    if not job.array
                    else f"{_job(job)}: {job.requeues} {'start' if job.requeues == 1 else 'starts'} of elements had to be repeated"
                )
                yield from _starts(job.starts, at)
        return
    for job in stage.jobs:
        yield from _job_lines(job, at, alone=len(stage.jobs) == 1)
    if stage.why and not stage.jobs:
        yield stage.why
    yield from _progress_lines(stage, at)
    yield from stage.remarks
    if stage.mend:
        yield f"-> {stage.mend}"


def _job_lines(job: Job, at: str, *, alone: bool) -> Iterator[str]:
    name = _job(job) if alone else f"{job.name} ({_job(job)})"
    state = "" if alone or job.state == CANCELLED else f"{job.state}: "  # of what was cancelled the reason says so
    if job.state == RUNNING:
        parts = [f"on {job.nodes}" if job.nodes else "", f"for {job.elapsed}" if job.elapsed else "", f"{job.time_left} left" if job.time_left else ""]
        words = ", ".join(part for part in parts if part)
        yield f"{name}: {state}{words}{f'; {job.why}' if job.why and not job.elements else ''}".rstrip(": ")
    elif job.state in (QUEUED, NEVER):
        expected = f"; {'starts again' if job.again else 'expected to start'} {_when(job.expected, at)}" if job.expected else ""
        yield f"{name}: {state}since {_when(job.submitted, at)}: {job.why or 'waits'}{expected}"
    else:
        ended = f" ({_when(job.ended, at)})" if job.ended else ""
        yield f"{name}: complete{ended}" if job.state == COMPLETE else f"{name}: {state}{job.why or 'no more is known'}{ended}"
    if job.elements:
        yield f"  {_elements(job.elements)}"
        if job.why and job.state == RUNNING:
            yield f"  {job.why}"
    if job.requeues and not job.array:
        yield f"  began {len(job.starts)} times"
    yield from _starts(job.starts, at) if job.requeues else []
    if job.state == FAILED and job.logs:
        yield f"  log: {shown(Path(job.logs[0]))}"


def _starts(starts: Sequence[Start], at: str) -> Iterator[str]:
    if len(starts) > _STARTS:
        yield f"    (the last {_STARTS} of them)"
    for start in starts[-_STARTS:]:
        element = f"element {start.element}, " if start.element is not None else ""
        yield f"    {element}start {start.number}, {_when(start.time, at)}, {','.join(start.nodes)}: {start.ended or 'runs'}"


def _progress_lines(stage: Stage, at: str) -> Iterator[str]:
    part = f"{stage.part}: " if stage.part else ""
    if stage.shards and stage.shards.total:
        yield part + _shards(stage.shards, stage.part or stage.name)
    if stage.steps:
        yield part + ", ".join(_steps(stage.steps, going=stage.state == RUNNING))
    if stage.phase:
        yield part + stage.phase
    elif stage.part and not stage.steps and not stage.shards:
        yield f"in {stage.part}"


def _steps(steps: Steps, *, going: bool) -> Iterator[str]:
    goal = f" of {steps.goal:,} ({100 * steps.step / steps.goal:.1f}%)" if steps.goal else ""
    yield f"step {steps.step:,}{goal}"
    if steps.loss is not None:
        yield f"loss {steps.loss:.3f}"
    if steps.tokens_per_second is not None and going:
        yield f"{steps.tokens_per_second:,.0f} tokens/s"
    if steps.mfu is not None and going:
        yield f"MFU {100 * steps.mfu:.1f}%"
    if steps.seconds_left is not None and going and steps.step < steps.goal:
        yield f"about {span(steps.seconds_left)} of steps left"
    yield f"last checkpoint: step {steps.checkpoint:,}" if steps.checkpoint is not None else "no checkpoint yet"
    if steps.skipped:
        yield f"{steps.skipped} {'step was' if steps.skipped == 1 else 'steps were'} not applied"
    if steps.rollbacks:
        yield f"went back to a checkpoint {steps.rollbacks} {'time' if steps.rollbacks == 1 else 'times'}"


def _shards(shards: Shards, stage: str) -> str:
    step = shards.label.removeprefix(f"{stage}: ")  # a stage of one map has its own name for a label
    return f"{shards.done:,} of {shards.total:,} shards ({100 * shards.done / shards.total:.0f}%)" + (f" of '{step}'" if step and step != stage else "")


def _elements(elements: Elements) -> str:
    named = {"complete": elements.complete, "running": elements.running, "queued": elements.queued, "not done": elements.failed}
    parts = [
        f"{len(numbers)} {word}" + (f" ({format_array(numbers)})" if word in ("running", "not done") else "") for word, numbers in named.items() if numbers
    ]
    total = sum(len(numbers) for numbers in named.values())
    return f"{total} {'element' if total == 1 else 'elements'}: {', '.join(parts)}"


def _job(job: Job) -> str:
    return f"{'array' if job.array else 'job'} {job.job}"


def _title(status: RunStatus) -> str:
    return clean(f"{shown(Path(status.run_dir))}  {datetime.fromisoformat(status.at):%Y-%m-%d %H:%M:%S}")


def _when(time: str, at: str) -> str:
    """A time as people say it: 14:05:10 of today, else with the date."""
    try:
        moment, now = datetime.fromisoformat(time).astimezone(), datetime.fromisoformat(at).astimezone()
    except ValueError:
        return time
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"
