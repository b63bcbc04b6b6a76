"""Load a model folder for scoring: safetensors only, no code from the folder, every weight found."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from iberlm.core.errors import ConfigError, DataError, IberlmError, ResourceError
from iberlm.core.needs import local_folder
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import model_dtype

SPREAD = "spread"


def load_model(config: EvaluateConfig, *, weights: bool = True) -> tuple[Any, Any]:
    """The causal language model on its device and its tokenizer. Without `weights` the model is its shapes, on torch's device `meta`.

    Raises `DataError` when the folder cannot be loaded, lacks weights or has a tokenizer larger than its embeddings,
    `ConfigError` for a device that is not there or a chat template that is missing, `ResourceError` when memory is short.
    """
    folder = local_folder(config.model_folder, config.cluster).absolute()
    device = pick_device(config.device) if weights else "meta"
    offline = {"local_files_only": True, "trust_remote_code": False}
    placement = {"device_map": "auto"} if device == SPREAD else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **offline)
        if not weights:
            described = AutoConfig.from_pretrained(str(folder), **offline)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(described, dtype=getattr(torch, model_dtype(folder, config.dtype)), trust_remote_code=False), tokenizer
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=getattr(torch, model_dtype(folder, config.dtype)), use_safetensors=True, output_loading_info=True, **placement, **offline
        )
        model = model if placement else model.to(device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(f"{folder}: the model does not fit on {device} ({error}); try dtype=bfloat16 or device=spread") from error
    except IberlmError:
        raise
    except Exception as error:  # damaged files raise as many kinds of errors as there are formats
        raise DataError(f"{folder}: cannot be loaded as a model ({type(error).__name__}: {error})") from error
    check_loaded(config, folder, model, tokenizer, report)
    return model.eval(), tokenizer


def gpu_count() -> int:
    """GPUs that this process sees."""
    return torch.cuda.device_count()


def pick_device(name: str) -> str:
    """`auto` resolved; raises `ConfigError` when a GPU is asked for that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    index = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise ConfigError(f"device: there is no '{name}' here ({torch.cuda.device_count()} GPUs are visible); use device=auto or cpu")
    return name


def check_loaded(config: EvaluateConfig, folder: Path, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
    """Raise `DataError` for a model of `folder` that is not whole or not its tokenizer's, `ConfigError` for one without the template that is asked for.

    `report` is what transformers tells of the loading (`output_loading_info`); the weights of `model` may be on the device `meta`.
    """
    # transformers fills missing weights with random numbers and only warns
    absent = sorted(str(key) for key in report.get("missing_keys", ())) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if absent:
        raise DataError(f"{folder}: {len(absent)} weights are missing or have another shape than config.json says ({', '.join(absent[:3])})")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise DataError(f"{folder}: its tokenizer has {len(tokenizer)} tokens and its embeddings {rows} rows; they do not belong together")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise DataError(f"{folder}: its tokenizer has neither a BOS nor an EOS token, so the first token of a text has nothing to follow")
    if config.chat_template and not tokenizer.chat_template:
        raise ConfigError(f"chat_template: the tokenizer of {folder} has none; use chat_template=false for a base model")
