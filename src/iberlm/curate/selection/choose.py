"""Choose one document of each group of duplicates among those that pass, and say what the others are dropped for.

Two rounds, each mapped over ranges of group numbers so that no task holds all documents: of the same URL the newest stays, then of
each cluster *and language* the best, longest, first one. (Valencian made from Catalan by rule is a near duplicate of it, and still
Valencian.) The document that stays carries the strictest licence of its cluster: none of the texts may lose an obligation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.documents import write_documents
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record
from iberlm.curate.selection.decide import DECISIONS, Shard
from iberlm.curate.selection.representatives import Members, best_members, licence_words, member_dtype, representatives

DUPLICATE, NEAR_DUPLICATE, URL_DUPLICATE = "duplicate", "near_duplicate", "url_duplicate"
CHOICES = "choices"
SCHEMA = pa.schema([("document", pa.int64()), ("reason", pa.string()), ("licence_of_cluster", pa.string())])
"""A row for each document that is dropped (`reason`), and for each that stays under a stricter licence than its own."""
DOCUMENTS_A_RANGE = 8_000_000
"""Group numbers are document numbers, so a range holds about so many documents: some 100 B each in memory where all have duplicates."""
_RANKS = {"url": ["date", "url_cluster"], "near": ["quality_score", "licence", "cluster", "exact_cluster"]}
"""What the documents of a group are ranked and told apart by, besides language and length."""


@dataclass(frozen=True)
class ChooseTask:
    """The work of one process: the groups with numbers `low` <= group < `high`."""

    round: str
    """`url` or `near`."""
    shards: list[Shard]
    decisions: Path
    low: int
    high: int
    earlier: list[Path]
    """Choices of the round before."""
    licences: list[str]
    """All licences of the corpus, in order."""


def choose(shards: list[Shard], licences: list[str], record: Record, workers: int) -> list[Path]:
    """Run both rounds over `record.folder/decisions/`; return the files of choices, each sorted by document."""
    documents = shards[-1].first + shards[-1].rows if shards else 0
    files: list[Path] = []
    for name in ("url", "near"):
        tasks = {
            f"choose-{name}-{low // DOCUMENTS_A_RANGE:05d}": ChooseTask(
                name, shards, record.folder / DECISIONS, low, low + DOCUMENTS_A_RANGE, list(files), licences
            )
            for low in range(0, documents, DOCUMENTS_A_RANGE)
        }
        results = map_shards(f"select: {name} duplicates", choose_range, tasks, record, workers=workers)
        files += [record.folder / path for result in results.values() for path in result.outputs]
    return files


def choose_range(task: ChooseTask, out: Path) -> ShardResult:
    """Write `choices/ROUND-NNNNN.parquet` for one range of groups."""
    group = "url_cluster" if task.round == "url" else "cluster"

    def parts() -> Iterator[pa.Table]:
        return (part for shard in task.shards if (part := _candidates(task, shard, group)) is not None)

    path = out / CHOICES / f"{task.round}-{task.low // DOCUMENTS_A_RANGE:05d}.parquet"
    table = _newest(parts) if task.round == "url" else _best(task, parts)
    rows = write_documents(path, table.to_batches(max_chunksize=1 << 20), SCHEMA)
    return ShardResult({path.relative_to(out).as_posix(): rows})


def _candidates(task: ChooseTask, shard: Shard, group: str) -> pa.Table | None:
    """Passing documents of one shard in groups of the range that may have other members, or None."""
    numbers = np.arange(shard.first, shard.first + shard.rows)
    path = task.decisions / f"{shard.name}.parquet"
    groups = pq.read_table(path, columns=[group]).column(group).to_numpy()
    mask = (groups >= task.low) & (groups < task.high)
    if not mask.any():
        return None
    names = ["code", "characters_left", *_RANKS[task.round]]
    table = pq.read_table(path, columns=["reason", "cluster_size", *names])
    mask &= pc.equal(table.column("reason"), "").to_numpy()
    if task.round == "near":
        mask &= table.column("cluster_size").to_numpy() > 1
    if task.earlier:
        mask[dropped_before(task.earlier, shard)] = False
    if not mask.any():
        return None
    return table.select(names).filter(pa.array(mask)).append_column("document", pa.array(numbers[mask]))


def dropped_before(choices: list[Path], shard: Shard) -> npt.NDArray[np.int64]:
    """Rows of the shard that the files of choices drop."""
    found = [choices_of(path, shard).filter(pc.field("reason") != "") for path in choices]
    return np.concatenate([table.column("document").to_numpy() for table in found]) - shard.first


def choices_of(path: Path, shard: Shard) -> pa.Table:
    """The rows of a file of choices that speak of the shard's documents; row groups of others are not read."""
    bounds = [("document", ">=", shard.first), ("document", "<", shard.first + shard.rows)]
    return pq.read_table(path, schema=SCHEMA, filters=bounds)


def _newest(parts: Callable[[], Iterator[pa.Table]]) -> pa.Table:
    """Of the documents of a URL and language all but the newest; of the same date the longest, then the first, stays."""
    found = list(parts())
    if not found:
        return SCHEMA.empty_table()
    candidates = pa.concat_tables(found)
    columns = {name: candidates.column(name).to_numpy() for name in ("code", "characters_left", "url_cluster", "document")}
    newest = _ranks(candidates.column("date"))
    order = np.lexsort((columns["document"], -columns["characters_left"], -newest, columns["code"], columns["url_cluster"]))
    group, code = columns["url_cluster"][order], columns["code"][order]
    losers = columns["document"][order[1:][(group[1:] == group[:-1]) & (code[1:] == code[:-1])]]
    return _table(losers, np.full(len(losers), URL_DUPLICATE), {})


def _best(task: ChooseTask, parts: Callable[[], Iterator[pa.Table]]) -> pa.Table:
    """Of the documents of a cluster and language all but the one of best quality, then the longest, then the first.

    What is dropped is a `duplicate` if an earlier document has the same text, kept or not, and a `near_duplicate` otherwise. Two passes over
    the shards, each reduced before the next is read, so that no cluster is too large to be held.
    """
    dtype = member_dtype(len(task.licences))
    reduced = [best_members(_members(part, task.licences, dtype)) for part in parts()]
    if not reduced:
        return SCHEMA.empty_table()
    best, strict = representatives(np.concatenate(reduced), task.licences)
    stays, licence = np.sort(best["document"]), dict(zip(best["document"].tolist(), strict, strict=True))
    dropped: list[npt.NDArray[np.int64]] = []
    reasons: list[npt.NDArray[Any]] = []
    stricter: dict[int, str] = {}
    for part in parts():
        chosen = np.isin(part.column("document").to_numpy(), stays, assume_unique=True)
        document, first_of_text = (part.column(name).to_numpy()[~chosen] for name in ("document", "exact_cluster"))
        dropped.append(document)
        reasons.append(np.where(first_of_text != document, DUPLICATE, NEAR_DUPLICATE))
        own = part.select(["document", "licence"]).filter(pa.array(chosen)).to_pydict()
        stricter |= {number: licence[number] for number, name in zip(own["document"], own["licence"], strict=True) if licence[number] != name}
    return _table(np.concatenate(dropped), np.concatenate(reasons), stricter)


def _members(part: pa.Table, licences: list[str], dtype: "np.dtype[Any]") -> Members:
    members = np.empty(part.num_rows, dtype)
    for name, column in {"document": "document", "cluster": "cluster", "language": "code", "quality": "quality_score", "characters": "characters_left"}.items():
        members[name] = part.column(column).to_numpy()
    numbers = pc.index_in(part.column("licence"), pa.array(licences)).to_numpy()
    members["licences"] = licence_words(numbers, len(licences))
    return members


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """For each string its rank among the different ones in order, a null first."""
    encoded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    rank = np.empty(len(values), np.int32)
    rank[sorted(range(len(values)), key=values.__getitem__)] = np.arange(len(values), dtype=np.int32)
    found: npt.NDArray[np.int32] = rank[encoded.indices.to_numpy()]
    return found


def _table(losers: npt.NDArray[np.int64], reasons: npt.NDArray[Any], licences: dict[int, str]) -> pa.Table:
    """`losers` with their `reasons`, and the documents that stay under another licence, by number."""
    documents = np.concatenate([losers, np.fromiter(licences, np.int64, len(licences))])
    why = pa.array([*reasons.tolist(), *[""] * len(licences)], pa.string())
    return pa.table([documents, why, pa.array([*[None] * len(losers), *licences.values()], pa.string())], schema=SCHEMA).sort_by("document")
