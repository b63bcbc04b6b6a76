"""Learning curves from what evaluations left on disk: which rows become a curve, the mean of a language, and the report's section."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from iberlm.evaluate.curves import Curve, curves, mean_curves, step_lines
from iberlm.evaluate.statistics.aggregate import Normalised, language_mean
from iberlm.evaluate.statistics.intervals import mean_interval
from iberlm.evaluate.store.schema import RESULT_SCHEMA
from iberlm.evaluate.store.segment import write_segment
from iberlm.evaluate.store.store import Store
from iberlm.report.blocks import Chart, Page, Remark, Section, Table
from iberlm.report.config import ReportConfig
from iberlm.report.curves_section import fingerprint, learning_curves, read_curves
from iberlm.report.curves_section import mean_curves as means_of_report
from iberlm.report.page import render
from iberlm.report.run_folder import RunFolder

TAGS = ("es", "eu")


def row(step: int | None, task: str, scores: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """A result row of a whole task; of right-or-wrong scores with chance 0.5."""
    family, _, language = task.rpartition("_")
    found: dict[str, Any] = {"model": f"weights-{step}", "task": task, "version": "1", "task_key": "key", "language": language, "family": family}
    found |= {"group": "", "metric": "acc", "primary": True, "backend": "transformers", "dtype": "float32", "step": step, "created": float(step or 0)}
    if scores is not None:
        interval = mean_interval(scores, bounds=(0, 1))
        found |= {
            "value": interval.value,
            "stderr": interval.stderr,
            "low": interval.low,
            "high": interval.high,
            "n": interval.n,
            "clusters": interval.clusters,
        }
        found |= {"chance": 0.5, "best": 1.0, "higher_is_better": True, "averaged": len(scores) >= 100}
    return found | more


def bits(step: int, language: str, value: float, **more: Any) -> dict[str, Any]:
    numbers = {"value": value, "stderr": 0.1, "low": value - 0.2, "high": value + 0.2, "n": 9, "clusters": 9}
    return row(step, f"bits_per_byte_{language}", metric="bits_per_byte", higher_is_better=False, averaged=False, **(numbers | more))


def right(count: int, of: int = 100) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def stored(run_dir: Path, *rows: dict[str, Any]) -> Path:
    Store(run_dir / "store").append(results=rows)
    return run_dir


def named(found: list[Curve]) -> dict[str, Curve]:
    return {curve.task: curve for curve in found}


def values(curve: Any) -> dict[int, float]:
    return {step: point.value for step, point in curve.points.items()}


def test_curves_are_of_whole_tasks_by_step_and_language(tmp_path: Path) -> None:
    rows = [bits(step, tag, 3 - step / 100) for step in (200, 100) for tag in TAGS]
    rows += [row(step, "reading_es", right(50 + step // 10)) for step in (100, 200)]
    rows += [row(100, "reading_es", right(9, 10), group="irony"), row(100, "reading_es", right(9, 10), metric="acc_norm", primary=False)]
    rows += [row(None, "reading_es", right(99)), bits(300, "es", math.nan)]
    found = curves(stored(tmp_path, *rows))
    assert [(curve.language, curve.task) for curve in found] == [("es", "bits_per_byte_es"), ("es", "reading_es"), ("eu", "bits_per_byte_eu")]
    assert values(named(found)["reading_es"]) == {100: 0.6, 200: 0.7}
    assert list(named(found)["bits_per_byte_eu"].points) == [100, 200]
    assert (named(found)["bits_per_byte_eu"].points[100].low, named(found)["bits_per_byte_eu"].higher_is_better) == (1.8, False)


def test_a_folder_without_evaluations_has_no_curves(tmp_path: Path) -> None:
    assert curves(tmp_path) == []
    assert not (tmp_path / "store").exists()


def test_values_of_different_questions_are_not_joined(tmp_path: Path) -> None:
    rows = [row(step, "reading_es", right(60), task_key="ten items", created=step) for step in (100, 200)]
    rows += [row(step, "reading_es", right(70), created=1000.0 + step) for step in (200, 300)]
    assert values(named(curves(stored(tmp_path, *rows)))["reading_es"]) == {200: 0.7, 300: 0.7}


def test_a_step_that_was_trained_again_has_its_newest_value(tmp_path: Path) -> None:
    rows = [row(100, "reading_es", right(60), model="before", created=1.0), row(100, "reading_es", right(75), model="after the rollback", created=2.0)]
    assert values(named(curves(stored(tmp_path, *rows)))["reading_es"]) == {100: 0.75}


def test_the_watchers_folder_tells_the_step_of_rows_that_have_none(tmp_path: Path) -> None:
    """The weights of the last checkpoint may have been evaluated as the finished model before."""
    stored(tmp_path, row(None, "reading_es", right(80), model="last", created=5.0), row(100, "reading_es", right(60)))
    table = Store(tmp_path / "store").results(model="last")
    (tmp_path / "watch" / "step-00000200").mkdir(parents=True)
    write_segment(tmp_path / "elsewhere", "results", table).replace(tmp_path / "watch" / "step-00000200" / "results.parquet")
    assert values(named(curves(tmp_path))["reading_es"]) == {100: 0.6, 200: 0.8}
    assert values(read_curves(tmp_path)[0][0]) == {100: 0.6, 200: 0.8}


def test_a_mean_is_over_the_same_tasks_at_every_step(tmp_path: Path) -> None:
    rows = [row(step, f"{family}_es", right(60 + step // 100)) for family in ("reading", "commonsense") for step in (100, 200, 300)]
    rows += [row(step, "inference_es", right(90)) for step in (200, 300)]
    rows += [row(step, "short_es", right(9, 10)) for step in (100, 200, 300)]  # too few items to be averaged
    rows += [row(100, "dropped_es", right(99)), row(100, "reading_eu", right(50))]
    found = curves(stored(tmp_path, *rows))
    means = {curve.language: curve for curve in mean_curves(found)}
    assert (means["es"].metric, list(means["es"].points)) == ("mean of 3 tasks", [200, 300])
    parts = [Normalised(task=name, interval=named(found)[f"{name}_es"].points[300], chance=0.5, best=1.0) for name in ("commonsense", "inference", "reading")]
    assert means["es"].points[300] == language_mean(parts)
    assert means["es"].points[300].value == pytest.approx((26 + 26 + 80) / 3)
    assert values(means["eu"]) == {100: 0.0}


def test_a_step_is_told_in_a_line_a_language(tmp_path: Path) -> None:
    rows = [bits(100, "es", 1.5), row(100, "reading_es", right(75)), bits(100, "eu", 2.5, low=None, high=None), row(100, "short_eu", right(5, 10))]
    lines = step_lines(curves(stored(tmp_path, *rows, bits(200, "eu", 2.4))), 100)
    assert lines[0].startswith("step 100  es: bits per byte 1.500 (1.300 to 1.700); mean of 1 task 50.0 (")
    assert lines[0].endswith(") of 100")
    assert lines[1] == "step 100  eu: bits per byte 2.500; short 0.500 (0.237 to 0.763)"
    assert len(lines) == 2
    assert step_lines(curves(tmp_path), 150) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_report_draws_the_same_curves(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = []
    for step in range(100, 900, 100):
        for tag in ("es", "ca-valencia", "gl"):
            rows.append(bits(step, tag, draw.random(), created=draw.random()))
            for family in ("reading", "inference", "short"):
                if draw.random() < 0.8:
                    scores = right(draw.randrange(100), 100 if family != "short" else 99)
                    rows.append(row(step, f"{family}_{tag}", scores, created=draw.random(), task_key=draw.choice(["key", "key", "other"])))
    ours, theirs = curves(stored(tmp_path, *rows)), read_curves(tmp_path)[0]
    assert [(curve.language, curve.task, curve.family, curve.averaged) for curve in ours] == [
        (curve.language, curve.task, curve.family, curve.averaged) for curve in theirs
    ]
    for one, other in zip([*ours, *mean_curves(ours)], [*theirs, *means_of_report(theirs)[0]], strict=True):
        assert list(one.points) == list(other.points)
        for step, interval in one.points.items():
            point = other.points[step]
            assert (point.value, point.low, point.high) == pytest.approx((interval.value, interval.low, interval.high), abs=1e-9)


def section_of(run_dir: Path) -> Section:
    return learning_curves(RunFolder.of(ReportConfig(run_dir=str(run_dir)), []))


def test_the_section_shows_a_chart_a_quantity_and_every_score(tmp_path: Path) -> None:
    rows = [bits(step, tag, 3 - step / 100) for step in (100, 200) for tag in TAGS]
    rows += [row(step, "reading_es", right(50 + step // 10)) for step in (100, 200)]
    section = section_of(stored(tmp_path, *rows))
    charts = [block for block in section.blocks if isinstance(block, Chart)]
    assert [chart.label for chart in charts] == [
        "Bits per byte by checkpoint. In bits per byte, from the first to the last checkpoint: Spanish 2.00 to 1.00; Basque 2.00 to 1.00.",
        "Mean of the tasks by checkpoint. In points, from the first to the last checkpoint: Spanish 20.0 to 40.0.",
    ]
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    cells = [[cell.text for cell in entries] for entries in table.rows]
    assert cells[0] == ["Spanish", "bits per byte", "2", "2.000", "1.000", "0.800 to 1.200", "−1.000", "200"]
    assert [entry[:2] for entry in cells] == [["Spanish", "bits per byte"], ["Basque", "bits per byte"], ["Spanish", "mean of 1 task"], ["Spanish", "reading"]]
    assert cells[3][3:5] == ["60.0", "70.0"]


def test_a_run_that_nobody_watched_says_so(tmp_path: Path) -> None:
    (remark,) = section_of(stored(tmp_path, row(None, "reading_es", right(60)))).blocks
    assert isinstance(remark, Remark)
    assert "iberlm watch RUN_DIR" in remark.text


def test_a_single_checkpoint_is_a_point_with_its_interval(tmp_path: Path) -> None:
    section = section_of(stored(tmp_path, bits(100, "gl", 1.25)))
    (chart,) = (block for block in section.blocks if isinstance(block, Chart))
    assert chart.label.endswith("Galician 1.25.")


def test_broken_files_and_hostile_names_become_text(tmp_path: Path) -> None:
    stored(tmp_path, bits(100, "es", 1.0), bits(100, "<script>alert(1)</script>", 1.0))
    (tmp_path / "watch" / "step-00000200").mkdir(parents=True)
    (tmp_path / "watch" / "step-00000200" / "results.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "watch" / "step-x").mkdir()
    (tmp_path / "watch" / "step-x" / "results.parquet").write_bytes(b"")
    section = section_of(tmp_path)
    said = [block.text for block in section.blocks if isinstance(block, Remark) and block.missing]
    assert said == [f"The file watch/step-{step}/results.parquet cannot be read; its results are left out." for step in ("00000200", "x")]
    page = render(Page("Title", "run", [], [], [], [section]))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_report_is_made_again_when_another_checkpoint_was_evaluated(tmp_path: Path) -> None:
    stored(tmp_path, bits(100, "es", 1.0))
    before = fingerprint(tmp_path)
    stored(tmp_path, row(None, "reading_es", right(60)))
    assert fingerprint(tmp_path) == before
    stored(tmp_path, bits(200, "es", 0.9))
    assert fingerprint(tmp_path) != before


def test_all_columns_that_are_read_are_in_the_schema() -> None:
    from iberlm.report.curves_section import _COLUMNS

    assert set(_COLUMNS) <= set(RESULT_SCHEMA.names)
