"""Training under a strategy as a test sees it, on real ranks: `python -m tests.train.strategy_ranks SESSIONS.json FOLDER` is one of them."""

import contextlib
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from iberlm.core.config import ClusterConfig
from iberlm.core.ranks import rank_main, reserved_port, run_ranks
from iberlm.train.config import ModelConfig, OptimizerConfig, PretrainConfig, StrategyConfig
from iberlm.train.config_groups import DEEPSPEED
from iberlm.train.hardware import Choices
from iberlm.train.strategy import Parallel, parallelize, session
from iberlm.train.training_model import build_training_model

from .conftest import VOCABULARY, tiny

STEPS, SAMPLES, LENGTH, GROUPS = 4, 8, 32, 3
BAD = {0: "bad", 2: "norm", 3: "not finite"}
"""Before these steps a step is tried that is bad in this way."""
ROOT = Path(__file__).parents[2]
Results = dict[str, Any]
NO_LIMIT = float("inf")
MODEL = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64, "max_position_embeddings": 64, "initializer_range": 0.1}


@dataclasses.dataclass
class Case:
    """What is trained, and how."""

    label: str
    strategy: dict[str, Any]
    ranks: int
    precision: str = "fp32"
    optimizer: str = "adamw"
    tie_embeddings: bool = False
    masking: bool = True
    compile: bool = False
    checkpointing: str = "none"
    faults: bool = True
    """Also train with steps that are left out."""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    micro_batch_size: int = 2
    deferred: bool = True
    """Whether whole gradients are kept until the last micro step, as they are on a CPU."""


def configured(case: Case) -> tuple[PretrainConfig, Choices]:
    config = tiny(
        model=ModelConfig(vocabulary_size=VOCABULARY, tie_embeddings=case.tie_embeddings, **(MODEL | case.model)),
        strategy=StrategyConfig(**case.strategy),
        optimizer=OptimizerConfig(kind=case.optimizer, learning_rate=1e-2),
        cluster=ClusterConfig(processes=case.ranks),
        sequence_length=LENGTH,
        global_batch_tokens=SAMPLES * LENGTH,
        micro_batch_size=case.micro_batch_size,
        precision=case.precision,
        activation_checkpointing=case.checkpointing,
        tracker="none",
        clip_norm=0.5,
    )
    config.objective.document_masking = case.masking
    return config, Choices(case.precision, case.compile, "sdpa", "plain", ())


def samples(step: int) -> torch.Tensor:
    """Inputs, targets, positions and groups of a step, int64[4, SAMPLES, LENGTH], with two documents in each row."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(2, VOCABULARY, (SAMPLES, LENGTH + 1))
    ends = generator.integers(5, LENGTH - 5, (SAMPLES, 1))
    columns = np.arange(LENGTH)[None]
    positions = np.where(columns < ends, columns, columns - ends)
    targets = np.where(columns == ends - 1, -100, tokens[:, 1:])
    groups = np.broadcast_to(generator.integers(0, GROUPS, (SAMPLES, 1)), targets.shape)
    return torch.from_numpy(np.stack([tokens[:, :-1], targets, positions, groups]))


def gradients(parallel: Parallel, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward over this rank's share of a step; sums by group over all ranks, and the mean loss."""
    mine = samples(step).chunk(parallel.data_world, dim=1)[parallel.data_rank]
    targets = parallel.all_reduce((parallel.slice_sequence(mine)[1] != -100).sum().float())
    scale = parallel.data_world * parallel.context_world / targets
    sums = torch.zeros(2, GROUPS)
    for number, whole in enumerate(mine.chunk(parallel.accumulation, dim=1)):
        inputs, labels, positions, groups = parallel.slice_sequence(whole)
        with parallel.accumulating(last=number == parallel.accumulation - 1):
            loss, found = parallel.model(inputs=inputs, targets=labels, positions=positions, groups=groups, scale=scale, whole_positions=whole[2])
            parallel.backward(loss)
        sums += found
    sums = parallel.all_reduce(sums)
    return sums, sums[0].sum() / targets


def train(parallel: Parallel, bad_before: dict[int, str]) -> dict[str, Any]:
    """Losses, norms and learning by step. Before the steps of `bad_before` another step, bad in this way, is tried and must change nothing."""
    seen: dict[str, Any] = {"losses": [], "norms": [], "sums": [], "left_out": []}
    for step in range(STEPS):
        parallel.set_learning_rate(1e-2 / (step + 1))
        if step in bad_before:
            seen["left_out"].append(left_out(parallel, bad_before[step]))
        sums, mean = gradients(parallel, step)
        norm, applied = parallel.update(~torch.isfinite(mean), NO_LIMIT)
        assert norm.shape == applied.shape == ()
        assert float(applied) == 1
        seen["losses"].append(float(mean))
        seen["norms"].append(float(norm))
        seen["sums"].append(sums.tolist())
    return seen


def left_out(parallel: Parallel, kind: str) -> dict[str, Any]:
    """Try a step on samples of its own that is bad, above the limit of the norm, or has gradients that are not finite."""
    before = snapshot(parallel)
    gradients(parallel, 100)
    if kind == "not finite":
        # one rank is enough, and only a part of its gradients
        scale = torch.tensor(float("nan") if parallel.rank == parallel.world - 1 else 0.0)
        mine = samples(101)[:, :1]
        inputs, labels, positions, groups = parallel.slice_sequence(mine)
        with parallel.accumulating(last=True):
            loss, _ = parallel.model(inputs=inputs, targets=labels, positions=positions, groups=groups, scale=scale, whole_positions=mine[2])
            parallel.backward(loss)
    norm, applied = parallel.update(torch.tensor(kind == "bad"), 1e-3 if kind == "norm" else NO_LIMIT)
    after = snapshot(parallel)
    same = before.keys() <= after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    # state that the optimiser makes in its first step, if this was the one, is that of no step at all
    new = all(not value.any() for key, value in after.items() if key not in before and not key.startswith("weights"))
    return {"kind": kind, "same": same, "new_is_zero": new, "tensors": len(before), "norm": float(norm), "applied": float(applied)}


def snapshot(parallel: Parallel) -> dict[str, torch.Tensor]:
    """Copies of this rank's parts of parameters, moments and step counts."""
    found: dict[str, torch.Tensor] = {}
    for number, parameter in enumerate(parallel.module.parameters()):
        value = getattr(parameter, "ds_tensor", parameter)
        found[f"parameter {number}"] = (value.to_local() if isinstance(value, DTensor) else value).detach().clone()
    for which, optimizer in enumerate(parallel.optimizers):
        for number, (weights, state) in enumerate(optimizer.state.items()):
            found[f"weights {which} {number}"] = (weights.to_local() if isinstance(weights, DTensor) else weights).detach().clone()
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    found[f"{key} {which} {number}"] = (value.to_local() if isinstance(value, DTensor) else value).detach().clone()
    return found


def run(accelerator: Accelerator, case: Case) -> dict[str, Any]:
    """Train a case as this rank, and again with steps left out."""
    config, choices = configured(case)
    results = {}
    for name, bad in {"straight": {}, "faulty": BAD}.items():
        if name == "faulty" and not case.faults:
            continue
        module = build_training_model(config, VOCABULARY, choices, GROUPS)
        parallel = parallelize(accelerator, module, config, choices)
        parallel.deferred = case.deferred
        results[name] = train(parallel, bad)
    where = {"rank": parallel.rank, "data_rank": parallel.data_rank, "context_rank": parallel.context_rank, "gathered": parallel.gather_objects(parallel.rank)}
    where["types"] = sorted({str(buffer.dtype) for buffer in parallel.module.buffers() if buffer.is_floating_point()})
    return results | {"verified": dataclasses.asdict(parallel.verified), "line": parallel.verified.line(), "where": where}


def main(arguments: list[str]) -> None:
    """Train the cases, in one world as far as they can share one: starting ranks is what takes time."""
    sessions, out = json.loads(Path(arguments[0]).read_text()), Path(arguments[1])
    for port, cases in sessions:
        # a store of its own: torch keeps one open for each port, and the next world would find this one's addresses in it
        os.environ["MASTER_PORT"] = str(port)
        for label, result in train_cases([Case(**case) for case in cases], out).items():
            (out / f"{label}-{os.environ['RANK']}.json").write_text(json.dumps(result))


def train_cases(cases: list[Case], out: Path) -> Results:
    """Train in this process, as one of the ranks or alone."""
    with session(*configured(cases[0]), str(out)) as accelerator:
        return {case.label: run(accelerator, case) for case in cases}


def train_on_ranks(cases: list[Case], out: Path) -> dict[str, list[Any]]:
    """Train each case on as many ranks as the first asks for; what each rank saw, by label."""
    shared = [case for case in cases if case.strategy["name"] not in DEEPSPEED]
    # DeepSpeed is set up for a whole session
    sessions = ([shared] if shared else []) + [[case] for case in cases if case not in shared]
    path = out / f"cases-{cases[0].label}.json"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as held:
        path.write_text(json.dumps([(held.enter_context(reserved_port()), [dataclasses.asdict(case) for case in part]) for part in sessions]))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        run_ranks("tests.train.strategy_ranks", [str(path), str(out)], cases[0].ranks)
    return {case.label: [json.loads((out / f"{case.label}-{rank}.json").read_text()) for rank in range(case.ranks)] for case in cases}


def follows(found: list[Any], reference: Any, *, rtol: float, norm_rtol: float | None = None) -> None:
    """The loss curve, the norms and the sums by group are the reference's within a tolerance, and the same bits on all ranks."""
    for rank in found:
        assert rank["straight"] == found[0]["straight"]
    np.testing.assert_allclose(found[0]["straight"]["losses"], reference["losses"], rtol=rtol)
    np.testing.assert_allclose(found[0]["straight"]["norms"], reference["norms"], rtol=norm_rtol or rtol)
    np.testing.assert_allclose(found[0]["straight"]["sums"], reference["sums"], rtol=rtol)


def leaves_out_exactly(found: list[Any]) -> None:
    """Bad steps changed nothing, bit for bit, and the steps after them are those of a run that had none."""
    for rank in found:
        assert [entry["kind"] for entry in rank["faulty"]["left_out"]] == list(BAD.values())
        for entry in rank["faulty"]["left_out"]:
            assert entry["same"], entry
            assert entry["new_is_zero"], entry
            assert entry["applied"] == 0
            assert math.isfinite(entry["norm"]) == (entry["kind"] != "not finite")
        assert {key: rank["faulty"][key] for key in ("losses", "norms", "sums")} == {key: rank["straight"][key] for key in ("losses", "norms", "sums")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(main)
