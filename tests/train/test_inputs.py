"""What pretraining refuses before it starts: tokenizers that failed a gate or were changed, stores with a damaged file."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.files import sha256_file
from iberlm.core.manifest import Manifest, read_manifest
from iberlm.train import pretrain
from iberlm.train.inputs import VERIFIED, check_gates, check_tokenizer, verify_store

from .conftest import tiny

MakeStore = Callable[[dict[str, int]], Manifest]


def gate(passed: bool | None, message: str = "said") -> dict[str, Any]:
    return {"passed": passed, "value": None, "limit": None, "message": message}


def with_gates(tokenizer: Manifest, **gates: dict[str, Any]) -> Manifest:
    return replace(tokenizer, metrics=tokenizer.metrics | {"gates": gates})


def test_a_failed_or_open_gate_is_refused_unless_waived(inputs: list[Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = with_gates(inputs[1], bytes=gate(True), cost=gate(False, "2.5 times as dear in eu"), deterministic=gate(None, "trained only once"))
    with pytest.raises(DataError, match=r"gate cost failed: 2.5 times as dear in eu; gate deterministic was not measured: trained only once") as caught:
        check_gates(tokenizer, [])
    assert "waived_gates=[cost, deterministic]" in str(caught.value)
    with pytest.raises(DataError, match="gate deterministic was not measured"):
        check_gates(tokenizer, ["cost"])
    capsys.readouterr()
    check_gates(tokenizer, ["deterministic", "cost", "bytes"])
    said = capsys.readouterr().err
    assert "pretrain: gate cost waived: 2.5 times as dear in eu" in said
    assert "gate bytes" not in said


def test_a_waiver_of_no_gate_is_refused_with_the_gates_there_are(inputs: list[Manifest]) -> None:
    with pytest.raises(ConfigError, match="waived_gates: the tokenizer has no gate 'costs'; it has bytes, cost"):
        check_gates(with_gates(inputs[1], bytes=gate(True), cost=gate(True)), ["costs"])


def test_a_tokenizer_without_gates_is_refused(inputs: list[Manifest]) -> None:
    with pytest.raises(DataError, match=r"has no gates.*train the tokenizer again"):
        check_gates(replace(inputs[1], metrics={"vocabulary_size": 300}), ["cost"])


def test_pretraining_refuses_before_it_touches_its_folder(inputs: list[Manifest], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gate cost was not measured"):
        pretrain.run(tiny(waived_gates=[]), inputs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def copied(inputs: list[Manifest], tmp_path: Path) -> Manifest:
    """A copy of the tokenizer that a test may change."""
    shutil.copytree(inputs[1].folder, tmp_path / "copied")
    return read_manifest(tmp_path / "copied")


def change(path: Path) -> None:
    """Another vocabulary of the same size: two pieces change their ids."""
    value = json.loads(path.read_text())
    vocabulary = value["model"]["vocab"]
    one, other = [piece for piece in vocabulary if piece.isalpha()][:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(value))


def test_a_tokenizer_changed_after_tokenizing_is_refused(inputs: list[Manifest], copied: Manifest, tmp_path: Path) -> None:
    check_tokenizer(inputs[0], copied)
    path = copied.folder / "tokenizer/tokenizer.json"
    change(path)
    with pytest.raises(CorruptError, match=r"tokenizer/tokenizer\.json: missing, or changed after it was made.*put the file back"):
        pretrain.run(tiny(), [inputs[0], copied], tmp_path / "run")
    # and when its manifest was made to agree
    outputs = [replace(output, sha256=sha256_file(copied.folder / output.path)) for output in copied.outputs]
    with pytest.raises(CorruptError, match=r"made with another tokenizer than .*copied; tokenize again with this one"):
        pretrain.run(tiny(), [inputs[0], replace(copied, outputs=outputs)], tmp_path / "run")
    path.unlink()
    with pytest.raises(CorruptError, match=r"tokenizer/tokenizer\.json: missing"):
        pretrain.run(tiny(), [inputs[0], copied], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_was_only_measured_again_is_the_same(inputs: list[Manifest], copied: Manifest) -> None:
    measured = [*copied.outputs, replace(copied.outputs[0], path="measure.json")]
    check_tokenizer(inputs[0], replace(copied, outputs=measured))


def test_a_store_that_does_not_know_its_tokenizer_is_refused(inputs: list[Manifest]) -> None:
    metrics = {key: value for key, value in inputs[0].metrics.items() if key != "tokenizer"}
    with pytest.raises(CorruptError, match=r"does not say which tokenizer.*tokenize again"):
        check_tokenizer(replace(inputs[0], metrics=metrics), inputs[1])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train/es-00001.bin", "train/es-00000.idx", "validation/es-00000.bin"])
def test_a_store_with_a_wrong_checksum_is_refused_before_training(inputs: list[Manifest], own_store: MakeStore, tmp_path: Path, name: str) -> None:
    store = own_store({"es": 20})
    damage(store.folder / name)
    with pytest.raises(CorruptError, match=rf"{name}: its checksum is not the one in manifest.json; delete its folder and run the 'tokenize' stage again"):
        pretrain.run(tiny(), [store, inputs[1]], tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("verify", ["checksums", "sizes"])
def test_a_short_index_is_refused_whatever_is_verified(inputs: list[Manifest], own_store: MakeStore, tmp_path: Path, verify: str) -> None:
    store = own_store({"es": 20})
    path = store.folder / "train/es-00000.idx"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptError, match=r"es-00000\.idx: \d+ bytes where manifest.json says"):
        pretrain.run(tiny(verify_store=verify), [store, inputs[1]], tmp_path / "run")


def test_what_was_verified_is_not_read_again_until_it_changes(own_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = own_store({"es": 20})
    capsys.readouterr()
    verify_store(store, tmp_path)
    files = len(store.outputs)
    assert f"verifying the checksums of {files} files" in capsys.readouterr().err
    verify_store(store, tmp_path)
    assert f"{files} files have been verified before" in capsys.readouterr().err
    path = store.folder / "train/es-00000.bin"
    os.utime(path, ns=(0, 0))
    verify_store(store, tmp_path)
    assert "verifying the checksums of 1 files" in capsys.readouterr().err
    damage(path)
    with pytest.raises(CorruptError, match="its checksum is not the one"):
        verify_store(store, tmp_path)
    assert "verifying the checksums of 1 files" in capsys.readouterr().err  # the others stay verified
    damage(path)  # the same bit: as it was
    verify_store(store, tmp_path)
    assert read_manifest(store.folder).outputs == store.outputs


def test_a_damaged_memory_of_what_was_verified_is_no_harm(own_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = own_store({"es": 20})
    for text in ("{", "[]", '{"train/es-00000.bin": 7}'):
        (store.folder / VERIFIED).write_text(text)
        capsys.readouterr()
        verify_store(store, tmp_path)
        assert f"verifying the checksums of {len(store.outputs)} files" in capsys.readouterr().err


def test_the_memory_of_a_store_that_cannot_be_written_is_kept_with_the_run(own_store: MakeStore, tmp_path: Path) -> None:
    store = own_store({"es": 20})
    store.folder.chmod(0o555)
    try:
        if os.access(store.folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        verify_store(store, tmp_path)
    finally:
        store.folder.chmod(0o755)
    assert (tmp_path / VERIFIED).is_file()
    assert not (store.folder / VERIFIED).exists()
