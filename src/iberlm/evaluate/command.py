"""The command line that gives a number again."""

import re
import shlex

from iberlm.evaluate.catalogue import TaskFacts, catalogue
from iberlm.evaluate.config import EvaluateConfig, SuiteConfig
from iberlm.evaluate.suite import BITS_PER_BYTE


def command_of(config: EvaluateConfig, facts: TaskFacts) -> str:
    """`iberlm evaluate ...` for one task with these settings: those that decide the number, and where model and data lie."""
    known = facts.name in catalogue()
    words = ["iberlm", "evaluate", f"model={_value(config.model_folder)}"] if config.model_folder else ["iberlm", "evaluate"]
    words += (
        [f"suite.tasks=[{facts.family}]", f"suite.languages=[{facts.language}]"]
        if known
        else ["suite.tasks=[]", f"+suite.upstream={{{facts.language}: [{facts.name}]}}"]
    )
    if facts.name in config.suite.licences:
        words.append(f"+suite.licences={{{facts.name}: {_value(config.suite.licences[facts.name])}}}")
    if facts.family == BITS_PER_BYTE:
        words.append(f"validation={_value(config.validation)}")
    if config.data_folder or config.cluster.bundle:
        words.append(f"data={_value(config.data_folder or config.cluster.bundle)}")
    defaults = EvaluateConfig(model_folder="-", validation="-")
    for name in ("num_fewshot", "limit", "dtype", "seed", "chat_template", "batch_size", "batch_tokens"):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            words.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    for name in ("kind", "url", "model", "revision", "tokenizer", "endpoint", "context_tokens", "key_variable"):
        value = getattr(config.backend, name, "")
        if value and value != getattr(defaults.backend, name):
            words.append(f"backend.{name}={_value(str(value))}")
    return shlex.join(words)


def suite_words(suite: SuiteConfig) -> list[str]:
    """The suite as overrides, every family and language: what was changed of a recipe by hand is in it."""
    words = [f"suite.tasks=[{','.join(suite.tasks)}]", f"suite.languages=[{','.join(suite.languages)}]"]
    for name in ("upstream", "licences"):
        entries = getattr(suite, name)
        if entries:
            shown = (f"{key}: [{', '.join(value)}]" if isinstance(value, list) else f"{key}: {_value(value)}" for key, value in entries.items())
            words.append(f"+suite.{name}={{{', '.join(shown)}}}")
    return words


def _value(text: str) -> str:
    """A value as Hydra's grammar takes it: in quotes where it holds what has a meaning there."""
    if re.fullmatch(r"[\w./:@+-]+", text, re.ASCII):
        return text
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", text)
    ending = re.search(r"\\*$", escaped)
    return f"'{escaped}{ending[0] if ending else ''}'"
