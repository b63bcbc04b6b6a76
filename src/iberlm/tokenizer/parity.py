"""Weights of the languages by which the same content costs the same number of tokens in each.

Parity-aware BPE (Foroutan et al. 2025, arXiv 2508.04796) chooses every merge for the language that is worst off. Here the
trainers of the libraries stay as they are, and what each language weighs in the sample is chosen so that the finished
tokenizers come out even: train, measure the cost on parallel text, give the dear languages more, train again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from iberlm.core.progress import say
from iberlm.tokenizer.config import ParityConfig
from iberlm.tokenizer.measure import gini

Trained = TypeVar("Trained")
_FAILURES = 3
_PROGRESS = 0.005


@dataclass(frozen=True)
class Round(Generic[Trained]):
    """One training: share of the sample by language, tokens of the parallel text by language, Gini coefficient of these."""

    trained: Trained
    shares: dict[str, float]
    tokens: dict[str, int]
    gini: float


def search(
    train: Callable[[Mapping[str, float]], Trained], cost: Callable[[Trained], dict[str, int]], shares: Mapping[str, float], config: ParityConfig
) -> tuple[list[Round[Trained]], int]:
    """Train at `shares` and then `config.rounds` times at corrected ones; return the rounds and the index of the most even.

    A share is multiplied by (cost / mean cost) ** `strength`, kept within a factor of `max_shift` of where it began, and the
    shares are scaled to add up to 1. The search goes on from the most even round, with half the strength after one that was
    not more even by half a percent. Languages that the parallel text does not have keep their weight. Ends early at
    `tolerance`, after `_FAILURES` rounds without progress, and when the weights no longer change.
    """
    rounds = [_round(train, cost, dict(shares))]
    best, strength = 0, config.strength
    for number in range(config.rounds):
        if rounds[best].gini <= config.tolerance or strength < config.strength / 2 ** (_FAILURES - 0.5):
            break
        wanted = corrected(rounds[best].shares, rounds[best].tokens, strength, within=(shares, config.max_shift))
        if any(wanted == entry.shares for entry in rounds):
            break
        rounds.append(_round(train, cost, wanted))
        if rounds[-1].gini > (1 - _PROGRESS) * rounds[best].gini:
            strength /= 2
        if rounds[-1].gini < rounds[best].gini:
            best = len(rounds) - 1
        say(f"parity: round {number + 1} of at most {config.rounds}: Gini {rounds[-1].gini:.4f}, the best is {rounds[best].gini:.4f}")
    return rounds, best


def corrected(shares: Mapping[str, float], tokens: Mapping[str, int], strength: float, *, within: tuple[Mapping[str, float], float]) -> dict[str, float]:
    """Shares after one correction, each within a factor of the shares that the search began with; they add up to 1."""
    began, shift = within
    mean = sum(tokens.values()) / len(tokens)
    raised = {tag: share * ((tokens[tag] / mean) ** strength if tag in tokens else 1.0) for tag, share in shares.items()}
    kept = {tag: min(max(share, began[tag] / shift), began[tag] * shift) for tag, share in raised.items()}
    total = sum(kept.values())
    return {tag: share / total for tag, share in kept.items()}


def _round(train: Callable[[Mapping[str, float]], Trained], cost: Callable[[Trained], dict[str, int]], shares: dict[str, float]) -> Round[Trained]:
    trained = train(shares)
    tokens = cost(trained)
    return Round(trained, shares, tokens, gini(tokens))
