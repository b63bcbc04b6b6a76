"""DeepSpeed's ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054): its settings, what is checked of it, and a step of it that can be left out.

zero1 splits the optimiser's state and the fp32 weights over the ranks, zero2 the gradients too, zero3 the parameters too. accelerate sets DeepSpeed up.
"""

import contextlib
import io
import logging
import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import ZERO1, ZERO2, ZERO3

STAGES = {ZERO1: 1, ZERO2: 2, ZERO3: 3}


def plugin(config: PretrainConfig, precision: str, accumulation: int) -> Any:
    """accelerate's plugin for `config.strategy`. Parameters and their exchange are bf16 or fp32, sums and weights of the optimiser always fp32."""
    quiet_deepspeed()
    from accelerate.utils import DeepSpeedPlugin

    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip_norm,
        "zero_optimization": {"stage": STAGES[config.strategy.name]},
        "bf16": {"enabled": precision != "fp32"},
        # else micro steps would be summed, and gradients averaged, in bf16
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    return DeepSpeedPlugin(hf_ds_config=settings)


def release_transformers() -> None:
    """Take back what accelerate has told transformers: under zero3 every model that it builds from now on, for samples too, would be split at once."""
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def quiet_deepspeed() -> None:
    """Import DeepSpeed with its logger at WARNING: it prints a page of settings otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # on CPU ranks it would compile a shared-memory all-reduce with g++ and ninja at first use, for a minute, on every rank
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore", message=r"`torch\.distributed\.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated", category=FutureWarning
    )  # its calls


def leave() -> None:
    """Take the process group down as DeepSpeed does, which keeps copies of it: in another session they would be those of a world that is gone."""
    import deepspeed

    deepspeed.comm.destroy_process_group()
    deepspeed.comm.comm.cdb = None


def prepare(accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's engine around `module`, whose buffers keep their type."""
    if STAGES[ZERO3] == accelerator.state.deepspeed_plugin.zero_stage:
        # norms stay whole on each rank (they are a millionth of a model), matrices are split
        largest_vector = max((parameter.numel() for parameter in module.parameters() if parameter.dim() == 1), default=0)
        accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = largest_vector
    buffers = {name: buffer.detach().clone() for name, buffer in module.named_buffers()}
    with contextlib.redirect_stdout(io.StringIO()):  # zero1 with bf16 prints how much memory there is, six times
        engine, _ = accelerator.prepare(module, optimizer)
    release_transformers()
    # it casts the whole module; rotary frequencies rounded to bf16 would be wrong by whole turns at far positions
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer)
    return engine


class Stepper:
    """Takes DeepSpeed's step, or not, by the gradient's norm that DeepSpeed itself has computed.

    The norm is known only inside `engine.step()`, between the exchange of gradients and torch's optimiser, which DeepSpeed calls once for each group of
    flat fp32 weights. A hook there sets `found_inf`, and torch's fused AdamW leaves weights, moments and step counts as they are; what DeepSpeed then does
    (bf16 weights from fp32 ones, gathering) changes nothing. A norm that is not finite DeepSpeed notices by itself, and never calls the optimiser.
    This holds for all three stages.
    """

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._engine = engine
        self._optimizer = optimizer
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self._norm_limit = float("inf")
        self._applied = torch.zeros((), device=device)
        optimizer.register_step_pre_hook(self._before_step)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Backward pass of a micro step; the `last` of a step ends the sum of gradients."""
        self._engine.set_gradient_accumulation_boundary(last)
        # a tensor of its own: DeepSpeed's hook on what the model returned divides by the number of micro steps, until the engine's own hook, set later on
        # the same tensor, says that the engine has seen to that (zero1 with bf16 only; gradients came out too small)
        self._engine.backward(loss.clone(), scale_wrt_gas=False)

    def update(self, bad: torch.Tensor, norm_limit: float) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Parallel.update`."""
        self._bad, self._norm_limit, self._applied = bad, norm_limit, torch.zeros_like(self._applied)
        self._engine.step()
        setattr(self._optimizer, "found_inf", None)  # noqa: B010 - torch's optimisers read the attribute and do not declare it
        return self._norm(), self._applied

    def _norm(self) -> torch.Tensor:
        return torch.as_tensor(self._engine.optimizer._global_grad_norm, dtype=torch.float32, device=self._bad.device).reshape(())

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        norm = self._norm()
        self._applied = (~self._bad & torch.isfinite(norm) & (norm <= self._norm_limit)).float()
        setattr(optimizer, "found_inf", 1 - self._applied)  # noqa: B010


def ranks_that_share(engine: Any) -> int:
    """Ranks over which the engine really splits the optimiser's state."""
    optimizer = engine.optimizer
    group = getattr(optimizer, "dp_process_group", None) or optimizer.real_dp_process_group[0]
    return dist.get_world_size(group)
