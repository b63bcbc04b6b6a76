"""The section on training: it has what the run recorded, says how each number was counted, and shows older and odder runs as far as they go."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pretrain_run import GROUPS, SKIPPED, write_old_pretrain, write_pretrain
from report_run import stage

from iberlm.core.files import write_text
from iberlm.core.stage import Record
from iberlm.report.blocks import Block, Chart, Facts, Heading, Remark, Table
from iberlm.report.config import ReportConfig
from iberlm.report.run_folder import RunFolder
from iberlm.report.training_section import source_name, training


def blocks_of(folder: Path, write: Any) -> list[Block]:
    """The section of a run in which only the pretraining has finished."""
    return training(RunFolder.of(ReportConfig(run_dir=str(folder)), [stage("pretrain", folder / "pretrain", write)])).blocks


def facts(blocks: list[Block]) -> dict[str, str]:
    return {name: value for block in blocks if isinstance(block, Facts) for name, value in block.rows}


def tables(blocks: list[Block]) -> dict[str, list[list[str]]]:
    return {block.caption: [[cell.text for cell in row] for row in block.rows] for block in blocks if isinstance(block, Table)}


def charts(blocks: list[Block]) -> dict[str, Chart]:
    return {block.caption: block for block in blocks if isinstance(block, Chart)}


def remarks(blocks: list[Block]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Remark))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Block]:
    return blocks_of(tmp_path_factory.mktemp("whole"), write_pretrain)


def test_speed_energy_and_memory_are_told_with_how_they_were_counted(whole: list[Block]) -> None:
    found = facts(whole)
    assert found["MFU"] == "31.2 %"
    assert found["Energy"] == "6.00 Wh, measured"
    assert found["Tokens a watt-hour"] == "205 k"
    assert found["Most memory of a rank"] == "1.4 GiB"
    assert found["Waiting for data"] == "0.27 % of the time"
    said = remarks(whole)
    assert "MFU (model FLOP utilisation) is 21,234,688 FLOP a token x tokens a second / (8 x 989.4 TFLOP/s)" in said
    assert "the peak of one device is 989.4 TFLOP/s (NVIDIA H100 data sheet, dense bf16)." in said
    assert "Energy is measured: NVML energy counter, the GPU alone." in said


def test_the_mesh_and_the_choices_are_told_with_their_reasons(whole: list[Block]) -> None:
    assert facts(whole)["Strategy, verified"] == "fsdp2, cuda, cpu:gloo,cuda:nccl, FSDPTrainingModel, AdamW, bf16; 8 rank(s), mesh dp_shard 4 x tp 2"
    assert tables(whole)["What the machine decided"][1] == ["Compile on", "300 steps are enough to pay for it (from 100 on)"]
    planned = tables(whole)["Planned reading"]
    assert [row[0] for row in planned] == ["Step 240", "Step 300", "Mixtures together"]
    assert "es 0.2000 (1.20 epochs)" in planned[0][1]


def test_loss_is_shown_by_language_and_source(whole: list[Block]) -> None:
    label = charts(whole)["Training loss by language (nats a token)"].label
    assert re.search(r"Spanish books \d\.\d\d, debian_docs \d\.\d\d and replay \d\.\d\d; Catalan \d\.\d\d; ", label)
    rows = tables(whole)["Training loss by language and source (nats a token)"]
    assert len(rows) == len(GROUPS)
    assert [row[:2] for row in rows[:4]] == [["Spanish", "books"], ["Spanish", "debian_docs"], ["Spanish", "replay"], ["Catalan", "all"]]
    assert [row[-1] for row in rows] == ["298"] * 7 + ["99"]  # a step that was not applied does not count
    assert all(row[4].startswith("−2.") for row in rows)
    assert [source_name(name) for name in ("es/debian_docs", "replay:ca", "gl")] == ["Spanish, debian_docs", "Catalan (replay)", "Galician"]


def test_steps_that_were_not_applied_are_marked_and_listed(whole: list[Block]) -> None:
    chart = charts(whole)["Training: loss, learning rate and gradient norm"]
    assert chart.label.endswith("2 steps were not applied.")
    assert "Training loss from 7." in chart.label  # the loss of 23.5 is no part of the curve
    assert tables(whole)["Steps that were not applied"] == [["140", "23.500", "87.000"], ["141", "–", "–"]]
    assert facts(whole)["Steps not applied"] == "5 (1.7 %)"
    assert facts(whole)["Data left out"] == "the samples of 2 steps from step 199 on"
    events = tables(whole)["What else happened"]
    assert [row[:2] for row in events] == [["200", "rollback"], ["260", "straggler"]]  # a skip is in the other table


def test_a_quiet_run_says_so(tmp_path: Path) -> None:
    def write(out: Path, record: Record) -> None:
        write_pretrain(out, record)
        (out / "events.jsonl").unlink()
        kept = [line for line in (out / "metrics.jsonl").read_text().splitlines() if json.loads(line)["applied"]]
        write_text(out / "metrics.jsonl", "\n".join(kept))
        record.metrics |= {"skipped_steps": 0, "rollbacks": 0, "gaps": [], "mfu": None}

    blocks = blocks_of(tmp_path, write)
    assert "Every step was applied, and the run never had to go back to a checkpoint." in remarks(blocks)
    assert "×" not in remarks(blocks)
    assert facts(blocks)["MFU"] == "not known: no peak is known for this device"
    assert "monitor.peak_tflops gives a peak that is not in the table" in remarks(blocks)


def test_a_run_of_the_version_before_shows_what_it_has(tmp_path: Path) -> None:
    blocks = blocks_of(tmp_path, write_old_pretrain)
    assert set(charts(blocks)) == {"Training: loss, learning rate and gradient norm", "Validation bits per byte while training (lower is better)", "Speed"}
    assert facts(blocks)["Strategy, verified"] == "single, cpu, none, none, AdamW, fp32; 1 rank(s)"
    assert not {"MFU", "Energy", "Waiting for data", "Most memory of a rank", "Steps not applied"} & set(facts(blocks))
    assert not [block for block in blocks if isinstance(block, Heading)]
    assert set(tables(blocks)) == {"Bits per byte against the unigram baseline"}


ODD_LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": 3.0, "losses": 4, "applied": "yes", "data_wait": "much", "tokens_per_second": None},
    {"step": 2, "loss": 2.9, "losses": {"es": None, "": 1.0, "gl": 2}, "applied": False, "grad_norm": []},
    {"step": "3", "loss": 2.8, "losses": {"es": "x", "": 2.0, "gl": 2.5}, "lr": {}},
    {"step": 4, "loss": 2.7, "losses": {"es": [1], "": 3.0, "gl": 2.25}, "grad_norm": -1.0},
    {"step": 5, "losses": {"gl": 2.0}, "loss": None, "grad_norm": 0.0},
]


def test_odd_lines_and_metrics_never_stop_the_section(tmp_path: Path) -> None:
    def write(out: Path, record: Record) -> None:
        write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in ODD_LINES))
        write_text(out / "events.jsonl", '{"event": 4}\n[]\n{"step": "x", "message": null}\n')
        record.metrics = {
            "mfu": 3,
            "energy": [1],
            "data_wait": "x",
            "memory_bytes": "much",
            "choices": "none",
            "mixture_plan": [None, 4, "x"],
            "gaps": [[1], 2],
        }
        record.metrics |= {"skipped_steps": "many", "rollbacks": 1, "strategy": {"mesh": 4}, "mixture": 3}

    blocks = blocks_of(tmp_path, write)
    assert [row[1:] for row in tables(blocks)["What else happened"]] == [["4", "–"], ["–", "–"]]
    assert ["Galician", "all", "2.250", "2.000", "−0.250", "2"] in tables(blocks)["Training loss by language and source (nats a token)"]
    assert facts(blocks)["Returns to a checkpoint"] == "1"


def test_many_sources_are_drawn_as_far_as_they_can_be_told_apart(tmp_path: Path) -> None:
    names = [f"es/a_source_with_quite_a_long_name_{number}" for number in range(6)] + [f"x{letter}" for letter in "abcdefghij"]

    def write(out: Path, record: Record) -> None:
        lines = [{"step": step, "loss": 3.0, "losses": dict.fromkeys(names, 3.0 + step / 10)} for step in range(1, 9)]
        write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    blocks = blocks_of(tmp_path, write)
    assert "The chart shows 12 of 16 sources, those that were read in most steps; the table has all." in remarks(blocks)
    assert len(tables(blocks)["Training loss by language and source (nats a token)"]) == 16


def test_the_fixture_has_the_lines_it_says(tmp_path: Path) -> None:
    """What the other tests lean on: one line a step, two of them not applied."""
    manifest = stage("pretrain", tmp_path, write_pretrain)
    lines = [json.loads(line) for line in (manifest.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if not line["applied"]] == list(SKIPPED)
