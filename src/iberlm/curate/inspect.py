"""Look at documents of a finished run: what was kept, what was dropped and why, which passages were cut and for what.

The draw reads two columns of the verdicts, a shard at a time; the text is read only of the documents that are shown.
"""

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest
from iberlm.curate.aligned import read_columns, read_rows
from iberlm.curate.config import Thresholds
from iberlm.curate.measure.kernel import STATISTICS
from iberlm.curate.selection.decide import Shard, shards_of
from iberlm.curate.selection.settle import VERDICTS
from iberlm.curate.spans import covered, flatten, joined

KEPT = "kept"
_ANNOTATIONS = ["language", "language_score", "variety", "other_languages", "personal_data", *STATISTICS]
_BESIDE = {
    "dedup": ["cluster", "cluster_size", "exact_cluster", "url_cluster", "boilerplate"],
    "decontaminate": ["contamination"],
    "robots": ["robots"],
    "quality": ["quality_score"],
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which documents are looked at. Empty settings ask for all."""

    language: str = ""
    """As counted: the identified language if it is one of ours, else what the source claimed."""
    reason: str = ""
    """A reason of the funnel, or `kept`."""
    document: str = ""
    """The identifier of one document; the other settings then have no meaning."""
    number: int = 5
    seed: int = 0
    """The documents are drawn at random; the same seed draws the same ones."""


@dataclass(frozen=True)
class Inspected:
    """One document with all that is known of it."""

    document: dict[str, Any]
    """Columns of the extraction."""
    columns: dict[str, Any]
    """Columns that the other stages wrote beside it, as far as they were run, and `other_language_ratio`."""
    verdict: dict[str, Any]
    """Columns of the verdict."""
    limits: Thresholds | None
    """Those of its identified language."""
    number: int
    """Among all documents of the run, as the columns of clusters count them."""
    firsts: dict[str, str] = field(default_factory=dict)
    """By column of clusters (`cluster`, `exact_cluster`, `url_cluster`): the identifier of the first document of its cluster, where that is another."""

    @property
    def reason(self) -> str:
        """Why it was dropped, or `kept`."""
        return str(self.verdict["reason"] or KEPT)

    def beyond(self) -> list[tuple[str, float, str, float]]:
        """Statistics beyond a limit: (name, value, `at least` or `at most`, limit), whichever rule was the first to say so."""
        found = []
        for name, limit in vars(self.limits).items() if self.limits else ():
            side, statistic = name.split("_", 1)
            value = self.columns.get(statistic)
            # compared in the precision of the column, as the rules do
            if value is not None and (np.float32(value) < np.float32(limit) if side == "min" else np.float32(value) > np.float32(limit)):
                found.append((statistic, value, "at least" if side == "min" else "at most", limit))
        return found


def inspect(inputs: list[Manifest], selected: Manifest, wanted: Wanted) -> Iterator[Inspected]:
    """Yield the documents that are wanted, in the order of the run.

    `selected`: the manifest of the stage `select`; `inputs`: those that it read. Raises `ConfigError` for a language or reason that no
    document has, naming those that occur, `DataError` for an identifier that is not there, and `CorruptError` for damaged files.
    """
    shards = shards_of(inputs)
    limits = _limits(selected)
    for shard, rows in _by_id(shards, wanted.document) if wanted.document else _drawn(shards, selected, wanted):
        yield from _read(shard, rows, selected, limits, shards)


def _limits(selected: Manifest) -> dict[str, Thresholds]:
    try:
        return {tag: Thresholds(**values) for tag, values in selected.config["filters"].items()}
    except (TypeError, KeyError) as error:
        raise CorruptError(f"{selected.folder}: made with other limits than this IberLM has ({error}); run `iberlm curate` again") from error


def _by_id(shards: list[Shard], document: str) -> list[tuple[Shard, list[int]]]:
    for shard in shards:
        row = pc.index(read_columns(shard.documents, ["id"], shard.rows).column("id"), document).as_py()
        if row >= 0:
            return [(shard, [row])]
    raise DataError(f"inspect: no document has the identifier '{document}'; look at some with `iberlm inspect RUN_DIR`")


def _drawn(shards: list[Shard], selected: Manifest, wanted: Wanted) -> list[tuple[Shard, list[int]]]:
    """A random draw without replacement over all shards. Memory: one shard's verdicts."""
    languages, reasons = Counter[str](), Counter[str]()
    matching = []
    for shard in shards:
        language, reason = _verdict_columns(shard, selected)
        languages.update(_counted(language))
        reasons.update(_counted(reason))
        matching.append(int(pc.sum(_mask(language, reason, wanted)).as_py() or 0))
    _refuse_unknown("language", wanted.language, languages)
    _refuse_unknown("reason", wanted.reason, reasons)
    total = sum(matching)
    if not total:
        raise DataError(f"inspect: no document of the language '{wanted.language}' has the reason '{wanted.reason}'")
    drawn = np.sort(np.random.default_rng(wanted.seed).choice(total, min(wanted.number, total), replace=False))
    ends = np.cumsum([0, *matching])
    found = []
    for place, shard in enumerate(shards):
        positions = drawn[(drawn >= ends[place]) & (drawn < ends[place + 1])] - ends[place]
        if len(positions):
            mask = _mask(*_verdict_columns(shard, selected), wanted)
            rows: npt.NDArray[np.int64] = np.flatnonzero(mask.to_numpy(zero_copy_only=False))[positions]
            found.append((shard, rows.tolist()))
    return found


def _verdict_columns(shard: Shard, selected: Manifest) -> tuple[pa.Array, pa.Array]:
    """Language and reason (`kept` where there is none) of each document of a shard."""
    table = read_columns(selected.path(f"{VERDICTS}/{shard.name}.parquet"), ["counted_as", "reason"], shard.rows)
    language, reason = (table.column(name).combine_chunks() for name in ("counted_as", "reason"))
    return language, pc.if_else(pc.equal(reason, ""), KEPT, reason)


def _counted(column: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _mask(language: pa.Array, reason: pa.Array, wanted: Wanted) -> pa.Array:
    mask = pa.array(np.ones(len(language), dtype=bool))
    if wanted.language:
        mask = pc.and_(mask, pc.equal(language, wanted.language))
    if wanted.reason:
        mask = pc.and_(mask, pc.equal(reason, wanted.reason))
    return mask


def _refuse_unknown(key: str, value: str, known: Counter[str]) -> None:
    if not value or value in known:
        return
    close = difflib.get_close_matches(value, known, 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    there = ", ".join(f"{name} ({number:,})" for name, number in known.most_common())
    raise ConfigError(f"inspect: no document has the {key} '{value}'; {hint}There are {there or 'none at all'}")


def _read(shard: Shard, rows: list[int], selected: Manifest, limits: dict[str, Thresholds], shards: list[Shard]) -> Iterator[Inspected]:
    beside = read_rows(shard.beside["annotate"], rows, _ANNOTATIONS)
    others = flatten(beside.column("other_languages"))
    share = covered(joined([others]), len(rows)) / np.maximum(1, beside.column("characters").to_numpy())
    columns = [{**row, "other_language_ratio": ratio} for row, ratio in zip(beside.to_pylist(), share.tolist(), strict=True)]
    for stage, names in _BESIDE.items():
        if stage in shard.beside:
            for known, more in zip(columns, read_rows(shard.beside[stage], rows, names).to_pylist(), strict=True):
                known.update(more)
    verdicts = read_rows(selected.path(f"{VERDICTS}/{shard.name}.parquet"), rows).to_pylist()
    documents = read_rows(shard.documents, rows).to_pylist()
    for row, document, known, verdict in zip(rows, documents, columns, verdicts, strict=True):
        number = shard.first + row
        firsts = {name: _identifier(shards, known[name]) for name in ("cluster", "exact_cluster", "url_cluster") if known.get(name, number) != number}
        yield Inspected(document, known, verdict, limits.get(known["language"]), number, firsts)


def _identifier(shards: list[Shard], number: int) -> str:
    """The identifier of the document with this number among all."""
    shard = next((shard for shard in shards if shard.first <= number < shard.first + shard.rows), None)
    if shard is None:
        raise CorruptError(f"a cluster names document {number}, and there is none; run the stage 'dedup' again")
    return str(read_rows(shard.documents, [number - shard.first], ["id"]).column("id")[0])
