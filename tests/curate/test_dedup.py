"""Duplicates found out of core: the same clusters as by dictionaries in memory, whatever is cut how, killed where, or damaged."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.config import StageConfig
from iberlm.core.documents import write_documents
from iberlm.core.errors import ConfigError, CorruptError, ResourceError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate import dedup
from iberlm.curate.dedup import rehydration_weight
from iberlm.curate.dedup.clusters import SCHEMA
from iberlm.curate.dedup.config import DedupConfig
from iberlm.curate.dedup.plan import Plan
from iberlm.curate.dedup.stage import Phases, list_files

BANDS = 3
SPAN = [("start", pa.int32()), ("end", pa.int32())]
ANNOTATIONS = pa.schema(
    [
        ("text_hash", pa.uint64()),
        ("url_hash", pa.uint64()),
        *[(f"band_{band:02d}", pa.uint64()) for band in range(BANDS)],
        ("paragraphs", pa.list_(pa.struct([("hash", pa.uint64()), *SPAN]))),
    ]
)


@dataclass(frozen=True)
class Annotated:
    """What dedup reads of a document."""

    text: int
    url: int | None
    bands: tuple[int, ...]
    paragraphs: tuple[tuple[int, int, int], ...] = field(default=())

    def row(self) -> dict[str, Any]:
        bands = {f"band_{number:02d}": value for number, value in enumerate(self.bands)}
        paragraphs = [{"hash": value, "start": start, "end": end} for value, start, end in self.paragraphs]
        return {"text_hash": self.text, "url_hash": self.url, **bands, "paragraphs": paragraphs}


def annotate(folder: Path, files: Sequence[Sequence[Annotated]], schema: pa.Schema = ANNOTATIONS) -> Manifest:
    """A finished stage `annotate` with these documents."""

    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for number, documents in enumerate(files):
            path = out / "annotations" / f"{number:05d}.parquet"
            table = pa.Table.from_pylist([document.row() for document in documents], schema=schema)
            record.output(path, write_documents(path, [table], schema))
        record.counts.keep("es", sum(map(len, files)))

    return run_stage("annotate", 1, body, StageConfig(), [], folder, fingerprint=repr(files))


def rows(manifest: Manifest) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in manifest.paths("clusters/")]
    assert all(table.schema == SCHEMA for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def fingerprints(manifest: Manifest) -> dict[str, str]:
    return {output.path: sha256_file(manifest.folder / output.path) for output in manifest.outputs}


def reference(documents: Sequence[Annotated], config: DedupConfig) -> list[dict[str, Any]]:
    """The definition, in memory: dictionaries, and clusters by joining sets of documents."""

    def first_with(values: Sequence[Any]) -> list[int]:
        first: dict[Any, int] = {}
        return [number if value is None else first.setdefault(value, number) for number, value in enumerate(values)]

    own = list(range(len(documents)))
    exact = first_with([document.text for document in documents]) if config.exact else own
    url = first_with([document.url for document in documents]) if config.url else own
    links = [exact, *([first_with([document.bands[band] for document in documents]) for band in range(BANDS)] if config.near else [])]
    cluster = list(own)
    while True:
        following = list(cluster)
        for link in links:
            for number in own:
                low = min(following[number], following[link[number]])
                following[number] = following[link[number]] = low
        if following == cluster:
            break
        cluster = following
    sizes = [cluster.count(number) for number in cluster]
    having: dict[int, list[int]] = defaultdict(list)
    for number, document in enumerate(documents):
        if cluster[number] == number:
            for value in {value for value, _, _ in document.paragraphs}:
                having[value].append(number)
    first_of = {value: numbers[0] for value, numbers in having.items() if config.paragraphs and len(numbers) >= config.paragraph_documents}
    boilerplate = [
        [{"start": start, "end": end} for value, start, end in document.paragraphs if first_of.get(value, cluster[number]) != cluster[number]]
        for number, document in enumerate(documents)
    ]
    columns = zip(cluster, sizes, exact, url, boilerplate, strict=True)
    return [dict(zip(SCHEMA.names, row, strict=True)) for row in columns]


# few values, so that they meet; the ends of the range of uint64, and neighbours that differ in one bit
HASHES = st.sampled_from([0, 1, 2, 3, 1 << 32, (1 << 32) + 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 2, (1 << 64) - 1])
PARAGRAPHS = st.lists(HASHES, max_size=4).map(lambda values: tuple((value, 10 * place, 10 * place + 9) for place, value in enumerate(values)))
RARE = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), HASHES)
DOCUMENTS = st.builds(Annotated, text=RARE, url=st.none() | HASHES, bands=st.tuples(*[RARE] * BANDS), paragraphs=PARAGRAPHS)
FILES = st.lists(st.lists(DOCUMENTS, max_size=8), max_size=6)
CONFIGS = st.builds(DedupConfig, url=st.booleans(), exact=st.booleans(), near=st.booleans(), paragraphs=st.booleans(), paragraph_documents=st.integers(2, 4))
PLANS = st.builds(Plan, worker_bytes=st.sampled_from([500, 2000, 1 << 30]), group_documents=st.sampled_from([1, 5, 1000]))


@settings(max_examples=50, deadline=None)
@given(FILES, CONFIGS, PLANS)
def test_clusters_are_those_of_plain_dictionaries_under_any_plan(files: list[list[Annotated]], config: DedupConfig, plan: Plan) -> None:
    with TemporaryDirectory() as folder:
        source = annotate(Path(folder) / "annotate", files)

        def body(config: DedupConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
            Phases(config, list_files(inputs[0]), plan, record, 1).run()

        manifest = run_stage("dedup", 0, body, config, [source], Path(folder) / "dedup", resumable=True)
        expected = reference([document for file in files for document in file], config)
        assert rows(manifest) == expected
        assert [output.rows for output in manifest.outputs] == [len(file) for file in files]
        exact = sum(row["exact_cluster"] != number for number, row in enumerate(expected))
        spans = [span for row in expected for span in row["boilerplate"]]
        assert manifest.metrics["clusters"] == len({row["cluster"] for row in expected})
        assert manifest.metrics["largest_cluster"] == max((row["cluster_size"] for row in expected), default=0)
        assert manifest.metrics["exact_duplicates"] == exact
        assert manifest.metrics["near_duplicates"] == len(expected) - manifest.metrics["clusters"] - exact
        assert manifest.metrics["url_duplicates"] == sum(row["url_cluster"] != number for number, row in enumerate(expected))
        assert manifest.metrics["repeated_paragraphs"]["spans"] == len(spans)
        assert manifest.metrics["repeated_paragraphs"]["characters"] == 9 * len(spans)


def corpus(count: int, per_file: int, seed: int = 1) -> list[list[Annotated]]:
    """Documents of which a third are near duplicates, an eighth exact ones, in files of `per_file`."""
    generator = random.Random(seed)
    documents: list[Annotated] = []
    for number in range(count):
        wide = tuple(generator.getrandbits(64) for _ in range(BANDS + 1))
        paragraphs = tuple((generator.randrange(60), 20 * place, 20 * place + 15) for place in range(generator.randrange(4)))
        document = Annotated(wide[0], generator.choice([None, generator.randrange(count)]), wide[1:], paragraphs)
        if documents and number % 3 == 0:
            other = generator.choice(documents)
            document = Annotated(other.text if number % 8 == 0 else document.text, document.url, (other.bands[0], *document.bands[1:]), other.paragraphs)
        documents.append(document)
    return [documents[start : start + per_file] for start in range(0, count, per_file)]


def test_the_same_bytes_under_any_memory_and_number_of_workers(tmp_path: Path) -> None:
    files = corpus(4000, 700)
    source = annotate(tmp_path / "annotate", files)
    runs = [
        dedup.run(DedupConfig(memory_bytes=memory, workers=workers), [source], tmp_path / f"dedup-{workers}-{memory}")
        for memory, workers in ((1 << 30, 1), (1 << 16, 1), (1 << 18, 2))
    ]
    assert fingerprints(runs[0]) == fingerprints(runs[1]) == fingerprints(runs[2])
    assert len({manifest.key for manifest in runs}) == 1
    assert rows(runs[0]) == reference([document for file in files for document in file], DedupConfig())
    assert not any((manifest.folder / "intermediates").exists() for manifest in runs)
    assert runs[0].counts.kept == {"es": 4000}
    assert {output.path for output in runs[0].outputs} == {f"clusters/{number:05d}.parquet" for number in range(6)}


@pytest.mark.parametrize("files", [[], [[]], [[], []]])
def test_nothing_to_read(tmp_path: Path, files: list[list[Annotated]]) -> None:
    manifest = dedup.run(DedupConfig(), [annotate(tmp_path / "annotate", files)], tmp_path / "dedup")
    assert rows(manifest) == []
    assert len(manifest.outputs) == len(files)
    assert manifest.metrics["documents"] == manifest.metrics["clusters"] == manifest.metrics["largest_cluster"] == 0


def test_one_document(tmp_path: Path) -> None:
    source = annotate(tmp_path / "annotate", [[Annotated(0, None, (0, 0, 0), ((0, 0, 5), (0, 6, 11)))]])
    row = {"cluster": 0, "cluster_size": 1, "exact_cluster": 0, "url_cluster": 0, "boilerplate": []}
    assert rows(dedup.run(DedupConfig(paragraph_documents=2), [source], tmp_path / "dedup")) == [row]


def test_all_equal_documents_are_one_cluster_in_little_memory(tmp_path: Path) -> None:
    """A hash that every document has falls into one range, and must not need memory for each of them."""
    count = 30_000
    source = annotate(tmp_path / "annotate", [[Annotated(7, 7, (7, 7, 7), ((7, 0, 5),))] * (count // 2)] * 2)
    manifest = dedup.run(DedupConfig(memory_bytes=1 << 17, workers=1), [source], tmp_path / "dedup")
    table = pa.concat_tables([pq.read_table(path) for path in manifest.paths("clusters/")])
    assert all(not table.column(name).to_numpy().any() for name in ("cluster", "exact_cluster", "url_cluster"))
    assert table.column("cluster_size").to_numpy().tolist() == [count] * count
    assert manifest.metrics["largest_cluster"] == count
    assert manifest.metrics["repeated_paragraphs"]["spans"] == 0  # copies of one document are no boilerplate


def test_a_paragraph_of_many_documents_is_kept_where_it_comes_first(tmp_path: Path) -> None:
    notice = [Annotated(number, None, (number, number, number), ((99, 0, 20), (number + 100, 21, 40), (99, 41, 61))) for number in range(10)]
    spans = [row["boilerplate"] for row in rows(dedup.run(DedupConfig(), [annotate(tmp_path / "annotate", [notice])], tmp_path / "dedup"))]
    assert spans == [[], *[[{"start": 0, "end": 20}, {"start": 41, "end": 61}]] * 9]
    nine = rows(dedup.run(DedupConfig(), [annotate(tmp_path / "annotate9", [notice[:9]])], tmp_path / "dedup9"))
    assert all(row["boilerplate"] == [] for row in nine)  # `paragraph_documents` is ten


def test_copies_of_a_document_count_once_towards_boilerplate_and_keep_their_text(tmp_path: Path) -> None:
    """Whichever copy `select` keeps, its paragraphs must not be cut because the others, which it drops, have them too."""
    copies = [Annotated(1, None, (1, 1, 1), ((99, 0, 20),))] * 30
    manifest = dedup.run(DedupConfig(paragraph_documents=2), [annotate(tmp_path / "annotate", [copies])], tmp_path / "dedup")
    assert manifest.metrics["repeated_paragraphs"] == {"different": 0, "spans": 0, "characters": 0}
    others = [Annotated(number, None, (number, number, number), ((99, 0, 20),)) for number in (5, 6)]
    spans = [
        row["boilerplate"] for row in rows(dedup.run(DedupConfig(paragraph_documents=2), [annotate(tmp_path / "more", [copies, others])], tmp_path / "two"))
    ]
    assert spans == [[]] * 30 + [[{"start": 0, "end": 20}]] * 2


def test_the_clusters_are_not_found_again_for_another_memory(tmp_path: Path) -> None:
    source = annotate(tmp_path / "annotate", corpus(50, 20))
    first = dedup.run(DedupConfig(), [source], tmp_path / "dedup")
    assert dedup.run(DedupConfig(memory_bytes=1 << 20, workers=1), [source], tmp_path / "dedup").finished == first.finished
    assert dedup.run(DedupConfig(near=False), [source], tmp_path / "dedup").key != first.key


RUNNER = """
import os, signal, sys
from pathlib import Path
from iberlm.core.manifest import read_manifest
from iberlm.curate import dedup
from iberlm.curate.dedup.config import DedupConfig

source, out, event, part, skip, workers = sys.argv[1:]
seen = 0

def kill(name, arguments):
    global seen
    if name == event and part in str(arguments[0 if name == "shutil.rmtree" else 1]):
        seen += 1
        if seen > int(skip):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
dedup.run(DedupConfig(memory_bytes=1 << 17, workers=int(workers)), [read_manifest(Path(source))], Path(out))
"""


def killed(source: Manifest, out: Path, event: str, part: str, skip: int = 0, workers: int = 1) -> None:
    """Run dedup in a process of its own that is killed (-9) when it renames a file to, or deletes, the path with `part` in it."""
    command = [sys.executable, "-c", RUNNER, str(source.folder), str(out), event, part, str(skip), str(workers)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


RENAME, DELETE = "os.rename", "shutil.rmtree"
PLACES = [  # in the order of the phases: one folder goes through all of them
    (RENAME, "intermediates/plan.json", 0, 1),
    (RENAME, "intermediates/pairs/", 1, 1),
    (RENAME, "intermediates/edges/band_00", 0, 1),
    (RENAME, ".shards/edges.band_01", 1, 2),
    (RENAME, "near.sizes", 0, 1),
    (RENAME, "united.json", 0, 1),
    (DELETE, "intermediates/pairs", 0, 1),
    (RENAME, "intermediates/paragraph_pairs/", 2, 1),
    (RENAME, "intermediates/repeated/", 0, 1),
    (DELETE, "intermediates/paragraph_pairs", 0, 1),
    (RENAME, "clusters/00002.parquet", 0, 1),
    (RENAME, "dedup/manifest.json", 0, 1),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A stage of 3,000 annotated documents in five files."""
    return annotate(tmp_path_factory.mktemp("corpus") / "annotate", corpus(3000, 650))


@pytest.fixture(scope="module")
def whole(source: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the clusters of an undisturbed run."""
    return fingerprints(dedup.run(DedupConfig(), [source], tmp_path_factory.mktemp("whole") / "dedup"))


def test_killed_in_every_phase_and_run_again_gives_the_same_bytes(source: Manifest, whole: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "dedup"
    for event, part, skip, workers in PLACES:
        killed(source, out, event, part, skip, workers)
    manifest = dedup.run(DedupConfig(memory_bytes=1 << 17, workers=1), [source], out)
    assert fingerprints(manifest) == whole
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == sorted(
        [".lock", ".stage.json", "manifest.json", *(f"{number:05d}.parquet" for number in range(5))]
    )


def test_killed_with_the_last_deletion_left(source: Manifest, whole: dict[str, str], tmp_path: Path) -> None:
    killed(source, tmp_path / "dedup", DELETE, "dedup/intermediates", 3)
    assert (tmp_path / "dedup" / "manifest.json").exists()
    assert fingerprints(dedup.run(DedupConfig(), [source], tmp_path / "dedup")) == whole
    assert not (tmp_path / "dedup" / "intermediates").exists()


@pytest.mark.parametrize("memory_bytes", [1 << 16, 1 << 30])
def test_killed_and_run_again_with_another_memory(source: Manifest, whole: dict[str, str], tmp_path: Path, memory_bytes: int) -> None:
    killed(source, tmp_path / "dedup", RENAME, "intermediates/edges/band_01", 1)
    assert fingerprints(dedup.run(DedupConfig(memory_bytes=memory_bytes, workers=1), [source], tmp_path / "dedup")) == whole


@pytest.mark.parametrize("part", ["intermediates/edges/band_01", "near.roots", "paragraph_pairs/00001", "clusters/00001"])
def test_damaged_intermediate_files_are_made_again(source: Manifest, whole: dict[str, str], tmp_path: Path, part: str) -> None:
    """Bytes that a power cut or a disk changed, and files that it cut short, after a kill."""
    killed(source, tmp_path / "killed", RENAME, part)
    files = sorted(path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed" / "intermediates").rglob("*") if path.is_file())
    generator = random.Random(part)
    for attempt in range(12):
        out = tmp_path / f"damaged-{attempt}"
        shutil.copytree(tmp_path / "killed", out)
        path = out / generator.choice(files)
        content = bytearray(path.read_bytes())
        if attempt % 4 == 0:
            content = content[: generator.randrange(len(content) + 1)]
        elif content:
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        assert fingerprints(dedup.run(DedupConfig(memory_bytes=1 << 17, workers=1), [source], out)) == whole, path


def test_a_full_disk_is_told_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    source = annotate(tmp_path / "annotate", corpus(20_000, 5000))
    elsewhere = dedup.run(DedupConfig(), [source], tmp_path / "dedup")
    ballast = small_disk / "ballast"
    config = DedupConfig(memory_bytes=1 << 17, workers=1)  # the union's arrays are mapped from a file too
    for free in (100_000, 900_000, 1_500_000, 1_900_000):  # in partition, join and union
        with ballast.open("wb") as stream:
            stream.write(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - free))
        with pytest.raises(ResourceError, match="full"):
            dedup.run(config, [source], small_disk / "dedup")
        ballast.unlink()
        shutil.rmtree(small_disk / "dedup")
    with ballast.open("wb") as stream:
        stream.write(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 1_500_000))
    with pytest.raises(ResourceError, match="full"):
        dedup.run(config, [source], small_disk / "dedup")
    ballast.unlink()
    assert fingerprints(dedup.run(config, [source], small_disk / "dedup")) == fingerprints(elsewhere)


def spoilt(manifest: Manifest) -> Iterator[tuple[str, pa.Table]]:
    """Second files of the stage that are not what they should be, and what is said of them."""
    path = manifest.paths("annotations/")[1]
    table = pq.read_table(path)
    yield "has|no column", table.drop_columns(["band_01"])
    yield "uint64", table.set_column(2, "band_00", pa.array([1.5] * len(table)))
    yield "uint64", table.set_column(0, "text_hash", pa.array(["x"] * len(table)))
    yield "rows", table.slice(1)
    yield "not a list", table.set_column(table.num_columns - 1, "paragraphs", pa.array([[1]] * len(table)))
    yield (
        "nulls",
        table.set_column(
            table.num_columns - 1, "paragraphs", pa.array([[{"hash": None, "start": 0, "end": 1}]] * len(table), ANNOTATIONS.field("paragraphs").type)
        ),
    )


def test_annotations_of_another_schema_are_refused(tmp_path: Path) -> None:
    source = annotate(tmp_path / "annotate", corpus(40, 20))
    path = source.paths("annotations/")[1]
    good = pq.read_table(path)
    for number, (message, table) in enumerate(spoilt(source)):
        pq.write_table(table, path)
        source.outputs[1] = type(source.outputs[1])(source.outputs[1].path, path.stat().st_size, "", len(good))
        with pytest.raises(CorruptError, match=message) as caught:
            dedup.run(DedupConfig(workers=1), [source], tmp_path / f"dedup{number}")
        assert str(path) in str(caught.value)


def test_truncated_annotations_are_refused(tmp_path: Path) -> None:
    source = annotate(tmp_path / "annotate", corpus(40, 20))
    for number, path in enumerate(source.paths("annotations/")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        output = source.outputs[number]
        source.outputs[number] = type(output)(output.path, len(whole) - 100, "", output.rows)
        with pytest.raises(CorruptError, match=path.name):
            dedup.run(DedupConfig(workers=1), [source], tmp_path / f"dedup{number}")
        path.write_bytes(whole)
        source.outputs[number] = output


def test_a_kind_without_its_column_is_refused_unless_it_is_off(tmp_path: Path) -> None:
    schema = pa.schema([("text_hash", pa.uint64())])
    source = annotate(tmp_path / "annotate", corpus(200, 100), schema)
    for setting, column in (("url", "url_hash"), ("near", "band_00"), ("paragraphs", "paragraphs")):
        others = {name: False for name in ("url", "near", "paragraphs") if name != setting}
        with pytest.raises(ConfigError, match=rf"dedup\.{setting}: .*'{column}'"):
            dedup.run(DedupConfig(**others), [source], tmp_path / setting)
    manifest = dedup.run(DedupConfig(url=False, near=False, paragraphs=False), [source], tmp_path / "exact")
    assert manifest.metrics["exact_duplicates"] > 0


def test_too_little_memory_is_told_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dedup\.memory_bytes: .* or more"):
        Plan(1 << 16, 1000).bits(10**12, 48)
    for settings_ in ({"memory_bytes": 1000}, {"paragraph_documents": 1}, {"workers": -1}):
        with pytest.raises(ConfigError, match=f"dedup.{next(iter(settings_))}"):
            DedupConfig(**settings_)


@given(st.integers(1, 10**9), st.integers(1 << 16, 1 << 36))
def test_a_range_of_a_plan_fits_the_memory_of_a_worker(pairs: int, worker_bytes: int) -> None:
    plan = Plan(worker_bytes, 1000)
    try:
        bits = plan.bits(pairs, 48)
    except ConfigError:
        assert pairs * 48 > worker_bytes * 3 // 4 << 16
        return
    assert pairs * 48 / 2**bits <= worker_bytes * 3 / 4
    assert bits == 0 or pairs * 48 / 2 ** (bits - 1) > worker_bytes * 3 // 4
    assert plan.run_pairs * 24 <= worker_bytes
    assert plan.chunk_pairs * 28 <= worker_bytes


def test_rehydration_weights_are_those_of_fineweb2() -> None:
    sizes = np.array([1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**9])
    assert rehydration_weight(sizes).tolist() == [1, 2, 3, 3, 5, 5, 8, 8, 1, 1]
    assert rehydration_weight(np.empty(0, np.int32)).tolist() == []
    with pytest.raises(ValueError, match="at least one document"):
        rehydration_weight(np.array([1, 0]))
