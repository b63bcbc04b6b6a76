"""Lines of the user's own text files, packed or not."""

import io
from pathlib import Path

import pyarrow as pa

READ_ERRORS = (OSError, EOFError, UnicodeDecodeError, pa.ArrowException)
"""What opening or reading such a file may raise: missing, cut short, not packed as its name says, not UTF-8."""

_PACKED = {".gz": "gzip", ".zst": "zstd"}


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a UTF-8 text file for reading, unpacked by its ending (.gz, .zst; several members or frames are one text).

    With Arrow's readers, which tell a file that was cut short from one that ends; Python's zstandard does not.
    """
    return io.TextIOWrapper(pa.input_stream(str(path), compression=_PACKED.get(path.suffix)), encoding="utf-8")


def stem(path: Path) -> str:
    """Name of a file without its endings: `reading.jsonl.zst` -> `reading`."""
    return path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[0]
