"""The verbs of the line: which recipe, which settings, which stages with which inputs.

A verb's function finds the manifests of its inputs and hands them to the stage; stages themselves meet only through
files. Stage modules are imported inside the functions: `iberlm --help` must not wait for them.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.config import StageConfig
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.progress import say
from iberlm.core.stage import WouldRunError


@dataclass(frozen=True)
class Verb:
    """One stage verb. `recipe` is the file `recipes/RECIPE.yaml`, the folder of its output, and its key in a pipeline."""

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
        return 0


def fetch(config: Any) -> Manifest:
    """Data cards and sources -> raw files and their checksums."""
    from iberlm.sources import fetch as stage

    return stage.run(config, [], Path(config.out))


def curate(config: Any) -> Manifest:
    """Raw files -> documents: extract, annotate, dedup, select, each with a manifest of its own."""
    from iberlm.curate import annotate, dedup, select
    from iberlm.extract import extract

    raw = read_manifest(Path(config.raw))
    out = Path(config.out)
    extracted = extract.run(config.extract, [raw], out / "extract")
    annotated = annotate.run(config.annotate, [extracted], out / "annotate")
    clusters = dedup.run(config.dedup, [annotated], out / "dedup")
    return select.run(config.select, [annotated, clusters], out / "documents")


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("curate", "raw files -> documents, and the funnel of what was dropped and why", "iberlm.curate.config:CurateConfig", curate),
    )
}
