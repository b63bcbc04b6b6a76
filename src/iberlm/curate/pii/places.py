"""Positions on the globe, precise enough to be a house: decimal pairs and degrees, minutes and seconds."""

import re
from collections.abc import Iterator

from iberlm.curate.pii.context import told
from iberlm.curate.pii.spans import Proposal, every

_LABEL = r"[\"' ]{0,2}(?:lon|lng|long|longitude?|longitud|longitudea)[\"' ]{0,2}[:=]?[\"' ]{0,2}"
_DECIMAL = re.compile(
    r"(?<![^\W_])(?<!\d[.,])(?<!\d[,;] )(?<!\d[,; ])([+-]?\d{1,2})([.,])(\d{3,12})(\xb0?)( ?(?-i:[NSIH]))?"
    rf"(?: ?[,;/|] ?| |(?=[+-])|&lon=|&lng=|&mlon=|%2c|%2c%20|!4d|[,;&]?\s{{0,4}}{_LABEL}|[ ,]{{1,2}}(?-i:[EWO]) )"
    r"([+-]?\d{1,3})\2(\d{3,12})(\xb0?)( ?(?-i:[EWOM]))?(?![^\W_])(?![.,]\d|[,;] ?[+-]?\d{1,9}[.,]\d{1,12}(?![\dz]))",
    re.IGNORECASE,
)
_SEXAGESIMAL = re.compile(
    r"(?<![^\W_])(\d{1,2})\xb0 ?(\d{1,2})' ?(?:\d{1,2}(?:[.,]\d{1,4})?(?:\"|'') ?)?[nsih](?![^\W_])[ ,;/-]{0,3}"
    r"(\d{1,3})\xb0 ?(\d{1,2})' ?(?:\d{1,2}(?:[.,]\d{1,4})?(?:\"|'') ?)?[ewom](?![^\W_])",
    re.IGNORECASE,
)
_MINUTES = re.compile(r"[.\"]|''")


def positions(window: str, start: int) -> Iterator[Proposal]:
    """Pairs of latitude and longitude with 3 decimals and one of them 4, or with seconds.

    A decimal pair needs degree signs, letters of the compass or a word nearby: a pair of fractions alone can be anything.
    Nothing within a degree of 0, 0 is found: that is open sea, and where pseudonyms lie.
    """
    for match in every(_DECIMAL, window, start):
        latitude, longitude = float(f"{match[1]}.{match[3]}"), float(f"{match[6]}.{match[7]}")
        if abs(latitude) > 90 or abs(longitude) > 180 or max(len(match[3]), len(match[7])) < 4 or _open_sea(latitude, longitude):
            continue
        if match[4] or match[5] or match[8] or match[9] or told("position", window, match.start(), match.end(), within=48):
            yield Proposal(match.start(), match.end(), "gps")
    for match in every(_SEXAGESIMAL, window, start):
        latitude, longitude = int(match[1]), int(match[3])
        # whole minutes are a mile or two: a town, not a house
        precise = _MINUTES.search(match[0])
        if precise and latitude <= 90 and longitude <= 180 and int(match[2]) < 60 and int(match[4]) < 60 and not _open_sea(latitude, longitude):
            yield Proposal(match.start(), match.end(), "gps")


def _open_sea(latitude: float, longitude: float) -> bool:
    return abs(latitude) < 1 and abs(longitude) < 1
