"""The embedded sample through fetch, extraction and curation: every planted defect is dropped for its reason."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iberlm.cli.curate_verb import CurateConfig
from iberlm.cli.verbs import VERBS
from iberlm.core.languages import LANGUAGES, file_safe
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.curate.config import Thresholds
from iberlm.sources.config import CorpusConfig, FetchConfig, SourceConfig
from iberlm.sources.fetch import run as fetch

SAMPLE = Path(__file__).parents[2] / "src/iberlm/sources/sample"
NOT_SENTENCES = {"stop_words", "language", "language_score"}
"""A list of product names has no language: in which of ours, and for which of these, it is dropped is chance."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    corpus = CorpusConfig(name="sample", sources={"sample": SourceConfig(kind="sample", card="iberlm_sample")})
    fetch(FetchConfig(corpus=corpus), [], folder / "fetch")
    limits = {tag: Thresholds(min_mean_word_length=2.5, max_mean_word_length=13, min_alpha_word_ratio=0.6) for tag in LANGUAGES}
    names = {"raw": "fetch", "extracted": "extract", "annotated": "annotate", "clusters": "dedup", "out": "curate"}
    VERBS["curate"].function(CurateConfig(filters=limits, **{key: str(folder / name) for key, name in names.items()}))
    return folder


@pytest.fixture(scope="module")
def curated(run_dir: Path) -> Manifest:
    return read_manifest(run_dir / "curate")


def planted(tag: str) -> list[str]:
    return [json.loads(line)["expected_reason"] for line in (SAMPLE / f"defects.{file_safe(tag)}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_all_documents_are_kept_and_all_defects_dropped_for_their_reason(curated: Manifest) -> None:
    lists = extra = 0
    for tag in LANGUAGES:
        assert curated.counts.kept[tag] == 40
        found = Counter(curated.counts.dropped[tag])
        expected = Counter({"duplicate_lines" if reason == "repetition" else reason: count for reason, count in Counter(planted(tag)).items()})
        lists += expected.pop("stop_words")
        assert expected - found == Counter()
        assert set(found - expected) <= NOT_SENTENCES
        extra += (found - expected).total()
    assert extra == lists


@pytest.mark.parametrize("tag", LANGUAGES)
def test_no_personal_data_of_the_sample_is_left(curated: Manifest, tag: str) -> None:
    texts = "\n".join(text for path in curated.paths("documents/") for text in pq.read_table(path, columns=["text"]).column("text").to_pylist())
    for planted_data in ("12345678Z", "X1234567L", "ES91 2100", "612 34 56 78"):
        assert planted_data not in texts
    assert {"phone", "dni", "nie", "iban"} <= set(curated.metrics["redacted"][tag])
    assert "@example.org" in texts  # a domain that is reserved for examples is nobody's


def test_every_register_and_at_least_thirty_documents_of_150_words_a_language() -> None:
    for tag in LANGUAGES:
        rows = [json.loads(line) for line in (SAMPLE / f"documents.{file_safe(tag)}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert sum(len(row["text"].split()) >= 150 for row in rows) >= 30
        assert {row["register"] for row in rows} == {"administrative", "journalistic", "educational", "literary", "conversational"}


def test_instructions_are_at_least_thirty_a_language_with_one_answer_each() -> None:
    for tag in LANGUAGES:
        rows = [json.loads(line) for line in (SAMPLE / f"instructions.{file_safe(tag)}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len({row["id"] for row in rows}) >= 30
        assert all([message["role"] for message in row["messages"]] == ["user", "assistant"] for row in rows)


def test_documents_of_both_splits_are_disjoint_and_lineage_columns_are_filled(curated: Manifest) -> None:
    seen: set[str] = set()
    for path in curated.paths("documents/"):
        table = pq.read_table(path)
        ids = set(table.column("id").to_pylist())
        assert not ids & seen
        seen |= ids
        assert set(table.column("card").to_pylist()) == {"iberlm_sample"}
        assert set(table.column("licence").to_pylist()) == {"CC0-1.0"}
    assert len(seen) == 200
    assert curated.cards == {"iberlm_sample": "CC0-1.0"}
