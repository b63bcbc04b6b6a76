"""The leaderboard in a real browser: nothing is fetched, it sorts, filters and fits; it is read in both themes, with keys, without JavaScript."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from iberlm.evaluate.leaderboard.board import Entrant, places
from iberlm.evaluate.leaderboard.gather import gather
from iberlm.evaluate.leaderboard.means import Standing, standings
from iberlm.evaluate.leaderboard.publish import Options, write_leaderboard
from iberlm.evaluate.leaderboard.views import first_of, place_text
from iberlm.evaluate.store.store import Store
from tests.browser import chromium, contrast
from tests.evaluate.board_store import HOSTILE, MODELS, SMALL, tasks_of, write_store

MARKS = ".mark path, .dot path, .whisker circle"
READING = f"tasks/{tasks_of('ca')[0].name}.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_store(folder / "store", items=104)
    command = ("iberlm", "leaderboard", "store", "--out", "site")
    write_leaderboard([folder / "store"], folder / "site", Options(formats=("html", "csv"), command=command), title="Models & <b>languages</b>")
    return folder / "site"


class Visit:
    """A page that is open, with what it asked for and what it complained about."""

    def __init__(self, browser: Browser, site: Path, name: str = "index.html", width: int = 1440, scheme: Any = "light", *, scripts: bool = True) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.address = (site / name).as_uri()
        self.page.goto(self.address)
        if scripts:
            self.page.locator("html[data-ready]" if name == "index.html" else "#list[data-ready]").wait_for(state="attached")

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.requests == [self.address]
        assert self.complaints == []


def column(page: Page, table: str, name: str) -> list[str]:
    """Texts of a column's cells as they are shown, by the head's beginning."""
    heads = [text.strip() for text in page.locator(f"{table} thead th").all_inner_texts()]
    place = next(index for index, text in enumerate(heads) if text.startswith(name))
    return page.locator(f"{table} tbody tr").evaluate_all(
        "(rows, place) => rows.map(row => row.cells[place].querySelector('.v')?.textContent ?? row.cells[place].textContent.trim())", place
    )


def models_of(page: Page, table: str) -> list[str]:
    rows = page.locator(f"{table} tbody tr").all()
    return [row.locator("th .model > span").evaluate("element => element.firstChild.parentNode.innerText.split('\\n')[0]") for row in rows if row.is_visible()]


MEANS = "#models table"


@pytest.mark.parametrize("name", ["index.html", READING])
@pytest.mark.parametrize("width", [400, 768, 1440])
def test_fits_the_window_and_needs_nothing_else(browser: Browser, site: Path, name: str, width: int) -> None:
    with Visit(browser, site, name, width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert "owned" not in page.title()
        assert page.locator("h1").is_visible()


def test_intervals_are_drawn_in_tables_and_charts(browser: Browser, site: Path) -> None:
    with Visit(browser, site) as page:
        assert page.locator(f"{MEANS} .whisker").count() == len(MODELS) * 6 - 2  # one model has nothing in two languages
        box = page.locator(f"{MEANS} .whisker").first.bounding_box()
        assert box is not None
        assert box["width"] > 50
        for strip in page.locator("#language-1 .strip:not(.scale)").all()[:3]:
            lines = [line.bounding_box() for line in strip.locator(".dot i").all() if line.is_visible()]
            marks = [mark.bounding_box() for mark in strip.locator(".dot svg").all() if mark.is_visible()]
            assert len(lines) == len(marks) >= 3
            for line, mark in zip(lines, marks, strict=True):
                assert line is not None
                assert mark is not None
                middle = mark["x"] + mark["width"] / 2
                assert line["x"] - 1 <= middle <= line["x"] + line["width"] + 1
        radars = page.locator("svg.radar")
        assert radars.count() == 5
        assert "by what is measured" in (radars.first.get_attribute("aria-label") or "")


def test_every_column_sorts_both_ways_and_says_so(browser: Browser, site: Path) -> None:
    with Visit(browser, site) as page:
        for table in ("#models table", "#language-0 table.tasks", "#tasks table"):
            for head in page.locator(f"{table} thead th:has(button)").all():
                head.locator("button").click()
                first = head.get_attribute("aria-sort")
                head.locator("button").click()
                assert {first, head.get_attribute("aria-sort")} == {"ascending", "descending"}
                assert page.locator(f"{table} thead th[aria-sort]").count() == 1
        page.locator(f"{MEANS} th[data-l='3'] button").click()
        assert page.locator(f"{MEANS} th[data-l='3']").get_attribute("aria-sort") == "descending"
        values = column(page, MEANS, "Basque")
        numbers = [float(text.replace("−", "-")) for text in values if text != "–"]
        assert numbers == sorted(numbers, reverse=True)
        assert values[-1] == "–"  # who has no value is last, whatever the direction
        page.locator(f"{MEANS} th[data-l='3'] button").click()
        assert column(page, MEANS, "Basque")[-1] == "–"
        expect(page.locator("#said")).to_have_text("Sorted by Basque, ascending")


def test_keys_reach_the_tables_sort_them_and_open_a_number(browser: Browser, site: Path) -> None:
    with Visit(browser, site) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the tables"
        page.locator(f"{MEANS} th >> nth=0 >> button").focus()
        page.keyboard.press("Enter")
        names = models_of(page, MEANS)
        assert names == sorted(names, key=str.lower)
        page.locator("#language-1 table.tasks a[data-cell]").first.focus()
        page.keyboard.press("Enter")
        dialog = page.locator("dialog")
        expect(dialog).to_be_visible()
        assert page.evaluate("document.activeElement.closest('dialog') !== null")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert page.evaluate("document.activeElement.dataset.cell") is not None


def test_a_number_opens_with_everything_that_is_known_of_it(browser: Browser, site: Path, tmp_path: Path) -> None:
    visit = Visit(browser, site)
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with visit as page:
        cell = page.locator("#language-1 table.tasks tbody tr").first.locator("a[data-cell]").first
        value = cell.inner_text()
        cell.click()
        dialog = page.locator("dialog")
        assert f"{value} acc" in dialog.inner_text()
        assert "Solved examples" in dialog.inner_text()
        command = dialog.locator("code").inner_text()
        assert command.startswith("iberlm evaluate")
        page.clock.install()
        page.clock.pause_at(page.evaluate("Date.now()") + 60_000)  # the word is taken back after two seconds
        dialog.locator("button.copy").click()
        expect(dialog.locator("button.copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == command
        address = dialog.locator("#panel-page").get_attribute("href") or ""
        assert (site / address.partition("#")[0]).is_file()
        page.mouse.click(5, 5)
        expect(dialog).to_be_hidden()


def test_filters_hide_languages_models_and_tasks(browser: Browser, site: Path) -> None:
    with Visit(browser, site) as page:
        form = page.locator(".filters form")
        assert form.locator("output").inner_text() == f"{len(MODELS)} of {len(MODELS)} models"
        form.locator("input[name=language][value='2']").uncheck()
        assert not page.locator("#language-2").is_visible()
        assert not page.locator(f"{MEANS} thead th[data-l='2']").is_visible()
        assert page.locator("#models .verdict").inner_text().endswith("Place and mean are over all languages, also those that are hidden.")
        assert "hidden" not in page.locator("#language-1 .verdict").inner_text()
        assert page.locator("#language-1").is_visible()  # Catalan stays where Valencian goes
        form.locator("input[name=search]").fill("DEMO-7B")
        assert models_of(page, MEANS) == ["iberlm/demo-7b (no chat template)", "iberlm/demo-7b (chat template)"]
        assert form.locator("output").inner_text() == f"2 of {len(MODELS)} models; places are among these"
        form.locator("select[name=template]").select_option("chat template")
        assert models_of(page, MEANS) == ["iberlm/demo-7b (chat template)"]
        assert page.locator("#language-0 .dot:visible").count() == page.locator("#language-0 .strip:not(.scale)").count()
        form.locator("button[type=reset]").click()
        expect(form.locator("output")).to_have_text(f"{len(MODELS)} of {len(MODELS)} models")
        form.locator("select[name=size]").select_option("1 to 4 B")
        assert set(models_of(page, MEANS)) == {"iberlm/demo-1b", "b/model"}
        form.locator("select[name=size]").select_option("")
        form.locator("select[name=backend]").select_option("openai")
        assert len(models_of(page, MEANS)) == 1
        form.locator("select[name=backend]").select_option("")
        form.locator("select[name=measure]").select_option("reading")
        tasks = page.locator("#language-0 table.tasks tbody tr:visible")
        assert tasks.count() == 1
        assert "belebele" in tasks.first.inner_text()


PLACES = """
() => [...document.querySelectorAll('table.means, table.tasks')].map(table => [...table.tBodies[0].rows].map(row => [...row.cells]
  .filter(cell => cell.checkVisibility()).map(cell => [cell.classList.contains('place') ? cell.textContent : '', cell.classList.contains('first')])))
"""
"""Text of every place that is shown, and which numbers are bold, by table, row and cell."""


def places_of(page: Page, table: str) -> dict[str, str]:
    names = models_of(page, table)
    rows = [row for row in page.locator(f"{table} tbody tr").all() if row.is_visible()]
    return {name: row.locator("td.place").inner_text() for name, row in zip(names, rows, strict=True)}


def expected_places(standing: Standing, shown: list[Entrant]) -> dict[str, str]:
    ranked = [entrant for entrant in shown if entrant.index in standing.places]
    found = places([standing.means[entrant.index].interval for entrant in ranked])
    return {entrant.label: "–" for entrant in shown if entrant.index in standing.means} | {
        entrant.label: place_text(place) for entrant, place in zip(ranked, found, strict=True)
    }


@pytest.mark.parametrize(
    ("field", "value", "keeps"),
    [
        ("search", "Demo-1", lambda entrant: "demo-1" in entrant.name),
        ("size", "1 to 4 B", lambda entrant: entrant.size_class == "1 to 4 B"),
        ("template", "chat template", lambda entrant: entrant.template_name == "chat template"),
        ("dtype", "bfloat16", lambda entrant: entrant.dtype == "bfloat16"),
    ],
)
def test_places_are_those_among_the_models_that_a_filter_leaves(browser: Browser, site: Path, field: str, value: str, keeps: Callable[[Entrant], bool]) -> None:
    board = gather([site.parent / "store"])
    means, left = standings(board), [entrant for entrant in board.entrants if keeps(entrant)]
    with Visit(browser, site) as page:
        form = page.locator(".filters form")
        before, verdict = places_of(page, MEANS), page.locator("#models .verdict").inner_text()
        assert before == expected_places(means.overall, board.entrants)
        control = form.locator(f"[name={field}]")
        control.fill(value) if field == "search" else control.select_option(value)
        expected = expected_places(means.overall, left)
        assert places_of(page, MEANS) == expected
        assert {name: before[name] for name in expected} != expected, "the filter changes nothing here"
        for number, language in enumerate(board.languages):
            assert places_of(page, f"#language-{number} table.means") == expected_places(means.languages[language], left)
        told = f"Places and bold numbers are among the {len(left)} of {len(MODELS)} models that the filter leaves."
        for note in page.locator(".verdict").all():
            assert note.inner_text() == told
        page.emulate_media(media="print")
        assert page.locator("#models .verdict").is_visible()
        assert places_of(page, MEANS) == expected
        page.emulate_media(media="screen")
        form.locator("button[type=reset]").click()
        expect(page.locator("#models .verdict")).to_have_text(verdict)
        assert places_of(page, MEANS) == before


def test_bold_numbers_share_the_first_place_among_those_that_are_shown(browser: Browser, site: Path) -> None:
    board = gather([site.parent / "store"])
    left = [entrant for entrant in board.entrants if entrant.dtype == "bfloat16"]
    with Visit(browser, site) as page:
        page.locator("select[name=dtype]").select_option("bfloat16")
        for number, language in enumerate(board.languages):
            rows = page.locator(f"#language-{number} table.tasks tbody tr")
            for task in board.tasks_in(language):
                row = rows.filter(has=page.locator(f"[data-cell$='-{task.index}']"))
                bold = row.locator("td.first:visible").evaluate_all("cells => cells.map(cell => Number(cell.dataset.e))")
                assert set(bold) == first_of(task, board.row_of(task, left)), task.name
        page.locator("select[name=dtype]").select_option("")
        page.locator("select[name=backend]").select_option("openai")
        assert page.locator("td.first:visible").count() == 0  # one model is first among nobody


def test_the_program_ranks_as_the_exports_do_and_a_table_sorted_by_place_stays_so(browser: Browser, site: Path) -> None:
    with Visit(browser, site, scripts=False) as page:
        plain = page.evaluate(PLACES)
    with Visit(browser, site) as page:
        assert page.evaluate(PLACES) == plain
        search = page.locator("input[name=search]")
        search.fill("demo-1b")
        assert page.evaluate(PLACES) != plain
        search.fill("")
        assert page.evaluate(PLACES) == plain
        page.locator(f"{MEANS} th.place button").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
        search.fill("demo")
        found = [tuple(map(int, place.split(" to "))) for place in places_of(page, MEANS).values()]
        assert len(found) == 3
        assert found == sorted(found)
        assert page.locator(f"{MEANS} th.place").get_attribute("aria-sort") == "ascending"


def test_charts_show_the_models_that_are_chosen(browser: Browser, site: Path) -> None:
    with Visit(browser, site) as page:
        drawn = page.locator("svg.radar").first.locator("g")
        assert sum(group.is_visible() for group in drawn.all()) == 6
        hidden = page.locator("input[name=series]:not(:checked)")
        assert hidden.count() == len(MODELS) - 6
        index = hidden.first.get_attribute("value")
        hidden.first.check()
        assert page.locator(f"svg.radar g[data-e='{index}']").first.is_visible()
        page.locator("input[name=series]").first.uncheck()
        assert sum(group.is_visible() for group in drawn.all()) == 6


def test_without_javascript_it_is_a_plain_table(browser: Browser, site: Path) -> None:
    with Visit(browser, site, scripts=False) as page:
        assert not page.locator(".filters").is_visible()
        assert not page.locator("button:visible").count()
        assert page.locator(f"{MEANS} tbody tr:visible").count() == len(MODELS)
        assert page.locator("#language-4 table.tasks tbody tr:visible").count() == 6
        # a number is a link to its page
        assert (page.locator("a[data-cell]").first.get_attribute("href") or "").startswith("tasks/")
        assert page.get_by_text("aria-sort").count() == 0
    with Visit(browser, site, READING, scripts=False) as page:
        assert page.get_by_text("showing them needs JavaScript").is_visible()
        assert page.get_by_text("CC-BY-SA-4.0").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", READING])
def test_text_and_marks_have_enough_contrast(browser: Browser, site: Path, name: str, scheme: str) -> None:
    with Visit(browser, site, name, 1440, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")
        found = contrast(page, marks=MARKS)
        assert found["seen"] > 300
        assert found["marks"] > 10
        assert found["poor"] == []
        if name == "index.html":
            page.locator("a[data-cell]").first.click()
            assert contrast(page, marks=MARKS)["poor"] == []


def test_on_paper_there_is_no_navigation_and_everything_is_open(browser: Browser, site: Path) -> None:
    with Visit(browser, site, width=1024) as page:
        page.emulate_media(media="print")
        assert not page.locator(".side").is_visible()
        assert not page.locator("button.copy:visible").count()
        assert page.locator("#missing code").first.is_visible()


# the items


def items_of(page: Page) -> list[str]:
    page.wait_for_function("document.querySelector('.pager output').textContent.includes('page')")
    return page.locator(".item h3").all_inner_texts()


def choose(page: Page, **values: str) -> str:
    before = page.locator("#list").get_attribute("data-ready")
    for name, value in values.items():
        field = page.locator(f".browse [name={name}]")
        field.fill(value) if name == "search" else field.select_option(value)
    page.wait_for_function("before => document.getElementById('list').dataset.ready !== before", arg=before)
    return page.locator(".pager output").inner_text()


def test_items_are_shown_with_each_models_answer(browser: Browser, site: Path) -> None:
    with Visit(browser, site, READING) as page:
        assert len(items_of(page)) == 20
        first = page.locator(".item").first
        assert "Pregunta 0: què és el número 0?" in first.inner_text()
        assert first.locator("thead th").count() == 1 + len(MODELS)
        rows = first.locator("tbody tr")
        assert rows.count() == 5
        assert "(right)" in first.locator("tr.target").inner_text()
        for model in range(len(MODELS)):
            picked = [row.locator("td").nth(model).get_attribute("class") == "number pick" for row in rows.all()[:4]]
            assert picked.count(True) == 1
            right = "target" in (rows.nth(picked.index(True)).get_attribute("class") or "")
            assert rows.nth(4).locator("td").nth(model).inner_text() == ("✓ right" if right else "✗ wrong")
        # the chat template made another prompt of it
        assert "asked of iberlm/demo-7b (chat template):" in first.inner_text()
        assert "cut at the limit" in page.locator(".item").nth(3).inner_text()
        page.locator("button[data-step='1']").first.click()
        page.wait_for_function("document.querySelector('.item h3').textContent.startsWith('Item 20')")
        assert page.locator(".pager output").inner_text() == "104 of 104 items, page 2 of 6"


def test_items_are_filtered_by_answers_and_found_by_words(browser: Browser, site: Path) -> None:
    store = Store(site.parent / "store")
    rows = store.items(model=SMALL.key, tasks=[tasks_of("ca")[0].name]).to_pylist()
    wrong = sum(row["score"] == 0 for row in rows)
    with Visit(browser, site, READING) as page:
        labels = page.locator("select[name=which] option").all_inner_texts()
        option = f"wrong-{labels.index(f'wrong: {SMALL.name}') - 4}"
        assert choose(page, which=option).startswith(f"{wrong} of 104 items")
        assert all("✗ wrong" in text for text in page.locator(".item").all_inner_texts())
        differing = int(choose(page, which="differ").split()[0])
        everybody = int(choose(page, which="every").split()[0])
        somebody = int(choose(page, which="wrong").split()[0])
        assert everybody < somebody <= 104
        assert 0 < differing <= 104
        assert choose(page, which="all", search="NÚMERO 39595?").startswith("1 of 104 items")
        assert items_of(page) == ["Item 5 belebele-5"]
        assert choose(page, search="nobody wrote this").startswith("0 of 104")
        assert page.locator(".item").count() == 0


def test_hostile_texts_are_shown_as_they_are(browser: Browser, site: Path) -> None:
    [name] = [path.name for path in (site / "tasks").iterdir() if "x_1" in path.name]
    with Visit(browser, site, f"tasks/{name}") as page:
        assert HOSTILE in (page.locator(".item .text").first.text_content() or "")
        assert page.locator(".item img, .item script, .item b").count() == 0
        choose(page, group="0")
        assert choose(page, search='"&{{7*7}}').startswith("30 of 30")
        assert page.title().endswith("· IberLM")


def test_a_task_of_ten_thousand_items_opens_only_what_is_looked_at(browser: Browser, tmp_path: Path) -> None:
    facts = tasks_of("eu")[0]
    common = {"model": "m" * 64, "model_name": "org/m", "task": facts.name, "version": "1", "task_key": "k", "template": "none", "backend": "vllm"}
    common |= {"dtype": "float16", "num_fewshot": 0, "language": "eu", "family": facts.family, "created": 1.0}
    items = [
        common | {"item": item, "id": str(item), "prompt_hash": str(item), "prompt": f"galdera {item}", "choices": [], "target": "bai"}
        | {"responses": json.dumps(["ez" if item % 2 else "bai"]), "prediction": "ez" if item % 2 else "bai", "score": float(item % 2 == 0)}
        for item in range(12_000)
    ]  # fmt: skip
    result = common | {"group": "", "metric": "exact_match", "primary": True, "value": 0.5, "low": 0.49, "high": 0.51, "n": 12_000, "averaged": False}
    Store(tmp_path / "store").append(items, [result])
    write_leaderboard([tmp_path / "store"], tmp_path / "site", Options(formats=("html",)))
    with Visit(browser, tmp_path / "site", f"tasks/{facts.name}.html") as page:
        assert page.locator(".pager output").inner_text() == "12000 of 12000 items, page 1 of 600"
        assert page.locator(".item").count() == 20
        assert choose(page, which="wrong-0").startswith("6000 of 12000")
        assert choose(page, which="all", search="galdera 11998").startswith("1 of 12000")
        assert re.search(r"Right:\s*bai", page.locator(".item").inner_text())
        assert "✓ right" in page.locator(".item").inner_text()
