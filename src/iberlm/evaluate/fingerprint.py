"""What stands for a model and for documents: checksums of the files that decide, and what a model's files say of it.

A file that a stage of ours wrote has its checksum in that stage's manifest; others are read. Nothing is loaded.
"""

import json
import math
import struct
from functools import cache
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import sha256_file, sha256_json
from iberlm.core.languages import file_safe
from iberlm.core.manifest import FILE_NAME, Output, find_manifest

WEIGHTS = "*.safetensors"
_KINDS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types of number by their names in safetensors."""
_SETTINGS = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "*.model",
)


def model_files(folder: Path) -> dict[str, str]:
    """SHA-256 by name of the weights, the configuration and the tokenizer of a Hugging Face model folder.

    Raises `DataError` when it is not one.
    """
    if not folder.is_dir():
        raise DataError(f"model_folder: there is no folder {folder}; train a model first or give the path of a Hugging Face model folder")
    if not (folder / "config.json").is_file():
        raise DataError(f"model_folder: {folder} holds no config.json, so it is not a Hugging Face model folder")
    if not any(folder.glob(WEIGHTS)):
        raise DataError(f"model_folder: {folder} holds no *.safetensors; weights in other formats are not read, convert them first")
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("*.model")):
        raise DataError(f"model_folder: {folder} holds no tokenizer files; copy the folder of the tokenizer that it was trained with into it")
    names = {path for pattern in (WEIGHTS, *_SETTINGS) for path in folder.glob(pattern) if path.is_file()}
    return {path.name: checksum(path) for path in sorted(names)}


@cache
def model_key(folder: Path) -> str:
    """Key of a model in the result store: SHA-256 over its weights, configuration and tokenizer, by content."""
    return sha256_json(model_files(folder))


def loaded_key(folder: Path, context_tokens: int) -> str:
    """`model_key`, and where the context is set to less than the model's own (0: it is not), also that: it decides where prompts are cut off."""
    return sha256_json([model_key(folder), context_tokens]) if context_tokens else model_key(folder)


def model_dtype(folder: Path, dtype: str) -> str:
    """The type of number that `dtype` means for this model: `auto` is what its config.json names, else that of its first weight."""
    if dtype != "auto":
        return dtype
    described = _read_json(folder / "config.json")
    if named := described.get("dtype") or described.get("torch_dtype"):
        return str(named).removeprefix("torch.")
    headers = [_header(path) for path in sorted(folder.glob(WEIGHTS))]
    kinds = [entry["dtype"] for header in headers for name, entry in (header or {}).items() if name != "__metadata__"]
    return next((_KINDS[kind] for kind in kinds if kind in _KINDS), "float32")


def chat_template_key(folder: Path) -> str:
    """SHA-256 of the model's chat template; raises `ConfigError` where it has none."""
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else _read_json(folder / "tokenizer_config.json").get("chat_template")
    if not template:
        raise ConfigError(f"chat_template: the tokenizer of {folder} has none; use chat_template=false for a base model")
    return sha256_json(template)


def context_tokens(folder: Path) -> int | None:
    """Longest text that the model takes, by its config.json; None where that does not say."""
    found = _read_json(folder / "config.json").get("max_position_embeddings")
    return int(found) if isinstance(found, int) else None


def parameters(folder: Path) -> int | None:
    """Number of weights, from the headers of the safetensors files; None when one cannot be read."""
    headers = [_header(path) for path in folder.glob(WEIGHTS)]
    if any(header is None for header in headers):
        return None
    return sum(int(math.prod(entry["shape"])) for header in headers for name, entry in (header or {}).items() if name != "__metadata__")


def _header(path: Path) -> dict[str, Any] | None:
    """What a safetensors file says of its tensors: eight bytes of length, then JSON. None when it cannot be read."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            return dict(json.loads(stream.read(min(length, 1 << 28))))
    except (OSError, ValueError, struct.error):
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return found if isinstance(found, dict) else {}


def validation_file(folder: Path, language: str) -> Path | None:
    """The language's validation documents in a curated folder or in its subfolder `documents`; None when there are none."""
    name = f"validation.{file_safe(language)}.parquet"
    return next((path for path in (folder / name, folder / "documents" / name) if path.is_file()), None)


def validation_files(folder: Path, languages: list[str]) -> dict[str, str | None]:
    """SHA-256 by language of the validation documents, None for a language without. Raises `DataError` when no language has any."""
    found = {language: validation_file(folder, language) for language in languages}
    if languages and not any(found.values()):
        raise DataError(f"validation: {folder} holds no validation.LANG.parquet for {', '.join(languages)}; give the 'curate' folder of a run")
    return {language: checksum(path) if path else None for language, path in found.items()}


def checksum(path: Path) -> str:
    """SHA-256 of a file: from the manifest of its folder or of the one above, else by reading it.

    A manifest is believed where it lists the file in this size, and the file is not newer: weights of one architecture all have one size.
    """
    path = path.resolve()
    for folder in (path.parent, path.parent.parent):
        for output in _listed(folder):
            if folder / output.path == path and output.bytes == path.stat().st_size and path.stat().st_mtime_ns <= (folder / FILE_NAME).stat().st_mtime_ns:
                return output.sha256
    return sha256_file(path)


def _listed(folder: Path) -> list[Output]:
    try:
        manifest = find_manifest(folder)
    except CorruptError:  # other programs write a manifest.json too
        return []
    return manifest.outputs if manifest else []
