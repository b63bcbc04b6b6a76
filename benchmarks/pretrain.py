"""Speed of pretraining on two cores: our loop beside a bare one, transformers.Trainer and litgpt, on the same model, ids and batch.

    python benchmarks/pretrain.py [--litgpt-python PATH] [--rounds 3] [--steps 8] [--only NAME ...]

A Llama of 8.4 million parameters (8,192 ids), 512 tokens a sample, micro batches of 8, two of them a step. Each side runs in a process of its own on the
same cores with as many threads; a round is one run of each, and every second round goes backwards. The first two steps of a run are left out. Ids are made
up (`--inputs` takes a folder with the finished stages `tokenize` and `train_tokenizer` instead). Run it on a machine that does nothing else: compiled code
waits for its slowest thread. Where that cannot be had, `--cpu-seconds` gives all sides one thread and counts CPU seconds: that compares them all the same.

- bare: forward, backward, clip and step on transformers' Llama as one writes it by hand, the layers compiled or not.
- parts: our model and optimiser in that bare loop: what `ours` would do in a loop that costs nothing.
- ours: `iberlm.train.pretrain.run`, read from its metrics.jsonl. Document masking is off where the others have none; `auto` is with and without.
- Trainer: as it comes, but for shape and batch; and with bf16 and torch_compile set.
- litgpt: `litgpt pretrain` as it comes, but for shape and batch, in the Python that has it
  (`python -m venv LITGPT; LITGPT/bin/pip install torch litgpt requests`).

Overhead compares two sides round by round, then takes the median; its range is over the rounds.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dedup import machine
from pretrain_inputs import MODEL_8M, MODEL_TINY, first_shard, hugging_face, make_inputs

from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.token_store import open_shard

WARM_UP = 2
"""Steps of each run that are left out: the first compiles, the second still warms caches."""
SEQUENCE_LENGTH, MICRO_BATCH_SIZE, ACCUMULATION = 512, 8, 2
TOKENS = SEQUENCE_LENGTH * MICRO_BATCH_SIZE * ACCUMULATION
LITGPT = "litgpt as it comes (bf16, compiled whole)"
TRAINER = "Trainer as it comes (fp32)"
AUTO, MASKED = "ours, auto", "ours, auto, document masking"
CHOICES = ("precision", "compile", "attention", "cross-entropy")


@dataclass(frozen=True)
class Side:
    """A row of the table."""

    script: str
    job: dict[str, Any] = field(default_factory=dict)


def _ours(side: str, precision: str, compiled: str, *, masking: bool = False) -> Side:
    return Side("pretrain_sides.py", {"side": side, "precision": precision, "compile": compiled, "document_masking": masking})


def _bare(precision: str, *, compiled: bool) -> Side:
    return Side("pretrain_sides.py", {"side": "bare", "precision": precision, "compile": compiled})


SIDES = {
    "bare fp32": _bare("fp32", compiled=False),
    "parts fp32": _ours("parts", "fp32", "off"),
    "ours fp32": _ours("ours", "fp32", "off"),
    "bare bf16": _bare("bf16", compiled=False),
    "parts bf16": _ours("parts", "bf16", "off"),
    "ours bf16": _ours("ours", "bf16", "off"),
    "bare bf16 compiled": _bare("bf16", compiled=True),
    "parts bf16 compiled": _ours("parts", "bf16", "on"),
    "ours bf16 compiled": _ours("ours", "bf16", "on"),
    AUTO: _ours("ours", "auto", "auto"),
    MASKED: _ours("ours", "auto", "auto", masking=True),
    TRAINER: Side("pretrain_sides.py", {"side": "trainer", "arguments": {}}),
    "Trainer, bf16, torch_compile": Side("pretrain_sides.py", {"side": "trainer", "arguments": {"bf16": True, "torch_compile": True}}),
    LITGPT: Side("pretrain_litgpt.py"),
}


@dataclass
class Found:
    """What the runs of one side gave."""

    steps: list[list[float]] = field(default_factory=list)
    """Seconds of the steps that count, by round."""
    first: list[float] = field(default_factory=list)
    """Seconds from the start of the process to the end of the first step."""
    data_wait: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """By the median of all steps."""
        return TOKENS / statistics.median(second for steps in self.steps for second in steps)


def run_side(side: Side, common: dict[str, Any], python: str, folder: Path, found: Found) -> str:
    """Run one side once and add to what was found; returns why it failed, or nothing."""
    folder.mkdir()
    result, log = folder / "result.json", folder / "log"
    job = common | side.job | {"folder": str(folder), "result": str(result), "spawned": time.monotonic()}
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name(side.script)
    with log.open("wb") as stream:
        process = subprocess.Popen([python, str(script), str(folder / "job.json")], stdout=stream, stderr=stream, cwd=folder)
    first = _stop_when_measured(process, folder / "run" / "metrics.jsonl", job) if side.job.get("side") == "ours" else None
    process.wait()
    if not result.is_file():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"status {process.returncode}: {lines[-1] if lines else 'nothing was printed'}"
    values = json.loads(result.read_text())
    found.steps.append(values["seconds"][WARM_UP:])
    found.first.append(values["first"] if first is None else first - job["spawned"])
    found.data_wait += values.get("data_wait", [])[WARM_UP:]
    found.versions = values.get("versions", {})
    said = [line.partition("pretrain: ")[2] for line in log.read_text(errors="replace").splitlines()]
    found.choices = [line for line in said if line.startswith(CHOICES)]
    return ""


def _stop_when_measured(process: "subprocess.Popen[bytes]", metrics: Path, job: dict[str, Any]) -> float | None:
    """Ask the run to stop when it has done its steps; returns when the first had ended, to a tenth of a second."""
    first, asked = None, False
    while process.poll() is None:
        lines = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        if lines and first is None:
            first = time.monotonic()
        if lines >= job["steps"] and not asked:
            process.send_signal(signal.SIGTERM)
            asked = True
        time.sleep(0.1)
    return first


def overhead(found: dict[str, Found], name: str, against: str) -> str:
    """How much longer a step of one side takes than one of another, in percent: median of the rounds, and their range."""
    if not all(found[side].steps for side in (name, against)):
        return "not measured"
    ratios = [100 * (statistics.median(mine) / statistics.median(theirs) - 1) for mine, theirs in zip(found[name].steps, found[against].steps, strict=False)]
    return f"{statistics.median(ratios):+.1f}% ({min(ratios):+.1f} to {max(ratios):+.1f})"


def show(found: dict[str, Found], reasons: dict[str, str], *, cpu_seconds: bool) -> None:
    """Print the tables."""
    best = found[AUTO].tokens_per_second if AUTO in found and found[AUTO].steps else None
    print("\n| side | tokens/s | slowest and fastest round | `auto` is so many times as fast | seconds to the end of the first step |\n|---|---|---|---|---|")
    for name, side in found.items():
        if not side.steps:
            print(f"| {name} | not measured: {reasons[name]} | | | |")
            continue
        rounds = [TOKENS / statistics.median(steps) for steps in side.steps]
        times = f"{best / side.tokens_per_second:.2f}" if best else ""
        print(f"| {name} | {side.tokens_per_second:,.0f} | {min(rounds):,.0f}, {max(rounds):,.0f} | {times} | {statistics.median(side.first):.1f} |")
    print("\n| our loop costs | against our model in a bare loop (goal 1%) | against the loop written by hand |\n|---|---|---|")
    for mode in ("fp32", "bf16", "bf16 compiled"):
        if f"ours {mode}" in found:
            columns = [overhead(found, f"ours {mode}", f"{kind} {mode}") if f"{kind} {mode}" in found else "not measured" for kind in ("parts", "bare")]
            print(f"| {mode} | {columns[0]} | {columns[1]} |")
    waits = [] if cpu_seconds else [wait for side in found.values() for wait in side.data_wait]
    if waits:
        mean, most = 100 * statistics.fmean(waits), 100 * max(waits)
        print(f"\nWaiting for data: {mean:.3f}% of our step time (goal 0.5%), at most {most:.2f}% of a step, {len(waits)} steps.")
    for name in (AUTO, MASKED):
        for line in found[name].choices if name in found else []:
            print(f"{name} chose {line}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litgpt-python", help="the Python of a virtual environment with litgpt")
    parser.add_argument("--inputs", type=Path, help="folder with finished stages tokenize and train_tokenizer; made up otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of each run, the two that are left out included")
    parser.add_argument("--only", nargs="+", choices=list(SIDES), default=list(SIDES), metavar="NAME", help=", ".join(SIDES))
    parser.add_argument("--cpu-seconds", action="store_true", help="CPU seconds of one thread on one core: for a machine that others use too")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see whether all sides run: its numbers say nothing")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0))[:2])
    given = parser.parse_args()
    if given.steps <= WARM_UP:
        parser.error(f"--steps: {given.steps}; {WARM_UP} are left out, give more")
    print(machine("iberlm", "torch", "transformers", "accelerate"))
    cores = given.cores[:1] if given.cpu_seconds else given.cores
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    print("load of the machine before: " + ", ".join(f"{load:.1f}" for load in os.getloadavg()), flush=True)
    reasons = {} if given.litgpt_python else {LITGPT: "--litgpt-python was not given"}
    names = [name for name in SIDES if name in given.only]
    found = {name: Found() for name in names}
    with tempfile.TemporaryDirectory(prefix="iberlm-speed-") as temporary:
        folder = Path(temporary)
        inputs, model = given.inputs or folder, dataclasses.replace(MODEL_TINY, max_position_embeddings=SEQUENCE_LENGTH) if given.smoke else MODEL_8M
        made: list[Manifest] = (
            [read_manifest(inputs / stage) for stage in ("tokenize", "train_tokenizer")]
            if given.inputs
            else make_inputs(folder, model.vocabulary_size, 1_000_000)
        )
        shape = dataclasses.replace(model, vocabulary_size=int(made[0].metrics["vocabulary_size"]), parameters=0)
        ids = first_shard(made[0])
        common = {
            "model": hugging_face(shape, SEQUENCE_LENGTH),
            "shape": dataclasses.asdict(shape),
            "inputs": str(inputs.absolute()),
            "ids": str(ids.absolute()),
            "dtype": open_shard(ids.with_suffix("")).tokens.dtype.name,
            "sequence_length": SEQUENCE_LENGTH,
            "micro_batch_size": MICRO_BATCH_SIZE,
            "accumulation": ACCUMULATION,
            "steps": given.steps,
            "clock": "process_time" if given.cpu_seconds else "monotonic",
            # what a tokenizer of a user failed is no matter here
            "more": {"waived_gates": [name for name, gate in made[1].metrics["gates"].items() if gate["passed"] is not True]},
        }
        for number in range(given.rounds):
            for name in names if number % 2 == 0 else names[::-1]:
                if name in reasons:
                    continue
                python = given.litgpt_python if name == LITGPT else sys.executable
                run = folder / "side"
                if failed := run_side(SIDES[name], common, python, run, found[name]):
                    reasons[name] = failed
                    print(f"{name} failed, and is left out: {failed}", file=sys.stderr, flush=True)
                else:
                    last = statistics.median(found[name].steps[-1])
                    print(f"round {number + 1}: {name}: {TOKENS / last:,.0f} tokens/s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
                shutil.rmtree(run)
    if found.get(LITGPT, Found()).versions:
        print("litgpt's Python: " + ", ".join(f"{package} {number}" for package, number in found[LITGPT].versions.items()))
    print(
        f"{given.rounds} rounds of {given.steps} steps of {TOKENS:,} tokens; load of the machine after: " + ", ".join(f"{load:.1f}" for load in os.getloadavg())
    )
    show(found, reasons, cpu_seconds=given.cpu_seconds)


if __name__ == "__main__":
    main()
