"""Four real gloo ranks: copies of shards, shared matrices, shared sequences. And the arithmetic of how ranks are laid out."""

import sys
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.train.config import ModelConfig, OptimizerConfig, StrategyConfig
from iberlm.train.mesh import Layout, check_heads, check_strategy, local_world_size, plan_layout

from .conftest import tiny
from .strategy_ranks import Case, follows, leaves_out_exactly, train_cases, train_on_ranks

CASES = [
    Case("hsdp", {"name": "hsdp", "replicas": 2}, 4, micro_batch_size=1),
    Case("hsdp-split-early", {"name": "hsdp", "replicas": 2}, 4, micro_batch_size=1, faults=False, deferred=False),
    Case("tensor", {"name": "fsdp2", "tensor": 2}, 4),
    Case("context", {"name": "fsdp2", "context": 2}, 4),
    Case("hsdp-tensor", {"name": "hsdp", "replicas": 2, "tensor": 2}, 4, faults=False),
    # two heads of keys for four ranks: each has a copy of one
    Case("context-of-four", {"name": "fsdp2", "context": 4}, 4, micro_batch_size=4, faults=False),
    Case("tensor-and-context", {"name": "fsdp2", "tensor": 2, "context": 2}, 4, micro_batch_size=4, faults=False),
]
MESHES = {
    "hsdp": {"dp_replicate": 2, "dp_shard": 2},
    "hsdp-split-early": {"dp_replicate": 2, "dp_shard": 2},
    "tensor": {"dp_shard": 2, "tp": 2},
    "context": {"dp_shard": 2, "cp": 2},
    "hsdp-tensor": {"dp_replicate": 2, "dp_shard": 1, "tp": 2},
    "context-of-four": {"dp_shard": 1, "cp": 4},
    "tensor-and-context": {"dp_shard": 1, "cp": 2, "tp": 2},
}
RTOL = 1e-5
"""Of losses and norms against one process, all in fp32: sums in another order. Seen: 3e-7."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("four")
    alone = train_cases([Case("single", {"name": "single"}, 1), Case("unmasked", {"name": "single"}, 1, masking=False, faults=False)], folder)
    return alone | train_on_ranks(CASES, folder)


@pytest.mark.parametrize("label", MESHES)
def test_four_ranks_follow_the_loss_curve_of_one(label: str, found: dict[str, Any]) -> None:
    follows(found[label], found["single"]["straight"], rtol=RTOL)
    for rank in found[label]:
        assert rank["verified"]["mesh"] == MESHES[label]
        assert rank["verified"]["ranks"] == 4
        assert rank["verified"]["sharded_parameters"] == found["hsdp"][0]["verified"]["sharded_parameters"] > 0
    mesh = " x ".join(f"{name} {size}" for name, size in MESHES[label].items())
    name = "hsdp" if label.startswith("hsdp") else "fsdp2"
    assert found[label][0]["line"] == f"strategy {name}: 4 rank(s) on cpu (gloo), mesh {mesh}, FSDPTrainingModel, AdamW, fp32"


def test_the_curve_would_be_another_if_documents_were_not_kept_apart(found: dict[str, Any]) -> None:
    unmasked, masked = (found[label]["straight"]["losses"] for label in ("unmasked", "single"))
    assert min(abs(one / other - 1) for one, other in zip(unmasked, masked, strict=True)) > 10 * RTOL


@pytest.mark.parametrize("label", ["hsdp", "tensor", "context"])
def test_a_bad_step_is_left_out_exactly(label: str, found: dict[str, Any]) -> None:
    leaves_out_exactly(found[label])


def test_ranks_that_share_matrices_or_sequences_read_the_same_samples(found: dict[str, Any]) -> None:
    assert [rank["where"]["data_rank"] for rank in found["tensor"]] == [0, 0, 1, 1]
    assert [rank["where"]["data_rank"] for rank in found["context"]] == [0, 0, 1, 1]
    assert [rank["where"]["context_rank"] for rank in found["context"]] == [0, 1, 0, 1]
    assert [rank["where"]["context_rank"] for rank in found["tensor-and-context"]] == [0, 0, 1, 1]
    assert [rank["where"]["data_rank"] for rank in found["hsdp"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("strategy", "world", "local_world", "layout"),
    [
        (StrategyConfig(name="single"), 1, 1, Layout()),
        (StrategyConfig(name="ddp"), 8, 4, Layout(dp_replicate=8)),
        (StrategyConfig(name="zero3"), 8, 4, Layout(dp_shard=8)),
        (StrategyConfig(name="fsdp2"), 8, 4, Layout(dp_shard=8)),
        (StrategyConfig(name="fsdp2", tensor=4, context=2), 16, 4, Layout(dp_shard=2, cp=2, tp=4)),
        (StrategyConfig(name="hsdp"), 16, 4, Layout(dp_replicate=4, dp_shard=4)),
        (StrategyConfig(name="hsdp"), 4, 4, Layout(dp_replicate=1, dp_shard=4)),
        (StrategyConfig(name="hsdp"), 2, 4, Layout(dp_replicate=1, dp_shard=2)),
        (StrategyConfig(name="hsdp", replicas=2, tensor=4), 16, 4, Layout(dp_replicate=2, dp_shard=2, tp=4)),
    ],
)
def test_ranks_are_laid_out(strategy: StrategyConfig, world: int, local_world: int, layout: Layout) -> None:
    assert plan_layout(strategy, world, local_world) == layout
    assert layout.world == world
    seen = {(layout.data_rank(rank), layout.context_rank(rank), rank % layout.tp) for rank in range(world)}
    assert len(seen) == world
    assert {data for data, _, _ in seen} == set(range(layout.data_world))


def test_the_ranks_of_a_node_come_from_torch_or_slurm() -> None:
    assert local_world_size({"LOCAL_WORLD_SIZE": "4"}, 16) == 4
    assert local_world_size({"SLURM_PROCID": "3", "SLURM_NNODES": "4"}, 16) == 4
    assert local_world_size({}, 16) == 16


@pytest.mark.parametrize(
    ("strategy", "world", "message"),
    [
        (StrategyConfig(name="fsdp2", tensor=4), 6, r"6 ranks are not a multiple of tensor x context = 4 x 1; nearest are 4 and 8 ranks"),
        (StrategyConfig(name="fsdp2", tensor=2, context=2), 2, r"2 ranks are not a multiple of tensor x context = 2 x 2; nearest are 4 ranks"),
        (StrategyConfig(name="hsdp", replicas=3), 8, r"strategy.replicas: 3 does not divide the 8 groups .*nearest are 2 and 4"),
        (StrategyConfig(name="hsdp", tensor=4), 12, r"strategy.replicas: 2 \(0: one a node of 6 ranks\) does not divide the 3 groups .*nearest are 1 and 3"),
    ],
)
def test_ranks_that_do_not_divide_are_refused(strategy: StrategyConfig, world: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_layout(strategy, world, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor": 3}, r"strategy.tensor: 3 does not divide heads \(8\), kv_heads \(4\) and ffn_size \(96\) of the model; these do: 1, 2, 4"),
        ({"tensor": 8}, r"strategy.tensor: 8 does not divide"),
        ({"context": 3}, r"strategy.context: the 8 heads \(4 of keys and values\).* cannot be shared out over 3 ranks; these can: 1, 2, 4, 8"),
        ({"tensor": 4, "context": 4}, r"strategy.context: the 2 heads \(1 of keys and values\).* over 4 ranks; these can: 1, 2"),
    ],
)
def test_heads_that_cannot_be_shared_out_are_refused_with_what_can(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_heads(StrategyConfig(name="fsdp2", **settings), heads=8, kv_heads=4, ffn_size=96)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": StrategyConfig(name="zero2"), "optimizer": OptimizerConfig(kind="muon")}, r"optimizer.kind: muon with strategy=zero2"),
        ({"strategy": StrategyConfig(name="fsdp2", tensor=2), "precision": "fp8"}, r"precision: fp8 with strategy.tensor=2"),
        (
            {"strategy": StrategyConfig(name="fsdp2", context=4), "sequence_length": 30, "global_batch_tokens": 240},
            r"strategy.context: 4 does not divide sequence_length",
        ),
        (
            {"strategy": StrategyConfig(name="fsdp2", tensor=2), "model": ModelConfig(hidden_size=36, heads=3, kv_heads=3)},
            r"strategy.tensor: 2 does not divide heads",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_rank_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_strategy(tiny(**settings), 4, 4)


def test_a_missing_deepspeed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)  # where another test has imported it already
    with pytest.raises(ResourceError, match=r"strategy=zero3 needs DeepSpeed.*pip install deepspeed"):
        check_strategy(tiny(strategy=StrategyConfig(name="zero3")), 2, 2)
