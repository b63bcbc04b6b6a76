"""Addresses of pages: one spelling for all addresses of one page, its hash, and the host whose robots file governs it.

The canonical spelling follows RFC 3986 (section 6.2: case, percent-encoding, dot segments), RFC 5891 for hosts beyond
ASCII, and what crawls show: a page is the same under http and https, with and without a slash at the end, and
whatever its links carry to count visitors. `www.` stays, as do the order of the query and the file name: those
may lead elsewhere.
"""

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

import idna
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

MAX_URL_CHARACTERS = 8000
"""Longer ones are no addresses of pages but data in disguise: RFC 9110 (4.1) asks servers for 8000 octets."""

TRACKING = frozenset(
    "fbclid gclid gclsrc dclid gbraid wbraid msclkid yclid ysclid twclid ttclid li_fat_id igshid mc_cid mc_eid _ga _gl _hsenc _hsmi "
    "mkt_tok oly_anon_id oly_enc_id vero_id wickedid _openstat s_kwcid ef_id srsltid spm".split()
)
"""Query parameters that count visitors and change nothing on the page, besides all that begin with utm_, mtm_, pk_ and hsa_."""
_TRACKING_PREFIXES = ("utm_", "mtm_", "pk_", "hsa_")

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_KEPT = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/?%")
_PLAIN = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_BACKSLASHES = re.compile(r"^[^?#]*\\[^?#]*")  # browsers read them as slashes, and so do those who write them
_ASCII_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_IPV6 = re.compile(r"[0-9a-f:.]+")
# Only the host: a vectorised pass over millions of addresses, of which few need Python.
_AUTHORITY = r"^(?i:https?)://(?:[^/?#\\]*@)?(?P<host>[^/?#@\\]*)"


def canonical_url(url: str | None) -> str | None:
    """The one spelling of an http or https address; None for anything else and for addresses that no page can have.

    Without user name, fragment, default port and tracking parameters; scheme https, host in lower case and ASCII (IDNA
    2008), percent-encoding only where needed and in capitals, no dot segments, no slash at the end but for the root.
    Idempotent.
    """
    if url is None or len(url) > MAX_URL_CHARACTERS:
        return None
    try:
        parts = urlsplit(_CONTROLS.sub("", _BACKSLASHES.sub(lambda match: match[0].replace("\\", "/"), url)).strip())
        authority = _authority(parts)
    except ValueError:  # brackets that do not close, a port beyond 65535
        return None
    if authority is None:
        return None
    path = _without_dots(_encoded(parts.path)).rstrip("/") or "/"
    query = "&".join(part for part in _encoded(parts.query).split("&") if part and not _tracks(part))
    canonical = f"https://{authority}{path}" + (f"?{query}" if query else "")
    return canonical if len(canonical) <= MAX_URL_CHARACTERS else None


def _authority(parts: SplitResult) -> str | None:
    if parts.scheme not in _DEFAULT_PORTS or (host := canonical_host(parts.hostname or "")) is None:
        return None
    port = parts.port
    return host if port is None or port in _DEFAULT_PORTS.values() else f"{host}:{port}"


def canonical_host(host: str) -> str | None:
    """A host name (no port) in lower case and ASCII, without a dot at the end; an IPv6 address in brackets; None when it is no host."""
    name = host.strip().rstrip(".").lower()
    if ":" in name or name.startswith("["):
        inner = name.removeprefix("[").removesuffix("]")
        return f"[{inner}]" if ":" in inner and _IPV6.fullmatch(inner) else None
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
        name = name.rstrip(".")
    return name if len(name) <= 253 and _ASCII_HOST.fullmatch(name) else None


def _encoded(part: str) -> str:
    """A path or query with one percent-encoding: unreserved characters plain, all others that must be encoded in capitals."""
    if _PLAIN.fullmatch(part):
        return part

    def decoded(match: re.Match[bytes]) -> bytes:
        byte = int(match[1], 16)
        return bytes([byte]) if byte in _UNRESERVED else b"%" + match[1].upper()

    data = re.sub(rb"%(?![0-9A-Fa-f]{2})", b"%25", part.encode("utf-8", "surrogatepass"))
    return "".join(chr(byte) if byte in _KEPT else f"%{byte:02X}" for byte in _ESCAPE.sub(decoded, data))


def _without_dots(path: str) -> str:
    """Remove dot segments (RFC 3986, 5.2.4); empty segments count as one slash, so that what is left is the same when read again."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments) + ("/" if path.endswith("/") and segments else "")


def _tracks(parameter: str) -> bool:
    name = parameter.partition("=")[0].lower()
    return name in TRACKING or name.startswith(_TRACKING_PREFIXES)


def url_hash(canonical: str) -> int:
    """64-bit XXH3 of a canonical address."""
    return xxhash.xxh3_64_intdigest(canonical.encode())


def url_hashes(urls: Iterable[str | None]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Hashes of canonical addresses, for finding pages that were fetched more than once.

    Returns (hashes, known), both of shape (urls,): uint64, and whether there is an address; where not, the hash is 0 and means nothing.
    """
    canonical = [canonical_url(url) for url in urls]
    known = np.fromiter((url is not None for url in canonical), np.bool_, len(canonical))
    hashes = np.fromiter((0 if url is None else url_hash(url) for url in canonical), np.uint64, len(canonical))
    return hashes, known


def hosts_of(urls: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The authority whose robots file governs each address: canonical host, `:port` when it is not the default; null for no address.

    `urls`: string array of shape (rows,); returns a string array of the same shape. http and https are one.
    """
    column = urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls
    found = pc.struct_field(pc.extract_regex(pc.utf8_trim_whitespace(column), _AUTHORITY), "host").dictionary_encode()
    names = pa.array([None if name is None else _host_and_port(name) for name in found.dictionary.to_pylist()], pa.string())
    return names.take(found.indices)


def _host_and_port(authority: str) -> str | None:
    try:
        return _authority(urlsplit(f"http://{authority}/"))
    except ValueError:
        return None
