"""The section on rights: reservations and what they cost, robots files, removals, licences, personal data."""

from iberlm.report.blocks import Block, Cell, Column, Remark, Section, Table
from iberlm.report.curation_sections import summed
from iberlm.report.reasons import VERDICTS, agent_name, kind_name, reason_name
from iberlm.report.run_folder import RunFolder
from iberlm.report.wording import NONE, counted_name, dig, language_name, line, listed, mapping, ordered, percent, real, spoken, whole

AGENTS = 12
"""Agents that the table of refusals names."""


def rights(run: RunFolder) -> Section:
    """Reservations and what they cost, robots verdicts, removals, licences, personal data."""
    lead = "What pages and sites reserve for themselves, under which licences the kept documents stand, and which personal data were replaced."
    section = Section("rights", "Rights", lead)
    if run.get("select") is None:
        section.blocks.append(Remark(run.not_run("select"), missing=True))
    else:
        section.blocks += _reserved(run)
    section.blocks += _robots(run)
    if run.get("select") is not None:
        section.blocks += [*_licences(run), *_personal_data(run)]
    return section


def _reserved(run: RunFolder) -> list[Block]:
    selected = run.manifests["select"]
    reserved = {tag: mapping(reasons) for tag, reasons in mapping(dig(selected.metrics, "reserved")).items()}
    blocks: list[Block] = []
    if dig(selected.config, "honour_reservations") is False:
        blocks.append(
            Remark("Reservations were not honoured in this run (select.honour_reservations=false): pages that reserve their use are among the documents.")
        )
    elif not reserved:
        blocks.append(Remark("No document was left out because its page or its site reserves its use."))
    reasons = list(dict.fromkeys(["reserved", "robots", *(name for found in reserved.values() for name in found)]))
    if reserved:
        heads = [Column(f"{reason_name(name).capitalize()}: {kind}", number=True) for name in reasons for kind in ("documents", "characters")]
        rows = []
        for tag in ordered(reserved):
            lost = sum(real(dig(reserved, tag, name, "characters")) or 0 for name in reasons)
            kept = real(dig(selected.metrics, "characters_kept", tag)) or 0.0
            cells = [Cell(whole(dig(reserved, tag, name, kind) or 0), number=True) for name in reasons for kind in ("documents", "characters")]
            share = Cell(percent(lost, lost + kept), number=True, share=lost / (lost + kept)) if kept and lost else Cell(NONE, number=True)
            rows.append([Cell(counted_name(tag), language=tag), *cells, share])
        columns = [Column("Language"), *heads, Column("Share of the text", number=True)]
        blocks.append(Table("Left out because its use is reserved", columns, rows))
        blocks.append(Remark("The share is of the text of kept and reserved documents together."))
    removed = sum(int(real(dig(mapping(reasons), "removed")) or 0) for reasons in selected.counts.dropped.values())
    if removed:
        blocks.append(Remark(f"{whole(removed)} document{'s were' if removed != 1 else ' was'} left out at somebody's request or by a block list."))
    return blocks


def _robots(run: RunFolder) -> list[Block]:
    if run.get("robots") is None:
        text = "No snapshot of robots files was applied: of reservations, only those on the pages themselves and in their headers could be seen."
        return [Remark(text)] if run.get("select") else []
    metrics = run.metrics("robots")
    verdicts = {tag: mapping(found) for tag, found in mapping(metrics.get("verdicts")).items()}
    names = [*VERDICTS, *sorted({name for found in verdicts.values() for name in found} - VERDICTS.keys())]
    columns = [Column("Claimed language"), *(Column(VERDICTS.get(name) or spoken(name).capitalize(), number=True) for name in names)]
    columns.append(Column("Share refused", number=True))
    rows = []
    for tag in ordered(verdicts):
        total = sum(real(number) or 0 for number in verdicts[tag].values())
        refused = real(verdicts[tag].get("disallowed")) or 0.0
        cells = [Cell(whole(verdicts[tag].get(name, 0)), number=True) for name in names]
        rows.append([Cell(language_name(tag), language=tag), *cells, Cell(percent(refused, total), number=True, share=refused / total if total else 0.0)])
    blocks: list[Block] = [Table("Verdicts of the robots files", columns, rows)] if rows else []
    refused_by = summed([mapping(metrics.get("refused_by"))])
    if refused_by:
        first = sorted(refused_by, key=lambda agent: (-refused_by[agent], agent))
        agents = [[Cell(agent_name(agent)), Cell(whole(refused_by[agent]), number=True)] for agent in first[:AGENTS]]
        blocks.append(Table("To whom pages are refused", [Column("Agent"), Column("Pages", number=True)], agents))
        if len(first) > AGENTS:
            blocks.append(Remark(f"And {len(first) - AGENTS} more agents. A page may be refused to several."))
    snapshot = mapping(metrics.get("snapshot"))
    hosts = sum(summed([mapping(snapshot.get("hosts"))]).values())
    dates = [line(snapshot[name])[:10] for name in ("fetched_from", "fetched_to") if snapshot.get(name)]
    when = f", fetched {' to '.join(dict.fromkeys(dates))}" if dates else ""
    return [
        *blocks,
        Remark(f"The snapshot has the answers of {whole(hosts)} host{'s' * (hosts != 1)}{when}. Pages are judged by it whenever they were crawled."),
    ]


def _licences(run: RunFolder) -> list[Block]:
    licences = {tag: summed([mapping(found)]) for tag, found in mapping(run.metrics("select").get("licences")).items()}
    totals = summed(licences.values())
    if not totals:
        return []
    tags = ordered(licences)
    columns = [Column("Licence"), Column("All", number=True), *(Column(language_name(tag), number=True) for tag in tags)]
    rows = [
        [
            Cell(line(name)),
            Cell(whole(totals[name]), number=True),
            *(Cell(whole(licences[tag][name]) if name in licences[tag] else "–", number=True) for tag in tags),
        ]
        for name in sorted(totals, key=lambda licence: (-totals[licence], licence))
    ]
    return [Table("Documents kept, by licence", columns, rows)]


def _personal_data(run: RunFolder) -> list[Block]:
    selected = run.manifests["select"]
    redacted = {tag: summed([mapping(kinds)]) for tag, kinds in mapping(dig(selected.metrics, "redacted")).items()}
    totals = summed(redacted.values())
    policies = mapping(dig(selected.config, "redact"))
    kept = sorted(kind for kind, policy in policies.items() if policy == "keep")
    blocks: list[Block] = []
    if totals:
        tags = ordered(redacted)
        columns = [Column("Kind"), Column("Replaced by"), Column("All", number=True), *(Column(language_name(tag), number=True) for tag in tags)]
        replaced_by = {"tag": "tag", "pseudonym": "invented value"}
        rows = [
            [
                Cell(kind_name(kind)),
                Cell(replaced_by.get(str(policies.get(kind)), "–")),
                Cell(whole(totals[kind]), number=True),
                *(Cell(whole(redacted[tag].get(kind, 0)), number=True) for tag in tags),
            ]
            for kind in sorted(totals, key=lambda kind: (-totals[kind], kind))
        ]
        blocks.append(Table("Personal data replaced in the documents that were kept", columns, rows))
    else:
        blocks.append(Remark("No personal data was found and replaced in the documents that were kept."))
    if kept:
        blocks.append(Remark(f"Left as they are, by the settings of this run: {listed(kind_name(kind) for kind in kept)}."))
    return blocks
