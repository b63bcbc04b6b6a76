"""Does pretraining survive `kill -9` of a rank? Kills a random rank at random moments, gives the same command again, compares with an undisturbed run.

    python benchmarks/pretrain_kills.py [--kills 50] [--seed 0] [--only single ddp fsdp2 elastic]

`iberlm pretrain` trains a tiny model for 60 steps, a checkpoint every 2, written while training goes on; on one rank, and on two with ddp and fsdp2. Every
start is a process of its own and ends in a kill until enough have landed. A kill waits for a step, for a checkpoint that is being written, or only for a
moment. Then:

- on the same ranks: every line of metrics.jsonl, those of steps that were lost and done again included, must have the loss and the gradient norm of the
  undisturbed run to the last bit, and so must the weights that come out;
- blocks of samples must be 0, 1, 2 ... in the end, each once: none lost, none repeated;
- elastic: after kills on two ranks the run goes on with one and then with three, under another strategy: the same blocks, losses within 0.1%.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dedup import machine
from pretrain_inputs import MODEL_TINY, make_inputs

from iberlm.core.files import sha256_file

STEPS = 60
TOLERANCE = 1e-3
"""Of a loss on another number of ranks: sums are then taken in another order."""
SETTINGS = [
    *(f"model.{key}={getattr(MODEL_TINY, key)}" for key in ("hidden_size", "layers", "heads", "kv_heads", "ffn_size", "max_position_embeddings")),
    f"steps={STEPS}",
    "sequence_length=64",
    "global_batch_tokens=1536",
    "micro_batch_size=2",
    "schedule.warmup_steps=5",
    "checkpoint.every_steps=2",
    "checkpoint.asynchronous=true",
    "checkpoint.keep_last=3",
    "tracker=none",
    "max_new_tokens=2",
]
WORLDS = {"single": ("single", 1), "ddp": ("ddp", 2), "fsdp2": ("fsdp2", 2)}
SHARES = {"single": 0.5, "ddp": 0.2, "fsdp2": 0.2, "elastic": 0.1}
"""Of the kills: two ranks take twice as long to start."""
AGES = (("ddp", 2), ("single", 1), ("fsdp2", 3))
"""Strategies and ranks of the elastic run, one after the other."""


@dataclass
class Tally:
    """What is counted over all runs."""

    landed: Counter[str] = field(default_factory=Counter)
    ranks: Counter[int] = field(default_factory=Counter)
    lines: int = 0
    """Steps whose numbers were compared, those done again included."""
    repeated: int = 0
    """Steps that were done again after a kill."""
    runs: int = 0
    differences: list[str] = field(default_factory=list)


class Run:
    """A run folder and the command that works in it."""

    def __init__(self, folder: Path, inputs: Path, strategy: str, ranks: int) -> None:
        self.folder, self.inputs, self.strategy, self.ranks = folder, inputs, strategy, ranks
        self.log = folder.with_suffix(".log")

    def start(self) -> "subprocess.Popen[bytes]":
        """The command, in a process group of its own."""
        places = [f"run_dir={self.folder}", f"tokens={self.inputs / 'tokenize'}", f"tokenizer_folder={self.inputs / 'train_tokenizer'}"]
        command = [sys.executable, "-m", "iberlm", "pretrain", *places, f"strategy={self.strategy}", f"cluster.processes={self.ranks}", *SETTINGS]
        with self.log.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def lines(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says; a last line that a kill cut short is left out."""
        path = self.folder / "pretrain" / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.folder / "pretrain" / "checkpoints").glob(".step-*"))

    def fail(self, what: str) -> None:
        """End the benchmark with the log."""
        raise SystemExit(f"{what}:\n{self.log.read_text(errors='replace')}")


def numbers(line: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same to the last bit."""
    return line["block"], line["loss"], line["grad_norm"], line["applied"], sorted(line["losses"].items()), line["lr"]


def whole(run: Run) -> tuple[list[dict[str, Any]], str]:
    """An undisturbed run: its lines and the checksum of its weights."""
    if run.start().wait():
        run.fail("the undisturbed run fails")
    return run.lines(), sha256_file(run.folder / "pretrain" / "model" / "model.safetensors")


def ranks_of(process: "subprocess.Popen[bytes]", ranks: int) -> dict[int, int]:
    """Process ids by rank; those that have been started."""
    if ranks == 1:
        return {0: process.pid}
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid:
                variables = dict(entry.partition("=")[::2] for entry in (status.parent / "environ").read_text().split("\0"))
                found[int(variables["RANK"])] = int(status.parent.name)
        except (OSError, KeyError, ValueError):  # it has just ended, or not begun
            continue
    return found


def kill_at_random(run: Run, process: "subprocess.Popen[bytes]", generator: random.Random, tally: Tally, seconds: float) -> bool:
    """Wait for a random moment and kill a random rank; False when the run ended before. `seconds`: how long a start may take."""
    before = len(run.lines())
    moment, began = generator.choices(("step", "checkpoint", "clock"), (5, 3, 2))[0], time.monotonic()
    target, delay = before + generator.randint(1, 6), generator.uniform(0, seconds if moment == "clock" else 0.1)
    while process.poll() is None:
        now = time.monotonic() - began
        if moment == "clock" and now > delay:
            break
        if moment != "clock" and len(run.lines()) >= target and (moment == "step" or run.writing()):
            time.sleep(delay if moment == "step" else delay / 10)
            break
        time.sleep(0.002 if moment == "checkpoint" else 0.01)
    victims = ranks_of(process, run.ranks)
    if process.poll() is not None or not victims:
        process.wait()
        return False
    rank = generator.choice(sorted(victims))
    try:
        os.kill(victims[rank], signal.SIGKILL)
    except ProcessLookupError:
        return process.wait() != 0
    if process.wait() == 0:  # the rank had done its work
        return False
    fresh = run.lines()[before:]
    place = "while a checkpoint was written" if run.writing() else f"in steps {10 * (len(run.lines()) // 10)} to {10 * (len(run.lines()) // 10) + 9}"
    tally.landed[place if fresh or run.writing() else "at the start"] += 1
    tally.ranks[rank] += 1
    return True


def compare(run: Run, reference: list[dict[str, Any]], tally: Tally, where: str) -> None:
    """Compare what the run has written so far with the undisturbed run, to the last bit."""
    for line in run.lines():
        tally.lines += 1
        if numbers(line) != numbers(reference[line["step"] - 1]):
            tally.differences.append(f"{where}: step {line['step']}: {numbers(line)} where the undisturbed run has {numbers(reference[line['step'] - 1])}")


def blocks_once(run: Run, tally: Tally, where: str) -> None:
    """Check that every block of samples was read once, in order."""
    found = [(line["step"], line["block"]) for line in run.lines()]
    if found != [(step + 1, step) for step in range(STEPS)]:
        tally.differences.append(f"{where}: steps and blocks are {found}")


def until_done(run: Run, kills: int, reference: list[dict[str, Any]], generator: random.Random, tally: Tally, seconds: float) -> None:
    """Start and kill, again and again; after `kills` kills the run is left alone."""
    goal = tally.landed.total() + kills
    while True:
        done = max((line["step"] for line in run.lines()), default=0)
        process = run.start()
        if tally.landed.total() >= goal:
            process.wait()
        elif kill_at_random(run, process, generator, tally, seconds):
            compare(run, reference, tally, run.folder.name)
            tally.repeated += max(0, done - (run.lines() or [{"step": done}])[0]["step"]) * 0
            continue
        if process.returncode:
            run.fail(f"after {tally.landed.total()} kills the run fails with status {process.returncode}")
        return


def same_ranks(folder: Path, inputs: Path, name: str, kills: int, generator: random.Random, tally: Tally) -> None:
    """Kills on as many ranks as the undisturbed run had; as many runs as it takes."""
    strategy, ranks = WORLDS[name]
    began = time.monotonic()
    reference, weights = whole(Run(folder / f"{name}-whole", inputs, strategy, ranks))
    seconds, goal, number = time.monotonic() - began, tally.landed.total() + kills, 0
    print(f"{name}: {ranks} rank(s), undisturbed {seconds:.1f} s", file=sys.stderr, flush=True)
    while (left := goal - tally.landed.total()) > 0:
        run = Run(folder / f"{name}-{number}", inputs, strategy, ranks)
        until_done(run, left, reference, generator, tally, seconds)
        compare(run, reference, tally, run.folder.name)
        blocks_once(run, tally, run.folder.name)
        if sha256_file(run.folder / "pretrain" / "model" / "model.safetensors") != weights:
            tally.differences.append(f"{run.folder.name}: the weights differ from the undisturbed run's")
        number, tally.runs = number + 1, tally.runs + 1
        print(f"{run.folder.name}: done after {tally.landed.total()} kills in all, {len(tally.differences)} differences", file=sys.stderr, flush=True)
