"""Hugging Face weights in safetensors, rewritten tensor by tensor: what does not change is copied as it lies in the file."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import fsync, write_json
from iberlm.core.progress import say

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file."""

    dtype: str
    """As the format names it: F32, BF16..."""
    shape: list[int]
    start: int
    """First byte, from the beginning of the file."""
    end: int

    def bytes_in(self, shape: list[int]) -> int:
        """What the tensor would take in another shape."""
        return (self.end - self.start) // max(1, prod(self.shape)) * prod(shape)


def read_json(path: Path, mend: str = "fetch it again") -> dict[str, Any]:
    """Read a JSON object; raises `ConfigError` with `mend` where there is no such file, `CorruptError` where it is no such thing."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; {mend}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise CorruptError(f"{path}: not a JSON object; fetch it again")
    return value


def read_shards(model: Path) -> dict[str, dict[str, Entry]]:
    """The tensors of each safetensors file of a model's folder. Raises `ConfigError` where it has none, `CorruptError` for damaged files."""
    if (model / INDEX).is_file():
        files = sorted(set(read_json(model / INDEX).get("weight_map", {}).values()))
    elif (model / WEIGHTS).is_file():
        files = [WEIGHTS]
    else:
        other = sorted(path.name for path in model.glob("*.bin")) if model.is_dir() else []
        why = f"{other[0]} is a pickle, which can run code when it is read" if other else f"neither {WEIGHTS} nor {INDEX} is there"
        raise ConfigError(f"{model}: no safetensors ({why}); write them with `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)`")
    return {name: _header(model / name)[1] for name in files}


def _header(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Metadata and tensors of a safetensors file: 8 bytes with the length of the header (little endian), JSON, then the data."""
    try:
        with safe_open(path, "pt"), path.open("rb") as stream:  # the library checks that header and file agree
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (OSError, ValueError, SafetensorError) as error:
        raise CorruptError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error
    metadata = header.pop("__metadata__", {})
    begin = 8 + length
    entries = {name: Entry(value["dtype"], value["shape"], *(begin + offset for offset in value["data_offsets"])) for name, value in header.items()}
    return metadata, dict(sorted(entries.items(), key=lambda item: item[1].start))


def write_weights(
    model: Path, out: Path, shards: Mapping[str, Mapping[str, Entry]], shapes: Mapping[str, list[int]], remake: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Write the safetensors files of `model`, and their index, into the folder `out`, the tensors in `shapes` remade in those shapes.

    `remake` keeps the dtype. In memory is one such tensor with its successor, and nothing of the others.
    """
    more = {"total_size": 0, "total_parameters": 0}
    for file, entries in shards.items():
        changed = {name: shapes[name] for name in entries if name in shapes}
        if changed:
            say(f"{file}: {', '.join(changed)} anew")
            _rewrite(model / file, out / file, changed, remake)
        else:
            shutil.copyfile(model / file, out / file)
        fsync(out / file)
        for name, shape in changed.items():
            more["total_size"] += entries[name].bytes_in(shape) - (entries[name].end - entries[name].start)
            more["total_parameters"] += prod(shape) - prod(entries[name].shape)
    if (model / INDEX).is_file():
        index = read_json(model / INDEX)
        metadata = index.get("metadata", {})
        metadata |= {key: metadata[key] + value for key, value in more.items() if key in metadata}
        write_json(out / INDEX, index)


def _rewrite(source: Path, target: Path, shapes: Mapping[str, list[int]], remake: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Copy a safetensors file with some tensors remade; order and metadata stay."""
    metadata, entries = _header(source)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, entry in entries.items():
        shape = shapes.get(name, entry.shape)
        header[name] = {"dtype": entry.dtype, "shape": shape, "data_offsets": [offset, offset := offset + entry.bytes_in(shape)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of 8
    with source.open("rb") as reader, target.open("wb") as writer, safe_open(source, "pt") as tensors:
        writer.write(len(text).to_bytes(8, "little") + text)
        for name, entry in entries.items():
            if name in shapes:
                writer.write(remake(tensors.get_tensor(name)).contiguous().view(torch.uint8).numpy().data)
            else:
                reader.seek(entry.start)
                _copy_bytes(reader, writer, entry.end - entry.start)


def _copy_bytes(reader: IO[bytes], writer: IO[bytes], size: int) -> None:
    while size and (block := reader.read(min(size, _BLOCK_BYTES))):
        writer.write(block)
        size -= len(block)
