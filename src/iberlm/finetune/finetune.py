"""The `finetune` stage: conversations and a model folder -> a model folder that answers.

This module stays light, because `iberlm run` imports it to see whether the stage is complete. What needs torch is in
`worker`, which runs here for one rank and in processes of its own for more.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from iberlm.cards import require
from iberlm.core.errors import ConfigError, DataError
from iberlm.core.files import sha256_file, write_json
from iberlm.core.manifest import Counts, Manifest
from iberlm.core.needs import local_folder
from iberlm.core.progress import say
from iberlm.core.ranks import ranks_have_run, run_ranks, seconds_elsewhere
from iberlm.core.stage import Record, run_stage
from iberlm.finetune.config import FinetuneConfig
from iberlm.finetune.data import data_files, fingerprint
from iberlm.finetune.files import CHECKPOINTS, PLAN, PREPARED, RESULT, WORK

STAGE, VERSION = "finetune", 1


def run(config: FinetuneConfig, inputs: list[Manifest], out: Path) -> Manifest:
    """Fine-tune the folder `config.model_folder` if it is given, else the `model/` of the one input (a pretrain or finetune stage).

    Writes `model/` (a Hugging Face folder with its chat template), `adapter/` for LoRA, `metrics.jsonl` (a line a step)
    and `samples.json`. An interrupted run goes on from its newest checkpoint and ends in the same bytes. Raises
    `CardError` when the card does not permit 'sft', `DataError` when no row is left, `ConfigError` for wrong settings.
    """
    require(config.data.card, "sft")
    files = data_files(config.data)
    if config.model_folder:
        inputs = []
    base = base_folder(config, inputs)
    outside = {"data": fingerprint(files), "model": [] if inputs else _model_fingerprint(base)}

    def body(config: FinetuneConfig, inputs: list[Manifest], out: Path, record: Record) -> None:
        _finetune(config, base, files, out, record)

    made = run_stage(STAGE, VERSION, body, config, inputs, out, fingerprint=outside, resumable=True)
    for name in (WORK, CHECKPOINTS):  # not before the manifest is there: a kill in between would have it train again
        shutil.rmtree(out / name, ignore_errors=True)
    return made


def base_folder(config: FinetuneConfig, inputs: list[Manifest]) -> Path:
    """The Hugging Face folder to begin from."""
    if inputs:
        if not inputs[0].paths("model/"):
            raise DataError(f"{inputs[0].folder}: its '{inputs[0].stage}' stage wrote no model/; choose a folder of pretrain or finetune")
        return inputs[0].folder / "model"
    if not config.model_folder:
        raise ConfigError(
            f"base: no finished pretrain or finetune stage in '{config.base}'; run it first, or give another `base`, or `model_folder` (a Hugging Face folder)"
        )
    folder = local_folder(config.model_folder, config.cluster).absolute()
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model_folder: '{config.model_folder}' is not a Hugging Face model folder: it has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"model_folder: '{config.model_folder}' has no *.safetensors; other formats of weights can carry code and are not read")
    return folder


def _model_fingerprint(folder: Path) -> list[list[str]]:
    wanted = (".safetensors", ".json", ".jinja", ".model")
    return [[path.name, sha256_file(path)] for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(wanted)]


def _finetune(config: FinetuneConfig, base: Path, files: list[Path], out: Path, record: Record) -> None:
    card = require(config.data.card, "sft")
    record.cards[config.data.card] = card.licence.spdx
    work = out / WORK
    if not ranks_have_run():
        _prepare(config, base, files, out, record.counts)
    before: dict[str, Any] = json.loads((work / PREPARED).read_text(encoding="utf-8"))
    record.counts = Counts(**before["counts"])
    if config.cluster.ranks > 1:
        run_ranks("iberlm.finetune.worker", [str(work / PLAN)], config.cluster.ranks)
    else:
        from iberlm.finetune import worker

        worker.main([str(work / PLAN)])
    record.seconds_elsewhere = seconds_elsewhere()
    result: dict[str, Any] = json.loads((work / RESULT).read_text(encoding="utf-8"))
    record.metrics |= before["metrics"] | result
    for folder in ("model", "adapter"):
        record.output_tree(out / folder)
    for name in ("metrics.jsonl", "samples.json"):
        record.output(out / name)
    say(f"{STAGE}: {record.metrics['examples']} conversations, training loss {result['train_loss']['first']:.3f} -> {result['train_loss']['last']:.3f}")


def _prepare(config: FinetuneConfig, base: Path, files: list[Path], out: Path, counts: Counts) -> None:
    """Leave in `.work/` what the ranks read, and for this stage what was counted."""
    from iberlm.finetune.prepare import prepare

    for name in ("model", "adapter", WORK):  # unfinished ones of an interrupted run; its checkpoints stay
        shutil.rmtree(out / name, ignore_errors=True)
    work = out / WORK
    work.mkdir()
    prepared = prepare(config, base, files, work, counts)
    plan = {"base": str(base), "out": str(out), "sequence_length": prepared.metrics["sequence_length"], "chat": dataclasses.asdict(prepared.chat)}
    write_json(work / PLAN, plan | {"config": dataclasses.asdict(config)})
    write_json(work / PREPARED, {"counts": dataclasses.asdict(counts), "metrics": prepared.metrics})
