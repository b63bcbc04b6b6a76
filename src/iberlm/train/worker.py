"""One rank of a pretraining run: `python -m iberlm.train.worker FROZEN.json`, or `train_rank` in this process.

The world comes from the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); without it there is one rank.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from transformers import AutoTokenizer

from iberlm.core.errors import DataError
from iberlm.core.files import write_json
from iberlm.core.progress import say
from iberlm.core.ranks import rank_main
from iberlm.core.stage import identity
from iberlm.train import checkpoint, export, loop
from iberlm.train.config import PretrainConfig
from iberlm.train.data import VALIDATION, fingerprint, open_split, open_training, read_store
from iberlm.train.model import build, parameter_count
from iberlm.train.strategy import parallelize, session

SUMMARY = "summary.json"
"""What the first rank leaves for the stage: the metrics of the manifest."""
FROZEN = "frozen.json"


def train_rank(config: PretrainConfig, tokens_folder: Path, tokenizer_folder: Path, out: Path) -> loop.Run:
    """Train as this process's rank, going on from the newest checkpoint in `out`; the first rank leaves the model and `SUMMARY`.

    Returns what it trained with, for `core.ranks.rank_main` to keep until the process ends.
    """
    tokenizer_files = tokenizer_folder / "tokenizer"
    if not tokenizer_files.is_dir():
        raise DataError(f"{tokenizer_files}: missing; run train-tokenizer first, or give tokenizer=FOLDER of a finished one")
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tokenizer_files))
    vocabulary = len(tokenizer)
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            raise DataError(f"{tokenizer_files}: has no {name}; the token store's documents begin with BOS and end with EOS")
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    manifest = read_store(tokens_folder, vocabulary)
    data, validation = open_training(config, manifest, vocabulary), open_split(manifest, VALIDATION, vocabulary)
    model = build(config.model, vocabulary, **ids)
    with session(config, str(out)) as accelerator:
        if accelerator.is_main_process:
            _announce(config, vocabulary, parameter_count(model), data.shares)
        parallel = parallelize(accelerator, model, config)
        marks = fingerprint(config, manifest, data, identity(config.model) | {"vocabulary_size": vocabulary})
        run = loop.Run(config, parallel, data, validation, manifest.metrics["bytes"][VALIDATION], (ids["bos"], ids["eos"]), marks, out)
        begin = checkpoint.resume(parallel, out / loop.CHECKPOINTS, marks, config.checkpoint.resume_from)
        if parallel.rank == 0:
            for name in (loop.METRICS, loop.VALIDATION):
                loop.rewind_lines(out / name, begin)
        if config.tracker != "none":
            settings = {"tensorboard": {"purge_step": begin}} if config.tracker == "tensorboard" else {}
            accelerator.init_trackers("tensorboard" if config.tracker == "tensorboard" else "iberlm", init_kwargs=settings)
        try:
            loop.train(run, begin)
            results = loop.validate(run, config.total_steps)
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()
        state = export.whole_state(parallel)
        if parallel.rank == 0:
            export.save_model(state, build(config.model, vocabulary, **ids), tokenizer_files, out / export.MODEL, config.saved_precision)
            export.write_generations(config, out / export.MODEL, out / export.GENERATIONS)
            write_json(out / SUMMARY, _summary(run, parameter_count(parallel.module), results))
        parallel.barrier()
    return run


def _announce(config: PretrainConfig, vocabulary: int, parameters: int, shares: dict[str, float]) -> None:
    name = config.model.name or "model"
    if vocabulary != config.model.vocabulary_size:
        say(f"pretrain: the tokenizer has {vocabulary} tokens, not the recipe's nominal {config.model.vocabulary_size}: the tokenizer decides")
    say(f"pretrain: {name}, {parameters:,} parameters; {config.total_steps} steps of {config.global_batch_tokens} tokens")
    say("pretrain: mixture " + ", ".join(f"{tag} {share:.4f}" for tag, share in shares.items()))


def _summary(run: loop.Run, parameters: int, validation: dict[str, dict[str, float]]) -> dict[str, Any]:
    lines = loop.read_lines(run.out / loop.METRICS)
    return {
        "parameters": parameters,
        "steps": run.config.total_steps,
        "tokens": run.config.total_steps * run.config.global_batch_tokens,
        "final_loss": lines[-1]["loss"],
        "validation": validation,
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines),
        "mixture": run.data.shares,
        "strategy": dataclasses.asdict(run.parallel.verified),
    }


def freeze(config: PretrainConfig, tokens_folder: Path, tokenizer_folder: Path, out: Path) -> Path:
    """Write what the ranks need as one JSON file; they run from it, never from recipes edited since."""
    path = out / FROZEN
    folders = {"tokens_folder": str(tokens_folder), "tokenizer_folder": str(tokenizer_folder), "out": str(out)}
    write_json(path, {"config": dataclasses.asdict(config), **folders})
    return path


def main(arguments: list[str]) -> loop.Run:
    """Train one rank from a frozen file."""
    value = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PretrainConfig), value["config"]))
    return train_rank(config, Path(value["tokens_folder"]), Path(value["tokenizer_folder"]), Path(value["out"]))


if __name__ == "__main__":
    rank_main(main)
