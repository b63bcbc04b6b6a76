"""Settings: what is refused, and how it is said."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from iberlm.core.config import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir
from iberlm.core.stage import identity
from iberlm.finetune.config import DataConfig, FinetuneConfig, LoraConfig, MethodConfig, ScheduleConfig

SAMPLE = DataConfig(card="iberlm_sample")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": DataConfig()}, "data.card: must be given"),
        ({"data": DataConfig(kind="hub", card="c")}, "data.kind: unknown value 'hub'; choose among sample, path"),
        ({"data": DataConfig(kind="path", card="c")}, "data.paths: must be given"),
        ({"data": DataConfig(card="c", paths=["a.jsonl"])}, "set data.kind=path"),
        ({"data": DataConfig(card="c", languages=["val"])}, "for Valencian write 'ca-valencia'"),
        ({"data": DataConfig(card="c", validation_share=1.0)}, "data.validation_share: 1 is out of range"),
        ({"method": MethodConfig(kind="qlora")}, "method.kind: unknown value 'qlora'; choose among full, lora"),
        ({"method": MethodConfig(learning_rate=0.0)}, "method.learning_rate: 0; it must be above 0"),
        ({"method": MethodConfig(lora=LoraConfig(r=0))}, "method.lora.r: 0 is too small"),
        ({"method": MethodConfig(lora=LoraConfig(target_modules=["all-linear", "q_proj"]))}, "'all-linear' stands alone"),
        ({"schedule": ScheduleConfig(kind="wsd")}, "schedule.kind: unknown value 'wsd'"),
        ({"schedule": ScheduleConfig(warmup_fraction=1.0)}, "schedule.warmup_fraction: 1 is out of range"),
        ({"epochs": 0}, "epochs: 0 is too small"),
        ({"precision": "fp16"}, "precision: unknown value 'fp16'; choose among fp32, bf16"),
        ({"global_batch_examples": 10, "micro_batch_size": 4}, "not a multiple of 4 = micro_batch_size 4 x 1 ranks; nearest: 8 and 12"),
        ({"cluster": ClusterConfig(processes=3)}, "4 x 3 ranks; nearest: 12 and 24"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        FinetuneConfig(**({"data": SAMPLE} | settings))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_recipes_of_methods_and_data_are_valid(method: str) -> None:
    recipes = resource_dir("recipes")
    values = {"method": OmegaConf.load(recipes / "method" / f"{method}.yaml"), "data": OmegaConf.load(recipes / "data" / "sample.yaml")}
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FinetuneConfig), values))
    assert isinstance(config, FinetuneConfig)
    assert config.method.kind == method


def test_where_it_runs_and_where_the_files_lie_do_not_decide_the_key() -> None:
    here = FinetuneConfig(data=DataConfig(kind="path", card="c", paths=["a.jsonl"]), model_folder="m", micro_batch_size=2)
    there = FinetuneConfig(data=DataConfig(kind="path", card="c", paths=["b.jsonl"]), base="n", micro_batch_size=8, cluster=ClusterConfig(processes=2))
    assert identity(here) == identity(there)
    assert identity(here) != identity(FinetuneConfig(data=DataConfig(kind="path", card="d", paths=["a.jsonl"])))
