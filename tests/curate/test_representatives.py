"""One document a cluster and language, under what all its copies' licences ask."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.cards.licences import problem_of
from iberlm.curate.selection.representatives import CLASSES, best_members, licence_words, member_dtype, obligations, representatives, strictest, strictness

LICENCES = {
    "public_domain": ["CC0-1.0", "PDDL-1.0", "CC-PDM-1.0", "Unlicense"],
    "permissive": ["MIT", "Apache-2.0", "BSD-3-Clause"],
    "attribution": ["CC-BY-3.0", "CC-BY-4.0", "CC-BY-3.0-ES", "ODC-By-1.0", "OGL-UK-3.0"],
    "share_alike": ["CC-BY-SA-3.0", "CC-BY-SA-4.0", "GFDL-1.2-or-later", "MPL-2.0", "LGPL-2.1-only", "GPL-2.0-or-later OR CC-BY-SA-3.0"],
    "copyleft": ["GPL-2.0-or-later", "GPL-3.0-only", "GPL-2.0+", "ODbL-1.0", "GPL-2.0-or-later AND (LGPL-2.1-only OR LGPL-3.0-only)"],
    "non_commercial": ["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-4.0 AND CC-BY-NC-4.0"],
    "no_derivatives": ["CC-BY-ND-4.0", "CC-BY-NC-ND-3.0"],
    "unknown": ["LicenseRef-site-terms", "NOASSERTION", "NONE", "all rights reserved", ""],
}
ALL = [licence for names in LICENCES.values() for licence in names]
EXPRESSIONS = [licence for licence in ALL if licence not in LICENCES["unknown"][1:]]


@pytest.mark.parametrize(("kind", "licence"), [(kind, licence) for kind, names in LICENCES.items() for licence in names])
def test_classes_of_licences(kind: str, licence: str) -> None:
    assert CLASSES[strictness(licence)] == kind


def test_an_alternative_is_as_strict_as_its_mildest_and_a_sum_as_its_strictest() -> None:
    assert CLASSES[strictness("CC-BY-NC-4.0 OR GPL-3.0-only")] == "copyleft"
    assert CLASSES[strictness("MIT OR LicenseRef-x")] == "permissive"
    assert CLASSES[strictness("MIT AND LicenseRef-x")] == "unknown"
    assert obligations("CC-BY-SA-4.0 AND CC-BY-NC-4.0") == {"notice", "attribution", "reciprocal", "non_commercial"}


@pytest.mark.parametrize(
    ("members", "licence"),
    [
        (["CC0-1.0", "CC-BY-4.0", "CC0-1.0"], "CC-BY-4.0"),
        (["MIT", "GPL-3.0-only"], "GPL-3.0-only"),
        (["CC-BY-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0"),
        (["CC-BY-NC-4.0", "CC-BY-NC-ND-4.0", "CC-BY-ND-4.0"], "CC-BY-NC-ND-4.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "CC-BY-NC-4.0 AND CC-BY-SA-4.0"),
        (["CC-BY-SA-4.0", "GPL-3.0-only", "MIT"], "CC-BY-SA-4.0 AND GPL-3.0-only"),
        (["CC-BY-SA-3.0", "GPL-2.0-or-later OR CC-BY-SA-3.0"], "CC-BY-SA-3.0"),
        (["GPL-2.0-or-later", "GPL-2.0-or-later OR CC-BY-SA-3.0"], "GPL-2.0-or-later"),
        (["CC-BY-NC-4.0", "GPL-2.0-or-later OR CC-BY-SA-3.0"], "CC-BY-NC-4.0 AND (GPL-2.0-or-later OR CC-BY-SA-3.0)"),
        (["GPL-3.0-only", "LicenseRef-site-terms"], "LicenseRef-site-terms"),
        (["LicenseRef-b", "LicenseRef-a"], "LicenseRef-a AND LicenseRef-b"),
        (["CC0-1.0", "all rights reserved"], "NOASSERTION"),
        (["all rights reserved"], "all rights reserved"),
    ],
)
def test_the_strictest_licence(members: list[str], licence: str) -> None:
    assert {strictest(list(order)) for order in itertools.permutations(members)} == {licence}


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=6))
def test_no_obligation_is_lost(members: list[str]) -> None:
    found = strictest(members)
    assert obligations(found) >= frozenset().union(*map(obligations, members))
    assert strictness(found) >= max(map(strictness, members))
    assert strictest([found, *members]) == found or len(set(members)) > 1
    shuffled = random.Random(1).sample(members, len(members))
    assert strictest(shuffled) == found


@given(st.lists(st.sampled_from([licence for licence in EXPRESSIONS if licence not in ("CC-BY-3.0-ES", "GPL-2.0+")]), min_size=1, max_size=5))
def test_the_strictest_licence_is_an_spdx_expression(members: list[str]) -> None:
    assert problem_of(strictest(members)) is None


def test_no_licences_are_an_error() -> None:
    with pytest.raises(ValueError, match="no licences"):
        strictest([])


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-1, 2), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3), st.integers(0, len(ALL) + 60)), max_size=40
)
NAMES = [*ALL, *[f"LicenseRef-{number:02d}" for number in range(61)]]  # more than one word of bits


def members_of(rows: list[tuple[int, int, float, int, int]]) -> np.ndarray:
    members = np.zeros(len(rows), member_dtype(len(NAMES)))
    for number, (cluster, language, quality, characters, _) in enumerate(rows):
        members[number] = (number, cluster, language, quality, characters, 0)
    members["licences"] = licence_words(np.array([row[-1] for row in rows], np.int64), len(NAMES))
    return members


@given(ROWS)
def test_representatives_are_the_best_by_cluster_and_language(rows: list[tuple[int, int, float, int, int]]) -> None:
    best, licences = representatives(members_of(rows), NAMES)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (cluster, language, *_) in enumerate(rows):
        groups.setdefault((cluster, language), []).append(number)
    expected = {group: min(numbers, key=lambda number: (-rows[number][2], -rows[number][3], number)) for group, numbers in groups.items()}
    assert {(row["cluster"], row["language"]): row["document"] for row in best} == expected
    for row, licence in zip(best, licences, strict=True):
        assert licence == strictest([NAMES[member[-1]] for member in rows if member[0] == row["cluster"]])


@given(ROWS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_reducing_in_parts_in_any_order_gives_the_same(rows: list[tuple[int, int, float, int, int]], cut: int, shuffle: random.Random) -> None:
    members = members_of(rows)
    whole = best_members(members)
    parts = [best_members(members[:cut]), best_members(members[cut:])]
    shuffle.shuffle(parts)
    assert best_members(np.concatenate(parts)).tobytes() == whole.tobytes()
    assert best_members(whole).tobytes() == whole.tobytes()


def test_a_quality_that_is_not_a_number_ranks_last() -> None:
    members = members_of([(0, 0, float("nan"), 9, 0), (0, 0, 0.0, 1, 0)])
    assert best_members(members)["document"].tolist() == [1]
