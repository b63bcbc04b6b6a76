"""Optimisers: fused AdamW, or Muon for the matrices of the decoder layers with AdamW for the rest.

**Groups.** Weight decay spares norms, biases and embeddings (a step touches an embedding only in part). Every group has `rate_ratio`: its learning rate is
the schedule's rate times it.

**Width rule** (`reference_hidden_size`, off by default). Adam's updates have the same size in every element, so the change of a matrix' output grows with the
width that it sums over. muP (Yang et al., 2022, arXiv:2203.03466, table 8) therefore gives matrices inside the network a rate in proportion to 1 / width and
an initial variance in proportion to 1 / width. Muon's updates are orthogonal: at the same size an element their spectral norm grows with the square root of
the width only, so their ratio is the square root (Yang, Simon and Bernstein, 2023, arXiv:2310.17813). torch decays by rate x weight_decay; the group's
decay is divided by its ratio, so that this product stays what it is at the reference width (Wang and Aitchison, 2024, arXiv:2405.13698). It is not all of
muP: embeddings and head keep the rate and the initial size of the recipe, and attention keeps 1 / sqrt(head size), which is the same thing as long as the
width grows by the number of heads. The forward pass is a plain Llama, so an exported model needs nothing special.

**A step that must not count.** `found_inf`, float32[] on the device, set on an optimiser before `step()`: 1 leaves parameters, moments and step counts as
they are, without the host having to know. torch's fused AdamW has this protocol (`torch.amp.GradScaler` uses it); `Muon` here follows it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from iberlm.core.errors import ConfigError
from iberlm.train.config_groups import MUON, OptimizerConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al., 2024): steepest at 0, so that five iterations bring singular values of 0.01 to about 1."""
ITERATIONS = 5
_BATCH_ELEMENTS = 1 << 26
"""Matrices of one shape are orthogonalised together up to so many elements: fewer, larger products, 128 MiB of bf16 at a time."""


def rate_ratio(config: OptimizerConfig, hidden_size: int) -> float:
    """What the learning rate of the layers' matrices is multiplied by: 1 without a reference width (see the module's text for the rule)."""
    if not config.reference_hidden_size:
        return 1.0
    ratio = config.reference_hidden_size / hidden_size
    return math.sqrt(ratio) if config.kind == MUON else ratio


def initial_std(name: str, initializer_range: float, hidden_size: int, reference_hidden_size: int) -> float:
    """Standard deviation with which a matrix begins, by its Hugging Face name: `initializer_range`, and under the width rule less in wider layers.

    Variance in proportion to 1 / width for what lies in a layer (muP, table 8); embeddings and head keep `initializer_range`.
    """
    if not reference_hidden_size or ".layers." not in f".{name}":
        return initializer_range
    return initializer_range * math.sqrt(reference_hidden_size / hidden_size)


def build_optimizers(module: nn.Module, config: OptimizerConfig, hidden_size: int) -> list[torch.optim.Optimizer]:
    """The optimisers of a model whose parameters are plain tensors or DTensors (`fully_shard`, tensor parallelism).

    kind=adamw: one fused AdamW. kind=muon: `Muon` for the two-dimensional matrices of the layers first, then AdamW for the others. Every group of both has
    "rate_ratio". Call it with the bare module, after it was sharded. Raises `ConfigError` where Muon finds no matrix in a layer.
    """
    ratio = rate_ratio(config, hidden_size)
    # every decoder of transformers keeps its layers in a ModuleList, and neither embeddings nor head in one
    inside = {id(parameter) for part in module.modules() if isinstance(part, nn.ModuleList) for parameter in part.parameters()}
    spared = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():  # tied ones once
        if not parameter.requires_grad:
            continue
        if parameter.dim() == 1 or id(parameter) in spared:
            kind = (0.0, 1.0)
        elif id(parameter) not in inside:
            kind = (config.weight_decay, 1.0)
        elif config.kind == MUON and parameter.dim() == 2:
            matrices.append(parameter)
            continue
        else:
            kind = (config.weight_decay / ratio, ratio)
        groups.setdefault(kind, []).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if config.kind == MUON:
        if not matrices:
            raise ConfigError("optimizer.kind: muon needs matrices in the layers of the model, and there are none; choose adamw")
        muon = {"params": matrices, "weight_decay": config.weight_decay / ratio, "rate_ratio": ratio}
        optimizers.append(Muon([muon], lr=config.learning_rate, momentum=config.muon_momentum))
    adamw = [{"params": parameters, "weight_decay": decay, "rate_ratio": own} for (decay, own), parameters in groups.items()]
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = config.learning_rate * group["rate_ratio"]
    return optimizers


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (its state, its settings, its result on plain tensors) that knows sharded matrices and `found_inf`.

    torch's own runs its matrix products on whatever tensor it is given: on DTensors every product of every iteration would be redistributed. Here a matrix
    that is split by rows over ranks (fully_shard) is brought together on one of them, orthogonalised once and taken apart again: of W matrices each of the W
    ranks does one, with one all-to-all there and one back, in bf16 (Liu et al., 2025, arXiv:2502.16982, section 2.3, gather on every rank instead). Any other
    layout (tensor parallelism) is gathered on every rank. Momentum and update stay sharded.

    The update has AdamW's usual size, 0.2 a element in the root of the mean square ("match_rms_adamw", Liu et al.), so learning rate and decay of AdamW fit.
    """

    found_inf: Tensor | None = None
    """float32[] on the device of the parameters, 1 for a step that must not count (see the module's text); None: every step counts."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=True, ns_coefficients=COEFFICIENTS, ns_steps=ITERATIONS, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; nothing waits for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for batch in _batches(parameters):
                updates = [self._momentum(parameter, group["momentum"]).bfloat16() for parameter in batch]
                for parameter, update in zip(batch, _orthogonal(batch, updates), strict=True):
                    self._apply(parameter, update, group["lr"], group["weight_decay"])
        return loss

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Move the momentum towards the gradient; return this rank's part of what is to be orthogonalised (Nesterov's)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad, memory_format=torch.preserve_format)
        gradient, buffer = _local(parameter.grad), _local(state["momentum_buffer"])
        if self.found_inf is None:
            buffer.lerp_(gradient, 1 - momentum)
        else:  # a skipped step's gradient may hold NaN, which no factor of 0 would take away
            gradient = torch.where(self.found_inf > 0, torch.zeros_like(gradient), gradient)
            buffer.lerp_(gradient, torch.where(self.found_inf > 0, 0.0, 1 - momentum))
        return gradient.lerp(buffer, momentum)

    def _apply(self, parameter: nn.Parameter, update: Tensor, rate: float, weight_decay: float) -> None:
        """Decay and update this rank's part of a parameter."""
        size = -rate * 0.2 * math.sqrt(max(parameter.shape))
        weights, kept = _local(parameter), 1 - rate * weight_decay
        if self.found_inf is None:
            weights.mul_(kept)
        else:
            weights.mul_(torch.where(self.found_inf > 0, 1.0, kept))
            update = update * (1 - self.found_inf).bfloat16()
        weights.add_(update, alpha=size)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of bf16[n, rows, columns]: five Newton-Schulz iterations (Jordan et al., 2024).

    Singular values come out between about 0.7 and 1.2, as in `torch.optim.Muon`; a matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # so that no singular value is above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _local(tensor: Tensor) -> Tensor:
    """This rank's part; it shares its memory with the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _rows_over(parameter: Tensor) -> dist.ProcessGroup | None:
    """The ranks over which the rows of a DTensor are split, where that is all that happens to it (fsdp2, hsdp); else None."""
    if not isinstance(parameter, DTensor):
        return None
    split = [number for number, placement in enumerate(parameter.placements) if not isinstance(placement, Replicate)]
    # exactly Shard: a subclass of it, as under tensor parallelism, has another order of rows
    if len(split) != 1 or type(placement := parameter.placements[split[0]]) is not Shard or placement.dim != 0:
        return None
    return parameter.device_mesh.get_group(split[0])


def _batches(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters that are orthogonalised together: of one shape and layout, one a rank where rows are split over ranks."""
    kinds: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        layout = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        kinds.setdefault((parameter.shape, layout), []).append(parameter)
    for alike in kinds.values():
        group = _rows_over(alike[0])
        size = max(1, _BATCH_ELEMENTS // alike[0].numel()) if group is None else group.size()
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _orthogonal(batch: list[nn.Parameter], updates: list[Tensor]) -> list[Tensor]:
    """This rank's parts of the orthogonalised `updates`, bf16, from this rank's parts of them."""
    first = batch[0]
    if not isinstance(first, DTensor):
        return list(orthogonalise(torch.stack(updates)).unbind())
    group = _rows_over(first)
    if group is not None:
        return _one_a_rank(updates, first.shape, group)
    mesh, placements = first.device_mesh, first.placements
    whole = [DTensor.from_local(part, mesh, placements, run_check=False, shape=first.shape, stride=first.stride()).full_tensor() for part in updates]
    replicated = [DTensor.from_local(part, mesh, [Replicate()] * mesh.ndim, run_check=False) for part in orthogonalise(torch.stack(whole)).unbind()]
    return [part.redistribute(placements=placements).to_local() for part in replicated]


def _one_a_rank(updates: list[Tensor], shape: torch.Size, group: dist.ProcessGroup) -> list[Tensor]:
    """At most as many matrices as ranks, rows split over them: rank r puts the r-th together, orthogonalises it, and gives the parts back."""
    world, rank, (rows, columns) = group.size(), group.rank(), shape
    each = -(-rows // world)  # as torch.chunk splits: the last ranks may have fewer rows, or none
    given = [part.numel() for part in updates] + [0] * (world - len(updates))
    mine = rank < len(updates)
    taken = [max(0, min(each, rows - number * each)) * columns if mine else 0 for number in range(world)]
    parts = torch.cat([part.flatten() for part in updates])
    whole = parts.new_empty(sum(taken))
    dist.all_to_all_single(whole, parts, taken, given, group=group)
    if mine:
        whole = orthogonalise(whole.view(1, rows, columns)).flatten()
    dist.all_to_all_single(parts, whole.contiguous(), given, taken, group=group)
    return [part.view_as(update) for part, update in zip(torch.split(parts, given[: len(updates)]), updates, strict=True)]
