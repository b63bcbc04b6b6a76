"""What a page says of its own licence and of its use for text and data mining. Both are read where they stand: in the page and its header.

Licence. A Creative Commons link counts only where it is said of the page: `link rel=license`, `a rel=license` outside of what
is quoted or shown (figures, quotations, embedded items), a meta element for rights, or the `license` of a page or article in
JSON-LD. A bare link never counts: it may be for an image or be news about licences. Where those signs name different
licences, none counts and the data card's holds.

Reservations (art. 4(3) of Directive (EU) 2019/790). Counted are signs that speak of mining or training: `noai`, `noimageai` and
`noml` in robots meta elements and X-Robots-Tag fields, for all agents or any; `noindex` and `none` only where they address a crawler that
gathers for models; TDM-Reservation 1 (W3C TDMRep); and `train-ai=n` in Content-Usage (IETF AIPREF). `noindex`, `none`, `nosnippet` and
`noarchive` for search engines are no such sign. robots.txt and ai.txt stand in no page and are judged from a snapshot later.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_RESERVING = frozenset({"noai", "noimageai", "noml"})
_AGENT_RESERVING = _RESERVING | {"noindex", "none"}
AI_AGENTS = frozenset(
    {"ai2bot", "amazonbot", "anthropic-ai", "applebot-extended", "bytespider", "ccbot", "claude-web", "claudebot", "cohere-ai", "diffbot", "facebookbot"}
    | {"google-extended", "gptbot", "img2dataset", "meta-externalagent", "omgili", "omgilibot", "timpibot", "webzio-extended"}
)
"""Crawlers that gather text for models: what they are told not to index is reserved."""
_SIGNS = tuple(sign.encode() for sign in (*sorted(_RESERVING), "tdm-reservation", *sorted(AI_AGENTS)))
"""A page without any of these in its meta elements reserves nothing: most need not be looked into any further."""
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives of X-Robots-Tag that have a value: what stands before their colon is no agent."""
_MAX_SIGNALS = 16
_MAX_POLICY_CHARACTERS = 200

_CC_PATH = re.compile(r"/(?:licenses/(?P<kind>[a-z-]+)/(?P<version>\d\.\d)|publicdomain/(?P<public>zero|mark)/1\.0)(?:/(?P<port>[a-z]{2,8}))?(?:/|$)")
_CC_HOSTS = frozenset({"creativecommons.org", "www.creativecommons.org"})
_CC_KINDS = {"by": "BY", "by-sa": "BY-SA", "by-nd": "BY-ND", "by-nc": "BY-NC", "by-nc-sa": "BY-NC-SA", "by-nc-nd": "BY-NC-ND", "by-nd-nc": "BY-NC-ND"}
_SPDX_PORTS = frozenset(
    {"BY-2.5-AU", "BY-3.0-AT", "BY-3.0-AU", "BY-3.0-DE", "BY-3.0-IGO", "BY-3.0-NL", "BY-3.0-US", "BY-NC-3.0-DE", "BY-NC-ND-3.0-DE", "BY-NC-ND-3.0-IGO"}
    | {"BY-NC-SA-2.0-DE", "BY-NC-SA-2.0-FR", "BY-NC-SA-2.0-UK", "BY-NC-SA-3.0-DE", "BY-NC-SA-3.0-IGO", "BY-ND-3.0-DE", "BY-SA-2.0-UK", "BY-SA-2.1-JP"}
    | {"BY-SA-3.0-AT", "BY-SA-3.0-DE", "BY-SA-3.0-IGO"}
)
"""Ports to a jurisdiction that SPDX lists (3.26). Others, Spain's among them, become a LicenseRef."""
_RIGHTS_META = frozenset(
    {"dc.rights", "dc.rights.license", "dc.license", "dcterms.rights", "dcterms.license", "dc:rights", "dcterms:license", "license", "licence"}
)
_ASIDE = frozenset({"figure", "figcaption", "picture", "blockquote", "q", "cite", "aside", "iframe", "template", "noscript", "gallery"})
_OTHER_WORK = re.compile(r"Image|Photo|Video|Audio|Media|Music|Map|Dataset|Software|Comment|Quotation", re.IGNORECASE)
"""schema.org types of things on a page that are not its text."""
_PAGE_TYPES = re.compile(
    r"(?:https?://schema\.org/)?(?:\w*Page|\w*Article|\w*Posting|CreativeWork|WebSite|Blog|Book|Chapter|Course|Report|Recipe|HowTo|LearningResource|Guide|Thesis)"
)
_MAX_JSON_CHARACTERS = 1 << 20
_MAX_ANCESTORS = 64


@dataclass(slots=True)
class Rights:
    """What a page says: an SPDX expression with the link that shows it, and the signs by which it reserves its use."""

    licence: str | None = None
    evidence: str | None = None
    reserved: list[str] = field(default_factory=list)


def page_rights(tree: Any, lowered: bytes, fields: Iterable[tuple[str, str]] = ()) -> Rights:
    """Rights of a parsed page. `lowered` is its source in lower case, `fields` are those of its HTTP header (names in lower case)."""
    rights = Rights(reserved=header_reservations(fields))
    body = max(lowered.find(b"<body"), 0)
    everywhere = lowered.find(b"<meta", body) >= 0
    is_licensed = b"creativecommons.org" in lowered
    region = lowered if everywhere else lowered[:body]
    metas = list(_metas(tree, everywhere=everywhere)) if is_licensed or any(sign in region for sign in _SIGNS) else []
    for signal in _meta_reservations(metas):
        if signal not in rights.reserved and len(rights.reserved) < _MAX_SIGNALS:
            rights.reserved.append(signal)
    if is_licensed:
        rights.licence, rights.evidence = _page_licence(tree, metas)
    return rights


def header_reservations(fields: Iterable[tuple[str, str]]) -> list[str]:
    """Signs of reservation among the fields of an HTTP header."""
    found: list[str] = []
    policy = ""
    for name, value in fields:
        if name == "x-robots-tag":
            found += [f"x_robots_tag:{signal}" for signal in _robots_tag(value)]
        elif name == "tdm-reservation" and value.strip(" \"'") == "1":
            found.append("tdm_reservation:1")
        elif name == "tdm-policy":
            policy = value.strip()[:_MAX_POLICY_CHARACTERS]
        elif name == "content-usage" and re.search(r"(?:^|[,;\s])train-ai\s*=\s*n(?:[,;\s]|$)", value.lower()):
            found.append("content_usage:train-ai=n")
    if policy and "tdm_reservation:1" in found:  # a policy without a reservation means nothing (TDMRep, section 4)
        found.append(f"tdm_policy:{policy}")
    return list(dict.fromkeys(found))[:_MAX_SIGNALS]


def _robots_tag(value: str) -> Iterator[str]:
    """Reserving directives of one X-Robots-Tag field: `noai, noimageai` or `gptbot: noindex, otherbot: none`."""
    agent = ""
    for part in value.lower().split(","):
        before, colon, after = part.partition(":")
        directive = part.strip()
        if colon and before.strip() not in _VALUED:
            agent, directive = before.strip(), after.strip()
        if directive in _reserving_for(agent):
            yield f"{agent}:{directive}" if agent else directive


def _reserving_for(agent: str) -> frozenset[str]:
    return _AGENT_RESERVING if agent in AI_AGENTS else _RESERVING


def _metas(tree: Any, *, everywhere: bool) -> Iterator[tuple[str, str]]:
    """Name (lower case) and content of the meta elements in the head, or, where there are some behind it, in all of the page."""
    root = tree.document if everywhere or tree.head is None else tree.head
    for element in root.get_elements_by_tag_name("meta") if root is not None else ():
        name = element.getattr("name") or element.getattr("http-equiv") or element.getattr("property")
        content = element.getattr("content")
        if name and content:
            yield name.strip().lower(), content.strip()


def _meta_reservations(metas: list[tuple[str, str]]) -> Iterator[str]:
    reserved = False
    for name, content in metas:
        if name in ("robots", "x-robots-tag") or name in AI_AGENTS or name.endswith("bot"):
            agent = "" if name in ("robots", "x-robots-tag") else name
            for directive in re.split(r"[\s,;]+", content.lower()):
                if directive in _reserving_for(agent):
                    yield f"robots_meta:{agent}:{directive}" if agent else f"robots_meta:{directive}"
        elif name == "tdm-reservation" and content.strip("\"'") == "1":
            reserved = True
            yield "tdm_reservation:1"
    for name, content in metas:
        if reserved and name == "tdm-policy":
            yield f"tdm_policy:{content[:_MAX_POLICY_CHARACTERS]}"


def spdx_of_link(link: str) -> str | None:
    """SPDX expression of a link to a Creative Commons deed or legal code; None for anything else, and for a link without a version.

    A port that SPDX does not list (3.0 for Spain: /by/3.0/es/) becomes `LicenseRef-CC-BY-3.0-ES`: it is another text than the unported one.
    """
    try:
        parts = urlsplit(link.strip())
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    if host not in _CC_HOSTS or parts.scheme.lower() not in ("", "http", "https") or not (found := _CC_PATH.match(parts.path.lower())):
        return None
    if found["public"]:
        return "CC0-1.0" if found["public"] == "zero" else "CC-PDM-1.0"
    if (kind := _CC_KINDS.get(found["kind"])) is None:
        return None
    name, port = f"{kind}-{found['version']}", found["port"]
    if port in (None, "deed", "legalcode", "rdf"):
        return f"CC-{name}"
    ported = f"{name}-{port.upper()}"
    return f"CC-{ported}" if ported in _SPDX_PORTS else f"LicenseRef-CC-{ported}"


def _page_licence(tree: Any, metas: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    found: dict[str, str] = {}
    for link in _licence_links(tree, metas):
        if (expression := spdx_of_link(link)) is not None:
            found.setdefault(expression, link.strip())
    return next(iter(found.items())) if len(found) == 1 else (None, None)


def _licence_links(tree: Any, metas: list[tuple[str, str]]) -> Iterator[str]:
    for name, content in metas:
        if name in _RIGHTS_META:
            yield from re.findall(r"(?:https?:)?//[^\s\"'<>,;]+", content)
    if tree.document is None:
        return
    for element in tree.document.query_selector_all("a[rel], link[rel]"):
        rel = (element.getattr("rel") or "").lower().split()
        href = element.getattr("href")
        if href and ("license" in rel or "licence" in rel) and not _is_of_another_work(element):
            yield href
    for element in tree.document.query_selector_all("script[type]"):
        if (element.getattr("type") or "").strip().lower().startswith("application/ld+json"):
            yield from _json_licences(element.text)


def _is_of_another_work(element: Any) -> bool:
    """Whether a licence link stands in something shown or quoted, or is said (in RDFa or microdata) of another thing than the page."""
    node = element
    for _ in range(_MAX_ANCESTORS):
        if node is None:
            return False
        if node.tag.lower() in _ASIDE or (node.getattr("about") or "").strip(" #"):
            return True
        if _OTHER_WORK.search(f"{node.getattr('itemtype') or ''} {node.getattr('typeof') or ''}"):
            return True
        node = node.parent_element
    return True


def _json_licences(source: str) -> Iterator[str]:
    """Licences of the pages and articles in a JSON-LD script, not of what they contain."""
    if len(source) > _MAX_JSON_CHARACTERS:
        return
    try:
        value = json.loads(source)
    except (ValueError, RecursionError):
        return
    roots = [root for root in (value if isinstance(value, list) else [value]) if isinstance(root, dict)]
    for node in [node for root in roots for node in (root, *_graph(root))]:
        types = node.get("@type")
        names = types if isinstance(types, list) else [types]
        if not any(isinstance(name, str) and _PAGE_TYPES.fullmatch(name) for name in names):
            continue
        licences = node.get("license")
        for licence in licences if isinstance(licences, list) else [licences]:
            link = licence.get("@id") or licence.get("url") if isinstance(licence, dict) else licence
            if isinstance(link, str):
                yield link


def _graph(node: dict[str, Any]) -> list[dict[str, Any]]:
    graph, main = node.get("@graph"), node.get("mainEntity")
    return [inner for inner in (graph if isinstance(graph, list) else [graph]) + [main] if isinstance(inner, dict)]
