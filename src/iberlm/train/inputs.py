"""What `pretrain` asks of its token store and tokenizer before any device is used.

What is wrong here would cost a whole training run: a tokenizer that failed a gate or was changed after tokenizing, a
store with a damaged file.
"""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, CorruptError, DataError, ResourceError
from iberlm.core.files import sha256_file, write_json
from iberlm.core.manifest import FILE_NAME, Manifest, Output
from iberlm.core.needs import local_folder
from iberlm.core.process import usable_cores
from iberlm.core.progress import say
from iberlm.core.stage import shown
from iberlm.core.token_store import tokenizer_hash
from iberlm.train.config import PretrainConfig

VERIFIED = ".verified.json"
"""Which files of a store had the checksums of its manifest, and the size, time and inode that they then had."""
TOKENIZER = "tokenizer"


def check_gates(tokenizer: Manifest, waived: Sequence[str]) -> None:
    """Raise `DataError` when a gate of the tokenizer failed or was not measured and is not `waived`; `ConfigError` for a waiver of no gate."""
    gates: dict[str, dict[str, Any]] = tokenizer.metrics.get("gates", {})
    if not gates:
        raise DataError(f"{tokenizer.folder}: its manifest has no gates, so nobody knows what the tokenizer is worth; train the tokenizer again")
    if unknown := [name for name in waived if name not in gates]:
        raise ConfigError(f"waived_gates: the tokenizer has no gate '{unknown[0]}'; it has {', '.join(gates)}")
    closed = {name: gate for name, gate in gates.items() if gate["passed"] is not True}
    refused = []
    for name, gate in closed.items():
        if name in waived:
            say(f"pretrain: gate {name} waived: {gate['message']}")
        else:
            refused.append(f"gate {name} {'failed' if gate['passed'] is False else 'was not measured'}: {gate['message']}")
    if refused:
        raise DataError(f"{tokenizer.folder}: {'; '.join(refused)}. Train another tokenizer, or set waived_gates=[{', '.join(closed)}] to train with this one")


def check_tokenizer(tokens: Manifest, tokenizer: Manifest) -> None:
    """Raise `CorruptError` when the tokenizer's files are not those of its manifest, or not those that the store was made with."""
    for output in tokenizer.outputs:
        path = tokenizer.folder / output.path
        if output.path.startswith(f"{TOKENIZER}/") and (not path.is_file() or sha256_file(path) != output.sha256):
            raise CorruptError(
                f"{path}: missing, or changed after it was made: its checksum is not the one in {FILE_NAME}; "
                "put the file back as it was, or train the tokenizer and tokenize again"
            )
    if "tokenizer" not in tokens.metrics:
        raise CorruptError(f"{tokens.folder}: its manifest does not say which tokenizer its tokens were made with; tokenize again")
    if tokens.metrics["tokenizer"] != tokenizer_hash(tokenizer.folder / TOKENIZER):
        raise CorruptError(f"{tokens.folder}: its tokens were made with another tokenizer than {tokenizer.folder}; tokenize again with this one")


def verify_store(tokens: Manifest, run_folder: Path) -> None:
    """Check the files of a store against the checksums of its manifest, in threads; `CorruptError` names the one that differs.

    Files found good are remembered beside the store, for all runs that train on it, or in `run_folder` when the store cannot
    be written; they are not read again until their size, time of change or inode is another one.
    """
    memory = _memory(tokens.folder, run_folder)
    known = _read(memory)
    missing = [output for output in tokens.outputs if known.get(output.path) != _mark(tokens.folder / output.path, output)]
    if not missing:
        say(f"pretrain: token store {shown(tokens.folder)}: {len(tokens.outputs)} files have been verified before")
        return
    started, size = time.monotonic(), sum(output.bytes for output in missing)
    say(f"pretrain: token store {shown(tokens.folder)}: verifying the checksums of {len(missing)} files, {size / 1e6:,.1f} MB")
    try:
        with ThreadPoolExecutor(usable_cores()) as threads:
            for output, mark, checksum in threads.map(lambda output: _summed(tokens.folder, output), missing):
                if checksum != output.sha256:
                    threads.shutdown(cancel_futures=True)
                    raise CorruptError(
                        f"{tokens.folder / output.path}: its checksum is not the one in {FILE_NAME}; delete its folder and run the '{tokens.stage}' stage again"
                    )
                known[output.path] = mark
    finally:
        try:
            write_json(memory, known)
        except ResourceError as error:
            say(f"pretrain: the next run has to verify the store again: {error}")
    say(f"pretrain: token store verified in {time.monotonic() - started:.1f} s")


def _summed(folder: Path, output: Output) -> tuple[Output, list[Any], str]:
    path = folder / output.path
    mark = _mark(path, output)  # before reading: a file that changes meanwhile is read again next time
    return output, mark, sha256_file(path)


def _mark(path: Path, output: Output) -> list[Any]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino, output.sha256]


def _memory(store: Path, run_folder: Path) -> Path:
    return (store if os.access(store, os.W_OK) else run_folder) / VERIFIED


def _read(memory: Path) -> dict[str, list[Any]]:
    try:
        value = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def check_model(config: PretrainConfig) -> None:
    """Raise `ConfigError` or `DataError` when the folder of `initial_model` is not one that training can go on from, or its positions are too few."""
    if not config.initial_model:
        return
    folder = local_folder(config.initial_model, config.cluster)
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"initial_model: {folder} has no config.json that can be read ({error}); give the folder of a Hugging Face model") from error
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"initial_model: {folder} has no .safetensors file; other formats of weights are not read, since they can run code")
    positions = described.get("max_position_embeddings")
    if isinstance(positions, int) and config.sequence_length > positions:
        raise ConfigError(f"sequence_length: {config.sequence_length} is above max_position_embeddings of {folder} ({positions})")
