"""Does the width rule carry a learning rate from a small model to a wider one? Small Llamas on bytes of real text, on one core.

    python benchmarks/width.py FOLDER [--out RUNS.jsonl] [--steps 300] [--seeds 0] [--rates 5e-4 1e-3 ...]

FOLDER holds `documents.LANGUAGE.jsonl.zst` ("text" in each line) of Spanish, Catalan, Valencian, Basque and Galician; each gives as many bytes. Tokens are
bytes, so no tokenizer comes in. Two layers, heads of 32 dimensions, the width grows by heads. The rate is constant after a warm-up of a tenth of the steps
and falls to 0 over the last half. No window is read twice. What is compared is the mean loss in nats a byte on 128 windows of documents that are not trained
on. With the rule, the smallest width is `optimizer.reference_hidden_size`: there both are the same run.

Each run is one line of RUNS.jsonl; those already in it are not made again. The table comes at the end. About 20 minutes of one core.
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from iberlm.core.languages import LANGUAGES
from iberlm.train.config import ModelConfig, OptimizerConfig
from iberlm.train.model import llama_config
from iberlm.train.optimizer import build_optimizers, initial_std

WIDTHS = (64, 128, 256)
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
BATCH, LENGTH, HEAD, HELD_OUT = 16, 128, 32, 128
VOCABULARY = 256


def read_bytes(folder: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows for training and for measuring, uint8[n, LENGTH + 1]: `size` bytes, and `HELD_OUT` windows from the documents after them."""
    train, held = [], []
    each, kept = -(-size // len(LANGUAGES)), -(-HELD_OUT // len(LANGUAGES)) * (LENGTH + 1)
    for tag in LANGUAGES:
        path, text = folder / f"documents.{tag}.jsonl.zst", bytearray()
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            documents = (json.loads(line)["text"].encode() + b"\n\n" for line in io.TextIOWrapper(stream, encoding="utf-8"))
            for document in documents:
                if len(text) >= each:
                    break
                text += document
            train.append(np.frombuffer(bytes(text[:each]), np.uint8))
            rest = bytearray()
            for document in documents:
                rest += document
                if len(rest) >= kept:
                    break
        if len(train[-1]) < each or len(rest) < kept:
            raise SystemExit(f"{path}: too little text: {each + kept} bytes are needed; lower --steps")
        held.append(np.frombuffer(bytes(rest[:kept]), np.uint8))
    windows = [np.concatenate([part[: len(part) // (LENGTH + 1) * (LENGTH + 1)] for part in parts]).reshape(-1, LENGTH + 1) for parts in (train, held)]
    return torch.from_numpy(windows[0]), torch.from_numpy(windows[1][:HELD_OUT])


def make(width: int, reference: int, seed: int) -> LlamaForCausalLM:
    """A Llama with the initial weights of the recipe, or of the rule where `reference` is not 0."""
    shape = ModelConfig(hidden_size=width, layers=2, heads=width // HEAD, kv_heads=width // HEAD, ffn_size=width * 11 // 4, max_position_embeddings=LENGTH)
    model = LlamaForCausalLM(llama_config(shape, VOCABULARY))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, initial_std(name, shape.initializer_range, width, reference), generator=generator)
    return model


def run(train: torch.Tensor, held: torch.Tensor, *, width: int, rate: float, reference: int, kind: str, steps: int, seed: int) -> dict[str, Any]:
    """Train one model; what it was and the loss it ended with."""
    model = make(width, reference, seed)
    optimizers = build_optimizers(model, OptimizerConfig(kind=kind, learning_rate=rate, reference_hidden_size=reference), width)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: steps * BATCH].view(steps, BATCH)
    started, warm = time.process_time(), max(1, steps // 10)
    for step in range(steps):
        now = rate * min((step + 1) / warm, 1.0, 2 * (steps - step) / steps)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = now * group["rate_ratio"]
        loss = losses(model, train[order[step]])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        final = float(losses(model, held))
    return {
        "width": width,
        "rate": rate,
        "rule": bool(reference),
        "optimizer": kind,
        "steps": steps,
        "seed": seed,
        "loss": round(final, 4),
        "training_loss": round(float(loss.detach()), 4),
        "parameters": model.num_parameters(),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def losses(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats a byte."""
    ids = windows.long()
    return cross_entropy(model(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1), ids[:, 1:].flatten())


def table(lines: list[dict[str, Any]]) -> None:
    """Loss by width and rate, as Markdown; the least of each row is marked. Several seeds: their mean."""
    rates = sorted({line["rate"] for line in lines})
    for kind in dict.fromkeys(line["optimizer"] for line in lines):
        print(f"\n| {kind} | " + " | ".join(f"{rate:g}" for rate in rates) + " |\n|---|" + "---|" * len(rates))
        for rule in (False, True):
            for width in WIDTHS:
                alike = [line for line in lines if line["optimizer"] == kind and line["width"] == width and line["rule"] == (rule and width != WIDTHS[0])]
                found = {rate: [line["loss"] for line in alike if line["rate"] == rate] for rate in rates}
                means = {rate: sum(values) / len(values) for rate, values in found.items() if values}
                cells = [("**{:.3f}**" if means[rate] == min(means.values()) else "{:.3f}").format(means[rate]) if rate in means else "" for rate in rates]
                print(f"| {width}, {'with' if rule else 'without'} the rule | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("width.jsonl"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_bytes(options.folder, (options.steps + 1) * BATCH * (LENGTH + 1))
    keys = ("width", "rate", "rule", "optimizer", "steps", "seed")
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    for seed in options.seeds:
        for width in WIDTHS:
            for rule in (False, True) if width != WIDTHS[0] else (False,):
                for rate in options.rates:
                    if (width, rate, rule, options.optimizer, options.steps, seed) in [tuple(line[key] for key in keys) for line in done]:
                        continue
                    reference = WIDTHS[0] if rule else 0
                    line = run(train, held, width=width, rate=rate, reference=reference, kind=options.optimizer, steps=options.steps, seed=seed)
                    done.append(line)
                    with options.out.open("a") as stream:
                        stream.write(json.dumps(line) + "\n")
    table([line for line in done if line["steps"] == options.steps])
