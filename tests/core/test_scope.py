"""Parts of a stage: shares of its shards over several processes, and a join."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.scope import EnoughError, Scope, within
from iberlm.core.shards import missing_elements
from iberlm.core.stage import Record, held_by_first_rank, run_stage

from .test_stage import CopyConfig, sharded, write_one

TEXTS = ["a", "b", "c", "d", "e"]


def share(out: Path, element: int, elements: int, texts: list[str] = TEXTS, text: str = "hola") -> None:
    with within(Scope(share=(element, elements))), pytest.raises(EnoughError):
        run_stage("copy", 1, sharded(texts, 1), CopyConfig(text=text), [], out, resumable=True)


def key(out: Path) -> str:
    return str(json.loads((out / ".stage.json").read_text())["key"])


def test_elements_do_their_shares_and_a_join_publishes_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "a"
    share(out, 1, 2)
    assert (out / ".calls").read_text().split() == ["b", "d"]
    assert missing_elements(out, key(out), 2) == [0]
    assert not (out / "manifest.json").exists()
    share(out, 0, 2)
    assert missing_elements(out, key(out), 2) == []
    (out / ".calls").unlink()
    run_stage("copy", 1, sharded(TEXTS, 1), CopyConfig(), [], out, resumable=True)
    assert not (out / ".calls").exists()  # nothing was left to do
    assert [output.path for output in read_manifest(out).outputs] == [f"{text}.txt" for text in TEXTS]
    assert read_manifest(out).counts.kept == {"eu": 5}


def test_a_share_that_is_complete_ends_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        share(tmp_path / "a", 0, 1)
    assert (tmp_path / "a/.calls").read_text().split() == TEXTS


def test_a_failed_element_leaves_its_finished_shards(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with within(Scope(share=(0, 2))), pytest.raises(DataError):
        run_stage("copy", 1, sharded(["a", "x", "broken"], 1), CopyConfig(), [], out, resumable=True)
    share(out, 1, 2, ["a", "x", "broken"])
    assert missing_elements(out, key(out), 2) == [0]


def test_elements_with_other_settings_begin_anew_and_of_unknown_shards_all_are_missing(tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert missing_elements(out, "k", 3) == [0, 1, 2]
    share(out, 0, 2)
    first = key(out)
    share(out, 0, 2, ["f", "g"], text="adeu")
    assert not (out / "a.txt").exists()
    assert missing_elements(out, first, 2) == [0, 1]
    assert missing_elements(out, key(out), 2) == [1]


def test_the_share_of_a_stage_without_shards_is_refused(tmp_path: Path) -> None:
    with within(Scope(share=(0, 2))), pytest.raises(ConfigError, match="no shards"):
        run_stage("copy", 1, write_one, CopyConfig(), [], tmp_path / "a")
    assert not (tmp_path / "a/manifest.json").exists()


def test_the_whole_stage_waits_for_no_element_and_is_refused_while_one_works(tmp_path: Path) -> None:
    out = tmp_path / "a"

    def body(config: CopyConfig, inputs: list[Manifest], folder: Path, record: Record) -> None:
        with within(Scope()), pytest.raises(ResourceError, match="another process"):
            run_stage("copy", 1, sharded(TEXTS, 1), CopyConfig(), [], out, resumable=True)
        raise EnoughError

    with within(Scope(share=(0, 2))), pytest.raises(EnoughError):
        run_stage("copy", 1, body, CopyConfig(), [], out, resumable=True)


def test_an_element_waits_for_the_one_that_prepares_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "a"
    share(out, 1, 2)
    with (out / ".lock").open("w") as stream:  # as an element that has written the mark and still holds the folder
        fcntl.flock(stream, fcntl.LOCK_EX)
        waiting = subprocess.Popen([sys.executable, "-c", ELEMENT.replace("4)", "2)").replace('[f"s{n}" for n in range(40)]', repr(TEXTS)), str(out), "0"])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        fcntl.flock(stream, fcntl.LOCK_UN)
    assert waiting.wait(600) == 0
    assert missing_elements(out, key(out), 2) == []


def test_while_ranks_train_elsewhere_their_first_one_holds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a"
    out.mkdir()
    monkeypatch.setenv("RANK", "0")
    with held_by_first_rank("copy", out):  # on this machine the process that started the ranks does
        run_stage("copy", 1, write_one, CopyConfig(), [], out)
    (out / "manifest.json").unlink()
    monkeypatch.setenv("IBERLM_RANK_REPORTS", str(tmp_path))
    with held_by_first_rank("copy", out), pytest.raises(ResourceError, match="another process"):
        run_stage("copy", 1, write_one, CopyConfig(), [], out)


def test_until_ends_after_its_stage_whether_that_ran_or_was_complete(tmp_path: Path) -> None:
    for _ in range(2):
        with within(Scope(until="copy")), pytest.raises(EnoughError):
            run_stage("copy", 1, write_one, CopyConfig(), [], tmp_path / "a")
    with within(Scope(until="later")):
        run_stage("copy", 1, write_one, CopyConfig(), [], tmp_path / "a")


ELEMENT = """
import sys
from pathlib import Path
from iberlm.core.scope import EnoughError, Scope, within
from iberlm.core.stage import run_stage
from tests.core.test_stage import CopyConfig, sharded
try:
    with within(Scope(share=(int(sys.argv[2]), 4))):
        run_stage("copy", 1, sharded([f"s{n}" for n in range(40)], 1), CopyConfig(), [], Path(sys.argv[1]), resumable=True)
except EnoughError:
    sys.exit(0)
sys.exit(1)
"""


def test_elements_that_begin_at_once_over_an_older_result_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "a"
    run_stage("copy", 1, sharded(["old"], 1), CopyConfig(text="old"), [], out, resumable=True)
    started = [subprocess.Popen([sys.executable, "-c", ELEMENT, str(out), str(number)], stderr=subprocess.PIPE, text=True) for number in range(4)]
    for process in started:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert missing_elements(out, key(out), 4) == []
    assert not (out / "old.txt").exists()
    run_stage("copy", 1, sharded([f"s{n}" for n in range(40)], 1), CopyConfig(), [], out, resumable=True)
    assert len(read_manifest(out).outputs) == 40
    assert sorted((out / ".calls").read_text().split()) == sorted(f"s{n}" for n in range(40))
