"""The card of a curated corpus: what is in it, under which licences, what was left out and why. Markdown with the hub's YAML header."""

from typing import Any

from iberlm.core.languages import LANGUAGES, NAMES
from iberlm.core.manifest import Counts
from iberlm.curate.config import SelectConfig

CHARACTERS_A_TOKEN = 4.0
"""To put a loss of text into tokens before there is a tokenizer; 3.9 to 4.6 for tokenizers of 32k to 64k trained on these languages."""


def corpus_card(counts: Counts, metrics: dict[str, Any], cards: dict[str, str], config: SelectConfig) -> str:
    """The card as Markdown. `metrics` are those of the select stage, `cards` the licence by data card."""
    tags = [tag for tag in LANGUAGES if counts.kept.get(tag)]
    header = ["---", "language:", *(f"- {tag}" for tag in tags), "configs:"]
    for tag in tags:
        safe = tag.replace("-", "_")
        header += [
            f"- config_name: {safe}",
            "  data_files:",
            f"  - {{split: train, path: documents/train.{safe}.*.parquet}}",
            f"  - {{split: validation, path: documents/validation.{safe}.parquet}}",
        ]
    sections = [_sizes(tags, counts, metrics), _licences(metrics, cards), _reservations(metrics), _left_out(counts), _personal_data(metrics, config)]
    return "\n".join([*header, "---", "", "# Curated corpus", "", *(row for section in sections for row in section)])


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


def _sizes(tags: list[str], counts: Counts, metrics: dict[str, Any]) -> list[str]:
    sizes = {tag: [metrics["bytes"][split].get(tag, 0) for split in ("train", "validation")] for tag in tags}
    rows = [_row(NAMES[tag], counts.kept[tag], *sizes[tag]) for tag in tags]
    return ["| language | documents | train bytes | validation bytes |", "|---|---:|---:|---:|", *rows, ""]


def _licences(metrics: dict[str, Any], cards: dict[str, str]) -> list[str]:
    rows = ["## Licences", "", "Every document names its own in the column `licence`.", "", "| language | licence | documents |", "|---|---|---:|"]
    for tag, licences in metrics["licences"].items():
        rows += [_row(NAMES.get(tag, tag), licence, documents) for licence, documents in sorted(licences.items(), key=lambda entry: (-entry[1], entry[0]))]
    return [*rows, "", "Data cards: " + (", ".join(f"{name} ({licence})" for name, licence in sorted(cards.items())) or "none") + ".", ""]


def _reservations(metrics: dict[str, Any]) -> list[str]:
    if not metrics["reserved"]:
        return ["## Reserved for others", "", "No document was left out because its page or site reserves its use.", ""]
    text = f"Tokens are estimated at {CHARACTERS_A_TOKEN:g} characters each; the share is of all text that was kept or reserved."
    rows = ["## Reserved for others", "", text, "", "| language | reason | documents | tokens, about | share |", "|---|---|---:|---:|---:|"]
    for tag, reasons in metrics["reserved"].items():
        whole = metrics["characters_kept"].get(tag, 0) + sum(loss["characters"] for loss in reasons.values())
        for reason, loss in sorted(reasons.items()):
            share = f"{100 * loss['characters'] / max(1, whole):.1f} %"
            rows.append(_row(NAMES.get(tag, tag), reason, loss["documents"], round(loss["characters"] / CHARACTERS_A_TOKEN), share))
    return [*rows, ""]


def _left_out(counts: Counts) -> list[str]:
    rows = ["## Left out", "", "| language | reason | documents |", "|---|---|---:|"]
    for tag, reasons in sorted(counts.dropped.items()):
        ordered = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))
        rows += [_row(NAMES.get(tag, tag), reason, documents) for reason, documents in ordered]
    return [*rows, ""]


def _personal_data(metrics: dict[str, Any], config: SelectConfig) -> list[str]:
    text = "Replacements by kind (`tag`: by the name of the kind, `pseudonym`: by an invented value)."
    rows = ["## Personal data", "", text, "", "| kind | policy | replaced |", "|---|---|---:|"]
    found = {kind: sum(language.get(kind, 0) for language in metrics["redacted"].values()) for kind in config.redact}
    return [*rows, *(_row(kind, policy, found[kind]) for kind, policy in sorted(config.redact.items())), ""]
