"""What stands for the model and the validation documents in the stage's key: checksums of the files that decide.

A file that a stage of ours wrote has its checksum in that stage's manifest; others are read.
"""

from pathlib import Path

from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.languages import file_safe
from iberlm.core.manifest import Output, find_manifest

WEIGHTS = "*.safetensors"
_SETTINGS = (
    "config.json",
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
    """SHA-256 of a file: from the manifest of its folder or of the one above where that lists it in this size, else by reading it."""
    path = path.resolve()
    for folder in (path.parent, path.parent.parent):
        for output in _listed(folder):
            if folder / output.path == path and output.bytes == path.stat().st_size:
                return output.sha256
    return sha256_file(path)


def _listed(folder: Path) -> list[Output]:
    try:
        manifest = find_manifest(folder)
    except CorruptError:  # other programs write a manifest.json too
        return []
    return manifest.outputs if manifest else []
