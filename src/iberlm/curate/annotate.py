"""Annotate: everything that is expensive, once. Text is read, columns are written beside it, nothing is dropped.

Columns: `language` (identified; the source's word goes to `language_claim`), `language_score`, `variety`, the statistics,
`text_hash` (of the normalised text), `bands` (MinHash) and `personal_data` (offsets).
"""

import re
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from iberlm.core.documents import SCHEMA, batches_of, read_batches, write_documents
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.stage import Record, ShardResult, map_shards, run_stage
from iberlm.curate import pii
from iberlm.curate.config import AnnotateConfig
from iberlm.curate.langid import identify
from iberlm.curate.minhash import band_hashes
from iberlm.curate.statistics import Statistics, statistics

VERSION = 1
_INTEGERS = ("words", "stop_words")
STATISTICS_FIELDS = [pa.field(name, pa.int32() if name in _INTEGERS else pa.float32()) for name in Statistics.__annotations__]
ANNOTATED = pa.schema(
    [
        *SCHEMA,
        pa.field("language_claim", pa.string()),
        pa.field("variety", pa.string()),
        *STATISTICS_FIELDS,
        pa.field("text_hash", pa.uint64()),
        pa.field("bands", pa.list_(pa.uint64())),
        pa.field("personal_data", pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))),
    ]
)
_SPACE = re.compile(r"\W+")


def run(config: AnnotateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Annotate every documents file of the extraction. Raises what `run_stage` raises."""
    return run_stage("annotate", VERSION, _annotate_all, config, inputs, out, resumable=True)


def _annotate_all(config: AnnotateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    shards = {path.stem: (path, config) for path in inputs[0].paths("documents/", ".parquet")}
    map_shards("annotate", annotate_shard, shards, record, workers=config.workers)


def annotate_shard(shard: tuple[Path, AnnotateConfig], out: Path) -> ShardResult:
    """Annotate one documents file into `out/documents/` under the same name."""
    source, config = shard
    path = out / "documents" / source.name
    counts = Counts()

    def annotated() -> Any:
        for batch in read_batches(source):
            rows = [annotate_document(row, config) for row in batch.to_pylist()]
            for row in rows:
                counts.keep(row["language"])
            yield from batches_of(rows, ANNOTATED)

    rows = write_documents(path, annotated(), ANNOTATED)
    return ShardResult({path.relative_to(out).as_posix(): rows}, counts)


def annotate_document(row: dict[str, Any], config: AnnotateConfig) -> dict[str, Any]:
    """One document of `SCHEMA` with all annotation columns. The text is put into NFC, and otherwise left as it is."""
    text = unicodedata.normalize("NFC", row["text"])
    claim = row["language"]
    identified = identify(text, claim, config.identify_characters)
    found, hashes = statistics(text, identified.language)
    spans = pii.find(text) if config.personal_data else []
    return {
        **row,
        **found,
        "text": text,
        "language": identified.language,
        "language_claim": claim,
        "language_score": identified.score,
        "variety": identified.variety,
        "text_hash": text_hash(text),
        "bands": band_hashes(hashes, config.minhash_bands, config.minhash_rows).tolist(),
        "personal_data": [span._asdict() for span in spans],
    }


def text_hash(text: str) -> int:
    """64-bit hash of a text's letters and digits, without case, accents' encoding, spaces and punctuation: equal texts for `dedup`."""
    return xxhash.xxh3_64_intdigest(_SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip().encode("utf-8", "surrogatepass"))
