"""Functions of the user that are called at each validation and give numbers to log: `monitor.hooks: [package.module:function]`."""

import contextlib
import importlib
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError
from iberlm.core.progress import say


@dataclass(frozen=True)
class HookContext:
    """What a hook is given."""

    step: int
    """Steps done."""
    model: Any
    """The Hugging Face causal model that is being trained, without a wrapper, in evaluation mode. Where its weights are spread over ranks (fsdp2, hsdp,
    zero3), a callable instead: int64[rows, positions] token ids to logits [rows, positions, vocabulary], which all ranks must enter together."""
    tokenizer_folder: Path
    """For `AutoTokenizer.from_pretrained`."""
    out: Path
    """Folder of the run: a hook may write files of its own there, on the first rank."""
    validation: Mapping[str, Mapping[str, float]]
    """What this validation found: {language: {"loss", "bits_per_byte"}}."""
    rank: int = 0
    """Hooks are called on every rank; the numbers of rank 0 are logged."""
    device: Any = "cpu"
    """Where the model is (torch.device)."""


@dataclass
class Hook:
    """A function that was found."""

    name: str
    """The function's own name: it begins the names of its numbers."""
    call: Callable[[HookContext], Any]
    failures: int = field(default=0)
    """How often it has raised, or returned what is no number, so far."""


def load_hooks(names: Sequence[str]) -> list[Hook]:
    """Find the functions `package.module:function`. Raises `ConfigError` for what cannot be imported, is missing, or cannot be called.

    A module is found as Python finds it: installed, or in a folder of PYTHONPATH.
    """
    found: dict[str, str] = {}
    hooks = []
    for name in names:
        module_name, _, function = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            hint = "; install it, or put its folder into PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
            raise ConfigError(f"monitor.hooks: '{name}' cannot be imported ({type(error).__name__}: {error}){hint}") from error
        if not hasattr(module, function):
            public = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise ConfigError(f"monitor.hooks: '{name}': {module_name} has no '{function}'; it has {', '.join(public) or 'no function'}")
        call = getattr(module, function)
        if not callable(call):
            raise ConfigError(f"monitor.hooks: '{name}' is a {type(call).__name__}, not a function of one argument (a HookContext)")
        if function in found:
            raise ConfigError(f"monitor.hooks: '{name}' and '{found[function]}' have the same function name, which begins the names of their numbers")
        found[function] = name
        hooks.append(Hook(function, call))
    return hooks


def run_hooks(hooks: Sequence[Hook], context: HookContext) -> dict[str, float]:
    """Call each hook and collect its numbers as `function/key`, or `function` for a single number.

    A hook that raises, or returns anything but a number or {name: number}, is reported and counted under
    `function/failures`; training goes on, and the other hooks are called. Gradients are off, and the model's mode and
    torch's random numbers are afterwards what they were: a hook changes no result of the training.
    """
    results: dict[str, float] = {}
    with _undisturbed(context.model):
        for hook in hooks:
            try:
                results |= _numbers(hook.name, hook.call(context))
            except (Exception, SystemExit) as error:
                hook.failures += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                say(f"pretrain: step {context.step}: the hook {hook.name} failed ({type(error).__name__}: {error}; {where}), {hook.failures} time(s) so far")
            if hook.failures:
                results[f"{hook.name}/failures"] = float(hook.failures)
    return results


def _numbers(name: str, value: Any) -> dict[str, float]:
    values = {f"{name}/{key}": entry for key, entry in value.items()} if isinstance(value, Mapping) else {name: value}
    numbers = {}
    for key, entry in values.items():
        try:
            number = float("nan") if isinstance(entry, bool | str) else float(entry)
        except (TypeError, ValueError):
            number = float("nan")
        if not math.isfinite(number):
            raise TypeError(f"{key} is {str(entry)[:80]!r}, not a finite number")
        numbers[key] = number
    return numbers


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    import torch

    module = model if isinstance(model, torch.nn.Module) else None
    training = module.training if module is not None else False
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        if module is not None:
            module.eval()
        try:
            yield
        finally:
            if module is not None:
                module.train(training)
