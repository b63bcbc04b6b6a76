"""The section on the tokenizer: what it costs each language, whether it may be trained on, and how it stands beside others."""

from typing import Any

from iberlm.report import charts
from iberlm.report.blocks import Block, Cell, Column, Facts, Heading, Remark, Section, Table
from iberlm.report.run_folder import RunFolder
from iberlm.report.wording import clean, decimal, dig, language_name, line, listed, mapping, ordered, percent, real, spoken, whole

GATES = {
    "bytes": "Every byte can be written",
    "dead_pieces": "Few pieces are dead",
    "deterministic": "Training repeats exactly",
    "round_trip": "Text comes back as it was",
    "cost": "Languages pay alike",
}
"""What each gate asks, in words."""
_NAME_CHARACTERS = 28
"""Longer names of tokenizers are cut in charts."""
_EXAMPLES = 10


def tokenizer(run: RunFolder) -> Section:
    """How well the tokenizer fits each language, its gates, and the tokenizers it is compared with."""
    lead = "Measured on validation text. Fewer tokens a word, and more bytes a token, mean that a language is cheaper to read and to write."
    section = Section("tokenizer", "Tokenizer", lead)
    manifest, metrics = run.get("train_tokenizer"), run.metrics("train_tokenizer")
    if manifest is None:
        section.blocks.append(Remark(run.not_run("train_tokenizer"), missing=True))
        return section
    section.blocks.append(Facts(_facts(mapping(dig(manifest.config, "tokenizer")), metrics)))
    section.blocks += [*_gates(metrics), *_fit(metrics), *_cost(metrics), *_parity(metrics), *_probes(metrics), *_pieces(metrics)]
    return section


def failed_gates(run: RunFolder) -> list[str]:
    """The gates that the tokenizer failed, in words."""
    gates = mapping(run.metrics("train_tokenizer").get("gates"))
    return [GATES.get(name, spoken(name)).lower() for name, verdict in gates.items() if dig(verdict, "passed") is False]


def _facts(settings: dict[str, Any], metrics: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("Vocabulary", f"{whole(metrics.get('vocabulary_size'))} pieces")]
    facts += [(spoken(key).capitalize(), line(settings[key])) for key in ("algorithm", "name", "split") if settings.get(key)]
    words = mapping(metrics.get("words"))
    if words:
        facts.append(("Trained on", f"{whole(words.get('trained_on'))} of {whole(words.get('distinct'))} distinct words"))
    extension = mapping(metrics.get("extension"))
    if extension:
        facts.append(("Extends", f"{line(extension.get('base'))} by {whole(extension.get('added'))} pieces"))
    return facts


def _gates(metrics: dict[str, Any]) -> list[Block]:
    gates = {name: mapping(verdict) for name, verdict in mapping(metrics.get("gates")).items()}
    if not gates:
        return []
    words = {True: ("passed", "good"), False: ("failed", "bad")}
    rows = []
    for name in (*(name for name in GATES if name in gates), *(name for name in gates if name not in GATES)):
        passed = gates[name].get("passed")
        word, tone = words[passed] if isinstance(passed, bool) else ("not measured", "plain")
        message = line(gates[name].get("message"))
        rows.append([Cell(GATES.get(name, spoken(name).capitalize())), Cell(word, tone=tone), Cell(message[:1].upper() + message[1:])])
    blocks: list[Block] = [Table("Gates: whether it may be trained on", [Column("Gate"), Column("Verdict"), Column("What was found")], rows)]
    if any(verdict.get("passed") is not True for verdict in gates.values()):
        blocks.append(Remark("Pretraining refuses a tokenizer with a gate that failed or was not measured, unless its settings waive that gate."))
    return blocks


def _fit(metrics: dict[str, Any]) -> list[Block]:
    languages = mapping(metrics.get("languages"))
    if not languages:
        return [Remark("The stage measured no language.", missing=True)]
    tags = ordered(languages)
    panels = []
    for title, key in (("Tokens a word", "tokens_per_word"), ("Bytes a token", "bytes_per_token")):
        panels.append((title, {tag: value for tag in tags if (value := real(dig(languages, tag, key))) is not None}, 2))
    columns = [Column("Language"), *(Column(title, number=True) for title, _, _ in panels)]
    rows = [[Cell(language_name(tag), language=tag), *(Cell(decimal(values.get(tag)), number=True) for _, values, _ in panels)] for tag in tags]
    relative, weights = _relative(mapping(metrics.get("parallel"))), mapping(metrics.get("weights"))
    saving = mapping(dig(metrics, "extension", "saving"))
    for title, values in (
        ("Words that are one token", {tag: _percent(dig(languages, tag, "whole_words")) for tag in tags}),
        ("Same content, cheapest = 1", {tag: decimal(value) for tag, value in relative.items()}),
        ("Share of the sample", {tag: _percent(value) for tag, value in weights.items()}),
        ("Fewer tokens than the base", {tag: _percent(value) for tag, value in saving.items()}),
    ):
        if any(values.get(tag, "–") != "–" for tag in tags):
            columns.append(Column(title, number=True))
            for tag, row in zip(tags, rows, strict=True):
                row.append(Cell(values.get(tag, "–"), number=True))
    caption = "Tokens a word and bytes a token" if len(columns) == 3 else "Fit by language"
    return [charts.language_panels("tokenizer", "Fit of the tokenizer", panels), Table(caption, columns, rows)]


def _percent(value: Any) -> str:
    number = real(value)
    return "–" if number is None else f"{100 * number:.1f} %"


def _tokens(parallel: dict[str, Any]) -> dict[str, float]:
    """Tokens of the parallel text by language, in the order of every table."""
    tokens = mapping(parallel.get("tokens"))
    return {tag: value for tag in ordered(tokens) if (value := real(tokens[tag]))}


def _compared(parallel: dict[str, Any]) -> list[str]:
    """The languages between which cost is compared: all when the manifest does not say."""
    tokens, stated = _tokens(parallel), parallel.get("languages")
    chosen = [tag for tag in tokens if tag in stated] if isinstance(stated, list) else []
    return chosen or list(tokens)


def _relative(parallel: dict[str, Any]) -> dict[str, float]:
    tokens = _tokens(parallel)
    least = min((tokens[tag] for tag in _compared(parallel)), default=0.0)
    return {tag: tokens[tag] / least for tag in tokens} if least else {}


def _all(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """This tokenizer and those it is compared with, by name."""
    return {"this tokenizer": metrics} | {line(name): mapping(value) for name, value in mapping(metrics.get("compared")).items()}


def _cost(metrics: dict[str, Any]) -> list[Block]:
    parallel = mapping(metrics.get("parallel"))
    tokens = {name: found for name, one in _all(metrics).items() if (found := _tokens(mapping(one.get("parallel"))))}
    if not _tokens(parallel):
        return []
    rows = [(name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…", found) for name, found in tokens.items()]
    blocks: list[Block] = [charts.same_content(rows, _compared(parallel))]
    tags = list(dict.fromkeys(tag for found in tokens.values() for tag in found))
    columns = [Column("Tokenizer"), *(Column(language_name(tag), number=True) for tag in tags), Column("Most / least", True), Column("Gini", True)]
    table = []
    for name in tokens:
        own = mapping(_all(metrics)[name].get("parallel"))
        cells = [Cell(decimal(dig(own, "tokens_per_word", tag), 2), number=True) for tag in tags]
        table.append([Cell(name), *cells, Cell(decimal(own.get("ratio")), number=True), Cell(decimal(own.get("gini"), 4), number=True)])
    blocks.append(Table("Tokens a word of text that says the same in each language", columns, table))
    source = "lines that come with IberLM" if parallel.get("source") == "embedded" else f"lines of {line(parallel.get('source'))}"
    who = listed(language_name(tag) for tag in _compared(parallel))
    said = f"Most over least tokens, and the Gini coefficient of the tokens (0: all languages pay the same), are of {who}."
    blocks.append(Remark(f"Measured on {whole(parallel.get('sentences'))} {source}. {said}"))
    return blocks


def _parity(metrics: dict[str, Any]) -> list[Block]:
    rounds = dig(metrics, "parity", "rounds")
    found = [mapping(entry) for entry in rounds] if isinstance(rounds, list) else []
    if not found:
        return []
    chosen = real(dig(metrics, "parity", "chosen"))
    tags = ordered({tag for entry in found for tag in mapping(entry.get("weights"))})
    columns = [Column("Round"), *(Column(language_name(tag), number=True) for tag in tags), Column("Gini of cost", number=True)]
    rows = []
    for number, entry in enumerate(found):
        name = ("the mixture as given" if number == 0 else f"round {number}") + (", chosen" if number == chosen else "")
        weights = [Cell(_percent(dig(entry, "weights", tag)), number=True) for tag in tags]
        rows.append([Cell(name), *weights, Cell(decimal(entry.get("gini"), 4), number=True)])
    blocks: list[Block] = [Table("Search for the mixture at which languages pay alike", columns, rows)]
    if chosen is not None and 0 <= chosen < len(found):
        before, after = (decimal(found[index].get("gini"), 4) for index in (0, int(chosen)))
        tried = "1 round" if len(found) == 2 else f"{len(found) - 1} rounds"
        blocks.append(Remark(f"With the mixture as given the Gini coefficient of the cost is {before}; after {tried} of the search it is {after}."))
    return blocks


_PROBES = (
    ("Digits a token", "digits", "digits_per_token"),
    ("l·l: tokens a word", "punt_volat", "tokens_per_word"),
    ("Elision: tokens a word", "elision", "tokens_per_word"),
    ("Code: bytes a token", "code", "bytes_per_token"),
    ("English: tokens a word", "english", "tokens_per_word"),
)


def _probes(metrics: dict[str, Any]) -> list[Block]:
    if not mapping(metrics.get("probes")):
        return []
    columns = [Column("Tokenizer"), *(Column(title, number=True) for title, _, _ in _PROBES)]
    rows = [
        [Cell(name), *(Cell(decimal(dig(one, "probes", group, key), 2), number=True) for _, group, key in _PROBES)]
        for name, one in _all(metrics).items()
        if mapping(one.get("probes"))
    ]
    return [Table("What averages hide: digits, l·l, elided words, code and English", columns, rows)]


def _pieces(metrics: dict[str, Any]) -> list[Block]:
    pieces = mapping(metrics.get("pieces"))
    trained = real(pieces.get("trained"))
    if trained is None:
        return []
    facts = [("Learnt pieces", whole(trained)), ("Unreachable", whole(pieces.get("unreachable")))]
    if (unused := real(pieces.get("unused"))) is not None:
        facts.append(("Not used in the sample", f"{whole(unused)}, {whole(pieces.get('intermediate'))} of them parts of others"))
        facts.append(("Dead", f"{whole(pieces.get('dead'))} ({percent(real(pieces.get('dead')) or 0, trained)})"))
        facts.append(("Hardly ever used (glitch tokens)", whole(pieces.get("glitch_count"))))
    blocks: list[Block] = [Heading("Health of the vocabulary"), Facts(facts)]
    for title, key in (("Unreachable", "unreachable_examples"), ("Not used in the sample", "unused_examples"), ("Hardly ever used", "glitch")):
        examples = pieces.get(key)
        if isinstance(examples, list) and examples:
            shown = ", ".join(f"“{_spelt(piece)}”" for piece in examples[:_EXAMPLES])
            blocks.append(Remark(f"{title}, for example: {shown}."))
    return blocks


def _spelt(piece: Any) -> str:
    """A piece with its spaces visible."""
    return line(clean(piece).replace(" ", "␣").replace("\n", "␤").replace("\t", "␉"))
