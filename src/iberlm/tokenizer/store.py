"""Stage `tokenize`: documents -> token store, one pair of files a shard, and an index from document to tokens.

Ids are those of the fast tokenizer of the train-tokenizer stage. A text that happens to spell a special token is
encoded as ordinary text, so <s> and </s> occur only where a document starts and ends.
"""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from iberlm.core.documents import write_documents
from iberlm.core.errors import CorruptError, DataError
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, ShardResult, map_shards, run_stage
from iberlm.core.token_store import dtype_for, open_shard, write_shard
from iberlm.tokenizer.config import TokenizeConfig
from iberlm.tokenizer.corpus import SPLITS, TRAIN, VALIDATION, split_files
from iberlm.tokenizer.unigram import best_unigrams
from iberlm.tokenizer.verify import check_shard

STAGE = "tokenize"
VERSION = 1
INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("card", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # stem of its .bin and .idx, below the stage's folder
        pa.field("index", pa.int64(), nullable=False),  # of the document in its shard
        pa.field("offset", pa.int64(), nullable=False),  # of its first id in the shard, in tokens
        pa.field("length", pa.int32(), nullable=False),  # ids, with <s> and </s>
    ]
)


@dataclass(frozen=True)
class Codec:
    """What a worker needs to encode: the path of tokenizer.json and the ids that the store relies on."""

    path: str
    vocabulary_size: int
    bos: int
    eos: int


@dataclass(frozen=True)
class Shard:
    """Row groups [first, end) of one documents file."""

    split: str
    language: str
    file: str
    first: int
    end: int
    stem: str
    codec: Codec

    @property
    def name(self) -> str:
        """The stem without folders: a file name."""
        return self.stem.replace("/", ".")


def run(config: TokenizeConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Tokenize the documents of a curate manifest with the tokenizer of a train_tokenizer manifest, in that order.

    Metrics: tokens (with <s> and </s>), UTF-8 bytes and documents by split and language, "unigram_bits_per_byte" of the
    better unigram by language with "unigram_model" saying which ("own" or "all", see `unigram`), "dtype",
    "vocabulary_size". Languages without validation text have no unigram. Raises `CorruptError` when what was written
    does not read back as it should.
    """
    return run_stage(STAGE, VERSION, _body, config, inputs, out, resumable=True)


def _body(config: TokenizeConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    curated, trained = inputs
    codec = read_codec(trained)
    shards = plan_shards(curated, codec, config.max_shard_bytes)
    if not any(shard.split == TRAIN for shard in shards.values()):
        raise DataError(f"{curated.folder}: has no training documents; look at what curate dropped")
    results = map_shards(STAGE, encode_shard, shards, record, workers=config.cluster.workers)
    counts = _check(shards, results, out)
    record.output(out / "documents.parquet", write_documents(out / "documents.parquet", _index(shards, out), INDEX_SCHEMA))
    sizes = _sums(shards, results)
    bits, better = best_unigrams(counts[TRAIN], counts[VALIDATION], sizes["bytes"][VALIDATION], ends=(codec.bos, codec.eos))
    record.metrics = sizes | {
        "unigram_bits_per_byte": bits,
        "unigram_model": better,
        "dtype": np.dtype(dtype_for(codec.vocabulary_size)).name,
        "vocabulary_size": codec.vocabulary_size,
    }


def read_codec(trained: Manifest) -> Codec:
    """The tokenizer of a train_tokenizer stage; `CorruptError` when its settings and vocabulary disagree."""
    path, settings_path = trained.path("tokenizer/tokenizer.json"), trained.path("tokenizer/tokenizer_config.json")
    try:
        settings, tokenizer = json.loads(settings_path.read_text(encoding="utf-8")), Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise CorruptError(f"{path}: cannot be read ({error}); delete its folder and train the tokenizer again") from error
    bos, eos = (tokenizer.token_to_id(settings[key]) for key in ("bos_token", "eos_token"))
    if bos is None or eos is None:
        raise CorruptError(f"{path}: lacks {settings['bos_token']} or {settings['eos_token']}, which {settings_path.name} names; train the tokenizer again")
    return Codec(str(path), tokenizer.get_vocab_size(), bos, eos)


def plan_shards(curated: Manifest, codec: Codec, max_shard_bytes: int) -> dict[str, Shard]:
    """Shards by split, language and file, in an order and with names that depend on the documents alone.

    A shard is a run of row groups with at most `max_shard_bytes` of text, or one row group that is larger.
    """
    shards: dict[str, Shard] = {}
    for split in SPLITS:
        for language, paths in split_files(curated, split).items():
            spans = [(path, *span) for path in paths for span in _spans(path, max_shard_bytes)]
            for number, (path, first, end) in enumerate(spans):
                shard = Shard(split, language, str(path), first, end, f"{split}/{file_safe(language)}-{number:05d}", codec)
                shards[shard.name] = shard
    return shards


def _spans(path: Path, max_bytes: int) -> list[tuple[int, int]]:
    with _parquet(path) as parquet:
        column = parquet.schema_arrow.get_field_index("text")
        sizes = [parquet.metadata.row_group(index).column(column).total_uncompressed_size for index in range(parquet.num_row_groups)]
    spans, first, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > first and total + size > max_bytes:
            spans.append((first, index))
            first, total = index, 0
        total += size
    return [*spans, (first, len(sizes))] if sizes else []


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: not a whole Parquet file ({error}); run the stage that makes it again") from error


def _read(shard: Shard, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with _parquet(Path(shard.file)) as parquet:
        try:
            yield from parquet.iter_batches(batch_rows, row_groups=range(shard.first, shard.end), columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{shard.file}: not a whole Parquet file ({error}); run the stage that makes it again") from error


def encode_shard(shard: Shard, out: Path) -> ShardResult:
    """Write one shard's `.bin` and `.idx`. Runs in a worker process."""
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool has a worker a core already
    sums: Counter[str] = Counter()
    (out / shard.stem).parent.mkdir(parents=True, exist_ok=True)
    _, lengths = write_shard(out / shard.stem, _encoded(shard, sums), dtype_for(shard.codec.vocabulary_size))
    documents = len(lengths)
    result = ShardResult(outputs={f"{shard.stem}.bin": documents, f"{shard.stem}.idx": documents})
    result.counts.keep(shard.language, documents)
    result.metrics = {"tokens": int(lengths.sum(dtype=np.int64)), "bytes": sums["bytes"], "documents": documents}
    return result


def _encoded(shard: Shard, sums: Counter[str]) -> Iterator[npt.NDArray[np.int32]]:
    tokenizer = Tokenizer.from_file(shard.codec.path)
    tokenizer.encode_special_tokens = True  # '</s>' in a text is text
    for batch in _read(shard, ["text"], 256):
        sums["bytes"] += pc.sum(pc.binary_length(batch["text"])).as_py()
        for encoding in tokenizer.encode_batch_fast(batch["text"].to_pylist(), add_special_tokens=False):
            yield np.asarray([shard.codec.bos, *encoding.ids, shard.codec.eos], np.int32)


def _check(shards: dict[str, Shard], results: dict[str, ShardResult], out: Path) -> dict[str, dict[str, npt.NDArray[np.int64]]]:
    """Read every shard back; return how often each id occurs, by split and language."""
    counts: dict[str, dict[str, npt.NDArray[np.int64]]] = {split: {} for split in SPLITS}
    for name, shard in shards.items():
        codec, documents = shard.codec, results[name].metrics["documents"]
        found = check_shard(open_shard(out / shard.stem), documents=documents, vocabulary_size=codec.vocabulary_size, bos=codec.bos, eos=codec.eos)
        known = counts[shard.split]
        known[shard.language] = known[shard.language] + found if shard.language in known else found
    return counts


def _index(shards: dict[str, Shard], out: Path) -> Iterator[pa.Table]:
    """Rows of documents.parquet, one table a shard, in the order of the shards."""
    for shard in shards.values():
        store = open_shard(out / shard.stem)
        named = pa.Table.from_batches(_read(shard, ["id", "card"], 65_536), pa.schema([INDEX_SCHEMA.field("id"), INDEX_SCHEMA.field("card")]))
        rows = len(store)
        same = {"split": shard.split, "language": shard.language, "shard": shard.stem}
        columns: dict[str, Any] = {name: pa.repeat(pa.scalar(value, pa.string()), rows) for name, value in same.items()}
        columns |= {"id": named["id"], "card": named["card"], "index": np.arange(rows, dtype=np.int64), "offset": store.offsets, "length": store.lengths}
        yield pa.table([columns[field.name] for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)


def _sums(shards: dict[str, Shard], results: dict[str, ShardResult]) -> dict[str, dict[str, dict[str, int]]]:
    sums: dict[str, dict[str, dict[str, int]]] = {name: {split: {} for split in SPLITS} for name in ("tokens", "bytes", "documents")}
    for name, shard in shards.items():
        for quantity, value in results[name].metrics.items():
            by_language = sums[quantity][shard.split]
            by_language[shard.language] = by_language.get(shard.language, 0) + value
    return sums
