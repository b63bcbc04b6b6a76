"""Every strategy on two real gloo ranks against the single process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.core.manifest import Manifest
from iberlm.core.ranks import run_ranks
from iberlm.train import pretrain
from iberlm.train.config import ModelConfig, StrategyConfig
from iberlm.train.worker import freeze

from .conftest import VOCABULARY, tiny

FOUND: dict[str, dict[str, Any]] = {
    "ddp": {"wrapper": "DistributedDataParallel", "optimizer": "AdamW", "sharded_parameters": 0},
    "fsdp2": {"wrapper": "FSDPLlamaForCausalLM", "optimizer": "AdamW"},
    "zero2": {"wrapper": "DeepSpeedEngine", "optimizer": "DeepSpeedZeroOptimizer", "sharded_parameters": 0},
}
TIED = ModelConfig(vocabulary_size=VOCABULARY, hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=64, max_position_embeddings=64, tie_embeddings=True)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def settings(name: str) -> dict[str, Any]:
    # tied embeddings are one parameter under two names, which sharding and its checkpoints must respect
    return {"model": TIED} if name == "fsdp2" else {}


@pytest.mark.parametrize("name", list(FOUND))
def test_two_ranks_train_like_one_and_resume_bit_for_bit(name: str, inputs: list[Manifest], tmp_path: Path) -> None:
    single = pretrain.run(tiny(**settings(name)), inputs, tmp_path / "single")
    config = tiny(strategy=StrategyConfig(name=name), cluster=ClusterConfig(processes=2), **settings(name))
    manifest = pretrain.run(config, inputs, tmp_path / "whole")
    found = manifest.metrics["strategy"]
    assert found["name"] == name
    assert found["ranks"] == 2
    assert found["backend"] == "gloo"
    assert FOUND[name].items() <= found.items()
    if name == "fsdp2":
        assert found["sharded_parameters"] == manifest.metrics["parameters"]
    whole = losses(manifest.folder)
    np.testing.assert_allclose(whole, losses(single.folder), rtol=1e-4)
    for tag, value in manifest.metrics["validation"].items():
        assert value["bits_per_byte"] == pytest.approx(single.metrics["validation"][tag]["bits_per_byte"], rel=1e-3)
    ids = torch.arange(20)[None]
    logits, expected = (AutoModelForCausalLM.from_pretrained(str(entry.folder / "model"))(ids).logits for entry in (manifest, single))
    torch.testing.assert_close(logits, expected, rtol=1e-2, atol=1e-3)

    # the newest checkpoint is damaged: the ranks agree to go on from the one of step 4
    for path in (tmp_path / "whole/checkpoints/step-00000006").rglob("*"):
        if path.is_file():
            path.unlink()
    frozen = freeze(config, inputs[0].folder, inputs[1].folder, tmp_path / "whole")
    run_ranks("iberlm.train.worker", [str(frozen)], 2)
    assert losses(tmp_path / "whole") == whole


@pytest.mark.parametrize(("name", "message"), [("ddp", "needs at least 2 ranks"), ("fsdp2", "needs at least 2 ranks"), ("zero2", "needs at least 2 ranks")])
def test_a_parallel_strategy_on_one_rank_is_refused(name: str, message: str, inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain.run(tiny(strategy=StrategyConfig(name=name)), inputs, tmp_path)


def test_single_on_two_ranks_is_refused_before_any_starts(inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"strategy=single runs one process and there are 2 ranks"):
        pretrain.run(tiny(cluster=ClusterConfig(processes=2)), inputs, tmp_path)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_valid_ones(inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"256 is not a multiple of 192 = sequence_length 32 x micro_batch_size 3 x 2 ranks; nearest are 192 and 384"):
        pretrain.run(tiny(micro_batch_size=3, strategy=StrategyConfig(name="ddp"), cluster=ClusterConfig(processes=2)), inputs, tmp_path)
