"""Groups and rates of the optimisers; Muon is torch's on whole tensors and the same on sharded ones; a step that must not count changes nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from iberlm.core.errors import ConfigError
from iberlm.train.config import ModelConfig, OptimizerConfig
from iberlm.train.model import llama_config
from iberlm.train.optimizer import Muon, build_optimizers, initial_std, orthogonalise, rate_ratio

RANKS = 4


def llama(**settings: Any) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 48, "max_position_embeddings": 32, "initializer_range": 0.1}
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(ModelConfig(**(shape | settings)), 40))


def groups_by_name(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, tuple[str, float, float, float]]:
    """Optimiser, decay, ratio and rate of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (type(optimizer).__name__, group["weight_decay"], group["rate_ratio"], group["lr"])
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def backward(model: nn.Module, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, 40, (4, 17), generator=torch.Generator().manual_seed(seed))
    loss = cross_entropy(model(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return loss.detach()


def test_decay_spares_norms_and_embeddings() -> None:
    model = llama()
    optimizers = build_optimizers(model, OptimizerConfig(learning_rate=1e-3), 32)
    found = groups_by_name(model, optimizers)
    assert set(found) == {name for name, _ in model.named_parameters()}
    spared = {name for name, (_, decay, _, _) in found.items() if decay == 0}
    assert spared == {name for name, parameter in model.named_parameters() if parameter.dim() == 1 or "embed_tokens" in name}
    assert found["lm_head.weight"] == ("AdamW", 0.1, 1.0, 1e-3)
    assert len(optimizers[0].param_groups) == 2
    assert all(group["fused"] for group in optimizers[0].param_groups)


def test_tied_and_frozen_parameters() -> None:
    model = llama(tie_embeddings=True)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    found = groups_by_name(model, build_optimizers(model, OptimizerConfig(), 32))
    assert found["model.embed_tokens.weight"][1] == 0
    assert "model.layers.0.mlp.up_proj.weight" not in found


@pytest.mark.parametrize(("kind", "ratio"), [("adamw", 0.25), ("muon", 0.5)])
def test_the_width_rule_slows_the_matrices_of_the_layers_and_keeps_their_decay(kind: str, ratio: float) -> None:
    model = llama()
    config = OptimizerConfig(kind=kind, learning_rate=1e-3, weight_decay=0.1, reference_hidden_size=8)
    assert rate_ratio(config, 32) == ratio
    for name, (optimizer, decay, found, rate) in groups_by_name(model, build_optimizers(model, config, 32)).items():
        matrix = ".layers." in name and "norm" not in name
        assert optimizer == ("Muon" if matrix and kind == "muon" else "AdamW")
        assert (found, rate) == pytest.approx((ratio, 1e-3 * ratio) if matrix else (1, 1e-3))
        if matrix:
            assert decay * rate == pytest.approx(0.1 * 1e-3)


def test_the_width_rule_begins_smaller_in_wider_layers() -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    assert initial_std(name, 0.02, 1024, 0) == 0.02
    assert initial_std(name, 0.02, 1024, 256) == pytest.approx(0.01)
    assert initial_std("causal." + name, 0.02, 1024, 256) == pytest.approx(0.01)
    assert initial_std("layers.3.mlp.up_proj.weight", 0.02, 1024, 256) == pytest.approx(0.01)
    assert initial_std("model.embed_tokens.weight", 0.02, 1024, 256) == initial_std("lm_head.weight", 0.02, 1024, 256) == 0.02


def test_muon_without_matrices_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"muon needs matrices .*choose adamw"):
        build_optimizers(nn.Linear(4, 4), OptimizerConfig(kind="muon"), 4)


def test_an_orthogonalised_matrix_is_nearly_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((16, 40), (40, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(3, rows, columns, generator=generator).bfloat16()).float())
        assert (values > 0.5).all()
        assert (values < 1.3).all()
    assert not orthogonalise(torch.zeros(1, 4, 6).bfloat16()).any()


def test_muon_is_that_of_torch_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    first = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((6, 10), (10, 6), (6, 10), (8, 8), (6, 10))]
    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    third = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    ours = Muon([{"params": first, "weight_decay": 0.1}], lr=1e-2, momentum=0.9)
    flagged = Muon([{"params": third, "weight_decay": 0.1}], lr=1e-2, momentum=0.9)
    torchs = torch.optim.Muon(second, lr=1e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    flagged.found_inf = torch.zeros(())
    for _ in range(4):
        for parameters in zip(first, second, third, strict=True):
            gradient = torch.randn(parameters[0].shape, generator=generator)
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for optimizer in (ours, torchs, flagged):
            optimizer.step()
    for one, two, three in zip(first, second, third, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
        assert torch.equal(ours.state[one]["momentum_buffer"], torchs.state[two]["momentum_buffer"])
        assert torch.equal(ours.state[one]["momentum_buffer"], flagged.state[three]["momentum_buffer"])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_that_must_not_count_changes_nothing(kind: str) -> None:
    model = llama()
    optimizers = build_optimizers(model, OptimizerConfig(kind=kind, learning_rate=1e-2), 32)
    backward(model)
    for optimizer in optimizers:
        optimizer.step()
    weights, states = copy.deepcopy(model.state_dict()), [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(float("nan"))
    for optimizer in optimizers:
        optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.found_inf = None  # type: ignore[attr-defined]
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    for optimizer, state in zip(optimizers, states, strict=True):
        for key, values in optimizer.state_dict()["state"].items():
            assert all(torch.equal(values[name], state["state"][key][name]) for name in values)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_learns(kind: str) -> None:
    model = llama()
    optimizers = build_optimizers(model, OptimizerConfig(kind=kind, learning_rate=1e-2), 32)
    losses = []
    for _ in range(40):
        losses.append(float(backward(model)))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.4 * losses[0]


def test_sharded_parameters_are_updated_as_whole_ones(tmp_path: Path) -> None:
    """On 4 gloo ranks: fully_shard with rows that do not divide, with copies (hsdp), and after tensor parallelism."""
    torch.multiprocessing.spawn(_on_a_rank, (str(tmp_path / "store"),), nprocs=RANKS)


def _on_a_rank(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    try:
        for layout in ("shard", "replicas", "tensor"):
            for kind in ("muon", "adamw"):
                _compare(layout, kind)
    finally:
        dist.destroy_process_group()


class Blocks(nn.Module):
    """Three equal layers, whose matrices are more than the ranks, with 10 rows for 4 ranks; one bias, one norm."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, inner), nn.Linear(inner, 8, bias=False), nn.RMSNorm(8)) for _ in range(3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            values = values + layer(values)
        return values


def _compare(layout: str, kind: str) -> None:
    torch.manual_seed(1)
    plain = Blocks(8 if layout == "tensor" else 10)
    sharded = copy.deepcopy(plain)
    names = {"shard": ("dp_shard",), "replicas": ("dp_replicate", "dp_shard"), "tensor": ("dp_shard", "tp")}[layout]
    mesh = init_device_mesh("cpu", (RANKS,) if layout == "shard" else (2, 2), mesh_dim_names=names)
    data = mesh
    if layout == "tensor":
        data = mesh["dp_shard"]
        parallelize_module(sharded, mesh["tp"], {"layers.*.0": ColwiseParallel(), "layers.*.1": RowwiseParallel()})
    for layer in sharded.layers:
        fully_shard(layer, mesh=data)
    fully_shard(sharded, mesh=data)
    config = OptimizerConfig(kind=kind, learning_rate=1e-2, weight_decay=0.1, reference_hidden_size=4)
    pairs = [(model, build_optimizers(model, config, 8)) for model in (plain, sharded)]
    for step in range(4):
        values = torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        for model, optimizers in pairs:
            model(values).square().mean().backward()
            for optimizer in optimizers:
                optimizer.found_inf = torch.tensor(float(step == 2))  # type: ignore[attr-defined]
                optimizer.step()
                optimizer.zero_grad()
    for (name, whole), parts in zip(plain.named_parameters(), sharded.parameters(), strict=True):
        assert isinstance(parts, DTensor)
        # the gradients differ in rounding, and bf16 products may carry it on
        torch.testing.assert_close(
            parts.full_tensor(), whole, rtol=1e-4, atol=1e-4 if kind == "muon" else 1e-6, msg=lambda text, name=name: f"{layout} {name}: {text}"
        )
