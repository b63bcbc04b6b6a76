"""Which documents ours and the peer keep under the same published limits, and why they differ."""

import json
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DUPLICATES = ("duplicate", "near_duplicate", "url_duplicate")
RULES = {
    "dup_line_frac": "duplicate_lines",
    "char_dup_ratio": "duplicate_lines",
    **{f"top_{n}_gram": "top_ngrams" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": "duplicate_ngrams" for n in range(5, 11)},
    "line_punct_ratio": "line_punctuation",
    "list_ratio": "new_lines",
    "gopher_short_doc": "too_short",
    "gopher_long_doc": "too_long",
    "gopher_below_avg_threshold": "word_length",
    "gopher_above_avg_threshold": "word_length",
    "gopher_too_many_hashes": "symbols",
    "gopher_too_many_ellipsis": "symbols",
    "gopher_too_many_bullets": "bullets",
    "gopher_too_many_end_ellipsis": "ellipses",
    "gopher_below_alpha_threshold": "alpha_words",
    "gopher_enough_stop_words": "stop_words",
}
"""datatrove's reasons, as ours are called."""
DECIDING = {
    "duplicate_lines": ("duplicate_line_ratio", "duplicate_full_line_character_ratio"),
    "top_ngrams": tuple(f"top_{n}_gram_ratio" for n in (2, 3, 4)),
    "duplicate_ngrams": tuple(f"duplicate_{n}_gram_ratio" for n in range(5, 11)),
    "line_punctuation": ("punctuated_line_ratio",),
    "new_lines": ("new_line_ratio",),
    "too_short": ("words",),
    "too_long": ("words",),
    "word_length": ("mean_word_length",),
    "symbols": ("hash_ratio", "ellipsis_ratio"),
    "bullets": ("bullet_line_ratio",),
    "ellipses": ("ellipsis_line_ratio",),
    "alpha_words": ("alpha_word_ratio",),
    "stop_words": ("stop_words",),
}
"""What each rule compares with limits."""


@dataclass
class Ours:
    """Our side: by the document's identifier, why it was dropped ('' where it was not), its cluster and its statistics."""

    reasons: dict[str, str]
    clusters: dict[str, int]
    values: dict[str, dict[str, float]]


def read_ours(folder: Path) -> Ours:
    """Verdicts, clusters and statistics of a finished run."""
    import pyarrow.parquet as pq

    from iberlm.curate.measure.kernel import STATISTICS

    reasons: dict[str, str] = {}
    clusters: dict[str, int] = {}
    values: dict[str, dict[str, float]] = {}
    for path in sorted((folder / "extract" / "documents").glob("*.parquet")):
        sources = pq.read_table(path, columns=["source"]).column("source").to_pylist()
        ids = [source.rpartition("#")[2] for source in sources]
        reasons |= dict(zip(ids, pq.read_table(folder / "curate" / "verdicts" / path.name).column("reason").to_pylist(), strict=True))
        clusters |= dict(zip(ids, pq.read_table(folder / "dedup" / "clusters" / path.name).column("cluster").to_pylist(), strict=True))
        values |= dict(zip(ids, pq.read_table(folder / "annotate" / "annotations" / path.name, columns=list(STATISTICS)).to_pylist(), strict=True))
    for path in sorted((folder / "extract").glob("quarantine-*.jsonl")):
        for line in path.read_text().splitlines():
            reject = json.loads(line)
            reasons[str(reject["record"])] = f"quarantine_{reject['reason']}"
    return Ours(reasons, clusters, values)


def passes(reason: str) -> bool:
    """Whether the filters keep the document, be it a duplicate or not."""
    return reason == "" or reason in DUPLICATES


def table(ours: Ours, peer: dict[str, list[Any]]) -> tuple[list[str], list[str]]:
    """Lines of counts before and after deduplication, and the identifiers on which the filters differ."""
    lines, differing = [], []
    for when, test in (("filters alone", passes), ("and one of each cluster", lambda reason: reason == "")):
        cells: Counter[tuple[bool, bool]] = Counter()
        for identifier, (reason, _) in peer.items():
            ours_keep, peer_keeps = test(ours.reasons[identifier]), test(reason)
            cells[ours_keep, peer_keeps] += 1
            if when == "filters alone" and ours_keep != peer_keeps:
                differing.append(identifier)
        same = (cells[True, True] + cells[False, False]) / len(peer)
        row = f"{when:<24} {cells[True, True]:>7,} {cells[True, False]:>10,} {cells[False, True]:>11,} {cells[False, False]:>8,} {same:>10.1%}"
        lines.append(row)
    return lines, differing


def representatives(ours: Ours, peer: dict[str, list[Any]]) -> str:
    """Of the documents that pass on both sides and that one keeps: where only the choice within the same group differs, and where the grouping does."""
    both = [identifier for identifier, (reason, _) in peer.items() if passes(reason) and passes(ours.reasons[identifier])]
    kept_ours = {ours.clusters[identifier] for identifier in both if ours.reasons[identifier] == ""}
    kept_peer = {peer[identifier][1] for identifier in both if peer[identifier][0] == "" and peer[identifier][1] >= 0}
    other, grouping = 0, 0
    for identifier in both:
        ours_keep, peer_keeps = ours.reasons[identifier] == "", peer[identifier][0] == ""
        if ours_keep == peer_keeps:
            continue
        stands_for_it = peer[identifier][1] in kept_peer if ours_keep else ours.clusters[identifier] in kept_ours
        duplicate_on_both = stands_for_it and sum(ours.clusters[identifier] == ours.clusters[entry] for entry in both) > 1 and peer[identifier][1] >= 0
        other += duplicate_on_both
        grouping += not duplicate_on_both
    dropped = sum(ours.reasons[identifier] != "" for identifier in both), sum(peer[identifier][0] != "" for identifier in both)
    return (
        f"of {len(both):,} that pass on both sides, duplicates are ours {dropped[0]:,}, peer {dropped[1]:,}; "
        f"kept by one side only: {other:,} where each keeps another member of the group, {grouping:,} where the groups differ"
    )


def counts(ours: Ours, measured: dict[str, dict[str, float]]) -> str:
    """Tokens and words of ours relative to the peer's, over the documents measured on both sides."""
    shared = [identifier for identifier in measured if identifier in ours.values]
    parts = []
    for name in ("tokens", "words"):
        ratios = [ours.values[identifier][name] / measured[identifier][name] for identifier in shared if measured[identifier][name]]
        total = sum(ours.values[identifier][name] for identifier in shared) / sum(measured[identifier][name] for identifier in shared)
        middle = statistics.quantiles(ratios, n=20)
        parts.append(f"{name} {total - 1:+.2%} in all, by document {middle[0] - 1:+.1%} to {middle[-1] - 1:+.1%} (5th to 95th percentile)")
    return f"counts of ours against the peer's on {len(shared):,} documents: " + "; ".join(parts)


def causes(ours: Ours, peer: dict[str, list[Any]], differing: list[str], measured: dict[str, dict[str, float]], limits: Any) -> list[str]:
    """A line for each side and rule: documents, and what the statistic nearest to its limit is on either side (medians)."""
    groups: dict[tuple[str, str], list[str]] = {}
    for identifier in differing:
        dropped_by_peer = passes(ours.reasons[identifier])
        reason = peer[identifier][0] if dropped_by_peer else ours.reasons[identifier]
        groups.setdefault(("peer" if dropped_by_peer else "ours", reason), []).append(identifier)
    lines = []
    for (side, reason), identifiers in sorted(groups.items(), key=lambda entry: -len(entry[1])):
        rule = RULES.get(reason, reason)
        told = []
        for name in DECIDING.get(rule, ()):
            known = [identifier for identifier in identifiers if identifier in ours.values and identifier in measured]
            if known:
                one = statistics.median(ours.values[identifier][name] for identifier in known)
                other = statistics.median(measured[identifier][name] for identifier in known)
                told.append(f"{name} {one:.3g} against {other:.3g}")
        name = reason if side == "peer" else rule
        lines.append(f"  only {side} drops {len(identifiers):>5,}  {name:<30} {'; '.join(told)}".rstrip() + limits_of(rule, limits))
    return lines


def limits_of(rule: str, limits: Any) -> str:
    """The published limits of the statistics a rule compares."""
    found = [str(limits[key]) for name in DECIDING.get(rule, ()) for key in (f"min_{name}", f"max_{name}") if key in limits]
    return f"  (limit {', '.join(found)})" if found else ""
