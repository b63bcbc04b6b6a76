"""How the ranks are laid out: which of them hold copies, shards, parts of a sequence, parts of a matrix. Pure arithmetic, no torch.

The dimensions have accelerate's names, outermost first: `dp_replicate` (copies of the model), `dp_shard` (shards of it; each has samples of its own), `cp`
(parts of the same sequences, context parallelism), `tp` (parts of the same matrices, tensor parallelism). Neighbouring ranks, which share a node, are
neighbours in the last dimensions: those talk most.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.train.config import PretrainConfig, check_world
from iberlm.train.config_groups import DDP, DEEPSPEED, HSDP, MUON, SINGLE, StrategyConfig

DP_REPLICATE, DP_SHARD, CP, TP = "dp_replicate", "dp_shard", "cp", "tp"
DP_SHARD_CP = "dp_shard_cp"
"""Parameters are sharded over the ranks of a sequence too: they hold the same ones, and their gradients are averaged alike."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh; their product is the number of ranks."""

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.data_world * self.cp * self.tp

    @property
    def data_world(self) -> int:
        """Groups of ranks with samples of their own."""
        return self.dp_replicate * self.dp_shard

    def data_rank(self, rank: int) -> int:
        """Which of the `data_world` shares of a step a rank reads."""
        return rank // (self.cp * self.tp)

    def context_rank(self, rank: int) -> int:
        """Which part of each sequence a rank has."""
        return rank // self.tp % self.cp

    def sizes(self, name: str) -> dict[str, int]:
        """The dimensions that the strategy `name` has, by name, outermost first."""
        always = {SINGLE: (), DDP: (DP_REPLICATE,), HSDP: (DP_REPLICATE, DP_SHARD)}.get(name, (DP_SHARD,))
        sizes = {DP_REPLICATE: self.dp_replicate, DP_SHARD: self.dp_shard, CP: self.cp, TP: self.tp}
        return {key: size for key, size in sizes.items() if key in always or size > 1}


def plan_layout(strategy: StrategyConfig, world: int, local_world: int) -> Layout:
    """Lay out `world` ranks, `local_world` of them on each node.

    Raises `ConfigError` when they are not a multiple of tensor x context, or hsdp's replicas do not divide what is left.
    """
    groups = strategy.tensor * strategy.context
    if world % groups:
        raise ConfigError(
            f"strategy: {world} ranks are not a multiple of tensor x context = {strategy.tensor} x {strategy.context}; nearest are "
            f"{' and '.join(str(ranks) for ranks in dict.fromkeys((max(world // groups, 1) * groups, -(-world // groups) * groups)))} ranks"
        )
    data = world // groups
    if strategy.name in (SINGLE, DDP):
        return Layout(dp_replicate=data)
    if strategy.name != HSDP:
        return Layout(dp_shard=data, cp=strategy.context, tp=strategy.tensor)
    replicas = strategy.replicas or max(1, world // local_world)
    if data % replicas:
        fits = sorted((divisor for divisor in range(1, data + 1) if data % divisor == 0), key=lambda divisor: abs(divisor - replicas))
        origin = "" if strategy.replicas else f" (0: one a node of {local_world} ranks)"
        raise ConfigError(
            f"strategy.replicas: {replicas}{origin} does not divide the {data} groups of ranks that have samples of their own; "
            f"nearest are {' and '.join(str(divisor) for divisor in sorted(fits[:2]))}"
        )
    return Layout(replicas, data // replicas, strategy.context, strategy.tensor)


def local_world_size(environment: Mapping[str, str], world: int) -> int:
    """Ranks on this node: torch's LOCAL_WORLD_SIZE, else from Slurm's tasks and nodes, else all of them."""
    if "LOCAL_WORLD_SIZE" in environment:
        return max(1, int(environment["LOCAL_WORLD_SIZE"]))
    nodes = int(environment.get("SLURM_NNODES", "1")) if "SLURM_PROCID" in environment else 1
    return max(1, world // nodes)


def check_heads(strategy: StrategyConfig, *, heads: int, kv_heads: int, ffn_size: int) -> None:
    """Raise `ConfigError` when a model's heads or feed-forward width cannot be shared out over `strategy.tensor` and `strategy.context`."""
    tensor, context = strategy.tensor, strategy.context
    common = math.gcd(heads, kv_heads, ffn_size)
    if common % tensor:
        raise ConfigError(
            f"strategy.tensor: {tensor} does not divide heads ({heads}), kv_heads ({kv_heads}) and ffn_size ({ffn_size}) of the model; "
            f"these do: {_divisors(common)}"
        )
    heads, kv_heads = heads // tensor, kv_heads // tensor
    if heads % context or (kv_heads % context and context % kv_heads):
        fits = [size for size in range(1, heads + 1) if heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)]
        raise ConfigError(
            f"strategy.context: the {heads} heads ({kv_heads} of keys and values) that a rank has of each layer cannot be shared out over {context} ranks; "
            f"these can: {', '.join(str(size) for size in fits)}"
        )


def check_strategy(config: PretrainConfig, world: int, local_world: int) -> Layout:
    """Everything about a strategy that can be known before a rank is started; returns the layout.

    Raises `ConfigError` or, when the library of a strategy is not installed, `ResourceError`.
    """
    strategy = config.strategy
    check_world(strategy, world)
    layout = plan_layout(strategy, world, local_world)
    if strategy.name in DEEPSPEED:
        if importlib.util.find_spec("deepspeed") is None:
            raise ResourceError(
                f"strategy={strategy.name} needs DeepSpeed, which is not installed here: pip install deepspeed, or choose fsdp2, which needs nothing"
            )
        if config.optimizer.kind == MUON:
            raise ConfigError(
                f"optimizer.kind: muon with strategy={strategy.name}: DeepSpeed cuts matrices into flat pieces and Muon needs them whole; "
                f"choose strategy=fsdp2 or ddp, or optimizer.kind=adamw"
            )
    if config.precision == "fp8" and strategy.tensor > 1:
        raise ConfigError(f"precision: fp8 with strategy.tensor={strategy.tensor} is not built; choose precision=bf16, or strategy.tensor=1 with fsdp2 or hsdp")
    if config.sequence_length % strategy.context:
        raise ConfigError(f"strategy.context: {strategy.context} does not divide sequence_length ({config.sequence_length}); choose one that does")
    if not config.initial_model:  # else the model's own configuration decides, when it has been read
        check_heads(strategy, heads=config.model.heads, kv_heads=config.model.kv_heads, ffn_size=config.model.ffn_size)
    return layout


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
