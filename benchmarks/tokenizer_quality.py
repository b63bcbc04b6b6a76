"""What tokenizers cost by language on parallel text that none was trained on: `benchmarks/tokenizer.py` fertility, curve and extend."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer_commands import LANGUAGES, iberlm, markdown
from tokenizer_inputs import Documents, without

GOALS = {"es": 1.40, "ca": 1.50, "ca-valencia": 1.50, "eu": 1.90, "gl": 1.45}
"""Tokens a word at a vocabulary of 64,000."""
SPLITS = ("script", "elision", "space")
PARITY = "tokenizer.parity.rounds=8"
WEIGHTS = {"es": 1.0, "ca": 0.8, "ca-valencia": 0.6, "eu": 1.6, "gl": 1.0}
"""By hand: Catalan and Valencian have most words in common, and Basque inflects them. Chosen while looking at the Declaration, so no held-out result."""
WEIGHTED = ["tokenizer.mixture.kind=weights", "+tokenizer.mixture.weights={" + ", ".join(f"{tag}: {weight}" for tag, weight in WEIGHTS.items()) + "}"]
TRAININGS = {
    **{f"bpe, split={split}": [f"tokenizer.split={split}"] for split in SPLITS},
    **{f"bpe, split={split}, parity": [f"tokenizer.split={split}", PARITY] for split in SPLITS},
    **{f"bpe, split={split}, weights": [f"tokenizer.split={split}", *WEIGHTED] for split in ("elision", "space")},
    "byte_bpe": ["tokenizer.algorithm=byte_bpe"],
    "byte_bpe, parity": ["tokenizer.algorithm=byte_bpe", PARITY],
    "unigram, split=elision": ["tokenizer.algorithm=unigram"],
}


@dataclass(frozen=True)
class Cost:
    """What a tokenizer makes of parallel text: tokens, words by white space and bytes of UTF-8 by language."""

    vocabulary: int
    tokens: dict[str, int]
    words: dict[str, int]
    text_bytes: dict[str, int]

    def per_word(self, tag: str) -> float:
        """Tokens a word."""
        return self.tokens[tag] / self.words[tag]

    def per_token(self, tag: str) -> float:
        """Bytes a token."""
        return self.text_bytes[tag] / self.tokens[tag]

    @property
    def spread(self) -> float:
        """Bytes a token of the language where a token holds most over those of the one where it holds least."""
        found = [self.per_token(tag) for tag in self.tokens]
        return max(found) / min(found)

    @property
    def ratio(self) -> float:
        """Tokens of the dearest language over those of the cheapest, for the same content."""
        return max(self.tokens.values()) / min(self.tokens.values())


def cost(path: Path, parallel: Mapping[str, list[str]]) -> Cost:
    """Measure a tokenizer, line by line."""
    from iberlm.tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(path)
    tokens = {tag: sum(map(len, tokenizer.encode(parallel[tag]))) for tag in LANGUAGES}
    words = {tag: sum(len(line.split()) for line in parallel[tag]) for tag in LANGUAGES}
    return Cost(tokenizer.vocabulary_size, tokens, words, {tag: sum(len(line.encode()) for line in parallel[tag]) for tag in LANGUAGES})


def read(folder: Path) -> dict[str, list[str]]:
    """The parallel text."""
    from iberlm.tokenizer.measure import read_parallel

    return read_parallel(folder)


def prepared(arguments: argparse.Namespace, folder: Path) -> tuple[Documents, dict[str, list[str]]]:
    """The documents without those that have the parallel text, and the parallel text; says what there is."""
    parallel = read(arguments.parallel)
    documents, left_out = without(arguments.documents, parallel, folder / "documents", list(LANGUAGES))
    text = ", ".join(f"{tag} {documents.text_bytes[tag] / 1e6:.1f}" for tag in LANGUAGES)
    print(f"documents: {documents.megabytes:.1f} MB ({text}); left out because they have the parallel text in them: {left_out}")
    lines = {tag: f"{sum(len(line.split()) for line in parallel[tag]):,} words" for tag in LANGUAGES}
    print(f"parallel text: {len(parallel[LANGUAGES[0]])} lines, {lines}", flush=True)
    return documents, parallel


@dataclass(frozen=True)
class Trained:
    """A tokenizer's folder, CPU seconds, and what the stage says of it; or in place of these what it was refused with."""

    folder: Path
    cpu: float
    metrics: dict[str, Any]
    refusal: str = ""


def train(documents: Documents, out: Path, settings: list[str]) -> Trained:
    """Train on documents with these settings, once."""
    from iberlm.core.errors import DataError
    from iberlm.core.manifest import read_manifest

    fixed = [f"documents={documents.folder}", f"out={out}", "tokenizer.check_determinism=false", f"languages=[{','.join(LANGUAGES)}]"]
    finished = iberlm("train-tokenizer", *fixed, *settings, log=out.with_suffix(".log"), status=(0, DataError.exit_status))
    if finished.status:
        return Trained(out, finished.cpu, {}, finished.said.strip().splitlines()[-1])
    return Trained(out / "tokenizer", finished.cpu, read_manifest(out).metrics)


def sample(megabytes: float) -> str:
    """The setting for so much text a language."""
    return f"tokenizer.sample_bytes_per_language={int(megabytes * 1e6)}"


def fertility(arguments: argparse.Namespace, folder: Path) -> None:
    """Ours by algorithm, split and mixture, beside peers."""
    documents, parallel = prepared(arguments, folder)
    costs, seconds, searches = {}, {}, []
    for number, (name, settings) in enumerate(TRAININGS.items()):
        if arguments.only and name not in arguments.only:
            continue
        size = [f"tokenizer.vocabulary_size={arguments.vocabulary}", sample(arguments.megabytes)]
        trained = train(documents, folder / f"trained{number}", [*size, *settings])
        if trained.refusal:
            print(f"{name}: {trained.refusal}")
            continue
        costs[name], seconds[name] = cost(trained.folder, parallel), f"{trained.cpu:.0f}"
        print(f"{name}: " + ", ".join(f"{tag} {costs[name].per_word(tag):.3f}" for tag in LANGUAGES), flush=True)
        if search := trained.metrics.get("parity"):
            rounds, chosen = search["rounds"], search["chosen"]
            weights = (f"{rounds[chosen]['weights'][tag]:.3f}" for tag in LANGUAGES)
            searches.append([name, str(len(rounds)), *weights, f"{rounds[0]['gini']:.4f}", f"{rounds[chosen]['gini']:.4f}"])
    costs |= {name: cost(path, parallel) for name, path in arguments.peer}
    show(costs, seconds)
    if searches:
        head = ["tokenizer", "trainings", *LANGUAGES, "Gini, uniform", "Gini, as found"]
        markdown("searches for parity: share of each language, and Gini of the text that the search itself measured on", head, searches)


def show(costs: Mapping[str, Cost], seconds: Mapping[str, str]) -> None:
    """The three tables of `fertility`; what meets its goal is bold."""
    from iberlm.tokenizer.measure import gini

    head = ["tokenizer", "vocabulary", *LANGUAGES]
    goals = ["goal", "64,000", *(f"{GOALS[tag]:.2f}" for tag in LANGUAGES), ""]
    words, held, tokens = [goals], [], []
    for name, one in costs.items():
        begin = [name, f"{one.vocabulary:,}"]
        words.append([*begin, *(_against(one.per_word(tag), GOALS[tag]) for tag in LANGUAGES), seconds.get(name, "")])
        held.append([*begin, *(f"{one.per_token(tag):.2f}" for tag in LANGUAGES), f"{one.spread:.3f}"])
        tokens.append([*begin, *(f"{one.tokens[tag]:,}" for tag in LANGUAGES), f"{one.ratio:.3f}", f"{gini(one.tokens):.4f}"])
    markdown("tokens a word", [*head, "training, CPU s"], words)
    markdown("bytes a token, and the most over the least", [*head, "spread"], held)
    markdown("tokens for the same content", [*head, "dearest / cheapest", "Gini"], tokens)


def _against(value: float, goal: float) -> str:
    return f"**{value:.3f}**" if value <= goal else f"{value:.3f}"


def curve(arguments: argparse.Namespace, folder: Path) -> None:
    """Tokens a word by text and vocabulary."""
    documents, parallel = prepared(arguments, folder)
    found: dict[tuple[float, int], Cost | str] = {}
    for megabytes in arguments.megabytes:
        for vocabulary in arguments.vocabularies:
            settings = [f"tokenizer.vocabulary_size={vocabulary}", sample(megabytes), f"tokenizer.split={arguments.split}"]
            trained = train(documents, folder / f"curve{megabytes:g}_{vocabulary}", settings)
            one = found[megabytes, vocabulary] = trained.refusal or cost(trained.folder, parallel)
            told = one if isinstance(one, str) else ", ".join(f"{tag} {one.per_word(tag):.3f}" for tag in LANGUAGES)
            print(f"{megabytes:g} MB, {vocabulary:,}: {told}", flush=True)
    for tag in LANGUAGES:
        rows = []
        for megabytes in arguments.megabytes:
            cells = [found[megabytes, vocabulary] for vocabulary in arguments.vocabularies]
            rows.append([f"{megabytes:g}", *("refused" if isinstance(cell, str) else f"{cell.per_word(tag):.3f}" for cell in cells)])
        title = f"{tag}: tokens a word; {documents.text_bytes[tag] / 1e6:.1f} MB of it are there, more is that over again"
        markdown(title, ["MB a language", *(f"{vocabulary:,}" for vocabulary in arguments.vocabularies)], rows)


def extend(arguments: argparse.Namespace, folder: Path) -> None:
    """A tokenizer before and after pieces are added to it."""
    documents, parallel = prepared(arguments, folder)
    before = cost(arguments.base, parallel)
    settings: list[Any] = ["tokenizer.algorithm=extend", f"tokenizer.base={arguments.base.absolute()}", "tokenizer.reserved_tokens=0"]
    settings += [f"tokenizer.vocabulary_size={before.vocabulary + arguments.pieces}", sample(arguments.megabytes)]
    trained = train(documents, folder / "extended", settings)
    if trained.refusal:
        raise SystemExit(trained.refusal)
    after = cost(trained.folder, parallel)
    rows = [[name, f"{one.vocabulary:,}", *(f"{one.per_word(tag):.3f}" for tag in LANGUAGES)] for name, one in (("before", before), ("after", after))]
    rows.append(["saved", "", *(f"{1 - after.tokens[tag] / before.tokens[tag]:.1%}" for tag in LANGUAGES)])
    markdown(f"{arguments.base.name}, tokens a word; {trained.cpu:.0f} CPU s", ["", "vocabulary", *LANGUAGES], rows)
