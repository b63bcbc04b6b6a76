"""Items of evaluation suites as texts: JSONL, JSON, CSV and Parquet files, and folders of tasks of the lm-evaluation-harness with local data.

A folder's data files are named by their tasks: a task file `LANG/FAMILY_LANG.yaml` owns the files in its
`dataset_kwargs.data_files`, and `FAMILY.*` beside it (as IberLM's own tasks in `eval/`). Nothing of a task file is
executed, and no data set is fetched: tasks whose data is not in the folder are listed, for their items are not looked for.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from iberlm.core.documents import record_batches
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.resources import resource_dir
from iberlm.curate.text_files import READ_ERRORS, open_text, stem

OWN = "iberlm"
"""Stands for the folder of IberLM's own tasks, wherever it is installed."""
ENDINGS = (".parquet", *(f"{ending}{packed}" for ending in (".jsonl", ".json", ".csv", ".tsv") for packed in ("", ".gz", ".zst")))
_MAX_INCLUDES = 8


class Text(NamedTuple):
    """One text of one item."""

    suite: str
    item: str
    field: str
    """Key of the record, with the place inside it: `passage`, `choices[2]`, `answers.text[0]`."""
    text: str


@dataclass(frozen=True)
class Evaluation:
    """The data files of suites, and the tasks that have none here."""

    files: list[tuple[str, Path]]
    """(suite, file), in order."""
    without_data: list[str] = field(default_factory=list)
    """Tasks whose data is elsewhere: on a hub, or made by a function."""


def evaluation_files(paths: list[str]) -> Evaluation:
    """The data files that paths mean. Raises `ConfigError` when one does not exist, has no known ending or no data."""
    files: list[tuple[str, Path]] = []
    without_data: list[str] = []
    for index, name in enumerate(paths):
        path = resource_dir("eval") if name == OWN else Path(name).expanduser()
        key = f"decontaminate.evaluation[{index}]"
        if path.is_file():
            if not path.name.endswith(ENDINGS):
                raise ConfigError(f"{key}: {path} ends like none of {', '.join(ENDINGS)}")
            files.append((stem(path), path))
        elif path.is_dir():
            found = _folder(path)
            if not found.files:
                raise ConfigError(f"{key}: {path} holds no data file ({', '.join(ENDINGS)})")
            files += found.files
            without_data += found.without_data
        else:
            raise ConfigError(f"{key}: {name} does not exist; give a file or folder of evaluation items, or '{OWN}' for IberLM's own tasks")
    return Evaluation(files, without_data)


def _folder(folder: Path) -> Evaluation:
    entries = sorted(path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file())
    data = [path for path in entries if path.name.endswith(ENDINGS)]
    owners: dict[Path, str] = {}
    without_data = []
    for path in entries:
        if path.suffix not in (".yaml", ".yml") or not isinstance(task := _task(path), dict) or not isinstance(name := task.get("task"), str):
            continue
        owned = _named_files(task, path) or [entry for entry in data if entry.parent == path.parent and _belongs(path.stem, stem(entry))]
        if not owned:
            without_data.append(name)
        for entry in owned:
            owners.setdefault(entry.resolve(), name)
            if entry.resolve() not in {known.resolve() for known in data}:
                data.append(entry)
    named = [(owners.get(path.resolve()) or path.relative_to(folder).with_name(stem(path)).as_posix(), path) for path in data]
    return Evaluation(named, without_data)


def _belongs(task_file: str, data_file: str) -> bool:
    return task_file == data_file or task_file.startswith(f"{data_file}_")


def _task(path: Path, depth: int = 0) -> Any:
    """A task file as plain values, with what it includes; its functions stay names. Raises `DataError` when it is no YAML."""
    reader = YAML(typ="rt")  # keeps !function tags as they are
    try:
        value = reader.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a YAML file ({error})") from error
    if isinstance(value, dict) and isinstance(value.get("include"), str) and depth < _MAX_INCLUDES:
        included = path.parent / value["include"]
        base = _task(included, depth + 1) if included.is_file() else None
        return {**(base if isinstance(base, dict) else {}), **value}
    return value


def _named_files(task: dict[str, Any], path: Path) -> list[Path]:
    """Local files in `dataset_kwargs.data_files` (a name, a list, or either by split), looked up beside the task file and from here."""
    kwargs = task.get("dataset_kwargs")
    named = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    listed = [*named.values()] if isinstance(named, dict) else [named]
    names = [name for entry in listed for name in (entry if isinstance(entry, list) else [entry]) if isinstance(name, str)]
    found = (next((place for place in (path.parent / name, Path(name)) if place.is_file() and place.name.endswith(ENDINGS)), None) for name in names)
    return [place for place in found if place is not None]


def read_texts(evaluation: Evaluation, fields: list[str], id_field: str) -> Iterator[Text]:
    """Every text of every item: all strings of a record, or those below the keys `fields`; the identifier itself is left out.

    An item without `id_field` is named by its number in the file, `#0`. Raises `DataError` naming file and line when a
    record cannot be read, and when a file has no record with any of `fields`.
    """
    for suite, path in evaluation.files:
        seen = False
        for number, record in enumerate(_records(path)):
            identifier = record.get(id_field)
            item = f"#{number}" if identifier is None or isinstance(identifier, list | dict) else str(identifier)
            for key, value in record.items():
                if key != id_field and (not fields or key in fields):
                    seen = True
                    for name, text in _strings(key, value):
                        yield Text(suite, item, name, text)
        if fields and not seen:
            raise DataError(f"{path}: no record has any of the fields {', '.join(fields)} (decontaminate.fields)")


def _strings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _strings(f"{name}.{key}", entry)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _strings(f"{name}[{index}]", entry)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as parquet:
                for batch in record_batches(parquet, 1024):
                    yield from batch.to_pylist()
            return
        with open_text(path) as stream:
            yield from _text_records(stream, path)
    except (*READ_ERRORS, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _text_records(stream: io.TextIOBase, path: Path) -> Iterator[dict[str, Any]]:
    kind = path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if kind in ("csv", "tsv"):
        yield from csv.DictReader(stream, delimiter="," if kind == "csv" else "\t")
    elif kind == "jsonl":
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _parsed(line, f"{path}:{number}")
    else:
        try:
            value = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error})") from error
        rows = value.get("data", value) if isinstance(value, dict) else value
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path}: neither a list of objects nor an object with one under 'data'")
        yield from rows


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__} instead of an object")
    return value
