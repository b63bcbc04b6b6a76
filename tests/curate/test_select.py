"""Annotate, dedup and select on documents files, as the command runs them, with what other stages write beside."""

import itertools
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate import annotate, dedup, pii, robots, select
from iberlm.curate.config import AnnotateConfig, SelectConfig, Thresholds
from iberlm.curate.dedup.config import DedupConfig
from iberlm.curate.robots import RobotsConfig
from iberlm.curate.selection import write
from iberlm.curate.spans import as_lists, covered, flatten, joined

FRENCH = "Le conseil municipal a approuvé hier le budget de l'année prochaine, qui prévoit une nouvelle bibliothèque dans le quartier de la gare."
REPETITION = [*(f"max_top_{n}_gram_ratio" for n in (2, 3, 4)), *(f"max_duplicate_{n}_gram_ratio" for n in range(5, 11))]
LOOSE: dict[str, Any] = {"min_words": 10, "max_new_line_ratio": 1} | dict.fromkeys(REPETITION, 1.0)
"""The sentences below are made of few words: they repeat more than real text."""
UNMARKED = """La biblioteca municipal obrirà a les nou del matí i tancarà a les vuit del vespre durant tot el curs. El llac queda prop del poble,
entre dos turons coberts de pins, i el camí que hi porta travessa un pont de pedra molt antic. Els diumenges la plaça s'omple de gent que compra
fruita, pa i formatge, i la banda toca davant de l'església fins a migdia. El metge recomana caminar cada dia, dormir bé i beure aigua. La collita
de raïm ha estat bona malgrat la calor, i els pagesos confien que el vi tindrà un bon preu. La mestra explica la lliçó amb un mapa de la costa,
i després tots dibuixen un vaixell amb tres pals. El tren arriba amb retard perquè una branca ha caigut sobre la via. L'ajuntament ha publicat
les bases del concurs de contes, i qualsevol persona major d'edat hi pot participar. La pluja no para i el riu creix, però el pont aguanta."""
"""Catalan without a mark of either variety."""
KIND = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
LIMITS = {tag: Thresholds(**LOOSE) for tag in ("es", "ca", "ca-valencia", "eu", "gl")}


def document(number: int, text: str, language: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{number:016x}", "text": text, "language": language, "source": f"{number}.txt", "card": "mine", "licence": "CC0-1.0"} | more


def extracted(folder: Path, documents: list[dict[str, Any]], per_file: int = 1000) -> Manifest:
    def body(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        for start in range(0, len(documents), per_file) or (0,):
            path = out / "documents" / f"{start:05d}.parquet"
            record.output(path, write_documents(path, batches_of(documents[start : start + per_file])))

    return run_stage("extract", 1, body, StageConfig(), [], folder, fingerprint=documents)


def line(folder: Path, documents: list[dict[str, Any]], per_file: int = 1000, snapshot: Path | None = None, **settings: Any) -> Manifest:
    source = extracted(folder / "extract", documents, per_file)
    annotated = annotate.run(AnnotateConfig(workers=1), [source], folder / "annotate")
    inputs = [source, annotated, dedup.run(DedupConfig(workers=1, paragraph_documents=3), [annotated], folder / "dedup")]
    if snapshot is not None:
        inputs.append(robots.run(RobotsConfig(snapshot=str(snapshot), agents=["GPTBot"], workers=1), [source], folder / "robots"))
    defaults = {"languages": ["es"], "filters": LIMITS, "min_validation_documents": 0, "validation_share": 0.0, "workers": 1, "min_characters_left": 40}
    return select.run(SelectConfig(**(defaults | settings)), inputs, folder / "curate")


def kept(manifest: Manifest, side: str = "train") -> list[dict[str, Any]]:
    """Rows of the curated documents of a side, in their order."""
    return [row for path in manifest.paths(f"documents/{side}.", ".parquet") for row in pq.read_table(path).to_pylist()]


def verdicts(manifest: Manifest) -> list[str]:
    """Reason of every document, '' for those that are kept, in the order of the documents."""
    return [reason for path in manifest.paths("verdicts/", ".parquet") for reason in pq.read_table(path).column("reason").to_pylist()]


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
        document(4, FRENCH, "es"),
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
    assert [row["id"] for row in kept(manifest)] == [f"{1:016x}"]
    limits = {"es": Thresholds(**LOOSE, max_words=len(sentences(1).split()) + 3)}
    again = line(tmp_path, [document(0, sentences(1), "es"), document(1, longest, "es")], filters=limits)
    assert again.counts.dropped == {"es": {"too_long": 1}}
    assert again.counts.kept == {"es": 1}


def test_valencian_made_from_catalan_is_no_duplicate_of_it(tmp_path: Path) -> None:
    catalan = f"Aquest nen no veu la seva mare avui. {UNMARKED} Aquesta nena tampoc: han de sortir."
    valencian = f"Este xiquet no veu la seua mare hui. {UNMARKED} Esta xiqueta tampoc: han d'eixir."
    documents = [document(0, catalan, "ca"), document(1, valencian, "ca-valencia")]
    manifest = line(tmp_path, documents, languages=["ca", "ca-valencia"])
    assert manifest.counts.kept == {"ca": 1, "ca-valencia": 1}
    both_catalan = [documents[0], document(2, catalan.replace("avui", "ara"), "ca")]
    assert line(tmp_path / "catalan", both_catalan, languages=["ca"]).counts.dropped == {"ca": {"near_duplicate": 1}}


def test_personal_data_is_redacted_and_counted(tmp_path: Path) -> None:
    manifest = line(tmp_path, [document(0, sentences(1) + " Escriba a ana@correo.es o llame al 612 34 56 78.", "es")])
    text = kept(manifest)[0]["text"]
    assert "<EMAIL>" in text
    assert "<PHONE>" in text
    assert manifest.metrics["redacted"] == {"es": {"email": 1, "phone": 1}}
    again = line(tmp_path, [document(0, sentences(1) + " Escriba a ana@correo.es o llame al 612 34 56 78.", "es")], redact={"email": "tag"})
    assert "612 34 56 78" in kept(again)[0]["text"]


def test_a_new_threshold_runs_select_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [document(n, sentences(n), "es") for n in range(5)]
    line(tmp_path, documents)
    capsys.readouterr()
    line(tmp_path, documents, filters={"es": Thresholds(**LOOSE | {"min_words": 11})})
    said = capsys.readouterr().err
    assert "annotate: complete, skipped" in said
    assert "dedup: complete, skipped" in said
    assert "select: start" in said


def test_the_split_does_not_depend_on_order_or_files_and_a_document_keeps_its_side(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(40)]
    one = line(tmp_path / "one", documents, validation_share=0.2)
    other = line(tmp_path / "other", [*documents[::-1], document(99, sentences(99), "es")], per_file=7, validation_share=0.2)

    def sides(manifest: Manifest) -> Mapping[str, set[str]]:
        return {side: {row["id"] for row in kept(manifest, side)} for side in ("train", "validation")}

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
    manifest = line(tmp_path, [document(0, sentences(1), "es"), document(1, "Corto: ana@correo.es", "es")])
    samples = manifest.path("samples.json").read_text(encoding="utf-8")
    assert "ana@correo.es" not in samples
    assert "<EMAIL>" in samples


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(20)]
    one = line(tmp_path / "one", documents, per_file=3)
    other = line(tmp_path / "other", documents, per_file=3)
    assert [output.sha256 for output in one.outputs] == [output.sha256 for output in other.outputs]


def test_the_files_of_many_shards_are_few_and_hold_the_same_documents_in_the_same_order(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(30)]
    few = line(tmp_path / "few", documents, per_file=4, validation_share=0.2)
    many = line(tmp_path / "many", documents, per_file=4, validation_share=0.2, file_bytes=4000)
    assert len(few.paths("documents/train.es.")) == 1
    assert len(many.paths("documents/train.es.")) > 3
    for side in ("train", "validation"):
        assert kept(few, side) == kept(many, side)
        assert len(few.paths(f"documents/{side}.es.")) == 1 or side == "train"


def test_every_worker_count_gives_the_same_bytes(tmp_path: Path) -> None:
    documents = [document(n, sentences(n // 2), "es", licence="CC-BY-4.0" if n % 3 else "CC0-1.0") for n in range(40)]
    one = line(tmp_path / "one", documents, per_file=7)
    two = line(tmp_path / "two", documents, per_file=7, workers=2)
    assert [(output.path, output.sha256) for output in one.outputs] == [(output.path, output.sha256) for output in two.outputs]


def test_a_requested_removal_holds_before_every_rule_and_a_passage_is_cut(tmp_path: Path) -> None:
    first = sentences(1)
    start = first.index(".") + 2
    end = first.index(".", start) + 1
    documents = [document(0, first, "es"), document(1, sentences(2), "es", url="https://Forum.example.es/hilo?utm_source=x"), document(2, sentences(3), "es")]
    requests = tmp_path / "requests.jsonl"
    about = {"requested": "2026-01-31", "reason": "privacy"}
    lines = [
        {"id": f"{0:016x}", "start": start, "end": end} | about,
        {"id": f"{2:016x}", "start": 9000, "end": 9100} | about,
        {"url_prefix": "https://forum.example.es/"} | about,
    ]
    requests.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    manifest = line(tmp_path, documents, removals=[str(requests)])
    assert verdicts(manifest) == ["", "removed", ""]
    assert kept(manifest)[0]["text"] == first[:start] + first[end:].rstrip()
    before = [output.sha256 for output in manifest.outputs]
    requests.write_text("", encoding="utf-8")
    again = line(tmp_path, documents, removals=[str(requests)])
    assert again.counts.kept == {"es": 3}
    requests.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert [output.sha256 for output in line(tmp_path, documents, removals=[str(requests)]).outputs] == before


def test_reserved_pages_and_refusing_sites_are_dropped_and_their_loss_told(tmp_path: Path) -> None:
    snapshot = tmp_path / "robots.jsonl"
    snapshot.write_text(json.dumps({"host": "no.example.es", "content": "User-agent: GPTBot\nDisallow: /\n"}), encoding="utf-8")
    documents = [
        document(0, sentences(1), "es", url="https://si.example.es/a"),
        document(1, sentences(2), "es", url="https://no.example.es/a"),
        document(2, sentences(3), "es", url="https://si.example.es/b", reserved=["robots_meta:noai"]),
    ]
    manifest = line(tmp_path, documents, snapshot=snapshot)
    assert verdicts(manifest) == ["", "robots", "reserved"]
    lost = manifest.metrics["reserved"]["es"]
    assert lost["robots"] == {"documents": 1, "characters": len(sentences(2))}
    assert lost["reserved"] == {"documents": 1, "characters": len(sentences(3))}
    card = manifest.path("README.md").read_text(encoding="utf-8")
    assert "| Spanish | robots | 1 |" in card
    assert verdicts(line(tmp_path, documents, snapshot=snapshot, honour_reservations=False)) == ["", "", ""]


def test_of_one_address_the_newest_page_stays(tmp_path: Path) -> None:
    documents = [
        document(n, sentences(n), "es", url="http://example.es/p/?utm_medium=x" if n % 2 else "https://example.es/p", date=f"202{n}-01-01") for n in (0, 2, 1)
    ]
    manifest = line(tmp_path, documents)
    assert verdicts(manifest) == ["url_duplicate", "", "url_duplicate"]


def test_the_document_that_stays_carries_the_strictest_licence_of_its_cluster(tmp_path: Path) -> None:
    long = sentences(1) + " Y una frase más, que las otras copias no tienen."
    documents = [document(0, long, "es"), document(1, sentences(1), "es", licence="CC-BY-SA-4.0"), document(2, sentences(2), "es")]
    manifest = line(tmp_path, documents)
    rows = kept(manifest)
    assert [(row["licence"], row["licence_of_cluster"], row["cluster_size"]) for row in rows] == [("CC0-1.0", "CC-BY-SA-4.0", 2), ("CC0-1.0", None, 1)]


def test_weights_follow_the_size_of_the_cluster_only_when_asked(tmp_path: Path) -> None:
    documents = [document(n, sentences(1), "es") for n in range(4)] + [document(9, sentences(2), "es")]
    assert [row["weight"] for row in kept(line(tmp_path, documents))] == [1, 1]
    assert [row["weight"] for row in kept(line(tmp_path, documents, rehydrate=True))] == [3, 1]


def test_boilerplate_and_passages_in_another_language_are_cut(tmp_path: Path) -> None:
    notice = "Este sitio es de todos y para todos, y no vende ni regala los datos de nadie."
    documents = [document(n, f"{sentences(n)}\n\n{notice}", "es") for n in range(4)]
    documents.append(document(9, f"{sentences(9)}\n{FRENCH}\n{sentences(10)}", "es"))
    manifest = line(tmp_path, documents)
    texts = [row["text"] for row in kept(manifest)]
    assert [notice in text for text in texts] == [True, False, False, False, False]
    assert FRENCH not in texts[-1]
    assert texts[-1] == f"{sentences(9)}\n\n{sentences(10)}"
    whole = line(tmp_path, documents, cut_boilerplate=False, cut_other_languages=False)
    assert all(notice in row["text"] for row in kept(whole)[:4])
    assert FRENCH in kept(whole)[-1]["text"]


def test_what_the_cuts_leave_too_little_of_is_dropped(tmp_path: Path) -> None:
    notice = sentences(77)
    documents = [document(n, f"{notice}\n{sentences(n, 20)}", "es") for n in range(4)]
    manifest = line(tmp_path, documents, min_characters_left=5000)
    assert verdicts(manifest) == ["", "little_left", "little_left", "little_left"]


def test_pseudonyms_need_a_secret_and_are_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(0, sentences(1) + " Escriba a ana.soler@correo.es o a luis@correo.es; repito: ana.soler@correo.es.", "es")]
    monkeypatch.delenv("IBERLM_PSEUDONYM_KEY", raising=False)
    with pytest.raises(ConfigError, match="IBERLM_PSEUDONYM_KEY"):
        line(tmp_path, documents, redact={"email": "pseudonym"})
    monkeypatch.setenv("IBERLM_PSEUDONYM_KEY", "not known to anyone else")
    one = kept(line(tmp_path / "one", documents, redact={"email": "pseudonym"}))[0]["text"]
    assert one == kept(line(tmp_path / "two", documents, redact={"email": "pseudonym"}))[0]["text"]
    found = [one[span.start : span.end] for span in pii.find(one) if span.kind == "email"] or re.findall(r"\S+@\S+[a-z]", one)
    assert len(found) == 3
    assert found[0] == found[2] != found[1]
    assert "correo.es" not in one
    monkeypatch.setenv("IBERLM_PSEUDONYM_KEY", "another")
    assert kept(line(tmp_path / "one", documents, redact={"email": "pseudonym"}))[0]["text"] != one


def test_rows_beside_that_do_not_fit_are_told(tmp_path: Path) -> None:
    documents = [document(n, sentences(n), "es") for n in range(3)]
    line(tmp_path, documents)
    other = extracted(tmp_path / "other", documents[:2])
    annotated, clusters = read_manifest(tmp_path / "annotate"), read_manifest(tmp_path / "dedup")
    with pytest.raises(CorruptError, match="3 rows beside 2 documents"):
        select.run(SelectConfig(languages=["es"], filters=LIMITS, workers=1), [other, annotated, clusters], tmp_path / "select")


def edited(text: str, cuts: list[tuple[int, int]], *spans: tuple[int, int]) -> str:
    return write.edited(text, cuts, [pii.Span(start, end, "email") for start, end in spans], SelectConfig(filters=LIMITS), "id", {})


def test_spans_that_reach_into_a_cut_go_with_it() -> None:
    text = "uno dos tres cuatro cinco"
    assert edited(text, [(4, 7)]) == "uno  tres cuatro cinco"
    assert edited(text, [(4, 7)], (8, 12)) == "uno  <EMAIL> cuatro cinco"
    assert edited(text, [(4, 7)], (0, 6)) == "tres cuatro cinco"
    assert edited(text, [(4, 7)], (5, 12)) == "uno  cuatro cinco"
    assert edited(text, [(4, 7)], (2, 12)) == "un cuatro cinco"
    assert edited("uno\n\ndos\n\ntres", [(5, 8)]) == "uno\n\ntres"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(1, 12)), max_size=30))
def test_joined_spans_cover_exactly_what_the_spans_cover(found: list[tuple[int, int, int]]) -> None:
    column = pa.array([[{"start": start, "end": start + size} for row, start, size in found if row == document] for document in range(6)], KIND)
    merged = joined([flatten(column.slice(0, 3)), flatten(column)._replace()])
    expected = [{position for row, start, size in found if row == document for position in range(start, start + size)} for document in range(6)]
    assert covered(merged, 6).tolist() == [len(positions) for positions in expected]
    pairs = list(zip(merged.row.tolist(), merged.start.tolist(), merged.end.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert all(end < start for (row, _, end), (other, start, _) in itertools.pairwise(pairs) if row == other)
    assert as_lists(merged, 6, KIND).to_pylist() == [[{"start": start, "end": end} for row, start, end in pairs if row == document] for document in range(6)]
