"""What was learnt by heart, as the report shows it: the curve, the table, and no word of it in runs without canaries."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from report_run import HOSTILE, stage

from iberlm.core.files import write_text
from iberlm.core.stage import Record
from iberlm.report.blocks import Block, Chart, Facts, Heading, Page, Remark, Section, Table
from iberlm.report.config import ReportConfig
from iberlm.report.memorisation_section import memorisation
from iberlm.report.page import render
from iberlm.report.run_folder import RunFolder


@dataclass
class Pretrained:
    """The settings of a pretraining that the section reads."""

    canaries: dict[str, Any] = field(default_factory=lambda: {"canaries_each": 8})
    objective: dict[str, Any] = field(default_factory=lambda: {"goldfish_k": 0, "goldfish_context": 50})


def result(repetitions: Any, exact: Any = 0.0, longest: Any = 0.5, **more: Any) -> dict[str, Any]:
    base = {"canaries": 8, "right_tokens": 0.25, "loss": 7.125, "exposure_bits": 2.5 if repetitions else None}
    return {"repetitions": repetitions, "exact": exact, "longest_common_tokens": longest, **base, **more}


def found(*results: Any) -> str:
    return json.dumps({"prefix_tokens": 32, "suffix_tokens": 32, "canaries_each": 8, "planted_tokens": 130_560, "results": results})


CURVE = found(result(128, 1.0, 32.0), result(0), *(result(2**n) for n in range(6)), result(64, 0.375, 20.125))


def blocks_of(folder: Path, text: str | None, settings: Pretrained | None = None) -> list[Block]:
    def write(out: Path, record: Record) -> None:
        if text is not None:
            write_text(out / "memorisation.json", text)

    manifest = stage("pretrain", folder, write, settings or Pretrained())
    return memorisation(RunFolder.of(ReportConfig(run_dir=str(folder.parent)), [manifest]))


def html_of(blocks: list[Block]) -> str:
    return render(Page("t", "r", [], [], [], [Section("training", "Training", "lead", blocks)]))


def test_the_curve_the_table_and_from_where_on_canaries_come_out_whole(tmp_path: Path) -> None:
    heading, facts, chart, table, remark = blocks_of(tmp_path / "pretrain", CURVE)
    assert isinstance(heading, Heading)
    assert isinstance(facts, Facts)
    assert dict(facts.rows) == {
        "Canaries": "8 of random tokens for each number of repetitions, 8 never planted",
        "Test": "32 tokens are given, the next 32 are asked for",
        "Tokens planted": "130,560",
        "Goldfish loss": "off",
    }
    assert isinstance(chart, Chart)
    assert "64 times 38 % and 20.1 tokens, 128 times 100 % and 32.0 tokens" in chart.label
    for drawing in (chart.wide, chart.narrow):
        assert ">never planted<" in drawing  # the control is told apart by its name, not by its colour alone
        assert all(f">{2**n}<" in drawing for n in range(8))
    assert isinstance(table, Table)
    assert [row[0].text for row in table.rows] == ["never planted", "once", *(f"{2**n} times" for n in range(1, 8))]
    assert [cell.text for cell in table.rows[-2]][1:] == ["8", "38 %", "20.1", "25 %", "7.12", "2.5"]
    assert table.rows[0][-1].text == "–"
    assert isinstance(remark, Remark)
    assert remark.text.startswith("Canaries came out whole from 64 repetitions on.")
    assert "Canaries came out whole" in html_of([heading, facts, chart, table, remark])


def test_a_model_that_repeats_nothing_and_the_goldfish_loss_are_said(tmp_path: Path) -> None:
    settings = Pretrained(objective={"goldfish_k": 4, "goldfish_context": 13})
    blocks = blocks_of(tmp_path / "pretrain", found(result(0), result(1), result(16)), settings)
    assert isinstance(blocks[1], Facts)
    assert ("Goldfish loss", "one target in 4 is left out, by the 13 tokens before it") in blocks[1].rows
    assert isinstance(blocks[-1], Remark)
    assert blocks[-1].text.startswith("No canary came out whole.")


def test_nothing_is_shown_where_nothing_was_planted(tmp_path: Path) -> None:
    assert memorisation(RunFolder.of(ReportConfig(run_dir=str(tmp_path)), [])) == []
    assert blocks_of(tmp_path / "none", None, Pretrained(canaries={"canaries_each": 0})) == []
    assert blocks_of(tmp_path / "old", None, Pretrained(canaries={})) == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"results": 3}', '{"results": []}', '{"results": [3, null, {"repetitions": "x"}]}'])
def test_results_that_are_missing_or_broken_are_a_sentence(tmp_path: Path, text: str | None) -> None:
    heading, remark = blocks_of(tmp_path / "pretrain", text)
    assert isinstance(heading, Heading)
    assert isinstance(remark, Remark)
    assert remark.missing
    assert "memorisation.json" in remark.text


def test_odd_values_are_shown_as_missing_and_never_as_markup(tmp_path: Path) -> None:
    odd = [result(0, None, None), result(1, HOSTILE, {}, canaries=HOSTILE), result(2, float("nan"), 3.0), result(-1), result(4, 0.5, None, loss=None)]
    blocks = blocks_of(tmp_path / "pretrain", found(*odd))
    html = html_of(blocks)
    assert "<script>document" not in html
    assert [row[0].text for row in next(block for block in blocks if isinstance(block, Table)).rows] == ["never planted", "once", "2 times", "4 times"]


def test_only_controls_have_no_curve(tmp_path: Path) -> None:
    blocks = blocks_of(tmp_path / "pretrain", found(result(0)))
    assert not any(isinstance(block, Chart) for block in blocks)
