"""Limits from a trusted sample: what they drop of it, what the guards hold, and that Hydra takes the recipe."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from playwright.sync_api import sync_playwright

from iberlm.core.config import StageConfig
from iberlm.core.documents import batches_of, write_documents
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.languages import LANGUAGES
from iberlm.core.manifest import Manifest
from iberlm.core.stage import Record, run_stage
from iberlm.curate.annotate import annotation_schema
from iberlm.curate.calibrate import GUARDS, Calibration, calibrate, recipe_text, table_lines, write_calibration
from iberlm.curate.config import Thresholds
from iberlm.curate.measure.kernel import STATISTICS
from iberlm.curate.rules import RULES

Values = npt.NDArray[Any]


def ordinary(seed: int, count: int) -> dict[str, Values]:
    """Statistics of documents as they might be, more or less."""
    random = np.random.default_rng(seed)
    columns: dict[str, Values] = {name: random.beta(1, 12, count).astype(kind) for name, kind in STATISTICS.items() if kind == np.float32}
    columns |= {name: np.zeros(count, kind) for name, kind in STATISTICS.items() if kind == np.int32}
    columns["words"] = random.integers(60, 3000, count).astype(np.int32)
    columns["stop_words"] = columns["words"] // 4
    columns["characters"] = columns["words"] * 6
    columns["mean_word_length"] = random.normal(5, 0.5, count).astype(np.float32)
    columns["alpha_word_ratio"] = random.beta(12, 2, count).astype(np.float32)
    columns["punctuated_line_ratio"] = random.beta(5, 3, count).astype(np.float32)
    columns["language_score"] = random.beta(20, 1, count).astype(np.float32)
    return columns


def sample(folder: Path, columns: dict[str, Values], language: list[str], claim: list[str], others: list[list[dict[str, Any]]] | None = None) -> list[Manifest]:
    """The manifests of extract and annotate of documents with these statistics."""
    count = len(language)
    schema = annotation_schema(bands=1)
    given = {**columns, "language": language, "other_languages": others or [[]] * count}

    def extract(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        rows = [{"id": f"{n}", "text": "text", "language": tag, "source": "s", "card": "laws", "licence": "CC0-1.0"} for n, tag in enumerate(claim)]
        record.output(out / "documents/00000.parquet", write_documents(out / "documents/00000.parquet", batches_of(rows)))
        record.cards = {"laws": "CC0-1.0"}

    def annotate(config: StageConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        arrays = [pa.array(given[field.name], field.type) if field.name in given else pa.nulls(count, field.type) for field in schema]
        path = out / "annotations/00000.parquet"
        record.output(path, write_documents(path, [pa.table(arrays, schema=schema)], schema))

    shutil.rmtree(folder / "extract", ignore_errors=True)
    shutil.rmtree(folder / "annotate", ignore_errors=True)
    extracted = run_stage("extract", 1, extract, StageConfig(), [], folder / "extract")
    return [extracted, run_stage("annotate", 1, annotate, StageConfig(), [extracted], folder / "annotate")]


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """300 Galician and 200 Catalan documents, and 20 Spanish ones, which are too few."""
    language = ["gl"] * 300 + ["ca"] * 200 + ["es"] * 20
    return sample(tmp_path_factory.mktemp("sample"), ordinary(7, len(language)), language, list(language))


@pytest.fixture(scope="module")
def calibrations(two_languages: list[Manifest]) -> list[Calibration]:
    return calibrate(two_languages, share=0.02)


def test_languages_with_too_few_documents_are_left_out_or_refused(two_languages: list[Manifest], calibrations: list[Calibration]) -> None:
    assert [found.language for found in calibrations] == ["ca", "gl"]
    assert [found.documents for found in calibrations] == [200, 300]
    with pytest.raises(DataError, match="Spanish has 20 trusted documents, and its tails need 100"):
        calibrate(two_languages, share=0.02, languages=["gl", "es"])
    assert [found.language for found in calibrate(two_languages, share=0.02, languages=["gl"])] == ["gl"]
    with pytest.raises(ConfigError, match=r"share: 0\.3 is out of range"):
        calibrate(two_languages, share=0.3)


def test_a_sample_in_which_no_language_has_enough_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no language has 100 trusted documents"):
        calibrate(sample(tmp_path, ordinary(1, 99), ["eu"] * 99, ["eu"] * 99), share=0.01)
    with pytest.raises(DataError, match="no language has 100"):
        calibrate(sample(tmp_path, ordinary(1, 0), [], []), share=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), count=st.integers(100, 400), share=st.sampled_from([0.0, 0.003, 0.01, 0.05, 0.2]))
def test_each_limit_drops_at_most_the_share_unless_its_loose_guard_holds_it(seed: int, count: int, share: float) -> None:
    with TemporaryDirectory() as folder:
        columns = ordinary(seed, count)
        (found,) = calibrate(sample(Path(folder), columns, ["eu"] * count, ["eu"] * count), share=share)
    for name, guards in GUARDS.items():
        side, statistic = name.split("_", 1)
        limit, values = getattr(found.limits, name), columns[statistic]
        beyond = np.mean(values < np.float32(limit) if side == "min" else values > np.float32(limit))
        assert min(guards) <= limit <= max(guards)
        assert beyond == pytest.approx(found.beyond[name])
        assert beyond <= share or found.guarded[name] == "loose"
        if name not in found.guarded:  # a limit stricter by a thousandth would drop more than the share
            stricter = np.float32(limit + 0.001 if side == "min" else limit - 0.001)
            assert np.mean(values < stricter if side == "min" else values > stricter) > share


def test_limits_are_the_same_whatever_guards_do_not_touch(tmp_path: Path) -> None:
    columns = ordinary(3, 200)
    columns["new_line_ratio"] = np.linspace(0.3, 0.499, 200).astype(np.float32)
    (found,) = calibrate(sample(tmp_path, columns, ["es"] * 200, ["es"] * 200), share=0.01)
    assert found.limits.max_new_line_ratio == 0.497  # two of two hundred are beyond it
    assert found.beyond["max_new_line_ratio"] == 0.01
    assert "max_new_line_ratio" not in found.guarded


def test_only_documents_whose_claim_is_confirmed_are_trusted(tmp_path: Path) -> None:
    language = ["ca"] * 150 + ["ca-valencia"] * 110 + ["ca"] * 30 + ["gl"] * 5
    claim = ["ca"] * 150 + ["ca-valencia"] * 110 + ["und"] * 10 + ["ca-valencia"] * 20 + ["ca"] * 5
    found = {entry.language: entry for entry in calibrate(sample(tmp_path, ordinary(5, len(language)), language, claim), share=0.01)}
    assert {tag: (entry.claimed, entry.documents) for tag, entry in found.items()} == {"ca": (155, 160), "ca-valencia": (130, 110)}


def test_fragments_do_not_set_limits_and_are_counted_as_too_short(tmp_path: Path) -> None:
    columns = ordinary(5, 200)
    before = calibrate(sample(tmp_path, columns, ["eu"] * 200, ["eu"] * 200), share=0.01)[0]
    fragments = {name: np.concatenate([values, values[:50]]) for name, values in columns.items()}
    fragments["words"][200:] = 5
    fragments["new_line_ratio"][200:] = 0.9
    after = calibrate(sample(tmp_path, fragments, ["eu"] * 250, ["eu"] * 250), share=0.01)[0]
    assert after.limits == before.limits
    assert after.dropped["too_short"] == 0.2


def test_mixed_documents_are_measured_by_their_paragraphs(tmp_path: Path) -> None:
    columns = ordinary(5, 120)
    half = [[{"start": 0, "end": int(0.6 * characters), "language": "en"}] for characters in columns["characters"][:12]]
    (found,) = calibrate(sample(tmp_path, columns, ["gl"] * 120, ["gl"] * 120, others=half + [[]] * 108), share=0.01)
    assert found.dropped["mixed_language"] == 0.1


def test_hydra_takes_the_recipe(calibrations: list[Calibration], tmp_path: Path) -> None:
    recipe, _ = write_calibration(calibrations, 0.02, "laws", tmp_path)
    assert recipe == tmp_path / "filters/calibrated.yaml"
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = compose("filters/calibrated")
    limits = {tag: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Thresholds), entry or {})) for tag, entry in composed.filters.items()}
    assert list(limits) == list(LANGUAGES)
    found = {entry.language: entry.limits for entry in calibrations}
    assert limits["gl"] == found["gl"]
    assert limits["ca"] == limits["ca-valencia"] == found["ca"]
    assert limits["es"] == limits["eu"] == Thresholds()


def test_the_recipe_says_where_its_numbers_come_from(calibrations: list[Calibration]) -> None:
    text = recipe_text(calibrations, 0.02, "laws")
    assert text.startswith("# Limits calibrated on laws: each alone drops at most 2 % of the trusted documents of its language,\n")
    assert "ca-valencia: # not calibrated: the limits of Catalan\n" in text
    assert "es: {} # not calibrated: the defaults\n" in text
    assert re.search(r"^gl: # 300 trusted documents, of which all rules together drop [\d.]+ %$", text, re.MULTILINE)
    guarded = calibrations[0].guarded
    assert guarded
    assert len(re.findall("# (?:strict|loose)$", text.split("gl:")[0].split("ca-valencia:")[0], re.MULTILINE)) == len(guarded)


def test_the_table_has_every_rule_and_language(calibrations: list[Calibration]) -> None:
    lines = table_lines(calibrations)
    assert lines[0].split() == ["ca", "gl"]
    assert lines[1].split() == ["trusted", "documents", "200", "300"]
    assert [line.split()[0] for line in lines[2:-1]] == [rule.__name__ for rule in RULES]
    assert lines[-1].split() == ["any", "rule", *(f"{found.dropped_together:.2%}" for found in calibrations)]
    assert len({len(line) for line in lines}) == 1


class Elements(HTMLParser):
    """Names and attributes of the elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def page(calibrations: list[Calibration], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calibration(calibrations, 0.02, "<script>alert(1)</script>", tmp_path_factory.mktemp("page"))[1]


def test_the_page_shows_every_limit_of_every_language_and_escapes_names(page: Path, calibrations: list[Calibration]) -> None:
    html = page.read_text(encoding="utf-8")
    elements = Elements(html)
    assert len(elements.of("svg")) == len(GUARDS) * len(calibrations)
    assert all(attributes["role"] == "img" and "the limit is" in (attributes["aria-label"] or "") for attributes in elements.of("svg"))
    assert elements.of("script") == []
    assert "&lt;script&gt;" in html
    assert not re.findall(r"(?:src|href)=\"(?!data:,)", html)
    for name in GUARDS:
        assert f"<h3>{name} " in html


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("chromium is missing: the page is tested in a real browser; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [360, 1440])
def test_the_page_fits_its_window_and_asks_for_nothing(page: Path, chromium: Any, width: int) -> None:
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert requests == [page.as_uri()]
    assert complaints == []
    assert all(box["height"] > 40 for svg in tab.locator("svg").all()[:8] if (box := svg.bounding_box()))
    tab.close()
