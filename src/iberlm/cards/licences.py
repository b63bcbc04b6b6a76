"""SPDX licence expressions: are they well formed, what was meant, and which restrictions do they carry."""

import difflib
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from license_expression import Licensing

OWN_LICENCE = re.compile(r"\bLicenseRef-[A-Za-z0-9.-]+")
"""A licence outside the SPDX list; its text must lie in LICENSES/, as the REUSE specification (3.3) has it."""

_STAND_IN = "0BSD"


@cache
def _licensing() -> "Licensing":
    from license_expression import get_spdx_licensing  # builds an index of 2,500 licences: only when a card is read

    return get_spdx_licensing()


def problem_of(expression: str) -> tuple[str, str] | None:
    """The problem with an SPDX expression and its mend, or None when it is in order. `LicenseRef-*` is let through."""
    try:
        parsed = _licensing().parse(OWN_LICENCE.sub(_STAND_IN, expression), strict=True)
    except Exception as error:  # the library raises its own tree and bare ValueErrors, by the kind of mistake
        return f"'{expression}' is not an SPDX expression ({str(error).splitlines()[0][:80]})", "write e.g. 'CC-BY-4.0' or 'GPL-2.0-or-later OR CC-BY-SA-3.0'"
    unknown = [str(symbol) for symbol in _licensing().unknown_license_keys(parsed)]
    if unknown:
        meant = _close(unknown[0])
        return (
            f"'{unknown[0]}' is not an SPDX licence",
            f"did you mean {meant}?" if meant else "choose one from https://spdx.org/licenses/ or a LicenseRef-NAME",
        )
    canonical = str(parsed)
    if OWN_LICENCE.search(expression) is None and canonical != " ".join(expression.split()):
        return f"'{expression}' is not the SPDX spelling", f"did you mean {canonical}?"
    return None


def own_licences(expression: str) -> list[str]:
    """The `LicenseRef-*` parts of an expression."""
    return OWN_LICENCE.findall(expression)


def is_non_commercial(expression: str) -> bool:
    """Whether a Creative Commons NonCommercial licence is in the expression."""
    return re.search(r"\bCC-BY-NC\b", expression) is not None


def is_no_derivatives(expression: str) -> bool:
    """Whether a Creative Commons NoDerivatives licence is in the expression."""
    return re.search(r"\bCC-BY-(NC-)?ND\b", expression) is not None


def _close(name: str) -> str:
    spdx = {_squeeze(key): key for key in map(str, _licensing().known_symbols) if not key.startswith("LicenseRef-")}
    if _squeeze(name) in spdx:
        return spdx[_squeeze(name)]
    found = difflib.get_close_matches(_squeeze(name), spdx, n=3, cutoff=0.6)
    return " or ".join(spdx[key] for key in found)


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
