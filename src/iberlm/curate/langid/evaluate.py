"""Measure an identifier on texts whose languages are known: precision, recall, F1 and the confusions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError


@dataclass(frozen=True)
class Table:
    """What was answered for each true tag."""

    counts: Counter[tuple[str, str]]
    """How many texts of (true tag, answer)."""

    @property
    def tags(self) -> list[str]:
        """True tags, in the order in which they came."""
        return list(dict.fromkeys(true for true, _ in self.counts))

    def recall(self, tag: str) -> float:
        """Share of the texts in `tag` that were given it."""
        return self.counts[tag, tag] / sum(n for (true, _), n in self.counts.items() if true == tag)

    def precision(self, tag: str) -> float:
        """Share of the texts that were given `tag` that are in it; 0 when there was none."""
        answered = sum(n for (_, answer), n in self.counts.items() if answer == tag)
        return self.counts[tag, tag] / answered if answered else 0.0

    def f1(self, tag: str) -> float:
        """Harmonic mean of precision and recall."""
        precision, recall = self.precision(tag), self.recall(tag)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    @property
    def macro_f1(self) -> float:
        """Mean of F1 over the true tags."""
        return sum(self.f1(tag) for tag in self.tags) / len(self.tags)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(n for (true, answer), n in self.counts.items() if true == answer) / sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        by_tag = {tag: {"precision": self.precision(tag), "recall": self.recall(tag), "f1": self.f1(tag)} for tag in self.tags}
        return {"macro_f1": self.macro_f1, "accuracy": self.accuracy, "languages": by_tag}

    def rendered(self) -> str:
        """A table in plain text, one line a language with its commonest wrong answers."""
        lines = [f"{'tag':<12} {'texts':>6} {'precision':>9} {'recall':>7} {'F1':>7}  wrong answers"]
        for tag in self.tags:
            answers = {answer: n for (true, answer), n in self.counts.items() if true == tag}
            wrong = sorted(((n, answer) for answer, n in answers.items() if answer != tag), reverse=True)[:5]
            said = ", ".join(f"{answer} {n}" for n, answer in wrong)
            lines.append(f"{tag:<12} {sum(answers.values()):>6} {self.precision(tag):>9.4f} {self.recall(tag):>7.4f} {self.f1(tag):>7.4f}  {said}")
        return "\n".join([*lines, f"macro F1 {self.macro_f1:.4f}, accuracy {self.accuracy:.4f}"])


def table_of(truth: Sequence[str], answers: Sequence[str]) -> Table:
    """Count answers against the truth, both of the same length and order."""
    return Table(Counter(zip(truth, answers, strict=True)))


def read_labelled(folder: Path) -> list[tuple[str, str]]:
    """(text, tag) of each line of the files TAG.txt of a folder; lines that begin with # and empty ones are left out.

    Raises `ConfigError` when there is none.
    """
    found = [
        (line, path.stem) for path in sorted(folder.glob("*.txt")) for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")
    ]
    if not found:
        raise ConfigError(f"{folder}: no TAG.txt with text in it")
    return found
