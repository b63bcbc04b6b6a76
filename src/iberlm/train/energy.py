"""Energy of one rank in watt-hours: measured by a counter where the machine has one, estimated otherwise, and labelled so.

Counters: NVML's total energy of a GPU (NVIDIA, from the Volta generation on; it counts inside the driver, so nothing is
sampled), read from the driver's own library; Linux's powercap files (RAPL) of the processor packages and their memory,
where they are readable. Neither counts the rest of the machine, nor its cooling.
"""

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from iberlm.core.process import WATTS_PER_CORE, Usage

JOULES_PER_WATT_HOUR = 3600.0
POWERCAP = Path("/sys/class/powercap")
TDP_WATTS: dict[str, float] = {
    "GH200": 700,
    "GB200": 1200,
    "B300": 1400,
    "B200": 1000,
    "H200 NVL": 600,
    "H200": 700,
    "H100 PCIe": 350,
    "H100 NVL": 400,
    "H100": 700,
    "H800": 700,
    "A100-PCIE": 250,
    "A100 80GB PCIe": 300,
    "A100": 400,
    "A40": 300,
    "L40S": 350,
    "L40": 300,
    "L4": 72,
    "V100": 300,
    "T4": 70,
    "MI355X": 1400,
    "MI325X": 1000,
    "MI300X": 750,
    "MI300A": 550,
    "MI250X": 280,
    "MI250": 280,
    "MI210": 300,
    "MI100": 300,
}
"""Board power by a part of the device's name, from the vendors' data sheets; the first that fits counts.

Of MI250 and MI250X half: one device is one of two dies."""

LIBRARY = "libnvidia-ml.so.1"
"""NVML, which comes with NVIDIA's driver."""


class _Source(Protocol):
    """Where energy is read."""

    method: str

    def joules(self) -> float:
        """Joules since this source was made."""
        ...


class EnergyMeter:
    """Watt-hours that this rank has used since the meter was made; summed over ranks they are those of the run.

    `method` says whether they are measured or estimated, and how. `device` is a torch.device.
    """

    def __init__(self, device: Any, *, powercap: Path = POWERCAP) -> None:
        self._source = _source(device, powercap)
        self._joules = 0.0

    @property
    def method(self) -> str:
        """ "measured: ..." or "estimated: ...", with what is counted and what is not."""
        return self._source.method

    def read(self) -> float:
        """Watt-hours so far; never less than before. A counter that stops answering keeps its last value.

        To be called every few minutes at least: the counters of processors wrap around after some ten minutes under full load.
        """
        with contextlib.suppress(OSError, ValueError):
            self._joules = max(self._joules, self._source.joules())
        return self._joules / JOULES_PER_WATT_HOUR


def _source(device: Any, powercap: Path) -> _Source:
    if device.type != "cuda":
        with contextlib.suppress(OSError, ValueError):
            return _Packages(powercap)
        return _CpuSeconds("")
    import torch

    name, reason = torch.cuda.get_device_name(device), "NVML is NVIDIA's"
    if torch.version.hip is None:
        try:
            return Nvml(str(torch.cuda.get_device_properties(device).uuid))
        except (OSError, AttributeError) as error:
            reason = str(error)
    watts = board_power(name)
    if watts is None:
        return _CpuSeconds(f"; {name} has no counter that can be read ({reason}) and no board power that is known, so its own energy is not in")
    return _BoardPower(name, watts, reason)


def board_power(name: str) -> float | None:
    """Watts of a device by its name, None when it is not in the table."""
    return next((watts for part, watts in TDP_WATTS.items() if re.search(rf"\b{part}\b", name)), None)


class Nvml:
    """The counter of an NVIDIA GPU: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded."""

    method = "measured: NVML energy counter, the GPU alone"

    def __init__(self, uuid: str) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._check(self._library.nvmlInit_v2())
        self._handle = ctypes.c_void_p()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._check(self._library.nvmlDeviceGetHandleByUUID(ctypes.c_char_p(name.encode()), ctypes.byref(self._handle)))
        self._begin = self._total()

    def _check(self, status: int) -> None:
        if status != 0:
            self._library.nvmlErrorString.restype = ctypes.c_char_p
            raise OSError(f"NVML: {self._library.nvmlErrorString(status).decode(errors='replace')}")

    def _total(self) -> float:
        total = ctypes.c_ulonglong()
        self._check(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(total)))
        return total.value / 1000

    def joules(self) -> float:
        return self._total() - self._begin


class _Packages:
    """Counters of processor packages and their memory, in microjoules: /sys/class/powercap/intel-rapl:N[:M]/energy_uj (AMD too)."""

    def __init__(self, folder: Path) -> None:
        zones = [path for path in sorted(folder.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+(:\d+)?", path.name)]
        # psys, core and uncore are other views of the same energy
        self._counters = [Counter.of(zone) for zone in zones if re.fullmatch(r"package-\d+(-die-\d+)?|dram", (zone / "name").read_text().strip())]
        if not any(counter.is_package for counter in self._counters):
            raise OSError(f"{folder}: no package counter")
        # every rank of the machine reads the same counters
        self._sharers = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        split = f", divided by its {self._sharers} ranks" if self._sharers > 1 else ""
        self.method = f"measured: RAPL counters of processors and memory, of all that runs on the machine{split}"

    def joules(self) -> float:
        return sum(counter.joules() for counter in self._counters) / self._sharers


class Counter:
    """A powercap counter that begins again at 0 after its range, `max_energy_range_uj`."""

    def __init__(self, read: Callable[[], int], span: int, is_package: bool) -> None:
        self._read, self._span, self.is_package = read, span, is_package
        self._last, self._sum = read(), 0

    @classmethod
    def of(cls, zone: Path) -> "Counter":
        """The counter of a zone; `OSError` where it may not be read (Linux gives it to root only)."""
        path = zone / "energy_uj"
        is_package = (zone / "name").read_text().startswith("package")
        return cls(lambda: int(path.read_text()), int((zone / "max_energy_range_uj").read_text()), is_package)

    def joules(self) -> float:
        """Joules since it was made; right if it has wrapped around at most once since the last call."""
        now = self._read()
        self._sum += now - self._last if now >= self._last else now - self._last + self._span
        self._last = now
        return self._sum / 1e6


class _CpuSeconds:
    """CPU seconds of this process and its ended children, at an assumed draw."""

    def __init__(self, remark: str) -> None:
        self.method = f"estimated: CPU seconds x {WATTS_PER_CORE:g} W a core{remark}"
        self._begin = Usage.now().cpu_seconds

    def joules(self) -> float:
        return (Usage.now().cpu_seconds - self._begin) * WATTS_PER_CORE


class _BoardPower:
    """The time that has passed, at the board power of the device."""

    def __init__(self, name: str, watts: float, reason: str) -> None:
        self.method = f"estimated: time x {watts:g} W, the board power of {name}, as if always under full load; its counter cannot be read ({reason})"
        self._watts, self._begin = watts, time.monotonic()

    def joules(self) -> float:
        return (time.monotonic() - self._begin) * self._watts
