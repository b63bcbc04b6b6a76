"""The stage `evaluate`: a model and a suite -> rows in the result store, and results.parquet, items.parquet, table.json, languages.json.

lm-eval, torch and transformers are imported only where something must be asked: whether the stage is complete, and what the store
has, is known without them.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file, write_json
from iberlm.core.manifest import Manifest
from iberlm.core.needs import hub_name, local_folder
from iberlm.core.progress import say
from iberlm.core.stage import Record, WouldRunError, run_stage
from iberlm.evaluate.config import EvaluateConfig
from iberlm.evaluate.fingerprint import model_files, validation_file, validation_files

STAGE = "evaluate"
VERSION = 2
RESULTS = "results.parquet"
ITEMS = "items.parquet"
TABLE = "table.json"
LANGUAGE_TABLE = "languages.json"
VARIETY = "variety.json"
COMPARISON = "comparison.json"


def run(config: EvaluateConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Evaluate the model; the manifest's metrics are the table.

    Writes `results.parquet` (a row a task, metric and group), `items.parquet` (a row an item), `table.json`
    ({family: {language: {metric, value, low, high, n, chance, note, ...}}}), `languages.json` (the chance-normalised mean
    of each language), `variety.json` (whether the model keeps to the variety in which it is addressed), and with
    `compare_with` also `comparison.json`. A language without validation documents has no bits per byte: its cell is
    missing, never zero. Raises `DataError` when the model cannot be loaded, gives likelihoods that are not numbers, or a
    task's data set is not there, and `ConfigError` with all that the preflight found.
    """
    if config.dry_run and _before_its_inputs(config):
        raise WouldRunError(STAGE, out.absolute())
    config.store = config.store or str(out.absolute().parent / "store")
    done: list[bool] = []

    def body(config: EvaluateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        done.append(True)
        _body(config, inputs, out, record)

    # an evaluation that is refused or fails leaves the table of an earlier one as it is
    manifest = run_stage(STAGE, VERSION, body, config, inputs, out, fingerprint=_fingerprint(config), replaces_late=True)
    if not done:
        from iberlm.evaluate.results import print_table

        print_table(*(json.loads(manifest.path(name).read_text(encoding="utf-8")) for name in (TABLE, LANGUAGE_TABLE)))
    return manifest


def _before_its_inputs(config: EvaluateConfig) -> bool:
    """Whether this is part of a line that has not made the model yet, or what it is compared with."""
    absent = config.in_process and not hub_name(config.model_folder) and not Path(config.model_folder).is_dir()
    return absent or bool(config.compare_with and not (Path(config.compare_with) / ITEMS).is_file())


def _fingerprint(config: EvaluateConfig) -> dict[str, Any]:
    from iberlm.evaluate.asked import asked_tasks, identity, suite_facts
    from iberlm.evaluate.contamination import search_fingerprint
    from iberlm.evaluate.suite import BITS_PER_BYTE

    # before the keys of tasks, which read the template and the documents
    model: Any = model_files(local_folder(config.model_folder, config.cluster)) if config.in_process else identity(config).key
    facts, _ = suite_facts(config)
    languages = [entry.language for entry in facts if entry.family == BITS_PER_BYTE]
    validation = validation_files(Path(config.validation), languages)
    return {
        "model": model,
        "tasks": {task.facts.name: task.key for task in asked_tasks(config, [entry for entry in facts if entry.family != BITS_PER_BYTE])},
        "validation": validation,
        "contamination": search_fingerprint(Path(config.contamination)) if config.contamination else "",
        "compare_with": _items_of(config.compare_with),
        "lm_eval": importlib.metadata.version("lm_eval"),
    }


def _items_of(folder: str) -> str:
    """Checksum of the items of the evaluation that this one is compared with."""
    path = Path(folder) / ITEMS
    if folder and not path.is_file():
        raise ConfigError(f"compare_with: {folder} holds no {ITEMS}; give the folder that another `iberlm evaluate` wrote (its `out`)")
    return sha256_file(path) if folder else ""


def _body(config: EvaluateConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
    from iberlm.evaluate.asked import asked_tasks
    from iberlm.evaluate.engine import evaluate_tasks
    from iberlm.evaluate.results import language_table, print_table, table_of, variety_table, write_items, write_results

    tasks = asked_tasks(config, _can_be_asked(config))
    if not tasks:
        raise DataError("evaluate: no task of the suite can be asked; the log above says why")
    found = evaluate_tasks(config, tasks)
    record.replace_earlier()
    write_results(out / RESULTS, found.results)
    record.output(out / RESULTS, len(found.results))
    write_items(out / ITEMS, found.items)
    record.output(out / ITEMS, len(found.items))
    table, languages = table_of(found.results), language_table(found.results)
    for name, value in ((TABLE, table), (LANGUAGE_TABLE, languages), (VARIETY, variety_table(found.items))):
        write_json(out / name, value)
        record.output(out / name)
    record.metrics = dict(table)
    if config.compare_with:
        _compare(config, out, record)
    print_table(table, languages)
    _tell_twins(config, [task.facts.name for task in tasks])


def _tell_twins(config: EvaluateConfig, tasks: list[str]) -> None:
    """Say which other models of the store have this one's scores on most of these tasks."""
    from iberlm.evaluate.alarms import same_scores
    from iberlm.evaluate.engine import model_name
    from iberlm.evaluate.store.store import Store

    for sentence in same_scores(Store(Path(config.store)).results(tasks=tasks)):
        if model_name(config) in sentence:
            say(f"{STAGE}: {sentence}")


def _compare(config: EvaluateConfig, out: Path, record: Record) -> None:
    import pyarrow.parquet as pq

    from iberlm.evaluate.compare import compare

    before = Path(config.compare_with)
    ours, theirs = ([pq.read_table(folder / name) for name in (ITEMS, RESULTS)] for folder in (out, before))
    found = compare(ours[0], theirs[0], ours[1], theirs[1])
    write_json(out / COMPARISON, json.loads(json.dumps(found.as_json())))
    record.output(out / COMPARISON)


def _can_be_asked(config: EvaluateConfig) -> list[Any]:
    """Facts of the tasks that can be asked; the others are named in the log."""
    from iberlm.evaluate.asked import suite_facts
    from iberlm.evaluate.suite import BITS_PER_BYTE, why_missing

    facts, missing = suite_facts(config)
    for text in why_missing(missing):
        say(f"{STAGE}: {text}")
    return [entry for entry in facts if entry.family != BITS_PER_BYTE or _has_documents(config, entry.language)]


def _has_documents(config: EvaluateConfig, language: str) -> bool:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = validation_file(Path(config.validation), language)
    if path and pc.any(pc.greater(pc.binary_length(pq.read_table(path, columns=["text"])["text"]), 0)).as_py():
        return True
    say(f"{STAGE}: no validation documents in {language}: the table has no bits per byte for it")
    return False
