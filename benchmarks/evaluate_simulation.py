"""Whether the statistics of an evaluation keep their promise: 95% intervals that hold the truth in 95% of evaluations, tests that err in 5%.

    python benchmarks/evaluate_simulation.py [--quick] [--only WORD] [--seed N] [--out FILE.json]

Models are simulated whose true score is known; each repetition draws other items (or passages), asks them, and computes what
`iberlm evaluate` and `iberlm compare` compute, by the same functions. The goals: coverage of 95 +- 1.5, false positives of 5 +- 1.
Beside stands what plain lm-eval's standard error gives: value +- 1.96 errors, and for two models the unpaired z test.

Where `iberlm compare` says that there is too little to judge by, it calls no model better: such evaluations are refused, as are those in
which no item differs. The goals are those of the others; how many are refused stands beside, and what came out of all of them, refused ones
too, by interval and p alone.
Where the estimate lies within an error of a goal's end, or beyond it by less than two, the scenario is repeated up to five times as often.

No interval of a share can hold 95% for each single share, since few values can come out (Brown, Cai and DasGupta, Statistical
Science 16, 2001): coverage is the mean over shares drawn evenly from the range that the scenario names.
"""

import argparse
import itertools
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr
from simulated_models import (
    Bleu,
    Cells,
    bleu_counts,
    bleu_truth,
    cluster_sizes,
    documents,
    graded,
    graded_pairs,
    matthews_pairs,
    right_or_wrong,
    right_or_wrong_pairs,
)

from iberlm.evaluate.statistics.aggregate import Normalised, language_mean
from iberlm.evaluate.statistics.intervals import Interval, corpus_interval, mean_interval, ratio_interval
from iberlm.evaluate.statistics.paired import (
    Difference,
    mean_difference,
    paired_corpus_difference,
    paired_difference,
    paired_ratio_difference,
)
from iberlm.evaluate.statistics.power import minimum_detectable_effect

Generator = np.random.Generator
COVERAGE, FALSE_POSITIVES, POWER = "coverage", "false positives", "power"
GOALS = {COVERAGE: (93.5, 96.5), FALSE_POSITIVES: (4.0, 6.0)}
OTHER_PASSAGES = [(15, 8), (30, 3), (12, "1 to 40")]
OTHER_CORRELATIONS = (0.05, 0.2, 0.6)
"""Of scenarios that were added when the methods had been chosen, as were those of 25, 40, 75, 150 and 30 x 4 items, of rare large gains, and of
five documents a source."""
HOLDS, REFUSED = "within", "refused"
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Outcome:
    """Of one repetition: whether the event of the goal happened, and whether it did by lm-eval's standard error (None where it has none)."""

    event: bool
    plain: bool | None = None
    refused: bool = False
    """`iberlm compare` would say that there is too little to judge by, or that no item differs."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated."""

    goal: str
    group: str
    name: str
    items: str
    repetitions: int
    draw: Callable[[Generator], Outcome]


@dataclass(frozen=True)
class Row:
    """What came out, in percent."""

    goal: str
    group: str
    name: str
    items: str
    repetitions: int
    percent: float | None
    """Of the evaluations that are not refused; None where all are."""
    error: float
    refused: float
    everything: float
    """Of all, refused ones too."""
    plain: float | None
    verdict: str
    """`HOLDS`; outside of the goal by less than two errors, or by more; `REFUSED` where all are; empty where there is no goal."""


def covered(interval: Interval, truth: float) -> bool:
    """Whether the interval holds the truth."""
    return interval.low <= truth <= interval.high


def plain_error(scores: Any) -> float:
    """lm-eval's standard error of a mean."""
    return float(np.std(scores, ddof=1)) / math.sqrt(len(scores))


def plain_covers(scores: Any, truth: float) -> bool:
    """Whether mean +- 1.96 of lm-eval's standard errors holds the truth."""
    return abs(float(np.mean(scores)) - truth) <= 1.96 * plain_error(scores)


def plain_rejects(a: Any, b: Any) -> bool:
    """lm-eval's model_comparator: z of the difference of two means as if the items were different ones."""
    error = math.hypot(plain_error(a), plain_error(b))
    return error > 0 and 2 * float(ndtr(-abs(float(np.mean(a) - np.mean(b))) / error)) <= 0.05


def repetitions(n: int) -> int:
    """More where a repetition is cheap."""
    return int(np.clip(2_000_000 // n, 2_500, 10_000))


def shares() -> Iterator[Scenario]:
    """Right-or-wrong scores, alone and by passages."""
    for low, high in ((0.05, 0.95), (0.05, 0.15), (0.85, 0.95)):
        for n in (20, 30, 40, 50, 75, 100, 200, 500, 2000):

            def draw(rng: Generator, n: int = n, low: float = low, high: float = high) -> Outcome:
                share = rng.uniform(low, high)
                scores = right_or_wrong(rng, np.ones(n, int), share, 0.0)
                return Outcome(covered(mean_interval(scores.tolist(), bounds=(0, 1)), share), plain_covers(scores, share))

            yield Scenario(COVERAGE, "share", f"share {low} to {high}", str(n), repetitions(n), draw)
    passages = [
        (10, 2),
        (20, 2),
        (100, 2),
        (10, 5),
        (20, 5),
        (40, 5),
        (200, 5),
        (10, 20),
        (20, 20),
        (50, 20),
        (100, 20),
        (10, "2 to 20"),
        (20, "2 to 20"),
        (50, "2 to 20"),
        (180, "2 to 20"),
    ]
    for group, correlations in ((passages, (0.0, 0.1, 0.3, 0.5)), (OTHER_PASSAGES, OTHER_CORRELATIONS)):
        for (clusters, size), correlation in itertools.product(group, correlations):

            def draw_clustered(rng: Generator, clusters: int = clusters, size: Any = size, correlation: float = correlation) -> Outcome:
                share, sizes = rng.uniform(0.05, 0.95), cluster_sizes(rng, clusters, size)
                scores = right_or_wrong(rng, sizes, share, correlation)
                passages = np.repeat(np.arange(clusters), sizes).tolist()
                return Outcome(covered(mean_interval(scores.tolist(), passages, bounds=(0, 1)), share), plain_covers(scores, share))

            items = f"{clusters} x {size}"
            yield Scenario(COVERAGE, "share, by passages", f"correlation {correlation}", items, 3000, draw_clustered)


def graded_scores() -> Iterator[Scenario]:
    """Scores between 0 and 1, such as F1 and ROUGE of single items."""
    for kind in ("evenly mixed", "mostly 0", "mostly 1", "low"):
        for n in (20, 30, 40, 100, 500):

            def draw(rng: Generator, n: int = n, kind: str = kind) -> Outcome:
                scores, truth = graded(rng, np.ones(n, int), kind, 0.0)
                return Outcome(covered(mean_interval(scores.tolist(), bounds=(0, 1)), truth), plain_covers(scores, truth))

            yield Scenario(COVERAGE, "graded score", kind, str(n), repetitions(n), draw)
        for clusters, size in ((10, 5), (20, 5), (20, "2 to 20")):
            for correlation in (0.1, 0.3):

                def draw_clustered(rng: Generator, kind: str = kind, clusters: int = clusters, size: Any = size, correlation: float = correlation) -> Outcome:
                    sizes = cluster_sizes(rng, clusters, size)
                    scores, truth = graded(rng, sizes, kind, correlation)
                    passages = np.repeat(np.arange(clusters), sizes).tolist()
                    return Outcome(covered(mean_interval(scores.tolist(), passages, bounds=(0, 1)), truth), plain_covers(scores, truth))

                yield Scenario(COVERAGE, "graded score, by passages", f"{kind}, correlation {correlation}", f"{clusters} x {size}", 3000, draw_clustered)


def bits_per_byte() -> Iterator[Scenario]:
    """Ratios of sums over documents of unequal length."""
    for spread, told in ((0.5, "lengths within 1:7"), (1.0, "lengths within 1:50"), (1.5, "lengths within 1:360")):
        for kind in ("even rates", "skewed rates", "documents by source", "five documents a source"):
            for n in (50, 100, 500) if kind == "five documents a source" else (20, 30, 40, 100, 500):

                def draw(rng: Generator, n: int = n, spread: float = spread, kind: str = kind) -> Outcome:
                    bits, sizes, sources = documents(rng, n, spread, kind)
                    return Outcome(covered(ratio_interval(bits.tolist(), sizes.tolist(), sources), 1.0))

                yield Scenario(COVERAGE, "bits per byte", f"{kind}, {told}", str(n), 3000, draw)


def corpora() -> Iterator[Scenario]:
    """Metrics of a whole corpus."""
    for n in (50, 75, 100, 300):
        for kind in ("better than chance", "good", "rare class"):

            def draw_matthews(rng: Generator, n: int = n, kind: str = kind) -> Outcome:
                counted, truth = matthews_pairs(rng, n, kind)
                return Outcome(covered(corpus_interval(counted.first, Cells(), seed=int(rng.integers(1 << 31))), truth))

            yield Scenario(COVERAGE, "Matthews", kind, str(n), 2000, draw_matthews)
    for n, size in ((50, 1), (75, 1), (100, 1), (150, 1), (300, 1), (120, 4), (200, 5)):

        def draw_bleu(rng: Generator, n: int = n, size: int = size) -> Outcome:
            counts, _ = bleu_counts(rng, n, size)
            documents_of = None if size == 1 else (np.arange(n) // size).tolist()
            found = corpus_interval(list(counts), Bleu(), documents_of, seed=int(rng.integers(1 << 31)))
            return Outcome(covered(found, bleu_truth(size)))

        yield Scenario(
            COVERAGE, "BLEU", "sentences" if size == 1 else "sentences of documents", str(n) if size == 1 else f"{n // size} x {size}", 2000, draw_bleu
        )


def language_task(rng: Generator) -> tuple[Normalised, float, float]:
    """A task of a language's mean: its result, its true points, and the variance of the points by lm-eval's standard error."""
    n = int(rng.choice([100, 150, 250, 500, 1000]))
    kind = rng.choice(["alone", "passages", "graded"])
    chance = 0.0 if kind == "graded" else float(rng.choice([0.25, 1 / 3, 0.5]))
    passages = None
    if kind == "graded":
        scores, truth = graded(rng, np.ones(n, int), "evenly mixed", 0.0)
    else:
        sizes = np.ones(n, int) if kind == "alone" else np.full(n // 5, 5)
        truth = rng.uniform(chance, 0.95)
        scores = right_or_wrong(rng, sizes, truth, 0.0 if kind == "alone" else 0.2)
        passages = None if kind == "alone" else np.repeat(np.arange(len(sizes)), sizes).tolist()
    interval = mean_interval(scores.tolist(), passages, bounds=(0, 1))
    slope = 100 / (1 - chance)
    return Normalised(task=str(kind), interval=interval, chance=chance, best=1.0), slope * (truth - chance), (slope * plain_error(scores)) ** 2


def languages() -> Iterator[Scenario]:
    """The mean of a language's tasks."""
    for k in (3, 6, 12):

        def draw(rng: Generator, k: int = k) -> Outcome:
            tasks = [language_task(rng) for _ in range(k)]
            truth = float(np.mean([points for _, points, _ in tasks]))
            found = language_mean([task for task, _, _ in tasks])
            plain = 1.96 * math.sqrt(sum(variance for _, _, variance in tasks)) / k
            return Outcome(covered(found, truth), abs(found.value - truth) <= plain)

        yield Scenario(COVERAGE, "mean of a language", f"{k} tasks of 100 to 1000 items", str(k), 2000, draw)


def rejects(found: Difference) -> bool:
    """Whether the test calls the models different."""
    return found.p <= 0.05


def outcome(goal: str, found: Difference, truth: float = 0.0, plain: bool | None = None) -> Outcome:
    """Of two models: whether the interval holds the true difference, or whether the test rejects."""
    return Outcome(rejects(found) if goal == FALSE_POSITIVES else covered(found.interval, truth), plain, refused=bool(found.too_few) or not found.differing)


def paired_shares() -> Iterator[Scenario]:
    """Two models on the same right-or-wrong items."""
    passages = [(10, 5), (20, 2), (20, 5), (100, 5), (10, 20), (100, 20), (20, "2 to 20"), (100, "2 to 20")]
    for goal in (FALSE_POSITIVES, COVERAGE):
        for n in (20, 25, 30, 40, 50, 75, 100, 200, 500, 2000):

            def draw(rng: Generator, n: int = n, goal: str = goal) -> Outcome:
                a, b, truth = right_or_wrong_pairs(rng, np.ones(n, int), 0.0, equal=goal == FALSE_POSITIVES)
                found = paired_difference(a.tolist(), b.tolist())
                return outcome(goal, found, truth, plain_rejects(a, b) if goal == FALSE_POSITIVES else None)

            yield Scenario(goal, "pair, right or wrong", "5 to 50% of the items differ", str(n), repetitions(n), draw)
        for group, correlations in ((passages, (0.0, 0.1, 0.3)), (OTHER_PASSAGES, OTHER_CORRELATIONS)):
            for (clusters, size), correlation in itertools.product(group, correlations):

                def draw_clustered(rng: Generator, clusters: int = clusters, size: Any = size, correlation: float = correlation, goal: str = goal) -> Outcome:
                    sizes = cluster_sizes(rng, clusters, size)
                    a, b, truth = right_or_wrong_pairs(rng, sizes, correlation, equal=goal == FALSE_POSITIVES)
                    found = paired_difference(a.tolist(), b.tolist(), np.repeat(np.arange(clusters), sizes).tolist())
                    return outcome(goal, found, truth, plain_rejects(a, b) if goal == FALSE_POSITIVES else None)

                yield Scenario(goal, "pair, right or wrong, by passages", f"correlation {correlation}", f"{clusters} x {size}", 3000, draw_clustered)


def paired_others() -> Iterator[Scenario]:
    """Two models: graded scores, bits per byte, corpora, languages. All equal on the whole."""
    for kind in ("like one another", "one all or nothing", "small gains, large losses", "small losses, rare large gains"):
        for n in (20, 30, 40, 100, 500):

            def draw(rng: Generator, n: int = n, kind: str = kind) -> Outcome:
                a, b = graded_pairs(rng, n, kind)
                return outcome(FALSE_POSITIVES, paired_difference(a.tolist(), b.tolist()), plain=plain_rejects(a, b))

            yield Scenario(FALSE_POSITIVES, "pair, graded score", kind, str(n), repetitions(n), draw)
    for spread, told in ((0.5, "lengths within 1:7"), (1.0, "lengths within 1:50")):
        for n in (20, 30, 40, 100, 500):

            def draw_bits(rng: Generator, n: int = n, spread: float = spread) -> Outcome:
                bits, sizes, _ = documents(rng, n, spread, "skewed rates")
                a, b = (bits * np.exp(rng.normal(0, 0.05, n)) for _ in range(2))
                return outcome(FALSE_POSITIVES, paired_ratio_difference(a.tolist(), b.tolist(), sizes.tolist()))

            yield Scenario(FALSE_POSITIVES, "pair, bits per byte", told, str(n), 3000, draw_bits)
    for n in (50, 75, 100, 300):
        for kind in ("better than chance", "good", "rare class"):

            def draw_matthews(rng: Generator, n: int = n, kind: str = kind) -> Outcome:
                counted, _ = matthews_pairs(rng, n, kind)
                found = paired_corpus_difference(counted.first, counted.second, Cells(), seed=int(rng.integers(1 << 31)))
                return outcome(FALSE_POSITIVES, found)

            yield Scenario(FALSE_POSITIVES, "pair, Matthews", kind, str(n), 2000, draw_matthews)
    for n, size in ((50, 1), (75, 1), (100, 1), (150, 1), (300, 1), (120, 4), (200, 5)):

        def draw_bleu(rng: Generator, n: int = n, size: int = size) -> Outcome:
            a, b = bleu_counts(rng, n, size)
            of = None if size == 1 else (np.arange(n) // size).tolist()
            return outcome(FALSE_POSITIVES, paired_corpus_difference(list(a), list(b), Bleu(), of, seed=int(rng.integers(1 << 31))))

        yield Scenario(
            FALSE_POSITIVES,
            "pair, BLEU",
            "sentences" if size == 1 else "sentences of documents",
            str(n) if size == 1 else f"{n // size} x {size}",
            2000,
            draw_bleu,
        )
    for k in (3, 6, 12):

        def draw_language(rng: Generator, k: int = k) -> Outcome:
            return outcome(FALSE_POSITIVES, mean_difference([_task_difference(rng) for _ in range(k)]))

        yield Scenario(FALSE_POSITIVES, "pair, mean of a language", f"{k} tasks of 100 to 1000 items", str(k), 2000, draw_language)


def _task_difference(rng: Generator) -> Difference:
    n = int(rng.choice([100, 150, 250, 500, 1000]))
    kind, slope = rng.choice(["alone", "passages", "graded"]), float(rng.choice([100.0, 400 / 3, 200.0]))
    if kind == "graded":
        a, b = graded_pairs(rng, n, "like one another")
        return paired_difference(a.tolist(), b.tolist()).scaled(slope)
    sizes = np.ones(n, int) if kind == "alone" else np.full(n // 5, 5)
    a, b, _ = right_or_wrong_pairs(rng, sizes, 0.0 if kind == "alone" else 0.2, equal=True)
    return paired_difference(a.tolist(), b.tolist(), None if kind == "alone" else np.repeat(np.arange(len(sizes)), sizes).tolist()).scaled(slope)


def power() -> Iterator[Scenario]:
    """Whether the minimum detectable effect is found in 80% of evaluations."""
    for n in (100, 200, 1000):
        for differing in (0.1, 0.3):

            def draw(rng: Generator, n: int = n, differing: float = differing) -> Outcome:
                effect = minimum_detectable_effect(n, discordance=differing)
                kind = rng.choice(3, size=n, p=[(differing + effect) / 2, (differing - effect) / 2, 1 - differing])
                return Outcome(rejects(paired_difference((kind == 0).astype(float).tolist(), (kind == 1).astype(float).tolist())))

            yield Scenario(POWER, "minimum detectable effect", f"{differing:.0%} of the items differ", str(n), 3000, draw)


def simulate(scenario: Scenario, seed: int, share: float) -> Row:
    """Repeat a scenario; its randomness depends on the seed and on its own name alone."""
    name = f"{scenario.goal}/{scenario.group}/{scenario.name}/{scenario.items}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    each = max(100, int(scenario.repetitions * share))
    outcomes: list[Outcome] = []
    percent, error, verdict = None, 0.0, ""
    for _ in range(MOST_ROUNDS):
        outcomes += [scenario.draw(rng) for _ in range(each)]
        judged = [found.event for found in outcomes if not found.refused]
        percent, error = (100 * sum(judged) / len(judged), _error(sum(judged), len(judged))) if judged else (None, 0.0)
        verdict = _verdict(scenario.goal, percent, error)
        if percent is None or scenario.goal not in GOALS or not -error < _beyond(scenario.goal, percent) < 2 * error:
            break
    count = len(outcomes)
    refused, everything = (100 * sum(getattr(found, name) for found in outcomes) / count for name in ("refused", "event"))
    plain = None if outcomes[0].plain is None else 100 * sum(bool(found.plain) for found in outcomes) / count
    return Row(scenario.goal, scenario.group, scenario.name, scenario.items, count, percent, error, refused, everything, plain, verdict)


def _error(events: int, count: int) -> float:
    percent = 100 * events / count
    return math.sqrt(max(percent * (100 - percent), 1.0) / count)


def _beyond(goal: str, percent: float) -> float:
    low, high = GOALS[goal]
    return max(low - percent, percent - high)


def _verdict(goal: str, percent: float | None, error: float) -> str:
    if goal not in GOALS:
        return ""
    if percent is None:
        return REFUSED
    beyond = _beyond(goal, percent)
    return "outside" if beyond > 2 * error else "at the edge" if beyond > 0 else HOLDS


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text, by goal."""
    lines = []
    for goal in dict.fromkeys(row.goal for row in rows):
        lines += ["", f"{goal}, %" + (" (goal {:g} to {:g})".format(*GOALS[goal]) if goal in GOALS else "")]
        shown = [["what", "models", "items", "repetitions", "%", "error", "refused", "of all", "lm-eval's error", ""]]
        for row in (row for row in rows if row.goal == goal):
            plain = "" if row.plain is None else f"{row.plain:.1f}"
            shown.append(
                [
                    row.group,
                    row.name,
                    row.items,
                    str(row.repetitions),
                    "-" if row.percent is None else f"{row.percent:.1f}",
                    "-" if row.percent is None else f"{row.error:.1f}",
                    *((f"{row.refused:.1f}", f"{row.everything:.1f}") if row.refused else ("", "")),
                    plain,
                    "" if row.verdict == HOLDS else row.verdict,
                ]
            )
        widths = [max(len(line[column]) for line in shown) for column in range(len(shown[0]))]
        lines += [
            "  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in shown
        ]
    return "\n".join(lines)


def main() -> None:
    """Run the scenarios and print the table and how many hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions: errors three times as large")
    parser.add_argument("--only", default="", metavar="WORD", help="only groups whose name holds this word")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    arguments = parser.parse_args()
    started = time.process_time()
    makers = (shares, graded_scores, bits_per_byte, corpora, languages, paired_shares, paired_others, power)
    scenarios = [scenario for maker in makers for scenario in maker() if arguments.only in f"{scenario.goal}: {scenario.group}"]
    rows = [simulate(scenario, arguments.seed, 0.1 if arguments.quick else 1.0) for scenario in scenarios]
    rows.sort(key=lambda row: [COVERAGE, FALSE_POSITIVES, POWER].index(row.goal))
    print(table(rows))
    for goal, (low, high) in GOALS.items():
        judged = [row for row in rows if row.goal == goal]
        if judged:
            counts = {verdict: sum(row.verdict == verdict for row in judged) for verdict in (HOLDS, "at the edge", "outside", REFUSED)}
            told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            known = [row.percent for row in judged if row.percent is not None]
            print(f"\n{goal}, goal {low:g} to {high:g}: of {len(judged)} scenarios {told}; mean {sum(known) / max(len(known), 1):.2f}")
    print("at the edge: beyond the goal by less than two errors of the simulation")
    print(f"{time.process_time() - started:.0f} s of processor time, seed {arguments.seed}")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
