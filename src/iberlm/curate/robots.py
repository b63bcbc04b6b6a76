"""Retroactive robots.txt: does today's robots file of a page's host refuse it to those who train models?

A page may have been crawled years before its owner wrote that AI agents are not welcome. So a dated snapshot of robots
files is applied to every address, whenever it was crawled (as Apertus did: Apertus technical report 2025, arXiv
2509.14233; Fan et al. 2025, arXiv 2504.06219). Only the address is read, never the text. The verdict is a column beside the documents;
`select` decides what becomes of them.

A page is disallowed when its host's file refuses it to *any* of the listed agents or to `*`, or says in a
Content-Signal or Content-Usage line that it is not for training. A host without a file allows; one whose answer cannot
be understood is counted apart. Parsing and matching are Protego's (RFC 9309 with wildcards, the longest rule wins).
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from protego import Protego

from iberlm.core.config import given
from iberlm.core.documents import read_batches
from iberlm.core.files import publish, sha256_file
from iberlm.core.manifest import Counts, Manifest, summed
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, run_stage
from iberlm.curate.config import EVERYONE, RobotsConfig
from iberlm.curate.optout.formats import KINDS, snapshot_files
from iberlm.curate.optout.snapshot import Lookup, State, answers, build
from iberlm.curate.urls import hosts_of

VERSION = 1
VERDICTS = ("allowed", "disallowed", "no_file", "unparsable", "no_url")
SCHEMA = pa.schema([pa.field("robots", pa.string(), nullable=False)])
"""One row a document. `allowed`: a file was read and refuses nothing; `disallowed`; `no_file`: the host has none, or is not in the snapshot;
`unparsable`: its answer cannot be understood (an error of the server, HTML, no rules); `no_url`: the document has no http address."""
_ALLOWED, _DISALLOWED, _NO_FILE, _UNPARSABLE, _NO_URL = range(len(VERDICTS))

SIGNAL = "content-signal"
"""Under this name the metrics count what a Content-Signal or Content-Usage line refused."""
_SIGNAL_LINE = re.compile(r"^\s*content-(?:signal|usage)\s*:(.*)$", re.IGNORECASE | re.MULTILINE)
_NO_TRAINING = re.compile(r"\b(?:ai-train\s*=\s*no|train-ai\s*=\s*n)\b", re.IGNORECASE)
_AGENT_VALUES = re.compile(r"agent[ \t]*:?(.*)$", re.IGNORECASE | re.MULTILINE)
_REFUSAL_LINE = re.compile(r"^\s*di[as]", re.IGNORECASE | re.MULTILINE)  # how all of Protego's spellings of disallow begin


def run(config: RobotsConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Judge the address of every document of the extraction `inputs[0]`; write `verdicts/NNNNN.parquet`.

    Raises `ConfigError` when the snapshot is not there or of no known form, `DataError` when it is damaged, and what
    `run_stage` raises.
    """
    given("robots.snapshot", config.snapshot)
    given("robots.agents", config.agents)
    files = snapshot_files(Path(config.snapshot))
    return run_stage("robots", VERSION, _judge_all, config, inputs, out, fingerprint=_fingerprint(files), resumable=True)


def _fingerprint(files: list[tuple[Path, int]]) -> list[list[Any]]:
    listed = [file for path, _ in files for file in (sorted(path.glob("*/*.txt")) if path.is_dir() else [path])]
    return [[path.name if path.suffix != ".txt" else f"{path.parent.name}/{path.name}", sha256_file(path)] for path in listed]


def _judge_all(config: RobotsConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    lookup, snapshot = build(Path(config.snapshot), out, record.key, config.workers)
    shards = {path.stem: (path, lookup, config.agents) for path in inputs[0].paths("documents/", ".parquet")}
    results = map_shards("robots", judge_shard, shards, record, workers=config.workers)
    record.metrics = {"verdicts": {}, "refused_by": {}} | summed(result.metrics for result in results.values()) | {"snapshot": snapshot}
    shutil.rmtree(lookup.folder)


def judge_shard(shard: tuple[Path, Lookup, list[str]], out: Path) -> ShardResult:
    """Verdicts of one documents file, written to `out/verdicts/` under the same name. Memory: its addresses, and the robots files of its hosts."""
    source, lookup, agents = shard
    batches = list(read_batches(source, ["url", "language"], batch_rows=1 << 16))
    table = pa.Table.from_batches(batches) if batches else pa.table({"url": pa.array([], pa.string()), "language": pa.array([], pa.string())})
    verdicts, refused_by = judge(table.column("url"), lookup, agents)
    path = out / "verdicts" / source.name
    column = pa.array(VERDICTS, pa.string()).take(pa.array(verdicts))
    with publish(path) as temporary:
        pq.write_table(pa.table([column], schema=SCHEMA), temporary, compression="zstd")
    counts, by_language = Counts(), dict[str, dict[str, int]]()
    languages = table.column("language").combine_chunks().dictionary_encode()
    for code, language in enumerate(languages.dictionary.to_pylist()):
        numbers = np.bincount(verdicts[languages.indices.to_numpy(zero_copy_only=False) == code], minlength=len(VERDICTS))
        by_language[language] = {name: number for name, number in zip(VERDICTS, numbers.tolist(), strict=True) if number}
        counts.keep(language, int(numbers.sum()))
    return ShardResult({path.relative_to(out).as_posix(): len(table)}, counts, {"verdicts": by_language, "refused_by": refused_by})


def judge(urls: pa.ChunkedArray | pa.Array, lookup: Lookup, agents: list[str]) -> tuple[npt.NDArray[np.int8], dict[str, int]]:
    """Verdict of each address as an index into `VERDICTS`, shape (rows,); and how many addresses each agent is refused."""
    hosts = hosts_of(urls).dictionary_encode()
    codes = hosts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    names = hosts.dictionary.to_pylist()
    verdicts = np.full(len(codes), _NO_FILE, np.int8)
    verdicts[codes < 0] = _NO_URL
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    number_of = {name: number for number, name in enumerate(names)}
    refused_by: dict[str, int] = {}
    content, rules = None, RobotsRules("", agents)
    for host, kind, answer in answers(lookup, names):
        rows = order[starts[number_of[host]] : starts[number_of[host] + 1]]
        if answer.state == State.RULES:
            if answer.content != content:
                content, rules = answer.content, RobotsRules(answer.content, agents)
            found = _judge_rows(urls, rows, rules, KINDS[kind], refused_by)
        else:
            # servers that answer any address with a page do so for ai.txt too: that is no file
            unparsable = answer.state == State.UNPARSABLE and kind == 0
            found = np.full(len(rows), _UNPARSABLE if unparsable else _NO_FILE, np.int8)
        verdicts[rows] = _stricter(verdicts[rows], found)
    return verdicts, refused_by


_STRICTNESS = np.array([1, 3, 0, 2, 4])
"""Of two files of a host the stricter verdict counts: disallowed, then unparsable, then allowed."""


def _stricter(left: npt.NDArray[np.int8], right: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    chosen: npt.NDArray[np.int8] = np.where(_STRICTNESS[right] > _STRICTNESS[left], right, left).astype(np.int8)
    return chosen


def _judge_rows(urls: Any, rows: npt.NDArray[np.int64], rules: "RobotsRules", kind: str, refused_by: dict[str, int]) -> npt.NDArray[np.int8]:
    found = np.full(len(rows), _ALLOWED, np.int8)
    if rules.allows_all:
        return found
    for index, url in enumerate(urls.take(pa.array(rows)).to_pylist()):
        try:
            refusing = [*(rules.refusing(url) if kind == KINDS[0] else rules.refusing_media(url))]
        except ValueError:  # brackets that do not close, behind a host that is one
            found[index] = _NO_URL
            continue
        if refusing:
            found[index] = _DISALLOWED
            for agent in refusing:
                refused_by[agent] = refused_by.get(agent, 0) + 1
    return found


class RobotsRules:
    """One robots file (its lines ended by line feeds, see `reduced`), asked for a list of agents and for `*`."""

    def __init__(self, content: str, agents: list[str]) -> None:
        self._parser = Protego.parse(content)
        values = {"".join(value.split("*")).strip(" \t:") for value in _AGENT_VALUES.findall(content.lower())} - {""}
        # An agent that no line of the file names gets the rules of `*`: it need not be asked for again.
        self._named = [agent for agent in agents if agent != EVERYONE and any(value in agent.lower() for value in values)]
        self._closed = tuple(_signal_path(line) for line in _SIGNAL_LINE.findall(content) if _NO_TRAINING.search(line))
        self.allows_all = not self._closed and _REFUSAL_LINE.search(content) is None

    def refusing(self, url: str) -> Iterator[str]:
        """Names of those to whom the address is refused: `*`, agents, `SIGNAL`. Raises `ValueError` for what is no address."""
        if not self._parser.can_fetch(url, EVERYONE):
            yield EVERYONE
        for agent in self._named:
            if not self._parser.can_fetch(url, agent):
                yield agent
        if self._closed and (urlsplit(url).path or "/").startswith(self._closed):
            yield SIGNAL

    def refusing_media(self, url: str) -> Iterator[str]:
        """As `refusing`, for an ai.txt: it refuses kinds of media by their endings, and a page is text, whatever its address ends in."""
        parts = urlsplit(url)
        plain = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"
        addresses = [url] if PurePosixPath(parts.path).suffix else [url, f"{plain.rstrip('/')}/page.html", f"{plain.rstrip('/')}/page.txt"]
        yield from dict.fromkeys(agent for address in addresses for agent in self.refusing(address))


def _signal_path(line: str) -> str:
    """The path that a signal is for; the whole site when it names none."""
    return next((word for word in line.split() if word.startswith("/")), "/")
