"""What a checkpoint holds, by Hugging Face's names: fp32 weights and the optimisers' state, of any strategy.

`model.NAME` is a parameter or a persistent buffer, `optimizer.NAME.KEY` what an optimiser keeps for that parameter (AdamW: exp_avg, exp_avg_sq and step;
Muon: momentum_buffer). Settings of the optimisers (rates, decay) are not in it: they come from the recipe. This module is for single, ddp, fsdp2 and hsdp,
with tensor and context parallelism; `zero_state` is for DeepSpeed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_files
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from iberlm.core.errors import ConfigError
from iberlm.train.strategy import Parallel

MODEL, OPTIMIZER = "model", "optimizer"
Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors, by their key in a checkpoint."""
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""What activation checkpointing and compilation put into names."""


def named_parameters(parallel: Parallel) -> dict[str, nn.Parameter]:
    """Parameters by Hugging Face's names, tied ones once; under FSDP the sharded ones, whatever the last forward pass left unsharded."""
    for part in parallel.module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return {plain_name(name): parameter for name, parameter in parallel.module.causal.named_parameters()}


def named_buffers(parallel: Parallel) -> dict[str, torch.Tensor]:
    """The buffers that a Hugging Face folder holds too."""
    return {
        plain_name(f"{prefix}.{name}" if prefix else name): buffer
        for prefix, part in parallel.module.causal.named_modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    }


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def tensors(parallel: Parallel) -> dict[str, torch.Tensor]:
    """All of the state, as it lives: this rank's parts (DTensors) and what it has whole."""
    return {key: tensor for _, key, tensor in _numbered(parallel)}


def own_tensors(parallel: Parallel) -> Iterator[tuple[str, torch.Tensor]]:
    """What this rank writes, as it lives: of the ranks that hold the same part one does, a tensor's number deciding which."""
    for number, key, tensor in _numbered(parallel):
        if _is_writer(number, tensor, parallel.rank, parallel.world):
            yield key, tensor


def _numbered(parallel: Parallel) -> Iterator[tuple[int, str, torch.Tensor]]:
    parameters, buffers = named_parameters(parallel), named_buffers(parallel)
    states = {parameter: state for optimizer in parallel.optimizers for parameter, state in optimizer.state.items()}
    for number, (name, tensor) in enumerate((parameters | buffers).items()):
        yield number, f"{MODEL}.{name}", tensor.detach()
        for key, value in states.get(tensor, {}).items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"the optimiser keeps {key}={value!r} for {name}, and only tensors can be saved")
            yield number, f"{OPTIMIZER}.{name}.{key}", value


def _is_writer(number: int, tensor: torch.Tensor, rank: int, world: int) -> bool:
    if not isinstance(tensor, DTensor):
        return number % world == rank
    copies, own = 1, 0
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            copies *= tensor.device_mesh.size(dimension)
            own = own * tensor.device_mesh.size(dimension) + tensor.device_mesh.get_local_rank(dimension)
    return number % copies == own


def load(parallel: Parallel, path: Path, group: dist.ProcessGroup | None) -> None:
    """Read a checkpoint into model and optimisers, in place; each rank reads its parts. `ConfigError` when it does not fit."""
    reader = FileSystemReader(path)
    shapes = stored_shapes(reader.read_metadata())
    check_model(path, shapes, {f"{MODEL}.{name}": tuple(tensor.shape) for name, tensor in (named_parameters(parallel) | named_buffers(parallel)).items()})
    if any(key.startswith(f"{OPTIMIZER}.") for key in shapes):
        for optimizer in parallel.optimizers:
            _give_state(optimizer)
    else:  # saved before the first step
        for optimizer in parallel.optimizers:
            optimizer.state.clear()
    wanted = tensors(parallel)
    check_optimizer(path, shapes, {key: tuple(tensor.shape) for key, tensor in wanted.items()})
    load_files(dict(wanted), storage_reader=reader, process_group=group, no_dist=group is None)


def _give_state(optimizer: torch.optim.Optimizer) -> None:
    """What the first step would make, for loading to fill: a step without gradient, at a rate of 0, which leaves the weights alone."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if all(optimizer.state.get(parameter) for parameter in parameters):
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def stored_shapes(metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint and their shapes."""
    return {key: tuple(entry.size) for key, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)}


def check_model(path: Path, stored: Shapes, wanted: Shapes) -> None:
    """Raise `ConfigError` naming the first difference between a checkpoint's model and the one that is to be filled."""
    _same(path, "another model", _part(MODEL, stored), _part(MODEL, wanted), "give the same model, or another run_dir")


def check_optimizer(path: Path, stored: Shapes, wanted: Shapes) -> None:
    """Raise `ConfigError` naming the first difference between the optimisers' state of a checkpoint and what is to be filled."""
    _same(path, "the state of another optimiser", _part(OPTIMIZER, stored), _part(OPTIMIZER, wanted), "give the same optimizer, or another run_dir")


def _part(kind: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if key.startswith(f"{kind}.")}


def _same(path: Path, what: str, stored: Shapes, wanted: Shapes, mend: str) -> None:
    for key in dict.fromkeys([*stored, *wanted]):
        if stored.get(key) != wanted.get(key):
            found, asked = (f"has the shape {list(shapes[key])}" if key in shapes else "is not" for shapes in (stored, wanted))
            raise ConfigError(f"{path}: holds {what}: {key} {found} there and {asked} here; {mend}")
