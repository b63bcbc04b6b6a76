"""Settings of `iberlm report`."""

from dataclasses import dataclass
from pathlib import Path

from iberlm.core.config import StageConfig, given
from iberlm.core.stage import place


@dataclass(kw_only=True)
class ReportConfig(StageConfig):
    """Where the stages of the run lie. A folder that is not there is a section that says so."""

    title: str = "Training run"
    fetch: str = place("")
    extract: str = place("")
    annotate: str = place("")
    dedup: str = place("")
    decontaminate: str = place("")
    robots: str = place("")
    quality: str = place("")
    curate: str = place("")
    """Folder of the curated documents: the last stage of `iberlm curate`."""
    train_tokenizer: str = place("")
    tokenize: str = place("")
    pretrain: str = place("")
    evaluate: str = place("")
    """Evaluation of the pretrained model."""
    finetune: str = place("")
    evaluate_finetuned: str = place("")
    """Evaluation of the fine-tuned model; its folder tells it from the other evaluation."""

    def folders(self) -> list[Path]:
        """Folders that may hold a manifest, in the order of the line; those that were not given are left out."""
        curated = (self.extract, self.annotate, self.dedup, self.decontaminate, self.robots, self.quality, self.curate)
        rest = (self.train_tokenizer, self.tokenize, self.pretrain, self.evaluate, self.finetune, self.evaluate_finetuned)
        return [Path(folder) for folder in (self.fetch, *curated, *rest) if folder]

    def __post_init__(self) -> None:
        given("title", self.title.strip())
