"""Which document stands for its cluster of duplicates, and under which licence.

One document a cluster *and language* stays: the best, the longest, the first. It carries what the licences of all passing members of
the cluster ask together, so that a text which one site gives under a stricter licence than another never loses that obligation.

Out of core: `best_members` is associative. Each file's members are reduced alone (to one row a cluster and language, however large
the cluster), then those of a range of clusters together, which is all that has to be in memory at once.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iberlm.cards import licences

if TYPE_CHECKING:
    from license_expression import Licensing

Members = npt.NDArray[Any]
"""Rows of `member_dtype`."""

CLASSES = ("public_domain", "permissive", "attribution", "share_alike", "copyleft", "non_commercial", "no_derivatives", "unknown")
"""Classes of licences, the least strict first. Public domain asks nothing; permissive, to keep a notice with copies of software;
attribution, to name the author; share-alike and weak copyleft, the same licence for adaptations; copyleft, for the whole work;
non-commercial forbids uses, no-derivatives adaptations; and of what is unknown or reserved nothing may be presumed."""

_OBLIGATIONS: dict[str, frozenset[str]] = {
    "public_domain": frozenset(),
    "permissive": frozenset({"notice"}),
    "attribution": frozenset({"notice", "attribution"}),
    "share_alike": frozenset({"notice", "attribution", "reciprocal"}),
    "copyleft": frozenset({"notice", "attribution", "reciprocal", "source"}),
    "non_commercial": frozenset({"notice", "attribution", "non_commercial"}),
    "no_derivatives": frozenset({"notice", "attribution", "no_derivatives"}),
    "unknown": frozenset({"notice", "attribution", "reciprocal", "source", "non_commercial", "no_derivatives", "reserved"}),
}
_BY_CATEGORY = {"Public Domain": "public_domain", "Permissive": "permissive", "Copyleft Limited": "share_alike", "Copyleft": "copyleft"}
"""Categories of ScanCode's LicenseDB, which `license-expression` carries; the others (proprietary, source-available, commercial ...) are `unknown`."""
_DATA_ATTRIBUTION = ("odc-by-", "ogl-", "nlod-", "etalab-")
"""Permissive licences of data, which ask for attribution as Creative Commons' does."""
_CREATIVE_COMMONS = re.compile(r"CC-BY(-NC)?(-SA|-ND)?-\d", re.IGNORECASE)  # ported ones, e.g. CC-BY-3.0-ES, are not all in the SPDX list
_SPDX_NAME = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?[A-Za-z0-9.+-]+")
NO_ASSERTION = "NOASSERTION"


@cache
def _categories() -> dict[str, str]:
    from license_expression import get_license_index  # 2,500 licences: only when licences are compared

    found = {}
    for entry in get_license_index():
        for name in (*entry.get("other_spdx_license_keys", ()), entry.get("spdx_license_key")):
            if name:
                found[str(name).lower()] = str(entry["category"])
    return found


@cache
def _licensing() -> "Licensing":
    from license_expression import Licensing

    return Licensing()


def _class_of(name: str) -> tuple[str, frozenset[str]]:
    """Class and obligations of one licence of an expression, by its SPDX name."""
    if _CREATIVE_COMMONS.match(name):
        asked, spelt = set(_OBLIGATIONS["attribution"]), name.upper()
        if licences.is_non_commercial(spelt):
            asked.add("non_commercial")
        if licences.is_no_derivatives(spelt):
            asked.add("no_derivatives")
        if "-SA-" in spelt:
            asked.add("reciprocal")
        classes = {"no_derivatives": "no_derivatives", "non_commercial": "non_commercial", "reciprocal": "share_alike", "attribution": "attribution"}
        return next(kind for obligation, kind in classes.items() if obligation in asked), frozenset(asked)
    found = _BY_CATEGORY.get(_categories().get(name.lower(), ""), "unknown")
    if found == "permissive" and name.lower().startswith(_DATA_ATTRIBUTION):
        found = "attribution"
    return found, _OBLIGATIONS[found]


@cache
def obligations(licence: str) -> frozenset[str]:
    """What an SPDX expression asks: a set out of notice, attribution, reciprocal, source, non_commercial, no_derivatives, reserved.

    `A AND B` asks both; of `A OR B` the one that asks less is taken, as its licensor leaves the choice; an exception (`WITH`) is not
    counted. What is no known licence (`LicenseRef-...`, NOASSERTION, no expression at all) asks everything.
    """
    return _read(licence)[1]


@cache
def strictness(licence: str) -> int:
    """Position in `CLASSES` of the strictest class that an SPDX expression cannot escape."""
    return CLASSES.index(_read(licence)[0])


def _read(licence: str) -> tuple[str, frozenset[str]]:
    tree = _tree(licence)
    return ("unknown", _OBLIGATIONS["unknown"]) if tree is None else _read_tree(tree)


@cache
def _tree(licence: str) -> Any:
    """The parsed expression; None for what is none, and for SPDX's NONE and NOASSERTION."""
    if licence.upper() in (NO_ASSERTION, "NONE"):
        return None
    try:
        tree = _licensing().parse(licence)
        names = list(map(str, _licensing().license_keys(licence)))
    except Exception:  # the library raises its own tree and bare ValueErrors, by the kind of mistake
        return None
    return tree if all(map(_SPDX_NAME.fullmatch, names)) else None  # it also takes any words for the name of a licence


def _read_tree(node: Any) -> tuple[str, frozenset[str]]:
    if parts := getattr(node, "args", ()):
        found = [_read_tree(part) for part in parts]
        if _is_or(node):
            return min(found, key=lambda entry: (CLASSES.index(entry[0]), len(entry[1]), sorted(entry[1])))
        return max((entry[0] for entry in found), key=CLASSES.index), frozenset().union(*(entry[1] for entry in found))
    return _class_of(_name(node))


def _is_or(node: Any) -> bool:
    return str(node.operator).strip() == "OR"


def _name(node: Any) -> str:
    return str(getattr(node, "license_symbol", node))


def strictest(members: Sequence[str]) -> str:
    """The licence under which one text may be handed on that was found under all of these: an SPDX expression.

    It is one of them where that asks all that the others ask, and otherwise those that together do, joined by AND. Reciprocal licences
    (share-alike, copyleft) and unknown ones never stand for each other: CC-BY-SA does not satisfy the GPL. Where one is not even an
    expression, NOASSERTION. The order of `members` does not matter. Raises `ValueError` when there are none.

    >>> strictest(["CC0-1.0", "CC-BY-4.0"])
    'CC-BY-4.0'
    >>> strictest(["CC-BY-SA-4.0", "CC-BY-NC-4.0"])
    'CC-BY-NC-4.0 AND CC-BY-SA-4.0'
    """
    different = sorted(set(members), key=lambda licence: (-strictness(licence), -len(obligations(licence)), len(licence), licence))
    if not different:
        raise ValueError("no licences to compare")
    if len(different) == 1:
        return different[0]
    if any(_tree(licence) is None for licence in different):
        return NO_ASSERTION
    kept: list[str] = []  # the strictest come first, and the others are left out if those ask as much
    asked: frozenset[str] = frozenset()
    for licence in different:
        own = obligations(licence)
        if kept and own <= asked and (("reserved" not in own and "reserved" in asked) or "reciprocal" not in own or _satisfied(_tree(licence), kept)):
            continue
        kept.append(licence)
        asked |= own
    if len(kept) == 1:
        return kept[0]
    return " AND ".join(f"({licence})" if " OR " in licence.upper() else licence for licence in sorted(kept))


def _satisfied(node: Any, kept: Sequence[str]) -> bool:
    """Whether the licences that are kept name a licence of every part of an expression, so that it asks nothing more."""
    if parts := getattr(node, "args", ()):
        return (any if _is_or(node) else all)(_satisfied(part, kept) for part in parts)
    return any(_demands(_tree(licence), _name(node)) for licence in kept)


def _demands(node: Any, name: str) -> bool:
    if parts := getattr(node, "args", ()):
        return (all if _is_or(node) else any)(_demands(part, name) for part in parts)
    return _name(node) == name


def member_dtype(licences: int) -> "np.dtype[Any]":
    """A row for a passing document of a cluster with more than one: 28 B, and 8 B for each 64 of the corpus's different licences.

    `document` and `cluster` are document numbers, `language` any code, `quality` and `characters` what it is ranked by; bit `i % 64` of word
    `i // 64` of `licences` is set when a member has the licence number `i`: one bit in a document's own row.
    """
    words = max(1, -(-licences // 64))
    return np.dtype([("document", "i8"), ("cluster", "i8"), ("language", "i2"), ("quality", "f4"), ("characters", "i8"), ("licences", "u8", (words,))])


def licence_words(numbers: npt.NDArray[np.integer[Any]], licences: int) -> npt.NDArray[np.uint64]:
    """The `licences` of rows that have the licence `numbers`, shape (rows, words)."""
    words = np.zeros((len(numbers), max(1, -(-licences // 64))), np.uint64)
    words[np.arange(len(numbers)), numbers // 64] = np.uint64(1) << (numbers % 64).astype(np.uint64)
    return words


def best_members(members: Members) -> Members:
    """One row a cluster and language, in their order: its best member (quality, then characters, then the first), with the licences of all.

    Associative: of the concatenation of several results it makes the same as of the concatenation of what they were made of, in any
    order. So files can be reduced apart, and no cluster is too large. A quality that is not a number ranks last.
    """
    order = np.lexsort((members["document"], -members["characters"], -members["quality"], members["language"], members["cluster"]))
    ordered = members[order]
    starts = _starts(ordered, ("cluster", "language"))
    best = ordered[starts]
    if len(starts):
        best["licences"] = np.bitwise_or.reduceat(ordered["licences"], starts, axis=0)
    return best


def representatives(members: Members, licences: Sequence[str]) -> tuple[Members, list[str]]:
    """The documents that stay, as `best_members`, and for each the `strictest` of the licences of its whole cluster, in all languages.

    `members` are all those of some clusters, reduced or not; `licences` gives the names of the licence numbers.
    """
    best = best_members(members)
    starts = _starts(best, ("cluster",))
    if not len(starts):
        return best, []
    words = np.bitwise_or.reduceat(best["licences"], starts, axis=0)
    different, which = np.unique(words, axis=0, return_inverse=True)
    names = [strictest([licences[number] for number in _numbers(row)]) for row in different]
    sizes = np.diff([*starts, len(best)])
    return best, [names[number] for number in np.repeat(which.reshape(-1), sizes)]


def _numbers(words: npt.NDArray[np.uint64]) -> list[int]:
    return [64 * place + bit for place, word in enumerate(words.tolist()) for bit in range(64) if word >> bit & 1]


def _starts(ordered: Members, keys: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Where runs of equal keys begin."""
    new = np.ones(len(ordered), np.bool_)
    new[1:] = np.logical_or.reduce([ordered[key][1:] != ordered[key][:-1] for key in keys])
    return np.flatnonzero(new)
