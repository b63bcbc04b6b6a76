"""`iberlm items`: the items of a suite as files that a training corpus can be searched for."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from iberlm.core.errors import ConfigError, DataError, IberlmError
from iberlm.core.files import disk_errors
from iberlm.core.progress import progress, say


def items(
    out: Annotated[Path, typer.Option(help="Folder of the files, TASK.jsonl each.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="suite=NAME [OVERRIDES]", help="Hydra overrides, as for `iberlm evaluate`.")] = None,
    config_dir: Annotated[Path | None, typer.Option(help="Folder with recipes of your own, as for the verbs.")] = None,
) -> None:
    """Write the items of a suite's tasks as files, for `iberlm curate 'decontaminate.evaluation=[FOLDER]'` to find in a corpus.

    All items of every task, whatever `limit` says; a task's data comes from where an evaluation takes it. Bits per byte has no items: its texts
    are held-out documents of the corpus itself. Exit status 4 when a task's data is not there; the other tasks are written.
    """
    from iberlm.cli.hydra_app import compose_settings
    from iberlm.cli.prefetch_tool import prefetch_command
    from iberlm.cli.verbs import VERBS
    from iberlm.evaluate.quiet import quiet_harness
    from iberlm.evaluate.suite import BITS_PER_BYTE, resolve

    config = compose_settings(VERBS["evaluate"], overrides or [], config_dir)
    tasks = [task for task in resolve(config.suite)[0] if task.family != BITS_PER_BYTE]
    if not tasks:
        raise DataError(f"items: the suite '{config.suite.name}' has no task with items")
    problems: list[str] = []
    absent: dict[str, list[str]] = {}
    written = done = 0
    with progress("items", len(tasks), "tasks") as advance, quiet_harness(), disk_errors(out):
        for task in tasks:
            try:
                written += _write(config, out, task)
                done += 1
            except _NotThereError as error:
                absent.setdefault(str(error), []).append(task.name)
            except DataError as error:
                problems.append(str(error))
            advance(1, task.name)
    say(f"items: {written:,} items of {done} {'task' if done == 1 else 'tasks'} in {out}")
    if done:
        print(f"search a corpus for them: iberlm curate {shlex.quote(f'decontaminate.evaluation=[{out}]')}")
    if done < len(tasks):
        problems += [f"{', '.join(names)}: {title}" for title, names in absent.items()]
        if absent:
            command = prefetch_command("evaluate", overrides or [], config.cluster.bundle, str(config_dir or ""))
            problems.append(f"what is missing is gathered, where there is internet, with: {command}; then give data={config.cluster.bundle or 'BUNDLE'}")
        raise DataError(f"items: {len(tasks) - done} of {len(tasks)} tasks could not be written:\n  " + "\n  ".join(problems))


class _NotThereError(DataError):
    """The data of a task are neither staged nor in the local cache; says which data set."""


def _write(config: Any, out: Path, task: Any) -> int:
    """Write the file of one task; the number of its items."""
    from iberlm.evaluate.asked import data_folders
    from iberlm.evaluate.catalogue import task_facts
    from iberlm.evaluate.contamination import asked_texts, write_items
    from iberlm.evaluate.staging import overrides, source_of, staged
    from iberlm.evaluate.tasks import load_task

    facts = task_facts(task.name, language=task.language, licences=config.suite.licences)
    folders = data_folders(config)
    data = staged(facts, folders)
    try:
        loaded = load_task(facts, overrides=overrides(data) if data is not None else {}, metadata={})
    except DataError as error:
        try:
            source = source_of(facts) if data is None and not isinstance(error.__cause__, ImportError) else None
        except ConfigError as why:
            raise DataError(str(why)) from error
        if source is None:
            raise
        where = f"is not in {' or '.join(map(str, folders))}" if folders else "is nowhere"
        raise _NotThereError(f"the data set {source.title} {where}") from error
    try:
        return write_items(out, task.name, ((doc, asked_texts(loaded, doc)) for doc in loaded.eval_docs))
    except IberlmError:
        raise
    except Exception as error:  # functions of tasks raise what they like
        raise DataError(f"{task.name}: its items cannot be made into questions ({type(error).__name__}: {error})") from error
