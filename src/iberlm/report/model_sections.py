"""Sections on the model after pretraining: evaluation, fine-tuning."""

from dataclasses import dataclass
from typing import Any

from iberlm.core.languages import NAMES
from iberlm.report import charts
from iberlm.report.blocks import Cell, Column, Comparison, Comparisons, Facts, Remark, Section, Table
from iberlm.report.charts import Score
from iberlm.report.run_folder import RunFolder
from iberlm.report.training_section import BITS_PER_BYTE, loss_blocks
from iberlm.report.wording import NONE, clean, decimal, dig, language_name, line, mapping, ordered, real, shorten, spoken, tag, whole

METRICS = {"acc": "accuracy", "acc_norm": "accuracy by likelihood a character", "acc_bytes": "accuracy by likelihood a byte", "exact_match": "exact match"}
"""The harness's names of metrics in words."""


@dataclass(frozen=True)
class _Measured:
    """A cell of an evaluation table."""

    metric: str
    value: float | None
    stderr: float | None
    n: float | None
    chance: float | None
    note: str

    @classmethod
    def of(cls, value: Any) -> "_Measured | None":
        if not isinstance(value, dict):
            return None
        measured, error, items, chance = (real(value.get(key)) for key in ("value", "stderr", "n", "chance"))
        return cls(line(value.get("metric")), measured, error, items, chance, line(value.get("note") or ""))

    @property
    def is_share(self) -> bool:
        """Whether this is an accuracy, which is shown in per cent."""
        return self.chance is not None and self.value is not None and 0 <= self.value <= 1

    def said(self, share: bool) -> str:
        """Value and standard error, in per cent for a share."""
        shown = [decimal(100 * value, 1) if share else decimal(value) for value in (self.value, self.stderr) if value is not None]
        return " ± ".join(shown) or NONE


Pair = tuple[_Measured | None, _Measured | None]


def _pairs(run: RunFolder) -> tuple[dict[str, dict[str, Pair]], list[str]]:
    """(base, fine-tuned) by family and language, and sentences on what is missing."""
    tables, problems = [], []
    for role in ("evaluate", "evaluate_finetuned"):
        table, problem = run.read_json(role, "table.json")
        tables.append(mapping(table))
        problems += [problem] if problem else []
    found: dict[str, dict[str, Pair]] = {}
    for family in dict.fromkeys(name for table in tables for name in table):
        names = ordered({name for table in tables for name in mapping(table.get(family))})
        base, tuned = ({name: _Measured.of(dig(table, family, name)) for name in names} for table in tables)
        found[family] = {name: (base[name], tuned[name]) for name in names}
    return found, problems


def evaluation(run: RunFolder) -> Section:
    """Scores by language and task family, the base model beside the fine-tuned one."""
    lead = "Each score with its standard error, the number of items and what guessing would score. A score within two standard errors of chance shows nothing."
    section = Section("evaluation", "Evaluation", lead)
    families, problems = _pairs(run)
    section.blocks += [Remark(problem, missing=True) for problem in problems]
    drawn = []
    for family, pairs in families.items():
        if _in_per_cent(pairs):
            chance = next((entry.chance for pair in pairs.values() for entry in pair if entry), None)
            drawn.append((family, chance, {name: (_score(pair[0]), _score(pair[1])) for name, pair in pairs.items()}))
    if drawn:
        section.blocks.append(charts.accuracies(drawn))
    section.blocks += [_family_table(family, pairs) for family, pairs in families.items() if pairs]
    return section


def _score(measured: _Measured | None) -> Score | None:
    return Score(measured.value, measured.stderr or 0.0) if measured and measured.value is not None else None


def _in_per_cent(pairs: dict[str, Pair]) -> bool:
    """Whether all scores of a family are accuracies beside a chance."""
    measured = [entry for pair in pairs.values() for entry in pair if entry and entry.value is not None]
    return bool(measured) and all(entry.is_share for entry in measured)


def _family_table(family: str, pairs: dict[str, Pair]) -> Table:
    share = _in_per_cent(pairs)
    factor, digits = (100, 1) if share else (1, 3)
    metrics = dict.fromkeys(entry.metric for pair in pairs.values() for entry in pair if entry)
    columns = [Column("Language"), *(Column(name, number=True) for name in ("Base", "Fine-tuned", "Change", "Items", "Chance")), Column("Remarks")]
    rows = []
    for name, (base, tuned) in pairs.items():
        either = base or tuned
        change = NONE
        if base and tuned and base.value is not None and tuned.value is not None:
            change = f"{factor * (tuned.value - base.value):+.{digits}f}".replace("-", "−")
        chance = either.chance if either else None
        cells = [Cell(entry.said(share) if entry else NONE, number=True) for entry in (base, tuned)]
        cells += [Cell(change, number=True), Cell(whole(either.n if either else None), number=True)]
        cells += [Cell(decimal(chance * factor if chance is not None else None, 1 if share else 2), number=True), Cell(_remarks(base, tuned) or NONE)]
        rows.append([Cell(language_name(name), language=name), *cells])
    direction = "lower is better" if family == BITS_PER_BYTE else ", ".join(METRICS.get(name, name) for name in metrics) + (", per cent" if share else "")
    return Table(f"{spoken(family).capitalize()} ({direction})", columns, rows)


def _remarks(base: _Measured | None, tuned: _Measured | None) -> str:
    """Notes of both models; the same note of both is said once."""
    notes = [(name, entry.note) for name, entry in (("base", base), ("fine-tuned", tuned)) if entry and entry.note]
    if len(notes) == 2 and notes[0][1] == notes[1][1]:
        return f"both: {notes[0][1]}"
    return "; ".join(f"{name}: {note}" for name, note in notes)


def alarms(run: RunFolder) -> int:
    """Number of scores that carry a note."""
    families, _ = _pairs(run)
    return sum(1 for pairs in families.values() for pair in pairs.values() for entry in pair if entry and entry.note)


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
