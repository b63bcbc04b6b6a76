import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iberlm.core.config import StageConfig
from iberlm.core.errors import ConfigError, CorruptError, DataError, ResourceError
from iberlm.core.files import publish, write_text
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.core.shards import ShardResult, map_shards
from iberlm.core.stage import Record, WouldRunError, identity, place, run_stage, stage_key


@dataclass(kw_only=True)
class CopyConfig(StageConfig):
    text: str = "hola"
    threads: int = place(1)
    nested: dict[str, list[int]] = field(default_factory=dict)


RUNS: list[str] = []


def write_one(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    RUNS.append(config.text)
    write_text(out / "text.txt", config.text)
    record.output(out / "text.txt", 1)
    record.counts.keep("ca")
    record.counts.drop("ca", "too_short", 2)
    record.cards["sample"] = "CC0-1.0"


def run(config: CopyConfig, out: Path, inputs: list[Manifest] | None = None) -> Manifest:
    return run_stage("copy", 1, write_one, config, inputs or [], out)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RUNS.clear()


def test_a_complete_stage_is_skipped_and_its_manifest_returned(tmp_path: Path) -> None:
    first = run(CopyConfig(), tmp_path / "a")
    second = run(CopyConfig(), tmp_path / "a")
    assert RUNS == ["hola"]
    assert second == first
    assert read_manifest(tmp_path / "a").counts.read == 3
    assert first.outputs[0].sha256 == "b221d9dbb083a7f33428d7c2a3c3198ae925614d70210e28716ccaa7cd4ddb79"


def test_only_settings_that_decide_the_output_enter_the_key(tmp_path: Path) -> None:
    run(CopyConfig(threads=1, run_dir="x"), tmp_path / "a")
    run(CopyConfig(threads=8, run_dir="y"), tmp_path / "a")
    assert RUNS == ["hola"]
    run(CopyConfig(text="adeu"), tmp_path / "a")
    run(CopyConfig(text="adeu", nested={"es": [1]}), tmp_path / "a")
    assert RUNS == ["hola", "adeu", "adeu"]
    assert "threads" not in identity(CopyConfig())
    assert read_manifest(tmp_path / "a").config["threads"] == 1


def test_inputs_enter_the_key_by_content_not_by_time(tmp_path: Path) -> None:
    source = run(CopyConfig(), tmp_path / "source")
    again = run_stage("copy", 1, write_one, CopyConfig(), [], tmp_path / "elsewhere")
    other = run(CopyConfig(text="adeu"), tmp_path / "other")
    key = stage_key("copy", 1, CopyConfig(), [source])
    assert stage_key("copy", 1, CopyConfig(), [again]) == key
    assert stage_key("copy", 1, CopyConfig(), [other]) != key
    assert stage_key("copy", 2, CopyConfig(), [source]) != key
    assert stage_key("copy", 1, CopyConfig(), [source], {"files": 1}) != key


@pytest.mark.parametrize("damage", ["cut", "delete", "manifest", "manifest_schema"])
def test_a_damaged_output_is_made_again(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "a"
    run(CopyConfig(), out)
    if damage == "cut":
        (out / "text.txt").write_text("ho")
    elif damage == "delete":
        (out / "text.txt").unlink()
    elif damage == "manifest":
        (out / "manifest.json").write_text('{"stage": "copy"')
    else:
        (out / "manifest.json").write_text('{"schema_version": 99}')
    manifest = run(CopyConfig(), out)
    assert RUNS == ["hola", "hola"]
    manifest.check_files(checksums=True)


def test_same_size_other_bytes_are_found_by_checksum(tmp_path: Path) -> None:
    manifest = run(CopyConfig(), tmp_path / "a")
    (tmp_path / "a" / "text.txt").write_text("HOLA")
    manifest.check_files()
    with pytest.raises(CorruptError, match="checksum"):
        manifest.check_files(checksums=True)


def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        run(CopyConfig(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_failed_body_leaves_no_manifest_and_the_next_run_begins_anew(tmp_path: Path) -> None:
    def fail(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        write_text(out / "half.txt", "half")
        raise DataError("no")

    with pytest.raises(DataError):
        run_stage("copy", 1, fail, CopyConfig(), [], tmp_path / "a")
    with pytest.raises(DataError, match="has not finished"):
        read_manifest(tmp_path / "a")
    run(CopyConfig(), tmp_path / "a")
    assert not (tmp_path / "a" / "half.txt").exists()


def test_dry_run_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(WouldRunError, match="copy"):
        run(CopyConfig(dry_run=True), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_half_written_stays(small_disk: Path) -> None:
    def fill(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        with publish(out / "big.bin") as temporary, temporary.open("wb") as stream:
            for _ in range(64):
                stream.write(b"0" * (1 << 20))

    with pytest.raises(ResourceError, match="full"):
        run_stage("copy", 1, fill, CopyConfig(), [], small_disk / "a")
    assert not (small_disk / "a" / "manifest.json").exists()
    assert [path.name for path in (small_disk / "a").iterdir() if path.suffix == ".bin"] == []
    run(CopyConfig(), small_disk / "a")


def shard_of(text: str, out: Path) -> ShardResult:
    with (out / ".calls").open("a") as calls:
        calls.write(f"{text}\n")
    if text == "broken":
        raise DataError("this shard is broken")
    if text == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(out / f"{text}.txt", text)
    result = ShardResult({f"{text}.txt": 1})
    result.counts.keep("eu")
    return result


def sharded(texts: list[str], workers: int) -> object:
    def body(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        map_shards("copy", shard_of, {text: text for text in texts}, record, workers=workers)

    return body


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_that_were_finished_before_a_failure_are_not_run_again(tmp_path: Path, workers: int) -> None:
    out = tmp_path / "a"
    with pytest.raises(DataError, match="broken"):
        run_stage("copy", 1, sharded(["one", "two", "broken"], workers), CopyConfig(), [], out, resumable=True)
    calls = (out / ".calls").read_text().split()
    assert {"one", "two", "broken"} >= set(calls)
    done = {path.stem for path in (out / ".shards").iterdir()} - {"plan"}
    (out / ".calls").unlink()
    # the same key, and a body that can now do it
    run_stage("copy", 1, sharded(["one", "two", "three"], workers), CopyConfig(), [], out, resumable=True)
    assert set((out / ".calls").read_text().split()) == {"one", "two", "three"} - done
    manifest = read_manifest(out)
    assert [output.path for output in manifest.outputs] == ["one.txt", "two.txt", "three.txt"]
    assert manifest.counts.kept == {"eu": 3}
    assert not (out / ".shards").exists()


def test_unfinished_files_of_a_killed_run_are_removed_when_it_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(DataError, match="broken"):
        run_stage("copy", 1, sharded(["one", "broken"], 1), CopyConfig(), [], out, resumable=True)
    (out / "documents").mkdir()
    leftovers = [out / ".manifest.123.partial.json", out / "documents" / ".00000.123.partial.parquet"]
    for path in leftovers:
        path.write_text("half")
    run_stage("copy", 1, sharded(["one", "two"], 1), CopyConfig(), [], out, resumable=True)
    assert not any(path.exists() for path in leftovers)


def test_shards_of_other_settings_are_not_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(DataError):
        run_stage("copy", 1, sharded(["one", "broken"], 1), CopyConfig(), [], out, resumable=True)
    run_stage("copy", 1, sharded(["two"], 1), CopyConfig(text="other"), [], out, resumable=True)
    assert not (out / "one.txt").exists()


def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="worker process was killed"):
        run_stage("copy", 1, sharded(["killed", "one"], 2), CopyConfig(), [], tmp_path / "a", resumable=True)


SLOW = """
import sys, time
from pathlib import Path
from tests.core.test_stage import CopyConfig
from iberlm.core.shards import map_shards, ShardResult
from iberlm.core.stage import run_stage
from iberlm.core.files import write_text

def shard(number, out):
    if number == 2:
        while not (out / "0.txt").exists():  # of another worker
            time.sleep(0.01)
        (out / ".hanging").touch()
        time.sleep(600)
    write_text(out / f"{number}.txt", str(number))
    return ShardResult({f"{number}.txt": 1})

def body(config, inputs, out, record):
    map_shards("copy", shard, {str(n): n for n in range(4)}, record, workers=int(sys.argv[2]))

if __name__ == "__main__":
    run_stage("copy", 1, body, CopyConfig(), [], Path(sys.argv[1]), resumable=True)
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_9_leaves_no_manifest_no_worker_and_a_folder_that_resumes(tmp_path: Path, workers: str) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    out = tmp_path / "a"
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ["PYTHONPATH"]])}
    process = subprocess.Popen([sys.executable, str(script), str(out), workers], env=environment, start_new_session=True)
    deadline = time.monotonic() + 600
    while not (out / ".hanging").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert (out / ".hanging").exists()
    process.kill()
    process.wait()
    while (left := _alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert not (out / "manifest.json").exists()
    run_stage("copy", 1, sharded(["after"], 1), CopyConfig(), [], out, resumable=True)
    assert (out / "0.txt").read_text() == "0"  # the folder was taken over, not emptied
    assert json.loads((out / "manifest.json").read_text())["stage"] == "copy"


def _alive(session: int) -> list[int]:
    """Processes of a session that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(its_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    def nested(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        with pytest.raises(ResourceError, match="another process"):
            run(CopyConfig(text="other"), out)
        write_one(config, inputs, out, record)

    run_stage("copy", 1, nested, CopyConfig(), [], tmp_path / "a")


def test_a_folder_with_somebody_elses_manifest_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="no stage of IberLM made"):
        run(CopyConfig(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "thesis.txt"]


def test_the_folder_of_another_stage_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(CopyConfig(), tmp_path / "a")
    with pytest.raises(ConfigError, match="is the folder of the stage 'copy'"):
        run_stage("other", 1, write_one, CopyConfig(), [], tmp_path / "a")
    read_manifest(tmp_path / "a").check_files(checksums=True)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file"):
        run(CopyConfig(), tmp_path / place)


def test_an_input_that_was_damaged_since_is_told_before_the_stage_begins(tmp_path: Path) -> None:
    source = run(CopyConfig(), tmp_path / "a")
    (tmp_path / "a" / "text.txt").write_text("ho")
    with pytest.raises(CorruptError, match="run the 'copy' stage again"):
        run(CopyConfig(text="next"), tmp_path / "b", [source])
    assert not (tmp_path / "b").exists()


def test_a_full_disk_that_a_library_tells_by_text_is_recognised(tmp_path: Path) -> None:
    def fail(config: CopyConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(ResourceError, match="full"):
        run_stage("copy", 1, fail, CopyConfig(), [], tmp_path / "a")
