"""Find duplicates out of core: same URL, same text, near duplicates, and paragraphs that many documents share.

Nothing is dropped here: the stage writes beside each documents file which documents belong together and which paragraphs are
boilerplate; `select` keeps one of those that pass the rules. So a threshold that is retuned never needs the clusters again.

Memory and disk: no phase holds all hashes. `partition` writes (hash, document) pairs ordered by hash prefix, `join` finds equal
hashes a prefix at a time, `union` holds 8 bytes a document, and `clusters` writes the columns file by file. See `stage`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from iberlm.core.manifest import Manifest
    from iberlm.curate.dedup.config import DedupConfig

__all__ = ["rehydration_weight", "run"]

REHYDRATION = ((1, 1), (2, 2), (3, 3), (5, 5), (100, 8), (1000, 1))
"""(cluster size from which it holds, copies), Penedo et al. 2025, FineWeb2, section on rehydration: a text that some sites repeat is better
than one that none does, and one that a thousand repeat is spam or boilerplate."""


def run(config: "DedupConfig", inputs: "list[Manifest]", out: Path) -> "Manifest":
    """Cluster the annotated documents; writes `clusters/NAME.parquet` for every `annotations/NAME.parquet`.

    Raises what `run_stage` raises, `CorruptError` for annotations that are not of their schema, and `ConfigError` when a kind of
    duplicate is asked for that the annotations have no hashes of, or `memory_bytes` is too small for the documents.
    """
    from iberlm.curate.dedup import stage  # numba takes its time to import, and the command line reads only the settings

    return stage.run(config, inputs, out)


def rehydration_weight(cluster_size: "npt.NDArray[Any]") -> "npt.NDArray[np.int8]":
    """Copies of a cluster's representative that a mixture may take, from the cluster's size; shape as given, int8.

    1 -> 1, 2 -> 2, 3 and 4 -> 3, 5 to 99 -> 5, 100 to 999 -> 8, from 1,000 on 1. Raises `ValueError` for a size below 1.
    """
    import numpy as np

    sizes = np.asarray(cluster_size)
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"cluster size {sizes.min()}: a cluster has at least one document")
    steps, copies = np.array(REHYDRATION).T
    weights: npt.NDArray[np.int8] = copies.astype(np.int8)[np.searchsorted(steps, sizes, side="right") - 1]
    return weights
