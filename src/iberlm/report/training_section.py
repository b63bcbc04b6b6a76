"""The section on training: losses, validation, speed, energy, how the work was shared, what went wrong, and the model against word frequencies."""

from typing import Any

import numpy as np

from iberlm.report import charts, training_charts
from iberlm.report.blocks import Block, Cell, Chart, Column, Facts, Heading, Remark, Section, Table
from iberlm.report.memorisation_section import memorisation
from iberlm.report.run_folder import RunFolder
from iberlm.report.training_charts import LINE_STYLES, Curve
from iberlm.report.wording import NONE, decimal, dig, energy, language_name, line, listed, mapping, ordered, percent, real, short_count, size, whole

BITS_PER_BYTE = "bits_per_byte"
LEARNT, NOT_LEARNT = "below the baseline", "above the baseline"
REPLAY = "replay:"
PANELS = 9
"""Languages whose training loss is drawn; the table has all."""
SHOWN = 20
"""Faults that are listed one by one."""


def training(run: RunFolder) -> Section:
    """Loss by language, validation, speed and energy, set-up, faults, and the model against word frequencies."""
    lead = "Loss is what training lowers; bits per byte on text that training never saw is what counts, and can be compared between tokenizers."
    section = Section("training", "Training", lead)
    manifest, metrics = run.get("pretrain"), run.metrics("pretrain")
    if manifest is None:
        section.blocks.append(Remark(run.not_run("pretrain"), missing=True))
        return section
    section.blocks += [Facts(_facts(manifest.config, metrics)), *_counting(metrics)]
    lines, problem = run.read_lines("pretrain", "metrics.jsonl")
    if problem:
        section.blocks.append(Remark(problem, missing=True))
    section.blocks += loss_blocks("loss", "Training", lines)
    section.blocks += _by_language(lines)
    section.blocks += _validation(run, lines)
    section.blocks += _against_baseline(run)
    section.blocks += _speed(lines)
    section.blocks += _said_in_lines("Planned reading", ("Until", "Share of the samples, and how often the text is read"), metrics.get("mixture_plan"))
    section.blocks += _said_in_lines("What the machine decided", ("Choice", "Reason"), metrics.get("choices"))
    section.blocks += _faults(run, lines, metrics)
    section.blocks += memorisation(run)
    return section


def _facts(config: dict[str, Any], metrics: dict[str, Any]) -> list[tuple[str, str]]:
    model = line(dig(config, "initial_model") or dig(config, "model", "name") or "unnamed")
    facts = [
        ("Model", f"goes on from {model}" if dig(config, "initial_model") else model),
        ("Parameters", whole(metrics.get("parameters"))),
        ("Steps", whole(metrics.get("steps"))),
        ("Tokens read", whole(metrics.get("tokens"))),
        ("Final training loss", f"{decimal(metrics.get('final_loss'))} nats a token"),
        ("Tokens a second", f"{whole(metrics.get('tokens_per_second'))} (median of the steps)"),
    ]
    if "mfu" in metrics:
        value = real(dig(metrics, "mfu", "value"))
        facts.append(("MFU", f"{decimal(100 * value, 1)} %" if value is not None else "not known: no peak is known for this device"))
    if real(metrics.get("memory_bytes")) is not None:
        facts.append(("Most memory of a rank", size(metrics["memory_bytes"])))
    wait = real(metrics.get("data_wait"))
    if wait is not None:
        facts.append(("Waiting for data", f"{decimal(100 * wait, 2)} % of the time"))
    facts += _energy_facts(metrics)
    verified = metrics.get("strategy")
    if isinstance(verified, dict):
        said = ", ".join(line(verified[key]) for key in ("name", "device", "backend", "wrapper", "optimizer", "precision") if verified.get(key))
        mesh = " x ".join(f"{line(name)} {whole(count)}" for name, count in mapping(verified.get("mesh")).items())
        facts.append(("Strategy, verified", f"{said}; {whole(verified.get('ranks'))} rank(s){f', mesh {mesh}' if mesh else ''}"))
    elif verified is not None:
        facts.append(("Strategy, verified", line(verified)))
    mixture = mapping(metrics.get("mixture"))
    if mixture:
        drawn = (f"{source_name(name)} {decimal(100 * (real(mixture[name]) or 0), 1)} %" for name in ordered(mixture))
        facts.append(("Mixture drawn", ", ".join(drawn)))
    return facts


def _energy_facts(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    used, method = real(dig(metrics, "energy", "watt_hours")), line(dig(metrics, "energy", "method") or "")
    if used is None:
        return []
    tokens = real(metrics.get("tokens"))
    facts = [("Energy", f"{energy(used)}, {method.partition(':')[0] or 'not said how'}")]
    return facts + ([("Tokens a watt-hour", short_count(tokens / used))] if tokens and used > 0 else [])


def _counting(metrics: dict[str, Any]) -> list[Remark]:
    """How MFU and energy were counted."""
    said = []
    found = mapping(metrics.get("mfu"))
    if real(found.get("value")) is not None:
        said.append(
            f"MFU (model FLOP utilisation) is {line(found.get('formula'))}; the peak of one device is {decimal(found.get('peak_tflops'), 1)} TFLOP/s "
            f"({line(found.get('source'))})."
        )
    elif "mfu" in metrics:
        said.append("MFU is the arithmetic of the model a second over the peak of the devices; monitor.peak_tflops gives a peak that is not in the table.")
    method = line(dig(metrics, "energy", "method") or "")
    if method:
        said.append(f"Energy is {method}.")
    return [Remark(" ".join(said))] if said else []


def source_name(name: str) -> str:
    """A source or group of training data in words: `es/debian_docs`, `replay:es`."""
    replayed = name.startswith(REPLAY)
    tag, _, card = name.removeprefix(REPLAY).partition("/")
    return f"{language_name(tag)}{f', {line(card)}' if card else ''}{' (replay)' if replayed else ''}"


def _axis(lines: list[dict[str, Any]]) -> tuple[str, str]:
    """(key, unit) of the horizontal axis: tokens where every line has them, steps otherwise."""
    return ("tokens", "tokens") if lines and all(real(entry.get("tokens")) is not None for entry in lines) else ("step", "steps")


def curve(lines: list[dict[str, Any]], x: str, *y: str) -> Curve | None:
    """The points of two keys (the second may be a path) where both are finite numbers; None for fewer than two."""
    points = [(a, b) for entry in lines if (a := real(entry.get(x))) is not None and (b := real(dig(entry, *y))) is not None]
    if len(points) < 2:
        return None
    values = np.array(points, dtype=np.float64)
    return Curve(values[:, 0], values[:, 1])


def loss_blocks(name: str, caption: str, lines: list[dict[str, Any]]) -> list[Chart | Remark]:
    """Loss, learning rate and gradient norm of the steps that were applied; where others were not, their place."""
    lines = [entry for entry in lines if "loss" in entry]
    if not lines:
        return []
    key, unit = _axis(lines)
    applied = [entry for entry in lines if entry.get("applied") is not False]
    skipped = [place for entry in lines if entry.get("applied") is False and (place := real(entry.get(key))) is not None]
    loss = curve(applied, key, "loss")
    if loss is None:
        return [Remark(f"{caption}: fewer than two steps have a loss, so there is no curve.", missing=True)]
    rate, norm = curve(lines, key, "lr"), curve(applied, key, "grad_norm")
    shown = listed([part for part, found in (("loss", loss), ("learning rate", rate), ("gradient norm", norm)) if found])
    blocks: list[Chart | Remark] = [training_charts.loss_curve(name, f"{caption}: {shown}", unit, loss, rate, norm, skipped)]
    if skipped:
        count = "1 step" if len(skipped) == 1 else f"{len(skipped)} steps"
        blocks.append(Remark(f"× marks {count} whose update was not applied, since the loss or the gradient was not finite or far from the usual."))
    return blocks


def _by_language(lines: list[dict[str, Any]]) -> list[Block]:
    """Curves and a table of the loss of each group of the data."""
    applied = [entry for entry in lines if isinstance(entry.get("losses"), dict) and entry.get("applied") is not False]
    groups = {
        name: found for name in dict.fromkeys(str(name) for entry in applied for name in entry["losses"]) if (found := curve(applied, "step", "losses", name))
    }
    if not groups:
        return []
    key, unit = _axis(applied)
    tags = ordered({name.removeprefix(REPLAY).partition("/")[0] for name in groups})
    panels: dict[str, dict[str, Curve]] = {tag: {} for tag in tags[:PANELS]}
    rows = []
    for tag in tags:
        own = [name for name in groups if name.removeprefix(REPLAY).partition("/")[0] == tag]
        for name in sorted(own, key=lambda name: (-len(groups[name].x), name)):
            card = ", ".join(part for part in (line(name.partition("/")[2]), "replay" if name.startswith(REPLAY) else "") if part)
            found = curve(applied, key, "losses", name)
            if tag in panels and found is not None and len(panels[tag]) < len(LINE_STYLES):
                panels[tag][card or "all"] = found
            rows.append([Cell(language_name(tag), language=tag), Cell(card or "all"), *_ends(groups[name])])
    columns = [Column("Language"), Column("Source"), *(Column(name, number=True) for name in ("First tenth", "Last tenth", "Change", "Steps with it"))]
    blocks: list[Block] = [training_charts.losses_by_language(unit, panels), Table("Training loss by language and source (nats a token)", columns, rows)]
    drawn = sum(map(len, panels.values()))
    if drawn < len(groups):
        blocks.append(Remark(f"The chart shows {drawn} of {len(groups)} sources, those that were read in most steps; the table has all."))
    return blocks


def _ends(found: Curve) -> list[Cell]:
    tenth = max(1, len(found.y) // 10)
    first, last = float(found.y[:tenth].mean()), float(found.y[-tenth:].mean())
    change = f"{last - first:+.3f}".replace("-", "−")
    return [Cell(decimal(first), number=True), Cell(decimal(last), number=True), Cell(change, number=True), Cell(whole(len(found.y)), number=True)]


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
        return [training_charts.validation_curves("tokens" if in_tokens else "steps", curves)]
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


def _speed(lines: list[dict[str, Any]]) -> list[Chart]:
    key, unit = _axis(lines)
    rate = curve(lines, key, "tokens_per_second")
    return [training_charts.speed(unit, rate, curve(lines, key, "data_wait"))] if rate is not None else []


def _said_in_lines(caption: str, heads: tuple[str, str], said: Any) -> list[Table]:
    """Lines of the log, `what: why`, as a table."""
    lines = [line(entry).partition(": ") for entry in said if entry] if isinstance(said, list) else []
    rows = [[Cell(head.removeprefix("mixture to ").capitalize()), Cell(rest or NONE)] for head, _, rest in lines]
    return [Table(caption, [Column(name) for name in heads], rows)] if rows else []


def _faults(run: RunFolder, lines: list[dict[str, Any]], metrics: dict[str, Any]) -> list[Block]:
    """Steps that were not applied, returns to a checkpoint, data left out, slow ranks."""
    skipped, back = real(metrics.get("skipped_steps")), real(metrics.get("rollbacks"))
    events = [entry for entry in run.read_lines("pretrain", "events.jsonl")[0] if entry.get("event") != "skip"]
    if skipped is None and back is None and not events:
        return []
    found = metrics.get("gaps")
    gaps = [gap for gap in found if isinstance(gap, list) and len(gap) == 2] if isinstance(found, list) else []
    blocks: list[Block] = [Heading("Faults")]
    if skipped or back or gaps:
        left = [f"the samples of {whole(count)} steps from step {whole((real(at) or 0) + 1)} on" for at, count in gaps]
        share = percent(skipped or 0, real(metrics.get("steps")) or 0)
        blocks.append(
            Facts([("Steps not applied", f"{whole(skipped)} ({share})"), ("Returns to a checkpoint", whole(back)), ("Data left out", listed(left) or "none")])
        )
    else:
        blocks.append(Remark("Every step was applied, and the run never had to go back to a checkpoint."))
    bad = [entry for entry in lines if entry.get("applied") is False]
    if bad:
        rows = [[Cell(whole(entry.get("step"))), *(Cell(decimal(entry.get(key)), number=True) for key in ("loss", "grad_norm"))] for entry in bad[:SHOWN]]
        columns = [Column("Step"), Column("Loss", number=True), Column("Gradient norm", number=True)]
        blocks += [Table(f"Steps that were not applied{_of(bad)}", columns, rows), Remark(f"{NONE} stands for a number that was not finite.")]
    if events:
        rows = [[Cell(whole(entry.get("step"))), Cell(_word(entry.get("event"))), Cell(_word(entry.get("message")))] for entry in events[:SHOWN]]
        blocks.append(Table(f"What else happened{_of(events)}", [Column("Step"), Column("Event"), Column("What was said")], rows))
    return blocks


def _of(entries: list[Any]) -> str:
    return f", the first {SHOWN} of {len(entries)}" if len(entries) > SHOWN else ""


def _word(value: Any) -> str:
    return line(value) if value else NONE


def verdicts(run: RunFolder) -> list[str]:
    """Languages whose model is above the unigram baseline."""
    baseline, validation = mapping(run.metrics("tokenize").get("unigram_bits_per_byte")), mapping(run.metrics("pretrain").get("validation"))
    found = []
    for name in ordered(baseline):
        standard, model = real(baseline[name]), real(dig(validation, name, BITS_PER_BYTE))
        if standard is not None and model is not None and model >= standard:
            found.append(language_name(name))
    return found


def parameters(run: RunFolder) -> str:
    """Parameters of the model in three digits."""
    return short_count(run.metrics("pretrain").get("parameters"))
