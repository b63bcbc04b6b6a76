"""Tensor parallelism: the matrices of the decoder layers are split over ranks (Shoeybi et al., 2019, arXiv:1909.08053).

Queries, keys, values and the feed-forward's inner matrices are split by output ("colwise"), those that come after them by input ("rowwise"), so that each
layer needs two sums over the ranks forward and two backward. The plan is the one that transformers states for the model. Norms, embedding and head
are whole on each rank and see the same activations everywhere.
"""

import logging

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from transformers import PreTrainedModel

from iberlm.core.errors import ConfigError

STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


def split_layers(causal: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Split the layers' matrices over the ranks of the one-dimensional `mesh`, in place; they become DTensors.

    Raises `ConfigError` when transformers states no plan for the model, or one with more than column and row splits.
    """
    stated: dict[str, str] = getattr(causal.config, "base_model_tp_plan", None) or {}
    plan = {path: style for path, style in stated.items() if path.startswith("layers.")}  # for tied embeddings it names those too
    unknown = sorted({style for style in plan.values() if style not in STYLES})
    if not plan or unknown:
        found = f"asks for {', '.join(unknown)}" if plan else "is missing"
        raise ConfigError(f"strategy.tensor: the plan of transformers for {causal.config.model_type} models {found}; choose strategy.tensor=1")
    # to gather a matrix that is split twice takes two steps, which torch warns of; it is done for samples and the exported model only
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    styles: dict[str, ParallelStyle] = {path: STYLES[style]() for path, style in plan.items()}
    parallelize_module(causal.base_model, mesh, styles)


def whole_parameters(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Parameters that every rank of the mesh dimension `name` holds whole, tied ones once."""
    return [parameter for parameter in module.parameters() if not (isinstance(parameter, DTensor) and name in (parameter.device_mesh.mesh_dim_names or ()))]


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Average the gradients of parameters that all ranks of `group` hold whole.

    They are equal but for the order of sums in kernels that are not deterministic; left alone, the copies would drift apart over a long run.
    """
    gradients = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    sums = [dist.all_reduce(gradient, group=group, async_op=True) for gradient in gradients]
    for entry in sums:
        assert entry is not None
        entry.wait()
    torch._foreach_div_(gradients, float(group.size()))
