"""matplotlib's SVG made part of a page: colours become CSS variables, so that charts follow the light and dark theme.

Charts draw with the placeholder colours of `COLOURS`; here each becomes `var(--NAME)`, which the page's style sheet
gives a value for each theme. Ids get a prefix, since all charts share one document.
"""

import io
import re
from collections.abc import Callable
from typing import Any

from lxml import etree
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from iberlm.core.languages import LANGUAGES, file_safe

OTHER = "lang-other"
_NAMES = [
    *("ink", "muted", "grid", "card", "accent", "soft", OTHER),
    *(f"lang-{file_safe(tag)}" for tag in LANGUAGES),
    *(f"drop-{index}" for index in range(1, 7)),
]
COLOURS = {name: f"#0f00{index:02x}" for index, name in enumerate(_NAMES, 1)}
"""Placeholder colours by the name of their CSS variable: near-black values that nothing else draws with."""

_VARIABLES = {value: f"var(--{name})" for name, value in COLOURS.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"(url\(#|^#)([\w.-]+)")
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def language_colour(tag: str) -> str:
    """Placeholder of a language's colour, the same in every chart; grey for languages that are not ours."""
    return COLOURS.get(f"lang-{file_safe(tag)}", COLOURS[OTHER])


def render(name: str, label: str, width: int, height: int, paint: Callable[[Figure], None]) -> Markup:
    """Draw a figure of `width` x `height` CSS pixels and return it as an `<svg>` element that says `label`.

    The same arguments give the same bytes: ids are salted with `name`, and no date is written. Text stays text.
    """
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.family": "DejaVu Sans",  # for measuring only: the page's own font is narrower, so nothing is cut
        "font.size": 11,
        "text.color": COLOURS["ink"],
        "axes.edgecolor": COLOURS["grid"],
        "axes.labelcolor": COLOURS["muted"],
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "xtick.color": COLOURS["muted"],
        "ytick.color": COLOURS["ink"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "grid.color": COLOURS["grid"],
        "grid.linewidth": 1,
        "legend.frameon": False,
        "hatch.linewidth": 1,
        "lines.solid_capstyle": "round",
    }
    with rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(_embed(buffer.getvalue(), name, label, width))  # noqa: S704 (our own drawing; its text is escaped by matplotlib and by lxml)


def _embed(source: bytes, name: str, label: str, width: int) -> str:
    """Bytes of a standalone SVG file as an element for HTML."""
    root = etree.fromstring(source, etree.XMLParser(resolve_entities=False, no_network=True))
    for unwanted in ("metadata", "style"):  # a style element would hold for the whole page
        for element in list(root.iter(_SVG + unwanted)):
            element.getparent().remove(element)
    for element in root.iter(etree.Element):
        _adapt(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib.update({"role": "img", "aria-label": label, "style": f"max-width:{round(width * 1.25)}px"})
    etree.cleanup_namespaces(root)
    return str(etree.tostring(root, encoding="unicode"))


def _adapt(element: Any, name: str) -> None:
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == "style":
            element.set(key, _COLOUR.sub(lambda match: _VARIABLES[match[0]], _reference(_FONT.sub("", value), name)))
        elif key == _LINK or value.startswith("url("):
            element.set(key, _reference(value, name))
        elif value in _VARIABLES:  # presentation attributes know no variables, styles do
            del element.attrib[key]
            element.set("style", f"{element.get('style', '')};{key}:{_VARIABLES[value]}".lstrip(";"))


def _reference(value: str, name: str) -> str:
    return _REFERENCE.sub(rf"\g<1>{name}-\g<2>", value)
