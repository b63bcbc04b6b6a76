"""`iberlm plan pretrain`: whether a run fits a machine, how long it takes and what it costs, before any device time is spent.

Memory is derived (`memory`), operations are counted (`flops`). Speed is the peak of the devices times a share of it that others have measured
(`machines`): it lies within a tenth of 18 published runs, most of which the shares are taken from, and a third above one more (SmolLM3, 14,000 tokens a second
on an H100). Time is that of steps alone, without validation, restarts or waiting in a queue; of the network only a bound is taken. Hours that are published
for whole projects are more: Llama 2's 7B took 1.3 times, Llama 3.1's 8B 2.5 times what is planned for it here. Energy is the devices' rated power over that
time: an estimate.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, IberlmError, ResourceError
from iberlm.core.needs import local_folder
from iberlm.train.config import PretrainConfig, accumulation_steps
from iberlm.train.config_groups import AUTO, CHECKPOINTED, FSDP2, HSDP, MUON, SHARDED_BY_TORCH, ZERO3, StrategyConfig
from iberlm.train.flops import Shape, flops_per_token, layer_matrices, parameters
from iberlm.train.machines import GIB, Machine, default_mfu
from iberlm.train.memory import Memory, Step, cross_entropy_kind, defers, estimate, into_a_node
from iberlm.train.mesh import Layout, check_heads, check_strategy, plan_layout

UINT16_VOCABULARY = 65_500
"""As in `core.token_store`: below, an id takes 2 bytes, else 4."""
RECOMPUTED_SHARE = 0.85
"""activation_checkpointing=full: MFU against none, for models up to 10 billion (llm-foundry, 7B: 54.8 to 58.0 against 64.2% on A100, 42.8 against 46.4% on
H100). Published figures for larger models have it in them."""
NOT_COMPILED_SHARE = 0.87
"""compile=off (torchtitan, 8B: 5,762 against 6,667 tokens a second)."""
FP8_GAINS = ((1e9, 1.05), (5e9, 1.20), (float("inf"), 1.25))
"""Speed of fp8 against bf16 by parameters (llm-foundry: +10 to +34% at 1.3B, +27% at 3B; torchtitan: +28% at 8B; less below)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast, and why that is believed."""

    peak_tflops: float
    peak_source: str
    mfu: float
    """Share of the bf16 (or fp32) peak; fp8 can lie above what bf16 could."""
    mfu_source: str
    tokens_per_second: float
    tokens_per_second_a_device: float
    step_seconds: float
    network_seconds: float
    """What the network needs for a step at least; a step cannot be quicker. 0: not known, or nothing crosses nodes."""
    days: float
    device_hours: float
    energy_kwh: float | None
    """Rated power x hours x PUE; None when the power is not known."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is planned, for JSON by `dataclasses.asdict`."""

    model: str
    parameters: int
    flops_per_token: int
    machine: Machine
    strategy: str
    layout: Layout
    micro_batch_size: int
    accumulation: int
    activation_checkpointing: str
    precision: str
    cross_entropy: str
    compiled: bool
    steps: int
    tokens: int
    memory: Memory
    available_bytes: int
    fits: bool
    alternatives: tuple[str, ...]
    """Settings that would fit, the smallest change first; empty when the plan fits, or nothing does."""
    speed: Speed | None
    """None when the peak is not known."""
    checkpoint_bytes: int
    """Of one checkpoint: fp32 weights and moments."""
    checkpoint_seconds: float | None
    checkpoints_bytes: int
    """Of all that the run keeps."""
    store_bytes: int
    """Of a token store that the run reads once."""
    remarks: tuple[str, ...]


def plan_pretrain(config: PretrainConfig, machine: Machine) -> Plan:
    """Plan a run on all devices of `machine`.

    Raises `ConfigError` for settings that no run would start with: a world that does not divide, heads that cannot be shared out, a model folder that cannot
    be read. What does not fit is no error here: see `fits` and `check`.
    """
    shape = shape_of(config)
    layout, step = _step(config, machine, shape)
    memory = estimate(shape, step)
    fits = memory.total <= machine.memory_gib * GIB
    size, moments = parameters(shape), 8 * parameters(shape)
    if config.optimizer.kind == MUON:
        moments -= 4 * shape.layers * layer_matrices(shape)
    checkpoint = 4 * size + moments
    tokens = config.total_steps * config.global_batch_tokens
    return Plan(
        model=config.initial_model or config.model.name or "model",
        parameters=size,
        flops_per_token=flops_per_token(shape, config.sequence_length),
        machine=machine,
        strategy=config.strategy.name,
        layout=layout,
        micro_batch_size=config.micro_batch_size,
        accumulation=step.accumulation,
        activation_checkpointing=config.activation_checkpointing,
        precision=step.precision,
        cross_entropy=cross_entropy_kind(step.cross_entropy, step.strategy, step.tokens, shape.vocabulary_size),
        compiled=step.compiled,
        steps=config.total_steps,
        tokens=tokens,
        memory=memory,
        available_bytes=round(machine.memory_gib * GIB),
        fits=fits,
        alternatives=() if fits else _alternatives(config, machine, shape),
        speed=_speed(config, machine, shape, step),
        checkpoint_bytes=checkpoint,
        checkpoint_seconds=checkpoint / (machine.bandwidth_gb_s * 1e9) if machine.bandwidth_gb_s else None,
        checkpoints_bytes=checkpoint * _kept(config),
        store_bytes=tokens * (2 if shape.vocabulary_size < UINT16_VOCABULARY else 4),
        remarks=_remarks(config, machine, step),
    )


def check(plan: Plan) -> None:
    """Raise `ResourceError` (exit status 6) for a plan that does not fit, with the nearest settings that do."""
    if plan.fits:
        return
    mend = f"these fit: {'; '.join(plan.alternatives)}" if plan.alternatives else "nothing that was tried fits; choose a smaller model or another machine"
    raise ResourceError(
        f"plan: {plan.model} with strategy={plan.strategy} needs {plan.memory.total / GIB:,.1f} GiB a device and "
        f"{plan.machine.device} has {plan.available_bytes / GIB:,.1f}; {mend}"
    )


def shape_of(config: PretrainConfig) -> Shape:
    """The shape of the model that a run would train, at the recipe's nominal vocabulary."""
    if not config.initial_model:
        return Shape.of(config.model)
    path = local_folder(config.initial_model, config.cluster) / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"initial_model: {path} cannot be read ({error.strerror}); give the folder of a Hugging Face causal model") from error
    except ValueError as error:
        raise CorruptError(f"initial_model: {path} is not JSON ({error}); fetch it again") from error
    if not isinstance(settings, dict):
        raise CorruptError(f"initial_model: {path} is not a JSON object; fetch it again")
    return Shape.of_huggingface(settings)


def _step(config: PretrainConfig, machine: Machine, shape: Shape) -> tuple[Layout, Step]:
    """The layout of the ranks and what memory depends on, after every check that a run would make."""
    world, local = machine.devices, min(machine.devices, machine.devices_a_node)
    try:
        layout = check_strategy(config, world, local)
    except ResourceError:  # DeepSpeed is not installed where the plan is made, which says nothing about the machine
        if config.optimizer.kind == MUON:
            raise
        layout = plan_layout(config.strategy, world, local)
    check_heads(config.strategy, heads=shape.heads, kv_heads=shape.kv_heads, ffn_size=shape.ffn_size)
    precision = config.precision if config.precision != AUTO else "bf16" if machine.family or machine.peak("bf16") else "fp32"
    return layout, Step(
        strategy=config.strategy.name,
        layout=layout,
        micro_batch_size=config.micro_batch_size,
        sequence_length=config.sequence_length,
        accumulation=accumulation_steps(config, world),
        deferred=defers(shape, layout.tp, machine.memory_gib * GIB),
        activation_checkpointing=config.activation_checkpointing,
        cross_entropy=config.objective.cross_entropy,
        optimizer=config.optimizer.kind,
        precision=precision,
        compiled=config.compile != "off" and config.strategy.name != ZERO3,
    )


def _speed(config: PretrainConfig, machine: Machine, shape: Shape, step: Step) -> Speed | None:
    peak = machine.peak(step.precision)
    if peak is None:
        return None
    size = parameters(shape)
    share, source = default_mfu(machine, size)
    if not machine.mfu:
        if step.activation_checkpointing == "full" and size <= 10e9:
            share, source = share * RECOMPUTED_SHARE, f"{source}; x {RECOMPUTED_SHARE} for recomputation"
        if not step.compiled:
            share, source = share * NOT_COMPILED_SHARE, f"{source}; x {NOT_COMPILED_SHARE} without compilation"
        if step.precision == "fp8":
            gain = next(gain for limit, gain in FP8_GAINS if size <= limit)
            share, source = share * gain, f"{source}; x {gain:g} for fp8"
    operations = flops_per_token(shape, config.sequence_length) * config.global_batch_tokens / machine.devices
    seconds = operations / (share * peak[0] * 1e12)
    network = into_a_node(shape, step, machine.devices_a_node) / (machine.network_gb_s * 1e9) if machine.network_gb_s else 0.0
    if network > seconds:
        source = f"the network's bound, {machine.network_gb_s:g} GB/s a node; without it {share:.0%}: {source}"
        seconds, share = network, share * seconds / network
    own = config.global_batch_tokens / seconds / machine.devices
    hours = seconds * config.total_steps / 3600
    return Speed(
        peak_tflops=peak[0],
        peak_source=peak[1],
        mfu=share,
        mfu_source=source,
        tokens_per_second=own * machine.devices,
        tokens_per_second_a_device=own,
        step_seconds=seconds,
        network_seconds=network,
        days=hours / 24,
        device_hours=hours * machine.devices,
        energy_kwh=hours * machine.devices * machine.watts / 1000 * machine.pue if machine.watts else None,
    )


def _kept(config: PretrainConfig) -> int:
    """Checkpoints on the disk at the end, the one that is being written included."""
    settings = config.checkpoint
    for_good = config.total_steps // settings.keep_every_steps if settings.keep_every_steps else 0
    return settings.keep_last + settings.keep_best + for_good + 1


def _remarks(config: PretrainConfig, machine: Machine, step: Step) -> tuple[str, ...]:
    remarks = [f"the vocabulary is the recipe's nominal {config.model.vocabulary_size:,}: the tokenizer decides"] if not config.initial_model else []
    remarks.append("of the network only a bound is taken: what must come into a node, at its full bandwidth and hidden behind computing")
    if machine.devices > machine.devices_a_node and step.layout.tp > machine.devices_a_node:
        remarks.append(f"tensor parallelism over {step.layout.tp} devices leaves the node of {machine.devices_a_node}: expect much less speed")
    if config.precision == AUTO:
        remarks.append(f"precision auto was taken as {step.precision}")
    if not machine.family:
        remarks.append("memory was derived for GPUs; on other devices it is a rough guide")
    return tuple(remarks)


def _alternatives(config: PretrainConfig, machine: Machine, shape: Shape, most: int = 3) -> tuple[str, ...]:
    """Settings that fit, the smallest change first: at most `most`; on more devices when these are too few."""
    for factor in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        larger = machine if factor == 1 else _more(machine, factor)
        found: list[tuple[int, int, list[str], str]] = []
        for cost, changes, changed in _variants(config, larger):
            try:
                _, step = _step(changed, larger, shape)
            except IberlmError:  # no run would start so
                continue
            memory = estimate(shape, step)
            if memory.total <= larger.memory_gib * GIB:
                speed = _speed(changed, larger, shape, step)
                found.append((cost, memory.total, changes, "" if speed is None else f" ({speed.days:,.1f} days)"))
        if found:
            kept: list[tuple[list[str], str]] = []
            for _, _, changes, days in sorted(found):
                # what does with less is already there
                if not any(set(_keys(smaller)) <= set(_keys(changes)) for smaller, _ in kept):
                    kept.append((changes, days))
            devices = [f"--devices {larger.devices}"] if factor > 1 else []
            return tuple(" ".join([*devices, *changes]) + days for changes, days in kept[:most])
    return ()


def _keys(changes: list[str]) -> list[str]:
    return [change.partition("=")[0] for change in changes]


def _more(machine: Machine, factor: int) -> Machine:
    nodes = -(-machine.devices // machine.devices_a_node) * factor
    return dataclasses.replace(machine, devices=nodes * machine.devices_a_node)


def _variants(config: PretrainConfig, machine: Machine) -> Iterator[tuple[int, list[str], PretrainConfig]]:
    """What could be set instead: how large a change it is, the overrides, and the settings."""
    micro = [config.micro_batch_size >> halvings for halvings in range(config.micro_batch_size.bit_length())]
    stronger = CHECKPOINTED[CHECKPOINTED.index(config.activation_checkpointing) :]
    names = [config.strategy.name]
    if machine.devices > 1 and config.strategy.name != FSDP2:
        names.append(FSDP2)
    tensors = [config.strategy.tensor]
    while tensors[-1] * 2 <= machine.devices_a_node:
        tensors.append(tensors[-1] * 2)
    choices = itertools.product(enumerate(micro), enumerate(stronger), enumerate(names), enumerate(tensors))
    for (halvings, size), (level, kind), (other, name), (doublings, tensor) in choices:
        if tensor > 1 and name not in SHARDED_BY_TORCH:
            continue
        changes: dict[str, Any] = {}
        if halvings:
            changes["micro_batch_size"] = size
        if level:
            changes["activation_checkpointing"] = kind
        if other:
            changes["strategy"] = name
        if doublings:
            changes["strategy.tensor"] = tensor
        replicas = config.strategy.replicas if name == HSDP else 0
        try:
            strategy = StrategyConfig(name=name, replicas=replicas, tensor=tensor, context=config.strategy.context)
            changed = dataclasses.replace(config, micro_batch_size=size, activation_checkpointing=kind, strategy=strategy)
        except ConfigError:
            continue
        yield halvings + level + 2 * other + 2 * doublings, [f"{key}={value}" for key, value in changes.items()], changed


def lines(plan: Plan) -> list[str]:
    """The plan for people."""
    memory, layout, speed = plan.memory, plan.layout, plan.speed
    mesh = " x ".join(f"{size} {name}" for name, size in dataclasses.asdict(layout).items() if size > 1) or "1 rank"
    parts = ("parameters", "gradients", "moments", "copies", "activations", "logits", "overhead")
    text = [
        f"model          {plan.model}: {plan.parameters:,} parameters, {plan.flops_per_token / 1e9:,.4g} GFLOP a token (6 a weight, and attention as in PaLM)",
        f"machine        {plan.machine.name}: {plan.machine.devices} x {plan.machine.device}, {plan.machine.nodes} node(s)",
        f"strategy       {plan.strategy}: {mesh}; micro batch {plan.micro_batch_size}, {plan.accumulation} micro step(s) a step",
        f"choices        {plan.precision}, activation checkpointing {plan.activation_checkpointing}, cross-entropy {plan.cross_entropy}, "
        f"{'compiled' if plan.compiled else 'not compiled'}",
        "memory (GiB)   " + ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in parts),
        f"               {memory.total / GIB:.1f} of {plan.available_bytes / GIB:.1f} a device at the worst moment ({memory.worst}): "
        + ("fits" if plan.fits else "does NOT fit"),
    ]
    if plan.alternatives:
        text.append(f"               these fit: {'; '.join(plan.alternatives)}")
    if speed is None:
        text.append(f"speed          not known: no peak is stated for {plan.machine.device}; give peak_tflops and mfu")
    else:
        text += [
            f"speed          {speed.tokens_per_second_a_device:,.0f} tokens/s a device, {speed.tokens_per_second:,.0f} in all; "
            f"{speed.step_seconds:.2f} s a step",
            f"               = {speed.mfu:.0%} of {speed.peak_tflops:,.0f} TFLOP/s. Share: {speed.mfu_source}. Peak: {speed.peak_source}",
            f"network        {speed.network_seconds:.2f} s a step at least, of {speed.step_seconds:.2f}"
            if speed.network_seconds
            else "network        sets no bound: it is not known, or nothing crosses nodes",
            f"time           {plan.steps:,} steps, {plan.tokens / 1e9:,.1f} billion tokens: {speed.days:,.1f} days, "
            f"{speed.device_hours:,.0f} device hours, of steps alone",
            "energy         not known: the device's power is not"
            if speed.energy_kwh is None
            else f"energy         {speed.energy_kwh:,.0f} kWh, estimated: {plan.machine.watts:g} W a device x hours x PUE {plan.machine.pue:g}",
        ]
    seconds = "" if plan.checkpoint_seconds is None else f", {plan.checkpoint_seconds:,.0f} s to write at {plan.machine.bandwidth_gb_s:g} GB/s"
    text.append(f"checkpoint     {plan.checkpoint_bytes / 1e9:,.1f} GB{seconds}; {plan.checkpoints_bytes / 1e9:,.0f} GB for all that are kept")
    text.append(f"token store    {plan.store_bytes / 1e9:,.1f} GB if every token is read once")
    return text + [f"note           {remark}" for remark in (*plan.remarks, *plan.machine.sources)]
