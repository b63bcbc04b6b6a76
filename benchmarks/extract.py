"""How fast pages and records become documents on one core, beside the engines alone.

    python benchmarks/extract.py PATH [--pages 2000] [--megabytes 60] [--runs 5]

PATH is a folder of .html files, or a file of JSON lines with a `text` (plain, .gz or .zst) or a folder of such files. HTML pages are put into a
web archive as they are; texts are first set into pages with a head, a navigation, a side column and a footer. Times are CPU seconds of this
process, pinned to one core, so that other work on the machine disturbs them less; medians of the runs.
"""

import argparse
import gzip
import html
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PINNED = {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
VERSIONS = ("iberlm", "fastwarc", "resiliparse", "trafilatura", "orjson", "pyarrow", "ftfy", "mwparserfromhell")


def files_of(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files with one of the endings, sorted."""
    found = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    return [entry for entry in found if entry.name.endswith(endings)]


def texts_of(path: Path) -> Iterator[dict[str, str]]:
    """Records of all JSON lines below `path`, a line of each file in turn, so that the first thousand are a mixture."""
    from iberlm.extract.streams import blocks, lines

    sources = [lines(blocks(file, 1e9), 16 << 20) for file in files_of(path, (".jsonl", ".jsonl.gz", ".jsonl.zst"))]
    while sources:
        for source in list(sources):
            line = next(source, None)
            if line is None:
                sources.remove(source)
            elif line.strip() and isinstance((record := json.loads(line)).get("text"), str):
                yield record


def as_page(record: dict[str, str], number: int) -> bytes:
    """A text as a page of an ordinary site: about a third of the bytes are text."""
    links = "".join(f'<li class="menu-item menu-item-{n}"><a href="/section/{n}/index.html" title="Section {n}">Section {n}</a></li>' for n in range(60))
    cards = "".join(f'<div class="card"><a href="/{number + n}"><img src="/img/{n}.jpg" alt="" width="90"><h4>Item {n}</h4></a></div>' for n in range(30))
    paragraphs = "".join(f'<p class="text">{html.escape(line)}</p>\n' for line in record["text"].replace("\0", "").split("\n") if line.strip())
    head = f'<meta charset="utf-8"><meta name="robots" content="index,follow"><title>Page {number}</title><script>var page = {{"id": {number}}};</script>'
    body = f"<header><nav><ul>{links}</ul></nav></header><main><article><h1>Page {number}</h1>{paragraphs}</article></main><aside>{cards}</aside>"
    page = (
        f'<!DOCTYPE html><html lang="{record.get("language", "")}"><head>{head}</head><body>{body}<footer><p>Footer</p><ul>{links}</ul></footer></body></html>'
    )
    return page.encode("utf-8", errors="replace")


def warc_record(page: bytes, number: int) -> bytes:
    """A response record, packed as a member of its own."""
    response = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/{number}\r\nWARC-Date: 2024-05-01T10:00:00Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\nContent-Type: application/http; msgtype=response\r\n"
    return gzip.compress(f"{head}Content-Length: {len(response)}\r\n\r\n".encode() + response + b"\r\n\r\n", 6)


def make(path: Path, folder: Path, pages: int, megabytes: float) -> None:
    """Write pages.warc.gz, and texts.jsonl, texts.jsonl.zst and texts.parquet when PATH has texts, into `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    sources = files_of(path, (".html", ".htm"))
    with (folder / "pages.warc.gz").open("wb") as archive:
        if sources:
            for number, source in enumerate(sources[:pages]):
                archive.write(warc_record(source.read_bytes(), number))
            return
        records, size = [], 0
        for number, record in enumerate(texts_of(path)):
            if number < pages:
                archive.write(warc_record(as_page(record, number), number))
            line = json.dumps({key: record[key] for key in ("id", "text", "language") if key in record}, ensure_ascii=False).encode() + b"\n"
            if number >= pages and size >= megabytes * 1e6:
                break
            records.append(line)
            size += len(line)
    data = b"".join(records)
    (folder / "texts.jsonl").write_bytes(data)
    (folder / "texts.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(data))
    rows = [json.loads(line) for line in records]
    columns = {key: [row.get(key) for row in rows] for key in ("id", "text", "language")}
    pq.write_table(pa.table(columns), folder / "texts.parquet", compression="zstd")


def ours(path: Path, form: str, engine: str = "resiliparse") -> Callable[[], int]:
    """The extraction of one file to a documents file, as a shard of the stage does it; gives the documents."""
    from iberlm.extract.config import ExtractConfig
    from iberlm.extract.extract import RawFile, Shard, extract_shard

    file = RawFile(str(path), form, None, "card", "CC0-1.0", f"benchmark/{path.name}", None, None, "text", "id", path.stat().st_size)

    def run() -> int:
        return sum(extract_shard(Shard(0, [file], ExtractConfig(html_engine=engine)), path.parent / "out").counts.kept.values())

    return run


def alone(path: Path, extract: Callable[[bytes], object]) -> Callable[[], int]:
    """FastWARC and an engine, with nothing around them: no rights, no normalisation, no output."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def run() -> int:
        found = 0
        for record in ArchiveIterator(str(path), record_types=WarcRecordType.response):
            extract(record.reader.read())
            found += 1
        return found

    return run


def by_resiliparse(page: bytes) -> object:
    """Main content by resiliparse."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(page, detect_encoding(page, from_html_meta=True) or "utf-8")
    return extract_plain_text(tree, preserve_formatting=True, main_content=True, list_bullets=False, alt_texts=False)


def by_trafilatura(page: bytes) -> object:
    """Main content by trafilatura."""
    import trafilatura

    return trafilatura.extract(page, include_comments=False)


def normalise(path: Path) -> Callable[[], int]:
    """Normalisation alone, of texts that have been normalised already."""
    from iberlm.extract.config import NormaliseConfig
    from iberlm.extract.normalise import Normaliser

    normaliser = Normaliser(NormaliseConfig())
    texts = [normaliser(json.loads(line)["text"].replace("\0", ""))[0] for line in path.read_bytes().splitlines()]
    return lambda: sum(len(normaliser(text)[1]) for text in texts)


def measure(name: str, run: Callable[[], int], runs: int, megabytes: float | None = None) -> None:
    """Print the median of `runs` after one that does not count; megabytes a second when they are given, else pages."""
    seconds, found = [], run()
    for _ in range(runs):
        started = time.process_time()
        found = run()
        seconds.append(time.process_time() - started)
    amount, unit = (megabytes, "MB/s") if megabytes is not None else (found, "pages/s")
    rates = sorted(amount / second for second in seconds)
    print(f"{name:<52} {statistics.median(rates):>8,.0f} {unit:<8} (best {rates[-1]:,.0f})", flush=True)


def peak_megabytes(path: Path, form: str) -> float:
    """Peak resident memory of a process that extracts one file, in MB."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import extract; extract.report_peak({str(path)!r}, {form!r})"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | PINNED).stdout.split()[-1])


def report_peak(path: str, form: str) -> None:
    """Extract in this process and print its peak memory in MB."""
    ours(Path(path), form)()
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would give the peak of the process that started this one, when that was larger
        print(next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e3)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def machine() -> str:
    """Processor, core and versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), cpu)
    installed = []
    for name in VERSIONS:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            installed.append(f"{name} not installed")
    return f"{cpu}, one core, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}; {', '.join(installed)}"


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--pages", type=int, default=2000, help="pages of the web archive")
    parser.add_argument("--megabytes", type=float, default=60, help="size of the JSON lines")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    import orjson

    os.environ.update(PINNED)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(options.path, folder, options.pages, options.megabytes)
        archive, lines = folder / "pages.warc.gz", folder / "texts.jsonl"
        print(f"web archive: {archive.stat().st_size / 1e6:.1f} MB packed")
        measure("FastWARC alone: unpack every record", alone(archive, len), options.runs)
        measure("FastWARC and resiliparse alone: the limit", alone(archive, by_resiliparse), options.runs)
        measure("IberLM: WARC to documents, resiliparse", ours(archive, "warc"), options.runs)
        if importlib.util.find_spec("trafilatura"):
            measure("FastWARC and trafilatura alone", alone(archive, by_trafilatura), 1)
            measure("IberLM: WARC to documents, trafilatura", ours(archive, "warc", "trafilatura"), 1)
        if lines.exists():
            size = lines.stat().st_size / 1e6
            print(f"JSON lines: {size:.1f} MB")
            measure("orjson alone: parse every line", lambda: sum(len(orjson.loads(line)) for line in lines.open("rb")), options.runs, size)
            measure("IberLM: JSONL to documents", ours(lines, "jsonl"), options.runs, size)
            measure("IberLM: JSONL (zstd) to documents", ours(folder / "texts.jsonl.zst", "jsonl"), options.runs, size)
            measure("IberLM: Parquet to documents", ours(folder / "texts.parquet", "parquet"), options.runs, size)
            measure("normalisation of clean text, alone", normalise(lines), options.runs, size)
        for times in (1, 4, 16):
            grown = folder / f"{times}.warc.gz"
            grown.write_bytes(archive.read_bytes() * times)
            print(f"peak memory, archive of {grown.stat().st_size / 1e6:>8.1f} MB packed {peak_megabytes(grown, 'warc'):>18,.0f} MB")
            grown.unlink()


if __name__ == "__main__":
    main()
