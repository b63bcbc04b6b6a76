"""Checkpoints across strategies and numbers of ranks, on real gloo ranks with real FSDP2 and real DeepSpeed."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iberlm.core.errors import ResourceError
from iberlm.core.manifest import Manifest
from iberlm.core.ranks import reserved_port, run_ranks
from iberlm.train.checkpoint_files import read_record
from iberlm.train.checkpoint_model import checkpoint_to_model

from . import elastic_ranks
from .elastic_ranks import Job, read_whole, text

ROOT = Path(__file__).parents[2]
FSDP2, DDP, SINGLE = {"name": "fsdp2"}, {"name": "ddp"}, {"name": "single"}
ZERO = {stage: {"name": f"zero{stage}"} for stage in (1, 2, 3)}
TENSOR = {"name": "fsdp2", "tensor": 2}
EVEN: dict[str, Any] = {"hidden_size": 32, "heads": 4}
Results = dict[str, dict[str, Any]]


def start(jobs: list[Job], folder: Path, *, apart: bool = False) -> Results:
    """Do the jobs on as many ranks as they ask for (one: in this process, unless `apart`); the first rank's results by label."""
    ranks = jobs[0].ranks
    if ranks == 1 and not apart:
        return {job.label: elastic_ranks.run(job, folder) for job in jobs}
    path = folder / f"jobs-{ranks}-{jobs[0].label}.json"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as held:
        ports = [held.enter_context(reserved_port()) for _ in jobs]
        path.write_text(json.dumps({"jobs": [dataclasses.asdict(job) for job in jobs], "ports": ports}))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ["PYTHONPATH"]]))
        run_ranks("tests.train.elastic_ranks", [str(path), str(folder)], ranks)
    return {job.label: json.loads((folder / f"{job.label}-0.json").read_text()) for job in jobs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elastic")


def saved(folder: Path, label: str) -> str:
    return str(folder / label / "step-00000002")


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """Runs of four steps saved after two, and what others made of their checkpoints."""

    def going_on(label: str, strategy: dict[str, Any], ranks: int, of: str, **settings: Any) -> Job:
        return Job(label, strategy, ranks, resume=saved(folder, of), until=4, again=True, **settings)

    two = [Job("fsdp2", FSDP2, 2, until=4, save=[2, 4])]
    two += [Job(f"zero{stage}", ZERO[stage], 2, until=4, save=[2, 4], precision="bf16") for stage in ZERO]
    two += [Job("muon", FSDP2, 2, until=4, save=[2, 4], optimizer="muon", tie_embeddings=True), Job("changed", FSDP2, 2, special="change_after_save")]
    two += [Job("changed-zero3", ZERO[3], 2, special="change_after_save")]
    two += [
        going_on("fsdp2-fsdp2", FSDP2, 2, "fsdp2"),
        going_on("fsdp2-ddp", DDP, 2, "fsdp2"),
        going_on("muon-fsdp2", FSDP2, 2, "muon", optimizer="muon", tie_embeddings=True),
    ]
    two += [going_on(f"fsdp2-zero{stage}", ZERO[stage], 2, "fsdp2") for stage in (2, 3)]
    two += [going_on(f"zero{stage}-zero{stage}", ZERO[stage], 2, f"zero{stage}", precision="bf16") for stage in ZERO]
    two += [going_on("zero1-fsdp2", FSDP2, 2, "zero1", precision="bf16")]
    found = start(two, folder)
    four = [going_on("fsdp2-fsdp2-4", FSDP2, 4, "fsdp2"), going_on("fsdp2-zero3-4", ZERO[3], 4, "fsdp2")]
    four += [going_on("zero2-zero2-4", ZERO[2], 4, "zero2", precision="bf16"), going_on("fsdp2-hsdp", {"name": "hsdp", "replicas": 2}, 4, "fsdp2")]
    # tensor parallelism splits heads, and these have an even number of them
    four += [Job("tensor", TENSOR, 4, until=4, save=[2, 4], **EVEN), going_on("tensor-tensor", TENSOR, 4, "tensor", **EVEN)]
    found |= start(four, folder)
    one = [going_on(f"{of}-single", SINGLE, 1, of) for of in ("fsdp2", "zero2", "zero3")]
    one += [going_on("tensor-single", SINGLE, 1, "tensor", **EVEN), Job("single", SINGLE, 1, until=4, save=[2, 4])]
    one += [going_on("muon-single", SINGLE, 1, "muon", optimizer="muon", tie_embeddings=True)]
    return found | start(one, folder)


PAIRS = ["fsdp2-fsdp2", "fsdp2-ddp", "fsdp2-zero2", "fsdp2-zero3", "fsdp2-fsdp2-4", "fsdp2-zero3-4", "fsdp2-hsdp", "fsdp2-single", "zero1-zero1", "zero1-fsdp2"]
PAIRS += ["zero2-zero2", "zero2-zero2-4", "zero2-single", "zero3-zero3", "zero3-single", "tensor-tensor", "tensor-single", "muon-fsdp2", "muon-single"]
SAME = {"fsdp2-fsdp2", "zero1-zero1", "zero2-zero2", "zero3-zero3", "tensor-tensor", "muon-fsdp2"}
"""The strategy and the number of ranks that saved it."""


@pytest.mark.parametrize("pair", PAIRS)
def test_a_checkpoint_is_read_whole_by_every_strategy_and_number_of_ranks(pair: str, results: Results, folder: Path) -> None:
    of = pair.split("-")[0]
    before, after = read_whole(Path(saved(folder, of))), read_whole(Path(saved(folder, f"{pair}-again")))
    assert before.keys() == after.keys()
    moments = {key.rpartition(".")[2] for key in before if key.startswith("optimizer.")}
    assert moments == ({"exp_avg", "exp_avg_sq", "step", "momentum_buffer"} if of == "muon" else {"exp_avg", "exp_avg_sq", "step"})
    for key, tensor in before.items():
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        assert torch.equal(tensor, after[key]), key
    assert results[pair]["begin"] == 2
    undisturbed = results[of]["losses"]
    assert len(undisturbed) == 4
    if pair in SAME:
        assert results[pair]["losses"] == undisturbed[2:]
    else:
        np.testing.assert_allclose(results[pair]["losses"], undisturbed[2:], rtol=1e-3 if of.startswith("zero") else 1e-5)


def test_the_strategies_train_alike(results: Results) -> None:
    np.testing.assert_allclose(results["fsdp2"]["losses"], results["single"]["losses"], rtol=1e-5)


def test_no_tensor_is_written_twice_and_the_work_is_shared(results: Results, folder: Path) -> None:
    for label, ranks in {"fsdp2": 2, "zero2": 2, "zero3": 2, "fsdp2-ddp-again": 2, "fsdp2-hsdp-again": 4}.items():
        path = Path(saved(folder, label))
        record = read_record(path)
        assert record["ranks"] == ranks
        sizes = [file.stat().st_size for file in path.glob("*.distcp")]
        assert len(sizes) == ranks
        single = sum(file.stat().st_size for file in Path(saved(folder, "single")).glob("*.distcp"))
        assert sum(sizes) < 1.2 * single + 100_000  # what many small tensors cost beside their numbers
        assert max(sizes) < 0.8 * sum(sizes)


@pytest.mark.parametrize("label", ["changed", "changed-zero3"])
def test_what_changes_after_save_is_not_written(label: str, results: Results, folder: Path) -> None:
    waited, background = (read_whole(folder / label / f"step-0000000{step}") for step in (1, 2))
    assert waited.keys() == background.keys()
    for key, tensor in waited.items():
        assert torch.equal(tensor, background[key]), key
    assert results[label]["losses"] == pytest.approx(results["fsdp2"]["losses"][1:2], rel=1e-4)  # training went on while the write waited


@pytest.mark.parametrize("label", ["single", "fsdp2", "zero1", "zero2", "zero3", "tensor", "muon"])
def test_the_exported_model_is_the_one_that_was_trained(label: str, results: Results, folder: Path, inputs: list[Manifest], tmp_path: Path) -> None:
    exported = checkpoint_to_model(Path(saved(folder, label)), tmp_path / "model", tokenizer=inputs[1].folder / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(str(exported))
    state = {key.removeprefix("model."): tensor for key, tensor in read_whole(Path(saved(folder, label))).items() if key.startswith("model.")}
    parameters = dict(model.named_parameters())
    assert parameters.keys() == state.keys()
    assert model.config.tie_word_embeddings == (label == "muon")
    for name, tensor in parameters.items():
        assert torch.equal(tensor, state[name])
    seen, tokens = torch.load(folder / f"{label}-2.pt"), text()
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="none")
    if label == "single":
        assert torch.equal(logits, seen["logits"])
    if label in ("single", "fsdp2", "muon"):
        assert torch.equal(losses, seen["losses"])
    else:  # bf16, or products of split matrices
        torch.testing.assert_close(losses, seen["losses"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("label", ["fsdp2", "zero2", "zero3", "tensor", "muon", "single"])
def test_the_whole_state_is_what_a_checkpoint_of_the_same_step_has(label: str, results: Results, folder: Path) -> None:
    assert results[label]["whole"] == len(torch.load(folder / f"{label}.pt"))
    whole = torch.load(folder / f"{label}.pt")
    last = {key.removeprefix("model."): tensor for key, tensor in read_whole(folder / label / "step-00000004").items() if key.startswith("model.")}
    assert whole.keys() == last.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, last[name]), name


def test_a_full_disk_is_told_on_all_ranks_and_a_kill_leaves_whole_checkpoints_only(small_disk: Path, tmp_path: Path) -> None:
    # a checkpoint of 9 MB: the disk has room for one, and for half of the next
    jobs = [Job("full", FSDP2, 2, resume=str(small_disk / "run"), hidden_size=352, heads=4, layers=1, special="fill_disk")]
    with pytest.raises(ResourceError, match=r"rank \d of 2"):
        start([*jobs, Job("killed", FSDP2, 2, until=2, special="be_killed")], tmp_path)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"full-{rank}.json").read_text())
        assert [kind for kind, _ in found["errors"]] == [ResourceError.__name__] * 3
        assert all("step-00000002: the disk (or quota) is full; free some space" in message for _, message in found["errors"])
        assert found["left"] == ["step-00000001"]
        assert found["step"] == 1
    left_by_a_kill(tmp_path, published="step-00000001")


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_none_of_it_under_its_name(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="SIGKILL"):
        start([Job("killed", SINGLE, 1, until=3, special="be_killed")], tmp_path, apart=True)
    left_by_a_kill(tmp_path, published="step-00000002")


def left_by_a_kill(folder: Path, published: str) -> None:
    names = sorted(path.name for path in (folder / "killed").iterdir())
    assert [name for name in names if not name.startswith(".")] == [published]
    assert len(names) <= 2  # what was begun, or half deleted, has no name
    found = start([Job("killed", SINGLE, 1, until=4, save=[4])], folder)
    assert found["killed"]["begin"] == int(published[-1])
    assert sorted(path.name for path in (folder / "killed").iterdir()) == [published, "step-00000004"]
