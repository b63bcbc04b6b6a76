"""Tensors of a Hugging Face model folder, read from safetensors in blocks of rows, so that memory does not grow with the model.

The format (https://github.com/huggingface/safetensors#format) is eight bytes with the length of a JSON header, the header, and the
tensors. It is read here rather than with the safetensors package because numpy has no bfloat16, and torch is not wanted.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.core.errors import ConfigError, CorruptError, DataError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Weight:
    """One tensor in a file: where its bytes lie, and how to read them."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor as float32, at most `rows` of its first dimension at a time. Raises `DataError` for values that are not finite."""
        width = prod(self.shape[1:])
        stored = np.dtype("<u2") if self.dtype == "BF16" else np.dtype("<f2" if self.dtype == "F16" else "<f4")
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            for start in range(0, self.shape[0], rows):
                shape = (min(rows, self.shape[0] - start), *self.shape[1:])
                values = np.fromfile(stream, stored, shape[0] * width).reshape(shape)
                # bfloat16 is the upper half of float32
                block = (values.astype(np.uint32) << np.uint32(16)).view(np.float32) if self.dtype == "BF16" else values.astype(np.float32, copy=False)
                if not np.isfinite(block).all():
                    raise DataError(f"{self.path}: tensor '{self.name}' has values that are not finite, so the model is broken; export another checkpoint")
                yield block


@dataclass(frozen=True)
class Computed:
    """A small tensor that is in no file."""

    name: str
    values: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array has it."""
        return self.values.shape

    def blocks(self, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor, at most `rows` of its first dimension at a time."""
        for start in range(0, len(self.values), rows):
            yield self.values[start : start + rows]


def read_weights(folder: Path) -> dict[str, Weight]:
    """All tensors of a model folder by name, from one file or from the shards of an index; only headers are read.

    Raises `DataError` when there is no safetensors file, `CorruptError` when one is cut short or not what it says, and
    `ConfigError` for tensors of another type than F32, F16 and BF16.
    """
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder}: has neither {SINGLE} nor {INDEX}; the export reads safetensors, so save the model as such")
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{folder / INDEX}: not an index of safetensors files ({error})") from error
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise CorruptError(f"{folder}: {missing[0]} is missing, though {INDEX} names it; copy the whole folder")
    return {name: weight for shard in shards for name, weight in _header(folder / shard).items()}


def _header(path: Path) -> dict[str, Weight]:
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if 8 + length > size:
                raise ValueError(f"its header claims {length} bytes of {size}")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return {name: _weight(name, path, entry, 8 + length, size) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path}: not a whole safetensors file ({error}); copy or save the model again") from error


def _weight(name: str, path: Path, entry: dict[str, Any], data: int, size: int) -> Weight:
    dtype, shape, (start, end) = str(entry["dtype"]), tuple(int(length) for length in entry["shape"]), entry["data_offsets"]
    if dtype not in _ITEM_BYTES:
        raise ConfigError(f"{path}: tensor '{name}' is {dtype}; the export reads {', '.join(_ITEM_BYTES)}, so save the model unquantised")
    if end - start != prod(shape) * _ITEM_BYTES[dtype] or data + end > size or not shape:
        raise ValueError(f"tensor '{name}' of shape {shape} claims the bytes {start} to {end} of {size - data}")
    return Weight(name, path, dtype, shape, data + start)
