"""The numbers of a run on disk: one JSON line a step, and what people and trackers are shown of it."""

import contextlib
import dataclasses
import json
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from iberlm.core.files import disk_errors, write_json, write_text
from iberlm.core.progress import say
from iberlm.train.files import EVENTS, METRICS, SAMPLES, VALIDATION
from iberlm.train.state import STATE, TrainingState

REWOUND = (METRICS, VALIDATION, SAMPLES)
"""What a run that goes on from a checkpoint makes again. Events are history and stay."""


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add one JSON line to a file."""
    with disk_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines of a file; a last line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def recent_losses(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Loss by group, the mean of the last tenth of the steps that had some of it: one step may have none of a small language."""
    last = lines[-max(1, len(lines) // 10) :]
    groups = sorted({group for line in last for group in line["losses"]})
    return {group: statistics.fmean(line["losses"][group] for line in last if group in line["losses"]) for group in groups}


def rewind_lines(folder: Path, done: int) -> None:
    """Drop the lines of steps after `done` from the files of a run: they are about to be made again."""
    for path in (folder / name for name in REWOUND):
        if path.is_file():
            write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= done))


def write_state(folder: Path, state: TrainingState) -> None:
    """Say how far a run is and which data it left out, for those who look at its folder."""
    write_json(folder / STATE, dataclasses.asdict(state))


def event(folder: Path, step: int, kind: str, message: str) -> None:
    """Tell people of something out of the ordinary, and keep it: {step, event, message}."""
    say(f"pretrain: {message}")
    append_line(folder / EVENTS, {"step": step, "event": kind, "message": message})


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this process has held: of the GPU's allocator, or resident memory on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def progress_line(line: dict[str, Any], steps: int) -> str:
    """One line of the log for a line of metrics."""
    parts = [f"step {line['step']}/{steps} loss {line['loss']:.4f} lr {line['lr']:.2e} norm {line['grad_norm']:.2f} {line['tokens_per_second']:,.0f} tokens/s"]
    if line["mfu"] is not None:
        parts.append(f"MFU {100 * line['mfu']:.1f}%")
    if line["data_wait"] >= 0.01:  # what nobody has to act on is left to the file
        parts.append(f"data wait {100 * line['data_wait']:.1f}%")
    return "pretrain: " + ", ".join(parts)
