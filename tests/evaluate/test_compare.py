"""Two evaluations held against each other: who is better, what cannot be compared, and the command that says it."""

import json
import math
import os
import pty
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.cli.tools import run_tool
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.evaluate.compare import Comparison, compare
from iberlm.evaluate.comparison_view import sentences, task_rows
from iberlm.evaluate.scoring import Metric, score
from iberlm.evaluate.store.schema import ITEM_SCHEMA, RESULT_SCHEMA, item_key
from iberlm.evaluate.store.store import Store

Row = dict[str, Any]
Tables = tuple[list[Row], list[Row]]


@dataclass(frozen=True)
class Asked:
    """A task that a model was asked: right or wrong by item unless `values` says otherwise."""

    task: str
    language: str = "eu"
    right: Sequence[int] = ()
    values: Sequence[Any] = ()
    metric: str = "acc"
    aggregation: str = "mean"
    chance: float | None = 0.5
    best: float | None = 1.0
    higher_is_better: bool = True
    clusters: Sequence[str | None] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """version, num_fewshot, template, backend, dtype, task_key, created."""
    records: str = ""
    """Where it is another, the data are."""

    def __len__(self) -> int:
        return len(self.values or self.right)


def rows(model: str, *tasks: Asked) -> Tables:
    """Item and result rows of a model, as `iberlm evaluate` leaves them."""
    items: list[Row] = []
    results: list[Row] = []
    for asked in tasks:
        ways = {
            "version": "1.0",
            "num_fewshot": 0,
            "template": "none",
            "backend": "transformers",
            "dtype": "float32",
            "task_key": f"key of {asked.task}",
            "created": 1.0,
        }
        ways |= asked.settings
        common = {"model": (model * 64)[:64], "model_name": model, "task": asked.task, "language": asked.language, "family": asked.task, **ways}
        mine = [common | _item(asked, index) for index in range(len(asked))]
        for row in mine:
            row["prompt_hash"] = f"{row['item_hash']} {ways['num_fewshot']} {ways['template']}"
            row["key"] = item_key(row)
        interval = score(Metric(asked.metric, asked.aggregation, asked.higher_is_better), mine, 0)
        result = {"group": "", "metric": asked.metric, "aggregation": asked.aggregation, "primary": True, "chance": asked.chance, "best": asked.best}
        result |= {"higher_is_better": asked.higher_is_better, "value": interval.value if interval else math.nan, "n": len(asked)}
        result |= {"averaged": asked.chance is not None and asked.best is not None and len(asked) >= 100}
        items += mine
        results.append(common | result)
    return items, results


def _item(asked: Asked, index: int) -> Row:
    value = asked.values[index] if asked.values else float(asked.right[index])
    return {
        "item": index,
        "id": f"{asked.task}-{index}",
        "item_hash": f"{asked.records}{asked.task} {index}",
        "cluster": asked.clusters[index] if asked.clusters else None,
        "choices": ["one", "other"],
        "target": "0",
        "prediction": str(1 - int(value)) if asked.aggregation == "mean" else None,
        "responses": "[]",
        "metrics": json.dumps({f"{asked.metric},none": value}),
        "score": float(value) if asked.aggregation == "mean" else None,
        "weight": 1.0,
        "truncated": False,
    }


def items_table(found: Tables) -> pa.Table:
    return pa.Table.from_pylist(found[0], schema=ITEM_SCHEMA)


def results_table(found: Tables) -> pa.Table:
    return pa.Table.from_pylist(found[1], schema=RESULT_SCHEMA)


def compared(a: Tables, b: Tables, **options: Any) -> Comparison:
    return compare(items_table(a), items_table(b), results_table(a), results_table(b), **options)


def marks(n: int, right: int, seed: int = 0) -> list[int]:
    """`right` of `n` items right, in a random order."""
    found = [1] * right + [0] * (n - right)
    random.Random(seed).shuffle(found)
    return found


GOOD, BAD = marks(200, 170), marks(200, 110)
NEARLY = [1 - mark if index in (3, 50, 99, 120) else mark for index, mark in enumerate(GOOD)]


@pytest.fixture(scope="module")
def clear() -> Comparison:
    """A is far better at one Basque task; in Galician both are as good, but for four items."""
    a = rows("aa", Asked("xnli_eu", right=GOOD), Asked("paws_gl", "gl", right=GOOD))
    b = rows("bb", Asked("xnli_eu", right=BAD), Asked("paws_gl", "gl", right=NEARLY))
    return compared(a, b)


def test_the_better_model_is_named_and_what_would_go_unseen_too(clear: Comparison) -> None:
    words = sentences(clear)
    assert [entry.better for entry in clear.languages] == ["A", ""]
    basque, galician = (entry.difference for entry in clear.languages)
    assert basque.interval.value == pytest.approx(100 * (0.85 - 0.55) / 0.5)
    low, high = basque.interval.low, basque.interval.high
    assert words[0] == f"A is better on eu (+60.0 points, 95% interval {low:.1f} to {high:.1f})"
    assert words[1] == f"no difference can be seen on gl with 200 items: a difference below {galician.detectable:.1f} points would go unseen"
    assert words[2].startswith("A is better at xnli_eu (+0.300 acc, 95% interval 0.2")
    assert words[3] == "no difference can be seen on 1 of 2 tasks: paws_gl"


def test_a_task_has_its_values_counts_and_changed_items(clear: Comparison) -> None:
    task = next(entry for entry in clear.tasks if entry.task == "paws_gl")
    assert (task.difference.only_a, task.difference.only_b) == (
        sum(GOOD[index] for index in (3, 50, 99, 120)),
        4 - sum(GOOD[index] for index in (3, 50, 99, 120)),
    )
    assert [change["item"] for change in task.changed] == [3, 50, 99, 120]
    first = task.changed[0]
    said = ["one", "other"]  # what a choice says, and not its number
    assert (first["id"], first["target"], first["a"], first["b"]) == ("paws_gl-3", "one", said[1 - GOOD[3]], said[1 - NEARLY[3]])
    assert task.a.value == 0.85
    assert task.difference.detectable > 0


def test_p_values_are_corrected_for_the_number_of_tasks_and_apart_for_languages(clear: Comparison) -> None:
    basque, galician = clear.tasks
    assert basque.p_holm == pytest.approx(2 * basque.difference.p)
    assert galician.p_holm == pytest.approx(max(basque.p_holm, galician.difference.p))
    assert clear.languages[0].p_holm == pytest.approx(2 * clear.languages[0].difference.p)


def test_a_difference_that_only_the_correction_hides_is_told_so() -> None:
    good = [1] * 170 + [0] * 30
    first = Asked("t1_gl", "gl", right=good)
    second = replace(first, right=[1 - mark if index < 20 or index >= 192 else mark for index, mark in enumerate(good)])  # A alone 20, B alone 8
    alone = compared(rows("aa", first), rows("bb", second)).languages[0]
    assert 0.05 / 5 < alone.difference.p < 0.05
    assert alone.better == "A"
    others = [Asked(f"t_{tag}", tag, right=GOOD) for tag in ("es", "ca", "eu", "ca-valencia")]
    slightly = [replace(task, right=NEARLY) for task in others]
    found = compared(rows("aa", first, *others), rows("bb", second, *slightly))
    galician = next(entry for entry in found.languages if entry.language == "gl")
    assert galician.difference.p == alone.difference.p
    assert galician.better == ""
    assert any("on gl with 200 items outlasts the correction for 5 languages" in line for line in sentences(found))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from(["p", "q", "r", "s", "t", None])), min_size=3, max_size=130), st.randoms())
def test_b_and_a_mirror_a_and_b_in_any_order_of_the_rows(answers: list[tuple[int, int, str | None]], order: random.Random) -> None:
    task = Asked("xnli_eu", clusters=[cluster for _, _, cluster in answers])
    a = rows("aa", replace(task, right=[mark for mark, _, _ in answers]))
    b = rows("bb", replace(task, right=[mark for _, mark, _ in answers]))
    there = compared(a, b)
    for side in (*a, *b):
        order.shuffle(side)
    back = compared(b, a)
    for one, other in zip([*there.tasks, *there.languages], [*back.tasks, *back.languages], strict=True):
        assert one.better == {"A": "B", "B": "A", "": ""}[other.better]
        assert one.p_holm == pytest.approx(other.p_holm, nan_ok=True)
        assert one.difference.interval.value == pytest.approx(-other.difference.interval.value)
        assert one.difference.interval.low == pytest.approx(-other.difference.interval.high, nan_ok=True)
        assert (one.a, one.b) == (other.b, other.a)
    assert (there.tasks[0].difference.only_a, there.tasks[0].difference.only_b) == (back.tasks[0].difference.only_b, back.tasks[0].difference.only_a)


def test_the_order_of_rows_changes_nothing(clear: Comparison) -> None:
    a = rows("aa", Asked("xnli_eu", right=GOOD), Asked("paws_gl", "gl", right=GOOD))
    b = rows("bb", Asked("xnli_eu", right=BAD), Asked("paws_gl", "gl", right=NEARLY))
    shuffled = random.Random(5)
    for side in (*a, *b):
        shuffled.shuffle(side)
    assert compared(a, b).as_json() == clear.as_json()


def test_only_common_items_are_compared_and_the_others_counted() -> None:
    a, b = rows("aa", Asked("xnli_eu", right=GOOD)), rows("bb", Asked("xnli_eu", right=GOOD[:150]))
    found = compared(a, b).tasks[0]
    assert found.difference.interval.n == 150
    assert found.a.value == found.b.value
    assert found.remarks == ["150 items in common; 50 of A's and 0 of B's are left out"]


def test_items_are_matched_by_their_records_not_their_places() -> None:
    a = rows("aa", Asked("xnli_eu", right=GOOD))
    b = rows("bb", Asked("xnli_eu", right=GOOD))
    for row in b[0]:
        row["item"] = 199 - row["item"]
    assert compared(a, b).tasks[0].changed == []
    twice = (a[0] + [{**row, "item": 200 + row["item"]} for row in a[0]], a[1])
    assert compared(twice, twice).tasks[0].difference.interval.n == 400  # equal records of one task stay items of their own


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"settings": {"version": "2.0"}}, "other versions of the task: 1.0 of A, 2.0 of B"),
        ({"settings": {"num_fewshot": 5}}, "other solved examples: 0 in A, 5 in B (--across num_fewshot compares all the same)"),
        ({"settings": {"template": "f00d" * 16}}, "other chat template: none in A, f00df00df00d in B (--across template compares all the same)"),
        ({"metric": "acc_norm"}, "scored by acc in A, by acc_norm in B"),
        ({"aggregation": "custom"}, "acc is computed by a function of the task's own, not item by item"),
        ({"records": "other "}, "another data set: of 200 items of A and 200 of B none is the same"),
    ],
)
def test_what_cannot_be_compared_is_told_with_the_reason(change: dict[str, Any], why: str) -> None:
    task = Asked("xnli_eu", right=GOOD)
    found = compared(rows("aa", task), rows("bb", replace(task, **change)))
    assert found.tasks == []
    assert [(entry.task, entry.why) for entry in found.not_compared] == [("xnli_eu", why)]
    assert sentences(found) == ["nothing could be compared"]


def test_a_task_of_one_model_alone_is_told() -> None:
    task = Asked("xnli_eu", right=GOOD)
    found = compared(rows("aa", task, replace(task, task="xcopa_eu")), rows("bb", task, replace(task, task="paws_eu")))
    assert [(entry.task, entry.why) for entry in found.not_compared] == [("paws_eu", "only B was asked it"), ("xcopa_eu", "only A was asked it")]
    assert [entry.task for entry in found.tasks] == ["xnli_eu"]


def test_two_models_in_other_settings_are_compared_when_that_is_asked_for() -> None:
    task = Asked("xnli_eu", right=GOOD)
    chat = replace(task, right=BAD, settings={"template": "f00d" * 16, "dtype": "bfloat16"})
    found = compared(rows("aa", task), rows("bb", chat), across=["template"])
    assert found.tasks[0].remarks == ["chat template: none in A, f00df00df00d in B", "type of number: float32 in A, bfloat16 in B"]
    assert found.tasks[0].better == "A"


def test_one_model_is_compared_in_two_settings() -> None:
    task = Asked("xnli_eu", right=GOOD)
    found = compared(rows("aa", task), rows("aa", replace(task, right=BAD, settings={"template": "f00d" * 16, "num_fewshot": 5})))
    assert (found.a, found.b) == ("aa (aaaaaaaaaaaa) num_fewshot=0 template=none", "aa (aaaaaaaaaaaa) num_fewshot=5 template=f00df00df00d")
    assert found.tasks[0].better == "A"


def test_of_several_settings_those_that_both_have_are_taken() -> None:
    task = Asked("xnli_eu", right=BAD, settings={"created": 9.0, "num_fewshot": 5})
    plain = Asked("xnli_eu", right=GOOD)
    a, b = rows("aa", task, plain), rows("bb", plain)
    found = compared(a, b).tasks[0]
    assert found.a.value == 0.85
    assert found.remarks == ["A was asked in 2 ways; taken is num_fewshot=0, template=none, dtype=float32, backend=transformers"]


def test_items_of_the_task_as_it_was_before_are_not_those_of_the_result() -> None:
    task = Asked("xnli_eu", right=GOOD)
    a, b = rows("aa", task), rows("bb", task)
    before = [row | {"task_key": "before its data were mended", "score": 1.0 - row["score"]} for row in a[0]]
    assert compared((a[0] + before, a[1]), b).tasks[0].difference.interval.value == 0.0


def test_no_model_is_called_better_by_fewer_items_than_the_tests_were_simulated_for() -> None:
    few, enough = [compared(rows("aa", Asked("wnli_eu", right=[1] * n)), rows("bb", Asked("wnli_eu", right=[0] * n))).tasks[0] for n in (19, 20)]
    assert (few.better, enough.better) == ("", "A")
    assert few.remarks == ["fewer than 20 items (or 10 passages): too few to judge by"]


def test_no_model_is_called_better_by_four_items_that_differ() -> None:
    found = [compared(rows("aa", Asked("wnli_eu", right=[1] * 40)), rows("bb", Asked("wnli_eu", right=[0] * n + [1] * (40 - n)))).tasks[0] for n in (4, 5)]
    assert [entry.difference.p < 0.05 for entry in found] == [True, True]
    assert [entry.better for entry in found] == ["", "A"]
    assert [entry.remarks for entry in found] == [["A and B differ on fewer than 5 items (or passages): too few to call one better"], []]


def test_a_task_of_few_items_counts_in_no_mean() -> None:
    task = Asked("wnli_eu", right=GOOD[:71])
    found = compared(rows("aa", task), rows("bb", task))
    assert found.languages == []
    assert sentences(found)[0] == "eu: no task that both were asked counts in a mean (enough items, and a scale from chance to best); see its tasks"


def test_models_with_the_same_scores_are_told_so() -> None:
    task = Asked("xnli_eu", right=GOOD)
    graded = Asked("qa_eu", values=[0.25, 0.5, 1.0, 0.0] * 30, chance=0.0)
    found = compared(rows("aa", graded), rows("bb", graded))
    assert sentences(found)[0] == "A and B have the same scores on eu, item by item"
    assert compared(rows("aa", task), rows("bb", task)).tasks[0].difference.p == 1.0


def test_where_lower_is_better_the_lower_wins() -> None:
    pairs = [(-100.0 - index, 120 + index % 7) for index in range(40)]
    better = [(0.9 * likelihood - index % 3, size) for index, (likelihood, size) in enumerate(pairs)]
    bits = Asked("bits_eu", values=pairs, metric="bits_per_byte", aggregation="bits_per_byte", chance=None, best=None, higher_is_better=False)
    found = compared(rows("aa", bits), rows("bb", replace(bits, values=better)))
    assert found.tasks[0].better == "B"
    gain = -found.tasks[0].difference.interval.value
    assert gain < 0
    assert sentences(found)[1].startswith(f"B is better at bits_eu ({gain:+.3f} bits_per_byte, 95% interval -0.")
    assert found.tasks[0].difference.test == "paired t"


def test_documents_of_other_lengths_are_compared_as_a_corpus() -> None:
    bits = Asked("bits_eu", values=[(-100.0 - index, 120) for index in range(40)], metric="bits_per_byte", aggregation="bits_per_byte", higher_is_better=False)
    other = replace(bits, values=[(-100.0 - index, 121) for index in range(40)])
    assert compared(rows("aa", bits), rows("bb", other)).tasks[0].difference.test == "paired jackknife"


def test_a_metric_of_a_corpus_is_compared_by_the_jackknife() -> None:
    labels = [(index % 2, mark if index % 2 else 1 - mark) for index, mark in enumerate(GOOD)]
    worse = [(index % 2, mark if index % 2 else 1 - mark) for index, mark in enumerate(BAD)]
    task = Asked("catcola", "ca", values=labels, metric="mcc", aggregation="matthews_corrcoef", chance=0.0)
    found = compared(rows("aa", task), rows("bb", replace(task, values=worse)))
    assert found.tasks[0].difference.test == "paired jackknife"
    assert found.languages[0].better == "A"
    assert found.tasks[0].difference.only_a is None
    assert task_rows(found.tasks)[0][-3:] == ["-", "-", "A"]


def test_the_paired_bootstrap_is_a_second_opinion() -> None:
    """Of right or wrong, graded, corpus and document scores; where it disagrees with the test, that is told."""
    draw = random.Random(4)
    right = [int(draw.random() < 0.5) for _ in range(200)]
    labels = [(draw.randrange(2), draw.randrange(2)) for _ in range(200)]
    documents = [(-draw.uniform(50, 90), 40 + draw.randrange(20)) for _ in range(40)]
    for values, other, more in (
        (right, [int(not value) if draw.random() < 0.1 else value for value in right], {}),
        (labels, [(gold, gold) if draw.random() < 0.1 else (gold, found) for gold, found in labels], {"metric": "mcc", "aggregation": "matthews_corrcoef"}),
        (documents, [(value * 0.99, size) for value, size in documents], {"metric": "bits_per_byte", "aggregation": "bits_per_byte"}),
    ):
        (task,) = compared(*(rows(name, Asked("t", values=side, **more)) for name, side in (("a", values), ("b", other)))).tasks
        assert task.bootstrap is not None
        low, high = task.bootstrap
        interval = task.difference.interval
        assert low < interval.value < high
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.2 * (interval.high - interval.low))
        assert not task.remarks
    # twelve passages of five items: 15 items more for A, 3 for B
    nets = (-2, 2, 0, 2, 2, 1, 0, 1, 3, 2, -1, 0)
    sides = [[mark for net in nets for mark in [1] * max(sign * net, 0) + [0] * (5 - max(sign * net, 0))] for sign in (1, -1)]
    passages = [str(number) for number in range(len(nets)) for _ in range(5)]
    a, b = (rows(name, Asked("t", right=side, clusters=passages)) for name, side in zip("ab", sides, strict=True))
    (task,) = compared(a, b).tasks
    assert task.difference.p > 0.05
    assert task.bootstrap
    assert task.bootstrap[0] > 0
    assert re.fullmatch(r"a close call: the paired bootstrap gives \+0\.\d+ to \+0\.\d+, and so a difference", task.remarks[0])
    assert not task.better


def test_languages_can_be_chosen() -> None:
    a = rows("aa", Asked("xnli_eu", right=GOOD), Asked("paws_gl", "gl", right=GOOD))
    assert [entry.task for entry in compared(a, a, languages=["gl"]).tasks] == ["paws_gl"]


def test_rows_of_two_models_on_one_side_are_refused() -> None:
    a, b = rows("aa", Asked("xnli_eu", right=GOOD)), rows("bb", Asked("paws_gl", "gl", right=GOOD))
    both = (a[0] + b[0], a[1] + b[1])
    with pytest.raises(DataError, match=r"A holds results of 2 models \(aa \(aaaaaaaaaaaa\), bb \(bbbbbbbbbbbb\)\)"):
        compared(both, a)


def test_rows_of_another_format_are_refused() -> None:
    a = rows("aa", Asked("xnli_eu", right=GOOD))
    with pytest.raises(DataError, match="B: its items have no column 'item_hash'"):
        compare(items_table(a), items_table(a).drop_columns(["item_hash"]), results_table(a), results_table(a))


def test_everything_is_json_without_what_is_no_number() -> None:
    one = Asked("xnli_eu", right=[1])
    found = json.loads(json.dumps(compared(rows("aa", one), rows("bb", one)).as_json(), allow_nan=False))
    assert found["tasks"][0]["a"]["stderr"] is None
    assert found["tasks"][0]["detectable"] is None
    assert found["without_mean"] == ["eu"]


# --- the command


def run_command(*arguments: str) -> None:
    """`iberlm compare`; errors are raised."""
    assert run_tool(["compare", *arguments]) == 0


def write_evaluation(folder: Path, found: Tables) -> Path:
    """What `iberlm evaluate` leaves."""
    folder.mkdir(parents=True)
    pq.write_table(items_table(found), folder / "items.parquet")
    pq.write_table(results_table(found), folder / "results.parquet")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Output folders of two evaluations; the first within the folder of a run."""
    write_evaluation(tmp_path / "run" / "evaluate", rows("aa", Asked("xnli_eu", right=GOOD), Asked("paws_gl", "gl", right=GOOD)))
    return tmp_path / "run", write_evaluation(tmp_path / "b", rows("bb", Asked("xnli_eu", right=BAD), Asked("paws_gl", "gl", right=NEARLY)))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two models, one of them in two types of number."""
    found = Store(tmp_path / "store")
    task = Asked("xnli_eu", right=GOOD)
    found.append(*rows("aa", task, replace(task, right=NEARLY, settings={"dtype": "bfloat16", "task_key": "other", "created": 0.5})))
    found.append(*rows("bb", replace(task, right=BAD)))
    return found.folder


def test_the_command_compares_two_evaluations_in_plain_text(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run_command(str(folders[0]), str(folders[1]), "--items", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["A: aa (aaaaaaaaaaaa)", "B: bb (bbbbbbbbbbbb)"]
    assert lines[3].startswith("A is better on eu (+60.0 points, 95% interval ")
    header = next(index for index, line in enumerate(lines) if line.startswith("task "))
    assert lines[header].split() == "task metric items A B A - B 95% interval p Holm unseen below only A only B better".split()
    assert lines[header + 1].split()[:6] == ["xnli_eu", "acc", "200", "0.850", "0.550", "+0.300"]
    assert lines[header + 1].split()[-1] == "A"
    assert "changed in paws_gl: 4 of 200 items" in lines
    start = lines.index("changed in paws_gl: 4 of 200 items")
    assert [line.split(":")[0] for line in lines[start + 1 : start + 3]] == ["  paws_gl-3", "  paws_gl-50"]


def test_the_command_writes_everything_as_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run_command(str(folders[0]), str(folders[1]), "--json", str(tmp_path / "found.json"), "--language", "gl")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [task["task"] for task in found["tasks"]] == ["paws_gl"]
    assert len(found["tasks"][0]["changed"]) == 4
    assert found["languages"]["gl"]["better"] == ""


@pytest.mark.parametrize(("a", "b"), [("aa", "bb"), ("a" * 64, "bbbbbb")])
def test_models_of_a_store_are_found_by_name_and_hash(a: str, b: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(a, b, "--store", str(store))
    assert "A is better on eu" in capsys.readouterr().out


def test_two_settings_of_a_model_of_a_store_are_compared(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("aa@dtype=float32", "aa@dtype=bfloat16", "--store", str(store))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["A: aa (aaaaaaaaaaaa) dtype=float32", "B: aa (aaaaaaaaaaaa) dtype=bfloat16"]
    assert any(line.split()[:5] == ["xnli_eu*", "acc", "200", "0.850", f"{sum(NEARLY) / 200:.3f}"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["nowhere", "bb"], ConfigError, r"nowhere holds no results.parquet and items.parquet.*give --store STORE"),
        (["cc", "bb", "--store", "STORE"], ConfigError, r"has no model 'cc'; there are:\n  aaaaaaaaaaaa  aa\n  bbbbbbbbbbbb  bb"),
        (["aa", "bb", "--store", "none"], ConfigError, "there is no folder none"),
        (["aa@dtype=int8", "bb", "--store", "STORE"], ConfigError, "no rows with dtype=int8; there are bfloat16, float32"),
        (["aa@colour=red", "bb", "--store", "STORE"], ConfigError, "'colour=red' in 'aa@colour=red' is no setting; write NAME@SETTING=VALUE with num_fewshot"),
        (["aa", "bb", "--store", "STORE", "--language", "va"], ConfigError, "for Valencian write 'ca-valencia'"),
        (["aa", "bb", "--store", "STORE", "--across", "dtype"], ConfigError, "unknown setting 'dtype'; choose among num_fewshot, template"),
    ],
)
def test_what_the_command_cannot_do_is_told(arguments: list[str], error: type[Exception], told: str, store: Path) -> None:
    with pytest.raises(error, match=told):
        run_command(*[str(store) if argument == "STORE" else argument for argument in arguments])


def test_a_name_of_two_models_is_not_guessed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for model in ("aa", "bb"):
        items, results = rows(model, Asked("xnli_eu", right=GOOD))
        store.append([{**row, "model_name": "tiny"} for row in items], [{**row, "model_name": "tiny"} for row in results])
    with pytest.raises(ConfigError, match=r"'tiny' may be 2 models of .*; give one by its hash:\n  aaaaaaaaaaaa  tiny\n  bbbbbbbbbbbb  tiny"):
        run_command("tiny", "bb", "--store", str(store.folder))


def test_a_damaged_table_is_told(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "items.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptError, match=r"items.parquet: is damaged"):
        run_command(str(folders[0]), str(folders[1]))


def test_neither_torch_nor_the_harness_is_imported(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys; from iberlm.cli.tools import run_tool; run_tool(['compare', *sys.argv[1:]]); "
        "print([name for name in ('torch', 'transformers', 'lm_eval') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folders[0]), str(folders[1])], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("columns", "shown", "left_out"), [("200", "only A", ""), ("80", "Holm", "metric, items, p, unseen below, only A, only B")])
def test_a_narrow_terminal_goes_without_some_columns(folders: tuple[Path, Path], columns: str, shown: str, left_out: str) -> None:
    leader, follower = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "iberlm", "compare", *map(str, folders)],
        stdout=follower,
        env={**os.environ, "COLUMNS": columns, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(follower)
    text = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # how a terminal ends
            break
        if not block:
            break
        text += block
    os.close(leader)
    assert run.wait() == 0
    lines = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).split())
    assert f" {shown} " in lines
    assert "xnli_eu" in lines
    assert lines.partition("the terminal is too narrow for: ")[2].partition(" p: two-sided")[0] == left_out
