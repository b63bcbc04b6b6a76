from pathlib import Path

import pytest

from iberlm.core.errors import CorruptError
from iberlm.launch.records import append_line, format_array, parse_array, read_lines


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2], [0, 2, 3, 7], [5]])
def test_arrays_are_written_as_slurm_reads_them(numbers: list[int]) -> None:
    assert parse_array(format_array(numbers)) == numbers
    assert parse_array(format_array(numbers, 2)) == numbers


def test_arrays_are_short() -> None:
    assert format_array([0, 1, 2, 3, 7], 2) == "0-3,7%2"
    assert format_array([4], 2) == "4"
    assert parse_array("") == []


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "starts.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as stream:
        stream.write('{"event": "sta')  # a kill, or a full disk
    append_line(path, {"a": 2})
    append_line(path, {"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert path.read_text().count("\n") == 4


def test_what_is_no_line_of_ours_is_told(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(CorruptError, match=r"jobs.jsonl:1: not JSON"):
        read_lines(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(CorruptError, match="not UTF-8"):
        read_lines(path)
    assert read_lines(tmp_path / "none") == []
