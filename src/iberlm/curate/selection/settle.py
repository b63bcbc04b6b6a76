"""Settle the verdict on each document of a shard: its own decision, and the choice among its duplicates.

`verdicts/NAME.parquet` stays beside the documents when the stage ends: it says of every document that was ever read why it was dropped.
"""

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.documents import write_documents
from iberlm.core.shards import ShardResult
from iberlm.curate.config import SelectConfig
from iberlm.curate.selection import decide
from iberlm.curate.selection.choose import choices_of
from iberlm.curate.selection.decide import DECISIONS, RESERVED, ROBOTS, Shard

VERDICTS = "verdicts"
_KEPT_FROM_DECISIONS = ("reason", "counted_as", "text_hash", "characters", "characters_left", "quality_score", "cluster_size", "cuts")
SCHEMA = pa.schema([*(decide.SCHEMA.field(name) for name in _KEPT_FROM_DECISIONS), pa.field("licence_of_cluster", pa.string())])
HASH_RANGE = float(1 << 64)


@dataclass(frozen=True)
class SettleTask:
    """The work of one process."""

    shard: Shard
    choices: list[Path]
    config: SelectConfig


def settle_shard(task: SettleTask, out: Path) -> ShardResult:
    """Write `verdicts/NAME.parquet`; the metrics are what the whole must know to split and to show.

    `validation`: by language the smallest text hashes, enough to find the limit of the validation split; `samples`: by language and
    reason ('' for kept) `[hash, document number]` of the smallest; `reserved`: documents and characters lost to reservations.
    """
    shard, config = task.shard, task.config
    table = pq.read_table(out / DECISIONS / f"{shard.name}.parquet", columns=list(_KEPT_FROM_DECISIONS))
    reason = table.column("reason").to_numpy(zero_copy_only=False).copy()
    licence = np.full(shard.rows, None, dtype=object)
    for path in task.choices:
        choices = choices_of(path, shard)
        rows = choices.column("document").to_numpy() - shard.first
        why = choices.column("reason").to_numpy(zero_copy_only=False)
        reason[rows[why != ""]] = why[why != ""]
        licence[rows] = choices.column("licence_of_cluster").to_numpy(zero_copy_only=False)
    settled = table.set_column(0, SCHEMA.field("reason"), pa.array(reason, pa.string())).append_column(
        SCHEMA.field("licence_of_cluster"), pa.array(licence, pa.string())
    )
    path = out / VERDICTS / f"{shard.name}.parquet"
    result = ShardResult({path.relative_to(out).as_posix(): write_documents(path, [settled], SCHEMA)})
    counted_as = table.column("counted_as").to_numpy(zero_copy_only=False)
    hashes, characters = table.column("text_hash").to_numpy(), table.column("characters").to_numpy()
    result.metrics = {"validation": {}, "samples": {}, "reserved": {}, "characters_kept": {}}
    for language in np.unique(counted_as.astype(str)).tolist():
        mine = counted_as == language
        for why in np.unique(reason[mine].astype(str)).tolist():
            rows = np.flatnonzero(mine & (reason == why))
            if why:
                result.counts.drop(language, why, len(rows))
            else:
                result.counts.keep(language, len(rows))
                result.metrics["validation"][language] = _smallest(hashes[rows], config)
                result.metrics["characters_kept"][language] = int(characters[rows].sum())
            if why in (RESERVED, ROBOTS):
                lost = result.metrics["reserved"].setdefault(language, {})
                lost[why] = {"documents": len(rows), "characters": int(characters[rows].sum())}
            least = rows[np.argsort(hashes[rows], kind="stable")[: config.samples]]
            result.metrics["samples"].setdefault(language, {})[why] = [[int(hashes[row]), shard.first + int(row)] for row in least]
    return result


def _smallest(hashes: npt.NDArray[np.uint64], config: SelectConfig) -> list[int]:
    """The hashes below the validation share, at least the minimum and at most one more than the maximum of them."""
    ordered = np.sort(hashes)[: config.max_validation_documents + 1]
    share = int(np.count_nonzero(ordered.astype(np.float64) / HASH_RANGE < config.validation_share))
    found: list[int] = ordered[: max(share, config.min_validation_documents)].tolist()
    return found


def validation_limits(results: list[ShardResult], config: SelectConfig, kept: dict[str, int]) -> dict[str, int]:
    """By language the largest text hash of the validation split; languages without one are left out.

    The hash alone decides, so a document stays on its side when others come; only where a language would have fewer than the minimum
    are those with the smallest hashes taken, and above the maximum left. One document at least stays for training.
    """
    limits = {}
    for language in config.languages:
        hashes = list(heapq.merge(*(result.metrics["validation"].get(language, []) for result in results)))
        share = sum(value / HASH_RANGE < config.validation_share for value in hashes)
        wanted = min(max(share, config.min_validation_documents), config.max_validation_documents, max(0, kept.get(language, 0) - 1))
        if wanted:
            limits[language] = int(hashes[wanted - 1])
    return limits


def chosen_samples(results: list[ShardResult], per_reason: int) -> dict[int, tuple[str, str]]:
    """Language and reason ('' for kept) by document number, for the documents with the smallest hashes."""
    found: dict[tuple[str, str], list[Any]] = {}
    for result in results:
        for language, reasons in result.metrics["samples"].items():
            for why, entries in reasons.items():
                found.setdefault((language, why), []).extend(entries)
    return {int(number): key for key, entries in sorted(found.items()) for _, number in sorted(entries)[:per_reason]}
