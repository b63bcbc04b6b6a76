"""Retroactive robots.txt: snapshots of every form, the rules of RFC 9309, and verdicts beside the documents."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protego import Protego
from ruamel.yaml import YAML

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.resources import resource_dir
from iberlm.core.stage import Record, run_stage
from iberlm.curate import robots
from iberlm.curate.optout.snapshot import reduced
from iberlm.curate.robots import RobotsConfig, RobotsRules

AGENTS = ["GPTBot", "CCBot", "Google-Extended"]
CLOSED = "User-agent: *\nDisallow: /\n"
OPEN = "User-agent: *\nDisallow:\n"
NO_GPT = "User-agent: *\nDisallow: /privado/\n\nUser-agent: GPTBot\nDisallow: /\n"


def extracted(folder: Path, documents: list[dict[str, Any]], per_file: int = 1000) -> Manifest:
    """A finished extraction of documents; what a document does not say is made up."""
    rows = [
        {"id": f"{number:016x}", "text": "Un texto.", "language": "es", "source": f"{number}", "card": "mine", "licence": "CC0-1.0", **document}
        for number, document in enumerate(documents)
    ]

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for number, start in enumerate(range(0, len(rows), per_file) or (0,)):
            path = out / "documents" / f"{number:05d}.parquet"
            record.output(path, write_documents(path, batches_of(rows[start : start + per_file])))

    return run_stage("extract", 1, body, StageConfig(), [], folder, fingerprint=rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def verdicts_of(manifest: Manifest) -> list[str]:
    return [verdict for path in manifest.paths("verdicts/", ".parquet") for verdict in pq.read_table(path).column("robots").to_pylist()]


def verdicts(folder: Path, rows: list[dict[str, Any]], urls: list[str | None], agents: list[str] = AGENTS) -> list[str]:
    snapshot = write_jsonl(folder / "snapshot.jsonl", rows)
    manifest = robots.run(
        RobotsConfig(snapshot=str(snapshot), agents=agents, workers=1), [extracted(folder / "extract", [{"url": url} for url in urls])], folder / "robots"
    )
    return verdicts_of(manifest)


def test_a_page_is_disallowed_when_its_host_refuses_it_to_any_agent_or_to_everyone(tmp_path: Path) -> None:
    rows = [{"host": "a.es", "content": CLOSED}, {"host": "b.es", "content": NO_GPT}, {"host": "c.es", "content": OPEN}]
    urls = ["https://a.es/x", "http://b.es/x", "https://c.es/x", "https://d.es/x", None, "urn:isbn:1", "https://c.es:8443/x"]
    assert verdicts(tmp_path, rows, urls) == ["disallowed", "disallowed", "allowed", "no_file", "no_url", "no_url", "no_file"]


def test_only_listed_agents_are_asked_for(tmp_path: Path) -> None:
    assert verdicts(tmp_path, [{"host": "a.es", "content": NO_GPT}], ["https://a.es/x", "https://a.es/privado/x"], ["CCBot"]) == ["allowed", "disallowed"]


def test_the_longest_rule_wins_and_wildcards_count(tmp_path: Path) -> None:
    content = "User-agent: *\nDisallow: /wp-admin/\nAllow: /wp-admin/admin-ajax.php\nDisallow: /*?replytocom=\nDisallow: /*.pdf$\n"
    urls = ["/wp-admin/x", "/wp-admin/admin-ajax.php", "/nota/?replytocom=3", "/a.pdf", "/a.pdf?x", "/notícia"]
    found = verdicts(tmp_path, [{"host": "a.cat", "content": content}], [f"https://A.cat{url}" for url in urls])
    assert found == ["disallowed", "allowed", "disallowed", "disallowed", "allowed", "allowed"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ({"status": 404, "content": "<html>"}, "no_file"),
        ({"status": 403}, "no_file"),
        ({"status": 410, "content": CLOSED}, "no_file"),
        ({"status": 200, "content": ""}, "allowed"),
        ({"status": 200, "content": "# nothing but a remark\n"}, "allowed"),
        ({"status": 200, "content": "\ufeff" + CLOSED}, "disallowed"),
        ({"status": 200, "content": "Sitemap: https://a.es/sitemap.xml\n"}, "allowed"),
        ({"status": 200, "content": "user-agent: gptbot\r\nDISALLOW: /\r\n"}, "disallowed"),
        ({"status": 200, "content": "<!DOCTYPE html><p>User-agent: *\nDisallow: /\n"}, "unparsable"),
        ({"status": 200, "content": "  \n<html><body>No encontrado"}, "unparsable"),
        ({"status": 200, "content": "Not found"}, "unparsable"),
        ({"status": 200, "content": "Disallow: /\n"}, "unparsable"),
        ({"status": 200, "content": "User-agent: *\0\nDisallow: /"}, "unparsable"),
        ({"status": 503, "content": CLOSED}, "unparsable"),
        ({"status": 429}, "unparsable"),
        ({"status": 301, "location": "https://a.es/"}, "unparsable"),
        ({"status": 301}, "unparsable"),
        ({"status": 301, "location": "https://www.nowhere.es/robots.txt"}, "unparsable"),
        ({"status": 302, "location": "https://www.a.es/robots.txt"}, "disallowed"),
    ],
)
def test_what_a_host_answers_decides(tmp_path: Path, answer: dict[str, Any], verdict: str) -> None:
    rows = [{"host": "a.es", **answer}, {"host": "www.a.es", "content": CLOSED}]
    assert verdicts(tmp_path, [{"content": None, **row} for row in rows], ["https://a.es/x"]) == [verdict]


def test_redirects_are_followed_five_times_and_loops_end(tmp_path: Path) -> None:
    hops = [{"host": f"h{n}.es", "status": 301, "location": f"http://h{n + 1}.es/robots.txt", "content": None} for n in range(6)]
    rows = [*hops, {"host": "h6.es", "content": CLOSED}, {"host": "loop.es", "status": 301, "location": "https://loup.es/robots.txt", "content": None}]
    rows += [{"host": "loup.es", "status": 301, "location": "https://loop.es/robots.txt", "content": None}]
    assert verdicts(tmp_path, rows, ["http://h1.es/", "http://h0.es/", "http://loop.es/"]) == ["disallowed", "no_file", "no_file"]


def test_the_latest_answer_counts_and_a_redirect_only_where_there_is_no_other(tmp_path: Path) -> None:
    rows = [
        {"host": "a.es", "fetched": "2024-12-01", "content": OPEN},
        {"host": "a.es", "fetched": "2025-01-15T10:00:00Z", "content": CLOSED},
        {"host": "a.es", "fetched": "2013-01-01", "content": OPEN},
        {"host": "b.es", "fetched": "20250101000000", "content": OPEN},
        {"host": "b.es", "fetched": "20240101000000", "content": CLOSED},
        {"host": "b.es", "fetched": "20250601000000", "status": 301, "location": "https://a.es/robots.txt", "content": None},
    ]
    assert verdicts(tmp_path, rows, ["https://a.es/", "https://b.es/"]) == ["disallowed", "allowed"]
    manifest = read_manifest(tmp_path / "robots")
    assert manifest.metrics["snapshot"]["fetched_from"] == "2025-01-01T00:00:00"
    assert manifest.metrics["snapshot"]["fetched_to"] == "2025-01-15T10:00:00"


def test_an_ai_txt_is_asked_too_and_refuses_text_by_its_endings(tmp_path: Path) -> None:
    rows = [
        {"host": "a.es", "content": OPEN},
        {"host": "a.es", "kind": "ai.txt", "content": "User-Agent: *\nDisallow: *.txt\nDisallow: *.html\nAllow: /\n"},
        {"host": "b.es", "kind": "ai.txt", "content": "User-Agent: *\nDisallow: *.jpg\nDisallow: *.mp3\nAllow: *.txt\n"},
        {"host": "c.es", "content": OPEN},
        {"host": "c.es", "kind": "ai.txt", "content": "<html>No encontrado</html>"},
        {"host": "d.es", "kind": "ai.txt", "content": "<html>No encontrado</html>"},
        {"host": "e.es", "status": 500, "content": None},
        {"host": "e.es", "kind": "ai.txt", "content": "User-Agent: *\nAllow: /\n"},
    ]
    urls = ["https://a.es/nota", "https://a.es/nota.html", "https://a.es/", "https://b.es/nota", "https://c.es/", "https://d.es/", "https://e.es/"]
    assert verdicts(tmp_path, rows, urls) == ["disallowed", "disallowed", "disallowed", "allowed", "allowed", "no_file", "unparsable"]


def test_a_content_signal_against_training_disallows(tmp_path: Path) -> None:
    rows = [
        {"host": "a.es", "content": "# as Content-Signal: ai-train=no\nUser-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n"},
        {"host": "b.es", "content": "# Content-Signal: ai-train=no\nUser-agent: *\nContent-Signal: search=yes, ai-train=yes\nAllow: /\n"},
        {"host": "c.es", "content": "User-agent: *\nContent-Usage: /fotos/ train-ai=n\nAllow: /\n"},
    ]
    urls = ["https://a.es/x", "https://b.es/x", "https://c.es/x", "https://c.es/fotos/1"]
    assert verdicts(tmp_path, rows, urls) == ["disallowed", "allowed", "allowed", "disallowed"]
    assert read_manifest(tmp_path / "robots").metrics["refused_by"] == {"content-signal": 2}


ROWS: list[dict[str, Any]] = [
    {"host": "a.es", "kind": "robots.txt", "status": 200, "content": NO_GPT, "location": None},
    {"host": "ñandú.es", "kind": "robots.txt", "status": 200, "content": "User-agent: *\nDisallow: /ñu\n", "location": None},
    {"host": "a.es", "kind": "ai.txt", "status": 200, "content": "User-Agent: *\nDisallow: /fotos/\n", "location": None},
]


def _parquet(folder: Path) -> Path:
    rows = [{**row, "content": row["content"].encode()} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "robots.parquet")
    return folder / "robots.parquet"


def _jsonl_zst(folder: Path) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    (folder / "robots.jsonl.zst").write_bytes(zstandard.compress(data))
    return folder


def _jsonl_gz(folder: Path) -> Path:
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    (folder / "robots.jsonl.gz").write_bytes(gzip.compress(lines[0]) + gzip.compress(b"".join(lines[1:])))  # two members, as of appended files
    return folder / "robots.jsonl.gz"


def _warc(folder: Path) -> Path:
    parts = []
    for row in ROWS:
        body = row["content"].encode()
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        host = row["host"].encode("idna").decode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Date: 2025-01-20T00:00:00Z\r\nWARC-Target-URI: https://{host}/{row['kind']}\r\n"
        head += f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-00000000000{len(parts)}>\r\nContent-Type: application/http; msgtype=response\r\n"
        parts.append(gzip.compress(f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n"))
    (folder / "CC-robotstxt.warc.gz").write_bytes(b"".join(parts))
    return folder


def _folders(folder: Path) -> Path:
    for row in ROWS:
        path = folder / row["host"] / row["kind"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(row["content"], encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", [_parquet, _jsonl_zst, _jsonl_gz, _warc, _folders])
def test_every_form_of_a_snapshot_gives_the_same_verdicts(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    (tmp_path / "snapshot").mkdir()
    urls = ["https://a.es/x", "https://a.es/fotos/1", "https://xn--and-6ma2c.es/%C3%B1u/1", "https://ñandú.es/otra"]
    source = extracted(tmp_path / "extract", [{"url": url} for url in urls])
    config = RobotsConfig(snapshot=str(form(tmp_path / "snapshot")), agents=["CCBot"], workers=1)
    manifest = robots.run(config, [source], tmp_path / "robots")
    assert verdicts_of(manifest) == ["allowed", "disallowed", "disallowed", "allowed"]
    assert manifest.metrics["snapshot"]["records"] == 3
    assert manifest.metrics["snapshot"]["records_unreadable"] == 0


def test_records_that_cannot_be_understood_are_counted_and_lose_no_neighbour(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", [{"host": "a.es", "content": CLOSED}, {"host": "", "content": ""}, {"host": "b.es", "content": 3}])
    with path.open("a") as stream:
        stream.write('{"host": \n[1]\n{"host": "c.es", "kind": "llms.txt", "content": ""}\n{"host": "d.es", "content": "User-agent: *\\nDisallow: /"}')
    source = extracted(tmp_path / "extract", [{"url": "https://a.es/"}, {"url": "https://d.es/"}])
    manifest = robots.run(RobotsConfig(snapshot=str(path), agents=AGENTS, workers=1), [source], tmp_path / "robots")
    assert verdicts_of(manifest) == ["disallowed", "disallowed"]
    assert manifest.metrics["snapshot"]["records_unreadable"] == 5
    assert manifest.metrics["snapshot"]["hosts"] == {"rules": 2}


def test_a_snapshot_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    data = zstandard.compress("".join(json.dumps({"host": f"h{n}.es", "content": f"User-agent: *\nDisallow: /{n}"}) + "\n" for n in range(9999)).encode())
    (tmp_path / "s.jsonl.zst").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"s\.jsonl\.zst: cannot be read to its end"):
        robots.run(RobotsConfig(snapshot=str(tmp_path / "s.jsonl.zst"), agents=AGENTS, workers=1), [extracted(tmp_path / "extract", [{}])], tmp_path / "robots")


def test_a_parquet_snapshot_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = _parquet(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"robots\.parquet: not a whole Parquet file"):
        robots.run(RobotsConfig(snapshot=str(path), agents=AGENTS, workers=1), [extracted(tmp_path / "extract", [{}])], tmp_path / "robots")


def test_a_huge_file_is_read_to_its_limit_and_its_last_half_rule_is_left_out(tmp_path: Path) -> None:
    content = "User-agent: *\n" + "Disallow: /a\n" * 60_000 + "Disallow: /\n"
    assert verdicts(tmp_path, [{"host": "a.es", "content": content}], ["https://a.es/a", "https://a.es/b"]) == ["disallowed", "allowed"]


LINES = st.sampled_from(
    "User-agent: *|User-agent: GPTBot|user agent: ccbot # mine|User-agent: Google|User-agent: *bot*|useragent|User-agent|User-agent:|Disallow: /|Disallow: /a"
    "|Disallow:|disalow: /b|Allow: /a/b|Allow: /|Disallow: /*?x=|Disallow: /*.pdf$|Crawl-delay: 3|Sitemap: https://a.es/s.xml|Host: a.es|sitemap https://a.es/s"
    "|# Disallow: /|  |Noindex: /|site-map: x|sitemapx: y|hello|Dissallow /b|Request-rate: 1/5|User-agent: magentbot|Content-Signal: search=yes".split("|")
)
FILES = st.lists(LINES, max_size=14).map("\n".join)
PATHS = st.sampled_from(["/", "/a", "/a/b", "/b?x=1", "/c.pdf", "/a/c.pdf?", "/ñ", ""])


@settings(deadline=None)
@given(FILES, PATHS)
@example("User-agent: GPTBot\nSitemap: x\nUser-agent: CCBot\nDisallow: /", "/")
def test_what_is_left_out_of_a_file_changes_no_answer(content: str, path: str) -> None:
    whole, short = Protego.parse(content), Protego.parse(reduced(content))
    for agent in ["*", *AGENTS, "magentbot"]:
        assert whole.can_fetch(f"https://a.es{path}", agent) == short.can_fetch(f"https://a.es{path}", agent)


@settings(deadline=None)
@given(FILES.map(reduced), PATHS)
def test_agents_that_are_not_asked_would_be_refused_what_everyone_is(content: str, path: str) -> None:
    agents = [*AGENTS, "magentbot", "other"]
    parser = Protego.parse(content)
    plain = any(not parser.can_fetch(f"https://a.es{path}", agent) for agent in ["*", *agents])
    rules = RobotsRules(content, agents)
    assert bool([*rules.refusing(f"https://a.es{path}")]) == plain
    assert not (rules.allows_all and plain)


def test_verdicts_are_aligned_with_documents_and_counted_by_language(tmp_path: Path) -> None:
    documents = [{"url": f"https://{'ab'[n % 2]}.es/{n}", "language": ["es", "ca", "eu"][n % 3]} for n in range(25)] + [{"language": "gl"}]
    source = extracted(tmp_path / "extract", documents, per_file=10)
    snapshot = write_jsonl(tmp_path / "s.jsonl", [{"host": "a.es", "content": CLOSED}])
    manifest = robots.run(RobotsConfig(snapshot=str(snapshot), agents=AGENTS, workers=2), [source], tmp_path / "robots")
    assert [path.name for path in manifest.paths("verdicts/")] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [pq.read_metadata(path).num_rows for path in manifest.paths("verdicts/")] == [10, 10, 6]
    assert verdicts_of(manifest) == [["disallowed", "no_file"][n % 2] for n in range(25)] + ["no_url"]
    assert manifest.counts.kept == {"es": 9, "ca": 8, "eu": 8, "gl": 1}
    expected = {"es": {"disallowed": 5, "no_file": 4}, "ca": {"disallowed": 4, "no_file": 4}, "eu": {"disallowed": 4, "no_file": 4}, "gl": {"no_url": 1}}
    assert manifest.metrics["verdicts"] == expected
    assert manifest.metrics["refused_by"] == {"*": 13}
    assert not (tmp_path / "robots" / "lookup").exists()


def test_the_text_is_never_read(tmp_path: Path) -> None:
    source = extracted(tmp_path / "extract", [{"url": "https://a.es/"}])
    path = source.path("documents/00000.parquet")
    size = path.stat().st_size
    table = pq.read_table(path, columns=["url", "language"])
    pq.write_table(table, path)
    source.outputs[:] = [type(output)(output.path, path.stat().st_size, output.sha256, output.rows) for output in source.outputs]
    assert path.stat().st_size < size
    snapshot = write_jsonl(tmp_path / "s.jsonl", [{"host": "a.es", "content": CLOSED}])
    assert verdicts_of(robots.run(RobotsConfig(snapshot=str(snapshot), agents=AGENTS, workers=1), [source], tmp_path / "robots")) == ["disallowed"]


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = extracted(tmp_path / "extract", [{"url": f"https://h{n}.es/"} for n in range(40)], per_file=10)
    (tmp_path / "s").mkdir()
    for part in range(3):
        write_jsonl(tmp_path / "s" / f"{part}.jsonl", [{"host": f"h{n}.es", "content": CLOSED if n % 4 else OPEN} for n in range(part, 40, 3)])
    config = RobotsConfig(snapshot=str(tmp_path / "s"), agents=AGENTS, workers=1)
    whole = robots.run(config, [source], tmp_path / "whole")
    interrupted = robots.run(config, [source], tmp_path / "robots")
    (tmp_path / "robots" / "manifest.json").unlink()
    (tmp_path / "robots" / "verdicts" / "00002.parquet").unlink()
    again = robots.run(config, [source], tmp_path / "robots")
    assert again.content_hash == interrupted.content_hash == whole.content_hash
    assert again.metrics == whole.metrics


def test_a_snapshot_cut_into_other_files_in_another_order_gives_the_same_verdicts(tmp_path: Path) -> None:
    rows = [{"host": f"h{n % 30}.es", "fetched": f"20{10 + n // 30}-01-01", "content": CLOSED if n % 7 else NO_GPT} for n in range(90)]
    source = extracted(tmp_path / "extract", [{"url": f"https://h{n}.es/x"} for n in range(30)])
    found = []
    for name, ordered in (("one", rows), ("two", rows[::-1])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "a.jsonl", ordered[:50])
        write_jsonl(tmp_path / name / "b.jsonl", ordered[50:])
        config = RobotsConfig(snapshot=str(tmp_path / name), agents=["CCBot"], workers=1)
        found.append(robots.run(config, [source], tmp_path / f"robots-{name}").outputs)
    assert found[0] == found[1]


def test_another_snapshot_runs_again_and_the_same_one_elsewhere_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = extracted(tmp_path / "extract", [{"url": "https://a.es/"}])
    snapshot = write_jsonl(tmp_path / "s.jsonl", [{"host": "a.es", "content": CLOSED}])
    robots.run(RobotsConfig(snapshot=str(snapshot), agents=AGENTS, workers=1), [source], tmp_path / "robots")
    (tmp_path / "moved").mkdir()
    moved = snapshot.rename(tmp_path / "moved" / "s.jsonl")
    capsys.readouterr()
    robots.run(RobotsConfig(snapshot=str(moved), agents=AGENTS, workers=1), [source], tmp_path / "robots")
    assert "complete, skipped" in capsys.readouterr().err
    write_jsonl(moved, [{"host": "a.es", "content": OPEN}])
    assert verdicts_of(robots.run(RobotsConfig(snapshot=str(moved), agents=AGENTS, workers=1), [source], tmp_path / "robots")) == ["allowed"]


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"robots\.snapshot: must be given"):
        robots.run(RobotsConfig(snapshot="", agents=AGENTS), [], tmp_path)
    with pytest.raises(ConfigError, match=r"robots\.agents: must be given"):
        robots.run(RobotsConfig(snapshot="x", agents=[]), [], tmp_path)
    with pytest.raises(ConfigError, match=r"robots\.agents\[1\]: 'a:b'"):
        RobotsConfig(snapshot="x", agents=["GPTBot", "a:b"])
    with pytest.raises(ConfigError, match="does not exist"):
        robots.run(RobotsConfig(snapshot=str(tmp_path / "none"), agents=AGENTS), [], tmp_path / "robots")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="known forms"):
        robots.run(RobotsConfig(snapshot=str(tmp_path / "notes.txt"), agents=AGENTS), [], tmp_path / "robots")
    pq.write_table(pa.table({"domain": ["a.es"], "content": [""]}), tmp_path / "s.parquet")
    source = extracted(tmp_path / "extract", [{}])
    with pytest.raises(ConfigError, match="no column 'host' among domain, content"):
        robots.run(RobotsConfig(snapshot=str(tmp_path / "s.parquet"), agents=AGENTS, workers=1), [source], tmp_path / "robots")


@pytest.mark.parametrize("path", sorted((resource_dir("recipes") / "robots").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_agents_are_valid(path: Path) -> None:
    agents = YAML(typ="safe").load(path)["agents"]
    RobotsConfig(snapshot="x", agents=agents)
    assert len(agents) == len(set(agents))
    assert "*" not in agents
