"""Submission: everything checked first, then a folder a job, sbatch, and a record of what was submitted."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, IberlmError, ResourceError
from iberlm.core.files import disk_errors, write_json, write_text
from iberlm.core.progress import say
from iberlm.core.resources import CARDS
from iberlm.core.stage import code_version, shown
from iberlm.core.stopping import STOPPED
from iberlm.launch.checks import check_request
from iberlm.launch.job.quarantine import quarantined
from iberlm.launch.plan import Request, gpu_hours, plan_lines
from iberlm.launch.profile import require_verified
from iberlm.launch.records import CONFIG, FOLDER, JOB, LOGS, SCRIPT, JobRecord, append_job, current_jobs, format_array
from iberlm.launch.script import Script, render
from iberlm.launch.slurm import client as slurm
from iberlm.launch.slurm.machine import Machine
from iberlm.launch.snapshot import snapshot, write_snapshot
from iberlm.launch.work import Work

Freeze = Callable[[StageConfig, Path], None]
"""Writes resolved settings as the YAML that `iberlm VERB --frozen` reads."""
ENDING = ("COMPLETING", "SIGNALING", "STAGE_OUT")
TRIGGERS = ("save", "exit")
"""Files in a run folder by which people ask a run to save, or to save and end."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one call of `submit` shares among its jobs."""

    run_dir: Path
    """Absolute."""
    freeze: Freeze
    known: dict[str, int] = field(default_factory=dict)
    """Jobs by name that works may wait for and that are queued already."""
    confirm: float = 0.0
    """GPU-hours that the user has confirmed."""
    dry_run: bool = False


def submit(works: Sequence[Work], common: Submission) -> list[JobRecord]:
    """Submit `works`, each after those that it waits for, which come before it; return the records.

    Under `dry_run` nothing is written: the scripts are printed, and what they would ask for and be refused for is said. Raises `ConfigError` for
    what Slurm would refuse or never start, facts of a profile that nobody has verified, and GPU-hours that must be
    confirmed; `ResourceError` when Slurm does not answer. When sbatch refuses one job, those before it are taken back.
    """
    if common.dry_run:
        for work in works:
            print(render(script_of(work, common, [common.known[name] for name in work.after if name in common.known])))
        for line in plan_lines(requests_of(works), ask_slurm=True):
            say(line)
        return []
    for work in works:
        render(script_of(work, common, []))  # refuses what cannot be quoted
    for work in works:
        require_verified(work.cluster)
    machine, queued = Machine(), Counter[tuple[str, str, str]]()
    for work in works:
        where = (work.cluster.partition, work.cluster.qos, work.cluster.account)
        _check(work, machine, queued[where])
        queued[where] += max(1, len(work.elements))
    confirm_hours(works, common.confirm)
    taken = snapshot()
    records: list[JobRecord] = []
    _remove_triggers(works, common.run_dir)
    try:
        for work in works:
            jobs = common.known | {record.name: record.job for record in records}
            records.append(_submit(work, common, [jobs[name] for name in work.after], taken))
            append_job(common.run_dir, records[-1])  # at once: what is not noted would be submitted again
    except BaseException:
        if records:
            _take_back(records)
        raise
    return records


def _take_back(records: Sequence[JobRecord]) -> None:
    names = ", ".join(f"{record.name} ({record.job})" for record in records)
    try:
        slurm.cancel([record.job for record in reversed(records)])
        say(f"taken back: {names}")
    except IberlmError as error:
        say(f"these could not be taken back, and are noted as submitted: {names}: {error}")


def _check(work: Work, machine: Machine, queued_before: int) -> None:
    size, cluster = work.size, work.cluster
    if unset := [name for name in cluster.pass_environment if name not in os.environ]:
        raise ConfigError(f"cluster.pass_environment: {', '.join(unset)} is not set in this shell, so '{work.name}' could not be given it; export it first")
    if work.uses_gpus and size.gpus_per_node and not cluster.minutes:
        raise ConfigError(f"cluster.walltime_minutes: must be given for '{work.name}': the profile '{cluster.name}' knows no limit of its queue")
    for remark in check_request(
        cluster,
        nodes=size.nodes,
        elements=max(1, len(work.elements)),
        gpus_per_node=size.gpus_per_node,
        cpus_per_task=size.cpus_per_task,
        tasks_per_node=size.tasks_per_node,
        minutes=cluster.minutes,
        queued_before=queued_before,
        machine=machine,
    ):
        say(f"{work.name}: {remark}")


def requests_of(works: Sequence[Work]) -> list[Request]:
    """What `plan` computes with."""
    return [
        Request(
            name=work.name,
            verb=work.verb,
            cluster=work.cluster,
            after=tuple(work.after),
            nodes=work.size.nodes,
            tasks_per_node=work.size.tasks_per_node,
            cpus_per_task=work.size.cpus_per_task or 1,
            gpus_per_node=work.size.gpus_per_node,
            exclusive=work.size.exclusive,
            minutes=work.cluster.minutes,
            elements=max(1, len(work.elements)),
            max_running=work.cluster.max_running,
            device_hours=work.device_hours,
            storage_bytes=work.storage_bytes,
        )
        for work in works
    ]


def confirm_hours(works: Sequence[Work], confirmed: float) -> None:
    """Raise `ConfigError` unless a submission that may use many GPU-hours is confirmed: at a terminal by a word, else by `confirm`.

    Counted are whole allocations at their full walltime, of a training run as many starts as it is planned to need.
    """
    hours = sum(map(gpu_hours, requests_of(works)))
    limit = min(work.cluster.confirm_above_gpu_hours for work in works)
    if hours <= limit or hours <= confirmed:
        return
    told = f"up to {hours:,.0f} GPU-hours, above {limit:g} (cluster.confirm_above_gpu_hours)"
    if confirmed:
        raise ConfigError(f"confirm: {confirmed:g} GPU-hours are confirmed, and this submission may use {told}; confirm={_up(hours)} submits it")
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(f"This submission may use {told}. Submit it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        raise ConfigError("not submitted")
    raise ConfigError(f"this submission may use {told}; look at `iberlm plan`, then give confirm={_up(hours)}")


def _up(hours: float) -> int:
    return int(-(-hours // 1))


def script_of(work: Work, common: Submission, after: list[int]) -> Script:
    """What the batch script of a job is filled with."""
    cluster, size = work.cluster, work.size
    return Script(
        name=work.name,
        verb=work.verb,
        run_dir=common.run_dir,
        folder=common.run_dir / FOLDER / work.name,
        python=cluster.container.python if cluster.container.image else cluster.python or sys.executable,
        cluster=replace(cluster, exclude=sorted({*cluster.exclude, *quarantined(common.run_dir)}), environment=_own_cards() | cluster.environment),
        version=code_version(),
        uses_gpus=work.uses_gpus and size.gpus_per_node > 0,
        ranks=size.ranks > 1,
        arguments=work.arguments,
        share=work.share,
        sweep=work.sweep,
        array=format_array(work.elements, cluster.max_running),
        after=after,
        nodes=size.nodes,
        tasks_per_node=size.tasks_per_node,
        cpus_per_task=size.cpus_per_task,
        gpus_per_node=size.gpus_per_node,
        exclusive=size.exclusive,
        minutes=cluster.minutes,
    )


def _own_cards() -> dict[str, str]:
    """Folders of data cards that the user's shell names: a job takes nothing from that shell, and finds them by this."""
    folders = [str(Path(entry).absolute()) for entry in os.environ.get(CARDS, "").split(os.pathsep) if entry]
    return {CARDS: os.pathsep.join(folders)} if folders else {}


def _submit(work: Work, common: Submission, after: list[int], taken: tuple[dict[str, object], str]) -> JobRecord:
    script = script_of(work, common, after)
    folder = script.folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (common.run_dir / FOLDER / LOGS).mkdir(exist_ok=True)
    described = work.description(common.run_dir, script.version)
    if work.sweep:
        for number in work.elements:
            element, out = folder / str(number), Path(work.settings[number].out).absolute()
            _write_job(element, work.settings[number], described | {"out": str(out), "folders": [str(out)]}, common)
    else:
        _write_job(folder, work.settings[0], described, common)
    write_snapshot(folder, taken)
    write_text(folder / SCRIPT, render(script))
    job = slurm.submit(folder / SCRIPT)
    return JobRecord(
        name=work.name,
        stage=work.stage,
        verb=work.verb,
        job=job,
        array=script.array,
        after=after,
        cluster=work.cluster.name,
        nodes=work.size.nodes,
        tasks_per_node=work.size.tasks_per_node,
        cpus_per_task=work.size.cpus_per_task,
        gpus_per_node=work.size.gpus_per_node,
        minutes=work.cluster.minutes,
        out=str(work.out),
        goal=work.goal,
        submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _write_job(folder: Path, settings: StageConfig, described: dict[str, object], common: Submission) -> None:
    # what an earlier submission left counts no more: a person has looked at it, and its failures are not this one's
    shutil.rmtree(folder / "reports", ignore_errors=True)
    common.freeze(frozen_settings(settings), folder / CONFIG)
    write_json(folder / JOB, described)


def frozen_settings(settings: StageConfig) -> StageConfig:
    """The settings that a job runs with: without what only a submission reads."""
    return replace(settings, dry_run=False, confirm=0.0, cluster=replace(settings.cluster, facts={}))


def _remove_triggers(works: Sequence[Work], run_dir: Path) -> None:
    """Files of an earlier stop: whoever submits again wants the run to go on."""
    folders = {run_dir, *(work.out for work in works), *(Path(settings.out) for work in works for settings in work.settings)}
    for path in (folder / name for folder in sorted(folders) for name in TRIGGERS):
        if path.is_file():
            path.unlink()
            say(f"removed {shown(path)}, which had asked an earlier job to {path.name}")
    for folder in folders:
        (folder / STOPPED).unlink(missing_ok=True)


def live_jobs(run_dir: Path) -> dict[str, tuple[JobRecord, list[int]]]:
    """Submissions of a run that are queued or run now, by name, with the array elements that are (none without an array).

    Raises `ResourceError` while one is ending: whether it is to be submitted again will be known when it has.
    """
    records = current_jobs(run_dir)
    queued = slurm.queue([record.job for record in records]) if records else []
    found: dict[str, tuple[JobRecord, list[int]]] = {}
    for record in records:
        # one that waits for a job that has failed is about to be removed by Slurm
        own = [entry for entry in queued if entry.job == record.job and entry.is_live and entry.reason != "DependencyNeverSatisfied"]
        if any(entry.state in ENDING for entry in own):
            raise ResourceError(f"{record.name}: job {record.job} is just ending; run the same command again in a minute")
        if own:
            found[record.name] = (record, sorted(entry.element for entry in own if entry.element is not None))
    return found


def table(records: Sequence[JobRecord]) -> list[str]:
    """One line a job: name, number, what it waits for, size, walltime."""
    rows = [["job", "number", "after", "size", "walltime", "array"]]
    for record in records:
        gpus = f" x {record.gpus_per_node} GPUs" if record.gpus_per_node else f" x {record.tasks_per_node * record.cpus_per_task or '?'} cores"
        size = f"{record.nodes} {'node' if record.nodes == 1 else 'nodes'}{gpus}"
        minutes = f"{record.minutes // 60}:{record.minutes % 60:02d} h" if record.minutes else "queue's"
        rows.append([record.name, str(record.job), ", ".join(map(str, record.after)) or "-", size, minutes, record.array or "-"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
