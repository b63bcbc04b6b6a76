"""Calibrate: from a trusted sample of each language to the limits of the filters, with what each rule would drop of it.

A limit is the value that all but a stated share of the trusted documents keep to, so that each limit alone drops at most that share of
good text: what is ordinary differs by language (Basque words are longer, Catalan ones have clitics of one letter), what is tolerable
does not. Two guards keep a small or odd sample from setting odd limits: never stricter than what Gopher and FineWeb publish, never
looser than the other end of `GUARDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iberlm.core.config import between
from iberlm.core.errors import DataError
from iberlm.core.files import write_text
from iberlm.core.languages import LANGUAGES, NAMES, UNDETERMINED
from iberlm.core.manifest import Manifest
from iberlm.core.progress import say
from iberlm.curate.aligned import read_columns
from iberlm.curate.config import Thresholds
from iberlm.curate.measure.kernel import STATISTICS
from iberlm.curate.rules import RULES, first_reason, too_short
from iberlm.curate.selection.decide import Shard, shards_of
from iberlm.curate.spans import covered, flatten, joined

Columns = dict[str, npt.NDArray[Any]]
RECIPE, PAGE = "filters/calibrated.yaml", "calibration.html"
MIN_DOCUMENTS = 100
"""Fewer trusted documents of a language say nothing about its tails."""
GUARDS: dict[str, tuple[float, float]] = {
    "min_language_score": (0.9, 0.3),
    "min_mean_word_length": (3.0, 2.0),
    "max_mean_word_length": (10.0, 14.0),
    "min_alpha_word_ratio": (0.8, 0.6),
    "max_hash_ratio": (0.1, 0.2),
    "max_ellipsis_ratio": (0.1, 0.2),
    "max_bullet_line_ratio": (0.9, 1.0),
    "max_ellipsis_line_ratio": (0.3, 0.6),
    "min_punctuated_line_ratio": (0.12, 0.05),
    "max_new_line_ratio": (0.3, 0.6),
    "max_duplicate_line_ratio": (0.3, 0.5),
    "max_duplicate_line_character_ratio": (0.2, 0.4),
    "max_duplicate_paragraph_ratio": (0.3, 0.5),
    "max_duplicate_paragraph_character_ratio": (0.2, 0.4),
    "max_top_2_gram_ratio": (0.2, 0.4),
    "max_top_3_gram_ratio": (0.18, 0.36),
    "max_top_4_gram_ratio": (0.16, 0.32),
    "max_duplicate_5_gram_ratio": (0.15, 0.3),
    "max_duplicate_6_gram_ratio": (0.14, 0.28),
    "max_duplicate_7_gram_ratio": (0.13, 0.26),
    "max_duplicate_8_gram_ratio": (0.12, 0.24),
    "max_duplicate_9_gram_ratio": (0.11, 0.22),
    "max_duplicate_10_gram_ratio": (0.1, 0.2),
    "max_curly_bracket_ratio": (0.01, 0.03),
}
"""By limit: the strictest and the loosest value that calibration gives. The strictest are Gopher's (Rae et al. 2021, table A1) and, for
line punctuation, FineWeb's (Penedo et al. 2024); Gopher's limit on mean word length, made for English, is opened at the loose end.
What stands in no table (words, stop words, other languages, quality) is no matter of ordinary text and keeps its default."""
_STEPS = 1000
"""Limits have three decimals."""


@dataclass(frozen=True)
class Calibration:
    """The limits of one language and how the trusted documents meet them."""

    language: str
    claimed: int
    """Documents that the sample says are in the language."""
    columns: Columns
    """Of the trusted documents: those claimed, or claimed by nobody, and identified as the language; each of shape (documents,)."""
    limits: Thresholds
    guarded: dict[str, str]
    """By limit that a guard set: `strict` where the sample alone would have it stricter, `loose` where looser."""
    beyond: dict[str, float]
    """By limit: share of the trusted documents, fragments apart, that it alone drops."""
    dropped: dict[str, float]
    """By rule: share of the trusted documents that it alone would drop; but for `too_short`, of those that are no fragments."""
    dropped_together: float
    """Share of the trusted documents that any rule would drop."""

    @property
    def documents(self) -> int:
        """Trusted documents."""
        return len(self.columns["words"])


def calibrate(inputs: list[Manifest], *, share: float, languages: Sequence[str] = ()) -> list[Calibration]:
    """Calibrate each language (all with enough documents, or those given) on annotated documents.

    `inputs`: the manifests of extract and annotate of the trusted sample, and of quality if it was run; a document counts for the language
    that its source claims, if the identification agrees. `share` (0..0.2): share of trusted documents that one limit may drop. Raises
    `ConfigError` for another share, and `DataError` when a language that was asked for, or every one, has fewer than `MIN_DOCUMENTS`.
    """
    between("share", share, 0.0, 0.2)
    columns = _columns(inputs)
    found = []
    for language in languages or LANGUAGES:
        mine = {name: column[(columns["language"] == language) & columns["trusted"]] for name, column in columns.items()}
        whole = int(np.count_nonzero(mine["words"] >= Thresholds().min_words))
        if whole >= MIN_DOCUMENTS:
            found.append(_calibrated(language, int(np.count_nonzero(columns["claim"] == language)), mine, share))
        elif languages:
            raise DataError(f"calibrate: {NAMES[language]} has {whole:,} trusted documents, and its tails need {MIN_DOCUMENTS}; add some to the sample")
        else:
            say(f"calibrate: {language}: {whole:,} trusted documents, too few ({MIN_DOCUMENTS} are needed): not calibrated")
    if not found:
        raise DataError(f"calibrate: no language has {MIN_DOCUMENTS} trusted documents: claimed by their source and identified as the same language")
    return found


def _columns(inputs: list[Manifest]) -> Columns:
    parts = [_shard_columns(shard) for shard in shards_of(inputs)]
    if not parts:
        raise DataError("calibrate: there is no document in the sample")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shard_columns(shard: Shard) -> Columns:
    names = ["language", "language_score", *STATISTICS]
    table = read_columns(shard.beside["annotate"], [*names, "other_languages"], shard.rows)
    columns: Columns = {name: table.column(name).to_numpy() for name in names}
    columns["claim"] = read_columns(shard.documents, ["language"], shard.rows).column("language").to_numpy()
    columns["trusted"] = (columns["claim"] == columns["language"]) | (columns["claim"] == UNDETERMINED)
    in_others = covered(joined([flatten(table.column("other_languages"))]), shard.rows)
    columns["other_language_ratio"] = in_others / np.maximum(1, columns["characters"])
    columns["quality_score"] = np.ones(shard.rows, np.float32)
    if "quality" in shard.beside:
        columns["quality_score"] = read_columns(shard.beside["quality"], ["quality_score"], shard.rows).column("quality_score").to_numpy()
    return columns


def _calibrated(language: str, claimed: int, columns: Columns, share: float) -> Calibration:
    limits = Thresholds()
    # the limits are learnt from documents; a fragment has the statistics of a fragment
    whole = columns["words"] >= limits.min_words
    guarded, beyond = {}, {}
    for name, (strictest, loosest) in GUARDS.items():
        side, statistic = name.split("_", 1)
        values = columns[statistic][whole]
        wanted = _limit(values, share, side)
        limit = min(max(wanted, min(strictest, loosest)), max(strictest, loosest))
        setattr(limits, name, limit)
        if limit != wanted:
            guarded[name] = "strict" if limit == strictest else "loose"
        beyond[name] = float(np.mean(values < limit if side == "min" else values > limit))
    dropped = {rule.__name__: float(np.mean(rule(columns, limits)[whole if rule is not too_short else slice(None)])) for rule in RULES}
    return Calibration(language, claimed, columns, limits, guarded, beyond, dropped, float(np.mean(first_reason(columns, limits) >= 0)))


def _limit(values: npt.NDArray[Any], share: float, side: str) -> float:
    """The strictest limit of three decimals that drops at most the share of the values; `side`: `min` or `max`."""
    most = int(share * len(values))
    ordered = np.sort(values)
    edge = ordered[most] if side == "min" else ordered[len(ordered) - 1 - most]
    step = float(np.floor(edge * _STEPS)) if side == "min" else float(np.ceil(edge * _STEPS))
    # the rules compare in the precision of the column, where a decimal may lie on the other side of itself
    strict = 1 if side == "min" else -1
    for candidate in (step + strict, step, step - strict):
        limit = candidate / _STEPS
        if (edge >= values.dtype.type(limit)) if side == "min" else (edge <= values.dtype.type(limit)):
            return limit
    raise AssertionError(f"no limit beside {edge}")  # step - strict lies beyond any rounding


def write_calibration(calibrations: list[Calibration], share: float, sample: str, out: Path) -> list[Path]:
    """Write the recipe and the page with the distributions below `out`; return their paths. `sample` says in words what was measured."""
    from iberlm.curate.calibration_page import page  # jinja is needed by nothing else here

    recipe, path = out / RECIPE, out / PAGE
    write_text(recipe, recipe_text(calibrations, share, sample))
    write_text(path, page(calibrations, share, sample))
    return [recipe, path]


def recipe_text(calibrations: list[Calibration], share: float, sample: str) -> str:
    """The limits as a recipe for the group `filters`. Languages that were not calibrated get the defaults, and Valencian those of Catalan."""
    lines = [
        f"# Limits calibrated on {sample}: each alone drops at most {_percent(share)} of the trusted documents of its language,",
        "# or what a guard gives: never stricter than Gopher and FineWeb (strict), never looser than twice that (loose).",
        "# What is not named here keeps its default.",
    ]
    found = {entry.language: entry for entry in calibrations}
    for language in LANGUAGES:
        calibration = found.get(language) or (found.get("ca") if language == "ca-valencia" else None)
        if calibration is None:
            lines.append(f"{language}: {{}} # not calibrated: the defaults")
            continue
        lines.append(f"{language}: # {_origin(language, calibration)}")
        for name in GUARDS:
            remark = f" # {calibration.guarded[name]}" if name in calibration.guarded else ""
            lines.append(f"  {name}: {getattr(calibration.limits, name):.3f}{remark}")
    return "\n".join(lines) + "\n"


def _origin(language: str, calibration: Calibration) -> str:
    if language != calibration.language:
        return f"not calibrated: the limits of {NAMES[calibration.language]}"
    return f"{calibration.documents:,} trusted documents, of which all rules together drop {_percent(calibration.dropped_together)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def table_lines(calibrations: list[Calibration]) -> list[str]:
    """The share that each rule would drop, a line a rule and a column a language, for the terminal."""
    rows = [("", [found.language for found in calibrations]), ("trusted documents", [f"{found.documents:,}" for found in calibrations])]
    rows += [(rule.__name__, [f"{found.dropped[rule.__name__]:.2%}" for found in calibrations]) for rule in RULES]
    rows.append(("any rule", [f"{found.dropped_together:.2%}" for found in calibrations]))
    width = max(len(name) for name, _ in rows)
    return [" ".join([f"{name:<{width}}", *(f"{cell:>11}" for cell in cells)]) for name, cells in rows]
