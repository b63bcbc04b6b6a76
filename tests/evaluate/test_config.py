"""Settings are refused with the key, the value and what would do."""

import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig, suite_recipes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["readin"]}, r"suite\.tasks: unknown task 'readin'; did you mean 'reading'"),
        ({"tasks": ["xyzzy"]}, r"unknown task 'xyzzy'; choose among .*reading.*, or a family of docs/reference/evaluation-tasks\.md"),
        ({"tasks": ["reading_es"]}, r"unknown task 'reading_es'; name the family and give suite\.languages"),
        ({"tasks": ["reading", "reading"]}, r"suite\.tasks: 'reading' is listed twice"),
        ({"tasks": []}, "neither tasks nor upstream tasks"),
        ({"languages": []}, r"suite\.languages: must be given"),
        ({"languages": ["val"]}, r"suite\.languages: unknown language 'val'.*ca-valencia"),
        ({"upstream": {"ca_valencia": ["xnli_va"]}}, r"suite\.upstream: unknown language 'ca_valencia'"),
        ({"licences": {"eus_trivia": "CC BY 4.0"}}, r"suite\.licences\.eus_trivia: 'CC BY 4\.0' is not an SPDX licence; did you mean CC-BY-4\.0\?"),
        ({"licences": {"eus_trivia": "cc-by-4.0"}}, r"suite\.licences\.eus_trivia: 'cc-by-4\.0' is not the SPDX spelling; did you mean CC-BY-4\.0\?"),
        ({"licences": {"eus_trivia": "MIT OR"}}, r"suite\.licences\.eus_trivia: 'MIT OR' is not an SPDX expression .*; write e\.g\. 'CC-BY-4\.0'"),
        ({"licences": {"eus_trivia": "xyzzy"}}, r"'xyzzy' is not an SPDX licence; choose one from \S+ or a LicenseRef-NAME$"),
        ({"licences": {"eus_trivia": "CC-BY-4"}}, r"did you mean .*CC-BY-4\.0.*\? \(SPDX, or LicenseRef-NAME for what is not on its list\)$"),
        ({"licences": {"eus_trivia": " "}}, r"suite\.licences\.eus_trivia: must be given"),
        ({"licences": {"eus_trivia": None}}, r"suite\.licences\.eus_trivia: must be given"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SuiteConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_folder": ""}, "model_folder: must be given"),
        ({"validation": ""}, "validation: must be given for the task 'bits_per_byte'"),
        ({"limit": -1}, "limit: -1 is too small"),
        ({"num_fewshot": -2}, "num_fewshot: -2 is too small"),
        ({"batch_size": -1}, "batch_size: -1 is too small"),
        ({"batch_tokens": 0}, "batch_tokens: 0 is too small"),
        ({"processes": -1}, "processes: -1 is too small"),
        ({"contamination_share": 1.5}, "contamination_share: 1.5 is out of range"),
        ({"dtype": "fp8"}, "dtype: unknown value 'fp8'; choose among auto, float32, bfloat16, float16"),
        ({"device": "tpu"}, "device: unknown value 'tpu'; choose among auto, cpu, cuda, cuda:N, spread"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**({"model_folder": "model", "validation": "curate"} | settings))


def test_licences_by_hand_may_be_expressions_and_ones_own() -> None:
    licences = {"eus_trivia": "CC-BY-4.0 AND MIT", "paws_es": "LicenseRef-PAWS", "galcola": "LicenseRef-scancode-public-domain OR CC0-1.0"}
    assert SuiteConfig(licences=licences).licences == licences
    written = {"eus_trivia": " CC-BY-4.0  AND MIT\n", "paws_es": "LicenseRef-PAWS ", "galcola": "LicenseRef-scancode-public-domain\tOR CC0-1.0"}
    assert SuiteConfig(licences=written).licences == licences


def test_a_suite_made_in_python_is_filed_under_no_recipe_s_name() -> None:
    assert SuiteConfig().name not in suite_recipes()
    assert SuiteConfig().title == SuiteConfig(tasks=["reading"]).title == "unnamed"


def test_every_suite_recipe_makes_settings() -> None:
    recipes = sorted((resource_dir("recipes") / "suite").glob("*.yaml"))
    assert recipes
    for path in recipes:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), {"model_folder": "m", "validation": "v", "suite": OmegaConf.load(path)})
        config = OmegaConf.to_object(merged)
        assert isinstance(config, EvaluateConfig)
        assert config.suite.name == path.stem
    override = OmegaConf.from_dotlist(["model_folder=m", "suite.tasks=[reading]", "suite.upstream={ca-valencia: [xnli_va]}", "validation=v"])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluateConfig), override))
    assert isinstance(config, EvaluateConfig)
    assert config.suite.upstream == {"ca-valencia": ["xnli_va"]}


def test_validation_documents_are_not_asked_for_where_no_task_needs_them() -> None:
    assert EvaluateConfig(model_folder="model", suite=SuiteConfig(tasks=["reading"])).validation == ""


def test_neither_the_settings_nor_the_stage_import_torch_or_the_harness() -> None:
    code = "import sys, iberlm.evaluate.evaluate; print([name for name in ('torch', 'lm_eval', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
