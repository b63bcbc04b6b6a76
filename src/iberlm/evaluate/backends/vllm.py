"""vLLM in this process, by lm-eval's model for it. vLLM is no dependency: it is installed by who has the GPUs for it."""

import importlib.metadata
import importlib.util
from typing import Any

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.needs import local_folder
from iberlm.evaluate.backends import Backend
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import context_tokens, loaded_key, model_dtype


def open_backend(config: EvaluateConfig) -> Backend:
    """Load the model into vLLM. Raises `ConfigError` without vLLM, and `DataError` when it cannot load the model."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "backend.kind: vllm is not installed here; install it (pip install vllm, in an environment of its own where it wants another torch), run it as a "
            "server and use backend.kind=openai, or use backend.kind=transformers"
        )
    folder = local_folder(config.model_folder, config.cluster).absolute()
    dtype = model_dtype(folder, config.dtype)
    return Backend(
        name="vllm",
        lm=_load(config, str(folder), dtype),
        model=loaded_key(folder, config.backend.context_tokens),
        dtype=dtype,
        device="cuda",
        software={package: importlib.metadata.version(package) for package in ("lm_eval", "vllm", "torch", "transformers")},
        context_tokens=context_tokens(folder),
    )


def _load(config: EvaluateConfig, folder: str, dtype: str) -> Any:
    from lm_eval.models.vllm_causallms import VLLM

    try:
        return VLLM(
            pretrained=folder,
            dtype=dtype,
            trust_remote_code=False,
            tensor_parallel_size=config.backend.tensor_parallel,
            gpu_memory_utilization=config.backend.gpu_memory_share,
            max_model_len=config.backend.context_tokens or None,
            batch_size="auto",
            seed=config.seed,
        )
    except Exception as error:  # vLLM raises as many kinds of errors as there are reasons
        raise DataError(f"{folder}: vLLM cannot load it ({type(error).__name__}: {error})") from error
