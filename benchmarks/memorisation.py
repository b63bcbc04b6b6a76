"""What does the goldfish loss keep a model from learning by heart, and what does it cost? Small Llamas on real text with planted canaries, on one core.

    python benchmarks/memorisation.py FOLDER [--out RUNS.jsonl] [--steps 400] [--seeds 0 1 2] [--k 0 4 8] [--context 13]

FOLDER holds `documents.LANGUAGE.jsonl.zst` ("text" in each line) of Spanish, Catalan, Valencian, Basque and Galician; each gives as many tokens of a
byte-level BPE vocabulary of 2,048, learnt from the same text. No window is read twice, but the canaries come 1 to 128 times. Text, canaries, their places and
the initial weights are the same for all k of a seed. Canaries and the goldfish mask are those of `iberlm.train`, the test is `Canaries.extract`.

Each run is one line of RUNS.jsonl; those already in it are not made again. The tables come at the end. About 12 minutes of one core.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from iberlm.core.languages import LANGUAGES
from iberlm.train.canaries import Canaries
from iberlm.train.config import ModelConfig
from iberlm.train.config_groups import CanariesConfig, OptimizerConfig
from iberlm.train.goldfish import drop_mask
from iberlm.train.model import llama_config
from iberlm.train.optimizer import build_optimizers

BATCH, LENGTH, HELD_OUT = 16, 128, 256
VOCABULARY, BOS = 2_048, 0
LEARNING_RATE = 4e-3
SHAPE = ModelConfig(hidden_size=128, layers=3, heads=4, kv_heads=4, ffn_size=352, max_position_embeddings=LENGTH, tie_embeddings=True)
CANARIES = CanariesConfig(canaries_each=8, prefix_tokens=32, suffix_tokens=32)
I64 = npt.NDArray[np.int64]


def documents(folder: Path, tag: str) -> Iterator[str]:
    with (folder / f"documents.{tag}.jsonl.zst").open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)["text"]


def learn_vocabulary(folder: Path) -> Tokenizer:
    """Byte-level BPE on a megabyte of each language. Id 0 begins documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)

    def texts() -> Iterator[str]:
        for tag in LANGUAGES:
            size = 0
            for text in documents(folder, tag):
                yield text
                size += len(text)
                if size > 1_000_000:
                    break

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def read_windows(folder: Path, tokenizer: Tokenizer, count: int) -> tuple[I64, I64]:
    """Windows for training and for measuring, int64[count and HELD_OUT, LENGTH + 1]; those for measuring are of other documents."""
    train, held = [], []
    for tag in LANGUAGES:
        texts = documents(folder, tag)
        for parts, windows in ((train, count), (held, HELD_OUT)):
            ids: list[int] = []
            needed = -(-windows // len(LANGUAGES)) * (LENGTH + 1)
            for text in texts:
                ids += [BOS, *tokenizer.encode(text).ids]
                if len(ids) >= needed:
                    break
            else:
                raise SystemExit(f"{folder}: too little text in {tag}: {needed} more tokens are needed; lower --steps")
            parts.append(np.asarray(ids[:needed], dtype=np.int64).reshape(-1, LENGTH + 1))
    mixed = np.random.default_rng(0).permutation(np.concatenate(train))
    return mixed[:count], np.concatenate(held)[:HELD_OUT]


def run(train: I64, held: I64, *, k: int, context: int, steps: int, seed: int) -> dict[str, Any]:
    """Train one model and ask it for its canaries; k of 0 is the plain loss."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(SHAPE, VOCABULARY, bos=BOS))
    optimizers = build_optimizers(model, OptimizerConfig(learning_rate=LEARNING_RATE), SHAPE.hidden_size)
    canaries = Canaries(CANARIES, seed=seed, vocabulary_size=VOCABULARY, special_ids=[BOS], samples=steps * BATCH, sequence_length=LENGTH)
    order = np.random.default_rng(seed).permutation(len(train))[: steps * BATCH]
    started, warm, dropped = time.process_time(), steps // 20, 0
    for step in range(steps):
        numbers = np.arange(step * BATCH, (step + 1) * BATCH)
        rows = train[order[numbers]]
        canaries.plant(numbers, rows)
        targets = rows[:, 1:].copy()
        if k:
            left_out = drop_mask(rows, k, context, bos=BOS)
            targets[left_out] = -100
            dropped += int(left_out.sum())
        rate = LEARNING_RATE * min((step + 1) / warm, 1.0, 2 * (steps - step) / steps)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        losses(model, torch.from_numpy(rows), torch.from_numpy(targets)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        validation = float(losses(model, torch.from_numpy(held), torch.from_numpy(held[:, 1:])))
    return {
        "k": k,
        "context": context,
        "steps": steps,
        "seed": seed,
        "validation_loss": round(validation, 4),
        "left_out": round(dropped / (steps * BATCH * LENGTH), 5),
        "parameters": model.num_parameters(),
        "planted_share": round(canaries.planted_tokens / (steps * BATCH * LENGTH), 4),
        "cpu_seconds": round(time.process_time() - started, 1),
        "results": canaries.extract(model, torch.device("cpu"))["results"],
    }


def losses(model: LlamaForCausalLM, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the targets that count, in nats a token."""
    return cross_entropy(model(input_ids=rows[:, :-1], use_cache=False).logits.flatten(0, 1), targets.flatten())


def tables(lines: list[dict[str, Any]]) -> None:
    """Means over seeds by k and repetitions, and the validation loss beside that of the plain loss with the same seed."""
    kinds = sorted({(line["k"], line["context"]) for line in lines})
    repetitions = [result["repetitions"] for result in lines[0]["results"]]
    for title, key, digits in (
        ("Whole suffix repeated (share)", "exact", 2),
        ("Longest common run (tokens)", "longest_common_tokens", 1),
        ("Right next token (share)", "right_tokens", 2),
        ("Loss of a suffix token (nats)", "loss", 2),
        ("Exposure (bits)", "exposure_bits", 1),
    ):
        print(f"\n| {title} | " + " | ".join(str(number) for number in repetitions) + " |\n|---|" + "---|" * len(repetitions))
        for k, context in kinds:
            found = [[result[key] for result in line["results"]] for line in lines if (line["k"], line["context"]) == (k, context)]
            cells = [f"{np.mean(values):.{digits}f}" if None not in values else "" for values in zip(*found, strict=True)]
            print(f"| {f'k = {k}, context {context}' if k else 'plain loss'} | " + " | ".join(cells) + " |")
    plain = {line["seed"]: line["validation_loss"] for line in lines if not line["k"]}
    print("\n| | validation loss | against the plain loss of the same seed | targets left out |\n|---|---|---|---|")
    for k, context in kinds:
        alike = [line for line in lines if (line["k"], line["context"]) == (k, context)]
        apart = [line["validation_loss"] - plain[line["seed"]] for line in alike if line["seed"] in plain]
        loss, left_out = (np.mean([line[key] for line in alike]) for key in ("validation_loss", "left_out"))
        shown = f"{np.mean(apart):+.4f} ({min(apart):+.4f} to {max(apart):+.4f})" if k and apart else ""
        print(f"| {f'k = {k}, context {context}' if k else 'plain loss'} | {loss:.4f} | {shown} | {100 * left_out:.2f} % |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("memorisation.jsonl"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--k", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--context", type=int, default=13)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held = read_windows(options.folder, learn_vocabulary(options.folder), options.steps * BATCH)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    for seed in options.seeds:
        for k in options.k:
            wanted = {"k": k, "context": options.context if k else 0, "steps": options.steps, "seed": seed}
            if any(wanted.items() <= line.items() for line in done):
                continue
            line = run(train, held, **wanted)
            done.append(line)
            with options.out.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
    tables([line for line in done if line["steps"] == options.steps])
