"""Requests for removal and block lists: what must not be in a release, whatever the rules say.

A file of requests has one JSON object a line (`.jsonl`, also `.gz` and `.zst`), with one target, a date and a reason:

    {"url": "https://example.com/page", "requested": "2025-03-01", "reason": "copyright"}

| target | removes |
|---|---|
| `id` | the document; with `start` and `end` (code points, half open) only that passage of it |
| `url` | pages with the same canonical address |
| `url_prefix` | pages below a folder (ends in `/`) or whose address begins so |
| `domain` | pages of the domain and of all its subdomains |
| `text_hash` | every copy of a text: 16 hexadecimal digits, the column of the same name |

A block list is a text file (`.txt`) with a domain a line; `#` begins a remark. No person is named in either: the reason is a
code, and `reference` may give the number under which the letter is kept. Nothing here reads a text: `iberlm.curate.locate`
turns a passage that is known by its words into targets with offsets, once, when the request comes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from iberlm.core.errors import ConfigError
from iberlm.curate.spans import Spans
from iberlm.curate.text_files import READ_ERRORS, open_text
from iberlm.curate.urls import canonical_host, canonical_url, hosts_of, url_hash, url_hashes

TARGETS = ("id", "url", "url_prefix", "domain", "text_hash")
_KEYS = (*TARGETS, "start", "end", "requested", "reason", "reference")
_REASON = re.compile(r"[a-z0-9_]{1,40}")
_REFERENCE = re.compile(r"[A-Za-z0-9_./-]{1,80}")
_TEXT_HASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class _Hashed:
    """Targets as hashes: 12 bytes each, so that a block list of millions of domains fits every worker."""

    hashes: npt.NDArray[np.uint64]
    """Sorted, shape (targets,)."""
    lines: npt.NDArray[np.int32]
    """The line that each stands on, shape (targets,)."""

    @classmethod
    def of(cls, targets: list[tuple[int, int]]) -> "_Hashed":
        """From (hash, line) pairs; of equal hashes the first line counts."""
        hashes, first = np.unique(np.array([value for value, _ in targets], np.uint64), return_index=True)
        return cls(hashes, np.array([line for _, line in targets], np.int32)[first] if targets else np.empty(0, np.int32))

    def find(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Line of each hash, 0 where it is no target; shape as `hashes`."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.int32)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: npt.NDArray[np.int32] = np.where(self.hashes[place] == hashes, self.lines[place], 0).astype(np.int32)
        return found


@dataclass(frozen=True)
class Removals:
    """Requests of one file, ready to be asked about documents."""

    reasons: dict[str, int]
    """Requests by reason; those of a block list under `block_list`."""
    ids: _Hashed
    urls: _Hashed
    domains: _Hashed
    text_hashes: _Hashed
    prefixes: dict[str, list[tuple[str, int]]]
    """By authority: beginnings of canonical addresses and the lines that they stand on."""
    passages: dict[str, list[tuple[int, int]]]
    """By document id: (start, end) in code points, sorted."""

    def lines(self, ids: Sequence[str], urls: Sequence[str | None], text_hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """The line of the request that removes each document as a whole, 0 where none does; shape (documents,).

        So a release can say of every request whether it met anything. Of several requests the one on the last line counts.
        """
        found = self.ids.find(_hashes(ids))
        if len(self.urls.hashes):
            hashes, known = url_hashes(urls)
            found = np.maximum(found, np.where(known, self.urls.find(hashes), 0)).astype(np.int32)
        if self.prefixes:
            found = np.maximum(found, np.fromiter((self._prefix(url) for url in urls), np.int32, len(urls)))
        if len(self.domains.hashes):
            found = np.maximum(found, self._domains(urls))
        last: npt.NDArray[np.int32] = np.maximum(found, self.text_hashes.find(text_hashes))
        return last

    def removed(self, ids: Sequence[str], urls: Sequence[str | None], text_hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each document is removed as a whole; shape (documents,)."""
        return self.lines(ids, urls, text_hashes) > 0

    def spans(self, ids: Sequence[str]) -> Spans:
        """The passages to be cut from these documents, ordered by row and start."""
        rows = [(row, start, end) for row, identifier in enumerate(ids) for start, end in self.passages.get(identifier, ())]
        table = np.array(rows, np.int64).reshape(len(rows), 3)
        return Spans(table[:, 0], table[:, 1], table[:, 2])

    def _prefix(self, url: str | None) -> int:
        if (canonical := canonical_url(url)) is None:
            return 0
        authority = canonical.removeprefix("https://").partition("/")[0]
        path, mark, query = canonical.partition("?")
        folder = f"{path.rstrip('/')}/{mark}{query}"  # an address has no slash at its end, a folder among the targets has
        return next((line for prefix, line in self.prefixes.get(authority, ()) if canonical.startswith(prefix) or folder.startswith(prefix)), 0)

    def _domains(self, urls: Sequence[str | None]) -> npt.NDArray[np.int32]:
        hosts = hosts_of(pa.array(urls, pa.string())).dictionary_encode()
        found = np.zeros(len(hosts.dictionary) + 1, np.int32)  # the last one for documents without an address
        for code, host in enumerate(hosts.dictionary.to_pylist()):
            labels = host.partition(":")[0].split(".")
            suffixes = [".".join(labels[start:]) for start in range(len(labels))]
            found[code] = self.domains.find(_hashes(suffixes)).max()
        of_rows: npt.NDArray[np.int32] = found[hosts.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
        return of_rows


def _hashes(values: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.fromiter((xxhash.xxh3_64_intdigest(value.encode()) for value in values), np.uint64, len(values))


def load_removals(path: Path) -> Removals:
    """Read a file of requests or a block list; once a process for the same file.

    Raises `ConfigError` with the line: not JSON, no target or two, an unknown key, a date or reason that is none, an address or
    domain that cannot be one, offsets out of order.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ConfigError(f"select.removals: {path} cannot be read ({error.strerror}); give a file of requests (.jsonl) or a block list (.txt)") from error
    return _load(path.absolute(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _load(path: Path, _changed: int, _size: int) -> Removals:
    if path.suffix == ".txt":
        requests = _block_list(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        requests = _requests(path)
    else:
        raise ConfigError(f"select.removals: {path} ends in none of .jsonl, .jsonl.gz, .jsonl.zst (requests) and .txt (domains)")
    reasons: dict[str, int] = {}
    hashed: dict[str, list[tuple[int, int]]] = {"id": [], "url": [], "domain": [], "text_hash": []}
    prefixes: dict[str, list[tuple[str, int]]] = {}
    passages: dict[str, list[tuple[int, int]]] = {}
    for line, target, value, request in requests:
        reasons[request["reason"]] = reasons.get(request["reason"], 0) + 1
        if "start" in request:
            passages.setdefault(value, []).append((request["start"], request["end"]))
        elif target == "url_prefix":
            prefixes.setdefault(value.removeprefix("https://").partition("/")[0], []).append((value, line))
        else:
            number = url_hash(value) if target == "url" else int(value, 16) if target == "text_hash" else xxhash.xxh3_64_intdigest(value.encode())
            hashed[target].append((number, line))
    return Removals(
        reasons=dict(sorted(reasons.items())),
        ids=_Hashed.of(hashed["id"]),
        urls=_Hashed.of(hashed["url"]),
        domains=_Hashed.of(hashed["domain"]),
        text_hashes=_Hashed.of(hashed["text_hash"]),
        prefixes=prefixes,
        passages={identifier: sorted(spans) for identifier, spans in passages.items()},
    )


_Requests = Iterator[tuple[int, str, str, dict[str, Any]]]
"""Line, kind of target, canonical value, and the request as it was written."""


def _block_list(path: Path) -> _Requests:
    for number, line in lines_of(path):
        if name := line.partition("#")[0].strip():
            yield number, "domain", _domain(name, f"{path}:{number}"), {"reason": "block_list"}


def _requests(path: Path) -> _Requests:
    for number, line in lines_of(path):
        if line.strip():
            where = f"{path}:{number}"
            request = parsed(line, where)
            target, value = _checked(request, where)
            yield number, target, value, request


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file and their numbers, from 1. Raises `ConfigError` when it cannot be read to its end."""
    number = 0
    try:
        with open_text(path) as stream:
            for number, line in enumerate(stream, 1):
                yield number, line
    except READ_ERRORS as error:
        raise ConfigError(f"{path}: cannot be read after line {number} ({error})") from error


def parsed(line: str, where: str) -> dict[str, Any]:
    """The JSON object on a line. Raises `ConfigError` naming `where`."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error}); write one request a line") from error
    if not isinstance(request, dict):
        raise ConfigError(f"{where}: a JSON {type(request).__name__} instead of an object")
    return request


def _checked(request: dict[str, Any], where: str) -> tuple[str, str]:
    """Kind of target and its canonical value. Raises `ConfigError`."""
    if unknown := [key for key in request if key not in _KEYS]:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; choose among {', '.join(_KEYS)} (no person is named here: `reference` may lead to the letter)")
    targets = [key for key in TARGETS if key in request]
    if len(targets) != 1:
        raise ConfigError(f"{where}: {' and '.join(targets) or 'no target'}; give one of {', '.join(TARGETS)}")
    (target,) = targets
    if not isinstance(request[target], str) or not request[target]:
        raise ConfigError(f"{where}: {target} is {json.dumps(request[target])}; it must be a text")
    check_about(request, where)
    _check_offsets(request, target, where)
    return target, _canonical(target, request[target], where)


def check_about(request: dict[str, Any], where: str) -> None:
    """What every request says of itself: reason, date and, where it has one, reference. Raises `ConfigError` naming `where`."""
    if not isinstance(reason := request.get("reason"), str) or not _REASON.fullmatch(reason):
        raise ConfigError(f"{where}: reason is {json.dumps(reason)}; it must be a code of small letters, digits and '_', e.g. copyright or personal_data")
    if "reference" in request and not (isinstance(request["reference"], str) and _REFERENCE.fullmatch(request["reference"])):
        raise ConfigError(f"{where}: reference is {json.dumps(request['reference'])}; it must be a number or code without spaces")
    requested = request.get("requested")
    try:
        date.fromisoformat(requested)  # type: ignore[arg-type]  # anything but a text is the TypeError below
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: requested is {json.dumps(requested)}; it must be a day, e.g. 2025-03-01") from None


def _check_offsets(request: dict[str, Any], target: str, where: str) -> None:
    offsets = [request[key] for key in ("start", "end") if key in request]
    if not offsets:
        return
    if target != "id" or len(offsets) != 2:
        raise ConfigError(f"{where}: start and end go together, and only with id")
    if any(isinstance(offset, bool) or not isinstance(offset, int) for offset in offsets) or not 0 <= offsets[0] < offsets[1] < 1 << 31:
        raise ConfigError(f"{where}: start {offsets[0]} and end {offsets[1]}; they must be code points with 0 <= start < end")


def _canonical(target: str, value: str, where: str) -> str:
    if target == "id":
        return value
    if target == "domain":
        return _domain(value, where)
    if target == "text_hash":
        if not _TEXT_HASH.fullmatch(value):
            raise ConfigError(f"{where}: text_hash '{value}'; it must be 16 hexadecimal digits in small letters")
        return value
    if (url := canonical_url(value)) is None:
        raise ConfigError(f"{where}: {target} '{value}' is no http or https address")
    # what ends in a slash is a folder: '/blog/' does not mean '/blogger'
    return f"{url.rstrip('/')}/" if target == "url_prefix" and value.split("#")[0].endswith("/") else url


def _domain(value: str, where: str) -> str:
    host = None if "/" in value or ":" in value else canonical_host(value.removeprefix("*.").removeprefix("."))
    if host is None or "." not in host:
        raise ConfigError(f"{where}: '{value}' is no domain; write it as example.com")
    return host
