"""Write a leaderboard into a folder: the page, a page a task, and the exports; and clear away what an earlier one left there."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import disk_errors, write_json
from iberlm.evaluate.leaderboard.every_eval_ever import Evaluator, every_eval_ever
from iberlm.evaluate.leaderboard.gather import gather
from iberlm.evaluate.leaderboard.items import read_items
from iberlm.evaluate.leaderboard.means import standings
from iberlm.evaluate.leaderboard.model_index import model_index
from iberlm.evaluate.leaderboard.page import index_page, task_page
from iberlm.evaluate.leaderboard.tables import csv_table, latex_tables
from iberlm.evaluate.leaderboard.varieties import variety_views
from iberlm.evaluate.leaderboard.views import Shown, shown
from iberlm.evaluate.leaderboard.wording import Slugs

FORMATS = ("html", "csv", "latex", "model-index", "every-eval-ever")
RECORD = "leaderboard.json"
"""Lists the files that the last call wrote: these, and no others, are replaced and cleared away."""
BEGUN = ".leaderboard.begun"
"""Lists the files of a call that has not ended, so that the next one after a kill knows them as its own."""
_WHAT = {
    "csv": ("results.csv", "results.csv", "every result, a line each, with all columns of the store"),
    "latex": ("table.tex", "table.tex", "the tables for a paper (needs booktabs)"),
    "model-index": ("model-index/", "model-index", "a file a model: front matter for its card on the Hugging Face hub"),
    "every-eval-ever": ("every_eval_ever/", "every_eval_ever", "results in the format of Every Eval Ever"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is written, and what the exports say of whoever evaluates."""

    formats: Sequence[str] = FORMATS
    items: bool = True
    """Whether the texts of the items are published too."""
    command: Sequence[str] = ()
    """With which the page was made."""
    evaluator: Evaluator = field(default_factory=Evaluator)
    source_url: str = ""
    """Where the leaderboard will be found; model cards then link to it."""


def write_leaderboard(
    stores: Sequence[Path],
    out: Path,
    options: Options,
    *,
    models: Sequence[str] = (),
    suite: str = "",
    title: str = "",
    names: dict[str, str] | None = None,
) -> list[str]:
    """Write what `options` ask for below `out`; the paths of the files, relative to it, the page first. The same stores give the same bytes.

    Files that an earlier call wrote and that are not written again are deleted; other files stay. Raises `DataError` for stores that cannot
    be read or are empty, and when a file is in the way that no leaderboard wrote; `ConfigError` for unknown models, suites and formats.
    """
    if unknown := [name for name in options.formats if name not in FORMATS]:
        raise ConfigError(f"leaderboard --format: unknown value '{unknown[0]}'; choose among {', '.join(FORMATS)}")
    board = gather(stores, models=models, suite=suite, title=title, names=names)
    slugs = Slugs()
    view = shown(board, standings(board), {task.index: f"tasks/{slugs.of(task.name)}.html" for task in board.tasks})
    before = _written_before(out)
    written: list[str] = []
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / BEGUN).open("a", encoding="utf-8") as begun:
            # the page that links to all others comes last: who finds it finds them
            for name, text in _files(view, stores, options):
                _check_place(out, name, before)
                begun.write(json.dumps(name) + "\n")
                begun.flush()
                _write(out / name, text)
                written.append(name)
        for name in sorted(before - set(written)):
            _remove(out, name)
        write_json(out / RECORD, {"format": 1, "files": sorted(written)})
        (out / BEGUN).unlink()
    return written[::-1]


def _files(view: Shown, stores: Sequence[Path], options: Options) -> Iterator[tuple[str, str]]:
    if "csv" in options.formats:
        yield "results.csv", csv_table(view.board)
    if "latex" in options.formats:
        yield "table.tex", latex_tables(view)
    if "model-index" in options.formats:
        for name, text in model_index(view.board, options.source_url):
            yield f"model-index/{name}", text
    if "every-eval-ever" in options.formats:
        for name, text in every_eval_ever(view.board, stores, options.evaluator, items=options.items):
            yield f"every_eval_ever/{name}", text
    if "html" in options.formats:
        for task in view.board.tasks:
            yield view.pages[task.index], task_page(view, task, read_items(stores, task) if options.items else None)
        downloads = [_WHAT[name] for name in options.formats if name in _WHAT]
        varieties = variety_views(view, stores)
        yield "index.html", index_page(view, made_with=shlex.join(options.command), downloads=downloads, varieties=varieties, with_items=options.items)


def _written_before(out: Path) -> set[str]:
    """Files that are ours to replace."""
    try:
        record, begun = _text(out / RECORD), _text(out / BEGUN)
        names = json.loads(record)["files"] if record else []
        # the last line may be cut short: its file was not written yet
        names += [json.loads(line) for line in begun.splitlines(keepends=True) if line.endswith("\n")]
        listed = {str(name) for name in names}
    except NotADirectoryError:
        raise DataError(f"{out}: is, or lies below, a file; name a folder") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{out / RECORD}: is damaged; delete it and the leaderboard's files beside it, or choose another folder") from None
    # the record could have been changed by anybody: nothing outside of the folder is ever touched
    return {name for name in listed if not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _check_place(out: Path, name: str, before: set[str]) -> None:
    if name not in before and (out / name).exists():
        raise DataError(f"{out / name}: is in the way, and no leaderboard wrote it; move it, or choose another folder")


def _write(path: Path, text: str) -> None:
    """Whole or not at all; not flushed to the disk: what is lost with the machine is made again in seconds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove(out: Path, name: str) -> None:
    (out / name).unlink(missing_ok=True)
    for folder in PurePosixPath(name).parents:
        if folder.parts and (out / folder).is_dir() and not any((out / folder).iterdir()):
            (out / folder).rmdir()
