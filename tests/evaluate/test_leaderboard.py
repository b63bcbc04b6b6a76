"""The leaderboard's board: who is shown, what is compared, who is first, what is missing; and the files that become of it."""

import dataclasses
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from lxml import html
from typer.testing import CliRunner

from iberlm.cli.hydra_app import compose_settings
from iberlm.cli.leaderboard_tool import leaderboard
from iberlm.cli.verbs import VERBS
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_json
from iberlm.core.languages import LANGUAGES
from iberlm.evaluate.catalogue import catalogue
from iberlm.evaluate.leaderboard.board import Board, places
from iberlm.evaluate.leaderboard.gather import gather
from iberlm.evaluate.leaderboard.means import in_order, standings
from iberlm.evaluate.leaderboard.missing import gaps
from iberlm.evaluate.leaderboard.publish import BEGUN, FORMATS, RECORD, Options, write_leaderboard
from iberlm.evaluate.leaderboard.views import shown, task_row, verdict
from iberlm.evaluate.leaderboard.wording import Slugs, number, short_names
from iberlm.evaluate.results import language_table
from iberlm.evaluate.statistics.intervals import Interval
from iberlm.evaluate.store.journal import Journal
from iberlm.evaluate.store.store import Store
from tests.evaluate.board_store import CHAT, HOSTILE, HOSTILE_TASK, LARGE, LONG, MODELS, PATH, SERVED, SMALL, TWIN, tasks_of, write_store

Row = dict[str, Any]
EU = tasks_of("eu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("board") / "store", items=104)


@pytest.fixture(scope="module")
def board(store: Path) -> Board:
    return gather([store])


def result(name: str, value: float, task: int = 0, **given: Any) -> Row:
    """A result row of one of the Basque tasks."""
    facts = EU[task]
    return {
        "model": sha256_json(name),
        "model_name": name,
        "task": facts.name,
        "version": "1.0",
        "task_key": sha256_json([facts.name, given.get("num_fewshot", 0), given.get("limit", 0), given.get("template", "none")]),
        "language": "eu",
        "family": facts.family,
        "measures": facts.measures,
        "group": "",
        "metric": "acc",
        "aggregation": "mean",
        "primary": True,
        "value": value,
        "stderr": 0.02,
        "low": value - 0.04,
        "high": value + 0.04,
        "n": 400,
        "clusters": 400,
        "chance": 0.5,
        "best": 1.0,
        "higher_is_better": True,
        "averaged": True,
        "num_fewshot": 0,
        "template": "none",
        "backend": "transformers",
        "dtype": "float32",
        "limit": 0,
        "prompts_hash": f"texts of {task}",
        "created": 1000.0,
        **given,
    }


def board_of(folder: Path, *rows: Row, **options: Any) -> Board:
    Store(folder / "store").append([], rows)
    return gather([folder / "store"], **options)


def labels(board: Board) -> list[str]:
    return [entrant.label for entrant in board.entrants]


def value_of(board: Board, label: str, task: int = 0) -> float:
    entrant = next(entrant for entrant in board.entrants if entrant.label == label)
    cell = board.cell(entrant, next(entry for entry in board.tasks if entry.name == EU[task].name))
    assert cell is not None
    return cell.value


# who is shown


def test_each_model_is_shown_in_each_of_its_settings(board: Board) -> None:
    assert len(board.entrants) == len(MODELS)
    assert {"a/model", "b/model", "iberlm/demo-1b", "iberlm/demo-7b (no chat template)", "iberlm/demo-7b (chat template)", LONG} <= set(labels(board))
    assert len(set(labels(board))) == len(MODELS)
    assert board.languages == list(LANGUAGES)


def test_raw_text_is_asked_without_a_template_and_counts_for_the_model_with_one_too(board: Board) -> None:
    raw = [task for task in board.tasks if task.name in catalogue() and catalogue()[task.name].raw_text]
    assert len(raw) > 5
    both = [entrant for entrant in board.entrants if entrant.model == LARGE.key]
    assert [entrant.template for entrant in both] == ["none", CHAT.template] or [entrant.template for entrant in both] == [CHAT.template, "none"]
    for task in raw:
        first, second = (board.cell(entrant, task) for entrant in both)
        assert first is not None
        assert second is not None
        assert first.row == second.row
    assert board.cell(both[0], board.tasks[0]) != board.cell(both[1], board.tasks[0])


def test_a_model_asked_with_several_numbers_of_shots_is_shown_with_each(tmp_path: Path) -> None:
    found = board_of(
        tmp_path,
        result("org/m", 0.6),
        result("org/m", 0.7, num_fewshot=5),
        result("org/m", 0.8, task=1),
        result("org/other", 0.5, num_fewshot=5),
    )
    assert labels(found) == ["org/m (0 shots)", "org/m (5 shots)", "org/other"]
    assert [value_of(found, label) for label in labels(found)] == [0.6, 0.7, 0.5]
    # asked in one way only: it belongs to both
    assert value_of(found, "org/m (0 shots)", 1) == value_of(found, "org/m (5 shots)", 1) == 0.8


def test_types_of_numbers_and_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = board_of(
        tmp_path,
        result("org/m", 0.6),
        result("org/m", 0.7, dtype="bfloat16"),
        result("/runs/x/final/model", 0.5),
        result("/runs/y/final/model", 0.5),
        result("copy", 0.4) | {"model_name": "one"},
        result("other", 0.4) | {"model_name": "one"},
    )
    assert "org/m (bfloat16)" in labels(found)
    assert "org/m (float32)" in labels(found)
    assert {"x/final/model", "y/final/model"} < set(labels(found))
    assert {f"one ({sha256_json(name)[:8]})" for name in ("copy", "other")} < set(labels(found))


def test_of_several_results_the_newest_that_was_not_cut_short_is_shown(tmp_path: Path) -> None:
    found = board_of(
        tmp_path,
        result("org/m", 0.6, created=1.0, task_key="a"),
        result("org/m", 0.7, created=2.0, task_key="b"),
        result("org/m", 0.9, created=3.0, task_key="c", limit=10, n=10),
    )
    assert value_of(found, "org/m") == 0.7


def test_names_can_be_given_and_models_chosen(tmp_path: Path) -> None:
    rows = [result("/runs/a/model", 0.6), result("org/b", 0.7), result("org/c", 0.8)]
    Store(tmp_path / "store").append([], rows)
    assert labels(gather([tmp_path / "store"], names={"/runs/a/model": "org/mine"}, models=["/runs/*", "org/c"])) == ["org/c", "org/mine"]
    assert labels(gather([tmp_path / "store"], models=[sha256_json("org/b")[:6]])) == ["org/b"]
    with pytest.raises(ConfigError, match=r"no model 'org/d'; there are:\n.*org/b"):
        gather([tmp_path / "store"], models=["org/d"])
    with pytest.raises(ConfigError, match="'org/d' names none of the models"):
        gather([tmp_path / "store"], names={"org/d": "x"})
    with pytest.raises(ConfigError, match="names 2 of the models"):
        gather([tmp_path / "store"], names={"org/*": "x"})


def test_several_stores_are_shown_as_one(store: Path, tmp_path: Path) -> None:
    whole = Store(store)
    tables = whole.results().to_pylist()
    items = whole.items().to_pylist()
    for name, mine in (("a", True), ("b", False)):
        Store(tmp_path / name).append(
            [row for row in items if (row["language"] in ("es", "ca")) is mine], [row for row in tables if (row["language"] in ("es", "ca")) is mine]
        )
    both = gather([tmp_path / "a", tmp_path / "b"])
    assert dataclasses.replace(both, stores=(str(store),)) == gather([store])


# what is compared


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"version": "2.0"}, "asked version 2.0 of the task, the others version 1.0"),
        ({"n": 10, "limit": 10}, "asked 10 items, the others 400"),
        ({"prompts_hash": "otherwise"}, "asked other texts than the others"),
    ],
)
def test_who_was_asked_other_questions_is_shown_but_not_ranked(tmp_path: Path, other: Row, why: str) -> None:
    found = board_of(tmp_path, result("org/a", 0.6), result("org/b", 0.7), result("org/c", 0.95, **other))
    task = found.tasks[0]
    asides = {entrant.label: cell.aside for entrant, cell in found.row_of(task)}
    assert asides["org/a"] == asides["org/b"] == ""
    assert why in asides["org/c"]
    means = standings(found)
    assert set(means.languages["eu"].means) == {0, 1}
    row = task_row(shown(found, means, {task.index: "x"}), task, found.entrants)
    assert [cell["first"] for _, cell in row["cells"]] == [False, True, False]


def test_another_template_or_number_of_shots_is_no_other_question(tmp_path: Path) -> None:
    found = board_of(
        tmp_path, result("org/a", 0.6), result("org/b", 0.7, template="c" * 64, prompts_hash="x"), result("org/c", 0.7, num_fewshot=5, prompts_hash="y")
    )
    assert [cell.aside for cell in found.cells.values()] == ["", "", ""]


def test_a_language_is_the_mean_over_its_tasks_as_the_stage_has_it(board: Board) -> None:
    means = standings(board)
    assert set(means.languages) == set(LANGUAGES)
    entrant = next(entrant for entrant in board.entrants if entrant.model == SMALL.key)
    rows = [cell.row for task in board.tasks for _, cell in board.row_of(task, [entrant]) if not cell.aside and task in means.core[task.language]]
    for language, found in language_table(rows).items():
        mean = means.languages[language].means[entrant.index]
        assert (mean.interval.value, mean.interval.low, mean.interval.high) == (found["value"], found["low"], found["high"])
        assert mean.complete
        assert mean.of == len(found["tasks"])
    overall = means.overall.means[entrant.index].interval
    assert overall.value == pytest.approx(sum(means.languages[language].means[entrant.index].interval.value for language in LANGUAGES) / 5)


def test_few_items_preferences_and_scales_without_chance_count_in_no_mean(board: Board) -> None:
    core = {task.name for tasks in standings(board).core.values() for task in tasks}
    assert core
    assert not core & {"minimal_pairs_es", "bits_per_byte_es", "variety_ca", "peninsular_es", HOSTILE_TASK}


def test_a_model_with_a_gap_has_a_mean_but_no_place(board: Board) -> None:
    means = standings(board)
    twin = next(entrant for entrant in board.entrants if entrant.model == TWIN.key)
    catalan = means.languages["ca"]
    assert (catalan.means[twin.index].tasks, catalan.means[twin.index].of) == (3, 4)
    assert twin.index not in catalan.places
    assert twin.index in means.languages["es"].places
    assert twin.index not in means.overall.places
    order = in_order(board, catalan)
    assert order.index(twin) > order.index(next(entrant for entrant in board.entrants if entrant.model == SMALL.key))


def test_a_task_that_one_model_alone_was_asked_does_not_make_the_others_incomplete(tmp_path: Path) -> None:
    rows = [result("org/a", 0.6), result("org/b", 0.7), result("org/c", 0.8), result("org/a", 0.9, task=1)]
    found = board_of(tmp_path, *rows)
    means = standings(found).languages["eu"]
    assert {mean.of for mean in means.means.values()} == {1}
    assert all(mean.complete for mean in means.means.values())
    # a suite says what the set is
    of_suite = standings(gather([tmp_path / "store"], suite="iberian"))
    assert {mean.of for mean in of_suite.languages["eu"].means.values()} == {2}
    assert len(of_suite.languages["eu"].places) == 1


def test_what_is_no_number_is_said_and_not_averaged(tmp_path: Path) -> None:
    found = board_of(tmp_path, result("org/a", math.nan, low=None, high=None), result("org/b", 0.7))
    assert list(standings(found).languages["eu"].means) == [1]
    write_leaderboard([tmp_path / "store"], tmp_path / "out", Options())
    assert "not a number" in (tmp_path / "out" / "index.html").read_text()


# who is first


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, 0.1, low, high, 10, 10)


def test_overlapping_intervals_share_their_places() -> None:
    assert places([interval(5, 6), interval(0, 1), interval(5.5, 7), None, interval(0.5, 5.2)]) == [(1, 3), (3, 4), (1, 2), None, (2, 4)]


def test_the_page_has_the_ends_of_intervals_to_the_last_bit(tmp_path: Path) -> None:
    end, lower = 0.7 + 1e-12, 0.7 - 1e-12
    rows = [result("org/a", 0.6, low=0.5, high=lower), result("org/b", 0.8, low=end, high=0.9)]
    view = board_of(tmp_path, *rows)
    write_leaderboard([tmp_path / "store"], tmp_path / "out", Options(formats=("html",), items=False))
    page = html.parse(str(tmp_path / "out" / "index.html"))
    overall = standings(view).overall
    means = {(mean.interval.low, mean.interval.high) for mean in overall.means.values()}
    assert {tuple(map(float, ends.split())) for ends in page.xpath("//td/@data-r")} == {(0.5, lower), (end, 0.9)} | means
    assert sorted(overall.places.values()) == [(1, 1), (2, 2)]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 30)), min_size=1, max_size=12))
def test_a_place_is_below_another_only_where_the_interval_is(ends: list[tuple[float, float]]) -> None:
    intervals = [interval(low, low + width) for low, width in ends]
    found = places(intervals)
    for mine, place in zip(intervals, found, strict=True):
        assert place is not None
        assert 1 <= place[0] <= place[1] <= len(intervals)
        for other, theirs in zip(intervals, found, strict=True):
            assert theirs is not None
            if mine.low > other.high:
                assert place[1] < theirs[1] or place[0] < theirs[0]
            if place[1] < theirs[0]:
                assert mine.low > other.high


def test_the_verdict_names_the_first_or_says_that_nobody_is(tmp_path: Path) -> None:
    found = board_of(tmp_path, result("org/a", 0.6), result("org/b", 0.9))
    standing = standings(found).languages["eu"]
    assert verdict(standing, in_order(found, standing)) == "org/b is first among 2 models with all tasks."
    Store(tmp_path / "store").append([], [result("org/c", 0.91)])
    found = gather([tmp_path / "store"])
    standing = standings(found).languages["eu"]
    assert verdict(standing, in_order(found, standing)) == "org/c and org/b share the first place: their intervals overlap."
    found = gather([tmp_path / "store"], models=["org/b", "org/c"])
    standing = standings(found).languages["eu"]
    assert "cannot be told apart" in verdict(standing, in_order(found, standing))


def test_where_lower_is_better_the_lowest_is_first(board: Board) -> None:
    task = next(task for task in board.tasks if task.name == "bits_per_byte_eu")
    row = task_row(shown(board, standings(board), dict.fromkeys(range(len(board.tasks)), "x")), task, board.entrants)
    values = {cell["text"]: cell["first"] for _, cell in row["cells"] if cell}
    assert values[min(values)]
    assert not values[max(values)]


# what is missing


def test_commands_fill_every_gap_and_nothing_else(board: Board) -> None:
    empty = {(entrant.index, task.name) for entrant in board.entrants for task in board.tasks if board.cell(entrant, task) is None}
    assert len(empty) > 10
    named = {(entrant.index, task.name) for entrant, found in gaps(board, board.entrants) for gap in found for task in gap.tasks}
    assert named == empty
    by_label = {entrant.label: found for entrant, found in gaps(board, board.entrants)}
    lacks = {gap.language: gap for gap in by_label["b/model"]}
    assert set(lacks) == {"ca", *PATH.lacks}
    words = shlex.split(lacks["eu"].command)
    assert words[:3] == ["iberlm", "evaluate", f"model={PATH.name}"]
    assert f"suite.tasks=[{','.join(task.family for task in lacks['eu'].tasks)}]" in words
    assert "suite.languages=[eu]" in words
    assert "validation=runs/default/curate" in words
    assert words[-1] == f"store={board.stores[0]}"
    # the settings stay as they were
    assert "dtype=float32" in shlex.split(next(gap.command for gap in by_label["a/model"] if gap.language == "ca"))


def test_the_commands_are_ones_that_evaluate_takes(board: Board, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for entrant, found in gaps(board, board.entrants):
        for gap in found:
            words = [word for word in shlex.split(gap.command)[2:] if not word.startswith("model=")]
            if any(task.name == HOSTILE_TASK for task in gap.tasks):
                continue  # a name that no task of lm-eval's can have
            config = compose_settings(VERBS["evaluate"], [*words, f"model={tmp_path / 'model'}"])
            assert config.suite.languages == [gap.language]
            assert config.suite.tasks == [task.family for task in gap.tasks], entrant.label


def test_tasks_outside_of_the_catalogue_are_named_with_their_licence(tmp_path: Path) -> None:
    rare = {"task": "some_task", "family": "some_task", "licence": "CC-BY-4.0"}
    found = board_of(tmp_path, result("org/a", 0.6) | rare, result("org/a", 0.5, task=1), result("org/b", 0.6, task=1))
    [(entrant, [gap])] = gaps(found, found.entrants)
    assert entrant.label == "org/b"
    config = compose_settings(VERBS["evaluate"], [word for word in shlex.split(gap.command)[2:] if not word.startswith("model=")] + ["model=x"])
    assert (config.suite.tasks, config.suite.upstream, config.suite.licences) == ([], {"eu": ["some_task"]}, {"some_task": "CC-BY-4.0"})


def test_a_limit_is_dropped_only_where_it_was_the_reason(tmp_path: Path) -> None:
    cut = {"n": 10, "limit": 10, "command": "iberlm evaluate model=org/a 'suite.tasks=[x]' limit=10"}
    found = board_of(tmp_path, result("org/a", 0.6, **cut), result("org/b", 0.6), result("org/c", 0.6))
    [(entrant, [gap])] = gaps(found, found.entrants)
    assert (entrant.label, "limit=" in gap.command) == ("org/a", False)
    alone = board_of(tmp_path / "alone", result("org/a", 0.6, **cut), result("org/b", 0.6, task=1, n=10, limit=10))
    assert "limit=10" in {entry.label: found for entry, found in gaps(alone, alone.entrants)}["org/a"][0].command


def test_a_suite_lists_what_nobody_was_asked(tmp_path: Path) -> None:
    found = board_of(tmp_path, result("org/a", 0.6), suite="iberian")
    asked = [task for task in found.tasks if found.row_of(task)]
    assert [task.name for task in asked] == [EU[0].name]
    [(_, missing)] = gaps(found, found.entrants)
    assert {gap.language for gap in missing} == set(LANGUAGES)
    with pytest.raises(ConfigError, match=r"there is no suite 'iberien'; choose among .*iberian"):
        gather([tmp_path / "store"], suite="iberien")


# files


def test_the_same_stores_give_the_same_bytes_and_old_files_go(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write_leaderboard([store], out, Options(formats=("html", "csv")))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "CNAME").write_text("example.org")
    assert first[0] == "index.html"
    assert set(first) | {RECORD} == {path.relative_to(out).as_posix() for path in before}
    assert write_leaderboard([store], out, Options(formats=("html", "csv"))) == first
    assert {path: path.read_bytes() for path in before} == before
    write_leaderboard([store], out, Options(formats=("csv",)))
    assert {path.name for path in out.rglob("*")} == {"results.csv", "CNAME", RECORD}


def test_files_of_others_are_never_overwritten(store: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(DataError, match=r"index.html: is in the way, and no leaderboard wrote it"):
        write_leaderboard([store], tmp_path, Options(formats=("html",), items=False))
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / RECORD).write_text('{"files": ["../escape", "/etc/escape"]}')
    outside = tmp_path.parent / "escape"
    outside.write_text("stays")
    write_leaderboard([store], tmp_path, Options(formats=("csv",)))
    assert outside.read_text() == "stays"


def test_after_a_kill_the_same_command_goes_on(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "results.csv").write_text("half")
    (tmp_path / "tasks" / "gone.html").write_text("old")
    (tmp_path / BEGUN).write_text('"tasks/gone.html"\n"results.csv"\n"tasks/cut sho')
    write_leaderboard([store], tmp_path, Options(formats=("csv",)))
    assert (tmp_path / "results.csv").read_text() != "half"
    assert {path.name for path in tmp_path.rglob("*")} == {"results.csv", RECORD}


def test_without_items_no_text_of_them_is_published(store: Path, tmp_path: Path) -> None:
    write_leaderboard([store], tmp_path, Options(items=False))
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not {"chunk-0", "Pregunta"} & set(re.findall(r"chunk-0|Pregunta", path.read_text())), path
    assert not list(tmp_path.rglob("*_samples.jsonl"))
    write_leaderboard([store], tmp_path, Options())
    assert "chunk-0" in (tmp_path / "tasks" / f"{EU[0].name}.html").read_text()


def programs(page: Path) -> tuple[list[str], Any]:
    root = html.fromstring(page.read_text(encoding="utf-8"))
    return [element.text for element in root.iter("script") if element.get("type") is None], root


def test_names_and_texts_that_mean_harm_stay_text(store: Path, tmp_path: Path) -> None:
    write_leaderboard([store], tmp_path, Options(), title=HOSTILE)
    pages = sorted(tmp_path.rglob("*.html"))
    assert all(page.resolve().is_relative_to(tmp_path) for page in pages)
    [mine] = [page for page in pages if "x_1" in page.name]
    for page in (tmp_path / "index.html", mine):
        scripts, root = programs(page)
        assert len(scripts) == 1
        assert "owned" not in scripts[0]
        assert not [element for element in root.iter() if isinstance(element.tag, str) and any(name.startswith("on") for name in element.attrib)]
        assert HOSTILE in root.text_content()
        assert not list(root.iter("b", "img"))
        policy = root.xpath("//meta[@http-equiv]/@content")[0]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert not [link for link in root.xpath("//@href") if str(link).startswith(("javascript", "data:text"))]
    assert HOSTILE_TASK in programs(mine)[1].text_content()


def test_every_number_of_the_page_has_its_interval_its_items_and_its_command(store: Path, tmp_path: Path, board: Board) -> None:
    write_leaderboard([store], tmp_path, Options(formats=("html",), items=False))
    for task in board.tasks[:6]:
        root = programs(tmp_path / shown(board, standings(board), slug_pages(board)).pages[task.index])[1]
        text = root.text_content()
        for entrant, cell in board.row_of(task):
            assert root.xpath(f"//*[@id='model-{entrant.index}']//code")[0].text == cell.row["command"]
            assert number(cell.value, 3) in text
        assert task.licence in text
    root = programs(tmp_path / "index.html")[1]
    table = root.xpath("//section[@id='language-0']//table[contains(@class, 'tasks')]")[0]
    scores = table.xpath(".//td[contains(@class, 'score')]")
    assert len(scores) == len(MODELS) * len(board.tasks_in("es"))
    assert sum(bool(cell.xpath(".//*[local-name()='svg']")) for cell in scores) == len(scores)
    assert "clean 0." in table.text_content()
    assert "synthetic" in table.text_content()
    assert "not human-reviewed" in table.text_content()
    assert table.xpath(".//span[contains(@class, 'alarm')]")


def slug_pages(board: Board) -> dict[int, str]:
    slugs = Slugs()
    return {task.index: f"tasks/{slugs.of(task.name)}.html" for task in board.tasks}


def test_a_store_of_one_model_and_one_small_task_is_a_page_too(tmp_path: Path) -> None:
    Store(tmp_path / "store").append([], [result("m", 0.6, n=20, averaged=False, command=None, software=None, parameters=None)])
    written = write_leaderboard([tmp_path / "store"], tmp_path / "out", Options())
    text = (tmp_path / "out" / "index.html").read_text()
    assert "No task of this language counts in a mean" in text
    assert "No task counts in a mean" in text
    assert "Nothing: every model was asked every task" in text
    assert {Path(name).suffix for name in written} == {".html", ".csv", ".tex", ".md", ".json"}


# the command


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(leaderboard)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def test_the_tool_writes_all_formats_and_says_where(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    done = run(str(store), "--out", str(out), "--title", "Ours", "--models", "iberlm/*", "--no-items", "--name", "iberlm/demo-1b=org/one")
    assert done.exception is None
    assert f"open {out / 'index.html'}" in done.stdout
    assert {path.name for path in out.iterdir()} == {"index.html", "tasks", "results.csv", "table.tex", "model-index", "every_eval_ever", RECORD}
    text = programs(out / "index.html")[1].text_content()
    # the page gives its own command
    made = f"iberlm leaderboard {store} --out '{out}' --models 'iberlm/*' --name iberlm/demo-1b=org/one --title Ours --no-items"
    assert made in text
    assert "org/one" in text
    assert "b/model" not in text


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["nowhere"], DataError, "nowhere: is no result store"),
        (["STORE", "--format", "pdf"], ConfigError, f"unknown value 'pdf'; choose among {', '.join(FORMATS)}"),
        (["STORE", "--name", "x"], ConfigError, "'x' is not MODEL=NAME"),
        (["STORE", "--suite", "none"], ConfigError, "there is no suite 'none'"),
        (["STORE", "--suite", "sample", "--models", "gpt"], ConfigError, "no model 'gpt'"),
        (["STORE", "--relationship", "friend"], ConfigError, "unknown value 'friend'; choose among first_party"),
        (["EMPTY"], DataError, "no results yet; fill a store with iberlm evaluate"),
        (["BEGUN"], DataError, "has no result yet\n  unfinished: copa_eu, 1 slice in the journal; the same evaluation goes on from there"),
        (["STORE", "BEGUN"], DataError, "has no result yet"),
    ],
)
def test_wrong_calls_are_told_so(store: Path, tmp_path: Path, arguments: Sequence[str], kind: type[Exception], message: str) -> None:
    Store(tmp_path / "empty").append()
    with Journal(tmp_path / "begun", "copa_eu") as journal:
        journal.note("0", [])
    given = [{"STORE": str(store), "EMPTY": str(tmp_path / "empty"), "BEGUN": str(tmp_path / "begun")}.get(word, word) for word in arguments]
    done = run(*given, "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, kind)
    assert message in str(done.exception)
    assert not (tmp_path / "out" / "index.html").exists()


def test_neither_torch_nor_lm_eval_is_imported(store: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from iberlm.evaluate.leaderboard.publish import Options, write_leaderboard; "
        f"write_leaderboard([Path({str(store)!r})], Path({str(tmp_path / 'out')!r}), Options()); "
        "print([name for name in ('torch', 'lm_eval', 'transformers', 'datasets', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# words


def test_short_names_tell_paths_apart_and_leave_hub_names() -> None:
    names = ["org/model", "/a/b/run/model", "/a/c/run/model", "./x/step-1", "plain", SERVED.name]
    found = short_names(names)
    assert [found[name] for name in names[:5]] == ["org/model", "b/run/model", "c/run/model", "x/step-1", "plain"]
    assert len(set(found.values())) == len(names)


@given(st.lists(st.text(max_size=80), unique=True, max_size=20))
def test_file_names_are_safe_and_never_the_same(texts: list[str]) -> None:
    slugs = Slugs()
    found = [slugs.of(text) for text in texts]
    assert len({name.lower() for name in found}) == len(texts)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) for name in found)
    assert [slugs.of(text) for text in texts] == found


def test_numbers_have_a_real_minus_sign_and_zero_has_none() -> None:
    assert [number(value, 1) for value in (-1.25, -0.04, 0.0, None, math.nan)] == ["−1.2", "0.0", "0.0", "–", "not a number"]
