"""`iberlm results`: look into a result store, bring stores together, check one, and make few files of many."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from iberlm.core.errors import CorruptError, DataError

app = typer.Typer(no_args_is_help=True, help="Result stores of `evaluate`: list, merge, check and compact them.")

StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a result store, such as runs/default/store.")]
_MODELS_A_BLOCK = 6


@dataclass(frozen=True, order=True)
class _Asked:
    """A model as it was asked: a column of the list."""

    name: str
    model: str
    backend: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.name or 'nameless'} ({self.model[:12]}, {self.backend}, {self.dtype})"


@app.command("list")
def list_results(
    store: StoreFolder,
    model: Annotated[str, typer.Option(help="Only models with this in their name, or at the beginning of their key.")] = "",
) -> None:
    """What a store has: how many items of each task each model answered. A '+' stands where the task is not finished."""
    from iberlm.evaluate.store.existing import begun_evaluations, existing_store

    existing_store(store, just_begun=True)
    every = _counts(store)
    if not every:
        _print_empty(store)
        return
    counts = {place: n for place, n in every.items() if model in place[0].name or place[0].model.startswith(model)}
    if not counts:
        raise DataError(f"{store}: has no items of a model '{model}'; iberlm results list {store} lists all")
    models = sorted({asked for asked, _ in counts})
    finished = _finished(store)
    for start in range(0, len(models), _MODELS_A_BLOCK):
        _print_block(models[start : start + _MODELS_A_BLOCK], start, counts, finished)
    print(f"{sum(counts.values()):,} items, {len({task for _, task in counts}):,} tasks, {len(models):,} model{'s' if len(models) != 1 else ''}")
    for line in begun_evaluations(store):
        print(line)


def _print_empty(store: Path) -> None:
    from iberlm.evaluate.store.existing import begun_evaluations

    print("\n".join([f"{store}: no result yet", *(begun_evaluations(store) or ["nothing is in the journal either"])]))


def _counts(store: Path) -> dict[tuple[_Asked, str], int]:
    """Answered items by model and task; an item that was asked in two ways (shots, template) counts once."""
    from iberlm.evaluate.store.store import Store

    columns = ["model", "backend", "dtype", "task"]
    table = Store(store).items(columns=[*columns, "item", "model_name"])
    rows = table.group_by(columns).aggregate([("item", "count_distinct"), ("model_name", "max")]).to_pylist()
    return {(_asked(row, row["model_name_max"]), row["task"]): row["item_count_distinct"] for row in rows}


def _asked(row: dict[str, str], name: str) -> _Asked:
    return _Asked(name or "", row["model"], row["backend"] or "", row["dtype"] or "")


def _finished(store: Path) -> set[tuple[str, str, str, str]]:
    from iberlm.evaluate.store.store import Store

    rows = Store(store).results().select(["model", "backend", "dtype", "task"]).to_pylist()
    return {(row["model"], row["backend"] or "", row["dtype"] or "", row["task"]) for row in rows}


def _print_block(models: list[_Asked], start: int, counts: dict[tuple[_Asked, str], int], finished: set[tuple[str, str, str, str]]) -> None:
    for index, asked in enumerate(models, start + 1):
        print(f"[{index}] {asked}")
    tasks = sorted({task for asked, task in counts if asked in models})
    width = max(len(task) for task in tasks)
    print(" " * width + "".join(f"{f'[{index}]':>10}" for index in range(start + 1, start + 1 + len(models))))
    for task in tasks:
        cells = []
        for asked in models:
            n = counts.get((asked, task))
            done = (asked.model, asked.backend, asked.dtype, task) in finished
            cells.append("-" if n is None else f"{n:,}" + ("" if done else "+"))
        print(f"{task:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    print()


@app.command("merge")
def merge_stores(
    into: Annotated[Path, typer.Argument(metavar="INTO", help="Store that gets what it lacks; created when it is not there.")],
    others: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Stores that are copied from; they stay as they are.")],
) -> None:
    """Copy what other stores have and INTO has not. Different answers to one request are counted and named; the earliest counts."""
    from iberlm.evaluate.store.merge import merge

    for line in merge(into, *others).sentences():
        print(line)


@app.command("check")
def check_store(
    store: StoreFolder,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Rename damaged files to *.damaged, so that the rest can be used.")] = False,
) -> None:
    """Read every file, compare its bytes with its name, recompute every key. Exit status 5 if a damaged file stays."""
    from iberlm.evaluate.store.existing import begun_evaluations, existing_store
    from iberlm.evaluate.store.segment import SCHEMAS, segments

    opened = existing_store(store, just_begun=True)
    if set_aside:
        opened.set_aside_damaged(thorough=True)
    problems = [str(error) for _, error in opened.check()]
    if problems:
        raise CorruptError(f"{store}: files that cannot be used: {len(problems)}\n  " + "\n  ".join(problems))
    files = {kind: len(segments(store, kind)) for kind in SCHEMAS}
    if not any(files.values()):
        _print_empty(store)
        return
    print(f"{store}: {files['items']:,} files of items and {files['results']:,} of results, all whole; every key is right")
    for line in begun_evaluations(store):
        print(line)


@app.command("compact")
def compact_store(store: StoreFolder) -> None:
    """Make few large files of many small ones, so that reading is faster. No row is lost; readers and writers may go on meanwhile."""
    from iberlm.evaluate.store.merge import compact

    done = compact(store)
    print(f"{store}: {done.before:,} files before, {done.after:,} after")
