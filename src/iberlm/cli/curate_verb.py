"""The verb `curate`: stages of two packages, each with a folder and a manifest of its own.

Extract, annotate, dedup and select always run. Decontamination, robots verdicts and the quality score run where the recipe gives what
they need: evaluation items, a snapshot, a model. `select` reads what all of them wrote beside the documents.
"""

from dataclasses import dataclass, field
from pathlib import Path

from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError
from iberlm.core.manifest import Counts, Manifest, read_manifest
from iberlm.core.progress import say
from iberlm.core.stage import place
from iberlm.curate.config import AnnotateConfig, DecontaminateConfig, QualityConfig, RobotsConfig, SelectConfig, SelectOptions, Thresholds
from iberlm.curate.dedup.config import DedupConfig
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
    matches: str = place("")
    """Folder of the matches with evaluation items."""
    verdicts: str = place("")
    """Folder of the verdicts by robots files."""
    scores: str = place("")
    """Folder of the quality scores."""
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """Runs where `evaluation` names items."""
    robots: RobotsConfig = field(default_factory=RobotsConfig)
    """Runs where `snapshot` is given."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Runs where `model` is given."""
    select: SelectOptions = field(default_factory=SelectOptions)
    filters: dict[str, Thresholds] = field(default_factory=dict)
    """Limits by language tag (`recipes/filters/`)."""

    def __post_init__(self) -> None:
        self.select_config()

    def select_config(self) -> SelectConfig:
        """The settings of the last stage: its options and the filters."""
        return SelectConfig(**vars(self.select), filters=self.filters)


SHARDED = ("extract", "annotate", "decontaminate", "quality")
"""Stages whose first map is nearly all of their work, so that it can be shared out over the elements of a job array."""


def stages(config: CurateConfig) -> dict[str, Path]:
    """The stages that `run` will run, in order, with their folders."""
    found = {"extract": config.extracted, "annotate": config.annotated, "dedup": config.clusters}
    found |= {"decontaminate": config.matches} if config.decontaminate.evaluation else {}
    found |= {"robots": config.verdicts} if config.robots.snapshot else {}
    found |= {"quality": config.scores} if config.quality.model else {}
    return {name: Path(folder).absolute() for name, folder in (found | {"select": config.out}).items()}


def run(config: CurateConfig) -> Manifest:
    """Raw files -> documents, by the stages that the settings ask for."""
    from iberlm.curate import annotate, decontaminate, dedup, quality, robots, select
    from iberlm.extract import extract

    settings = config.select_config()
    for part in (config.extract, config.annotate, config.dedup, config.decontaminate, config.robots, config.quality, settings):
        part.dry_run = config.dry_run
        part.workers = part.workers or config.cluster.workers
    extracted = extract.run(config.extract, [read_manifest(Path(config.raw))], Path(config.extracted))
    annotated = annotate.run(config.annotate, [extracted], Path(config.annotated))
    beside = [extracted, annotated, dedup.run(config.dedup, [annotated], Path(config.clusters))]
    if config.decontaminate.evaluation:
        beside.append(decontaminate.run(config.decontaminate, [extracted], Path(config.matches)))
    if config.robots.snapshot:
        beside.append(robots.run(config.robots, [extracted], Path(config.verdicts)))
    if config.quality.model:
        beside.append(quality.run(config.quality, [extracted], Path(config.scores)))
    elif any(limits.min_quality_score > 0 for limits in config.filters.values()):
        raise ConfigError("filters: min_quality_score is set, and there is no score: give curate.quality.model, or leave the limit at 0")
    curated = select.run(settings, beside, Path(config.out))
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
