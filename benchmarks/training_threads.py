"""What spinning threads cost on a CPU that others use too: forward and backward passes of `model=nano` under each setting.

    python benchmarks/training_threads.py [BUSY]

BUSY processes (2 by default) keep the cores busy meanwhile; 0 measures an idle machine.
"""

import os
import statistics
import subprocess
import sys

SETTINGS = {
    "two threads, OMP_WAIT_POLICY=ACTIVE": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "two threads, OpenMP's default": {"OMP_NUM_THREADS": "2"},
    "two threads, OMP_WAIT_POLICY=PASSIVE": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
RUNS = 3
STEP = """
import time, torch
from omegaconf import OmegaConf
from iberlm.core.resources import resource_dir
from iberlm.train.config import ModelConfig
from iberlm.train.model import build, materialise
recipe = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(resource_dir("recipes") / "model/nano.yaml"))
model = build(OmegaConf.to_object(recipe), 4096, bos=1, eos=2, pad=3)
materialise(model, torch.device("cpu"), 0)
ids = torch.randint(0, 4096, (8, 256))
def step():
    torch.nn.functional.cross_entropy(model(input_ids=ids).logits.view(-1, 4096), ids.view(-1)).backward()
step()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(3):
    step()
tokens = 3 * ids.numel()
print(tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu))
"""


def measure(setting: dict[str, str]) -> tuple[float, float]:
    """Tokens a second of the wall clock and a CPU second, in a fresh process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")} | setting
    printed = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True).stdout
    wall, cpu = map(float, printed.split()[-2:])
    return wall, cpu


if __name__ == "__main__":
    busy = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        print(f"{busy} busy processes beside it; medians of {RUNS}: tokens a second, tokens a CPU second")
        for name, setting in SETTINGS.items():
            found = [measure(setting) for _ in range(RUNS)]
            print(f"{name:<40} {statistics.median(wall for wall, _ in found):>8,.0f} {statistics.median(cpu for _, cpu in found):>8,.0f}")
    finally:
        for other in others:
            other.kill()
