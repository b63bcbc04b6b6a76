"""Verbs, pipelines and sweeps with `cluster=` a Slurm cluster: which jobs they are, which of them are missing, and their submission."""

import contextlib
import errno
import fcntl
import functools
import itertools
import math
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from iberlm.cli.curate_verb import SHARDED, CurateConfig, stages
from iberlm.cli.verbs import Verb, pending, verb_of
from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, IberlmError, ResourceError
from iberlm.core.files import disk_errors, sha256_file
from iberlm.core.progress import say
from iberlm.core.shards import missing_elements
from iberlm.core.stage import WouldRunError, shown
from iberlm.launch.offline.bundle import require
from iberlm.launch.records import CONFIG, FOLDER, JobRecord
from iberlm.launch.submit import Submission, confirm_hours, frozen_settings, live_jobs, submit, table
from iberlm.launch.work import CPU, GPU, RANKS, Work, size_of

LOCK = ".lock"
KINDS = {"pretrain": RANKS, "finetune": RANKS, "evaluate": GPU}
"""Of work, by verb; the others take cores."""
NEEDS = {
    "fetch": (),
    "curate": ("fetch",),
    "train_tokenizer": ("curate",),
    "tokenize": ("train_tokenizer",),
    "pretrain": ("tokenize",),
    "evaluate": ("pretrain",),
    "finetune": ("pretrain",),
    "evaluate_finetuned": ("evaluate", "finetune"),  # it is compared with the evaluation of the base model
    "report": ("evaluate", "evaluate_finetuned"),
}
"""Stages of a pipeline that a stage waits for; these wait for the others that it reads."""


def submit_verb(verb: Verb, settings: StageConfig) -> int:
    """Submit one verb; return the exit status. Nothing is submitted when it is complete, or queued already with the same settings."""
    if verb.name == "run":
        return submit_pipelines([settings])
    if (plan := pending(verb, settings)) is None:
        return 0
    run_dir = Path(settings.run_dir).absolute()
    with _alone([settings]):
        if not settings.dry_run and _queued(verb.recipe, settings, run_dir, live_jobs(run_dir)) is not None:
            return 0
        _submit(works_of(verb.recipe, settings, plan), settings, run_dir, {})
    return 0


def submit_sweep(verb: Verb, jobs: Sequence[StageConfig]) -> int:
    """Submit the jobs of a sweep as one array; return the exit status. Those that are complete are left out. Pipelines become a chain each."""
    if verb.name == "run":
        return submit_pipelines(jobs)
    first = jobs[0]
    run_dir, name = Path(first.run_dir).absolute(), f"{verb.recipe}-sweep"
    for job in jobs:
        if size_of(KINDS.get(verb.name, CPU), job.cluster) != size_of(KINDS.get(verb.name, CPU), first.cluster) or job.cluster.name != first.cluster.name:
            raise ConfigError("--multirun: the elements of one array have one size; sweep over cluster settings by separate commands")
        check_before(verb, job)
    if len({job.out for job in jobs}) < len(jobs):
        raise ConfigError("--multirun: two elements would write the same folder; settings of the cluster alone make no sweep")
    missing = [number for number, job in enumerate(jobs) if pending(verb, job) is not None]
    if not missing:
        return 0
    with _alone(jobs):
        _submit_array(verb, jobs, missing, name, run_dir)
    return 0


def _submit_array(verb: Verb, jobs: Sequence[StageConfig], missing: list[int], name: str, run_dir: Path) -> None:
    first = jobs[0]
    if not first.dry_run and (live := live_jobs(run_dir).get(name)) is not None:
        mend = f"wait for it (iberlm status {_folder(run_dir)}), or iberlm cancel {_folder(run_dir)} {name} first"
        raise ConfigError(f"{name}: job {live[0].job} is still queued or running; {mend}")
    out = Path(first.out).absolute().parent
    whole = _work(verb.recipe, first, name=name, out=out, folders=[out])
    whole.settings, whole.elements, whole.sweep, whole.stage = list(jobs), missing, True, name
    _submit([whole], first, run_dir, {})


def submit_pipelines(configs: Sequence[Any]) -> int:
    """Submit what is missing of pipelines, each as a chain of jobs; return the exit status.

    Stages that are complete are left out; those that are queued or run already with the same settings are waited for.
    A stage with cluster=local runs here, and can only come before all that is submitted. What they may use is confirmed together.
    """
    with _alone(configs):
        chains: list[tuple[Any, list[Work], dict[str, int]]] = []
        for config in configs:
            run_dir = Path(config.run_dir).absolute()
            live = {} if config.dry_run else live_jobs(run_dir)
            works, known = pipeline_works(config, live, None if config.dry_run else functools.partial(_run_here, config))
            if works:
                chains.append((config, works, known))
            else:
                say("run: nothing to submit" if known else "run: all stages are complete")
        if len(chains) > 1 and not configs[0].dry_run:
            confirm_hours([work for _, works, _ in chains for work in works], configs[0].confirm)
            for config, _, _ in chains:
                config.confirm = math.inf
        for config, works, known in chains:
            _submit(works, config, Path(config.run_dir).absolute(), known)
    return 0


def _run_here(config: Any, stage: str) -> None:
    from iberlm.cli.pipeline import run_frozen_stage

    run_frozen_stage(stage, getattr(config, stage), Path(config.run_dir).absolute())


@contextlib.contextmanager
def _alone(configs: Sequence[StageConfig]) -> Iterator[None]:
    """Inside, no other command submits from these run folders: two that looked at the queue at once would submit everything twice.

    Raises `ResourceError` while one does. Under `dry_run` nothing is locked, nor written.
    """
    with contextlib.ExitStack() as stack:
        for run_dir in sorted({Path(config.run_dir).absolute() for config in configs if not config.dry_run}):
            path = run_dir / FOLDER / LOCK
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                stream = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResourceError(f"another command is submitting from {shown(run_dir)}; wait for it, and look with iberlm status") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
        yield


def pipeline_works(config: Any, live: dict[str, tuple[JobRecord, list[int]]], run_here: Callable[[str], None] | None) -> tuple[list[Work], dict[str, int]]:
    """The jobs of what is missing of a pipeline, and the numbers of queued ones that they wait for, by name.

    `run_here` runs a stage with cluster=local, as long as nothing before it is to be submitted; None: it is only planned.
    """
    run_dir = Path(config.run_dir).absolute()
    works: list[Work] = []
    known: dict[str, int] = {}
    last: dict[str, str] = {}  # by stage: the name of the job that completes it
    would_run_here = False
    for stage in config.stages:
        settings: StageConfig = getattr(config, stage)
        before = [last[name] for name in _ancestors(stage, config.stages) if name in last]
        plan = None
        if not before and not would_run_here and (plan := pending(verb_of(stage), settings)) is None:
            continue  # complete; of the others what they read is still to be made
        if not settings.cluster.is_slurm:
            if before:
                told = f"'{settings.cluster.name}' runs here and now, but the stage waits for jobs ({', '.join(before)})"
                raise ConfigError(f"{stage}.cluster: {told}; give it a Slurm cluster too")
            if run_here is None:
                say(f"{stage}: would run here first")
                would_run_here = True
            else:
                run_here(stage)
            continue
        if (queued := _queued(stage, settings, run_dir, live)) is not None:
            known[queued.name], last[stage] = queued.job, queued.name
            continue
        mine = works_of(stage, settings, plan)
        mine[0].after = before
        works += mine
        last[stage] = mine[-1].name
    return works, known


def planned(verb: Verb, settings: Any) -> list[Work]:
    """The jobs that a verb or a pipeline would be, for `iberlm plan`; of a single verb whether its inputs are there or not."""
    if verb.name == "run":
        return pipeline_works(settings, {}, None)[0]
    return works_of(verb.recipe, settings, None)


def _ancestors(stage: str, chosen: Sequence[str]) -> list[str]:
    """Stages of the pipeline that `stage` waits for; of one that is left out, those that it would have waited for."""
    found: list[str] = []
    for name in NEEDS[stage]:
        found += [name] if name in chosen else _ancestors(name, chosen)
    return list(dict.fromkeys(found))


def works_of(stage: str, settings: StageConfig, plan: WouldRunError | None) -> list[Work]:
    """The jobs of one stage of the line, each after the one before. `plan` is the part that would run, None while its inputs are not there."""
    check_before(verb_of(stage), settings)
    if isinstance(settings, CurateConfig) and settings.cluster.elements > 1:
        return _curate_works(stage, settings, plan)
    whole = _work(stage, settings)
    if stage == "tokenize" and settings.cluster.elements > 1:
        return _chained([_array(stage, settings, "tokenize", Path(settings.out).absolute(), plan), whole])
    return [whole]


def _work(stage: str, settings: StageConfig, *, name: str = "", out: Path | None = None, folders: list[Path] | None = None, until: str = "") -> Work:
    verb = verb_of(stage)
    kind = KINDS.get(verb.name, CPU)
    place = out or Path(settings.out).absolute()
    hours, storage = _planned(settings) if verb.name == "pretrain" else (None, {})
    return Work(
        name=name or stage,
        stage=stage,
        verb=verb.name,
        settings=[settings],
        size=size_of(kind, settings.cluster, whole_node=getattr(settings, "device", "") == "spread"),
        out=place,
        folders=folders or (list(stages(settings).values()) if isinstance(settings, CurateConfig) else [place]),
        uses_gpus=kind != CPU,
        goal=getattr(settings, "total_steps", 0),
        until=until,
        device_hours=hours,
        storage_bytes=storage,
    )


def _array(stage: str, settings: StageConfig, part: str, folder: Path, plan: WouldRunError | None) -> Work | None:
    """The array that does the shards of one part of a stage; None when they are all done."""
    count = settings.cluster.elements
    elements = missing_elements(folder, plan.key, count) if plan is not None and plan.stage == part else list(range(count))
    if not elements:
        return None
    work = _work(stage, settings, name=f"{stage}-array" if part == stage else f"{stage}-{part}-array", folders=[folder], until=part)
    work.share, work.elements = count, elements
    return work


def _curate_works(stage: str, settings: CurateConfig, plan: WouldRunError | None) -> list[Work]:
    names = list(stages(settings))
    left = names[names.index(plan.stage) :] if plan is not None else names
    works: list[Work | None] = []
    joined = ""  # the stage up to which one node must go before the next array
    for part in left:
        if part in SHARDED:
            if joined:
                works.append(_work(stage, settings, name=f"{stage}-{joined}", until=joined))
            works.append(_array(stage, settings, part, stages(settings)[part], plan))
        joined = part
    return _chained([*works, _work(stage, settings)])


def _chained(works: Sequence[Work | None]) -> list[Work]:
    found = [work for work in works if work is not None]
    for before, work in itertools.pairwise(found):
        work.after = [before.name]
    return found


def check_before(verb: Verb, settings: Any) -> None:
    """What a training run would refuse on the nodes, refused before it waits in a queue."""
    if verb.name == "pretrain":
        from iberlm.train.config import accumulation_steps
        from iberlm.train.mesh import check_strategy

        check_strategy(settings, settings.cluster.ranks, settings.cluster.ranks_per_node)
        accumulation_steps(settings, settings.cluster.ranks)
    elif verb.name == "finetune":
        from iberlm.finetune.config import accumulation_steps as steps_of_finetuning

        steps_of_finetuning(settings, settings.cluster.ranks)


def _planned(settings: Any) -> tuple[float | None, dict[str, int]]:
    """Device hours and storage of a pretraining run, where enough is known of the cluster's devices."""
    from iberlm.train.machines import MACHINES, machine
    from iberlm.train.plan import plan_pretrain

    cluster = settings.cluster
    if cluster.name not in MACHINES or not cluster.gpus_per_node:
        return None, {}
    try:
        found = plan_pretrain(settings, machine(cluster.name, devices=cluster.ranks))
    except IberlmError as error:
        say(f"plan: the run could not be planned: {error}")
        return None, {}
    return found.speed.device_hours if found.speed else None, {"checkpoints": found.checkpoints_bytes}


def _queued(stage: str, settings: StageConfig, run_dir: Path, live: dict[str, tuple[JobRecord, list[int]]]) -> JobRecord | None:
    """The job that will complete a stage and is queued or runs already, with the same settings; None when there is none."""
    mine = {name: entry for name, entry in live.items() if entry[0].stage == stage}
    if not mine:
        return None
    numbers = ", ".join(str(record.job) for record, _ in mine.values())
    mend = f"wait for it (iberlm status {_folder(run_dir)}), or iberlm cancel {_folder(run_dir)} {stage} first"
    if stage not in mine:
        raise ConfigError(f"{stage}: job {numbers} still runs, while the job that would complete the stage is gone; {mend}")
    path = run_dir / FOLDER / stage / CONFIG
    if not _same(settings, path):
        raise ConfigError(f"{stage}: job {numbers} is queued or running with other settings ({shown(path)}); {mend}")
    say(f"{stage}: job {numbers} is queued or running already")
    return mine[stage][0]


def _same(settings: StageConfig, path: Path) -> bool:
    from iberlm.cli.hydra_app import freeze

    with tempfile.TemporaryDirectory(prefix="iberlm-") as folder:
        freeze(frozen_settings(settings), Path(folder) / CONFIG)
        return path.is_file() and sha256_file(path) == sha256_file(Path(folder) / CONFIG)


def _submit(works: list[Work], settings: StageConfig, run_dir: Path, known: dict[str, int]) -> None:
    from iberlm.cli.hydra_app import freeze

    _require_all(works, settings)
    records = submit(works, Submission(run_dir=run_dir, freeze=freeze, known=known, confirm=settings.confirm, dry_run=settings.dry_run))
    if records:
        print("\n".join(table(records)))
        say(f"submitted; follow it with: iberlm status {_folder(run_dir)}")


def _require_all(works: list[Work], settings: StageConfig) -> None:
    """Raise `ConfigError` when the nodes would not find something that a job needs; under `dry_run` say so."""
    from iberlm.cli.prefetch_tool import needs_of, prefetch_command

    for stage, work in {work.stage: work for work in works}.items():
        verb = "run" if hasattr(settings, "stages") else work.verb
        for job in work.settings:
            command = prefetch_command(verb, _overrides(), job.cluster.bundle, _config_dir())
            try:
                require(needs_of(work.verb.replace("-", "_"), job), job.cluster, Path(job.run_dir), command)
            except ConfigError as error:
                if not settings.dry_run:
                    raise
                say(f"refused        {stage}: {error}")


def _overrides() -> list[str]:
    """What the user gave on the command line, without Hydra's own."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _config_dir() -> str:
    """The folder that the user gave as `--config-dir`; empty without one."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return next((str(source.path) for source in sources if source.provider == "command-line"), "")


def _folder(run_dir: Path) -> str:
    """As a command line takes it."""
    return shlex.quote(str(shown(run_dir)))
