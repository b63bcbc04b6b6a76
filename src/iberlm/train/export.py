"""The end of a run: whole weights from any strategy, and a Hugging Face folder of them."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from iberlm.core.errors import CorruptError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, fsync, write_json
from iberlm.train.checkpoint_state import named_buffers, named_parameters, plain_name
from iberlm.train.generations import no_bars
from iberlm.train.model import DTYPES
from iberlm.train.strategy import Parallel
from iberlm.train.weights import read_json
from iberlm.train.zero_state import whole_parameters

GENERATION = "generation_config.json"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


@torch.no_grad()
def whole_state(parallel: Parallel) -> dict[str, torch.Tensor]:
    """The model's fp32 weights by Hugging Face's names, tied ones once, whole and on the CPU, on the first rank (empty on the others).

    All ranks call this. The others hold no more than one whole tensor at a time.
    """
    state: dict[str, torch.Tensor] = {}
    if parallel.engine is not None:
        parameters = whole_parameters(parallel)
    else:
        parameters = ((name, _whole(parameter.detach())) for name, parameter in named_parameters(parallel).items())
    for name, tensor in parameters:
        if parallel.rank == 0:
            state[name] = tensor.cpu()
    for name, buffer in named_buffers(parallel).items():
        whole = _whole(buffer)
        if parallel.rank == 0:
            state[name] = whole.cpu()
    return state


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_model(state: dict[str, torch.Tensor], empty: PreTrainedModel, tokenizer_folder: Path, path: Path, precision: str) -> None:
    """Publish a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: weights, configuration, tokenizer.

    `empty` is a meta model of the same shape, `TrainingModel.causal` for one: it gives its configuration and the names that are tied. Raises `CorruptError`
    when `state` is not that of such a model.
    """
    check_names(state.keys(), empty, "the state")
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    with disk_errors(path), no_bars():
        shutil.rmtree(temporary, ignore_errors=True)
        empty.load_state_dict({name: in_precision(tensor, precision) for name, tensor in state.items()}, assign=True, strict=False)
        empty.tie_weights()
        empty.config.dtype = DTYPES[precision]
        empty.save_pretrained(temporary)
        if (settings := generation_settings(empty)) is not None:
            write_json(temporary / GENERATION, settings)
        copy_tokenizer(tokenizer_folder, temporary)
        publish_folder(temporary, path)


def check_names(names: Iterable[str], empty: PreTrainedModel, what: str) -> None:
    """Raise `CorruptError` unless `names` are the parameters of `empty`, tied ones once, and its stored buffers."""
    stored = empty.state_dict().keys()
    buffers = {name for name, _ in empty.named_buffers() if name in stored}
    wanted = {plain_name(name) for name, _ in empty.named_parameters()} | buffers
    different = sorted(wanted ^ set(names))
    if different:
        raise CorruptError(
            f"{what}: its tensors are not those of {type(empty).__name__}: {different[0]} is {'missing' if different[0] in wanted else 'unknown'}"
        )


def in_precision(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    """A tensor in the type that a folder of this precision has; integers stay."""
    return tensor.to(DTYPES[precision]) if tensor.is_floating_point() else tensor


def generation_settings(causal: PreTrainedModel) -> dict[str, Any] | None:
    """How the model is to be asked for text: the file of the folder that it was begun from, else what transformers makes of the configuration."""
    initial = getattr(causal.config, "_name_or_path", "")
    if initial and (Path(initial) / GENERATION).is_file():
        return read_json(Path(initial) / GENERATION)
    config = getattr(causal, "generation_config", None)
    return None if config is None else dict(config.to_diff_dict())


def copy_tokenizer(tokenizer_folder: Path, folder: Path) -> None:
    """Copy a tokenizer's files beside a model. It may lie in a model's folder itself: weights, and what is there already, are left out."""
    for file in sorted(tokenizer_folder.iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and not (folder / file.name).exists():
            shutil.copy2(file, folder / file.name)


def publish_folder(temporary: Path, path: Path) -> None:
    """Flush the files of a folder and give it its name; an older one of that name is replaced."""
    for file in temporary.iterdir():
        fsync(file)
    fsync(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
    fsync(path.parent)
