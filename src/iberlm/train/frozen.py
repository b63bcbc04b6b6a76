"""The settings and inputs of a run as one JSON file: all ranks train from it, never from recipes edited since. Imports no torch."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.files import write_json
from iberlm.train.config import PretrainConfig

FROZEN = "frozen.json"


@dataclass(frozen=True)
class Inputs:
    """Folders that a run reads."""

    tokens: Path
    tokenizer: Path
    """Of the train-tokenizer stage; the files lie in `tokenizer/` below it."""
    replay: Path | None = None

    @property
    def tokenizer_files(self) -> Path:
        """Folder that `AutoTokenizer` loads."""
        return self.tokenizer / "tokenizer"


def freeze(config: PretrainConfig, inputs: Inputs, out: Path) -> Path:
    """Write `out/frozen.json` and return its path."""
    path = out / FROZEN
    folders = {"tokens_folder": str(inputs.tokens), "tokenizer_folder": str(inputs.tokenizer), "replay_folder": str(inputs.replay or ""), "out": str(out)}
    write_json(path, {"config": dataclasses.asdict(config), **folders})
    return path


def thaw(path: Path) -> tuple[PretrainConfig, Inputs, Path]:
    """What `freeze` wrote: settings, inputs and the folder of the run. Raises `OSError`, `ValueError` or `KeyError` for another file."""
    from omegaconf import OmegaConf  # a caller with settings of its own need not have it

    value = json.loads(path.read_text(encoding="utf-8"))
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PretrainConfig), value["config"]))
    replay = Path(value["replay_folder"]) if value["replay_folder"] else None
    return config, Inputs(Path(value["tokens_folder"]), Path(value["tokenizer_folder"]), replay), Path(value["out"])
