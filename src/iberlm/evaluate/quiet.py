"""lm-eval as a library: no network, no pool of forked processes, no log and no bars of its own."""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import datasets
from transformers.utils import logging as transformers_logging

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DISABLE_MULTIPROC": "1",  # lm-eval's bootstrap forks otherwise, and a fork of a process with torch's threads can hang
}
_BAR_MODULES = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface")
_OFFLINE_CONSTANTS = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE"))
_LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub")


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Within: lm-eval and the libraries below it are offline and silent.

    The environment is read by libraries at import, so the constants of those that are imported already are set too; all
    is put back at the end.
    """

    class Bar:
        """Takes tqdm's place in lm-eval, which draws one bar a batch of windows otherwise."""

        def __init__(self, iterable: Any = None, *_: Any, **__: Any) -> None:
            self.iterable = iterable

        def __iter__(self) -> Iterator[Any]:
            yield from self.iterable

        def update(self, n: int = 1) -> None:
            pass

        def close(self) -> None:
            pass

    with ExitStack() as stack:
        stack.callback(_restore_environment, {name: os.environ.get(name) for name in _ENVIRONMENT})
        os.environ.update(_ENVIRONMENT)
        for module, name in _OFFLINE_CONSTANTS:
            _replace(stack, module, name, True)
        for module in _BAR_MODULES:
            _replace(stack, module, "tqdm", Bar)
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        if transformers_logging.is_progress_bar_enabled():
            stack.callback(transformers_logging.enable_progress_bar)
            transformers_logging.disable_progress_bar()
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def _replace(stack: ExitStack, module_name: str, name: str, value: Any) -> None:
    module = importlib.import_module(module_name)
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)


def _restore_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
