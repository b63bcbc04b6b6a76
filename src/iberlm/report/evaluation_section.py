"""The section on evaluation: scores with intervals, the means of languages, Valencian and varieties, and the base model against the fine-tuned one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iberlm.report import charts
from iberlm.report.blocks import Block, Cell, Column, Heading, Remark, Section, Table
from iberlm.report.charts import Score
from iberlm.report.run_folder import RunFolder
from iberlm.report.training_section import BITS_PER_BYTE
from iberlm.report.wording import NONE, decimal, dig, language_name, line, listed, mapping, ordered, real, spoken, whole

METRICS = {"acc": "accuracy", "acc_norm": "accuracy by likelihood a character", "acc_bytes": "accuracy by likelihood a byte", "exact_match": "exact match"}
"""The harness's names of metrics in words."""
ROLES = {"evaluate": "Base", "evaluate_finetuned": "Fine-tuned"}
ENDS = ("value", "low", "high")
DRAWN = 4
"""Task families that the chart shows; the tables have them all."""
VALENCIAN = "ca-valencia"
KINDS = {
    "kept": "keeps to the variety",
    "central": "always the Central form",
    "valencian": "always the Valencian form",
    "peninsular": "always the Peninsular form",
    "american": "always the American form",
    "contrary": "always the other variety's form",
}
"""What a model does with a sentence that is asked in two varieties (variety.json)."""


@dataclass(frozen=True)
class _Measured:
    """A cell of an evaluation table."""

    task: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: float | None
    chance: float | None
    note: str
    averaged: bool
    groups: dict[str, Any]

    @classmethod
    def of(cls, value: Any) -> "_Measured | None":
        if not isinstance(value, dict):
            return None
        measured, low, high, items, chance = (real(value.get(key)) for key in ("value", "low", "high", "n", "chance"))
        note, averaged = line(value.get("note") or ""), value.get("averaged") is True
        return cls(line(value.get("task") or ""), line(value.get("metric")), measured, low, high, items, chance, note, averaged, mapping(value.get("groups")))

    @property
    def is_share(self) -> bool:
        """Whether this is an accuracy, which is shown in per cent."""
        return self.chance is not None and self.value is not None and 0 <= self.value <= 1

    def said(self, share: bool) -> str:
        """Value and interval, in per cent for a share."""
        return _said((self.value, self.low, self.high), 100 if share else 1, 1 if share else 3)


def _said(numbers: Sequence[float | None], factor: float, digits: int) -> str:
    """A value and the ends of its interval."""
    value, low, high = numbers
    if value is None:
        return NONE
    shown = decimal(factor * value, digits)
    return shown if low is None or high is None else f"{shown} [{decimal(factor * low, digits)}, {decimal(factor * high, digits)}]"


Pair = tuple[_Measured | None, _Measured | None]


def _pairs(run: RunFolder) -> tuple[dict[str, dict[str, Pair]], list[str]]:
    """(base, fine-tuned) by family and language, and sentences on what is missing."""
    tables, problems = [], []
    for role in ROLES:
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
    lead = (
        "Each score with its 95% interval, the number of items and what guessing would score. Where the interval holds chance, nothing is shown. "
        "A language's mean puts chance at 0 and the best there can be at 100, over its tasks with enough items."
    )
    section = Section("evaluation", "Evaluation", lead)
    families, problems = _pairs(run)
    section.blocks += [Remark(problem, missing=True) for problem in problems]
    if means := _means(run):
        section.blocks.append(means)
    section.blocks += _comparison(run)
    drawn = []
    for family, pairs in families.items():
        if _in_per_cent(pairs) and any(entry and entry.n and entry.n > 1 for pair in pairs.values() for entry in pair):
            chance = next((entry.chance for pair in pairs.values() for entry in pair if entry), None)
            drawn.append((family, chance, {name: (_score(pair[0]), _score(pair[1])) for name, pair in pairs.items()}))
    drawn.sort(key=lambda entry: -len(entry[2]))
    if drawn:
        section.blocks.append(charts.accuracies(drawn[:DRAWN]))
    section.blocks += [_family_table(family, pairs) for family, pairs in families.items() if pairs]
    section.blocks += _varieties(run, families)
    return section


def _score(measured: _Measured | None) -> Score | None:
    if measured is None or measured.value is None:
        return None
    low, high = (measured.value if end is None else end for end in (measured.low, measured.high))
    return Score(measured.value, low, high)


def _in_per_cent(pairs: dict[str, Pair]) -> bool:
    """Whether all scores of a family are accuracies beside a chance."""
    measured = [entry for pair in pairs.values() for entry in pair if entry and entry.value is not None]
    return bool(measured) and all(entry.is_share for entry in measured)


def _means(run: RunFolder) -> Table | None:
    """The languages' means of both models."""
    tables = [mapping(run.read_json(role, "languages.json")[0]) for role in ROLES]
    tags = ordered({tag for table in tables for tag in table})
    if not tags:
        return None
    columns = [Column("Language"), *(Column(name, number=True) for name in ROLES.values()), Column("Tasks in the mean"), Column("Shown, not in the mean")]
    rows = []
    for tag in tags:
        cells = [mapping(table.get(tag)) for table in tables]
        tasks = list(dict.fromkeys(line(task) for cell in cells for task in cell.get("tasks") or []))
        left_out: dict[str, list[str]] = {}
        for entry in (entry for entry in cells[0].get("left_out") or cells[1].get("left_out") or [] if isinstance(entry, dict)):
            left_out.setdefault(line(entry.get("why")), []).append(_short(line(entry.get("task")), tag))
        shown = [Cell(_said([real(cell.get(key)) for key in ENDS], 1, 1), number=True) for cell in cells]
        why = "; ".join(f"{listed(names)} ({reason})" for reason, names in left_out.items())
        rows.append([Cell(language_name(tag), language=tag), *shown, Cell(listed([_short(task, tag) for task in tasks]) or NONE), Cell(why or NONE)])
    return Table("Mean of a language's tasks (0 is chance, 100 the best there can be; 95% interval)", columns, rows)


def _short(task: str, tag: str) -> str:
    """`reading_ca_valencia` -> reading."""
    return spoken(task.removesuffix(f"_{tag.replace('-', '_')}"))


def _comparison(run: RunFolder) -> list[Block]:
    """The verdicts of the paired comparison that came with the second evaluation."""
    if run.get("evaluate_finetuned") is None:
        return []
    found, _ = run.read_json("evaluate_finetuned", "comparison.json")
    tasks = [entry for entry in mapping(found).get("tasks") or [] if isinstance(entry, dict)]
    if not tasks:
        return []
    blocks: list[Block] = [Heading("The fine-tuned model (A) against the base model (B), item by item")]
    blocks += [Remark(_sentence(line(sentence))) for sentence in mapping(found).get("sentences") or []]
    names = ("Difference, A less B", "95% interval", "p", "p by Holm", "Only A right", "Only B right", "Unseen below")
    columns = [Column("Task"), *(Column(name, number=True) for name in names), Column("Better")]
    tags = ordered({line(entry.get("language")) for entry in tasks})
    rows = [_verdict(entry) for entry in sorted(tasks, key=lambda entry: tags.index(line(entry.get("language"))))]
    caption = "Paired differences by task (accuracies in per cent); p is corrected for the number of tasks by Holm's method"
    blocks.append(Table(caption, columns, rows))
    doubts: dict[str, list[str]] = {}
    for entry in tasks:
        for doubt in entry.get("remarks") or []:
            doubts.setdefault(line(doubt), []).append(_task_name(entry))
    blocks += [Remark(_sentence(f"{doubt}: {listed(names)}")) for doubt, names in doubts.items()]
    return blocks


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _task_name(entry: dict[str, Any]) -> str:
    tag = line(entry.get("language"))
    return f"{_short(line(entry.get('task')), tag)} in {language_name(tag)}"


def _verdict(entry: dict[str, Any]) -> list[Cell]:
    """A row of the comparison: per cent for shares, else the metric's own unit."""
    tag = line(entry.get("language"))
    share = line(entry.get("metric")).startswith("acc") or line(entry.get("metric")).startswith("exact_match")
    factor, digits = (100, 1) if share else (1, 3)
    difference, low, high = (real(dig(entry, "difference", key)) for key in ("value", "low", "high"))
    least = real(entry.get("detectable"))
    interval = NONE if low is None or high is None else f"{decimal(factor * low, digits)} to {decimal(factor * high, digits)}"
    numbers = [_signed(difference, factor, digits), interval, _p(real(entry.get("p"))), _p(real(entry.get("p_holm")))]
    numbers += [whole(real(entry.get("only_a"))), whole(real(entry.get("only_b"))), NONE if least is None else decimal(factor * least, digits)]
    better = {"A": "fine-tuned", "B": "base"}.get(line(entry.get("better")), NONE)
    return [Cell(f"{_short(line(entry.get('task')), tag)}, {language_name(tag)}", language=tag), *(Cell(text, number=True) for text in numbers), Cell(better)]


def _signed(value: float | None, factor: float, digits: int) -> str:
    return NONE if value is None else f"{factor * value:+.{digits}f}".replace("-", "−")


def _p(value: float | None) -> str:
    return NONE if value is None else "< 0.001" if value < 0.001 else decimal(value, 3)


def _varieties(run: RunFolder, families: dict[str, dict[str, Pair]]) -> list[Block]:
    """Valencian by pattern, and whether the models keep to the variety in which they are addressed."""
    blocks: list[Block] = []
    for family, title in (("variety_choice", "Valencian forms by pattern"), ("acceptability", "Valencian grammar by pattern")):
        pair = families.get(family, {}).get(VALENCIAN)
        if pair and (table := _pattern_table(title, pair)):
            blocks.append(table)
    preferences = [mapping(run.read_json(role, "variety.json")[0]) if run.get(role) is not None else {} for role in ROLES]
    rows = []
    for name, title in (("ca", "Central Catalan and Valencian"), ("es", "Peninsular and American Spanish")):
        for kind, said in KINDS.items():
            if any(kind in mapping(dig(table, name, "shares")) for table in preferences):
                cells = [Cell(_of_frames(mapping(table.get(name)), kind), number=True) for table in preferences]
                rows.append([Cell(f"{title}: {said}"), *cells])
    if rows:
        columns = [Column("Asked in two varieties, the model"), *(Column(name, number=True) for name in ROLES.values())]
        blocks.append(Table("Does the model keep to the variety in which it is addressed? (per cent of sentences; one that guesses: 25 each)", columns, rows))
    return [Heading("Valencian and varieties", language=VALENCIAN), *blocks] if blocks else []


def _of_frames(found: dict[str, Any], kind: str) -> str:
    share, count = real(dig(found, "shares", kind)), real(dig(found, "counts", kind))
    return NONE if share is None else f"{decimal(100 * share, 1)} ({whole(count)} of {whole(real(found.get('frames')))})"


def _pattern_table(title: str, pair: Pair) -> Table | None:
    names = list(dict.fromkeys(name for entry in pair if entry for name in entry.groups))
    if not names:
        return None
    columns = [Column("Pattern"), *(Column(name, number=True) for name in ROLES.values()), Column("Items", number=True)]
    rows = []
    for name in names:
        cells = [mapping(entry.groups.get(name)) if entry else {} for entry in pair]
        shown = [Cell(_said([real(cell.get(key)) for key in ENDS], 100, 0), number=True) for cell in cells]
        rows.append([Cell(spoken(line(name))), *shown, Cell(whole(next((real(cell.get("n")) for cell in cells if cell), None)), number=True)])
    return Table(f"{title} (per cent right, 95% interval)", columns, rows)


def _family_table(family: str, pairs: dict[str, Pair]) -> Table:
    share = _in_per_cent(pairs)
    factor, digits = (100, 1) if share else (1, 3)
    metrics = dict.fromkeys(entry.metric for pair in pairs.values() for entry in pair if entry)
    columns = [Column("Language"), *(Column(name, number=True) for name in ("Base", "Fine-tuned", "Change", "Items", "Chance")), Column("Remarks")]
    rows = []
    for name, (base, tuned) in pairs.items():
        either = base or tuned
        change = None if base is None or tuned is None or base.value is None or tuned.value is None else tuned.value - base.value
        chance = either.chance if either else None
        cells = [Cell(entry.said(share) if entry else NONE, number=True) for entry in (base, tuned)]
        cells += [Cell(_signed(change, factor, digits), number=True), Cell(whole(either.n if either else None), number=True)]
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
