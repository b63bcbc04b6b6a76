"""Addresses on a network: e-mail, URLs with credentials, IPv4 and IPv6."""

import ipaddress
import re
from collections.abc import Iterator
from itertools import pairwise

from iberlm.curate.pii.context import told, told_otherwise
from iberlm.curate.pii.spans import Proposal, every

_DOMAIN = r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_][^\W_-]{1,23}"
_LOCAL = r"\w[\w.+%-]{0,63}"
_EMAIL = re.compile(rf"(?<![\w.+%-])({_LOCAL})(?:@|%40)({_DOMAIN})(?![\w-]|\.\w)(?!:[~/])", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"(?<![\w+.-])[a-z][a-z\d+.-]{1,11}://([^\s/?#@:\"'<>()\[\]{}|]{1,64}):([^\s/?#@\"'<>]{1,128})@([^\W_][\w.-]{0,252}|\[[\da-f:.]{2,45}\])", re.IGNORECASE
)
_IPV4 = re.compile(r"(?<![\w.+~])(?<![^\W\d]-)(\d{1,3}(?:\.\d{1,3}){3})(?:/(\d{1,2}))?(?!\w|\.\d|[-+~](?:[a-z]|\d{1,2}(?![\d.]))|/\d)", re.IGNORECASE)
_IPV6 = re.compile(r"(?<![\w.])(?:(?<!:)|(?<=\w{5}:)|(?<=[g-z]:))([23][\da-f]{3}:(?:[\da-f]{0,4}:){1,6}[\da-f]{0,4})(?:/(\d{1,3}))?(?![\w:])", re.IGNORECASE)

_RESERVED_DOMAINS = re.compile(
    r"(?:^|\.)(?:(?:example|ejemplo|exemple|exemplo|adibidea?|foo|bar|dominio|domini|domeinua|midominio|mydomain|yourdomain|domain|hostname)\.[a-z]{2,10}"
    r"|example|ejemplo|exemple|exemplo|dominio|domini|test|invalid|localhost|localdomain|local|lan|internal|onion)\Z",
    re.IGNORECASE,
)
"""Names that belong to nobody (RFC 2606 and 6761, private networks) and those that stand for a name in handbooks."""

# what ends a file name or a unit name after an @, and is no top-level domain: icon@2x.png, getty@tty1.service
_NOT_DOMAINS = frozenset(
    "png jpg jpeg gif svg webp bmp ico css html htm txt xml json yaml yml conf cfg ini log tmp bak service socket target mount automount slice "
    "scope timer path swap device tar gz bz2 xz tgz deb rpm exe dll jar war class java cpp hpp pyc rb php asp aspx jsp tex pdf doc docx odt ods "
    "xls xlsx ppt pptx mp3 mp4 ogg wav avi mkv".split()
)
_SERVICE_NAMES = frozenset(("git", "svn", "hg", "anonymous", "anoncvs"))
_PLACEHOLDERS = frozenset(
    "password passwd pass pwd secret user usuario contrasena contraseña contrasinal contrasenya pasahitza clave clau username login usuari "
    "erabiltzaile xxx xxxx xxxxx yourpassword mypassword mypass palabraclave paraulaclau claudepas changeme pw passw0rd password123 motdepasse "
    "senha p hunter2".split()
)
_RESOLVERS = frozenset("8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 149.112.112.112 208.67.222.222 208.67.220.220 4.2.2.1 4.2.2.2".split())
_IN_AUTHORITY = re.compile(r"://[^\s/?#@]{0,80}\Z")  # user@host or user:password@host of a URL: no mailbox
_HEADING_AFTER = re.compile(r"\.? +[^\W\d_a-zà-ÿ]|\.?\n|\Z")
_UNICAST = ipaddress.ip_network("2000::/3")


def emails(window: str, start: int) -> Iterator[Proposal]:
    """E-mail addresses, with @ or with %40 as URLs write it. Left alone: reserved domains, file and unit names, git@ and the like, user@host:/path."""
    for match in every(_EMAIL, window, start):
        local, domain = match[1], match[2]
        if local.endswith(".") or ".." in local or domain.rpartition(".")[2].lower() in _NOT_DOMAINS or local.lower() in _SERVICE_NAMES:
            continue
        if not _RESERVED_DOMAINS.search(domain) and not _IN_AUTHORITY.search(window[max(0, match.start() - 96) : match.start()]):
            yield Proposal(match.start(), match.end(), "email")


def credentials(window: str, start: int) -> Iterator[Proposal]:
    """user:password of a URL, the span of both. Left alone: words that stand for them, variables, reserved and local hosts."""
    for match in every(_CREDENTIALS, window, start):
        user, password, host = match[1], match[2], match[3]
        if re.sub(r"[-_.]", "", password).lower() in _PLACEHOLDERS or password[0] in "$%{[(*." or user[0] in "$%*" or len(set(password)) == 1:
            continue
        if not _RESERVED_DOMAINS.search(host.rstrip(".")):
            yield Proposal(match.start(1), match.end(2), "credentials")


def addresses(window: str, start: int) -> Iterator[Proposal]:
    """Public IPv4 addresses. Left alone: private, documentation and other special ranges, networks (a.b.c.0/24), public resolvers, versions.

    Four small numbers are a version or a section unless a word nearby tells an address.
    """
    for match in every(_IPV4, window, start):
        address = _public(match[1], match[2])
        if address is None or match[1] in _RESOLVERS:
            continue
        parts = [int(part) for part in match[1].split(".")]
        small = max(parts) < 32
        if parts[3] in (0, 255):
            continue  # a network, or all of its machines
        if all(after == before + 1 for before, after in pairwise(parts)) or (small and _heading(window, match.start(), match.end())):
            continue  # 1.2.3.4, or "4.2.1.3. Installation"
        if told("phone", window, match.start(), match.end(), within=40) and not told("address", window, match.start(), match.end(), within=40):
            continue  # 93.123.45.67 is how a telephone number may be written too
        inside_url = window[max(0, match.start() - 3) : match.start()].endswith(("://", "@"))
        if inside_url or (not told_otherwise(window, match.start()) and (not small or told("address", window, match.start(), match.end(), within=32))):
            yield Proposal(match.start(1), match.end(1), "ip")


def _heading(window: str, start: int, end: int) -> bool:
    """Whether a number begins a line and a capitalised word follows, or nothing."""
    return window[max(0, start - 1) : start] in ("", "\n") and bool(_HEADING_AFTER.match(window, end))


def addresses_6(window: str, start: int) -> Iterator[Proposal]:
    """Global unicast IPv6 addresses (2000::/3), without the documentation range and without networks."""
    for match in every(_IPV6, window, start):
        text = match[1]
        # a full stop or a colon of the sentence
        while text.endswith(":") and not text.endswith("::"):
            text = text[:-1]
        if _public(text, match[2]) is not None:
            yield Proposal(match.start(1), match.start(1) + len(text), "ip")


def _public(text: str, prefix: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address if it can be that of a machine on the internet, and not the name of a whole network."""
    try:
        address = ipaddress.ip_address(text)
        network = ipaddress.ip_network(f"{text}/{prefix}") if prefix else None
    except ValueError:
        network = None
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
    if network is not None and network.num_addresses > 1:
        return None
    if not address.is_global or address.is_multicast or (address.version == 6 and address not in _UNICAST):
        return None
    return address
