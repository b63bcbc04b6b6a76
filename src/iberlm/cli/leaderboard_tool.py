"""`iberlm leaderboard STORE... --out FOLDER`: a static page of models, tasks and items from result stores, and exports. Loads no model."""

from pathlib import Path
from typing import Annotated

import typer

from iberlm.core.errors import ConfigError
from iberlm.core.progress import say

_FORMATS = "html, csv, latex, model-index or every-eval-ever"


def leaderboard(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Folders of result stores, such as runs/default/store.")],
    out: Annotated[Path, typer.Option(help="Folder of the page and the exports; files of others in it stay.")],
    models: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="Only this model (again for each): name, pattern with *, or hash.")] = None,
    suite: Annotated[str, typer.Option(help="Only the tasks of this suite; what models lack of them is listed as missing.")] = "",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    format_: Annotated[list[str] | None, typer.Option("--format", metavar="FORMAT", help=f"Write only this (again for each): {_FORMATS}.")] = None,
    no_items: Annotated[bool, typer.Option("--no-items", help="Without the texts of the items, which belong to their authors.")] = False,
    name: Annotated[list[str] | None, typer.Option(metavar="MODEL=NAME", help="Call a model so (again for each), such as runs/x/model=org/name.")] = None,
    organisation: Annotated[str, typer.Option(help="Who evaluates; for Every Eval Ever.")] = "",
    relationship: Annotated[str, typer.Option(help="Of the evaluator to the models: first_party, third_party, collaborative or other.")] = "other",
    source_url: Annotated[str, typer.Option(help="Where the page will be found; model cards then link to it.")] = "",
) -> None:
    """Make a leaderboard from result stores: a page that needs no network, every number with its interval and its command, and exports."""
    from iberlm.evaluate.leaderboard.every_eval_ever import Evaluator
    from iberlm.evaluate.leaderboard.publish import FORMATS, Options, write_leaderboard

    several = {"models": models, "format": format_, "name": name}
    single = {"suite": suite, "title": title, "organisation": organisation, "relationship": relationship * (relationship != "other"), "source-url": source_url}
    given = [word for option, values in several.items() for value in values or () for word in (f"--{option}", value)]
    given += [word for option, value in single.items() if value for word in (f"--{option}", value)] + ["--no-items"] * no_items
    options = Options(
        formats=tuple(dict.fromkeys(format_ or FORMATS)),
        items=not no_items,
        command=("iberlm", "leaderboard", *map(str, stores), "--out", str(out), *given),
        evaluator=Evaluator(organisation, relationship),
        source_url=source_url,
    )
    written = write_leaderboard(stores, out, options, models=models or (), suite=suite, title=title, names=_names(name or []))
    say(f"leaderboard: {len(written)} files in {out}")
    if "index.html" in written:
        print(f"open {out / 'index.html'}")


def _names(given: list[str]) -> dict[str, str]:
    found = {}
    for entry in given:
        # a path may hold '=', as Hydra's folders do; a name cannot
        old, equals, new = entry.rpartition("=")
        if not equals or not old or not new:
            raise ConfigError(f"leaderboard --name: '{entry}' is not MODEL=NAME")
        found[old] = new
    return found
