"""The adapter of lm-evaluation-harness: load the tasks, score them one by one with the model in this process, take the results.

The model is handed over in memory: `HFLM` on a path would look for other ranks through Slurm's environment variables
and wait for them. The harness's cache of requests is never used: it does not tell models apart (lm-eval issue 4063).
"""

import difflib
import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import sha256_json
from iberlm.core.needs import local_folder
from iberlm.core.progress import progress
from iberlm.core.resources import resource_dir
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import WEIGHTS, checksum
from iberlm.evaluate.model import load_model
from iberlm.evaluate.quiet import quiet_harness
from iberlm.evaluate.results import Scored, item_rows, metric_rows
from iberlm.evaluate.suite import SuiteTask

BOOTSTRAP_ITERATIONS = 1000
"""Resamples for the standard error of metrics without a formula for it (BLEU, F1); lm-eval's 100,000 can outlast the inference."""
LIKELIHOOD_REQUESTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")


def evaluate_tasks(config: EvaluateConfig, tasks: list[SuiteTask]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score every task; return the rows of results.parquet and of items.parquet, in the order of the suite."""
    if not tasks:
        raise DataError("evaluate: no task of the suite can be asked; the log above says why")
    results: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    with progress("evaluate", len(tasks), "tasks") as advance:
        remark = _Remark(advance)
        with quiet_harness(remark.requests):
            model, tokenizer = load_model(config)
            # a sum of log-probabilities in bfloat16 has steps of 1 from 128 on: minimal pairs would come out equal
            lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=config.batch_size, softmax_dtype="float32")
            manager = TaskManager(
                include_path=str(resource_dir("eval")), include_defaults=bool(config.suite.upstream), metadata={"validation": config.validation}
            )
            common = _common_columns(config, model)
            for task in tasks:
                remark.task = task.name
                scored = _score(config, lm, manager, task)
                results += [common | row for row in metric_rows(scored)]
                items += item_rows(scored)
                advance(1, task.name)
    return results, items


class _Remark:
    """Shows within a long task how many requests were scored."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.task, self.count = advance, "", 0

    def requests(self, n: int) -> None:
        self.count += n
        self.advance(0, f"{self.task}, {self.count:,} requests in all")


def _common_columns(config: EvaluateConfig, model: Any) -> dict[str, Any]:
    folder = local_folder(config.model_folder, config.cluster)
    return {
        "suite": config.suite.name,
        "model": config.model_folder,
        "weights": sha256_json({path.name: checksum(path) for path in sorted(folder.glob(WEIGHTS))}),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "batch_size": config.batch_size,
        "limit": config.limit,
        **{package: importlib.metadata.version(package) for package in ("lm_eval", "transformers", "torch")},
    }


def _score(config: EvaluateConfig, lm: HFLM, manager: TaskManager, wanted: SuiteTask) -> Scored:
    task = _load(manager, wanted.name)
    if task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", config.num_fewshot)
    task.set_fewshot_seed(config.seed)
    metadata = task.get_config("metadata") or {}
    chat = config.chat_template and not metadata.get("raw_text", False)
    # The rolling likelihood puts BOS before the text: a tokenizer that adds its own would have BOS scored after BOS.
    lm.add_bos_token = False if task.OUTPUT_TYPE == "loglikelihood_rolling" else None
    try:
        found = evaluate(
            lm,
            {"tasks": {wanted.name: task}, "groups": {}},
            limit=config.limit or None,
            bootstrap_iters=BOOTSTRAP_ITERATIONS,
            log_samples=True,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(f"{wanted.name}: out of memory with batch_size={config.batch_size}; halve it, or use dtype=bfloat16") from error
    samples = found["samples"][wanted.name]
    if task.OUTPUT_TYPE in LIKELIHOOD_REQUESTS:
        _refuse_nan(config, wanted, samples)
    return Scored(wanted, task, found["results"][wanted.name], found["higher_is_better"][wanted.name], samples, chat)


def _load(manager: TaskManager, name: str) -> Any:
    if name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.all_subtasks, 3)
        raise ConfigError(f"suite.upstream: lm-eval has no task '{name}'" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    if name not in manager.all_subtasks:
        raise ConfigError(f"suite.upstream: '{name}' is a group of lm-eval; name its tasks")
    try:
        return manager.load(name)["tasks"][name]
    except Exception as error:  # loaders of data sets raise what they like
        raise DataError(f"{name}: cannot be loaded ({type(error).__name__}: {error}); without a network its data set must be in the local cache") from error


def _refuse_nan(config: EvaluateConfig, task: SuiteTask, samples: list[dict[str, Any]]) -> None:
    for sample in samples:
        values = [response[0] if isinstance(response, tuple) else response for response in sample["filtered_resps"]]
        if not all(math.isfinite(value) for value in values):
            raise DataError(
                f"{config.model_folder}: log-likelihood {values} on item {sample['doc_id']} of {task.name}: its weights are damaged or overflow in "
                f"dtype={config.dtype}; look at the training's loss, or try dtype=float32"
            )
