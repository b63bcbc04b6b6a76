"""Plain lm-eval and ours give the same scores to the last digit: every output type, the same batches, one process or two."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.engine import Evaluated, evaluate_tasks
from iberlm.evaluate.quiet import quiet_harness
from tests.evaluate.local_tasks import TASKS, asked, write_tasks

BATCH = 4


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def ours(model: Path, store: Path, tasks: Path, names: list[str], **changes: Any) -> Evaluated:
    config = EvaluateConfig(model_folder=str(model), validation="-", store=str(store), num_fewshot=-1, **({"batch_size": BATCH} | changes))
    return evaluate_tasks(config, [asked(tasks, name) for name in names])


def values(found: Evaluated) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for row in found.results:
        table.setdefault(row["task"], {})[row["metric"] if "," in row["metric"] else f"{row['metric']},none"] = row["value"]
    return table


@pytest.fixture(scope="module")
def plain(plain_model: Path, tasks: Path) -> dict[str, dict[str, float]]:
    """Plain lm-eval's results at the same batch size, task by task: asked together, it puts requests of several tasks into one batch, and digits change."""
    with quiet_harness():
        model = AutoModelForCausalLM.from_pretrained(plain_model).eval()
        lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(plain_model), backend="causal", batch_size=BATCH, softmax_dtype="float32")
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        found = {name: simple_evaluate(lm, tasks=[name], task_manager=manager, bootstrap_iters=0, batch_size=BATCH)["results"][name] for name in TASKS}
    return {
        name: {key: value for key, value in result.items() if "," in key and not key.partition(",")[0].endswith("_stderr")} for name, result in found.items()
    }


def test_every_metric_of_every_output_type_is_the_same_to_the_last_digit(
    plain: dict[str, dict[str, float]], plain_model: Path, tasks: Path, tmp_path: Path
) -> None:
    found = values(ours(plain_model, tmp_path / "store", tasks, list(TASKS)))
    assert len(plain) >= 10
    assert found == plain


def test_two_processes_that_share_the_items_store_the_same(plain: dict[str, dict[str, float]], plain_model: Path, tasks: Path, tmp_path: Path) -> None:
    names = ["answers", "letters", "documents", "exact", "filtered"]
    alone = ours(plain_model, tmp_path / "alone", tasks, names)
    config = EvaluateConfig(model_folder=str(plain_model), validation="-", store=str(tmp_path / "store"), batch_size=BATCH)
    share_in_processes(config, tasks, names)
    found = evaluate_tasks(config, [asked(tasks, name) for name in names])
    assert found.computed == 0
    assert values(found) == values(alone) == {name: plain[name] for name in names}
    unstamped = [[{name: value for name, value in item.items() if name != "created"} for item in run.items] for run in (found, alone)]
    assert unstamped[0] == unstamped[1]


def share_in_processes(config: EvaluateConfig, tasks: Path, names: list[str]) -> None:
    """Both halves of the slices, one after the other: what two workers do."""
    from iberlm.evaluate.asking import answer_tasks

    for rank in range(2):
        answer_tasks(config, [asked(tasks, name) for name in names], rank, 2)


def test_batches_cut_by_tokens_give_the_same_within_rounding(plain: dict[str, dict[str, float]], plain_model: Path, tasks: Path, tmp_path: Path) -> None:
    found = values(ours(plain_model, tmp_path / "store", tasks, list(TASKS), batch_size=0, batch_tokens=300))
    for name, metrics in plain.items():
        assert found[name] == pytest.approx(metrics, rel=1e-5), name
