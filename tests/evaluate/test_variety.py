"""Items on varieties and acceptability are well formed and what they say they are, and preferences are counted by frame."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager

from iberlm.core.errors import DataError
from iberlm.core.languages import file_safe
from iberlm.core.resources import resource_dir
from iberlm.curate.langid.variety import VARIETIES, catalan_variety
from iberlm.evaluate.variety import preference, spanish_preference
from tests.evaluate.tiny import sample_texts

TASKS = {
    "acceptability_ca_valencia": ("acceptability", "ca-valencia", 384, "phenomenon"),
    "variety_choice_ca_valencia": ("variety", "ca-valencia", 156, "pattern"),
    "variety_ca": ("variety", "ca", 132, "pattern"),
    "variety_ca_valencia": ("variety", "ca-valencia", 132, "pattern"),
    "peninsular_es": ("variety", "es", 200, "addressed"),
}


def items(language: str, name: str) -> list[dict[str, Any]]:
    lines = (resource_dir("eval") / file_safe(language) / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


ACCEPTABILITY = items("ca-valencia", "acceptability")
CHOICE = items("ca-valencia", "variety_choice")
VALENCIAN, CENTRAL = items("ca-valencia", "variety"), items("ca", "variety")
SPANISH = items("es", "peninsular")


def pairs() -> list[tuple[str, str, str]]:
    """(id, right, wrong) of every item with two texts."""
    found = [(item["id"], item["good"], item["bad"]) for item in ACCEPTABILITY]
    found += [(item["id"], item["valencian"], item["central"]) for item in [*CHOICE, *VALENCIAN, *CENTRAL]]
    return found + [(item["id"], item["peninsular"], item["american"]) for item in SPANISH]


def told(texts: list[str]) -> list[str]:
    """Variety of each text by the project's own identifier."""
    return [VARIETIES[index] for index in catalan_variety(pa.array(texts, pa.large_string()), np.ones(len(texts), bool))]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    manager = TaskManager(include_path=str(resource_dir("eval")), include_defaults=False)
    return {name: manager.load(name)["tasks"][name] for name in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_say_what_they_are_and_their_right_answers_stand_at_both_places(tasks: dict[str, Any], name: str) -> None:
    measures, language, size, group = TASKS[name]
    task = tasks[name]
    metadata = task.get_config("metadata")
    assert metadata["measures"] == measures
    assert metadata["language"] == language
    assert (metadata["chance"], metadata["best"], metadata["group_field"]) == (0.5, 1.0, group)
    assert (metadata["card"], metadata["synthetic"], metadata["human_reviewed"], metadata["raw_text"]) == ("iberlm_variety_eval", True, False, True)
    docs = list(task.eval_docs)
    assert len(docs) == size == len({doc["id"] for doc in docs})
    assert list(task.aggregation()) == ["acc", "acc_norm"]
    assert 2 * sum(doc["answer"] for doc in docs) == size
    for members in Counter(doc[group] for doc in docs), Counter(doc[group] for doc in docs if doc["answer"] == 0):
        assert set(members) == {doc[group] for doc in docs}
    for doc in docs:
        assert len(set(doc["choices"])) == 2
        assert doc["choices"][doc["answer"]] == task.doc_to_choice(doc)[task.doc_to_target(doc)]


@pytest.mark.parametrize(
    ("entries", "key", "patterns", "each"),
    [
        (ACCEPTABILITY, "phenomenon", 32, 12),
        (CHOICE, "pattern", 13, 12),
        (VALENCIAN, "pattern", 11, 12),
        (CENTRAL, "pattern", 11, 12),
        (SPANISH, "pattern", 10, 20),
    ],
)
def test_every_pattern_has_as_many_items(entries: list[dict[str, Any]], key: str, patterns: int, each: int) -> None:
    counts = Counter(entry[key] for entry in entries)
    assert len(counts) == patterns
    assert set(counts.values()) == {each}
    assert all(f"-{entry[key]}-" in entry["id"] for entry in entries)


def differing(first: str, second: str) -> tuple[str, str]:
    """What is left of two texts without their common start and end, in whole words."""
    one, other = first.split(), second.split()
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return " ".join(one), " ".join(other)


def test_the_two_texts_of_an_item_differ_in_one_spot() -> None:
    for name, right, wrong in pairs():
        one, other = differing(right, wrong)
        assert one != other, name
        assert max(len(one.split()), len(other.split())) <= 5, (name, one, other)


def test_texts_are_clean_and_none_comes_twice() -> None:
    for entries, own in ((ACCEPTABILITY, ("good",)), (CHOICE, ("valencian",)), (VALENCIAN, ("context", "valencian")), (CENTRAL, ("context",))):
        for key in own:
            assert len({entry[key] for entry in entries}) == len(entries), key
    for entry in [*ACCEPTABILITY, *CHOICE, *VALENCIAN, *CENTRAL, *SPANISH]:
        for text in entry.values():
            assert text == text.strip() != ""
            assert "  " not in text
            assert not re.search(r"[{}|]", text)
    mine = {entry["good"] for entry in ACCEPTABILITY} | {entry["valencian"] for entry in CHOICE}
    assert mine.isdisjoint(entry["good"] for entry in items("ca-valencia", "minimal_pairs"))
    assert len({entry["context"] for entry in SPANISH}) == len(SPANISH)


def test_no_text_is_in_the_training_sample() -> None:
    for language, texts in (
        ("ca-valencia", [text for _, *both in pairs() for text in both if len(text) > 40] + [entry["context"] for entry in VALENCIAN]),
        ("ca", [entry["context"] for entry in CENTRAL]),
        ("es", [entry["context"] for entry in SPANISH]),
    ):
        training = " ".join(" ".join(text.split()) for text in sample_texts(language)).casefold()
        assert [text for text in texts if text.casefold() in training] == []


def test_the_frames_of_both_varieties_of_catalan_are_the_same_but_for_the_context(tasks: dict[str, Any]) -> None:
    for valencian, central in zip(VALENCIAN, CENTRAL, strict=True):
        assert valencian | {"context": central["context"]} == central
        assert valencian["context"] != central["context"]
    for valencian, central in zip(tasks["variety_ca_valencia"].eval_docs, tasks["variety_ca"].eval_docs, strict=True):
        assert valencian["choices"] == central["choices"]
        assert valencian["answer"] == 1 - central["answer"]


def test_the_two_items_of_a_spanish_frame_have_the_same_choices(tasks: dict[str, Any]) -> None:
    docs = list(tasks["peninsular_es"].eval_docs)
    for peninsular, american in zip(docs[::2], docs[1::2], strict=True):
        assert peninsular["frame"] == american["frame"]
        assert [doc["id"] for doc in (peninsular, american)] == [f"{peninsular['frame']}:peninsular", f"{peninsular['frame']}:american"]
        assert [doc["addressed"] for doc in (peninsular, american)] == ["addressed_peninsular", "addressed_american"]
        assert peninsular["choices"] == american["choices"]
        assert peninsular["answer"] == 1 - american["answer"]
    assert all(f"{doc['frame']}:" in doc["id"] for doc in docs)


def test_the_context_of_each_task_tells_the_variety_to_the_identifier() -> None:
    assert told([item["valencian"] for item in CHOICE]).count("valencian") >= 0.98 * len(CHOICE)
    assert told([item["context"] for item in VALENCIAN]).count("valencian") >= 0.98 * len(VALENCIAN)
    assert told([item["context"] for item in CENTRAL]).count("central") >= 0.98 * len(CENTRAL)


def test_the_continuations_of_a_frame_bear_no_mark_beside_the_form_in_question() -> None:
    for key, own in (("valencian", "valencian"), ("central", "central")):
        contrary = {"valencian": "central", "central": "valencian"}[own]
        assert told([item[key] for item in VALENCIAN]).count(contrary) <= 0.05 * len(VALENCIAN)


def test_good_sentences_of_acceptability_are_not_central_catalan() -> None:
    assert told([item["good"] for item in ACCEPTABILITY]).count("central") <= 0.1 * len(ACCEPTABILITY)


def rows(right: dict[str, bool], group: str = "") -> list[dict[str, Any]]:
    return [{"id": frame, "score": float(value), "group": group or frame.rstrip("0123456789")} for frame, value in right.items()]


def test_keeping_to_the_variety_is_told_from_preferring_one() -> None:
    frames = [f"p{index}" for index in range(3)] + ["q0"]
    always, never = dict.fromkeys(frames, True), dict.fromkeys(frames, False)
    assert preference(rows(always), rows(always))["shares"] == {"kept": 1.0, "central": 0.0, "valencian": 0.0, "contrary": 0.0}
    assert preference(rows(always), rows(never))["shares"] == {"kept": 0.0, "central": 1.0, "valencian": 0.0, "contrary": 0.0}
    assert preference(rows(never), rows(always))["shares"] == {"kept": 0.0, "central": 0.0, "valencian": 1.0, "contrary": 0.0}
    assert preference(rows(never), rows(never))["shares"]["contrary"] == 1.0
    mixed = preference(rows({"p0": True, "p1": True, "p2": False, "q0": False}), rows({"q0": False, "p2": True, "p1": False, "p0": True}))
    assert mixed["counts"] == {"kept": 1, "central": 1, "valencian": 1, "contrary": 1}
    assert mixed["patterns"]["p"]["frames"] == 3
    assert mixed["patterns"]["q"] == {
        "frames": 1,
        "counts": {"kept": 0, "central": 0, "valencian": 0, "contrary": 1},
        "shares": {"kept": 0.0, "central": 0.0, "valencian": 0.0, "contrary": 1.0},
    }


@given(st.dictionaries(st.text("pq", min_size=1), st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_the_four_kinds_add_up_and_give_back_the_accuracy_of_both_tasks(right: dict[str, tuple[bool, bool]]) -> None:
    found = preference(rows({frame: ca for frame, (ca, _) in right.items()}), rows({frame: va for frame, (_, va) in right.items()}))
    counts = found["counts"]
    assert sum(counts.values()) == found["frames"] == len(right)
    assert sum(pattern["frames"] for pattern in found["patterns"].values()) == len(right)
    assert counts["kept"] + counts["central"] == sum(ca for ca, _ in right.values())
    assert counts["kept"] + counts["valencian"] == sum(va for _, va in right.values())


def test_frames_asked_in_one_variety_are_counted_apart() -> None:
    found = preference(rows({"p0": True, "p1": True}), rows({"p1": True, "p2": False, "p3": False}))
    assert (found["frames"], found["unpaired"]) == (1, 3)


@pytest.mark.parametrize(
    ("central", "valencian", "message"),
    [
        (rows({"p0": True}), rows({"p1": True}), r"no frame was asked in both varieties \(1 in central, 1 in valencian\)"),
        ([], [], "no frame was asked in both varieties"),
        (rows({"p0": True}) * 2, rows({"p0": True}), "variety_ca: item p0 comes twice"),
        ([{"id": "p0", "score": 0.5, "group": "p"}], rows({"p0": True}), "item p0 has the score 0.5"),
        ([{"id": "p0", "score": None, "group": "p"}], rows({"p0": True}), "item p0 has the score None"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(central: list[dict[str, Any]], valencian: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        preference(central, valencian)


def test_the_preference_between_the_varieties_of_spanish_is_counted_by_frame() -> None:
    asked = [(f"f{index}:{variety}", f"addressed_{variety}", variety) for index in range(4) for variety in ("peninsular", "american")]
    always_peninsular = [{"id": name, "group": group, "score": float(variety == "peninsular")} for name, group, variety in asked]
    found = spanish_preference(always_peninsular)
    assert found == {
        "frames": 4,
        "counts": {"kept": 0, "peninsular": 4, "american": 0, "contrary": 0},
        "shares": {"kept": 0.0, "peninsular": 1.0, "american": 0.0, "contrary": 0.0},
        "unpaired": 0,
    }
    with pytest.raises(DataError, match="group 'x' is not among addressed_peninsular, addressed_american"):
        spanish_preference([{"id": "f0:x", "group": "x", "score": 1.0}])


def test_the_tasks_are_scored_and_the_preference_read_off_their_rows(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}", "--include_path", str(resource_dir("eval"))]
    command += ["--tasks", "variety_ca,variety_ca_valencia,peninsular_es", "--limit", "12", "--device", "cpu", "--log_samples", "--output_path", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, group in (("variety_ca", "pattern"), ("variety_ca_valencia", "pattern"), ("peninsular_es", "addressed")):
        (path,) = tmp_path.rglob(f"samples_{name}_2*.jsonl")
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[name] = [{"id": sample["doc"]["id"], "group": sample["doc"][group], "score": sample["acc"]} for sample in samples]
    both = preference(found["variety_ca"], found["variety_ca_valencia"])
    assert both["frames"] == 12
    assert both["patterns"].keys() == {"demonstratives"}
    assert spanish_preference(found["peninsular_es"])["frames"] == 6
