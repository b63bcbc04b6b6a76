"""The verbs of the line: which recipe, which settings, which stages with which inputs.

A verb's function finds the manifests of its inputs and hands them to the stage; stages themselves meet only through
files. Stage modules are imported inside the functions, and import torch only when they run: `iberlm --help`, and the
question whether a stage is complete, must not wait for it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.config import StageConfig
from iberlm.core.manifest import Manifest, find_manifest, read_manifest
from iberlm.core.progress import say
from iberlm.core.ranks import RanksReadyError
from iberlm.core.scope import EnoughError
from iberlm.core.stage import WouldRunError


@dataclass(frozen=True)
class Verb:
    """One stage verb. `recipe` names its file `recipes/RECIPE.yaml`, the folder of its output, and its key in a pipeline."""

    name: str
    summary: str
    config_path: str
    """`module:class` of its settings."""
    function: Callable[[Any], Manifest]

    @property
    def recipe(self) -> str:
        """Spelling for files and configuration keys: `train-tokenizer` -> `train_tokenizer`."""
        return self.name.replace("-", "_")

    def config_class(self) -> type[StageConfig]:
        """The dataclass of the verb's settings."""
        module, name = self.config_path.split(":")
        found: type[StageConfig] = getattr(importlib.import_module(module), name)
        return found

    def execute(self, config: StageConfig) -> int:
        """Run the verb; return the exit status."""
        try:
            self.function(config)
        except WouldRunError as plan:
            say(str(plan))
        except EnoughError:
            say(f"{self.name}: this part is done")
        except RanksReadyError:
            say(f"{self.name}: the ranks can start")
        return 0


def fetch(config: Any) -> Manifest:
    """Data cards and sources -> raw files and their checksums."""
    from iberlm.sources import fetch as stage

    return stage.run(config, [], Path(config.out))


def curate(config: Any) -> Manifest:
    """Raw files -> documents."""
    from iberlm.cli.curate_verb import run

    return run(config)


def train_tokenizer(config: Any) -> Manifest:
    """Documents -> a tokenizer folder that AutoTokenizer loads."""
    from iberlm.tokenizer import train as stage

    return stage.run(config, [read_manifest(Path(config.documents))], Path(config.out))


def tokenize(config: Any) -> Manifest:
    """Documents and tokenizer -> token store."""
    from iberlm.tokenizer import store as stage

    return stage.run(config, [read_manifest(Path(config.documents)), read_manifest(Path(config.tokenizer_folder))], Path(config.out))


def pretrain(config: Any) -> Manifest:
    """Token store and model recipe -> checkpoints and a Hugging Face folder."""
    from iberlm.cards.load import require
    from iberlm.train import pretrain as stage

    inputs = [read_manifest(Path(config.tokens)), read_manifest(Path(config.tokenizer_folder))]
    if config.replay.tokens:
        inputs.append(read_manifest(Path(config.replay.tokens)))
    if config.initial_model and (made := find_manifest(Path(config.initial_model).parent)) is not None:
        inputs.append(made)
    for store in inputs:
        for card in store.cards:
            require(card, "pretrain")
    return stage.run(config, inputs, Path(config.out))


def finetune(config: Any) -> Manifest:
    """Model folder and instruction data -> a fine-tuned Hugging Face folder."""
    from iberlm.finetune import finetune as stage

    base = find_manifest(Path(config.base)) if config.base else None
    return stage.run(config, [base] if base else [], Path(config.out))


def evaluate(config: Any) -> Manifest:
    """Model folder and suites -> rows in a result store."""
    from iberlm.evaluate import evaluate as stage

    return stage.run(config, [], Path(config.out))


def report(config: Any) -> Manifest:
    """A run folder -> one offline HTML file."""
    from iberlm.report import report as stage

    found = [manifest for folder in config.folders() if (manifest := find_manifest(folder)) is not None]
    return stage.run(config, found, Path(config.out))


def run(config: Any) -> Manifest:
    """All of the above in order, skipping what is complete."""
    from iberlm.cli.pipeline import run_pipeline

    return run_pipeline(config)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("fetch", "data cards and sources -> raw files and their checksums", "iberlm.sources.config:FetchConfig", fetch),
        Verb("curate", "raw files -> documents, and the funnel of what was dropped and why", "iberlm.cli.curate_verb:CurateConfig", curate),
        Verb("train-tokenizer", "documents -> a tokenizer that AutoTokenizer loads", "iberlm.tokenizer.config:TrainTokenizerConfig", train_tokenizer),
        Verb("tokenize", "documents, tokenizer -> token store (.bin/.idx) and document index", "iberlm.tokenizer.config:TokenizeConfig", tokenize),
        Verb("pretrain", "token store, model recipe -> checkpoints and a Hugging Face folder", "iberlm.train.config:PretrainConfig", pretrain),
        Verb("finetune", "model folder, instructions -> a fine-tuned Hugging Face folder", "iberlm.finetune.config:FinetuneConfig", finetune),
        Verb("evaluate", "model folder, suite -> rows in a result store", "iberlm.evaluate.config:EvaluateConfig", evaluate),
        Verb("report", "a run folder -> one offline HTML file", "iberlm.report.config:ReportConfig", report),
        Verb("run", "a pipeline recipe -> all of the above in order, skipping what is done", "iberlm.cli.pipeline:RunConfig", run),
    )
}


def verb_of(stage: str) -> Verb:
    """The verb of a pipeline's stage."""
    return VERBS["evaluate" if stage == "evaluate_finetuned" else stage.replace("_", "-")]


def pending(verb: Verb, settings: StageConfig) -> WouldRunError | None:
    """The stage of a verb that would run, None when all are complete; raises what is wrong with its inputs."""
    before = settings.dry_run
    settings.dry_run = True
    try:
        verb.function(settings)
    except WouldRunError as plan:
        return plan
    finally:
        settings.dry_run = before
    return None
