"""Annotate, dedup and select on documents files, as the command runs them."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.errors import DataError
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate import annotate, dedup, select
from iberlm.curate.config import AnnotateConfig, DedupConfig, SelectConfig, Thresholds
from tests.curate.test_langid import TEXTS

LIMITS = {tag: Thresholds(min_words=10, max_new_line_ratio=1) for tag in ("es", "ca", "ca-valencia", "eu", "gl")}


def document(number: int, text: str, language: str) -> dict[str, Any]:
    return {"id": f"{number:016x}", "text": text, "language": language, "source": f"{number}.txt", "card": "mine", "licence": "CC0-1.0"}


def extracted(folder: Path, documents: list[dict[str, Any]], per_file: int = 1000) -> Manifest:
    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for start in range(0, len(documents), per_file) or (0,):
            path = out / "documents" / f"{start:05d}.parquet"
            record.output(path, write_documents(path, batches_of(documents[start : start + per_file])))

    return run_stage("extract", 1, body, StageConfig(), [], folder, fingerprint=[document["id"] for document in documents])


def line(folder: Path, documents: list[dict[str, Any]], per_file: int = 1000, **settings: Any) -> Manifest:
    source = extracted(folder / "extract", documents, per_file)
    annotated = annotate.run(AnnotateConfig(workers=1), [source], folder / "annotate")
    clusters = dedup.run(DedupConfig(), [annotated], folder / "dedup")
    config = SelectConfig(**({"languages": ["es"], "filters": LIMITS, "min_validation_documents": 0, "validation_share": 0.0} | settings))
    return select.run(config, [annotated, clusters], folder / "curate")


NOUNS = "río puente molino huerta plaza iglesia camino monte pueblo barco puerto jardín tren libro maestra vecino mercado fuente bosque taller".split()
VERBS = "cruza recuerda espera mira cuida pinta busca rodea visita abandona celebra escucha prepara reparte encuentra guarda".split()
ADJECTIVES = "viejo tranquilo pequeño oscuro hermoso vacío lejano alegre húmedo estrecho famoso sencillo antiguo soleado".split()
TAILS = "desde ayer,por la tarde,sin prisa,cuando llueve,como siempre,para su familia,con mucho cuidado,en silencio,a pesar del frío,antes de la cena".split(
    ","
)


def sentences(seed: int, count: int = 12) -> str:
    """Spanish sentences, others for each seed."""
    generator = random.Random(seed)
    pick = generator.choice
    return " ".join(f"El {pick(NOUNS)} {pick(ADJECTIVES)} {pick(VERBS)} un {pick(NOUNS)} {pick(ADJECTIVES)} {pick(TAILS)}." for _ in range(count))


def test_every_document_is_kept_or_counted_under_a_reason(tmp_path: Path) -> None:
    documents = [
        document(0, sentences(1), "es"),
        document(1, sentences(1), "es"),
        document(2, sentences(1).replace(".", " ya.", 1), "es"),
        document(3, "Demasiado corto es este.", "es"),
        document(4, TEXTS["fr"], "es"),
        document(5, "\n".join(["Compre ahora la mejor oferta de la semana en su tienda."] * 20), "es"),
        document(6, sentences(2), "es"),
    ]
    manifest = line(tmp_path, documents)
    assert manifest.counts.kept == {"es": 2}
    assert manifest.counts.dropped == {"es": {"duplicate": 1, "near_duplicate": 1, "too_short": 1, "language": 1, "duplicate_lines": 1}}
    assert manifest.counts.read == len(documents)


def test_the_kept_document_of_a_cluster_is_the_longest_that_passes_the_rules(tmp_path: Path) -> None:
    longest = sentences(1) + " Y una frase más, que la otra copia no tiene."
    manifest = line(tmp_path, [document(0, sentences(1), "es"), document(1, longest, "es")])
    table = pq.read_table(manifest.path("documents/train.es.parquet"))
    assert table.column("id").to_pylist() == [f"{1:016x}"]
    limits = {"es": Thresholds(min_words=10, max_words=len(sentences(1).split()) + 3, max_new_line_ratio=1)}
    again = line(tmp_path, [document(0, sentences(1), "es"), document(1, longest, "es")], filters=limits)
    assert again.counts.dropped == {"es": {"too_long": 1}}
    assert again.counts.kept == {"es": 1}


def test_valencian_made_from_catalan_is_no_duplicate_of_it(tmp_path: Path) -> None:
    nouns = "riu pont molí carrer església camí poble vaixell port jardí tren llibre mercat bosc taller".split()
    verbs = "travessa recorda espera mira cuida pinta busca visita celebra escolta prepara troba guarda".split()
    generator = random.Random(3)
    words = [*nouns, *verbs, *"el la un amb els per que molt sempre sota vell gran bonic trist lluny ara llavors ningú gairebé encara també".split()]
    body = ". ".join(" ".join(generator.choices(words, k=7)) for _ in range(40)) + "."
    documents = [document(0, f"{body} Aquest és el seu nen, avui.", "ca"), document(1, f"{body} Este és el seu xiquet, hui.", "ca-valencia")]
    manifest = line(tmp_path, documents, languages=["ca", "ca-valencia"])
    assert manifest.counts.kept == {"ca": 1, "ca-valencia": 1}
    both_catalan = [documents[0], document(2, documents[0]["text"].replace("avui", "ara"), "ca")]
    assert line(tmp_path / "catalan", both_catalan, languages=["ca"]).counts.dropped == {"ca": {"near_duplicate": 1}}


def test_personal_data_is_redacted_and_counted(tmp_path: Path) -> None:
    manifest = line(tmp_path, [document(0, sentences(1) + " Escriba a ana@example.org o llame al 612 34 56 78.", "es")])
    text = pq.read_table(manifest.path("documents/train.es.parquet")).column("text")[0].as_py()
    assert "<EMAIL>" in text
    assert "<PHONE>" in text
    assert manifest.metrics["redacted"] == {"es": {"email": 1, "phone": 1}}
    kept = line(tmp_path, [document(0, sentences(1) + " Escriba a ana@example.org o llame al 612 34 56 78.", "es")], redact=["email"])
    assert "612 34 56 78" in pq.read_table(kept.path("documents/train.es.parquet")).column("text")[0].as_py()


def test_a_new_threshold_runs_select_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [document(n, sentences(n), "es") for n in range(5)]
    line(tmp_path, documents)
    capsys.readouterr()
    line(tmp_path, documents, filters={"es": Thresholds(min_words=11, max_new_line_ratio=1)})
    said = capsys.readouterr().err
    assert "annotate: complete, skipped" in said
    assert "dedup: complete, skipped" in said
    assert "select: start" in said


def test_the_split_does_not_depend_on_order_or_files_and_a_document_keeps_its_side(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(40)]
    one = line(tmp_path / "one", documents, validation_share=0.2)
    other = line(tmp_path / "other", [*documents[::-1], document(99, sentences(99), "es")], per_file=7, validation_share=0.2)

    def sides(manifest: Manifest) -> Mapping[str, set[str]]:
        return {side: set(pq.read_table(manifest.path(f"documents/{side}.es.parquet")).column("id").to_pylist()) for side in ("train", "validation")}

    assert sides(one)["validation"] <= sides(other)["validation"]
    assert sides(one)["train"] <= sides(other)["train"]
    assert 1 <= len(sides(one)["validation"]) < 20
    assert not sides(one)["train"] & sides(one)["validation"]


def test_a_language_without_documents_is_told_with_its_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gl: no document left \(too_short 1\).*select\.languages"):
        line(tmp_path, [document(0, sentences(1), "es"), document(1, "Vai moi curto este texto galego aquí.", "gl")], languages=["es", "gl"])
    assert not (tmp_path / "curate" / "manifest.json").exists()


def test_no_documents_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none to begin with"):
        line(tmp_path, [])


def test_samples_for_the_report_are_redacted(tmp_path: Path) -> None:
    manifest = line(tmp_path, [document(0, sentences(1), "es"), document(1, "Corto: ana@example.org", "es")])
    samples = manifest.path("samples.json").read_text(encoding="utf-8")
    assert "ana@example.org" not in samples
    assert "<EMAIL>" in samples


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(20)]
    one = line(tmp_path / "one", documents, per_file=3)
    other = line(tmp_path / "other", documents, per_file=3)
    assert [output.sha256 for output in one.outputs] == [output.sha256 for output in other.outputs]
