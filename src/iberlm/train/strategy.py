"""Parallel strategies, each checked after set-up: a run is what its recipe says, or it does not start.

Libraries fall back silently (accelerate with `cpu=True` ignores a DeepSpeed or FSDP plugin and runs plain DDP), so `verification` looks at the objects that
were really made. Under every strategy weights and optimiser are fp32, gradients are averaged over the ranks that have different tokens, and a step can be
left out without the host having to know (`Parallel.update`).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from iberlm.core.needs import local_folder
from iberlm.core.progress import say
from iberlm.train import deepspeed_engine
from iberlm.train.activation import transform_layers
from iberlm.train.config import PretrainConfig, accumulation_steps
from iberlm.train.config_groups import DDP, DEEPSPEED, SHARDED_BY_TORCH, SINGLE
from iberlm.train.context_parallel import share_attention
from iberlm.train.hardware import Choices
from iberlm.train.mesh import CP, DP_SHARD, DP_SHARD_CP, TP, Layout, check_heads, check_strategy, local_world_size
from iberlm.train.model import materialise
from iberlm.train.optimizer import build_optimizers
from iberlm.train.tensor_parallel import average_gradients, split_layers, whole_parameters
from iberlm.train.training_model import TrainingModel, decoder_layers
from iberlm.train.verification import Verified, verify
from iberlm.train.watchdog import PATIENCE

_DEFERRED_SHARE = 0.1
"""Of a device's memory: whole fp32 gradients may take so much, so that ranks exchange them once a step and not in each micro step."""


@dataclass
class Parallel:
    """A model and its optimisers under a strategy. `module` is the bare model inside, `model` what is called."""

    accelerator: Accelerator
    model: nn.Module
    module: TrainingModel
    optimizers: list[torch.optim.Optimizer]
    accumulation: int
    clip_norm: float
    layout: Layout
    verified: Verified
    tensor_group: dist.ProcessGroup | None = None
    """The ranks that share this rank's matrices; None without tensor parallelism."""
    deferred: bool = True
    """For fsdp2 and hsdp: whole gradients are kept until the last micro step of a step. False: they are split in each."""
    stepper: deepspeed_engine.Stepper | None = None
    """DeepSpeed's step; None under the other strategies."""
    _whole: list[nn.Parameter] = field(default_factory=list)
    _last: bool = True
    _shares: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

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
    def data_rank(self) -> int:
        """Which of the `data_world` shares of each step this rank reads."""
        return self.layout.data_rank(self.rank)

    @property
    def data_world(self) -> int:
        return self.layout.data_world

    @property
    def context_rank(self) -> int:
        """Which of the `context_world` parts of each sequence this rank has."""
        return self.layout.context_rank(self.rank)

    @property
    def context_world(self) -> int:
        return self.layout.cp

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine under zero1, zero2 and zero3, else None."""
        return self.model if self.stepper is not None else None

    def slice_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """This rank's part of the last dimension under context parallelism, else all of it."""
        return values if self.layout.cp == 1 else values.chunk(self.layout.cp, dim=-1)[self.context_rank]

    @contextlib.contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro step: gradients are summed here, and exchanged between ranks in the `last` one of a step."""
        self._last = last
        if isinstance(self.model, FSDPModule):
            if self.deferred:
                self.model.set_requires_gradient_sync(last)
            else:  # split at once, but copies of the model (hsdp) exchange their parts in the end
                self.model.set_requires_all_reduce(last)
        elif isinstance(self.model, DistributedDataParallel) and not last:
            with self.model.no_sync():
                yield
            return
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of a micro step, inside `accumulating`. Nothing is divided by the number of micro steps."""
        if self.stepper is not None:
            self.stepper.backward(loss, self._last)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, bad: torch.Tensor, norm_limit: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip to `clip_norm` and step, unless the step is `bad` (bool[], the same on all ranks), or the norm is not finite or above `norm_limit`.

        Returns the global norm before clipping and whether the step was applied (1 or 0), float32[] on the device, the same on all ranks. When it was not,
        parameters, moments and step counts are as before, bit for bit. Gradients are gone either way. The host waits for nothing, except under zero1 to
        zero3, where DeepSpeed does (and gives inf for a norm that is not finite).
        """
        if self.stepper is not None:
            return self.stepper.update(bad, norm_limit)
        if self.tensor_group is not None:
            average_gradients(self._whole, self.tensor_group)
        norm, gradients = self._norm()
        applied = (~bad & torch.isfinite(norm) & (norm <= norm_limit)).float()
        if self.clip_norm:
            torch._foreach_mul_(gradients, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        skipped = 1 - applied
        for optimizer in self.optimizers:
            # the protocol of torch.amp.GradScaler: torch's fused optimisers, and our Muon, read the attribute and do nothing where it is 1
            setattr(optimizer, "found_inf", skipped)  # noqa: B010
            optimizer.step()
            setattr(optimizer, "found_inf", None)  # noqa: B010
            optimizer.zero_grad(set_to_none=True)
        return norm, applied

    def _norm(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The global norm of the gradient, and this rank's parts of the gradients.

        Parameters may lie on several meshes, which torch's own clipping refuses. Here each rank sums the squares of what it has, divided by the number of
        ranks that have the same, and one sum over all ranks makes it whole.
        """
        # the optimisers' parameters, not the module's: under FSDP those may be whole ones that a forward pass has left
        held = [parameter for optimizer in self.optimizers for group in optimizer.param_groups for parameter in group["params"]]
        pairs = [(number, parameter.grad) for number, parameter in enumerate(held) if parameter.grad is not None]
        gradients = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for _, gradient in pairs]
        squares = torch.stack(torch._foreach_norm(gradients, 2)).float().square()
        if not isinstance(self.model, FSDPModule):  # all ranks have all of it
            return squares.sum().sqrt(), gradients
        present = tuple(number for number, _ in pairs)
        if present not in self._shares:  # once: a copy to the device in every step would have the host wait for it
            self._shares[present] = torch.tensor([_shards(held[number]) / self.world for number in present], device=self.device)
        total = (squares * self._shares[present]).sum()
        dist.all_reduce(total)
        return total.sqrt(), gradients

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of every parameter group: `rate` times the group's "rate_ratio"."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate_ratio"]

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks that have different tokens, in place: the sum over all, divided by the number of ranks that share matrices."""
        if self.world > 1:
            dist.all_reduce(values)
        return values if self.layout.tp == 1 else values.div_(self.layout.tp)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank. Only small Python objects of our own."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered


@contextlib.contextmanager
def session(config: PretrainConfig, choices: Choices, out: str) -> Iterator[Accelerator]:
    """The accelerator of this process: device, ranks, trackers, DeepSpeed. Taken down again at the end."""
    name, world, cuda = config.strategy.name, int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    check_strategy(config, world, local_world_size(os.environ, world))
    accumulation = accumulation_steps(config, world)
    plugin, handlers = None, []
    if not cuda:
        # some library imports DeepSpeed under any strategy, which would warn that it finds no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if name in DEEPSPEED:
        plugin = deepspeed_engine.plugin(config, choices.precision, accumulation)
        if not cuda:
            # else accelerate finds no backend and has every rank believe that it is alone, though DeepSpeed has its group
            handlers.append(InitProcessGroupKwargs(backend="gloo"))
    elif name == DDP:
        handlers.append(DistributedDataParallelKwargs(gradient_as_bucket_view=True))
    if world > 1:
        _join(cuda, collective_timeout(config.faults.hang_seconds))
    try:
        accelerator = Accelerator(
            # with cpu=True accelerate would ignore the DeepSpeed plugin and run DDP
            cpu=not cuda and name not in DEEPSPEED,
            # fsdp2 and hsdp have their own mixed precision; accelerate's would wrap a model that it does not know
            mixed_precision="no" if choices.precision == "fp32" or name in SHARDED_BY_TORCH else "bf16",
            gradient_accumulation_steps=accumulation,
            deepspeed_plugin=plugin,
            kwargs_handlers=handlers,
            log_with=None if config.tracker == "none" else config.tracker,
            project_config=ProjectConfiguration(project_dir=out, logging_dir=out),
            step_scheduler_with_optimizer=False,
        )
        if name in DEEPSPEED:
            deepspeed_engine.release_transformers()
        yield accelerator
    finally:
        if dist.is_initialized():
            deepspeed_engine.leave() if name in DEEPSPEED else dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def collective_timeout(hang_seconds: float) -> timedelta:
    """How long ranks wait for each other: longer than the watchdog, which names who is behind, where torch only says that time is up.

    torch's own 10 minutes (NCCL) and 30 (gloo) would end a run before it. A day when the watchdog is off.
    """
    return max(timedelta(minutes=30), 1.2 * PATIENCE * timedelta(seconds=hang_seconds)) if hang_seconds else timedelta(days=1)


def _join(cuda: bool, timeout: timedelta) -> None:
    """Join the other ranks, before accelerate would: on GPUs with gloo beside NCCL, for Python objects and checkpoints, which lie in host memory."""
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout)


def parallelize(accelerator: Accelerator, module: TrainingModel, config: PretrainConfig, choices: Choices) -> Parallel:
    """Give a meta model its weights and the strategy its shape, then verify it. Prints what was really set up.

    Raises `ConfigError` when the model's heads cannot be shared out, and `ResourceError` naming what was asked for and what was found.
    """
    name, world, shape = config.strategy.name, accelerator.num_processes, module.causal.config
    accumulation = accumulation_steps(config, world)
    layout = check_strategy(config, world, local_world_size(os.environ, world))
    check_heads(config.strategy, heads=shape.num_attention_heads, kv_heads=shape.num_key_value_heads, ffn_size=shape.intermediate_size)
    tensor_group = None
    if name in SHARDED_BY_TORCH:
        tensor_group = _shard(module, layout, config, choices, accelerator.device.type)
    else:
        transform_layers(module, config, choices)
    initial = str(local_folder(config.initial_model, config.cluster)) if config.initial_model else ""
    materialise(module, accelerator.device, config.seed, initial, config.optimizer.reference_hidden_size)
    optimizers = build_optimizers(module, config.optimizer, shape.hidden_size)
    model: nn.Module = module
    stepper = None
    if name in DEEPSPEED:
        model = deepspeed_engine.prepare(accelerator, module, optimizers[0])
        stepper = deepspeed_engine.Stepper(model, optimizers[0], accelerator.device)
    elif name in (SINGLE, DDP):
        # one rank that torchrun has started has a process group, and accelerate would wrap its model in DDP
        model = accelerator.prepare_model(module, evaluation_mode=name == SINGLE)
    deferred = _deferred(module, layout, accelerator.device)
    verified = verify(model, optimizers, layout, config.strategy, choices.precision, accelerator)
    if accelerator.is_main_process:
        say(verified.line())
        if name in SHARDED_BY_TORCH and accumulation > 1:
            when = "once a step" if deferred else "in each micro step: kept whole they would take too much memory"
            say(f"strategy {name}: gradients are split over the ranks {when}")
    whole = whole_parameters(module, TP) if tensor_group is not None else []
    return Parallel(accelerator, model, module, optimizers, accumulation, config.clip_norm, layout, verified, tensor_group, deferred, stepper, whole)


def _shard(module: TrainingModel, layout: Layout, config: PretrainConfig, choices: Choices, device: str) -> dist.ProcessGroup | None:
    """Tensor and context parallelism, then torch's `fully_shard` on each layer and on the whole; returns the group that shares matrices.

    torch's own call, not accelerate's FSDP plugin: accelerate knows FSDP on accelerators only and on CPU ranks silently runs DDP in its place; this way
    the tests on gloo run the very code that GPUs run.
    """
    sizes = layout.sizes(config.strategy.name)
    if layout.cp > 1:
        ranks = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        share_attention(module, ranks[CP].get_group())
        sizes = {DP_SHARD_CP if key == DP_SHARD else key: size * layout.cp if key == DP_SHARD else size for key, size in sizes.items() if key != CP}
    mesh = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    if layout.tp > 1:
        split_layers(module.causal, mesh[TP])
    transform_layers(module, config, choices)
    data: DeviceMesh = mesh[tuple(key for key in sizes if key != TP)] if layout.tp > 1 else mesh
    # inputs are not cast: activations follow the bf16 weights, and the loss's scale must stay fp32
    precision = torch.bfloat16 if choices.precision != "fp32" else None
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32 if precision else None, cast_forward_inputs=False)
    for layer in decoder_layers(module.causal):
        fully_shard(layer, mesh=data, mp_policy=policy)
    fully_shard(module, mesh=data, mp_policy=policy)
    return mesh[TP].get_group() if layout.tp > 1 else None


def _deferred(module: nn.Module, layout: Layout, device: torch.device) -> bool:
    """Whether whole gradients fit beside the rest. Memory of GPUs only is scarce enough to ask."""
    if device.type != "cuda":
        return True
    parameters = sum(parameter.numel() for parameter in module.parameters()) / layout.tp
    return 4 * parameters <= _DEFERRED_SHARE * torch.cuda.get_device_properties(device).total_memory


def _shards(parameter: torch.Tensor) -> int:
    """Into how many different parts a parameter is split."""
    if not isinstance(parameter, DTensor):
        return 1
    count = 1
    for placement, size in zip(parameter.placements, parameter.device_mesh.shape, strict=True):
        count *= 1 if placement.is_replicate() else size
    return count
