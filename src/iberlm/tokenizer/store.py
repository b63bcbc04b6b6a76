"""Stage `tokenize`: documents -> token store, one pair of files a shard, and an index from document to tokens.

Ids are those of the tokenizer of the train-tokenizer stage, whichever encoder finds them (see `encode`). A text that
happens to spell a special token is encoded as ordinary text, so <s> and </s> occur only where a document starts and ends.
"""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iberlm.core.documents import BATCH_ROWS, write_documents
from iberlm.core.errors import CorruptError, DataError, ResourceError
from iberlm.core.files import write_text
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.process import usable_cores
from iberlm.core.progress import say
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import SHARDS, Record, run_stage
from iberlm.core.token_store import Block, dtype_for, open_shard, tokenizer_hash, write_blocks
from iberlm.tokenizer.config import TokenizeConfig
from iberlm.tokenizer.corpus import SPLITS, TRAIN, VALIDATION, split_files
from iberlm.tokenizer.encode import DocumentEncoder, FastEncoderError, GigatokenEncoder, first_difference, open_encoder
from iberlm.tokenizer.unigram import best_unigrams
from iberlm.tokenizer.verify import check_shard

STAGE = "tokenize"
VERSION = 2
BOUNDARY = "every document begins with bos and ends with eos, which occur nowhere else; read back and checked in every shard"
BATCH_BYTES = 8 << 20
"""UTF-8 bytes of text that are encoded at a time."""
COMPARED_FIRST, COMPARED_EVERY, COMPARED_BYTES = 32, 256, 1 << 20
"""The documents of a shard on which the fast encoder is compared with the reference: the first ones, and then one in so many, unless they are longer."""
DOUBT = f"{SHARDS}/doubt"
"""Left when the fast encoder erred, with what it did: from then on shards are encoded with the reference."""
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
    """What a worker needs to encode: the folder of tokenizer.json, the ids that the store relies on, and whether the fast encoder was found good."""

    folder: str
    vocabulary_size: int
    bos: int
    eos: int
    fast: bool


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
    "vocabulary_size", "boundary" (the ids that begin and end every document), "tokenizer" (`token_store.tokenizer_hash`)
    and "encoder" (its name, and why it is not the fast one). Languages without validation text have no
    unigram. Raises `CorruptError` when what was written does not read back as it should.
    """
    return run_stage(STAGE, VERSION, _body, config, inputs, out, resumable=True)


def _body(config: TokenizeConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    curated, trained = inputs
    codec, reason = read_codec(trained, fast=config.encoder == "fast")
    shards = plan_shards(curated, codec, config.max_shard_bytes)
    if not any(shard.split == TRAIN for shard in shards.values()):
        raise DataError(f"{curated.folder}: has no training documents; look at what curate dropped")
    results = _encode_all(shards, record, config.cluster.workers)
    counts = _check(shards, results, record, config.cluster.workers)
    record.output(out / "documents.parquet", write_documents(out / "documents.parquet", _index(shards, out), INDEX_SCHEMA))
    sizes = _sums(shards, results)
    bits, better = best_unigrams(counts[TRAIN], counts[VALIDATION], sizes["bytes"][VALIDATION], ends=(codec.bos, codec.eos))
    reason = (out / DOUBT).read_text(encoding="utf-8") if (out / DOUBT).exists() else reason
    record.metrics = sizes | {
        "unigram_bits_per_byte": bits,
        "unigram_model": better,
        "dtype": np.dtype(dtype_for(codec.vocabulary_size)).name,
        "vocabulary_size": codec.vocabulary_size,
        "boundary": {"bos": codec.bos, "eos": codec.eos, "policy": BOUNDARY},
        "tokenizer": tokenizer_hash(Path(codec.folder)),
        "encoder": {"name": " and ".join(sorted({result.metrics["encoder"] for result in results.values()})), "reason": reason},
    }


def _encode_all(shards: dict[str, Shard], record: Record, workers: int) -> dict[str, ShardResult]:
    """Encode the shards; when the fast encoder erred in one, those that it had written before are written anew: the store follows the reference alone."""
    results = map_shards(STAGE, encode_shard, shards, record, workers=workers)
    reference = f"tokenizers {version('tokenizers')}"
    if (record.folder / DOUBT).exists() and (doubted := [name for name, result in results.items() if result.metrics["encoder"] != reference]):
        say(f"{STAGE}: {len(doubted)} shards were written before the fast encoder erred: once more with the reference")
        for name in doubted:
            (record.folder / SHARDS / f"{name}.json").unlink()
        record.counts = Counts()  # counted again
        results = map_shards(STAGE, encode_shard, shards, record, workers=workers)
    return results


def read_codec(trained: Manifest, *, fast: bool) -> tuple[Codec, str]:
    """The tokenizer of a train_tokenizer stage, and why its encoder is not the fast one; says which it is.

    Raises `CorruptError` when its settings and vocabulary disagree, `DataError` when it has no token to begin or to end a document with.
    """
    path, settings_path = trained.path("tokenizer/tokenizer.json"), trained.path("tokenizer/tokenizer_config.json")
    encoder = open_encoder(path.parent, fast)
    try:
        settings = json.loads(settings_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{settings_path}: cannot be read ({error}); delete its folder and train the tokenizer again") from error
    ends: list[int] = []
    for key in ("bos_token", "eos_token"):
        token = settings.get(key)
        token = token["content"] if isinstance(token, dict) else token  # transformers writes either
        if not token:
            raise DataError(f"{settings_path}: {key} is {token}; documents begin with one token and end with another: name them there")
        if (index := encoder.tokenizer.token_to_id(token)) is None:
            raise CorruptError(f"{path}: lacks {token}, which {settings_path.name} names as {key}; train the tokenizer again")
        ends.append(index)
    is_fast = isinstance(encoder, GigatokenEncoder)
    why = "" if is_fast else encoder.reason if fast else "as asked by encoder=reference"
    say(f"{STAGE}: encoder {encoder.name}" if is_fast else f"{STAGE}: encoder reference ({encoder.name}): {why}")
    return Codec(str(path.parent), encoder.tokenizer.get_vocab_size(), bos=ends[0], eos=ends[1], fast=is_fast), why


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
    """The rows of a shard; a row group at a time, since Arrow keeps the bytes of all those it was asked for at once."""
    with _parquet(Path(shard.file)) as parquet:
        try:
            for group in range(shard.first, shard.end):
                yield from parquet.iter_batches(batch_rows, row_groups=[group], columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{shard.file}: not a whole Parquet file ({error}); run the stage that makes it again") from error


def encode_shard(shard: Shard, out: Path) -> ShardResult:
    """Write one shard's `.bin` and `.idx`. Runs in a worker process.

    When the fast encoder errs, the shard is written anew with the reference, and a mark is left so that no other shard begins with it.
    """
    if multiprocessing.parent_process() is not None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool has a worker a core already
    folder, doubt = Path(shard.codec.folder), out / DOUBT
    if shard.codec.fast and not doubt.exists():
        try:
            return _write(shard, out, open_encoder(folder, checked=True))
        except FastEncoderError as fault:
            say(f"{STAGE}: {shard.name}: {fault}; this and all other shards are encoded with the reference")
            write_text(doubt, f"{shard.name}: {fault}")
    return _write(shard, out, open_encoder(folder, fast=False))


def _write(shard: Shard, out: Path, encoder: DocumentEncoder) -> ShardResult:
    sums: Counter[str] = Counter()
    (out / shard.stem).parent.mkdir(parents=True, exist_ok=True)
    _, lengths = write_blocks(out / shard.stem, _encoded(shard, encoder, sums), dtype_for(shard.codec.vocabulary_size))
    documents = len(lengths)
    result = ShardResult(outputs={f"{shard.stem}.bin": documents, f"{shard.stem}.idx": documents})
    result.counts.keep(shard.language, documents)
    result.metrics = {"tokens": int(lengths.sum(dtype=np.int64)), "bytes": sums["bytes"], "documents": documents, "encoder": encoder.name}
    return result


def _encoded(shard: Shard, encoder: DocumentEncoder, sums: Counter[str]) -> Iterator[Block]:
    """Blocks of documents with <s> and </s>. Raises `FastEncoderError` when the fast encoder errs on a document that is compared."""
    codec, dtype, done = shard.codec, dtype_for(shard.codec.vocabulary_size), 0
    for column in _texts(shard):
        ids, lengths = encoder.encode_column(column)
        sizes = pc.binary_length(column).to_numpy(zero_copy_only=False)
        if isinstance(encoder, GigatokenEncoder):
            numbers = np.arange(done, done + len(column))
            chosen = np.flatnonzero(((numbers < COMPARED_FIRST) | (numbers % COMPARED_EVERY == 0)) & (sizes <= COMPARED_BYTES))
            if len(chosen) and (differing := first_difference(encoder.reference, column, ids, lengths, chosen)) is not None:
                raise FastEncoderError(f"document {done + differing}: {encoder.name} gives other ids than the tokenizer")
        if len(ids) and not 0 <= ids.min() <= ids.max() < codec.vocabulary_size:
            raise CorruptError(f"{codec.folder}: gave id {ids.max()} with a vocabulary of {codec.vocabulary_size}; train the tokenizer again")
        sums["bytes"] += int(sizes.sum())
        done += len(column)
        yield with_ends(ids, lengths, codec.bos, codec.eos, dtype)


def _texts(shard: Shard) -> Iterator[pa.LargeStringArray]:
    """The texts of a shard in columns of about `BATCH_BYTES`; a longer text is alone."""
    for batch in _read(shard, ["text"], BATCH_ROWS):
        column = batch["text"].cast(pa.large_string())
        try:
            column.validate(full=True)  # the encoder takes bytes as they are
        except pa.ArrowInvalid as error:
            raise CorruptError(f"{shard.file}: its text is not UTF-8 ({error}); run the stage that makes it again") from error
        ends, first = np.cumsum(pc.binary_length(column).to_numpy(zero_copy_only=False)), 0
        while first < len(column):
            before = int(ends[first - 1]) if first else 0
            end = max(first + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
            yield column.slice(first, end - first)
            first = end


def with_ends(ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64], bos: int, eos: int, dtype: type[np.integer]) -> Block:
    """Every document between `bos` and `eos`: `ids` of all documents one after the other, `lengths` int64[n]; ids of `dtype` and int64[n]."""
    longer = lengths + 2
    ends = np.cumsum(longer)
    out, inside = np.empty(len(ids) + 2 * len(lengths), dtype), np.ones(len(ids) + 2 * len(lengths), bool)
    for places, end in ((ends - longer, bos), (ends - 1, eos)):
        out[places], inside[places] = end, False
    out[inside] = ids
    return out, longer


def _check(shards: dict[str, Shard], results: dict[str, ShardResult], record: Record, workers: int) -> dict[str, dict[str, npt.NDArray[np.int64]]]:
    """Read every shard back; return how often each id occurs, by split and language."""
    counts: dict[str, dict[str, npt.NDArray[np.int64]]] = {split: {} for split in SPLITS}
    documents = [results[name].metrics["documents"] for name in shards]
    places = [record.folder] * len(shards)
    width = 1 if len(shards) < 2 else workers or usable_cores()
    try:
        every = map if width == 1 else record.pool(width).map
        for shard, found in zip(shards.values(), every(check_one, shards.values(), places, documents), strict=True):
            known = counts[shard.split]
            known[shard.language] = known[shard.language] + found if shard.language in known else found
    except BrokenProcessPool as error:
        raise ResourceError("a worker process was killed, most often for lack of memory: use fewer workers (cluster.workers=1)") from error
    return counts


def check_one(shard: Shard, out: Path, documents: int) -> npt.NDArray[np.int64]:
    """Read one shard back; see `verify.check_shard`. Runs in a worker process."""
    codec = shard.codec
    return check_shard(open_shard(out / shard.stem), documents=documents, vocabulary_size=codec.vocabulary_size, bos=codec.bos, eos=codec.eos)


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
        for quantity, values in sums.items():
            by_language = values[shard.split]
            by_language[shard.language] = by_language.get(shard.language, 0) + results[name].metrics[quantity]
    return sums
