"""The state of a DeepSpeed engine in the terms of `checkpoint_state`: whole fp32 tensors by Hugging Face's names.

DeepSpeed keeps fp32 weights and moments in flat pieces, one a rank. Every rank takes part in putting a tensor together, and one keeps it: rank r the
tensors of the parameters i with i % world == r, so that no rank ever holds more than its share and one tensor. Loading goes the other way: rank r reads
those, gives them to all one after the other, and each takes its piece. Parameters in the type that the model computes in are made from the pieces then.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_files

from iberlm.core.errors import ConfigError
from iberlm.train.checkpoint_state import MODEL, OPTIMIZER, check_model, check_optimizer, named_buffers, named_parameters, stored_shapes
from iberlm.train.strategy import Parallel

MOMENTS, STEP = ("exp_avg", "exp_avg_sq"), "step"
"""What AdamW keeps, the only optimiser under DeepSpeed here."""


def own_tensors(parallel: Parallel) -> Iterator[tuple[str, torch.Tensor]]:
    """What this rank writes, each tensor put together when it is asked for. Collective: every rank must go through to the end."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    zero = parallel.engine.optimizer
    count = _step_count(zero)
    if count is not None:
        _link(zero)
    parameters = named_parameters(parallel)
    for number, (name, parameter) in enumerate(parameters.items()):
        for key in (None, *(MOMENTS if count is not None else ())):
            whole = safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
            if number % parallel.world == parallel.rank:
                yield f"{MODEL}.{name}" if key is None else f"{OPTIMIZER}.{name}.{key}", whole.detach()
        if count is not None and number % parallel.world == parallel.rank:
            yield f"{OPTIMIZER}.{name}.{STEP}", count
    for number, (name, buffer) in enumerate(named_buffers(parallel).items(), start=len(parameters)):
        if number % parallel.world == parallel.rank:
            yield f"{MODEL}.{name}", buffer.detach()


def load(parallel: Parallel, path: Path) -> None:
    """Read a checkpoint into the engine. `ConfigError` when it does not fit. Collective."""
    reader = FileSystemReader(path)
    metadata = reader.read_metadata()
    stored = stored_shapes(metadata)
    parameters, buffers = named_parameters(parallel), named_buffers(parallel)
    moments = MOMENTS if any(key.startswith(f"{OPTIMIZER}.") for key in stored) else ()
    keys = {name: [f"{MODEL}.{name}", *(f"{OPTIMIZER}.{name}.{moment}" for moment in moments)] for name in parameters}
    shapes = {key: _shape(parameters[name]) for name, entries in keys.items() for key in entries}
    wanted = shapes | {f"{MODEL}.{name}": tuple(buffer.shape) for name, buffer in buffers.items()}
    if moments:
        wanted |= {f"{OPTIMIZER}.{name}.{STEP}": () for name in parameters}
    check_model(path, stored, wanted)
    check_optimizer(path, stored, wanted)

    own = {key: torch.empty(shapes[key]) for name in list(parameters)[parallel.rank :: parallel.world] for key in keys[name]}
    counts = {f"{OPTIMIZER}.{name}.{STEP}": torch.zeros(()) for name in parameters} if moments else {}
    whole = {f"{MODEL}.{name}": buffer for name, buffer in buffers.items()}
    load_files({**own, **counts, **whole}, storage_reader=reader, no_dist=True)
    zero = parallel.engine.optimizer
    zero.optimizer.state.clear()
    if moments:
        _give_state(zero, _only_count(path, counts))
    for number, (name, parameter) in enumerate(parameters.items()):
        for key, moment in zip(keys[name], (None, *moments), strict=True):
            value = own.pop(key) if key in own else torch.empty(shapes[key])
            value = value.to(parallel.device)
            dist.broadcast(value, src=number % parallel.world)
            _set(parameter, value, moment, parallel.rank)
    _refresh(zero)


def whole_parameters(parallel: Parallel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter in fp32, whole, on all ranks, one after the other. Collective: every rank must go through to the end."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in named_parameters(parallel).items():
        yield name, safe_get_full_fp32_param(parameter).detach()


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # under zero3 a parameter is empty most of the time


def _pieces(zero: Any) -> list[torch.Tensor]:
    """This rank's flat fp32 pieces, for each of which the optimiser has one state: stage 3, stage 1 in bf16, stages 1 and 2."""
    for name in ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups"):
        if hasattr(zero, name):
            return list(getattr(zero, name))
    raise TypeError(f"DeepSpeed's {type(zero).__name__} keeps its fp32 weights where this version of IberLM does not know them")


def _step_count(zero: Any) -> torch.Tensor | None:
    """How many steps the optimiser has counted; None before its first. All pieces take every step together."""
    states = [zero.optimizer.state[piece] for piece in _pieces(zero) if zero.optimizer.state.get(piece)]
    return states[0][STEP] if states else None


def _only_count(path: Path, counts: dict[str, torch.Tensor]) -> torch.Tensor:
    found = sorted({float(count) for count in counts.values()})
    if len(found) > 1:
        steps = f"{found[0]:.0f} and {found[-1]:.0f}"
        raise ConfigError(f"{path}: its parameters have taken different numbers of steps ({steps}), which DeepSpeed cannot hold; choose fsdp2")
    return torch.tensor(found[0])


def _give_state(zero: Any, count: torch.Tensor) -> None:
    """What the optimiser's first step would make, with the stored count, for every piece."""
    for piece in _pieces(zero):
        zero.optimizer.state[piece] = {STEP: count.to(piece.device, copy=True), **{moment: torch.zeros_like(piece) for moment in MOMENTS}}
    _link(zero)


def _link(zero: Any) -> None:
    """Stages 1 and 2: tell each parameter where its moments are. DeepSpeed does so once, when the first of several groups has made its own only."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _set(parameter: nn.Parameter, value: torch.Tensor, moment: str | None, rank: int) -> None:
    """Put this rank's piece of a whole tensor where it belongs: the fp32 weights (`moment` None) or a moment."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    piece = getattr(parameter, "ds_tensor", None)
    if piece is None:
        set_param, set_state, given = safe_set_full_fp32_param, safe_set_full_optimizer_state, value
    else:
        # stage 3 pads the last piece, and DeepSpeed's own call for whole tensors fails on that one
        size = piece.numel()
        set_param, set_state, given = safe_set_local_fp32_param, safe_set_local_optimizer_state, value.new_zeros(size)
        part = value.flatten()[rank * size : (rank + 1) * size]
        given[: part.numel()] = part
    if moment is None:
        set_param(parameter, given)
    else:
        set_state(parameter, given, moment)


def _refresh(zero: Any) -> None:
    """Make the parameters that the model computes with from the fp32 pieces, as the end of a step does."""
    if hasattr(zero, "update_lp_params"):  # stages 1 and 2
        zero.update_lp_params()
        return
    zero.checkpoint_event_prologue()  # nothing may be whole while its piece changes
    for number in range(len(_pieces(zero))):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    zero.checkpoint_event_epilogue()
