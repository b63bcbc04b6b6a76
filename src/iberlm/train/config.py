"""Settings of `iberlm pretrain`. Imports nothing heavy: the command line reads this before it knows what will run."""

from dataclasses import dataclass, field

from iberlm.core.config import StageConfig, at_least, between, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language, from_file_safe
from iberlm.core.stage import place

STRATEGIES = ("single", "ddp", "fsdp2", "zero2")
MIXTURES = ("weights", "temperature", "uniform")
SCHEDULES = ("wsd", "cosine", "linear")
PRECISIONS = ("fp32", "bf16")
CHECKSUMS, SIZES = "checksums", "sizes"
TRACKERS = ("tensorboard", "trackio", "mlflow", "wandb", "none")


def _tag(key: str, spelling: str) -> str:
    return check_language(from_file_safe(spelling), key, among=LANGUAGES + NEIGHBOURS)


@dataclass(kw_only=True)
class ModelConfig:
    """A Llama-type decoder: RMSNorm, SwiGLU, rotary positions, grouped-query attention."""

    name: str = place("")
    vocabulary_size: int = place(32_000)
    """Nominal: the size for which `parameters` is stated. In a run the tokenizer decides."""
    parameters: int = place(0)
    """Parameters expected at the nominal vocabulary; 0 when not stated. Checked by the tests."""
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    ffn_size: int = 768
    max_position_embeddings: int = 2048
    """Longest sequence, in tokens, that the model declares in its config.json."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for key in ("vocabulary_size", "hidden_size", "layers", "heads", "kv_heads", "ffn_size", "max_position_embeddings"):
            at_least(f"model.{key}", getattr(self, key), 1)
        if self.hidden_size % self.heads:
            raise ConfigError(f"model.hidden_size: {self.hidden_size} is not a multiple of model.heads ({self.heads})")
        if (self.hidden_size // self.heads) % 2:
            raise ConfigError(f"model.heads: {self.heads} heads of {self.hidden_size // self.heads} dimensions; rotary positions need an even number")
        if self.heads % self.kv_heads:
            raise ConfigError(f"model.kv_heads: model.heads ({self.heads}) is not a multiple of {self.kv_heads}")


@dataclass(kw_only=True)
class MixtureConfig:
    """How often each language is drawn. One language is one source."""

    kind: str = "temperature"
    weights: dict[str, float] = field(default_factory=dict)
    """Share of each language for kind=weights (tags or their file-safe spelling); they need not add up to 1."""
    temperature: float = 1.0
    """For kind=temperature: shares are proportional to tokens^(1/temperature). 1 follows the data, larger flattens."""
    languages: list[str] = field(default_factory=list)
    """For the other kinds: the languages to draw from; empty means every one that the store has."""

    def __post_init__(self) -> None:
        one_of("mixture.kind", self.kind, MIXTURES)
        if not self.temperature > 0:
            raise ConfigError(f"mixture.temperature: {self.temperature:g}; it must be above 0")
        self.weights = {_tag("mixture.weights", name): float(weight) for name, weight in self.weights.items()}
        self.languages = [_tag("mixture.languages", name) for name in self.languages]
        if self.kind == "weights":
            given("mixture.weights", self.weights)
            for tag, weight in self.weights.items():
                at_least(f"mixture.weights.{tag}", weight, 0)
            if not sum(self.weights.values()) > 0:
                raise ConfigError("mixture.weights: all are 0; at least one must be above 0")


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay, which norms and embeddings are spared (Loshchilov and Hutter, 2019)."""

    learning_rate: float = 3e-4
    """Peak of the schedule."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ConfigError(f"optimizer.learning_rate: {self.learning_rate:g}; it must be above 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"optimizer.{key}: {getattr(self, key):g} is out of range; it must be from 0 to below 1")
        at_least("optimizer.weight_decay", self.weight_decay, 0)


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up, then `kind`, down to `minimum_ratio` of the peak."""

    kind: str = "wsd"
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    """For kind=wsd: the share of all steps, at the end, over which the rate falls linearly."""
    minimum_ratio: float = 0.1

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        at_least("schedule.warmup_steps", self.warmup_steps, 0)
        between("schedule.decay_fraction", self.decay_fraction, 0, 1)
        between("schedule.minimum_ratio", self.minimum_ratio, 0, 1)


@dataclass(kw_only=True)
class StrategyConfig:
    """How ranks share the work. It changes rounding, not the mathematics, so it does not enter the stage's key."""

    name: str = "single"

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save, how many to keep, and where to begin."""

    every_steps: int = place(1000)
    """0 saves only at the end (and when the run is told to stop)."""
    keep_last: int = place(2)
    resume_from: str = ""
    """A checkpoint folder to begin from; an interrupted run goes on from its own newest checkpoint without this."""

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 0)
        at_least("checkpoint.keep_last", self.keep_last, 1)


def _default_prompts() -> dict[str, str]:
    return {"es": "La ciudad de", "ca": "La ciutat de", "ca_valencia": "La ciutat de València", "eu": "Euskal Herria", "gl": "A cidade de"}


@dataclass(kw_only=True)
class PretrainConfig(StageConfig):
    """Settings of the `pretrain` stage."""

    tokens: str = place("")
    """Folder of the tokenize stage; empty means `run_dir/tokenize`."""
    tokenizer_folder: str = place("")
    """Folder of the train-tokenizer stage; empty means `run_dir/train_tokenizer`."""
    waived_gates: list[str] = place(default_factory=list)
    """Gates that the tokenizer may have failed, by name: without this such a tokenizer is refused."""
    verify_store: str = place(CHECKSUMS)
    """checksums: read every file of the token store once, before the first run on it, and compare; sizes: trust what lies on the disk."""
    model: ModelConfig = field(default_factory=ModelConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    strategy: StrategyConfig = place(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sequence_length: int = 512
    """Tokens that the model sees of one sample; one more is read, for the targets."""
    global_batch_tokens: int = 16_384
    """Tokens a step, over all ranks and gradient accumulation."""
    micro_batch_size: int = place(8)
    """Samples of one rank in one forward pass."""
    steps: int = 0
    """Optimisation steps; 0 derives them from `tokens_total`."""
    tokens_total: int = 0
    seed: int = 0
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    precision: str = "fp32"
    compile: bool = place(False)
    """Compile each decoder layer with torch.compile."""
    log_every_steps: int = place(10)
    """Steps between printed and tracked lines; metrics.jsonl has every step."""
    validate_every_steps: int = place(0)
    """0 validates only at the end."""
    validation_tokens: int = 0
    """At most this many tokens a language in each validation; 0 means all."""
    tracker: str = place("tensorboard")
    prompts: dict[str, str] = field(default_factory=_default_prompts)
    """One prompt a language for the sample generations at the end."""
    max_new_tokens: int = 40
    temperature: float = 0.0
    """Of the sample generations: 0 takes the likeliest token each time, above 0 draws (from `seed`)."""
    saved_precision: str = "fp32"
    """Type of the weights in `model/`."""

    def __post_init__(self) -> None:
        for key, minimum in {"sequence_length": 2, "global_batch_tokens": 2, "micro_batch_size": 1, "steps": 0, "tokens_total": 0, "seed": 0}.items():
            at_least(key, getattr(self, key), minimum)
        for key, minimum in {
            "clip_norm": 0,
            "log_every_steps": 1,
            "validate_every_steps": 0,
            "validation_tokens": 0,
            "max_new_tokens": 1,
            "temperature": 0,
        }.items():
            at_least(key, getattr(self, key), minimum)
        one_of("precision", self.precision, PRECISIONS)
        one_of("saved_precision", self.saved_precision, PRECISIONS)
        one_of("tracker", self.tracker, TRACKERS)
        one_of("verify_store", self.verify_store, (CHECKSUMS, SIZES))
        self.prompts = {_tag("prompts", name): prompt for name, prompt in self.prompts.items()}
        if self.sequence_length > self.model.max_position_embeddings:
            raise ConfigError(f"sequence_length: {self.sequence_length} is above model.max_position_embeddings ({self.model.max_position_embeddings})")
        if self.global_batch_tokens % self.sequence_length:
            below, above = nearest_multiples(self.global_batch_tokens, self.sequence_length)
            raise ConfigError(
                f"global_batch_tokens: {self.global_batch_tokens} is not a multiple of sequence_length ({self.sequence_length}); nearest: {below}, {above}"
            )
        if self.total_steps < 1:
            raise ConfigError(
                f"steps: give steps, or a tokens_total of at least global_batch_tokens ({self.global_batch_tokens}); both are {self.steps}, {self.tokens_total}"
            )
        if self.schedule.warmup_steps >= self.total_steps:
            raise ConfigError(f"schedule.warmup_steps: {self.schedule.warmup_steps} is not below the number of steps ({self.total_steps})")

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps or self.tokens_total // self.global_batch_tokens

    @property
    def global_batch_samples(self) -> int:
        """Samples a step, over all ranks."""
        return self.global_batch_tokens // self.sequence_length


def nearest_multiples(value: int, unit: int) -> tuple[int, int]:
    """The positive multiples of `unit` just below and above `value` (the one above twice when there is none below)."""
    above = -(-value // unit) * unit
    return max(value // unit, 1) * unit, above


def accumulation_steps(config: PretrainConfig, world: int) -> int:
    """Micro steps of one optimisation step; `ConfigError` with the nearest valid values when the batch does not divide."""
    unit = config.sequence_length * config.micro_batch_size * world
    if config.global_batch_tokens % unit:
        below, above = nearest_multiples(config.global_batch_tokens, unit)
        raise ConfigError(
            f"global_batch_tokens: {config.global_batch_tokens} is not a multiple of {unit} = sequence_length {config.sequence_length} x micro_batch_size "
            f"{config.micro_batch_size} x {world} ranks; nearest are {' and '.join(str(value) for value in dict.fromkeys((below, above)))}"
        )
    return config.global_batch_tokens // unit


def check_world(name: str, world: int) -> None:
    """Raise `ConfigError` when a strategy cannot be meant for so many ranks."""
    if name == "single" and world > 1:
        raise ConfigError(f"strategy=single runs one process and there are {world} ranks; choose strategy=ddp, fsdp2 or zero2, or cluster.processes=1")
    if name != "single" and world == 1:
        raise ConfigError(f"strategy={name} needs at least 2 ranks and there is 1; set cluster.processes=2 or more, or strategy=single")
