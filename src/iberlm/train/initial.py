"""Continued pretraining: a Hugging Face folder as the beginning. Its code is never run, its pickles are never read."""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.progress import say
from iberlm.train.vocabulary import TOKENIZER_FILE
from iberlm.train.weights import read_json, read_shards

CONFIGURATION = "config.json"


def read_configuration(folder: str | Path, *, sequence_length: int, vocabulary_size: int) -> PreTrainedConfig:
    """The configuration of the causal model in `folder`.

    Raises `ConfigError` where there is no such folder, where it needs code of its own, where transformers knows no such
    causal model, where `sequence_length` is beyond its positions or `vocabulary_size` beyond its rows.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIGURATION, "give initial_model=FOLDER of a Hugging Face causal model")
    if "auto_map" in settings:
        raise ConfigError(
            f"{folder}: initial_model: needs Python code from its own folder (auto_map), which is never run; choose a model that transformers knows"
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ConfigError(f"{folder / CONFIGURATION}: initial_model: transformers cannot read it ({_first_line(error)})") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"{folder}: initial_model: '{settings.get('model_type')}' is no causal language model that transformers knows")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and sequence_length > positions:
        raise ConfigError(f"sequence_length: {sequence_length} is above max_position_embeddings ({positions}) of {folder}")
    if vocabulary_size > config.vocab_size:
        raise ConfigError(
            f"{folder}: initial_model: its embeddings have {config.vocab_size} rows and the tokenizer {vocabulary_size} tokens; "
            "give it this tokenizer with `iberlm resize-embeddings` first"
        )
    _without_dropout(folder, config)
    return config


def _without_dropout(folder: Path, config: PreTrainedConfig) -> None:
    """A resumed run must have the losses of one that was never interrupted, and pretraining reads most tokens once: there is nothing to gain."""
    dropped = {
        key: value for key, value in vars(config).items() if key.endswith(("dropout", "pdrop", "dropout_prob")) and isinstance(value, float) and value > 0
    }
    if dropped:
        say_once(f"pretrain: {folder}: trained without its dropout ({', '.join(f'{key}={value:g}' for key, value in dropped.items())})")
    for key in dropped:
        setattr(config, key, 0.0)


@functools.lru_cache(maxsize=64)
def say_once(message: str) -> None:
    """Print a line, on the first rank and the first time only: every rank builds the model, and more than once."""
    if os.environ.get("RANK", "0") == "0":
        say(message)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_vocabulary(folder: str | Path, tokenizer: str | Path) -> None:
    """Raise `DataError` unless the model in `folder` has the tokenizer that the token store was made with: the same piece behind every id.

    `tokenizer` is a folder with a tokenizer.json.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    theirs, ours = (_pieces(path / TOKENIZER_FILE) for path in (folder, tokenizer))
    different = sorted(index for index in ours.keys() | theirs.keys() if ours.get(index) != theirs.get(index))
    if different:
        index = different[0]
        raise DataError(
            f"{folder}: initial_model: its tokenizer is another one than the token store's: {len(different)} of {len(ours)} ids differ, the first {index}: "
            f"{theirs.get(index)!r} there, {ours.get(index)!r} here; give it this tokenizer with `iberlm resize-embeddings`, or tokenize with the model's own"
        )


def _pieces(path: Path) -> dict[int, str]:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file; a tokenizer without it can be saved anew by AutoTokenizer.from_pretrained(FOLDER).save_pretrained(OTHER)"
        )
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises Exception itself
        raise CorruptError(f"{path}: not a tokenizer ({_first_line(error)})") from error
    return {index: piece for piece, index in vocabulary.items()}


@torch.no_grad()
def load_weights(causal: PreTrainedModel, folder: str | Path) -> None:
    """Fill the parameters and stored buffers of `causal` (plain or DTensor, any device) from the safetensors in `folder`, one tensor at a time.

    Each rank reads no more of a tensor than it holds, where it holds a plain slice. Raises `DataError` naming tensors that are missing, that the
    model does not have, or that have another shape, before anything is read; `ConfigError` where there are only pickles; `CorruptError`.
    """
    folder = Path(folder)
    shards, wanted = read_shards(folder), _tensors(causal)
    renamings = [entry for entry in get_model_conversion_mapping(causal) if isinstance(entry, WeightRenaming)]
    found: dict[str, tuple[str, str, list[int]]] = {}
    """By the model's name: the file, the name in it, the shape."""
    for file, entries in shards.items():
        for stored, entry in entries.items():
            found[_own_name(stored, renamings, causal.base_model_prefix, wanted)] = (file, stored, entry.shape)
    for name, copies in _tied_copies(causal).items():  # a tied matrix may be stored under either name, or both
        for copy in copies:
            if copy in found:
                found.setdefault(name, found.pop(copy))
    missing = sorted(wanted.keys() - found.keys())
    known = wanted.keys() | {name for name, _ in causal.named_buffers()} | {copy for copies in _tied_copies(causal).values() for copy in copies}
    ignored = [re.compile(pattern) for pattern in (*(causal._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$")]
    unexpected = sorted(found[name][1] for name in found.keys() - known if not any(pattern.search(name) for pattern in ignored))
    wrong = [name for name in wanted if name in found and list(wanted[name].shape) != found[name][2]]
    problems = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
    if wrong:
        first = wrong[0]
        problems.append(f"of another shape {_some(wrong)} (the first is {found[first][2]}, {CONFIGURATION} says {list(wanted[first].shape)})")
    if problems:
        raise DataError(f"{folder}: initial_model: its tensors are not those of {type(causal).__name__}: {'; '.join(problems)}")
    for file in shards:
        with safe_open(folder / file, "pt") as tensors:
            for name, target in wanted.items():
                if found[name][0] == file:
                    _fill(target, tensors, found[name][1])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _own_name(stored: str, renamings: list[Any], prefix: str, wanted: Mapping[str, torch.Tensor]) -> str:
    """The model's name of a tensor in a file: transformers has renamed some over time, and files of a decoder alone lack its prefix."""
    name = stored
    for renaming in renamings:
        name = renaming.rename_source_key(name)[0]
    whole = f"{prefix}.{name}"
    return whole if name not in wanted and whole in wanted else name


def _tensors(causal: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a file must hold: parameters, tied ones once, and buffers of the state dict."""
    stored = causal.state_dict(keep_vars=True).keys()
    return dict(causal.named_parameters()) | {name: buffer for name, buffer in causal.named_buffers() if name in stored}


def _tied_copies(causal: PreTrainedModel) -> dict[str, list[str]]:
    """Other names of tied parameters, by the name that `named_parameters` gives."""
    names: dict[int, str] = {id(parameter): name for name, parameter in causal.named_parameters()}
    copies: dict[str, list[str]] = {}
    for name, parameter in causal.named_parameters(remove_duplicate=False):
        if names[id(parameter)] != name:
            copies.setdefault(names[id(parameter)], []).append(name)
    return copies


def _fill(target: torch.Tensor, tensors: Any, name: str) -> None:
    if not isinstance(target, DTensor):
        target.copy_(tensors.get_tensor(name))
        return
    mesh, placements = target.device_mesh, target.placements
    if all(type(placement) in (Shard, Replicate) for placement in placements):
        shape, offset = compute_local_shape_and_global_offset(target.shape, mesh, placements)
        piece = tensors.get_slice(name)[tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))]
        target.to_local().copy_(piece)
    else:
        whole = tensors.get_tensor(name).to(target.device, target.dtype)
        target.copy_(distribute_tensor(whole, mesh, placements, src_data_rank=None))
