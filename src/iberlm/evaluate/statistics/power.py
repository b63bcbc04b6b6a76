"""What a comparison can see: the smallest difference that a paired test finds with a given chance."""

import math

from scipy.special import ndtri, stdtrit

ALPHA = 0.05
POWER = 0.8


def minimum_detectable_effect(
    n: int,
    *,
    sd: float | None = None,
    discordance: float | None = None,
    clusters: int | None = None,
    design_effect: float = 1.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """The true difference that a two-sided paired test at level `alpha` finds with chance `power`, in the unit of the scores.

    `sd`: standard deviation of the paired differences of single items (Miller 2024, arXiv 2411.00640, section 5);
    `discordance`: of right-or-wrong scores, the share of items that one model gets right and the other wrong (Connor, Biometrics
    43, 1987: the null's variance is the discordance, the alternative's that less the difference squared). Give one of the two.
    `design_effect`: by how much clusters make the variance larger; `clusters` their number, for Student's t; without, items stand alone.
    """
    if (sd is None) == (discordance is None):
        raise ValueError("give either sd or discordance")
    if n < 1 or not 0 < alpha < 1 or not 0 < power < 1 or design_effect <= 0:
        raise ValueError(f"n={n}, alpha={alpha}, power={power}, design_effect={design_effect}: no such test")
    units = n if clusters is None else clusters
    if sd is not None:
        if units < 2:
            return math.inf
        reach = float(stdtrit(units - 1, 1 - alpha / 2)) + float(stdtrit(units - 1, power))
        return reach * sd * math.sqrt(design_effect / n)
    share = min(max(float(discordance or 0.0), 0.0), 1.0)
    effective = n / design_effect
    if clusters is None:
        threshold, reach = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    elif units < 2:
        return math.inf
    else:
        threshold, reach = float(stdtrit(units - 1, 1 - alpha / 2)), float(stdtrit(units - 1, power))
    return _connor(share, effective, threshold, reach)


def _connor(share: float, n: float, threshold: float, reach: float) -> float:
    """Root of difference = (threshold sqrt(share) + reach sqrt(share - difference^2)) / sqrt(n); at most `share`, then no test can see it."""
    low, high = 0.0, share
    needed = threshold * math.sqrt(share)
    if high * math.sqrt(n) < needed:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        if middle * math.sqrt(n) < needed + reach * math.sqrt(max(share - middle**2, 0.0)):
            low = middle
        else:
            high = middle
    return high
