"""`iberlm VERB --help`: what the verb does, its groups with their choices, its settings with their defaults. No Hydra, no wait."""

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from iberlm.cli.verbs import Verb
from iberlm.core.resources import resource_dir

_GROUP = re.compile(r"^(?:override )?/?([\w/]+)(?:@([\w.]+))?$")


def verb_help(verb: Verb) -> str:
    """The help text of a verb."""
    recipe = resource_dir("recipes") / f"{verb.recipe}.yaml"
    content = YAML(typ="safe").load(recipe)
    lines = [f"iberlm {verb.name}: {verb.summary}", "", f"usage: iberlm {verb.name} [GROUP=CHOICE ...] [KEY=VALUE ...] [Hydra options]", ""]
    if groups := _groups(content["defaults"], verb.recipe == "run"):
        lines += ["groups (files in recipes/GROUP/):", *(f"  {key}={default:<12} {', '.join(choices)}" for key, default, choices in groups), ""]
    lines += ["settings:", *_settings(verb.config_class(), content), ""]
    lines += [
        "Hydra options:",
        "  --cfg job              print the resolved configuration and stop",
        "  --multirun, -m         run once for each combination of comma-separated values",
        "  --config-dir DIR       look for recipes of your own in DIR as well",
        "  --info defaults-tree   where each part of the configuration comes from",
        "  dry_run=true           print what would happen and touch nothing",
    ]
    return "\n".join(lines)


def _groups(defaults: list[Any], top_level_only: bool) -> list[tuple[str, str, list[str]]]:
    found = []
    for entry in defaults:
        if not isinstance(entry, dict):
            continue
        (raw, choice), *_ = entry.items()
        match = _GROUP.match(raw)
        if match is None or (top_level_only and match[2] and match[1] == "cluster"):
            continue
        key = match[1] if match[2] is None else f"{match[1]}@{match[2]}"
        found.append((key, str(choice), choices_of(match[1])))
    return found


def choices_of(group: str) -> list[str]:
    """Names of the recipes of a group."""
    folder = resource_dir("slurm" if group == "cluster" else "recipes") / group
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _settings(schema: type[Any], recipe: dict[str, Any], prefix: str = "") -> list[str]:
    documented = attribute_docs(schema)
    lines = []
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[entry.name]):
            names = ", ".join(inner.name for inner in dataclasses.fields(hints[entry.name]))
            lines.append(f"  {prefix}{entry.name}.{{{names}}}" if len(names) < 110 else f"  {prefix}{entry.name}.{{{names[:110]}...}}")
            continue
        default = recipe.get(entry.name, _default(entry))
        remark = documented.get(entry.name, "")
        lines.append(f"  {prefix}{entry.name}={_shown(default)}" + (f"\n      {remark}" if remark else ""))
    return lines


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default is not dataclasses.MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not dataclasses.MISSING else "(must be given)"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return "{...}" if isinstance(value, dict) and value else str(value)


def attribute_docs(schema: type[Any]) -> dict[str, str]:
    """The string literal below each field of a dataclass and its bases, on one line; read from the source."""
    import ast

    found: dict[str, str] = {}
    for base in reversed(schema.__mro__[:-1]):
        try:
            tree = ast.parse(inspect.cleandoc(Path(inspect.getfile(base)).read_text(encoding="utf-8")))
        except (OSError, TypeError):
            continue
        definition = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == base.__name__), None)
        for first, second in zip(definition.body, definition.body[1:], strict=False) if definition else ():
            if (
                isinstance(first, ast.AnnAssign)
                and isinstance(first.target, ast.Name)
                and isinstance(second, ast.Expr)
                and isinstance(second.value, ast.Constant)
            ):
                found[first.target.id] = " ".join(str(second.value.value).split())
    return found
