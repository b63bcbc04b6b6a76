"""What a stage needs that it does not make itself: models and data sets of a hub, files of the user's, packages.

Each stage package tells its own (`needs(config)`); `iberlm prefetch` gathers them, and a submission to nodes without
internet is refused while one is missing. A setting that takes a model's folder also takes `OWNER/NAME@COMMIT`: the
model of that name on the hub, found in the cache by `local_folder`. Imports nothing heavy.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError

MODEL, TOKENIZER, DATASET = "model", "tokenizer", "dataset"
"""Come from a hub: models and tokenizers into its cache, splits of data sets as staged Parquet (`iberlm.core.staged`)."""
PATH, PACKAGE = "path", "package"
"""A file or folder that the nodes must see; a Python package."""
DOWNLOAD = "download"
"""What `iberlm fetch` itself downloads: it must have run where there is internet."""
REFUSED = "refused"
"""What no bundle can hold; `name` says what, `remark` why and what to do instead."""

BUNDLED_CACHE = Path("hub") / "hub"
"""The hub's cache within a bundle."""
COMMIT = re.compile(r"[0-9a-f]{40}")
_ON_HUB = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)@(?P<revision>[^@/]+)")


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that a stage needs."""

    kind: str
    name: str
    """On the hub OWNER/NAME; of a path the path; of a package what pip calls it."""
    revision: str = ""
    """Commit on the hub: 40 hexadecimal digits. Empty where the one who asks names none (tasks of lm-eval): then prefetch pins the newest."""
    config: str = ""
    """Configuration of a data set; empty: its only or default one."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `datasets.load_dataset`, as JSON values; `builder` where files of the data set are named."""
    splits: tuple[str, ...] = ()
    """Of a data set: those that are read."""
    licence: str = ""
    """Of a data set, as we know it: SPDX."""
    licence_evidence: str = ""
    module: str = ""
    """Of a package: what is imported."""
    used_by: str = ""
    """The setting that asks for it: pretrain.initial_model."""
    remark: str = ""

    @property
    def title(self) -> str:
        """As messages name it."""
        config = f" ({self.config})" if self.config else ""
        return f"{self.name}{config}{f'@{self.revision[:12]}' if self.revision else ''}"


def hub_name(value: str) -> tuple[str, str] | None:
    """(OWNER/NAME, commit) of `OWNER/NAME@COMMIT`; None for anything else, such as a path that exists.

    Raises `ConfigError` where the part after @ is no commit: a branch can change under a run.
    """
    found = _ON_HUB.fullmatch(value)
    if found is None or Path(value).exists():
        return None
    if not COMMIT.fullmatch(found["revision"]):
        raise ConfigError(
            f"'{value}': '{found['revision']}' is not a commit; pin it by its 40 hexadecimal digits (a branch such as 'main' can change under you): see "
            f"'History' among the files of {found['name']} on the hub"
        )
    return found["name"], found["revision"]


def hub_cache(environment: dict[str, str] | None = None) -> Path:
    """Where the Hugging Face libraries keep models under these variables; by default those of this process."""
    variables = dict(os.environ) if environment is None else environment
    home = variables.get("HF_HOME") or str(Path(variables.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.path.expandvars(variables.get("HF_HUB_CACHE") or str(Path(home) / "hub"))).expanduser()


def snapshot_folder(cache: Path, name: str, revision: str) -> Path:
    """Folder of a model's files in a cache of the hub."""
    return cache / f"models--{name.replace('/', '--')}" / "snapshots" / revision


def hub_caches(cluster: ClusterConfig) -> list[Path]:
    """Where a model may lie that a job on `cluster` is to find, the first first: the bundle, the cache that the profile names, this process's own."""
    profile = {name: os.path.expandvars(value) for name, value in cluster.environment.items()}
    bundle = [Path(os.path.expandvars(cluster.bundle)) / BUNDLED_CACHE] if cluster.bundle else []
    return [*bundle, *([hub_cache(profile)] if {"HF_HOME", "HF_HUB_CACHE"} & set(profile) else []), hub_cache()]


def local_folder(value: str, cluster: ClusterConfig) -> Path:
    """The folder that a setting means: the path itself, or for `OWNER/NAME@COMMIT` the one in a cache of the hub.

    Raises `ConfigError` when no cache has it.
    """
    named = hub_name(value)
    if named is None:
        return Path(value).expanduser()
    folders = [snapshot_folder(cache, *named) for cache in hub_caches(cluster)]
    if found := next((folder for folder in folders if folder.is_dir()), None):
        return found
    raise ConfigError(
        f"'{value}' is not in the cache {hub_caches(cluster)[0]}; gather it with `iberlm prefetch` and the same settings, and give the folder as cluster.bundle"
    )


def folder_need(kind: str, value: str, used_by: str) -> list[Need]:
    """The need behind a setting that takes a folder or `OWNER/NAME@COMMIT`; none where it is empty."""
    if not value:
        return []
    named = hub_name(value)
    return [Need(kind=kind, name=named[0], revision=named[1], used_by=used_by)] if named else [path_need(value, used_by)]


def path_need(value: str | Path, used_by: str) -> Need:
    """A file, a folder or a pattern that the nodes must see."""
    return Need(kind=PATH, name=str(value), used_by=used_by)


def package_need(name: str, module: str, used_by: str) -> Need:
    """A Python package that not every installation has."""
    return Need(kind=PACKAGE, name=name, module=module, used_by=used_by)


def outside(needs: Iterable[Need], run_dir: str | Path) -> list[Need]:
    """The needs but for paths below the run's own folder, which its stages make; each once, in their order."""
    folder = Path(run_dir).absolute()
    kept: list[Need] = []
    for need in needs:
        if (need.kind == PATH and Path(need.name).absolute().is_relative_to(folder)) or need in kept:
            continue
        kept.append(need)
    return kept
