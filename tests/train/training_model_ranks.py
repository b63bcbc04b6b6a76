"""Two ranks: the loss inside a sharded and a replicated model, and weights read into shards: `python -m tests.train.training_model_ranks FOLDER`."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from iberlm.core.ranks import rank_main
from iberlm.train.attention import VARLEN
from iberlm.train.config import ModelConfig
from iberlm.train.hardware import CHUNKED, PLAIN, Choices
from iberlm.train.model import materialise
from iberlm.train.training_model import TrainingModel, build_training_model, decoder_layers

from .conftest import VOCABULARY, tiny

CPU = torch.device("cpu")


def made(loss: str, tied: bool, folder: str = "", shard: bool = False, bf16: bool = False) -> TrainingModel:
    config = tiny(
        model=ModelConfig(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=64, initializer_range=0.2, tie_embeddings=tied), initial_model=folder
    )
    module = build_training_model(config, VOCABULARY, Choices("fp32", False, VARLEN, loss, ()), 2)
    if shard:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False) if bf16 else MixedPrecisionPolicy()
        for layer in decoder_layers(module.causal):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    materialise(module, CPU, 0, folder)
    return module


def batch(rank: int) -> tuple[torch.Tensor, ...]:
    tokens = torch.randint(0, VOCABULARY, (2, 33), generator=torch.Generator().manual_seed(rank))
    positions = torch.cat([torch.arange(13), torch.arange(19)]).expand(2, -1)
    return tokens[:, :-1], tokens[:, 1:], positions, torch.zeros(2, 32, dtype=torch.int64), torch.tensor(2 / 128)


def gradients(module: TrainingModel) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad.clone()
    return found


def expected(tied: bool) -> dict[str, torch.Tensor]:
    """The mean over the ranks of what each has alone, with all logits at once."""
    module = made(PLAIN, tied)
    for rank in range(2):
        (module(*batch(rank))[0] / 2).backward()
    return gradients(module)


def main(arguments: list[str]) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for tied in (False, True):
        wanted = expected(tied)
        for kind in ("ddp", "fsdp2", "fsdp2 bf16"):
            module = made(CHUNKED, tied, shard=kind != "ddp", bf16="bf16" in kind)
            model = DistributedDataParallel(module) if kind == "ddp" else module
            loss, sums = model(*batch(rank))
            loss.backward()
            assert loss.dtype == sums.dtype == torch.float32
            for name, gradient in gradients(module).items():
                if "bf16" in kind:
                    assert torch.nn.functional.cosine_similarity(gradient.flatten(), wanted[name].flatten(), dim=0) > 0.99, (kind, tied, name)
                else:
                    torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, at=(kind, tied, name): f"{at}: {text}")
            losses = model(*batch(rank)[:3], reduce=False)
            torch.testing.assert_close(losses.sum(), sums[0].sum(), rtol=1e-3, atol=0)
    module = made(PLAIN, True, arguments[0], shard=True)
    whole = made(PLAIN, True, arguments[0])
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, DTensor)
        assert parameter.to_local().numel() < parameter.numel()
        assert torch.equal(parameter.full_tensor(), whole.get_parameter(name))
    if rank == 0:
        (Path(arguments[0]) / "done").touch()


if __name__ == "__main__":
    rank_main(main)
