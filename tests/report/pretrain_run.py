"""The files and numbers of a pretraining as the stage leaves them: of today, and of the version before, which had fewer."""

import json
import math
from pathlib import Path
from typing import Any

from iberlm.core.files import write_json, write_text
from iberlm.core.languages import LANGUAGES
from iberlm.core.stage import Record

STEPS, BATCH = 300, 4096
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
GROUPS = {"es/debian_docs": 0.0, "es/books": 0.45, "ca": 0.15, "ca-valencia": 0.2, "eu": 0.6, "gl": 0.25, "replay:es": -0.3, "replay:en": -0.5}
"""Groups whose losses are told apart, with what each is above the mean."""
SKIPPED = {140: (23.5, 87.0), 141: (None, None)}
"""Steps that were not applied, with loss and gradient norm; null stands for what was not finite."""
PROMPTS = {"es": "La ciudad de", "ca": "La ciutat de", "ca-valencia": "La ciutat de València", "eu": "Euskal Herria", "gl": "A cidade de"}


def _noise(step: int, prime: int) -> float:
    return (step * prime % 101) / 101 - 0.5


def _loss(step: int) -> float:
    return 9 * step**-0.15 + 0.2 * _noise(step, 37)


def metrics_line(step: int) -> dict[str, Any]:
    """One line of `metrics.jsonl`."""
    warming = min(step / 30, 1.0)
    seconds = 0.45 + 0.04 * _noise(step, 53) + (4.0 if step == 1 else 0.0)
    line = {"step": step, "block": step - 1 + (2 if step > 200 else 0), "tokens": step * BATCH, "loss": _loss(step)}
    line["losses"] = {
        name: _loss(step) + above + 0.3 * _noise(step, 41 + number)
        for number, (name, above) in enumerate(GROUPS.items())
        if name != "replay:en" or step % 3 == 0  # a source so small that not every step has it
    }
    line |= {"lr": 1e-3 * warming, "grad_norm": (0.6 + 14 * math.exp(-step / 12)) * (1 + 0.4 * _noise(step, 29)), "applied": True}
    line |= {"tokens_per_second": round(BATCH / seconds, 1), "seconds": round(seconds, 5), "data_wait": round(0.002 + 0.003 * abs(_noise(step, 31)), 5)}
    line |= {"mfu": round(0.31 * 0.45 / seconds, 4), "memory_bytes": 1_493_172_224, "watt_hours": round(0.02 * step, 5), "targets": BATCH - 40}
    if step in SKIPPED:
        line["loss"], line["grad_norm"] = SKIPPED[step]
        line["applied"] = False
    return line


def _validations() -> list[dict[str, dict[str, float]]]:
    return [{tag: {"loss": 5.0, "bits_per_byte": 4 * n**-0.1 - 0.04 * index} for index, tag in enumerate(LANGUAGES)} for n in (50, 100, 150, 200, 250, 300)]


def _lines(path: Path, values: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(value) + "\n" for value in values))


def _common(out: Path, record: Record) -> None:
    values = _validations()
    _lines(out / "validation.jsonl", [{"step": 50 * (index + 1), "validation": value} for index, value in enumerate(values)])
    write_json(out / "generations.json", [{"language": tag, "prompt": prompt, "text": f"{prompt} la la la la la."} for tag, prompt in PROMPTS.items()])
    validation = {**values[-1], "gl": {"loss": 9.0, "bits_per_byte": 3.3}}
    record.metrics = {"parameters": 3_412_224, "steps": STEPS, "tokens": STEPS * BATCH, "final_loss": 3.912, "validation": validation}
    record.metrics |= {"tokens_per_second": 9000.5, "mixture": dict.fromkeys(LANGUAGES, 0.2)}


def write_pretrain(out: Path, record: Record) -> None:
    """What the stage leaves now."""
    _common(out, record)
    _lines(out / "metrics.jsonl", [metrics_line(step) for step in range(1, STEPS + 1)])
    events = [
        {"step": 140, "event": "skip", "message": "step 140 was not applied: loss 23.5, gradient norm 87"},
        {"step": 200, "event": "rollback", "message": "3 steps in a row could not be applied: back to step 198; the 24 samples read since are left out"},
        {"step": 260, "event": "straggler", "message": f"rank 3 is slow: 9.1 ms for its own work where the median is 4.2 ms {SCRIPT}"},
    ]
    _lines(out / "events.jsonl", events)
    strategy = {
        "name": "fsdp2",
        "ranks": 8,
        "device": "cuda",
        "backend": "cpu:gloo,cuda:nccl",
        "mesh": {"dp_shard": 4, "tp": 2},
        "wrapper": "FSDPTrainingModel",
    }
    strategy |= {"optimizer": "AdamW", "precision": "bf16", "sharded_parameters": 3_412_224}
    formula = "21,234,688 FLOP a token x tokens a second / (8 x 989.4 TFLOP/s)"
    plan = ", ".join(f"{tag} 0.2000 ({1.2 + index:.2f} epochs)" for index, tag in enumerate(LANGUAGES))
    record.metrics |= {
        "losses": metrics_line(STEPS)["losses"],
        "mfu": {"value": 0.312, "formula": formula, "peak_tflops": 989.4, "source": "NVIDIA H100 data sheet, dense bf16"},
        "memory_bytes": 1_493_172_224,
        "data_wait": 0.00275,
        "energy": {"watt_hours": 6.0, "method": "measured: NVML energy counter, the GPU alone"},
        "mixture_plan": [f"mixture to step 240: {plan}", f"mixture to step 300: {plan}", "mixtures together: es 1.40 epochs, ca 2.40 epochs"],
        "strategy": strategy,
        "choices": [
            "precision bf16: NVIDIA H100 80GB HBM3 multiplies bf16 natively",
            "compile on: 300 steps are enough to pay for it (from 100 on)",
            "attention varlen: FlashAttention of each document alone",
            f"cross-entropy chunked: 1.0 GiB of logits a micro batch {SCRIPT}",
        ],
        "skipped_steps": 5,
        "rollbacks": 1,
        "gaps": [[198, 2]],
    }


def write_old_pretrain(out: Path, record: Record) -> None:
    """What the version before left."""
    _common(out, record)
    keys = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "seconds")
    lines = [{key: metrics_line(step)[key] for key in keys} for step in range(1, STEPS + 1) if step not in SKIPPED]
    lines[5]["loss"] = float("nan")
    _lines(out / "metrics.jsonl", lines)
    strategy = {"name": "single", "ranks": 1, "device": "cpu", "backend": "none", "wrapper": "none", "optimizer": "AdamW", "precision": "fp32"}
    record.metrics["strategy"] = strategy | {"sharded_parameters": 0}
