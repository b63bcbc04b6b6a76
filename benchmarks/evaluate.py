"""How fast, how exact and how robust evaluation is, beside plain lm-eval on this machine.

    python -m benchmarks.evaluate [--runs 3] [--only start,repeat,requests,kills] [--work FOLDER]

`start`: seconds from the start of the process to the model's first call. `repeat`: a whole command that finds all in the store. `requests`: the
same 64 requests of very different length, scored by lm-eval with 16 sequences (and its automatic batch size, once), and by ours with 8,192 tokens a
batch; and what ours takes beyond the calls of the model. `kills`: SIGKILL at random, 20 times, and the store against that of an undisturbed
evaluation. Coverage of the intervals and the level of the paired test: `python -m benchmarks.evaluate_simulation`. That scores are those of plain
lm-eval to the last digit: `pytest tests/evaluate/test_equality.py`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tests.evaluate.tiny import sample_texts, tiny_tokenizer, write_model, write_validation
from transformers import LlamaConfig, LlamaForCausalLM

from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.store.store import Store

ROOT = Path(__file__).parents[1]
KILLS = 20
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "light": (
        "40 million weights, 16,384 pieces",
        {"vocab_size": 16384, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
    ),
    "medium": (
        "100 million weights, 16,384 pieces",
        {"vocab_size": 16384, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
    ),
    "wide": (
        "160 million weights, 131,072 pieces",
        {"vocab_size": 131072, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
    ),
}
"""Shapes of the models of `requests`; their weights are random."""


def side(*arguments: str) -> dict[str, Any]:
    """What a process of `benchmarks.evaluate_sides` prints."""
    command = [sys.executable, "-m", "benchmarks.evaluate_sides", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def median(entries: list[dict[str, Any]], key: str = "seconds") -> float:
    return statistics.median(entry[key] for entry in entries)


def start(work: Path, runs: int) -> None:
    """Both sides in turn, on the same task of ours."""
    environment = f"pretrained={work / 'small'},softmax_dtype=float32"
    plain = ["run", "--model", "hf", "--model_args", environment, "--include_path", "eval", "--tasks", "reading_eu", "--device", "cpu", "--batch_size", "16"]
    settings = [f"model={work / 'small'}", "suite.tasks=[reading]", "suite.languages=[eu]", "batch_size=16"]
    seconds: dict[str, list[dict[str, Any]]] = {"lm_eval": [], "iberlm": []}
    for _ in range(runs):
        seconds["lm_eval"].append(side("first-request", "lm_eval", *plain))
        shutil.rmtree(work / "start", ignore_errors=True)
        seconds["iberlm"].append(side("first-request", "iberlm", "evaluate", *settings, f"run_dir={work / 'start'}"))
    ours, theirs = median(seconds["iberlm"]), median(seconds["lm_eval"])
    print(f"start to the first request: lm_eval {theirs:.1f} s, iberlm {ours:.1f} s, ratio {ours / theirs:.2f} (goal 0.5)", flush=True)


def repeat(work: Path, runs: int) -> None:
    """Four families in five languages, asked once, then answered from the store into another folder."""
    settings = [
        "evaluate",
        f"model={work / 'small'}",
        f"validation={work / 'curate'}",
        f"run_dir={work / 'repeat'}",
        "suite.tasks=[minimal_pairs,reading,commonsense,bits_per_byte]",
    ]
    subprocess.run([sys.executable, "-m", "iberlm", *settings], cwd=ROOT, check=True, capture_output=True)
    found = [side("repeat", *settings, f"out={work / f'again{number}'}") for number in range(runs)]
    items = Store(work / "repeat" / "store").items().num_rows
    imported = sorted({name for entry in found for name in ("torch", "lm_eval") if entry[name]}) or ["neither torch nor lm_eval"]
    print(f"repeated, {items:,} items from the store: {median(found):.2f} s (goal 3), imported: {', '.join(imported)}", flush=True)


def requests(work: Path, runs: int) -> None:
    """The same requests in turn, by models of three sizes."""
    for model, auto in (("light", False), ("medium", True), ("wide", False)):
        sides = {"lm_eval, 16": ("lm_eval", "16"), "iberlm, 8,192 tokens": ("iberlm", "8192"), "lm_eval, auto": ("lm_eval", "auto")}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(runs):
            for name, (which, batch) in sides.items():
                if batch != "auto" or (auto and number == 0):  # minutes, most of them for finding the size
                    found[name].append(side("requests", which, str(work / model), batch))
        print(f"{model}: {MODELS[model][0]}")
        for name, entries in filter(lambda entry: entry[1], found.items()):
            told = f"{entries[0]['tokens']:,} tokens with padding; sum {entries[0]['sum']:.4f}; peak memory {entries[0]['peak_mb']:,.0f} MB"
            print(f"  {name}: {median(entries):.2f} s, of which the model's calls {median(entries, 'calls'):.2f} s; {told}")
        ours, theirs = found["iberlm, 8,192 tokens"], found["lm_eval, auto"] or found["lm_eval, 16"]
        beyond = statistics.median(entry["seconds"] / entry["calls"] - 1 for entry in ours)
        print(f"  beyond the model's calls: {100 * beyond:.1f}% (goal 5); of lm_eval's time: {median(ours) / median(theirs):.2f} (goal 1)", flush=True)


def kills(work: Path) -> None:
    """Kill at random moments in which something was answered, then compare the stores."""
    settings = ["evaluate", f"model={work / 'small'}", f"validation={work / 'curate'}", "suite.tasks=[reading,bits_per_byte]", "batch_size=1"]

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "iberlm", *settings, f"run_dir={work / name}"]

    subprocess.run(command("alone"), cwd=ROOT, check=True, capture_output=True)
    generator, done, starts = random.Random(11), 0, 0
    before = _size(work / "killed" / "store")
    while True:
        starts += 1
        # the later half of the kills anywhere, the first half once something more was answered
        process = subprocess.Popen(command("killed"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = before + generator.randrange(1, 6000)
        while process.poll() is None and (done == KILLS or _size(work / "killed" / "store") < wanted):
            time.sleep(0.001)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done, before = done + 1, _size(work / "killed" / "store")
    assert process.returncode == 0
    different = [column for kind in ("items", "results") for column in _differences(_rows(work / "alone", kind), _rows(work / "killed", kind))]
    verdict = f"NOT that of an undisturbed one: {', '.join(different)}" if different else "the same as an undisturbed one"
    print(f"killed {done} times in {starts} starts: the store is {verdict}", flush=True)


def _differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Columns that differ in some row, or the number of rows."""
    if len(ours) != len(theirs):
        return [f"{len(ours)} and {len(theirs)} rows"]
    return sorted({name for first, second in zip(ours, theirs, strict=True) for name in first if first[name] != second[name]})


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _rows(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "created"} for row in getattr(Store(run_dir / "store"), kind)().to_pylist()]


def prepare(work: Path) -> None:
    """A tiny model, those of `MODELS`, and validation documents."""
    write_model(work / "small", adds_bos=True)
    write_validation(work / "curate", {language: [text[:1500] for text in sample_texts(language)[:6]] for language in LANGUAGES})
    for name, (_, shape) in MODELS.items():
        torch.manual_seed(0)
        settings = LlamaConfig(**shape, num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, pad_token_id=None)
        LlamaForCausalLM(settings).save_pretrained(work / name)
        tiny_tokenizer(adds_bos=True).save_pretrained(work / name)


def main() -> None:
    """Measure what was asked for, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="start,repeat,requests,kills")
    parser.add_argument("--work", type=Path)
    chosen = parser.parse_args()
    work = chosen.work or Path(tempfile.mkdtemp(prefix="evaluate-"))
    try:
        prepare(work)
        for name in chosen.only.split(","):
            if name == "kills":
                kills(work)
            else:
                {"start": start, "repeat": repeat, "requests": requests}[name](work, chosen.runs)
    finally:
        if chosen.work is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
