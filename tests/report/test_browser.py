"""The report in a real browser: nothing is fetched, nothing runs, it fits its window, and text can be read in both themes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from report_run import SECTIONS
from tests.browser import chromium, contrast


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Visit:
    """A page that is open, with what it asked for and what it complained about."""

    def __init__(self, browser: Browser, run: Path, width: int, scheme: Any = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.address = (run / "report" / "report.html").as_uri()
        self.page.goto(self.address)

    def open_details(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(entry => entry.open = true)")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_fits_the_window_and_needs_nothing_else(browser: Browser, whole_run: Path, width: int) -> None:
    visit = Visit(browser, whole_run, width)
    visit.open_details()
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.requests == [visit.address]
    assert visit.complaints == []
    assert page.title().startswith("Five languages & <script> one line")
    for anchor in SECTIONS:
        assert page.locator(f"#{anchor} > h2").is_visible()
    charts = page.locator("figure.chart")
    assert charts.count() >= 7
    for index in range(charts.count()):
        shown = [box for svg in charts.nth(index).locator("svg").all() if (box := svg.bounding_box())]
        assert len(shown) == 1  # the drawing for this width, not the other
        assert shown[0]["width"] > 250
        assert shown[0]["height"] > 120
    page.close()


def test_a_run_without_stages_is_a_page_too(browser: Browser, empty_run: Path) -> None:
    visit = Visit(browser, empty_run, 360)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.page.get_by_text("has not run").first.is_visible()
    assert visit.complaints == []
    visit.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_all_text_has_enough_contrast(browser: Browser, whole_run: Path, width: int, scheme: str) -> None:
    visit = Visit(browser, whole_run, width, scheme)
    visit.open_details()
    found = contrast(visit.page)
    assert found["seen"] > 500
    assert found["poor"] == []
    visit.page.close()


def test_themes_differ_in_charts_too(browser: Browser, whole_run: Path) -> None:
    fills = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, whole_run, 1440, scheme)
        text = visit.page.locator("#training .wide svg text").first
        fills.append((visit.page.evaluate("getComputedStyle(document.body).backgroundColor"), text.evaluate("element => getComputedStyle(element).fill")))
        visit.page.close()
    assert fills[0][0] != fills[1][0]
    assert fills[0][1] != fills[1][1]


def test_keyboard_reaches_the_content_first_and_contents_stay_in_view(browser: Browser, whole_run: Path) -> None:
    page = Visit(browser, whole_run, 1440).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.emulate_media(reduced_motion="reduce")
    page.locator("nav a[href='#samples']").click()
    assert page.locator("#samples > h2").is_visible()
    box = page.locator("nav.contents").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 100
    page.close()


def test_print_shows_folded_text_and_no_navigation(browser: Browser, whole_run: Path) -> None:
    page = Visit(browser, whole_run, 1024).page
    page.emulate_media(media="print")
    assert not page.locator("nav.contents").is_visible()
    assert page.locator("#samples .text").first.is_visible()
    page.close()
