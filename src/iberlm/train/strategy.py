"""Parallel strategies, each checked after set-up: a run is what its recipe says, or it does not start.

Libraries fall back silently (accelerate with `cpu=True` ignores a DeepSpeed or FSDP plugin and runs plain DDP), so every
`_verify_*` looks at the objects that were really made.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaForCausalLM

from iberlm.core.errors import ResourceError
from iberlm.core.progress import say
from iberlm.train.config import PretrainConfig, accumulation_steps, check_world
from iberlm.train.model import materialise, parameter_groups

_CLIP_OFF = float("inf")


@dataclass(frozen=True)
class Verified:
    """What was found after set-up; it goes into the manifest."""

    name: str
    ranks: int
    device: str
    backend: str
    wrapper: str
    optimizer: str
    precision: str
    sharded_parameters: int
    """Parameters that are split over the ranks (all of them under fsdp2, none otherwise)."""

    def line(self) -> str:
        """One sentence for the log."""
        return f"strategy {self.name}: {self.ranks} rank(s) on {self.device} ({self.backend}), {self.wrapper}, {self.optimizer}, {self.precision}"


@dataclass
class Parallel:
    """A model and its optimiser under a strategy. `module` is the bare model inside, `model` what is called."""

    accelerator: Accelerator
    model: nn.Module
    module: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    accumulation: int
    clip_norm: float
    verified: Verified

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine under zero2, else None."""
        return self.model if self.verified.name == "zero2" else None

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of every parameter group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def apply_gradients(self) -> torch.Tensor:
        """Clip, step and zero; return the global norm of the gradient before clipping, a scalar on the device."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm or _CLIP_OFF)
        if self.engine is None:  # DeepSpeed has stepped at the end of the last backward pass
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.device)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()

    def broadcast_object(self, value: Any) -> Any:
        """The first rank's `value`, on every rank."""
        return self.gather_objects(value)[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank. Only small Python objects of our own."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered


@contextlib.contextmanager
def session(config: PretrainConfig, out: str) -> Iterator[Accelerator]:
    """The accelerator of this process: device, ranks, gradient accumulation, trackers. Taken down again at the end."""
    name, world = config.strategy.name, int(os.environ.get("WORLD_SIZE", "1"))
    check_world(name, world)
    plugin, handlers = None, []
    if not torch.cuda.is_available():
        # some library imports DeepSpeed under any strategy, which would warn that it finds no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if name == "zero2":
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        plugin = _deepspeed_plugin(config, accumulation_steps(config, world))
        if not torch.cuda.is_available():
            # else accelerate finds no backend and has every rank believe that it is alone, though DeepSpeed has its group
            handlers = [InitProcessGroupKwargs(backend="gloo")]
    accelerator = Accelerator(
        # with cpu=True accelerate would ignore the DeepSpeed plugin and run DDP
        cpu=not torch.cuda.is_available() and name != "zero2",
        # fsdp2 has its own mixed precision; accelerate's would wrap a model that it does not know
        mixed_precision="no" if config.precision == "fp32" or name == "fsdp2" else "bf16",
        gradient_accumulation_steps=accumulation_steps(config, world),
        deepspeed_plugin=plugin,
        kwargs_handlers=handlers,
        log_with=None if config.tracker == "none" else config.tracker,
        project_config=ProjectConfiguration(project_dir=out, logging_dir=out),
        step_scheduler_with_optimizer=False,
    )
    try:
        yield accelerator
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def parallelize(accelerator: Accelerator, model: LlamaForCausalLM, config: PretrainConfig) -> Parallel:
    """Give a meta model its weights and the strategy its shape, then verify it. Prints what was really set up.

    Raises `ResourceError` naming what was asked for and what was found.
    """
    name = config.strategy.name
    if name == "fsdp2":
        _shard(accelerator, model, config)
    materialise(model, accelerator.device, config.seed)
    if config.compile:
        for layer in model.model.layers:  # regional: one layer is compiled once and used for all
            layer.compile()
    settings = config.optimizer
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
    )
    prepared: nn.Module = model
    if name == "zero2":
        prepared, wrapped = accelerator.prepare(model, optimizer)
        optimizer = wrapped.optimizer
    elif name != "fsdp2":
        prepared = accelerator.prepare_model(model)
    verified = {"single": _verify_single, "ddp": _verify_ddp, "fsdp2": _verify_fsdp2, "zero2": _verify_zero2}[name](accelerator, prepared, optimizer, config)
    if accelerator.is_main_process:
        say(verified.line())
    return Parallel(accelerator, prepared, model, optimizer, accelerator.gradient_accumulation_steps, config.clip_norm, verified)


def _shard(accelerator: Accelerator, model: LlamaForCausalLM, config: PretrainConfig) -> None:
    # torch's own call, not accelerate's FSDP plugin: accelerate knows FSDP on accelerators only and on CPU ranks silently
    # runs DDP in its place; this way the tests on gloo run the very code that GPUs run
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,), mesh_dim_names=("dp_shard",))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if config.precision == "bf16" else MixedPrecisionPolicy()
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _deepspeed_plugin(config: PretrainConfig, accumulation: int) -> Any:
    quiet_deepspeed()
    from accelerate.utils import DeepSpeedPlugin

    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    return DeepSpeedPlugin(hf_ds_config=settings)


def quiet_deepspeed() -> None:
    """Import DeepSpeed with its logger at WARNING: it prints a page of settings otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # on CPU ranks it would compile a shared-memory all-reduce with g++ and ninja at first use, for a minute, on every rank
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.all_gather_into_tensor` is deprecated", category=FutureWarning)  # its own call


def _verified(accelerator: Accelerator, config: PretrainConfig, model: nn.Module, optimizer: object, sharded: int = 0) -> Verified:
    backend = dist.get_backend() if dist.is_initialized() else "no process group"
    return Verified(
        config.strategy.name,
        accelerator.num_processes,
        str(accelerator.device.type),
        backend,
        type(model).__name__,
        type(optimizer).__name__,
        config.precision,
        sharded,
    )


def _found(asked: str, condition: bool, found: str) -> None:
    if not condition:
        raise ResourceError(f"strategy={asked} was asked for and not set up: found {found}; the libraries installed here cannot do it, choose another strategy")


def _ranks_agree(asked: str, found: int) -> None:
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    _found(asked, found == wanted, f"{found} rank(s) where {wanted} were started")


def _verify_single(accelerator: Accelerator, model: nn.Module, optimizer: object, config: PretrainConfig) -> Verified:
    _ranks_agree("single", accelerator.num_processes)
    _found("single", isinstance(model, LlamaForCausalLM) and not isinstance(model, FSDPModule), f"a model wrapped in {type(model).__name__}")
    return _verified(accelerator, config, model, optimizer)


def _verify_ddp(accelerator: Accelerator, model: nn.Module, optimizer: object, config: PretrainConfig) -> Verified:
    _found("ddp", isinstance(model, DistributedDataParallel), f"a bare {type(model).__name__}, {accelerator.distributed_type}")
    assert isinstance(model, DistributedDataParallel)
    _ranks_agree("ddp", dist.get_world_size(model.process_group))
    _ranks_agree("ddp", accelerator.num_processes)
    return _verified(accelerator, config, model, optimizer)


def _verify_fsdp2(accelerator: Accelerator, model: nn.Module, optimizer: object, config: PretrainConfig) -> Verified:
    _found("fsdp2", isinstance(model, FSDPModule), f"a bare {type(model).__name__}, {accelerator.distributed_type}")
    parameters = list(model.parameters())
    plain = sum(not isinstance(parameter, DTensor) for parameter in parameters)
    _found("fsdp2", plain == 0, f"{plain} of {len(parameters)} parameters that are not sharded")
    _ranks_agree("fsdp2", accelerator.num_processes)
    for parameter in parameters:
        assert isinstance(parameter, DTensor)
        _ranks_agree("fsdp2", parameter.device_mesh.size())
        _found("fsdp2", parameter.placements == (Shard(0),), f"a parameter placed as {parameter.placements}")
    return _verified(accelerator, config, model, optimizer, sharded=sum(parameter.numel() for parameter in parameters))


def _verify_zero2(accelerator: Accelerator, model: nn.Module, optimizer: object, config: PretrainConfig) -> Verified:
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    _found("zero2", isinstance(model, DeepSpeedEngine), f"a {type(model).__name__}, {accelerator.distributed_type}")
    assert isinstance(model, DeepSpeedEngine)
    _found("zero2", model.zero_optimization_stage() == 2, f"ZeRO stage {model.zero_optimization_stage()}")
    _found("zero2", isinstance(optimizer, DeepSpeedZeroOptimizer), f"the optimiser {type(optimizer).__name__}")
    assert isinstance(optimizer, DeepSpeedZeroOptimizer)
    _found("zero2", bool(optimizer.partition_gradients), "gradients that are not partitioned (stage 1)")
    _ranks_agree("zero2", dist.get_world_size(optimizer.dp_process_group))
    _ranks_agree("zero2", accelerator.num_processes)
    return _verified(accelerator, config, model, optimizer)
