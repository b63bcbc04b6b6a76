"""Speed of pretraining on one GPU: ours beside transformers.Trainer and a bare compiled Llama.

    python benchmarks/pretrain_gpu.py [--only 1.3B] [--lengths 2048] [--sides ours bare] [--minutes 9] [--smoke]

The shapes of recipes/model (125M, 350M, 1.3B) at 2,048 and 8,192 tokens, about 131,072 tokens a step, micro batches as large as fit (32, 16, 8 ... are
tried). Needs this repository, torch, transformers and accelerate, and fetches nothing; `PYTHONPATH=src` will do. Each cell is a process of its own, and they
are done in order of importance until the time is used up: what was not reached is said. Without a GPU it says so and ends; `--smoke` runs all of the same
code on a CPU with a tiny shape.

- ours: this project's loop (`iberlm.train.loop.train`) with its data thread, checks and metrics, one rank; `ours, masked` with documents masked from
  each other; `ours fp8` with torchao.
- parts: our model and optimiser in a bare loop. What `ours` takes longer is what the loop costs.
- bare: transformers' Llama, layers compiled, autocast, fused AdamW, the loss over whole logits.
- Trainer: transformers.Trainer with bf16, torch_compile, SDPA.

torchtitan is no side: the Llama of 0.3.0 has no SDPA any more and runs on GPUs only, through some twenty packages that the machines meant here do not have.

Tokens a second: the median step by the device's own clock. MFU: `iberlm.train.flops` says the formula and the peak. With OUT set, each cell is also a line of
$OUT/pretrain_gpu.jsonl.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

SHAPES = {"125M": "llama_125m", "350M": "llama_350m", "1.3B": "llama_1b"}
SIDES = ("ours", "parts", "bare", "trainer", "ours masked", "ours fp8")
NAMES = {"ours masked": "ours, masked", "trainer": "Trainer, bf16, torch_compile", "parts": "our model, bare loop", "bare": "bare, compiled by layer"}
LENGTHS = (2_048, 8_192)
MICRO_BATCHES = (32, 16, 8, 4, 2, 1)
GLOBAL_BATCH_TOKENS = 131_072
STEPS, WARM_UP = 8, 3
VOCABULARY = 32_000


def cells(given: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be measured, the goals first: 1.3B and 350M at 2,048 tokens."""
    order = sorted(((shape, length) for shape in given.only for length in given.lengths), key=lambda pair: (pair[1], -list(SHAPES).index(pair[0])))
    return [{"model": shape, "length": length, "side": side} for shape, length in order for side in SIDES if side in given.sides]


def smoke_cells(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The same sides on a tiny shape."""
    return [{"model": "tiny", "length": 64, "side": side} for side in SIDES if side in given.sides]


def shape_of(name: str, length: int) -> dict[str, Any]:
    """The settings of `ModelConfig` behind a name, with positions up to the length at least."""
    if name == "tiny":
        settings: dict[str, Any] = {"name": "tiny", "vocabulary_size": 512, "hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 128}
    else:
        path = Path(__file__).parents[1] / "recipes" / "model" / f"{SHAPES[name]}.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) | {"vocabulary_size": VOCABULARY}
    return settings | {"max_position_embeddings": max(length, settings.get("max_position_embeddings", 0))}


def measure(cell: dict[str, Any], settings: dict[str, Any], processes: Any, folder: Path, seconds: float) -> dict[str, Any]:
    """Run one cell in a process of its own; {"failed": why} when it does not come back with a result."""
    from pretrain_gpu_cells import run_cell

    result, log = folder / "result.json", folder / "log"
    for path in (result, log):
        path.unlink(missing_ok=True)
    job = cell | settings | {"shape": shape_of(cell["model"], cell["length"]), "result": str(result), "log": str(log), "folder": str(folder)}
    process = processes.Process(target=run_cell, args=(job,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return {"failed": f"not done after {seconds:.0f} s"}
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    return {"failed": f"status {process.exitcode}: {lines[-1] if lines else 'nothing was printed'}"}


def show(found: list[dict[str, Any]]) -> None:
    """Print the table; a line under each cell's size compares the loop with the bare ones."""
    print("\n| model | tokens | side | micro batch | tokens/s | MFU | peak GiB | start s | note |\n|---|---|---|---|---|---|---|---|---|")
    for line in found:
        name = NAMES.get(line["side"], line["side"])
        if "failed" in line:
            print(f"| {line['model']} | {line['length']} | {name} | | | | | | not measured: {line['failed']} |")
            continue
        mfu = f"{100 * line['mfu']:.1f}%" if line["mfu"] else ""
        numbers = f"{line['micro_batch_size']} | {line['tokens_per_second']:,.0f} | {mfu} | {line['memory_bytes'] / 2**30:.1f} | {line['start_seconds']:.0f}"
        print(f"| {line['model']} | {line['length']} | {name} | {numbers} | {line.get('note', '')} |")
    speeds = {(line["model"], line["length"], line["side"]): line["tokens_per_second"] for line in found if "failed" not in line}
    print()
    for model, length, side in speeds:
        if side == "ours":
            others = {other: speeds[model, length, side] / speeds[model, length, other] - 1 for other in SIDES[1:] if (model, length, other) in speeds}
            print(f"{model} at {length}: ours is " + ", ".join(f"{100 * share:+.1f}% against {NAMES.get(other, other)}" for other, share in others.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--micro", type=int, help="this micro batch and no other")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--smoke", action="store_true", help="on the CPU, tiny")
    given = parser.parse_args()
    began = time.monotonic()
    import torch

    if not given.smoke and not torch.cuda.is_available():
        print("pretrain_gpu: no GPU here, nothing measured; --smoke runs the same code on the CPU")
        return
    # each cell's process is a fork of one that has imported everything and touched no device; that one finds modules by PYTHONPATH alone
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pretrain_gpu_cells"])
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="iberlm-gpu-") as temporary:
        folder = Path(temporary)
        from pretrain_gpu_cells import about
        from pretrain_inputs import make_inputs

        print(about(smoke=given.smoke), flush=True)
        make_inputs(folder, 512 if given.smoke else VOCABULARY, 60_000 if given.smoke else 3_000_000)
        settings = {
            "cuda": not given.smoke,
            "global_batch_tokens": 1_024 if given.smoke else GLOBAL_BATCH_TOKENS,
            "micro_batches": [given.micro] if given.micro else [4, 2, 1] if given.smoke else list(MICRO_BATCHES),
            "steps": STEPS,
            "warm_up": WARM_UP,
        }
        fits: dict[tuple[str, int], int] = {}
        for cell in smoke_cells(given) if given.smoke else cells(given):
            left, size = 60 * given.minutes - (time.monotonic() - began), fits.get((cell["model"], cell["length"]))
            # what did not fit for one side is not tried for the next: twice as much as fitted is
            tried = [micro for micro in settings["micro_batches"] if not size or micro <= 2 * size]
            line = cell | (measure(cell, settings | {"micro_batches": tried}, processes, folder, left) if left > 20 else {"failed": "no time was left"})
            found.append(line)
            if "failed" not in line:
                fits.setdefault((cell["model"], cell["length"]), line["micro_batch_size"])
            print(json.dumps(line), file=sys.stderr, flush=True)
            if "OUT" in os.environ:
                with (Path(os.environ["OUT"]) / "pretrain_gpu.jsonl").open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
    show(found)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
