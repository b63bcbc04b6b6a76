"""The data of a task where `iberlm prefetch` staged it: found by the task's settings, handed to lm-eval in memory.

A task is given its rows in memory: no cache is written, the folder may be read-only, and the data sets library asks no hub.
Layout and records are those of `iberlm.core.staged`. Imports neither torch nor the data sets library.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iberlm.core.errors import ConfigError, CorruptError
from iberlm.core.files import sha256_json
from iberlm.core.staged import Record, choose_record, find_records, record_problems, split_file
from iberlm.evaluate.catalogue import OWN as OWN_SOURCE
from iberlm.evaluate.tasks import read_config

if TYPE_CHECKING:
    from datasets import Dataset

    from iberlm.evaluate.catalogue import TaskFacts

OWN = "iberlm"
"""Data set of our own tasks, whose items come with IberLM: nothing is staged."""
FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow", "xml")
"""Builders of the data sets library that read files which the task names, of no data set on the hub."""
_ON_HUB = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@[^/]+)?/")
_NOT_IDENTITY = ("trust_remote_code", "revision")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data that a task reads, as its settings say: what is looked for on the hub, and in staged folders."""

    dataset: str
    config: str = ""
    revision: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of `datasets.load_dataset`, besides name and revision; `builder` where the task names files of a data set on the hub."""
    splits: tuple[str, ...] = ()
    """Those that the task reads: the one that is asked, and the one that solved examples are drawn from."""

    @property
    def title(self) -> str:
        """As messages name it."""
        config = f" ({self.config})" if self.config else ""
        return f"{self.dataset}{config}{f' at {self.revision[:12]}' if self.revision else ''}"


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A staged data set, as far as one task reads it."""

    folder: Path
    record: Record
    names: tuple[str, ...]
    """Splits that the task reads and the record has."""

    @property
    def dataset(self) -> str:
        """OWNER/NAME on the hub."""
        return self.record.dataset

    @property
    def config(self) -> str:
        """Configuration; empty for the default one."""
        return self.record.config

    @property
    def revision(self) -> str:
        """Commit; of rows staged by hand `folder-` and the start of their checksum."""
        return self.record.revision

    @property
    def licence(self) -> str:
        """As the catalogue said when it was staged."""
        return self.record.licence

    @property
    def files(self) -> dict[str, Path]:
        """Parquet file of each split."""
        return {split: split_file(self.folder, split) for split in self.names}

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: self.record.splits[split].rows for split in self.names}

    @property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {split: self.record.splits[split].sha256 for split in self.names}

    @property
    def fingerprint(self) -> str:
        """Stands for the rows in a task's key: neither where they came from nor what wrote the files matters."""
        return sha256_json({split: self.record.splits[split].content for split in self.names})

    def problems(self, *, checksums: bool = False) -> list[str]:
        """Files that are missing or have another size, and with `checksums` also those that have other content."""
        return record_problems(self.folder, self.record, self.names, checksums=checksums)


def source_of(facts: "TaskFacts") -> Source | None:
    """The data of a task; None for our own items, which come with IberLM.

    Raises `ConfigError` for data that cannot be staged: read from a URL each time, or made by a program that names no data set.
    """
    if facts.source == OWN_SOURCE:
        return None
    settings = read_config(facts)
    splits = splits_read(settings)
    arguments = {} if "custom_dataset" in settings else {**(settings.get("dataset_kwargs") or {})}
    revision = facts.revision or str(arguments.get("revision") or "")
    arguments = {name: value for name, value in arguments.items() if name not in _NOT_IDENTITY}
    path = str(settings.get("dataset_path") or "")
    if "custom_dataset" not in settings and path in FILE_FORMATS:
        return _source_of_files(facts, path, arguments, revision, splits)
    if facts.dataset.count("/") > 1 or not facts.dataset or facts.dataset in FILE_FORMATS:
        raise ConfigError(
            f"{facts.name}: its data '{facts.dataset}' are no data set of the hub (OWNER/NAME), so they cannot be staged; name it in eval/catalogue"
        )
    config = facts.dataset_config or str(settings.get("dataset_name") or "")
    return Source(dataset=facts.dataset, config="" if config == "default" else config, revision=revision, arguments=arguments, splits=splits)


def _source_of_files(facts: "TaskFacts", builder: str, arguments: dict[str, Any], revision: str, splits: tuple[str, ...]) -> Source:
    """Files that a task names: of one data set of the hub (hf://datasets/OWNER/NAME/FILE), or from elsewhere, which is refused."""
    files = [*_strings(arguments.get("data_files"))]
    found = {match["name"] for file in files if (match := _ON_HUB.match(file))}
    if elsewhere := [file for file in files if not _ON_HUB.match(file)] or ([] if files else ["nothing that it names"]):
        raise ConfigError(
            f"{facts.name}: reads {elsewhere[0]} each time that it is loaded, which cannot be pinned to a commit; put the file into a data set of the hub, or "
            "leave the task out of the suite"
        )
    if len(found) > 1:
        raise ConfigError(f"{facts.name}: reads files of several data sets ({', '.join(sorted(found))}); one can be staged")
    return Source(dataset=found.pop(), revision=revision, arguments={"builder": builder, **arguments}, splits=splits)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)


def splits_read(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Splits that lm-eval reads of a task: the one that is asked, and the one of solved examples, which is read with no shots too.

    By lm-eval's rule, solved examples come from `fewshot_split`, else from what the task lists, else from the training split, else from the
    validation split, else from the one that is asked.
    """
    training, validation, test = (settings.get(f"{name}_split") for name in ("training", "validation", "test"))
    shots = settings.get("fewshot_config") or {}
    solved = shots.get("split") or settings.get("fewshot_split") or (None if shots.get("samples") else training or validation or test)
    return tuple(dict.fromkeys(str(split) for split in (test or validation, solved) if split))


def staged(facts: "TaskFacts", folders: list[Path]) -> Staged | None:
    """A task's data in the first of `folders` that has it.

    None where none has, for our own items, which come with IberLM, and for data that cannot be staged (`source_of` says why).
    Of several revisions the commit that the catalogue names is taken, else the one that `iberlm prefetch` pinned. Raises
    `CorruptError` for a record that cannot be read.
    """
    try:
        source = source_of(facts)
    except ConfigError:
        return None
    if source is None:
        return None
    for root in folders:
        found = choose_record(find_records(root, source.dataset, source.config, source.arguments), source.revision)
        if found is not None:
            folder, record = found
            return Staged(folder=folder, record=record, names=tuple(split for split in source.splits if split in record.splits))
    return None


def overrides(found: Staged) -> dict[str, Any]:
    """Settings of an lm-eval task that make it read staged rows."""
    return {"custom_dataset": partial(_load, found), "dataset_kwargs": None}


def _load(found: Staged, **_: Any) -> dict[str, "Dataset"]:
    """The rows of each split; lm-eval calls it with the task's metadata. Raises `CorruptError` for files that are missing or cut short."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    if problems := found.problems():
        raise CorruptError(f"{problems[0]}; run `iberlm prefetch` again")
    try:
        return {split: Dataset(pq.read_table(path)) for split, path in found.files.items()}
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(f"{found.folder}: cannot be read ({error}); run `iberlm prefetch` again") from error
