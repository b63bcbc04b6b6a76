"""Computers that a run can be planned for: what is known of their devices, and the share of the peak that training is taken to reach.

Clusters are those of `slurm/cluster/` whose profile has a `device`; the table below has others. Each fact has its source; what was
not verified says so. Of the network only a bound is taken: a step cannot be quicker than what must come into each node at the node's
full bandwidth. What it costs beyond that is not modelled; shares of the peak that were measured on several nodes hold some of it.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.cluster import ClusterConfig, setting
from iberlm.core.errors import ConfigError
from iberlm.core.process import usable_cores
from iberlm.core.resources import resource_dir
from iberlm.train.flops import peak_tflops

GIB = 2**30
NOT_VERIFIED = "not verified"
DATA_SHEET = "data sheet"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices of one kind."""

    name: str
    device: str
    """As its driver names it; decides the peak when `peak_tflops` is 0."""
    memory_gib: float
    """Of one device, as a program sees it."""
    devices: int
    devices_a_node: int
    peak_tflops: float = 0.0
    """Dense bf16 peak of one device (fp32 for runs in fp32); 0: from the table of `flops`."""
    mfu: float = 0.0
    """Share of the peak that training reaches; 0: from the table below."""
    watts: float = 0.0
    """Of one device under load; 0: not known."""
    pue: float = 1.2
    """Energy of the building over energy of the machine."""
    network_gb_s: float = 0.0
    """What one node can take in from the others; 0: not known, and then the network sets no bound."""
    bandwidth_gb_s: float = 0.0
    """What a checkpoint is written at, by all nodes together; 0: not known."""
    sources: tuple[str, ...] = ()
    """Where the facts are from."""

    def __post_init__(self) -> None:
        for key in ("memory_gib", "devices", "devices_a_node"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"machine.{key}: {getattr(self, key):g}; it must be above 0")
        for key in ("peak_tflops", "watts", "network_gb_s", "bandwidth_gb_s"):
            if not getattr(self, key) >= 0:
                raise ConfigError(f"machine.{key}: {getattr(self, key):g}; it must be 0 or more")
        if not 0 <= self.mfu <= 1:
            raise ConfigError(f"machine.mfu: {self.mfu:g}; it is a share of the peak, from 0 to 1 (0: from the table)")
        if not self.pue >= 1:
            raise ConfigError(f"machine.pue: {self.pue:g}; it is at least 1")
        if self.devices > self.devices_a_node and self.devices % self.devices_a_node:
            below = self.devices // self.devices_a_node * self.devices_a_node
            raise ConfigError(
                f"machine.devices: {self.devices} fill no whole number of nodes of {self.devices_a_node}; nearest are {below} and {below + self.devices_a_node}"
            )

    @property
    def nodes(self) -> int:
        """Nodes that the devices fill."""
        return math.ceil(self.devices / self.devices_a_node)

    @property
    def family(self) -> str:
        """The kind of device for the table of shares; empty when it is not in it."""
        name = self.device.lower()
        return next((family for family, marks in _FAMILIES.items() if any(mark in name for mark in marks)), "")

    def peak(self, precision: str) -> tuple[float, str] | None:
        """Dense peak in TFLOP/s for a run in fp32 or bf16, and its source; None when it is not known. fp8 is stated against bf16."""
        if self.peak_tflops:
            return self.peak_tflops, "as given"
        return peak_tflops(self.device, "fp32" if precision == "fp32" else "bf16")


_FAMILIES = {"hopper": ("h100", "h200", "gh200"), "ampere": ("a100",), "cdna2": ("mi250",)}
_SHARES: dict[str, tuple[tuple[float, float], ...]] = {
    # (parameters up to, share of the bf16 peak)
    "hopper": ((0.5e9, 0.35), (1e9, 0.37), (math.inf, 0.42)),
    "ampere": ((0.2e9, 0.45), (0.5e9, 0.52), (1e9, 0.57), (20e9, 0.58), (math.inf, 0.53)),
    "cdna2": ((math.inf, 0.37),),
}
SHARE_SOURCES = {
    "hopper": "llm-foundry's table for the H100 (38% at 0.76B, 42% at 1.3B, 46% at 7B, 43% at 70B), torchtitan's 8B (39%); below 0.5B assumed",
    "ampere": "llm-foundry's table for the A100 (45% at 0.13B, 52% at 0.36B, 57% at 0.76B, 60% at 1.3B, 53% at 70B), torchtitan's 8B (58%)",
    "cdna2": "public logs of LUMI, about 70 TFLOP/s a die, for models of some billions; below assumed",
    "": "assumed: nothing measured is known for this device",
}
_UNKNOWN_SHARE = 0.35


def default_mfu(machine: Machine, parameters: int) -> tuple[float, str]:
    """Share of the bf16 peak that training reaches by size of model, and where that is from: whole frameworks on one to some dozens of nodes."""
    if machine.mfu:
        return machine.mfu, "as given"
    shares = _SHARES.get(machine.family, ((math.inf, _UNKNOWN_SHARE),))
    return next(share for limit, share in shares if parameters <= limit), SHARE_SOURCES[machine.family]


_TABLE = {
    machine.name: machine
    for machine in (
        Machine(
            name="alps",
            device="NVIDIA GH200",
            memory_gib=94.5,
            devices=4,
            devices_a_node=4,
            watts=680,
            pue=1.1,
            network_gb_s=100,
            sources=(
                f"network 100 GB/s a node (4 adapters of 200 Gbit/s): {NOT_VERIFIED}",
                "4 GPUs a node: public configuration files and user guide of the centre (CSCS)",
                f"96 GB, 680 W and PUE 1.1: {NOT_VERIFIED}",
            ),
        ),
        Machine(
            name="h100",
            device="NVIDIA H100 80GB HBM3",
            memory_gib=79.1,
            devices=8,
            devices_a_node=8,
            watts=700,
            network_gb_s=400,
            sources=(
                "network 400 GB/s a node (8 adapters of 400 Gbit/s), as in NVIDIA's DGX H100: assumed",
                f"NVIDIA H100 SXM {DATA_SHEET}; PUE 1.2 assumed",
            ),
        ),
        Machine(
            name="h200",
            device="NVIDIA H200",
            memory_gib=139.8,
            devices=8,
            devices_a_node=8,
            watts=700,
            network_gb_s=400,
            sources=(
                "network 400 GB/s a node (8 adapters of 400 Gbit/s), as in NVIDIA's DGX H200: assumed",
                f"NVIDIA H200 {DATA_SHEET}; PUE 1.2 assumed",
            ),
        ),
        Machine(
            name="a100",
            device="NVIDIA A100-SXM4-80GB",
            memory_gib=79.1,
            devices=8,
            devices_a_node=8,
            watts=400,
            network_gb_s=200,
            sources=(
                "network 200 GB/s a node (8 adapters of 200 Gbit/s), as in NVIDIA's DGX A100: assumed",
                f"NVIDIA A100 SXM {DATA_SHEET}; PUE 1.2 assumed",
            ),
        ),
    )
}
"""One node of each."""


class _Machines(Mapping[str, Machine]):
    """The clusters, then the table. Profiles are read at the first question: every rank imports this module for its units."""

    def __getitem__(self, name: str) -> Machine:
        return _machines()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_machines())

    def __len__(self) -> int:
        return len(_machines())


MACHINES = _Machines()
"""One node of each machine, by name. Raises `ConfigError` for a profile that cannot be read; `machine` changes what it is told."""
LOCAL = "local"


@cache
def _machines() -> dict[str, Machine]:
    folder = resource_dir("slurm") / "cluster"
    clusters = (_cluster(path) for path in sorted(folder.glob("*.yaml")))
    return {found.name: found for found in clusters if found is not None} | _TABLE


def _cluster(path: Path) -> Machine | None:
    """One node of a cluster; None where the profile says nothing of its devices."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        read = OmegaConf.merge(OmegaConf.structured(ClusterConfig), OmegaConf.load(path))
        cluster: ClusterConfig = OmegaConf.to_object(read)  # type: ignore[assignment]
    except (OmegaConfBaseException, OSError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    device = cluster.device
    if not device.name:
        return None
    return Machine(
        name=cluster.name,
        device=device.name,
        memory_gib=device.memory_gib,
        devices=cluster.gpus_per_node,
        devices_a_node=cluster.gpus_per_node,
        peak_tflops=device.peak_tflops,
        watts=device.watts,
        pue=device.pue,
        network_gb_s=device.network_gb_s,
        bandwidth_gb_s=device.bandwidth_gb_s,
        sources=tuple(_sources(cluster)),
    )


_FACTS = {
    "device.network_gb_s": "network {:g} GB/s a node",
    "gpus_per_node": "{} devices a node",
    "device.name": "{}",
    "device.memory_gib": "{:g} GiB a device",
    "device.peak_tflops": "peak {:g} TFLOP/s",
    "device.watts": "{:g} W a device",
    "device.pue": "PUE {:g}",
    "device.bandwidth_gb_s": "checkpoints at {:g} GB/s",
}
"""What a plan rests on, in the words of its notes."""


def _sources(cluster: ClusterConfig) -> Iterator[str]:
    for key, words in _FACTS.items():
        value = setting(cluster, key)
        if fact := cluster.facts.get(key):
            yield f"{words.format(value)}: {fact.source}{'' if fact.verified else f' ({NOT_VERIFIED})'}"
        elif value:
            yield f"{words.format(value)}: assumed"


def machine(name: str, **changes: Any) -> Machine:
    """A machine by name with some facts changed: `machine("marenostrum5_acc", devices=256)`; `local` is this computer's processors, one device.

    `ConfigError` names the choices.
    """
    if name != LOCAL and name not in MACHINES:
        raise ConfigError(f"machine: '{name}' is not known; choose among {', '.join(MACHINES)}, {LOCAL}, or give the facts of another to one of them")
    known = {field.name for field in dataclasses.fields(Machine)}
    if unknown := sorted(set(changes) - known):
        raise ConfigError(f"machine.{unknown[0]}: there is no such fact; choose among {', '.join(sorted(known - {'name', 'sources'}))}")
    base = _this_computer() if name == LOCAL else MACHINES[name]
    changes = {key: value for key, value in changes.items() if value is not None}
    if not changes:
        return base
    if name == LOCAL and "devices" in changes:  # ranks of one computer share its memory
        ranks = max(1, changes["devices"])
        base = dataclasses.replace(base, memory_gib=base.memory_gib / ranks, devices_a_node=ranks)
    return dataclasses.replace(base, **changes, sources=(*base.sources, f"as given: {', '.join(f'{key} {value}' for key, value in changes.items())}"))


def _this_computer() -> Machine:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Machine(
        name=LOCAL,
        device=f"CPU, {usable_cores()} cores",
        memory_gib=round(memory, 1),
        devices=1,
        devices_a_node=1,
        pue=1.0,
        sources=("memory and cores: the operating system's; a peak is not known for processors: give peak_tflops",),
    )
