"""Sections on what went in: the stages, the sources, documents and tokens."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from iberlm.cards import Card, check_card, find_card
from iberlm.core.documents import read_batches
from iberlm.core.errors import IberlmError
from iberlm.core.manifest import Manifest
from iberlm.report import charts
from iberlm.report.blocks import Cell, Column, Remark, Section, SourceCard, SourceCards, Table
from iberlm.report.run_folder import STAGES, RunFolder
from iberlm.report.wording import (
    clean,
    dig,
    duration,
    energy,
    language_name,
    line,
    listed,
    mapping,
    ordered,
    percent,
    real,
    size,
    spoken,
    whole,
)


def output_bytes(manifest: Manifest) -> int:
    """Bytes of all files that a stage wrote."""
    return sum(output.bytes for output in manifest.outputs)


def the_line(run: RunFolder) -> Section:
    """Time, memory, energy and size of each stage."""
    section = Section("line", "The line", "The stages in their order, with what each cost on the machine where it ran.")
    if not run.manifests:
        section.blocks.append(Remark("No stage of this run has finished.", missing=True))
        return section
    section.blocks.append(charts.stage_times([(STAGES[role], entry.wall_seconds, entry.cpu_seconds) for role, entry in run.manifests.items()]))
    columns = [Column("Stage"), *(Column(name, number=True) for name in ("Wall time", "CPU time", "Peak memory", "Energy", "Output", "Files"))]
    rows = [
        [
            Cell(STAGES[role]),
            Cell(duration(entry.wall_seconds), number=True),
            Cell(duration(entry.cpu_seconds), number=True),
            Cell(size(entry.peak_memory_bytes), number=True),
            Cell(energy(dig(entry.energy, "watt_hours")), number=True),
            Cell(size(output_bytes(entry)), number=True),
            Cell(whole(len(entry.outputs)), number=True),
        ]
        for role, entry in run.manifests.items()
    ]
    everything = list(run.manifests.values())
    total = [
        Cell("All stages"),
        Cell(duration(sum(entry.wall_seconds for entry in everything)), number=True),
        Cell(duration(sum(entry.cpu_seconds for entry in everything)), number=True),
        Cell(size(max(entry.peak_memory_bytes for entry in everything)), number=True),
        Cell(energy(watt_hours(run)), number=True),
        Cell(size(sum(output_bytes(entry) for entry in everything)), number=True),
        Cell(whole(sum(len(entry.outputs) for entry in everything)), number=True),
    ]
    section.blocks.append(Table("Cost of each stage", columns, [*rows, total]))
    methods = sorted({line(method) for entry in everything if (method := dig(entry.energy, "method"))})
    if methods:
        section.blocks.append(Remark(f"Energy is not measured but {'; '.join(methods)}. Peak memory is that of the largest process."))
    if run.missing:
        section.blocks.append(Remark(f"Not run: {listed(run.missing)}.", missing=True))
    if run.unknown:
        section.blocks.append(Remark(f"Stages that this report does not know: {listed(line(name) for name in run.unknown)}."))
    return section


def watt_hours(run: RunFolder) -> float:
    """Energy estimate of all stages together."""
    return sum(real(dig(entry.energy, "watt_hours")) or 0 for entry in run.manifests.values())


def sources(run: RunFolder) -> Section:
    """The data sets: licence, size, and what is known to be wrong with them."""
    section = Section("sources", "Sources", "The data sets behind every number below, as their data cards describe them.")
    licences = card_licences(run)
    if run.get("fetch") is None:
        section.blocks.append(Remark(run.not_run("fetch"), missing=True))
    if not licences:
        if run.get("fetch") is not None:
            section.blocks.append(Remark("No data card is named by any stage of this run.", missing=True))
        return section
    files, problem = run.read_lines("fetch", "files.jsonl") if run.get("fetch") else ([], "")
    if problem:
        section.blocks.append(Remark(problem, missing=True))
    documents = _documents_by_card(run)
    section.blocks.append(SourceCards([_source(name, licence, files, documents.get(name)) for name, licence in licences.items()]))
    return section


def card_licences(run: RunFolder) -> dict[str, str]:
    """Licence by name of the data card, over all stages."""
    found: dict[str, str] = {}
    for manifest in run.manifests.values():
        found.update(manifest.cards)
    return dict(sorted(found.items()))


def read_card(name: str) -> Card | None:
    """The data card called `name`; None when it is not on this machine or not valid."""
    try:
        return check_card(find_card(name))[0]
    except IberlmError:
        return None


def badges(card: Card) -> list[str]:
    """Words that a reader must not miss."""
    found = [card.source_type.replace("_", " ")]
    if card.source_type == "synthetic" or card.synthetic:
        share = card.quality.human_reviewed or 0.0
        found = ["synthetic", f"{percent(share, 1)} human-reviewed" if share else "not human-reviewed"]
    if card.personal_data.present != "none":
        found.append(f"personal data: {card.personal_data.present}")
    return found


def _documents_by_card(run: RunFolder) -> dict[str, dict[str, int]]:
    """Kept documents by card and language, counted from the selected documents; empty when they cannot be read."""
    selected = run.get("select")
    counted: dict[str, dict[str, int]] = {}
    for path in selected.paths("documents/", ".parquet") if selected else []:
        _count_cards(path, counted)
    return counted


def _count_cards(path: Path, counted: dict[str, dict[str, int]]) -> None:
    try:
        for batch in read_batches(path, ["card", "language"], batch_rows=1 << 16):
            for group in pa.Table.from_batches([batch]).group_by(["card", "language"]).aggregate([([], "count_all")]).to_pylist():
                languages = counted.setdefault(group["card"], {})
                languages[group["language"]] = languages.get(group["language"], 0) + group["count_all"]
    except (IberlmError, KeyError, ValueError):
        return


def _source(name: str, licence: str, files: list[dict[str, Any]], documents: dict[str, int] | None) -> SourceCard:
    own = [entry for entry in files if entry.get("card") == name]
    facts = []
    if documents:
        by_language = listed(f"{language_name(tag)} {whole(documents[tag])}" for tag in ordered(documents))
        facts.append(("Documents kept", f"{whole(sum(documents.values()))} ({by_language})"))
    if own:
        facts.append(("Raw files", f"{whole(len(own))}, {size(sum(real(entry.get('bytes')) or 0 for entry in own))}"))
    card = read_card(name)
    if card is None:
        text = "The data card is not on this machine (or is not valid), so only the licence that the run recorded is known."
        return SourceCard(line(name), line(name), line(licence), "", ["card not found"], text, [], facts)
    facts += [
        ("Version", line(card.version)),
        ("Registers", listed(spoken(register) for register in card.registers)),
        ("Permitted uses", listed(card.permitted_uses)),
        ("Removal requests", line(card.takedown.contact)),
    ]
    url = card.licence.url if card.licence.url.startswith(("https://", "http://")) else ""
    issues = [clean(issue) for issue in card.quality.known_issues]
    return SourceCard(line(name), line(card.title), line(card.licence.spdx), url, badges(card), line(card.description), issues, facts)


def documents_and_tokens(run: RunFolder) -> Section:
    """Size of each split by language."""
    section = Section("tokens", "Documents and tokens", "What training and validation read. Tokens count the marks that open and close each document.")
    metrics = run.metrics("tokenize")
    if run.get("tokenize") is None:
        section.blocks.append(Remark(run.not_run("tokenize"), missing=True))
    splits = ("train", "validation")
    tags = ordered({tag for split in splits for kind in ("documents", "tokens") for tag in mapping(dig(metrics, kind, split))})
    if tags:
        total = sum(real(dig(metrics, "tokens", "train", tag)) or 0 for tag in tags)
        heads = [f"{kind}, {split}" for kind in ("Documents", "Bytes", "Tokens") for split in splits]
        columns = [Column("Language"), *(Column(head, number=True) for head in heads), Column("Share of training tokens", number=True)]
        rows = []
        for tag in tags:
            cells = [Cell(whole(dig(metrics, "documents", split, tag)), number=True) for split in splits]
            cells += [Cell(size(dig(metrics, "bytes", split, tag)), number=True) for split in splits]
            cells += [Cell(whole(dig(metrics, "tokens", split, tag)), number=True) for split in splits]
            part = real(dig(metrics, "tokens", "train", tag)) or 0
            rows.append([Cell(language_name(tag), language=tag), *cells, Cell(percent(part, total), number=True, share=part / total if total else 0)])
        panels = [("Training tokens", {tag: value for tag in tags if (value := real(dig(metrics, "tokens", "train", tag))) is not None}, 0)]
        section.blocks += [charts.language_panels("tokens", "Training tokens by language", panels), Table("Documents, bytes and tokens", columns, rows)]
    return section
