"""A task as it is to be asked: what it asks, of which data, with how many solved examples, and the key of all that. Nothing heavy is imported."""

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.files import sha256_file, sha256_json
from iberlm.core.needs import local_folder
from iberlm.evaluate.catalogue import OWN, TaskFacts, task_facts
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import chat_template_key, loaded_key, model_dtype, validation_files
from iberlm.evaluate.staging import Staged, overrides, staged
from iberlm.evaluate.suite import BITS_PER_BYTE, SuiteTask, resolve
from iberlm.evaluate.tasks import task_key_files

NO_TEMPLATE, OF_SERVER = "none", "server"
"""Templates that are no hash: the request as it is, and whatever template a server puts it into."""
SCORING = 2
"""Raised whenever the same answers come to other scores, intervals or notes."""
IDENTIFIER = Path(__file__).parents[1] / "curate" / "langid"
"""Where the models of the language identifier lie, which scores the answers of the family `fidelity`."""


@dataclass(frozen=True)
class Asked:
    """One task of an evaluation."""

    facts: TaskFacts
    staged: Staged | None
    """Its data in a bundle; None for tasks with data of their own, and for data in the local cache of the data sets library."""
    num_fewshot: int
    template: str
    """`none`, or the key of the chat template."""
    key: str
    """SHA-256 over all that decides the requests."""

    @property
    def known_before_loading(self) -> bool:
        """Whether `key` covers the data: not so for data in the cache of a library, whose content is not known before it is loaded."""
        return self.staged is not None or self.facts.source == OWN

    def load(self, config: EvaluateConfig) -> Any:
        """The task of lm-eval's, with its data, its shots and its seed."""
        from iberlm.evaluate.tasks import load_task

        given = overrides(self.staged) if self.staged is not None else {}
        task = load_task(self.facts, overrides=given, metadata={"validation": config.validation} if config.validation else {})
        self.prepare(task, config.seed)
        return task

    def prepare(self, task: Any, seed: int) -> None:
        """Set the number of solved examples, and begin their choice anew: every rendering of an item draws from it."""
        if task.get_config("num_fewshot") != 0 or self.num_fewshot == 0:
            task.set_config("num_fewshot", self.num_fewshot)
        task.set_fewshot_seed(seed)


@dataclass(frozen=True)
class ModelIdentity:
    """What is known of the model before it is loaded."""

    key: str
    dtype: str
    backend: str


def data_folders(config: EvaluateConfig) -> list[Path]:
    """Where staged data is looked for."""
    return [Path(folder).expanduser() for folder in (config.data_folder, config.cluster.bundle) if folder]


def identity(config: EvaluateConfig) -> ModelIdentity:
    """The model's part of the key of every answer. A server is asked for it; raises what `ask_server` raises."""
    if not config.in_process:
        from iberlm.evaluate.backends.server import ask_server

        return ModelIdentity(ask_server(config.backend, config.cluster).model, "unknown", config.backend.kind)
    folder = local_folder(config.model_folder, config.cluster)
    return ModelIdentity(loaded_key(folder, config.backend.context_tokens), model_dtype(folder, config.dtype), config.backend.kind)


def asked_tasks(config: EvaluateConfig, facts: list[TaskFacts]) -> list[Asked]:
    """The tasks as these settings ask them. Raises `ConfigError` for a chat template that is not there."""
    folders = data_folders(config)
    return [_asked(config, entry, staged(entry, folders)) for entry in facts]


def _asked(config: EvaluateConfig, facts: TaskFacts, data: Staged | None) -> Asked:
    shots = facts.num_fewshot if config.num_fewshot < 0 else config.num_fewshot
    template = _template(config) if config.chat_template and not facts.raw_text else NO_TEMPLATE
    decides: dict[str, Any] = {
        "files": task_key_files(facts),
        "data": data.fingerprint if data is not None else [facts.dataset, facts.dataset_config, facts.revision, _cached(facts)],
        "num_fewshot": shots,
        "seed": config.seed,
        "limit": config.limit,
        "template": template,
        "scoring": [SCORING, facts.metric, facts.chance, facts.best, facts.cluster, facts.group, facts.measures],
        "lm_eval": importlib.metadata.version("lm_eval"),
    }
    if facts.measures == "fidelity":
        decides["identifier"] = {path.name: sha256_file(path) for path in sorted(IDENTIFIER.glob("*.safetensors"))}
    if facts.family == BITS_PER_BYTE:
        decides["validation"] = validation_files(Path(config.validation), [facts.language])
    return Asked(facts, data, shots, template, sha256_json(decides))


def _cached(facts: TaskFacts) -> str:
    """Stands for what the data sets library has of a task's data in its cache: names, sizes and times of its files."""
    if facts.source == OWN:
        return ""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or str(Path(home) / "datasets")).expanduser()
    files = sorted((cache / facts.dataset.replace("/", "___")).rglob("*.arrow"))
    return sha256_json([[str(path.relative_to(cache)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]) if files else ""


def _template(config: EvaluateConfig) -> str:
    if config.in_process:
        return chat_template_key(local_folder(config.model_folder, config.cluster))
    if config.backend.endpoint == "completions":
        return chat_template_key(local_folder(config.backend.tokenizer, config.cluster))
    return OF_SERVER


def suite_facts(config: EvaluateConfig) -> tuple[list[TaskFacts], list[SuiteTask]]:
    """Facts of the suite's tasks, and cells of the table for which there is no task. Raises `ConfigError` for a task without licence."""
    tasks, missing = resolve(config.suite)
    return [task_facts(task.name, language=task.language, licences=config.suite.licences) for task in tasks], missing
