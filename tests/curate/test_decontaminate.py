"""Items of evaluations found in documents: planted ones always, others never, and what was seen of every item."""

import csv
import gzip
import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.manifest import Manifest
from iberlm.curate import decontaminate
from iberlm.curate.contamination.items import evaluation_files
from iberlm.curate.contamination.word_sequences import composed
from iberlm.curate.decontaminate import DecontaminateConfig
from tests.curate.test_robots import extracted, write_jsonl

PASSAGE = (
    "Quan l'avi obria la botiga, els veïns s'acostaven a comprar-li el pa i a contar-li les novetats; ell, que no s'oblidava de res, "
    "apuntava cada deute en una llibreta de tapes roges que guardava sota el taulell."
)
"""35 words: Catalan apostrophes, hyphens, accents and punctuation."""
SHORT = "¿Cuántas naranjas cabían en la cesta azul?"
"""7 words."""
ITEMS = [
    {"id": "r-1", "passage": PASSAGE, "question": "On guardava la llibreta l'avi de la botiga?", "choices": ["Sota el taulell", "Al forn"], "answer": 0},
    {"id": "r-2", "passage": SHORT, "question": "¿Por qué?", "choices": ["No", "Sí"], "answer": 1},
]
WORDS = (
    "casa río monte plaza barco tren libro fuente mercado jardín verde alto claro viejo corre mira canta espera busca pinta ayer siempre nunca lejos".split()
)


def filler(seed: int, count: int) -> str:
    """Text that is in no item."""
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(count))


def searched(folder: Path, texts: list[str], items: list[dict[str, Any]] = ITEMS, per_file: int = 1000, **options: Any) -> Manifest:
    folder.mkdir(exist_ok=True)
    path = write_jsonl(folder / "reading.jsonl", items)
    source = extracted(folder / "extract", [{"text": text} for text in texts], per_file)
    return decontaminate.run(DecontaminateConfig(**{"evaluation": [str(path)], "workers": 1} | options), [source], folder / "decontaminate")


def matches(manifest: Manifest) -> list[list[dict[str, Any]]]:
    return [row or [] for path in manifest.paths("matches/", ".parquet") for row in pq.read_table(path).column("contamination").to_pylist()]


def items_of(manifest: Manifest) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["item"], row["field"]): row for row in pq.read_table(manifest.path("items.parquet")).to_pylist()}


CHANGES: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "upper case": str.upper,
    "other punctuation": lambda text: text.replace(",", " —").replace(";", "...").replace(".", "!"),
    "no punctuation": lambda text: "".join(mark for mark in text if mark not in ",;.¿?"),
    "lines": lambda text: text.replace(" ", "\n  "),
    "tabs and no-break spaces": lambda text: text.replace(" ", "\t\u00a0"),
    "decomposed accents": lambda text: unicodedata.normalize("NFD", text),
    "typographic apostrophes": lambda text: text.replace("'", "’"),
    "soft hyphens": lambda text: text.replace("bot", "bo\u00adt").replace("nar", "na\u00adr"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("item", [PASSAGE, SHORT], ids=["long", "short"])
def test_a_planted_item_is_found_whatever_its_form_and_exactly_where_it_is(tmp_path: Path, item: str, change: str) -> None:
    planted = CHANGES[change](item)
    before = "Ñandú 😀 e\u0301, " + filler(1, 700) + ": «"  # beyond the basic plane and decomposed: offsets are code points of the text as it is
    text = before + planted + "» " + filler(2, 900)
    found = matches(searched(tmp_path, [filler(3, 50), text, filler(4, 50)]))
    assert found[0] == found[2] == []
    (span,) = found[1]
    assert (span["suite"], span["item"]) == ("reading", "r-1" if item == PASSAGE else "r-2")
    inside = text[span["start"] : span["end"]]
    assert inside.strip(".!?¿ ") == planted.strip(".!?¿ ")
    assert span["start"] in (len(before), len(before) + 1)  # an opening question mark is no part of a word


def test_what_is_cut_by_one_word_does_not_match(tmp_path: Path) -> None:
    thirteen = " ".join(WORDS[:13])
    items = [{"id": "long", "text": thirteen}, {"id": "short", "text": SHORT}]
    texts = [
        thirteen,
        " ".join(WORDS[:12]),
        " ".join(WORDS[1:13]),
        " ".join([*WORDS[:6], *WORDS[7:14]]),
        " ".join([*WORDS[:6], "otra", *WORDS[6:13]]),
        SHORT,
        SHORT.replace("azul", ""),
        SHORT.replace("¿Cuántas", ""),
        SHORT.replace("cesta", "caja"),
        SHORT.replace("cesta", "gran cesta"),
    ]
    assert [[span["item"] for span in row] for row in matches(searched(tmp_path, texts, items))] == [["long"], [], [], [], [], ["short"], [], [], [], []]


def test_a_long_item_that_lacks_a_word_still_matches_on_both_sides_of_it(tmp_path: Path) -> None:
    words = [f"paraula{number}" for number in range(40)]
    text = " ".join([*words[:20], *words[21:]])
    (row,) = matches(searched(tmp_path, [text], [{"id": "a", "text": " ".join(words)}]))
    assert [text[span["start"] : span["end"]] for span in row] == [" ".join(words[:20]), " ".join(words[21:])]


def test_clean_texts_raise_no_alarm(tmp_path: Path) -> None:
    texts = [
        *(filler(seed, 400) for seed in range(50)),
        "L'avi obria la botiga. Els veïns compraven pa; la llibreta de tapes roges era sota una cadira.",
        "Cuántas veces cabían naranjas en la cesta: ¿azul o verde?",
        "",
        "paraula",
        "😀\n\n",
    ]
    manifest = searched(tmp_path, texts)
    assert matches(manifest) == [[]] * len(texts)
    assert all(row["documents"] == row["ngrams_seen"] == 0 and row["first_documents"] == [] for row in items_of(manifest).values())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(WORDS), min_size=3, max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=25),
    st.lists(st.sampled_from(WORDS), max_size=25),
    st.integers(5, 8),
    st.integers(3, 5),
)
@example(["a"] * 12, ["a"] * 3, [], 5, 3)
def test_matches_are_those_of_a_plain_search(item: list[str], left: list[str], right: list[str], ngram_words: int, short_item_words: int) -> None:
    import tempfile

    words = [*left, *item[: len(item) // 2 + 3], *right]
    size = ngram_words if len(item) >= ngram_words else len(item)
    grams = {tuple(item[start : start + size]) for start in range(len(item) - size + 1)} if len(item) >= short_item_words else set()
    covered = set()
    for start in range(len(words) - size + 1):
        if tuple(words[start : start + size]) in grams:
            covered.update(range(start, start + size))
    with tempfile.TemporaryDirectory() as folder:
        (row,) = (
            matches(
                searched(Path(folder), [" ".join(words)], [{"id": "x", "text": " ".join(item)}], ngram_words=ngram_words, short_item_words=short_item_words)
            )
            if grams
            else ([],)
        )
    places = [(len(" ".join(words[:index])) + bool(index), index) for index in range(len(words))]
    assert {index for place, index in places for span in row if span["start"] <= place < span["end"]} == covered


def test_short_texts_below_the_minimum_are_not_looked_for_and_said_to_be_so(tmp_path: Path) -> None:
    rows = items_of(searched(tmp_path, ["Sota el taulell. ¿Por qué? No."]))
    methods = {key: row["method"] for key, row in rows.items()}
    assert methods == {
        ("r-1", "passage"): "ngrams",
        ("r-1", "question"): "exact",
        ("r-1", "choices[0]"): "too_short",
        ("r-1", "choices[1]"): "too_short",
        ("r-2", "passage"): "exact",
        ("r-2", "question"): "too_short",
        ("r-2", "choices[0]"): "too_short",
        ("r-2", "choices[1]"): "too_short",
    }
    assert rows["r-2", "question"]["share_seen"] is None


def test_templates_that_many_items_share_make_nothing_match(tmp_path: Path) -> None:
    prompt = "Lee con atención el texto que sigue y elige después la única respuesta correcta entre las cuatro que se ofrecen"
    question = "¿Cuál es la idea principal de este texto?"
    items = [{"id": str(number), "instruction": prompt, "question": question, "prompt": f"{prompt}: {filler(100 + number, 30)}"} for number in range(60)]
    texts = [f"Ejercicio. {prompt}. Y ahora, al trabajo.", f"Nos preguntó: {question}", f"Otro: {filler(107, 30)}"]
    manifest = searched(tmp_path, texts, items)
    assert [[span["item"] for span in row] for row in matches(manifest)] == [[], [], ["7"]]
    rows = items_of(manifest)
    assert (rows["7", "instruction"]["method"], rows["7", "question"]["method"], rows["7", "prompt"]["method"]) == ("template", "template", "ngrams")
    assert rows["7", "prompt"]["ngrams_unused"] >= 20 - 13
    assert rows["7", "prompt"]["share_seen"] > 0.5


def test_a_passage_that_several_questions_share_is_no_template(tmp_path: Path) -> None:
    items = [{"id": f"q{number}", "passage": PASSAGE if number < 12 else filler(number, 40)} for number in range(400)]
    manifest = searched(tmp_path, [PASSAGE], items)
    assert [span["item"] for span in matches(manifest)[0]] == ["q0"]  # listed once, under the first
    rows = items_of(manifest)
    assert all(rows[f"q{number}", "passage"]["share_seen"] == 1 for number in range(12))  # and every item knows that it was seen
    assert manifest.metrics["suites"] == {"reading": {"items": 400, "searched": 400, "seen": 12}}


def test_items_say_how_much_of_them_was_seen_and_where(tmp_path: Path) -> None:
    half = " ".join(PASSAGE.split()[:17])
    texts = [filler(1, 30), PASSAGE, half, *[SHORT] * 7, f"{SHORT} {SHORT}"]
    manifest = searched(tmp_path, texts, per_file=4)
    rows = items_of(manifest)
    assert rows["r-1", "passage"]["ngrams_seen"] == rows["r-1", "passage"]["ngrams"] == rows["r-1", "passage"]["words"] - 13 + 1
    assert (rows["r-1", "passage"]["documents"], rows["r-1", "passage"]["first_documents"]) == (2, [f"{1:016x}", f"{2:016x}"])
    assert rows["r-2", "passage"]["documents"] == 8
    assert rows["r-2", "passage"]["first_documents"] == [f"{number:016x}" for number in range(3, 8)]
    assert rows["r-1", "question"]["share_seen"] == 0
    assert len(matches(manifest)[10]) == 2
    assert manifest.metrics["documents"] == {"es": {"clean": 1, "contaminated": 10}}
    assert manifest.counts.kept == {"es": 11}
    assert [pq.read_metadata(path).num_rows for path in manifest.paths("matches/")] == [4, 4, 3]


def test_the_same_text_in_two_suites_is_listed_under_both(tmp_path: Path) -> None:
    one, two = write_jsonl(tmp_path / "one.jsonl", ITEMS), write_jsonl(tmp_path / "two.jsonl", [{"id": 9, "text": PASSAGE}])
    source = extracted(tmp_path / "extract", [{"text": PASSAGE}])
    manifest = decontaminate.run(DecontaminateConfig(evaluation=[str(one), str(two)], workers=1), [source], tmp_path / "out")
    assert [(span["suite"], span["item"]) for span in matches(manifest)[0]] == [("one", "r-1"), ("two", "9")]


def test_only_the_fields_that_are_asked_for_are_looked_for(tmp_path: Path) -> None:
    found = matches(searched(tmp_path / "a", [PASSAGE, SHORT], fields=["question", "choices"]))
    assert found == [[], []]
    with pytest.raises(DataError, match=r"no record has any of the fields prompt \(decontaminate\.fields\)"):
        searched(tmp_path / "b", [PASSAGE], fields=["prompt"])


def test_our_own_tasks_are_found_in_every_language(tmp_path: Path) -> None:
    folder = evaluation_files(["iberlm"])
    assert {suite for suite, _ in folder.files} >= {
        f"{family}_{tag}" for family in ("reading", "minimal_pairs") for tag in ("es", "ca", "ca_valencia", "eu", "gl")
    }
    assert "bits_per_byte_eu" in folder.without_data
    whole = [(suite, path) for suite, path in folder.files if suite.startswith(("reading_", "minimal_pairs_"))]
    planted = {suite: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for suite, path in whole}
    texts = [str(item.get("passage") or item["good"]).upper().replace(",", "\n") for items in planted.values() for item in items]
    source = extracted(tmp_path / "extract", [{"text": f"{filler(n, 40)}. {text} {filler(n, 40)}"} for n, text in enumerate(texts)])
    manifest = decontaminate.run(DecontaminateConfig(evaluation=["iberlm"], workers=1), [source], tmp_path / "out")
    found = [{(span["suite"], span["item"]) for span in row} for row in matches(manifest)]
    first: dict[tuple[str, str], str] = {}  # a passage that several questions share is listed under the first of them
    expected = [(suite, first.setdefault((suite, item.get("passage") or item["good"]), item["id"])) for suite, items in planted.items() for item in items]
    assert all(own in row for own, row in zip(expected, found, strict=True))
    assert all(manifest.metrics["suites"][suite]["seen"] == manifest.metrics["suites"][suite]["items"] for suite in planted)


def _write(path: Path, kind: str) -> Path:
    rows = [{"id": item["id"], "passage": item["passage"]} for item in ITEMS]
    target = path / f"set.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), target)
    elif kind in ("csv", "tsv"):
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["id", "passage"], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "json":
        target.write_text(json.dumps({"version": 1, "data": rows}), encoding="utf-8")
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        target.write_bytes(gzip.compress(data) if kind.endswith("gz") else zstandard.compress(data))
    return target


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "json", "jsonl.gz", "jsonl.zst"])
def test_items_are_read_from_every_format(tmp_path: Path, kind: str) -> None:
    source = extracted(tmp_path / "extract", [{"text": PASSAGE}, {"text": SHORT}])
    manifest = decontaminate.run(DecontaminateConfig(evaluation=[str(_write(tmp_path, kind))], workers=1), [source], tmp_path / "out")
    assert [[(span["suite"], span["item"]) for span in row] for row in matches(manifest)] == [[("set", "r-1")], [("set", "r-2")]]


def test_a_task_file_names_its_data_and_what_is_elsewhere_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    (folder / "data").mkdir(parents=True)
    write_jsonl(folder / "data" / "x.jsonl", ITEMS[:1])
    write_jsonl(folder / "own.jsonl", ITEMS[1:])
    write_jsonl(folder / "data" / "spare.jsonl", [{"text": filler(5, 20)}])
    (folder / "base").write_text("dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: data/x.jsonl\n")
    (folder / "mine.yaml").write_text("include: base\ntask: my_reading\nprocess_docs: !function utils.prepare\n")
    (folder / "own_es.yaml").write_text("task: own_es\ncustom_dataset: !function items.own\n")
    (folder / "hub.yaml").write_text("task: hub_task\ndataset_path: someone/some-set\n")
    (folder / "group.yaml").write_text("group: all\ntask:\n  - my_reading\n")
    found = evaluation_files([str(folder)])
    assert {suite: path.name for suite, path in found.files} == {"my_reading": "x.jsonl", "own_es": "own.jsonl", "data/spare": "spare.jsonl"}
    assert found.without_data == ["hub_task"]
    source = extracted(tmp_path / "extract", [{"text": PASSAGE}, {"text": filler(5, 20)}])
    manifest = decontaminate.run(DecontaminateConfig(evaluation=[str(folder)], workers=1), [source], tmp_path / "out")
    assert [[(span["suite"], span["item"]) for span in row] for row in matches(manifest)] == [[("my_reading", "r-1")], [("data/spare", "#0")]]
    assert manifest.metrics["tasks_without_data"] == ["hub_task"]


def test_an_interrupted_run_goes_on_to_the_same_bytes_and_two_workers_write_them_too(tmp_path: Path) -> None:
    texts = [f"{filler(number, 60)} {[PASSAGE, SHORT, ''][number % 3]}" for number in range(12)]
    whole = searched(tmp_path, texts, per_file=3)
    folder = tmp_path / "decontaminate"
    (folder / "manifest.json").unlink()
    (folder / "matches" / "00001.parquet").unlink()
    again = searched(tmp_path, texts, per_file=3, workers=2)
    assert again.content_hash == whole.content_hash
    assert again.metrics == whole.metrics
    assert not (folder / "index").exists()


@settings(deadline=None)
@given(st.text(st.sampled_from("aeéoñn \u0301\u0303\u0327·l'😀ạ"), max_size=30))
def test_composed_documents_know_where_their_characters_come_from(text: str) -> None:
    plain, places = composed(pa.array(["a", text], pa.large_string()))
    new = plain[1].as_py()
    if 1 not in places:
        assert new == text
        return
    starts, ends = places[1]
    assert "".join(unicodedata.normalize("NFC", text[start:end]) for start, end in sorted(set(zip(starts.tolist(), ends.tolist(), strict=True)))) == new
    assert new == unicodedata.normalize("NFC", text)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    source = extracted(tmp_path / "extract", [{"text": PASSAGE}])

    def evaluated(*paths: str, **options: Any) -> Manifest:
        return decontaminate.run(DecontaminateConfig(evaluation=[*paths], workers=1, **options), [source], tmp_path / "out")

    with pytest.raises(ConfigError, match=r"decontaminate\.evaluation: must be given"):
        evaluated()
    with pytest.raises(ConfigError, match=r"evaluation\[0\]: nowhere does not exist"):
        evaluated("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no data file"):
        evaluated(str(tmp_path / "empty"))
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ConfigError, match="ends like none of"):
        evaluated(str(tmp_path / "notes.md"))
    with pytest.raises(ConfigError, match=r"short_item_words: 14 is out of range; it must be from 3 to 13"):
        evaluated("iberlm", short_item_words=14)
    (tmp_path / "bad.jsonl").write_text('{"id": 1, "text": "x"}\n{"id": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not JSON"):
        evaluated(str(tmp_path / "bad.jsonl"))
    with pytest.raises(DataError, match="none of 1 texts has 6 words or more"):
        evaluated(str(write_jsonl(tmp_path / "short.jsonl", [{"text": "dos palabras"}])))
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "x"}\n' * 9999)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        evaluated(str(tmp_path / "cut.jsonl.zst"))
