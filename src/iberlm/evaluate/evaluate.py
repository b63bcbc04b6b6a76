"""The stage `evaluate`: a model folder and a suite -> results.parquet, items.parquet and table.json.

The harness, torch and transformers are imported in the stage's body: whether it is complete is known without them.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

from iberlm.core.files import write_json
from iberlm.core.manifest import Manifest
from iberlm.core.needs import hub_name, local_folder
from iberlm.core.progress import say
from iberlm.core.stage import Record, WouldRunError, run_stage
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import model_files, validation_files
from iberlm.evaluate.suite import BITS_PER_BYTE, SuiteTask, own_tasks, task_files

STAGE = "evaluate"
VERSION = 1
RESULTS = "results.parquet"
ITEMS = "items.parquet"
TABLE = "table.json"


def run(config: EvaluateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Evaluate the model; the manifest's metrics are the table.

    Writes `results.parquet` (a row a task and metric), `items.parquet` (a row an item) and `table.json`
    ({family: {language: {metric, value, stderr, n, chance, note}}}). A language without validation documents has no
    bits per byte: its cell is missing, never zero. Raises `DataError` when the model cannot be loaded, gives
    likelihoods that are not numbers, or a task's data set is not there.
    """
    if config.dry_run and not hub_name(config.model_folder) and not Path(config.model_folder).is_dir():  # the model of a line that has not run yet
        raise WouldRunError(STAGE, out.absolute())
    return run_stage(STAGE, VERSION, _body, config, inputs, out, fingerprint=_fingerprint(config))


def _fingerprint(config: EvaluateConfig) -> dict[str, Any]:
    tasks, _ = own_tasks(config.suite.tasks, config.suite.languages)
    languages = [task.language for task in tasks if task.family == BITS_PER_BYTE]
    return {
        "model": model_files(local_folder(config.model_folder, config.cluster)),
        "tasks": task_files(tasks),
        "validation": validation_files(Path(config.validation), languages),
        "lm_eval": importlib.metadata.version("lm_eval"),
    }


def suite_tasks(config: EvaluateConfig) -> list[SuiteTask]:
    """The tasks of a suite that can be asked; the others are named in the log."""
    tasks, missing = own_tasks(config.suite.tasks, config.suite.languages)
    for task in missing:
        say(f"{STAGE}: no task '{task.family}' in {task.language}: the table has no such cell")
    upstream = [SuiteTask(name, name, language) for language, names in config.suite.upstream.items() for name in names]
    return [task for task in tasks if task.family != BITS_PER_BYTE or _has_documents(config, task.language)] + upstream


def _has_documents(config: EvaluateConfig, language: str) -> bool:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from iberlm.evaluate.fingerprint import validation_file

    path = validation_file(Path(config.validation), language)
    if path and pc.any(pc.greater(pc.binary_length(pq.read_table(path, columns=["text"])["text"]), 0)).as_py():
        return True
    say(f"{STAGE}: no validation documents in {language}: the table has no bits per byte for it")
    return False


def _body(config: EvaluateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    from iberlm.evaluate.harness import evaluate_tasks
    from iberlm.evaluate.results import print_table, table_of, write_items, write_results

    results, items = evaluate_tasks(config, suite_tasks(config))
    write_results(out / RESULTS, results)
    record.output(out / RESULTS, len(results))
    write_items(out / ITEMS, items)
    record.output(out / ITEMS, len(items))
    table = table_of(results)
    write_json(out / TABLE, table)
    record.output(out / TABLE)
    record.metrics = dict(table)
    print_table(table)
