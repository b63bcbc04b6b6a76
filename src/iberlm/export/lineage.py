"""What a GGUF file says of its origin: name, licence, languages, and the manifest of the training run that made the weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from iberlm.core.errors import IberlmError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import FILE_NAME, Manifest, find_manifest


@dataclass(frozen=True)
class Lineage:
    """Of the model card (README.md) and of the manifest of the stage; empty where these say nothing."""

    licence: str = ""
    languages: list[str] = field(default_factory=list)
    run: dict[str, str] = field(default_factory=dict)
    """`stage`, `content_hash` and `code_version` of the run that made the weights."""
    cards: dict[str, str] = field(default_factory=dict)
    """Data cards that went into the run, with their licences."""
    notes: list[str] = field(default_factory=list)


def read_lineage(model: Path) -> Lineage:
    """Lineage of a model folder: of the manifest in the folder above it, if its files are still those that the manifest lists."""
    card = _model_card(model / "README.md")
    licence = card.get("license")
    stated = card.get("language")
    languages = [str(tag) for tag in stated] if isinstance(stated, list) else [str(stated)] if stated else []
    try:
        manifest = find_manifest(model.resolve().parent)
    except IberlmError as error:
        return Lineage(str(licence or ""), languages, notes=[f"without lineage: {error}"])
    if manifest is None:
        return Lineage(str(licence or ""), languages, notes=[f"without lineage: there is no {FILE_NAME} beside {model}"])
    if changed := _changed(manifest, model.resolve()):
        return Lineage(str(licence or ""), languages, notes=[f"without lineage: {changed} is not the file that {FILE_NAME} lists"])
    run = {"stage": manifest.stage, "content_hash": manifest.content_hash, "code_version": manifest.code_version}
    trained = manifest.metrics.get("mixture") or manifest.counts.kept
    return Lineage(str(licence or ""), languages or sorted(trained), run, manifest.cards)


def _changed(manifest: Manifest, model: Path) -> str:
    """The first file of the model that is not as the manifest lists it, or that it does not list at all; empty when all are."""
    listed = {output.path: output for output in manifest.outputs}
    for path in sorted(model.iterdir()):
        output = listed.get(f"{model.name}/{path.name}")
        if path.suffix in (".safetensors", ".json") and (output is None or path.stat().st_size != output.bytes or sha256_file(path) != output.sha256):
            return path.name
    return ""


def _model_card(path: Path) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes, as Hugging Face model cards have it; empty when there is none."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        value = YAML(typ="safe").load(text[4 : text.index("\n---", 4) + 1])
    except YAMLError:
        return {}
    return value if isinstance(value, dict) else {}
