"""A Hugging Face folder from a checkpoint of any strategy: no process group, no GPU, and no more memory than one file of weights."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_files
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from iberlm.core.config import one_of
from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import TEMPORARY_SUFFIX, disk_errors, write_json
from iberlm.core.progress import say
from iberlm.core.stage import shown
from iberlm.train.checkpoint import quiet_single_process
from iberlm.train.checkpoint_files import FORMAT, RECORD, problem_with_files, read_record
from iberlm.train.checkpoint_state import MODEL
from iberlm.train.config import SAVED_PRECISIONS
from iberlm.train.export import GENERATION, check_names, copy_tokenizer, in_precision, publish_folder
from iberlm.train.model import DTYPES
from iberlm.train.weights import INDEX, WEIGHTS

_FILE_BYTES = 5_000_000_000
"""Of weights in a file; a tensor above it has one of its own."""


def checkpoint_to_model(checkpoint: Path, out: Path, *, tokenizer: Path | None = None, precision: str = "fp32") -> Path:
    """Write the model of a checkpoint as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load; returns `out`.

    `tokenizer`: folder of the tokenizer's files; None takes the one that the run had. `precision`: fp32, which gives the very logits of the training
    model's fp32 weights, or bf16.

    Raises `ConfigError` where `checkpoint` is none, where `out` is there already, or where the tokenizer's folder is gone, and `CorruptError` when a file is
    not as checkpoint.json says.
    """
    one_of("precision", precision, SAVED_PRECISIONS)
    record = _whole_record(checkpoint)
    tokenizer = _tokenizer_folder(record, tokenizer)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; give a folder that is not, or delete it")
    if problem := problem_with_files(checkpoint, record["files"]):
        raise CorruptError(f"{problem}; choose another checkpoint")
    empty = _empty_model(record["model"])
    reader = _Reader(checkpoint)
    entries = {key.removeprefix(f"{MODEL}."): entry for key, entry in _tensors(reader).items() if key.startswith(f"{MODEL}.")}
    check_names(set(entries), empty, str(checkpoint))
    temporary = out.with_name(f".{out.name}{TEMPORARY_SUFFIX}")
    with disk_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_weights(reader, entries, temporary, precision)
        empty.config.dtype = DTYPES[precision]
        empty.config.architectures = [type(empty).__name__]
        empty.config.save_pretrained(temporary)
        if record.get("generation") is not None:
            write_json(temporary / GENERATION, record["generation"])
        copy_tokenizer(tokenizer, temporary)
        publish_folder(temporary, out)
    say(f"checkpoint: step {record['step']} as a model in {shown(out)}")
    return out


def _whole_record(checkpoint: Path) -> dict[str, Any]:
    if not (checkpoint / RECORD).is_file():
        raise ConfigError(f"{checkpoint}: is no checkpoint (there is no {RECORD}); give one of the folders step-N of a run's pretrain/checkpoints")
    try:
        record = read_record(checkpoint)
    except (OSError, ValueError) as error:
        raise CorruptError(f"{checkpoint / RECORD}: cannot be read ({error}); choose another checkpoint") from error
    if record.get("format") != FORMAT:
        raise ConfigError(f"{checkpoint}: was written by an older IberLM, in a format that this one does not read; export it with that one")
    return record


def _tokenizer_folder(record: dict[str, Any], given: Path | None) -> Path:
    folder = given or Path(record["tokenizer_folder"])
    if not folder.is_dir():
        why = "there is no such folder" if given else "the files of the run's tokenizer are no longer there; give their folder with --tokenizer"
        raise ConfigError(f"tokenizer: {folder}: {why}")
    return folder


def _empty_model(settings: dict[str, Any]) -> PreTrainedModel:
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


class _Reader(FileSystemReader):
    """Reads the metadata once: they grow with the number of ranks, and loading asks for them each time."""

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = super().read_metadata(*args, **kwargs)
        return self._metadata


def _tensors(reader: FileSystemReader) -> dict[str, TensorStorageMetadata]:
    return {key: entry for key, entry in reader.read_metadata().state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)}


def _write_weights(reader: FileSystemReader, entries: dict[str, TensorStorageMetadata], folder: Path, precision: str) -> None:
    """The weights as safetensors, file by file, and the index of several files."""
    quiet_single_process()
    files = list(_files(entries, DTYPES[precision].itemsize))
    names = [WEIGHTS] if len(files) == 1 else [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    places: dict[str, str] = {}
    size = 0
    for file, keys in zip(names, files, strict=True):
        state = {f"{MODEL}.{key}": torch.empty(entries[key].size, dtype=entries[key].properties.dtype) for key in keys}
        load_files(state, storage_reader=reader, no_dist=True)
        tensors = {key: in_precision(state.pop(f"{MODEL}.{key}"), precision) for key in keys}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(keys, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        parameters = sum(entry.size.numel() for entry in entries.values())
        write_json(folder / INDEX, {"metadata": {"total_size": size, "total_parameters": parameters}, "weight_map": places})


def _files(entries: dict[str, TensorStorageMetadata], item_bytes: int) -> Iterator[list[str]]:
    """Names by the file that they go into."""
    keys: list[str] = []
    room = _FILE_BYTES
    for key, entry in sorted(entries.items()):
        size = entry.size.numel() * item_bytes
        if keys and size > room:
            yield keys
            keys, room = [], _FILE_BYTES
        keys.append(key)
        room -= size
    yield keys
