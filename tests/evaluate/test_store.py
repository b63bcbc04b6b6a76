"""The result store answers by the rows alone: whatever the files, their order, the writers, the kills and the machines."""

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.cli import results_tool
from iberlm.core.errors import ConfigError, CorruptError, DataError, ResourceError
from iberlm.evaluate.store import order
from iberlm.evaluate.store.journal import Journal, writing
from iberlm.evaluate.store.merge import compact, merge
from iberlm.evaluate.store.schema import FORMAT, ITEM_SCHEMA, KEY, RESULT_KEY, RESULT_SCHEMA, item_key
from iberlm.evaluate.store.segment import ITEMS, RESULTS, read_segment, segments
from iberlm.evaluate.store.store import Store

MODELS = ["a" * 64, "a" * 20 + "b" * 44, "c" * 64]
"""The first two begin alike, and share a folder."""


def item(model: str = MODELS[0], task: str = "xnli_eu", number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row with the columns that decide, and a few others."""
    row: dict[str, Any] = {
        "model": model, "task": task, "version": "1.0", "prompt_hash": f"hash of {number}", "num_fewshot": 0, "template": "none",
        "backend": "transformers", "dtype": "float32", "item": number, "prompt": f"Galdera {number}", "choices": ["bai", "ez"],
        "responses": json.dumps([[-number / 3, False], [-1.5, True]]), "score": 1.0, "created": 1000.0 + number, "model_name": "latxa",
    }  # fmt: skip
    row |= changes
    return row | {"key": item_key(row)}


def result(model: str = MODELS[0], task: str = "xnli_eu", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": model, "task": task, "version": "1.0", "task_key": "t", "group": "", "metric": "acc", "backend": "transformers",
        "dtype": "float32", "value": 0.5, "created": 1000.0,
    }  # fmt: skip
    return row | changes


def filled(folder: Path, models: int = 2, tasks: int = 3, items: int = 4) -> Store:
    store = Store(folder)
    for model, task in itertools.product(MODELS[:models], range(tasks)):
        store.append([item(model, f"task{task}", number) for number in range(items)], [result(model, f"task{task}")])
    return store


def files(folder: Path, kind: str = ITEMS) -> list[Path]:
    return segments(folder, kind)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# what is kept


def test_rows_come_back_with_null_for_what_they_lack_and_with_their_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.items().num_rows == store.results().num_rows == 0
    assert not (tmp_path / "store").exists()
    rows = [item(number=2), item(number=0), item(number=1)]
    store.append([{name: value for name, value in row.items() if name != "key"} for row in rows], [result()])
    found = store.items()
    assert found.schema.equals(ITEM_SCHEMA, check_metadata=True)
    assert found["item"].to_pylist() == [0, 1, 2]
    empty = dict.fromkeys(ITEM_SCHEMA.names)
    assert found.to_pylist() == [empty | row for row in sorted(rows, key=lambda row: row["item"])]
    assert store.answered(MODELS[0], "xnli_eu") == sorted((empty | row for row in rows), key=lambda row: (row["created"], row["item"]))
    assert store.results().to_pylist() == [dict.fromkeys(RESULT_SCHEMA.names) | result()]
    assert store.results().schema.equals(RESULT_SCHEMA, check_metadata=True)
    assert json.loads((tmp_path / "store" / "store.json").read_text()) == {"format": FORMAT}


def test_rows_are_chosen_by_model_task_and_key(tmp_path: Path) -> None:
    store = filled(tmp_path, models=3)
    assert store.items(model=MODELS[1]).num_rows == 12
    assert set(store.items(model=MODELS[1])["model"].to_pylist()) == {MODELS[1]}
    assert store.items(tasks=["task1", "task2"]).num_rows == 24
    assert store.items(model="nobody").num_rows == store.items(tasks=["nothing"]).num_rows == store.items(keys=[]).num_rows == 0
    wanted = item(MODELS[0], "task1", 3)["key"]
    assert store.items(keys=iter([wanted]))["item"].to_pylist() == [3]
    assert store.results(model=MODELS[2]).num_rows == 3
    assert store.results(model=MODELS[2], tasks=["task1"])["task"].to_pylist() == ["task1"]
    narrow = store.items(columns=["score", "task"])
    assert narrow.schema.names == ["task", "score"]
    assert narrow.num_rows == 36


@pytest.mark.parametrize("task", ["a/b", "a.b", "_several", "ñ", "x" * 300, "x" * 299 + "y"])
def test_any_name_of_a_task_is_told_apart(tmp_path: Path, task: str) -> None:
    store = Store(tmp_path)
    others = ["a", "x" * 299 + "z"]
    store.append([item(task=name) for name in [task, *others]])
    assert store.items(tasks=[task])["task"].to_pylist() == [task]
    compact(tmp_path)
    assert store.items(tasks=[task])["task"].to_pylist() == [task]
    assert store.items().num_rows == 3


@pytest.mark.parametrize("row", [item() | {"prompts": ""}, {name: value for name, value in item().items() if name != "model"}, item() | {"task": None}])
def test_a_row_that_would_be_lost_in_part_is_a_defect(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"items: (unknown column 'prompts'|a row without '(model|task)')"):
        Store(tmp_path / "store").append([row], [])
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("wide_bytes", [1, 1 << 12])
def test_more_text_than_one_array_holds_is_put_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide_bytes: int) -> None:
    rows = [item(number=number, choices=["ñ" * number, "b"], id=None) for number in range(40)]
    for part in (rows[30:], rows[:10], rows[10:30][::-1]):
        Store(tmp_path).append(part)
    expected = Store(tmp_path).items()
    monkeypatch.setattr(order, "WIDE_BYTES", wide_bytes)  # the limit itself is at 2 GiB
    found = Store(tmp_path).items()
    assert found["item"].to_pylist() == list(range(40))
    assert found.equals(expected)
    assert found.schema.equals(ITEM_SCHEMA)


# which row is true


def reference(rows: list[dict[str, Any]], identity: tuple[str, ...], newest: bool) -> list[dict[str, Any]]:
    """The documented rule, said in plain Python."""
    found: dict[Any, dict[str, Any]] = {}
    best = max if newest else min
    missing = float("-inf") if newest else float("inf")

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        return (missing if row["created"] is None else row["created"], json.dumps(row, sort_keys=True))

    for row in rows:
        place = tuple(row[name] for name in identity)
        found[place] = best([row, found.get(place, row)], key=rank)
    return [found[place] for place in sorted(found)]


NARROW_ITEMS = st.builds(
    item,
    st.sampled_from(MODELS),
    st.sampled_from(["t1", "t2"]),
    st.integers(0, 2),
    num_fewshot=st.sampled_from([0, 5]),
    created=st.sampled_from([1.0, 2.0, None]),
    responses=st.sampled_from(["[1]", "[2]"]),
    score=st.sampled_from([0.0, 1.0, None, float("nan")]),
    choices=st.sampled_from([[], ["a"], None]),
)
NARROW_RESULTS = st.builds(
    result, st.sampled_from(MODELS), st.sampled_from(["t1", "t2"]), created=st.sampled_from([1.0, 2.0, None]), value=st.sampled_from([0.1, 0.2])
)


def canonical(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, sort_keys=True)


@settings(max_examples=25, deadline=None)
@given(st.lists(NARROW_ITEMS, max_size=12), st.lists(NARROW_RESULTS, max_size=6), st.randoms(use_true_random=False), st.booleans())
def test_the_earliest_answer_and_the_newest_result_count_whatever_the_files(
    items: list[dict[str, Any]], results: list[dict[str, Any]], draw: random.Random, compacted: bool
) -> None:
    empty_item, empty_result = dict.fromkeys(ITEM_SCHEMA.names), dict.fromkeys(RESULT_SCHEMA.names)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        shuffled = [*items, *draw.sample(items, len(items) // 2)]
        draw.shuffle(shuffled)
        while shuffled:
            size = draw.randint(1, 4)
            store.append(shuffled[:size])
            shuffled = shuffled[size:]
        for row in results:
            store.append([], [row])
        if compacted and (items or results):
            compact(Path(folder))
            assert len(files(Path(folder))) <= len({row["model"] for row in items})
        expected = reference([empty_item | row for row in items], ("model", "task", "item", "key"), newest=False)
        assert canonical(store.items().to_pylist()) == canonical(expected)
        narrow = [{name: row[name] for name in ("item", "responses")} for row in expected]
        assert canonical(store.items(columns=["responses", "item"]).to_pylist()) == canonical(narrow)
        assert canonical(store.results().to_pylist()) == canonical(reference([empty_result | row for row in results], RESULT_KEY, newest=True))


ROWS = st.tuples(st.lists(NARROW_ITEMS, max_size=5), st.lists(NARROW_RESULTS, max_size=3))


@settings(max_examples=10, deadline=None)
@given(st.tuples(ROWS, ROWS, ROWS))
def test_merging_is_commutative_associative_and_idempotent(rows: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...]) -> None:
    def answers(folder: Path) -> tuple[str, str]:
        return canonical(Store(folder).items().to_pylist()), canonical(Store(folder).results().to_pylist())

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        stores = [root / letter for letter in "abc"]
        for folder, (items, results) in zip(stores, rows, strict=True):
            Store(folder).append(items, results)
        orders = (stores, stores[::-1], [stores[1], stores[2], stores[0]])
        merged = [merge(root / f"m{index}", *order) for index, order in enumerate(orders)]
        assert len({json.dumps([one.items, one.results, [str(conflict) for conflict in one.conflicts]]) for one in merged}) == 1
        merge(root / "pair", stores[1], stores[2])
        compact(root / "pair")
        merge(root / "nested", stores[0], root / "pair")
        assert len({answers(root / folder) for folder in ("m0", "m1", "m2", "nested")}) == 1
        before = snapshot(root / "m0")
        again = merge(root / "m0", *stores)
        assert (again.files, again.items, again.results) == (0, 0, 0)
        assert snapshot(root / "m0") == before
        compact(root / "m0")
        compacted = snapshot(root / "m0")
        assert merge(root / "m0", *stores).files == 0  # every row of theirs is there
        assert compact(root / "m0").before == len([path for path in compacted if path.endswith(".parquet")])
        assert snapshot(root / "m0") == compacted
        assert answers(root / "m0") == answers(root / "m1")


def test_a_merge_counts_what_is_new_and_names_answers_that_differ(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "a", models=1), filled(tmp_path / "b", models=2)
    second.append([item(MODELS[0], "task1", number, responses="[other]", created=5.0 + number) for number in range(2)])
    merged = merge(tmp_path / "a", tmp_path / "b")
    assert (merged.items, merged.results, merged.files) == (12, 3, 7)
    assert merged.sentences() == [
        "12 items and 3 results were new (7 files)",
        "latxa, task1: the same request was answered differently for 2 items; the earliest answers count",
    ]
    assert first.items(model=MODELS[0], tasks=["task1"])["responses"].to_pylist()[:2] == ["[other]", "[other]"]


@pytest.mark.parametrize("other", ["missing", "file", "foreign"])
def test_only_stores_are_merged(tmp_path: Path, other: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(DataError, match=rf"{other}: is no result store"):
        merge(tmp_path / "into", tmp_path / other)
    assert not (tmp_path / "into").exists()
    filled(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="a store cannot be merged into itself"):
        merge(tmp_path / "a", tmp_path / "link")


def test_a_merge_heals_a_file_that_was_cut_short_and_takes_over_none(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    victim = files(tmp_path / "a")[0]
    victim.write_bytes(victim.read_bytes()[:100])
    before = snapshot(tmp_path / "b")
    with pytest.raises(CorruptError, match=victim.name):
        merge(tmp_path / "b", tmp_path / "a")
    assert snapshot(tmp_path / "b") == before
    victim.unlink()
    assert merge(tmp_path / "a", tmp_path / "b").items == 4
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


# damage, other versions, other folders


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_front(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1000:])


def zero_data(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(400) + content[404:])


def replace_by_text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize("damage", [empty, cut_footer, cut_front, zero_data, replace_by_text])
def test_a_damaged_file_is_named_and_can_be_set_aside(tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]) -> None:
    store = filled(tmp_path / "store")
    victim = files(tmp_path / "store")[1]
    damage(victim)
    with pytest.raises(CorruptError, match=rf"{victim.name}: is damaged \(\d+ bytes; .*iberlm results check --set-aside {tmp_path}/store$"):
        store.items()
    assert store.results().num_rows == 6
    with pytest.raises(CorruptError, match=victim.name):
        compact(tmp_path / "store")
    with pytest.raises(CorruptError, match=rf"files that cannot be used: 1\n.*{victim.name}"):
        results_tool.check_store(tmp_path / "store")
    content = victim.read_bytes()
    assert store.set_aside_damaged() == [victim.with_name(victim.name + ".damaged")]
    assert f"{victim.name} is damaged; set aside as {victim.name}.damaged" in capsys.readouterr().err
    assert victim.with_name(victim.name + ".damaged").read_bytes() == content
    assert store.items().num_rows == 20
    store.append([item(model, f"task{task}", number) for model in MODELS[:2] for task in range(3) for number in range(4)])
    assert store.items().num_rows == 24
    assert store.set_aside_damaged() == []


def test_damage_that_still_can_be_read_is_found_by_the_name(tmp_path: Path) -> None:
    store = filled(tmp_path, models=1)
    victim = files(tmp_path)[0]
    pq.write_table(pq.read_table(victim).slice(1), victim)
    assert [path for path, _ in store.check()] == [victim]


def test_a_wrong_key_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append([item() | {"key": "0" * 64}])
    ((_, error),) = store.check()
    assert "the key 000000000000 of a row is not that of its columns" in str(error)
    assert store.set_aside_damaged() == []
    assert len(store.set_aside_damaged(thorough=True)) == 1
    assert store.items().num_rows == 0


def test_a_store_of_a_newer_version_is_neither_read_nor_written(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    before = snapshot(tmp_path)
    message = rf"was written by a newer version of IberLM \(format {FORMAT + 1}; this one knows {FORMAT}\); update IberLM"
    for use in (lambda: Store(tmp_path), lambda: store.append([item()]), lambda: merge(tmp_path / "other", tmp_path), lambda: compact(tmp_path)):
        with pytest.raises(DataError, match=message):
            use()
    assert snapshot(tmp_path) == before


def rewrite(path: Path, table: pa.Table) -> Path:
    """Put a file in place of another as another version would have written it: under the name of its content."""
    path.unlink()
    pq.write_table(table, path)
    return path.rename(path.with_name(f"{path.name.split('.')[0]}.{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.parquet"))


def test_a_file_of_a_newer_version_is_not_read_and_not_taken_for_damaged(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = files(tmp_path)[0]
    path = rewrite(path, pq.read_table(path).replace_schema_metadata({b"iberlm_store_format": b"99"}))
    with pytest.raises(DataError, match=rf"{path.name}: was written by a newer version of IberLM \(format 99"):
        store.items()
    assert store.set_aside_damaged() == []


def test_columns_that_are_not_known_are_kept_and_those_that_lack_are_null(tmp_path: Path) -> None:
    store = filled(tmp_path, models=1, tasks=2)
    first, second = files(tmp_path)
    richer = pq.read_table(first).append_column("mood", pa.array(["good"] * 4)).append_column("at", pa.array([0] * 4, pa.timestamp("s")))
    rewrite(first, richer)
    poorer = pq.read_table(second).drop_columns(["prompt", "score"])
    rewrite(second, poorer.set_column(poorer.schema.names.index("item"), "item", poorer["item"].cast(pa.int64())))
    found = store.items()
    assert found.schema.equals(ITEM_SCHEMA)
    assert found["prompt"].null_count == found["score"].null_count == 4
    compact(tmp_path)
    assert store.items().equals(found)
    (path,) = files(tmp_path)
    assert read_segment(path)["mood"].to_pylist() == ["good"] * 4 + [None] * 4


@pytest.mark.parametrize("mark", ["", "{}", '{"format": "x"}', "[1]", '{"format": true'])
def test_a_damaged_mark_is_said_with_its_mend(tmp_path: Path, mark: str) -> None:
    filled(tmp_path)
    (tmp_path / "store.json").write_text(mark)
    with pytest.raises(CorruptError, match=r'store.json: is damaged; .* write \{"format": 1\} into it'):
        Store(tmp_path)


def test_a_folder_with_other_files_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"is no result store: it has no store.json, but other files \(thesis.tex\); choose another folder"):
        Store(tmp_path)
    with pytest.raises(DataError, match="is, or lies below, a file; a result store is a folder"):
        Store(tmp_path / "thesis.tex")
    with pytest.raises(DataError, match="is, or lies below, a file; a result store is a folder"):
        Store(tmp_path / "thesis.tex" / "store")


def test_a_store_on_a_read_only_disk_is_read_and_a_full_one_is_said(small_disk: Path) -> None:
    store = filled(small_disk / "store")
    noise = random.Random(0).randbytes(12 << 20).hex()
    with pytest.raises(ResourceError, match=r"the disk \(or quota\) is full"):
        store.append([item(number=99, prompt=noise), item(number=100, prompt=noise[::-1])])
    assert not [path for path in small_disk.rglob("*") if "partial" in path.name]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert Store(small_disk / "store").items().num_rows == 24
    for use in (lambda: store.append([item(number=99)]), lambda: Store(small_disk / "other").append(), lambda: compact(small_disk / "store")):
        with pytest.raises(ResourceError, match=r"cannot be written \(Read-only file system\)"):
            use()


# several processes

COMMON = "import sys; from pathlib import Path; from tests.evaluate.test_store import *; folder = Path(sys.argv[1])\n"
APPEND = """
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 30):
    Store(folder).append([item(MODELS[number % 2], "t", number), item(MODELS[0], "same", number % 3)], [result(task=f"t{number}")])
"""
READ = """
seen = 0
while seen < 45:
    found = Store(folder).items(tasks=["t"]).num_rows
    assert found >= seen, (found, seen)
    seen = found
"""
COMPACT = "for _ in range(6): compact(folder)"
APPEND_FOREVER = """
number = int(sys.argv[2])
while True:
    Store(folder).append([item(number=number)], [result(task=f"t{number}")])
    print(number, flush=True)
    number += 1
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_writers_readers_and_a_compaction_do_not_disturb_each_other(tmp_path: Path) -> None:
    Store(tmp_path).append([item(MODELS[0], "t", 999)], [result()])
    processes = [start(APPEND, tmp_path, 0), start(APPEND, tmp_path, 30), start(READ, tmp_path), start(COMPACT, tmp_path)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    store = Store(tmp_path)
    assert sorted(store.items(tasks=["t"])["item"].to_pylist()) == [*range(60), 999]
    assert store.items(tasks=["same"]).num_rows == 3
    assert store.results().num_rows == 61
    assert list(store.check()) == []


def test_a_killed_writer_leaves_whole_files_only(tmp_path: Path) -> None:
    draw = random.Random(0)
    number = 0
    for _ in range(6):
        process = start(APPEND_FOREVER, tmp_path, number)
        assert process.stdout
        for _ in range(draw.randint(1, 10)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = Store(tmp_path)
        assert list(store.check()) == []
        numbers = store.items()["item"].to_pylist()
        assert numbers == list(range(len(numbers)))
        assert len(numbers) - store.results().num_rows in (0, 1)
        number = len(numbers)


def test_what_a_killed_writer_left_is_ignored_and_one_day_removed(tmp_path: Path) -> None:
    filled(tmp_path)
    place = files(tmp_path)[0]
    old, young = (place.with_name(f".{name}.host-1.partial.parquet") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    store = Store(tmp_path)
    assert store.items().num_rows == 24
    store.append([item(number=77)])
    assert not old.exists()
    assert young.exists()  # somebody may be writing it


def test_two_processes_may_create_a_store_at_once(tmp_path: Path) -> None:
    processes = [start("Store(folder).append([item(number=int(sys.argv[2]))])", tmp_path / "new", number) for number in range(3)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert Store(tmp_path / "new").items()["item"].to_pylist() == [0, 1, 2]


# the command line, and what it may cost


def command(*arguments: object) -> None:
    results_tool.app(args=[str(argument) for argument in arguments], standalone_mode=False)


def test_the_tool_lists_merges_checks_and_compacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path / "a", models=1)
    store = filled(tmp_path / "b")
    store.append([item(MODELS[0], "open", number, model_name="latxa") for number in range(7)])
    command("merge", tmp_path / "c", tmp_path / "a", tmp_path / "b")
    assert capsys.readouterr().out == "31 items and 6 results were new (13 files)\n"
    command("list", tmp_path / "c")
    listed = capsys.readouterr().out
    assert listed.splitlines() == [
        "[1] latxa (aaaaaaaaaaaa, transformers, float32)",
        "[2] latxa (aaaaaaaaaaaa, transformers, float32)",
        "            [1]       [2]",
        "open         7+         -",
        "task0         4         4",
        "task1         4         4",
        "task2         4         4",
        "",
        "31 items, 4 tasks, 2 models",
    ]
    command("compact", tmp_path / "c")
    assert capsys.readouterr().out == f"{tmp_path}/c: 13 files before, 4 after\n"
    command("list", tmp_path / "c")
    assert capsys.readouterr().out == listed
    command("check", tmp_path / "c")
    assert capsys.readouterr().out == f"{tmp_path}/c: 2 files of items and 2 of results, all whole; every key is right\n"
    files(tmp_path / "c")[0].write_bytes(b"")
    command("check", "--set-aside", tmp_path / "c")
    assert "1 files of items and 2 of results, all whole" in capsys.readouterr().out
    with pytest.raises(DataError, match="has no items of a model 'salamandra'"):
        command("list", tmp_path / "c", "--model", "salamandra")
    for tool in ("list", "check", "compact"):
        with pytest.raises(DataError, match=r"nowhere: is no result store: it has no store\.json"):
            command(tool, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_has_just_begun_says_what_its_journal_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(tmp_path, "reading_es.v1-0a1b"), Journal(tmp_path, "reading_es.v1-0a1b") as journal:
        who = f"process {os.getpid()} on {socket.gethostname()}"
        command("list", tmp_path)
        listed = capsys.readouterr().out.splitlines()
        going_on = "the same evaluation goes on from there"
        assert listed == [f"{tmp_path}: no result yet", f"unfinished: reading_es.v1-0a1b, begun by {who}, no answer in the journal yet; {going_on}"]
        journal.note("0", [[-1.5, True]])
        with Journal(tmp_path, "copa_eu", "rank 0") as other:
            other.note("0", [])
        command("list", tmp_path)
        assert capsys.readouterr().out.splitlines()[1:] == [
            f"unfinished: copa_eu, 1 slice in the journal; {going_on}",
            f"unfinished: reading_es.v1-0a1b, begun by {who}, 1 slice in the journal; {going_on}",
        ]
        command("check", tmp_path)
        checked = capsys.readouterr().out.splitlines()
        assert checked[0] == f"{tmp_path}: no result yet"
        assert checked[1] == f"unfinished: copa_eu, 1 slice in the journal; {going_on}"
        for words in (("compact", tmp_path), ("merge", tmp_path / "into", tmp_path)):
            with pytest.raises(DataError) as refused:
                command(*words)
            assert str(refused.value).splitlines()[0] == f"{tmp_path}: has no result yet"
            assert [line.strip() for line in str(refused.value).splitlines()[1:]] == checked[1:]
        assert not (tmp_path / "into").exists()
    Store(tmp_path).append()
    for path in (tmp_path / "journal").iterdir():
        path.unlink()
    for words in (("list", tmp_path, "--model", "latxa"), ("check", tmp_path)):
        command(*words)
        assert capsys.readouterr().out.splitlines() == [f"{tmp_path}: no result yet", "nothing is in the journal either"]


def test_only_the_files_that_may_have_an_answer_are_opened(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for path in files(tmp_path):
        if path.name.partition(".")[0] != "task1":
            empty(path)
    assert store.items(tasks=["task1"]).num_rows == 8
    assert len(store.answered(MODELS[0], "task1")) == 4


def test_a_store_is_read_without_torch_and_without_the_harness() -> None:
    code = "import sys, iberlm.evaluate.store.merge; print([n for n in ('torch', 'lm_eval', 'transformers', 'datasets', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_key_of_an_answer_is_made_of_all_that_decides_it() -> None:
    base = item()
    changed = {name: item_key(base | {name: 7 if isinstance(base[name], int) else "other"}) for name in KEY}
    assert len({base["key"], *changed.values()}) == len(KEY) + 1
    assert {item_key(base | {name: None}) for name in ITEM_SCHEMA.names if name not in KEY} == {base["key"]}


def test_results_lie_in_files_of_their_own(tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(files(tmp_path, RESULTS)) == len(files(tmp_path)) == 6


def test_merging_a_good_store_heals_a_damaged_one(tmp_path: Path) -> None:
    good, damaged = filled(tmp_path / "good"), filled(tmp_path / "damaged")
    place = next(iter(segments(damaged.folder, "items")))
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    assert list(damaged.check())
    merge(damaged.folder, good.folder)
    assert not list(damaged.check())
    assert damaged.items().equals(good.items())


def test_an_evaluation_looks_through_the_items_of_its_own_model_only(tmp_path: Path) -> None:
    store = filled(tmp_path, models=3)
    for model in (MODELS[0], MODELS[2]):  # whose files lie in folders of their own
        place = segments(store.folder, ITEMS, model)[0]
        place.write_bytes(place.read_bytes()[:-20])
    assert [path.parent.name[0] for path in store.set_aside_damaged(model=MODELS[0])] == ["a"]
    assert [path.parent.name[0] for path in store.set_aside_damaged()] == ["c"]
