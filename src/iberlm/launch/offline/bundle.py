"""A bundle: one folder with what a job needs from elsewhere, so that it runs with every hub switched off.

    BUNDLE/bundle.json  every file of models, tokenizers and packages with its size and SHA-256, what it is for, and the commit of what came from a hub
    BUNDLE/hub/         a Hugging Face home (HF_HOME): models, tokenizers
    BUNDLE/tasks/       the data of evaluation tasks as Parquet; each data set has its own record (`iberlm.core.staged`)
    BUNDLE/wheels/      Python packages, and requirements.txt with their checksums
    BUNDLE/numba/       loops of curation, compiled for one processor: a cache that jobs add to, so its files are not listed

All paths in it are relative: a bundle works wherever it is copied to.
"""

import glob
import importlib.machinery
import importlib.util
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import sha256_file, write_json
from iberlm.core.needs import BUNDLED_CACHE, DATASET, DOWNLOAD, MODEL, PACKAGE, PATH, REFUSED, TOKENIZER, Need, hub_cache, snapshot_folder
from iberlm.launch.offline.data_sets import all_problems, bundle_problems

RECORD, HUB, WHEELS, NUMBA = "bundle.json", "hub", "wheels", "numba"
FORMAT = 1
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
_OWN_DISKS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - nothing is written there: what lies there other machines do not see


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something in a bundle: a model, a tokenizer, the packages."""

    kind: str
    name: str
    revision: str = ""
    """As it was asked for; empty: the newest at that time."""
    commit: str = ""
    """What was taken."""
    used_by: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    """path (relative to the bundle), bytes, sha256."""

    def is_for(self, need: Need) -> bool:
        """Whether it is what `need` asks for."""
        return (need.kind, need.name) == (self.kind, self.name) and need.revision in (self.revision, self.commit)

    def problems(self, bundle: Path, *, checksums: bool) -> list[str]:
        """What is missing or has another size, and with `checksums` also what has other content."""
        found = []
        for entry in self.files:
            path = bundle / entry["path"]
            if not path.is_file():
                found.append(f"{path} is missing")
            elif path.stat().st_size != entry["bytes"]:
                found.append(f"{path} has {path.stat().st_size:,} bytes, not {entry['bytes']:,}")
            elif checksums and sha256_file(path) != entry["sha256"]:
                found.append(f"{path} is damaged: its SHA-256 is another one than when it was gathered")
        return found


def bundle_environment(bundle: Path) -> dict[str, str]:
    """Variables of a job that finds everything in `bundle` and asks no hub. They replace the caches that a profile names.

    Paths are absolute. The cache of compiled loops is named only where the bundle has one.
    """
    folder = bundle.absolute()
    names = {
        "HF_HOME": folder / HUB,
        "HF_HUB_CACHE": folder / BUNDLED_CACHE,
        "HF_DATASETS_CACHE": folder / HUB / "datasets",
        "HF_MODULES_CACHE": folder / HUB / "modules",
    }
    names |= {"NUMBA_CACHE_DIR": folder / NUMBA} if (folder / NUMBA).is_dir() else {}
    return {name: str(path) for name, path in names.items()} | offline_environment()


def offline_environment() -> dict[str, str]:
    """Variables that switch every hub off, with a bundle or without."""
    return dict.fromkeys(_OFFLINE, "1")


def read_bundle(bundle: Path) -> list[Item]:
    """What a bundle says that it holds; nothing where there is no bundle. Raises `CorruptError` for a record that cannot be read."""
    path = bundle / RECORD
    if not path.is_file():
        return []
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {entry.name for entry in fields(Item)}
        # data sets were items once, in the cache of their library
        items = [Item(**{name: entry[name] for name in entry.keys() & known}) for entry in value["items"] if entry["kind"] != DATASET]
        outside = [entry["path"] for item in items for entry in item.files if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path}: not the record of a bundle ({error}); delete it and run `iberlm prefetch` again") from error
    if value.get("format") != FORMAT or outside:
        raise CorruptError(f"{path}: format {value.get('format')}, {FORMAT} was expected" if not outside else f"{path}: '{outside[0]}' lies outside the bundle")
    return items


def write_bundle(bundle: Path, items: list[Item], code_version: str) -> None:
    """Write the record, atomically."""
    ordered = sorted(items, key=lambda item: (item.kind, item.name, item.commit))
    write_json(bundle / RECORD, {"format": FORMAT, "iberlm": code_version, "items": [asdict(item) for item in ordered]})


def check_bundle(bundle: Path, needs: list[Need], *, checksums: bool = False) -> list[str]:
    """What `needs` ask of a hub and the bundle lacks or has damaged, a line each; [] when all is there.

    Existence and sizes are always compared, content with `checksums`: that reads every file of the bundle, those of other
    runs and the packages too.
    """
    items = read_bundle(bundle)
    found: list[str] = []
    seen: list[Item] = []
    for need in needs:
        if need.kind == DATASET:
            found += bundle_problems(bundle, need, checksums=checksums)
        if need.kind not in (MODEL, TOKENIZER):
            continue
        item = next((item for item in items if item.is_for(need)), None)
        if item is None:
            found.append(f"{need.used_by}: the {need.kind} {need.title} is not in the bundle {bundle}")
        elif item not in seen:
            seen.append(item)
            found += [f"{need.used_by}: {problem}" for problem in item.problems(bundle, checksums=checksums)]
    if checksums:
        found += [problem for item in items if item not in seen for problem in item.problems(bundle, checksums=True)]
        found += [problem for problem in all_problems(bundle) if not any(problem in line for line in found)]
    return found


def missing(needs: list[Need], cluster: ClusterConfig, run_dir: Path) -> list[str]:
    """What jobs on `cluster` would not find, a line each, without reading any file whole. `run_dir` lies where all nodes see it.

    Models and data sets must be there even where nodes reach the internet: no stage but `fetch` ever asks a hub.
    """
    found = [problem for need in needs for problem in _local_problem(need, cluster, run_dir)]
    if cluster.bundle:
        return found + check_bundle(Path(os.path.expandvars(cluster.bundle)), needs)
    return found + [problem for need in needs if (problem := _not_in_cache(need, cluster))]


def require(needs: list[Need], cluster: ClusterConfig, run_dir: Path, command: str) -> None:
    """Raise `ConfigError` for what jobs on `cluster` would not find. `command` is the `iberlm prefetch` that gathers it."""
    problems = missing(needs, cluster, run_dir)
    if not problems:
        return
    from_hub = any(need.kind in (MODEL, TOKENIZER, DATASET) for need in needs)
    mend = f"\nto gather what comes from a hub, where there is internet: {command}" if from_hub else ""
    mend += "" if cluster.bundle or not from_hub else "\nthen give its folder to the job: cluster.bundle=FOLDER"
    count = f"{len(problems)} {'thing' if len(problems) == 1 else 'things'}"
    raise ConfigError(f"the nodes of '{cluster.name}' would not find {count} that the job needs:\n  " + "\n  ".join(problems) + mend)


def _local_problem(need: Need, cluster: ClusterConfig, run_dir: Path) -> list[str]:
    if need.kind == REFUSED:
        return [f"{need.used_by}: {need.name} {need.remark}"]
    if need.kind == DOWNLOAD and not cluster.compute_internet:
        return [f"{need.used_by}: {need.title} is downloaded by `iberlm fetch` itself; run that stage where there is internet and copy its folder to {run_dir}"]
    if need.kind == PATH:
        return path_problems(need, run_dir)
    # another Python, or an image, cannot be looked into from here: `iberlm doctor` asks it
    if need.kind == PACKAGE and not cluster.python and not cluster.container.image and not importable(need.module, cluster):
        return [f"{need.used_by}: the package {need.name} is not installed; `pip install {need.name}`"]
    return []


def importable(module: str, cluster: ClusterConfig) -> bool:
    """Whether a job with this Python finds a module, by its first part: nothing is imported.

    A job has the PYTHONPATH of `cluster.environment`, and not that of the shell that submits, unless modules or a file that
    it sources set one.
    """
    name = module.partition(".")[0]
    if importlib.machinery.PathFinder.find_spec(name, _folders(os.path.expandvars(cluster.environment.get("PYTHONPATH", "")))):
        return True
    found = importlib.util.find_spec(name)
    if found is None or cluster.modules or cluster.setup_file:
        return found is not None
    places = [Path(place) for place in (found.origin, *(found.submodule_search_locations or ())) if place]
    return not any(place.is_relative_to(folder) for place in places for folder in _folders(os.environ.get("PYTHONPATH", "")))


def _folders(path: str) -> list[str]:
    return [entry for entry in path.split(os.pathsep) if entry]


def path_problems(need: Need, run_dir: Path) -> list[str]:
    """What is wrong with a file or folder that the nodes must see; none when it is there."""
    path = Path(need.name).expanduser().absolute()
    if not path.exists() and not (glob.has_magic(need.name) and glob.glob(str(path), recursive=True)):  # noqa: PTH207 - absolute patterns
        hint = f"; a model of the hub is named with its commit: {need.name}@COMMIT" if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", need.name) else ""
        return [f"{need.used_by}: there is no '{need.name}' (looked from {Path.cwd()}){hint}"]
    for disk in map(Path, _OWN_DISKS):
        if path.is_relative_to(disk) and not run_dir.absolute().is_relative_to(disk):
            return [f"{need.used_by}: {path} lies on this machine's own disk, which other nodes do not see; copy it to a shared folder"]
    return []


def _not_in_cache(need: Need, cluster: ClusterConfig) -> str:
    """What is wrong with a need where the job looks without a bundle: the Hugging Face cache of its profile, or of the user's shell."""
    profile = {name: os.path.expandvars(value) for name, value in cluster.environment.items()}
    variables = profile if {"HF_HOME", "HF_HUB_CACHE"} & set(profile) else dict(os.environ)
    cache = hub_cache(variables)
    if need.kind in (MODEL, TOKENIZER):
        there = any(snapshot_folder(cache, need.name, need.revision).glob("*.safetensors" if need.kind == MODEL else "*"))
    elif need.kind == DATASET:
        cache = Path(variables.get("HF_DATASETS_CACHE") or cache.parent / "datasets")
        there = any(_plain(path.name) == _plain(need.name.replace("/", "___")) for path in cache.glob("*"))
    else:
        return ""
    return "" if there else f"{need.used_by}: the {need.kind} {need.title} is neither in a bundle (cluster.bundle is not set) nor in the cache {cache}"


def _plain(name: str) -> str:
    """The data sets library turns capitals into underscores and small letters."""
    return name.replace("_", "").lower()
