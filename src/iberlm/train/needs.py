"""What pretraining needs from elsewhere.

DeepSpeed is no such need: with torch's own AdamW and without its shared-memory exchange, as `deepspeed_engine` sets it
up, ZeRO compiles no extension. What torch.compile and Triton compile belongs to one kind of GPU and is made on the node.
"""

from iberlm.core.needs import MODEL, Need, folder_need, package_need, path_need
from iberlm.train.config import PretrainConfig

_TRACKERS = {"trackio": "trackio", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""Packages of the trackers that not every installation has."""


def needs(config: PretrainConfig) -> list[Need]:
    """The model to go on from, folders of other runs, and packages that the settings call for."""
    found = folder_need(MODEL, config.initial_model, "initial_model")
    folders = {"tokens": config.tokens, "tokenizer_folder": config.tokenizer_folder, "replay.tokens": config.replay.tokens}
    folders["checkpoint.resume_from"] = config.checkpoint.resume_from
    found += [path_need(path, key) for key, path in folders.items() if path]
    if config.tracker in _TRACKERS:
        found.append(package_need(_TRACKERS[config.tracker], config.tracker, "tracker"))
    if config.objective.cross_entropy == "liger":
        found.append(package_need("liger-kernel", "liger_kernel", "objective.cross_entropy"))
    if config.precision == "fp8":
        found.append(package_need("torchao", "torchao", "precision"))
    return found + [package_need(hook.partition(":")[0], hook.partition(":")[0], "monitor.hooks") for hook in config.monitor.hooks]
