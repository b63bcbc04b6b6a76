"""`iberlm cards validate | new | list` as plain functions that return an exit status."""

import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from iberlm.cards.load import card_dirs, card_paths, check_card
from iberlm.cards.problems import Problem
from iberlm.cards.template import template
from iberlm.core.errors import CardError
from iberlm.core.files import write_text

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{2,63}")


def validate(paths: Sequence[Path] = (), *, today: date | None = None) -> int:
    """Check cards (files or folders; all known ones by default) and print every problem; exit status 0 or that of `CardError`.

    Files that a card lists are compared by size and SHA-256 where they exist here: below the folder that holds
    `data_cards/`, or else below the current folder. Warnings are printed apart and do not make a card invalid.
    """
    files = _card_files(paths)
    problems: list[Problem] = []
    for path in files:
        problems += check_card(path, today=today, files=True)[1]
    if not paths:
        problems += [
            Problem(places[-1], 1, "name", f"'{name}' is the name of {places[0]} too", "rename one of the two")
            for name, places in card_paths().items()
            if len(places) > 1
        ]
    errors = [problem for problem in problems if not problem.warning]
    for problem in errors:
        print(problem)
    for problem in problems:
        if problem.warning:
            print(f"warning: {problem}", file=sys.stderr)
    if errors:
        broken = len({problem.path for problem in errors})
        print(f"{len(errors)} problem{'s' * (len(errors) != 1)} in {broken} of {len(files)} cards", file=sys.stderr)
        return CardError.exit_status
    print(f"{len(files)} card{'s' * (len(files) != 1)} valid")
    return 0


def new(name: str, folder: Path = Path("data_cards"), *, today: date | None = None) -> int:
    """Write a commented template to `folder`/NAME.yaml. Raises `CardError` for a bad name or a card that exists."""
    if not _NAME.fullmatch(name):
        raise CardError(f"card name '{name}': use 3 to 64 small letters, digits, '-' and '_', beginning with a letter or digit")
    path = folder / f"{name}.yaml"
    if path.exists():
        raise CardError(f"{path}: exists already; edit it, or choose another name")
    write_text(path, template(name, str(path), today or date.today()))
    print(f"{path}: fill in the blanks, then run `iberlm cards validate {path}`")
    return 0


def show_list() -> int:
    """Print all known cards: name, languages, licence, permitted uses, version. A table on a terminal, tabs elsewhere."""
    rows, broken = [], 0
    for name, paths in card_paths().items():
        card, problems = check_card(paths[0])
        if card is None or any(not problem.warning for problem in problems):
            broken += 1
            rows.append([name, "invalid: run `iberlm cards validate`", "", "", ""])
        else:
            rows.append([name, " ".join(language.tag for language in card.languages), card.licence.spdx, " ".join(card.permitted_uses), card.version])
    heading = ["name", "languages", "licence", "permitted uses", "version"]
    if sys.stdout.isatty():
        _print_table(heading, rows)
    else:
        for row in (heading, *rows):
            print("\t".join(row))
    return CardError.exit_status if broken else 0


def _print_table(heading: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in heading:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _card_files(paths: Sequence[Path]) -> list[Path]:
    """The card files that `paths` mean; raises `CardError` for a path that is not there or a folder without cards."""
    files: list[Path] = []
    for path in paths or card_dirs():
        if not path.exists():
            raise CardError(f"{path}: does not exist; give card files or folders with *.yaml in them")
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found and paths:
            raise CardError(f"{path}: holds no *.yaml; `iberlm cards new NAME` begins a card")
        files += found
    return files
