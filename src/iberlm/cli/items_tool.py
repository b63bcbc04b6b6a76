"""`iberlm items`: the items of a suite as files that a training corpus can be searched for."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from iberlm.core.errors import DataError, IberlmError
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
    from iberlm.cli.verbs import VERBS
    from iberlm.evaluate.quiet import quiet_harness
    from iberlm.evaluate.suite import BITS_PER_BYTE, resolve

    config = compose_settings(VERBS["evaluate"], overrides or [], config_dir)
    tasks = [task for task in resolve(config.suite)[0] if task.family != BITS_PER_BYTE]
    if not tasks:
        raise DataError(f"items: the suite '{config.suite.name}' has no task with items")
    problems: list[str] = []
    written = 0
    with progress("items", len(tasks), "tasks") as advance, quiet_harness(), disk_errors(out):
        for task in tasks:
            try:
                written += _write(config, out, task)
            except DataError as error:
                problems.append(str(error))
            advance(1, task.name)
    done = len(tasks) - len(problems)
    say(f"items: {written:,} items of {done} {'task' if done == 1 else 'tasks'} in {out}")
    if done:
        print(f"search a corpus for them: iberlm curate {shlex.quote(f'decontaminate.evaluation=[{out}]')}")
    if problems:
        raise DataError(f"items: {len(problems)} of {len(tasks)} tasks could not be written:\n  " + "\n  ".join(problems))


def _write(config: Any, out: Path, task: Any) -> int:
    """Write the file of one task; the number of its items."""
    from iberlm.evaluate.asked import data_folders
    from iberlm.evaluate.catalogue import task_facts
    from iberlm.evaluate.contamination import asked_texts, write_items
    from iberlm.evaluate.staging import overrides, staged
    from iberlm.evaluate.tasks import load_task

    facts = task_facts(task.name, language=task.language, licences=config.suite.licences)
    data = staged(facts, data_folders(config))
    loaded = load_task(facts, overrides=overrides(data) if data is not None else {}, metadata={})
    try:
        return write_items(out, task.name, ((doc, asked_texts(loaded, doc)) for doc in loaded.eval_docs))
    except IberlmError:
        raise
    except Exception as error:  # functions of tasks raise what they like
        raise DataError(f"{task.name}: its items cannot be made into questions ({type(error).__name__}: {error})") from error
