"""Find the items of evaluation suites in documents, and keep which items were seen.

A text of an item matches where `ngram_words` words in a row are the same (13 in GPT-3, Brown et al. 2020, arXiv
2005.14165, appendix C), whatever their case, punctuation, spacing and Unicode form; a text of fewer words only as a whole. Nothing is dropped or
cut here: matches are a column beside the documents, and `select` says what becomes of them. `items.parquet` says of every
item how much of it is in the documents and in which, so that an evaluation can leave out or set apart what a model may
have seen.
"""

import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.config import given
from iberlm.core.documents import read_batches
from iberlm.core.errors import DataError
from iberlm.core.files import publish, sha256_file
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.progress import say
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate.config import DecontaminateConfig
from iberlm.curate.contamination.index import EXACT, NGRAMS, EvaluationIndex, Texts, build
from iberlm.curate.contamination.items import Evaluation, evaluation_files, read_texts
from iberlm.curate.contamination.word_sequences import Found, search

VERSION = 1
ITEMS = "items.parquet"
SCHEMA = pa.schema([("contamination", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("suite", pa.string()), ("item", pa.string())])))])
"""One row a document: the passages that are in an item, in code points, half open; n-grams that overlap are one passage. A text that several
items of a suite share is listed under the first of them."""
ITEMS_SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("item", pa.string()),
        ("field", pa.string()),
        ("words", pa.int32()),
        ("method", pa.string()),  # ngrams, exact, too_short or template: the last two are not looked for
        ("ngrams", pa.int32()),  # that are looked for; 1 for a short text
        ("ngrams_unused", pa.int32()),  # of a template, or in too many items
        ("ngrams_seen", pa.int32()),
        ("share_seen", pa.float32()),  # of `ngrams`; null where there are none
        ("documents", pa.int64()),  # that have at least one of them
        ("first_documents", pa.list_(pa.string())),  # their ids, at most FIRST_DOCUMENTS
    ]
)
"""One row a text of an item."""
FIRST_DOCUMENTS = 5

_BATCH_ROWS = 4096
_SEEN_SCHEMA = pa.schema([("text", pa.int64()), ("documents", pa.int64()), ("first_documents", pa.list_(pa.string())), ("ngrams", pa.list_(pa.uint64()))])


def run(config: DecontaminateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Search the documents of the extraction `inputs[0]`; write `matches/NNNNN.parquet`, `seen/NNNNN.parquet` and `items.parquet`.

    Raises `ConfigError` and `DataError` when the evaluation's files are not there or cannot be read, `DataError` when they have no text
    that can be looked for, and what `run_stage` raises.
    """
    given("decontaminate.evaluation", config.evaluation)
    evaluation = evaluation_files(config.evaluation)
    fingerprint = [[suite, sha256_file(path)] for suite, path in evaluation.files]
    if evaluation.without_data:
        say(f"decontaminate: not looked for, as their data is not here: {', '.join(evaluation.without_data)}")

    def body(config: DecontaminateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        _search_all(config, evaluation, inputs[0], out, record)

    return run_stage("decontaminate", VERSION, body, config, inputs, out, fingerprint=fingerprint, resumable=True)


def _search_all(config: DecontaminateConfig, evaluation: Evaluation, documents: Manifest, out: Path, record: Record) -> None:
    texts = read_texts(evaluation, config.fields, config.id_field)
    index, about = build(texts, ngram_words=config.ngram_words, short_item_words=config.short_item_words, max_items=config.max_items)
    if not any(method in (NGRAMS, EXACT) for method in about.method):
        raise DataError(f"decontaminate.evaluation: none of {len(about.rows)} texts has {config.short_item_words} words or more; there is nothing to look for")
    folder = out / "index"
    index.save(folder)
    shards = {path.stem: (path, folder) for path in documents.paths("documents/", ".parquet")}
    results = list(map_shards("decontaminate", search_shard, shards, record, workers=config.workers).values())
    table = _items(index, about, _read_seen([out / name for result in results for name in result.outputs if name.startswith("seen/")]))
    with publish(out / ITEMS) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    record.output(out / ITEMS, table.num_rows)
    documents_by_language: dict[str, dict[str, int]] = {}
    for result in results:
        for language, counts in result.metrics["documents"].items():
            totals = documents_by_language.setdefault(language, {"clean": 0, "contaminated": 0})
            for side, number in counts.items():
                totals[side] += number
    record.metrics = {
        "documents": dict(sorted(documents_by_language.items())),
        "suites": _suites(table),
        "tasks_without_data": sorted(evaluation.without_data),
        "ngrams": len(np.unique(index.table)),
    }
    shutil.rmtree(folder)


@lru_cache(maxsize=1)
def _loaded(folder: Path, _inode: int) -> EvaluationIndex:
    return EvaluationIndex.load(folder)


def search_shard(shard: tuple[Path, Path], out: Path) -> ShardResult:
    """Search one documents file; write its matches, and which texts and n-grams of them were seen."""
    source, folder = shard
    index = _loaded(folder, (folder / "table.npy").stat().st_ino)
    seen: dict[int, Seen] = {}
    counts, by_language = Counts(), dict[str, dict[str, int]]()
    path = out / "matches" / source.name
    with publish(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for batch in read_batches(source, ["id", "text", "language"], batch_rows=_BATCH_ROWS):
            found = search(batch.column("text"), index.find)
            writer.write_batch(pa.record_batch([contamination(found, index, batch.num_rows)], schema=SCHEMA))
            _note(seen, found, batch.column("id"))
            touched = np.zeros(batch.num_rows, np.bool_)
            touched[found.row] = True
            for language, hit in zip(batch.column("language").to_pylist(), touched.tolist(), strict=True):
                counts.keep(language)
                totals = by_language.setdefault(language, {"clean": 0, "contaminated": 0})
                totals["contaminated" if hit else "clean"] += 1
    seen_path = out / "seen" / source.name
    rows = [
        {"text": number, "documents": entry.documents, "first_documents": entry.first, "ngrams": sorted(entry.ngrams)} for number, entry in sorted(seen.items())
    ]
    with publish(seen_path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SEEN_SCHEMA), temporary, compression="zstd")
    outputs: dict[str, int | None] = {f"matches/{source.name}": counts.read, f"seen/{source.name}": len(rows)}
    return ShardResult(outputs, counts, {"documents": by_language})


@dataclass
class Seen:
    """What was found of one text."""

    documents: int = 0
    first: list[str] = field(default_factory=list)
    ngrams: set[int] = field(default_factory=set)


def _note(seen: dict[int, Seen], found: Found, ids: pa.Array) -> None:
    pairs = np.unique(np.stack([found.number, found.row], axis=1), axis=0)
    for number, row in pairs.tolist():
        entry = seen.setdefault(number, Seen())
        entry.documents += 1
        if len(entry.first) < FIRST_DOCUMENTS:
            entry.first.append(ids[row].as_py())
    for number, value in zip(found.number.tolist(), found.hashes.tolist(), strict=True):
        seen[number].ngrams.add(value)


def contamination(found: Found, index: EvaluationIndex, documents: int) -> pa.ListArray:
    """The column of `SCHEMA` for a batch: matches of the same text that overlap are one passage, ordered by start."""
    order = np.lexsort((found.start, found.number, found.row))
    row, start, end, number = (column[order] for column in (found.row, found.start, found.end, found.number))
    begins = np.ones(len(row), np.bool_)
    # n-grams of one text are all as many words long, so a later start is a later end
    begins[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1]) | (start[1:] > end[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(row))[: len(first)] - 1
    row, start, end, number = row[first], start[first], end[last], number[first]
    label, passage = _labels_of(number, index)
    order = np.lexsort((label, end[passage], start[passage], row[passage]))
    passage, label = passage[order], label[order]
    values = pa.StructArray.from_arrays(
        [
            pa.array(start[passage], pa.int32()),
            pa.array(end[passage], pa.int32()),
            *(index.labels.column(name).combine_chunks().take(pa.array(label)) for name in ("suite", "item")),
        ],
        fields=list(SCHEMA.field(0).type.value_type),
    )
    offsets = np.searchsorted(row[passage], np.arange(documents + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _labels_of(number: npt.NDArray[np.int64], index: EvaluationIndex) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every label of each passage's text: (label, index of the passage), each of shape (pairs,)."""
    first = index.label_offsets[number]
    lengths = index.label_offsets[number + 1] - first
    passage = np.repeat(np.arange(len(number)), lengths)
    within = np.arange(len(passage)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return first[passage] + within, passage


def _read_seen(paths: list[Path]) -> dict[int, Seen]:
    """Sum of what all shards saw, in their order. Memory: the items that were seen."""
    totals: dict[int, Seen] = {}
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            entry = totals.setdefault(row["text"], Seen())
            entry.documents += row["documents"]
            entry.first += row["first_documents"][: FIRST_DOCUMENTS - len(entry.first)]
            entry.ngrams.update(row["ngrams"])
    return totals


def _items(index: EvaluationIndex, about: Texts, seen: dict[int, Seen]) -> pa.Table:
    """`ITEMS_SCHEMA`, a row a text of an item, in the order of the files."""
    used = np.bincount(index.numbers, minlength=len(about.words))
    rows = []
    for row in about.rows:
        found = seen.get(row.number, Seen())
        ngrams = 1 if about.method[row.number] == EXACT else int(used[row.number])
        rows.append(
            {
                "suite": row.suite,
                "item": row.item,
                "field": row.field,
                "words": int(about.words[row.number]),
                "method": about.method[row.number],
                "ngrams": ngrams,
                "ngrams_unused": int(about.unused[row.number]),
                "ngrams_seen": len(found.ngrams),
                "share_seen": len(found.ngrams) / ngrams if ngrams else None,
                "documents": found.documents,
                "first_documents": found.first,
            }
        )
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


def _suites(table: pa.Table) -> dict[str, dict[str, int]]:
    """By suite: items, those of which some text is looked for, and those of which some n-gram was seen."""
    items: dict[str, dict[str, tuple[bool, bool]]] = {}
    columns = (table.column(name).to_pylist() for name in ("suite", "item", "ngrams", "ngrams_seen"))
    for suite, item, ngrams, ngrams_seen in zip(*columns, strict=True):
        searched, found = items.setdefault(suite, {}).get(item, (False, False))
        items[suite][item] = (searched or ngrams > 0, found or ngrams_seen > 0)
    return {
        suite: {"items": len(entries), "searched": sum(searched for searched, _ in entries.values()), "seen": sum(found for _, found in entries.values())}
        for suite, entries in items.items()
    }
