"""The command line that gives a number again."""

import shlex

from iberlm.evaluate.catalogue import TaskFacts, catalogue
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.suite import BITS_PER_BYTE


def command_of(config: EvaluateConfig, facts: TaskFacts) -> str:
    """`iberlm evaluate ...` for one task with these settings: those that decide the number, and where model and data lie."""
    known = facts.name in catalogue()
    words = ["iberlm", "evaluate", f"model={config.model_folder}"] if config.model_folder else ["iberlm", "evaluate"]
    words += (
        [f"suite.tasks=[{facts.family}]", f"suite.languages=[{facts.language}]"]
        if known
        else ["suite.tasks=[]", f"+suite.upstream={{{facts.language}: [{facts.name}]}}"]
    )
    if facts.name in config.suite.licences:
        words.append(f"+suite.licences={{{facts.name}: {config.suite.licences[facts.name]}}}")
    if facts.family == BITS_PER_BYTE:
        words.append(f"validation={config.validation}")
    if config.data_folder or config.cluster.bundle:
        words.append(f"data={config.data_folder or config.cluster.bundle}")
    defaults = EvaluateConfig(model_folder="-", validation="-")
    for name in ("num_fewshot", "limit", "dtype", "seed", "chat_template", "batch_size", "batch_tokens"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            words.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    for name in ("kind", "url", "model", "revision", "tokenizer", "endpoint", "context_tokens"):
        value = getattr(config.backend, name, "")
        if value and value != getattr(defaults.backend, name):
            words.append(f"backend.{name}={value}")
    return shlex.join(words)
