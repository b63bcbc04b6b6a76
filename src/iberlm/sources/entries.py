"""The lines of `files.jsonl`: one a raw file, with all that extraction must know of it."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from iberlm.cards import Card
from iberlm.core.files import sha256_file
from iberlm.sources.config import SourceConfig


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One raw file. `path` is relative to the fetch folder for what the stage wrote, absolute for the user's files."""

    path: str
    format: str
    language: str | None
    card: str
    licence: str
    source: str
    url: str | None = None
    date: str | None = None
    text_field: str = "text"
    id_field: str = "id"
    bytes: int
    sha256: str


def describe(
    path: Path, relative_to: Path | None, *, name: str, inner: str, form: str, source: SourceConfig, card: Card, url: str | None = None, date: str | None = None
) -> FileEntry:
    """The entry of a file of the source called `name`; `inner` is the file's path inside the source."""
    return FileEntry(
        path=str(path.relative_to(relative_to) if relative_to is not None else path),
        format=form,
        language=claimed_language(source, inner),
        card=card.name,
        licence=card.licence.spdx,
        source=f"{name}/{inner}",
        url=url,
        date=date,
        text_field=source.text_field,
        id_field=source.id_field,
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
    )


def claimed_language(source: SourceConfig, inner: str) -> str | None:
    """Language that the recipe gives a path: the first pattern of `languages` that matches, else `language`."""
    for pattern, tag in source.languages.items():
        if fnmatchcase(inner, pattern):
            return tag
    return source.language or None
