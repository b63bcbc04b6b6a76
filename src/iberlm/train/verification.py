"""What a strategy really set up, read from the objects that were made; a run that is not what was asked for does not start."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from iberlm.core.errors import ResourceError
from iberlm.train import deepspeed_engine
from iberlm.train.config_groups import DDP, SINGLE, ZERO3, StrategyConfig
from iberlm.train.context_parallel import PREFIX
from iberlm.train.mesh import DP_REPLICATE, DP_SHARD, DP_SHARD_CP, TP, Layout
from iberlm.train.training_model import TrainingModel


@dataclass(frozen=True)
class Verified:
    """What was found after set-up; it goes into the manifest."""

    name: str
    ranks: int
    device: str
    backend: str
    mesh: dict[str, int]
    """Sizes of the mesh's dimensions, by accelerate's names, outermost first; empty for single."""
    wrapper: str
    optimizer: str
    precision: str
    sharded_parameters: int
    """Parameters that are split over ranks: all under fsdp2 and hsdp, the matrices under zero3, none otherwise."""

    def line(self) -> str:
        """One sentence for the log."""
        mesh = "mesh " + " x ".join(f"{name} {size}" for name, size in self.mesh.items()) + ", " if self.mesh else ""
        return f"strategy {self.name}: {self.ranks} rank(s) on {self.device} ({self.backend}), {mesh}{self.wrapper}, {self.optimizer}, {self.precision}"


def verify(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], layout: Layout, strategy: StrategyConfig, precision: str, accelerator: Accelerator
) -> Verified:
    """Compare what was made with what was asked for; `ResourceError` with what was found when they differ."""
    name = strategy.name
    _ranks_agree(name, accelerator.num_processes)
    made: Any = optimizers[0]
    sharded = 0
    if name == SINGLE:
        _found(name, isinstance(model, TrainingModel) and not isinstance(model, FSDPModule), f"a model wrapped in {type(model).__name__}")
    elif name == DDP:
        _found(name, isinstance(model, DistributedDataParallel), f"a bare {type(model).__name__}, {accelerator.distributed_type}")
        assert isinstance(model, DistributedDataParallel)
        _ranks_agree(name, dist.get_world_size(model.process_group))
    elif name in deepspeed_engine.STAGES:
        sharded = _check_deepspeed(model, name, accelerator)
        made = getattr(model, "optimizer")  # noqa: B009 - the engine's
    else:
        sharded = _check_sharded(model, name, layout)
    kinds = list(dict.fromkeys(type(entry).__name__ for entry in ([made] if name in deepspeed_engine.STAGES else optimizers)))
    backend = _backend(accelerator.device)
    return Verified(
        name,
        accelerator.num_processes,
        str(accelerator.device.type),
        backend,
        layout.sizes(name),
        type(model).__name__,
        " and ".join(kinds),
        precision,
        sharded,
    )


def _check_sharded(model: nn.Module, name: str, layout: Layout) -> int:
    _found(name, isinstance(model, FSDPModule), f"a bare {type(model).__name__}")
    parameters = list(model.parameters())
    split, split_by_tensor = 0, 0
    wanted = {DP_REPLICATE: layout.dp_replicate, DP_SHARD: layout.dp_shard, DP_SHARD_CP: layout.dp_shard * layout.cp, TP: layout.tp}
    for parameter in parameters:
        _found(name, isinstance(parameter, DTensor), "a parameter that is not sharded")
        assert isinstance(parameter, DTensor)
        mesh = parameter.device_mesh
        sizes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=True))
        _found(name, all(wanted.get(key) == size for key, size in sizes.items()), f"a parameter on the mesh {sizes}")
        _ranks_agree(name, mesh.size() * (1 if TP in sizes else layout.tp))
        for key, placement in zip(sizes, parameter.placements, strict=True):
            whole = key == DP_REPLICATE
            _found(name, key == TP or whole == isinstance(placement, Replicate), f"a parameter placed as {parameter.placements} on {sizes}")
        split += parameter.numel()
        split_by_tensor += TP in sizes and any(placement.is_shard() for key, placement in zip(sizes, parameter.placements, strict=True) if key == TP)
    _found(name, (split_by_tensor > 0) == (layout.tp > 1), f"{split_by_tensor} matrices that are split over {layout.tp} ranks")
    causal: Any = model.causal
    shared = causal.config._attn_implementation.startswith(PREFIX)
    _found(name, shared == (layout.cp > 1), f"the attention {causal.config._attn_implementation} where {layout.cp} ranks share a sequence")
    return split


def _check_deepspeed(model: nn.Module, name: str, accelerator: Accelerator) -> int:
    from deepspeed import DeepSpeedEngine

    stage = deepspeed_engine.STAGES[name]
    _found(name, isinstance(model, DeepSpeedEngine), f"a {type(model).__name__}, {accelerator.distributed_type}")
    engine: Any = model
    found = engine.zero_optimization_stage()
    _found(name, found == stage, f"ZeRO stage {found}")
    optimizer, kind = engine.optimizer, type(engine.optimizer).__name__
    # zero1 with bf16 weights and fp32 sums is a class of its own in DeepSpeed
    wanted = {1: ("DeepSpeedZeroOptimizer", "BF16_Optimizer"), 2: ("DeepSpeedZeroOptimizer",), 3: ("DeepSpeedZeroOptimizer_Stage3",)}[stage]
    _found(name, kind in wanted, f"the optimiser {kind}")
    if kind == "DeepSpeedZeroOptimizer":
        split = bool(optimizer.partition_gradients)
        _found(name, split == (stage > 1), f"gradients that are {'' if split else 'not '}partitioned")
    _ranks_agree(name, deepspeed_engine.ranks_that_share(engine))
    if name != ZERO3:
        return 0
    parameters = list(engine.module.parameters())
    _found(name, all(hasattr(parameter, "ds_tensor") for parameter in parameters), "parameters that are not partitioned")
    numbers = [parameter.ds_numel for parameter in parameters if not parameter.ds_persist]
    _found(name, sum(numbers) > 0, "parameters that are all whole")
    return int(sum(numbers))


def _backend(device: torch.device) -> str:
    if not dist.is_initialized():
        return "no process group"
    return str(dist.get_backend_config() if device.type == "cuda" else dist.get_backend())


def _found(asked: str, condition: bool, found: str) -> None:
    if not condition:
        raise ResourceError(f"strategy={asked} was asked for and not set up: found {found}; the libraries installed here cannot do it, choose another strategy")


def _ranks_agree(asked: str, found: int) -> None:
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    _found(asked, found == wanted, f"{found} rank(s) where {wanted} were started")
