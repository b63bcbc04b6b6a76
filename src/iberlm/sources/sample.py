"""The embedded sample: small texts in the five languages that travel with the package, and defects to be dropped."""

from pathlib import Path

from iberlm.cards import Card
from iberlm.core.errors import DataError
from iberlm.sources.config import SourceConfig
from iberlm.sources.entries import FileEntry, describe

FOLDER = Path(__file__).with_name("sample")
PATTERNS = ("documents.*.jsonl", "defects.*.jsonl")


def sample_files() -> list[Path]:
    """The sample's files of running text, sorted; raises `DataError` in an installation without them."""
    files = sorted(path for pattern in PATTERNS for path in FOLDER.glob(pattern))
    if not files:
        raise DataError(f"the embedded sample is missing from {FOLDER}: the installation is incomplete; install IberLM again")
    return files


def gather(name: str, source: SourceConfig, card: Card) -> list[FileEntry]:
    """Entries of the sample. Languages are claimed by each record, not by the file."""
    return [describe(path, None, name=name, inner=path.name, form="jsonl", source=source, card=card) for path in sample_files()]
