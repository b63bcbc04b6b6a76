"""A dated snapshot of robots files made into a table that is looked up by host, whatever its size.

Forms of a snapshot: Parquet or JSONL (plain, .gz, .zst) with the columns `host` and `content`, and optionally `fetched`,
`status`, `kind` (robots.txt or ai.txt) and `location`; WARC files of robots.txt responses, as Common Crawl's robotstxt
subset; a folder of `HOST/robots.txt` and `HOST/ai.txt`.

Each file is cut down to the lines that decide (`reduced`), so that the files which millions of sites share become one.
The table is in partitions by the hash of the host: read from disk by memory mapping, never held as a whole.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from iberlm.core.errors import CorruptError, DataError
from iberlm.core.files import publish
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record
from iberlm.curate.optout.formats import KINDS, Fetched, read_fetched, snapshot_files

MAX_REDIRECTS = 5
"""RFC 9309, 2.3.1.2: after five redirects in a row the file may be taken as unavailable."""

_PARTITION_BYTES = 64 << 20
_SHARD_BYTES = 256 << 20
_BUFFER_BYTES = 32 << 20
_EXPANSION = 8
"""How much larger packed robots files are, roughly: only the number of partitions depends on it, and with it the memory of a join."""
_HOSTS_AT_ONCE = 20_000


class State(IntEnum):
    """What a host answered."""

    RULES = 0
    NO_FILE = 1
    UNPARSABLE = 2
    REDIRECT = 3


_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("host_hash", pa.uint64()),
        ("host", pa.string()),
        ("kind", pa.uint8()),  # index into KINDS
        ("fetched", pa.string()),
        ("state", pa.uint8()),
        ("reason", pa.string()),  # of UNPARSABLE
        ("target", pa.string()),  # of REDIRECT: the authority that it leads to
        ("content", pa.large_string()),  # of RULES
    ]
)
_LOOKUP_FIELDS = ["host_hash", "host", "kind", "state", "target", "content"]

_SITE_WIDE = re.compile(r"\s*(?:sitemaps?|site-map|host)\s*:", re.IGNORECASE)
_AGENT_LINE = re.compile(r"\s*user[- ]?agent\b", re.IGNORECASE)
_RULE_LINE = re.compile(r"\s*(?:allow|diss?al{1,2}[oa]w|diasllow)\s*(?::|\s)", re.IGNORECASE)
_OTHER_LINE = re.compile(r"\s*(?:crawl[- ]delay|request[- ]rate|visit[- ]time|noindex|clean-param|content-signal|content-usage)\s*:", re.IGNORECASE)


def classify(answer: Fetched) -> tuple[State, str, str, str]:
    """State, reason, target and content (each '' where it means nothing) of one answer, by RFC 9309 (2.3.1).

    A missing file (status 400-499) allows. What cannot be told is `UNPARSABLE`, with the reason: `status_429` and
    `status_5xx` (the server refused to say), `redirect_elsewhere` (to a page that is no robots file), `html`, `binary`,
    `no_directive`, `rules_without_agent`.
    """
    status = 200 if answer.status is None else answer.status
    if 300 <= status < 400:
        target = _redirect_target(answer)
        return (State.REDIRECT, "", target, "") if target else (State.UNPARSABLE, "redirect_elsewhere", "", "")
    if status == 429:
        return State.UNPARSABLE, "status_429", "", ""
    if not 200 <= status < 500:
        return State.UNPARSABLE, "status_5xx" if status >= 500 else "status_other", "", ""
    if status >= 400 or answer.content is None:
        return State.NO_FILE, "", "", ""
    if "\0" in answer.content:
        return State.UNPARSABLE, "binary", "", ""
    if answer.content.lstrip().startswith("<"):
        return State.UNPARSABLE, "html", "", ""
    reason = _without_meaning(answer.content)
    return (State.UNPARSABLE, reason, "", "") if reason else (State.RULES, "", "", reduced(answer.content))


def _redirect_target(answer: Fetched) -> str:
    """The other authority whose file of the same kind a redirect leads to; '' when it leads anywhere else."""
    from iberlm.curate.urls import canonical_url

    try:
        path = urlsplit(answer.location or "").path
    except ValueError:
        return ""
    url = canonical_url(answer.location)
    target = "" if url is None else url.removeprefix("https://").partition("/")[0]
    return target if path == f"/{KINDS[answer.kind]}" and target != answer.host else ""


def _without_meaning(content: str) -> str:
    """Why a text is no robots file, '' when it is one. An empty file, or one of comments, allows everything."""
    lines = [line for line in (raw.partition("#")[0] for raw in content.splitlines()) if line.strip()]
    if not lines or any(_AGENT_LINE.match(line) for line in lines):
        return ""
    if any(_RULE_LINE.match(line) for line in lines):
        return "rules_without_agent"
    return "" if any(_SITE_WIDE.match(line) or _OTHER_LINE.match(line) for line in lines) else "no_directive"


def reduced(content: str) -> str:
    """The lines of a robots file that decide about an address: no comments, no blank lines, no site-wide directives.

    Protego gives the same answers for it as for the whole file (tested): site-wide lines do not end a group of rules.
    """
    lines = (line.partition("#")[0].strip() for line in content.splitlines())
    return "\n".join(line for line in lines if line and not _SITE_WIDE.match(line))


def host_hash(host: str) -> int:
    """64-bit XXH3 of a host: its place in the lookup."""
    return xxhash.xxh3_64_intdigest(host.encode())


def partition_of(value: int, partitions: int) -> int:
    """Partition of a host hash: equal ranges of hashes, in order."""
    return (value * partitions) >> 64


@dataclass(frozen=True)
class Lookup:
    """Where the finished table is: `partitions` files `PPPP.arrow` in `folder`, sorted by the hash of the host."""

    folder: Path
    partitions: int

    def path(self, partition: int) -> Path:
        """File of one partition."""
        return self.folder / f"{partition:04d}.arrow"


def build(snapshot: Path, out: Path, key: str, workers: int) -> tuple[Lookup, dict[str, Any]]:
    """Read the snapshot and write the lookup below `out/lookup`; return it and what the snapshot holds, counted.

    Two maps over shards: snapshot files to sorted runs, partitions of all runs to the lookup. Both go on where they
    were killed. Raises `DataError` and `ConfigError` as `snapshot_files` and `read_fetched` do.
    """
    files = snapshot_files(snapshot)
    unpacked = sum(_unpacked_bytes(path, size) for path, size in files)
    partitions = max(1, min(1024, -(-unpacked // _PARTITION_BYTES)))
    groups = _groups(files)
    with closing(Record(out, key)) as record:  # of its own: what is read of the snapshot is no output of the stage
        runs = map_shards("robots: snapshot", read_shard, {f"read-{n:05d}": (n, group, partitions) for n, group in enumerate(groups)}, record, workers=workers)
        parts: dict[str, Any] = {f"join-{partition:04d}": (partition, []) for partition in range(partitions)}
        for result in runs.values():
            (name,) = result.outputs
            for group, partition in enumerate(result.metrics["row_groups"]):
                parts[f"join-{partition:04d}"][1].append((name, group))
        joined = map_shards("robots: hosts", join_shard, parts, record, workers=workers)
    return Lookup(out / "lookup", partitions), _summary(len(files), [*runs.values()], [*joined.values()])


def _unpacked_bytes(path: Path, size: int) -> int:
    if path.suffix == ".parquet":
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a whole Parquet file ({error}); fetch it again or take it out of the snapshot") from error
        stored = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        # in dictionary encoding a file that many hosts share counts once, in memory it does not
        return int(max(_EXPANSION * size, stored, 1024 * metadata.num_rows))
    return size if path.suffix == ".jsonl" or path.is_dir() else _EXPANSION * size


def _groups(files: list[tuple[Path, int]]) -> list[list[Path]]:
    groups: list[list[Path]] = [[]]
    size = 0
    for path, bytes_ in files:
        if groups[-1] and size + bytes_ > _SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += bytes_
    return groups


def _summary(files: int, runs: list[ShardResult], joined: list[ShardResult]) -> dict[str, Any]:
    """Counts for the manifest: of the snapshot's records and of its hosts."""
    dates = sorted(date for result in joined for date in result.metrics["dates"] if date)
    states: dict[str, int] = {}
    for result in joined:
        for name, number in result.metrics["states"].items():
            states[name] = states.get(name, 0) + number
    return {
        "files": files,
        "records": sum(result.metrics["records"] for result in runs),
        "records_unreadable": sum(result.metrics["unreadable"] for result in runs),
        "hosts": dict(sorted(states.items())),
        "different_files": sum(result.metrics["different_files"] for result in joined),
        "fetched_from": dates[0] if dates else None,
        "fetched_to": dates[-1] if dates else None,
    }


def read_shard(shard: tuple[int, list[Path], int], out: Path) -> ShardResult:
    """Snapshot files to one Parquet file whose row groups each belong to one partition. At most some 32 MiB are held."""
    number, paths, partitions = shard
    path = out / "lookup" / f"run-{number:05d}.parquet"
    rows: list[dict[str, Any]] = []
    size, records, unreadable = 0, 0, 0
    row_groups: list[int] = []
    with publish(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        for source in paths:
            for answer in read_fetched(source):
                records += 1
                if answer is None:
                    unreadable += 1
                    continue
                rows.append(_row(answer, partitions))
                size += 200 + len(rows[-1]["content"] or "")
                if size >= _BUFFER_BYTES:
                    row_groups += _flush(rows, writer)
                    rows, size = [], 0
        row_groups += _flush(rows, writer)
    metrics = {"row_groups": row_groups, "records": records, "unreadable": unreadable}
    return ShardResult({path.relative_to(out).as_posix(): None}, metrics=metrics)


def _row(answer: Fetched, partitions: int) -> dict[str, Any]:
    state, reason, target, content = classify(answer)
    value = host_hash(answer.host)
    return {
        "partition": partition_of(value, partitions),
        "host_hash": value,
        "host": answer.host,
        "kind": answer.kind,
        "fetched": answer.fetched,
        "state": int(state),
        "reason": reason,
        "target": target,
        "content": content,
    }


def _flush(rows: list[dict[str, Any]], writer: Any) -> list[int]:
    if not rows:
        return []
    table = pa.Table.from_pylist(rows, schema=_SCHEMA).sort_by("partition")
    counts = np.bincount(table.column("partition").to_numpy())
    start, written = 0, []
    for partition in np.flatnonzero(counts).tolist():
        writer.write_table(table.slice(start, counts[partition]), row_group_size=int(counts[partition]))
        start += counts[partition]
        written.append(partition)
    return written


def join_shard(shard: tuple[int, list[tuple[str, int]]], out: Path) -> ShardResult:
    """One partition of all runs to the lookup's file: of each host the latest answer, a redirect only when there is no other."""
    partition, sources = shard
    tables = [_SCHEMA.empty_table()]
    for name, group in sources:
        with pq.ParquetFile(out / name) as run:
            tables.append(run.read_row_group(group))
    table = pa.concat_tables(tables)
    redirects = pc.equal(table.column("state"), int(State.REDIRECT))
    order = [("host_hash", "ascending"), ("host", "ascending"), ("kind", "ascending"), ("redirect", "ascending"), ("fetched", "descending")]
    # the last columns only so that the choice does not depend on the order of the files
    order += [("state", "ascending"), ("content", "ascending"), ("target", "ascending"), ("reason", "ascending")]
    table = table.append_column("redirect", redirects).sort_by(order)
    table = table.filter(pa.array(_first_of_each(table)))
    content = pc.dictionary_encode(table.column("content").combine_chunks())
    pairs = zip(table.column("state").to_pylist(), table.column("reason").to_pylist(), strict=True)
    names = [f"unparsable_{reason}" if state == State.UNPARSABLE else State(state).name.lower() for state, reason in pairs]
    different = len(pc.unique(table.filter(pc.equal(table.column("state"), int(State.RULES))).column("content")))
    fetched = pc.min_max(pc.if_else(pc.equal(table.column("fetched"), ""), None, table.column("fetched"))).as_py()
    path = Lookup(out / "lookup", 0).path(partition)
    table = table.set_column(table.schema.get_field_index("content"), "content", content).select(_LOOKUP_FIELDS)
    with publish(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    metrics = {
        "states": {name: names.count(name) for name in sorted(set(names))},
        "dates": [fetched["min"], fetched["max"]],
        "different_files": different,
    }
    return ShardResult({path.relative_to(out).as_posix(): None}, metrics=metrics)


def _first_of_each(table: pa.Table) -> npt.NDArray[np.bool_]:
    hosts = table.column("host").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    kinds = table.column("kind").to_numpy()
    first = np.ones(len(table), np.bool_)
    if len(table) > 1:
        first[1:] = (hosts[1:] != hosts[:-1]) | (kinds[1:] != kinds[:-1])
    return first


@dataclass(frozen=True)
class Answer:
    """What the snapshot says of a host after its redirects: RULES with the file's content, NO_FILE or UNPARSABLE."""

    state: State
    content: str = ""


def answers(lookup: Lookup, hosts: list[str]) -> Iterator[tuple[str, int, Answer]]:
    """(host, kind, answer) for every host of which the snapshot has a file of that kind, those with equal content one after another.

    Of a partition only what is asked for is read, and `_HOSTS_AT_ONCE` hosts at a time, neighbours in the lookup. A redirect to a host that the
    snapshot does not have cannot be told: UNPARSABLE.
    """
    ordered = sorted(hosts, key=host_hash)
    for start in range(0, len(ordered), _HOSTS_AT_ONCE):
        yield from _answers(lookup, ordered[start : start + _HOSTS_AT_ONCE])


def _answers(lookup: Lookup, hosts: list[str]) -> Iterator[tuple[str, int, Answer]]:
    pending = {(host, kind): host for host in hosts for kind in range(len(KINDS))}
    found: dict[tuple[str, int], Answer] = {}
    for hop in range(MAX_REDIRECTS + 1):
        entries = _entries(lookup, sorted(set(pending.values())))
        following: dict[tuple[str, int], str] = {}
        for (host, kind), target in pending.items():
            entry = entries.get((target, kind))
            if entry is None:
                if hop:
                    found[host, kind] = Answer(State.UNPARSABLE)
            elif entry[0] == State.REDIRECT:
                following[host, kind] = entry[1]
            else:
                found[host, kind] = Answer(State(entry[0]), entry[2])
        pending = following
    found.update({key: Answer(State.NO_FILE) for key in pending})
    for (host, kind), answer in sorted(found.items(), key=lambda item: (item[1].content, item[0])):
        yield host, kind, answer


def _entries(lookup: Lookup, hosts: list[str]) -> dict[tuple[str, int], tuple[int, str, str]]:
    """(host, kind) to (state, target, content) of those `hosts` that the lookup has."""
    found: dict[tuple[str, int], tuple[int, str, str]] = {}
    by_partition: dict[int, list[tuple[int, str]]] = {}
    for host in hosts:
        value = host_hash(host)
        by_partition.setdefault(partition_of(value, lookup.partitions), []).append((value, host))
    for partition, asked in sorted(by_partition.items()):
        path = lookup.path(partition)
        try:
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
                _look_up(reader.read_all(), asked, found)
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptError(f"{path}: cannot be read ({error}); delete the folder and run the 'robots' stage again") from error
    return found


def _look_up(table: pa.Table, asked: list[tuple[int, str]], found: dict[tuple[str, int], tuple[int, str, str]]) -> None:
    if not len(table):
        return
    hashes = table.column("host_hash").to_numpy()
    wanted = np.array([value for value, _ in asked], np.uint64)
    starts, ends = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
    names = {host for _, host in asked}
    rows = np.unique(np.concatenate([np.arange(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]))
    taken = table.take(pa.array(rows))
    contents: dict[int, str] = {}  # one string object for equal contents, however many hosts have it
    codes = taken.column("content").combine_chunks()
    columns = [taken.column(name).to_pylist() for name in ("host", "kind", "state", "target")]
    for host, kind, state, target, code in zip(*columns, codes.indices.to_pylist(), strict=True):
        if code not in contents:
            contents[code] = codes.dictionary[code].as_py()
        if host in names:
            found[host, kind] = (state, target, contents[code])
