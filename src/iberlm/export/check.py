"""Read a GGUF file back, and see that it holds what was written."""

from pathlib import Path
from typing import Any

import gguf
import xxhash
from gguf import GGMLQuantizationType

from iberlm.core.errors import CorruptError

WrittenTensor = tuple[tuple[int, ...], GGMLQuantizationType, str]
"""Shape (rows first), type, and XXH3-128 of the bytes of a tensor."""


def check_file(path: Path, arrays: dict[str, list[Any]], tensors: dict[str, WrittenTensor]) -> None:
    """Raise `CorruptError` unless the file, read by the gguf package, has these arrays by key and just these tensors by name."""
    mend = "look at the disk and export again"
    try:
        reader = gguf.GGUFReader(path)
        found = {tensor.name: tensor for tensor in reader.tensors}
        stored = {key: value.contents() if (value := reader.get_field(key)) else None for key in arrays}
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise CorruptError(f"{path}: cannot be read back ({error}); {mend}") from error
    if set(found) != set(tensors):
        raise CorruptError(f"{path}: read back, it has {len(found)} tensors where {len(tensors)} were written, or others than these; {mend}")
    for name, (shape, kind, digest) in tensors.items():
        tensor = found[name]
        same = tuple(reversed(tensor.shape.tolist())) == shape and tensor.tensor_type == kind
        if not same or xxhash.xxh3_128_hexdigest(tensor.data.data) != digest:
            raise CorruptError(f"{path}: tensor '{name}', read back, is not what was written; {mend}")
    for key, array in arrays.items():
        if stored[key] != array:
            raise CorruptError(f"{path}: {key}, read back, is not what was written; {mend}")
