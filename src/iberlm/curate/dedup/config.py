"""Settings of the stage `dedup`."""

from dataclasses import dataclass

from iberlm.core.config import at_least
from iberlm.core.stage import place

MIN_MEMORY_BYTES = 1 << 16


@dataclass(kw_only=True)
class DedupConfig:
    """Which duplicates are looked for, and within which memory."""

    url: bool = True
    """Find documents of the same URL."""
    exact: bool = True
    """Find documents of the same normalised text."""
    near: bool = True
    """Find documents that share a MinHash band."""
    paragraphs: bool = True
    """Find paragraphs that many documents repeat."""
    paragraph_documents: int = 10
    """A paragraph in so many documents is boilerplate. Duplicates of a document count once. Two would cut quotations, laws and set phrases:
    of 52 MB of software documentation in four languages 2 marks 12.5% of the characters, 5 3.3%, 10 1.9% and 50 0.9%, and what 10 marks are
    notices, headings and stock instructions. (Llama 3 drops lines seen more than six times in 30 million documents.)"""
    memory_bytes: int = place(1 << 30)
    """Memory of the working arrays of all processes together; each process needs some 200 MB beside."""
    workers: int = place(0)
    """Processes; 0 means one a usable core, or one in all where there is little to do."""
    dry_run: bool = place(False)

    def __post_init__(self) -> None:
        at_least("dedup.paragraph_documents", self.paragraph_documents, 2)
        at_least("dedup.memory_bytes", self.memory_bytes, MIN_MEMORY_BYTES)
        at_least("dedup.workers", self.workers, 0)
