"""Data sets of a bundle: staged as Parquet with their record, pinned by commit, compared with their checksums, and fetched again where damaged."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from iberlm.core.errors import DataError
from iberlm.core.files import sha256_json
from iberlm.core.needs import DATASET, Need
from iberlm.core.progress import say
from iberlm.core.staged import BY_HAND, RECORD, TASKS, Record, Split, choose_record, data_set_folder, find_records, record_problems, split_file, write_record

Ask = Callable[..., dict[str, Any]]
_PENDING = ".partial"
_SPDX_PARTS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[()]")


def bundle_problems(bundle: Path, need: Need, *, checksums: bool) -> list[str]:
    """What a bundle lacks, or has damaged, of the data set that `need` asks for."""
    found = choose_record(find_records(bundle, need.name, need.config, need.arguments), need.revision)
    if found is None:
        return [f"{need.used_by}: the {need.kind} {need.title} is not in the bundle {bundle}"]
    return [f"{need.used_by}: {problem}" for problem in record_problems(*found, need.splits or tuple(found[1].splits), checksums=checksums)]


def all_problems(bundle: Path) -> list[str]:
    """What is missing or damaged of all staged data sets of a bundle, by checksum."""
    from iberlm.core.staged import read_record

    found = []
    for path in sorted((bundle / TASKS).glob(f"*/*/*/{RECORD}")):
        record = read_record(path.parent)
        found += record_problems(path.parent, record, record.splits, checksums=True) if record else []
    return found


def gather_data_set(bundle: Path, need: Need, commit_of: Callable[[], str], ask: Ask) -> None:
    """Stage the splits that `need` asks for, at its commit, else at the one that this data set was pinned to before, else at the newest.

    What is there is compared with its checksums; splits that are missing or damaged are fetched again. `commit_of` asks the hub for
    the newest commit, `ask` it or another process for the rows.
    """
    found = choose_record([entry for entry in find_records(bundle, need.name, need.config, need.arguments) if not entry[1].by_hand], need.revision)
    wanted = list(need.splits)
    if found is not None:
        folder, record = found
        problems = {split: record_problems(folder, record, [split], checksums=True) for split in wanted}
        wanted = [split for split in wanted if problems[split]]
        if not wanted:
            say(f"prefetch: {need.kind} {need.title}: already there")
            _publish(folder, _with_licence(record, need))
            return
        for problem in (problem for split in wanted for problem in problems[split]):
            say(f"prefetch: {problem}; it is fetched")
        revision = record.revision
    else:
        revision = need.revision or _pinned_before(bundle, need.name) or commit_of()
        folder = data_set_folder(bundle, need.name, need.config, need.arguments) / revision
        record = Record(dataset=need.name, config=need.config, arguments=need.arguments, revision=revision, pinned=not need.revision)
    say(f"prefetch: {need.kind} {need.title} at {revision[:12]}, for {need.used_by}")
    pending = folder.with_name(_PENDING)
    answer = _staged(pending, need, ask, revision=revision, splits=wanted, local="")
    splits = {split: Split(**entry) for split, entry in answer["splits"].items()}
    record = replace(record, splits=record.splits | splits, card_licence=answer["card_licence"], converted=answer["converted"])
    _move(pending, folder, splits)
    _publish(folder, _with_licence(record, need))


def stage_folder(bundle: Path, need: Need, place: Path, ask: Ask) -> None:
    """Stage the splits that `need` asks for from a folder of files, in place of what was staged so before."""
    parent = data_set_folder(bundle, need.name, need.config, need.arguments)
    pending = parent / _PENDING
    answer = _staged(pending, need, ask, revision="", splits=list(need.splits), local=str(place))
    splits = {split: Split(**entry) for split, entry in answer["splits"].items()}
    revision = BY_HAND + sha256_json({split: entry.content for split, entry in splits.items()})[:12]
    record = Record(dataset=need.name, config=need.config, arguments=need.arguments, revision=revision, splits=splits, card_licence=answer["card_licence"])
    for folder, before in find_records(bundle, need.name, need.config, need.arguments):
        if before.by_hand and folder.name != revision:
            shutil.rmtree(folder)
    _move(pending, parent / revision, splits)
    _publish(parent / revision, _with_licence(record, need))


def folder_of(place: Path, name: str) -> Path | None:
    """Where a folder of files that somebody copied has a data set: OWNER/NAME, OWNER--NAME, or `datasets--OWNER--NAME` as the hub's cache calls it."""
    plain = [place / name, place / name.replace("/", "--")]
    snapshots = sorted((place / f"datasets--{name.replace('/', '--')}" / "snapshots").glob("*"))
    return next((folder for folder in [*plain, *snapshots] if folder.is_dir()), None)


def _staged(pending: Path, need: Need, ask: Ask, **request: Any) -> dict[str, Any]:
    shutil.rmtree(pending, ignore_errors=True)  # what a kill left
    pending.mkdir(parents=True)
    return ask(action="stage", name=need.name, config=need.config, arguments=need.arguments, out=str(pending.absolute()), **request)


def _pinned_before(bundle: Path, name: str) -> str:
    """The commit that other configurations of the data set were pinned to: its parts belong together."""
    from iberlm.core.staged import read_record

    folders = sorted((bundle / TASKS / name.replace("/", "--")).glob("*/*"))
    records = [record for folder in folders if folder.is_dir() and (record := read_record(folder)) is not None]
    return next((record.revision for record in records if record.pinned), "")


def _move(pending: Path, folder: Path, splits: dict[str, Split]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        split_file(pending, split).replace(split_file(folder, split))
    shutil.rmtree(pending)


def _publish(folder: Path, record: Record) -> None:
    write_record(folder, record)
    if record.licence_remark:
        say(f"prefetch: {record.dataset}: {record.licence_remark}")


def _with_licence(record: Record, need: Need) -> Record:
    known = replace(record, licence=need.licence, licence_evidence=need.licence_evidence)
    return replace(known, licence_remark=licence_remark(need.licence, record.card_licence))


def licence_remark(known: str, card: list[str]) -> str:
    """How the licence that we know of a data set and those that its own card states differ; empty where they agree, or one of them is not known.

    The card's identifiers are the hub's: SPDX in small letters.
    """
    parts = {part.strip().lower() for part in _SPDX_PARTS.split(known) if part.strip()}
    stated = {entry.lower() for entry in card}
    if not card or not known or parts & stated or {part.removeprefix("licenseref-") for part in parts} & stated:
        return ""
    return f"its card on the hub says the licence is {', '.join(card)}, and the catalogue of tasks says {known}: look which one is right before you publish"


def missing_in_folder(needs: list[Need], place: Path) -> None:
    """Raise `DataError` for data sets that a folder of files does not have, all at once."""
    absent = [need for need in needs if need.kind == DATASET and folder_of(place, need.name) is None]
    if absent:
        lines = "\n  ".join(f"{need.title}: {place / need.name} ({need.used_by})" for need in absent)
        raise DataError(f"{place} has no folder of these data sets (OWNER/NAME: a copy of the repository, or files SPLIT.parquet or SPLIT.jsonl):\n  {lines}")
