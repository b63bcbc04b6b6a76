"""Energy is measured where a counter can be read, estimated otherwise, and says which."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from iberlm.core.process import WATTS_PER_CORE, Usage
from iberlm.train import energy
from iberlm.train.energy import EnergyMeter

CPU = torch.device("cpu")


def zone(folder: Path, name: str, kind: str, microjoules: int, span: int = 262_143_328_850) -> Path:
    """A powercap zone as Linux shows it."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "name").write_text(f"{kind}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{span}\n")
    return path / "energy_uj"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.usefixtures("alone")
def test_packages_and_their_memory_are_added_and_other_views_of_the_same_are_not(tmp_path: Path) -> None:
    counters = [zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000), zone(tmp_path, "intel-rapl:1", "package-1", 20_000_000)]
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 5_000_000)
    others = [zone(tmp_path, "intel-rapl:0:0", "core", 0), zone(tmp_path, "intel-rapl:2", "psys", 0), zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)]
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert meter.method == "measured: RAPL counters of processors and memory, of all that runs on the machine"
    assert meter.read() == 0
    counters[0].write_text("3610000000")  # 3,600 J
    memory.write_text("1805000000")  # 1,800 J
    for path in others:
        path.write_text("999999999999")
    assert meter.read() == pytest.approx(1.5)
    counters[1].write_text("3620000000")
    assert meter.read() == pytest.approx(2.5)


@pytest.mark.usefixtures("alone")
def test_a_counter_that_begins_again_is_followed(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", 900, span=1000)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    found = []
    for value in (950, 100, 90, 999):  # 50; then 900 -> 1000 -> 100: 150; then nearly a whole round: 990; then 909
        path.write_text(str(value))
        found.append(round(meter.read() * 3600 * 1e6))
    assert found == [50, 200, 1190, 2099]


def test_ranks_of_a_machine_share_its_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    path = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    path.write_text("3600000000")
    assert meter.read() == pytest.approx(0.25)
    assert meter.method.endswith("divided by its 4 ranks")


@pytest.mark.usefixtures("alone")
def test_a_counter_that_stops_answering_keeps_its_last_value(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(CPU, powercap=tmp_path)
    path.write_text("7200000000")
    assert meter.read() == pytest.approx(2.0)
    path.unlink()
    assert meter.read() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["nothing", "unreadable", "odd"])
def test_without_a_counter_it_is_an_estimate_from_cpu_seconds(kind: str, tmp_path: Path) -> None:
    if kind != "nothing":
        path = zone(tmp_path, "intel-rapl:0", "package-0", 0)
        path.write_text("?")
        if kind == "unreadable":
            path.unlink()
    before = Usage.now().cpu_seconds
    meter = EnergyMeter(CPU, powercap=tmp_path)
    assert meter.method == "estimated: CPU seconds x 12 W a core"
    begun = Usage.now().cpu_seconds
    while Usage.now().cpu_seconds < begun + 0.05:
        pass
    joules = meter.read() * 3600
    assert 0.05 * WATTS_PER_CORE <= joules <= (Usage.now().cpu_seconds - before) * WATTS_PER_CORE


def test_this_machine_has_a_label_one_way_or_the_other() -> None:
    meter = EnergyMeter(CPU)
    assert meter.method.startswith(("measured: ", "estimated: "))
    first, second = meter.read(), meter.read()
    assert 0 <= first <= second


def test_board_powers_are_found_by_the_part_that_tells_most() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 700,
        "NVIDIA H100 PCIe": 350,
        "NVIDIA H200": 700,
        "NVIDIA GH200 480GB": 700,
        "NVIDIA A100-SXM4-40GB": 400,
        "NVIDIA A100-PCIE-40GB": 250,
        "NVIDIA A100 80GB PCIe": 300,
        "NVIDIA L4": 72,
        "NVIDIA L40S": 350,
        "AMD Instinct MI250X": 280,
    }
    assert {name: energy.board_power(name) for name in names} == names
    assert energy.board_power("NVIDIA RTX A4000") is None  # no A40


NVML = """
#include <string.h>
static unsigned long long millijoules = 5000;
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int status) { return status == 3 ? "Not Supported" : "Unknown Error"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)uuid;
    return strncmp(uuid, "GPU-", 4) ? 2 : 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    if (device == 0) return 2;
    *energy = millijoules;
    millijoules += 7200000;
    return UNSUPPORTED;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("unsupported", [0, 3])
def test_the_drivers_library_is_called_by_its_c_interface(unsupported: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a library with the signatures of NVML's documentation, whose device draws 7,200 J between two questions."""
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvml.so"
    subprocess.run(["cc", "-shared", "-fPIC", f"-DUNSUPPORTED={unsupported}", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    monkeypatch.setattr(energy, "LIBRARY", str(library))
    if unsupported:
        with pytest.raises(OSError, match="NVML: Not Supported"):
            energy.Nvml("11111111-2222-3333-4444-555555555555")
    else:
        source = energy.Nvml("11111111-2222-3333-4444-555555555555")
        assert [source.joules(), source.joules()] == [7200.0, 14400.0]
        assert source.method.startswith("measured: ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the counters of GPUs are not tried")
def test_a_gpu_counts_what_it_does() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    meter = EnergyMeter(device)
    factor = torch.ones(4096, 4096, device=device)
    for _ in range(200):
        factor @ factor
    torch.cuda.synchronize()
    used = meter.read()
    assert used > 0, (meter.method, os.environ.get("CUDA_VISIBLE_DEVICES"))
