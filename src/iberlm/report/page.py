"""Put the sections together and turn them into HTML."""

import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from iberlm.core.languages import LANGUAGES, NAMES, file_safe
from iberlm.core.process import usable_cores
from iberlm.core.stage import code_version
from iberlm.report import curation_sections, data_sections, evaluation_section, rights_section, text_sections, tokenizer_section, training_section
from iberlm.report.blocks import Figure, Page
from iberlm.report.curves_section import learning_curves
from iberlm.report.finetuning_section import finetuning
from iberlm.report.run_folder import RunFolder
from iberlm.report.wording import NONE, clean, duration, energy, line, listed, percent, real, short_count, size, whole

SECTIONS = (
    data_sections.the_line,
    data_sections.sources,
    curation_sections.funnel,
    rights_section.rights,
    curation_sections.repeats,
    data_sections.documents_and_tokens,
    tokenizer_section.tokenizer,
    training_section.training,
    learning_curves,
    evaluation_section.evaluation,
    finetuning,
    text_sections.samples,
    text_sections.generations,
    text_sections.configuration,
)
"""Sections in the order of the page."""


def build(run: RunFolder) -> Page:
    """The report of a run."""
    finished = sorted(manifest.finished for manifest in run.manifests.values())
    facts = [
        ("Run", line(Path(run.config.run_dir).name) or NONE),
        ("Finished", line(finished[-1]).replace("T", " ").replace("+00:00", " UTC") if finished else NONE),
        ("IberLM", line(code_version()).replace("+changes", ", changed")),
        ("PyTorch, Transformers", f"{text_sections.package_version('torch')}, {text_sections.package_version('transformers')}"),
        ("Report made on", f"{usable_cores()} cores, {size(memory_bytes())} memory"),
    ]
    sections = [make(run) for make in SECTIONS]
    return Page(clean(run.config.title), line(Path(run.config.run_dir).name), facts, figures(run), remarks(run), sections)


def memory_bytes() -> int | None:
    """Memory of this machine, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def figures(run: RunFolder) -> list[Figure]:
    """The numbers of the head: only those that the run has."""
    found = []
    losses = curation_sections.losses(run)
    if losses:
        kept = sum(documents for documents, _ in losses.values())
        read = kept + sum(sum(dropped.values()) for _, dropped in losses.values())
        found.append(Figure(whole(kept), "documents kept", f"of {whole(read)} extracted ({percent(kept, read)})"))
    tokens = run.metrics("tokenize").get("tokens")
    if isinstance(tokens, dict):
        train = sum(real(value) or 0 for value in (tokens.get("train") or {}).values())
        found.append(Figure(short_count(train), "training tokens", f"in {len(tokens.get('train') or {})} languages"))
    if run.get("pretrain"):
        found.append(Figure(training_section.parameters(run), "parameters", f"{short_count(run.metrics('pretrain').get('tokens'))} tokens read"))
    if run.manifests:
        seconds = sum(manifest.wall_seconds for manifest in run.manifests.values())
        found.append(Figure(duration(seconds), "wall time", f"{len(run.manifests)} stages"))
        found.append(Figure(energy(data_sections.watt_hours(run)), "energy", "estimated"))
    return found


def remarks(run: RunFolder) -> list[str]:
    """What a reader must know before the first number."""
    found = []
    if run.missing:
        found.append(f"This run is not complete: {listed(run.missing)} {'has' if len(run.missing) == 1 else 'have'} not run.")
    for name in data_sections.card_licences(run):
        card = data_sections.read_card(name)
        if card and "not human-reviewed" in data_sections.badges(card):
            found.append(f"“{line(card.title)}” is synthetic, not human-reviewed: results on it show that the line works, not how good a model is.")
    if failed := tokenizer_section.failed_gates(run):
        found.append(f"The tokenizer failed {'a gate' if len(failed) == 1 else f'{len(failed)} gates'}: {'; '.join(failed)}.")
    above = training_section.verdicts(run)
    if above:
        found.append(f"In {listed(above)} the model is above the unigram baseline: it has not learnt to use context there.")
    alarms = evaluation_section.alarms(run)
    if alarms:
        found.append(f"{alarms} of the scores carry{'s' if alarms == 1 else ''} a remark, such as a score at chance: see Evaluation.")
    return found


def render(page: Page) -> str:
    """The page as HTML: everything inside one file, all text escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    colours = [(f"lang-{file_safe(tag)}", NAMES[tag]) for tag in LANGUAGES]
    return environment.get_template("report.html").render(page=page, colours=colours, file_safe=file_safe, ours=LANGUAGES)
