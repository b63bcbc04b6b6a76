"""The verb `curate`: four stages of two packages, each with a folder and a manifest of its own."""

from dataclasses import dataclass, field
from pathlib import Path

from iberlm.core.config import StageConfig
from iberlm.core.manifest import Counts, Manifest, read_manifest
from iberlm.core.progress import say
from iberlm.core.stage import place
from iberlm.curate.config import AnnotateConfig, DedupConfig, SelectConfig, SelectOptions, Thresholds
from iberlm.extract.config import ExtractConfig


@dataclass(kw_only=True)
class CurateConfig(StageConfig):
    """Settings of the verb: its four stages and the folder of raw files."""

    raw: str = place("")
    """Folder of the fetch stage."""
    extracted: str = place("")
    """Folder of the extraction, the first of the verb's four stages; `out` is that of the last."""
    annotated: str = place("")
    """Folder of the annotated documents."""
    clusters: str = place("")
    """Folder of the duplicate clusters."""
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    select: SelectOptions = field(default_factory=SelectOptions)
    filters: dict[str, Thresholds] = field(default_factory=dict)
    """Limits by language tag (`recipes/filters/`)."""

    def __post_init__(self) -> None:
        self.select_config()

    def select_config(self) -> SelectConfig:
        """The settings of the last stage: its options and the filters."""
        return SelectConfig(**vars(self.select), filters=self.filters)


def run(config: CurateConfig) -> Manifest:
    """Raw files -> documents: extract, annotate, dedup, select, each with a folder and a manifest of its own."""
    from iberlm.curate import annotate, dedup, select
    from iberlm.extract import extract

    for part in (config.extract, config.annotate, config.dedup, config.select):
        part.dry_run = config.dry_run
    for sharded in (config.extract, config.annotate):
        sharded.workers = sharded.workers or config.cluster.workers
    extracted = extract.run(config.extract, [read_manifest(Path(config.raw))], Path(config.extracted))
    annotated = annotate.run(config.annotate, [extracted], Path(config.annotated))
    clusters = dedup.run(config.dedup, [annotated], Path(config.clusters))
    curated = select.run(config.select_config(), [annotated, clusters], Path(config.out))
    for line in funnel(curated.counts):
        say(line)
    return curated


def funnel(counts: Counts) -> list[str]:
    """One line a language: documents kept, and dropped by reason, the commonest first."""
    lines = []
    for language in sorted({*counts.kept, *counts.dropped}):
        reasons = sorted(counts.dropped.get(language, {}).items(), key=lambda entry: (-entry[1], entry[0]))
        dropped = ", ".join(f"{reason} {documents:,}" for reason, documents in reasons) or "none"
        lines.append(
            f"curate: {language}: kept {counts.kept.get(language, 0):,} of {counts.kept.get(language, 0) + sum(dict(reasons).values()):,}; dropped: {dropped}"
        )
    return lines
