"""Shards of a stage: a pure function mapped over them in a process pool, and what is finished kept.

On a cluster the shards are shared out over the elements of a job array: each runs the stage within a `Scope`, does its share of the
first map and ends; a job after them runs the stage as usual and finds the shards done.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.errors import ResourceError
from iberlm.core.files import disk_errors, write_json
from iberlm.core.manifest import Counts
from iberlm.core.process import usable_cores
from iberlm.core.progress import progress, say
from iberlm.core.scope import EnoughError, scope
from iberlm.core.stage import SHARDS, Record, begun

PLAN = "plan.json"
"""In `.shards/`: {"label", "shards": names} of the map at work."""


@dataclass
class ShardResult:
    """What a shard's function returns: its files (rows each), counts and metrics."""

    outputs: dict[str, int | None] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    metrics: dict[str, Any] = field(default_factory=dict)


def map_shards(label: str, function: Callable[[Any, Path], ShardResult], shards: dict[str, Any], record: Record, *, workers: int = 0) -> dict[str, ShardResult]:
    """Map `function(shard, out)` over named shards in a process pool; return the results in the order of `shards`.

    `function` is importable by name and pure: it reads its shard and publishes files below `out` with paths of its
    own. A shard that finished in an interrupted run (its small manifest under `.shards/` has the stage's key, and its
    files their sizes) is not run again; the stage must be `resumable`. Outputs and counts go into `record`.
    `workers` 0 means one a usable core. An error in one shard is raised after the running shards have ended. Within a
    `Scope` with a share only that share is done, and then `EnoughError` raised.
    """
    folder = record.folder / SHARDS
    plan = {"label": label, "shards": list(shards)}
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        if _plan(folder) != plan:
            write_json(folder / PLAN, plan)
    results: dict[str, ShardResult] = {}
    for name in shards:
        if (found := _finished_shard(folder / f"{name}.json", record)) is not None:
            results[name] = found
    missing = {name: shard for name, shard in shards.items() if name not in results}
    if scope().share is not None:
        _do_share(label, function, shards, missing, record, workers)
        raise EnoughError
    if results:
        say(f"{label}: {len(results)} of {len(shards)} shards were already complete")
    results |= _do_shards(label, function, missing, record, workers)
    ordered = {name: results[name] for name in shards}
    for result in ordered.values():
        for path, rows in result.outputs.items():
            record.outputs[path] = rows
        record.counts.add(result.counts)
    return ordered


def _do_shards(label: str, function: Callable[[Any, Path], ShardResult], shards: dict[str, Any], record: Record, workers: int) -> dict[str, ShardResult]:
    results: dict[str, ShardResult] = {}
    width = 1 if len(shards) < 2 else workers or usable_cores()
    with progress(label, len(shards), "shards") as advance:
        for name, result in _run_shards(function, shards, record, width):
            _finish_shard(record.folder / SHARDS / f"{name}.json", record, result)
            results[name] = result
            advance(1, name)
    return results


def _do_share(label: str, function: Callable[[Any, Path], ShardResult], shards: dict[str, Any], missing: dict[str, Any], record: Record, workers: int) -> None:
    share = scope().share
    assert share is not None
    element, elements = share
    own = [name for name in list(shards)[element::elements] if name in missing]
    say(f"{label}: element {element} of {elements}: {len(own)} shards to do, of {len(shards)} in all")
    _do_shards(label, function, {name: shards[name] for name in own}, record, workers)


def missing_elements(out: Path, key: str, elements: int) -> list[int]:
    """Elements of an array whose shards of the stage in `out` are not all done; all of them while the shards are not known."""
    folder = out / SHARDS
    plan = _plan(folder) if key and begun(out).get("key") == key else None
    if plan is None:
        return list(range(elements))
    names, record = plan["shards"], Record(out, key)
    return [element for element in range(elements) if any(_finished_shard(folder / f"{name}.json", record) is None for name in names[element::elements])]


def _plan(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return {"label": str(value["label"]), "shards": [str(name) for name in value["shards"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run_shards(function: Callable[[Any, Path], ShardResult], shards: dict[str, Any], record: Record, workers: int) -> Iterator[tuple[str, ShardResult]]:
    if workers == 1:
        for name, shard in shards.items():
            yield name, function(shard, record.folder)
        return
    pool = record.pool(workers)
    futures = {pool.submit(function, shard, record.folder): name for name, shard in shards.items()}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ResourceError("a worker process was killed, most often for lack of memory: use fewer workers (cluster.workers=1)") from error
    except BaseException:
        record.close()
        raise


def _finish_shard(path: Path, record: Record, result: ShardResult) -> None:
    sizes = {name: (record.folder / name).stat().st_size for name in result.outputs}
    counts = dataclasses.asdict(result.counts)
    write_json(path, {"key": record.key, "outputs": result.outputs, "bytes": sizes, "counts": counts, "metrics": result.metrics})


def _finished_shard(path: Path, record: Record) -> ShardResult | None:
    try:
        value = json.loads(path.read_text())
        if value["key"] != record.key or any((record.folder / name).stat().st_size != size for name, size in value["bytes"].items()):
            return None
        return ShardResult(value["outputs"], Counts(**value["counts"]), value["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
