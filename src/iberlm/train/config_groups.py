"""The parts of the settings of `iberlm pretrain`, one dataclass a Hydra group or nested block. Imports nothing heavy."""

from dataclasses import dataclass, field

from iberlm.core.config import at_least, between, given, one_of
from iberlm.core.errors import ConfigError
from iberlm.core.languages import LANGUAGES, NEIGHBOURS, check_language, from_file_safe
from iberlm.core.stage import place

SINGLE, DDP, FSDP2, HSDP, ZERO1, ZERO2, ZERO3 = "single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"
STRATEGIES = (SINGLE, DDP, FSDP2, HSDP, ZERO1, ZERO2, ZERO3)
DEEPSPEED = (ZERO1, ZERO2, ZERO3)
SHARDED_BY_TORCH = (FSDP2, HSDP)
WEIGHTS, TEMPERATURE, UNIFORM, TOKENS, EPOCHS = "weights", "temperature", "uniform", "tokens", "epochs"
MIXTURES = (WEIGHTS, TEMPERATURE, UNIFORM, TOKENS, EPOCHS)
SCHEDULES = ("wsd", "cosine", "linear")
ADAMW, MUON = "adamw", "muon"
OPTIMIZERS = (ADAMW, MUON)
AUTO = "auto"
CROSS_ENTROPIES = (AUTO, "plain", "chunked", "liger")
CHECKPOINTED = ("none", "selective", "full")


def language_tag(key: str, spelling: str) -> str:
    """The tag behind a tag or its file-safe spelling; `ConfigError` naming `key` otherwise."""
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

    kind: str = TEMPERATURE
    weights: dict[str, float] = field(default_factory=dict)
    """One number a language (tags or their file-safe spelling). kind=weights: its share, they need not add up to 1. kind=tokens: tokens to draw
    of it, in proportion. kind=epochs: how often its text is read compared with the others."""
    temperature: float = 1.0
    """For kind=temperature: shares are proportional to tokens^(1/temperature). 1 follows the data, larger flattens."""
    languages: list[str] = field(default_factory=list)
    """For kind=temperature and uniform: the languages to draw from; empty means every one that the store has."""
    max_epochs: float = 0.0
    """A run that would read any language more often than this is refused; 0 sets no limit."""

    def __post_init__(self) -> None:
        one_of("mixture.kind", self.kind, MIXTURES)
        if not self.temperature > 0:
            raise ConfigError(f"mixture.temperature: {self.temperature:g}; it must be above 0")
        at_least("mixture.max_epochs", self.max_epochs, 0)
        self.weights = {language_tag("mixture.weights", name): float(weight) for name, weight in self.weights.items()}
        self.languages = [language_tag("mixture.languages", name) for name in self.languages]
        if self.kind in (WEIGHTS, TOKENS, EPOCHS):
            given("mixture.weights", self.weights)
            for tag, weight in self.weights.items():
                at_least(f"mixture.weights.{tag}", weight, 0)
            if not sum(self.weights.values()) > 0:
                raise ConfigError("mixture.weights: all are 0; at least one must be above 0")


@dataclass(kw_only=True)
class PhaseConfig:
    """A stretch of the run with a mixture of its own: annealing on better text at the end, for one."""

    until: float = 1.0
    """Share of all steps at which this phase ends, above the one before; the last ends at 1."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(f"phases: until={self.until:g}; it must be above 0 and at most 1")


@dataclass(kw_only=True)
class ReplayConfig:
    """A second token store, drawn beside the first: the old mixture in continued pretraining, against forgetting."""

    tokens: str = place("")
    """Folder of its tokenize stage, made with the same tokenizer; empty: no replay."""
    share: float = 0.0
    """Share of the samples that are replay, 0 to below 1."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"replay.share: {self.share:g}; it must be from 0 to below 1")
        if bool(self.tokens) != (self.share > 0):
            raise ConfigError(f"replay: share={self.share:g} with tokens='{self.tokens}'; give both, or neither")


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What the loss is made of."""

    document_masking: bool = True
    """Attention never crosses documents, and positions begin again with each: a sample may hold parts of several."""
    z_loss: float = 0.0
    """Factor of the squared log-sum-exp of the logits, a token, added to the loss that is minimised (PaLM: 1e-4). The loss that is shown is without it."""
    goldfish_k: int = 0
    """Goldfish loss (Hans et al., 2024): every k-th token, chosen by a hash of the tokens before it, is left out of the loss. 0: off; 3 to 50 are usual."""
    goldfish_context: int = 13
    """Tokens that the hash of the goldfish loss covers. The same passage loses the same tokens from so many on: a long context leaves short passages whole."""
    cross_entropy: str = place(AUTO)
    """plain: all logits at once; chunked: some thousand tokens at a time, with their gradient; liger: its fused kernel (CUDA and ROCm). auto chooses
    and says what."""

    def __post_init__(self) -> None:
        at_least("objective.z_loss", self.z_loss, 0)
        at_least("objective.goldfish_k", self.goldfish_k, 0)
        if self.goldfish_k == 1:
            raise ConfigError("objective.goldfish_k: 1 would leave out every token; 0 turns it off, 3 to 50 are usual")
        at_least("objective.goldfish_context", self.goldfish_context, 1)
        one_of("objective.cross_entropy", self.cross_entropy, CROSS_ENTROPIES)


@dataclass(kw_only=True)
class CanariesConfig:
    """Made-up sequences planted in the training data a known number of times, to measure what a model learns by heart."""

    repetitions: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64, 128])
    """How often a canary is planted over the run: one group of canaries for each number."""
    canaries_each: int = 0
    """Canaries a group; 0 plants none."""
    prefix_tokens: int = 32
    """Tokens given to the model when it is asked to go on."""
    suffix_tokens: int = 32
    """Tokens that it should then know."""

    def __post_init__(self) -> None:
        at_least("canaries.canaries_each", self.canaries_each, 0)
        at_least("canaries.prefix_tokens", self.prefix_tokens, 1)
        at_least("canaries.suffix_tokens", self.suffix_tokens, 1)
        for count in self.repetitions:
            at_least("canaries.repetitions", count, 1)
        if len(set(self.repetitions)) != len(self.repetitions):
            raise ConfigError(f"canaries.repetitions: {self.repetitions} names a number twice")


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay, which norms and embeddings are spared (Loshchilov and Hutter, 2019), or Muon for the matrices."""

    kind: str = ADAMW
    """adamw, or muon: Muon (Jordan et al., 2024) for the matrices of the layers, its update scaled to AdamW's size (Liu et al., 2025), AdamW for the rest."""
    learning_rate: float = 3e-4
    """Peak of the schedule."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_momentum: float = 0.95
    reference_hidden_size: int = 0
    """Width at which `learning_rate` was tuned: the matrices of the layers then get learning_rate x reference_hidden_size / model.hidden_size, as in muP
    (Yang et al., 2022; with Muon its square root); rate x decay stays, and these matrices begin with a variance in proportion to 1 / width. 0: the same
    rate for all."""

    def __post_init__(self) -> None:
        one_of("optimizer.kind", self.kind, OPTIMIZERS)
        if not self.learning_rate > 0:
            raise ConfigError(f"optimizer.learning_rate: {self.learning_rate:g}; it must be above 0")
        for key in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"optimizer.{key}: {getattr(self, key):g} is out of range; it must be from 0 to below 1")
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        at_least("optimizer.reference_hidden_size", self.reference_hidden_size, 0)


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up, then `kind`, down to `minimum_ratio` of the peak. A continued run warms up again."""

    kind: str = "wsd"
    warmup_steps: int = 100
    warmup_tokens: int = 0
    """Instead of `warmup_steps`, when above 0."""
    decay_fraction: float = 0.2
    """For kind=wsd: the share of all steps, at the end, over which the rate falls linearly."""
    decay_tokens: int = 0
    """Instead of `decay_fraction`, when above 0."""
    minimum_ratio: float = 0.1

    def __post_init__(self) -> None:
        one_of("schedule.kind", self.kind, SCHEDULES)
        for key in ("warmup_steps", "warmup_tokens", "decay_tokens"):
            at_least(f"schedule.{key}", getattr(self, key), 0)
        between("schedule.decay_fraction", self.decay_fraction, 0, 1)
        between("schedule.minimum_ratio", self.minimum_ratio, 0, 1)


@dataclass(kw_only=True)
class StrategyConfig:
    """How ranks share the work. It changes rounding, not the mathematics, so it does not enter the stage's key."""

    name: str = SINGLE
    replicas: int = 0
    """For hsdp: groups of ranks that each hold the whole model, sharded within; 0 means one a node (LOCAL_WORLD_SIZE ranks share a model)."""
    tensor: int = 1
    """Ranks that share each matrix (tensor parallelism), with fsdp2 and hsdp."""
    context: int = 1
    """Ranks that share each sequence (context parallelism), with fsdp2 and hsdp."""

    def __post_init__(self) -> None:
        one_of("strategy.name", self.name, STRATEGIES)
        at_least("strategy.replicas", self.replicas, 0)
        for key in ("tensor", "context"):
            at_least(f"strategy.{key}", getattr(self, key), 1)
            if getattr(self, key) > 1 and self.name not in SHARDED_BY_TORCH:
                raise ConfigError(f"strategy.{key}: {getattr(self, key)} with strategy={self.name}; it goes with {' and '.join(SHARDED_BY_TORCH)}")
        if self.replicas and self.name != HSDP:
            raise ConfigError(f"strategy.replicas: {self.replicas} with strategy={self.name}; it goes with hsdp")


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save, how many to keep, and where to begin."""

    every_steps: int = place(1000)
    """0 saves only at the end (and when the run is told to stop)."""
    keep_last: int = place(2)
    keep_every_steps: int = place(0)
    """Checkpoints at multiples of this are kept for good; 0: none."""
    keep_best: int = place(0)
    """So many with the lowest mean bits a byte on validation are kept; needs a validation at every checkpoint."""
    asynchronous: bool = place(True)
    """Copy the state and go on training while it is written; the memory for the copy is the price."""
    resume_from: str = ""
    """A checkpoint folder to begin from; an interrupted run goes on from its own newest checkpoint without this."""

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 0)
        at_least("checkpoint.keep_last", self.keep_last, 1)
        at_least("checkpoint.keep_every_steps", self.keep_every_steps, 0)
        at_least("checkpoint.keep_best", self.keep_best, 0)


@dataclass(kw_only=True)
class FaultsConfig:
    """What is done when a step goes wrong, or a rank."""

    skip_sigma: float = 6.0
    """A step whose loss or gradient norm lies this many standard deviations above the mean of the last `window` steps is not applied (as in OLMo 2);
    0 skips only what is not finite."""
    window: int = 128
    """Steps that the mean and deviation are taken over; nothing is skipped for its size before half as many are known."""
    max_skips: int = 3
    """After so many skipped steps in a row the run goes back to its newest checkpoint and leaves out the data read since."""
    max_rollbacks: int = 2
    """After so many returns to the same checkpoint the run ends."""
    hang_seconds: float = place(1800.0)
    """A run in which no step ends for so long is ended, and the ranks that are behind are named; 0: never."""
    straggler_ratio: float = place(1.5)
    """A rank whose own work takes this many times the median of the ranks is named; 0: never."""

    def __post_init__(self) -> None:
        at_least("faults.skip_sigma", self.skip_sigma, 0)
        at_least("faults.window", self.window, 2)
        at_least("faults.max_skips", self.max_skips, 1)
        at_least("faults.max_rollbacks", self.max_rollbacks, 0)
        at_least("faults.hang_seconds", self.hang_seconds, 0)
        if self.straggler_ratio and self.straggler_ratio <= 1:
            raise ConfigError(f"faults.straggler_ratio: {self.straggler_ratio:g}; it must be above 1, or 0 for never")


@dataclass(kw_only=True)
class MonitorConfig:
    """What is watched beside the loss."""

    peak_tflops: float = 0.0
    """Peak of one device for MFU, in TFLOP/s of dense matrix products; 0 takes it from the table of known devices."""
    profile_steps: list[int] = field(default_factory=list)
    """[first, last]: these steps are recorded by torch's profiler into `profile/`, for chrome://tracing and Perfetto."""
    generate_every_steps: int = 0
    """Sample generations during training, into `samples.jsonl`; 0: only at the end."""
    hooks: list[str] = field(default_factory=list)
    """Functions `package.module:function` that are called at each validation and return numbers to log."""

    def __post_init__(self) -> None:
        at_least("monitor.peak_tflops", self.peak_tflops, 0)
        at_least("monitor.generate_every_steps", self.generate_every_steps, 0)
        if self.profile_steps and (len(self.profile_steps) != 2 or not 1 <= self.profile_steps[0] <= self.profile_steps[1]):
            raise ConfigError(f"monitor.profile_steps: {self.profile_steps}; give [first, last], counted from 1")
        for name in self.hooks:
            module, _, function = name.partition(":")
            if not (module and function.isidentifier()):
                raise ConfigError(f"monitor.hooks: '{name}' is not package.module:function")
