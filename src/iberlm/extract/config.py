"""Settings of extraction: limits that keep a bad file from taking the run with it, and the size of shards."""

from dataclasses import dataclass, field

from iberlm.core.config import at_least, one_of
from iberlm.core.stage import place

HTML_ENGINES = ("resiliparse", "trafilatura")


@dataclass(kw_only=True)
class NormaliseConfig:
    """What is repaired in every text before it is written (`extract.normalise`). NUL characters and lone surrogates are refused in any case."""

    unicode: bool = True
    """Canonical composition (NFC)."""
    controls: bool = True
    """Control, zero-width and bidirectional characters and soft hyphens are taken out."""
    whitespace: bool = True
    """One kind of space and line end; no spaces at line ends, no more than one blank line in a row, none at the edges."""
    mojibake: bool = True
    """UTF-8 that was read as Windows-1252 (`Ã©`, `â€™`), by ftfy, line by line."""
    punt_volat: bool = True
    """`col.legi`, `col-legi`, `coŀlegi` become `col·legi`, in known Catalan words."""


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
    """Unpacked over packed size of a compressed file, or of a record of a web archive, once it has unpacked to 16 MiB."""
    html_engine: str = "resiliparse"
    """What finds the main content of a page: resiliparse, or trafilatura (slower; needs the extra `iberlm[trafilatura]`)."""
    max_page_bytes: int = 8 << 20
    """A longer page of a web archive, packed or decoded, is quarantined."""
    max_wikitext_bytes: int = 2 << 20
    """A longer article of a wiki is quarantined: MediaWiki itself stops there."""
    normalise: NormaliseConfig = field(default_factory=NormaliseConfig)
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
        for key in ("max_line_bytes", "max_file_bytes", "max_document_bytes", "max_page_bytes", "max_wikitext_bytes"):
            at_least(f"extract.{key}", getattr(self, key), 1024)
        at_least("extract.catalogue_document_bytes", self.catalogue_document_bytes, 100)
        one_of("extract.html_engine", self.html_engine, HTML_ENGINES)
        at_least("extract.max_expansion_ratio", self.max_expansion_ratio, 1)
        at_least("extract.min_message_words", self.min_message_words, 1)
        at_least("extract.shard_bytes", self.shard_bytes, 1)
        at_least("extract.workers", self.workers, 0)
