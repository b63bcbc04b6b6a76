"""Settings that every stage verb has, and the small checks that their `__post_init__` methods share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from iberlm.core.cluster import ClusterConfig
from iberlm.core.errors import ConfigError
from iberlm.core.stage import place

__all__ = ["ClusterConfig", "StageConfig", "at_least", "between", "given", "one_of"]


@dataclass(kw_only=True)
class StageConfig:
    """Base of a verb's settings. None of these decides what a stage makes, so none enters its key."""

    run_dir: str = place("runs/default")
    """Folder of the run: a stage reads and writes below it unless told otherwise."""
    out: str = place("")
    """Folder that this stage writes."""
    dry_run: bool = place(False)
    """Print what would happen and touch nothing."""
    confirm: float = place(0.0)
    """GPU-hours that a submission may use, where it may use many (`cluster.confirm_above_gpu_hours`)."""
    cluster: ClusterConfig = place(default_factory=ClusterConfig)


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise `ConfigError` unless `value` is among `choices`."""
    allowed = list(choices)
    if value not in allowed:
        raise ConfigError(f"{key}: unknown value '{value}'; choose among {', '.join(allowed)}")


def at_least(key: str, value: float, minimum: float) -> None:
    """Raise `ConfigError` unless `value >= minimum`."""
    if not value >= minimum:
        raise ConfigError(f"{key}: {value:g} is too small; it must be at least {minimum:g}")


def between(key: str, value: float, minimum: float, maximum: float) -> None:
    """Raise `ConfigError` unless `minimum <= value <= maximum`."""
    if not minimum <= value <= maximum:
        raise ConfigError(f"{key}: {value:g} is out of range; it must be from {minimum:g} to {maximum:g}")


def given(key: str, value: Any) -> None:
    """Raise `ConfigError` when a setting without a sensible default was left empty."""
    if value in ("", None, [], {}):
        raise ConfigError(f"{key}: must be given")
