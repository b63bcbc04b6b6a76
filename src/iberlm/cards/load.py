"""Find, read and check data cards. All problems of a card are told at once, each with its line."""

import difflib
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from iberlm.cards.problems import Location, Problem, spell
from iberlm.cards.rules import RULES, data_path
from iberlm.cards.schema import USES, Card
from iberlm.core.errors import CardError
from iberlm.core.files import sha256_file
from iberlm.core.resources import resource_dir, user_card_dirs

MAX_CARD_BYTES = 4 << 20
MAX_DEPTH = 16
MAX_NODES = 200_000
"""Limits on what a card's YAML may unfold to: aliases can make a small file endless."""


def check_card(path: Path, *, today: date | None = None, files: bool = False) -> tuple[Card | None, list[Problem]]:
    """Read a card and return it (None when its form is wrong) with all problems, warnings among them.

    With `files`, the listed files that exist here are compared with their size and SHA-256. Raises nothing for a bad
    card; a path that cannot be read is a problem too.
    """
    tree, problems = _read_yaml(path)
    if tree is None:
        return None, problems
    try:
        card = Card.model_validate(_plain(tree))
    except ValidationError as error:
        return None, [_problem_of(path, tree, detail) for detail in error.errors()]
    except _TooLargeError:
        return None, [Problem(path, 1, "card", "its aliases unfold to too much", "write the values out")]
    found = [
        Problem(path, _line(tree, finding.location), spell(finding.location), finding.problem, finding.mend, finding.warning)
        for rule in RULES
        for finding in rule(card, path, today or date.today())
    ]
    if files:
        found += _check_files(path, tree, card)
    return card, sorted(found, key=lambda problem: (problem.line, problem.field))


def load_card(path: Path, *, today: date | None = None) -> Card:
    """Read a valid card; raises `CardError` with all its problems, one a line."""
    card, problems = check_card(path, today=today)
    errors = [str(problem) for problem in problems if not problem.warning]
    if card is None or errors:
        raise CardError("\n".join(errors))
    return card


def card_dirs() -> list[Path]:
    """Folders that are searched for cards: those of the toolkit, `./data_cards`, and the ones in IBERLM_CARDS."""
    return list(dict.fromkeys(folder.resolve() for folder in (resource_dir("data_cards"), *user_card_dirs())))


def card_paths() -> dict[str, list[Path]]:
    """All cards by name, sorted; more than one path under a name is an ambiguity that `find_card` refuses."""
    found: dict[str, list[Path]] = {}
    for folder in card_dirs():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return dict(sorted(found.items()))


def find_card(name: str) -> Path:
    """Path of the card called `name`; raises `CardError` when there is none (with close names) or more than one."""
    known = card_paths()
    paths = known.get(name, [])
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise CardError(f"card '{name}': found twice, {' and '.join(map(str, paths))}; rename or remove one, so that it is clear which one holds")
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}."
    raise CardError(f"card '{name}': not found in {', '.join(map(str, card_dirs()))}; {hint} `iberlm cards new {name}` begins a new one")


def require(name: str, use: str, *, today: date | None = None) -> Card:
    """The valid card called `name`, if it permits `use` (one of `USES`); raises `CardError` otherwise."""
    if use not in USES:
        raise ValueError(f"unknown use '{use}': choose among {', '.join(USES)}")
    path = find_card(name)
    card = load_card(path, today=today)
    if use not in card.permitted_uses:
        raise CardError(
            f"card '{name}' does not permit '{use}': its permitted uses are {', '.join(card.permitted_uses)} ({path}); take it out or use another data set"
        )
    return card


class _TooLargeError(Exception):
    """A card unfolds beyond `MAX_NODES` or `MAX_DEPTH`."""


def _read_yaml(path: Path) -> tuple[CommentedMap | None, list[Problem]]:
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            return None, [Problem(path, 1, "card", f"is larger than {MAX_CARD_BYTES} bytes", "list the files in parts, one card each")]
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, [Problem(path, 1, "card", f"cannot be read ({error.strerror})", "check the path")]
    except UnicodeDecodeError as error:
        return None, [Problem(path, 1, "card", f"is not UTF-8 (byte {error.start})", "save it as UTF-8")]
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return None, [
            Problem(path, line, "card", f"is not valid YAML: {error.problem or error.context}", "mend the syntax; a value with ': ' or '#' needs quotes")
        ]
    except (YAMLError, ValueError, RecursionError) as error:
        return None, [Problem(path, 1, "card", f"is not valid YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}", "mend the syntax")]
    if not isinstance(tree, CommentedMap):
        return None, [Problem(path, 1, "card", "is not a mapping of fields", "begin one with `iberlm cards new NAME`")]
    return tree, []


def _plain(tree: Any) -> Any:
    """The YAML tree as plain dictionaries, lists and scalars, within `MAX_NODES` and `MAX_DEPTH`."""
    nodes = 0

    def convert(node: Any, depth: int) -> Any:
        nonlocal nodes
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _TooLargeError
        if isinstance(node, dict):
            return {str(key): convert(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list):
            return [convert(value, depth + 1) for value in node]
        return node

    return convert(tree, 0)


def _line(tree: Any, location: Location) -> int:
    """Line (from 1) of a place in the tree, or of the deepest part of it that exists."""
    line = 1
    for step in location:
        if isinstance(tree, CommentedMap) and step in tree:
            line = int(tree.lc.key(step)[0]) + 1
        elif isinstance(tree, CommentedSeq) and isinstance(step, int) and step < len(tree):
            line = int(tree.lc.item(step)[0]) + 1
        else:
            break
        tree = tree[step]
    return line


def _problem_of(path: Path, tree: CommentedMap, detail: Any) -> Problem:
    location: Location = tuple(detail["loc"])
    problem, mend = _explain(location, detail)
    return Problem(path, _line(tree, location), spell(location), problem, mend)


def _explain(location: Location, detail: Any) -> tuple[str, str]:
    """A pydantic error in the words of the card: problem and mend."""
    kind, value = detail["type"], detail["input"]
    description, keys = _field_of(location)
    mend = f"write {description}" if description else "compare with the cards that come with IberLM"
    if kind == "missing" or value is None:
        return "is missing", f"add {description}" if description else f"add `{location[-1]}`"
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), keys, n=1)
        return "unknown key", f"did you mean '{close[0]}'?" if close else f"remove it; the keys here are {', '.join(keys)}"
    if kind in ("literal_error", "enum"):
        return f"'{value}' is not a choice", f"choose among {detail['ctx']['expected']}"
    shown = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return f"{shown[:80]}: {detail['msg'][0].lower()}{detail['msg'][1:]}", mend


def _field_of(location: Location) -> tuple[str, list[str]]:
    """Description of the field at a location and the keys beside it, from the model."""
    node: Any = Card.model_json_schema()
    definitions, parent = node["$defs"], node
    for step in location:
        parent = node
        node = node.get("items", {}) if isinstance(step, int) else node.get("properties", {}).get(step, {})
        own = node.get("description", "")
        for choice in (node, *node.get("anyOf", [])):
            if "$ref" in choice:
                # the description of a field goes before that of its type
                node = {**definitions[choice["$ref"].rsplit("/", 1)[1]], "description": own}
    return str(node.get("description", "")), list(parent.get("properties", {}))


def _check_files(path: Path, tree: CommentedMap, card: Card) -> list[Problem]:
    problems = []
    for position, entry in enumerate(card.files):
        local = data_path(path, entry.path)
        if local is None:
            continue
        size = local.stat().st_size
        if size != entry.bytes:
            location: Location = ("files", position, "bytes")
            problems.append(
                Problem(path, _line(tree, location), spell(location), f"{entry.bytes}, but {local} has {size}", "fetch the file again or update the card")
            )
        elif (actual := sha256_file(local)) != entry.sha256:
            location = ("files", position, "sha256")
            problems.append(
                Problem(path, _line(tree, location), spell(location), f"checksum mismatch: {local} has {actual}", "fetch the file again or update the card")
            )
    return problems
