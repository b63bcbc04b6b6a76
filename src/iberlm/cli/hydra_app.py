"""A stage verb as a Hydra application: `--cfg`, `--multirun`, `--info`, `--config-dir` work as Hydra's users expect.

Hydra composes and parses; this module registers the schema, keeps Hydra from writing folders of its own, turns the
configuration into the verb's dataclass (once, here), and rewrites Hydra's errors into one line that names the valid keys.
"""

import dataclasses
import difflib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from iberlm.cli.verbs import VERBS, Verb
from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, IberlmError
from iberlm.core.files import write_text
from iberlm.core.progress import say
from iberlm.core.resources import resource_dir

HYDRA_SETTINGS = [
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]
"""Hydra writes nothing: the run folder's manifests hold the resolved configuration. Programs that set these are respected."""


_OPTIONS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")


_LONGEST_NAME_BYTES = 200
"""File systems take 255 in a name."""


def register_schemas() -> None:
    """Store each verb's dataclass as `VERB_schema`, the first entry of its recipe's defaults."""
    store = ConfigStore.instance()
    for verb in VERBS.values():
        store.store(name=f"{verb.recipe}_schema", node=verb.config_class())


def search_path_override(config_dir: Path | None = None) -> str:
    """Makes `cluster=` look into `slurm/cluster/`, and every group into a folder of the user's."""
    folders = [resource_dir("slurm"), *([config_dir.absolute()] if config_dir else [])]
    return f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"


def hydra_main(verb: Verb, arguments: list[str]) -> int:
    """Run a verb's Hydra application with command-line `arguments`; return the exit status.

    Raises `ConfigError` for everything that is wrong with the recipe or the overrides.
    """
    _register_needed(verb)
    statuses: list[int] = []
    failures: list[IberlmError] = []
    sweep: list[StageConfig] = []

    def task(config: DictConfig) -> None:
        try:
            settings = _to_settings(verb, config)
            if _is_submitted(settings) and _is_sweep():  # all of them together, when Hydra has composed them
                sweep.append(settings)
            else:
                statuses.append(_execute(verb, settings))
        except OmegaConfBaseException as error:
            failures.append(ConfigError(explain(error, verb.config_class())))
        except IberlmError as error:  # kept from Hydra, which would print its overrides first; the other jobs of a sweep go on
            if _is_sweep():
                say(f"job {HydraConfig.get().job.num} failed: {error}")
            failures.append(error)

    program, environment = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    scratch = tempfile.TemporaryDirectory(prefix="iberlm-sweep-")  # where a sweep of Hydra's leaves what nobody reads
    ours = [f"hydra.sweep.dir={scratch.name}", "hydra.sweep.subdir=."]
    sys.argv = [f"iberlm {verb.name}", *_with_defaults(with_short_names(verb, arguments), ours)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us as exceptions
    try:
        hydra.main(version_base="1.3", config_path=str(resource_dir("recipes")), config_name=verb.recipe)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, verb.config_class())) from error
    except ValueError as error:  # Hydra's word on options that exclude each other
        if "can be specified" not in str(error) and "can only be used" not in str(error):
            raise
        raise ConfigError(str(error)) from error
    finally:
        scratch.cleanup()
        sys.argv = program
        if environment is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = environment
    if failures:
        raise failures[0]
    if sweep:
        from iberlm.cli.cluster_run import submit_sweep

        statuses.append(submit_sweep(verb, sweep))
    return max(statuses, default=0)


def _execute(verb: Verb, settings: StageConfig) -> int:
    """Do the work here, or submit it."""
    if not _is_submitted(settings):
        return verb.execute(settings)
    from iberlm.cli.cluster_run import submit_verb

    return submit_verb(verb, settings)


def _is_submitted(settings: StageConfig) -> bool:
    """A Slurm cluster is meant: of a pipeline by any of its stages, which may have one of their own."""
    stages = [getattr(settings, stage) for stage in getattr(settings, "stages", ())]
    return any(part.cluster.is_slurm for part in stages or [settings])


def compose_settings(verb: Verb, overrides: list[str], config_dir: Path | None = None) -> Any:
    """The settings that a verb would run with, without running it; `config_dir` as Hydra's `--config-dir`. Raises `ConfigError` as `hydra_main` does."""
    _register_needed(verb)
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(resource_dir("recipes"))):
            return OmegaConf.to_object(hydra.compose(verb.recipe, [search_path_override(config_dir), *with_short_names(verb, overrides)]))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, verb.config_class())) from error


def _register_needed(verb: Verb) -> None:
    if verb.recipe == "run":
        register_schemas()
    else:
        ConfigStore.instance().store(name=f"{verb.recipe}_schema", node=verb.config_class())


def _with_defaults(arguments: list[str], more: list[str]) -> list[str]:
    """`arguments` with ours among the overrides, and the overrides before the options: argparse wants them side by side."""
    overrides: list[str] = []
    options: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in _OPTIONS_WITH_VALUE or (before == "--info" and "=" not in argument)
        (options if argument.startswith("-") or is_value else overrides).append(argument)
    given = {override.split("=")[0] for override in overrides}
    ours = [setting for setting in [*HYDRA_SETTINGS, search_path_override(), *more] if setting.split("=")[0] not in given]
    return [*ours, *overrides, *options]


def with_short_names(verb: Verb, arguments: list[str]) -> list[str]:
    """`model=PATH` stands for `model_folder=PATH` (and `tokenizer=` likewise) where the verb has no setting of that name.

    Hydra would take it for a choice of the group `recipes/model/`, which other verbs have.
    """
    names = {entry.name for entry in dataclasses.fields(verb.config_class())}
    short = {name.removesuffix("_folder") for name in names if name.endswith("_folder")} - names
    return [re.sub(r"^(\+{0,2})(\w+)=", lambda found: f"{found[1]}{found[2]}_folder=" if found[2] in short else found[0], entry) for entry in arguments]


def _is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _to_settings(verb: Verb, config: DictConfig) -> StageConfig:
    """The verb's dataclass. In a sweep each job gets a folder of its own beside `out` (a pipeline: `run_dir`), named for its overrides."""
    if _is_sweep():
        folder = _sweep_folder(HydraConfig.get().overrides.task)
        key = "run_dir" if verb.recipe == "run" else "out"
        config[key] = str(Path(f"{config[key]}_sweep") / folder)
    settings = OmegaConf.to_object(config)
    if not isinstance(settings, verb.config_class()):
        raise ConfigError(f"recipes/{verb.recipe}.yaml: its defaults must start with '{verb.recipe}_schema'")
    return settings


def _sweep_folder(overrides: Sequence[str]) -> str:
    """Name of the folder of one job of a sweep: its overrides, without those that decide nothing of what is made."""
    kept = [override for override in overrides if not re.match(r"[+~]*(run_dir|out|dry_run|confirm|cluster)\b", override)]
    name = re.sub(r"[^\w.=,+-]", "_", ",".join(sorted(kept))) or "default"
    if len(name.encode()) <= _LONGEST_NAME_BYTES:
        return name
    return f"{name.encode()[:_LONGEST_NAME_BYTES].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def freeze(settings: StageConfig, path: Path) -> None:
    """Write resolved settings as YAML, for `iberlm VERB --frozen FILE`: a job never reads recipes edited since."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.structured(settings)))


def frozen_config(verb: Verb, path: Path) -> Any:
    """Read settings that `freeze` wrote."""
    try:
        loaded = OmegaConf.merge(OmegaConf.structured(verb.config_class()), OmegaConf.load(path))
        return OmegaConf.to_object(loaded)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {explain(error, verb.config_class())}") from error


def explain(error: Exception, schema: type[Any]) -> str:
    """One message for an error of Hydra or OmegaConf: the key, the value, and the keys or choices that are valid."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is no override; write KEY=VALUE or GROUP=CHOICE ({str(error).splitlines()[0]})"
    key = _key_of(error, cause)
    first = str(cause).strip().split("\n")[0]
    if isinstance(cause, MissingMandatoryValue):
        return f"{key}: must be given ({first})"
    if isinstance(cause, ValidationError) and not isinstance(cause, ConfigKeyError) and "Key '" not in first:
        return f"{key}: {first}"
    if isinstance(cause, OmegaConfBaseException) and ("not in '" in first or "is not in struct" in first or "not found" in first):
        return _unknown_key(key, schema)
    text = re.sub(r"\s*\n\s*", "; ", str(error).strip())
    return re.sub(r";? ?Set the environment variable HYDRA_FULL_ERROR=1.*", "", text)


def _key_of(error: Exception, cause: Exception) -> str:
    named = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^'=]+)", str(error))
    full = getattr(cause, "full_key", None)
    return str(full) if full else named[1] if named else "?"


def _unknown_choice(error: MissingConfigException) -> str:
    options = [option for option in error.options or [] if not option.startswith("_")]  # those are for recipes alone
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    if options:
        choices = ", ".join(sorted(options))
        hint = difflib.get_close_matches(name, options, 1)
        return f"{group}={name}: there is no such recipe{f'; did you mean {hint[0]}?' if hint else '.'} Choose among {choices}"
    return re.sub(r"\s*\n\s*", "; ", str(error).split("Config search path")[0].strip())


def _unknown_key(key: str, schema: type[Any]) -> str:
    parts = key.split(".")
    known, depth = keys_at(schema, parts[:-1])
    here = ".".join(parts[:depth])
    wrong = parts[min(depth, len(parts) - 1)]
    if not known:
        return f"{key}: '{here}' has no entry '{wrong}'; to add one write +{key}=..."
    if wrong in known and depth < len(parts) - 1:  # entries with names of the user's own
        free = ".".join(parts[: depth + 1])
        return f"{key}: '{free}' has no entry '{parts[depth + 1]}' yet; to add one write +{free}={{{parts[depth + 1]}: ...}}"
    close = difflib.get_close_matches(wrong, known, 1)
    where = f"'{here}'" if here else "this verb"
    hint = f"did you mean '{'.'.join([*parts[:depth], close[0]])}'? " if close else ""
    return f"{key}: unknown key; {hint}{where} has: {', '.join(known)}"


def keys_at(schema: type[Any], path: list[str]) -> tuple[list[str], int]:
    """Keys of the settings class that `path` leads to (none where they are free), and how many parts of the path were valid."""
    current: Any = schema
    key_of_dict = False
    for depth, part in enumerate(path):
        if key_of_dict:  # this part is free: a language tag, a source's name
            key_of_dict = False
            continue
        hints = get_type_hints(current)
        names = [entry.name for entry in dataclasses.fields(current)]
        following = next((kind for kind in (hints.get(part), *get_args(hints.get(part))) if dataclasses.is_dataclass(kind)), None)
        if part not in names or following is None:
            return names, depth
        current, key_of_dict = following, get_origin(hints[part]) is dict
    return [] if key_of_dict else [entry.name for entry in dataclasses.fields(current)], len(path)
