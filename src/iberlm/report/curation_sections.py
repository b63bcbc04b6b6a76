"""Sections on curation: the funnel, duplicates and contamination."""

from collections.abc import Iterable
from typing import Any

from iberlm.core.languages import LANGUAGES
from iberlm.report import charts
from iberlm.report.blocks import Block, Cell, Column, Facts, Remark, Section, Table
from iberlm.report.reasons import reason_meaning, reason_name
from iberlm.report.run_folder import RunFolder
from iberlm.report.wording import counted_name, dig, language_name, line, listed, mapping, ordered, percent, real, spoken, whole

NOT_DOCUMENTS = {"quarantine_": "in quarantine: damaged, or not as its format is", "skipped_": "passed over: in order, but no document"}
"""Beginnings of the reasons of extraction, and what became of the records."""


def losses(run: RunFolder) -> dict[str, tuple[int, dict[str, int]]]:
    """By language the documents kept and those dropped by reason, of all that were extracted; only kept ones before selection has run."""
    last = run.get("select") or run.get("extract")
    if last is None:
        return {}
    dropped = mapping(last.counts.dropped) if last.stage == "select" else {}
    return {tag: (last.counts.kept.get(tag, 0), dict(dropped.get(tag, {}))) for tag in ordered({*last.counts.kept, *dropped})}


def funnel(run: RunFolder) -> Section:
    """What was extracted, dropped (why) and kept."""
    section = Section(
        "funnel", "Funnel", "Documents extracted, dropped and kept. Every loss has one reason, the first that applies, and extracted = kept + dropped."
    )
    rows = losses(run)
    if run.get("select") is None:
        section.blocks.append(Remark(run.not_run("select"), missing=True))
    elif ours := [(tag, *counts) for tag, counts in rows.items() if tag in LANGUAGES]:  # of a crawl, nearly all is in other languages
        section.blocks.append(charts.funnel(ours))
    if rows:
        section.blocks.append(_by_language(rows))
    if any(dropped for _, dropped in rows.values()):
        section.blocks.append(_by_reason(rows))
    section.blocks += [*_languages(run), *_quality(run), *_not_extracted(run)]
    return section


def _by_language(rows: dict[str, tuple[int, dict[str, int]]]) -> Table:
    columns = [Column("Language"), *(Column(name, number=True) for name in ("Extracted", "Kept", "Kept share", "Dropped"))]
    table = []
    for tag, (kept, dropped) in rows.items():
        lost = sum(dropped.values())
        share = kept / (kept + lost) if kept + lost else 0.0
        cells = [Cell(counted_name(tag), language=tag), Cell(whole(kept + lost), number=True), Cell(whole(kept), number=True)]
        table.append([*cells, Cell(percent(kept, kept + lost), number=True, share=share), Cell(whole(lost), number=True)])
    return Table("Extracted, kept and dropped by language", columns, table)


def _by_reason(rows: dict[str, tuple[int, dict[str, int]]]) -> Table:
    reasons = summed(dropped for _, dropped in rows.values())
    columns = [Column("Reason"), Column("All", number=True), *(Column(counted_name(tag), number=True) for tag in rows)]
    table = [
        [
            Cell(reason_name(name).capitalize(), note=reason_meaning(name)),
            Cell(whole(reasons[name]), number=True),
            *(Cell(whole(dropped[name]) if name in dropped else "–", number=True) for _, dropped in rows.values()),
        ]
        for name in sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    ]
    return Table("Documents dropped by reason", columns, table)


def summed(parts: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Counts of several parts added up by name; what is no number counts nothing."""
    totals: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            totals[name] = totals.get(name, 0) + int(real(number) or 0)
    return totals


def _languages(run: RunFolder) -> list[Block]:
    """Languages as claimed and as identified."""
    claimed, identified = run.get("extract"), run.get("annotate")
    if claimed is None or identified is None:
        return []
    tags = ordered({*claimed.counts.kept, *identified.counts.kept})
    if not tags:
        return []
    columns = [Column("Language"), Column("As the sources claim", number=True), Column("As identified", number=True), Column("Difference", number=True)]
    rows = []
    for tag in tags:
        before, after = claimed.counts.kept.get(tag, 0), identified.counts.kept.get(tag, 0)
        difference = "0" if before == after else f"{after - before:+,}".replace("-", "−")
        rows.append([Cell(language_name(tag), language=tag), Cell(whole(before), number=True), Cell(whole(after), number=True), Cell(difference, number=True)])
    blocks: list[Block] = [Table("Languages claimed and identified", columns, rows)]
    mixed = real(run.metrics("annotate").get("mixed_documents"))
    if mixed is not None:
        share = percent(mixed, sum(identified.counts.kept.values()))
        blocks.append(Remark(f"{whole(mixed)} documents ({share}) have paragraphs that are surely in another language than the whole."))
    return blocks


def _quality(run: RunFolder) -> list[Block]:
    """How the scores of the quality classifier are spread."""
    tenths = mapping(run.metrics("quality").get("documents_by_tenth_of_score"))
    curves = {}
    for tag in ordered(tenths):
        counts = [real(number) or 0.0 for number in tenths[tag]] if isinstance(tenths[tag], list) else []
        if sum(counts) and len(counts) > 1:
            curves[tag] = [number / sum(counts) for number in counts]
    if not curves:
        return []
    remark = "The scores are those of a classifier that somebody trained for this run; what they mean is in the card beside its model."
    return [charts.score_shares(curves), Remark(remark)]


def _not_extracted(run: RunFolder) -> list[Block]:
    """Records of the sources that did not become documents."""
    extracted = run.get("extract")
    if extracted is None:
        return []
    lost = summed(mapping(reasons) for reasons in extracted.counts.dropped.values())
    blocks: list[Block] = []
    if lost:
        total = sum(lost.values()) + sum(extracted.counts.kept.values())
        columns = [Column("Reason"), Column("What became of them"), Column("Records", number=True), Column("Share of all", number=True)]
        rows = []
        for name in sorted(lost, key=lambda reason: (-lost[reason], reason)):
            said = next((words for prefix, words in NOT_DOCUMENTS.items() if name.startswith(prefix)), "")
            words = spoken(name.partition("_")[2] if said else name).capitalize()
            rows.append([Cell(words), Cell(said), Cell(whole(lost[name]), number=True), Cell(percent(lost[name], total), number=True)])
        blocks.append(Table("Records and files that are no documents", columns, rows))
    changed = {name: number for name, value in mapping(dig(extracted.metrics, "normalised")).items() if (number := real(value))}
    if changed:
        told = listed(f"{spoken(name)} in {whole(number)}" for name, number in sorted(changed.items(), key=lambda entry: -entry[1]))
        blocks.append(Remark(f"Normalised on the way, by number of documents: {told}."))
    return blocks


def repeats(run: RunFolder) -> Section:
    """Duplicates of four kinds, and texts of evaluations."""
    lead = "What repeats itself among all extracted documents, before any rule was applied, and what repeats the items of evaluations."
    section = Section("repeats", "Duplicates and contamination", lead)
    if run.get("dedup") is None:
        section.blocks.append(Remark(run.not_run("dedup"), missing=True))
    else:
        section.blocks += _duplicates(run)
    section.blocks += _contamination(run)
    return section


def _duplicates(run: RunFolder) -> list[Block]:
    metrics = run.metrics("dedup")
    total = real(metrics.get("documents")) or 0.0

    def counted(key: str) -> str:
        number = real(metrics.get(key))
        return whole(number) if number is None or not total else f"{whole(number)} ({percent(number, total)})"

    names = {"exact_duplicates": "Same text as another", "near_duplicates": "Nearly the text of another", "url_duplicates": "Address of another"}
    facts = [("Documents", whole(metrics.get("documents")))] + [(name, counted(key)) for key, name in names.items()]
    facts += [("Clusters", whole(metrics.get("clusters"))), ("Largest cluster", f"{whole(metrics.get('largest_cluster'))} documents")]
    paragraphs = mapping(metrics.get("repeated_paragraphs"))
    if paragraphs:
        facts.append(("Paragraphs in many documents", f"{whole(paragraphs.get('different'))} different"))
        facts.append(("Marked as repeats", f"{whole(paragraphs.get('spans'))} places, {whole(paragraphs.get('characters'))} characters"))
    return [Facts(facts)]


def _contamination(run: RunFolder) -> list[Block]:
    if run.get("decontaminate") is None:
        return [Remark("No evaluation's items were looked for in the documents, so nobody can tell which of them a model trained on these has seen.")]
    metrics = run.metrics("decontaminate")
    blocks: list[Block] = []
    suites = mapping(metrics.get("suites"))
    if suites:
        columns = [Column("Suite"), *(Column(name, number=True) for name in ("Items", "Looked for", "Seen", "Share seen"))]
        rows = []
        for suite in sorted(suites):
            searched, seen = (real(dig(suites, suite, name)) or 0.0 for name in ("searched", "seen"))
            cells = [Cell(whole(dig(suites, suite, name)), number=True) for name in ("items", "searched", "seen")]
            rows.append([Cell(line(suite)), *cells, Cell(percent(seen, searched), number=True, share=seen / searched if searched else 0.0)])
        blocks.append(Table("Items of evaluations in the documents", columns, rows))
    documents = mapping(metrics.get("documents"))
    if documents:
        columns = [Column("Claimed language"), *(Column(name, number=True) for name in ("Documents", "With items", "Share"))]
        rows = []
        for tag in ordered(documents):
            clean, found = (real(dig(documents, tag, side)) or 0.0 for side in ("clean", "contaminated"))
            numbers = [Cell(whole(clean + found), number=True), Cell(whole(found), number=True), Cell(percent(found, clean + found), number=True)]
            rows.append([Cell(language_name(tag), language=tag), *numbers])
        blocks.append(Table("Documents with items of evaluations", columns, rows))
    said = {"drop": "Such documents are dropped.", "cut": "Such passages are cut.", "keep": "Such documents are kept, and marked."}
    policy = said.get(str(dig(run.manifests["select"].config, "contaminated")), "") if run.get("select") else ""
    blocks.append(Remark(f"{policy} Which items were seen is in items.parquet of the stage.".strip()))
    without = metrics.get("tasks_without_data")
    if isinstance(without, list) and without:
        blocks.append(Remark(f"Not looked for, because their data are not on the machine: {listed(line(name) for name in without)}.", missing=True))
    return blocks
