"""Fixtures of the report's tests: a complete run and an empty one, each with its report."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_run import SCRIPT, make_run, write_card

from iberlm.report import report
from iberlm.report.config import ReportConfig


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of data cards that is searched."""
    folder = tmp_path_factory.mktemp("cards")
    write_card(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IBERLM_CARDS", str(folder))
        yield folder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, cards: Path) -> Path:
    """Folder of a complete run, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    manifests = make_run(folder)
    report.run(ReportConfig(run_dir=str(folder), title=f"Five languages & {SCRIPT[:8]} one line"), manifests, folder / "report")
    return folder


@pytest.fixture(scope="session")
def empty_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run in which no stage has finished, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "nothing"
    report.run(ReportConfig(run_dir=str(folder)), [], folder / "report")
    return folder
