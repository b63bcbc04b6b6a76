"""What happens beside the steps: metrics.jsonl, the progress line, whole checkpoints, a request to stop."""

import contextlib
import json
import math
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from iberlm.core.errors import DataError
from iberlm.core.files import fsync, publish, write_text
from iberlm.core.progress import Advance, progress, say
from iberlm.core.stopping import StopFlag

WHOLE = "whole"
"""Empty file that is written last into a checkpoint: without it, a kill may have cut the checkpoint short."""

_LOGGED = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "entropy", "epoch")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Callback of one rank; a context, so that the progress line is closed however the training ends."""

    def __init__(self, out: Path, arguments: Any, stop: StopFlag) -> None:
        self.metrics, self.stop, self.first = out / "metrics.jsonl", stop, arguments.process_index == 0
        self.stack = contextlib.ExitStack()
        self.advance: Advance | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stack.close()

    def on_train_begin(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the lines up to the checkpoint anew: an interrupted run may have logged steps after it."""
        if self.first:
            with publish(self.metrics) as temporary:
                temporary.write_text("".join(_line(entry) for entry in state.log_history if "loss" in entry), encoding="utf-8")
            self.advance = self.stack.enter_context(progress("finetune", state.max_steps, "steps"))
            self.advance(state.global_step)

    def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append a line; `DataError` when the loss is no number."""
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise DataError(f"finetune: the loss of step {state.global_step} is {logs['loss']}; lower method.learning_rate, or use precision=fp32")
        if self.first:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(_line({**logs, "step": state.global_step}))
            if self.advance is not None:
                self.advance(1, f"loss {logs['loss']:.3f}")

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop when any rank was asked to."""
        asked = bool(self.stop.name)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            flag = torch.tensor(int(asked), device=arguments.device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            asked = bool(flag.item())
        if asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_save(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole once every rank has written its part."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.barrier()
        if self.first:
            folder = Path(arguments.output_dir) / f"checkpoint-{state.global_step}"
            for path in folder.rglob("*"):
                fsync(path)
            write_text(folder / WHOLE, "")
            say(f"finetune: saved at step {state.global_step}")


def newest_checkpoint(folder: Path, first: bool) -> Path | None:
    """The newest whole checkpoint; the first rank removes those that a kill cut short."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / WHOLE).is_file()]
    if first:
        for path in set(found) - set(whole):
            shutil.rmtree(path)
    return whole[-1] if whole else None


def _line(entry: dict[str, Any]) -> str:
    kept = {"step": entry["step"], **{name: entry[name] for name in _LOGGED if name in entry}}
    return json.dumps(kept) + "\n"
