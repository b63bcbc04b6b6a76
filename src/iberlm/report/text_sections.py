"""Sections that show text as it is (documents, generations) and the configuration."""

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from iberlm.report.blocks import Excerpt, Excerpts, Facts, Heading, Listing, Remark, Section
from iberlm.report.curation_sections import losses
from iberlm.report.reasons import reason_meaning, reason_name
from iberlm.report.run_folder import STAGES, RunFolder
from iberlm.report.wording import clean, counted_name, language_name, line, mapping, ordered, shorten, tag, whole

PACKAGES = (
    *("iberlm", "torch", "transformers", "accelerate", "deepspeed", "trl", "peft", "datasets", "tokenizers", "sentencepiece"),
    *("lm-eval", "hydra-core", "numpy", "pyarrow", "matplotlib"),
)


def samples(run: RunFolder) -> Section:
    """Documents that were kept and dropped, to judge the rules by."""
    lead = "The documents with the smallest hashes, not picked by anybody. A threshold is judged by what it drops. Personal data is replaced by tags."
    section = Section("samples", "Samples", lead)
    value, problem = run.read_json("select", "samples.json")
    kept = mapping(mapping(value).get("kept"))
    dropped = {name: mapping(reasons) for name, reasons in mapping(mapping(value).get("dropped")).items()}
    if not kept and not dropped:
        section.blocks.append(Remark(problem or "The file samples.json has no samples.", missing=True))
        return section
    counts = losses(run)
    for name in ordered({*kept, *dropped}):
        documents, lost = counts.get(name, (0, {}))
        folds = [Excerpts("Kept", _documents(kept.get(name)), count=_of(kept.get(name), documents))]
        reasons = sorted(dropped.get(name, {}), key=lambda reason: (-lost.get(reason, 0), reason))
        folds += [
            Excerpts(
                f"Dropped: {reason_name(reason)}",
                _documents(dropped[name][reason]),
                note=reason_meaning(reason),
                count=_of(dropped[name][reason], lost.get(reason, 0)),
            )
            for reason in reasons
        ]
        if shown := [fold for fold in folds if fold.items]:
            section.blocks += [Heading(counted_name(name), language=name), *shown]
    return section


def _of(entries: Any, documents: int) -> str:
    """How many of how many are shown."""
    shown = len(_documents(entries))
    return f"{whole(shown)} of {whole(documents)}" if documents > shown else whole(shown)


def _documents(entries: Any) -> list[Excerpt]:
    if not isinstance(entries, list):
        return []
    return [_document(entry) for entry in entries if isinstance(entry, dict)]


def _document(entry: dict[str, Any]) -> Excerpt:
    identified = entry.get("identified")
    meta = f"{line(entry.get('source'))} · identified as {language_name(str(identified))}"
    return Excerpt(line(entry.get("id")), shorten(clean(entry.get("text") or "")), tag(identified), meta)


def generations(run: RunFolder) -> Section:
    """What the pretrained model writes."""
    lead = "Continuations by the pretrained model, the prompt in bold, taking the likeliest token each time. A small model repeats itself."
    section = Section("generations", "Generations", lead)
    value, problem = run.read_json("pretrain", "generations.json")
    items = [_generation(entry) for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    if not items:
        section.blocks.append(Remark(problem or "The file generations.json has no generations.", missing=True))
        return section
    section.blocks.append(Excerpts("What the model writes", items, open=True))
    return section


def _generation(entry: dict[str, Any]) -> Excerpt:
    language, prompt = tag(entry.get("language")), clean(entry.get("prompt") or "")
    text = clean(entry.get("text") or "")
    rest = text[len(prompt) :] if text.startswith(prompt) else f"\n{text}"
    return Excerpt(language_name(language) if language else "language not told", shorten(rest), language, prompt=prompt)


def configuration(run: RunFolder) -> Section:
    """Settings of each stage and versions of the packages."""
    lead = "All settings that each stage ran with, after recipes and overrides were merged, and the versions that made this report."
    section = Section("configuration", "Configuration", lead)
    versions = [("Python", platform.python_version()), *((name, version) for name in PACKAGES if (version := package_version(name)))]
    section.blocks.append(Facts(versions))
    if not run.manifests:
        section.blocks.append(Remark("No stage of this run has finished.", missing=True))
    for role, manifest in run.manifests.items():
        text = clean(json.dumps(without_places(manifest.config, run.config.run_dir), indent=2, ensure_ascii=False, default=str))
        section.blocks.append(Listing(f"{STAGES[role]} · {line(manifest.code_version)} · key {line(manifest.key)[:12]}", text))
    return section


def package_version(name: str) -> str:
    """Version of an installed package, empty when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def without_places(value: Any, run_dir: str) -> Any:
    """A configuration whose paths do not tell the user's folders: the run's folder becomes RUN, the home folder ~."""
    if isinstance(value, dict):
        return {key: without_places(entry, run_dir) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_places(entry, run_dir) for entry in value]
    if not isinstance(value, str):
        return value
    for folder, short in ((str(Path(run_dir).absolute()), "RUN"), (str(Path.home()), "~")):
        if len(folder) > 1 and (value == folder or value.startswith(f"{folder}/")):
            return short + value[len(folder) :]
    return value
