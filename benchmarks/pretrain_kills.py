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
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dedup import machine
from pretrain_inputs import MODEL_TINY, make_inputs

from iberlm.core.files import sha256_file

STEPS = 60
MOMENTS = {"step": 6, "checkpoint": 3, "clock": 1}
"""What a kill waits for, and how often."""
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
ELASTIC = "elastic"
SHARES = {"single": 0.5, "ddp": 0.2, "fsdp2": 0.2, ELASTIC: 0.1}
"""Of the kills: two ranks take twice as long to start."""
AGES = (("ddp", 2), ("single", 1), ("fsdp2", 3))
"""Strategies and ranks of the elastic run, one after the other."""


@dataclass
class Tally:
    """What is counted over all runs."""

    landed: Counter[str] = field(default_factory=Counter)
    ranks: Counter[str] = field(default_factory=Counter)
    steps: list[int] = field(default_factory=list)
    """Steps that had been done when kills landed."""
    compared: int = 0
    """Steps whose numbers were compared with the undisturbed run's, those done again included."""
    repeated: int = 0
    """Steps that were done again after a kill."""
    runs: int = 0
    deviation: float = 0.0
    """Largest relative difference of a loss on another number of ranks."""
    differences: list[str] = field(default_factory=list)


class Run:
    """A run folder and the command that works in it."""

    def __init__(self, folder: Path, inputs: Path, strategy: str, ranks: int) -> None:
        self.folder, self.inputs, self.strategy, self.ranks = folder, inputs, strategy, ranks
        self.log = folder.with_suffix(".log")
        self.out = folder / "pretrain"
        self.metrics = self.out / "metrics.jsonl"
        self.started = 0.0

    def start(self) -> "subprocess.Popen[bytes]":
        """The command, in a process group of its own."""
        places = [f"run_dir={self.folder}", f"tokens={self.inputs / 'tokenize'}", f"tokenizer_folder={self.inputs / 'train_tokenizer'}"]
        command = [sys.executable, "-m", "iberlm", "pretrain", *places, f"strategy={self.strategy}", f"cluster.processes={self.ranks}", *SETTINGS]
        self.started = time.time()
        with self.log.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def lines(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says; a last line that a kill cut short is left out."""
        text = self.metrics.read_text() if self.metrics.is_file() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def done(self) -> int:
        """Steps that this start knows to be done: none until it has taken up the file that the start before left."""
        return self.metrics.read_bytes().count(b"\n") if self.metrics.is_file() and self.metrics.stat().st_mtime > self.started else 0

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(path.name.partition("-")[2]) for path in (self.out / "checkpoints").glob("step-*")), default=0)

    def writing(self) -> bool:
        """Whether this start has a checkpoint half written."""
        with contextlib.suppress(FileNotFoundError):  # it has got its name meanwhile
            return any(path.stat().st_mtime > self.started for path in (self.out / "checkpoints").glob(".step-*"))
        return False

    def weights(self) -> str:
        """Checksum of the weights that came out."""
        return sha256_file(self.out / "model" / "model.safetensors")

    def fail(self, what: str) -> NoReturn:
        """End the benchmark with the log."""
        raise SystemExit(f"{what}:\n{self.log.read_text(errors='replace')}")


def numbers(line: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same to the last bit."""
    return line["block"], line["loss"], line["grad_norm"], line["applied"], sorted(line["losses"].items()), line["lr"]


def ranks_of(process: "subprocess.Popen[bytes]", ranks: int) -> dict[int, int]:
    """Process ids by rank, of those that have been started."""
    if ranks == 1:
        return {0: process.pid}
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == process.pid:
                variables = dict(entry.partition("=")[::2] for entry in (status.parent / "environ").read_text().split("\0"))
                found[int(variables["RANK"])] = int(status.parent.name)
        except (OSError, KeyError, ValueError):  # it has just ended, or just begun
            continue
    return found


def kill_at_random(run: Run, generator: random.Random, tally: Tally, seconds: float) -> bool:
    """Start the command and kill a random rank at a random moment; False when it ended by itself before. `seconds`: how long a start may take."""
    # an elastic run must not be done before it has been on all its ranks, which only a kill by the clock could come too late for
    moments = {name: weight for name, weight in MOMENTS.items() if name != "clock" or run.folder.name != ELASTIC}
    moment = generator.choices(list(moments), list(moments.values()))[0]
    delay = generator.uniform(0, {"step": 0.2, "checkpoint": 0.01, "clock": seconds}[moment])
    target, reached, began, process = run.saved() + generator.randint(1, 6), False, time.monotonic(), run.start()
    while process.poll() is None:
        if moment == "clock" and time.monotonic() > began + delay and ranks_of(process, run.ranks):
            break
        reached = reached or (moment != "clock" and run.done() >= target)
        if reached and (moment == "step" or run.writing()):
            time.sleep(delay)
            break
        time.sleep(0.001 if reached else 0.01)
    victims = ranks_of(process, run.ranks)
    if process.poll() is None and victims:
        rank = generator.choice(sorted(victims))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[rank], signal.SIGKILL)
    if process.wait() == 0:
        return False
    if (run.ranks == 1 and process.returncode != -signal.SIGKILL) or (run.ranks > 1 and b"SIGKILL" not in run.log.read_bytes()):
        run.fail(f"after {tally.landed.total()} kills the run fails by itself, with status {process.returncode}")
    done = run.done()
    tally.landed["while a checkpoint was written" if run.writing() else "at the start" if not done else "at the end" if done == STEPS else "in a step"] += 1
    tally.ranks[f"rank {rank} of {run.ranks}"] += 1
    tally.steps.append(len(run.lines()))
    print(f"{run.folder.name}: kill {tally.landed.total()}: rank {rank}, waited for {moment}, step {done}", file=sys.stderr, flush=True)
    return True


def killed_until_done(
    run: Run, kills: int, check: Callable[[Run], None], generator: random.Random, tally: Tally, seconds: float, *, finish: bool = True
) -> None:
    """Start and kill until so many kills have landed or the run is done; then, to `finish`, leave the last start alone."""
    goal = tally.landed.total() + kills
    while tally.landed.total() < goal:
        lines = len(run.lines())
        tally.repeated += max(0, lines - run.saved())
        if not kill_at_random(run, generator, tally, seconds):
            return
        check(run)
    if finish:
        tally.repeated += max(0, len(run.lines()) - run.saved())
        if run.start().wait():
            run.fail(f"after {tally.landed.total()} kills the run fails")


def blocks_once(run: Run, tally: Tally) -> None:
    """Check that every block of samples was read once, in order."""
    found = [(line["step"], line["block"]) for line in run.lines()]
    if found != [(step + 1, step) for step in range(STEPS)]:
        tally.differences.append(f"{run.folder.name}: steps and blocks are {found}")


def same_ranks(name: str, kills: int, folder: Path, inputs: Path, generator: random.Random, tally: Tally) -> None:
    """Kills on as many ranks as the undisturbed run has; as many runs as it takes."""
    strategy, ranks = WORLDS[name]
    whole, began = Run(folder / f"{name}-whole", inputs, strategy, ranks), time.monotonic()
    if whole.start().wait():
        whole.fail("the undisturbed run fails")
    seconds, reference, goal = time.monotonic() - began, whole.lines(), tally.landed.total() + kills
    print(f"{name}: {ranks} rank(s), undisturbed {seconds:.1f} s", file=sys.stderr, flush=True)

    def check(run: Run) -> None:
        for line in run.lines():
            tally.compared += 1
            if numbers(line) != numbers(reference[line["step"] - 1]):
                tally.differences.append(f"{run.folder.name}: step {line['step']}: {numbers(line)}, undisturbed {numbers(reference[line['step'] - 1])}")

    number = 0
    while (left := goal - tally.landed.total()) > 0:
        run = Run(folder / f"{name}-{number}", inputs, strategy, ranks)
        killed_until_done(run, left, check, generator, tally, seconds)
        check(run)
        blocks_once(run, tally)
        if run.weights() != whole.weights():
            tally.differences.append(f"{run.folder.name}: the weights are not those of the undisturbed run")
        number, tally.runs = number + 1, tally.runs + 1
        print(f"{run.folder.name}: done; {tally.landed.total()} kills so far, {len(tally.differences)} differences", file=sys.stderr, flush=True)


def elastic(kills: int, folder: Path, inputs: Path, generator: random.Random, tally: Tally) -> None:
    """A run that is killed on two ranks and goes on with one, is killed there and goes on with three."""
    whole, began = Run(folder / "elastic-whole", inputs, *AGES[0]), time.monotonic()
    if whole.start().wait():
        whole.fail("the undisturbed run fails")
    seconds, reference = time.monotonic() - began, [line["loss"] for line in whole.lines()]

    def check(run: Run) -> None:
        for line in run.lines():
            tally.compared += 1
            deviation = abs(line["loss"] / reference[line["step"] - 1] - 1)
            tally.deviation = max(tally.deviation, deviation)
            if deviation > TOLERANCE:
                tally.differences.append(f"elastic: step {line['step']}: loss {line['loss']}, undisturbed {reference[line['step'] - 1]}")

    for age, (strategy, ranks) in enumerate(AGES):
        run = Run(folder / ELASTIC, inputs, strategy, ranks)
        share = max(1, kills // len(AGES) + (age < kills % len(AGES)))
        killed_until_done(run, share, check, generator, tally, seconds, finish=age == len(AGES) - 1)
        if age < len(AGES) - 1 and len(run.lines()) == STEPS:
            raise SystemExit(f"elastic: the run was done on {ranks} ranks already; take another --seed")
        print(f"elastic: {strategy} on {ranks} rank(s) up to step {len(run.lines())}, {len(tally.differences)} differences", file=sys.stderr, flush=True)
    check(run)
    blocks_once(run, tally)
    tally.runs += 1


def show(tally: Tally, seed: int, seconds: float) -> None:
    """Print what was counted."""
    for title, counts in (("landed", tally.landed), ("killed", tally.ranks)):
        print(f"{title}: " + ", ".join(f"{name} {number}" for name, number in sorted(counts.items(), key=lambda entry: -entry[1])))
    steps = sorted(tally.steps)
    print(f"steps done when a kill landed: {steps[0]} to {steps[-1]}, {len(set(steps))} different; {tally.repeated} steps were done again")
    print(f"{tally.landed.total()} kills, {tally.runs} runs completed after them, seed {seed}, {seconds / 60:.1f} minutes")
    print(f"{tally.compared:,} steps compared with undisturbed runs, {len(tally.differences)} differences")
    if tally.deviation:
        print(f"on other numbers of ranks losses differ by {tally.deviation:.1e} of their value at most (allowed {TOLERANCE:g})")
    for difference in tally.differences[:20]:
        print(f"  {difference}")


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(SHARES), default=list(SHARES))
    given = parser.parse_args()
    generator, tally, began = random.Random(given.seed), Tally(), time.monotonic()
    print(machine("iberlm", "torch", "transformers", "accelerate"), flush=True)
    total = sum(SHARES[name] for name in given.only)
    with tempfile.TemporaryDirectory(prefix="iberlm-kills-") as temporary:
        folder = Path(temporary)
        inputs = folder / "inputs"
        make_inputs(inputs, MODEL_TINY.vocabulary_size, 60_000)
        for place, name in enumerate(given.only):
            kills = round(given.kills * SHARES[name] / total) if place < len(given.only) - 1 else max(1, given.kills - tally.landed.total())
            if name == ELASTIC:
                elastic(kills, folder, inputs, generator, tally)
            else:
                same_ranks(name, kills, folder, inputs, generator, tally)
    show(tally, given.seed, time.monotonic() - began)
    raise SystemExit(1 if tally.differences else 0)


if __name__ == "__main__":
    main()
