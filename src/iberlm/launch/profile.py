"""Cluster profiles, `slurm/cluster/*.yaml`: read them, and refuse to submit with facts that nobody has verified.

A fact counts as confirmed when its setting was given another value than the shipped profile's, or when the user lists it in
`cluster.confirmed`.
"""

import dataclasses
import difflib
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iberlm.core.cluster import ClusterConfig, FactConfig, setting
from iberlm.core.errors import ConfigError
from iberlm.core.resources import resource_dir

_NOT_FOR_JOBS = ("device", "scratch", "login_internet", "account_required")
"""Settings that no job depends on: `iberlm plan`, `doctor`, the checks before submission and people read them."""


def profiles() -> dict[str, Path]:
    """The shipped profiles by name, in alphabetical order."""
    return {path.stem: path for path in sorted((resource_dir("slurm") / "cluster").glob("*.yaml"))}


def load_profile(path: Path) -> ClusterConfig:
    """The settings of one profile, typed. Raises `ConfigError` with the path and the key for what is no setting or of the wrong type."""
    try:
        read = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except Exception as error:  # the YAML library's own classes, which omegaconf does not wrap
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not OmegaConf.is_dict(read) or ("name" not in read and "defaults" not in read):
        raise ConfigError(f"{path}: no profile; a profile has one setting a line, such as 'partition: gpu', and 'name' among them")
    if "defaults" in read:
        raise ConfigError(f"{path}: a profile with 'defaults' is read as cluster={path.stem} with --config-dir, not by itself")
    try:
        loaded: ClusterConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ClusterConfig), read))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_facts(loaded, str(path))
    return loaded


def unverified(cluster: ClusterConfig) -> dict[str, FactConfig]:
    """Facts that a job would rest on and that neither a source of the centre nor the user vouches for, by the name of their setting.

    Left out are facts whose setting is empty or of another queue, those in `confirmed`, and those to which the user gave
    another value than the shipped profile of this name. Raises `ConfigError` for a fact or a confirmation of no setting.
    """
    _check_facts(cluster, f"cluster {cluster.name}")
    shipped = _shipped(cluster.name)
    return {
        key: fact
        for key, fact in cluster.facts.items()
        if not fact.verified and key not in cluster.confirmed and _in_use(cluster, key) and (shipped is None or _value(shipped, key) == _value(cluster, key))
    }


def require_verified(cluster: ClusterConfig) -> None:
    """Raise `ConfigError` for facts that must be confirmed before anything is submitted: each with its value and source, and how to confirm them."""
    missing = unverified(cluster)
    if not missing:
        return
    listed = "".join(
        f"\n  {key} = {_shown(_value(cluster, key))}: {fact.source or 'no source'}{f' ({fact.date})' if fact.date else ''}" for key, fact in missing.items()
    )
    confirmed = ",".join(dict.fromkeys([*cluster.confirmed, *missing]))
    raise ConfigError(
        f"cluster={cluster.name}: nobody has verified{' this fact' if len(missing) == 1 else f' these {len(missing)} facts'} of the profile:{listed}\n"
        f"`iberlm doctor cluster={cluster.name}` compares them with Slurm. Give a setting its right value (cluster.KEY=VALUE), or confirm them: "
        f"'cluster.confirmed=[{confirmed}]'; a profile of your own keeps that"
    )


@cache
def _shipped(name: str) -> ClusterConfig | None:
    path = profiles().get(name)
    return load_profile(path) if path else None


def _in_use(cluster: ClusterConfig, key: str) -> bool:
    """True when a job of the cluster depends on the setting: a queue's limits count when it is asked for, the container's settings when there is one."""
    first, _, rest = key.partition(".")
    value = _value(cluster, key)
    asks_nothing = not value and value is not False  # False states something: that nodes are shared, that there is no internet
    if not cluster.is_slurm or first in _NOT_FOR_JOBS or asks_nothing:
        return False
    if first == "queues":
        return rest.partition(".")[0] in (cluster.qos if cluster.qos in cluster.queues else cluster.partition, "")
    return first != "container" or bool(cluster.container.image)


def _value(cluster: ClusterConfig, key: str) -> Any:
    """The value of a setting; None when an entry of a dictionary is not there any more."""
    try:
        return setting(cluster, key)
    except KeyError:
        return None


def _check_facts(cluster: ClusterConfig, where: str) -> None:
    schema = ClusterConfig()
    for key in cluster.facts:
        first, _, rest = key.partition(".")
        if first in ("environment", "task_environment", "queues") and rest:
            continue  # entries that people name
        try:
            setting(schema, key)
        except (KeyError, TypeError):
            names = [entry.name for entry in dataclasses.fields(schema)]
            raise ConfigError(f"{where}: facts.{key}: there is no such setting{_close(key, names)}") from None
    for key in cluster.confirmed:
        if key not in cluster.facts:
            known = ", ".join(cluster.facts) or "none"
            raise ConfigError(f"{where}: cluster.confirmed: '{key}' is no fact of the profile{_close(key, list(cluster.facts))}; its facts: {known}")


def _close(key: str, among: list[str]) -> str:
    close = difflib.get_close_matches(key, among, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _explain(error: OmegaConfBaseException) -> str:
    """The key and what is wrong with it; for an unknown key, those that there are."""
    key, first = getattr(error, "full_key", None) or "?", str(error).strip().split("\n")[0]
    kind = getattr(error, "object_type", None)
    if "not in '" in first and dataclasses.is_dataclass(kind):
        known = [entry.name for entry in dataclasses.fields(kind)]
        return f"{key}: unknown key{_close(str(key).rpartition('.')[2], known)}; there are: {', '.join(known)}"
    return f"{key}: {first}"


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
