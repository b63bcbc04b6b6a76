"""One rank of a pretraining run: `python -m iberlm.train.worker FROZEN.json`, or `train_rank` in this process.

The world comes from the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); without it there is one rank.
"""

import contextlib
import dataclasses
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import write_json
from iberlm.core.manifest import Manifest
from iberlm.core.needs import local_folder
from iberlm.core.progress import say
from iberlm.core.ranks import rank_main
from iberlm.core.stage import held_by_first_rank, identity
from iberlm.train import export, generations, loop, metrics
from iberlm.train.batches import Batches
from iberlm.train.canaries import Canaries
from iberlm.train.checkpoint import Checkpoints
from iberlm.train.config import PretrainConfig
from iberlm.train.data import VALIDATION, TrainingData, fingerprint, open_split, open_training, read_store
from iberlm.train.energy import EnergyMeter
from iberlm.train.files import CHECKPOINTS, GENERATIONS, MEMORISATION, METRICS, MODEL, SAMPLES, SUMMARY
from iberlm.train.flops import Shape, flops_per_token, peak_tflops
from iberlm.train.frozen import Inputs, thaw
from iberlm.train.hardware import Choices, choose, keep_freed_memory
from iberlm.train.hooks import HookContext, load_hooks, run_hooks
from iberlm.train.initial import check_vocabulary
from iberlm.train.model import parameter_count
from iberlm.train.strategy import Parallel, parallelize, session
from iberlm.train.trackers import check_tracker, log, start_trackers
from iberlm.train.training_model import build_training_model, prove_masking
from iberlm.train.validation import token_losses as whole_rows
from iberlm.train.validation import validate
from iberlm.train.watchdog import Watchdog

SHAPE_ONLY = Choices("fp32", compile=False, attention="sdpa", cross_entropy="plain", reasons=())
"""For a model on the meta device that never runs."""


@dataclass(frozen=True)
class Text:
    """What a run reads, opened and checked."""

    vocabulary_size: int
    ids: dict[str, int | None]
    """bos, eos and pad."""
    manifest: Manifest
    data: TrainingData
    validation: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase


def train_rank(config: PretrainConfig, inputs: Inputs, out: Path) -> loop.Run:
    """Train as this process's rank, going on from the newest checkpoint in `out`; the first rank leaves the model and `SUMMARY`.

    Returns what it trained with, for `core.ranks.rank_main` to keep until the process ends.
    """
    device = pick_device(config)
    kept = keep_freed_memory(device)
    hooks = load_hooks(config.monitor.hooks)
    check_tracker(config.tracker)
    text = open_text(config, inputs)
    shape = build_training_model(config, text.vocabulary_size, SHAPE_ONLY, len(text.data.groups), **text.ids)
    parameters, model_config = parameter_count(shape), shape.causal.config.to_dict()
    choices = choose(config, device, parameters=parameters, vocabulary_size=text.vocabulary_size)
    module = build_training_model(config, text.vocabulary_size, choices, len(text.data.groups), **text.ids)
    with session(config, choices, str(out)) as accelerator:
        if accelerator.is_main_process:
            _announce(config, text, parameters, choices)
            if kept:
                say("pretrain: memory that a step frees is kept for the next one (mallopt)")
        parallel = parallelize(accelerator, module, config, choices)
        if config.objective.document_masking:
            _prove_masking(parallel, config, text.vocabulary_size)
        marks = fingerprint(config, text.manifest, text.data, _model_marks(config, model_config))
        checkpoints = Checkpoints(parallel, out / CHECKPOINTS, config.checkpoint, marks, model_config, inputs.tokenizer_files)
        state = checkpoints.resume(config.checkpoint.resume_from)
        if parallel.rank == 0:
            metrics.rewind_lines(out, state.step)
        start_trackers(accelerator, config, out, state.step)
        with _opened(config, parallel, text.data, out) as (batches, watchdog):
            run = loop.Run(
                config=config,
                parallel=parallel,
                batches=batches,
                groups=text.data.groups,
                validation=text.validation,
                validation_bytes=text.manifest.metrics["bytes"].get(VALIDATION, {}),
                ends=(_id(text, "bos"), _id(text, "eos")),
                checkpoints=checkpoints,
                watchdog=watchdog,
                energy=EnergyMeter(parallel.device),
                out=out,
                log=lambda values, step: log(accelerator, values, step),
                state=state,
            )
            peak = _count_flops(run, model_config, choices)
            if hooks:
                run.at_validation = lambda run, done, found: _run_hooks(run, hooks, done, found, inputs.tokenizer_files)
            if config.monitor.generate_every_steps:
                run.at_step = lambda run, done: _samples(run, text.tokenizer, done)
            try:
                results = loop.train(run) if state.step < config.total_steps else validate(run, state.step)
            finally:
                checkpoints.close()
                for tracker in accelerator.trackers:
                    tracker.finish()
            watchdog.beat(config.total_steps, "export")
            weights = export.whole_state(parallel)
            if parallel.rank == 0:
                export.save_model(weights, shape.causal, inputs.tokenizer_files, out / MODEL, config.saved_precision)
                generations.write_generations(config, out / MODEL, out / GENERATIONS)
                summary = _summary(run, parameters, results, text.data, choices, peak)
                write_json(out / SUMMARY, summary | _extracted(text.data.canaries, out, device))
            parallel.barrier()
    return run


def pick_device(config: PretrainConfig) -> torch.device:
    """The device that this rank will use; `ResourceError` when a GPU was asked for and there is none."""
    if config.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for the first time
    found = torch.cuda.is_available()
    if config.device == "cuda" and not found:
        raise ResourceError("device=cuda: torch finds no GPU on this machine; check nvidia-smi (or rocm-smi) and the build of torch, or set device=auto")
    return torch.device("cuda" if found else "cpu")


def open_text(config: PretrainConfig, inputs: Inputs) -> Text:
    """Open tokenizer and token stores and check that they belong together; the errors are those of `data` and `initial`."""
    files = inputs.tokenizer_files
    if not files.is_dir():
        raise DataError(f"{files}: missing; run train-tokenizer first, or give tokenizer_folder=FOLDER of a finished one")
    tokenizer: Any = AutoTokenizer.from_pretrained(str(files))
    for name in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            raise DataError(f"{files}: has no {name}; the token store's documents begin with BOS and end with EOS")
    if config.initial_model:
        check_vocabulary(local_folder(config.initial_model, config.cluster), files)
    vocabulary = len(tokenizer)
    manifest = read_store(inputs.tokens, vocabulary)
    replay = read_store(inputs.replay, vocabulary) if inputs.replay else None
    data = open_training(config, manifest, vocabulary, bos=tokenizer.bos_token_id, replay=replay, special_ids=tokenizer.all_special_ids)
    validation = open_split(manifest, VALIDATION, vocabulary) if config.validation_tokens >= 0 else {}
    if not validation and config.validation_tokens >= 0:
        raise DataError(
            f"{inputs.tokens}: has no validation text, so nobody could tell what the model learns; curate with a larger select.validation_share, "
            "or set validation_tokens=-1 to train without"
        )
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return Text(vocabulary, ids, manifest, data, validation, tokenizer)


def _prove_masking(parallel: Parallel, config: PretrainConfig, vocabulary_size: int) -> None:
    def token_losses(inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return whole_rows(parallel, inputs, targets, positions)

    size = {"rows": config.micro_batch_size, "sequence_length": config.sequence_length}
    prove_masking(token_losses, vocabulary_size=vocabulary_size, device=parallel.device, part=parallel.slice_sequence, **size)


def _id(text: Text, name: str) -> int:
    value = text.ids[name]
    assert value is not None
    return value


def _model_marks(config: PretrainConfig, model_config: dict[str, Any]) -> dict[str, Any]:
    """What tells one model from another, for the checkpoint's fingerprint."""
    if config.initial_model:
        return {"initial_model": {key: value for key, value in sorted(model_config.items()) if isinstance(value, int | float | str)}}
    return identity(config.model) | {"vocabulary_size": model_config["vocab_size"]}


@contextlib.contextmanager
def _opened(config: PretrainConfig, parallel: Parallel, data: TrainingData, out: Path) -> Iterator[tuple[Batches, Watchdog]]:
    batches = Batches(
        data,
        rank=parallel.data_rank,
        world=parallel.data_world,
        accumulation=parallel.accumulation,
        micro_batch_size=config.micro_batch_size,
        global_batch_samples=config.global_batch_samples,
        pin=parallel.device.type == "cuda",
    )
    watchdog = Watchdog(out, parallel.rank, parallel.world, config.faults.hang_seconds)
    watchdog.start()
    try:
        yield batches, watchdog
    finally:
        watchdog.stop()
        batches.close()


def _announce(config: PretrainConfig, text: Text, parameters: int, choices: Choices) -> None:
    name = Path(config.initial_model).name if config.initial_model else config.model.name or "model"
    if config.initial_model:
        say(f"pretrain: going on from {config.initial_model}; the settings of `model` are not used")
    elif text.vocabulary_size != config.model.vocabulary_size:
        say(f"pretrain: the tokenizer has {text.vocabulary_size} tokens, not the recipe's nominal {config.model.vocabulary_size}: the tokenizer decides")
    say(f"pretrain: {name}, {parameters:,} parameters; {config.total_steps} steps of {config.global_batch_tokens} tokens")
    if text.data.canaries is not None:
        say(f"pretrain: canaries stand in the place of {text.data.canaries.planted_tokens:,} training tokens")
    for line in (*choices.reasons, *text.data.plan_lines()):
        say(f"pretrain: {line}")


def _count_flops(run: loop.Run, model_config: dict[str, Any], choices: Choices) -> dict[str, Any] | None:
    """Give the run what MFU needs; return the peak of one device, None where it or the model's size is not known."""
    peak = _peak(run.config, run.parallel, choices)
    try:
        run.flops_per_token = flops_per_token(Shape.of_huggingface(model_config), run.config.sequence_length)
    except ConfigError as error:  # only the size of the figure is at stake, not the run
        if run.parallel.rank == 0:
            say(f"pretrain: no MFU for this model: {error}")
        return None
    run.peak_flops = peak["tflops"] * 1e12 * run.parallel.world if peak else None
    return peak


def _peak(config: PretrainConfig, parallel: Parallel, choices: Choices) -> dict[str, Any] | None:
    """Peak of one device in TFLOP/s and where the number is from; None when nobody knows it."""
    if config.monitor.peak_tflops:
        return {"tflops": config.monitor.peak_tflops, "source": "monitor.peak_tflops"}
    name = torch.cuda.get_device_name(parallel.device) if parallel.device.type == "cuda" else "cpu"
    found = peak_tflops(name, choices.precision)
    return {"tflops": found[0], "source": found[1]} if found else None


def _run_hooks(run: loop.Run, hooks: list[Any], done: int, results: dict[str, dict[str, float]], tokenizer_files: Path) -> None:
    with generations.hook_model(run.parallel) as model:
        context = HookContext(done, model, tokenizer_files, run.out, results, run.parallel.rank, run.parallel.device)
        run.log({f"hook/{name}": value for name, value in run_hooks(hooks, context).items()}, done)


def _samples(run: loop.Run, tokenizer: PreTrainedTokenizerBase, done: int) -> None:
    if done % run.config.monitor.generate_every_steps:
        return
    run.watchdog.beat(done, "generation")
    made = generations.generate_live(run.parallel, tokenizer, run.config)
    if run.parallel.rank == 0:
        for entry in made:
            metrics.append_line(run.out / SAMPLES, {"step": done} | entry)
    run.restart_clocks()


def _extracted(canaries: Canaries | None, out: Path, device: torch.device) -> dict[str, Any]:
    """What the finished model knows of planted canaries, for the summary; nothing where none were."""
    if canaries is None:
        return {}
    with generations.no_bars():
        model = AutoModelForCausalLM.from_pretrained(str(out / MODEL)).to(device)
    found = canaries.extract(model, device)
    write_json(out / MEMORISATION, found)
    return {"memorisation": found}


def _summary(
    run: loop.Run, parameters: int, validation: dict[str, dict[str, float]], data: TrainingData, choices: Choices, peak: dict[str, Any] | None
) -> dict[str, Any]:
    lines, state = metrics.read_lines(run.out / METRICS), run.state
    speed = statistics.median(line["tokens_per_second"] for line in lines)
    mfu = None
    if run.peak_flops and peak:
        formula = f"{run.flops_per_token:,.0f} FLOP a token x tokens a second / ({run.parallel.world} x {peak['tflops']:g} TFLOP/s)"
        mfu = {"value": round(run.flops_per_token * speed / run.peak_flops, 4), "formula": formula, "peak_tflops": peak["tflops"], "source": peak["source"]}
    return {
        "parameters": parameters,
        "steps": run.config.total_steps,
        "tokens": run.config.total_steps * run.config.global_batch_tokens,
        "final_loss": lines[-1]["loss"],
        "losses": metrics.recent_losses(lines),
        "validation": validation,
        "tokens_per_second": speed,
        "mfu": mfu,
        "memory_bytes": max(line["memory_bytes"] for line in lines),
        "data_wait": round(statistics.fmean(line["data_wait"] for line in lines), 5),
        "energy": {"watt_hours": round(state.watt_hours, 4), "method": run.energy.method},
        "mixture": data.shares,
        "mixture_plan": data.plan_lines(),
        "strategy": dataclasses.asdict(run.parallel.verified),
        "choices": list(choices.reasons),
        "skipped_steps": state.skipped_steps,
        "rollbacks": state.rollbacks,
        "gaps": state.gaps,
    }


def main(arguments: list[str]) -> loop.Run:
    """Train one rank from a frozen file."""
    config, inputs, out = thaw(Path(arguments[0]))
    with held_by_first_rank("pretrain", out):
        return train_rank(config, inputs, out)


if __name__ == "__main__":
    rank_main(main)
