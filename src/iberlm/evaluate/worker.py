"""One of several processes that share the items of an evaluation: `python -m iberlm.evaluate.worker SETTINGS.json`.

It answers every n-th slice of each task into the journal. The process that started it finds all answers there, and scores them.
"""

import json
import os
from pathlib import Path

from omegaconf import OmegaConf

from iberlm.core.ranks import rank_main
from iberlm.evaluate.config import EvaluateConfig


def main(arguments: list[str]) -> None:
    """Answer this rank's share; the world comes from RANK, WORLD_SIZE and LOCAL_RANK."""
    settings = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluateConfig), settings["config"]))
    assert isinstance(config, EvaluateConfig)
    rank, ranks, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))

    from iberlm.evaluate.asked import asked_tasks, suite_facts
    from iberlm.evaluate.asking import answer_tasks
    from iberlm.evaluate.model import gpu_count

    if config.device == "auto" and gpu_count():
        config.device = f"cuda:{local % gpu_count()}"
    facts, _ = suite_facts(config)
    answer_tasks(config, asked_tasks(config, [entry for entry in facts if entry.name in settings["tasks"]]), rank, ranks)


if __name__ == "__main__":
    rank_main(main)
