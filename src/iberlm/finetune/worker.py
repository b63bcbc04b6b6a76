"""The training itself: one rank of TRL's SFTTrainer, from the files of `prepare` to `model/`.

Runs inside the stage for one rank and as `python -m iberlm.finetune.worker PLAN` for more. The order of the examples,
the checkpoints and the resumption are those of transformers' Trainer; what it prints and reports is kept off.
"""

import json
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# before huggingface_hub is imported, which reads them once: nothing here may ask a network for anything
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# before torch loads OpenMP: on cores that others use too, threads that spin while they wait make small models several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import datasets
import torch
import transformers
from datasets import Dataset
from omegaconf import OmegaConf
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig, PrinterCallback
from trl import SFTConfig, SFTTrainer

from iberlm.core.errors import ConfigError, DataError, ResourceError
from iberlm.core.files import write_json
from iberlm.core.progress import say
from iberlm.core.ranks import rank_main
from iberlm.core.stage import held_by_first_rank
from iberlm.core.stopping import STOPPED, Interrupted, StopFlag, stop_signals
from iberlm.finetune import chat, measure, watch
from iberlm.finetune.config import ALL_LINEAR, FinetuneConfig, accumulation_steps
from iberlm.finetune.files import RESULT
from iberlm.finetune.prepare import TOKENIZER, TRAIN, VALIDATION

SENTENCEPIECE = "tokenizer.model"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CHECKED_EXAMPLES = 16


@dataclass(frozen=True)
class Plan:
    """What a rank is told: settings, folders, ids of the chat's tokens."""

    config: FinetuneConfig
    base: Path
    out: Path
    work: Path
    chat: chat.Chat
    sequence_length: int


class Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, without the model card that it writes into every checkpoint."""

    def create_model_card(self, *arguments: Any, **settings: Any) -> None:
        """Write nothing: cards are made when a model is exported."""


def main(arguments: list[str]) -> None:
    """Train as one rank of the plan in `arguments[0]`."""
    plan = _read_plan(Path(arguments[0]))
    _quieten()
    (plan.out / STOPPED).unlink(missing_ok=True)
    try:
        with held_by_first_rank("finetune", plan.out), stop_signals() as stop:
            _train(plan, stop)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"finetune: the accelerator has too little memory ({str(error).splitlines()[0]}); lower micro_batch_size ({plan.config.micro_batch_size}), "
            "set gradient_checkpointing=true, or use method=lora"
        ) from error


def _read_plan(path: Path) -> Plan:
    value = json.loads(path.read_text(encoding="utf-8"))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FinetuneConfig), value["config"]))
    assert isinstance(config, FinetuneConfig)
    return Plan(config, Path(value["base"]), Path(value["out"]), path.parent, chat.Chat(**value["chat"]), value["sequence_length"])


def _quieten() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    if not torch.cuda.is_available():
        # accelerate imports deepspeed where it is installed, which otherwise warns that it found no accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _train(plan: Plan, stop: StopFlag) -> None:
    config, first = plan.config, os.environ.get("RANK", "0") == "0"
    tokenizer = chat.load_tokenizer(plan.work / TOKENIZER)
    model, base_dtype = load_model(plan.base, tokenizer, plan.chat.added, config.seed)
    held_out = measure.HeldOut.read(Dataset.from_file(str(plan.work / VALIDATION)), tokenizer)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    model.to(device)
    meter = measure.Meter(config, tokenizer, plan.chat.stop, plan.sequence_length, held_out)
    before = meter.measure(model) if first else None

    trainer = _trainer(plan, model, tokenizer)
    check_labels(trainer, tokenizer, plan.chat.stop[-1])
    trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    if first:
        total = sum(parameter.numel() for parameter in trainer.model.parameters())
        say(f"finetune: {config.method.kind}, {trainable:,} of {total:,} parameters train; labels cover exactly the answers and their end (checked)")
    with watch.Watch(plan.out, trainer.args, stop) as watcher:
        trainer.add_callback(watcher)
        started = time.monotonic()
        _run(trainer, watch.newest_checkpoint(Path(trainer.args.output_dir), first))
        seconds = time.monotonic() - started
    if trainer.state.global_step < trainer.state.max_steps:
        if stop.name:  # under srun every rank is told
            write_json(plan.out / STOPPED, {"reason": stop.name, "step": trainer.state.global_step, "time": time.time()})
        raise Interrupted(
            f"finetune: stopped at step {trainer.state.global_step} of {trainer.state.max_steps}; its state is saved, and the same command goes on from there"
        )
    if not first:
        return
    assert before is not None
    finished = trainer.accelerator.unwrap_model(trainer.model)
    finished = save(plan, finished, tokenizer, base_dtype)
    after = meter.measure(finished)
    write_json(plan.out / "samples.json", meter.samples(before, after))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    result = {
        "method": config.method.kind,
        "trainable_parameters": trainable,
        "steps": trainer.state.global_step,
        "train_loss": {"first": losses[0], "last": losses[-1]},
        "validation_loss": {language: {"before": before.loss[language], "after": after.loss[language]} for language in before.loss},
        "seconds": round(seconds, 3),
    }
    write_json(plan.work / RESULT, result)


def load_model(base: Path, tokenizer: Any, added: list[str], seed: int) -> tuple[Any, torch.dtype]:
    """The base model in float32 with room for all ids of the tokenizer, and the type that its files have.

    Rows for added tokens are the mean of the others plus 1% noise of their spread, from a generator seeded with `seed`.
    Raises `DataError` when the folder holds no model for text.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="auto")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{base}: no language model can be loaded from it ({str(error).splitlines()[0]})") from error
    dtype = model.dtype
    model.float()
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if added:
        _fill_rows(model, tokenizer.convert_tokens_to_ids(added), min(rows, len(tokenizer) - len(added)), seed)
    return model, dtype


@torch.no_grad()
def _fill_rows(model: Any, ids: list[int], known: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        matrices.append(model.get_output_embeddings().weight)
    for matrix in matrices:
        mean, spread = matrix[:known].mean(0), matrix[:known].std(0)
        # the noise keeps two new tokens apart from the first step on
        matrix[ids] = mean + 0.01 * spread * torch.randn(len(ids), matrix.shape[1], generator=generator)


def _trainer(plan: Plan, model: Any, tokenizer: Any) -> Trainer:
    config = plan.config
    train = Dataset.from_file(str(plan.work / TRAIN))
    arguments = _arguments(config, plan.out, len(train), plan.sequence_length)
    if "RANK" not in os.environ:
        # one rank uses one accelerator; nn.DataParallel would split its batch over all that it sees
        arguments._n_gpu = min(arguments.n_gpu, 1)
    try:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            processing_class=tokenizer,
            peft_config=_lora(config, model, plan.chat.control) if config.method.kind == "lora" else None,
        )
    except ValueError as error:
        if config.method.kind == "lora" and "target modules" in str(error).lower():
            names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)})
            raise ConfigError(
                f"method.lora.target_modules: {config.method.lora.target_modules}: not in this model; choose among {ALL_LINEAR}, {', '.join(names)}"
            ) from error
        raise
    trainer.remove_callback(PrinterCallback)
    head = trainer.model.get_output_embeddings()
    if not hasattr(head, "bias"):
        # TRL computes the loss from the head's weight and bias; peft's wrapper of trainable tokens shows only the weight.
        # Past nn.Module's own setting, so that a bias is not registered (and saved) twice.
        head.__dict__["bias"] = head.original_module.bias
    return trainer


def _arguments(config: FinetuneConfig, out: Path, examples: int, sequence_length: int) -> Any:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    steps_an_epoch = -(-examples // config.global_batch_examples)
    accelerated = torch.cuda.is_available()
    if config.precision == "bf16" and accelerated and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision: this accelerator has no bf16; use precision=fp32")
    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        assistant_only_loss=True,
        max_length=sequence_length,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(config, world),
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.method.learning_rate,
        weight_decay=config.method.weight_decay,
        lr_scheduler_type=config.schedule.kind if config.schedule.kind != "constant" else "constant_with_warmup",
        warmup_steps=config.schedule.warmup_fraction,
        max_grad_norm=config.clip_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.precision == "bf16",
        use_cpu=not accelerated,
        ddp_find_unused_parameters=False,  # every weight that trains takes part in every step
        dataloader_pin_memory=accelerated,
        # every step, so that a resumed run logs what an uninterrupted one does
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps or steps_an_epoch,
        save_total_limit=2,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


def _lora(config: FinetuneConfig, model: Any, control: list[int]) -> LoraConfig:
    lora = config.method.lora
    tokens = None
    if lora.train_chat_tokens:
        tokens = {_name_of(model, model.get_input_embeddings()): control}
        if not model.config.tie_word_embeddings:  # tied ones follow by themselves
            tokens[_name_of(model, model.get_output_embeddings())] = control
    modules = ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else lora.target_modules
    return LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules, trainable_token_indices=tokens)


def _name_of(model: Any, wanted: torch.nn.Module) -> str:
    path: str = next(name for name, module in model.named_modules() if module is wanted)
    return path.rpartition(".")[2]


def check_labels(trainer: Any, tokenizer: Any, end: int) -> None:
    """See that the labels of the first examples, as collated, are the answers with their end and nothing else.

    Raises `ConfigError` with both texts where a chat template or tokenizer marks other tokens.
    """
    count = min(_CHECKED_EXAMPLES, len(trainer.train_dataset))
    rows = [trainer.train_dataset[index] for index in range(count)]
    batch = trainer.data_collator([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        trained = labels != -100
        if not torch.equal(labels[trained], ids[trained]):
            raise ConfigError(f"chat template: a label of row {row['id']} is not the token at its place")
        actual = chat.comparable(tokenizer.decode(labels[trained], skip_special_tokens=False))
        expected = chat.expected_answer_text(tokenizer, row["messages"], end)
        # cut at the longest length, the last character may be half there
        whole = len(row["input_ids"]) < (trainer.args.max_length or len(row["input_ids"]) + 1)
        if actual != expected if whole else not expected.startswith(actual.rstrip("\ufffd")):
            raise ConfigError(
                f"chat template: the tokens to learn of row {row['id']} are not its answers: they decode to '{actual[:200]}', and the answers are "
                f"'{expected[:200]}' (spaces left out); mend the template of the base model, or remove it so that ours is used"
            )


def _run(trainer: Any, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        say(f"finetune: going on from {checkpoint.name}")
    with warnings.catch_warnings():
        # a checkpoint of adapters on a model with new tokens holds its embeddings too: it must, and peft warns of it
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)


def save(plan: Plan, model: Any, tokenizer: Any, base_dtype: torch.dtype) -> Any:
    """Write `adapter/` (for LoRA) and `model/`; return the model, merged if it has adapters."""
    config, out = plan.config, plan.out
    if config.method.kind == "lora":
        _save_adapter(plan, model, out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
        model = model.merge_and_unload()
        if not config.method.merge_lora:
            return model
    model.config.use_cache = True
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=plan.chat.stop, pad_token_id=model.config.pad_token_id)
    model.to(base_dtype if config.saved_precision == "base" else DTYPES[config.saved_precision])
    shutil.rmtree(out / "model", ignore_errors=True)
    model.save_pretrained(out / "model", safe_serialization=True)
    tokenizer.save_pretrained(out / "model")
    if not plan.chat.added and (plan.base / SENTENCEPIECE).is_file():  # still the same vocabulary, and converters of other programs read this file
        shutil.copyfile(plan.base / SENTENCEPIECE, out / "model" / SENTENCEPIECE)
    return model


def _save_adapter(plan: Plan, model: Any, folder: Path) -> None:
    # rows of chat tokens are whole in the adapter where they were trained; added and untrained ones are not
    model.save_pretrained(folder, save_embedding_layers=bool(plan.chat.added) and not plan.config.method.lora.train_chat_tokens)
    # its model card is a form with nothing filled in
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()  # peft writes a set: another order in each process
    write_json(folder / "adapter_config.json", settings)


if __name__ == "__main__":
    rank_main(main)
