"""One rank of the tests of `generations`: trains a little, generates in between, and writes down texts and losses."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from iberlm.core.ranks import rank_main
from iberlm.train.generations import generate_live, hook_model
from iberlm.train.hooks import Hook, HookContext, run_hooks
from iberlm.train.strategy import parallelize, session
from iberlm.train.training_model import build_training_model

from .conftest import VOCABULARY
from .strategy_ranks import GROUPS, Case, configured, gradients

PROMPTS = {"es": "La casa blanca", "ca-valencia": "La casa", "eu": ""}


def run(strategy: dict[str, Any], ranks: int, tokenizer: Any, out: Path, *, temperature: float = 0.0) -> dict[str, Any]:
    """Two steps with generations and a hook in between, and the same two steps without."""
    config, choices = configured(Case("", strategy, ranks))
    config.prompts, config.max_new_tokens, config.temperature = PROMPTS, 12, temperature
    found: dict[str, Any] = {}
    with session(config, choices, str(out)) as accelerator:
        for disturbed in (True, False):
            parallel = parallelize(accelerator, build_training_model(config, VOCABULARY, choices, GROUPS), config, choices)
            parallel.set_learning_rate(1e-2)
            losses = []
            for step in range(2):
                _, mean = gradients(parallel, step)
                parallel.update(~torch.isfinite(mean), float("inf"))
                losses.append(float(mean))
                if disturbed and step == 0:
                    found["texts"] = generate_live(parallel, tokenizer, config)
                    with hook_model(parallel) as model:
                        given = HookContext(step=1, model=model, tokenizer_folder=out, out=out, validation={}, rank=parallel.rank)
                        found["hook"] = run_hooks([Hook("width", width)], given)
                    assert parallel.module.training
                    assert "forward" not in vars(parallel.module)
            found["losses" if disturbed else "losses_undisturbed"] = losses
    return found


def width(context: HookContext) -> dict[str, float]:
    """A hook that asks the model for logits, whichever way it is given."""
    answer = context.model(torch.tensor([[2, 3, 4, 5]]))
    return {"vocabulary": getattr(answer, "logits", answer).shape[-1]}


def main(arguments: list[str]) -> None:
    """Cases one after the other: [[label, strategy, port], ...]."""
    cases, tokenizer, out = json.loads(arguments[0]), AutoTokenizer.from_pretrained(arguments[1]), Path(arguments[2])
    for label, strategy, port in cases:
        os.environ["MASTER_PORT"] = str(port)
        result = run(strategy, int(os.environ["WORLD_SIZE"]), tokenizer, out)
        (out / f"{label}-{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(main)
