"""The stage `quality`: the score of a classifier that the user trained (`iberlm train-quality`), a column beside the documents.

No model is shipped: what is good text is for those to say who use it, and a classifier that nobody has validated for a
language would only look like an answer.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iberlm.core.config import given
from iberlm.core.documents import read_batches
from iberlm.core.files import publish, sha256_file
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate.config import QualityConfig
from iberlm.curate.quality_model import ABOUT, MODEL, QualityModel

VERSION = 1
SCHEMA = pa.schema([pa.field("quality_score", pa.float32(), nullable=False)])
"""One row a document: the probability that it is of the positive set, 0..1; 0 for a text without words."""
TENTHS = 10


def run(config: QualityConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Score the documents of the extraction `inputs[0]`; write `scores/NNNNN.parquet`.

    Raises `ConfigError` when the folder holds no quality model, `CorruptError` when it is damaged, and what `run_stage` raises.
    """
    given("quality.model", config.model)
    folder = Path(config.model)
    QualityModel.load(folder)
    fingerprint = [sha256_file(folder / name) for name in (MODEL, ABOUT)]
    return run_stage("quality", VERSION, _score_all, config, inputs, out, fingerprint=fingerprint, resumable=True)


def _score_all(config: QualityConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    shards = {path.stem: (path, Path(config.model).absolute()) for path in inputs[0].paths("documents/", ".parquet")}
    results = map_shards("quality", score_shard, shards, record, workers=config.workers)
    tenths: dict[str, list[int]] = {}
    for result in results.values():
        for language, counts in result.metrics["tenths"].items():
            tenths[language] = [one + other for one, other in zip(tenths.get(language, [0] * TENTHS), counts, strict=True)]
    record.metrics = {"documents_by_tenth_of_score": dict(sorted(tenths.items()))}


@lru_cache(maxsize=1)
def _loaded(folder: Path, _changed: int) -> QualityModel:
    return QualityModel.load(folder)


def score_shard(shard: tuple[Path, Path], out: Path) -> ShardResult:
    """Scores of one documents file, written to `out/scores/` under the same name."""
    source, folder = shard
    model = _loaded(folder, (folder / MODEL).stat().st_mtime_ns)
    counts, tenths = Counts(), dict[str, npt.NDArray[Any]]()
    path = out / "scores" / source.name
    with publish(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for batch in read_batches(source, ["text", "language"]):
            scores = model.score(batch.column("text"))
            writer.write_batch(pa.record_batch([pa.array(scores)], schema=SCHEMA))
            which = np.minimum((scores * TENTHS).astype(np.int64), TENTHS - 1)
            languages = batch.column("language").dictionary_encode()
            codes = languages.indices.to_numpy(zero_copy_only=False)
            for code, language in enumerate(languages.dictionary.to_pylist()):
                found = np.bincount(which[codes == code], minlength=TENTHS)
                tenths[language] = tenths.get(language, 0) + found
                counts.keep(language, int(found.sum()))
    return ShardResult({path.relative_to(out).as_posix(): counts.read}, counts, {"tenths": {language: found.tolist() for language, found in tenths.items()}})
