"""The section on fine-tuning: the loss, and the same prompts before and after."""

from typing import Any

from iberlm.core.languages import NAMES
from iberlm.report.blocks import Cell, Column, Comparison, Comparisons, Facts, Remark, Section, Table
from iberlm.report.run_folder import RunFolder
from iberlm.report.training_section import loss_blocks
from iberlm.report.wording import NONE, clean, decimal, dig, language_name, line, mapping, real, shorten, spoken, tag, whole


def finetuning(run: RunFolder) -> Section:
    """Loss before and after, and answers of the base model beside those of the fine-tuned one."""
    section = Section("finetuning", "Fine-tuning", "What learning to answer changed: the loss, and the same prompts before and after.")
    manifest, metrics = run.get("finetune"), run.metrics("finetune")
    if manifest is None:
        section.blocks.append(Remark(run.not_run("finetune"), missing=True))
        return section
    facts = [("Method", line(dig(manifest.config, "method", "kind") or NONE))]
    wanted = ("examples", "validation_examples", "answer_tokens", "truncated", "sequence_length", "trainable_parameters")
    facts += [(spoken(key).capitalize(), whole(metrics[key])) for key in wanted if real(metrics.get(key)) is not None]
    section.blocks.append(Facts(facts))
    changes = before_after(metrics)
    if changes:
        columns = [Column("Loss"), *(Column(name, number=True) for name in ("Before", "After", "Change"))]
        rows = [
            [Cell(name), Cell(decimal(before), number=True), Cell(decimal(after), number=True), Cell(f"{after - before:+.3f}".replace("-", "−"), number=True)]
            for name, before, after in changes
        ]
        section.blocks.append(Table("Loss before and after (nats a token)", columns, rows))
    else:
        section.blocks.append(Remark("The stage recorded no loss before and after.", missing=True))
    lines, problem = run.read_lines("finetune", "metrics.jsonl")
    section.blocks += [Remark(problem, missing=True)] if problem else loss_blocks("finetune", "Fine-tuning", lines)
    samples, problem = run.read_json("finetune", "samples.json")
    items = [_comparison(entry) for entry in samples if isinstance(entry, dict)] if isinstance(samples, list) else []
    if items:
        section.blocks.append(Comparisons(items))
    else:
        section.blocks.append(Remark(problem or "The file samples.json has no samples.", missing=True))
    return section


def before_after(metrics: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, float, float]]:
    """All pairs of numbers called before and after (or first and last) in nested metrics, with their path in words."""
    for first, last in (("before", "after"), ("first", "last")):
        before, after = real(metrics.get(first)), real(metrics.get(last))
        if before is not None and after is not None:
            return [(", ".join(NAMES.get(step) or spoken(step) for step in path) or "loss", before, after)]
    return [found for key, value in metrics.items() if isinstance(value, dict) for found in before_after(mapping(value), (*path, key))]


def _comparison(entry: dict[str, Any]) -> Comparison:
    stopped = entry.get("stopped")
    remark = "" if stopped is None else "stopped by itself" if stopped is True else "cut at the limit" if stopped is False else line(stopped)
    prompt, before, after = (shorten(clean(entry.get(key) or "")) for key in ("prompt", "before", "after"))
    language = tag(entry.get("language"))
    return Comparison(language_name(language) if language else "language not told", language, prompt, before, after, remark)
