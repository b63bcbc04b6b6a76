"""Trackers: TensorBoard, trackio, MLflow or Weights & Biases through accelerate, all of them on disk below the run's folder.

No tracker reaches a network, whatever the environment says: compute nodes have none, and a run must not wait for a server.
What a tracker is shown is also in `metrics.jsonl`; a tracker is for looking, not for keeping.
"""

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, ResourceError
from iberlm.core.files import disk_errors, write_json
from iberlm.core.progress import say
from iberlm.train.config import PretrainConfig

TENSORBOARD, TRACKIO, MLFLOW, WANDB, NO_TRACKER = "tensorboard", "trackio", "mlflow", "wandb", "none"
PROJECT = "iberlm"
RUN_FILE = "tracker.json"
"""Beside the tracker's files: the name of the run in it, so that an interrupted run goes on in the same one."""

_REDIRECTIONS = {
    TRACKIO: ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL"),
    MLFLOW: ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_NESTED_RUN", "MLFLOW_REGISTRY_URI"),
    WANDB: ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_PROJECT", "WANDB_BASE_URL"),
}
"""Variables that would send a run elsewhere, or into another run."""


def check_tracker(name: str) -> None:
    """Raise `ConfigError` when a tracker is not installed: accelerate would leave it out without a word."""
    if name != NO_TRACKER and importlib.util.find_spec(name) is None:
        how = f'pip install "iberlm[{name}]"' if name != TENSORBOARD else "pip install tensorboard"
        raise ConfigError(f"tracker: {name} is not installed; install it with `{how}`, or set tracker=tensorboard or tracker=none")


def start_trackers(accelerator: Any, config: PretrainConfig, out: Path, begin: int) -> None:
    """Start the tracker that the accelerator was made with; on all ranks, though only the first writes. After `begin` steps it goes on in the same run.

    Settings are logged with it. Raises `ConfigError` when it is not installed, and `ResourceError` when accelerate did not start it.
    """
    name = config.tracker
    if name == NO_TRACKER:
        return
    check_tracker(name)
    folder = out / name
    if accelerator.is_main_process:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    _stay_offline(name, folder)
    before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["run"] if (folder / RUN_FILE).is_file() else ""
    accelerator.init_trackers(TENSORBOARD if name == TENSORBOARD else PROJECT, init_kwargs={name: _settings(name, folder, out, begin, before)})
    if accelerator.is_main_process:
        if [tracker.name for tracker in accelerator.trackers] != [name]:  # the other ranks may have none: only the first writes
            raise ResourceError(f"tracker={name} was asked for and not started; found {[tracker.name for tracker in accelerator.trackers]}")
        tracker = accelerator.get_tracker(name)
        if name != TENSORBOARD and not before:
            write_json(folder / RUN_FILE, {"run": _run_of(name, tracker.tracker)})
        _log_settings(tracker, name, config, begin, new=not before)
        say(f"pretrain: tracker {name}: {_how_to_look(name, folder)}")


def _stay_offline(name: str, folder: Path) -> None:
    for variable in _REDIRECTIONS.get(name, ()):
        if os.environ.pop(variable, None) is not None:
            say(f"pretrain: tracker {name} writes to {folder}: {variable} is not used")
    if name == TRACKIO:
        os.environ["TRACKIO_DIR"] = str(folder.resolve())
    elif name == MLFLOW:
        os.environ["MLFLOW_TRACKING_URI"] = _mlflow_store(folder)
    elif name == WANDB:
        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false", WANDB_CONSOLE="off")


def _mlflow_store(folder: Path) -> str:
    # the database needs SQLAlchemy, which mlflow-skinny does not bring
    if importlib.util.find_spec("sqlalchemy") is not None and importlib.util.find_spec("alembic") is not None:
        return f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    return folder.resolve().as_uri()


def _settings(name: str, folder: Path, out: Path, begin: int, before: str) -> dict[str, Any]:
    """What the tracker's own `init` takes; `before` names the run to go on in."""
    run = out.resolve().parent.name or PROJECT
    if name == TENSORBOARD:
        # what was logged after the checkpoint is made again; the numbers of step `begin` itself are not
        return {"purge_step": begin + 1}
    if name == MLFLOW:
        more = {"run_id": before} if before else {"run_name": run}
        return {"logging_dir": (folder / "artifacts").resolve().as_uri(), **more}
    if name == TRACKIO:
        return {"name": before or run, "resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    return {"name": run, "dir": str(out), "mode": "offline", **({"id": before} if before else {})}


def _run_of(name: str, run: Any) -> str:
    return str(run.info.run_id if name == MLFLOW else run.name if name == TRACKIO else run.id)


def _log_settings(tracker: Any, name: str, config: PretrainConfig, begin: int, *, new: bool) -> None:
    settings = flat_settings(config)
    if name == TENSORBOARD:
        # accelerate's own way makes two more folders at each start
        tracker.log({"settings": "\n".join(f"    {key}: {value}" for key, value in settings.items())}, step=begin)
    elif new or name != MLFLOW:  # MLflow refuses to change what it once knew of a run
        tracker.store_init_configuration(settings)


def flat_settings(config: PretrainConfig) -> dict[str, str | int | float | bool]:
    """Settings as dotted names: {"optimizer.learning_rate": 3e-4, "mixture.weights.es": 1.0}; lists as JSON."""
    found: dict[str, str | int | float | bool] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, entry in value.items():
                visit(f"{prefix}.{key}" if prefix else str(key), entry)
        else:
            found[prefix] = value if isinstance(value, str | int | float | bool) else json.dumps(value, ensure_ascii=False)

    visit("", dataclasses.asdict(config))
    return found


def _how_to_look(name: str, folder: Path) -> str:
    if name == TENSORBOARD:
        return f"tensorboard --logdir {folder}"
    if name == TRACKIO:
        return f"TRACKIO_DIR={folder} trackio show --project {PROJECT}"
    if name == MLFLOW:
        return f"mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}"
    return f"offline; where there is a network, wandb sync --append {folder}/offline-run-*"


def log(accelerator: Any, values: Mapping[str, Any], step: int) -> None:
    """Give numbers to the tracker, on the first rank. Nested ones become `outer/inner`; what is no finite number is left out."""
    if accelerator.trackers and accelerator.is_main_process:
        accelerator.log(dict(_numbers(values)), step=step)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, bool | int | float) and math.isfinite(value):
            found.append((_allowed(f"{prefix}{key}"), float(value)))
    return found


def _allowed(name: str) -> str:
    # MLflow's alphabet, the narrowest
    return "".join(character if character.isalnum() or character in "_-./ :" else "_" for character in name)
