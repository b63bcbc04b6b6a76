"""What fine-tuning needs from elsewhere."""

from iberlm.core.needs import MODEL, Need, folder_need, path_need
from iberlm.finetune.config import FinetuneConfig


def needs(config: FinetuneConfig) -> list[Need]:
    """The base model and the user's own conversations; those that ship with IberLM are none."""
    base = folder_need(MODEL, config.model_folder, "model_folder") or ([path_need(config.base, "base")] if config.base else [])
    return base + [path_need(path, f"data.paths[{index}]") for index, path in enumerate(config.data.paths)]
