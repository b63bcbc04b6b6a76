"""Rows of a data set, from a hub or from a folder, as Parquet: runs in the process of `hub`, where the libraries read their switches from the environment.

Each split is prepared by itself, so no other split is downloaded, and columns that are empty in one split do not spoil the types of another.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iberlm.core.files import sha256_file
from iberlm.core.progress import say
from iberlm.core.staged import write_split

if TYPE_CHECKING:
    from datasets import DatasetBuilder

CONVERTED = "refs/convert/parquet"
"""Branch of a data set's repository where the hub itself puts its rows as Parquet: CONFIG/SPLIT/0000.parquet."""
README = "README.md"
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".arrow": "arrow"}
_FILES = "hf://datasets/"


class RowsError(Exception):
    """What is wrong with a data set, in words that follow its name."""


def stage(name: str, config: str, revision: str, arguments: dict[str, Any], splits: list[str], out: str, local: str) -> dict[str, Any]:
    """Write splits of a data set into the folder `out`: from `local`, a folder, where that is given, else from the hub at the commit `revision`.

    The answer has `splits` (as `iberlm.core.staged.Split`), `card_licence`, and `converted`, the commit of the hub's conversion if the rows came
    from there. Raises `RowsError`.
    """
    if local:
        source: _Source = _Folder(Path(local), config)
    else:
        source = _Files(name, revision, arguments) if "builder" in arguments else _Repository(name, config, revision, arguments)
    found = {}
    for split in splits:
        try:
            table = _prepared(source, split)
        finally:  # damage is told before what it made of the rows
            _refuse_damaged()
        found[split] = asdict(write_split(Path(out), split, table))
        say(f"prefetch: {name}{f' ({config})' if config else ''}: {split}, {table.num_rows:,} rows")
    return {"splits": found, "card_licence": card_licences(source.card()), "converted": source.converted}


def _prepared(source: "_Source", split: str) -> Any:
    """The rows of a split as an Arrow table, with the data set's features in the metadata of its schema."""
    from datasets.data_files import DataFilesDict

    builder = source.builder(split, str(Path(os.environ["HF_DATASETS_CACHE"]) / split))
    files = {str(key): value for key, value in (builder.config.data_files or {}).items()}
    if split not in files:
        raise RowsError(f"has no split '{split}'; it has {', '.join(files) or 'none'}")
    told = {str(key): value.num_examples for key, value in (builder.info.splits or {}).items()}
    builder.config.data_files = DataFilesDict({split: files[split]})
    builder.info.splits = None
    builder.download_and_prepare(verification_mode="no_checks")  # those checks want all splits
    if not builder.info.splits or not builder.info.splits[split].num_examples:
        raise RowsError(f"has no rows in its split '{split}'")
    rows = builder.as_dataset(split=split)
    if told.get(split) not in (None, rows.num_rows):
        raise RowsError(f"has {rows.num_rows:,} rows in its split '{split}', and its card says {told[split]:,}: the files and the card do not belong together")
    return rows.with_format("arrow")[:].cast(rows.features.arrow_schema)


def _refuse_damaged() -> None:
    """Raise `RowsError` for files that are not those that the hub tells: large ones lie in the cache under their SHA-256, and libraries compare sizes."""
    for path in sorted(Path(os.environ["HF_HUB_CACHE"]).glob("datasets--*/blobs/*")):
        if len(path.name) == 64 and sha256_file(path) != path.name:
            path.unlink()
            raise RowsError("came damaged from the hub; run the same command again")


class _Source:
    """Where rows come from."""

    converted = ""

    def builder(self, split: str, cache: str) -> "DatasetBuilder":
        raise NotImplementedError

    def card(self) -> Path | None:
        raise NotImplementedError


class _Repository(_Source):
    """A data set of the hub, by its own settings; one that comes as a program by the hub's conversion."""

    def __init__(self, name: str, config: str, revision: str, arguments: dict[str, Any]) -> None:
        self.name, self.config, self.revision, self.arguments = name, config, revision, arguments

    def builder(self, split: str, cache: str) -> "DatasetBuilder":
        import datasets

        if self.converted:
            return self._of_conversion(split, cache)
        try:
            return datasets.load_dataset_builder(self.name, self.config or None, revision=self.revision, cache_dir=cache, **self.arguments)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
        self.converted = self._conversion()
        return self._of_conversion(split, cache)

    def _conversion(self) -> str:
        from huggingface_hub import HfApi, errors

        try:
            found = str(HfApi().dataset_info(self.name, revision=CONVERTED).sha)
        except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError):
            raise RowsError(
                "comes as a program (a loading script), which is never run, and the hub has no conversion of it to Parquet; get its rows from its authors, and "
                "stage them with --from-folder"
            ) from None
        say(f"prefetch: {self.name} comes as a program, which is not run; its rows are taken from the hub's own conversion to Parquet, {found[:12]}")
        return found

    def _of_conversion(self, split: str, cache: str) -> "DatasetBuilder":
        import datasets
        from huggingface_hub import HfApi

        files = [file for file in HfApi().list_repo_files(self.name, revision=self.converted, repo_type="dataset") if file.endswith(".parquet")]
        configs = sorted({file.partition("/")[0] for file in files})
        config = self.config or (configs[0] if len(configs) == 1 else "default")
        if config not in configs:
            raise RowsError(f"has no configuration '{config}' in the hub's conversion to Parquet; it has {', '.join(configs) or 'none'}")
        splits: dict[str, list[str]] = {}
        for file in files:
            parts = file.split("/")
            if parts[0] == config and len(parts) == 3:
                splits.setdefault(parts[1], []).append(f"{_FILES}{self.name}@{self.converted}/{file}")
        if f"partial-{split}" in splits:
            raise RowsError(f"is too large for the hub's conversion to Parquet, which has only a part of '{split}'; stage its rows with --from-folder")
        if split not in splits:
            raise RowsError(f"has no split '{split}'; it has {', '.join(sorted(splits))}")
        return datasets.load_dataset_builder("parquet", data_files={split: splits[split]}, cache_dir=cache)

    def card(self) -> Path | None:
        return _hub_card(self.name, self.revision)


class _Files(_Source):
    """Files of a data set on the hub, which a task names by itself."""

    def __init__(self, name: str, revision: str, arguments: dict[str, Any]) -> None:
        self.name, self.revision, self.arguments = name, revision, dict(arguments)

    def builder(self, split: str, cache: str) -> "DatasetBuilder":
        import datasets

        arguments = {key: value for key, value in self.arguments.items() if key not in ("builder", "data_files")}
        named = self.arguments["data_files"]
        named = named if isinstance(named, dict) else {"train": named}  # as the data sets library calls the split of files without one
        files = {key: [self._pinned(file) for file in ([value] if isinstance(value, str) else value)] for key, value in named.items()}
        return datasets.load_dataset_builder(self.arguments["builder"], data_files=files, cache_dir=cache, **arguments)

    def _pinned(self, file: str) -> str:
        rest = file.removeprefix(f"{_FILES}{self.name}")
        return file if rest.startswith("@") else f"{_FILES}{self.name}@{self.revision}{rest}"

    def card(self) -> Path | None:
        return _hub_card(self.name, self.revision)


class _Folder(_Source):
    """A folder: a copy of the data set's repository, or files SPLIT.parquet, .jsonl, .json, .csv or .tsv (in CONFIG/ where there is such a folder)."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def builder(self, split: str, cache: str) -> "DatasetBuilder":
        import datasets

        place = self.folder / self.config if self.config and (self.folder / self.config).is_dir() else self.folder
        files = {path.stem: path for path in sorted(place.iterdir()) if path.suffix in _FORMATS}
        if split in files:
            return _of_file(files[split], split, cache)
        if (self.folder / README).is_file():
            return datasets.load_dataset_builder(str(self.folder), self.config or None, cache_dir=cache)
        raise RowsError(f"has no split '{split}' in {place}: there is no {split}{f', {split}'.join(_FORMATS)}; it has {', '.join(files) or 'none'}")

    def card(self) -> Path | None:
        return self.folder / README if (self.folder / README).is_file() else None


def _of_file(path: Path, split: str, cache: str) -> "DatasetBuilder":
    import datasets

    arguments = {"sep": "\t"} if path.suffix == ".tsv" else {}
    return datasets.load_dataset_builder(_FORMATS[path.suffix], data_files={split: [str(path)]}, cache_dir=cache, **arguments)


def _hub_card(name: str, revision: str) -> Path | None:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(name, README, repo_type="dataset", revision=revision))
    except errors.EntryNotFoundError:
        return None


def card_licences(card: Path | None) -> list[str]:
    """What the metadata of a data set's card say of its licence: the hub's identifiers, and the name that goes with `other`."""
    if card is None:
        return []
    from huggingface_hub import DatasetCard

    data = DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()
    stated = data.get("license") or data.get("licenses") or []
    named: Iterable[Any] = [stated] if isinstance(stated, str) else stated
    return [*(str(entry) for entry in named), *([str(data["license_name"])] if data.get("license_name") else [])]
