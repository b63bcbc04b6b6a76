"""`iberlm compare A B`: which of two models is better, at what, and how sure that is. Reads tables; loads no model."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iberlm.core.errors import ConfigError, CorruptError, DataError
from iberlm.core.languages import LANGUAGES, check_language

if TYPE_CHECKING:
    import pyarrow as pa

ITEMS, RESULTS = "items.parquet", "results.parquet"
_MIN_HASH = 4


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Folder of `iberlm evaluate`, or with --store a model: name, hash or its beginning, folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one. NAME@dtype=bfloat16 or NAME@template=none,num_fewshot=5 take one of several settings.")],
    store: Annotated[Path | None, typer.Option(help="Result store in which A and B are models.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file, with all items that changed.")] = None,
    items: Annotated[int, typer.Option(min=0, help="How many of the items that changed are shown of each task.")] = 0,
    language: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only tasks of this language (again for each); all when none.")] = None,
    across: Annotated[list[str] | None, typer.Option(metavar="SETTING", help="Compare two models although this differs: num_fewshot or template.")] = None,
) -> None:
    """Compare two models item by item: paired tests, intervals, what could not be seen, and which items changed.

    A and B are two evaluations of the same tasks: of two models, or of one in two settings. The exit status is 0 whoever is better.
    """
    from iberlm.core.files import write_json
    from iberlm.evaluate import comparison_view
    from iberlm.evaluate.compare import compare as compare_tables
    from iberlm.evaluate.pairing import NEED_SAME

    for tag in language or ():
        check_language(tag, "compare --language", among=LANGUAGES)
    if wrong := [name for name in across or () if name not in NEED_SAME]:
        raise ConfigError(f"compare --across: unknown setting '{wrong[0]}'; choose among {', '.join(NEED_SAME)}")
    (a_items, a_results), (b_items, b_results) = (_side(text, store) for text in (a, b))
    found = compare_tables(a_items, b_items, a_results, b_results, across=across or (), languages=language or ())
    comparison_view.show(found, items=items)
    if json_file is not None:
        write_json(json_file, json.loads(json.dumps(found.as_json())))


def _side(text: str, store: Path | None) -> "tuple[pa.Table, pa.Table]":
    """Items and results of one side."""
    name, _, settings = text.partition("@")
    if store is None or (Path(name) / RESULTS).is_file():
        folder = _evaluation(Path(name), store)
        return _chosen(_read(folder / ITEMS), settings, text), _chosen(_read(folder / RESULTS), settings, text)
    return _of_store(text, name, settings, store)


def _evaluation(folder: Path, store: Path | None) -> Path:
    """The folder itself, or `evaluate` in the folder of a run."""
    for place in (folder, folder / "evaluate"):
        if (place / RESULTS).is_file() and (place / ITEMS).is_file():
            return place
    mend = "" if store else "; to compare models of a result store, give --store STORE"
    raise ConfigError(f"compare: {folder} holds no {RESULTS} and {ITEMS}, so it is no output of `iberlm evaluate`{mend}")


def _read(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"{path}: is damaged ({error}); run the evaluation again, it answers from its store") from error


def _of_store(text: str, name: str, settings: str, folder: Path) -> "tuple[pa.Table, pa.Table]":
    from iberlm.evaluate.pairing import ITEM_COLUMNS
    from iberlm.evaluate.store.store import Store

    if not folder.is_dir():
        raise ConfigError(f"compare --store: there is no folder {folder}")
    store = Store(folder)
    results = store.results()
    model = _model(name, results, folder)
    items = store.items(model=model, columns=ITEM_COLUMNS)
    return _chosen(items, settings, text), _chosen(_where(results, "model", model), settings, text)


def _model(name: str, results: "pa.Table", folder: Path) -> str:
    """The hash of the one model that is called so. Raises `ConfigError` when there is none, or several."""
    known: dict[str, set[str]] = {}
    for row in results.select(["model", "model_name"]).to_pylist():
        known.setdefault(row["model"], set()).add(row["model_name"] or "")
    if not known:
        raise DataError(f"compare: {folder} holds no results; fill it with iberlm evaluate store={folder}")
    ways: list[Callable[[str, set[str]], bool]] = [
        lambda model, names: model == name or name in names,
        lambda model, names: len(name) >= _MIN_HASH and re.fullmatch("[0-9a-f]+", name) is not None and model.startswith(name),
        lambda model, names: any(Path(known_name).name == name or Path(known_name).resolve() == Path(name).resolve() for known_name in names if known_name),
    ]
    for fits in ways:
        matching = [model for model, names in known.items() if fits(model, names)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise ConfigError(f"compare: '{name}' may be {len(matching)} models of {folder}; give one by its hash:\n{_listed(matching, known)}")
    if (model := _fingerprint(Path(name))) in known:
        return model
    raise ConfigError(f"compare: {folder} has no model '{name}'; there are:\n{_listed(list(known), known)}")


def _fingerprint(folder: Path) -> str:
    """The hash of a model folder; empty for anything else."""
    from iberlm.evaluate.fingerprint import model_key

    return model_key(folder) if (folder / "config.json").is_file() else ""


def _listed(models: list[str], known: dict[str, set[str]]) -> str:
    return "\n".join(f"  {model[:12]}  {', '.join(sorted(known[model]))}" for model in sorted(models, key=lambda model: (sorted(known[model]), model)))


def _chosen(table: "pa.Table", settings: str, text: str) -> "pa.Table":
    """Rows in the settings that stand behind the @."""
    from iberlm.evaluate.pairing import SETTINGS

    for entry in settings.split(",") if settings else ():
        name, equals, value = entry.partition("=")
        if name not in SETTINGS or not equals:
            raise ConfigError(f"compare: '{entry}' in '{text}' is no setting; write NAME@SETTING=VALUE with {', '.join(SETTINGS)}")
        if name not in table.column_names:
            raise DataError(f"compare: '{text}': its rows have no column '{name}'; they are of another version of IberLM: evaluate again")
        there = sorted({str(found) for found in table[name].unique().to_pylist()})
        fitting = [found for found in there if found == value or (name == "template" and len(value) >= _MIN_HASH and found.startswith(value))]
        if len(fitting) != 1:
            raise ConfigError(f"compare: '{text}': no rows with {name}={value}; there are {', '.join(there) or 'none'}")
        table = _where(table, name, fitting[0])
    return table


def _where(table: "pa.Table", name: str, value: Any) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.equal(table[name], pa.scalar(value, pa.string()).cast(table.schema.field(name).type)))
