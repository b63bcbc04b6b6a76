"""Fetching: the embedded sample, local files, Debian packages and data sets, each under its card."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from iberlm.core.errors import CardError, ConfigError, DataError, ResourceError
from iberlm.core.manifest import Manifest
from iberlm.core.resources import resource_dir
from iberlm.extract import extract
from iberlm.extract.config import ExtractConfig
from iberlm.sources import fetch
from iberlm.sources.config import CorpusConfig, FetchConfig, SourceConfig

CARD = """schema_version: 1
name: {name}
title: Town notices
description: Notices that a handful of town halls published on their boards between 2020 and 2024, as plain text with a title.
version: 1.0.0
languages: [{{tag: ca, proportion: 1.0, basis: documents}}]
registers: [administrative]
modality: text
source_type: public_dataset
licence: {{spdx: CC0-1.0, url: "https://example.org/cc0", evidence: {{kind: url, ref: "https://example.org", checked_on: 2026-11-01}}}}
tdm: {{status: no_reservation}}
personal_data: {{present: none, special_categories: false}}
pii: {{status: not_needed}}
dates: {{collected_from: 2020-01-01, collected_to: 2024-12-31}}
{files}
splits: [{{name: train, files: [x], documents: 1}}]
quality: {{known_issues: [None known.]}}
permitted_uses: [{use}]
maintainer: {{name: Maria, email: maria@example.org}}
takedown: {{contact: remove@example.org, sla_days: 7}}
"""
DEBIAN = "source: {kind: debian, packages: [town-docs]}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the cards 'town' (for pretraining) and 'quiz' (for evaluation)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IBERLM_CARDS", raising=False)
    folder = tmp_path / "data_cards"
    folder.mkdir()
    (folder / "town.yaml").write_text(CARD.format(name="town", files=DEBIAN, use="pretrain"))
    (folder / "quiz.yaml").write_text(CARD.format(name="quiz", files=DEBIAN, use="eval"))
    return tmp_path


def gather(out: Path, **source: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    config = FetchConfig(corpus=CorpusConfig(name="test", sources={"town": SourceConfig(**{"card": "town", **source})}))
    manifest = fetch.run(config, [], out)
    return manifest, [json.loads(line) for line in manifest.path("files.jsonl").read_text(encoding="utf-8").splitlines()]


def documents(manifest: Manifest, out: Path) -> list[dict[str, Any]]:
    done = extract.run(ExtractConfig(workers=1), [manifest], out)
    return list(pa.concat_tables([pq.read_table(path) for path in done.paths("documents/")]).to_pylist())


def write_texts(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_sample_recipe_fetches_all_languages(tmp_path: Path) -> None:
    recipe = OmegaConf.load(resource_dir("recipes") / "corpus" / "sample.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FetchConfig), {"corpus": recipe}))
    manifest = fetch.run(config, [], tmp_path / "fetch")
    rows = documents(manifest, tmp_path / "extract")
    assert {"es", "ca", "ca-valencia", "eu", "gl"} <= {row["language"] for row in rows}
    assert {row["card"] for row in rows} == {"iberlm_sample"}
    assert manifest.cards == {"iberlm_sample": "CC0-1.0"}
    assert any(row["source"] == "sample/documents.es.jsonl#sample-es-001" for row in rows)
    again = fetch.run(config, [], tmp_path / "fetch")
    assert again.finished == manifest.finished


@pytest.mark.parametrize("name", ["sample", "debian_docs", "path", "huggingface"])
def test_recipe_fits_the_schema(name: str) -> None:
    corpus = OmegaConf.load(resource_dir("recipes") / "corpus" / f"{name}.yaml")
    merged = OmegaConf.merge(OmegaConf.structured(FetchConfig), {"corpus": corpus})
    if name == "path":
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(["corpus.sources.local.path=x", "corpus.sources.local.card=town"]))
    if name == "huggingface":
        changes = ["corpus.sources.hub.dataset=a/b", f"corpus.sources.hub.revision={'a' * 40}", "corpus.sources.hub.card=town"]
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(changes))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, FetchConfig)
    assert config.corpus.name == name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "ftp", "card": "town"}, "kind: unknown value 'ftp'; choose among sample, path, huggingface, debian"),
        ({"kind": "sample"}, "card: must be given"),
        ({"kind": "path", "card": "town"}, "path: must be given"),
        ({"kind": "path", "card": "town", "path": "x", "format": "doc"}, "format: unknown value 'doc'"),
        ({"kind": "path", "card": "town", "path": "x", "language": "val"}, "for Valencian write 'ca-valencia'"),
        ({"kind": "path", "card": "town", "path": "x", "languages": {"*": "cat"}}, "write 'ca'"),
        ({"kind": "sample", "card": "town", "path": "x"}, "path: does not go with kind 'sample'"),
        ({"kind": "debian", "card": "town", "packages": ["x1"], "include": ["*"], "revision": "main"}, "revision: does not go with kind 'debian'"),
        ({"kind": "debian", "card": "town", "packages": ["--root"], "include": ["*"]}, "'--root' is no package"),
        ({"kind": "debian", "card": "town", "packages": ["apt"]}, "include: must be given"),
        ({"kind": "huggingface", "card": "town", "dataset": "a/b", "revision": "main"}, "revision: 'main' is not a commit"),
        ({"kind": "huggingface", "card": "town", "dataset": "./d", "revision": "a" * 40}, "a folder has no revision"),
        ({"kind": "huggingface", "card": "town", "dataset": "./d", "max_documents": -1}, "max_documents"),
    ],
)
def test_wrong_source_is_refused_with_its_key(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CorpusConfig(sources={"mine": SourceConfig(**source)})
    assert str(caught.value).startswith("corpus.sources.mine.")
    assert message in str(caught.value)


def test_corpus_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corpus=sample"):
        fetch.run(FetchConfig(), [], tmp_path / "fetch")


def test_folder_of_mixed_files_is_listed_by_name_and_content(workplace: Path) -> None:
    write_texts(workplace / "data" / "a.jsonl", "un text")
    write_texts(workplace / "data" / "deep" / "b.jsonl.gz", "dos textos")
    write_texts(workplace / "data" / "unnamed", "tres textos")
    (workplace / "data" / "page").write_text("<!DOCTYPE html><html><body><p>una página</p></body></html>")
    (workplace / "data" / "notes.txt").write_text("unes notes")
    (workplace / "data" / ".hidden").write_text("x")
    manifest, entries = gather(workplace / "fetch", kind="path", path="data", language="ca", languages={"deep/*": "ca-valencia"})
    assert [(entry["source"], entry["format"], entry["language"]) for entry in entries] == [
        ("town/a.jsonl", "jsonl", "ca"),
        ("town/deep/b.jsonl.gz", "jsonl", "ca-valencia"),
        ("town/notes.txt", "text", "ca"),
        ("town/page", "html", "ca"),
        ("town/unnamed", "jsonl", "ca"),
    ]
    assert all(entry["card"] == "town" and entry["licence"] == "CC0-1.0" and len(entry["sha256"]) == 64 for entry in entries)
    assert len(documents(manifest, workplace / "extract")) == 5


def test_pattern_selects_and_a_changed_file_is_fetched_again(workplace: Path) -> None:
    path = write_texts(workplace / "data" / "x" / "a.jsonl", "un")
    write_texts(workplace / "data" / "b.txt", "no")
    manifest, entries = gather(workplace / "fetch", kind="path", path="data/**/*.jsonl")
    assert [entry["path"] for entry in entries] == [str(path)]
    write_texts(path, "un", "dos")
    changed, _ = gather(workplace / "fetch", kind="path", path="data/**/*.jsonl")
    assert changed.key != manifest.key


@pytest.mark.parametrize(
    ("path", "message"), [("none/*.jsonl", "matches no file"), ("empty.jsonl", "only empty files"), ("blob.bin", "neither its name nor its content")]
)
def test_unusable_paths_are_errors(workplace: Path, path: str, message: str) -> None:
    (workplace / "empty.jsonl").write_bytes(b"")
    (workplace / "blob.bin").write_bytes(b"\0\1\2\3")
    with pytest.raises(DataError, match=message):
        gather(workplace / "fetch", kind="path", path=path)


def test_eval_only_and_unknown_cards_are_refused(workplace: Path) -> None:
    write_texts(workplace / "a.jsonl", "un")
    with pytest.raises(CardError, match="does not permit 'pretrain'"):
        gather(workplace / "fetch", kind="path", path="a.jsonl", card="quiz")
    with pytest.raises(CardError, match="did you mean town"):
        gather(workplace / "fetch", kind="path", path="a.jsonl", card="towns")


def test_file_that_differs_from_its_card_is_refused(workplace: Path) -> None:
    path = write_texts(workplace / "a.jsonl", "un")
    files = f"files: [{{path: a.jsonl, sha256: '{'0' * 64}', bytes: {path.stat().st_size}}}]"
    (workplace / "data_cards" / "town.yaml").write_text(CARD.format(name="town", files=files, use="pretrain"))
    with pytest.raises(CardError, match="says 0000"):
        gather(workplace / "fetch", kind="path", path="a.jsonl")


def build_deb(folder: Path) -> Path:
    """A real package with help pages in two languages, a picture, a link and a copyright file."""
    root = folder / "town-docs"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: town-docs\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: Maria <maria@example.org>\nDescription: town\n"
    )
    pages = {"ca": "La plaça obri a les huit del matí.", "gl": "A praza abre ás oito da mañá."}
    for language, text in pages.items():
        path = root / "usr/share/town" / language / "index.html"
        path.parent.mkdir(parents=True)
        path.write_text(f"<html><body><p>{text}</p></body></html>", encoding="utf-8")
    (root / "usr/share/town/ca/picture.png").write_bytes(b"\x89PNG")
    (root / "usr/share/town/ca/link.html").symlink_to("/etc/passwd")
    (root / "usr/share/doc/town-docs").mkdir(parents=True)
    (root / "usr/share/doc/town-docs/copyright").write_text("License: CC0-1.0\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(folder / "town-docs.deb")], check=True, capture_output=True)
    return folder / "town-docs.deb"


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


@needs_dpkg
def test_debian_package_is_unpacked_in_part_with_its_evidence(workplace: Path) -> None:
    build_deb(workplace)
    manifest, entries = gather(
        workplace / "fetch", kind="debian", packages=["./town-docs.deb"], include=["usr/share/town/*.html"], languages={"*/ca/*": "ca-valencia", "*/gl/*": "gl"}
    )
    assert [(entry["source"], entry["language"]) for entry in entries] == [
        ("town/town-docs=1:2.0-3/usr/share/town/ca/index.html", "ca-valencia"),
        ("town/town-docs=1:2.0-3/usr/share/town/gl/index.html", "gl"),
    ]
    assert (manifest.folder / "raw/town/town-docs/copyright").is_file()
    assert not (manifest.folder / "raw/town/town-docs/usr/share/town/ca/picture.png").exists()
    assert not (manifest.folder / "raw/town/town-docs/usr/share/town/ca/link.html").is_symlink()
    assert {row["text"] for row in documents(manifest, workplace / "extract")} == {"La plaça obri a les huit del matí.", "A praza abre ás oito da mañá."}
    shutil.copytree(manifest.folder, workplace / "moved")  # the folder can be carried to a machine without apt
    assert all(not Path(entry["path"]).is_absolute() for entry in entries)


@needs_dpkg
def test_debian_errors_say_what_to_do(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = build_deb(workplace)
    with pytest.raises(DataError, match=r"nothing in town-docs 1:2.0-3 matches"):
        gather(workplace / "fetch", kind="debian", packages=["./town-docs.deb"], include=["*.pdf"])
    with pytest.raises(DataError, match="no package file"):
        gather(workplace / "fetch", kind="debian", packages=["./none.deb"], include=["*"])
    package.write_bytes(package.read_bytes()[:200])
    with pytest.raises(ResourceError, match="damaged"):
        gather(workplace / "fetch", kind="debian", packages=["./town-docs.deb"], include=["*"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="'apt-get' is missing"):
        gather(workplace / "fetch", kind="debian", packages=["town-docs"], include=["*"])


def test_local_dataset_is_streamed_into_parquet(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_texts(workplace / "set" / "train.jsonl", *(f"text número {number}" for number in range(2500)))
    manifest, entries = gather(workplace / "fetch", kind="huggingface", dataset="./set", language="ca", max_documents=1700)
    assert [entry["format"] for entry in entries] == ["parquet"]
    rows = documents(manifest, workplace / "extract")
    assert len(rows) == 1700
    assert rows[-1]["text"] == "text número 1699"
    assert rows[0]["language"] == "ca"
    with pytest.raises(DataError, match=r"'body' is no column of './set', which has id, text"):
        gather(workplace / "other", kind="huggingface", dataset="./set", text_field="body")
    with pytest.raises(DataError, match=r"'./none' does not exist|matches no file"):
        gather(workplace / "third", kind="huggingface", dataset="./none")


def test_dataset_card_of_another_revision_is_refused(workplace: Path) -> None:
    source = f"source: {{kind: huggingface, dataset: a/b, revision: {'a' * 40}}}"
    (workplace / "data_cards" / "town.yaml").write_text(CARD.format(name="town", files=source, use="pretrain"))
    with pytest.raises(CardError, match="use that one"):
        gather(workplace / "fetch", kind="huggingface", dataset="a/b", revision="b" * 40)
    with pytest.raises(CardError, match="describes 'a/b'"):
        gather(workplace / "fetch", kind="huggingface", dataset="a/c", revision="a" * 40)


@needs_dpkg
def test_package_that_the_card_does_not_cover_is_refused(workplace: Path) -> None:
    build_deb(workplace)
    (workplace / "data_cards" / "town.yaml").write_text(CARD.format(name="town", files="source: {kind: debian, packages: [other-docs]}", use="pretrain"))
    with pytest.raises(CardError, match="does not cover the package 'town-docs'"):
        gather(workplace / "fetch", kind="debian", packages=["./town-docs.deb"], include=["*.html"])


@needs_dpkg
def test_fetch_goes_on_after_the_sources_that_were_complete(workplace: Path) -> None:
    build_deb(workplace)
    good = SourceConfig(kind="debian", card="town", packages=["./town-docs.deb"], include=["*.html"])
    config = FetchConfig(corpus=CorpusConfig(sources={"a": good, "b": SourceConfig(kind="huggingface", card="town", dataset="./set")}))
    (workplace / "set").mkdir()
    (workplace / "set" / "train.jsonl").write_bytes(b"{")
    with pytest.raises(DataError, match="cannot be read as a data set"):
        fetch.run(config, [], workplace / "fetch")
    page = workplace / "fetch/raw/a/town-docs/usr/share/town/gl/index.html"
    first = page.stat().st_mtime_ns
    with pytest.raises(DataError, match="cannot be read as a data set"):
        fetch.run(config, [], workplace / "fetch")
    assert page.stat().st_mtime_ns == first
