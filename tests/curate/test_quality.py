"""A quality classifier trained from two sets, its card, and its scores beside the documents."""

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.curate import quality
from iberlm.curate.quality import QualityConfig
from iberlm.curate.quality_model import QualityModel, area_under_curve, measure
from iberlm.curate.train_quality import read_examples, train_quality
from tests.curate.test_robots import extracted, write_jsonl

GOOD = "la casa del pueblo guarda recuerdos que los vecinos cuentan despacio cuando llega el invierno y nieva sobre los tejados antiguos".split()
BAD = "oferta compra ahora gratis clic descuento promoción envío barato mejor precio regalo gana dinero fácil casino apuesta la casa y los".split()


def text_of(words: list[str], seed: int, count: int = 60) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choice(words) for _ in range(count)).capitalize() + "."


def sets(folder: Path, good: int = 300, bad: int = 300, **more: Any) -> tuple[Path, Path]:
    positive = write_jsonl(folder / "good.jsonl", [{"text": text_of(GOOD, seed), "language": ["es", "ca"][seed % 2], **more} for seed in range(good)])
    negative = write_jsonl(folder / "bad.jsonl", [{"text": text_of(BAD, seed), "language": ["es", "ca"][seed % 2], **more} for seed in range(bad)])
    return positive, negative


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_trained_model_tells_held_out_texts_apart_and_says_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positive, negative = sets(tmp_path)
    assert train_quality([positive], [negative], tmp_path / "model") == 0
    printed = capsys.readouterr().out
    assert "| held out | texts | positive | precision | recall | AUC | log loss |" in printed
    about = json.loads((tmp_path / "model" / "quality.json").read_text())
    assert set(about["held_out"]) == {"all", "es", "ca"}
    assert about["held_out"]["all"]["auc"] > 0.95
    assert about["training_texts"]["positive"] + about["held_out"]["all"]["positive"] == 300
    assert [(entry["set"], entry["name"], entry["texts"]) for entry in about["files"]] == [("positive", "good.jsonl", 300), ("negative", "bad.jsonl", 300)]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "**Not validated.**" in card
    assert all(entry["sha256"] in card for entry in about["files"])
    assert printed.strip() in card
    model = QualityModel.load(tmp_path / "model")
    scores = model.score(pa.array([text_of(GOOD, 9000), text_of(BAD, 9000), "", "¡! 123", None], pa.large_string()))
    assert scores.dtype == np.float32
    assert scores[0] > 0.5 > scores[1]
    assert scores[2:].tolist() == [0, 0, 0]


def test_the_same_files_give_the_same_bytes_in_any_folder_and_other_settings_do_not(tmp_path: Path) -> None:
    positive, negative = sets(tmp_path)
    train_quality([positive], [negative], tmp_path / "one")
    train_quality([positive], [negative], tmp_path / "two")
    train_quality([positive], [negative], tmp_path / "two")  # over an earlier model
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    train_quality([positive], [negative], tmp_path / "three", seed=1)
    assert files_of(tmp_path / "three") != files_of(tmp_path / "one")


def test_texts_are_read_from_every_format(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    rows = [{"body": text_of(GOOD, seed)} for seed in range(90)]
    pq.write_table(pa.Table.from_pylist(rows[:30]), tmp_path / "good" / "a.parquet")
    (tmp_path / "good" / "b.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows[30:60]).encode()))
    (tmp_path / "good" / "c.txt").write_text("\n".join(row["body"] for row in rows[60:]), encoding="utf-8")
    _, negative = sets(tmp_path)
    negative = write_jsonl(tmp_path / "bad.jsonl", [{"body": text_of(BAD, seed)} for seed in range(40)])
    examples = read_examples([tmp_path / "good"], [negative], text_field="body", held_out_share=0.1, max_characters=4000, seed=0)
    assert [entry["texts"] for entry in examples.files] == [30, 30, 30, 40]
    assert sorted(text for text, good in zip(examples.texts, examples.positive, strict=True) if good) == sorted(row["body"] for row in rows)


def test_copies_are_read_once_and_what_is_in_both_sets_is_left_out(tmp_path: Path) -> None:
    same = text_of(GOOD, 1)
    positive = write_jsonl(tmp_path / "p.jsonl", [{"text": text} for text in (same, same.upper(), f"  {same}\n", text_of(GOOD, 2), "Los dos", " ")])
    negative = write_jsonl(tmp_path / "n.jsonl", [{"text": text} for text in ("los  dos", text_of(BAD, 1))])
    examples = read_examples([positive], [negative], text_field="text", held_out_share=0.5, max_characters=4000, seed=0)
    assert (examples.repeated, examples.in_both, len(examples.texts)) == (2, 1, 3)


def test_what_is_held_out_does_not_depend_on_the_order_of_texts(tmp_path: Path) -> None:
    texts = [text_of(GOOD, seed) for seed in range(200)]
    negative = write_jsonl(tmp_path / "n.jsonl", [{"text": text_of(BAD, 1)}])
    found = []
    for name, ordered in (("a", texts), ("b", texts[::-1])):
        path = write_jsonl(tmp_path / f"{name}.jsonl", [{"text": text} for text in ordered])
        examples = read_examples([path], [negative], text_field="text", held_out_share=0.1, max_characters=4000, seed=0)
        found.append({text for text, held in zip(examples.texts, examples.held_out, strict=True) if held})
    assert found[0] == found[1]
    assert 8 <= len(found[0]) <= 35


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.50001, 0.9, 1.0]), st.booleans()), max_size=30))
def test_measures_are_those_of_their_definitions(rows: list[tuple[float, bool]]) -> None:
    scores, truth = np.array([score for score, _ in rows], np.float32), np.array([good for _, good in rows], np.bool_)
    found = measure(scores, truth)
    if truth.any() and not truth.all():
        pairs = [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i in np.flatnonzero(truth) for j in np.flatnonzero(~truth)]
        assert area_under_curve(scores, truth) == pytest.approx(np.mean(pairs))
    else:
        assert math.isnan(found.auc)
    chosen = [good for score, good in rows if score >= 0.5]
    assert math.isnan(found.precision) if not chosen else found.precision == pytest.approx(sum(chosen) / len(chosen))
    assert math.isnan(found.recall) if not truth.any() else found.recall == pytest.approx(sum(chosen) / truth.sum())


def test_scores_stand_beside_the_documents(tmp_path: Path) -> None:
    positive, negative = sets(tmp_path)
    train_quality([positive], [negative], tmp_path / "model")
    documents = [{"text": text_of(GOOD if n % 2 else BAD, 5000 + n), "language": ["es", "eu"][n % 2]} for n in range(25)] + [{"text": "", "language": "gl"}]
    source = extracted(tmp_path / "extract", documents, per_file=10)
    manifest = quality.run(QualityConfig(model=str(tmp_path / "model"), workers=2), [source], tmp_path / "quality")
    assert [path.name for path in manifest.paths("scores/")] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [pq.read_metadata(path).num_rows for path in manifest.paths("scores/")] == [10, 10, 6]
    scores = [score for path in manifest.paths("scores/") for score in pq.read_table(path).column("quality_score").to_pylist()]
    assert all((score > 0.5) == bool(n % 2) for n, score in enumerate(scores[:25]))
    assert scores[25] == 0
    assert pq.read_schema(manifest.path("scores/00000.parquet")).field("quality_score").type == pa.float32()
    assert manifest.counts.kept == {"es": 13, "eu": 12, "gl": 1}
    assert sum(manifest.metrics["documents_by_tenth_of_score"]["eu"]) == 12
    (tmp_path / "quality" / "manifest.json").unlink()
    (tmp_path / "quality" / "scores" / "00001.parquet").unlink()
    assert quality.run(QualityConfig(model=str(tmp_path / "model"), workers=1), [source], tmp_path / "quality").content_hash == manifest.content_hash


def test_sets_that_are_too_small_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    positive, negative = sets(tmp_path, good=40)
    with pytest.raises(DataError, match=r"positive texts to train on and \d+ to measure with; at least 50 and 10"):
        train_quality([positive], [negative], tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(DataError, match=r"good\.jsonl:1: no text under 'body'"):
        train_quality([positive], [negative], tmp_path / "model", text_field="body")
    with pytest.raises(ConfigError, match=r"negative: .*none does not exist"):
        train_quality([positive], [tmp_path / "none"], tmp_path / "model")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ConfigError, match=r"notes\.md ends like none of"):
        train_quality([tmp_path / "notes.md"], [negative], tmp_path / "model")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not JSON"):
        train_quality([tmp_path / "bad.jsonl"], [negative], tmp_path / "model")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    positive, negative = sets(tmp_path)
    with pytest.raises(ConfigError, match=r"holds other files \(bad\.jsonl, good\.jsonl\)"):
        train_quality([positive], [negative], tmp_path)
    with pytest.raises(ConfigError, match="is a file; choose a folder"):
        train_quality([positive], [negative], positive)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    source = extracted(tmp_path / "extract", [{}])
    with pytest.raises(ConfigError, match="holds no quality model"):
        quality.run(QualityConfig(model=str(tmp_path)), [source], tmp_path / "quality")
    positive, negative = sets(tmp_path)
    train_quality([positive], [negative], tmp_path / "model")
    data = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        quality.run(QualityConfig(model=str(tmp_path / "model")), [source], tmp_path / "quality")
    (tmp_path / "model" / "quality.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"quality\.json: not the description"):
        quality.run(QualityConfig(model=str(tmp_path / "model")), [source], tmp_path / "quality")
    with pytest.raises(ConfigError, match=r"quality\.model: must be given"):
        quality.run(QualityConfig(model=""), [source], tmp_path / "quality")
