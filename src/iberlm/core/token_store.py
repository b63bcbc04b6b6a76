"""Token stores in Megatron-LM's indexed format: `NAME.bin` holds the ids, `NAME.idx` where each document lies.

Layout of the index (little endian), as published in Megatron-Core's `indexed_dataset.py`: magic `MMIDIDX\\0\\0`, version
u64 = 1, dtype code u8, sequences u64, documents u64 (= sequences + 1 here: one sequence a document), lengths i32[n],
byte offsets i64[n], document boundaries i64[n + 1]. Ids are uint16 (code 8) when the vocabulary allows, else 32-bit;
the format has no code for uint32, so they are written as int32 (code 4): the same bytes for every id below 2^31.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import CorruptError
from iberlm.core.files import publish, sha256_file, sha256_json

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES: dict[int, type[np.number]] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_HEADER = struct.Struct("<9sQBQQ")
UINT16_VOCABULARY = 65_500
"""Vocabularies below this fit uint16: the bound that Megatron-Core's `DType.optimal_dtype` uses."""


def dtype_for(vocabulary_size: int) -> type[np.uint16] | type[np.int32]:
    """Type of the ids on disk for a vocabulary size."""
    return np.uint16 if vocabulary_size < UINT16_VOCABULARY else np.int32


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 of what decides the ids of a tokenizer folder: what a store remembers of the tokenizer it was made with.

    Raises `CorruptError` when there is no tokenizer.json.
    """
    if not (folder / "tokenizer.json").is_file():
        raise CorruptError(f"{folder}: has no tokenizer.json; train the tokenizer again")
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return sha256_json({name: sha256_file(folder / name) for name in names if (folder / name).is_file()})


Block = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]
"""Ids of some documents one after the other, and the number of ids of each."""


def write_shard(stem: Path, documents: Iterable[npt.NDArray[np.integer]], dtype: type[np.number]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Like `write_blocks`, from one array of ids a document."""
    return write_blocks(stem, ((ids, np.array([len(ids)])) for ids in documents), dtype)


def write_blocks(stem: Path, blocks: Iterable[Block], dtype: type[np.number]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Publish `stem.bin` and then `stem.idx` from blocks of documents; only one block is held in memory.

    Returns each document's first token (offset in tokens, int64[n]) and its length (int32[n]). Raises `OverflowError` for an id that `dtype` does not hold.
    """
    code = next(code for code, known in DTYPE_CODES.items() if known is dtype)
    counts: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
    with publish(stem.with_name(stem.name + ".bin")) as temporary, temporary.open("wb") as stream:
        for ids, block_lengths in blocks:
            stream.write(_held(ids, dtype).data)  # not tofile, whose errors do not tell a full disk
            counts.append(np.asarray(block_lengths, np.int32))
    lengths = np.concatenate(counts)
    offsets = np.zeros(len(lengths), dtype=np.int64)
    np.cumsum(lengths[:-1], out=offsets[1:])
    with publish(stem.with_name(stem.name + ".idx")) as temporary, temporary.open("wb") as stream:
        stream.write(_HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1))
        stream.write(lengths.tobytes())
        stream.write((offsets * np.dtype(dtype).itemsize).astype(np.int64).tobytes())
        stream.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
    return offsets, lengths


def _held(ids: npt.NDArray[np.integer], dtype: type[np.number]) -> npt.NDArray[np.number]:
    """The ids as `dtype`, one after the other in memory; they never wrap around."""
    if len(ids) and not np.can_cast(ids.dtype, dtype):
        low, high, limits = int(ids.min()), int(ids.max()), np.iinfo(dtype)  # type: ignore[type-var]
        if low < limits.min or high > limits.max:
            raise OverflowError(f"id {low if low < limits.min else high} does not fit {np.dtype(dtype).name}")
    return np.ascontiguousarray(ids, dtype=dtype)


@dataclass(frozen=True)
class TokenShard:
    """One memory-mapped shard.

    `tokens`: all ids in order, shape (total,), read-only, uint16 or int32. `lengths`: tokens of each document, int32[n].
    `offsets`: first token of each document, int64[n].
    """

    stem: Path
    tokens: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> npt.NDArray[np.integer]:
        """Ids of one document, a view."""
        start = int(self.offsets[index])
        return self.tokens[start : start + int(self.lengths[index])]


def open_shard(stem: Path) -> TokenShard:
    """Map `stem.bin` and check it against `stem.idx`; `CorruptError` names what disagrees."""
    index_path, data_path = stem.with_name(stem.name + ".idx"), stem.with_name(stem.name + ".bin")
    for path in (index_path, data_path):
        if not path.is_file():
            raise CorruptError(f"{path}: missing; delete its folder and tokenize again")
    raw = index_path.read_bytes()
    if len(raw) < _HEADER.size:
        raise CorruptError(f"{index_path}: {len(raw)} bytes, shorter than its header; delete its folder and tokenize again")
    magic, version, code, sequences, documents = _HEADER.unpack_from(raw)
    if magic != MAGIC or version != VERSION:
        raise CorruptError(f"{index_path}: not a Megatron-LM index (magic {magic!r}, version {version})")
    if code not in DTYPE_CODES:
        raise CorruptError(f"{index_path}: unknown dtype code {code}; known are {sorted(DTYPE_CODES)}")
    expected = _HEADER.size + 12 * sequences + 8 * documents
    if len(raw) != expected:
        raise CorruptError(f"{index_path}: {len(raw)} bytes where its header says {expected}; delete its folder and tokenize again")
    lengths = np.frombuffer(raw, np.int32, sequences, _HEADER.size)
    pointers = np.frombuffer(raw, np.int64, sequences, _HEADER.size + 4 * sequences)
    dtype = np.dtype(DTYPE_CODES[code])
    total = int(lengths.sum(dtype=np.int64))
    if data_path.stat().st_size != total * dtype.itemsize:
        raise CorruptError(
            f"{data_path}: {data_path.stat().st_size} bytes where {index_path.name} says {total * dtype.itemsize}; delete its folder and tokenize again"
        )
    expected_pointers = (np.cumsum(lengths, dtype=np.int64) - lengths) * dtype.itemsize
    if not np.array_equal(pointers, expected_pointers):
        raise CorruptError(f"{index_path}: its offsets do not follow from its lengths; delete its folder and tokenize again")
    # a view of the base class: slices of np.memmap itself cost ten times as much
    tokens = np.memmap(data_path, dtype=dtype, mode="r", shape=(total,)).view(np.ndarray) if total else np.empty(0, dtype)
    return TokenShard(stem, tokens, lengths, pointers // dtype.itemsize)
