"""What the stages of `iberlm curate` need: models, evaluation items, robots files and removal requests, all of them files of the user's."""

from iberlm.core.needs import Need, package_need, path_need
from iberlm.curate.config import AnnotateConfig, DecontaminateConfig, QualityConfig, RobotsConfig, SelectOptions

OWN_TASKS = "iberlm"
"""In `decontaminate.evaluation`: the tasks that come with IberLM."""


def needs(annotate: AnnotateConfig, decontaminate: DecontaminateConfig, robots: RobotsConfig, quality: QualityConfig, select: SelectOptions) -> list[Need]:
    """Needs of those stages that have any. The language identifier and the texts that ship with IberLM are none."""
    found: list[Need] = []
    if annotate.identifier:
        found += [path_need(annotate.identifier, "annotate.identifier"), package_need("fasttext-wheel", "fasttext", "annotate.identifier")]
    found += [path_need(path, "decontaminate.evaluation") for path in decontaminate.evaluation if path != OWN_TASKS]
    found += [path_need(path, "select.removals") for path in select.removals]
    settings = (("robots.snapshot", robots.snapshot), ("quality.model", quality.model))
    return found + [path_need(path, key) for key, path in settings if path]
