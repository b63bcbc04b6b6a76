"""Sections on the model: training, evaluation, fine-tuning."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from iberlm.core.languages import NAMES
from iberlm.report import charts
from iberlm.report.blocks import Cell, Chart, Column, Comparison, Comparisons, Facts, Remark, Section, Table
from iberlm.report.charts import Curve, Score
from iberlm.report.run_folder import RunFolder
from iberlm.report.wording import NONE, clean, decimal, dig, language_name, line, mapping, ordered, real, short_count, shorten, spoken, tag, whole

BITS_PER_BYTE = "bits_per_byte"
METRICS = {"acc": "accuracy", "acc_norm": "accuracy by likelihood a character", "acc_bytes": "accuracy by likelihood a byte", "exact_match": "exact match"}
"""The harness's names of metrics in words."""
LEARNT, NOT_LEARNT = "below the baseline", "above the baseline"


def training(run: RunFolder) -> Section:
    """Loss, learning rate, validation, speed, and the model against word frequencies."""
    lead = "Loss is what training lowers; bits per byte on text that training never saw is what counts, and can be compared between tokenizers."
    section = Section("training", "Training", lead)
    manifest, metrics = run.get("pretrain"), run.metrics("pretrain")
    if manifest is None:
        section.blocks.append(Remark(run.not_run("pretrain"), missing=True))
        return section
    section.blocks.append(Facts(_training_facts(manifest.config, metrics)))
    lines, problem = run.read_lines("pretrain", "metrics.jsonl")
    if problem:
        section.blocks.append(Remark(problem, missing=True))
    section.blocks += _loss("loss", "Training", lines)
    section.blocks += _validation(run, lines)
    section.blocks += _against_baseline(run)
    return section


def _training_facts(config: dict[str, Any], metrics: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("Model", line(dig(config, "model", "name") or "unnamed")),
        ("Parameters", whole(metrics.get("parameters"))),
        ("Steps", whole(metrics.get("steps"))),
        ("Tokens read", whole(metrics.get("tokens"))),
        ("Tokens a second", f"{whole(metrics.get('tokens_per_second'))} (median of the steps)"),
        ("Final training loss", f"{decimal(metrics.get('final_loss'))} nats a token"),
    ]
    verified = metrics.get("strategy")
    if isinstance(verified, dict):
        said = ", ".join(line(verified[key]) for key in ("name", "device", "backend", "wrapper", "optimizer", "precision") if verified.get(key))
        facts.append(("Strategy, verified", f"{said}; {whole(verified.get('ranks'))} rank(s)"))
    elif verified is not None:
        facts.append(("Strategy, verified", line(verified)))
    mixture = mapping(metrics.get("mixture"))
    if mixture:
        facts.append(("Mixture drawn", ", ".join(f"{language_name(name)} {decimal(100 * (real(mixture[name]) or 0), 1)} %" for name in ordered(mixture))))
    return facts


def _axis(lines: list[dict[str, Any]]) -> tuple[str, str]:
    """(key, unit) of the horizontal axis: tokens where every line has them, steps otherwise."""
    return ("tokens", "tokens") if lines and all(real(entry.get("tokens")) is not None for entry in lines) else ("step", "steps")


def curve(lines: list[dict[str, Any]], x: str, y: str) -> Curve | None:
    """The points of two keys where both are finite numbers; None for fewer than two."""
    points = [(a, b) for entry in lines if (a := real(entry.get(x))) is not None and (b := real(entry.get(y))) is not None]
    if len(points) < 2:
        return None
    values = np.array(points, dtype=np.float64)
    return Curve(values[:, 0], values[:, 1])


def _loss(name: str, caption: str, lines: list[dict[str, Any]]) -> list[Chart | Remark]:
    lines = [entry for entry in lines if "loss" in entry]
    if not lines:
        return []
    key, unit = _axis(lines)
    loss = curve(lines, key, "loss")
    if loss is None:
        return [Remark(f"{caption}: fewer than two steps have a loss, so there is no curve.", missing=True)]
    found = charts.loss_curve(name, f"{caption}: loss and learning rate", unit, loss, curve(lines, key, "lr"))
    return [found]


def _validation(run: RunFolder, lines: list[dict[str, Any]]) -> list[Chart | Remark]:
    """Curves of the validations, from `validation.jsonl` or from lines of `metrics.jsonl`."""
    own, _ = run.read_lines("pretrain", "validation.jsonl")
    points = [entry for entry in own or lines if isinstance(entry.get("validation"), dict)]
    tags = ordered({name for entry in points for name in mapping(entry["validation"])})
    tokens = {entry["step"]: entry["tokens"] for entry in lines if real(entry.get("step")) is not None and real(entry.get("tokens")) is not None}
    in_tokens = all(entry.get("step") in tokens for entry in points)
    curves = {}
    for name in tags:
        places = [tokens[entry["step"]] if in_tokens else entry.get("step") for entry in points]
        flat = [{"x": place, "y": dig(entry, "validation", name, BITS_PER_BYTE)} for place, entry in zip(places, points, strict=True)]
        found = curve(flat, "x", "y")
        if found is not None:
            curves[name] = found
    if curves:
        return [charts.validation_curves("tokens" if in_tokens else "steps", curves)]
    return [Remark("There was one validation only, at the end, so there is no curve; its values are in the table below.")] if points else []


def _against_baseline(run: RunFolder) -> list[Chart | Remark | Table]:
    baseline = mapping(run.metrics("tokenize").get("unigram_bits_per_byte"))
    own = mapping(run.metrics("tokenize").get("unigram_model"))
    validation = mapping(run.metrics("pretrain").get("validation"))
    table, _ = run.read_json("evaluate", "table.json")
    tags = ordered({*baseline, *validation, *mapping(dig(table, BITS_PER_BYTE))})
    if not tags:
        return [Remark("No bits per byte were measured, on the model or on a baseline.", missing=True)]
    columns = [Column("Language"), *(Column(name, number=True) for name in ("Unigram baseline", "Validation", "Evaluation", "Difference")), Column("Verdict")]
    rows, drawn = [], []
    for name in tags:
        standard = real(baseline.get(name))
        trained, evaluated = (real(value) for value in (dig(validation, name, BITS_PER_BYTE), dig(table, BITS_PER_BYTE, name, "value")))
        model = trained if trained is not None else evaluated
        cells = [Cell(decimal(value), number=True) for value in (standard, trained, evaluated)]
        if model is None or standard is None:
            cells += [Cell(NONE, number=True), Cell("no comparison")]
        else:
            word, tone = (LEARNT, "good") if model < standard else (NOT_LEARNT, "bad")
            cells += [Cell(f"{model - standard:+.3f}".replace("-", "−"), number=True), Cell(word, tone=tone)]
            drawn.append((name, standard, model))
        rows.append([Cell(language_name(name), language=name), *cells])
    text = (
        "The unigram baseline knows how often each token occurs and nothing else"
        + (" (the better of two: the frequencies of the language itself, or of all languages)" if own else "")
        + ". A model above it has not learnt to use context. The verdict takes the validation of training where there is one, the evaluation otherwise."
    )
    return [*([charts.against_baseline(drawn)] if drawn else []), Table("Bits per byte against the unigram baseline", columns, rows), Remark(text)]


def verdicts(run: RunFolder) -> list[str]:
    """Languages whose model is above the unigram baseline."""
    baseline, validation = mapping(run.metrics("tokenize").get("unigram_bits_per_byte")), mapping(run.metrics("pretrain").get("validation"))
    found = []
    for name in ordered(baseline):
        standard, model = real(baseline[name]), real(dig(validation, name, BITS_PER_BYTE))
        if standard is not None and model is not None and model >= standard:
            found.append(language_name(name))
    return found


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
    section.blocks += [Remark(problem, missing=True)] if problem else _loss("finetune", "Fine-tuning", lines)
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


def parameters(run: RunFolder) -> str:
    """Parameters of the model in three digits."""
    return short_count(run.metrics("pretrain").get("parameters"))
