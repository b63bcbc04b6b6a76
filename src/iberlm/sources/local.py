"""Files on this machine: one file, a folder, or a glob pattern. They are read where they lie, never copied."""

import glob
from pathlib import Path

from iberlm.cards import Card, find_card
from iberlm.cards.rules import data_path
from iberlm.core.errors import CardError, DataError
from iberlm.sources.config import SourceConfig
from iberlm.sources.entries import FileEntry, describe
from iberlm.sources.formats import format_of


def local_files(key: str, path: str) -> list[Path]:
    """Files that `path` means, absolute and sorted; hidden files are left out. Raises `DataError` when there are none."""
    expanded = Path(path).expanduser()
    if expanded.is_file():
        return [expanded.absolute()]
    if expanded.is_dir():
        found = [entry for entry in expanded.rglob("*") if not any(part.startswith(".") for part in entry.relative_to(expanded).parts)]
    else:
        found = [Path(entry) for entry in glob.glob(str(expanded), recursive=True)]  # noqa: PTH207 -- absolute patterns, which Path.glob refuses
    files = sorted(entry.absolute() for entry in found if entry.is_file())
    if not files:
        raise DataError(f"{key}: '{path}' matches no file (looked from {Path.cwd()}); give a file, a folder or a quoted pattern such as 'data/**/*.jsonl'")
    return files


def gather(name: str, source: SourceConfig, card: Card) -> list[FileEntry]:
    """Entries of the files that `source.path` means.

    Files that the card lists are compared with its SHA-256: `CardError` on a mismatch. Raises `DataError` when there
    are no files or all of them are empty.
    """
    files = local_files(f"corpus.sources.{name}.path", source.path)
    if all(path.stat().st_size == 0 for path in files):
        raise DataError(f"corpus.sources.{name}.path: '{source.path}' matches only empty files ({len(files)})")
    root = _root_of(source.path)
    entries = [
        describe(path, None, name=name, inner=path.relative_to(root).as_posix(), form=source.format or format_of(path), source=source, card=card)
        for path in files
    ]
    _check_against_card(card, entries)
    return entries


def _root_of(path: str) -> Path:
    """The folder below which a source's files are named: the folder itself, a pattern's part before the first wildcard, a file's folder."""
    expanded = Path(path).expanduser().absolute()
    if expanded.is_dir():
        return expanded
    fixed = expanded.parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _check_against_card(card: Card, entries: list[FileEntry]) -> None:
    listed = {data_path(find_card(card.name), entry.path): entry.sha256 for entry in card.files}
    for entry in entries:
        expected = listed.get(Path(entry.path), entry.sha256)
        if expected != entry.sha256:
            raise CardError(f"{entry.path}: its SHA-256 is {entry.sha256}, but card '{card.name}' says {expected}; fetch the file again or update the card")
