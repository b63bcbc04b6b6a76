"""Renders the batch script of a job from `slurm/job.sbatch.j2`: every value quoted, or refused where it cannot be."""

import dataclasses
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir
from iberlm.launch.offline.bundle import bundle_environment, offline_environment
from iberlm.launch.records import FOLDER, LOGS, SAVES

TEMPLATE = "job.sbatch.j2"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WORD = re.compile(r"[A-Za-z0-9_.,:=@%+/-]+")
_OPTION = re.compile(r"[A-Za-z0-9_.,:=@%+/*&|!()\[\]-]+")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_OURS = tuple(
    f"--{name}"
    for name in "job-name output error open-mode array dependency kill-on-invalid-dep export signal requeue no-requeue "
    "nodes ntasks ntasks-per-node cpus-per-task wrap parsable test-only wait hold".split()
)
"""Options of sbatch that decide what a job is, where its log lies and when it begins again: not for `cluster.extra`."""
_SECONDS_TO_END = 120
"""For verbs that have nothing to save: enough to be put back into the queue, since Slurm looks at limits every 30 s or so."""
_MAX_SIGNAL_SECONDS = 65535
"""Of sbatch's --signal."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the template is filled with."""

    name: str
    """Job name, of letters, digits and `._-`."""
    verb: str
    run_dir: Path
    """Absolute; logs lie in slurm/logs/ below it."""
    folder: Path
    """Absolute folder of the job's files (`records.JobRecord.folder`)."""
    python: str
    """Python of the jobs; with a container the one in it."""
    cluster: ClusterConfig
    version: str
    """IberLM's version and commit, for the head comment."""
    uses_gpus: bool
    """Asks for GPUs: training, fine-tuning, evaluation."""
    ranks: bool
    """Several ranks, which srun starts between two processes of the verb (`core.ranks.ranks_elsewhere`); else one task."""
    arguments: list[str] = field(default_factory=list)
    """What follows `iberlm VERB --frozen CONFIG`, e.g. [--until, extract]."""
    share: int = 0
    """Elements among which shards are shared out (`--share NUMBER/share`); 0: none."""
    sweep: bool = False
    """Each element has a folder of its own, folder/$SLURM_ARRAY_TASK_ID, with config.yaml and job.json."""
    array: str = ""
    after: list[int] = field(default_factory=list)
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 0
    gpus_per_node: int = 0
    exclusive: bool = False
    minutes: int = 0


def render(script: Script) -> str:
    """The batch script, in UTF-8. Raises `ConfigError` for a value that cannot be quoted, naming its key."""
    import jinja2  # here, since most commands never submit

    cluster = script.cluster
    _check(script)
    environment = jinja2.Environment(  # noqa: S701 - the template is a bash script: its own filters quote
        loader=jinja2.FileSystemLoader(resource_dir("slurm")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    values = {entry.name: getattr(script, entry.name) for entry in dataclasses.fields(script)}
    values |= {
        "gres": f"{cluster.gres}:{script.gpus_per_node}" if script.uses_gpus and script.gpus_per_node and cluster.gres else "",
        "memory": memory(script),
        "signal_seconds": signal_seconds(script),
        "offline": _offline(cluster),
        "container": cluster.container,
        "task_environment": _task_environment(cluster),
        "cpus": f" -c {script.cpus_per_task}" if script.cpus_per_task else "",
        "words": "".join(f" {quote(argument, 'arguments')}" for argument in script.arguments),
    }
    text = environment.get_template(TEMPLATE).render(values)
    return re.sub(r"\n{3,}", "\n\n", text)


def signal_seconds(script: Script) -> int:
    """How long before its limit a job is told."""
    seconds = script.cluster.signal_seconds
    return seconds if script.verb in SAVES else min(seconds, _SECONDS_TO_END)


def memory(script: Script) -> str:
    """What --mem gets: all of a whole node (0), else the job's share of the node by cores or GPUs; empty: nothing is asked for by number."""
    cluster, gigabytes = script.cluster, script.cluster.memory_gb_per_node
    if script.exclusive:
        return f"{gigabytes}G" if gigabytes else "0"
    if not gigabytes:
        return ""
    cores = script.cpus_per_task * script.tasks_per_node
    shares = [cores / cluster.cores_per_node] if cluster.cores_per_node and cores else []
    if script.uses_gpus and cluster.gpus_per_node and script.gpus_per_node:
        shares.append(script.gpus_per_node / cluster.gpus_per_node)
    return f"{max(1, math.floor(gigabytes * min(1.0, max(shares, default=1.0))))}G"


# ------------------------------------------------------------------------------------------------------------- filters


def word(value: object, key: str) -> str:
    """A name in an #SBATCH line, such as an account."""
    return _matching(_WORD, value, key, "letters, digits and _.,:=@%+/-")


def options(value: object, key: str) -> str:
    """A value of sbatch's little languages: constraints, lists of nodes."""
    return _matching(_OPTION, value, key, "letters, digits and _.,:=@%+/*&|!()[]-")


def extra(value: object, key: str) -> str:
    """A further option of sbatch, in one word: --licenses=scratch."""
    text = options(value, key)
    name = text.partition("=")[0]
    if not re.fullmatch(r"--[a-z][a-z0-9-]+", name):
        raise ConfigError(f"{key}: '{text}' is no option of sbatch in one word; write [--licenses=scratch]")
    if name in _OURS:
        raise ConfigError(f"{key}: {name} is set by IberLM, whose records depend on it; the settings of `cluster` say what can be asked for")
    return text


def remark(value: object, key: str) -> str:
    """Words of a comment."""
    return _plain(value, key)


def log_path(run_dir: Path, key: str, name: str, array: str = "") -> str:
    """Path of a job's log in an #SBATCH line: quotes keep spaces and `;`, a `%` that is meant is doubled. An array has one log an element."""
    text = _plain(run_dir, key)
    if "\\" in text:
        raise ConfigError(f"{key}: '{text}' has a backslash, which sbatch cannot be given in a path; choose another folder")
    escaped = text.replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}/{FOLDER}/{LOGS}/{name}-{"%A_%a" if array else "%j"}.log"'


def quote(value: object, key: str) -> str:
    """One word of bash that stands for `value` as it is."""
    return shlex.quote(_plain(value, key))


def expand(value: object, key: str, default: str = "") -> str:
    """One word of bash in which `$NAME` is replaced on the node, by `default` where there is no such variable; all else stands as it is."""
    first, *rest = _VARIABLE.split(_plain(value, key))  # literal, name, literal, ..., name, literal
    if not rest:
        return shlex.quote(first)
    text = _in_double_quotes(first)
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        variable = f"${{{name}:-{default}}}" if default else f"${{{name}}}" if re.match("[A-Za-z0-9_]", after) else f"${name}"
        text += variable + _in_double_quotes(after)
    return f'"{text}"'


def bound_folder(value: object, key: str) -> str:
    """A folder for --bind, which has a language of its own: SOURCE:TARGET:OPTIONS,... in the manner of CSV."""
    text = _plain(value, key)
    if found := re.search('[,:"]', text):
        raise ConfigError(f"{key}: '{text}' has {found[0]!r}, which means something else to a container's --bind; choose another folder, or no container")
    return shlex.quote(text)


def walltime(minutes: int) -> str:
    """Slurm's D-HH:MM:SS."""
    hours, rest = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{rest:02}:00"


FILTERS: dict[str, Callable[..., str]] = {
    "word": word,
    "options": options,
    "extra": extra,
    "remark": remark,
    "log": log_path,
    "q": quote,
    "expand": expand,
    "folder": bound_folder,
    "walltime": walltime,
}


def _in_double_quotes(text: str) -> str:
    return re.sub(r'([\\"`$])', r"\\\1", text)


def _plain(value: object, key: str) -> str:
    text = str(value)
    if found := _CONTROL.search(text):
        raise ConfigError(f"{key}: {text!r} has the control character {found[0]!r}, which no batch script can hold; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key}: {text!r} is not UTF-8, which a batch script is written in; choose another name") from error
    return text


def _matching(pattern: re.Pattern[str], value: object, key: str, allowed: str) -> str:
    text = str(value)
    if not pattern.fullmatch(text):
        shown = text if text.isprintable() else repr(text)[1:-1]
        raise ConfigError(f"{key}: '{shown}' cannot be given to Slurm; write {allowed}")
    return text


# -------------------------------------------------------------------------------------------------------------- values


def _check(script: Script) -> None:
    cluster = script.cluster
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", script.name):
        raise ConfigError(f"name: {script.name!r} is no name of a job; write letters, digits and '._-'")
    for key, path in {"run_dir": script.run_dir, "folder": script.folder}.items():
        if not path.is_absolute():
            raise ConfigError(f"{key}: '{path}' must be absolute: a job may begin in another folder")
    if cluster.signal_seconds > _MAX_SIGNAL_SECONDS:
        raise ConfigError(f"cluster.signal_seconds: {cluster.signal_seconds} is too long before the end for Slurm; it must be at most {_MAX_SIGNAL_SECONDS}")
    if script.minutes and signal_seconds(script) >= 60 * script.minutes:
        raise ConfigError(
            f"cluster.signal_seconds: {cluster.signal_seconds} s before the end of a job of {script.minutes} min is before its beginning; "
            "choose fewer seconds or a longer cluster.walltime_minutes"
        )


def _offline(cluster: ClusterConfig) -> dict[str, str]:
    if cluster.bundle:
        return bundle_environment(Path(_plain(cluster.bundle, "cluster.bundle")))
    return {} if cluster.compute_internet else offline_environment()


def _task_environment(cluster: ClusterConfig) -> str:
    """What a rank's own bash does before it becomes the rank."""
    exports = [f"export {key}={expand(value, f'cluster.task_environment.{key}')}" for key, value in cluster.task_environment.items()]
    return "; ".join([*exports, 'exec "$@"'])
