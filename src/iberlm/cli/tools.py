"""The tools beside the line, as typer commands."""

from pathlib import Path
from typing import Annotated

import typer

from iberlm.cards import command as cards_command

app = typer.Typer(name="iberlm", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
cards = typer.Typer(no_args_is_help=True, help="Validate, list and begin data cards.")
app.add_typer(cards, name="cards")


@app.callback()
def _tools() -> None:
    """Tools beside the line."""


@cards.command("validate")
def cards_validate(paths: Annotated[list[Path] | None, typer.Argument(help="Card files or folders; all known cards when none is given.")] = None) -> None:
    """Check data cards: one line a problem, `file:line field - problem - mend`. Exit status 3 if there is any."""
    raise typer.Exit(cards_command.validate(paths or ()))


@cards.command("new")
def cards_new(
    name: Annotated[str, typer.Argument(help="Name of the data set: small letters, digits, '_' and '-'.")],
    folder: Annotated[Path, typer.Option(help="Where the card is written.")] = Path("data_cards"),
) -> None:
    """Begin a data card: a commented file whose blanks `cards validate` then names."""
    raise typer.Exit(cards_command.new(name, folder))


@cards.command("list")
def cards_list() -> None:
    """List the data cards: name, languages, licence, permitted uses, version."""
    raise typer.Exit(cards_command.show_list())
