"""Settings of `iberlm finetune`. Imports nothing heavy: the command line reads this before it knows what will run."""

from dataclasses import dataclass, field

from iberlm.core.config import StageConfig, at_least, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language, from_file_safe
from iberlm.core.stage import place

METHODS = ("full", "lora")
DATA_KINDS = ("sample", "path")
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("fp32", "bf16")
SAVED_PRECISIONS = ("base", *PRECISIONS)
ALL_LINEAR = "all-linear"
KNOWN_LANGUAGES = LANGUAGES + NEIGHBOURS


@dataclass(kw_only=True)
class DataConfig:
    """Conversations: rows with `messages` ([{role, content}, ...]) and, if the file tells, `language` and `id`."""

    kind: str = "sample"
    """sample: the rows that ship with IberLM; path: the user's own files."""
    paths: list[str] = place(default_factory=list)
    """For kind=path: files or glob patterns (.jsonl, .jsonl.gz, .jsonl.zst, .parquet). Their content enters the key."""
    card: str = ""
    """Name of the data card; it must permit 'sft'."""
    language: str = ""
    """Language of rows that do not tell theirs; empty drops such rows, counted."""
    languages: list[str] = field(default_factory=list)
    """Languages to keep; empty keeps all that IberLM knows."""
    validation_share: float = 0.1
    """Share of each language held out by a hash of the first question; above 0 it is at least one row a language."""


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685): W + (alpha / r) B A."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Names of linear layers, or 'all-linear': every one but the output head."""
    train_chat_tokens: bool = True
    """Also train the embedding and output rows of the chat's control tokens: pretraining has never seen them."""


@dataclass(kw_only=True)
class MethodConfig:
    """What is trained: all weights, or low-rank adapters beside them."""

    kind: str = "full"
    learning_rate: float = 2e-5
    """Peak of the schedule."""
    weight_decay: float = 0.0
    lora: LoraConfig = field(default_factory=LoraConfig)
    merge_lora: bool = True
    """For kind=lora: write the adapters merged into a plain `model/` too; otherwise only `adapter/` is written."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up, then `kind` down to 0."""

    kind: str = "cosine"
    warmup_fraction: float = 0.03
    """Share of all steps."""


@dataclass(kw_only=True)
class FinetuneConfig(StageConfig):
    """Settings of the `finetune` stage."""

    base: str = place("")
    """Folder of the pretrain (or an earlier finetune) stage; empty means `run_dir/pretrain`."""
    model_folder: str = place("")
    """A plain Hugging Face model folder; given, it takes the place of `base`. Its files enter the key by checksum."""
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: int = 3
    max_steps: int = 0
    """Stop after this many steps; 0 trains all epochs."""
    global_batch_examples: int = 16
    """Conversations a step, over all ranks and gradient accumulation."""
    micro_batch_size: int = place(4)
    """Conversations of one rank in one forward pass."""
    sequence_length: int = 0
    """Longest conversation in tokens, longer ones are cut at the end; 0 means what the model allows."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    seed: int = 0
    precision: str = "fp32"
    """fp32, or bf16: autocast over float32 weights."""
    saved_precision: str = "base"
    """Type of the weights in `model/`: base keeps that of the base model."""
    gradient_checkpointing: bool = place(False)
    """Recompute activations: less memory, about a fifth slower, the same result."""
    checkpoint_every_steps: int = place(0)
    """An interrupted run goes on from its newest checkpoint; 0 saves one an epoch."""
    max_new_tokens: int = 128
    """Longest sample answer, in tokens."""
    temperature: float = 0.0
    """Of the sample answers: 0 takes the likeliest token each time, above 0 draws (from `seed`). A small model repeats itself at 0."""

    def __post_init__(self) -> None:
        self._check_data()
        self._check_method()
        one_of("schedule.kind", self.schedule.kind, SCHEDULES)
        if not 0 <= self.schedule.warmup_fraction < 1:
            raise ConfigError(f"schedule.warmup_fraction: {self.schedule.warmup_fraction:g} is out of range; it must be from 0 to below 1")
        for key, minimum in {"epochs": 1, "max_steps": 0, "global_batch_examples": 1, "micro_batch_size": 1, "sequence_length": 0, "seed": 0}.items():
            at_least(key, getattr(self, key), minimum)
        for key, minimum in {"clip_norm": 0, "checkpoint_every_steps": 0, "max_new_tokens": 1, "temperature": 0}.items():
            at_least(key, getattr(self, key), minimum)
        one_of("precision", self.precision, PRECISIONS)
        one_of("saved_precision", self.saved_precision, SAVED_PRECISIONS)
        if not self.cluster.is_slurm:  # there it is checked before the job is submitted: a pipeline may not even have this stage
            accumulation_steps(self, self.cluster.ranks)

    def _check_data(self) -> None:
        data = self.data
        one_of("data.kind", data.kind, DATA_KINDS)
        given("data.card", data.card)
        if data.kind == "path":
            given("data.paths", data.paths)
        elif data.paths:
            raise ConfigError(f"data.paths: {data.paths} with data.kind=sample, which reads none; set data.kind=path")
        if data.language:
            data.language = _tag("data.language", data.language)
        data.languages = [_tag("data.languages", name) for name in data.languages]
        if not 0 <= data.validation_share < 1:
            raise ConfigError(f"data.validation_share: {data.validation_share:g} is out of range; it must be from 0 to below 1")

    def _check_method(self) -> None:
        method = self.method
        one_of("method.kind", method.kind, METHODS)
        if not method.learning_rate > 0:
            raise ConfigError(f"method.learning_rate: {method.learning_rate:g}; it must be above 0")
        at_least("method.weight_decay", method.weight_decay, 0)
        at_least("method.lora.r", method.lora.r, 1)
        if not method.lora.alpha > 0:
            raise ConfigError(f"method.lora.alpha: {method.lora.alpha:g}; it must be above 0")
        if not 0 <= method.lora.dropout < 1:
            raise ConfigError(f"method.lora.dropout: {method.lora.dropout:g} is out of range; it must be from 0 to below 1")
        given("method.lora.target_modules", method.lora.target_modules)
        if ALL_LINEAR in method.lora.target_modules and len(method.lora.target_modules) > 1:
            raise ConfigError(f"method.lora.target_modules: '{ALL_LINEAR}' stands alone; the others are {method.lora.target_modules}")


def _tag(key: str, spelling: str) -> str:
    return check_language(from_file_safe(spelling), key, among=KNOWN_LANGUAGES)


def accumulation_steps(config: FinetuneConfig, world: int) -> int:
    """Micro-batches of one rank in one step; `ConfigError` with the nearest valid values when the batch does not divide."""
    unit = config.micro_batch_size * world
    if config.global_batch_examples % unit:
        below, above = max(config.global_batch_examples // unit, 1) * unit, -(-config.global_batch_examples // unit) * unit
        nearest = " and ".join(str(value) for value in dict.fromkeys((below, above)))
        raise ConfigError(
            f"global_batch_examples: {config.global_batch_examples} is not a multiple of {unit} = micro_batch_size {config.micro_batch_size} x {world} ranks; "
            f"nearest: {nearest}"
        )
    return config.global_batch_examples // unit
