"""The journal keeps every acknowledged slice through kills, full disks and damage, and one process at a time works on an evaluation."""

import errno
import fcntl
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iberlm.core.errors import ResourceError
from iberlm.evaluate.store.journal import FOLDER, Journal, unfinished, writing

KILLS = 20
NOTE_FOREVER = """
import sys
from pathlib import Path
from iberlm.evaluate.store.journal import Journal
journal = Journal(Path(sys.argv[1]), "task", sys.argv[2])
number = len(journal.read())
while True:
    journal.note(f"slice {number}", [[-number / 3, number % 2 == 0], "ñ" * (number * 37 % 5000)])
    number += 1
    print(number, flush=True)
"""
HOLD = """
import sys
from pathlib import Path
from iberlm.evaluate.store.journal import writing
with writing(Path(sys.argv[1]), "eval/one"):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys
from pathlib import Path
from iberlm.evaluate.store.journal import writing
folder = Path(sys.argv[1])
for _ in range(40):
    with writing(folder, "count"):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def journal_file(folder: Path) -> Path:
    (path,) = (folder / FOLDER).glob("*.jsonl")
    return path


def test_what_was_noted_is_read_by_slice_and_gone_once_discarded(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, "xnli_eu", "rank 0"), Journal(tmp_path, "xnli_eu", "rank 1")
    other = Journal(tmp_path, "xnli_eu.b")
    assert first.read() == {}
    assert not (tmp_path / FOLDER).exists()
    first.note("0", [[-1.5, True]])
    second.note("1", ["kaixo"])
    first.note("2", [])
    other.note("0", ["other"])
    assert second.read() == {"0": [[-1.5, True]], "1": ["kaixo"], "2": []}
    assert unfinished(tmp_path) == {"xnli_eu": 3, "xnli_eu.b": 1}
    first.discard()
    assert second.read() == {}
    assert other.read() == {"0": ["other"]}
    second.close()
    other.close()


@pytest.mark.parametrize("name", ["a/b", "..", "x" * 400, "ñandú *?[", "a.b.c"])
def test_any_name_is_one_journal(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path, name) as journal:
        journal.note("s", [1])
        assert Journal(tmp_path, name).read() == {"s": [1]}
        assert Journal(tmp_path, name + "y").read() == {}
        assert Journal(tmp_path, "a").read() == {}
    assert journal_file(tmp_path).parent == tmp_path / FOLDER


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.text(st.characters(codec=None)))
def test_numbers_come_back_with_the_same_bits_and_texts_with_the_same_characters(values: list[float], text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder), "n") as journal:
        journal.note(text, [*values, text])
        (answers,) = journal.read().values()
        assert list(journal.read()) == [text]
    assert answers.pop() == text
    canonical = [struct.pack("d", float("nan") if value != value else value) for value in values]  # a NaN's payload says nothing
    assert [struct.pack("d", value) for value in answers] == canonical


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_has_its_whole_lines_and_goes_on(data: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = {f"slice {number}": [-number / 7, "ab" * number] for number in range(5)}
        with Journal(folder, "n") as journal:
            for slice_id, values in answers.items():
                journal.note(slice_id, values)
        path = journal_file(folder)
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        with Journal(folder, "n") as journal:
            assert journal.read() == dict(list(answers.items())[:whole])
            journal.note("more", [1])
            assert journal.read() == dict(list(answers.items())[:whole]) | {"more": [1]}
        assert path.read_bytes().count(b"\n") == whole + 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_costs_one_line_and_is_never_believed(data: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answers = {f"slice {number}": [-number / 7, "ab" * number] for number in range(5)}
        with Journal(folder, "n") as journal:
            for slice_id, values in answers.items():
                journal.note(slice_id, values)
        path = journal_file(folder)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with Journal(folder, "n") as journal:
            found = journal.read()
            assert found.items() <= answers.items()
            # a line break turned into something else joins two lines
            assert len(found) >= len(answers) - 2
            journal.note("more", [1])
            assert journal.read() == found | {"more": [1]}


def test_damage_before_the_last_line_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path, "n") as journal:
        for number in range(3):
            journal.note(str(number), [number])
        path = journal_file(tmp_path)
        path.write_bytes(path.read_bytes().replace(b"[1]", b"[7]"))
        assert journal.read() == {"0": [0], "2": [2]}
    assert "1 damaged lines; what they held is computed again" in capsys.readouterr().err


def test_kills_in_the_middle_of_writing_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    draw = random.Random(0)
    acknowledged = 0
    for _ in range(KILLS):
        process = start(NOTE_FOREVER, tmp_path, "w")
        assert process.stdout
        for _ in range(draw.randint(1, 12)):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()  # communicate() would leave out what readline() has read ahead
        end(process)
        acknowledged = max([acknowledged, *map(int, rest)])
        found = Journal(tmp_path, "task").read()
        assert len(found) in (acknowledged, acknowledged + 1)  # killed between the line and its acknowledgement
        assert found == {f"slice {number}": [[-number / 3, number % 2 == 0], "ñ" * (number * 37 % 5000)] for number in range(len(found))}
    assert acknowledged >= KILLS


def test_a_full_disk_is_said_and_what_was_noted_stays(small_disk: Path) -> None:
    with Journal(small_disk, "n") as journal:
        journal.note("0", ["small"])
        with pytest.raises(ResourceError, match=r"the disk \(or quota\) is full"):
            journal.note("1", ["x" * (20 << 20)])
        assert journal.read() == {"0": ["small"]}
        journal.note("2", ["small"])
        assert journal.read() == {"0": ["small"], "2": ["small"]}


def test_a_read_only_store_is_said(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ResourceError, match=r"cannot be written \(Read-only file system\)"):
        Journal(small_disk, "n").note("0", [])
    with pytest.raises(ResourceError, match=r"cannot be written \(Read-only file system\)"), writing(small_disk, "n"):
        pass


def test_a_second_evaluation_waits_and_says_for_whom_and_a_killed_holder_is_no_obstacle(tmp_path: Path) -> None:
    holder = start(HOLD, tmp_path)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    waiter = start(HOLD, tmp_path)
    assert waiter.stderr
    assert waiter.stdout
    message = waiter.stderr.readline()
    assert f"{tmp_path}: 'eval/one' is held by process {holder.pid} on {socket.gethostname()}; waiting for it to end" in message
    end(holder)
    assert waiter.stdout.readline() == "held\n"
    out, errors = waiter.communicate("")
    assert (out, errors, waiter.returncode) == ("", "", 0)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_processes_that_wait_for_each_other_come_in_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    processes = [start(COUNT, tmp_path) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert errors.count("waiting") <= 40
    assert (tmp_path / "number").read_text() == "160"


def test_other_evaluations_do_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(tmp_path, "a"), writing(tmp_path, "b"):
        assert len(list((tmp_path / FOLDER).iterdir())) == 2
    assert capsys.readouterr().err == ""


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)  # no such file system can be mounted here
    with writing(tmp_path, "a"):
        pass
    assert "has no locks: take care that no second process works on 'a'" in capsys.readouterr().err


def test_the_journal_needs_no_arrow(tmp_path: Path) -> None:
    code = "import sys, iberlm.evaluate.store.journal; print(json.dumps([n for n in ('torch', 'pyarrow', 'numpy') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
