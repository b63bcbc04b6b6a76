"""Settings of extraction: limits that keep a bad file from taking the run with it, and the size of shards."""

from dataclasses import dataclass

from iberlm.core.config import at_least
from iberlm.core.stage import place


@dataclass(kw_only=True)
class ExtractConfig:
    """Settings of the extraction stage."""

    max_line_bytes: int = 16 << 20
    """A longer line of a JSONL file is quarantined without being held in memory."""
    max_file_bytes: int = 64 << 20
    """A longer file of a format that is parsed whole (text, HTML, XML, gettext, manual pages) is quarantined; unpacked size."""
    max_document_bytes: int = 8 << 20
    """A longer document (UTF-8) is quarantined."""
    max_expansion_ratio: float = 200.0
    """Unpacked over packed size of a compressed file, once it has unpacked to 16 MiB."""
    min_message_words: int = 4
    """A translated message of fewer words is no running text."""
    catalogue_document_bytes: int = 4000
    """Messages of a catalogue are joined to documents of about this size (UTF-8)."""
    shard_bytes: int = 64 << 20
    """Raw bytes a shard; a single larger file is a shard of its own."""
    workers: int = place(0)
    """Processes; 0 means what the cluster gives."""
    dry_run: bool = place(False)

    def __post_init__(self) -> None:
        for key, minimum in (("max_line_bytes", 1024), ("max_file_bytes", 1024), ("max_document_bytes", 1024), ("catalogue_document_bytes", 100)):
            at_least(f"extract.{key}", getattr(self, key), minimum)
        at_least("extract.max_expansion_ratio", self.max_expansion_ratio, 1)
        at_least("extract.min_message_words", self.min_message_words, 1)
        at_least("extract.shard_bytes", self.shard_bytes, 1)
        at_least("extract.workers", self.workers, 0)
