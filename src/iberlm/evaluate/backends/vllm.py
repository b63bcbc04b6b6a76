"""A model in this process, computed by vLLM. vLLM is no dependency: it is installed by who wants it.

lm-eval's own model for vLLM is not used. It scores a BOS that the tokenizer adds to a document, cuts prompts otherwise than HFLM, and cannot
be imported beside vLLM's build for CPUs, whose package has another name. Prompts are those of the backend of transformers; see `prompts`.
"""

import gc
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from iberlm.core.errors import ConfigError, DataError, IberlmError, ResourceError
from iberlm.core.needs import local_folder
from iberlm.evaluate.backends import Backend, Slices
from iberlm.evaluate.backends.prompts import Prompts, generation_settings, sampling_seeds
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import context_tokens, loaded_key, model_dtype
from iberlm.evaluate.model import check_loaded

SLICE_REQUESTS = 512
"""Requests a slice: vLLM batches them by itself, and waits at the end of each slice for the last of them."""
SEQUENCES = 256
"""Sequences that vLLM computes at once where `batch_size` is 0."""
_ENVIRONMENT = {
    # the engine in this process: its errors are raised here with their reason, nothing is left when it ends, and its scheduling is the same in every run
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",  # it tells a server of its makers about model and machine otherwise
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_NAMES = "gpu_memory_utilization is backend.gpu_memory_share here, max_model_len backend.context_tokens, max_num_batched_tokens batch_tokens"


class Vllm(Prompts, TemplateLM):  # type: ignore[misc]
    """An engine as lm-eval asks it. `slices` must be set before requests are asked."""

    backend = "causal"
    slices: Slices

    def __init__(self, engine: Any, tokenizer: Any) -> None:
        super().__init__()
        self.engine, self.tokenizer = engine, tokenizer
        self.max_length = int(engine.llm_engine.model_config.max_model_len) - 1
        self.cut = set()

    @property
    def eot_token_id(self) -> int | None:
        found: int | None = self.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def longest(self) -> int:
        return self.max_length + 1  # no token is generated but those of the answer

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def score_tokens(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        prompts = [[*context, *continuation][-self.max_length :] for _, context, continuation in requests]
        scoring = importlib.import_module("vllm").SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        outputs = self._compute(prompts, [scoring] * len(prompts))
        found = []
        for (_, _, continuation), prompt, output in zip(requests, prompts, outputs, strict=True):
            first = len(prompt) - len(continuation)
            places = list(zip(prompt[first:], output.prompt_logprobs[first:], strict=True))
            own = [place[token].logprob for token, place in places]
            best = [max(entry.logprob for entry in place.values()) for _, place in places]
            found.append((float(sum(own)), own == best))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [generation_settings(request.args[1]) for request in requests]
        prompts = [self.tok_encode(request.args[0])[-self.room(settings["max_gen_toks"]) :] for request, settings in zip(requests, asked, strict=True)]
        seeds = sampling_seeds(self.slices.seed, prompts)
        outputs = self._compute(prompts, [self._sampling(settings, seed) for settings, seed in zip(asked, seeds, strict=True)])
        texts = [self.tokenizer.decode(list(output.outputs[0].token_ids), skip_special_tokens=True) for output in outputs]
        return [postprocess_generated_text(text, self._stops(settings), None) for text, settings in zip(texts, asked, strict=True)]

    def _stops(self, settings: dict[str, Any]) -> list[str]:
        return [stop for stop in (*settings["until"], self.tokenizer.eos_token) if stop]

    def _sampling(self, settings: dict[str, Any], seed: int) -> Any:
        """What vLLM is told: the model's own generation_config.json, which transformers follows too, and over it what the task asks."""
        parameters = dict(self.engine.llm_engine.model_config.get_diff_sampling_param())
        parameters |= {name: value for name, value in settings.items() if name not in ("until", "max_gen_toks", "do_sample")}
        if not settings["do_sample"]:
            parameters["temperature"] = 0.0
        parameters |= {"max_tokens": settings["max_gen_toks"], "stop": self._stops(settings), "seed": seed, "skip_special_tokens": False}
        try:
            return importlib.import_module("vllm").SamplingParams(**parameters)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"vLLM does not give answers as the task asks for them ({error}); use backend.kind=transformers, or leave the task out"
            ) from error

    def _compute(self, prompts: list[list[int]], parameters: list[Any]) -> list[Any]:
        """vLLM's outputs. Raises `ResourceError` when memory is short, and `DataError` for whatever else ends vLLM."""
        try:
            self.engine.reset_prefix_cache()  # a slice is computed the same after a kill
            return list(self.engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False))
        except torch.OutOfMemoryError as error:
            raise ResourceError("vLLM is out of memory; halve batch_tokens, or lower backend.gpu_memory_share") from error
        except Exception as error:  # vLLM raises as many kinds of errors as there are reasons
            raise DataError(f"vLLM cannot compute this model's answers ({type(error).__name__}: {error}); backend.kind=transformers may") from error


@dataclass(kw_only=True)
class VllmBackend(Backend):
    """A model that vLLM has loaded."""

    slice_requests: int = SLICE_REQUESTS

    def answer(self, request_type: str, requests: Sequence[Any], slices: Slices) -> list[Any]:
        self.lm.slices, self.lm.cut = slices, set()
        self.lm.look_for_cuts(request_type, requests)  # of all, also of those that the journal answers
        return super().answer(request_type, requests, slices)

    def truncated(self) -> set[tuple[str, ...]]:
        return set(self.lm.cut)


def open_backend(config: EvaluateConfig) -> VllmBackend:
    """Load the model into vLLM. A process has one such model at a time: the end of one takes from torch what another would need.

    Raises `ConfigError` without vLLM, for a device that it does not compute on and for a chat template that is missing, `ResourceError` when
    memory is short, and `DataError` when it cannot load the model, or weights are missing.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "backend.kind: vllm is not installed here; install it (docs/howto/evaluate-through-a-server.md says how; in an environment of its own where it "
            "wants another torch), run it as a server and use backend.kind=openai, or use backend.kind=transformers"
        )
    folder = local_folder(config.model_folder, config.cluster).absolute()
    dtype = model_dtype(folder, config.dtype)
    with _quiet_vllm():
        device = _device(config)
        gc.collect()  # a model that is gone gives back its memory and its process group now, and not when the next one computes
        lm = _load(config, folder, dtype)
    return VllmBackend(
        name="vllm",
        lm=lm,
        model=loaded_key(folder, config.backend.context_tokens),
        dtype=dtype,
        device=device,
        software={package: importlib.metadata.version(package) for package in ("lm_eval", "torch", "transformers")}
        | {"vllm": str(importlib.import_module("vllm").__version__)},
        context_tokens=lm.max_length + 1,
    )


@contextmanager
def _quiet_vllm() -> Iterator[None]:
    """Set what vLLM reads from the environment, for as long as this process lives and unless the user has set it; within: no warnings of its libraries."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _device(config: EvaluateConfig) -> str:
    """What vLLM computes on here (cpu, cuda, xpu). Raises `ConfigError` where the settings ask for another device."""
    found = str(importlib.import_module("vllm.platforms").current_platform.device_type)
    if not found:
        raise ConfigError("backend.kind: vLLM finds no device that it was built for; install its build for CPUs, or use backend.kind=transformers")
    if config.device.startswith("cuda:"):
        raise ConfigError(f"device: vLLM takes the first GPUs that it sees, not '{config.device}'; choose them with CUDA_VISIBLE_DEVICES and leave device=auto")
    if config.device == "spread":
        raise ConfigError("device: 'spread' belongs to backend.kind=transformers; give backend.tensor_parallel the number of GPUs")
    if config.device not in ("auto", found):
        raise ConfigError(f"device: vLLM computes on '{found}' here, not on '{config.device}'; leave device=auto, or use backend.kind=transformers")
    return found


def _load(config: EvaluateConfig, folder: Path, dtype: str) -> Vllm:
    try:
        # vLLM computes with whatever lies in memory where a weight is missing, and says nothing
        offline = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **offline)
        shapes, report = AutoModelForCausalLM.from_pretrained(
            str(folder), device_map="meta", dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **offline
        )
        check_loaded(config, folder, shapes, tokenizer, report)
        engine = importlib.import_module("vllm").LLM(
            model=str(folder),
            dtype=dtype,
            trust_remote_code=False,
            load_format="safetensors",
            tensor_parallel_size=config.backend.tensor_parallel,
            gpu_memory_utilization=config.backend.gpu_memory_share,
            max_model_len=config.backend.context_tokens or context_tokens(folder),
            max_num_batched_tokens=config.batch_tokens,
            max_num_seqs=min(config.batch_size or SEQUENCES, config.batch_tokens),
            enforce_eager=config.backend.eager,
            seed=config.seed,
            use_tqdm_on_load=False,
        )
    except IberlmError:
        raise
    except torch.OutOfMemoryError as error:
        raise ResourceError(f"{folder}: vLLM has no room for it ({error}); {_NAMES}") from error
    except Exception as error:  # vLLM raises as many kinds of errors as there are reasons
        raise DataError(f"{folder}: vLLM cannot load it ({type(error).__name__}: {' '.join(str(error).split())[:600]}). {_NAMES}") from error
    return Vllm(engine, tokenizer)
