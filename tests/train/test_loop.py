"""The loop against arithmetic done by hand, and what it does with steps that go wrong. Nothing is pretended: the spikes are real."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import DataError, ResourceError
from iberlm.core.manifest import Manifest
from iberlm.train import pretrain
from iberlm.train.config import PretrainConfig
from iberlm.train.config_groups import (
    CheckpointConfig,
    FaultsConfig,
    MixtureConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PhaseConfig,
    ScheduleConfig,
    StrategyConfig,
)
from iberlm.train.data import TrainingData, open_training, rank_numbers
from iberlm.train.model import build, materialise

from .conftest import VOCABULARY, tiny


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder)]


def documents_of(row: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The parts of a window of S + 1 tokens that belong to one document each, with the target of the last token of each."""
    begins = [0, *(index for index in range(1, len(row) - 1) if row[index] == 0), len(row) - 1]
    return [row[begin : end + 1] for begin, end in itertools.pairwise(begins)]


def by_hand(config: PretrainConfig, store: Manifest) -> list[float]:
    """Losses of plain training: each document alone, mean over the targets of the step, AdamW, clipping; no code of the loop."""
    data: TrainingData = open_training(config, store, VOCABULARY, bos=0)
    model = build(config.model, VOCABULARY, bos=0, eos=1)
    materialise(model, torch.device("cpu"), config.seed)
    spared = {id(model.model.embed_tokens.weight)}
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1 and id(parameter) not in spared]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1 or id(parameter) in spared]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    found = []
    for step in range(config.total_steps):
        rows = data.samples(rank_numbers(step, 0, 0, 1, config.global_batch_samples, config.global_batch_samples))
        total, targets = torch.zeros(()), 0
        for row in rows:
            for part in documents_of(row):
                ids = torch.from_numpy(part.astype(np.int64))
                labels = torch.where(ids[1:] == 0, -100, ids[1:])  # nothing tells which document comes next
                total = total + cross_entropy(model(ids[None, :-1]).logits[0], labels, ignore_index=-100, reduction="sum")
                targets += int((labels != -100).sum())
        loss = total / targets
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (step + 1) / 6  # the warm-up is as long as the run
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_is_plain_training_on_documents_one_by_one(processes: int, inputs: list[Manifest], tmp_path: Path) -> None:
    strategy = StrategyConfig(name="single" if processes == 1 else "ddp")
    config = tiny(
        steps=8,
        schedule=ScheduleConfig(kind="wsd", warmup_steps=6, decay_fraction=0),
        strategy=strategy,
        cluster=ClusterConfig(processes=processes),
        tracker="none",
    )
    pretrain.run(config, inputs, tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run")[:6], by_hand(config, inputs[0])[:6], rtol=2e-5)


def test_the_loss_by_group_adds_up_to_the_loss(inputs: list[Manifest], tmp_path: Path) -> None:
    pretrain.run(tiny(tracker="none", checkpoint=CheckpointConfig(every_steps=0)), inputs, tmp_path)
    for line in lines(tmp_path):
        assert {name.split("/")[0] for name in line["losses"]} <= {"es", "ca-valencia", "eu"}
        assert min(line["losses"].values()) <= line["loss"] <= max(line["losses"].values())
    assert {"es/books_0", "es/books_1", "eu", "ca-valencia"} == {name for line in lines(tmp_path) for name in line["losses"]}


def spiky(after: float, **faults: Any) -> PretrainConfig:
    """40 small steps on Spanish, but for a stretch after half of them on Basque, which the model has never seen: its loss is a real spike."""
    spanish, basque = MixtureConfig(kind="uniform", languages=["es"]), MixtureConfig(kind="uniform", languages=["eu"])
    phases = [PhaseConfig(until=0.5, mixture=spanish), PhaseConfig(until=0.5 + after, mixture=basque)]
    if after < 0.5:
        phases.append(PhaseConfig(until=1.0, mixture=spanish))
    return tiny(
        steps=40,
        phases=phases,
        optimizer=OptimizerConfig(learning_rate=2e-2),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0),
        checkpoint=CheckpointConfig(every_steps=10, keep_last=10),
        faults=FaultsConfig(**({"skip_sigma": 6, "window": 8, "max_skips": 2, "max_rollbacks": 1} | faults)),
        tracker="none",
    )


def test_a_spike_is_skipped_and_after_some_the_run_goes_back_without_the_data(inputs: list[Manifest], tmp_path: Path) -> None:
    manifest = pretrain.run(spiky(0.05), inputs, tmp_path / "spiky")
    events = lines(tmp_path / "spiky", "events.jsonl")
    assert [(event["step"], event["event"]) for event in events] == [(21, "skip"), (22, "skip"), (22, "rollback")]
    assert manifest.metrics["skipped_steps"] == 2
    assert manifest.metrics["rollbacks"] == 1
    assert manifest.metrics["gaps"] == [[20, 2]]
    assert [line["block"] for line in lines(tmp_path / "spiky")] == [*range(20), *range(22, 42)]
    assert all(line["applied"] for line in lines(tmp_path / "spiky"))
    assert max(losses(tmp_path / "spiky")[21:]) < losses(tmp_path / "spiky")[10] + 0.5, "it goes on where it was, on the language that it knows"


def test_a_skipped_step_changes_nothing_but_its_count(inputs: list[Manifest], tmp_path: Path) -> None:
    manifest = pretrain.run(spiky(0.05, max_skips=5), inputs, tmp_path / "skipped")
    found = lines(tmp_path / "skipped")
    assert [line["step"] for line in found if not line["applied"]] == [21, 22]
    assert manifest.metrics["rollbacks"] == 0
    # steps 23 and later read what the run above reads from step 21 on, from the same weights
    back = tmp_path / "back"
    pretrain.run(spiky(0.05), inputs, back)
    rate = [line["lr"] for line in found]
    assert rate[22:] == [line["lr"] for line in lines(back)][22:]
    assert losses(tmp_path / "skipped")[22] == losses(back)[20]


def test_a_run_that_does_not_recover_ends_and_keeps_its_checkpoints(inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 steps in a row could not be applied, and the run has gone back to step 20 1 times: it does not recover"):
        pretrain.run(spiky(0.5), inputs, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000010", "step-00000020"]


def test_a_loss_that_is_not_finite_is_never_applied(inputs: list[Manifest], tmp_path: Path) -> None:
    config = tiny(optimizer=OptimizerConfig(learning_rate=1e30), checkpoint=CheckpointConfig(every_steps=0), tracker="none")
    with pytest.raises(DataError, match=r"3 steps in a row up to step \d could not be applied .* and there is no checkpoint to go back to\. Lower optimizer"):
        pretrain.run(config, inputs, tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists() or not list((tmp_path / "run/checkpoints").iterdir())
    assert [line["loss"] for line in lines(tmp_path / "run") if not line["applied"]].count(None) >= 1


def test_without_validation_text_a_run_is_refused_unless_told(inputs: list[Manifest], tmp_path: Path, own_store: Any) -> None:
    store = own_store({"es": 40})
    value = json.loads((store.folder / "manifest.json").read_text())
    value["metrics"]["tokens"]["validation"] = {}
    value["outputs"] = [entry for entry in value["outputs"] if not entry["path"].startswith("validation/")]
    (store.folder / "manifest.json").write_text(json.dumps(value))
    from iberlm.core.manifest import read_manifest

    store = read_manifest(store.folder)
    with pytest.raises(DataError, match=r"has no validation text.*validation_tokens=-1 to train without"):
        pretrain.run(tiny(), [store, inputs[1]], tmp_path / "run")
    manifest = pretrain.run(tiny(validation_tokens=-1, tracker="none"), [store, inputs[1]], tmp_path / "run")
    assert manifest.metrics["validation"] == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_is_read(inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"device=cuda: torch finds no GPU on this machine"):
        pretrain.run(tiny(device="cuda"), inputs, tmp_path / "run")


def test_z_loss_is_minimised_and_not_shown(inputs: list[Manifest], tmp_path: Path) -> None:
    plain, heavy = (
        pretrain.run(tiny(objective=ObjectiveConfig(z_loss=value), tracker="none", steps=12), inputs, tmp_path / str(value)).folder for value in (0.0, 0.1)
    )
    assert losses(plain)[0] == pytest.approx(losses(heavy)[0], rel=1e-6)
    assert losses(plain)[-1] != losses(heavy)[-1]
    assert math.isfinite(losses(heavy)[-1])
