"""Reading one file of given bytes, as every test of extraction does."""

from pathlib import Path
from typing import Any

from iberlm.extract.config import ExtractConfig
from iberlm.extract.extract import RawFile, read
from iberlm.extract.records import Reject, Skip, Text

CONFIG = ExtractConfig(workers=1)

Item = Text | Reject | Skip


def raw(path: Path, form: str, **changes: Any) -> RawFile:
    """The entry of a file as the fetch stage would write it."""
    values: dict[str, Any] = {
        "path": str(path),
        "format": form,
        "language": None,
        "card": "town",
        "licence": "CC0-1.0",
        "source": f"town/{path.name}",
        "url": None,
        "date": None,
        "text_field": "text",
        "id_field": "id",
        "bytes": path.stat().st_size if path.exists() else 0,
    }
    return RawFile(**{**values, **changes})


def items(path: Path, form: str, content: bytes, config: ExtractConfig = CONFIG, **changes: Any) -> list[Item]:
    """What a reader makes of a file of these bytes."""
    path.write_bytes(content)
    return list(read(raw(path, form, **changes), config))


def texts(found: list[Item]) -> list[str]:
    """The texts among what a reader gave."""
    return [item.text for item in found if isinstance(item, Text)]


def reasons(found: list[Item]) -> list[str]:
    """Reasons of what was rejected or passed over."""
    return [item.reason for item in found if not isinstance(item, Text)]
