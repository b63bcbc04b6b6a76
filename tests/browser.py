"""A real browser for the pages that IberLM writes, and what is asked of every page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path(shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-quic"),
]
PATIENCE = 300_000.0
"""Milliseconds that a browser may take to start, and a page to become what a test expects: a busy machine is no fault of theirs."""
expect.set_options(timeout=PATIENCE)
CONTRAST = """
({skip, marks}) => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => rgba(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return 'white';
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const found = {seen: 0, marks: 0, poor: []};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || (skip && element.closest(skip))) continue;
    const style = getComputedStyle(element);
    const shown = ratio(element.closest('svg') ? style.fill : style.color, ground(element));
    found.seen += 1;
    if (shown < 4.5) found.poor.push([walker.currentNode.data.trim().slice(0, 40), shown]);
  }
  for (const mark of marks ? document.querySelectorAll(marks) : []) {
    if (!mark.checkVisibility() || mark.closest('.partial')) continue;
    found.marks += 1;
    const shown = ratio(getComputedStyle(mark).fill, ground(mark));
    if (shown < 3) found.poor.push([mark.closest('svg').getAttribute('class') || 'dot', shown]);
  }
  return found;
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium. Fails the test where it is not installed."""
    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM} is missing: pages are tested in a real browser; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


def contrast(page: Page, *, skip: str = "", marks: str = "") -> dict[str, Any]:
    """What is too faint on a page: {seen, marks, poor}, counts of texts and marks, and [what, ratio] of those below WCAG 2.2's limits.

    These are 4.5 for text (1.4.3) and 3 for what is drawn (1.4.11). `skip` selects elements whose text does not count, `marks` those that are drawn.
    """
    found: dict[str, Any] = page.evaluate(CONTRAST, {"skip": skip, "marks": marks})
    return found
