"""Valencian reading and commonsense: form, balance, nothing that gives the answer away, and the norm of one variety."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from iberlm.core.resources import resource_dir
from iberlm.evaluate.catalogue import MIN_ITEMS, task_facts
from iberlm.evaluate.tasks import load_task
from tests.evaluate.tiny import sample_texts

CENTRAL = """
    aquest aquesta aquests aquestes aqueix aqueixa meva meves teva teves seva seves avui vuit divuit disset
    noi noia nois noies nen nena nens nenes petit petita petits petites feina feines mirall miralls gairebé vermell vermella vermells
    sortir surt surten sortia sortit sortint tenir venir treure néixer neix neixen naixement conèixer aparèixer reconèixer
    anglès francès portuguès cinquè aprèn comprèn depèn ofès patata patates tomàquet mongetes homes joves
    parlo canto penso treballo estudio visc miro trobo serveix serveixen ofereix ofereixen segueix segueixen pateix pateixen dirigeix
    dirigeixen agraeixen construeix produeix llegeix floreix coincideix beneeix sigui siguin tingui faci facin vulgui pugui puguin vingui
    estigui digui canti parli tingués pogués volgués hagués haguessin anés anessin fossin fessin visqués arribés
    """.split()
"""Of Central Catalan, where the Valencian norm has este, meua, hui, huit, xic, eixir, nàixer, anglés, parle, servix, siga, tinguera."""
CASTILIAN = """
    hasta entonces bueno pero mientras ayer hoy mañana noche calle algo desde también después luego pueblo cuando donde siempre ahora
    muy más está fue eran hay aunque antes todavía vale despacio rato desayuno sello buzón
    """.split()
MARKS = re.compile(r"[ñ¿¡ãõ]|l\.l|[Tt]ener que|[Tt]indre que|\b[Hh]an de que\b| {2}|[\"'`´]{2}|[’“”]")
"""Letters and turns that normative Valencian does not write, and typographic apostrophes, which the other items do without."""


def items(name: str) -> list[dict[str, Any]]:
    lines = (resource_dir("eval") / "ca_valencia" / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def reading() -> list[dict[str, Any]]:
    return items("reading.jsonl")


@pytest.fixture(scope="module")
def commonsense() -> list[dict[str, Any]]:
    return items("commonsense.jsonl")


def texts(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [text for row in rows for text in (row.get("passage", ""), row.get("premise", ""), row["question"], *row["choices"]) if text]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:·[^\W\d_]+)?", text.casefold())


def share_of(rows: list[dict[str, Any]], score: Any) -> float:
    """How often the right choice has the highest score, ties shared out."""
    found = 0.0
    for row in rows:
        scores = [score(row, choice) for choice in row["choices"]]
        found += (scores[row["answer"]] == max(scores)) / scores.count(max(scores))
    return found / len(rows)


def test_reading_items_are_well_formed_and_enough(reading: list[dict[str, Any]]) -> None:
    assert len(reading) >= 120 > MIN_ITEMS
    assert len({row["id"] for row in reading}) == len(reading)
    for row in reading:
        assert list(row) == ["id", "passage_id", "passage", "question", "choices", "answer"]
        assert 60 <= len(row["passage"].split()) <= 115
        assert row["question"].endswith("?")
        assert len({choice.casefold() for choice in row["choices"]}) == len(row["choices"]) == 4
        assert row["answer"] in range(4)
        assert all(text == text.strip() != "" for text in texts([row]))
        lengths = [len(choice) for choice in row["choices"]]
        assert max(lengths) <= 2.5 * min(lengths), row["id"]


def test_passages_and_their_ids_go_together_and_no_question_comes_twice(reading: list[dict[str, Any]]) -> None:
    by_id = {row["passage_id"]: row["passage"] for row in reading}
    assert len(by_id) == len({row["passage"] for row in reading}) >= 60
    assert all(by_id[row["passage_id"]] == row["passage"] for row in reading)
    assert max(Counter(row["passage_id"] for row in reading).values()) <= 3
    assert len({(row["passage_id"], row["question"]) for row in reading}) == len(reading)


def test_right_answers_of_reading_stand_in_every_place_equally_often(reading: list[dict[str, Any]]) -> None:
    places = Counter(row["answer"] for row in reading)
    assert max(places.values()) - min(places.values()) <= 3


def test_guessing_by_length_or_by_words_of_the_passage_does_not_find_the_answer(reading: list[dict[str, Any]]) -> None:
    def overlap(row: dict[str, Any], choice: str) -> float:
        passage = set(words(row["passage"]))
        return sum(word in passage for word in words(choice)) / len(words(choice))

    ways = {
        "longest": share_of(reading, lambda _, choice: len(choice)),
        "shortest": share_of(reading, lambda _, choice: -len(choice)),
        "most verbatim": share_of(reading, overlap),
        "least verbatim": share_of(reading, lambda row, choice: -overlap(row, choice)),
    }
    assert {way: share for way, share in ways.items() if share > 0.33} == {}


def test_commonsense_items_are_well_formed_and_enough(commonsense: list[dict[str, Any]]) -> None:
    assert len(commonsense) >= 150 > MIN_ITEMS
    assert len({row["id"] for row in commonsense}) == len(commonsense)
    assert len({row["premise"] for row in commonsense}) == len(commonsense)
    for row in commonsense:
        assert list(row) == ["id", "pair_id", "premise", "question", "choices", "answer"]
        assert row["premise"][0].isupper()
        assert row["premise"].endswith(".")
        assert row["premise"].count(".") == 1
        assert row["question"] in ("causa", "efecte")
        assert len(set(row["choices"])) == len(row["choices"]) == 2
        assert all(choice[0].islower() and choice.endswith(".") and choice.count(".") == 1 for choice in row["choices"])
        assert all(text == text.strip() for text in texts([row]))
    assert Counter(row["question"] for row in commonsense) == {"causa": len(commonsense) / 2, "efecte": len(commonsense) / 2}


def test_every_continuation_is_right_once_and_wrong_once(commonsense: list[dict[str, Any]]) -> None:
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in commonsense:
        pairs.setdefault(row["pair_id"], []).append(row)
    for first, second in pairs.values():
        assert (first["choices"], first["question"]) == (second["choices"], second["question"])
        assert {first["answer"], second["answer"]} == {0, 1}
    assert len({tuple(sorted(first["choices"])) for first, _ in pairs.values()}) == len(pairs)


def test_no_form_of_another_variety_or_of_castilian(reading: list[dict[str, Any]], commonsense: list[dict[str, Any]]) -> None:
    others = {*CENTRAL, *CASTILIAN}
    asked = texts([*reading, *commonsense])
    assert {word for text in asked for word in words(text)} & others == set()
    assert [text for text in asked if MARKS.search(text)] == []


def test_the_word_lists_find_what_they_are_for() -> None:
    found = set(words("Aquest noi parlo avui de la seva feina, pero hasta mañana.")) & {*CENTRAL, *CASTILIAN}
    assert found == {"aquest", "noi", "parlo", "avui", "seva", "feina", "pero", "hasta", "mañana"}
    assert all(MARKS.search(text) for text in ("España", "¿Què?", "col.legi", "va tindre que anar", "l’home"))


def test_no_item_is_in_the_training_sample_or_in_another_task(reading: list[dict[str, Any]], commonsense: list[dict[str, Any]]) -> None:
    def flat(text: str) -> str:
        return " ".join(text.split()).casefold()

    pairs = items("minimal_pairs.jsonl")
    training = flat(" ".join(sample_texts("ca-valencia")) + " " + " ".join(sample_texts("ca")))
    others = flat(" ".join(pair[side] for pair in pairs for side in ("good", "bad")))
    asked = [flat(text) for text in [*(row["passage"] for row in reading), *(row["premise"] for row in commonsense)]]
    assert [text for text in asked if text in training or text in others] == []


def test_reading_task_as_it_is_asked() -> None:
    facts = task_facts("reading_ca_valencia")
    task = load_task(facts, overrides={}, metadata={})
    doc = task.eval_docs[-1]
    assert task.doc_to_text(doc) == f"Text: {doc['passage']}\nPregunta: {doc['question']}\nResposta:"
    assert (facts.measures, facts.chance, facts.best, facts.cluster, facts.synthetic, facts.human_reviewed) == ("reading", 0.25, 1.0, "passage_id", True, False)
    assert len(task.eval_docs) == facts.items == len(items("reading.jsonl"))
    assert facts.licence == "CC0-1.0"


def test_commonsense_task_as_it_is_asked() -> None:
    facts = task_facts("commonsense_ca_valencia")
    task = load_task(facts, overrides={}, metadata={})
    asked = {doc["id"]: task.doc_to_text(doc) for doc in task.eval_docs}
    cause, effect = (next(doc for doc in task.eval_docs if doc["question"] == kind) for kind in ("causa", "efecte"))
    assert asked[cause["id"]] == cause["premise"].removesuffix(".") + " perquè"
    assert asked[effect["id"]] == effect["premise"].removesuffix(".") + " i per això"
    assert task.doc_to_choice(cause) == cause["choices"]
    assert task.doc_to_target(cause) == cause["answer"]
    assert (facts.measures, facts.chance, facts.best, facts.cluster, facts.group) == ("commonsense", 0.5, 1.0, "pair_id", "question")
    assert len(task.eval_docs) == facts.items == len(items("commonsense.jsonl"))
