"""How much each task of deduplication takes at once: derived from the memory that it may use and the number of documents.

A plan decides how intermediate files are cut and nothing else: the outputs are the same bytes under any plan.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from iberlm.core.errors import ConfigError
from iberlm.core.files import sha256_json, write_json

BUFFER_BYTES_A_PAIR = 24
"""Partition: 12 B a pair (8 B of hash, 4 B of document number within the group) as read, and as ordered by range."""
TABLE_BYTES_A_PAIR = 48
"""Join: 16 B a slot, two slots a hash, and once and a half when the table grows."""
COUNTED_BYTES_A_PAIR = 60
"""The same with a count of 4 B in each slot."""
CHUNK_BYTES_A_PAIR = 28
"""Join: 12 B a pair as read, 16 B an edge as written."""
UNION_BYTES_A_DOCUMENT = 12
"""Union: the parent (8 B) and the size (4 B)."""
MAX_PAIRS = 4 << 20
"""Pairs that are handled at once however much memory there is: slices of this length keep a disk busy."""
MAX_RANGES = 1 << 16


@dataclass(frozen=True)
class Plan:
    """What a task may take: bytes of its working arrays, and documents of one group of annotation files."""

    worker_bytes: int
    group_documents: int

    @property
    def run_pairs(self) -> int:
        """Pairs that a partition task orders and writes at once."""
        return max(64, min(MAX_PAIRS, self.worker_bytes * 3 // 4 // BUFFER_BYTES_A_PAIR))

    @property
    def chunk_pairs(self) -> int:
        """Pairs that a join task reads at once."""
        return max(64, min(MAX_PAIRS // 4, self.worker_bytes // 4 // CHUNK_BYTES_A_PAIR))

    def bits(self, pairs: int, bytes_a_pair: int) -> int:
        """Leading bits of the hash that cut `pairs` of one kind into ranges of which one fits a join task.

        Raises `ConfigError` when that takes more than `MAX_RANGES`.
        """
        bits = 0
        while pairs * bytes_a_pair > (self.worker_bytes * 3 // 4) << bits:
            bits += 1
        if 1 << bits > MAX_RANGES:
            least = 2 * pairs * bytes_a_pair // MAX_RANGES
            raise ConfigError(f"dedup.memory_bytes: {self.worker_bytes} a worker is too small for {pairs} hashes of a kind; give each worker {least} or more")
        return bits

    def in_memory(self, documents: int) -> bool:
        """Whether a union task may hold its arrays in memory; otherwise it maps them from a file."""
        return documents * UNION_BYTES_A_DOCUMENT <= self.worker_bytes


def make_plan(documents: int, memory_bytes: int, workers: int) -> Plan:
    """The plan for so many documents; a group is small enough for each worker to get several."""
    worker_bytes = memory_bytes // workers
    return Plan(worker_bytes, max(1, min(MAX_PAIRS, -(-documents // (4 * workers)))))


def settle_plan(plan: Plan, path: Path) -> tuple[Plan, bool]:
    """The plan that an interrupted run left in `path` if it needs no more memory than `plan`, else `plan`, and whether it is the old one."""
    try:
        value = json.loads(path.read_text())
        old = Plan(**value["plan"])
        if value["sha256"] != sha256_json(value["plan"]):
            return plan, False
    except (OSError, ValueError, KeyError, TypeError):
        return plan, False
    return (old, True) if old.worker_bytes <= plan.worker_bytes else (plan, False)


def write_plan(plan: Plan, path: Path) -> None:
    """Publish a plan for `settle_plan`."""
    write_json(path, {"plan": asdict(plan), "sha256": sha256_json(asdict(plan))})
