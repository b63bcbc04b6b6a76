"""The stage folders of a run, read with care: what is missing or broken becomes a sentence, never an exception."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iberlm.core.manifest import Manifest
from iberlm.report.config import ReportConfig
from iberlm.report.wording import mapping

STAGES = {
    "fetch": "Fetch",
    "extract": "Extract",
    "annotate": "Annotate",
    "dedup": "Deduplicate",
    "decontaminate": "Decontaminate",
    "robots": "Robots files",
    "quality": "Quality scores",
    "select": "Select",
    "train_tokenizer": "Train tokenizer",
    "tokenize": "Tokenize",
    "pretrain": "Pretrain",
    "evaluate": "Evaluate",
    "finetune": "Fine-tune",
    "evaluate_finetuned": "Evaluate fine-tuned",
}
"""Stages by role, in the order of the line. A role is the manifest's stage, but for the second evaluation."""

OPTIONAL = ("decontaminate", "robots", "quality")
"""Stages that run only where a recipe gives what they need: a run without them is complete."""
MAX_JSON_BYTES = 32 << 20
"""Larger JSON files are not what a stage writes for the report, and would not fit on a page."""


@dataclass
class RunFolder:
    """Manifests by role. A reading method returns a sentence when it cannot give what it was asked for."""

    manifests: dict[str, Manifest]
    config: ReportConfig
    unknown: list[str] = field(default_factory=list)
    """Stages that the report does not know."""

    @classmethod
    def of(cls, config: ReportConfig, inputs: list[Manifest]) -> "RunFolder":
        """Sort manifests by role."""
        found: dict[str, Manifest] = {}
        unknown = []
        for manifest in inputs:
            role = role_of(config, manifest)
            if role in STAGES:
                found[role] = manifest
            else:
                unknown.append(manifest.stage)
        return cls({role: found[role] for role in STAGES if role in found and _was_used(role, found)}, config, unknown)

    def get(self, role: str) -> Manifest | None:
        """The manifest of a role, None when the stage has not run."""
        return self.manifests.get(role)

    def metrics(self, role: str) -> dict[str, Any]:
        """What a stage measured; empty when it has not run."""
        manifest = self.manifests.get(role)
        return mapping(manifest.metrics) if manifest else {}

    @property
    def missing(self) -> list[str]:
        """Names of the stages that have not run, but for those that need not."""
        return [name for role, name in STAGES.items() if role not in self.manifests and role not in OPTIONAL]

    def not_run(self, role: str) -> str:
        """The sentence of a section whose stage has not run."""
        return f"The stage “{STAGES[role]}” has not run, so there is nothing to show here."

    def read_json(self, role: str, name: str) -> tuple[Any, str]:
        """The value of a JSON file of a stage and an empty sentence, or None and why not."""
        manifest = self.manifests.get(role)
        if manifest is None:
            return None, self.not_run(role)
        path = manifest.folder / name
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                return None, f"{name} of the stage “{STAGES[role]}” is larger than {MAX_JSON_BYTES >> 20} MiB and is not shown."
            return json.loads(path.read_text(encoding="utf-8", errors="replace")), ""
        except FileNotFoundError:
            return None, f"The stage “{STAGES[role]}” has run, but its file {name} is missing."
        except (OSError, ValueError, RecursionError):
            return None, f"The file {name} of the stage “{STAGES[role]}” cannot be read."

    def read_lines(self, role: str, name: str) -> tuple[list[dict[str, Any]], str]:
        """The objects of a JSON-lines file and an empty sentence; lines that are not objects are counted in the sentence."""
        manifest = self.manifests.get(role)
        if manifest is None:
            return [], self.not_run(role)
        rows: list[dict[str, Any]] = []
        broken = 0
        try:
            with (manifest.folder / name).open(encoding="utf-8", errors="replace") as stream:
                for text in stream:
                    row = _object(text)
                    if row is not None:
                        rows.append(row)
                    elif text.strip():
                        broken += 1
        except FileNotFoundError:
            return [], f"The stage “{STAGES[role]}” has run, but its file {name} is missing."
        except OSError:
            return rows, f"The file {name} of the stage “{STAGES[role]}” cannot be read."
        said = "1 line" if broken == 1 else f"{broken} lines"
        return rows, f"Of {name} (stage “{STAGES[role]}”), {said} cannot be read and had to be left out." if broken else ""


def _was_used(role: str, found: dict[str, Manifest]) -> bool:
    """Whether the selection read an optional stage: a folder may be left from an earlier run with other settings."""
    selected = found.get("select")
    return role not in OPTIONAL or selected is None or any(entry.get("key") == found[role].key for entry in selected.inputs)


def role_of(config: ReportConfig, manifest: Manifest) -> str:
    """Role of a manifest: its stage; the folder's name tells the evaluation of the fine-tuned model from the other one."""
    if manifest.stage == "evaluate":
        expected = Path(config.evaluate_finetuned).name or "evaluate_finetuned"
        return "evaluate_finetuned" if manifest.folder.name == expected else "evaluate"
    return manifest.stage


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return mapping(value) if isinstance(value, dict) else None
