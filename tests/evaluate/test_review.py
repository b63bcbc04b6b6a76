"""Reviews of items by people: which verdicts count, what they come to, and the form in a real browser."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from iberlm.cli.review_tool import review_items
from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.resources import resource_dir
from iberlm.curate.contamination.items import evaluation_files
from iberlm.evaluate.review import (
    FORMAT,
    GOOD,
    VERDICTS,
    Recorded,
    approved,
    is_reviewed,
    item_hash,
    items_file,
    read_items,
    read_reviews,
    record,
    reviewed_share,
    reviews_file,
)
from iberlm.evaluate.review_agreement import krippendorff, summarise
from iberlm.evaluate.review_form import asked_items, review_form, script_json
from tests.browser import chromium, contrast

TASK = "commonsense_ca_valencia"


def verdict(place: int = 0, *, task: str = TASK, **changes: Any) -> dict[str, Any]:
    """A verdict as the form saves it, of the task's item in a place."""
    hashed, item = list(read_items(task).items())[place]
    row = {"item": item["id"], "item_hash": hashed, "parts": 1, "choices": len(item["choices"]), "key": item["answer"], "blind": item["answer"]}
    return row | {"verdict": GOOD, "answer": None, "correction": "", "comment": "", "reviewed_on": "2026-11-20"} | changes


def saved(path: Path, reviewer: str, *verdicts: dict[str, Any], task: str = TASK) -> Path:
    path.write_text(json.dumps({"format": FORMAT, "task": task, "reviewer": reviewer, "verdicts": verdicts}), encoding="utf-8")
    return path


def test_own_tasks_are_known_by_their_items_and_others_are_refused() -> None:
    assert items_file("reading_eu") == resource_dir("eval") / "eu" / "reading.jsonl"
    with pytest.raises(ConfigError, match="did you mean 'reading_ca_valencia'"):
        items_file("reading_ca_valensia")
    with pytest.raises(ConfigError, match="has no items of IberLM's own"):
        reviewed_share("belebele_cat_Latn")
    assert not is_reviewed("belebele_cat_Latn")


def test_the_catalogue_can_ask_without_waiting_for_heavy_packages() -> None:
    code = f"import sys; from iberlm.evaluate.review import is_reviewed; is_reviewed('{TASK}'); print([n for n in {HEAVY} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


HEAVY = ("torch", "transformers", "lm_eval", "datasets", "numpy", "scipy", "jinja2", "pyarrow")


def test_any_change_of_an_item_gives_another_hash() -> None:
    item = next(iter(read_items(TASK).values()))
    changed = [item | {key: value[::-1] if isinstance(value, str | list) else 1 - value} for key, value in item.items()]
    assert len({item_hash(each) for each in [item, *changed]}) == len(item) + 1
    assert item_hash(dict(reversed(item.items()))) == item_hash(item)


def by(reviewer: str, said: str = GOOD, item: str = "a", parts: int = 1, asked: str = "") -> dict[str, Any]:
    return {"reviewer": reviewer, "verdict": said, "item_hash": item, "item": asked or item, "parts": parts}


@pytest.mark.parametrize(
    ("reviews", "expected"),
    [
        ([], set()),
        ([by("ana")], set()),
        ([by("ana"), by("ana")], set()),
        ([by("ana"), by("bru")], {"a"}),
        ([by("ana"), by("bru"), by("cid")], {"a"}),
        ([by("ana"), by("bru"), by("cid", "unnatural")], set()),
        ([by("ana"), by("bru", item="b"), by("cid", item="b")], {"b"}),
        ([by("ana", item="gone"), by("bru", item="gone")], set()),
        ([by("ana", parts=2, asked="a:1"), by("bru", parts=2, asked="a:1")], set()),
        ([by(name, parts=2, asked=asked) for name in ("ana", "bru") for asked in ("a:1", "a:2")], {"a"}),
    ],
)
def test_an_item_is_approved_when_two_call_it_good_and_nobody_anything_else(reviews: list[dict[str, Any]], expected: set[str]) -> None:
    assert approved(["a", "b"], reviews) == expected


def test_verdicts_are_recorded_once_and_the_last_of_a_reviewer_counts(tmp_path: Path) -> None:
    first = saved(tmp_path / "1.json", "ana", verdict(0), verdict(1, verdict="unnatural", comment="sona estrany"))
    assert record(TASK, [first], tmp_path) == Recorded(new=2, replaced=0, unchanged=0, stale=0)
    before = reviews_file(TASK, tmp_path).read_bytes()
    assert record(TASK, [first], tmp_path) == Recorded(new=0, replaced=0, unchanged=2, stale=0)
    assert reviews_file(TASK, tmp_path).read_bytes() == before
    later = saved(tmp_path / "2.json", "ana", verdict(1, reviewed_on="2026-11-21"))
    assert record(TASK, [later], tmp_path) == Recorded(new=0, replaced=1, unchanged=0, stale=0)
    assert record(TASK, [first], tmp_path) == Recorded(new=0, replaced=0, unchanged=2, stale=0)  # older than what is there
    assert [row["verdict"] for row in read_reviews(TASK, tmp_path)] == [GOOD, GOOD]
    assert reviewed_share(TASK, tmp_path) == 0
    assert record(TASK, [saved(tmp_path / "3.json", "Núria O'Valls", verdict(1), verdict(0))], tmp_path).new == 2
    assert reviewed_share(TASK, tmp_path) == 2 / len(read_items(TASK))
    assert not is_reviewed(TASK, tmp_path)
    assert [row["item"] for row in read_reviews(TASK, tmp_path)] == [verdict(place)["item"] for place in (0, 0, 1, 1)]


def test_a_task_is_reviewed_when_every_item_is_approved(tmp_path: Path) -> None:
    everything = [verdict(place) for place in range(len(read_items(TASK)))]
    for number, name in enumerate(("ana", "bru")):
        assert not is_reviewed(TASK, tmp_path)
        record(TASK, [saved(tmp_path / f"{number}.json", name, *everything)], tmp_path)
    assert reviewed_share(TASK, tmp_path) == 1.0
    assert is_reviewed(TASK, tmp_path)


def test_verdicts_on_items_that_have_changed_are_counted_and_not_recorded(tmp_path: Path) -> None:
    changed = verdict(0, item_hash=item_hash({"id": verdict(0)["item"], "premise": "Una altra."}))
    assert record(TASK, [saved(tmp_path / "1.json", "ana", changed, verdict(1))], tmp_path) == Recorded(new=1, replaced=0, unchanged=0, stale=1)
    line = reviews_file(TASK, tmp_path).read_text(encoding="utf-8")
    old = json.dumps(json.loads(line) | {"item_hash": "0" * 64, "reviewer": "bru"}) + "\n"
    reviews_file(TASK, tmp_path).write_text(line + old, encoding="utf-8")  # the item changed after the verdict was recorded
    found = summarise(TASK, tmp_path)
    assert (found.read_once, found.read_twice, found.approved, found.stale) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("no JSON", "is no JSON"),
        ("[]", "is no file of verdicts: its format is None"),
        ('{"format": "iberlm-review-2"}', "its format is 'iberlm-review-2', not 'iberlm-review-1'"),
        ({"task": "reading_eu"}, "has verdicts on 'reading_eu', not on 'commonsense_ca_valencia'"),
        ({"reviewer": " "}, "' ' is no name"),
        ({"reviewer": None}, "None is no name"),
        ({"verdicts": []}, "has no verdicts"),
        ({"verdicts": [3]}, "verdict 1: is no object"),
        ({"verdicts": [{"verdict": "good"}]}, "verdict 1: 'answer' is missing"),
        ([{"mood": 1}], "verdict 2: 'mood' is no field of a verdict"),
        ([{"verdict": "fine"}], "verdict 2: verdict is 'fine'; choose among good, wrong_answer"),
        ([{"blind": 2}], "verdict 2: blind is 2, not the place of one of 2 choices nor null"),
        ([{"blind": True}], "verdict 2: blind is True"),
        ([{"answer": "1"}], "verdict 2: answer is '1'"),
        ([{"key": None}], "verdict 2: key is None with 2 choices"),
        ([{"parts": 0}], "verdict 2: parts is 0, not a count"),
        ([{"comment": 5}], "verdict 2: comment is 5, not text"),
        ([{"reviewed_on": "21/11/2026"}], "reviewed_on is '21/11/2026', not a date"),
    ],
)
def test_files_that_the_form_did_not_save_are_refused_as_a_whole(tmp_path: Path, content: Any, complaint: str) -> None:
    path = saved(tmp_path / "1.json", "ana", verdict(0), *([verdict(1) | content[0]] if isinstance(content, list) else []))
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | content), encoding="utf-8")
    with pytest.raises(DataError, match=r"1\.json") as error:
        record(TASK, [saved(tmp_path / "0.json", "bru", verdict(0)), path], tmp_path)
    assert complaint in str(error.value)
    assert not reviews_file(TASK, tmp_path).exists()


def test_what_reviewers_write_is_no_item_that_decontamination_looks_for(tmp_path: Path) -> None:
    shutil.copytree(items_file(TASK).parent, tmp_path / "eval" / "ca_valencia")
    record(TASK, [saved(tmp_path / "1.json", "ana", verdict(0, comment="Massa fàcil."))], tmp_path / "eval" / "reviews")
    found = [path for _, path in evaluation_files([str(tmp_path / "eval")]).files]
    assert tmp_path / "eval" / "ca_valencia" / "commonsense.jsonl" in found
    assert {path.parent.name for path in found} == {"ca_valencia"}


def test_a_damaged_file_of_reviews_is_named(tmp_path: Path) -> None:
    record(TASK, [saved(tmp_path / "1.json", "ana", verdict(0), verdict(1))], tmp_path)
    path = reviews_file(TASK, tmp_path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    with pytest.raises(CorruptError, match=r"commonsense_ca_valencia\.ndjson:2: not a line of JSON"):
        reviewed_share(TASK, tmp_path)
    path.write_text(whole.replace('"good"', '"fine"'), encoding="utf-8")
    with pytest.raises(CorruptError, match="verdict 1: verdict is 'fine'"):
        reviewed_share(TASK, tmp_path)


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units, nominal alpha 0.743.
EXAMPLE = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 .
    """


def test_alpha_is_that_of_the_published_example() -> None:
    observers = [line.split() for line in EXAMPLE.strip().splitlines()]
    found = krippendorff([[value for value in unit if value != "."] for unit in zip(*observers, strict=True)])
    assert found is not None
    assert round(found.alpha, 3) == 0.743
    assert found.items == 11
    assert found.low < found.alpha < found.high <= 1


def test_alpha_of_perfect_chance_and_no_variation() -> None:
    perfect = krippendorff([["yes"] * 3, ["no"] * 3] * 10)
    assert perfect is not None
    assert (perfect.alpha, perfect.low, perfect.high, perfect.share) == (1, 1, 1, 1)
    draws = np.random.default_rng(3).integers(0, 2, size=(400, 2)).tolist()
    chance = krippendorff(draws)
    assert chance is not None
    assert chance.low < 0 < chance.high
    assert abs(chance.alpha) < 0.15
    alike = krippendorff([["yes", "yes"]] * 5)
    assert alike is not None
    assert math.isnan(alike.alpha)
    assert alike.share == 1
    assert krippendorff([["yes"], ["no"]]) is None


def test_the_interval_of_alpha_covers_what_many_items_come_to() -> None:
    rng = np.random.default_rng(11)

    def judged(items: int) -> list[list[int]]:
        truth = rng.integers(0, 2, size=items)
        return [[int(value ^ (rng.random() < 0.15)) for _ in range(2)] for value in truth]

    true = krippendorff(judged(40_000), resamples=100)
    assert true is not None
    covered = [found.low <= true.alpha <= found.high for _ in range(200) if (found := krippendorff(judged(120), resamples=300))]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_the_command_records_and_says_what_it_comes_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = verdict(1)["key"]
    complaint = verdict(1, blind=1 - key, verdict="wrong_answer", answer=1 - key, correction="Que plou.\nProu.")
    ana = saved(tmp_path / "a.json", "ana", verdict(0), complaint, verdict(2))
    bru = saved(tmp_path / "b.json", "bru", verdict(0), verdict(1, blind=None), verdict(2, item_hash="1" * 64))
    review_items(TASK, record=[ana, bru], reviews=tmp_path)
    said = capsys.readouterr().out
    number = len(read_items(TASK))
    assert "5 new verdicts, 0 replaced, 0 already there or older" in said
    assert "not recorded: 1 verdicts on items that have changed since the form was made" in said
    assert f"{TASK}: {number} items; read by anybody: 3, by 2 or more: 2; approved (called good by 2 or more, and by nobody anything else): 1 (1%)" in said
    assert "right answers of ana, unaided: 66.7% (" in said
    assert "right answers of all reviewers, unaided: 60.0% (" in said
    assert "agreement on whether an item is good: Krippendorff's alpha 0.00 (" in said
    assert "to mend: 1 items" in said
    assert f"    ana: wrong answer; right is choice {1 - key}; correction: Que plou. Prou." in said
    review_items(TASK, summary=True, reviews=tmp_path)
    assert capsys.readouterr().out in said
    with pytest.raises(ConfigError, match="--out belongs to the form"):
        review_items(TASK, out=tmp_path / "x.html", summary=True)
    with pytest.raises(ConfigError, match="--reviews goes with --record or --summary"):
        review_items(TASK, reviews=tmp_path)
    with pytest.raises(ConfigError, match="--reviewer: 'a/b' is no name"):
        review_items(TASK, out=tmp_path / "x.html", reviewer="a/b")


@pytest.mark.parametrize("task", ["reading_ca_valencia", TASK, "minimal_pairs_eu"])
def test_the_form_asks_what_a_model_is_asked(task: str) -> None:
    records = read_items(task)
    language, asked = asked_items(task)
    assert task.endswith(language.replace("-", "_"))
    assert [item["item_hash"] for item in asked] == list(records)
    for item, row in zip(asked, records.values(), strict=True):
        assert sorted(item["order"]) == list(range(len(item["choices"])))
        right = row["good"] if "good" in row else row["choices"][row["answer"]]
        assert item["choices"][item["key"]] == right
        assert row.get("passage", "") in item["prompt"]
    shown_first = sum(item["order"][0] == item["key"] for item in asked) / len(asked)
    assert abs(shown_first - 1 / len(asked[0]["choices"])) < 0.2
    in_turn = sum(one["order"].index(one["key"]) != two["order"].index(two["key"]) for one, two in itertools.pairwise(asked)) / (len(asked) - 1)
    assert in_turn < 0.9


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("form") / "review.html"
    path.write_text(review_form("reading_ca_valencia"), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, form: Path) -> Iterator[Callable[..., Page]]:
    """Opens the form in a browser of its own each time; asserts at the end that it asked for nothing and complained of nothing."""
    seen: list[str] = []
    contexts = []

    def visit(width: int = 1440, scheme: Any = "light", path: Path = form) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: seen.append(request.url) if not request.url.startswith(("file:", "blob:")) else None)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert seen == []


def item_at(place: int, task: str = "reading_ca_valencia") -> dict[str, Any]:
    return asked_items(task)[1][place]


def shown_place(item: dict[str, Any], choice: int) -> str:
    """The key that chooses a choice in the form."""
    return str(item["order"].index(choice) + 1)


def test_the_right_answer_is_shown_only_after_an_answer_that_then_stands(opened: Callable[..., Page]) -> None:
    page, item = opened(), item_at(0)
    assert not page.get_by_text("Marked as right").is_visible()
    assert not page.locator("#judge").is_visible()
    page.locator("#check").click()  # nothing chosen: nothing is shown
    assert not page.locator("#judge").is_visible()
    wrong = (item["key"] + 1) % 4
    page.get_by_label(item["choices"][wrong]).check()
    page.locator("#check").click()
    assert page.locator(".option.right").inner_text().startswith(item["choices"][item["key"]])
    assert page.locator(".option.missed").inner_text().startswith(item["choices"][wrong])
    assert page.locator("#reveal").inner_text() == "You chose another one."
    assert all(box.is_disabled() for box in page.locator("input[name=choice]").all())
    assert page.evaluate("document.activeElement.name") == "verdict"


def test_by_keys_alone_answers_are_kept_saved_and_recorded(opened: Callable[..., Page], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, task = opened(), "reading_ca_valencia"
    first, second, third = (item_at(place) for place in range(3))
    wrong = (second["key"] + 1) % 4
    for key in (shown_place(first, first["key"]), "Enter", "g", "n"):
        page.keyboard.press(key)
    for key in (shown_place(second, wrong), "Enter", "w"):
        page.keyboard.press(key)
    page.locator("#answer").select_option(str(wrong))
    page.locator("#comment").fill("No ho veig clar: g n p")  # letters in a text are no commands
    page.locator("#title").focus()
    for key in ("n", "0", "Enter", "u"):
        page.keyboard.press(key)
    page.locator("#correction").fill("«Això» <b>no</b>")
    assert page.locator("#count").inner_text() == "3 of 135 reviewed"
    page.reload()
    assert page.locator("#title").inner_text() == "Item 3 of 135"
    assert page.locator("#correction").input_value() == "«Això» <b>no</b>"
    page.locator("#save").click()
    assert "Give a name or a pseudonym first" in page.locator("#notice").inner_text()
    assert page.evaluate("document.activeElement.id") == "reviewer"
    page.keyboard.type("Núria O'Valls")
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "review-reading_ca_valencia-nuria-o-valls.json"
    download.value.save_as(tmp_path / "saved.json")
    review_items(task, record=[tmp_path / "saved.json"], reviews=tmp_path)
    assert "3 new verdicts" in capsys.readouterr().out
    rows = read_reviews(task, tmp_path)
    assert [(row["item"], row["verdict"], row["blind"], row["answer"]) for row in rows] == [
        (first["item"], "good", first["key"], None),
        (second["item"], "wrong_answer", wrong, wrong),
        (third["item"], "unnatural", None, None),
    ]
    assert {row["reviewer"] for row in rows} == {"Núria O'Valls"}
    assert (rows[1]["comment"], rows[2]["correction"]) == ("No ho veig clar: g n p", "«Això» <b>no</b>")

    other = opened(400)  # another device: nothing is kept there, the file brings it
    assert other.locator("#count").inner_text() == "0 of 135 reviewed"
    other.locator("#file").set_input_files(tmp_path / "saved.json")
    other.get_by_text("Loaded 3 verdicts.").wait_for()
    assert other.locator("#count").inner_text() == "3 of 135 reviewed"
    assert other.locator("#reviewer").input_value() == "Núria O'Valls"
    other.locator("#open").click()
    assert other.locator("#title").inner_text() == "Item 4 of 135"
    other.on("dialog", lambda dialog: dialog.accept())
    other.locator("#clear").click()
    assert other.locator("#count").inner_text() == "0 of 135 reviewed"


def test_files_of_others_are_not_loaded(opened: Callable[..., Page], tmp_path: Path) -> None:
    page = opened()
    page.locator("#file").set_input_files(saved(tmp_path / "other.json", "ana", verdict(0)))
    page.get_by_text(f"other.json has verdicts on {TASK}, not on reading_ca_valencia.").wait_for()
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    page.locator("#file").set_input_files(tmp_path / "broken.json")
    page.get_by_text("broken.json is no file that this form saved.").wait_for()
    assert page.locator("#count").inner_text() == "0 of 135 reviewed"


def test_keys_can_be_switched_off(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#keys").uncheck()
    page.locator("#title").focus()
    page.keyboard.press("n")
    assert page.locator("#title").inner_text() == "Item 1 of 135"
    page.reload()
    assert not page.locator("#keys").is_checked()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_fits_a_phone_and_can_be_read_and_touched(opened: Callable[..., Page], width: int, scheme: str) -> None:
    page, item = opened(width, scheme), item_at(0)
    for key in (shown_place(item, (item["key"] + 1) % 4), "Enter", "w", "n"):
        page.keyboard.press(key)
    page.keyboard.press("p")
    page.locator("#all summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = contrast(page, skip="button:disabled, option")
    assert found["seen"] > 150
    assert found["poor"] == []
    for button in page.locator("button:visible, .option:visible").all()[:40]:
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 40
    unnamed = page.locator("input:visible, textarea:visible, select:visible").evaluate_all("all => all.filter(e => !e.labels.length).map(e => e.id)")
    assert unnamed == []


def test_the_form_names_the_language_of_the_items_and_every_verdict(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.locator("input[name=verdict]").evaluate_all("all => all.map(e => e.value)") == list(VERDICTS)
    assert page.locator("#prompt").get_attribute("lang") == "ca-valencia"
    assert page.locator("html").get_attribute("lang") == "en"


def test_no_text_of_an_item_ends_the_script_that_holds_it() -> None:
    text = "</script><script>alert(1)</script><!-- \u2028 \u2029 ·"
    assert "<" not in script_json([text])
    assert len(script_json([text]).splitlines()) == 1
    assert json.loads(script_json([text])) == [text]
