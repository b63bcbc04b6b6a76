"""Settings of `iberlm pretrain`. Imports nothing heavy: the command line reads this before it knows what will run."""

import itertools
from dataclasses import dataclass, field

from iberlm.core.config import StageConfig, at_least, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.stage import place
from iberlm.train.config_groups import (
    AUTO,
    CHECKPOINTED,
    SINGLE,
    CanariesConfig,
    CheckpointConfig,
    FaultsConfig,
    MixtureConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PhaseConfig,
    ReplayConfig,
    ScheduleConfig,
    StrategyConfig,
    language_tag,
)

PRECISIONS = (AUTO, "fp32", "bf16", "fp8")
SAVED_PRECISIONS = ("fp32", "bf16")
ATTENTIONS = (AUTO, "sdpa", "flex", "varlen")
COMPILES = (AUTO, "on", "off")
DEVICES = (AUTO, "cuda", "cpu")
CHECKSUMS, SIZES = "checksums", "sizes"
TRACKERS = ("tensorboard", "trackio", "mlflow", "wandb", "none")


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
    initial_model: str = ""
    """Hugging Face folder of a causal model to go on from (continued pretraining); empty: a new model of the shape `model`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    phases: list[PhaseConfig] = field(default_factory=list)
    """Mixtures one after the other; empty: `mixture` from beginning to end."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    canaries: CanariesConfig = field(default_factory=CanariesConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    strategy: StrategyConfig = place(default_factory=StrategyConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    monitor: MonitorConfig = place(default_factory=MonitorConfig)
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
    precision: str = AUTO
    """Of the matrix products: fp32, bf16 (weights, optimiser and sums stay fp32) or fp8 (bf16 with scaled 8-bit products in the layers, GPUs of 2022 on).
    auto takes bf16 where the processor multiplies it faster, and says so."""
    device: str = place(AUTO)
    """cuda (ROCm too) refuses to run without a GPU; cpu leaves a GPU alone; auto takes what is there."""
    compile: str = place(AUTO)
    """on: torch.compile, each decoder layer. auto: where it will pay for itself."""
    attention: str = place(AUTO)
    """sdpa with a mask, everywhere; varlen (CPU, CUDA, ROCm) and flex (CUDA, ROCm) skip what document masking hides instead of computing it. auto chooses."""
    activation_checkpointing: str = place("none")
    """none keeps all activations; selective recomputes all but the matrix products' and attention's results; full keeps each layer's input only."""
    log_every_steps: int = place(10)
    """Steps between printed and tracked lines; metrics.jsonl has every step."""
    validate_every_steps: int = place(0)
    """0 validates only at the end."""
    validation_tokens: int = 0
    """At most this many tokens a language in each validation; 0 means all, -1 none: then a store without validation text is accepted."""
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
            "validation_tokens": -1,
            "max_new_tokens": 1,
            "temperature": 0,
        }.items():
            at_least(key, getattr(self, key), minimum)
        one_of("precision", self.precision, PRECISIONS)
        one_of("saved_precision", self.saved_precision, SAVED_PRECISIONS)
        one_of("device", self.device, DEVICES)
        one_of("compile", self.compile, COMPILES)
        one_of("attention", self.attention, ATTENTIONS)
        one_of("activation_checkpointing", self.activation_checkpointing, CHECKPOINTED)
        one_of("tracker", self.tracker, TRACKERS)
        one_of("verify_store", self.verify_store, (CHECKSUMS, SIZES))
        self.prompts = {language_tag("prompts", name): prompt for name, prompt in self.prompts.items()}
        if not self.initial_model and self.sequence_length > self.model.max_position_embeddings:
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
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(f"schedule: {self.warmup_steps} warm-up steps are not below the number of steps ({self.total_steps})")
        ends = [phase.until for phase in self.phases]
        if ends and (ends[-1] != 1 or any(later <= earlier for earlier, later in itertools.pairwise(ends))):
            raise ConfigError(f"phases: until={ends}; each must be above the one before, and the last 1")
        if self.checkpoint.keep_best and (
            not self.validate_every_steps or not self.checkpoint.every_steps or self.checkpoint.every_steps % self.validate_every_steps
        ):
            raise ConfigError(
                f"checkpoint.keep_best: {self.checkpoint.keep_best} needs a validation at every checkpoint; set validate_every_steps "
                f"(now {self.validate_every_steps}) to a divisor of checkpoint.every_steps (now {self.checkpoint.every_steps})"
            )
        if self.strategy.context > 1 and (self.monitor.generate_every_steps or self.monitor.hooks):
            raise ConfigError(
                f"strategy.context: with {self.strategy.context} ranks a sequence there are no generations and no hooks during training; "
                "set monitor.generate_every_steps=0 and monitor.hooks=[]"
            )
        canary_tokens = self.canaries.prefix_tokens + self.canaries.suffix_tokens
        if self.canaries.canaries_each and canary_tokens > self.sequence_length:
            raise ConfigError(f"canaries: prefix_tokens + suffix_tokens ({canary_tokens}) are more than sequence_length ({self.sequence_length})")

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps or self.tokens_total // self.global_batch_tokens

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up, however it is given."""
        return self.schedule.warmup_tokens // self.global_batch_tokens or self.schedule.warmup_steps

    @property
    def decay_steps(self) -> int:
        """Steps of the final fall of the `wsd` schedule, however it is given."""
        return min(self.total_steps, self.schedule.decay_tokens // self.global_batch_tokens or round(self.schedule.decay_fraction * self.total_steps))

    @property
    def mixtures(self) -> list[PhaseConfig]:
        """The phases; one when none are given."""
        return self.phases or [PhaseConfig(until=1.0, mixture=self.mixture)]

    @property
    def global_batch_samples(self) -> int:
        """Samples a step, over all ranks."""
        return self.global_batch_tokens // self.sequence_length


def nearest_multiples(value: int, unit: int) -> tuple[int, int]:
    """The positive multiples of `unit` just below and above `value` (the one above twice when there is none below)."""
    above = -(-value // unit) * unit
    return max(value // unit, 1) * unit, above


def accumulation_steps(config: PretrainConfig, world: int) -> int:
    """Micro steps of one optimisation step on `world` ranks; `ConfigError` with the nearest valid values when the batch does not divide.

    Ranks that share a matrix or a sequence see the same samples, so they count once.
    """
    groups = config.strategy.tensor * config.strategy.context
    if world % groups:
        raise ConfigError(f"strategy: {world} ranks are not a multiple of tensor x context = {config.strategy.tensor} x {config.strategy.context}")
    readers = world // groups
    unit = config.sequence_length * config.micro_batch_size * readers
    if config.global_batch_tokens % unit:
        below, above = nearest_multiples(config.global_batch_tokens, unit)
        raise ConfigError(
            f"global_batch_tokens: {config.global_batch_tokens} is not a multiple of {unit} = sequence_length {config.sequence_length} x micro_batch_size "
            f"{config.micro_batch_size} x {readers} ranks; nearest are {' and '.join(str(value) for value in dict.fromkeys((below, above)))}"
        )
    return config.global_batch_tokens // unit


_ONE_RANK = "cluster.processes=1; on a cluster cluster.nodes=1 cluster.tasks_per_node=1"


def check_world(strategy: StrategyConfig, world: int) -> None:
    """Raise `ConfigError` when a strategy cannot be meant for so many ranks."""
    if strategy.name == SINGLE and world > 1:
        raise ConfigError(f"strategy=single runs one process and there are {world} ranks; choose strategy=ddp, fsdp2 or zero2, or one rank ({_ONE_RANK})")
    if strategy.name != SINGLE and world == 1:
        raise ConfigError(
            f"strategy={strategy.name} needs at least 2 ranks and there is 1; set cluster.processes=2 or more (on a cluster cluster.nodes), or strategy=single"
        )
