"""Evaluation hooks: real modules, found by name; what they return is logged, and what they break is reported and stays whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from iberlm.core.errors import ConfigError
from iberlm.train.hooks import HookContext, load_hooks, run_hooks

MODULE = '''
import numpy as np
import torch

limit = 3

def score(context):
    """Reads the model, and disturbs what it can: mode, random numbers."""
    assert not context.model.training
    assert not torch.is_grad_enabled()
    context.model.train()
    torch.manual_seed(7)
    torch.rand(3)
    logits = context.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    return {"width": logits.shape[-1], "es": context.validation["es"]["loss"], "array": np.float32(2.5), "tensor": torch.tensor(4)}

def one(context):
    return context.step / 2

def raises(context):
    raise KeyError("no such file")

def words(context):
    return {"good": 1.0, "bad": "very"}

def leaves(context):
    raise SystemExit(3)

def infinite(context):
    return float("inf")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Writes a module that Python finds; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        name = f"hooks_of_{request.node.name.split('[')[0]}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def context(**more: Any) -> HookContext:
    shape = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    known: dict[str, Any] = {"step": 40, "model": LlamaForCausalLM(shape).train(), "tokenizer_folder": Path("t"), "out": Path("o")}
    return HookContext(**(known | {"validation": {"es": {"loss": 3.5, "bits_per_byte": 1.2}}} | more))


def test_numbers_get_the_functions_name_and_training_is_not_disturbed(module: Callable[[str], str]) -> None:
    name = module(MODULE)
    hooks, given = load_hooks([f"{name}:score", f"{name}:one"]), context()
    before = torch.random.get_rng_state()
    assert run_hooks(hooks, given) == {"score/width": 11.0, "score/es": 3.5, "score/array": 2.5, "score/tensor": 4.0, "one": 20.0}
    assert torch.equal(torch.random.get_rng_state(), before)
    assert given.model.training
    assert all(parameter.grad is None for parameter in given.model.parameters())


def test_a_hook_that_fails_is_reported_counted_and_stops_nothing(module: Callable[[str], str], capfd: pytest.CaptureFixture[str]) -> None:
    name = module(MODULE)
    hooks = load_hooks([f"{name}:{function}" for function in ("raises", "words", "leaves", "infinite", "one")])
    failures = dict.fromkeys(("raises/failures", "words/failures", "leaves/failures", "infinite/failures"), 1.0)
    assert run_hooks(hooks, context()) == failures | {"one": 20.0}
    assert run_hooks(hooks, context())["raises/failures"] == 2.0
    said = capfd.readouterr().err
    assert f"pretrain: step 40: the hook raises failed (KeyError: 'no such file'; {name}.py:" in said
    assert "2 time(s) so far" in said
    assert "words/bad is 'very', not a finite number" in said
    assert "infinite is 'inf', not a finite number" in said


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("no_such_package.at_all:score", r"'no_such_package\.at_all:score' cannot be imported \(ModuleNotFoundError: .*; install it, or put its folder into"),
        ("{module}:missing", r"has no 'missing'; it has infinite, leaves, one, raises, score, words"),
        ("{module}:limit", r"is a int, not a function of one argument \(a HookContext\)"),
    ],
)
def test_what_is_no_hook_is_refused(named: str, message: str, module: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"monitor\.hooks: .*" + message):
        load_hooks([named.format(module=module(MODULE))])


def test_a_module_that_breaks_at_import_is_refused(module: Callable[[str], str]) -> None:
    name = module("1 / 0")
    with pytest.raises(ConfigError, match=r"cannot be imported \(ZeroDivisionError: division by zero\)$"):
        load_hooks([f"{name}:score"])


def test_two_hooks_of_one_name_are_refused(module: Callable[[str], str]) -> None:
    name = module(MODULE)
    with pytest.raises(ConfigError, match="have the same function name"):
        load_hooks([f"{name}:one", f"{name}:one"])
