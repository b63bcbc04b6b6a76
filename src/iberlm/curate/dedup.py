"""Find duplicates: documents with the same normalised text, and with the same hash in any MinHash band.

Nothing is dropped here: the stage writes which documents belong together, `select` keeps one of those that pass the
rules. So a threshold that is retuned never needs the clusters again.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.documents import read_batches
from iberlm.core.files import publish
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate.config import DedupConfig

VERSION = 1
CLUSTERS = "clusters.parquet"
CLUSTER_SCHEMA = pa.schema([("cluster", pa.int64()), ("cluster_size", pa.int32()), ("exact_cluster", pa.int64())])
"""One row a document, in the order of the annotated files. `cluster`: number of the first document of its cluster of near
duplicates (exact ones included); `exact_cluster`: of the first with the same text."""


def run(config: DedupConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Cluster the annotated documents. Raises what `run_stage` raises."""
    return run_stage("dedup", VERSION, _dedup, config, inputs, out)


def _dedup(config: DedupConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    texts, bands = _read_hashes(inputs[0])
    count = len(texts)
    exact = _first_with_same(texts) if config.exact else np.arange(count)
    parents = exact.copy()
    if config.near:
        for band in bands:
            _unite(parents, np.arange(count), _first_with_same(band))
    cluster = _roots(parents)
    sizes = np.bincount(cluster, minlength=count)[cluster] if count else np.empty(0, np.int64)
    path = out / CLUSTERS
    table = pa.table([cluster, sizes.astype(np.int32), exact], schema=CLUSTER_SCHEMA)
    with publish(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    record.output(path, count)
    record.counts.add(inputs[0].counts)
    record.metrics = {
        "documents": count,
        "clusters": len(np.unique(cluster)),
        "exact_duplicates": int((exact != np.arange(count)).sum()),
        "near_duplicates": int((cluster != np.arange(count)).sum() - (exact != np.arange(count)).sum()),
    }


def _read_hashes(annotated: Manifest) -> tuple[npt.NDArray[np.uint64], list[npt.NDArray[np.uint64]]]:
    """Text hashes, shape (documents,), and one array of the same shape a band (a text without words: its own number)."""
    texts: list[npt.NDArray[np.uint64]] = []
    bands: list[npt.NDArray[np.uint64]] = []
    for path in annotated.paths("documents/", ".parquet"):
        for batch in read_batches(path, ["text_hash", "bands"]):
            texts.append(batch.column("text_hash").to_numpy(zero_copy_only=False))
            column = batch.column("bands")
            width = max((len(entry) for entry in column.to_pylist()), default=0) if len(column) else 0
            rows = np.zeros((len(column), width), np.uint64)
            for index, entry in enumerate(column.to_pylist()):
                rows[index] = entry if entry else texts[-1][index]
            bands.append(rows)
    if not texts:
        return np.empty(0, np.uint64), []
    width = max(rows.shape[1] for rows in bands)
    joined = np.concatenate([rows if rows.shape[1] == width else np.repeat(text[:, None], width, 1) for rows, text in zip(bands, texts, strict=True)])
    return np.concatenate(texts), [np.ascontiguousarray(joined[:, band]) for band in range(width)]


def _first_with_same(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each position, the first position with the same value; shape as `values`."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _unite(parents: npt.NDArray[np.int64], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> None:
    """Union-find: join each pair, the smaller root wins, so that the result does not depend on the order."""
    for one, other in zip(left[left != right].tolist(), right[left != right].tolist(), strict=True):
        a, b = _find(parents, one), _find(parents, other)
        if a != b:
            parents[max(a, b)] = min(a, b)


def _find(parents: npt.NDArray[np.int64], node: int) -> int:
    while (parent := int(parents[node])) != node:
        parents[node] = parents[parent]
        node = parent
    return node


def _roots(parents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The root of every node; parents point to smaller numbers, so jumping twice as far each time ends."""
    roots = parents.copy()
    while True:
        following = roots[roots]
        if np.array_equal(following, roots):
            return roots
        roots = following
